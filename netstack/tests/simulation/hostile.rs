//! What no decent guest sends: it is counted, it harms nobody, and the next good frame is served.

use std::net::{IpAddr, SocketAddr};

use netstack::frame::{Checksum, FrameMeta, Gso, GsoKind};
use netstack::host::sim::{ConnectionId, Program, Server};
use netstack::time::Duration;

use crate::SERVERS;
use crate::kit::hand::Hand;
use crate::kit::random::Random;
use crate::kit::wire::{self, ACK, Datagram, SYN, Segment};
use crate::kit::world::{GATEWAY, World};

const PORT: u16 = 50_000;
const FIRST: ConnectionId = ConnectionId(0);

/// A world with a connection, and a good data segment of it as a frame.
fn scene(server: SocketAddr) -> (World, Hand, Vec<u8>) {
    let mut world = World::by_hand();
    world.host.serve(server, Server::new(Program::Sink));
    let hand = Hand::open(&mut world, PORT, server);
    let frame = wire::ip_frame(world.station().mac, GATEWAY, &hand.data_at(hand.seq, b"payload").packet());
    (world, hand, frame)
}

fn transport(server: SocketAddr) -> usize {
    14 + if server.is_ipv4() { 20 } else { 40 }
}

/// Puts right the checksum of a TCP frame after something else was changed.
fn seal(server: SocketAddr, hand: &Hand, frame: &mut [u8]) {
    if server.is_ipv4() {
        frame[24..26].fill(0);
        let sum = wire::checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    wire::set_checksum(hand.local.ip(), hand.remote.ip(), wire::PROTOCOL_TCP, &mut frame[transport(server)..], 16);
}

#[test]
fn a_wrong_checksum_is_dropped() {
    for server in SERVERS {
        let (mut world, _, frame) = scene(server);
        let places = [transport(server) + 17, frame.len() - 1, 14 + 15];
        for place in places {
            let mut bad = frame.clone();
            bad[place] ^= 0x10;
            world.give_frame(&bad);
        }
        assert_eq!(world.counters().drop_checksum, 3);
        assert_eq!((world.host.connection(FIRST).received_len(), world.take()), (0, vec![]));
        world.give_frame(&frame);
        assert_eq!(world.host.connection(FIRST).received(), b"payload");
    }
}

#[test]
fn a_checksum_that_the_card_vouches_for_or_leaves_to_us_is_not_looked_at() {
    for server in SERVERS {
        let (mut world, hand, mut frame) = scene(server);
        let start = transport(server);
        let pseudo = wire::pseudo_header(hand.local.ip(), hand.remote.ip(), wire::PROTOCOL_TCP, frame.len() - start);
        frame[start + 16..start + 18].copy_from_slice(&wire::fold(&pseudo).to_be_bytes());
        let checksum = Checksum::Partial { start: u16::try_from(start).unwrap(), offset: 16 };
        world.give_frame_with(&frame, FrameMeta { checksum, gso: None });
        assert_eq!(world.host.connection(FIRST).received(), b"payload");
        let mut next = wire::ip_frame(world.station().mac, GATEWAY, &hand.data_at(hand.seq + 7, b" more").packet());
        next[start + 16] ^= 0xff;
        world.give_frame_with(&next, FrameMeta { checksum: Checksum::Verified, gso: None });
        assert_eq!(world.host.connection(FIRST).received(), b"payload more");
    }
}

#[test]
fn a_frame_cut_short_anywhere_is_harmless() {
    for server in SERVERS {
        let (mut world, _, frame) = scene(server);
        for len in 0..frame.len() {
            world.give_frame(&frame[..len]);
        }
        assert_eq!((world.host.connection(FIRST).received_len(), world.take()), (0, vec![]));
        let counters = world.counters();
        let dropped = counters.drop_malformed + counters.drop_checksum + counters.drop_protocol;
        assert_eq!(dropped, frame.len() as u64, "each is counted once\n{counters}");
        world.give_frame(&frame);
        assert_eq!(world.host.connection(FIRST).received(), b"payload");
    }
}

#[test]
fn a_length_that_promises_more_than_there_is_is_dropped_and_padding_is_ignored() {
    for server in SERVERS {
        let (mut world, _, frame) = scene(server);
        let at = if server.is_ipv4() { 16 } else { 18 };
        let len = u16::from_be_bytes([frame[at], frame[at + 1]]);
        for wrong in [len + 1, u16::MAX, 0, 1, 19, 20, 39] {
            let mut bad = frame.clone();
            bad[at..at + 2].copy_from_slice(&wrong.to_be_bytes());
            if server.is_ipv4() {
                bad[24..26].fill(0);
                let sum = wire::checksum(&bad[14..34]);
                bad[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            world.give_frame(&bad);
            world.give_frame_with(&bad, FrameMeta { checksum: Checksum::Verified, gso: None });
        }
        assert_eq!((world.host.connection(FIRST).received_len(), world.take()), (0, vec![]));
        let mut padded = frame;
        padded.extend([0xaa; 30]);
        world.give_frame(&padded);
        assert_eq!(world.host.connection(FIRST).received(), b"payload", "the padding of Ethernet is not payload");
    }
}

#[test]
fn a_data_offset_that_points_nowhere_is_dropped() {
    for server in SERVERS {
        let (mut world, hand, frame) = scene(server);
        for words in [0u8, 1, 4, 7, 8, 15] {
            let mut bad = frame.clone();
            bad[transport(server) + 12] = words << 4;
            seal(server, &hand, &mut bad);
            world.give_frame(&bad);
        }
        assert_eq!((world.host.connection(FIRST).received_len(), world.counters().drop_malformed), (0, 6));
    }
}

#[test]
fn options_that_contradict_themselves_do_no_harm() {
    let lists: [&[u8]; 10] = [
        &[2, 0, 0, 0],
        &[2, 1, 5, 0xb4],
        &[2, 40, 5, 0xb4],
        &[2, 4, 5],
        &[3, 3, 255, 0],
        &[3, 2, 0, 0],
        &[3, 0, 14, 0],
        &[8, 255, 1, 1],
        &[253, 3, 1, 2],
        &[1, 1, 1, 2],
    ];
    for server in SERVERS {
        for list in lists {
            let mut world = World::by_hand();
            world.host.serve(server, Server::new(Program::Source(3000)));
            let mut hand = Hand::new(&world, PORT, server);
            let mut options = list.to_vec();
            options.resize(4, 0);
            world.give(&Segment { options: options.clone(), ack: 0, ..hand.segment(SYN) });
            hand.seq += 1;
            hand.complete(&mut world);
            world.give(&Segment { options, ..hand.data_at(hand.seq, b"x") });
            hand.seq += 1;
            assert_eq!(hand.receive(&mut world).0.len(), 3000);
        }
    }
}

#[test]
fn a_window_scale_beyond_the_limit_counts_as_the_limit() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Source(50_000)));
        let mut hand = Hand::new(&world, PORT, server);
        hand.window = 1;
        world.give(&Segment { options: vec![2, 4, 5, 0xb4, 1, 3, 3, 255], ack: 0, ..hand.segment(SYN) });
        hand.seq += 1;
        hand.complete(&mut world);
        // RFC 7323 section 2.3: 1 << 14 is what such a guest gets.
        let sent: usize = hand.take(&mut world).iter().map(|segment| segment.payload.len()).sum();
        assert!((1..=1 << 14).contains(&sent), "{sent}");
    }
}

