//! Packets in pieces: guests that send fragments, and answers that are too large for a guest's link.

use std::net::SocketAddr;

use netstack::config::{Config, Limits, Timeouts};
use netstack::frame::Offloads;
use netstack::host::sim::{Program, Server, UdpServer};
use netstack::port::PortId;
use netstack::time::Duration;

use crate::SERVERS;
use crate::kit::fragments::{cut, fragment};
use crate::kit::guest::Addresses;
use crate::kit::hand::Hand;
use crate::kit::random::Random;
use crate::kit::wire::{self, Body, Datagram, Icmp, Segment};
use crate::kit::world::{GATEWAY, PORT as FIRST_PORT, Setup, World, at};

const PORT: u16 = 50_000;

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 256) as u8).collect()
}

fn datagram(world: &World, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let source = SocketAddr::new(world.station().like(to.ip()), PORT);
    Datagram { source, destination: to, payload: payload.to_vec() }.packet()
}

fn take(world: &mut World) -> Vec<Datagram> {
    let datagram = |parsed: wire::Parsed| if let Body::Udp(datagram) = parsed.body { Some(datagram) } else { None };
    world.take().into_iter().filter_map(datagram).collect()
}

/// What the host's side was sent, oldest first.
fn sent(world: &World) -> Vec<Vec<u8>> {
    world.host.sent_datagrams().iter().map(|datagram| datagram.payload.clone()).collect()
}

/// What fits a piece on a link of 1500 bytes.
fn piece(to: SocketAddr) -> usize {
    if to.is_ipv4() { 1480 } else { 1448 }
}

#[test]
fn a_large_datagram_goes_out_whole_and_its_answer_comes_back_in_fragments() {
    for server in SERVERS {
        for len in [1600, 4000, 20_000, 65_507] {
            let mut world = World::by_hand();
            world.host.serve_udp(server, UdpServer::Echo);
            let payload = bytes(len);
            let fragments = cut(&datagram(&world, server, &payload), piece(server), 7);
            for (index, fragment) in fragments.iter().enumerate() {
                assert_eq!(world.host.sent_datagrams().len(), 0, "not before the last");
                assert_eq!(world.stack.usage().reassembly_datagrams, usize::from(index > 0));
                world.give_packet(fragment);
            }
            assert_eq!(sent(&world), std::slice::from_ref(&payload));
            let answers = take(&mut world);
            assert_eq!(answers.len(), 1, "{len} bytes to {server}");
            assert_eq!((answers[0].source, &answers[0].payload), (server, &payload));
            assert_eq!(world.fragments_received(), fragments.len() as u64);
            let counters = world.counters();
            assert_eq!((counters.reassembled, counters.fragmented), (1, 1));
            assert_eq!((counters.fragments_out, counters.drop_fragment), (fragments.len() as u64, 0));
            let usage = world.stack.usage();
            assert_eq!((usage.reassembly_datagrams, usage.reassembly_bytes), (0, 0));
        }
    }
}

#[test]
fn fragments_may_come_in_any_order() {
    for server in SERVERS {
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut world = World::by_hand();
            let payload = bytes(4000);
            let fragments = cut(&datagram(&world, server, &payload), piece(server), 7);
            for index in order {
                world.give_packet(&fragments[index]);
                // A network may repeat it.
                if index != order[2] {
                    world.give_packet(&fragments[index]);
                }
            }
            assert_eq!(sent(&world), [payload], "{order:?}");
        }
    }
}

#[test]
fn datagrams_under_way_at_the_same_time_do_not_mix() {
    for server in SERVERS {
        let mut world = World::by_hand();
        let payloads = [bytes(3000), vec![7; 3000], vec![9; 3000]];
        let cuts = [1, 2, 3].map(|id| cut(&datagram(&world, server, &payloads[id as usize - 1]), piece(server), id));
        for index in 0..cuts[0].len() {
            for cut in &cuts {
                world.give_packet(&cut[index]);
            }
        }
        assert_eq!(sent(&world), payloads);
    }
}

