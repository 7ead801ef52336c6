//! What can happen: one byte says what, and those after it how.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netstack::addr::MacAddr;
use netstack::frame::{Checksum, FrameMeta, Gso, GsoKind};
use netstack::host::sim::{ConnectionId, HOST_V4, HOST_V6, Operation, Program, Server};
use netstack::port::PortId;
use netstack::sim::wire::{self, ACK, Arp, Datagram, FIN, Icmp, RST, SYN, Segment};
use netstack::time::Duration;
use netstack::wire::icmp_error::Problem;

use super::hand::Hand;
use super::scene::{FORWARDED, GATEWAY, Guest, PORTS, Scene, destinations, hosts};
use crate::frame::{mend, meta_of};
use crate::script::{Draft, Script};

pub(super) const RAW: u8 = 0;
const AGAIN: u8 = 1;
const OPEN: u8 = 2;
const SEGMENT: u8 = 3;
const SEND: u8 = 4;
const ACKNOWLEDGE: u8 = 5;
const SUPER_SEGMENT: u8 = 6;
const DATAGRAM: u8 = 7;
const ECHO: u8 = 8;
const ARP: u8 = 9;
const NEIGHBOUR: u8 = 10;
const DHCP: u8 = 11;
const FRAGMENTS: u8 = 12;
const FAULT: u8 = 13;
const PEER: u8 = 14;
pub(super) const TIME: u8 = 15;
const CARD: u8 = 16;
const DIAL: u8 = 17;
const INJECT: u8 = 18;
const DNS: u8 = 19;
const PLUG: u8 = 20;
const SOCKETS: u8 = 21;
const ERROR: u8 = 22;
const KINDS: u8 = 23;

/// With this bit, what follows from the act waits for the next one, as frames of one batch do.
const BATCH: u8 = 0x80;

/// Plays the next act.
pub(super) fn play(scene: &mut Scene, script: &mut Script<'_>) {
    let act = script.byte();
    match act % KINDS {
        RAW => raw(scene, script),
        AGAIN => again(scene, script),
        OPEN => open(scene, script),
        SEGMENT => segment(scene, script),
        SEND => send(scene, script),
        ACKNOWLEDGE => acknowledge(scene, script),
        SUPER_SEGMENT => super_segment(scene, script),
        DATAGRAM => datagram(scene, script),
        ECHO => echo(scene, script),
        ARP => arp(scene, script),
        NEIGHBOUR => neighbour(scene, script),
        DHCP => dhcp(scene, script),
        FRAGMENTS => fragments(scene, script),
        FAULT => fault(scene, script),
        PEER => peer(scene, script),
        TIME => scene.pass(script.choose(&TIMES)),
        CARD => card(scene, script),
        DIAL => dial(scene, script),
        INJECT => inject(scene, script),
        DNS => scene.answer_dns(script.piece()),
        PLUG => scene.replug(PORTS[usize::from(script.byte() & 1)]),
        ERROR => network_error(scene, script),
        _ => scene.host.set_max_sockets(usize::from(script.byte())),
    }
    if act & BATCH == 0 {
        scene.settle();
    }
}

const TIMES: [Duration; 8] = [
    Duration::from_micros(200),
    Duration::from_millis(1),
    Duration::from_millis(50),
    Duration::from_millis(300),
    Duration::from_secs(2),
    Duration::from_secs(20),
    Duration::from_secs(80),
    Duration::from_secs(700),
];

const LENGTHS: [usize; 8] = [0, 1, 100, 536, 1400, 1460, 8960, 20_000];

/// Any bytes, with any offload state. With the lowest bit of the first byte their checksums are put right.
fn raw(scene: &mut Scene, script: &mut Script<'_>) {
    let (flags, meta) = (script.byte(), script.byte());
    let mut frame = script.piece().to_vec();
    if flags & 1 != 0 {
        mend(&mut frame);
    }
    scene.spoil();
    let meta = meta_of(meta, &frame);
    scene.input(PORTS[usize::from(flags >> 7)], &frame, meta);
}

/// One of the last frames once more, perhaps damaged, perhaps so that no checksum tells.
fn again(scene: &mut Scene, script: &mut Script<'_>) {
    let (which, flags, at, change) = (script.byte(), script.byte(), script.half(), script.byte());
    let Some((port, mut frame, meta)) = scene.sent.get(usize::from(which % 8)).cloned() else { return };
    if change != 0 && !frame.is_empty() {
        let at = usize::from(at) % frame.len();
        frame[at] ^= change;
        if flags & 1 != 0 {
            mend(&mut frame);
        }
        if flags & 2 != 0 {
            frame.truncate(at);
        }
        scene.spoil();
    }
    scene.input(port, &frame, meta);
}

