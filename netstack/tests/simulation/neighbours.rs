//! The guests' link: finding the virtual hosts, learning of the network, and echo.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netstack::addr::MacAddr;
use netstack::config::Config;
use netstack::time::Duration;

use crate::kit::wire::{self, Arp, Body, ETHERTYPE_ARP, Icmp, Parsed};
use crate::kit::world::{GATEWAY, World};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

fn ask_arp(world: &mut World, target: [u8; 4]) -> Vec<Arp> {
    let me = world.station();
    let question = Arp { operation: 1, sender_mac: me.mac, sender: me.v4, target_mac: MacAddr([0; 6]), target: target.into() };
    world.give_frame(&wire::ethernet(me.mac, MacAddr::BROADCAST, ETHERTYPE_ARP, &question.bytes()));
    world.take().into_iter().filter_map(|parsed| if let Body::Arp(arp) = parsed.body { Some(arp) } else { None }).collect()
}

#[test]
fn the_virtual_hosts_answer_arp_and_nobody_else_does() {
    let mut world = World::by_hand();
    let me = world.station();
    for last in [2, 3] {
        let target = [10, 0, 2, last];
        let answer = Arp {
            operation: 2,
            sender_mac: MacAddr([0x52, 0x55, 10, 0, 2, last]),
            sender: target.into(),
            target_mac: me.mac,
            target: me.v4,
        };
        assert_eq!(ask_arp(&mut world, target), [answer]);
    }
    for target in [[10, 0, 2, 1], [10, 0, 2, 15], [10, 0, 2, 77], [10, 0, 2, 255], [192, 0, 2, 1], [0, 0, 0, 0]] {
        assert_eq!(ask_arp(&mut world, target), [], "{target:?}");
    }
}

#[test]
fn a_probe_for_an_address_conflict_is_answered_for_ours() {
    let mut world = World::by_hand();
    let me = world.station();
    let probe = Arp {
        operation: 1,
        sender_mac: me.mac,
        sender: Ipv4Addr::UNSPECIFIED,
        target_mac: MacAddr([0; 6]),
        target: Ipv4Addr::new(10, 0, 2, 2),
    };
    world.give_frame(&wire::ethernet(me.mac, MacAddr::BROADCAST, ETHERTYPE_ARP, &probe.bytes()));
    assert_eq!(world.take().len(), 1, "RFC 5227: whoever probes for our address must learn that it is taken");
}

#[test]
fn the_gateway_answers_echo_of_any_size() {
    let mut world = World::by_hand();
    let me = world.station();
    for target in ["10.0.2.2", "10.0.2.3", "fec0::2", "fec0::3", "fe80::2"] {
        let target: IpAddr = target.parse().unwrap();
        let (request, reply, headers) = if target.is_ipv4() { (8, 0, 28) } else { (128, 129, 48) };
        for len in [0, 1, 56, 1500 - headers] {
            let payload: Vec<u8> = (0..=255).cycle().take(len).collect();
            let question =
                Icmp { source: me.like(target), destination: target, kind: request, code: 0, rest: [1, 2, 0, 9], payload };
            world.give_packet(&question.packet());
            let answers = world.take_icmp();
            assert_eq!(answers, [Icmp { source: target, destination: me.like(target), kind: reply, ..question }], "{len} bytes");
        }
    }
}

#[test]
fn neighbour_solicitations_for_the_virtual_hosts_are_answered() {
    let mut world = World::by_hand();
    let me = world.station();
    let ask = |world: &mut World, target: Ipv6Addr, hop_limit: u8| -> Vec<Parsed> {
        let o = target.octets();
        let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, o[13], o[14], o[15]]);
        let payload = [&o[..], &[1, 1], &me.mac.0].concat();
        let question = Icmp { source: me.v6.into(), destination: group.into(), kind: 135, code: 0, rest: [0; 4], payload };
        let mut packet = question.packet();
        packet[7] = hop_limit;
        world.give_frame(&wire::ip_frame(me.mac, MacAddr::of_ipv6_multicast(group), &packet));
        world.take()
    };
    for target in ["fec0::2", "fec0::3", "fe80::2"] {
        let target: Ipv6Addr = target.parse().unwrap();
        let answers = ask(&mut world, target, 255);
        let [Parsed { source, destination, hop_limit: 255, body: Body::Icmp(answer) }] = &answers[..] else {
            panic!("{answers:?}")
        };
        let mac = MacAddr([0x52, 0x56, 0, 0, 0, target.octets()[15]]);
        assert_eq!((*source, *destination), (mac, me.mac));
        assert_eq!((answer.kind, answer.source, answer.destination), (136, target.into(), me.v6.into()));
        assert_eq!(answer.rest[0] & 0x60, 0x60, "solicited, and to be believed");
        assert_eq!(answer.payload, [&target.octets()[..], &[2, 1], &mac.0].concat());
    }
    for target in ["fec0::15", "fec0::77", "fe80::1", "2001:db8::1"] {
        assert_eq!(ask(&mut world, target.parse().unwrap(), 255), [], "{target}");
    }
    assert_eq!(ask(&mut world, "fec0::2".parse().unwrap(), 64), [], "RFC 4861 section 7.1.1: it has crossed a router");
}

