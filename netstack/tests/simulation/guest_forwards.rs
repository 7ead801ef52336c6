//! Ports of virtual hosts that lead to the host's side: to a server, a socket of AF_UNIX, a command, the SMB server.

use std::net::SocketAddr;

use netstack::addr::MacAddr;
use netstack::config::{Config, GuestForward, GuestTarget, SmbConfig};
use netstack::host::StreamService;
use netstack::host::sim::{Operation, Program, Server};
use netstack::time::Duration;

use crate::kit::hand::Hand;
use crate::kit::wire::{self, ACK, Arp, Body, Datagram, ETHERTYPE_ARP, Icmp, RST};
use crate::kit::world::{World, at};

const TCP: &str = "10.0.2.4:80";
const LOCAL: &str = "10.0.2.4:81";
const COMMAND: &str = "10.0.2.4:82";
const COMMAND_V6: &str = "[fec0::4]:82";

/// A network that allows nothing but what is forwarded.
fn world() -> World {
    let forward = |to: &str, target| GuestForward { server: Some(at(to).ip()), port: at(to).port(), target };
    World::by_hand_with(Config {
        restrict: true,
        host_loopback: false,
        guest_forwards: vec![
            forward(TCP, GuestTarget::Tcp(at("127.0.0.1:8080"))),
            forward(LOCAL, GuestTarget::Unix("/run/server".into())),
            forward(COMMAND, GuestTarget::Command("rev".to_owned())),
            forward(COMMAND_V6, GuestTarget::Command("rev".to_owned())),
        ],
        smb: Some(SmbConfig::default()),
        ..Config::default()
    })
}

/// Refused by a reset, and nothing stays behind.
#[track_caller]
fn is_refused(world: &mut World, hand: &Hand) {
    let answer = hand.take(world);
    assert!(answer.len() == 1 && answer[0].is(RST | ACK), "{answer:?}");
    assert_eq!(world.host.open_sockets(), 0);
}

#[test]
fn each_leads_where_it_says_also_for_a_restricted_guest() {
    let mut world = world();
    let reversed = Server::new(Program::Respond(|said| said.iter().rev().copied().collect()));
    world.host.serve(at("127.0.0.1:8080"), reversed);
    world.host.serve_local("/run/server", reversed);
    world.host.serve_service(StreamService::GuestForward(2), reversed);
    world.host.serve_service(StreamService::GuestForward(3), reversed);
    world.host.serve_service(StreamService::Smb(445), reversed);
    for to in [TCP, LOCAL, COMMAND, COMMAND_V6, "10.0.2.4:445"] {
        let mut hand = Hand::open(&mut world, 40_000, at(to));
        hand.send(&mut world, b"hello");
        assert_eq!(hand.receive(&mut world).0, b"olleh", "{to}");
        hand.finish(&mut world);
        assert_eq!(hand.receive(&mut world), (vec![], true), "{to}");
        assert_eq!(world.host.open_sockets(), 0, "{to}");
    }
    let calls = world.host.calls();
    assert_eq!((calls.connect, calls.connect_local, calls.open_service), (1, 1, 3));
    assert_eq!(world.counters().tcp_opened, 5);
}

#[test]
fn their_hosts_are_on_the_link_and_refuse_everything_else() {
    let mut world = world();
    let me = world.station();
    let question =
        Arp { operation: 1, sender_mac: me.mac, sender: me.v4, target_mac: MacAddr([0; 6]), target: [10, 0, 2, 4].into() };
    world.give_frame(&wire::ethernet(me.mac, MacAddr::BROADCAST, ETHERTYPE_ARP, &question.bytes()));
    let card = MacAddr([0x52, 0x55, 10, 0, 2, 4]);
    let Body::Arp(answer) = &world.take()[0].body else { panic!("no answer to ARP") };
    assert_eq!(answer.sender_mac, card);

    let ping = Icmp { source: me.v4.into(), destination: at(TCP).ip(), kind: 8, code: 0, rest: [0, 1, 0, 2], payload: vec![7; 8] };
    world.give_frame(&wire::ip_frame(me.mac, card, &ping.packet()));
    let reply = world.take_icmp();
    assert!(reply.len() == 1 && reply[0].kind == 0 && reply[0].source == at(TCP).ip(), "{reply:?}");

    for to in ["10.0.2.4:83", "[fec0::4]:80", "10.0.2.4:53"] {
        let hand = Hand::syn(&mut world, 40_000, at(to));
        is_refused(&mut world, &hand);
    }
    let datagram = Datagram { source: SocketAddr::new(me.v4.into(), 5000), destination: at(TCP), payload: vec![] };
    world.give_packet(&datagram.packet());
    assert_eq!((world.take().len(), world.host.sent_datagrams().len()), (0, 0), "a restricted guest's datagram");
}

