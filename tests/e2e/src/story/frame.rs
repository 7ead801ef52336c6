//! Frames as a guest makes and reads them, over etherparse: nothing of the code under test has a part in it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, IpHeaders, IpNumber, Ipv4Header, Ipv4HeaderSlice, Ipv6Header, NetSlice,
    PacketBuilder, SlicedPacket, TcpHeader, TransportSlice,
};

/// FIN, as in the flags of [`Segment`].
pub const FIN: u8 = 1;
/// SYN.
pub const SYN: u8 = 2;
/// RST.
pub const RST: u8 = 4;
/// PSH.
pub const PSH: u8 = 8;
/// ACK.
pub const ACK: u8 = 16;
/// URG.
pub const URG: u8 = 32;

/// The address of a card.
pub type Mac = [u8; 6];

/// Everybody's.
pub const BROADCAST: Mac = [0xff; 6];

/// The card of the virtual host at this address, as guests of QEMU's user network know it.
pub const fn card_of(ip: IpAddr) -> Mac {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            [0x52, 0x55, a, b, c, d]
        }
        IpAddr::V6(ip) => [0x52, 0x56, 0, 0, 0, ip.octets()[15]],
    }
}

/// The card that a group of IPv6 listens with (RFC 2464 section 7).
pub const fn card_of_group(group: Ipv6Addr) -> Mac {
    let octets = group.octets();
    [0x33, 0x33, octets[12], octets[13], octets[14], octets[15]]
}

/// The group that is asked for an address (RFC 4291 section 2.7.1).
pub const fn solicited_group(ip: Ipv6Addr) -> Ipv6Addr {
    let o = ip.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | o[13] as u16, (o[14] as u16) << 8 | o[15] as u16)
}

/// A TCP segment.
#[derive(Clone, PartialEq, Eq)]
pub struct Segment {
    /// Who sends it.
    pub source: SocketAddr,
    /// Who is to receive it.
    pub destination: SocketAddr,
    /// Sums of [`FIN`], [`SYN`] and so on.
    pub flags: u8,
    /// The sequence number.
    pub seq: u32,
    /// The acknowledgement.
    pub ack: u32,
    /// The window field, as it is in the header.
    pub window: u16,
    /// The urgent pointer.
    pub urgent: u16,
    /// All options, padded to words.
    pub options: Vec<u8>,
    /// The data.
    pub payload: Vec<u8>,
}

impl Segment {
    /// Whether exactly these of SYN, FIN, RST and ACK are set.
    pub const fn is(&self, flags: u8) -> bool {
        self.flags & (SYN | FIN | RST | ACK) == flags
    }

    /// Whether all of these are set.
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Sequence numbers that it takes up.
    pub fn sequence_len(&self) -> u32 {
        self.payload.len() as u32 + u32::from(self.has(SYN)) + u32::from(self.has(FIN))
    }

    /// The value of the option of this kind.
    pub fn option(&self, kind: u8) -> Option<&[u8]> {
        let mut rest = &self.options[..];
        loop {
            match rest {
                [] | [0, ..] | [_] => return None,
                [1, tail @ ..] => rest = tail,
                [found, len, ..] => {
                    let (option, tail) = rest.split_at_checked(usize::from(*len).max(2))?;
                    if *found == kind {
                        return option.get(2..);
                    }
                    rest = tail;
                }
            }
        }
    }

    /// The kinds of its options, without padding.
    pub fn option_kinds(&self) -> Vec<u8> {
        (2..=254).filter(|kind| self.option(*kind).is_some()).collect()
    }

    /// The frame from `from` to `to` that carries it.
    pub fn frame(&self, from: Mac, to: Mac) -> Vec<u8> {
        let mut header = TcpHeader::new(self.source.port(), self.destination.port(), self.seq, self.window);
        header.acknowledgment_number = self.ack;
        header.urgent_pointer = self.urgent;
        header.fin = self.has(FIN);
        header.syn = self.has(SYN);
        header.rst = self.has(RST);
        header.psh = self.has(PSH);
        header.ack = self.has(ACK);
        header.urg = self.has(URG);
        header.set_options_raw(&self.options).expect("at most 40 bytes of options");
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2(from, to)
            .ip(ip_headers(self.source.ip(), self.destination.ip(), 64))
            .tcp_header(header)
            .write(&mut bytes, &self.payload)
            .expect("a packet that fits");
        bytes
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
    /// Who sends it.
    pub source: SocketAddr,
    /// Who is to receive it.
    pub destination: SocketAddr,
    /// The data.
    pub payload: Vec<u8>,
}

impl Datagram {
    /// The frame from `from` to `to` that carries it.
    pub fn frame(&self, from: Mac, to: Mac) -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2(from, to)
            .ip(ip_headers(self.source.ip(), self.destination.ip(), 64))
            .udp(self.source.port(), self.destination.port())
            .write(&mut bytes, &self.payload)
            .expect("a packet that fits");
        bytes
    }
}

