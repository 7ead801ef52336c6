//! UDP through the address translation (RFC 4787): one socket for each of a guest's ports, whoever it talks to.

use std::net::{IpAddr, SocketAddr};

use netstack::config::{Config, Limits, Protocol, Timeouts};
use netstack::frame::{Checksum, FrameMeta, Gso, GsoKind, Offloads};
use netstack::host::sim::{HOST_V4, HOST_V6, Operation, UdpServer};
use netstack::time::Duration;

use crate::kit::wire::{self, Body, Datagram};
use crate::kit::world::{GATEWAY, Setup, World, at};

const PORT: u16 = 50_000;

/// Two servers in each family.
fn families() -> [(SocketAddr, SocketAddr); 2] {
    [(at("198.51.100.7:123"), at("198.51.100.8:456")), (at("[2001:db8:1::7]:123"), at("[2001:db8:1::8]:456"))]
}

fn send(world: &mut World, port: u16, to: SocketAddr, payload: &[u8]) {
    let source = SocketAddr::new(world.station().like(to.ip()), port);
    world.give_packet(&Datagram { source, destination: to, payload: payload.to_vec() }.packet());
}

/// The datagrams that have arrived.
fn take(world: &mut World) -> Vec<Datagram> {
    world
        .take()
        .into_iter()
        .filter_map(|parsed| if let Body::Udp(datagram) = parsed.body { Some(datagram) } else { None })
        .collect()
}

/// The address by which the host's side knows the mapping that was used last.
fn mapped(world: &World) -> SocketAddr {
    world.host.sent_datagrams().last().unwrap().from
}

#[test]
fn a_guest_asks_and_is_answered() {
    for (server, _) in families() {
        let mut world = World::with_guest();
        world.host.serve_udp(server, UdpServer::Echo);
        let socket = world.guest().udp(5000);
        world.guest().send_to(socket, server, b"what time is it?");
        let mut answers = Vec::new();
        world.until(|world| {
            answers.extend(world.guest().receive(socket));
            !answers.is_empty()
        });
        assert_eq!(answers, [(server, b"what time is it?".to_vec())]);
    }
}

#[test]
fn all_destinations_see_the_same_port() {
    for (server, other) in families() {
        let mut world = World::by_hand();
        send(&mut world, PORT, server, b"1");
        send(&mut world, PORT, other, b"2");
        let sent = world.host.sent_datagrams();
        assert_eq!(sent.len(), 2);
        assert_eq!(sent[0].from, sent[1].from, "RFC 4787 REQ-1: the mapping does not depend on the destination");
        assert_eq!((world.host.open_sockets(), world.counters().udp_mapped), (1, 1));
        send(&mut world, PORT + 1, server, b"3");
        assert_ne!(mapped(&world), world.host.sent_datagrams()[0].from);
        assert_eq!(world.host.open_sockets(), 2);
    }
}

#[test]
fn only_hosts_that_the_guest_has_written_to_may_write_back() {
    for (server, stranger) in families() {
        let mut world = World::by_hand();
        send(&mut world, PORT, server, b"hello");
        let mapped = mapped(&world);
        assert!(world.host.inject_udp(mapped, stranger, b"buy this"));
        world.settle();
        assert_eq!(take(&mut world), []);
        assert_eq!(world.counters().drop_filtered, 1);
        // RFC 4787 section 5, address-dependent: the port does not matter.
        let same_host = SocketAddr::new(server.ip(), 9999);
        world.host.inject_udp(mapped, same_host, b"from another port");
        world.settle();
        let datagrams = take(&mut world);
        assert_eq!(datagrams.len(), 1);
        assert_eq!((datagrams[0].source, datagrams[0].destination.port()), (same_host, PORT));
        // And once it was written to, the stranger is none.
        send(&mut world, PORT, stranger, b"who are you?");
        world.host.inject_udp(mapped, stranger, b"a friend");
        world.settle();
        assert_eq!(take(&mut world).len(), 1);
    }
}

#[test]
fn a_full_cone_lets_everybody_write() {
    for (server, stranger) in families() {
        let mut world = World::by_hand_with(Config { full_cone: true, ..Config::default() });
        send(&mut world, PORT, server, b"hello");
        let mapped = mapped(&world);
        world.host.inject_udp(mapped, stranger, b"nice to meet you");
        world.settle();
        let datagrams = take(&mut world);
        assert_eq!(datagrams.len(), 1);
        assert_eq!(datagrams[0].source, stranger);
    }
}