#[test]
fn fragments_that_overlap_end_the_datagram_and_all_that_follows_of_it() {
    for server in SERVERS {
        let mut world = World::by_hand();
        let packet = datagram(&world, server, &bytes(2992));
        let payload = packet[packet.len() - 3000..].to_vec();
        world.give_packet(&fragment(&packet, 0, &payload[..1000], true, 7));
        // Eight bytes of it came before, though they are the same.
        world.give_packet(&fragment(&packet, 992, &payload[992..2000], true, 7));
        assert_eq!(world.counters().drop_fragment, 1);
        for (from, to) in [(0, 1000), (1000, 2000), (2000, 3000)] {
            world.give_packet(&fragment(&packet, from, &payload[from..to], to < 3000, 7));
        }
        assert_eq!((world.counters().drop_fragment, world.host.sent_datagrams().len()), (4, 0));
        assert_eq!(world.stack.usage().reassembly_bytes, 0, "nothing of it is kept");
        // When its time is over, the number is as good as new; nobody is told.
        world.pass(Duration::from_secs(61));
        assert_eq!((world.take_icmp(), world.counters().reassembly_expired), (vec![], 0));
        for fragment in cut(&packet, 1480, 7) {
            world.give_packet(&fragment);
        }
        assert_eq!(world.host.sent_datagrams().len(), 1);
    }
}

#[test]
fn the_sender_is_told_when_not_all_have_come_in_time() {
    for (server, time, kind) in [(SERVERS[0], 30, 11), (SERVERS[1], 60, 3)] {
        let mut world = World::by_hand();
        let fragments = cut(&datagram(&world, server, &bytes(4000)), piece(server), 7);
        world.give_packet(&fragments[2]);
        world.pass(Duration::from_secs(time - 1));
        world.give_packet(&fragments[0]);
        assert_eq!(world.take_icmp(), []);
        // It counts from the first that came.
        world.pass(Duration::from_secs(1));
        let told = world.take_icmp();
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].kind, told[0].code), (kind, 1));
        assert!(fragments[0].starts_with(&told[0].payload), "it quotes the first fragment");
        assert!(told[0].payload.len() >= 500);
        let usage = world.stack.usage();
        assert_eq!((usage.reassembly_datagrams, usage.reassembly_bytes), (0, 0));
        assert_eq!(world.counters().reassembly_expired, 1);
        // What is left of it comes too late.
        world.give_packet(&fragments[1]);
        assert_eq!(world.host.sent_datagrams().len(), 0);
        // Without the first fragment nobody knows what it was about (RFC 1122 section 3.3.2).
        world.pass(Duration::from_secs(61));
        assert_eq!((world.take_icmp(), world.counters().reassembly_expired), (vec![], 2));
    }
}

#[test]
fn a_damaged_datagram_is_noticed_when_it_is_whole() {
    for server in SERVERS {
        let mut world = World::by_hand();
        let mut fragments = cut(&datagram(&world, server, &bytes(4000)), piece(server), 7);
        let last = fragments[2].len() - 1;
        fragments[2][last] ^= 1;
        for fragment in &fragments {
            world.give_packet(fragment);
        }
        assert_eq!((world.host.sent_datagrams().len(), world.counters().drop_checksum), (0, 1));
    }
}

#[test]
fn a_large_ping_of_the_gateway_is_answered_in_fragments() {
    for (gateway, kind, reply) in [("10.0.2.2:0", 8, 0), ("[fec0::2]:0", 128, 129)] {
        let mut world = World::by_hand();
        let destination = at(gateway).ip();
        let source = world.station().like(destination);
        let echo = Icmp { source, destination, kind, code: 0, rest: [0, 1, 0, 1], payload: bytes(20_000) };
        for fragment in cut(&echo.packet(), 1448, 9) {
            world.give_packet(&fragment);
        }
        let answers = world.take_icmp();
        assert_eq!(answers.len(), 1);
        assert_eq!((answers[0].kind, &answers[0].payload), (reply, &echo.payload));
        assert!(world.fragments_received() > 10);
    }
}