/// An ICMP message of either version, with the addresses of its packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Icmp {
    /// Who sends it.
    pub source: IpAddr,
    /// Who is to receive it.
    pub destination: IpAddr,
    /// The type.
    pub kind: u8,
    /// The code.
    pub code: u8,
    /// What follows the checksum.
    pub rest: [u8; 4],
    /// What follows the first 8 bytes.
    pub payload: Vec<u8>,
}

impl Icmp {
    /// The frame from `from` to `to` that carries it.
    pub fn frame(&self, from: Mac, to: Mac) -> Vec<u8> {
        // RFC 4861 section 7.1: neighbour discovery never crosses a router.
        let hops = if self.source.is_ipv6() && matches!(self.kind, 133..=137) { 255 } else { 64 };
        let builder = PacketBuilder::ethernet2(from, to).ip(ip_headers(self.source, self.destination, hops));
        let mut bytes = Vec::new();
        if self.source.is_ipv4() {
            builder.icmpv4_raw(self.kind, self.code, self.rest).write(&mut bytes, &self.payload)
        } else {
            builder.icmpv6_raw(self.kind, self.code, self.rest).write(&mut bytes, &self.payload)
        }
        .expect("a packet that fits");
        bytes
    }

    /// Whether it belongs to neighbour discovery.
    pub const fn is_discovery(&self) -> bool {
        self.source.is_ipv6() && matches!(self.kind, 133..=137)
    }
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// 1 asks, 2 answers.
    pub operation: u16,
    /// The card of the sender.
    pub sender_card: Mac,
    /// Its address.
    pub sender: Ipv4Addr,
    /// The card of the target, if it is known.
    pub target_card: Mac,
    /// Its address.
    pub target: Ipv4Addr,
}

impl Arp {
    /// The frame from the sender to `to` that carries it.
    pub fn frame(&self, to: Mac) -> Vec<u8> {
        let packet = ArpPacket::new(
            ArpHardwareId::ETHERNET,
            EtherType::IPV4,
            ArpOperation(self.operation),
            &self.sender_card,
            &self.sender.octets(),
            &self.target_card,
            &self.target.octets(),
        )
        .expect("addresses of these lengths");
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2(self.sender_card, to).arp(packet).write(&mut bytes).expect("a packet that fits");
        bytes
    }
}

/// What a frame carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// ARP.
    Arp(Arp),
    /// TCP over either IP.
    Tcp(Segment),
    /// UDP over either IP.
    Udp(Datagram),
    /// ICMP of either version.
    Icmp(Icmp),
    /// Something else, in words.
    Other(String),
}

/// A frame that the network has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The card that it comes from.
    pub source: Mac,
    /// The card that it goes to.
    pub destination: Mac,
    /// The TTL or hop limit; 0 for what has none.
    pub hops: u8,
    /// What it carries.
    pub body: Body,
    /// What a strict receiver would complain about.
    pub complaint: Option<&'static str>,
}

impl Told {
    /// Reads a frame. `finished` says that its transport checksum is filled in.
    pub fn read(frame: &[u8], finished: bool) -> Self {
        let mut told = Self {
            source: [0; 6],
            destination: [0; 6],
            hops: 0,
            body: Body::Other(format!("{} bytes", frame.len())),
            complaint: None,
        };
        let Some((destination, rest)) = frame.split_first_chunk::<6>() else { return told };
        let Some(source) = rest.first_chunk::<6>() else { return told };
        (told.source, told.destination) = (*source, *destination);
        match SlicedPacket::from_ethernet(frame) {
            Ok(packet) => told.take(&packet, finished),
            Err(error) => told.body = Body::Other(error.to_string()),
        }
        told
    }

