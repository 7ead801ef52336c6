//! Errors of ICMP and ICMPv6 (RFC 792, RFC 1191, RFC 4443): what they say, in the words that both versions share, and their messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, checksum as sum};

use super::checksum;

/// The most bytes of a packet that an error quotes, so that it is no longer than 576 bytes (RFC 1812 section 4.3.2.3).
pub const MAX_QUOTE_V4: usize = 576 - IPV4_HEADER_LEN - HEADER;

/// Likewise for ICMPv6, whose errors are no longer than 1280 bytes (RFC 4443 section 2.4 (c)).
pub const MAX_QUOTE_V6: usize = 1280 - IPV6_HEADER_LEN - HEADER;

/// Bytes before the quoted packet.
pub const HEADER: usize = 8;

/// Bytes of a transport header that every quote has at least (RFC 792).
const LEAST_TRANSPORT: usize = 8;

/// What is wrong with a packet, or with the way that it has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// What it is sent to cannot be reached.
    Unreachable(Unreachable),
    /// It is too long for a link, and must not be fragmented (RFC 1191, RFC 4443 section 3.2).
    TooBig {
        /// The longest packet that the link takes, in bytes; 0 from an old router, which does not say.
        mtu: u32,
    },
    /// It has crossed as many routers as it may.
    HopLimit,
    /// Some of its fragments did not arrive in time.
    Reassembly,
    /// Its header makes no sense to somebody.
    Parameter {
        /// The code, which means different things in the two versions.
        code: u8,
        /// Which byte makes no sense.
        pointer: u32,
    },
}

/// What cannot be reached, or why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// There is no way to the network.
    Network,
    /// The host does not answer on its link.
    Host,
    /// The host does not speak the protocol.
    Protocol,
    /// Nobody listens at the port.
    Port,
    /// Somebody forbids it.
    Prohibited,
}

impl Problem {
    /// What an ICMP error says. `word` is the second word of its header. `None` for what is no error, or none that tells something about
    /// a packet: redirects and source quenches.
    pub const fn of_v4(kind: u8, code: u8, word: u32) -> Option<Self> {
        Some(match (kind, code) {
            // RFC 1812 section 5.2.7.1 has the codes from 6 on.
            (3, 0 | 6 | 11) => Self::Unreachable(Unreachable::Network),
            (3, 1 | 5 | 7 | 8 | 12) => Self::Unreachable(Unreachable::Host),
            (3, 2) => Self::Unreachable(Unreachable::Protocol),
            (3, 3) => Self::Unreachable(Unreachable::Port),
            (3, 4) => Self::TooBig { mtu: word & 0xffff },
            (3, 9 | 10 | 13 | 14 | 15) => Self::Unreachable(Unreachable::Prohibited),
            (11, 0) => Self::HopLimit,
            (11, 1) => Self::Reassembly,
            (12, code) => Self::Parameter { code, pointer: word >> 24 },
            _ => return None,
        })
    }

    /// What an ICMPv6 error says.
    pub const fn of_v6(kind: u8, code: u8, word: u32) -> Option<Self> {
        Some(match (kind, code) {
            (1, 0 | 2) => Self::Unreachable(Unreachable::Network),
            (1, 1 | 5 | 6) => Self::Unreachable(Unreachable::Prohibited),
            (1, 3) => Self::Unreachable(Unreachable::Host),
            (1, 4) => Self::Unreachable(Unreachable::Port),
            (2, _) => Self::TooBig { mtu: word },
            (3, 0) => Self::HopLimit,
            (3, 1) => Self::Reassembly,
            (4, code) => Self::Parameter { code, pointer: word },
            _ => return None,
        })
    }

