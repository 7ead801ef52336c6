//! ICMP errors: what the host's network says of guests' datagrams, what we say ourselves, and what nobody may learn from either.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netstack::config::{Config, Limits, Protocol};
use netstack::frame::{Checksum, FrameMeta, Gso, GsoKind, Offloads};
use netstack::host::sim::{HOST_V4, HOST_V6, UdpServer, Way};
use netstack::time::Duration;
use netstack::wire::icmp_error::{Problem, Unreachable};

use crate::kit::wire::{self, Body, Datagram, Icmp, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_UDP, Quoted, SYN, Segment};
use crate::kit::world::{GATEWAY, Setup, World, at};

const PORT: u16 = 50_000;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A server far away, and two routers on the way to it, in each family.
fn families() -> [(SocketAddr, [IpAddr; 2]); 2] {
    [
        (at("198.51.100.7:33434"), [ip("203.0.113.1"), ip("203.0.113.2")]),
        (at("[2001:db8:1::7]:33434"), [ip("2001:db8:2::1"), ip("2001:db8:2::2")]),
    ]
}

fn gateway(like: SocketAddr) -> IpAddr {
    if like.is_ipv4() { ip("10.0.2.2") } else { ip("fec0::2") }
}

fn datagram(world: &World, to: SocketAddr, payload: &[u8]) -> Datagram {
    let source = SocketAddr::new(world.station().like(to.ip()), PORT);
    Datagram { source, destination: to, payload: payload.to_vec() }
}

