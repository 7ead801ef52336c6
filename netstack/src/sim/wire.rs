//! Frames as a wire carries them: made by hand, and read with every check that a strict receiver makes.
//!
//! All of it is written without the code under test, so that a mistake there is not made twice.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::addr::MacAddr;

/// The FIN flag.
pub const FIN: u8 = 1;
/// The SYN flag.
pub const SYN: u8 = 2;
/// The RST flag.
pub const RST: u8 = 4;
/// The PSH flag.
pub const PSH: u8 = 8;
/// The ACK flag.
pub const ACK: u8 = 16;
/// The URG flag.
pub const URG: u8 = 32;

/// IPv4 in an Ethernet frame.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// ARP in an Ethernet frame.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// IPv6 in an Ethernet frame.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// ICMP in an IPv4 packet.
pub const PROTOCOL_ICMP: u8 = 1;
/// TCP in an IP packet.
pub const PROTOCOL_TCP: u8 = 6;
/// UDP in an IP packet.
pub const PROTOCOL_UDP: u8 = 17;
/// ICMPv6 in an IPv6 packet.
pub const PROTOCOL_ICMPV6: u8 = 58;

/// A TCP segment.
#[derive(Clone, PartialEq, Eq)]
pub struct Segment {
    /// Who has sent it.
    pub source: SocketAddr,
    /// Whom it is for.
    pub destination: SocketAddr,
    /// [`FIN`], [`SYN`] and so on.
    pub flags: u8,
    /// The sequence number of the first byte.
    pub seq: u32,
    /// The acknowledgement number, whether [`ACK`] is set or not.
    pub ack: u32,
    /// The window field, unscaled.
    pub window: u16,
    /// The options, padded to words.
    pub options: Vec<u8>,
    /// What follows the header.
    pub payload: Vec<u8>,
}

impl Segment {
    /// Whether exactly these of SYN, FIN, RST and ACK are set.
    pub const fn is(&self, flags: u8) -> bool {
        self.flags & (SYN | FIN | RST | ACK) == flags
    }

    /// Whether these flags are set, and perhaps others.
    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag == flag
    }

    /// Sequence numbers that it takes up.
    pub fn sequence_len(&self) -> u32 {
        u32::try_from(self.payload.len()).unwrap() + u32::from(self.has(SYN)) + u32::from(self.has(FIN))
    }

    /// The value of the option of this kind.
    pub fn option(&self, kind: u8) -> Option<&[u8]> {
        let mut rest = &self.options[..];
        loop {
            match rest {
                [] | [0, ..] => return None,
                [1, tail @ ..] => rest = tail,
                [found, len, ..] => {
                    let (option, tail) = rest.split_at(usize::from(*len));
                    if *found == kind {
                        return Some(&option[2..]);
                    }
                    rest = tail;
                }
                [_] => panic!("an option without a length"),
            }
        }
    }

    /// The maximum segment size option.
    pub fn mss(&self) -> Option<u16> {
        self.option(2).map(|value| u16::from_be_bytes(value.try_into().unwrap()))
    }

    /// The window scale option.
    pub fn window_scale(&self) -> Option<u8> {
        self.option(3).map(|value| value[0])
    }

    /// Header and payload, with the checksum.
    pub fn bytes(&self) -> Vec<u8> {
        assert_eq!(self.options.len() % 4, 0, "options are padded to words");
        let mut bytes = Vec::new();
        bytes.extend(self.source.port().to_be_bytes());
        bytes.extend(self.destination.port().to_be_bytes());
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend(self.ack.to_be_bytes());
        bytes.push(u8::try_from((20 + self.options.len()) / 4 * 16).unwrap());
        bytes.push(self.flags);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(&self.options);
        bytes.extend(&self.payload);
        set_checksum(self.source.ip(), self.destination.ip(), PROTOCOL_TCP, &mut bytes, 16);
        bytes
    }

    /// The IP packet that carries it.
    pub fn packet(&self) -> Vec<u8> {
        packet(self.source.ip(), self.destination.ip(), PROTOCOL_TCP, &self.bytes())
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {} [", self.source, self.destination)?;
        for (bit, letter) in [(SYN, 'S'), (FIN, 'F'), (RST, 'R'), (PSH, 'P'), (ACK, '.'), (URG, 'U')] {
            if self.has(bit) {
                write!(f, "{letter}")?;
            }
        }
        write!(f, "] seq {} ack {} win {} len {}", self.seq, self.ack, self.window, self.payload.len())
    }
}