#[test]
fn a_router_solicitation_brings_the_prefix_the_mtu_and_the_dns_server() {
    let mut world = World::by_hand();
    let me = world.station();
    let question = Icmp {
        source: "fe80::5054:ff:fe12:3456".parse().unwrap(),
        destination: ALL_ROUTERS.into(),
        kind: 133,
        code: 0,
        rest: [0; 4],
        payload: [&[1, 1][..], &me.mac.0].concat(),
    };
    world.take();
    world.give_frame(&wire::ip_frame(me.mac, MacAddr::of_ipv6_multicast(ALL_ROUTERS), &question.packet()));
    world.pass(Duration::from_secs(1));
    let frames = world.take();
    let found = frames.iter().find_map(|parsed| match &parsed.body {
        Body::Icmp(icmp) if icmp.kind == 134 => Some((parsed, icmp)),
        _ => None,
    });
    let Some((frame, advertisement)) = found else { panic!("{frames:?}") };
    assert_eq!(frame.hop_limit, 255);
    assert_eq!(advertisement.source, "fe80::2".parse::<IpAddr>().unwrap(), "RFC 4861 section 4.2: link-local");
    assert!(u16::from_be_bytes([advertisement.rest[2], advertisement.rest[3]]) > 0, "it is a router");
    let options = options(&advertisement.payload[8..]);
    let option = |kind: u8| options.iter().find(|(found, _)| *found == kind).map(|(_, value)| &value[..]);
    assert_eq!(option(1).unwrap(), frame.source.0);
    let prefix = option(3).unwrap();
    assert_eq!((prefix[0], prefix[1] & 0xc0, &prefix[14..]), (64, 0xc0, &"fec0::".parse::<Ipv6Addr>().unwrap().octets()[..]));
    assert_eq!(option(5).unwrap()[2..], 1500u32.to_be_bytes());
    assert_eq!(option(25).unwrap()[6..], "fec0::3".parse::<Ipv6Addr>().unwrap().octets(), "RFC 8106");
}

/// Kind and value of each option of neighbour discovery.
fn options(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut options = Vec::new();
    while let [kind, len, ..] = bytes {
        let (option, rest) = bytes.split_at(usize::from(*len) * 8);
        options.push((*kind, option[2..].to_vec()));
        bytes = rest;
    }
    options
}

#[test]
fn a_router_makes_itself_heard_unasked() {
    let mut world = World::by_hand();
    world.pass(Duration::from_secs(3600));
    let heard = world.take_timed().into_iter().filter(|(_, parsed)| matches!(&parsed.body, Body::Icmp(icmp) if icmp.kind == 134));
    let times: Vec<u64> = heard.map(|(at, _)| at.as_micros() / 1_000_000).collect();
    // RFC 4861 section 6.2.1: never more than 1800 s apart; and here well within the lifetime that it tells.
    assert!(times.len() >= 3 && times.windows(2).all(|pair| pair[1] - pair[0] <= 1800), "{times:?}");
}

#[test]
fn without_ipv6_nothing_is_said_in_ipv6() {
    let mut world = World::by_hand_with(Config { ipv6: None, ..Config::default() });
    let me = world.station();
    let target: IpAddr = "fec0::2".parse().unwrap();
    let question = Icmp { source: me.v6.into(), destination: target, kind: 128, code: 0, rest: [0; 4], payload: vec![] };
    world.give_packet(&question.packet());
    world.pass(Duration::from_secs(3600));
    assert_eq!(world.take(), []);
}

#[test]
fn without_ipv4_nothing_is_said_in_ipv4() {
    let mut world = World::by_hand_with(Config { ipv4: None, ..Config::default() });
    assert_eq!(ask_arp(&mut world, [10, 0, 2, 2]), []);
    let me = world.station();
    let target: IpAddr = "10.0.2.2".parse().unwrap();
    let question = Icmp { source: me.v4.into(), destination: target, kind: 8, code: 0, rest: [0; 4], payload: vec![] };
    world.give_packet(&question.packet());
    assert!(world.take().iter().all(|parsed| !matches!(&parsed.body, Body::Icmp(icmp) if icmp.source.is_ipv4())));
}

