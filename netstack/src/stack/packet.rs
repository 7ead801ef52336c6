//! Reading what a guest sent.
//!
//! The headers are copied out of the frame once, and only the copy is parsed: the guest may rewrite its memory at any time. Everything
//! that a length field says is held against what is really there, so that whoever gets a [`Packet`] may believe its offsets.

mod extension;

use std::net::IpAddr;

use etherparse::{Ethernet2HeaderSlice, IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice, TcpHeaderSlice, UdpHeaderSlice};
use smoltcp::wire::{IPV6_HEADER_LEN, IpProtocol, checksum as sum};

use self::extension::Leads;
use super::icmp::ParameterProblem;
use super::reassembly::{Fragment, Place};
use super::tcp::Segment;
use crate::addr::MacAddr;
use crate::frame::{Checksum, ETHERNET_HEADER, Frame};
use crate::wire::checksum;

/// The most header bytes that are looked at: Ethernet, IPv4 with all options, TCP with all options.
pub(crate) const MAX_HEADERS: usize = ETHERNET_HEADER + 60 + 60;

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;

/// The header bytes of a frame, copied out.
#[derive(Debug)]
pub(crate) struct Headers {
    bytes: [u8; MAX_HEADERS],
    len: usize,
}

impl Headers {
    pub(crate) fn copy_of(frame: &Frame<'_>) -> Self {
        let mut bytes = [0; MAX_HEADERS];
        let len = frame.copy_to(0, &mut bytes);
        Self { bytes, len }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// The bytes behind the Ethernet header.
    pub(crate) fn payload(&self) -> &[u8] {
        self.bytes().get(ETHERNET_HEADER..).unwrap_or_default()
    }

    pub(crate) fn ethernet(&self) -> Option<Ethernet> {
        let header = Ethernet2HeaderSlice::from_slice(self.bytes()).ok()?;
        Some(Ethernet {
            source: MacAddr(header.source()),
            destination: MacAddr(header.destination()),
            ethertype: header.ether_type().0,
        })
    }
}

/// The Ethernet header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ethernet {
    pub(crate) source: MacAddr,
    pub(crate) destination: MacAddr,
    pub(crate) ethertype: u16,
}

/// An IP packet whose lengths are right and whose checksums have been verified.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) hop_limit: u8,
    /// Whether a router that finds it too big must say so (RFC 1191); in IPv6 it always must.
    pub(crate) dont_fragment: bool,
    pub(crate) transport: Transport,
}

/// What the packet carries.
#[derive(Debug)]
pub(crate) enum Transport {
    Tcp(Segment),
    Udp(Datagram),
    /// ICMP of the packet's own version: where in the frame the message lies.
    Icmp {
        offset: usize,
        len: usize,
    },
}

/// The header of a UDP datagram and where its payload lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Datagram {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) payload_offset: usize,
    pub(crate) payload_len: usize,
    /// Set when it stands for several datagrams of this many bytes each.
    pub(crate) segment: Option<u16>,
}

/// What is in the frame of an IP packet.
#[derive(Debug)]
pub(crate) enum Content {
    /// A packet.
    Packet(Packet),
    /// A piece of one.
    Fragment(Fragment),
}

/// Why a frame is not looked at further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    Malformed,
    BadChecksum,
    Protocol,
    /// It asks for something that is not done: a source route, more headers than are looked at, an option that may not be skipped.
    Options,
    /// Likewise, and the sender is to be told which field does (RFC 4443 section 3.4).
    Problem {
        code: ParameterProblem,
        pointer: u32,
    },
}

/// Reads the IPv4 or IPv6 packet of a frame.
pub(crate) fn parse(ethernet: &Ethernet, headers: &Headers, frame: &Frame<'_>) -> Result<Content, Unreadable> {
    let ip = headers.payload();
    if ethernet.ethertype == ETHERTYPE_IPV4 { parse_ipv4(ip, frame) } else { parse_ipv6(ip, frame) }
}

/// The source and the destination of an IP packet whose other headers were not understood.
pub(crate) fn addresses(ethernet: &Ethernet, headers: &Headers) -> Option<(IpAddr, IpAddr)> {
    let ip = headers.payload();
    if ethernet.ethertype == ETHERTYPE_IPV4 {
        let header = Ipv4HeaderSlice::from_slice(ip).ok()?;
        Some((header.source_addr().into(), header.destination_addr().into()))
    } else {
        let header = Ipv6HeaderSlice::from_slice(ip).ok()?;
        Some((header.source_addr().into(), header.destination_addr().into()))
    }
}