/// A UDP datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Who has sent it.
    pub source: SocketAddr,
    /// Whom it is for.
    pub destination: SocketAddr,
    /// What follows the header.
    pub payload: Vec<u8>,
}

impl Datagram {
    /// The IP packet that carries it.
    pub fn packet(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.source.port().to_be_bytes());
        bytes.extend(self.destination.port().to_be_bytes());
        bytes.extend(u16::try_from(8 + self.payload.len()).unwrap().to_be_bytes());
        bytes.extend([0; 2]);
        bytes.extend(&self.payload);
        set_checksum(self.source.ip(), self.destination.ip(), PROTOCOL_UDP, &mut bytes, 6);
        packet(self.source.ip(), self.destination.ip(), PROTOCOL_UDP, &bytes)
    }
}

/// An ICMP message of either version, with the addresses of its packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Icmp {
    /// The sender of the packet.
    pub source: IpAddr,
    /// The receiver of the packet.
    pub destination: IpAddr,
    /// The type.
    pub kind: u8,
    /// The code.
    pub code: u8,
    /// The second word of the header.
    pub rest: [u8; 4],
    /// What follows the header.
    pub payload: Vec<u8>,
}

impl Icmp {
    /// The IP packet that carries it.
    pub fn packet(&self) -> Vec<u8> {
        let mut bytes = vec![self.kind, self.code, 0, 0];
        bytes.extend(self.rest);
        bytes.extend(&self.payload);
        if self.source.is_ipv4() {
            let sum = checksum(&bytes);
            bytes[2..4].copy_from_slice(&sum.to_be_bytes());
            packet(self.source, self.destination, PROTOCOL_ICMP, &bytes)
        } else {
            set_checksum(self.source, self.destination, PROTOCOL_ICMPV6, &mut bytes, 2);
            let mut packet = packet(self.source, self.destination, PROTOCOL_ICMPV6, &bytes);
            if matches!(self.kind, 133..=137) {
                packet[7] = 255; // RFC 4861 section 7.1: neighbour discovery never crosses a router.
            }
            packet
        }
    }
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// 1 for a request, 2 for a reply.
    pub operation: u16,
    /// The card that the sender has.
    pub sender_mac: MacAddr,
    /// The address that the sender has.
    pub sender: Ipv4Addr,
    /// The card that is told or looked for.
    pub target_mac: MacAddr,
    /// The address that is told or looked for.
    pub target: Ipv4Addr,
}

impl Arp {
    /// The packet behind the Ethernet header.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0, 1, 8, 0, 6, 4];
        bytes.extend(self.operation.to_be_bytes());
        bytes.extend(self.sender_mac.0);
        bytes.extend(self.sender.octets());
        bytes.extend(self.target_mac.0);
        bytes.extend(self.target.octets());
        bytes
    }
}

/// What a frame carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// ARP.
    Arp(Arp),
    /// TCP in IP.
    Tcp(Segment),
    /// UDP in IP.
    Udp(Datagram),
    /// ICMP or ICMPv6 in IP.
    Icmp(Icmp),
}

/// A frame that the stack has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The sending card.
    pub source: MacAddr,
    /// The receiving card, or a group.
    pub destination: MacAddr,
    /// IPv4's time to live or IPv6's hop limit; 0 without IP.
    pub hop_limit: u8,
    /// What it carries.
    pub body: Body,
}