    /// Type, code and second word of the ICMP header.
    const fn v4(self) -> (u8, u8, u32) {
        match self {
            Self::Unreachable(Unreachable::Network) => (3, 0, 0),
            Self::Unreachable(Unreachable::Host) => (3, 1, 0),
            Self::Unreachable(Unreachable::Protocol) => (3, 2, 0),
            Self::Unreachable(Unreachable::Port) => (3, 3, 0),
            Self::Unreachable(Unreachable::Prohibited) => (3, 13, 0),
            Self::TooBig { mtu } => (3, 4, if mtu > 0xffff { 0xffff } else { mtu }),
            Self::HopLimit => (11, 0, 0),
            Self::Reassembly => (11, 1, 0),
            Self::Parameter { code, pointer } => (12, code, pointer << 24),
        }
    }

    /// Type, code and second word of the ICMPv6 header.
    const fn v6(self) -> (u8, u8, u32) {
        /// Where an IPv6 header says what follows it.
        const NEXT_HEADER: u32 = 6;
        match self {
            Self::Unreachable(Unreachable::Network) => (1, 0, 0),
            Self::Unreachable(Unreachable::Prohibited) => (1, 1, 0),
            Self::Unreachable(Unreachable::Host) => (1, 3, 0),
            Self::Unreachable(Unreachable::Port) => (1, 4, 0),
            Self::Unreachable(Unreachable::Protocol) => (4, 1, NEXT_HEADER),
            Self::TooBig { mtu } => (2, 0, mtu),
            Self::HopLimit => (3, 0, 0),
            Self::Reassembly => (3, 1, 0),
            Self::Parameter { code, pointer } => (4, code, pointer),
        }
    }

    /// The ICMP or ICMPv6 message from `source` to `destination` that says so about the quoted packet. `longest` bounds the packet that the
    /// message is put into; the least that must be quoted is quoted anyway.
    pub fn message(self, source: IpAddr, destination: IpAddr, quote: &[u8], longest: usize) -> Vec<u8> {
        let v4 = destination.is_ipv4();
        let (most, ip) = if v4 { (MAX_QUOTE_V4, IPV4_HEADER_LEN) } else { (MAX_QUOTE_V6, IPV6_HEADER_LEN) };
        let most = most.min(longest.saturating_sub(ip + HEADER)).max(ip + LEAST_TRANSPORT);
        let quote = &quote[..quote.len().min(most)];
        let (kind, code, word) = if v4 { self.v4() } else { self.v6() };
        let mut message = Vec::with_capacity(HEADER + quote.len());
        message.extend([kind, code, 0, 0]);
        message.extend(word.to_be_bytes());
        message.extend(quote);
        fill_checksum(source, destination, &mut message);
        message
    }
}

/// Writes the checksum of an ICMP or ICMPv6 message, which one the addresses tell. Messages without a header are left as they are.
pub fn fill_checksum(source: IpAddr, destination: IpAddr, message: &mut [u8]) {
    let pseudo_header = match destination {
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => checksum::pseudo_header(source, destination, IpProtocol::Icmpv6, message.len()),
    };
    if let Some(field) = message.get_mut(2..4) {
        field.fill(0);
    }
    let total = !sum::combine(&[pseudo_header, sum::data(message)]);
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&total.to_be_bytes());
    }
}

/// The IP packet from `source` to `destination` with `payload` behind a plain header. Empty if the addresses are of different families.
pub fn packet(source: IpAddr, destination: IpAddr, protocol: IpProtocol, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet;
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            packet = vec![0; IPV4_HEADER_LEN];
            emit_v4(source, destination, protocol, hop_limit, payload.len(), &mut packet);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            packet = vec![0; IPV6_HEADER_LEN];
            emit_v6(source, destination, protocol, hop_limit, payload.len(), &mut packet);
        }
        _ => return Vec::new(),
    }
    packet.extend(payload);
    packet
}

fn emit_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: IpProtocol, hop_limit: u8, len: usize, into: &mut [u8]) {
    let header = Ipv4Repr { src_addr: source, dst_addr: destination, next_header: protocol, payload_len: len, hop_limit };
    header.emit(&mut Ipv4Packet::new_unchecked(into), &ChecksumCapabilities::default());
}

