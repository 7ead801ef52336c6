//! Router advertisements with the options that smoltcp cannot write: RDNSS and DNSSL (RFC 8106).

use std::net::Ipv6Addr;
use std::time::Duration;

use ipnet::Ipv6Net;
use smoltcp::wire::{
    Icmpv6Packet, Icmpv6Repr, NdiscPrefixInfoFlags, NdiscPrefixInformation, NdiscRepr, NdiscRouterFlags, RawHardwareAddress,
};

use crate::addr::MacAddr;
use crate::wire::domain_names;

/// Option type of the recursive DNS server option (RFC 8106 section 5.1).
const RDNSS: u8 = 25;
/// Option type of the DNS search list option (RFC 8106 section 5.2).
const DNSSL: u8 = 31;

/// What a router says of its link (RFC 4861 section 4.2).
#[derive(Debug, Clone)]
pub(crate) struct RouterAdvertisement<'a> {
    pub(crate) router: MacAddr,
    pub(crate) prefix: Ipv6Net,
    /// Whether DHCPv6 has addresses.
    pub(crate) managed: bool,
    /// Whether DHCPv6 can tell more than what is said here.
    pub(crate) other: bool,
    pub(crate) mtu: u16,
    /// Time for which hosts may use this router by default; zero if it is no way out.
    pub(crate) lifetime: Duration,
    pub(crate) dns: Option<Ipv6Addr>,
    pub(crate) search: &'a [String],
}

/// How long the prefix is valid, and preferred: libslirp's values.
const VALID: Duration = Duration::from_secs(86_400);
const PREFERRED: Duration = Duration::from_secs(14_400);
/// How long the DNS options hold: twice the longest time between advertisements (RFC 8106 section 5.1 asks for three times or more of
/// it at least; ours is 600 s).
const DNS_LIFETIME: u32 = 1800;

impl RouterAdvertisement<'_> {
    /// The ICMPv6 message, with its checksum.
    pub(crate) fn emit(&self, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
        let mut flags = NdiscRouterFlags::empty();
        flags.set(NdiscRouterFlags::MANAGED, self.managed);
        flags.set(NdiscRouterFlags::OTHER, self.other);
        // A guest makes an address for itself out of a prefix of 64 bits and no other (RFC 4862 section 5.5.3, RFC 4291 section 2.5.1).
        let mut of_the_prefix = NdiscPrefixInfoFlags::ON_LINK;
        of_the_prefix.set(NdiscPrefixInfoFlags::ADDRCONF, self.prefix.prefix_len() == 64);
        let repr = Icmpv6Repr::Ndisc(NdiscRepr::RouterAdvert {
            hop_limit: 64,
            flags,
            router_lifetime: self.lifetime.into(),
            reachable_time: smoltcp::time::Duration::ZERO,
            retrans_time: smoltcp::time::Duration::ZERO,
            lladdr: Some(RawHardwareAddress::from_bytes(&self.router.0)),
            mtu: Some(self.mtu.into()),
            prefix_info: Some(NdiscPrefixInformation {
                prefix_len: self.prefix.prefix_len(),
                prefix: self.prefix.network(),
                flags: of_the_prefix,
                valid_lifetime: VALID.into(),
                preferred_lifetime: PREFERRED.into(),
            }),
        });
        let mut message = vec![0; repr.buffer_len()];
        repr.emit(
            &source,
            &destination,
            &mut Icmpv6Packet::new_unchecked(&mut message[..]),
            &smoltcp::phy::ChecksumCapabilities::ignored(),
        );
        if let Some(dns) = self.dns {
            message.extend([RDNSS, 3, 0, 0]);
            message.extend(DNS_LIFETIME.to_be_bytes());
            message.extend(dns.octets());
        }
        self.push_search_list(&mut message);
        Icmpv6Packet::new_unchecked(&mut message[..]).fill_checksum(&source, &destination);
        message
    }

    /// The search list, padded with zeroes to a multiple of 8 bytes.
    fn push_search_list(&self, message: &mut Vec<u8>) {
        let Some(mut names) = domain_names::encode(self.search.iter().map(String::as_str)) else { return };
        names.resize(names.len().next_multiple_of(8), 0);
        if let Ok(units @ 2..) = u8::try_from(names.len() / 8 + 1) {
            message.extend([DNSSL, units, 0, 0]);
            message.extend(DNS_LIFETIME.to_be_bytes());
            message.extend(names);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_padded_and_the_checksum_is_right() {
        let search = ["lan".to_owned(), "corp.example".to_owned()];
        let advertisement = RouterAdvertisement {
            router: MacAddr([0x52, 0x56, 0, 0, 0, 2]),
            prefix: "fec0::/64".parse().unwrap(),
            managed: true,
            other: true,
            mtu: 1500,
            lifetime: Duration::from_secs(1800),
            dns: Some("fec0::3".parse().unwrap()),
            search: &search,
        };
        let (source, destination) = ("fe80::2".parse().unwrap(), "ff02::1".parse().unwrap());
        let message = advertisement.emit(source, destination);
        let packet = Icmpv6Packet::new_checked(&message[..]).unwrap();
        assert!(packet.verify_checksum(&source, &destination));
        assert_eq!(message.len() % 8, 0);
        let rdnss = message.windows(4).position(|w| w == [RDNSS, 3, 0, 0]).unwrap();
        assert_eq!(message[rdnss + 8..rdnss + 24], "fec0::3".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(message[rdnss + 24..rdnss + 26], [DNSSL, 4]);
        assert_eq!(&message[rdnss + 32..rdnss + 51], b"\x03lan\0\x04corp\x07example\0");
    }
}