/// Reads a finished frame.
///
/// # Panics
///
/// When anything in it is wrong: our stack must never send such a frame.
pub fn parse(frame: &[u8]) -> Parsed {
    let (source, destination) = stations(frame);
    let body = &frame[14..];
    let (hop_limit, body) = match ethertype(frame) {
        ETHERTYPE_ARP => (0, Body::Arp(parse_arp(body))),
        _ => {
            let packet = read_packet(frame);
            (packet.hop_limit, parse_transport(&packet))
        }
    };
    Parsed { source, destination, hop_limit, body }
}

/// Reads a finished frame with all checks, and forgets it.
///
/// # Panics
///
/// Where [`parse`] does.
pub fn check(frame: &[u8]) {
    stations(frame);
    if ethertype(frame) == ETHERTYPE_ARP {
        parse_arp(&frame[14..]);
    } else {
        read_packet(frame);
    }
}

/// The sender and the receiver.
fn stations(frame: &[u8]) -> (MacAddr, MacAddr) {
    assert!(frame.len() >= 14, "a frame of {} bytes", frame.len());
    let mac = |at: usize| MacAddr(frame[at..at + 6].try_into().unwrap());
    let (destination, source) = (mac(0), mac(6));
    assert!(source.is_unicast(), "the sender {source} is no station");
    (source, destination)
}

fn ethertype(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[12], frame[13]])
}

/// An IP packet whose header and checksums are right.
struct Packet<'a> {
    hop_limit: u8,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    transport: &'a [u8],
}

fn read_packet(frame: &[u8]) -> Packet<'_> {
    let bytes = &frame[14..];
    let packet = match ethertype(frame) {
        ETHERTYPE_IPV4 => read_ipv4(bytes),
        ETHERTYPE_IPV6 => read_ipv6(bytes),
        other => panic!("a frame of type {other:04x}"),
    };
    let Packet { source, destination, protocol, transport, .. } = packet;
    let sum = match (protocol, source) {
        (PROTOCOL_ICMP, IpAddr::V4(_)) => checksum(transport),
        (PROTOCOL_UDP, IpAddr::V4(_)) if transport[6..8] == [0, 0] => 0,
        _ => transport_checksum(source, destination, protocol, transport),
    };
    assert_eq!(sum, 0, "the checksum of protocol {protocol} from {source} to {destination} is wrong");
    if protocol == PROTOCOL_UDP {
        let len = u16::from_be_bytes([transport[4], transport[5]]);
        assert_eq!(usize::from(len), transport.len(), "the length of the datagram is wrong");
    }
    packet
}

fn parse_arp(bytes: &[u8]) -> Arp {
    assert_eq!(bytes[..6], [0, 1, 8, 0, 6, 4]);
    let mac = |at: usize| MacAddr(bytes[at..at + 6].try_into().unwrap());
    let ip = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap());
    let operation = u16::from_be_bytes([bytes[6], bytes[7]]);
    Arp { operation, sender_mac: mac(8), sender: ip(14), target_mac: mac(18), target: ip(24) }
}

fn read_ipv4(bytes: &[u8]) -> Packet<'_> {
    assert_eq!(bytes[0], 0x45, "an IPv4 header without options");
    let total = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
    assert!(total <= bytes.len(), "the packet says {total} bytes and has {}", bytes.len());
    assert!(total == bytes.len() || bytes.len() <= 46, "{} bytes follow the packet", bytes.len() - total);
    assert_eq!(checksum(&bytes[..20]), 0, "the checksum of the IPv4 header is wrong");
    assert_eq!(bytes[6] & 0x3f, 0, "a fragment");
    let ip = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap());
    Packet { hop_limit: bytes[8], source: ip(12), destination: ip(16), protocol: bytes[9], transport: &bytes[20..total] }
}

fn read_ipv6(bytes: &[u8]) -> Packet<'_> {
    assert_eq!(bytes[0] >> 4, 6);
    let len = usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
    assert_eq!(len, bytes.len() - 40, "the payload length is wrong");
    let ip = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap());
    Packet { hop_limit: bytes[7], source: ip(8), destination: ip(24), protocol: bytes[6], transport: &bytes[40..] }
}