#[test]
fn every_combination_of_flags_is_survived() {
    for server in SERVERS {
        let (mut world, hand, _) = scene(server);
        for flags in 0..=255u8 {
            for port in [PORT, PORT + 1] {
                let source = SocketAddr::new(hand.local.ip(), port);
                world.give(&Segment { source, flags, payload: b"?".to_vec(), ..hand.segment(0) });
                world.give(&Segment { source, flags, seq: hand.seq + 5, ..hand.segment(0) });
            }
        }
        world.pass(Duration::from_secs(400));
        world.take();
        Hand::open(&mut world, PORT + 2, server);
    }
}

#[test]
fn options_of_ipv4_are_skipped() {
    let server = SERVERS[0];
    let (mut world, _, frame) = scene(server);
    let mut longer = frame[..34].to_vec();
    longer[14] = 0x47;
    longer.extend([1, 1, 1, 1, 0x94, 4, 0, 0]);
    longer.extend(&frame[34..]);
    let total = u16::try_from(longer.len() - 14).unwrap();
    longer[16..18].copy_from_slice(&total.to_be_bytes());
    longer[24..26].fill(0);
    let sum = wire::checksum(&longer[14..42]);
    longer[24..26].copy_from_slice(&sum.to_be_bytes());
    world.give_frame(&longer);
    assert_eq!(world.host.connection(FIRST).received(), b"payload");
}