fn some_destination(script: &mut Script<'_>) -> IpAddr {
    script.choose(&destinations())
}

/// A SYN to a server.
fn open(scene: &mut Scene, script: &mut Script<'_>) {
    let (flags, ip, port) = (script.byte(), some_destination(script), script.byte());
    let isn = script.choose(&[1000, 0, u32::MAX - 5, 0x7fff_fff0]);
    let guest = usize::from(flags & 1);
    let remote = SocketAddr::new(ip, if port == 53 { 53 } else { 80 + u16::from(port % 13) });
    // Sometimes the addresses of a connection that there is, or was.
    let at = scene.hands.iter().position(|hand| hand.remote == remote && hand.guest == guest);
    let at = match at.filter(|_| flags & 2 != 0) {
        Some(at) => {
            scene.hands[at].reopen(isn);
            at
        }
        None => {
            scene.next_port += 1;
            let local = SocketAddr::new(Guest::of(guest).like(ip), scene.next_port);
            scene.add_hand(Hand::new(guest, local, remote, isn))
        }
    };
    let len = if flags & 4 != 0 { 10 } else { 0 };
    let mut syn = scene.hands[at].segment(SYN, 0, 0, script.choose(&[65535, 1000, 0, 1]), len);
    syn.options = match flags >> 3 & 7 {
        0 => vec![2, 4, 0x05, 0xb4, 1, 3, 3, 7],
        1 => vec![2, 4, 0, 1],
        2 => vec![2, 4, 0xff, 0xff, 3, 3, 255, 0],
        3 => vec![3, 3, 14, 2, 4, 2, 0, 0],
        4 => vec![2, 0, 3, 3],
        5 => vec![4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0],
        6 => vec![1; 40],
        _ => Vec::new(),
    };
    scene.hands[at].advance(&syn);
    let before = scene.host.last_connection();
    give(scene, guest, &syn);
    let after = scene.host.last_connection();
    if after != before {
        scene.hands[at].connection = after;
    }
}

/// The hand that the script means.
fn hand(scene: &Scene, script: &mut Script<'_>) -> Option<usize> {
    let which = usize::from(script.byte());
    scene.hands.len().checked_sub(1).map(|last| last - which % (last + 1))
}

fn give(scene: &mut Scene, guest: usize, segment: &Segment) {
    scene.input_packet(guest, &segment.packet(), FrameMeta::default());
}

/// A segment whose numbers are right, or nearly.
fn segment(scene: &mut Scene, script: &mut Script<'_>) {
    let Some(at) = hand(scene, script) else { return };
    let flags = script.byte() & 0x3f;
    let shift = |choice: u8| match choice {
        0..128 => 0,
        128..192 => u32::from(choice - 128).wrapping_neg(),
        192..240 => u32::from(choice - 192),
        _ => u32::from(choice) << 24,
    };
    let (by, ack_by, window, len) = (shift(script.byte()), shift(script.byte()), script.half(), script.choose(&LENGTHS));
    let hand = &mut scene.hands[at];
    let segment = hand.segment(flags, by, ack_by, window, len.min(1460));
    if by == 0 {
        hand.advance(&segment);
    }
    let guest = hand.guest;
    give(scene, guest, &segment);
}

/// Data in order, and as many segments of it as are asked for; or once more from where the other end has acknowledged it.
fn send(scene: &mut Scene, script: &mut Script<'_>) {
    let Some(at) = hand(scene, script) else { return };
    let (len, count) = (script.choose(&LENGTHS).min(1400), script.byte());
    if count & 0x80 != 0 {
        scene.hands[at].go_back();
    }
    for _ in 0..=count % 16 {
        let hand = &mut scene.hands[at];
        let segment = hand.segment(ACK, 0, 0, 0xffff, len);
        hand.advance(&segment);
        let guest = hand.guest;
        give(scene, guest, &segment);
    }
}