/// Loose and strict source routes: RFC 7126 sections 4.3 and 4.4 have them refused.
const SOURCE_ROUTES: [u8; 2] = [131, 137];

fn parse_ipv4(ip: &[u8], frame: &Frame<'_>) -> Result<Content, Unreadable> {
    let header = Ipv4HeaderSlice::from_slice(ip).map_err(|_| Unreadable::Malformed)?;
    let header_len = header.slice().len();
    if sum::data(header.slice()) != !0 {
        return Err(Unreadable::BadChecksum);
    }
    let total = usize::from(header.total_len());
    if total < header_len || total > frame.len() - ETHERNET_HEADER {
        return Err(Unreadable::Malformed);
    }
    if has_source_route(header.options()) {
        return Err(Unreadable::Options);
    }
    let (source, destination) = (IpAddr::V4(header.source_addr()), IpAddr::V4(header.destination_addr()));
    if header.is_fragmenting_payload() {
        let (offset, more) = (usize::from(header.fragments_offset().byte_offset()), header.more_fragments());
        let place = Place { offset, at: ETHERNET_HEADER + header_len, len: total - header_len, more };
        return fragment(
            frame,
            Fragment {
                source,
                destination,
                protocol: header.protocol().0,
                id: header.identification().into(),
                place,
                headers: ETHERNET_HEADER + header_len,
                next_header_at: 0,
            },
        );
    }
    let body = Body {
        ip,
        offset: header_len,
        len: total - header_len,
        source,
        destination,
        hop_limit: header.ttl(),
        dont_fragment: header.dont_fragment(),
    };
    body.parse(header.protocol(), frame).map(Content::Packet)
}

/// Whether these options have a source route among them. Options behind one that contradicts itself are not read.
fn has_source_route(mut options: &[u8]) -> bool {
    while let [kind, rest @ ..] = options {
        let len = match (kind, rest.first()) {
            (0, _) => return false,
            (1, _) => 1,
            _ if SOURCE_ROUTES.contains(kind) => return true,
            (_, Some(len)) => usize::from(*len).max(2),
            (_, None) => return false,
        };
        options = options.get(len..).unwrap_or_default();
    }
    false
}

fn parse_ipv6(ip: &[u8], frame: &Frame<'_>) -> Result<Content, Unreadable> {
    let header = Ipv6HeaderSlice::from_slice(ip).map_err(|_| Unreadable::Malformed)?;
    let len = usize::from(header.payload_length());
    if IPV6_HEADER_LEN + len > frame.len() - ETHERNET_HEADER {
        return Err(Unreadable::Malformed);
    }
    let (source, destination) = (IpAddr::V6(header.source_addr()), IpAddr::V6(header.destination_addr()));
    let body = Body { ip, offset: IPV6_HEADER_LEN, len, source, destination, hop_limit: header.hop_limit(), dont_fragment: true };
    if matches!(header.next_header(), IpNumber::TCP | IpNumber::UDP | IpNumber::IPV6_ICMP) {
        return body.parse(header.next_header(), frame).map(Content::Packet);
    }
    // Other headers stand between: more is copied than nearly all packets need.
    let mut copy = [0; IPV6_HEADER_LEN + extension::MAX_CHAIN_BYTES];
    let copied = frame.copy_to(ETHERNET_HEADER, &mut copy);
    let (ip, end) = (&copy[..copied], IPV6_HEADER_LEN + len);
    match extension::walk(ip, end, destination.is_multicast())? {
        Leads::Payload { protocol, at } => {
            Body { ip, offset: at, len: end - at, ..body }.parse(protocol, frame).map(Content::Packet)
        }
        Leads::Fragment(piece) => {
            let place = Place { offset: piece.offset, at: ETHERNET_HEADER + piece.at, len: end - piece.at, more: piece.more };
            fragment(
                frame,
                Fragment {
                    source,
                    destination,
                    protocol: 0,
                    id: piece.id,
                    place,
                    headers: ETHERNET_HEADER + piece.at,
                    next_header_at: ETHERNET_HEADER + piece.next_header_at,
                },
            )
        }
    }
}

