//! Where progress hangs on a single event, and where nothing at all must happen.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use netstack::addr::MacAddr;
use netstack::config::{Config, Protocol};
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
        let mut world = World::by_hand_with(Config { mtu: 16_000, ..Config::default() });
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

#[test]
fn frames_for_other_cards_and_groups_are_not_passed_on() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Echo));
        let hand = Hand::new(&world, 50_000, server);
        let neighbour = SocketAddr::new(if server.is_ipv4() { "10.0.2.99" } else { "fec0::99" }.parse().unwrap(), 80);
        for destination in [server, neighbour] {
            let syn = Segment { destination, ack: 0, ..hand.segment(SYN) }.packet();
            let datagram = Datagram { source: hand.local, destination, payload: vec![1] }.packet();
            for packet in [syn, datagram] {
                for card in [OTHER_MAC, MacAddr::BROADCAST, MacAddr([0x33, 0x33, 0, 0, 0, 1])] {
                    world.give_frame(&wire::ip_frame(world.station().mac, card, &packet));
                }
            }
        }
        assert_eq!((world.take(), world.host.open_sockets()), (vec![], 0));
        assert_eq!(world.counters().drop_destination, 12);
        Hand::open(&mut world, 50_000, server);
    }
}

#[test]
fn nobody_answers_in_the_name_of_a_group() {
    for group in ["255.255.255.255:9", "10.0.2.255:9", "224.0.0.1:9", "[ff02::1]:9", "127.0.0.1:9"] {
        let mut world = World::by_hand();
        let hand = Hand::new(&world, 50_000, group.parse().unwrap());
        for flags in [SYN, ACK, FIN | ACK, RST] {
            world.give(&hand.segment(flags));
        }
        assert_eq!((world.take(), world.counters().drop_destination), (vec![], 4), "{group}");
    }
}

#[test]
fn a_guest_without_an_address_reaches_only_the_dhcp_server() {
    let mut world = World::by_hand();
    for (source, destination) in [
        ("0.0.0.0:68", "198.51.100.7:67"),
        ("0.0.0.0:68", "10.0.2.99:67"),
        ("[::]:68", "[2001:db8::7]:67"),
        ("[::]:68", "[fec0::2]:67"),
    ] {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        world.give_packet(&Datagram { source, destination, payload: vec![1] }.packet());
    }
    assert_eq!((world.take(), world.host.open_sockets(), world.counters().drop_source), (vec![], 0, 4));
}

#[test]
fn a_guest_that_is_started_again_while_its_connection_opens_gets_one_at_once() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Echo).after(Duration::from_secs(2)));
        Hand::syn(&mut world, 50_000, server);
        world.pass(Duration::from_secs(1));
        let mut again = Hand::new(&world, 50_000, server);
        again.seq = 77_000_000;
        world.give(&Segment { ack: 0, ..again.segment(SYN) });
        again.seq += 1;
        world.pass(Duration::from_millis(1500));
        let syn_ack = again.take(&mut world).remove(0);
        assert_eq!(syn_ack.ack, again.seq);
        // Once it has been answered it is asked back, and resets what it does not know.
        let mut third = again.clone();
        third.seq = 5;
        world.give(&Segment { ack: 0, ..third.segment(SYN) });
        let question = third.take(&mut world).pop().expect("a challenge");
        assert!(question.is(ACK) && question.ack == again.seq, "{question:?}");
        world.give(&Segment { seq: question.ack, ack: 0, ..third.segment(RST) });
        assert_eq!(world.host.open_sockets(), 0);
    }
}

#[test]
fn clients_that_come_all_at_once_are_served_in_turns_and_their_guest_is_asked_for_once() {
    let mut world = World::by_hand();
    world.answers_neighbours = false;
    let (listen, guest) = ("192.0.2.1:2222".parse().unwrap(), "10.0.2.15:22".parse().unwrap());
    world.forward(Protocol::Tcp, listen, guest);
    for n in 0..500 {
        let client = SocketAddr::new([203, 0, 113, 9].into(), 10_000 + n);
        world.host.dial(listen, client, &Server::new(Program::Idle)).unwrap();
    }
    let before = world.host.calls().accept;
    world.settle();
    assert!(world.host.calls().accept - before < 200, "the engine has other things to do too");
    world.pass(Duration::from_millis(900));
    assert_eq!(world.host.calls().accept - before, 501);
    let questions = world.take().iter().filter(|frame| matches!(frame.body, Body::Arp(_))).count();
    assert_eq!(questions, 1, "RFC 1122 section 2.3.2.1");
    world.answers_neighbours = true;
    world.pass(Duration::from_secs(3));
    let reached: BTreeSet<_> = world.take_segments().iter().filter(|segment| segment.is(SYN)).map(|syn| syn.source).collect();
    assert_eq!(reached.len(), 500);
}

#[test]
fn a_guest_whose_card_was_replaced_in_silence_is_found_again() {
    for (listen, client, guest) in
        [("192.0.2.1:2222", "203.0.113.9:4000", "10.0.2.15:22"), ("[2001:db8::1]:2222", "[2001:db8:9::9]:4000", "[fec0::15]:22")]
    {
        let guest: SocketAddr = guest.parse().unwrap();
        let mut world = World::by_hand();
        world.forward(Protocol::Tcp, listen.parse().unwrap(), guest);
        let me = world.station();
        let solicitation = if guest.is_ipv4() {
            let target = [10, 0, 2, 2].into();
            let claim = wire::Arp { operation: 1, sender_mac: OTHER_MAC, sender: me.v4, target_mac: MacAddr([0; 6]), target };
            wire::ethernet(OTHER_MAC, MacAddr::BROADCAST, wire::ETHERTYPE_ARP, &claim.bytes())
        } else {
            let target = std::net::Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 2);
            let payload = [&target.octets()[..], &[1, 1], &OTHER_MAC.0].concat();
            let (source, destination) = (me.v6.into(), target.into());
            let question = wire::Icmp { source, destination, kind: 135, code: 0, rest: [0; 4], payload };
            wire::ip_frame(OTHER_MAC, GATEWAY, &question.packet())
        };
        world.give_frame(&solicitation);
        world.take();
        world.host.dial(listen.parse().unwrap(), client.parse().unwrap(), &Server::new(Program::Idle)).unwrap();
        world.pass(Duration::from_millis(10));
        assert!(world.take().iter().all(|frame| frame.destination == OTHER_MAC), "the old card");
        world.pass(Duration::from_secs(8));
        assert!(world.take().iter().any(|frame| frame.destination == me.mac && matches!(frame.body, Body::Tcp(_))));
    }
}