/// Acknowledges what has come.
fn acknowledge(scene: &mut Scene, script: &mut Script<'_>) {
    let Some(at) = hand(scene, script) else { return };
    let (window, times) = (script.half(), script.byte() % 8);
    for _ in 0..=times {
        let hand = &mut scene.hands[at];
        let segment = hand.segment(ACK, 0, 0, window, 0);
        let guest = hand.guest;
        give(scene, guest, &segment);
    }
}

/// Data that stands for many segments.
fn super_segment(scene: &mut Scene, script: &mut Script<'_>) {
    let Some(at) = hand(scene, script) else { return };
    let (len, size, flags) = (usize::from(script.half()).min(65_000), script.half(), script.byte());
    let hand = &mut scene.hands[at];
    let segment = hand.segment(ACK | flags & FIN, 0, 0, 0xffff, len);
    hand.advance(&segment);
    let kind = if segment.source.is_ipv4() { GsoKind::TcpV4 } else { GsoKind::TcpV6 };
    let guest = hand.guest;
    let start = 14 + if segment.source.is_ipv4() { 20 } else { 40 };
    let gso = Some(Gso { kind, size: size.max(1), ecn: flags & 0x40 != 0 });
    let meta = FrameMeta { checksum: Checksum::Partial { start, offset: 16 }, gso };
    scene.input_packet(guest, &segment.packet(), meta);
}

/// A datagram, or one that stands for many.
fn datagram(scene: &mut Scene, script: &mut Script<'_>) {
    let (flags, ip, port) = (script.byte(), some_destination(script), script.byte());
    let len = script.choose(&LENGTHS);
    let guest = usize::from(flags & 1);
    let ours = 4000 + u16::from(flags >> 4);
    let destination = SocketAddr::new(ip, [7, 9, 53, 67, 0][usize::from(port % 5)]);
    let source = SocketAddr::new(Guest::of(guest).like(ip), if flags & 2 != 0 { FORWARDED.1 } else { ours });
    let segmented = flags & 4 != 0;
    let len = if segmented { len } else { len.min(1472) };
    let packet = Datagram { source, destination, payload: vec![flags; len] }.packet();
    let packet = if flags & 8 != 0 { wire::with_hop_limit(packet, flags >> 4 & 7) } else { packet };
    let start = 14 + if ip.is_ipv4() { 20 } else { 40 };
    let gso = segmented.then(|| Gso { kind: GsoKind::Udp, size: script.half().max(1), ecn: false });
    let checksum = if segmented { Checksum::Partial { start, offset: 6 } } else { Checksum::Complete };
    scene.input_packet(guest, &packet, FrameMeta { checksum, gso });
}

/// An ICMP message of any kind.
fn echo(scene: &mut Scene, script: &mut Script<'_>) {
    let (flags, destination, kind) = (script.byte(), some_destination(script), script.byte());
    let guest = usize::from(flags & 1);
    let usual = if destination.is_ipv4() { 8 } else { 128 };
    let icmp = Icmp {
        source: Guest::of(guest).like(destination),
        destination,
        kind: if kind < 128 { usual } else { kind.wrapping_add(4) },
        code: 0,
        rest: [0, flags, 0, kind],
        payload: vec![kind; script.choose(&LENGTHS).min(1400)],
    };
    let packet = if flags & 8 != 0 { wire::with_hop_limit(icmp.packet(), flags >> 4 & 7) } else { icmp.packet() };
    scene.input_packet(guest, &packet, FrameMeta::default());
}

fn arp(scene: &mut Scene, script: &mut Script<'_>) {
    let (flags, sender, target) = (script.byte(), script.byte(), script.byte());
    let guest = usize::from(flags & 1);
    let mac = if flags & 2 != 0 { MacAddr([0x52, 0x54, 0, 0, 1, sender]) } else { Guest::of(guest).mac };
    let address = |last: u8| if last == 0 { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::new(10, 0, 2, last) };
    let arp = Arp {
        operation: 1 + u16::from(flags >> 2 & 3),
        sender_mac: mac,
        sender: address(sender),
        target_mac: if flags & 16 != 0 { GATEWAY } else { MacAddr([0; 6]) },
        target: address(target),
    };
    let frame = wire::ethernet(mac, MacAddr::BROADCAST, wire::ETHERTYPE_ARP, &arp.bytes());
    scene.input(PORTS[guest], &frame, FrameMeta::default());
}