/// A fragment, if it can be a piece of anything: in all but the last, the bytes are counted by eights, and no packet is longer than its
/// length fields can say. What is cut has its checksum, and is not to be cut again.
fn fragment(frame: &Frame<'_>, fragment: Fragment) -> Result<Content, Unreadable> {
    let Place { offset, len, more, .. } = fragment.place;
    let finished = frame.meta.gso.is_none() && !matches!(frame.meta.checksum, Checksum::Partial { .. });
    if !finished || len == 0 || more && !len.is_multiple_of(8) || offset + len > usize::from(u16::MAX) {
        return Err(Unreadable::Malformed);
    }
    Ok(Content::Fragment(fragment))
}

/// The payload of an IP packet: `len` bytes at `offset` of the packet.
struct Body<'a> {
    /// The beginning of the packet, copied out.
    ip: &'a [u8],
    offset: usize,
    len: usize,
    source: IpAddr,
    destination: IpAddr,
    hop_limit: u8,
    dont_fragment: bool,
}

impl Body<'_> {
    fn parse(self, protocol: IpNumber, frame: &Frame<'_>) -> Result<Packet, Unreadable> {
        let transport = match (protocol, self.source) {
            (IpNumber::TCP, _) => Transport::Tcp(self.tcp(frame)?),
            (IpNumber::UDP, _) => Transport::Udp(self.udp(frame)?),
            (IpNumber::ICMP, IpAddr::V4(_)) => {
                let offset = ETHERNET_HEADER + self.offset;
                if checksum::of_frame(frame, offset, self.len) != !0 {
                    return Err(Unreadable::BadChecksum);
                }
                Transport::Icmp { offset, len: self.len }
            }
            (IpNumber::IPV6_ICMP, IpAddr::V6(_)) => {
                self.verify(frame, IpProtocol::Icmpv6)?;
                Transport::Icmp { offset: ETHERNET_HEADER + self.offset, len: self.len }
            }
            _ => return Err(Unreadable::Protocol),
        };
        let Self { source, destination, hop_limit, dont_fragment, .. } = self;
        Ok(Packet { source, destination, hop_limit, dont_fragment, transport })
    }

    /// The header bytes of the transport: those of the copy, but none that lie behind the packet's end.
    fn transport(&self) -> &[u8] {
        let bytes = self.ip.get(self.offset..).unwrap_or_default();
        &bytes[..bytes.len().min(self.len)]
    }

    fn tcp(&self, frame: &Frame<'_>) -> Result<Segment, Unreadable> {
        let header = TcpHeaderSlice::from_slice(self.transport()).map_err(|_| Unreadable::Malformed)?;
        self.verify(frame, IpProtocol::Tcp)?;
        let header_len = header.slice().len();
        Ok(Segment::of(&header, ETHERNET_HEADER + self.offset + header_len, self.len - header_len))
    }

    fn udp(&self, frame: &Frame<'_>) -> Result<Datagram, Unreadable> {
        let header = UdpHeaderSlice::from_slice(self.transport()).map_err(|_| Unreadable::Malformed)?;
        let len = usize::from(header.length());
        // Guests differ in what they write into the length of a super-frame's header: the whole or the first segment.
        let segment = frame.meta.gso.map(|gso| gso.size);
        let len = if segment.is_some() { self.len } else { len };
        let header_len = header.slice().len();
        if len < header_len || len > self.len {
            return Err(Unreadable::Malformed);
        }
        match (header.checksum(), self.source) {
            // RFC 768: all zeroes means that the sender made none. RFC 8200 section 8.1 forbids that.
            (0, IpAddr::V4(_)) => {}
            (0, IpAddr::V6(_)) => return Err(Unreadable::BadChecksum),
            _ => Self { len, ip: self.ip, ..*self }.verify(frame, IpProtocol::Udp)?,
        }
        Ok(Datagram {
            source_port: header.source_port(),
            destination_port: header.destination_port(),
            payload_offset: ETHERNET_HEADER + self.offset + header_len,
            payload_len: len - header_len,
            segment: segment.filter(|size| usize::from(*size) < len - header_len),
        })
    }

    /// Verifies the transport checksum, unless nobody could have damaged the packet.
    fn verify(&self, frame: &Frame<'_>, protocol: IpProtocol) -> Result<(), Unreadable> {
        let right = match frame.meta.checksum {
            Checksum::Partial { .. } | Checksum::Verified => true,
            Checksum::Complete => {
                checksum::verify(frame, ETHERNET_HEADER + self.offset, self.len, self.source, self.destination, protocol)
            }
        };
        if right { Ok(()) } else { Err(Unreadable::BadChecksum) }
    }
}
