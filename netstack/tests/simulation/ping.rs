//! Pinging the world: echo requests through ping sockets of the host (RFC 5508).

use std::net::IpAddr;

use netstack::config::{Config, Limits, Timeouts};
use netstack::frame::Offloads;
use netstack::host::sim::{Operation, Way};
use netstack::port::PortId;
use netstack::time::Duration;

use crate::kit::wire::{self, Body, Icmp};
use crate::kit::world::{PORT, Setup, World};

const ID: u16 = 0x1234;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A host far away, two routers on the way to it, and another host, in each family.
fn families() -> [(IpAddr, [IpAddr; 2], IpAddr); 2] {
    [
        (ip("198.51.100.7"), [ip("203.0.113.1"), ip("203.0.113.2")], ip("198.51.100.8")),
        (ip("2001:db8:1::7"), [ip("2001:db8:2::1"), ip("2001:db8:2::2")], ip("2001:db8:1::8")),
    ]
}

/// An echo request of the guest.
fn request(world: &World, to: IpAddr, id: u16, seq: u16, data: &[u8]) -> Icmp {
    let [a, b] = id.to_be_bytes();
    let [c, d] = seq.to_be_bytes();
    let kind = if to.is_ipv4() { 8 } else { 128 };
    Icmp { source: world.station().like(to), destination: to, kind, code: 0, rest: [a, b, c, d], payload: data.to_vec() }
}

fn ping(world: &mut World, to: IpAddr, id: u16, seq: u16) {
    let packet = request(world, to, id, seq, b"are you there?").packet();
    world.give_packet(&packet);
}

/// The ICMP messages that have arrived, and with which hop limits.
fn take(world: &mut World) -> Vec<(u8, Icmp)> {
    let icmp = |parsed: wire::Parsed| if let Body::Icmp(icmp) = parsed.body { Some((parsed.hop_limit, icmp)) } else { None };
    world.take().into_iter().filter_map(icmp).collect()
}

fn reply_to(request: &Icmp) -> Icmp {
    let kind = if request.source.is_ipv4() { 0 } else { 129 };
    Icmp { source: request.destination, destination: request.source, kind, ..request.clone() }
}

#[test]
fn a_guest_pings_the_world_and_is_answered_as_it_has_asked() {
    for (target, [router, _], _) in families() {
        for len in [0, 1, 56, 1400] {
            let mut world = World::by_hand();
            world.host.lay(target, Way::direct().router(router, 1500));
            let data: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            let question = request(&world, target, ID, 7, &data);
            world.give_packet(&question.packet());
            assert_eq!(take(&mut world), [(62, reply_to(&question))], "what has crossed a router and us came with 64");
            let sent = world.host.sent_echoes();
            assert_eq!(sent.len(), 1);
            assert_eq!((sent[0].to, sent[0].options.hop_limit), (target, Some(63)), "we are a router");
            assert!(sent[0].options.dont_fragment);
            assert_ne!(sent[0].message[4..6], ID.to_be_bytes(), "the host knows the guest's identifier by another one");
            assert_eq!((world.counters().icmp_echo_out, world.counters().icmp_echo_in), (1, 1));
        }
    }
}

#[test]
fn a_silent_host_is_silent() {
    for (target, ..) in families() {
        let mut world = World::by_hand();
        world.host.lay(target, Way::direct().silent());
        ping(&mut world, target, ID, 1);
        assert_eq!(take(&mut world), []);
        assert_eq!(world.counters().icmp_echo_out, 1);
    }
}

#[test]
fn an_identifier_has_one_socket_whatever_is_pinged() {
    for (target, _, other) in families() {
        let mut world = World::by_hand();
        world.host.lay(target, Way::direct());
        world.host.lay(other, Way::direct());
        for (to, id) in [(target, ID), (other, ID), (target, ID), (target, ID + 1)] {
            ping(&mut world, to, id, 1);
            let (_, answer) = take(&mut world).pop().unwrap();
            assert_eq!((answer.source, &answer.rest[..2]), (to, &id.to_be_bytes()[..]));
        }
        assert_eq!((world.host.open_sockets(), world.counters().icmp_mapped), (2, 2));
        assert_eq!(world.stack.usage().icmp_mappings, 2);
    }
}