/// A message of neighbour discovery, with options as the script has them.
fn neighbour(scene: &mut Scene, script: &mut Script<'_>) {
    let (flags, target) = (script.byte(), script.byte());
    let guest = usize::from(flags & 1);
    let addresses = Guest::of(guest);
    let v6 = |last: u8| match last {
        0 => Ipv6Addr::UNSPECIFIED,
        128.. => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, u16::from(last - 128)),
        last => Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, u16::from(last)),
    };
    let kind = 133 + flags / 2 % 5;
    let mut payload = if kind == 133 { Vec::new() } else { v6(target).octets().to_vec() };
    if flags & 0x10 != 0 {
        payload.extend(script.piece());
    } else {
        payload.extend([if kind == 136 { 2 } else { 1 }, 1]);
        payload.extend(addresses.mac.0);
    }
    let source = if flags & 0x20 != 0 { Ipv6Addr::UNSPECIFIED } else { addresses.v6 };
    let destination = if kind == 133 || flags & 0x40 != 0 { v6(0x82) } else { Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2) };
    let icmp = Icmp { source: source.into(), destination: destination.into(), kind, code: 0, rest: [0x60, 0, 0, 0], payload };
    let group = MacAddr([0x33, 0x33, 0, 0, 0, 2]);
    let card = if destination.is_multicast() { group } else { MacAddr([0x52, 0x56, 0, 0, 0, 2]) };
    scene.input(PORTS[guest], &wire::ip_frame(addresses.mac, card, &icmp.packet()), FrameMeta::default());
}

/// A message to the DHCP server, from a guest that has no address or that has one.
fn dhcp(scene: &mut Scene, script: &mut Script<'_>) {
    let (flags, kind) = (script.byte(), script.byte());
    let guest = usize::from(flags & 1);
    let addresses = Guest::of(guest);
    let mut payload = vec![1, 1, 6, 0, 0, 0, 0, flags, 0, 0, flags & 0x80, 0];
    payload.extend(if flags & 2 != 0 { addresses.v4.octets() } else { [0; 4] });
    payload.resize(28, 0);
    payload.extend(addresses.mac.0);
    payload.resize(236, 0);
    payload.extend([99, 130, 83, 99, 53, 1, kind]);
    if flags & 4 != 0 {
        payload.extend([50, 4]);
        payload.extend(addresses.v4.octets());
    }
    payload.extend(script.piece());
    payload.push(255);
    let source = if flags & 2 != 0 { addresses.v4 } else { Ipv4Addr::UNSPECIFIED };
    let destination = if flags & 8 != 0 { Ipv4Addr::new(10, 0, 2, 2) } else { Ipv4Addr::BROADCAST };
    let packet =
        Datagram { source: SocketAddr::new(source.into(), 68), destination: SocketAddr::new(destination.into(), 67), payload }
            .packet();
    let card = if flags & 8 != 0 { GATEWAY } else { MacAddr::BROADCAST };
    scene.input(PORTS[guest], &wire::ip_frame(addresses.mac, card, &packet), FrameMeta::default());
}

