//! One frame with its offload state: what a guest's card hands over.
//!
//! What it says of itself goes through the header of virtio-net, segmentation, the switch between two guests, and the stack. Those who
//! read the same bytes must agree on them.

use std::net::IpAddr;
use std::task::{Context, Poll};
use std::{io, mem};

use netstack::addr::MacAddr;
use netstack::frame::segment::{check, segment};
use netstack::frame::{
    Checksum, Chunk, ChunkMut, ETHERNET_HEADER, Frame, FrameMeta, FrameMut, Gso, GsoKind, MAX_FRAME, Offloads, vnet,
};
use netstack::port::{Egress, Halves, Ingress, Sent};
use netstack::sim::wire;
use netstack::switch::{Forwarding, Switch};
use netstack::time::Instant;

use crate::engine::play_frame;
use crate::script::{Draft, Script};

/// What two guests can do, and how long their packets may be.
const CARDS: [(Offloads, u16); 4] = [
    (Offloads::NONE, 1500),
    (Offloads::ALL, 65_520),
    (Offloads { checksum: true, ..Offloads::NONE }, 1500),
    (Offloads { uso: false, ..Offloads::ALL }, 9000),
];

/// Flags, the header of virtio-net, the choices of a network, and the frame.
pub fn judge(input: &[u8]) {
    let mut script = Script::new(input);
    let flags = script.byte();
    let header = [0; vnet::HEADER].map(|_: u8| script.byte());
    let network = [0; 3].map(|_: u8| script.byte());
    let mut frame = script.rest().to_vec();
    // The rest of the frame is a lot of the same.
    if flags & 2 != 0 {
        frame.resize((frame.len() + usize::from(header[9]) * 300).min(MAX_FRAME + 3), 0xa5);
    }
    if flags & 1 != 0 {
        mend(&mut frame);
    }
    // A port of this process may say anything, one that is read from a descriptor only what the header can say.
    let meta = if flags & 4 != 0 { meta_of(header[0], &frame) } else { judge_header(&header, &frame) };
    judge_segmentation(&frame, meta);
    judge_switch(&frame, meta, flags >> 4);
    if frame.len() <= MAX_FRAME {
        play_frame(&network, &frame, meta);
    }
}

/// What is decoded can be encoded, and speaks only of what the frame has.
fn judge_header(header: &[u8; vnet::HEADER], frame: &[u8]) -> FrameMeta {
    let Ok(meta) = vnet::decode(header, frame.len()) else { return FrameMeta::default() };
    let len = vnet::header_len(&meta, frame.len(), |at| frame.get(at).copied());
    assert!(usize::from(len) <= frame.len(), "headers of {len} bytes");
    let encoded = vnet::encode(&meta, len, 1);
    let again = encoded.first_chunk().map(|header| vnet::decode(header, frame.len()));
    assert_eq!(again, Some(Ok(meta)), "encoded as {encoded:?}");
    if let Checksum::Partial { start, offset } = meta.checksum {
        assert!(usize::from(start) + usize::from(offset) + 2 <= frame.len());
    }
    meta
}

/// A frame that is what it says can be given to every receiver; and what it is cut into is whole.
fn judge_segmentation(frame: &[u8], meta: FrameMeta) {
    let cut = frame.len() / 3;
    let chunks = [Chunk::from(&frame[..cut]), Chunk::from(&frame[cut..])];
    let whole = Frame::new(&chunks, meta);
    let checked = check(&whole);
    let mut scratch = Vec::new();
    for (offloads, _) in CARDS {
        let mut parts = Vec::new();
        let outcome = segment(&whole, &offloads, &mut scratch, &mut |part, meta| parts.push((part.to_vec(), meta)));
        if checked.is_ok() {
            assert_eq!(outcome, Ok(()), "it is in order, but not for {offloads:?}");
        }
        if outcome.is_err() {
            assert!(parts.is_empty(), "refused, and emitted all the same");
            continue;
        }
        assert!(!parts.is_empty() && parts.iter().all(|(_, meta)| offloads.accept(meta)));
        match meta.gso {
            Some(gso) if !offloads.accept(&meta) => judge_parts(frame, meta, gso, &parts),
            _ => {
                assert_eq!(parts.len(), 1);
                assert_eq!(parts[0].0.len(), frame.len());
            }
        }
    }
}