#[test]
fn a_mapping_ends_a_minute_after_the_last_request() {
    for (target, ..) in families() {
        let mut world = World::by_hand();
        world.host.lay(target, Way::direct());
        let timeouts = Timeouts::default();
        assert_eq!(timeouts.icmp_idle, Duration::from_secs(60), "RFC 5508 REQ-1");
        for seq in 1..4 {
            ping(&mut world, target, ID, seq);
            world.pass(Duration::from_secs(50));
            assert_eq!(world.host.open_sockets(), 1);
        }
        world.pass(Duration::from_secs(11));
        assert_eq!((world.host.open_sockets(), world.stack.usage().icmp_mappings), (0, 0));
        ping(&mut world, target, ID, 9);
        assert_eq!(world.counters().icmp_mapped, 2);
    }
}

#[test]
fn there_are_only_so_many_mappings() {
    for (target, ..) in families() {
        let limits = Limits { icmp_mappings: 3, ..Limits::default() };
        let mut world = World::by_hand_with(Config { limits, ..Config::default() });
        world.host.lay(target, Way::direct());
        for id in 0..5 {
            ping(&mut world, target, id, 1);
        }
        assert_eq!(take(&mut world).len(), 3);
        assert_eq!((world.host.open_sockets(), world.counters().icmp_limit_mappings), (3, 2));
        // And the host may have no more even before.
        let mut world = World::by_hand();
        world.host.lay(target, Way::direct());
        world.host.set_max_sockets(1);
        ping(&mut world, target, 1, 1);
        ping(&mut world, target, 2, 1);
        assert_eq!((take(&mut world).len(), world.counters().icmp_limit_host), (1, 1));
    }
}

#[test]
fn only_who_was_pinged_may_answer() {
    for (target, _, stranger) in families() {
        let mut world = World::by_hand();
        world.host.lay(target, Way::direct().silent());
        ping(&mut world, target, ID, 1);
        let message = world.host.sent_echoes()[0].message.clone();
        let mut answer = message;
        answer[0] = if target.is_ipv4() { 0 } else { 129 };
        assert!(world.host.inject_unasked_echo(stranger, &answer));
        world.settle();
        assert_eq!(take(&mut world), []);
        assert_eq!(world.counters().drop_filtered, 1);
        world.host.inject_unasked_echo(target, &answer);
        world.settle();
        assert_eq!(take(&mut world).len(), 1);
        // What is no answer, or none that is long enough, is none.
        for nonsense in [&answer[..7], &[8; 8], &[]] {
            world.host.inject_unasked_echo(target, nonsense);
        }
        world.settle();
        assert_eq!(take(&mut world), []);
    }
}

#[test]
fn guests_behind_different_ports_may_use_the_same_identifier() {
    for (target, ..) in families() {
        let mut world = World::by_hand();
        let other = PortId(7);
        world.link.add(other, 1500, Offloads::NONE);
        world.host.lay(target, Way::direct());
        let question = request(&world, target, ID, 1, b"one");
        world.give_packet(&question.packet());
        let frame = wire::ip_frame(world.station().mac, crate::kit::world::GATEWAY, &question.packet());
        world.give_frame_from(other, &frame);
        assert_eq!((world.host.open_sockets(), world.counters().icmp_echo_in), (2, 2));
        world.unplug(other);
        assert_eq!((world.host.open_sockets(), world.stack.usage().icmp_mappings), (1, 1));
    }
}

#[test]
fn where_ping_is_forbidden_the_guest_is_told_so() {
    for (target, ..) in families() {
        let mut world = World::by_hand();
        world.host.lay(target, Way::direct());
        world.host.fail(Operation::OpenPing, libc::EACCES, 1);
        let question = request(&world, target, ID, 1, b"are you there?");
        world.give_packet(&question.packet());
        let (_, told) = take(&mut world).pop().unwrap();
        assert_eq!((told.kind, told.code), if target.is_ipv4() { (3, 13) } else { (1, 1) });
        assert_eq!(told.payload, question.packet(), "all of the request is quoted");
        assert_eq!(world.counters().icmp_forbidden, 1);
        // The next may be allowed.
        world.give_packet(&question.packet());
        assert_eq!(take(&mut world), [(63, reply_to(&question))]);
    }
}