/// The last packet in pieces, which may overlap, be missing, or come in another order.
fn fragments(scene: &mut Scene, script: &mut Script<'_>) {
    let (flags, unit) = (script.byte(), usize::from(script.byte() % 64 + 1) * 8);
    let Some((port, frame, _)) = scene.sent.front().cloned() else { return };
    let header = match frame.get(12..15) {
        Some([0x08, 0, 0x45]) => 34,
        Some([0x86, 0xdd, _]) => 54,
        _ => return,
    };
    let Some((headers, payload)) = frame.split_at_checked(header) else { return };
    let next = headers[if header == 34 { 23 } else { 20 }];
    let count = payload.len().div_ceil(unit).clamp(1, 16);
    let mut pieces: Vec<usize> = (0..count).collect();
    if flags & 1 != 0 {
        pieces.reverse();
    }
    if flags & 2 != 0 {
        pieces.push(usize::from(flags >> 4));
    }
    for piece in pieces {
        let overlap = if flags & 4 != 0 { 8 } else { 0 };
        let from = (piece * unit).min(payload.len());
        let to = (from + unit + overlap).min(payload.len());
        let more = u16::from(to < payload.len() && piece + 1 < count);
        let at = u16::try_from(from / 8).unwrap_or(u16::MAX);
        let mut fragment = headers.to_vec();
        if header == 34 {
            fragment[20..22].copy_from_slice(&(more << 13 | at).to_be_bytes());
            fragment[18..20].copy_from_slice(&[0x12, flags]);
        } else {
            fragment[20] = 44;
            fragment.extend([next, 0]);
            fragment.extend((at << 3 | more).to_be_bytes());
            fragment.extend([0, 0, 0x12, flags]);
        }
        fragment.extend(&payload[from..to]);
        let len = u16::try_from(fragment.len() - if header == 34 { 14 } else { 54 }).unwrap_or(u16::MAX);
        let field = if header == 34 { 16..18 } else { 18..20 };
        fragment[field].copy_from_slice(&len.to_be_bytes());
        if header == 34 {
            fragment[24..26].fill(0);
            let sum = wire::checksum(&fragment[14..34]);
            fragment[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        scene.spoil();
        scene.input(port, &fragment, FrameMeta::default());
    }
}

/// Calls of the host that fail.
fn fault(scene: &mut Scene, script: &mut Script<'_>) {
    use Operation::{Accept, BindDatagram, Connect, ConnectLocal, OpenPing, OpenService, Peek, ReceiveFrom, Send, SendTo};
    let operation =
        script.choose(&[Connect, OpenService, Accept, Send, Peek, BindDatagram, SendTo, ReceiveFrom, OpenPing, ConnectLocal]);
    // EAGAIN, EMFILE, ECONNREFUSED, ENETUNREACH, ENOBUFS, ECONNRESET, EPIPE, EADDRNOTAVAIL, EACCES, EINTR, EMSGSIZE, EHOSTUNREACH.
    let errno = script.choose(&[11, 24, 111, 101, 105, 104, 32, 99, 13, 4, 90, 113]);
    // Nothing that may block is said to without an event that ends it.
    // A local socket whose backlog is full is tried again.
    let errno = if errno == 11 && !matches!(operation, Accept | ReceiveFrom | ConnectLocal) { 105 } else { errno };
    scene.host.fail(operation, errno, usize::from(script.byte() % 4));
}

/// The host's side of a connection does something.
fn peer(scene: &mut Scene, script: &mut Script<'_>) {
    let (which, act, len) = (usize::from(script.byte()), script.byte(), script.choose(&LENGTHS));
    let Some(ConnectionId(last)) = scene.host.last_connection() else { return };
    let id = ConnectionId(last - which % (last + 1));
    let mine = scene.hands.iter().position(|hand| hand.connection == Some(id));
    let connection = scene.host.connection_mut(id);
    match act % 12 {
        0 if !connection.has_finished() => {
            // It says something that it has not been asked.
            connection.push(&vec![act; len]);
            if let Some(at) = mine {
                scene.hands[at].spoilt = true;
            }
        }
        1 => connection.read(len),
        2 => connection.finish(),
        3 => connection.close(),
        4 => connection.reset(),
        5 => connection.fail(110),
        6 => connection.set_send_queue(len),
        7 => connection.take_at_most(Some(len.clamp(1, 3))),
        8 => connection.take_at_most(Some(0)),
        9 => connection.take_at_most(None),
        10 => connection.set_pace(Some((len.max(1), Duration::from_millis(50)))),
        _ => connection.run(Program::Sink),
    }
}

/// A guest does not take frames, or does again.
fn card(scene: &mut Scene, script: &mut Script<'_>) {
    let (which, act) = (PortId(u16::from(script.byte() & 1)), script.byte());
    let Some(card) = scene.link.cards.get_mut(&which) else { return };
    match act % 4 {
        0 => card.stalled = true,
        1 => card.stalled = false,
        2 => card.capacity = usize::from(act >> 2) + 1,
        _ => card.capacity = 256,
    }
}

/// A client connects to the port that leads to guest 0.
fn dial(scene: &mut Scene, script: &mut Script<'_>) {
    let (flags, program) = (script.byte(), script.byte());
    let to_v4 = flags & 1 == 0;
    let from = match (to_v4, flags & 2 != 0) {
        (true, true) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        (true, false) => IpAddr::V4(Ipv4Addr::new(203, 0, 113, 5)),
        (false, true) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        (false, false) => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 5)),
    };
    scene.next_port += 1;
    let from = SocketAddr::new(from, scene.next_port);
    let to = if to_v4 { IpAddr::V4(HOST_V4) } else { IpAddr::V6(HOST_V6) };
    let to = SocketAddr::new(if from.ip().is_loopback() { from.ip() } else { to }, FORWARDED.0);
    let program = [Program::Echo, Program::Source(50_000), Program::Idle, Program::Sink][usize::from(program % 4)];
    if let Ok(id) = scene.host.dial(to, from, &Server::new(program)) {
        scene.clients.push((from, id));
    }
}

