//! Forwards: clients of the host's side reach a guest, and each side learns the truth about the other.

use std::net::SocketAddr;

use netstack::config::Protocol;
use netstack::host::sim::{ConnectionId, Operation, Program, Server};
use netstack::time::Duration;

use crate::kit::hand::Hand;
use crate::kit::wire::{ACK, Body, FIN, RST, SYN};
use crate::kit::world::{World, at};

const FIRST: ConnectionId = ConnectionId(0);

/// For each family: where the host listens, where clients come from, and which guest it leads to.
fn families() -> [(SocketAddr, SocketAddr, SocketAddr); 2] {
    [
        (at("192.0.2.1:2222"), at("203.0.113.9:45678"), at("10.0.2.15:22")),
        (at("[2001:db8::1]:2222"), at("[2001:db8:9::9]:45678"), at("[fec0::15]:22")),
    ]
}

#[test]
fn a_client_talks_with_a_guest() {
    for (listen, client, guest) in families() {
        let mut world = World::with_guest();
        world.forward(Protocol::Tcp, listen, guest);
        let flow = world.guest().listen(22);
        let id = world.host.dial(listen, client, &Server::new(Program::Echo).greeting(b"hello")).unwrap();
        world.until(|world| world.guest().received(flow) == b"hello");
        world.guest().write(flow, b"and good-bye");
        world.guest().finish(flow);
        world.until(|world| world.host.connection(id).saw_end());
        assert_eq!(world.host.connection(id).received(), b"and good-bye");
        world.until(|world| world.guest().saw_end(flow));
        assert_eq!(world.guest().received(flow), b"helloand good-bye");
        world.pass(Duration::from_secs(120));
        assert_eq!(world.host.open_sockets(), 1, "the listener");
        assert_eq!(world.counters().tcp_accepted, 1);
    }
}

#[test]
fn the_guest_sees_the_clients_own_address_and_port() {
    for (listen, client, guest) in families() {
        let mut world = World::by_hand();
        world.forward(Protocol::Tcp, listen, guest);
        world.host.dial(listen, client, &Server::new(Program::Idle)).unwrap();
        world.settle();
        let syn = world.take_segments().pop().unwrap();
        assert!(syn.is(SYN) && (syn.source, syn.destination) == (client, guest), "{syn:?}");
        assert!(syn.mss().is_some() && syn.window_scale().is_some());
    }
}

#[test]
fn a_client_on_the_hosts_loopback_is_shown_as_the_gateway() {
    let loopback = [(at("127.0.0.1:2222"), at("127.0.0.1:5555"), at("10.0.2.15:22"), at("10.0.2.2:5555"))];
    let loopback_v6 = [(at("[::1]:2222"), at("[::1]:5555"), at("[fec0::15]:22"), at("[fec0::2]:5555"))];
    for (listen, client, guest, seen) in loopback.into_iter().chain(loopback_v6) {
        let mut world = World::by_hand();
        world.forward(Protocol::Tcp, listen, guest);
        world.host.dial(listen, client, &Server::new(Program::Idle)).unwrap();
        world.settle();
        assert_eq!(world.take_segments().pop().unwrap().source, seen);
    }
}

#[test]
fn two_clients_that_look_alike_get_different_ports() {
    let (listen, guest) = (at("0.0.0.0:2222"), at("10.0.2.15:22"));
    let mut world = World::by_hand();
    world.forward(Protocol::Tcp, listen, guest);
    world.host.dial(at("127.0.0.1:2222"), at("127.0.0.1:5555"), &Server::new(Program::Idle)).unwrap();
    world.host.dial(at("127.0.0.2:2222"), at("127.0.0.2:5555"), &Server::new(Program::Idle)).unwrap();
    world.settle();
    let mut ports: Vec<u16> = world.take_segments().iter().map(|syn| syn.source.port()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 2);
}