fn parse_transport(packet: &Packet<'_>) -> Body {
    let Packet { source, destination, protocol, transport: bytes, .. } = *packet;
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    match protocol {
        PROTOCOL_TCP => {
            let header = usize::from(bytes[12] >> 4) * 4;
            let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
            Body::Tcp(Segment {
                source: SocketAddr::new(source, port(0)),
                destination: SocketAddr::new(destination, port(2)),
                flags: bytes[13],
                seq: word(4),
                ack: word(8),
                window: port(14),
                options: bytes[20..header].to_vec(),
                payload: bytes[header..].to_vec(),
            })
        }
        PROTOCOL_UDP => {
            let (source, destination) = (SocketAddr::new(source, port(0)), SocketAddr::new(destination, port(2)));
            Body::Udp(Datagram { source, destination, payload: bytes[8..].to_vec() })
        }
        PROTOCOL_ICMP | PROTOCOL_ICMPV6 => Body::Icmp(Icmp {
            source,
            destination,
            kind: bytes[0],
            code: bytes[1],
            rest: bytes[4..8].try_into().unwrap(),
            payload: bytes[8..].to_vec(),
        }),
        other => panic!("a packet of protocol {other}"),
    }
}

/// An IP packet.
pub fn packet(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes.extend([0x45, 0]);
            bytes.extend(u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
            bytes.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
            let sum = checksum(&bytes);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
            bytes.extend([protocol, 64]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
        }
        _ => panic!("{source} and {destination} are of different families"),
    }
    bytes.extend(payload);
    bytes
}

/// An IP packet with another time to live or hop limit.
pub fn with_hop_limit(mut packet: Vec<u8>, hop_limit: u8) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        packet[8] = hop_limit;
        set_header_checksum(&mut packet);
    } else {
        packet[7] = hop_limit;
    }
    packet
}

/// An IPv4 packet that routers may fragment.
pub fn fragmentable(mut packet: Vec<u8>) -> Vec<u8> {
    packet[6] &= !0x40;
    set_header_checksum(&mut packet);
    packet
}

fn set_header_checksum(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// The packet that an ICMP error quotes, or as much of it as is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted {
    /// The sender.
    pub source: IpAddr,
    /// The receiver.
    pub destination: IpAddr,
    /// The protocol behind the IP header.
    pub protocol: u8,
    /// What follows the IP header.
    pub transport: Vec<u8>,
}

impl Quoted {
    /// The ports of a quoted datagram or segment.
    pub fn ports(&self) -> (u16, u16) {
        let port = |at: usize| u16::from_be_bytes([self.transport[at], self.transport[at + 1]]);
        (port(0), port(2))
    }
}

impl Icmp {
    /// What an error quotes.
    ///
    /// # Panics
    ///
    /// When that does not begin with an IP header of the error's own version and 8 bytes behind it.
    pub fn quoted(&self) -> Quoted {
        let bytes = &self.payload;
        let (source, destination, protocol, header): (IpAddr, IpAddr, u8, usize) = if self.source.is_ipv4() {
            assert_eq!(bytes[0], 0x45, "an IPv4 header is quoted");
            assert_eq!(checksum(&bytes[..20]), 0, "the quoted header is whole");
            let ip = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap());
            (ip(12), ip(16), bytes[9], 20)
        } else {
            assert_eq!(bytes[0] >> 4, 6, "an IPv6 header is quoted");
            let ip = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap());
            (ip(8), ip(24), bytes[6], 40)
        };
        assert!(bytes.len() >= header + 8, "RFC 792 asks for 8 bytes behind the header, there are {}", bytes.len() - header);
        Quoted { source, destination, protocol, transport: bytes[header..].to_vec() }
    }
}

/// An Ethernet frame around an IP packet.
pub fn ip_frame(source: MacAddr, destination: MacAddr, packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    ethernet(source, destination, ethertype, packet)
}

