//! The services at the virtual addresses, as far as the stack carries their messages.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use netstack::addr::MacAddr;
use netstack::config::Config;
use netstack::gateway::dhcp6::Dhcp6Server;
use netstack::host::StreamService;
use netstack::host::sim::{Program, Server};
use netstack::stack::DhcpReply;

use crate::kit::hand::Hand;
use crate::kit::wire::{self, ACK, Body, Datagram, RST};
use crate::kit::world::{PORT, World, at};

#[test]
fn a_guest_without_an_address_reaches_the_dhcp_server_and_is_answered() {
    for to in ["255.255.255.255:67", "10.0.2.2:67"] {
        let mut world = World::by_hand();
        let me = world.station();
        for broadcast in [true, false] {
            let reply = DhcpReply {
                to: if broadcast { Ipv4Addr::BROADCAST } else { me.v4 },
                mac: if broadcast { MacAddr::BROADCAST } else { me.mac },
                port: 68,
                message: b"offer".to_vec(),
            };
            world.services.dhcp_reply = Some(reply.clone());
            let discover = Datagram { source: at("0.0.0.0:68"), destination: at(to), payload: b"discover".to_vec() };
            world.give_frame(&wire::ip_frame(me.mac, MacAddr::BROADCAST, &discover.packet()));
            assert_eq!(world.services.dhcp.pop(), Some((me.mac, b"discover".to_vec())));
            let frames = world.take();
            assert_eq!(frames.len(), 1);
            assert_eq!(frames[0].destination, reply.mac);
            let Body::Udp(offer) = &frames[0].body else { panic!("{frames:?}") };
            assert_eq!((offer.source, offer.destination), (at("10.0.2.2:67"), SocketAddr::new(reply.to.into(), 68)));
            assert_eq!(offer.payload, b"offer");
        }
        world.services.dhcp_reply = None;
        let discover = Datagram { source: at("0.0.0.0:68"), destination: at(to), payload: vec![] };
        world.give_packet(&discover.packet());
        assert_eq!((world.take(), world.counters().dhcp_refused), (vec![], 1));
    }
}

#[test]
fn a_question_to_the_dns_server_is_answered_later_from_the_address_that_was_asked() {
    for server in [at("10.0.2.3:53"), at("[fec0::3]:53")] {
        let mut world = World::by_hand();
        let guest = SocketAddr::new(world.station().like(server.ip()), 40_000);
        world.give_packet(&Datagram { source: guest, destination: server, payload: b"who is?".to_vec() }.packet());
        let (way_back, question) = world.services.dns.pop().unwrap();
        assert_eq!((way_back.port, way_back.guest, way_back.server, &question[..]), (PORT, guest, server, &b"who is?"[..]));
        assert_eq!(world.take(), []);
        world.send_dns(&way_back, b"it is");
        let frames = world.take();
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].body, Body::Udp(Datagram { source: server, destination: guest, payload: b"it is".to_vec() }));
        assert_eq!(world.host.open_sockets(), 0, "no socket is needed for it");

        world.services.dns_is_busy = true;
        world.give_packet(&Datagram { source: guest, destination: server, payload: b"who is?".to_vec() }.packet());
        assert_eq!(world.counters().dns_refused, 1);
    }
}

#[test]
fn questions_over_tcp_go_to_the_service_and_to_no_socket_of_the_host() {
    for server in [at("10.0.2.3:53"), at("[fec0::3]:53")] {
        let mut world = World::by_hand();
        world.host.serve_service(StreamService::Dns, Server::new(Program::Respond(|question| question.to_ascii_uppercase())));
        let mut hand = Hand::open(&mut world, 40_000, server);
        hand.send(&mut world, b"who is?");
        assert_eq!(hand.receive(&mut world).0, b"WHO IS?");
        assert_eq!(world.host.connections().next().unwrap().local(), hand.local, "the service learns who asks");
        assert_eq!((world.host.calls().open_service, world.host.calls().connect), (1, 0));
        hand.finish(&mut world);
        assert_eq!(hand.receive(&mut world), (vec![], true));
        assert_eq!(world.host.open_sockets(), 0);
    }
}

#[test]
fn a_service_that_is_not_offered_refuses() {
    for server in [at("10.0.2.3:53"), at("10.0.2.3:80"), at("[fec0::3]:80")] {
        let mut world = World::by_hand();
        let hand = Hand::syn(&mut world, 40_000, server);
        let answer = hand.take(&mut world);
        assert!(answer.len() == 1 && answer[0].is(RST | ACK), "{answer:?}");
        assert_eq!((world.host.calls().connect, world.host.open_sockets()), (0, 0));
    }
}

#[test]
fn a_restricted_guest_reaches_nobody_but_the_dhcp_server() {
    let mut world = World::by_hand_with(Config { restrict: true, ..Config::default() });
    world.host.serve_elsewhere(Server::new(Program::Echo));
    world.host.serve_service(StreamService::Dns, Server::new(Program::Echo));
    for to in ["198.51.100.7:80", "10.0.2.2:22", "10.0.2.3:53", "[2001:db8::1]:80", "[fec0::2]:22", "[fec0::3]:53"] {
        Hand::syn(&mut world, 40_000, at(to));
        let source = SocketAddr::new(world.station().like(at(to).ip()), 40_000);
        world.give_packet(&Datagram { source, destination: at(to), payload: b"x".to_vec() }.packet());
    }
    assert_eq!((world.host.connections().count(), world.host.sent_datagrams().len(), world.services.dns.len()), (0, 0, 0));
    world.give_packet(&Datagram { source: at("0.0.0.0:68"), destination: at("255.255.255.255:67"), payload: vec![] }.packet());
    assert_eq!(world.services.dhcp.len(), 1);
}

