//! Where progress hangs on a single event, and where nothing at all must happen.

use std::net::SocketAddr;

use netstack::addr::MacAddr;
use netstack::frame::Offloads;
use netstack::host::sim::{ConnectionId, Program, Server, UdpServer};
use netstack::port::PortId;
use netstack::time::Duration;

use crate::SERVERS;
use crate::kit::hand::Hand;
use crate::kit::wire::{self, ACK, Body, Datagram, FIN, RST, SYN, Segment};
use crate::kit::world::{GATEWAY, PORT, Setup, World};

const FIRST: ConnectionId = ConnectionId(0);

#[test]
fn a_guest_that_has_read_all_there_is_may_keep_its_window_closed() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Idle).greeting(&[7; 500]));
        let mut hand = Hand::new(&world, 50_000, server);
        hand.window = 500;
        world.give(&Segment { ack: 0, ..hand.segment(SYN) });
        hand.seq += 1;
        hand.complete(&mut world);
        assert_eq!(hand.take(&mut world).iter().map(|segment| segment.payload.len()).sum::<usize>(), 500, "all that fits");
        hand.ack = hand.ack.wrapping_add(500);
        hand.window = 0;
        hand.acknowledge(&mut world);
        world.pass(Duration::from_secs(3600));
        assert_eq!(hand.take(&mut world), [], "there is nothing to probe the window with");
        assert!(world.host.connection(FIRST).is_established());
        world.host.connection_mut(FIRST).push(b"more");
        world.settle();
        hand.window = 500;
        hand.acknowledge(&mut world);
        assert_eq!(hand.take(&mut world).last().unwrap().payload, b"more");
    }
}

/// Fills the window until it is closed, and returns how much that took.
fn fill(hand: &mut Hand, world: &mut World) -> u32 {
    let mut sent = 0;
    let mut window = u32::from(hand.window);
    while window > 0 {
        let data = vec![9; usize::try_from(window.min(20_000)).unwrap()];
        hand.send(world, &data);
        sent += u32::try_from(data.len()).unwrap();
        window = hand.window_of(hand.take(world).last().unwrap());
        assert!(sent < 10_000_000);
    }
    sent
}

#[test]
fn a_window_opens_as_soon_as_the_host_tells_of_room_however_large_the_segments() {
    for server in SERVERS {
        let offloads = Offloads::ALL;
        let mut world = World::new(Setup { mtu: 65_520, offloads, guests: 0, latency: Duration::ZERO, ..Setup::default() });
        world.host.serve(server, Server::new(Program::Idle).send_queue(87_000));
        let mut hand = Hand::new(&world, 50_000, server);
        let options = vec![2, 4, 0xff, 0xb4, 1, 3, 3, 7];
        world.give(&Segment { options, ack: 0, ..hand.segment(SYN) });
        hand.seq += 1;
        let largest = u32::from(hand.complete(&mut world).window);
        hand.window = 1;
        fill(&mut hand, &mut world);
        // The server reads until the host tells of room, which is a third.
        let unread = world.host.connection(FIRST).unread();
        world.host.connection_mut(FIRST).read(unread - 87_000 * 2 / 3 + 1);
        world.settle();
        let update = hand.take(&mut world).pop().expect("an update of the window");
        // RFC 9293 section 3.8.6.2.1: a guest sends when the window is half of the largest.
        assert!(hand.window_of(&update) * 2 >= largest - 512, "{} of {largest}", hand.window_of(&update));
    }
}

#[test]
fn a_window_opens_also_after_what_was_held_has_used_up_the_room() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Idle).send_queue(30_000));
        let mut hand = Hand::open(&mut world, 50_000, server);
        hand.window = 1;
        // Small writes cost a kernel more than it has said.
        world.host.connection_mut(FIRST).set_send_queue(9_000);
        hand.send(&mut world, &[1; 15_000]);
        hand.take(&mut world);
        assert!(world.counters().tcp_held_bytes > 0);
        let mut window = 0;
        for _ in 0..20 {
            let unread = world.host.connection(FIRST).unread();
            world.host.connection_mut(FIRST).read(unread.min(6_000));
            world.settle();
            window = hand.take(&mut world).last().map_or(window, |update| hand.window_of(update));
        }
        assert_eq!(world.host.connection(FIRST).received_len(), 15_000);
        assert!(window >= 1460, "{window}");
    }
}

const OTHER: PortId = PortId(1);
const OTHER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x66]);

/// A world with a second port, whose guest uses whatever addresses it likes.
fn with_an_impostor() -> World {
    let mut world = World::by_hand();
    world.link.add(OTHER, 1500, Offloads::NONE);
    world
}