#[test]
fn a_restricted_guest_does_not_ping_the_world() {
    for (target, ..) in families() {
        let mut world = World::by_hand_with(Config { restrict: true, ..Config::default() });
        world.host.lay(target, Way::direct());
        ping(&mut world, target, ID, 1);
        assert_eq!(take(&mut world), []);
        assert_eq!((world.host.open_sockets(), world.host.sent_echoes().len()), (0, 0));
    }
}

#[test]
fn the_way_is_found_by_echo_requests() {
    for (target, routers, _) in families() {
        let mut world = World::by_hand();
        let gateway = if target.is_ipv4() { ip("10.0.2.2") } else { ip("fec0::2") };
        world.host.lay(target, Way::direct().router(routers[0], 1500).router(routers[1], 1500));
        let exceeded = if target.is_ipv4() { 11 } else { 3 };
        for (hops, who) in (1..).zip([gateway, routers[0], routers[1]]) {
            let question = request(&world, target, ID, hops.into(), b"which way?");
            world.give_packet(&wire::with_hop_limit(question.packet(), hops));
            let (_, told) = take(&mut world).pop().unwrap();
            assert_eq!((told.kind, told.code, told.source), (exceeded, 0, who), "after {hops} hops");
            let quoted = told.quoted();
            assert_eq!((quoted.source, quoted.destination), (question.source, target));
            assert_eq!(quoted.transport[4..8], question.rest, "the guest's identifier and sequence number");
        }
        let question = request(&world, target, ID, 4, b"which way?");
        world.give_packet(&wire::with_hop_limit(question.packet(), 4));
        assert_eq!(take(&mut world), [(61, reply_to(&question))]);
    }
}

#[test]
fn a_request_that_is_too_big_for_the_way_is_answered_with_what_it_takes() {
    for (target, [router, _], _) in families() {
        let mut world = World::by_hand();
        world.host.lay(target, Way::direct().router(router, 1300));
        let kind = if target.is_ipv4() { (3, 4) } else { (2, 0) };
        let gateway = if target.is_ipv4() { ip("10.0.2.2") } else { ip("fec0::2") };
        let question = request(&world, target, ID, 1, &[7; 1400]);
        // The router says so first; then this host knows.
        for who in [router, gateway] {
            world.give_packet(&question.packet());
            let (_, told) = take(&mut world).pop().unwrap();
            assert_eq!((told.kind, told.code, told.source, told.rest), (kind.0, kind.1, who, [0, 0, 0x05, 0x14]));
            assert_eq!(told.quoted().transport[4..8], question.rest);
        }
        let question = request(&world, target, ID, 2, &[7; 1200]);
        world.give_packet(&question.packet());
        assert_eq!(take(&mut world), [(62, reply_to(&question))]);
    }
}

#[test]
fn who_lets_routers_fragment_is_not_told_of_sizes() {
    let (target, [router, _], _) = families()[0];
    let mut world = World::by_hand();
    world.host.lay(target, Way::direct().router(router, 1300));
    let question = request(&world, target, ID, 1, &[7; 1400]);
    world.give_packet(&wire::fragmentable(question.packet()));
    assert_eq!(take(&mut world), [(62, reply_to(&question))]);
    assert!(!world.host.sent_echoes()[0].options.dont_fragment);
}

#[test]
fn an_echo_request_with_a_code_is_none() {
    for (target, ..) in families() {
        let mut world = World::by_hand();
        world.host.lay(target, Way::direct());
        let question = Icmp { code: 1, ..request(&world, target, ID, 1, b"what?") };
        world.give_packet(&question.packet());
        assert_eq!(take(&mut world), []);
        assert_eq!((world.host.open_sockets(), world.counters().drop_malformed), (0, 1));
    }
}

#[test]
fn answers_for_which_a_port_has_no_room_are_lost_and_counted() {
    for (target, ..) in families() {
        let mut world = World::new(Setup { guests: 0, latency: Duration::ZERO, ..Setup::default() });
        world.host.lay(target, Way::direct());
        world.link.cards.get_mut(&PORT).unwrap().capacity = 0;
        ping(&mut world, target, ID, 1);
        assert_eq!(world.counters().drop_port_full, 1);
        assert_eq!(world.stack.waiting(), 0);
    }
}