#[test]
fn what_a_full_port_does_not_take_of_a_datagram_goes_on_when_there_is_room() {
    for server in SERVERS {
        for offloads in [Offloads::NONE, Offloads::ALL] {
            let mut world = World::new(Setup { guests: 0, offloads, latency: Duration::ZERO, ..Setup::default() });
            world.give_packet(&datagram(&world, server, b"begin"));
            let mapped = world.host.sent_datagrams()[0].from;
            let card = world.link.cards.get_mut(&FIRST_PORT).unwrap();
            (card.capacity, card.stalled) = (5, true);
            let payloads = [bytes(20_000), bytes(9_000), bytes(100)];
            for payload in &payloads {
                assert!(world.host.inject_udp(mapped, server, payload));
            }
            world.settle();
            assert_eq!(world.link.cards[&FIRST_PORT].frames.len(), 5);
            assert!(world.stack.waits_for(FIRST_PORT));
            // The guest takes five at a time.
            world.link.cards.get_mut(&FIRST_PORT).unwrap().stalled = false;
            world.settle();
            let got: Vec<_> = take(&mut world).into_iter().map(|datagram| datagram.payload).collect();
            assert_eq!(got, payloads, "whole, and in order");
            assert_eq!((world.counters().drop_port_full, world.stack.waiting()), (0, 0));
        }
    }
}

#[test]
fn large_datagrams_that_come_together_are_cut_one_by_one() {
    for server in SERVERS {
        for offloads in [Offloads::NONE, Offloads::ALL] {
            let mut world = World::new(Setup { guests: 0, offloads, latency: Duration::ZERO, ..Setup::default() });
            world.give_packet(&datagram(&world, server, b"begin"));
            let mapped = world.host.sent_datagrams()[0].from;
            let payload = bytes(21_000);
            assert!(world.host.inject_udp_segments(mapped, server, &payload, 4000));
            world.settle();
            let got: Vec<_> = take(&mut world).into_iter().map(|datagram| datagram.payload).collect();
            assert_eq!(got, payload.chunks(4000).collect::<Vec<_>>(), "{offloads:?}");
            // The last fits as it is.
            assert_eq!((world.counters().fragmented, world.counters().udp_datagrams_in), (5, 6));
        }
    }
}

#[test]
fn a_port_that_goes_takes_its_fragments_with_it() {
    let mut world = World::by_hand();
    world.give_packet(&datagram(&world, SERVERS[0], b"begin"));
    let mapped = world.host.sent_datagrams()[0].from;
    let card = world.link.cards.get_mut(&FIRST_PORT).unwrap();
    (card.capacity, card.stalled) = (2, true);
    assert!(world.host.inject_udp(mapped, SERVERS[0], &bytes(9000)));
    world.settle();
    world.give_packet(&cut(&datagram(&world, SERVERS[0], &bytes(4000)), 1480, 7)[0]);
    assert_eq!((world.stack.waits_for(FIRST_PORT), world.stack.usage().reassembly_datagrams), (true, 1));
    world.unplug(FIRST_PORT);
    assert_eq!((world.stack.waiting(), world.stack.usage().reassembly_datagrams), (0, 0));
    world.pass(Duration::from_secs(61));
    assert_eq!(world.counters().reassembly_expired, 0);
}

/// A world with two stations that are operated by hand, and bounds that are soon reached.
fn bounded(limits: Limits) -> World {
    let mut world = World::by_hand_with(Config { limits, ..Config::default() });
    world.link.add(OTHER, 1500, Offloads::NONE);
    world
}

const OTHER: PortId = PortId(5);

fn give_other(world: &mut World, packet: &[u8]) {
    world.give_frame_from(OTHER, &wire::ip_frame(Addresses::of(5).mac, GATEWAY, packet));
}