#[test]
fn a_datagram_whose_length_is_forged_is_dropped() {
    for server in SERVERS {
        let mut world = World::by_hand();
        let source = SocketAddr::new(world.station().like(server.ip()), PORT);
        let packet = Datagram { source, destination: server, payload: b"0123456789".to_vec() }.packet();
        let start = packet.len() - 18;
        for wrong in [0u16, 1, 7, 19, 100, u16::MAX] {
            let mut bad = packet.clone();
            bad[start + 4..start + 6].copy_from_slice(&wrong.to_be_bytes());
            wire::set_checksum(source.ip(), server.ip(), wire::PROTOCOL_UDP, &mut bad[start..], 6);
            world.give_packet(&bad);
        }
        assert_eq!(world.host.sent_datagrams(), []);
        assert_eq!(world.counters().drop_malformed, 6);
    }
}

#[test]
fn a_datagram_may_lack_its_checksum_in_ipv4_only() {
    for server in SERVERS {
        let mut world = World::by_hand();
        let source = SocketAddr::new(world.station().like(server.ip()), PORT);
        let mut packet = Datagram { source, destination: server, payload: b"unsigned".to_vec() }.packet();
        let start = packet.len() - 16;
        packet[start + 6..start + 8].fill(0);
        world.give_packet(&packet);
        // RFC 768; RFC 8200 section 8.1.
        let expected = usize::from(server.is_ipv4());
        assert_eq!((world.host.sent_datagrams().len(), world.counters().drop_checksum), (expected, 1 - expected as u64));
    }
}

#[test]
fn an_echo_request_with_a_wrong_checksum_is_not_answered() {
    let mut world = World::by_hand();
    for target in ["10.0.2.2", "fec0::2"] {
        let target: IpAddr = target.parse().unwrap();
        let kind = if target.is_ipv4() { 8 } else { 128 };
        let source = world.station().like(target);
        let echo = wire::Icmp { source, destination: target, kind, code: 0, rest: [0; 4], payload: b"ping".to_vec() };
        let mut packet = echo.packet();
        let last = packet.len() - 1;
        packet[last] ^= 1;
        world.give_packet(&packet);
    }
    assert_eq!((world.take_icmp(), world.counters().drop_checksum), (vec![], 2));
}

#[test]
fn nobody_but_a_guest_can_be_the_sender() {
    let mut world = World::by_hand();
    for server in SERVERS {
        world.host.serve(server, Server::new(Program::Sink));
    }
    let v4 = ["10.0.2.2", "10.0.2.3", "127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "10.0.2.255"];
    let v6 = ["fec0::2", "fec0::3", "fe80::2", "::1", "::", "ff02::1"];
    for (server, sources) in [(SERVERS[0], &v4[..]), (SERVERS[1], &v6[..])] {
        for source in sources {
            let mut hand = Hand::new(&world, PORT, server);
            hand.local = SocketAddr::new(source.parse().unwrap(), PORT);
            world.give(&Segment { ack: 0, ..hand.segment(SYN) });
            let datagram = Datagram { source: hand.local, destination: server, payload: vec![] };
            world.give_packet(&datagram.packet());
        }
    }
    assert_eq!((world.host.connections().count(), world.host.sent_datagrams().len()), (0, 0));
    assert_eq!(world.counters().drop_source, 2 * (v4.len() + v6.len()) as u64, "{}", world.counters());
    assert_eq!(world.take(), []);
}

#[test]
fn no_way_of_writing_the_hosts_own_address_leads_there() {
    let mut world = World::by_hand();
    world.host.serve_elsewhere(Server::new(Program::Echo));
    for to in ["127.0.0.1:22", "0.0.0.0:22", "[::1]:22", "[::]:22", "[::ffff:127.0.0.1]:22", "[::127.0.0.1]:22", "[fe80::1]:22"] {
        Hand::syn(&mut world, PORT, to.parse().unwrap());
    }
    assert_eq!(world.host.connections().count(), 0);
}

#[test]
fn frames_for_other_stations_and_of_other_kinds_are_none_of_our_business() {
    for server in SERVERS {
        let (mut world, _, frame) = scene(server);
        let mut group = frame.clone();
        group[6] |= 1;
        world.give_frame(&group);
        for ethertype in [0x0000u16, 0x0806, 0x8100, 0x86dd, 0x0800, 0x88cc, 0xffff] {
            let mut other = frame.clone();
            if [other[12], other[13]] != ethertype.to_be_bytes() {
                other[12..14].copy_from_slice(&ethertype.to_be_bytes());
                world.give_frame(&other);
            }
        }
        assert_eq!(world.host.connection(FIRST).received_len(), 0);
        assert_eq!(world.take(), []);
    }
}

#[test]
fn offload_state_that_does_not_fit_the_frame_is_survived() {
    for server in SERVERS {
        let (mut world, hand, frame) = scene(server);
        let sums = [
            Checksum::Complete,
            Checksum::Verified,
            Checksum::Partial { start: 0, offset: 0 },
            Checksum::Partial { start: u16::MAX, offset: u16::MAX },
            Checksum::Partial { start: 20, offset: 60_000 },
        ];
        let kinds = [GsoKind::TcpV4, GsoKind::TcpV6, GsoKind::Udp];
        for checksum in sums {
            for kind in kinds {
                for size in [0, 1, 3, u16::MAX] {
                    world.give_frame_with(&frame, FrameMeta { checksum, gso: Some(Gso { kind, size, ecn: true }) });
                    let datagram = Datagram { source: hand.local, destination: hand.remote, payload: vec![5; 100] };
                    let datagram = wire::ip_frame(world.station().mac, GATEWAY, &datagram.packet());
                    world.give_frame_with(&datagram, FrameMeta { checksum, gso: Some(Gso { kind, size, ecn: true }) });
                }
            }
        }
        assert!(world.host.connection(FIRST).received_len() <= 7);
        assert!(world.host.sent_datagrams().iter().all(|datagram| datagram.payload.len() <= 100));
    }
}

#[test]
fn the_largest_frame_is_taken() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink).send_queue(1 << 20));
        let mut hand = Hand::open(&mut world, PORT, server);
        hand.send(&mut world, b"!");
        hand.take(&mut world);
        let most = 65_535 - if server.is_ipv4() { 40 } else { 20 };
        let start = transport(server);
        let mut frame = wire::ip_frame(world.station().mac, GATEWAY, &hand.data_at(hand.seq, &vec![9; most]).packet());
        let pseudo = wire::pseudo_header(hand.local.ip(), hand.remote.ip(), wire::PROTOCOL_TCP, frame.len() - start);
        frame[start + 16..start + 18].copy_from_slice(&wire::fold(&pseudo).to_be_bytes());
        let kind = if server.is_ipv4() { GsoKind::TcpV4 } else { GsoKind::TcpV6 };
        let meta = FrameMeta {
            checksum: Checksum::Partial { start: u16::try_from(start).unwrap(), offset: 16 },
            gso: Some(Gso { kind, size: 1460, ecn: false }),
        };
        world.give_frame_with(&frame, meta);
        assert_eq!(world.host.connection(FIRST).received_len(), 1 + most as u64);
    }
}