#[test]
fn a_guest_cannot_take_the_gateways_address() {
    let mut world = World::by_hand();
    let thief = MacAddr([2, 0, 0, 0, 0, 0x66]);
    let gateway = Ipv4Addr::new(10, 0, 2, 2);
    let claim = Arp { operation: 2, sender_mac: thief, sender: gateway, target_mac: MacAddr::BROADCAST, target: gateway };
    world.give_frame(&wire::ethernet(thief, MacAddr::BROADCAST, ETHERTYPE_ARP, &claim.bytes()));
    assert_eq!(ask_arp(&mut world, gateway.octets())[0].sender_mac, GATEWAY);
    let advertisement = Icmp {
        source: "fec0::2".parse().unwrap(),
        destination: ALL_NODES.into(),
        kind: 136,
        code: 0,
        rest: [0x20, 0, 0, 0],
        payload: [&"fec0::2".parse::<Ipv6Addr>().unwrap().octets()[..], &[2, 1], &thief.0].concat(),
    };
    world.give_frame(&wire::ip_frame(thief, MacAddr::of_ipv6_multicast(ALL_NODES), &advertisement.packet()));
    let me = world.station();
    let question =
        Icmp { source: me.v6.into(), destination: "fec0::2".parse().unwrap(), kind: 128, code: 0, rest: [0; 4], payload: vec![] };
    world.give_packet(&question.packet());
    assert_eq!(world.take_icmp().len(), 1, "it still answers");
}

/// Solicits routers, and returns the advertisement and the frame that it came in.
fn solicit_router(world: &mut World, from: &str) -> (Parsed, Icmp) {
    let me = world.station();
    world.take();
    let source = from.parse().unwrap();
    let question = Icmp { source, destination: ALL_ROUTERS.into(), kind: 133, code: 0, rest: [0; 4], payload: vec![] };
    world.give_frame(&wire::ip_frame(me.mac, MacAddr::of_ipv6_multicast(ALL_ROUTERS), &question.packet()));
    let mut frames = world.take();
    assert_eq!(frames.len(), 1, "{frames:?}");
    let frame = frames.remove(0);
    let Body::Icmp(icmp) = frame.body.clone() else { panic!("{frame:?}") };
    assert_eq!(icmp.kind, 134);
    (frame, icmp)
}

#[test]
fn who_solicits_a_router_is_told_alone() {
    let mut world = World::by_hand();
    let me = world.station();
    let (frame, advertisement) = solicit_router(&mut world, "fe80::5054:ff:fe12:3456");
    assert_eq!((frame.destination, advertisement.destination), (me.mac, "fe80::5054:ff:fe12:3456".parse().unwrap()));
    // RFC 6085: a group's address in a frame to one station, which has no address of its own yet.
    let (frame, advertisement) = solicit_router(&mut world, "::");
    assert_eq!((frame.destination, advertisement.destination), (me.mac, ALL_NODES.into()));
}

#[test]
fn the_flags_of_a_router_tell_what_dhcpv6_has() {
    for (options, managed_and_other, of_the_prefix) in
        [("", 0xc0, 0xc0), ("ipv6-managed=off", 0x40, 0xc0), ("ipv6-net=fd00::/120", 0xc0, 0x80), ("restrict=on", 0, 0xc0)]
    {
        let mut world = World::by_hand_with(netstack::config::qemu::parse(options).unwrap());
        let (_, advertisement) = solicit_router(&mut world, "fe80::5054:ff:fe12:3456");
        let told = self::options(&advertisement.payload[8..]);
        let (_, prefix) = told.iter().find(|(kind, _)| *kind == 3).unwrap();
        assert_eq!((advertisement.rest[1], prefix[1]), (managed_and_other, of_the_prefix), "{options}");
        let lifetime = u16::from_be_bytes([advertisement.rest[2], advertisement.rest[3]]);
        assert_eq!(lifetime == 0, options == "restrict=on", "{options}");
        assert_eq!(told.iter().any(|(kind, _)| *kind == 25), options != "restrict=on", "a DNS server: {options}");
    }
}

#[test]
fn reports_of_groups_are_nobodys_business() {
    let mut world = World::by_hand();
    let me = world.station();
    world.take();
    let group: Ipv6Addr = "ff02::16".parse().unwrap();
    for kind in [130, 131, 132, 143] {
        for source in ["fe80::5054:ff:fe12:3456", "::"] {
            let payload = [&[0; 4][..], &[0; 16]].concat();
            let report = Icmp { source: source.parse().unwrap(), destination: group.into(), kind, code: 0, rest: [0; 4], payload };
            let before = world.counters().clone();
            world.give_frame(&wire::ip_frame(me.mac, MacAddr::of_ipv6_multicast(group), &report.packet()));
            assert_eq!(world.take(), []);
            assert_eq!(world.counters().refusal_since(&before), None, "type {kind} from {source}");
            // As kernels send them: behind a hop-by-hop header with a router alert (RFC 2710 section 3).
            let mut packet = report.packet();
            packet.splice(40..40, [58, 0, 5, 2, 0, 0, 1, 0]);
            let len = u16::try_from(packet.len() - 40).unwrap().to_be_bytes();
            packet[4..6].copy_from_slice(&len);
            packet[6] = 0;
            world.give_frame(&wire::ip_frame(me.mac, MacAddr::of_ipv6_multicast(group), &packet));
            assert_eq!(world.take(), []);
            assert_eq!(world.counters().refusal_since(&before), None, "type {kind} from {source}, with a router alert");
        }
    }
}
