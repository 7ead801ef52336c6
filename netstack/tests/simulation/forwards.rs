//! Forwards come and go while everything goes on.

use std::net::SocketAddr;
use std::path::Path;

use netstack::config::{Config, Protocol};
use netstack::host::sim::{Operation, Program, Server, pattern};
use netstack::stack::Listen;
use netstack::time::Duration;

use crate::kit::wire::{Datagram, SYN};
use crate::kit::world::{World, at};

const LISTEN: &str = "192.0.2.1:2222";
const CLIENT: &str = "203.0.113.9:45678";
const GUEST: &str = "10.0.2.15:22";

const fn port(protocol: Protocol, address: SocketAddr) -> Listen<'static> {
    Listen::Port(protocol, address, None)
}

fn tcp() -> Listen<'static> {
    port(Protocol::Tcp, at(LISTEN))
}

#[test]
fn a_connection_outlives_its_forward() {
    let mut world = World::with_guest();
    let forward = world.add_forward(tcp(), at(GUEST));
    let flow = world.guest().listen(22);
    let id = world.host.dial(at(LISTEN), at(CLIENT), &Server::new(Program::Echo).greeting(b"hello")).unwrap();
    world.until(|world| world.guest().received(flow) == b"hello");
    assert!(world.end_forward(forward, false));
    assert!(world.host.dial(at(LISTEN), at(CLIENT), &Server::new(Program::Idle)).is_err(), "nobody listens any more");
    world.guest().write(flow, b"still there?");
    world.guest().finish(flow);
    world.until(|world| world.guest().saw_end(flow));
    assert_eq!(world.guest().received(flow), b"hellostill there?");
    assert!(world.host.connection(id).saw_end());
    world.pass(Duration::from_secs(120));
    assert_eq!(world.host.open_sockets(), 0);
    assert!(!world.end_forward(forward, false), "it is gone");
}

#[test]
fn connections_of_one_forward_end_with_it_if_that_is_asked_for() {
    let mut world = World::with_guest();
    let other = port(Protocol::Tcp, at("192.0.2.1:3333"));
    let (ends, stays) = (world.add_forward(tcp(), at(GUEST)), world.add_forward(other, at(GUEST)));
    let flows = [world.guest().listen(22), world.guest().listen(22)];
    let dial = |world: &mut World, to: &str, from: &str| world.host.dial(at(to), at(from), &Server::new(Program::Idle)).unwrap();
    let first = dial(&mut world, LISTEN, CLIENT);
    world.until(|world| world.guest().is_established(flows[0]));
    let second = dial(&mut world, "192.0.2.1:3333", CLIENT);
    world.until(|world| world.guest().is_established(flows[1]));
    assert!(world.end_forward(ends, true));
    world.until(|world| !world.guest().is_established(flows[0]));
    assert!(world.host.connection(first).saw_reset());
    assert!(!world.host.connection(second).saw_reset() && world.guest().is_established(flows[1]));
    assert!(world.end_forward(stays, true));
    world.until(|world| !world.guest().is_established(flows[1]));
    world.pass(Duration::from_secs(5));
    assert_eq!((world.host.open_sockets(), world.stack.tcp_flows()), (0, 0));
}

#[test]
fn whoever_has_connected_before_the_end_is_a_client_still() {
    let mut world = World::with_guest();
    let forward = world.add_forward(tcp(), at(GUEST));
    let flows: Vec<_> = (0..100).map(|_| world.guest().listen(22)).collect();
    // The engine has had no time yet to accept any of them.
    let dial = |n: u16| (SocketAddr::new(at(CLIENT).ip(), 10_000 + n), Server::new(Program::Echo).greeting(b"hello"));
    let clients: Vec<_> = (0..100).map(dial).map(|(from, server)| world.host.dial(at(LISTEN), from, &server).unwrap()).collect();
    assert!(world.end_forward(forward, false));
    world.until(|world| flows.iter().all(|flow| world.guest().received(*flow) == b"hello"));
    assert!(clients.iter().all(|id| !world.host.connection(*id).saw_reset()));
}

#[test]
fn what_was_set_for_a_forward_that_is_gone_does_not_touch_the_next() {
    let mut world = World::by_hand();
    world.answers_neighbours = false;
    // A forward that waits to accept again, and one that waits to ask for its guest again.
    let forward = world.add_forward(tcp(), at(GUEST));
    let datagrams = world.add_forward(port(Protocol::Udp, at(LISTEN)), at(GUEST));
    world.host.fail(Operation::Accept, libc::EMFILE, 1);
    world.host.dial(at(LISTEN), at(CLIENT), &Server::new(Program::Idle)).unwrap();
    world.host.inject_udp(at(LISTEN), at(CLIENT), b"anybody there?");
    world.settle();
    assert!(world.end_forward(forward, true) && world.end_forward(datagrams, false));
    // Others take their places in the tables, and the numbers of their sockets.
    let next = world.add_forward(tcp(), at("10.0.2.16:22"));
    let next_datagrams = world.add_forward(port(Protocol::Udp, at(LISTEN)), at("10.0.2.16:22"));
    let before = world.host.calls();
    world.pass(Duration::from_secs(10));
    let after = world.host.calls();
    assert_eq!((after.accept, after.receive_from), (before.accept, before.receive_from), "nothing has happened to the new ones");
    assert!(!world.end_forward(forward, true) && !world.end_forward(datagrams, true), "an old number removes no new forward");
    assert!(world.end_forward(next, true) && world.end_forward(next_datagrams, true));
    assert_eq!(world.stack.waiting(), 0);
}

