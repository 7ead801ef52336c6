//! What the headers of a recorded frame say, as far as filters and flow numbers need it.
//!
//! Unlike the stack, this has to say something of every frame, also of one that is cut off, malformed or of no use to us: whatever can
//! be read is read, and nothing is verified.

use std::net::IpAddr;
use std::ops::Range;

use etherparse::{IpNumber, LaxNetSlice, LaxSlicedPacket};

/// What can be read of a frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) network: Option<Network>,
    /// Source and destination; of ARP, the addresses of sender and target.
    pub(super) addresses: Option<(IpAddr, IpAddr)>,
    pub(super) protocol: Option<IpNumber>,
    /// Where the transport packet lies in the frame, if it is not a later fragment of one.
    pub(super) transport: Range<usize>,
    /// Source and destination ports of TCP and UDP.
    pub(super) ports: Option<(u16, u16)>,
    /// The identifier of an echo request or reply.
    pub(super) echo: Option<u16>,
    /// The sequence number of a SYN that opens a connection.
    pub(super) opens: Option<u32>,
}

/// What Ethernet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    Arp,
    V4,
    V6,
}

impl Summary {
    /// Reads the first bytes of a frame.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let net = LaxSlicedPacket::from_ethernet(bytes).ok().and_then(|packet| packet.net);
        let (network, addresses) = match &net {
            None => return Self::default(),
            Some(LaxNetSlice::Arp(arp)) => {
                let ip = |address: &[u8]| <[u8; 4]>::try_from(address).ok().map(IpAddr::from);
                let addresses = ip(arp.sender_protocol_addr()).zip(ip(arp.target_protocol_addr()));
                return Self { network: Some(Network::Arp), addresses, ..Self::default() };
            }
            Some(LaxNetSlice::Ipv4(ip)) => (Network::V4, (ip.header().source_addr().into(), ip.header().destination_addr().into())),
            Some(LaxNetSlice::Ipv6(ip)) => (Network::V6, (ip.header().source_addr().into(), ip.header().destination_addr().into())),
        };
        let mut summary = Self { network: Some(network), addresses: Some(addresses), ..Self::default() };
        if let Some(payload) = net.as_ref().and_then(LaxNetSlice::ip_payload_ref) {
            summary.protocol = Some(payload.ip_number);
            if !payload.fragmented {
                // It is a part of the same memory.
                let start = payload.payload.as_ptr().addr() - bytes.as_ptr().addr();
                summary.transport = start..start + payload.payload.len();
                summary.read_transport(payload.ip_number, payload.payload);
            }
        }
        summary
    }

    fn read_transport(&mut self, protocol: IpNumber, bytes: &[u8]) {
        match protocol {
            IpNumber::TCP | IpNumber::UDP => {
                self.ports = half(bytes, 0).zip(half(bytes, 2));
                self.opens = (protocol == IpNumber::TCP).then(|| opening(bytes)).flatten();
            }
            // Echo request and reply (RFC 792, RFC 4443).
            IpNumber::ICMP if matches!(bytes.first(), Some(0 | 8)) => self.echo = half(bytes, 4),
            IpNumber::IPV6_ICMP if matches!(bytes.first(), Some(128 | 129)) => self.echo = half(bytes, 4),
            _ => {}
        }
    }
}

/// The sequence number of a segment with SYN and without ACK (RFC 9293 section 3.1).
fn opening(segment: &[u8]) -> Option<u32> {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    let flags = segment.get(13)?;
    (flags & (SYN | ACK) == SYN).then(|| Some(u32::from_be_bytes(*segment.get(4..)?.first_chunk()?))).flatten()
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
pub(super) mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 2];

    /// A segment from 10.0.2.15:1000 to 10.0.2.2:80.
    pub(in crate::capture) fn tcp(syn: Option<u32>, payload: &[u8]) -> Vec<u8> {
        let packet = PacketBuilder::ethernet2(A, B).ipv4([10, 0, 2, 15], [10, 0, 2, 2], 64).tcp(1000, 80, syn.unwrap_or(7), 1000);
        let packet = if syn.is_some() { packet.syn() } else { packet.ack(1) };
        let mut bytes = Vec::new();
        packet.write(&mut bytes, payload).unwrap();
        bytes
    }

    /// A datagram from fec0::15:53 to fec0::3:5000.
    pub(in crate::capture) fn udp6(payload: &[u8]) -> Vec<u8> {
        let address = |last| [0xfe, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
        let packet = PacketBuilder::ethernet2(A, B).ipv6(address(0x15), address(3), 64).udp(53, 5000);
        let mut bytes = Vec::new();
        packet.write(&mut bytes, payload).unwrap();
        bytes
    }

    pub(in crate::capture) fn ping(id: u16) -> Vec<u8> {
        let packet = PacketBuilder::ethernet2(A, B).ipv4([10, 0, 2, 15], [10, 0, 2, 2], 64).icmpv4_echo_request(id, 1);
        let mut bytes = Vec::new();
        packet.write(&mut bytes, b"ping").unwrap();
        bytes
    }

    pub(in crate::capture) fn arp() -> Vec<u8> {
        let arp = etherparse::ArpPacket::new(
            etherparse::ArpHardwareId::ETHERNET,
            etherparse::EtherType::IPV4,
            etherparse::ArpOperation::REQUEST,
            &A,
            &[10, 0, 2, 15],
            &[0; 6],
            &[10, 0, 2, 2],
        );
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2(A, [0xff; 6]).arp(arp.unwrap()).write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn ports_and_addresses_are_found() {
        let summary = Summary::of(&tcp(Some(99), b""));
        assert_eq!(summary.addresses, Some(("10.0.2.15".parse().unwrap(), "10.0.2.2".parse().unwrap())));
        assert_eq!((summary.ports, summary.opens), (Some((1000, 80)), Some(99)));
        assert_eq!(Summary::of(&tcp(None, b"x")).opens, None);
        let summary = Summary::of(&udp6(b"datagram"));
        assert_eq!((summary.network, summary.ports), (Some(Network::V6), Some((53, 5000))));
        assert_eq!(summary.transport, 54..70);
        assert_eq!(Summary::of(&ping(77)).echo, Some(77));
        assert_eq!(Summary::of(&arp()).addresses, Some(("10.0.2.15".parse().unwrap(), "10.0.2.2".parse().unwrap())));
    }

    #[test]
    fn the_beginning_of_a_frame_is_enough() {
        let whole = tcp(None, &[0; 1000]);
        let (all, part) = (Summary::of(&whole), Summary::of(&whole[..64]));
        assert_eq!((all.addresses, all.ports), (part.addresses, part.ports));
        assert_eq!(part.transport, 34..64);
    }

    proptest! {
        #[test]
        fn every_frame_has_a_summary(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..4_usize) {
            let _ = Summary::of(&bytes);
            // And with headers that lead further in.
            let mut frame = [tcp(Some(1), b"x"), udp6(b"x"), ping(1), arp()][kind].clone();
            for (index, byte) in bytes.iter().enumerate() {
                let at = usize::from(*byte) % frame.len();
                frame[at] = frame[at].wrapping_add(index as u8);
            }
            let summary = Summary::of(&frame);
            prop_assert!(frame.get(summary.transport).is_some());
        }
    }
}
