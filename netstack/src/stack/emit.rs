//! Writing what a guest is sent: Ethernet, IP and transport headers, with as much of the checksums as the port wants.

use std::net::IpAddr;

use smoltcp::wire::{
    ETHERNET_HEADER_LEN, EthernetAddress, EthernetFrame, EthernetProtocol, IPV4_HEADER_LEN, IPV6_HEADER_LEN, IpProtocol,
    Ipv4Packet, Ipv6Packet, UDP_HEADER_LEN, UdpPacket, checksum as sum,
};

use super::neighbour::Station;
use super::{Context, Shared, fragmentation};
use crate::addr::MacAddr;
use crate::frame::{Checksum, FrameMeta, FrameMut, Gso, GsoKind, Offloads};
use crate::port::{PortId, Sent};
use crate::wire::checksum;

/// Hop limit of everything that the stack sends, but for neighbour discovery.
pub(crate) const HOP_LIMIT: u8 = 64;

/// Room for the longest headers that the stack writes: Ethernet, IPv6, and TCP with the options of a SYN.
pub(crate) const MAX_HEADERS: usize = ETHERNET_HEADER_LEN + IPV6_HEADER_LEN + 60;

/// Where a packet to a guest comes from and goes to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Path {
    pub(crate) station: Station,
    /// The virtual host that it comes from, on the link.
    pub(crate) router: MacAddr,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
}

impl Path {
    /// Bytes of the Ethernet and IP headers.
    pub(crate) const fn header_len(&self) -> usize {
        ETHERNET_HEADER_LEN + if self.destination.is_ipv4() { IPV4_HEADER_LEN } else { IPV6_HEADER_LEN }
    }

    /// Writes the Ethernet and IP headers of a packet with `payload` bytes behind them to the start of `headers`.
    pub(crate) fn emit(&self, headers: &mut [u8], protocol: IpProtocol, hop_limit: u8, payload: usize) {
        let mut ethernet = EthernetFrame::new_unchecked(headers);
        ethernet.set_src_addr(EthernetAddress(self.router.0));
        ethernet.set_dst_addr(EthernetAddress(self.station.mac.0));
        // A packet longer than a length field can say is never built; super-frames stay below 64 KiB.
        let clamp = |len| u16::try_from(len).unwrap_or(u16::MAX);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                ethernet.set_ethertype(EthernetProtocol::Ipv4);
                let mut ip = Ipv4Packet::new_unchecked(ethernet.payload_mut());
                ip.set_version(4);
                ip.set_header_len(20);
                ip.set_dscp(0);
                ip.set_ecn(0);
                ip.set_total_len(clamp(IPV4_HEADER_LEN + payload));
                ip.set_ident(0);
                ip.clear_flags();
                ip.set_dont_frag(true);
                ip.set_frag_offset(0);
                ip.set_hop_limit(hop_limit);
                ip.set_next_header(protocol);
                ip.set_src_addr(source);
                ip.set_dst_addr(destination);
                ip.fill_checksum();
            }
            (source, destination) => {
                let v6 = |ip| match ip {
                    IpAddr::V6(ip) => ip,
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                };
                ethernet.set_ethertype(EthernetProtocol::Ipv6);
                let mut ip = Ipv6Packet::new_unchecked(ethernet.payload_mut());
                ip.set_version(6);
                ip.set_traffic_class(0);
                ip.set_flow_label(0);
                ip.set_payload_len(clamp(payload));
                ip.set_next_header(protocol);
                ip.set_hop_limit(hop_limit);
                ip.set_src_addr(v6(source));
                ip.set_dst_addr(v6(destination));
            }
        }
    }

    /// The sum of the pseudo-header for `len` bytes of `protocol`.
    pub(crate) fn pseudo_header(&self, protocol: IpProtocol, len: usize) -> u16 {
        checksum::pseudo_header(self.source, self.destination, protocol, len)
    }
}

/// Where the transport checksum of a frame goes, and what it is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TransportSum {
    /// Where the transport header starts in the frame.
    pub(crate) start: usize,
    /// Where the checksum field is in the transport header.
    pub(crate) offset: usize,
    /// The sum of the pseudo-header.
    pub(crate) pseudo_header: u16,
}