#[test]
fn a_thousand_forwards_come_and_go_while_not_a_byte_is_lost() {
    const BYTES: u64 = 2 << 20;
    let mut world = World::with_guest();
    world.add_forward(tcp(), at(GUEST));
    let flow = world.guest().listen(22);
    let source = Server::new(Program::Source(BYTES)).send_queue(1 << 16).receive_queue(1 << 16);
    let id = world.host.dial(at(LISTEN), at(CLIENT), &source).unwrap();
    let upload: Vec<u8> = (0..BYTES).map(|n| n as u8).collect();
    world.guest().write(flow, &upload);
    world.until(|world| world.guest().is_established(flow));
    for n in 0..1000_u16 {
        let address = SocketAddr::new(at(LISTEN).ip(), 10_000 + n);
        let forwards = [Protocol::Tcp, Protocol::Udp].map(|protocol| world.add_forward(port(protocol, address), at(GUEST)));
        // Every third has a client when it goes.
        if n % 3 == 0 {
            world.host.dial(address, at(CLIENT), &Server::new(Program::Sink).greeting(b"hello")).unwrap();
            world.host.inject_udp(address, at(CLIENT), b"hello");
        }
        world.pass(Duration::from_micros(500));
        assert!(forwards.iter().all(|forward| world.end_forward(*forward, n % 2 == 0)));
    }
    world.guest().finish(flow);
    world.until(|world| world.guest().saw_end(flow) && world.host.connection(id).saw_end());
    let mut download = vec![0; BYTES as usize];
    pattern(0, &mut download);
    assert!(world.guest().received(flow) == download, "what the guest got is not what was sent");
    assert!(world.host.connection(id).received() == upload, "what the client got is not what was sent");
    world.pass(Duration::from_secs(600));
    assert_eq!((world.host.open_sockets(), world.stack.tcp_flows(), world.stack.waiting()), (1, 0, 0), "only the first forward");
}

#[test]
fn clients_of_a_socket_in_the_file_system_are_seen_as_the_gateway_each_with_its_own_port() {
    for (guest, gateway) in [(GUEST, "10.0.2.2"), ("[fec0::15]:22", "fec0::2")] {
        let mut world = World::by_hand();
        let path = Path::new("/run/ssh.sock");
        let forward = world.add_forward(Listen::Path(path), at(guest));
        for _ in 0..200 {
            world.host.dial_local(path, &Server::new(Program::Idle)).unwrap();
        }
        world.pass(Duration::from_millis(10));
        let syns: Vec<_> = world.take_segments().into_iter().filter(|syn| syn.is(SYN)).collect();
        let mut seen: Vec<SocketAddr> = syns.iter().map(|syn| syn.source).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 200);
        assert!(seen.iter().all(|seen| seen.ip() == gateway.parse::<std::net::IpAddr>().unwrap() && seen.port() >= 49_152));
        assert!(world.end_forward(forward, true));
        assert!(world.host.connections().all(|client| client.saw_reset()));
        assert!(world.host.dial_local(path, &Server::new(Program::Idle)).is_err());
    }
}

#[test]
fn a_client_of_another_family_is_the_gateway_also_where_its_own_family_is_off() {
    let path = Path::new("/run/ssh.sock");
    let config = Config { ipv4: None, ..Config::default() };
    for (listen, client) in [(Listen::Path(path), None), (port(Protocol::Tcp, at("127.0.0.1:2222")), Some(at("127.0.0.1:5555")))] {
        let mut world = World::by_hand_with(config.clone());
        world.add_forward(listen, at("[fec0::15]:22"));
        let server = Server::new(Program::Idle);
        match client {
            None => world.host.dial_local(path, &server).unwrap(),
            Some(client) => world.host.dial(at("127.0.0.1:2222"), client, &server).unwrap(),
        };
        world.settle();
        let syn = world.take_segments().pop().unwrap();
        assert_eq!(syn.source.ip(), at("[fec0::2]:0").ip(), "{syn:?}");
    }
}

#[test]
fn a_guest_that_refuses_the_client_of_a_socket_is_a_reset_for_it() {
    let mut world = World::with_guest();
    let path = Path::new("/run/ssh.sock");
    world.add_forward(Listen::Path(path), at(GUEST));
    let id = world.host.dial_local(path, &Server::new(Program::Sink).greeting(b"anybody there?")).unwrap();
    world.until(|world| !world.host.connection(id).is_established());
    assert!(world.host.connection(id).saw_reset());
}

#[test]
fn what_the_guest_answers_after_the_end_of_a_datagram_forward_goes_nowhere_by_it() {
    let mut world = World::by_hand();
    let forward = world.add_forward(port(Protocol::Udp, at(LISTEN)), at("10.0.2.15:53"));
    world.host.inject_udp(at(LISTEN), at(CLIENT), b"question");
    world.settle();
    let answer =
        |payload: &[u8]| Datagram { source: at("10.0.2.15:53"), destination: at(CLIENT), payload: payload.to_vec() }.packet();
    world.give_packet(&answer(b"answer"));
    assert_eq!(world.host.sent_datagrams().last().unwrap().from, at(LISTEN));
    assert!(world.end_forward(forward, false));
    world.give_packet(&answer(b"once more"));
    let sent = world.host.sent_datagrams().last().unwrap();
    assert_eq!((sent.to, &sent.payload[..]), (at(CLIENT), &b"once more"[..]));
    assert_ne!(sent.from, at(LISTEN), "as the guest's own, it has a socket of its own");
    // All that was remembered of clients is gone, and their timers come to nothing.
    world.pass(Duration::from_secs(600));
    assert_eq!(world.host.open_sockets(), 0);
}
