//! Everything that a guest can use up has a limit, a counter that tells when it bites, and no effect on anything else.

use std::net::SocketAddr;

use netstack::config::{Config, Limits};
use netstack::host::sim::{ConnectionId, Operation, Program, Server};
use netstack::port::PortId;
use netstack::time::Duration;

use crate::SERVERS;
use crate::kit::hand::Hand;
use crate::kit::wire::{ACK, RST, SYN, Segment};
use crate::kit::world::{PORT, Setup, World};

fn limited(limits: Limits) -> World {
    World::by_hand_with(Config { limits, ..Config::default() })
}

#[test]
fn a_flood_of_syns_is_bounded_and_connections_that_exist_do_not_notice() {
    for server in SERVERS {
        let mut world = limited(Limits { tcp_opening: 50, ..Limits::default() });
        world.host.serve(server, Server::new(Program::Echo));
        let mut good = Hand::open(&mut world, 9, server);
        let silent = SocketAddr::new(server.ip(), 81);
        world.host.serve(silent, Server::silent());
        for port in 10_000..11_000 {
            Hand::syn(&mut world, port, silent);
        }
        assert_eq!(world.host.open_sockets(), 51);
        assert_eq!(world.counters().tcp_limit_opening, 950);
        let refused = world.take_segments();
        assert_eq!(refused.len(), 950);
        assert!(refused.iter().all(|segment| segment.is(RST | ACK)));
        good.send(&mut world, b"still here");
        assert_eq!(good.receive(&mut world).0, b"still here");
        // The flood over, there is room again.
        world.pass(Duration::from_secs(100));
        assert_eq!(world.host.open_sockets(), 1);
        Hand::open(&mut world, 12_000, server);
    }
}

#[test]
fn connections_beyond_the_limit_are_refused_and_counted() {
    for server in SERVERS {
        let mut world = limited(Limits { tcp_flows: 10, ..Limits::default() });
        world.host.serve(server, Server::new(Program::Echo));
        let mut hands: Vec<Hand> = (0..10).map(|n| Hand::open(&mut world, 1000 + n, server)).collect();
        let refused = Hand::syn(&mut world, 2000, server);
        assert!(refused.take(&mut world)[0].is(RST | ACK));
        assert_eq!((world.counters().tcp_limit_flows, world.host.open_sockets()), (1, 10));
        hands.pop().unwrap().reset(&mut world);
        Hand::open(&mut world, 2001, server);
    }
}

#[test]
fn a_host_without_descriptors_or_ports_refuses_and_recovers() {
    for server in SERVERS {
        for errno in [libc::EMFILE, libc::ENFILE, libc::EADDRNOTAVAIL, libc::ENOBUFS, libc::ENOMEM] {
            let mut world = World::by_hand();
            world.host.serve(server, Server::new(Program::Sink));
            world.host.fail(Operation::Connect, errno, 1);
            let hand = Hand::syn(&mut world, 1000, server);
            let answer = hand.take(&mut world);
            assert!(answer.len() == 1 && answer[0].is(RST | ACK) && answer[0].ack == hand.seq, "{answer:?}");
            assert_eq!((world.counters().tcp_limit_host, world.counters().tcp_connect_failed), (1, 0));
            Hand::open(&mut world, 1000, server);
        }
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink));
        world.host.set_max_sockets(2);
        let first = Hand::open(&mut world, 1000, server);
        Hand::open(&mut world, 1001, server);
        assert!(Hand::syn(&mut world, 1002, server).take(&mut world)[0].has(RST));
        first.reset(&mut world);
        Hand::open(&mut world, 1002, server);
    }
}

#[test]
fn every_port_of_a_guest_can_be_in_use() {
    let server = SERVERS[0];
    let mut world = World::by_hand();
    world.host.serve(server, Server::new(Program::Echo));
    for port in 1..=u16::MAX {
        Hand::open(&mut world, port, server);
    }
    assert_eq!(world.host.open_sockets(), 65_535);
    let other = SocketAddr::new(server.ip(), 81);
    world.host.serve(other, Server::new(Program::Echo));
    Hand::open(&mut world, 1, other);
    let refused = Hand::syn(&mut world, 2, other);
    assert!(refused.take(&mut world)[0].has(RST));
    assert_eq!(world.counters().tcp_limit_flows, 1);
}

#[test]
fn no_time_is_spent_on_connections_that_are_idle() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Echo));
        for n in 0..1000 {
            Hand::open(&mut world, 1000 + n, server);
        }
        let mut busy = Hand::open(&mut world, 999, server);
        world.pass(Duration::from_secs(5));
        let before = world.host.calls();
        world.pass(Duration::from_secs(600));
        assert_eq!(world.host.calls().about_sockets(), before.about_sockets(), "ten minutes without a call");
        for _ in 0..10 {
            busy.send(&mut world, b"ping");
            busy.receive(&mut world);
        }
        let calls = world.host.calls().about_sockets() - before.about_sockets();
        assert!(calls < 150, "{calls} calls for ten answers, whoever else there is");
    }
}