#[test]
fn a_guest_that_refuses_is_a_reset_for_the_client() {
    for (listen, client, guest) in families() {
        let mut world = World::with_guest();
        world.forward(Protocol::Tcp, listen, guest);
        let id = world.host.dial(listen, client, &Server::new(Program::Sink).greeting(b"anybody there?")).unwrap();
        world.until(|world| !world.host.connection(id).is_established());
        assert!(world.host.connection(id).saw_reset() && !world.host.connection(id).saw_end());
        assert_eq!(world.host.open_sockets(), 1, "the listener");
    }
}

#[test]
fn a_guest_that_does_not_answer_is_asked_again_and_given_up() {
    for (listen, client, guest) in families() {
        let mut world = World::by_hand();
        world.forward(Protocol::Tcp, listen, guest);
        world.host.dial(listen, client, &Server::new(Program::Idle)).unwrap();
        world.pass(Duration::from_secs(30));
        let syns = world.take_segments();
        assert!((4..=6).contains(&syns.len()), "{syns:?}");
        assert!(syns.iter().all(|syn| syn.is(SYN) && syn.seq == syns[0].seq));
        world.pass(Duration::from_secs(60));
        assert!(world.host.connection(FIRST).saw_reset());
        assert_eq!((world.host.open_sockets(), world.counters().tcp_expired), (1, 1));
    }
}

#[test]
fn a_guest_that_is_not_there_is_looked_for_and_given_up() {
    for (listen, client, guest) in families() {
        let mut world = World::by_hand();
        world.answers_neighbours = false;
        world.forward(Protocol::Tcp, listen, guest);
        world.host.dial(listen, client, &Server::new(Program::Idle)).unwrap();
        world.pass(Duration::from_secs(30));
        let questions = world.take();
        let asked = questions.iter().filter(|parsed| match &parsed.body {
            Body::Arp(arp) => arp.operation == 1 && std::net::IpAddr::V4(arp.target) == guest.ip(),
            Body::Icmp(icmp) => icmp.kind == 135,
            Body::Tcp(_) | Body::Udp(_) => panic!("there is nobody to send this to: {parsed:?}"),
        });
        assert!((2..40).contains(&asked.count()), "{questions:?}");
        world.pass(Duration::from_secs(60));
        assert!(world.host.connection(FIRST).saw_reset());
        assert_eq!(world.host.open_sockets(), 1);
    }
}

#[test]
fn a_guest_that_comes_late_gets_the_connection_that_waited() {
    for (listen, client, guest) in families() {
        let mut world = World::by_hand();
        world.answers_neighbours = false;
        world.forward(Protocol::Tcp, listen, guest);
        world.host.dial(listen, client, &Server::new(Program::Sink).greeting(b"hi")).unwrap();
        world.pass(Duration::from_secs(5));
        world.take();
        world.answers_neighbours = true;
        world.pass(Duration::from_secs(10));
        let segments = world.take_segments();
        assert!(!segments.is_empty() && segments.iter().all(|segment| segment.is(SYN)), "{segments:?}");
    }
}

#[test]
fn resets_and_ends_go_both_ways() {
    for (listen, client, guest) in families() {
        let mut world = World::by_hand();
        world.forward(Protocol::Tcp, listen, guest);
        let dial = |world: &mut World, port| {
            let id = world.host.dial(listen, SocketAddr::new(client.ip(), port), &Server::new(Program::Idle)).unwrap();
            world.settle();
            (id, Hand::answer(world, 22))
        };
        let (id, mut hand) = dial(&mut world, 1001);
        world.host.connection_mut(id).push(b"question");
        world.host.connection_mut(id).finish();
        world.settle();
        assert_eq!(hand.receive(&mut world), (b"question".to_vec(), true));
        hand.send(&mut world, b"answer");
        hand.finish(&mut world);
        world.host.connection_mut(id).read(100);
        world.settle();
        assert!(world.host.connection(id).saw_end() && world.host.connection(id).received() == b"answer");

        let (id, hand) = dial(&mut world, 1002);
        hand.reset(&mut world);
        assert!(world.host.connection(id).saw_reset());

        let (id, hand) = dial(&mut world, 1003);
        world.take();
        world.host.connection_mut(id).reset();
        world.settle();
        let segments = hand.take(&mut world);
        assert!(segments.len() == 1 && segments[0].has(RST), "{segments:?}");
        world.pass(Duration::from_secs(60));
        assert_eq!(world.host.open_sockets(), 1);
    }
}