#[test]
fn a_guest_that_ends_no_datagram_displaces_only_its_own() {
    for server in SERVERS {
        let mut world = bounded(Limits { reassembly_datagrams: 8, ..Limits::default() });
        let fragments = |id| cut(&datagram(&World::by_hand(), server, &bytes(4000)), 1448, id);
        let mut honest = fragments(1).into_iter();
        give_other(&mut world, &honest.next().unwrap());
        for id in 0..100 {
            world.give_packet(&fragments(id)[1]);
        }
        assert_eq!(world.stack.usage().reassembly_datagrams, 9);
        assert_eq!(world.counters().reassembly_limit, 92);
        for fragment in honest {
            give_other(&mut world, &fragment);
        }
        assert_eq!(world.host.sent_datagrams().len(), 1, "the other guest's datagram was not displaced");
        // Of its own, the latest are there.
        for (index, fragment) in fragments(99).iter().enumerate().filter(|(index, _)| *index != 1) {
            world.give_packet(fragment);
            assert_eq!(world.host.sent_datagrams().len(), 1 + usize::from(index == 2));
        }
    }
}

#[test]
fn bytes_are_bounded_for_each_port() {
    for server in SERVERS {
        let limit = 100_000;
        let mut world = bounded(Limits { reassembly_bytes: limit, ..Limits::default() });
        let fragments = |id| cut(&datagram(&World::by_hand(), server, &bytes(30_000)), 1448, id);
        let mut honest = fragments(1).into_iter();
        give_other(&mut world, &honest.next().unwrap());
        for id in 0..40 {
            for fragment in &fragments(id)[1..] {
                world.give_packet(fragment);
                assert!(world.stack.usage().reassembly_bytes <= limit + 4096);
            }
        }
        assert!(world.counters().reassembly_limit >= 36);
        honest.for_each(|fragment| give_other(&mut world, &fragment));
        assert_eq!(world.host.sent_datagrams().len(), 1, "the other guest's datagram was not displaced");
    }
}

#[test]
fn a_datagram_has_a_bounded_number_of_fragments() {
    for server in SERVERS {
        let mut world = bounded(Limits { reassembly_fragments: 10, ..Limits::default() });
        for (id, piece) in [(1, 400), (2, 408)] {
            for fragment in cut(&datagram(&world, server, &bytes(4072)), piece, id) {
                world.give_packet(&fragment);
            }
        }
        // Eleven are too many, ten are not.
        assert_eq!((world.counters().reassembly_limit, world.counters().reassembled), (1, 1));
    }
}

#[test]
fn timeouts_are_as_configured() {
    let timeouts = Timeouts { reassembly_v4: Duration::from_secs(3), reassembly_v6: Duration::from_secs(5), ..Timeouts::default() };
    for (server, time) in [(SERVERS[0], 3), (SERVERS[1], 5)] {
        let mut world = World::by_hand_with(Config { timeouts: timeouts.clone(), ..Config::default() });
        world.give_packet(&cut(&datagram(&world, server, &bytes(4000)), 1448, 7)[0]);
        world.pass(Duration::from_secs(time) - Duration::from_millis(1));
        assert_eq!(world.stack.usage().reassembly_datagrams, 1);
        world.pass(Duration::from_millis(2));
        assert_eq!(world.stack.usage().reassembly_datagrams, 0);
    }
}

#[test]
fn a_connection_in_fragments_is_a_connection() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink));
        let hand = Hand::open(&mut world, PORT, server);
        let packet = hand.data_at(hand.seq, &bytes(1000)).packet();
        for fragment in cut(&packet, 256, 7).iter().rev() {
            world.give_packet(fragment);
        }
        let connection = world.host.connections().next().unwrap();
        assert_eq!((connection.received_len(), world.counters().reassembled), (1000, 1));
        assert_eq!(world.host.calls().send, 1);
    }
}

/// An error of a router of the guest's about a segment that the stack has sent.
fn too_big(world: &World, segment: &Segment, mtu: u16) -> Vec<u8> {
    let guest = world.station().like(segment.destination.ip());
    let quoted = segment.packet();
    let [high, low] = mtu.to_be_bytes();
    let (kind, code, gateway) = if guest.is_ipv4() { (3, 4, at("10.0.2.2:0").ip()) } else { (2, 0, at("[fec0::2]:0").ip()) };
    Icmp { source: guest, destination: gateway, kind, code, rest: [0, 0, high, low], payload: quoted[..60].to_vec() }.packet()
}

