//! The few fields of a frame that decide whose it is. Read-only, forgiving, and the same for both directions.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use etherparse::{IpNumber, TcpHeaderSlice, TcpOptionElement};

use super::form::Place;
use crate::addr::MacAddr;
use crate::wire::icmp_error::{Problem, Unreachable};

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;

const UDP_HEADER: usize = 8;

/// The sender's and the receiver's card, and the type.
pub(super) fn ethernet(frame: &[u8]) -> Option<(MacAddr, MacAddr, u16)> {
    let [a, b, c, d, e, f, g, h, i, j, k, l, high, low] = *frame.first_chunk()?;
    Some((MacAddr([g, h, i, j, k, l]), MacAddr([a, b, c, d, e, f]), u16::from_be_bytes([high, low])))
}

/// Whether a card is one of the virtual hosts'.
pub(super) const fn is_virtual(mac: MacAddr) -> bool {
    matches!(mac.0, [0x52, 0x55, ..] | [0x52, 0x56, 0, 0, 0, _])
}

/// A TCP segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tcp {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
    pub(super) window: u16,
    /// Where its header and its payload are in the frame.
    pub(super) header: Range<usize>,
    pub(super) payload: Range<usize>,
}

impl Tcp {
    pub(super) fn of(frame: &[u8]) -> Option<Self> {
        let place = Place::of(frame).filter(|place| place.protocol == IpNumber::TCP)?;
        let end = place.start + place.len;
        let header = TcpHeaderSlice::from_slice(frame.get(place.start..end)?).ok()?;
        let payload = place.start + header.slice().len();
        Some(Self {
            source: SocketAddr::new(place.source, header.source_port()),
            destination: SocketAddr::new(place.destination, header.destination_port()),
            seq: header.sequence_number(),
            ack: header.acknowledgment_number(),
            flags: header.slice()[13],
            window: header.window_size(),
            header: place.start..payload,
            payload: payload..end,
        })
    }

    /// The largest segment that the sender takes, if it says.
    pub(super) fn mss(&self, frame: &[u8]) -> Option<u16> {
        let header = TcpHeaderSlice::from_slice(frame.get(self.header.clone())?).ok()?;
        header.options_iterator().flatten().find_map(|option| match option {
            TcpOptionElement::MaximumSegmentSize(size) => Some(size),
            _ => None,
        })
    }

    pub(super) const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Whether it asks for a connection.
    pub(super) const fn opens(&self) -> bool {
        self.flags & (SYN | ACK | RST) == SYN
    }
}

/// A UDP datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Udp {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) payload: Range<usize>,
}

impl Udp {
    pub(super) fn of(frame: &[u8]) -> Option<Self> {
        let place = Place::of(frame).filter(|place| place.protocol == IpNumber::UDP)?;
        let header = frame.get(place.start..place.start + UDP_HEADER.min(place.len))?;
        let port = |at: usize| header.get(at..)?.first_chunk().map(|port| u16::from_be_bytes(*port));
        Some(Self {
            source: SocketAddr::new(place.source, port(0)?),
            destination: SocketAddr::new(place.destination, port(2)?),
            payload: (place.start + UDP_HEADER).min(place.start + place.len)..place.start + place.len,
        })
    }
}

/// An ICMP or ICMPv6 message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Icmp {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) kind: u8,
    pub(super) code: u8,
    /// The identifier of an echo.
    pub(super) identifier: u16,
    /// Where the message is, after its header of eight bytes.
    pub(super) body: Range<usize>,
}

impl Icmp {
    pub(super) fn of(frame: &[u8]) -> Option<Self> {
        let place = Place::of(frame).filter(|place| matches!(place.protocol, IpNumber::ICMP | IpNumber::IPV6_ICMP))?;
        let [kind, code, _, _, high, low, _, _] = *frame.get(place.start..place.start + place.len)?.first_chunk()?;
        Some(Self {
            source: place.source,
            destination: place.destination,
            kind,
            code,
            identifier: u16::from_be_bytes([high, low]),
            body: place.start + 8..place.start + place.len,
        })
    }

    /// Whether it is a message of neighbour discovery.
    pub(super) const fn is_discovery(&self) -> bool {
        self.source.is_ipv6() && matches!(self.kind, 133..=137)
    }

    /// What an error says, and what it is about.
    pub(super) fn error(&self, frame: &[u8]) -> Option<About> {
        let v4 = self.source.is_ipv4();
        let word = u32::from_be_bytes(*frame.get(self.body.start.checked_sub(4)?..)?.first_chunk()?);
        let problem = if v4 { Problem::of_v4(self.kind, self.code, word)? } else { Problem::of_v6(self.kind, self.code, word)? };
        // The quoted packet, as if it were a frame of its own.
        let quoted = frame.get(self.body.clone())?;
        let (header, protocol, addresses): (usize, u8, (IpAddr, IpAddr)) = if v4 {
            let header = usize::from(quoted.first()? & 15) * 4;
            let address = |at: usize| quoted.get(at..)?.first_chunk::<4>().map(|octets| IpAddr::from(*octets));
            (header, *quoted.get(9)?, (address(12)?, address(16)?))
        } else {
            let address = |at: usize| quoted.get(at..)?.first_chunk::<16>().map(|octets| IpAddr::from(*octets));
            (40, *quoted.get(6)?, (address(8)?, address(24)?))
        };
        let [a, b, c, d, e, f] = *quoted.get(header..)?.first_chunk()?;
        Some(About {
            problem,
            protocol: IpNumber(protocol),
            guest: SocketAddr::new(addresses.0, u16::from_be_bytes([a, b])),
            remote: SocketAddr::new(addresses.1, u16::from_be_bytes([c, d])),
            identifier: u16::from_be_bytes([e, f]),
            transport: self.body.start + header..self.body.end,
        })
    }
}

/// What an ICMP error says, and what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct About {
    pub(super) problem: Problem,
    pub(super) protocol: IpNumber,
    /// With the ports of a datagram or segment.
    pub(super) guest: SocketAddr,
    pub(super) remote: SocketAddr,
    /// The identifier of an echo request.
    pub(super) identifier: u16,
    /// Where in the frame the quoted packet goes on behind its IP header.
    pub(super) transport: Range<usize>,
}

impl About {
    /// The error of a socket that means it; none for what only the engine itself or a queue of errors speaks of.
    pub(super) const fn errno(&self) -> Option<i32> {
        match self.problem {
            Problem::Unreachable(Unreachable::Network) => Some(libc::ENETUNREACH),
            Problem::Unreachable(Unreachable::Host) => Some(libc::EHOSTUNREACH),
            Problem::Unreachable(Unreachable::Prohibited) => Some(libc::EACCES),
            _ => None,
        }
    }

    /// Whether it is about an echo request.
    pub(super) fn is_of_echo(&self) -> bool {
        matches!(self.protocol, IpNumber::ICMP | IpNumber::IPV6_ICMP)
    }
}
