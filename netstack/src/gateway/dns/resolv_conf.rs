//! The resolver configuration (resolv.conf(5)): where the upstream servers are named.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

/// The port of DNS.
const PORT: u16 = 53;
/// More servers than these are passed over. The C library takes 3.
const SERVERS_MAX: usize = 8;
/// More search domains than these are passed over: DHCP has 255 bytes for them anyway.
const SEARCH_MAX: usize = 32;

/// What we take from a resolv.conf. `ndots` and the like are for the guests' own resolvers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResolvConf {
    pub(super) servers: Vec<SocketAddr>,
    pub(super) search: Vec<String>,
    pub(super) timing: Timing,
}

/// How patient we are with one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timing {
    /// For how long a server may be silent: 1 to 5 s.
    pub(super) timeout: Duration,
    /// How many datagrams it gets in that time: 1 to 3.
    pub(super) attempts: u8,
}

impl Default for Timing {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(3), attempts: 3 }
    }
}

impl Default for ResolvConf {
    /// What the C library does without a resolv.conf: it asks a server on this host.
    fn default() -> Self {
        Self { servers: vec![(Ipv4Addr::LOCALHOST, PORT).into()], search: Vec::new(), timing: Timing::default() }
    }
}

impl ResolvConf {
    /// Reads a resolv.conf; `None` if it names no server.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let mut conf = Self { servers: Vec::new(), ..Self::default() };
        for line in String::from_utf8_lossy(text).lines() {
            // A comment starts in the first column only.
            if line.starts_with(['#', ';']) {
                continue;
            }
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    if let Some(server) = words.next().and_then(server)
                        && conf.servers.len() < SERVERS_MAX
                        && !conf.servers.contains(&server)
                    {
                        conf.servers.push(server);
                    }
                }
                // The last of them counts.
                Some("search" | "domain") => {
                    let domains = words.map(|word| word.trim_end_matches('.')).filter(|word| !matches!(*word, "" | "--"));
                    conf.search = domains.take(SEARCH_MAX).map(str::to_owned).collect();
                }
                Some("options") => words.for_each(|word| conf.timing.option(word)),
                _ => {}
            }
        }
        (!conf.servers.is_empty()).then_some(conf)
    }
}

impl Timing {
    fn option(&mut self, word: &str) {
        let Some((name, Ok(value))) = word.split_once(':').map(|(name, value)| (name, value.parse::<u8>())) else { return };
        match name {
            "timeout" => self.timeout = Duration::from_secs(value.clamp(1, 5).into()),
            "attempts" => self.attempts = value.clamp(1, 3),
            _ => {}
        }
    }
}

/// The address of a server, perhaps with a scope, `fe80::1%eth0`, or with a port as in OpenBSD, `[192.0.2.1]:5353`.
fn server(text: &str) -> Option<SocketAddr> {
    if let Some((address, port)) = text.strip_prefix('[').and_then(|text| text.split_once("]:")) {
        return Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?));
    }
    let (address, scope) = text.split_once('%').map_or((text, None), |(address, scope)| (address, Some(scope)));
    match (address.parse().ok()?, scope) {
        (IpAddr::V6(address), Some(scope)) => {
            let scope = scope.parse().ok().or_else(|| interface_index(scope))?;
            Some(SocketAddrV6::new(address, PORT, 0, scope).into())
        }
        (address, None) => Some(SocketAddr::new(address, PORT)),
        (IpAddr::V4(_), Some(_)) => None,
    }
}

fn interface_index(name: &str) -> Option<u32> {
    use rustix::net::{AddressFamily, SocketType, netdevice, socket};
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    netdevice::name_to_index(any, name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_search_and_options_are_read() {
        let conf = ResolvConf::parse(
            b"# generated\nnameserver 127.0.0.53\nnameserver 2001:db8::53\nnameserver 127.0.0.53\nnameserver nonsense\nnameserver [::1]:5353\n\
              domain old.example\nsearch corp.example. lab.example --\noptions edns0 timeout:1 attempts:9 ndots:2 trust-ad\n",
        )
        .unwrap();
        let servers: Vec<String> = conf.servers.iter().map(SocketAddr::to_string).collect();
        assert_eq!(servers, ["127.0.0.53:53", "[2001:db8::53]:53", "[::1]:5353"]);
        assert_eq!(conf.search, ["corp.example", "lab.example"]);
        assert_eq!(conf.timing, Timing { timeout: Duration::from_secs(1), attempts: 3 });
    }

    #[test]
    fn a_link_local_server_keeps_its_scope() {
        let conf = ResolvConf::parse(b"nameserver fe80::1%7\nnameserver fe80::2%lo\nnameserver fe80::3%no-such-link\n").unwrap();
        let scopes: Vec<u32> =
            conf.servers.iter().map(|server| if let SocketAddr::V6(v6) = server { v6.scope_id() } else { 0 }).collect();
        // `lo` is always the first interface.
        assert_eq!(scopes, [7, 1]);
    }

    #[test]
    fn a_file_without_servers_says_nothing() {
        assert_eq!(ResolvConf::parse(b""), None);
        assert_eq!(ResolvConf::parse(b"search corp.example\n#nameserver 192.0.2.1\n"), None);
    }
}
