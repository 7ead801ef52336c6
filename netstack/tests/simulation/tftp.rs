//! TFTP transfers, as far as the stack carries them: who may talk to whom. The server is one that does what the story says.

use std::net::{IpAddr, SocketAddr};

use netstack::config::{BootConfig, Config, Limits};
use netstack::host::sim::Operation;
use netstack::stack::{TftpRefusal, TransferId};
use netstack::time::Duration;

use crate::kit::services::TestTftp;
use crate::kit::wire::{Body, Datagram};
use crate::kit::world::{PORT, World, at};

const GUEST_PORT: u16 = 3069;

/// Another service at the host's loopback address.
const OTHER: &str = "127.0.0.1:5353";

/// All addresses of the gateway.
const GATEWAYS: [&str; 3] = ["10.0.2.2:69", "[fec0::2]:69", "[fe80::2]:69"];

fn server() -> SocketAddr {
    at("127.0.0.1:40069")
}

/// The port that the server chooses.
fn transfer() -> SocketAddr {
    at("127.0.0.1:41000")
}

/// A network with a TFTP server, on which the host's loopback is closed to guests otherwise.
fn world() -> World {
    world_with(Config { host_loopback: false, ..Config::default() })
}

fn world_with(config: Config) -> World {
    let boot = BootConfig { tftp_root: Some("/srv/tftp".into()), ..BootConfig::default() };
    let mut world = World::by_hand_with(Config { boot, ..config });
    world.services.tftp = Some(TestTftp::new(server(), transfer()));
    world
}

fn tftp(world: &mut World) -> &mut TestTftp {
    world.services.tftp.as_mut().unwrap()
}

fn say_from(world: &mut World, port: u16, to: SocketAddr, payload: &[u8]) {
    let source = SocketAddr::new(world.station().like(to.ip()), port);
    world.give_packet(&Datagram { source, destination: to, payload: payload.to_vec() }.packet());
    world.settle();
}

fn say(world: &mut World, to: SocketAddr, payload: &[u8]) {
    say_from(world, GUEST_PORT, to, payload);
}

/// What came to the transfer's socket from there.
fn answer(world: &mut World, from: SocketAddr, payload: &[u8]) {
    let client = *tftp(world).clients.last().unwrap();
    world.host.inject_udp(client, from, payload);
    world.settle();
}

/// What the guest hears: from which address and port, and what.
fn hear(world: &mut World) -> Vec<(SocketAddr, Vec<u8>)> {
    let datagrams = world.take().into_iter().filter_map(|parsed| match parsed.body {
        Body::Udp(datagram) => Some((datagram.source, datagram.payload)),
        _ => None,
    });
    datagrams.collect()
}

/// What the host's side was sent since this was asked last: where, and what.
fn sent(world: &mut World) -> Vec<(SocketAddr, Vec<u8>)> {
    let sent = world.host.sent_datagrams().iter().map(|sent| (sent.to, sent.payload.clone())).collect();
    world.host.forget_datagrams();
    sent
}

/// The port of the transfer, as the guest sees it.
fn seen(gateway: IpAddr) -> SocketAddr {
    SocketAddr::new(gateway, transfer().port())
}

/// A transfer of which the first block has come.
fn begun(world: &mut World, gateway: &str) -> SocketAddr {
    say(world, at(gateway), b"a request");
    answer(world, transfer(), &[0, 3, 0, 1, b'1']);
    hear(world);
    sent(world);
    seen(at(gateway).ip())
}

