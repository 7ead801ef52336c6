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
use crate::kit::wire::{self, Body, Datagram, Icmp};
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