#[test]
fn random_changes_of_good_frames_do_no_harm() {
    for server in SERVERS {
        let mut random = Random::new(7);
        let (mut world, mut hand, _) = scene(server);
        for round in 0..20_000 {
            let segment = match random.below(4) {
                0 => Segment { ack: 0, ..hand.segment(SYN) },
                1 => hand.segment(ACK),
                _ => hand.data_at(hand.seq, b"some payload, not long"),
            };
            let source = SocketAddr::new(hand.local.ip(), PORT + u16::try_from(random.below(3)).unwrap());
            let mut frame = wire::ip_frame(world.station().mac, GATEWAY, &Segment { source, ..segment }.packet());
            for _ in 0..random.below(4) {
                let at = usize::try_from(random.below(frame.len() as u64)).unwrap();
                frame[at] = u8::try_from(random.below(256)).unwrap();
            }
            if random.chance(700) {
                seal(server, &hand, &mut frame);
            }
            frame.truncate(frame.len() - usize::try_from(random.below(3)).unwrap() * usize::from(random.chance(100)));
            let checksum = if random.chance(500) { Checksum::Verified } else { Checksum::Complete };
            world.give_frame_with(&frame, FrameMeta { checksum, gso: None });
            for reply in hand.take(&mut world) {
                hand.seq = reply.ack;
                hand.ack = reply.seq.wrapping_add(reply.sequence_len());
            }
            if round % 100 == 0 {
                world.pass(Duration::from_millis(300));
            }
        }
        world.pass(Duration::from_secs(9000));
        assert_eq!(world.host.open_sockets(), 0, "what the noise has opened is gone");
        world.take();
        Hand::open(&mut world, PORT + 10, server);
    }
}

#[test]
fn an_echo_from_nobody_is_not_answered() {
    for (nobody, host) in [("0.0.0.0", "10.0.2.3"), ("::", "fec0::2")] {
        let mut world = World::by_hand();
        let (source, destination): (IpAddr, IpAddr) = (nobody.parse().unwrap(), host.parse().unwrap());
        let kind = if source.is_ipv4() { 8 } else { 128 };
        let echo = wire::Icmp { source, destination, kind, code: 0, rest: [0; 4], payload: b"ping".to_vec() };
        world.give_packet(&echo.packet());
        assert_eq!((world.take(), world.counters().drop_source), (vec![], 1), "{nobody}");
    }
}
