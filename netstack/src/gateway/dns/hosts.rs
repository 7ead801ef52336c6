//! The hosts file (hosts(5)): names that need no server.

use std::collections::HashMap;
use std::net::IpAddr;

/// What a hosts file says, both ways round.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hosts {
    addresses: HashMap<String, Vec<IpAddr>>,
    names: HashMap<IpAddr, String>,
}

impl Hosts {
    /// Reads a hosts file. Lines that make no sense are passed over, as the C library does.
    pub(super) fn parse(text: &[u8]) -> Self {
        let mut hosts = Self::default();
        for line in String::from_utf8_lossy(text).lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut fields = line.split_ascii_whitespace();
            // A scope means nothing on the guests' link.
            let address = fields.next().and_then(|field| field.split('%').next()).and_then(|field| field.parse::<IpAddr>().ok());
            let Some(address) = address else { continue };
            for name in fields {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                if name.is_empty() {
                    continue;
                }
                // The first name of an address is its canonical one.
                hosts.names.entry(address).or_insert_with(|| name.clone());
                let addresses = hosts.addresses.entry(name).or_default();
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        hosts
    }

    /// The addresses of `name`, which is in lower case and without a final dot.
    pub(super) fn addresses(&self, name: &str) -> Option<&[IpAddr]> {
        self.addresses.get(name).map(Vec::as_slice)
    }

    /// The canonical name of `address`.
    pub(super) fn name(&self, address: IpAddr) -> Option<&str> {
        self.names.get(&address).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_file_reads_both_ways() {
        let hosts = Hosts::parse(
            b"# comment\n192.0.2.1 Printer.lan printer # upstairs\n\n2001:db8::1\tprinter\nnonsense here\n192.0.2.2\n\xff\xfe x\nfe80::1%eth0 near.",
        );
        let printer: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(hosts.addresses("printer"), Some(printer.as_slice()));
        assert_eq!(hosts.addresses("near"), Some(["fe80::1".parse().unwrap()].as_slice()));
        assert_eq!(hosts.name(printer[0]), Some("printer.lan"));
        assert_eq!(hosts.addresses("x"), None);
        assert_eq!(hosts.name("192.0.2.2".parse().unwrap()), None);
    }
}