#[test]
fn a_port_that_is_full_stops_its_flows_and_nothing_else() {
    for server in SERVERS {
        let mut world = World::new(Setup { guests: 2, ..Setup::default() });
        world.host.serve(server, Server::new(Program::Source(600_000)));
        let (stuck, free) = (PORT, PortId(1));
        world.link.cards.get_mut(&stuck).unwrap().capacity = 8;
        let flow = world.guest().connect(server);
        let other = world.guests.get_mut(&free).unwrap().connect(server);
        world.until(|world| !world.guest().received(flow).is_empty());
        world.link.cards.get_mut(&stuck).unwrap().stalled = true;
        world.until(|world| world.guests[&free].saw_end(other));
        assert!(world.guests[&free].received(other).len() == 600_000);
        world.pass(Duration::from_secs(2));
        let refused = world.link.cards[&stuck].refused;
        world.pass(Duration::from_secs(60));
        let tries = world.link.cards[&stuck].refused - refused;
        assert!(tries < 100, "a full port was tried {tries} times in a minute");
        world.link.cards.get_mut(&stuck).unwrap().stalled = false;
        world.until(|world| world.guest().saw_end(flow));
        let mut expected = vec![0; 600_000];
        netstack::host::sim::pattern(0, &mut expected);
        assert!(world.guest().received(flow) == expected, "nothing was lost");
    }
}

#[test]
fn a_flow_does_not_starve_the_others() {
    for server in SERVERS {
        let mut world = World::new(Setup { guests: 0, ..Setup::default() });
        world.host.serve(server, Server::new(Program::Source(50_000_000)).receive_queue(8 << 20).forgetting());
        let echo = SocketAddr::new(server.ip(), 7);
        world.host.serve(echo, Server::new(Program::Echo));
        let mut quick = Hand::open(&mut world, 999, echo);
        let mut greedy = Hand::syn(&mut world, 1000, server);
        let syn_ack = greedy.take(&mut world).pop().unwrap();
        greedy.ack = syn_ack.seq.wrapping_add(1);
        world.give(&greedy.segment(ACK));
        // The window of 8 MiB takes many turns.
        quick.send(&mut world, b"me too");
        assert_eq!(quick.receive(&mut world).0, b"me too");
    }
}

#[test]
fn stations_beyond_the_limit_displace_the_oldest() {
    let mut world = limited(Limits { neighbours: 16, ..Limits::default() });
    let server = SERVERS[0];
    world.host.serve(server, Server::new(Program::Sink));
    for n in 0..200u8 {
        let mut hand = Hand::new(&world, 1000, server);
        hand.local = SocketAddr::new([10, 0, 2, n.max(4)].into(), 1000 + u16::from(n));
        world.give(&Segment { ack: 0, ..hand.segment(SYN) });
    }
    assert!(world.counters().neighbours_evicted <= 200);
    let hand = Hand::open(&mut world, 5000, server);
    assert!(hand.take(&mut world).is_empty());
}

#[test]
fn short_connections_leave_nothing_to_remember_however_many_there_were() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Source(10)));
        let round = |world: &mut World| {
            for n in 0..2000u16 {
                let mut hand = Hand::open(world, 1000 + n, server);
                match n % 3 {
                    0 => hand.reset(world),
                    // The server has closed first: TIME-WAIT is ours.
                    1 => {
                        hand.receive(world);
                        hand.finish(world);
                    }
                    _ => {
                        hand.finish(world);
                        hand.receive(world);
                    }
                }
                world.take();
                world.pass(Duration::from_millis(2));
            }
        };
        round(&mut world);
        let before = world.remembered();
        for _ in 0..4 {
            round(&mut world);
        }
        let after = world.remembered();
        assert!(after < before + 5000, "{before} after 2000 connections, {after} after 10000");
    }
}

#[test]
fn a_guest_that_never_takes_an_answer_gives_nothing_to_remember_by_asking() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Source(10)));
        let card = world.link.cards.get_mut(&PORT).unwrap();
        (card.capacity, card.stalled) = (1, true);
        Hand::syn(&mut world, 999, server);
        let mut before = 0;
        for n in 0..3000u16 {
            let hand = Hand::syn(&mut world, 1000 + n, server);
            world.give(&Segment { ack: 0, ..hand.segment(RST) });
            world.pass(Duration::from_millis(1));
            if n == 1000 {
                before = world.remembered();
            }
        }
        let after = world.remembered();
        assert!(after < before + 3000, "{before} after 1000 questions, {after} after 3000");
    }
}

#[test]
fn a_socket_that_is_out_of_memory_loses_nothing() {
    for server in SERVERS {
        let mut world = World::with_guest();
        world.host.serve(server, Server::new(Program::Echo));
        let flow = world.guest().connect(server);
        world.until(|world| world.guest().is_established(flow));
        world.host.connection_mut(ConnectionId(0)).set_send_queue(1);
        world.guest().write(flow, b"squeezed through");
        world.until(|world| world.guest().received(flow) == b"squeezed through");
    }
}