#[test]
fn what_is_not_there_refuses_cleanly() {
    let mut world = world();
    world.host.serve_local("/run/other", Server::new(Program::Echo));
    for to in [TCP, LOCAL, COMMAND, "10.0.2.4:139", "10.0.2.4:445"] {
        let hand = Hand::syn(&mut world, 40_000, at(to));
        is_refused(&mut world, &hand);
    }
    assert_eq!(world.counters().tcp_connect_failed, 5);
}

#[test]
fn a_command_more_than_may_run_is_refused_and_counted() {
    let mut world = world();
    world.host.serve_service(StreamService::GuestForward(2), Server::new(Program::Echo));
    world.host.fail(Operation::OpenService, libc::EDQUOT, 1);
    let hand = Hand::syn(&mut world, 40_000, at(COMMAND));
    is_refused(&mut world, &hand);
    assert_eq!(world.counters().tcp_limit_commands, 1);
    Hand::open(&mut world, 40_001, at(COMMAND));
}

#[test]
fn a_server_on_a_local_socket_that_is_behind_with_accepting_is_waited_for() {
    let mut world = world();
    world.host.serve_local("/run/server", Server::new(Program::Echo));
    world.host.fail(Operation::ConnectLocal, libc::EAGAIN, 5);
    let mut hand = Hand::syn(&mut world, 40_000, at(LOCAL));
    assert_eq!(hand.take(&mut world), [], "not answered before there is something to say");
    // 2, 2, 4, 8, 16 milliseconds, each rounded up to the next turn of the wheel.
    world.pass(Duration::from_millis(100));
    hand.complete(&mut world);
    assert_eq!(world.host.calls().connect_local, 6);
    hand.send(&mut world, b"hello");
    assert_eq!(hand.receive(&mut world).0, b"hello");
}

#[test]
fn a_server_on_a_local_socket_that_never_accepts_is_given_up_and_not_asked_too_often() {
    let mut world = world();
    world.host.fail(Operation::ConnectLocal, libc::EAGAIN, usize::MAX);
    Hand::syn(&mut world, 40_000, at(LOCAL));
    world.pass(Duration::from_secs(80));
    let told = world.take_icmp();
    assert!(told.len() == 1 && told[0].kind == 3, "host unreachable, once: {told:?}");
    assert_eq!(world.counters().tcp_connect_failed, 1);
    assert!(world.host.calls().connect_local < 180, "{:?}", world.host.calls());
}

#[test]
fn a_guest_that_loses_patience_with_a_full_local_socket_leaves_nothing_behind() {
    let mut world = world();
    world.host.serve_local("/run/server", Server::new(Program::Echo));
    world.host.fail(Operation::ConnectLocal, libc::EAGAIN, 3);
    let hand = Hand::syn(&mut world, 40_000, at(LOCAL));
    hand.reset(&mut world);
    world.pass(Duration::from_secs(1));
    assert_eq!((world.host.open_sockets(), world.host.calls().connect_local), (0, 1));
}

#[test]
fn a_target_that_reads_nothing_stops_its_own_flow_and_no_other() {
    let mut world = world();
    world.host.serve_service(StreamService::GuestForward(2), Server::new(Program::Idle).send_queue(4096));
    world.host.serve_local("/run/server", Server::new(Program::Echo));
    let mut stuck = Hand::open(&mut world, 40_000, at(COMMAND));
    for _ in 0..4 {
        stuck.send(&mut world, &[7; 1000]);
    }
    let window = stuck.take(&mut world).last().map(|segment| stuck.window_of(segment)).unwrap();
    assert!(window < 1000, "the guest was told to stop");
    let mut other = Hand::open(&mut world, 40_001, at(LOCAL));
    for n in 0..200_u8 {
        other.send(&mut world, &[n; 1000]);
        assert_eq!(other.receive(&mut world).0, [n; 1000]);
    }
    assert_eq!(world.host.connections().next().unwrap().received_len(), 0);
}

#[test]
fn a_target_that_goes_away_resets_or_closes_as_it_does() {
    let mut world = world();
    world.host.serve_service(StreamService::GuestForward(2), Server::new(Program::ResetAfter(3)));
    let mut hand = Hand::open(&mut world, 40_000, at(COMMAND));
    hand.send(&mut world, b"abc");
    assert!(hand.take(&mut world).last().is_some_and(|segment| segment.has(RST)));

    world.host.serve_service(StreamService::GuestForward(2), Server::new(Program::CloseAfter(3)).greeting(b"bye"));
    let mut hand = Hand::open(&mut world, 40_001, at(COMMAND));
    hand.send(&mut world, b"abc");
    assert_eq!(hand.receive(&mut world), (b"bye".to_vec(), true));
}