/// The only ICMP message that has arrived.
fn told(world: &mut World) -> Icmp {
    let mut all = told_all(world);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn told_all(world: &mut World) -> Vec<Icmp> {
    world.take().into_iter().filter_map(|parsed| if let Body::Icmp(icmp) = parsed.body { Some(icmp) } else { None }).collect()
}

/// Type and code of an error in the version of `like`.
fn kind(like: SocketAddr, v4: (u8, u8), v6: (u8, u8)) -> (u8, u8) {
    if like.is_ipv4() { v4 } else { v6 }
}

#[test]
fn the_way_is_found_by_datagrams() {
    for (server, routers) in families() {
        let mut world = World::by_hand();
        world.host.lay(server.ip(), Way::direct().router(routers[0], 1500).router(routers[1], 1500));
        world.host.serve_udp(server, UdpServer::Closed);
        let question = datagram(&world, server, b"which way?");
        let steps =
            [(11, 0, 3, 0, gateway(server)), (11, 0, 3, 0, routers[0]), (11, 0, 3, 0, routers[1]), (3, 3, 1, 4, server.ip())];
        for (hops, (kind4, code4, kind6, code6, who)) in (1..).zip(steps) {
            world.give_packet(&wire::with_hop_limit(question.packet(), hops));
            let told = told(&mut world);
            assert_eq!((told.kind, told.code), kind(server, (kind4, code4), (kind6, code6)));
            assert_eq!((told.source, told.destination), (who, question.source.ip()), "after {hops} hops");
            let quoted = told.quoted();
            assert_eq!((quoted.source, quoted.destination), (question.source.ip(), server.ip()));
            assert_eq!((quoted.protocol, quoted.ports()), (PROTOCOL_UDP, (PORT, 33434)));
        }
        assert_eq!((world.counters().icmp_errors_in, world.counters().icmp_errors_out), (3, 4));
        assert_eq!(world.counters().drop_hop_limit, 1);
    }
}

#[test]
fn all_of_a_datagram_that_the_network_quotes_is_quoted_to_the_guest() {
    for (server, [router, _]) in families() {
        let mut world = World::by_hand();
        world.host.lay(server.ip(), Way::direct().router(router, 1500).unreachable(Unreachable::Host));
        world.host.set_quoted(10_000);
        let question = datagram(&world, server, b"anybody?");
        world.give_packet(&question.packet());
        let quoted = told(&mut world).quoted();
        let sent = question.packet();
        assert_eq!(
            quoted.transport,
            sent[if server.is_ipv4() { 20 } else { 40 }..],
            "header and payload, with the guest's checksum"
        );
        // What is too long is cut where the standards say.
        world.give_packet(&datagram(&world, server, &[7; 1400]).packet());
        let told = told(&mut world);
        let header = if server.is_ipv4() { 20 } else { 40 };
        assert_eq!(header + 8 + told.payload.len(), if server.is_ipv4() { 576 } else { 1280 });
    }
}

#[test]
fn what_the_network_says_reaches_the_guest_in_its_own_words() {
    use Unreachable::{Host, Network, Port, Prohibited};
    for (server, [router, _]) in families() {
        for (why, v4, v6) in
            [(Network, (3, 0), (1, 0)), (Host, (3, 1), (1, 3)), (Port, (3, 3), (1, 4)), (Prohibited, (3, 13), (1, 1))]
        {
            let mut world = World::by_hand();
            world.host.lay(server.ip(), Way::direct().router(router, 1500).unreachable(why));
            world.give_packet(&datagram(&world, server, b"anybody?").packet());
            let told = told(&mut world);
            assert_eq!(((told.kind, told.code), told.source), (kind(server, v4, v6), router), "{why:?}");
        }
    }
}

#[test]
fn a_closed_port_of_the_hosts_loopback_is_told_of_by_the_gateway() {
    for (seen, real) in [(at("10.0.2.2:9"), at("127.0.0.1:9")), (at("[fec0::2]:9"), at("[::1]:9"))] {
        let mut world = World::by_hand();
        world.host.serve_udp(real, UdpServer::Closed);
        let question = datagram(&world, seen, b"anybody?");
        world.give_packet(&question.packet());
        let told = told(&mut world);
        assert_eq!((told.kind, told.code), kind(seen, (3, 3), (1, 4)));
        assert_eq!((told.source, told.destination), (seen.ip(), question.source.ip()));
        let quoted = told.quoted();
        assert_eq!((quoted.source, quoted.destination, quoted.ports()), (question.source.ip(), seen.ip(), (PORT, 9)));
    }
}

#[test]
fn a_datagram_that_is_too_big_for_the_way_is_answered_with_what_it_takes() {
    for (server, [router, _]) in families() {
        let mut world = World::by_hand();
        world.host.lay(server.ip(), Way::direct().router(router, 1300));
        world.host.serve_udp(server, UdpServer::Echo);
        // The router says so first; then this host knows.
        for who in [router, gateway(server)] {
            world.give_packet(&datagram(&world, server, &[7; 1400]).packet());
            let told = told(&mut world);
            assert_eq!((told.kind, told.code), kind(server, (3, 4), (2, 0)));
            assert_eq!((told.source, told.rest), (who, [0, 0, 0x05, 0x14]), "the MTU is 1300");
            assert_eq!(told.quoted().ports(), (PORT, server.port()));
        }
        world.give_packet(&datagram(&world, server, &[7; 1200]).packet());
        assert!(matches!(&world.take()[..], [wire::Parsed { body: Body::Udp(answer), .. }] if answer.payload.len() == 1200));
        assert_eq!(world.counters().drop_host_send, 1);
    }
}

#[test]
fn the_hosts_own_link_may_be_the_narrow_one() {
    for (server, _) in families() {
        let mut world = World::by_hand();
        world.host.lay(server.ip(), Way::direct().mtu(1400));
        world.give_packet(&datagram(&world, server, &[7; 1400]).packet());
        let told = told(&mut world);
        assert_eq!((told.kind, told.code), kind(server, (3, 4), (2, 0)));
        assert_eq!((told.source, told.rest), (gateway(server), [0, 0, 0x05, 0x78]));
        assert_eq!(world.host.sent_datagrams(), []);
    }
}

#[test]
fn a_super_frame_too_big_for_the_way_is_answered_too() {
    for (server, [router, _]) in families() {
        let mut world = World::new(Setup { guests: 0, offloads: Offloads::ALL, latency: Duration::ZERO, ..Setup::default() });
        world.host.lay(server.ip(), Way::direct().router(router, 1300));
        let packet = datagram(&world, server, &[7; 2800]).packet();
        let start = if server.is_ipv4() { 34 } else { 54 };
        let meta = FrameMeta {
            checksum: Checksum::Partial { start, offset: 6 },
            gso: Some(Gso { kind: GsoKind::Udp, size: 1400, ecn: false }),
        };
        world.give_frame_with(&wire::ip_frame(world.station().mac, GATEWAY, &packet), meta);
        let told = told_all(&mut world);
        assert!(!told.is_empty());
        assert!(told.iter().all(|told| (told.kind, told.code) == kind(server, (3, 4), (2, 0)) && told.rest == [0, 0, 0x05, 0x14]));
    }
}

#[test]
fn the_mark_that_forbids_fragments_goes_where_the_datagram_goes() {
    let (server, [router, _]) = families()[0];
    let mut world = World::by_hand();
    world.host.lay(server.ip(), Way::direct().router(router, 1300));
    let question = datagram(&world, server, &[7; 1400]);
    world.give_packet(&wire::fragmentable(question.packet()));
    assert_eq!(told_all(&mut world), []);
    let sent = &world.host.sent_datagrams()[0];
    assert!(!sent.options.dont_fragment && sent.payload.len() == 1400);
}

#[test]
fn usual_hop_limits_are_left_to_the_host() {
    for (server, _) in families() {
        let mut world = World::by_hand();
        let question = datagram(&world, server, b"hello");
        for (hops, sent) in [(255, None), (128, None), (64, None), (32, None), (31, Some(30)), (2, Some(1))] {
            world.give_packet(&wire::with_hop_limit(question.packet(), hops));
            assert_eq!(world.host.sent_datagrams().last().unwrap().options.hop_limit, sent, "{hops}");
        }
        assert_eq!(world.counters().udp_datagrams_out, 6);
    }
}

#[test]
fn nothing_goes_further_than_its_hop_limit_lets_it() {
    for (server, _) in families() {
        let mut world = World::by_hand();
        let me = world.station().like(server.ip());
        let syn = Segment {
            source: SocketAddr::new(me, PORT),
            destination: server,
            flags: SYN,
            seq: 1,
            ack: 0,
            window: 1000,
            options: vec![],
            payload: vec![],
        };
        let echo_kind = if server.is_ipv4() { 8 } else { 128 };
        let echo = Icmp { source: me, destination: server.ip(), kind: echo_kind, code: 0, rest: [0; 4], payload: vec![] };
        for packet in [syn.packet(), datagram(&world, server, b"hello").packet(), echo.packet()] {
            for hops in [0, 1] {
                let packet = wire::with_hop_limit(packet.clone(), hops);
                world.give_packet(&packet);
                let told = told(&mut world);
                assert_eq!((told.kind, told.code), kind(server, (11, 0), (3, 0)));
                assert_eq!((told.source, told.payload), (gateway(server), packet));
            }
        }
        assert_eq!((world.host.open_sockets(), world.counters().drop_hop_limit), (0, 6));
        // The gateway itself is no further than the gateway.
        let virtual_host = SocketAddr::new(gateway(server), 9);
        let echo = Icmp { destination: virtual_host.ip(), ..echo };
        world.give_packet(&wire::with_hop_limit(echo.packet(), 1));
        assert_eq!(told(&mut world).source, virtual_host.ip());
        world.give_packet(&wire::with_hop_limit(datagram(&world, virtual_host, b"hello").packet(), 1));
        assert_eq!(world.host.sent_datagrams().len(), 1);
    }
}

#[test]
fn nobody_is_told_an_error_about_an_error() {
    for (server, _) in families() {
        let mut world = World::by_hand();
        let me = world.station().like(server.ip());
        let quote = datagram(&world, server, b"hello").packet();
        for kind in if server.is_ipv4() { [3, 4, 5, 11, 12] } else { [1, 2, 3, 4, 100] } {
            for to in [server.ip(), gateway(server)] {
                let error = Icmp { source: me, destination: to, kind, code: 0, rest: [0; 4], payload: quote.clone() };
                for hops in [64, 1] {
                    world.give_packet(&wire::with_hop_limit(error.packet(), hops));
                }
            }
        }
        assert_eq!(told_all(&mut world), []);
        assert_eq!((world.counters().drop_icmp_error, world.host.calls().about_sockets()), (20, 0));
    }
}

#[test]
fn who_makes_up_errors_is_not_believed() {
    for (server, [router, _]) in families() {
        let mut world = World::by_hand();
        world.give_packet(&datagram(&world, server, b"hello").packet());
        let mapping = world.host.sent_datagrams()[0].from;
        let other = SocketAddr::new(router, 53);
        world.host.inject_error(mapping, Problem::Unreachable(Unreachable::Port), router, other, b"never sent");
        world.settle();
        assert_eq!(told_all(&mut world), []);
        assert_eq!((world.counters().drop_filtered, world.counters().icmp_errors_in), (1, 1));
    }
}

#[test]
fn an_error_does_not_keep_datagrams_from_going_on() {
    for (server, [router, _]) in families() {
        let mut world = World::by_hand();
        world.host.serve_udp(server, UdpServer::Echo);
        world.give_packet(&datagram(&world, server, b"one").packet());
        let mapping = world.host.sent_datagrams()[0].from;
        for _ in 0..200 {
            world.host.inject_error(mapping, Problem::Unreachable(Unreachable::Host), router, server, b"one");
        }
        world.host.inject_udp(mapping, server, b"and another answer");
        world.settle();
        world.give_packet(&datagram(&world, server, b"two").packet());
        let heard = world.take();
        let answers: Vec<_> = heard
            .iter()
            .filter_map(|parsed| if let Body::Udp(answer) = &parsed.body { Some(&answer.payload[..]) } else { None })
            .collect();
        assert_eq!(answers, [&b"one"[..], b"and another answer", b"two"]);
        assert_eq!((heard.len(), world.counters().icmp_errors_in), (203, 200), "and each error was told");
    }
}

#[test]
fn a_guest_behind_a_forward_learns_that_its_answer_did_not_arrive() {
    for (client, [router, _]) in families() {
        let mut world = World::by_hand();
        let guest = SocketAddr::new(world.station().like(client.ip()), 69);
        let any: IpAddr = if client.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let forward = SocketAddr::new(any, 6969);
        world.forward(Protocol::Udp, forward, guest);
        world.host.lay(client.ip(), Way::direct().router(router, 1500).unreachable(Unreachable::Port));
        let host = SocketAddr::new(if client.is_ipv4() { HOST_V4.into() } else { HOST_V6.into() }, 6969);
        world.host.inject_udp(host, client, b"hello");
        world.until(|world| world.take().iter().any(|parsed| matches!(parsed.body, Body::Udp(_))));
        let answer = Datagram { source: guest, destination: client, payload: b"hello yourself".to_vec() };
        world.give_packet(&answer.packet());
        let told = told(&mut world);
        assert_eq!((told.kind, told.code), kind(client, (3, 3), (1, 4)));
        let Quoted { source, destination, .. } = told.quoted();
        assert_eq!((told.source, source, destination), (router, guest.ip(), client.ip()));
    }
}

/// Whether an address is anywhere in what a guest has received.
fn contains(frame: &[u8], ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => frame.windows(4).any(|window| window == ip.octets()),
        IpAddr::V6(ip) => frame.windows(16).any(|window| window == ip.octets()),
    }
}