#[test]
fn a_mapping_lives_as_long_as_the_guest_uses_it() {
    for (server, _) in families() {
        let config =
            Config { timeouts: Timeouts { udp_idle: Duration::from_secs(300), ..Timeouts::default() }, ..Config::default() };
        let mut world = World::by_hand_with(config);
        send(&mut world, PORT, server, b"1");
        let first = mapped(&world);
        world.pass(Duration::from_secs(200));
        send(&mut world, PORT, server, b"2");
        world.pass(Duration::from_secs(200));
        assert_eq!(world.host.open_sockets(), 1);
        // RFC 4787 REQ-6: what comes from outside does not keep it.
        world.host.inject_udp(first, server, b"stay!");
        world.pass(Duration::from_secs(150));
        assert_eq!(world.host.open_sockets(), 0);
        send(&mut world, PORT, server, b"3");
        assert_eq!((world.host.open_sockets(), world.counters().udp_mapped), (1, 2));
    }
}

#[test]
fn the_guest_sees_the_hosts_loopback_as_the_gateway() {
    for (gateway, loopback) in [(at("10.0.2.2:7"), at("127.0.0.1:7")), (at("[fec0::2]:7"), at("[::1]:7"))] {
        let mut world = World::by_hand();
        world.host.serve_udp(loopback, UdpServer::Echo);
        send(&mut world, PORT, gateway, b"ping");
        let datagrams = take(&mut world);
        assert_eq!(datagrams.len(), 1);
        assert_eq!((datagrams[0].source, &datagrams[0].payload[..]), (gateway, &b"ping"[..]));
    }
}

#[test]
fn datagrams_of_all_sizes_pass() {
    for (server, _) in families() {
        let headers = if server.is_ipv4() { 28 } else { 48 };
        let mut world = World::by_hand();
        world.host.serve_udp(server, UdpServer::Echo);
        for len in [0, 1, 2, 3, 1000, 1500 - headers] {
            send(&mut world, PORT, server, &vec![7; len]);
            let datagrams = take(&mut world);
            assert_eq!(datagrams.len(), 1, "{len} bytes");
            assert_eq!(datagrams[0].payload.len(), len);
        }
        assert_eq!(world.fragments_received(), 0);
        let mapped = mapped(&world);
        world.host.inject_udp(mapped, server, &vec![7; 1501 - headers]);
        world.settle();
        assert_eq!(take(&mut world)[0].payload.len(), 1501 - headers);
        assert_eq!((world.fragments_received(), world.counters().drop_too_large), (2, 0));
    }
}

#[test]
fn a_batch_of_the_guest_is_sent_in_one_call() {
    for (server, _) in families() {
        let mut world = World::by_hand();
        let source = SocketAddr::new(world.station().like(server.ip()), PORT);
        let payload: Vec<u8> = (0..=254).cycle().take(10_500).collect();
        let mut packet = Datagram { source, destination: server, payload: payload.clone() }.packet();
        let start = packet.len() - payload.len() - 8;
        let pseudo = wire::pseudo_header(source.ip(), server.ip(), wire::PROTOCOL_UDP, packet.len() - start);
        packet[start + 6..start + 8].copy_from_slice(&wire::fold(&pseudo).to_be_bytes());
        let meta = FrameMeta {
            checksum: Checksum::Partial { start: u16::try_from(14 + start).unwrap(), offset: 6 },
            gso: Some(Gso { kind: GsoKind::Udp, size: 1000, ecn: false }),
        };
        world.give_frame_with(&wire::ip_frame(world.station().mac, GATEWAY, &packet), meta);
        let sent: Vec<&[u8]> = world.host.sent_datagrams().iter().map(|datagram| &datagram.payload[..]).collect();
        assert_eq!(sent, payload.chunks(1000).collect::<Vec<_>>());
        assert_eq!(world.host.calls().send_to, 1);
    }
}

#[test]
fn a_batch_from_the_host_arrives_datagram_by_datagram_whatever_the_port_can_do() {
    for (server, _) in families() {
        for offloads in [Offloads::ALL, Offloads::NONE, Offloads { uso: false, ..Offloads::ALL }] {
            let mut world = World::new(Setup { guests: 0, offloads, ..Setup::default() });
            send(&mut world, PORT, server, b"begin");
            let mapped = mapped(&world);
            let payload: Vec<u8> = (0..=254).cycle().take(10_500).collect();
            world.host.inject_udp_segments(mapped, server, &payload, 1000);
            world.settle();
            let datagrams = take(&mut world);
            let got: Vec<&[u8]> = datagrams.iter().map(|datagram| &datagram.payload[..]).collect();
            assert_eq!(got, payload.chunks(1000).collect::<Vec<_>>(), "{offloads:?}");
        }
    }
}

#[test]
fn mappings_are_limited_and_what_the_host_lacks_is_counted() {
    for (server, _) in families() {
        let limits = Limits { udp_mappings: 20, ..Limits::default() };
        let mut world = World::by_hand_with(Config { limits, ..Config::default() });
        for port in 1000..1050 {
            send(&mut world, port, server, b"x");
        }
        assert!(world.host.open_sockets() <= 20);
        assert_eq!(world.counters().udp_limit_mappings + world.host.open_sockets() as u64, 50);

        let mut world = World::by_hand();
        for errno in [libc::EMFILE, libc::EADDRNOTAVAIL, libc::ENOBUFS] {
            world.host.fail(Operation::BindDatagram, errno, 1);
            send(&mut world, PORT, server, b"x");
        }
        assert_eq!((world.counters().udp_limit_host, world.host.open_sockets()), (3, 0));
        send(&mut world, PORT, server, b"x");
        assert_eq!(world.host.sent_datagrams().len(), 1);
    }
}