fn emit_v6(source: Ipv6Addr, destination: Ipv6Addr, protocol: IpProtocol, hop_limit: u8, len: usize, into: &mut [u8]) {
    let header = Ipv6Repr { src_addr: source, dst_addr: destination, next_header: protocol, payload_len: len, hop_limit };
    header.emit(&mut Ipv6Packet::new_unchecked(into));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GUEST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 15));
    const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 2));
    const GUEST_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0x15));
    const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 2));

    const ALL: [Problem; 8] = [
        Problem::Unreachable(Unreachable::Network),
        Problem::Unreachable(Unreachable::Host),
        Problem::Unreachable(Unreachable::Port),
        Problem::Unreachable(Unreachable::Prohibited),
        Problem::TooBig { mtu: 1400 },
        Problem::HopLimit,
        Problem::Reassembly,
        Problem::Parameter { code: 0, pointer: 20 },
    ];

    fn word(message: &[u8]) -> u32 {
        u32::from_be_bytes(message[4..8].try_into().unwrap())
    }

    #[test]
    fn what_is_said_is_understood_in_both_versions() {
        for problem in ALL {
            let v4 = problem.message(GATEWAY, GUEST, &[0x45; 28], 1500);
            assert_eq!(Problem::of_v4(v4[0], v4[1], word(&v4)), Some(problem));
            let v6 = problem.message(GATEWAY_V6, GUEST_V6, &[0x60; 48], 1500);
            assert_eq!(Problem::of_v6(v6[0], v6[1], word(&v6)), Some(problem));
        }
    }

    #[test]
    fn the_mtu_is_where_rfc_1191_wants_it() {
        let message = Problem::TooBig { mtu: 1300 }.message(GATEWAY, GUEST, &[0x45; 28], 1500);
        assert_eq!((&message[..2], &message[4..8]), (&[3, 4][..], &[0, 0, 0x05, 0x14][..]));
        let message = Problem::TooBig { mtu: 1300 }.message(GATEWAY_V6, GUEST_V6, &[0x60; 48], 1500);
        assert_eq!((&message[..2], &message[4..8]), (&[2, 0][..], &[0, 0, 0x05, 0x14][..]));
    }

    #[test]
    fn as_much_is_quoted_as_may_be() {
        let quote = [7; 3000];
        let lens = |longest| {
            let v4 = Problem::HopLimit.message(GATEWAY, GUEST, &quote, longest).len() + IPV4_HEADER_LEN;
            let v6 = Problem::HopLimit.message(GATEWAY_V6, GUEST_V6, &quote, longest).len() + IPV6_HEADER_LEN;
            (v4, v6)
        };
        assert_eq!(lens(1500), (576, 1280));
        assert_eq!(lens(65520), (576, 1280));
        assert_eq!(lens(300).0, 300);
        assert_eq!(lens(0).0, 20 + 8 + 28, "RFC 792: the header and 8 bytes");
    }

    proptest! {
        /// Whatever a router says is understood or not, without harm, and said again as it was.
        #[test]
        fn anything_is_understood_or_not(kind: u8, code: u8, word: u32, quote in proptest::collection::vec(any::<u8>(), 0..2000), longest: u16) {
            if let Some(problem) = Problem::of_v4(kind, code, word) {
                let message = problem.message(GATEWAY, GUEST, &quote, longest.into());
                prop_assert_eq!(message[0], kind);
                prop_assert_eq!(sum::data(&message), !0);
            }
            if let Some(problem) = Problem::of_v6(kind, code, word) {
                let message = problem.message(GATEWAY_V6, GUEST_V6, &quote, longest.into());
                prop_assert_eq!(message[0], kind);
                prop_assert!(quote.len() < 48 || message.len() >= 56);
            }
        }
    }
}