#[test]
fn no_address_of_the_host_leaks() {
    let secrets: [IpAddr; 4] = [HOST_V4.into(), HOST_V6.into(), Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    for (server, [router, _]) in families() {
        let mut world = World::by_hand();
        world.host.set_quoted(10_000);
        let loopback: IpAddr = if server.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        let own: IpAddr = if server.is_ipv4() { HOST_V4.into() } else { HOST_V6.into() };
        world.host.lay(server.ip(), Way::direct());
        world.host.serve_udp(server, UdpServer::Closed);
        world.host.serve_udp(SocketAddr::new(loopback, 9), UdpServer::Closed);
        let echo_kind = if server.is_ipv4() { 8 } else { 128 };
        let echo = Icmp {
            source: world.station().like(server.ip()),
            destination: server.ip(),
            kind: echo_kind,
            code: 0,
            rest: [0, 1, 0, 1],
            payload: vec![9; 700],
        };
        // What the guest sends is answered by every error that there is, told by everybody who could tell it.
        world.give_packet(&datagram(&world, server, &[9; 700]).packet());
        world.give_packet(&datagram(&world, SocketAddr::new(gateway(server), 9), &[9; 700]).packet());
        world.give_packet(&echo.packet());
        let mapping = world.host.sent_datagrams()[0].from;
        let ping = world.host.sent_echoes()[0].clone();
        let identifier = SocketAddr::new(own, u16::from_be_bytes(ping.message[4..6].try_into().unwrap()));
        for teller in [loopback, own, router, server.ip()] {
            for problem in [
                Problem::HopLimit,
                Problem::Reassembly,
                Problem::TooBig { mtu: 1280 },
                Problem::Parameter { code: 0, pointer: 1 },
                Problem::Unreachable(Unreachable::Network),
                Problem::Unreachable(Unreachable::Protocol),
            ] {
                let to = SocketAddr::new(loopback, 9);
                world.host.inject_error(mapping, problem, teller, server, &[9; 700]);
                world.host.inject_error(mapping, problem, teller, to, &[9; 700]);
                world.host.inject_error(identifier, problem, teller, SocketAddr::new(server.ip(), 0), &ping.message);
                world.settle();
            }
        }
        let mut errors = 0;
        for parsed in world.take() {
            let Body::Icmp(icmp) = &parsed.body else { continue };
            let protocol = if server.is_ipv4() { PROTOCOL_ICMP } else { PROTOCOL_ICMPV6 };
            let mut packet = vec![icmp.kind, icmp.code, 0, 0];
            packet.extend(icmp.rest);
            packet.extend(&icmp.payload);
            let packet = wire::packet(icmp.source, icmp.destination, protocol, &packet);
            for secret in secrets {
                assert!(!contains(&packet, secret), "{secret} in {icmp:?}");
            }
            assert!([gateway(server), router, server.ip()].contains(&icmp.source), "{icmp:?}");
            if icmp.kind != echo_kind && icmp.kind != 129 && icmp.kind != 0 {
                errors += 1;
                // Not even in a sum: what is quoted is what the guest has sent, down to its checksum.
                let quoted = icmp.quoted();
                if quoted.protocol == protocol {
                    let len = quoted.transport.len();
                    assert_eq!(quoted.transport[..], echo.packet()[if server.is_ipv4() { 20 } else { 40 }..][..len]);
                }
            }
        }
        assert_eq!(errors, 2 + 4 * 6 * 3, "each error was told");
    }
}

#[test]
fn a_flood_of_what_cannot_be_is_answered_by_so_many_errors_a_second() {
    for (server, _) in families() {
        let limits = Limits { icmp_errors_per_second: 10, ..Limits::default() };
        let mut world = World::by_hand_with(Config { limits, ..Config::default() });
        let packet = wire::with_hop_limit(datagram(&world, server, b"hello").packet(), 1);
        for _ in 0..100 {
            world.give_packet(&packet);
        }
        assert_eq!((told_all(&mut world).len(), world.counters().icmp_limit_errors), (10, 90));
        world.pass(Duration::from_millis(500));
        for _ in 0..100 {
            world.give_packet(&packet);
        }
        assert_eq!(told_all(&mut world).len(), 5);
    }
}

#[test]
fn errors_fit_the_link() {
    let (server, [router, _]) = families()[0];
    let mut world =
        World::new(Setup { guests: 0, mtu: 300, config: Config { ipv6: None, ..Config::default() }, ..Setup::default() });
    world.host.set_quoted(10_000);
    world.host.lay(server.ip(), Way::direct().router(router, 1500).unreachable(Unreachable::Host));
    world.give_packet(&datagram(&world, server, &[1; 272]).packet());
    let told = told(&mut world);
    assert_eq!(20 + 8 + told.payload.len(), 300);
}