#[test]
fn segments_get_smaller_where_the_way_is_narrower_than_the_link() {
    for server in SERVERS {
        let headers = if server.is_ipv4() { 40 } else { 60 };
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Idle).greeting(&[7; 6000]));
        let hand = Hand::open(&mut world, PORT, server);
        let first = world.take_segments();
        assert_eq!(first[0].payload.len(), 1500 - headers);
        // What is not about a segment under way is not believed (RFC 5927).
        for seq in [first[0].seq.wrapping_sub(1), first[0].seq.wrapping_add(6000)] {
            let forged = too_big(&world, &Segment { seq, ..first[0].clone() }, 1300);
            world.give_packet(&forged);
        }
        let other = SocketAddr::new(server.ip(), 81);
        let forged = too_big(&world, &Segment { source: other, ..first[0].clone() }, 1300);
        world.give_packet(&forged);
        assert_eq!((world.take_segments(), world.counters().tcp_narrowed), (vec![], 0));
        // Nor is what a guest behind another port says.
        world.link.add(OTHER, 1500, Offloads::NONE);
        let told = too_big(&world, &first[0], 1300);
        give_other(&mut world, &told);
        assert_eq!((world.take_segments(), world.counters().tcp_narrowed), (vec![], 0));

        for segment in &first {
            let told = too_big(&world, segment, 1300);
            world.give_packet(&told);
        }
        assert_eq!(world.counters().tcp_narrowed, 1, "said once for all of them");
        let again = world.take_segments();
        assert_eq!(again[0].seq, first[0].seq, "from the first that is missing");
        assert!(again.iter().all(|segment| segment.payload.len() <= 1300 - headers));
        assert_eq!(again.iter().map(|segment| segment.payload.len()).sum::<usize>(), 6000);
        hand.reset(&mut world);
    }
}

#[test]
fn no_guest_is_made_to_crawl() {
    for (server, least) in [(SERVERS[0], 512), (SERVERS[1], 1220)] {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Idle).greeting(&[7; 3000]));
        Hand::open(&mut world, PORT, server);
        let first = world.take_segments();
        let told = too_big(&world, &first[0], 68);
        world.give_packet(&told);
        assert_eq!(world.take_segments()[0].payload.len(), least);
    }
}

#[test]
fn what_is_larger_than_the_link_and_must_not_be_cut_is_refused_by_its_size() {
    for (server, kind, code) in [(SERVERS[0], 3, 4), (SERVERS[1], 2, 0)] {
        let mut world = World::by_hand();
        let packet = datagram(&world, server, &bytes(2000));
        world.give_packet(&packet);
        let told = world.take_icmp();
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].kind, told[0].code, &told[0].rest[2..]), (kind, code, &1500_u16.to_be_bytes()[..]));
        assert!(packet.starts_with(&told[0].payload), "it quotes what was sent");
        assert_eq!((world.host.sent_datagrams().len(), world.counters().drop_too_large), (0, 1));
    }
}

#[test]
fn what_may_be_cut_need_not_be_and_super_frames_are_no_packets() {
    let mut world = World::by_hand();
    let mut packet = datagram(&world, SERVERS[0], &bytes(2000));
    packet[6] = 0;
    packet[10..12].fill(0);
    let sum = wire::checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    world.give_packet(&packet);
    assert_eq!(sent(&world), [bytes(2000)]);
    for server in SERVERS {
        // On a link that takes more than was told, more may be sent.
        let mut world = World::new(Setup { guests: 0, mtu: 9000, latency: Duration::ZERO, ..Setup::default() });
        let packet = datagram(&world, server, &bytes(8000));
        world.give_packet(&packet);
        assert_eq!((sent(&world), world.counters().drop_too_large), (vec![bytes(8000)], 0));
    }
}