#[test]
fn a_request_goes_to_the_server_in_its_words_and_the_answer_to_the_guest_from_the_gateway() {
    for gateway in GATEWAYS.map(at) {
        let mut world = world();
        say(&mut world, gateway, b"a request");
        let headers = if gateway.is_ipv4() { 32 } else { 52 };
        assert_eq!(tftp(&mut world).requests, [(b"a request".to_vec(), 1500 - headers)]);
        assert_eq!(sent(&mut world), [(server(), b"in other words".to_vec())]);
        let client = tftp(&mut world).clients[0];
        assert!(client.ip().is_loopback(), "nobody outside this machine can send to {client}");

        answer(&mut world, transfer(), b"hush");
        assert_eq!((hear(&mut world), sent(&mut world)), (vec![], vec![(transfer(), b"well".to_vec())]));
        answer(&mut world, transfer(), b"options");
        assert_eq!(hear(&mut world), [(seen(gateway.ip()), b"OPTIONS".to_vec())]);
        say(&mut world, seen(gateway.ip()), b"acknowledged");
        assert_eq!(sent(&mut world), [(transfer(), b"acknowledged".to_vec())]);
        for block in 1..=3 {
            answer(&mut world, transfer(), &[0, 3, 0, block]);
            assert_eq!(hear(&mut world), [(seen(gateway.ip()), vec![0, 3, 0, block])]);
        }
        assert_eq!((world.counters().tftp_transfers, world.counters().udp_mapped), (1, 0));
    }
}

#[test]
fn nobody_else_on_the_host_reaches_the_guest() {
    let mut world = world();
    say(&mut world, at("10.0.2.2:69"), b"a request");
    for stranger in [at(OTHER), server(), at("127.0.0.1:41001"), at("127.0.0.2:41000")] {
        answer(&mut world, stranger, &[0, 3, 0, 1, b'!']);
        answer(&mut world, stranger, b"options");
    }
    assert_eq!((hear(&mut world), world.counters().drop_filtered), (vec![], 8));
    // Nor later, when all has been found out.
    answer(&mut world, transfer(), &[0, 3, 0, 1]);
    hear(&mut world);
    for stranger in [at(OTHER), server(), at("127.0.0.2:41000")] {
        answer(&mut world, stranger, &[0, 3, 0, 2, b'!']);
    }
    assert_eq!((hear(&mut world), world.counters().drop_filtered), (vec![], 11));
}

#[test]
fn the_guest_reaches_no_other_service_of_the_host() {
    for gateway in GATEWAYS {
        let mut world = world();
        let peer = begun(&mut world, gateway);
        for port in [OTHER, "127.0.0.1:40069", "127.0.0.1:41001"].map(|address| at(address).port()) {
            say(&mut world, SocketAddr::new(peer.ip(), port), b"let me in");
        }
        // Not from another port either, though that is where the server is.
        say_from(&mut world, GUEST_PORT + 1, peer, b"let me in");
        assert_eq!(sent(&mut world), [], "by {gateway}");
    }
}

#[test]
fn a_transfer_is_over_when_the_server_says_so_and_then_its_port_hears_no_more() {
    let mut world = world();
    let peer = begun(&mut world, "10.0.2.2:69");
    tftp(&mut world).over = true;
    say(&mut world, peer, &[0, 4, 0, 1]);
    assert_eq!((sent(&mut world), world.counters().drop_no_flow), (vec![], 1));
    world.pass(Duration::from_secs(6));
    assert_eq!(world.host.open_sockets(), 0);
    assert_eq!((sent(&mut world), tftp(&mut world).ended.clone()), (vec![], vec![TransferId(1)]), "nor a farewell");
}

#[test]
fn a_guest_that_gives_up_frees_the_server() {
    let mut world = world();
    let peer = begun(&mut world, "10.0.2.2:69");
    say(&mut world, peer, &[0, 5, 0, 0, 0]);
    assert_eq!(tftp(&mut world).ended, [TransferId(1)]);
    assert_eq!(sent(&mut world), [(transfer(), b"farewell".to_vec())]);
    assert_eq!(world.host.open_sockets(), 0);
}

#[test]
fn a_guest_that_says_nothing_more_is_forgotten() {
    let mut world = world();
    begun(&mut world, "10.0.2.2:69");
    world.pass(Duration::from_secs(55));
    assert_eq!((world.host.open_sockets(), tftp(&mut world).ended.len()), (1, 0));
    world.pass(Duration::from_secs(10));
    assert_eq!((world.host.open_sockets(), tftp(&mut world).ended.len()), (0, 1));
}