/// A datagram comes to a socket of the host: to the forward, or to the socket from which the last one went out.
fn inject(scene: &mut Scene, script: &mut Script<'_>) {
    let (flags, len, size) = (script.byte(), script.choose(&LENGTHS), script.half());
    let last = scene.host.sent_datagrams().last().map(|sent| (sent.from, sent.to));
    let stranger = |v4: bool| if v4 { hosts()[0] } else { hosts()[1] };
    let (to, from) = match last.filter(|_| flags & 1 != 0) {
        Some((from, to)) if flags & 2 != 0 => (from, to),
        Some((from, to)) => (from, SocketAddr::new(stranger(to.is_ipv4()), 999)),
        None => {
            let v4 = flags & 4 != 0;
            let any: IpAddr = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            (SocketAddr::new(any, FORWARDED.0), SocketAddr::new(stranger(v4), 1000 + u16::from(flags >> 4)))
        }
    };
    let data = vec![flags; len];
    if flags & 8 != 0 && size > 0 && usize::from(size) < len {
        scene.host.inject_udp_segments(to, from, &data, size);
    } else {
        scene.host.inject_udp(to, from, &data);
    }
}

/// Somebody tells of an error about something that was sent, or that nobody has sent.
fn network_error(scene: &mut Scene, script: &mut Script<'_>) {
    let (flags, kind, code, word) = (script.byte(), script.byte(), script.byte(), script.half());
    let payload = script.piece();
    let datagram = scene.host.sent_datagrams().last().map(|sent| (sent.from, sent.to));
    let echo = scene.host.sent_echoes().last().map(|sent| (sent.from(), SocketAddr::new(sent.to, 0)));
    let Some((socket, to)) = (if flags & 1 != 0 { echo } else { datagram }) else { return };
    let problem = if to.is_ipv4() { Problem::of_v4(kind, code, word.into()) } else { Problem::of_v6(kind, code, word.into()) };
    let Some(problem) = problem else { return };
    let own = if to.is_ipv4() { HOST_V4.into() } else { HOST_V6.into() };
    let like = usize::from(to.is_ipv6());
    let teller = [own, hosts()[like], hosts()[2 + like], to.ip()][usize::from(flags >> 1 & 3)];
    let to = if flags & 8 != 0 { SocketAddr::new(hosts()[2 + like], to.port()) } else { to };
    scene.host.inject_error(socket, problem, teller, to, payload);
}