#[test]
fn chains_of_headers_are_passed_and_what_is_wrong_with_them_is_told() {
    let mut world = World::by_hand();
    let gateway = at("[fec0::2]:0").ip();
    let source = world.station().like(gateway);
    let echo = Icmp { source, destination: gateway, kind: 128, code: 0, rest: [0, 1, 0, 1], payload: bytes(100) };
    let message = echo.packet()[40..].to_vec();
    let with = |header: [u8; 8], first: u8| {
        let mut packet = wire::packet(source, gateway, first, &[&header[..], &message].concat());
        packet[7] = 64;
        packet
    };
    world.give_packet(&with([58, 0, 1, 4, 0, 0, 0, 0], 60));
    assert_eq!(world.take_icmp()[0].payload, echo.payload);
    for (packet, code, pointer) in [
        (with([58, 0, 0, 1, 0, 0, 0, 0], 43), 0, 42),
        (with([200, 0, 1, 4, 0, 0, 0, 0], 60), 1, 40),
        (with([58, 0, 0, 0x9e, 3, 0, 0, 0], 60), 2, 43),
    ] {
        world.give_packet(&packet);
        let told = world.take_icmp();
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].kind, told[0].code, told[0].rest), (4, code, u32::to_be_bytes(pointer)));
        assert_eq!(told[0].payload, packet);
    }
    world.give_packet(&with([58, 0, 0, 0x5e, 3, 0, 0, 0], 60));
    assert_eq!((world.take_icmp(), world.counters().drop_options), (vec![], 2));
}

#[test]
fn a_source_route_is_refused() {
    let mut world = World::by_hand();
    let plain = datagram(&world, SERVERS[0], b"by way of somebody else");
    for (kind, passes) in [(131, false), (137, false), (148, true)] {
        let mut packet = [&plain[..20], &[kind, 7, 4, 192, 0, 2, 1, 0], &plain[20..]].concat();
        packet[0] = 0x47;
        let len = u16::try_from(packet.len()).unwrap();
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet[10..12].fill(0);
        let sum = wire::checksum(&packet[..28]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        let before = world.host.sent_datagrams().len();
        world.give_packet(&packet);
        assert_eq!(world.host.sent_datagrams().len() > before, passes, "option {kind}");
    }
    assert_eq!(world.counters().drop_options, 2);
}

/// A network between a guest and the stack that loses, repeats, delays and damages. The guest cuts as it likes.
#[test]
fn whatever_the_network_does_a_datagram_arrives_as_it_was_sent_or_not_at_all() {
    for server in SERVERS {
        for seed in 1..=20 {
            let mut random = Random::new(seed);
            let mut world = World::by_hand();
            let payloads: Vec<Vec<u8>> = (0..40_u8)
                .map(|n| bytes(1500 + random.below(5000) as usize).iter().map(|byte| byte.wrapping_add(n)).collect())
                .collect();
            let mut under_way = Vec::new();
            let (mut intact, mut hurt) = (Vec::new(), 0);
            for (id, payload) in (0..).zip(&payloads) {
                let piece = 8 * (8 + random.below(172) as usize);
                let mut whole = true;
                for mut fragment in cut(&datagram(&world, server, payload), piece, id) {
                    if random.chance(20) {
                        whole = false;
                        continue;
                    }
                    if random.chance(20) {
                        under_way.push(fragment.clone());
                    } else if random.chance(10) {
                        let last = fragment.len() - 1;
                        fragment[last] ^= 0x10;
                        whole = false;
                    }
                    under_way.push(fragment);
                }
                if whole {
                    intact.push(payload.clone());
                } else {
                    hurt += 1;
                }
            }
            // Each is overtaken by some of those behind it.
            for at in 0..under_way.len() {
                let other = (at + random.below(60) as usize).min(under_way.len() - 1);
                under_way.swap(at, other);
            }
            for fragment in &under_way {
                world.give_packet(fragment);
            }
            let mut sent = sent(&world);
            assert!(sent.iter().all(|datagram| payloads.contains(datagram)), "seed {seed}: one was changed");
            assert!(hurt > 0 && !intact.is_empty(), "seed {seed} tells nothing");
            sent.sort();
            // What is repeated from end to end is another datagram.
            sent.dedup();
            intact.sort();
            assert!(sent == intact, "seed {seed}: {} of {} datagrams have arrived", sent.len(), intact.len());
            // The rest is forgotten in time, and then a number is as good as another.
            world.pass(Duration::from_secs(61));
            assert_eq!((world.stack.usage().reassembly_datagrams, world.stack.usage().reassembly_bytes), (0, 0));
        }
    }
}