    fn take(&mut self, packet: &SlicedPacket<'_>, finished: bool) {
        let (source, destination) = match &packet.net {
            Some(NetSlice::Arp(arp)) => {
                self.body = read_arp(arp).map_or_else(|| Body::Other("ARP of another kind".to_owned()), Body::Arp);
                return;
            }
            Some(NetSlice::Ipv4(ip)) => {
                let header = ip.header().to_header();
                self.hops = header.time_to_live;
                if header.calc_header_checksum() != header.header_checksum {
                    self.complaint = Some("a wrong checksum of the IPv4 header");
                }
                if ip.is_payload_fragmented() {
                    self.body = Body::Other(format!("a fragment of {} bytes", ip.payload().payload.len()));
                    return;
                }
                (ip.header().source_addr().into(), ip.header().destination_addr().into())
            }
            Some(NetSlice::Ipv6(ip)) => {
                self.hops = ip.header().hop_limit();
                (IpAddr::from(ip.header().source_addr()), IpAddr::from(ip.header().destination_addr()))
            }
            None => return,
        };
        let wrong = "a wrong transport checksum";
        match &packet.transport {
            Some(TransportSlice::Tcp(tcp)) => {
                let header = tcp.to_header();
                let sum = match (source, destination) {
                    (IpAddr::V4(a), IpAddr::V4(b)) => header.calc_checksum_ipv4_raw(a.octets(), b.octets(), tcp.payload()),
                    (IpAddr::V6(a), IpAddr::V6(b)) => header.calc_checksum_ipv6_raw(a.octets(), b.octets(), tcp.payload()),
                    _ => return,
                };
                if finished && sum != Ok(header.checksum) {
                    self.complaint = Some(wrong);
                }
                self.body = Body::Tcp(Segment {
                    source: SocketAddr::new(source, header.source_port),
                    destination: SocketAddr::new(destination, header.destination_port),
                    flags: tcp.slice()[13] & 0x3f,
                    seq: header.sequence_number,
                    ack: header.acknowledgment_number,
                    window: header.window_size,
                    urgent: header.urgent_pointer,
                    options: header.options.as_slice().to_vec(),
                    payload: tcp.payload().to_vec(),
                });
            }
            Some(TransportSlice::Udp(udp)) => {
                let header = udp.to_header();
                let sum = match (source, destination) {
                    (IpAddr::V4(a), IpAddr::V4(b)) => header.calc_checksum_ipv4_raw(a.octets(), b.octets(), udp.payload()),
                    (IpAddr::V6(a), IpAddr::V6(b)) => header.calc_checksum_ipv6_raw(a.octets(), b.octets(), udp.payload()),
                    _ => return,
                };
                let none = source.is_ipv4() && header.checksum == 0;
                if finished && !none && sum != Ok(header.checksum) {
                    self.complaint = Some(wrong);
                }
                self.body = Body::Udp(Datagram {
                    source: SocketAddr::new(source, header.source_port),
                    destination: SocketAddr::new(destination, header.destination_port),
                    payload: udp.payload().to_vec(),
                });
            }
            Some(TransportSlice::Icmpv4(icmp)) => {
                if icmp.icmp_type().calc_checksum(icmp.payload()) != icmp.checksum() {
                    self.complaint = Some(wrong);
                }
                self.body = read_icmp(source, destination, icmp.slice());
            }
            Some(TransportSlice::Icmpv6(icmp)) => {
                if let (IpAddr::V6(a), IpAddr::V6(b)) = (source, destination)
                    && !icmp.is_checksum_valid(a.octets(), b.octets())
                {
                    self.complaint = Some(wrong);
                }
                self.body = read_icmp(source, destination, icmp.slice());
            }
            _ => self.body = Body::Other(format!("a packet from {source} to {destination}")),
        }
    }
}

fn read_arp(arp: &etherparse::ArpPacketSlice<'_>) -> Option<Arp> {
    let ip = |bytes: &[u8]| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?));
    Some(Arp {
        operation: arp.operation().0,
        sender_card: arp.sender_hw_addr().try_into().ok()?,
        sender: ip(arp.sender_protocol_addr())?,
        target_card: arp.target_hw_addr().try_into().ok()?,
        target: ip(arp.target_protocol_addr())?,
    })
}

fn read_icmp(source: IpAddr, destination: IpAddr, message: &[u8]) -> Body {
    match message {
        [kind, code, _, _, a, b, c, d, payload @ ..] => {
            Body::Icmp(Icmp { source, destination, kind: *kind, code: *code, rest: [*a, *b, *c, *d], payload: payload.to_vec() })
        }
        _ => Body::Other(format!("ICMP of {} bytes", message.len())),
    }
}

/// The headers of a packet that may not be fragmented. What follows is for the builder to add.
/// A frame of an IP packet, with another time to live or hop limit.
pub fn with_hops(mut frame: Vec<u8>, hops: u8) -> Vec<u8> {
    if frame[12..14] == [0x86, 0xdd] {
        frame[21] = hops;
        return frame;
    }
    frame[22] = hops;
    let header = Ipv4HeaderSlice::from_slice(&frame[14..]).expect("an IPv4 header").to_header();
    let checksum = header.calc_header_checksum();
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame
}

fn ip_headers(source: IpAddr, destination: IpAddr, hops: u8) -> IpHeaders {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header =
                Ipv4Header::new(0, hops, IpNumber::UDP, source.octets(), destination.octets()).expect("an empty payload fits");
            header.dont_fragment = true;
            IpHeaders::Ipv4(header, Default::default())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header =
                Ipv6Header { hop_limit: hops, source: source.octets(), destination: destination.octets(), ..Default::default() };
            IpHeaders::Ipv6(header, Default::default())
        }
        _ => panic!("{source} and {destination} are of different families"),
    }
}