/// Conversations of every kind.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let scene = |flags: u8, sizes: u8, cards: u8, ending: u8| Draft::default().bytes(&[flags, sizes, cards, ending]);
    // Destination 0 is the server's IPv4 address and 1 its IPv6 address; ports count from 80.
    let open = |draft: Draft, ip: u8, port: u8| draft.bytes(&[OPEN, 0, ip, port, 0, 0]);
    let established = |draft: Draft, ip: u8, port: u8| open(draft, ip, port).bytes(&[ACKNOWLEDGE, 0, 0xff, 0xff, 0]);
    let fin = [SEGMENT, 0, FIN | ACK, 0, 0, 0xff, 0xff, 0];
    let rst = [SEGMENT, 0, RST | ACK, 0, 0, 0xff, 0xff, 0];
    let ack = [ACKNOWLEDGE, 0, 0xff, 0xff, 0];
    let mut seeds = Vec::new();
    for (flags, sizes, cards) in [(0, 0, 0), (0, 1, 5), (8, 2, 1), (4, 3, 2)] {
        for ip in [0, 1, 2, 3] {
            let begin = || established(scene(flags, sizes, cards, ip & 1), ip, 0);
            // Echo: data there and back, and a close from the guest.
            seeds.push(begin().bytes(&[SEND, 0, 4, 3]).bytes(&ack).bytes(&ack).bytes(&fin).bytes(&ack).bytes(&[TIME, 4]).finish());
            // A download with acknowledgements, a stalled card, a lost segment and a time-out.
            let download = established(scene(flags, sizes, cards, 0), ip, 2).bytes(&[TIME, 1]).bytes(&ack).bytes(&ack);
            let stalled = download.bytes(&[CARD, 0, 0]).bytes(&ack).bytes(&[TIME, 3, CARD, 0, 1, TIME, 4]).bytes(&ack);
            seeds.push(stalled.bytes(&[ACKNOWLEDGE, 0, 0, 0, 3, TIME, 5]).bytes(&ack).bytes(&rst).finish());
            // An upload to a slow reader, out of order, with a super-segment.
            let upload = established(scene(flags, sizes, cards, 1), ip, 8).bytes(&[SEND, 0, 4, 15, TIME, 2]);
            let late = upload.bytes(&[SEGMENT, 0, ACK, 200, 0, 0xff, 0xff, 4]).bytes(&[SUPER_SEGMENT, 0, 0x40, 0x9c, 0xb4, 5, 0]);
            let again = (0..4).fold(late, |draft, _| draft.bytes(&[TIME, 3, SEND, 0, 4, 0x81, SEND, 0, 4, 0]));
            seeds.push(again.bytes(&[TIME, 4]).bytes(&fin).bytes(&[TIME, 5]).finish());
            // Refused, silent, unreachable, closing and resetting peers.
            let peers = [3, 4, 5, 6, 7, 9, 10, 11].iter().fold(scene(flags, sizes, cards, 0), |draft, port| {
                established(draft, ip, *port).bytes(&[SEND, 0, 3, 0]).bytes(&[TIME, 4])
            });
            seeds.push(
                peers.bytes(&[PEER, 0, 0, 4]).bytes(&ack).bytes(&[PEER, 0, 2, 0]).bytes(&ack).bytes(&[PEER, 1, 4, 0]).finish(),
            );
        }
        let guest = scene(flags, sizes, cards, 0)
            .bytes(&[DHCP, 0, 1, 0, 0, DHCP, 4, 3, 0, 0, ARP, 0, 15, 2, NEIGHBOUR, 0, 0, NEIGHBOUR, 4, 2]);
        let datagrams =
            [0, 1, 2, 3, 4].iter().fold(guest, |draft, ip| draft.bytes(&[DATAGRAM, 0, *ip, 0, 2, DATAGRAM, 0x10, *ip, 2, 3]));
        let segmented = datagrams.bytes(&[DATAGRAM, 4, 0, 0, 7, 0xe8, 3]).bytes(&[INJECT, 11, 6, 0xe8, 3, INJECT, 1, 2, 0, 0]);
        seeds.push(
            segmented.bytes(&[DNS]).piece(b"an answer").bytes(&[ECHO, 0, 2, 0, 2, ECHO, 0, 3, 0, 2, FRAGMENTS, 0, 3]).finish(),
        );
        // Pings of the world, with many hops and with few, and errors about them.
        let pings = [0, 1].iter().fold(scene(flags, sizes, cards, 0), |draft, ip| {
            [0, 0x18, 0x28, 0x38, 0x48].iter().fold(draft, |draft, hops| {
                draft.bytes(&[ECHO, *hops, *ip, 0, 2, DATAGRAM, *hops, *ip, 1, 2]).bytes(&[ERROR, 1, 3, 3, 0, 0]).piece(b"quoted")
            })
        });
        seeds.push(pings.bytes(&[ERROR, 2, 11, 0, 0, 0]).piece(b"").bytes(&[FAULT, 8, 8, 1, ECHO, 1, 0, 0, 2, TIME, 6]).finish());
        let inbound =
            scene(flags, sizes, cards, 1).bytes(&[ARP, 4, 15, 2, DIAL, 0, 1]).bytes(&[SEGMENT, 0, SYN | ACK, 0, 0, 0xff, 0xff, 0]);
        seeds.push(inbound.bytes(&ack).bytes(&ack).bytes(&fin).bytes(&[DIAL, 2, 0, DIAL, 1, 0, DIAL, 3, 2, TIME, 6]).finish());
        let faults = (0..9).fold(scene(flags, sizes, cards, 0), |draft, operation| {
            established(draft.bytes(&[FAULT, operation, 4, 1]), 0, 0).bytes(&[SEND, 0, 2, 1, DATAGRAM, 0, 0, 0, 1])
        });
        seeds.push(faults.bytes(&[SOCKETS, 2, PLUG, 1, AGAIN, 0, 1, 20, 0, 4, AGAIN, 1, 0, 0, 0, 0, PLUG, 1, PLUG, 0]).finish());
    }
    seeds
}