#[test]
fn a_client_that_goes_before_the_guest_has_answered_takes_its_connection_along() {
    for (listen, client, guest) in families() {
        let mut world = World::by_hand();
        world.forward(Protocol::Tcp, listen, guest);
        let id = world.host.dial(listen, client, &Server::new(Program::Idle)).unwrap();
        world.settle();
        world.host.connection_mut(id).reset();
        world.settle();
        world.pass(Duration::from_secs(90));
        assert_eq!(world.host.open_sockets(), 1);
        let segments = world.take_segments();
        assert!(segments.iter().all(|segment| segment.is(SYN) || segment.has(RST)), "{segments:?}");
    }
}

#[test]
fn a_client_that_has_spoken_and_closed_before_the_guest_answers_is_heard() {
    for (listen, client, guest) in families() {
        let mut world = World::by_hand();
        world.forward(Protocol::Tcp, listen, guest);
        let id = world.host.dial(listen, client, &Server::new(Program::Idle).greeting(b"note")).unwrap();
        world.host.connection_mut(id).finish();
        world.settle();
        let mut hand = Hand::answer(&mut world, 22);
        assert_eq!(hand.receive(&mut world), (b"note".to_vec(), true));
        assert!(hand.take(&mut world).iter().all(|segment| segment.is(ACK) || segment.has(FIN)));
    }
}

#[test]
fn a_client_that_waits_for_a_descriptor_is_served_once_there_is_one() {
    let (listen, client, guest) = families()[0];
    let mut world = World::by_hand();
    world.forward(Protocol::Tcp, listen, guest);
    world.host.fail(Operation::Accept, libc::EMFILE, 1);
    world.host.dial(listen, client, &Server::new(Program::Idle)).unwrap();
    world.settle();
    assert_eq!(world.counters().tcp_limit_host, 1);
    world.pass(Duration::from_secs(10));
    assert_eq!(world.counters().tcp_accepted, 1, "nobody else will come and wake the listener");
}

#[test]
fn clients_that_wait_for_descriptors_are_looked_for_at_one_pace_however_many_they_are() {
    let (listen, client, guest) = families()[0];
    let mut world = World::by_hand();
    world.forward(Protocol::Tcp, listen, guest);
    world.host.set_max_sockets(1);
    for port in 1000..1200 {
        world.host.dial(listen, SocketAddr::new(client.ip(), port), &Server::new(Program::Idle)).unwrap();
        world.pass(Duration::from_millis(1));
    }
    let before = world.host.calls().accept;
    world.pass(Duration::from_secs(1));
    let tries = world.host.calls().accept - before;
    assert!((1..=20).contains(&tries), "{tries} in a second");
    world.host.set_max_sockets(usize::MAX);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.counters().tcp_accepted, 200);
}

#[test]
fn clients_beyond_the_limit_are_turned_away_at_once() {
    use netstack::config::{Config, Limits};
    let (listen, client, guest) = families()[0];
    let mut world = World::by_hand_with(Config { limits: Limits { tcp_flows: 3, ..Limits::default() }, ..Config::default() });
    world.forward(Protocol::Tcp, listen, guest);
    for port in 1000..1005 {
        world.host.dial(listen, SocketAddr::new(client.ip(), port), &Server::new(Program::Idle)).unwrap();
    }
    world.settle();
    assert_eq!(world.host.connections().filter(|connection| connection.saw_reset()).count(), 2);
    assert_eq!((world.counters().tcp_limit_flows, world.host.open_sockets()), (2, 4));
}
