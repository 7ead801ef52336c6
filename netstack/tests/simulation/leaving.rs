//! A guest whose port is taken away: everything that belonged to it ends, and nothing of anybody else.

use std::net::SocketAddr;

use netstack::config::Protocol;
use netstack::host::sim::{Program, Server};
use netstack::port::PortId;
use netstack::time::Duration;

use crate::SERVERS;
use crate::kit::world::{PORT, Setup, World, at};

#[test]
fn the_connections_and_mappings_of_a_guest_that_is_gone_end() {
    for server in SERVERS {
        let mut world = World::new(Setup { guests: 2, ..Setup::default() });
        world.host.serve(server, Server::new(Program::Echo));
        let silent = SocketAddr::new(server.ip(), 81);
        world.host.serve(silent, Server::silent());
        let other = PortId(1);
        let mut flows = Vec::new();
        for port in [PORT, other] {
            let guest = world.guests.get_mut(&port).unwrap();
            let flow = guest.connect(server);
            guest.write(flow, b"hello");
            guest.connect(silent);
            let socket = guest.udp(5000);
            guest.send_to(socket, server, b"hello");
            flows.push(flow);
        }
        world.until(|world| [PORT, other].iter().zip(&flows).all(|(port, flow)| world.guests[port].received(*flow) == b"hello"));
        assert_eq!(world.host.open_sockets(), 6);

        world.unplug(PORT);
        assert_eq!(world.host.open_sockets(), 3);
        assert_eq!((world.stack.tcp_flows(), world.stack.udp_mappings()), (2, 1));
        assert_eq!(world.host.connections().filter(|connection| connection.saw_reset()).count(), 1);
        world.pass(Duration::from_secs(200));
        let guest = world.guests.get_mut(&other).unwrap();
        guest.write(flows[1], b", again");
        world.until(|world| world.guests[&other].received(flows[1]) == b"hello, again");
    }
}

#[test]
fn a_guest_that_is_gone_while_its_port_was_full_is_forgotten() {
    for server in SERVERS {
        let mut world = World::with_guest();
        world.host.serve(server, Server::new(Program::Source(1_000_000)));
        let flow = world.guest().connect(server);
        world.until(|world| !world.guest().received(flow).is_empty());
        let card = world.link.cards.get_mut(&PORT).unwrap();
        (card.capacity, card.stalled) = (4, true);
        world.pass(Duration::from_secs(1));
        assert!(world.stack.waits_for(PORT));
        world.unplug(PORT);
        assert!(!world.stack.waits_for(PORT));
        world.pass(Duration::from_secs(100));
        assert_eq!((world.host.open_sockets(), world.stack.tcp_flows()), (0, 0));
    }
}

#[test]
fn clients_of_a_forward_to_a_guest_that_is_gone_are_reset_and_new_ones_wait_for_it() {
    let (listen, client, guest) = (at("192.0.2.1:2222"), at("203.0.113.9:4000"), at("10.0.2.15:22"));
    let mut world = World::with_guest();
    world.forward(Protocol::Tcp, listen, guest);
    let flow = world.guest().listen(22);
    let first = world.host.dial(listen, client, &Server::new(Program::Idle)).unwrap();
    world.until(|world| world.guest().is_established(flow));
    world.unplug(PORT);
    assert!(world.host.connection(first).saw_reset());
    let second = world.host.dial(listen, client, &Server::new(Program::Idle)).unwrap();
    world.pass(Duration::from_secs(10));
    assert!(world.host.connection(second).is_established());
    world.plug(PORT);
    let flow = world.guest().listen(22);
    world.until(|world| world.guest().is_established(flow));
}