/// The segments of a frame carry its payload, in order and each with right lengths and checksums.
fn judge_parts(frame: &[u8], meta: FrameMeta, gso: Gso, parts: &[(Vec<u8>, FrameMeta)]) {
    let Checksum::Partial { start, .. } = meta.checksum else { panic!("cut without a transport header") };
    let transport = usize::from(start);
    let header = if gso.kind == GsoKind::Udp { 8 } else { usize::from(frame[transport + 12] >> 4) * 4 };
    let payload = transport + header;
    let size = usize::from(gso.size);
    let mut together = Vec::new();
    for (index, (part, _)) in parts.iter().enumerate() {
        let len = part.len() - payload;
        assert!(len <= size && (len == size || index + 1 == parts.len()), "segment {index} has {len} bytes");
        together.extend_from_slice(&part[payload..]);
        // Without VLAN tags and extension headers the whole can be checked by other code.
        let v4 = part[12..14] == [8, 0] && transport == 34;
        let v6 = part[12..14] == [0x86, 0xdd] && transport == 54;
        if v4 {
            assert_eq!(wire::checksum(&part[14..34]), 0, "the checksum of the IPv4 header of segment {index}");
            assert_eq!(part[16..18], u16::try_from(part.len() - 14).unwrap_or(0).to_be_bytes());
        }
        if v4 || v6 {
            let protocol = if gso.kind == GsoKind::Udp { 17 } else { 6 };
            let sum = wire::transport_checksum(address(part, v4, 0), address(part, v4, 1), protocol, &part[transport..]);
            assert_eq!(sum, 0, "the checksum of segment {index}");
        }
    }
    assert!(together == frame[payload..], "the segments do not make up the frame");
}

/// The source (0) or the destination (1) of an IP packet in a frame.
fn address(frame: &[u8], v4: bool, which: usize) -> IpAddr {
    if v4 {
        let at = 26 + which * 4;
        IpAddr::from(frame[at..at + 4].first_chunk::<4>().copied().unwrap_or_default())
    } else {
        let at = 22 + which * 16;
        IpAddr::from(frame[at..at + 16].first_chunk::<16>().copied().unwrap_or_default())
    }
}

/// Between guests, everybody gets only what they take; and every frame goes somewhere, or is counted.
fn judge_switch(frame: &[u8], meta: FrameMeta, cards: u8) {
    let mut switch = Switch::default();
    let cards = [CARDS[usize::from(cards & 3)], CARDS[usize::from(cards >> 2 & 3)]];
    let ports = [(Offloads::ALL, 65_520), cards[0], cards[1]]
        .map(|(offloads, mtu)| switch.add(halves(offloads, mtu)).expect("room for a port"));
    let gateway = MacAddr([0x52, 0x55, 10, 0, 2, 2]);
    let chunks = [Chunk::from(frame)];
    for from in [ports[0], ports[1], ports[0]] {
        let before = *switch.egress().counters();
        let verdict = switch.egress().forward(Instant::ZERO, from, &Frame::new(&chunks, meta), |mac| mac == gateway);
        let after = *switch.egress().counters();
        let to_gateway = frame.get(..6) == Some(&gateway.0[..]);
        assert!(frame.len() < ETHERNET_HEADER || !to_gateway || verdict == Forwarding::ToEngine, "{verdict:?}");
        let told = (after.forwarded - before.forwarded) + (after.full - before.full) + (after.too_long - before.too_long);
        let told = told + (after.malformed - before.malformed);
        let silent = matches!(verdict, Forwarding::ToEngine | Forwarding::Dropped);
        assert!(told > 0 || silent, "{verdict:?}, and nothing was counted");
    }
    switch.remove(ports[1]);
    assert!(switch.ingress(ports[1]).is_none());
}

fn halves(offloads: Offloads, mtu: u16) -> Halves {
    Halves { ingress: Box::new(Silent), egress: Box::new(Card { offloads, mtu, room: Vec::new() }) }
}

/// A guest that sends nothing.
#[derive(Debug)]
struct Silent;