#[test]
fn what_a_mapping_remembers_of_its_peers_is_limited() {
    for (server, _) in families() {
        let limits = Limits { udp_peers: 8, ..Limits::default() };
        let mut world = World::by_hand_with(Config { limits, ..Config::default() });
        let peer = |n: u8| match server.ip() {
            IpAddr::V4(_) => at(&format!("198.51.100.{n}:53")),
            IpAddr::V6(_) => at(&format!("[2001:db8:1::{n:x}]:53")),
        };
        for n in 10..110 {
            send(&mut world, PORT, peer(n), b"x");
        }
        assert_eq!(world.host.sent_datagrams().len(), 100, "sending is never refused for it");
        let mapped = mapped(&world);
        world.host.inject_udp(mapped, peer(109), b"the last one is known");
        world.settle();
        assert_eq!(take(&mut world).len(), 1);
    }
}

#[test]
fn a_send_queue_that_is_full_loses_datagrams_and_says_how_many() {
    for (server, _) in families() {
        let mut world = World::by_hand();
        send(&mut world, PORT, server, b"1");
        world.host.set_udp_full(true);
        send(&mut world, PORT, server, b"2");
        world.host.set_udp_full(false);
        send(&mut world, PORT, server, b"3");
        world.host.fail(Operation::SendTo, libc::ENOBUFS, 1);
        send(&mut world, PORT, server, b"4");
        send(&mut world, PORT, server, b"5");
        assert_eq!(world.host.sent_datagrams().len(), 3);
        assert_eq!(world.counters().drop_host_send, 2);
    }
}

#[test]
fn an_unreachable_destination_is_told_by_icmp() {
    for (server, _) in families() {
        let mut world = World::by_hand();
        world.host.fail(Operation::SendTo, libc::ENETUNREACH, 1);
        send(&mut world, PORT, server, b"anybody?");
        let icmp = world.take_icmp();
        assert_eq!((icmp.len(), icmp[0].kind), (1, if server.is_ipv4() { 3 } else { 1 }));
    }
}

#[test]
fn a_port_that_is_full_loses_no_more_than_datagrams_may_be() {
    for (server, _) in families() {
        let mut world = World::by_hand();
        send(&mut world, PORT, server, b"begin");
        let mapped = mapped(&world);
        let card = world.link.cards.get_mut(&crate::kit::world::PORT).unwrap();
        (card.capacity, card.stalled) = (4, true);
        for _ in 0..20 {
            world.host.inject_udp(mapped, server, b"x");
        }
        world.settle();
        world.link.cards.get_mut(&crate::kit::world::PORT).unwrap().stalled = false;
        world.pass(Duration::from_secs(1));
        let arrived = take(&mut world).len();
        assert!(arrived >= 4);
        assert_eq!(arrived as u64 + world.counters().drop_port_full, 20);
    }
}

#[test]
fn a_forward_leads_to_a_guest_that_must_be_looked_for_and_its_answers_back() {
    for (listen, client, guest) in [
        (SocketAddr::new(HOST_V4.into(), 5353), at("203.0.113.9:4000"), at("10.0.2.15:53")),
        (SocketAddr::new(HOST_V6.into(), 5353), at("[2001:db8:9::9]:4000"), at("[fec0::15]:53")),
    ] {
        // Whether the guest is known yet or has to be looked for first: RFC 1122 section 2.3.2.2.
        let mut world = World::by_hand();
        world.forward(Protocol::Udp, listen, guest);
        world.host.inject_udp(listen, client, b"question");
        world.settle();
        let datagrams = take(&mut world);
        assert_eq!(datagrams, [Datagram { source: client, destination: guest, payload: b"question".to_vec() }]);
        send(&mut world, 53, client, b"answer");
        let sent = world.host.sent_datagrams().last().unwrap();
        assert_eq!((sent.from, sent.to, &sent.payload[..]), (listen, client, &b"answer"[..]));
    }
}

#[test]
fn the_answer_to_a_datagram_from_nowhere_is_nothing() {
    let mut world = World::by_hand();
    for to in ["127.0.0.1:7", "0.0.0.0:7", "224.0.0.251:5353", "255.255.255.255:7", "10.0.2.255:7", "[ff02::1]:7", "[::1]:7"] {
        send(&mut world, PORT, at(to), b"x");
    }
    assert_eq!((world.host.sent_datagrams().len(), world.host.open_sockets()), (0, 0));
}