/// Makes the checksums of a frame right after it was changed by hand: that of the IPv4 header, and that of TCP, UDP or ICMP behind it.
pub fn mend_checksums(frame: &mut [u8]) {
    if frame[12..14] == [0x08, 0x00] {
        let header = usize::from(frame[14] & 15) * 4;
        frame[24..26].fill(0);
        let sum = !fold(0, &frame[14..14 + header]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    let place = ChecksumPlace::of(frame);
    frame[place.at..place.at + 2].fill(0);
    let sum = !fold(place.pseudo_header.into(), &frame[place.transport..]);
    frame[place.at..place.at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Leaves the checksum of TCP or UDP to whoever finishes the frame: the sum of the pseudo-header stands in its place.
pub fn leave_checksum(frame: &mut [u8]) {
    let place = ChecksumPlace::of(frame);
    frame[place.at..place.at + 2].copy_from_slice(&place.pseudo_header.to_be_bytes());
}

/// Where the checksum of a frame's transport protocol is, and what it covers beside the bytes from `transport` on.
struct ChecksumPlace {
    transport: usize,
    at: usize,
    pseudo_header: u16,
}

impl ChecksumPlace {
    fn of(frame: &[u8]) -> Self {
        let (transport, protocol, addresses) = match frame[12..14] {
            [0x08, 0x00] => (14 + usize::from(frame[14] & 15) * 4, frame[23], &frame[26..34]),
            _ => (54, frame[20], &frame[22..54]),
        };
        let offset = match protocol {
            6 => 16,
            17 => 6,
            _ => 2,
        };
        let len = (frame.len() - transport) as u32;
        // ICMP for IPv4 has no pseudo-header.
        let pseudo_header = if protocol == 1 { 0 } else { fold(len + u32::from(protocol), addresses) };
        Self { transport, at: transport + offset, pseudo_header }
    }
}

/// The ones' complement sum (RFC 1071).
fn fold(start: u32, bytes: &[u8]) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: Mac = [0x52, 0x54, 0, 0, 0, 1];

    fn addresses(ipv6: bool) -> (SocketAddr, SocketAddr) {
        if ipv6 {
            ((Ipv6Addr::LOCALHOST, 5000).into(), (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 2), 80).into())
        } else {
            ((Ipv4Addr::new(10, 0, 2, 15), 5000).into(), (Ipv4Addr::new(10, 0, 2, 2), 80).into())
        }
    }

    /// Frames of all kinds, and what they carry.
    fn frames() -> Vec<(Vec<u8>, Body)> {
        let arp = Arp {
            operation: 1,
            sender_card: CARD,
            sender: Ipv4Addr::new(10, 0, 2, 15),
            target_card: [0; 6],
            target: Ipv4Addr::new(10, 0, 2, 2),
        };
        let mut frames = vec![(arp.frame(BROADCAST), Body::Arp(arp))];
        for ipv6 in [false, true] {
            let (source, destination) = addresses(ipv6);
            let segment = Segment {
                source,
                destination,
                flags: SYN | ACK | URG,
                seq: 1,
                ack: 2,
                window: 3,
                urgent: 4,
                options: vec![2, 4, 5, 0xb4],
                payload: b"data".to_vec(),
            };
            let datagram = Datagram { source, destination, payload: b"odd".to_vec() };
            let icmp = Icmp {
                source: source.ip(),
                destination: destination.ip(),
                kind: if ipv6 { 128 } else { 8 },
                code: 0,
                rest: [1, 2, 3, 4],
                payload: b"ping".to_vec(),
            };
            frames.push((segment.frame(CARD, BROADCAST), Body::Tcp(segment)));
            frames.push((datagram.frame(CARD, BROADCAST), Body::Udp(datagram)));
            frames.push((icmp.frame(CARD, BROADCAST), Body::Icmp(icmp)));
        }
        frames
    }

    #[test]
    fn what_is_made_is_read() {
        for (frame, body) in frames() {
            let told = Told::read(&frame, true);
            assert_eq!((told.source, told.complaint), (CARD, None), "{body:?}");
            assert_eq!(told.body, body);
        }
    }

    #[test]
    fn what_is_damaged_is_complained_about_until_it_is_mended() {
        for (mut frame, body) in frames().into_iter().filter(|(_, body)| !matches!(body, Body::Arp(_))) {
            let last = frame.len() - 1;
            frame[last] ^= 1;
            assert!(Told::read(&frame, true).complaint.is_some(), "{body:?}");
            mend_checksums(&mut frame);
            assert_eq!(Told::read(&frame, true).complaint, None, "{body:?}");
        }
    }

    #[test]
    fn no_frame_is_too_short_to_be_read() {
        for (frame, _) in frames() {
            for len in 0..frame.len() {
                Told::read(&frame[..len], true);
            }
        }
    }
}