impl Ingress for Silent {
    fn receive(&mut self, _budget: usize, _sink: &mut dyn FnMut(Frame<'_>)) -> io::Result<usize> {
        Ok(0)
    }

    fn poll_readable(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

/// A card that looks at what it is given.
#[derive(Debug)]
struct Card {
    offloads: Offloads,
    mtu: u16,
    room: Vec<u8>,
}

impl Egress for Card {
    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn send(&mut self, capacity: usize, fill: &mut dyn FnMut(&mut FrameMut<'_, '_>) -> Option<(usize, FrameMeta)>) -> Sent {
        if capacity > MAX_FRAME + 4 {
            return Sent::Declined;
        }
        let mut room = mem::take(&mut self.room);
        room.resize(capacity, 0);
        let mut chunks = [ChunkMut::from(&mut room[..capacity])];
        let filled = fill(&mut FrameMut::new(&mut chunks));
        self.room = room;
        let Some((len, meta)) = filled else { return Sent::Declined };
        assert!(len <= capacity && self.offloads.accept(&meta), "{len} bytes in {capacity}, {meta:?}");
        let longest = ETHERNET_HEADER + 4 + usize::from(self.mtu);
        assert!(meta.gso.is_some() || len <= longest, "a frame of {len} bytes on a link of {}", self.mtu);
        Sent::Yes
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn poll_writable(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

/// The offload state that a byte stands for: one that fits the frame, or one that does not.
pub(crate) fn meta_of(choice: u8, frame: &[u8]) -> FrameMeta {
    let start = match frame.get(12..14) {
        Some([0x86, 0xdd]) => 54,
        _ => 34,
    };
    let size = [1, 48, 1460, 65_535][usize::from(choice >> 6)];
    let gso = |kind| Some(Gso { kind, size, ecn: choice & 0x20 != 0 });
    let tcp = Checksum::Partial { start, offset: 16 };
    let udp = Checksum::Partial { start, offset: 6 };
    let (checksum, gso) = match choice & 15 {
        1 => (Checksum::Verified, None),
        2 => (tcp, None),
        3 => (udp, None),
        4 => (tcp, gso(if start == 34 { GsoKind::TcpV4 } else { GsoKind::TcpV6 })),
        5 => (udp, gso(GsoKind::Udp)),
        6 => (Checksum::Partial { start: u16::from(choice), offset: 0 }, None),
        7 => (Checksum::Partial { start: u16::MAX, offset: u16::MAX }, gso(GsoKind::TcpV4)),
        8 => (Checksum::Complete, gso(GsoKind::TcpV4)),
        9 => (Checksum::Verified, gso(GsoKind::Udp)),
        _ => (Checksum::Complete, None),
    };
    FrameMeta { checksum, gso }
}

/// Puts the checksums of an IP packet in a frame right, as far as its headers can be made out. Its lengths stay as they are.
pub(crate) fn mend(frame: &mut [u8]) {
    let v4 = match frame.get(12..15) {
        Some([8, 0, first]) if first >> 4 == 4 => true,
        Some([0x86, 0xdd, _]) => false,
        _ => return,
    };
    let header = if v4 { usize::from(frame[14] & 15) * 4 } else { 40 };
    let transport = ETHERNET_HEADER + header;
    if header < 20 || frame.len() < transport {
        return;
    }
    if v4 {
        frame[24..26].fill(0);
        let sum = wire::checksum(&frame[14..transport]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    let (protocol, said) = if v4 {
        (frame[23], usize::from(u16::from_be_bytes([frame[16], frame[17]])).saturating_sub(header))
    } else {
        (frame[20], usize::from(u16::from_be_bytes([frame[18], frame[19]])))
    };
    let end = frame.len().min(transport + said);
    let (source, destination) = (address(frame, v4, 0), address(frame, v4, 1));
    let mut body = &mut frame[transport..end];
    if protocol == 17 && body.len() >= 8 {
        let len = usize::from(u16::from_be_bytes([body[4], body[5]]));
        let len = len.clamp(8, body.len());
        body = &mut body[..len];
    }
    let at = match (protocol, v4) {
        (6, _) => 16,
        (17, _) => 6,
        (1, true) | (58, false) => 2,
        _ => return,
    };
    if body.len() < at + 2 {
        return;
    }
    if protocol == 1 {
        body[2..4].fill(0);
        let sum = wire::checksum(body);
        body[2..4].copy_from_slice(&sum.to_be_bytes());
    } else {
        wire::set_checksum(source, destination, protocol, body, at);
    }
}

/// A frame as it came from somewhere, with its offload state as virtio-net tells it.
pub(crate) fn frame_seed(frame: &[u8], meta: &FrameMeta) -> Vec<u8> {
    let header = vnet::encode(meta, 0, 1);
    Draft::default().bytes(&[0]).bytes(&header[..vnet::HEADER]).bytes(&[0, 0, 0]).bytes(frame).finish()
}

/// Frames of every protocol.
pub fn seeds() -> Vec<Vec<u8>> {
    use netstack::sim::wire::{Arp, Datagram, Icmp, Segment};
    let station = MacAddr([0x52, 0x54, 0, 0, 0, 15]);
    let gateway = MacAddr([0x52, 0x55, 10, 0, 2, 2]);
    let other = MacAddr([0x52, 0x54, 0, 0, 0, 16]);
    let mut seeds = Vec::new();
    let plain = FrameMeta::default();
    for (source, destination) in
        [("10.0.2.15", "198.51.100.7"), ("fec0::15", "2001:db8:1::7"), ("10.0.2.15", "10.0.2.3"), ("fec0::15", "fec0::2")]
    {
        let (source, destination): (IpAddr, IpAddr) =
            (source.parse().expect("an address"), destination.parse().expect("an address"));
        let at = |ip, port| std::net::SocketAddr::new(ip, port);
        let v4 = source.is_ipv4();
        let start = if v4 { 34 } else { 54 };
        let syn = Segment {
            source: at(source, 1000),
            destination: at(destination, 80),
            flags: wire::SYN,
            seq: 1,
            ack: 0,
            window: 65535,
            options: vec![2, 4, 5, 0xb4, 1, 3, 3, 7],
            payload: Vec::new(),
        };
        let long = Segment {
            flags: wire::ACK,
            ack: 7,
            options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
            payload: vec![0x5a; 4000],
            ..syn.clone()
        };
        let datagram = Datagram { source: at(source, 4000), destination: at(destination, 53), payload: vec![1; 3000] };
        let echo = Icmp { source, destination, kind: if v4 { 8 } else { 128 }, code: 0, rest: [0, 1, 0, 1], payload: vec![7; 56] };
        let neighbour =
            Icmp { source, destination, kind: if v4 { 3 } else { 135 }, code: 0, rest: [0; 4], payload: vec![0xfe; 24] };
        let tso = Gso { kind: if v4 { GsoKind::TcpV4 } else { GsoKind::TcpV6 }, size: 1460, ecn: false };
        let tso = FrameMeta { checksum: Checksum::Partial { start, offset: 16 }, gso: Some(tso) };
        let uso = Gso { kind: GsoKind::Udp, size: 1000, ecn: false };
        let uso = FrameMeta { checksum: Checksum::Partial { start, offset: 6 }, gso: Some(uso) };
        for card in [gateway, other, MacAddr::BROADCAST] {
            for (packet, meta) in [
                (syn.packet(), plain),
                (long.packet(), tso),
                (datagram.packet(), uso),
                (datagram.packet(), plain),
                (echo.packet(), plain),
                (neighbour.packet(), plain),
            ] {
                seeds.push(frame_seed(&wire::ip_frame(station, card, &packet), &meta));
            }
        }
        // A VLAN tag, and for IPv6 an extension header.
        let tagged = [&[0x81, 0, 0, 5][..], if v4 { &[8, 0] } else { &[0x86, 0xdd] }, &long.packet()].concat();
        let tagged = [&gateway.0[..], &station.0, &tagged].concat();
        let meta = FrameMeta { checksum: Checksum::Partial { start: start + 4, offset: 16 }, ..tso };
        seeds.push(frame_seed(&tagged, &meta));
    }
    let arp = Arp {
        operation: 1,
        sender_mac: station,
        sender: [10, 0, 2, 15].into(),
        target_mac: MacAddr([0; 6]),
        target: [10, 0, 2, 2].into(),
    };
    seeds.push(frame_seed(&wire::ethernet(station, MacAddr::BROADCAST, wire::ETHERTYPE_ARP, &arp.bytes()), &plain));
    seeds
}