#[test]
fn the_hosts_loopback_can_be_closed_to_guests() {
    let mut world = World::by_hand_with(Config { host_loopback: false, ..Config::default() });
    world.host.serve_elsewhere(Server::new(Program::Echo));
    for to in ["10.0.2.2:22", "[fec0::2]:22"] {
        let hand = Hand::syn(&mut world, 40_000, at(to));
        assert!(hand.take(&mut world)[0].has(RST));
        let source = SocketAddr::new(world.station().like(at(to).ip()), 40_000);
        world.give_packet(&Datagram { source, destination: at(to), payload: b"x".to_vec() }.packet());
    }
    assert_eq!((world.host.connections().count(), world.host.sent_datagrams().len()), (0, 0));
}

const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// A message of DHCPv6 from the link's own address of the guest to the servers' group or to the gateway.
fn tell_dhcp6(world: &mut World, to: Ipv6Addr, message: &[u8]) {
    let me = world.station();
    let question = Datagram {
        source: at("[fe80::5054:ff:fe12:3456]:546"),
        destination: SocketAddr::new(to.into(), 547),
        payload: message.to_vec(),
    };
    let card = if to.is_multicast() { MacAddr::of_ipv6_multicast(to) } else { MacAddr::of_virtual_host(to.into()) };
    world.give_frame(&wire::ip_frame(me.mac, card, &question.packet()));
}

/// Solicit with rapid commit and one association, of a client that goes by `number`.
fn solicit(number: u8) -> Vec<u8> {
    [&[1, 7, 7, number][..], &[0, 1, 0, 4, 0, 4, 9, number], &[0, 3, 0, 12, 0, 0, 0, 1], &[0; 8], &[0, 14, 0, 0]].concat()
}

fn with_dhcp6(config: Config) -> World {
    let server = Dhcp6Server::new(&config);
    let mut world = World::by_hand_with(config);
    world.services.dhcp6 = server;
    world.take();
    world
}

#[test]
fn a_guest_gets_an_address_by_dhcpv6_and_uses_it() {
    let mut world = with_dhcp6(Config::default());
    let me = world.station();
    tell_dhcp6(&mut world, SERVERS, &solicit(1));
    let frames = world.take();
    assert_eq!(frames.len(), 1);
    assert_eq!((frames[0].source, frames[0].destination), (MacAddr::of_virtual_host("fe80::2".parse().unwrap()), me.mac));
    let Body::Udp(reply) = &frames[0].body else { panic!("{frames:?}") };
    assert_eq!((reply.source, reply.destination), (at("[fe80::2]:547"), at("[fe80::5054:ff:fe12:3456]:546")));
    assert_eq!(reply.payload[..4], [7, 7, 7, 1], "a Reply to this transaction");
    let leased: Ipv6Addr = "fec0::15".parse().unwrap();
    assert!(reply.payload.windows(16).any(|window| window == leased.octets()), "{reply:?}");
    assert_eq!(world.host.open_sockets(), 0, "no socket is needed for it");

    let datagram =
        Datagram { source: SocketAddr::new(leased.into(), 5000), destination: at("[2001:db8::1]:7"), payload: b"x".to_vec() };
    world.give_packet(&datagram.packet());
    assert_eq!(world.host.sent_datagrams().len(), 1);
}

#[test]
fn what_is_not_for_the_dhcpv6_server_does_not_reach_it() {
    let mut world = with_dhcp6(Config::default());
    let from = at("[fe80::5054:ff:fe12:3456]:546");
    for to in ["[ff02::1:2]:548", "[ff02::1]:547", "[fec0::3]:547", "[fe80::77]:547"] {
        let me = world.station();
        let question = Datagram { source: from, destination: at(to), payload: solicit(1) };
        world.give_frame(&wire::ip_frame(me.mac, MacAddr::of_ipv6_multicast(SERVERS), &question.packet()));
        assert!(world.take().iter().all(|frame| !matches!(frame.body, Body::Udp(_))), "{to}");
    }
    // What makes no sense is counted, and so is what must not be sent to the server alone.
    tell_dhcp6(&mut world, SERVERS, &[1, 0]);
    tell_dhcp6(&mut world, "fe80::2".parse().unwrap(), &solicit(1));
    assert_eq!((world.take(), world.counters().dhcp6_refused), (vec![], 2));
}

#[test]
fn guests_that_invent_clients_get_no_more_than_their_share() {
    let mut world = with_dhcp6(Config::default());
    for number in 0..200 {
        tell_dhcp6(&mut world, SERVERS, &solicit(number));
    }
    let leases = world.services.dhcp6.as_ref().map_or(0, |server| server.leases().count());
    assert_eq!((leases, world.take().len()), (64, 200), "the others are told that there is none for them");
}

#[test]
fn a_restricted_guest_gets_no_answer_by_dhcpv6() {
    let mut world = with_dhcp6(Config { restrict: true, ..Config::default() });
    tell_dhcp6(&mut world, SERVERS, &solicit(1));
    assert_eq!((world.take(), world.counters().drop_destination), (vec![], 1));
}