#[test]
fn a_request_that_is_sent_again_is_not_another_one() {
    let mut world = world();
    let gateway = at("10.0.2.2:69");
    say(&mut world, gateway, b"a request");
    say(&mut world, gateway, b"a request");
    assert_eq!(sent(&mut world), vec![(server(), b"in other words".to_vec()); 2], "the server may not have got it");
    answer(&mut world, transfer(), b"options");
    say(&mut world, gateway, b"a request");
    assert_eq!((sent(&mut world), tftp(&mut world).requests.len()), (vec![], 1));
    // A guest that has begun anew, with the same port.
    say(&mut world, gateway, b"another request");
    assert_eq!((tftp(&mut world).requests.len(), tftp(&mut world).ended.clone()), (2, vec![TransferId(1)]));
    assert_eq!(world.host.open_sockets(), 1);
}

#[test]
fn a_request_that_is_refused_costs_no_socket() {
    let mut world = world();
    let gateway = at("[fec0::2]:69");
    let cases = [
        (TftpRefusal::Nonsense, None),
        (TftpRefusal::Refused(b"no".to_vec()), Some(b"no".to_vec())),
        (TftpRefusal::Busy(b"later".to_vec()), Some(b"later".to_vec())),
    ];
    for (refusal, told) in cases {
        tftp(&mut world).refusal = Some(refusal);
        say(&mut world, gateway, b"a request");
        assert_eq!(hear(&mut world), told.map(|told| (gateway, told)).into_iter().collect::<Vec<_>>());
    }
    assert_eq!((world.counters().tftp_refused, world.counters().tftp_limit_transfers), (2, 1));
    assert_eq!((world.host.open_sockets(), world.host.calls().bind_datagram), (0, 0));
}

#[test]
fn a_file_that_the_server_refuses_ends_the_transfer() {
    let mut world = world();
    say(&mut world, at("10.0.2.2:69"), b"a request");
    answer(&mut world, transfer(), b"no");
    assert_eq!(hear(&mut world), [(at("10.0.2.2:69"), b"no".to_vec())]);
    assert_eq!((world.host.open_sockets(), world.counters().tftp_refused), (0, 1));
}

#[test]
fn a_host_without_sockets_is_no_harm() {
    let mut world = world();
    world.host.fail(Operation::BindDatagram, libc::EMFILE, 1);
    say(&mut world, at("10.0.2.2:69"), b"a request");
    assert_eq!((world.counters().udp_limit_host, tftp(&mut world).ended.len()), (1, 1));
    say(&mut world, at("10.0.2.2:69"), b"a request");
    assert_eq!(sent(&mut world).len(), 1);
}

#[test]
fn a_restricted_guest_boots_over_ipv4() {
    let mut world = world_with(Config { restrict: true, ..Config::default() });
    let peer = begun(&mut world, "10.0.2.2:69");
    say(&mut world, peer, &[0, 4, 0, 1]);
    assert_eq!(sent(&mut world), [(transfer(), vec![0, 4, 0, 1])]);
    say(&mut world, at("[fec0::2]:69"), b"a request");
    assert_eq!((sent(&mut world), tftp(&mut world).requests.len()), (vec![], 1));
}

#[test]
fn what_is_over_makes_room_when_there_is_none() {
    let limits = Limits { tftp_transfers: 3, ..Limits::default() };
    let mut world = world_with(Config { limits, ..Config::default() });
    tftp(&mut world).over = true;
    for port in 0..10 {
        say_from(&mut world, 5000 + port, at("10.0.2.2:69"), b"a request");
        assert!(world.host.open_sockets() <= 3);
    }
    assert_eq!((tftp(&mut world).requests.len(), tftp(&mut world).ended.len()), (10, 9));
}

#[test]
fn transfers_end_with_the_port_of_their_guest() {
    let mut world = world();
    begun(&mut world, "10.0.2.2:69");
    world.unplug(PORT);
    assert_eq!((world.host.open_sockets(), tftp(&mut world).ended.len()), (0, 1));
}