#[test]
fn a_guest_behind_another_port_has_no_hold_of_a_connection() {
    for server in SERVERS {
        let mut world = with_an_impostor();
        world.host.serve(server, Server::new(Program::Echo));
        let mut hand = Hand::open(&mut world, 50_000, server);
        for flags in [RST, RST | ACK, SYN, FIN | ACK, ACK] {
            let segment = Segment { payload: b"evil".to_vec(), ..hand.segment(flags) };
            for mac in [OTHER_MAC, world.station().mac] {
                world.give_frame_from(OTHER, &wire::ip_frame(mac, GATEWAY, &segment.packet()));
            }
        }
        assert_eq!(world.take(), [], "nobody is told anything");
        assert_eq!(world.counters().drop_source, 10);
        hand.send(&mut world, b"good");
        assert_eq!(hand.receive(&mut world).0, b"good");
        assert_eq!(world.host.connection(FIRST).received(), b"good");
    }
}

#[test]
fn a_guest_that_changes_its_card_keeps_its_connections() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Echo));
        let hand = Hand::open(&mut world, 50_000, server);
        world.give_frame(&wire::ip_frame(OTHER_MAC, GATEWAY, &hand.data_at(hand.seq.wrapping_sub(90_000), b"old").packet()));
        assert!(world.take().iter().all(|frame| frame.destination == world.station().mac), "what is out of place proves nothing");
        world.give_frame(&wire::ip_frame(OTHER_MAC, GATEWAY, &hand.data_at(hand.seq, b"hello").packet()));
        let answers = world.take();
        assert!(!answers.is_empty() && answers.iter().all(|frame| frame.destination == OTHER_MAC));
    }
}

#[test]
fn a_guest_behind_another_port_gets_none_of_the_datagrams() {
    for server in SERVERS {
        let mut world = with_an_impostor();
        world.host.serve_udp(server, UdpServer::Echo);
        let good =
            Datagram { source: SocketAddr::new(world.station().like(server.ip()), 5000), destination: server, payload: vec![1] };
        let evil = Datagram { payload: vec![2], ..good.clone() };
        world.give_packet(&good.packet());
        let station = world.station().mac;
        world.give_frame_from(OTHER, &wire::ip_frame(OTHER_MAC, GATEWAY, &evil.packet()));
        world.give_packet(&good.packet());
        let got: Vec<_> = world
            .take()
            .into_iter()
            .filter_map(
                |frame| if let Body::Udp(datagram) = frame.body { Some((frame.destination, datagram.payload)) } else { None },
            )
            .collect();
        assert_eq!(got, [(station, vec![1]), (OTHER_MAC, vec![2]), (station, vec![1])]);
    }
}

#[test]
fn datagrams_for_a_full_port_wait_in_their_socket_and_cost_nothing() {
    for server in SERVERS {
        for offloads in [Offloads::NONE, Offloads::ALL] {
            let mut world = World::new(Setup { offloads, guests: 0, latency: Duration::ZERO, ..Setup::default() });
            let guest = SocketAddr::new(world.station().like(server.ip()), 5000);
            world.give_packet(&Datagram { source: guest, destination: server, payload: vec![] }.packet());
            let mapped = world.host.sent_datagrams().last().unwrap().from;
            let card = world.link.cards.get_mut(&PORT).unwrap();
            (card.capacity, card.stalled) = (4, true);
            for n in 0..50 {
                world.host.inject_udp(mapped, server, &[n]);
                world.settle();
            }
            assert!(world.host.calls().receive_from < 20, "{:?}", world.host.calls());
            world.link.cards.get_mut(&PORT).unwrap().stalled = false;
            world.pass(Duration::from_secs(1));
            let arrived = world.take().iter().filter(|frame| matches!(frame.body, Body::Udp(_))).count();
            assert_eq!(arrived as u64 + world.counters().drop_port_full, 50);
            assert!(arrived > 30, "{arrived}");
        }
    }
}

#[test]
fn no_segment_size_makes_a_super_frame_longer_than_a_frame_can_be() {
    for server in SERVERS {
        for mss in [28u16, 29, 1440, 13_103] {
            let offloads = Offloads::ALL;
            let mut world = World::new(Setup { mtu: 65_520, offloads, guests: 0, latency: Duration::ZERO, ..Setup::default() });
            world.host.serve(server, Server::new(Program::Source(1 << 20)).receive_queue(1 << 20));
            let mut hand = Hand::new(&world, 50_000, server);
            let [high, low] = mss.to_be_bytes();
            world.give(&Segment { options: vec![2, 4, high, low, 1, 3, 3, 7], ack: 0, ..hand.segment(SYN) });
            hand.seq += 1;
            hand.complete(&mut world);
            let (bytes, end) = hand.receive(&mut world);
            assert_eq!((bytes.len(), end), (1 << 20, true));
        }
    }
}