/// An Ethernet frame.
pub fn ethernet(source: MacAddr, destination: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(destination.0);
    bytes.extend(source.0);
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Fills in the transport checksum at `at`.
pub fn set_checksum(source: IpAddr, destination: IpAddr, protocol: u8, bytes: &mut [u8], at: usize) {
    bytes[at..at + 2].fill(0);
    let mut sum = transport_checksum(source, destination, protocol, bytes);
    if sum == 0 && protocol == PROTOCOL_UDP {
        sum = 0xffff; // RFC 768: zero says that there is none.
    }
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The checksum over pseudo-header and transport; 0 when `bytes` hold a right one.
pub fn transport_checksum(source: IpAddr, destination: IpAddr, protocol: u8, bytes: &[u8]) -> u16 {
    !fold_sum(sum(&pseudo_header(source, destination, protocol, bytes.len())) + sum(bytes))
}

/// What a transport checksum covers beside the transport (RFC 9293 section 3.1, RFC 8200 section 8.1), padded by zeros.
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> [u8; 40] {
    let mut bytes = [0; 40];
    for (ip, at) in [(source, 0), (destination, 16)] {
        match ip {
            IpAddr::V4(ip) => bytes[at..at + 4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => bytes[at..at + 16].copy_from_slice(&ip.octets()),
        }
    }
    bytes[32..36].copy_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
    bytes[39] = protocol;
    bytes
}

/// RFC 1071.
pub fn checksum(bytes: &[u8]) -> u16 {
    !fold(bytes)
}

/// The ones' complement sum, folded.
pub fn fold(bytes: &[u8]) -> u16 {
    fold_sum(sum(bytes))
}

/// The sum of all words of 32 bits, which are as good as those of 16 once it is folded.
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(4);
    let mut rest = [0; 4];
    rest[..words.remainder().len()].copy_from_slice(words.remainder());
    words.map(|word| u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]))).sum::<u64>()
        + u64::from(u32::from_be_bytes(rest))
}

fn fold_sum(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

/// One line about a frame, for people.
pub fn summary(frame: &[u8]) -> String {
    let body = || -> Option<String> {
        let ip = frame.get(14..)?;
        let (source, destination, protocol, transport) = match frame.get(12..14)? {
            [0x08, 0x00] => {
                let ip4 = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?));
                (ip4(12)?, ip4(16)?, *ip.get(9)?, ip.get(usize::from(ip.first()? & 15) * 4..)?)
            }
            [0x86, 0xdd] => {
                let ip6 = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?));
                (ip6(8)?, ip6(24)?, *ip.get(6)?, ip.get(40..)?)
            }
            [0x08, 0x06] => return Some(format!("ARP operation {}", ip.get(7)?)),
            _ => return None,
        };
        let half = |at: usize| Some(u16::from_be_bytes(transport.get(at..at + 2)?.try_into().ok()?));
        let word = |at: usize| Some(u32::from_be_bytes(transport.get(at..at + 4)?.try_into().ok()?));
        Some(match protocol {
            PROTOCOL_TCP => {
                // The frame may have been cut short, and its last segment padded.
                let header = usize::from(transport.get(12)? >> 4) * 4;
                let said = u16::from_be_bytes(ip.get(if source.is_ipv4() { 2..4 } else { 4..6 })?.try_into().ok()?);
                let headers = header + if source.is_ipv4() { usize::from(ip.first()? & 15) * 4 } else { 0 };
                let segment = Segment {
                    source: SocketAddr::new(source, half(0)?),
                    destination: SocketAddr::new(destination, half(2)?),
                    flags: *transport.get(13)?,
                    seq: word(4)?,
                    ack: word(8)?,
                    window: half(14)?,
                    options: Vec::new(),
                    payload: vec![0; usize::from(said).saturating_sub(headers)],
                };
                format!("TCP {segment:?}")
            }
            PROTOCOL_UDP => format!("UDP {} > {}", SocketAddr::new(source, half(0)?), SocketAddr::new(destination, half(2)?)),
            _ => format!("protocol {protocol} {source} > {destination} type {}", transport.first()?),
        })
    };
    body().unwrap_or_else(|| String::from("unreadable"))
}