impl TransportSum {
    /// Fills in the checksum of a frame of `len` bytes that is written but for it: all of it, or only the pseudo-header's part if the
    /// port takes over the rest.
    pub(crate) fn fill(&self, room: &mut FrameMut<'_, '_>, len: usize, offloads: &Offloads) -> Checksum {
        let at = self.start + self.offset;
        let (start, offset) = (u16::try_from(self.start).unwrap_or(0), u16::try_from(self.offset).unwrap_or(0));
        if offloads.checksum {
            room.copy_from(at, &self.pseudo_header.to_be_bytes());
            return Checksum::Partial { start, offset };
        }
        room.copy_from(at, &[0, 0]);
        let total = !sum::combine(&[self.pseudo_header, checksum::of_written(room, self.start, len - self.start)]);
        // RFC 768: zero would mean that there is none. For TCP the two forms of zero are the same.
        room.copy_from(at, &if total == 0 { u16::MAX } else { total }.to_be_bytes());
        Checksum::Complete
    }
}

/// Sends a frame to a port and counts it.
pub(crate) fn send(
    cx: &mut Context<'_>,
    shared: &mut Shared,
    port: PortId,
    capacity: usize,
    fill: &mut dyn FnMut(&mut FrameMut<'_, '_>) -> Option<(usize, FrameMeta)>,
) -> Sent {
    let mut bytes = 0;
    let sent = cx.link.send(port, capacity, &mut |room| {
        let filled = fill(room)?;
        bytes = filled.0;
        Some(filled)
    });
    if sent == Sent::Yes {
        shared.counters.frames_out += 1;
        shared.counters.bytes_out += bytes as u64;
    }
    sent
}

/// Sends a packet whose loss does no harm, such as an answer to a question that will be asked again; in fragments, if it is too large.
pub(crate) fn send_message(
    cx: &mut Context<'_>,
    shared: &mut Shared,
    path: &Path,
    protocol: IpProtocol,
    hop_limit: u8,
    message: &[u8],
) -> Sent {
    let start = path.header_len();
    let len = start + message.len();
    if message.len() > fragmentation::largest_payload(cx.link.mtu(path.station.port), path.destination.is_ipv4()) {
        let mut bytes = shared.fragmenter.buffer();
        bytes.extend_from_slice(message);
        return fragmentation::send(cx, shared, path, protocol, hop_limit, bytes, message.len());
    }
    let sent = send(cx, shared, path.station.port, len, &mut |room| {
        let mut headers = [0; MAX_HEADERS];
        path.emit(&mut headers, protocol, hop_limit, message.len());
        room.copy_from(0, &headers[..start]);
        room.copy_from(start, message);
        Some((len, FrameMeta::default()))
    });
    if sent == Sent::Full {
        shared.counters.drop_port_full += 1;
    }
    sent
}

/// Writes the headers of a UDP datagram whose payload of `len` bytes already lies behind them, and says what the frame has become.
pub(crate) fn finish_datagram(
    room: &mut FrameMut<'_, '_>,
    path: &Path,
    ports: (u16, u16),
    payload: usize,
    segment: Option<u16>,
    offloads: &Offloads,
) -> (usize, FrameMeta) {
    let start = path.header_len();
    let len = start + UDP_HEADER_LEN + payload;
    let mut headers = [0; MAX_HEADERS];
    path.emit(&mut headers, IpProtocol::Udp, HOP_LIMIT, UDP_HEADER_LEN + payload);
    let mut udp = UdpPacket::new_unchecked(&mut headers[start..]);
    udp.set_src_port(ports.0);
    udp.set_dst_port(ports.1);
    udp.set_len(u16::try_from(UDP_HEADER_LEN + payload).unwrap_or(u16::MAX));
    room.copy_from(0, &headers[..start + UDP_HEADER_LEN]);
    let sum = TransportSum { start, offset: 6, pseudo_header: path.pseudo_header(IpProtocol::Udp, UDP_HEADER_LEN + payload) };
    let checksum = sum.fill(room, len, offloads);
    (len, FrameMeta { checksum, gso: segment.map(|size| Gso { kind: GsoKind::Udp, size, ecn: false }) })
}
