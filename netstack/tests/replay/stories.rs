//! Each story is recorded, and what was recorded is played: [`done`] fails where that does not give the same.

use std::net::Ipv4Addr;

use dhcproto::v4::{DhcpOption, Message, MessageType};
use dhcproto::{Encodable, v4};
use etherparse::PacketBuilder;
use netstack::frame::{Checksum, FrameMeta, Gso, GsoKind, Offloads};
use netstack::host::StreamService;
use netstack::host::sim::{Operation, Program, Server, UdpServer};
use netstack::port::PortId;
use netstack::replay::record::{Recorder, Setup};
use netstack::time::Duration;

use crate::guest::*;

const ALL: Offloads = Offloads::ALL;

#[test]
fn the_gateway_is_found() {
    let mut recorder = recorder("");
    arp(&mut recorder, 1, [10, 0, 2, 2]);
    let recorded = done(recorder);
    let report = play(&recorded);
    assert_eq!((report.packets, report.compared, report.matches()), (2, 1, true));
    assert!(recorded.sidecar.peers.is_empty());
}

#[test]
fn a_guest_talks_to_an_echo() {
    let mut recorder = recorder("");
    recorder.host().serve(at(SERVER), Server::new(Program::Echo));
    let mut guest = Connection::open(&mut recorder, 40_000, SERVER);
    guest.write(&mut recorder, b"hello");
    assert_eq!(guest.read(&mut recorder), (b"hello".to_vec(), false));
    guest.finish(&mut recorder);
    assert_eq!(guest.read(&mut recorder), (vec![], true));
    let recorded = done(recorder);
    assert!(recorded.sidecar.peers.is_empty(), "{:?}", recorded.sidecar);
    let report = play(&recorded);
    assert_eq!((report.compared, report.remarks.len()), (3, 0));
}

#[test]
fn a_lease_is_offered_given_and_given_up() {
    let mut recorder = recorder("hostname=box,dnssearch=example.org");
    let dhcp = |recorder: &mut Recorder, kind: MessageType, options: &[DhcpOption]| {
        let mut message = Message::default();
        message.set_xid(0x1234_5678).set_chaddr(&MAC);
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        message.opts_mut().insert(DhcpOption::ParameterRequestList(vec![v4::OptionCode::Router, v4::OptionCode::Hostname]));
        options.iter().for_each(|option| _ = message.opts_mut().insert(option.clone()));
        let mut frame = Vec::new();
        let packet = PacketBuilder::ethernet2(MAC, [0xff; 6]).ipv4([0; 4], [0xff; 4], 64).udp(68, 67);
        packet.write(&mut frame, &message.to_vec().unwrap()).unwrap();
        recorder.send(&frame);
        recorder.settle();
        recorder.received().len()
    };
    let address = DhcpOption::RequestedIpAddress(Ipv4Addr::from(ADDRESS));
    let server = DhcpOption::ServerIdentifier(Ipv4Addr::new(10, 0, 2, 2));
    assert_eq!(dhcp(&mut recorder, MessageType::Discover, &[]), 1);
    assert_eq!(dhcp(&mut recorder, MessageType::Request, &[address, server.clone()]), 1);
    later(&mut recorder);
    let wrong = DhcpOption::RequestedIpAddress(Ipv4Addr::new(192, 168, 0, 1));
    assert_eq!(dhcp(&mut recorder, MessageType::Request, &[wrong]), 1);
    assert_eq!(dhcp(&mut recorder, MessageType::Release, &[server]), 0);
    assert_eq!(play(&done(recorder)).compared, 3);
}

#[test]
fn the_router_makes_itself_known_to_each_port() {
    let mut recorder = Recorder::new(Setup::default()).unwrap();
    recorder.add_port("second", 1400, Offloads::ALL).unwrap();
    recorder.pass(Duration::from_secs(1300));
    let report = play(&done(recorder));
    assert_eq!(report.compared, 8, "one to each when it comes, and then one to each at 1 ms, 600 s and 1200 s");
}

#[test]
fn connections_are_refused_unreachable_and_never_answered() {
    let mut recorder = recorder("");
    recorder.host().serve(at("198.51.100.1:80"), Server::refusing());
    recorder.host().serve(at("198.51.100.2:80"), Server::failing_at_once(libc::ENETUNREACH));
    recorder.host().serve(at("198.51.100.3:80"), Server::failing(libc::EHOSTUNREACH).after(Duration::from_secs(3)));
    recorder.host().serve(at("198.51.100.4:80"), Server::failing(libc::EACCES).after(Duration::from_millis(1)));
    recorder.host().serve(at("198.51.100.5:80"), Server::silent());
    recorder.host().serve(at("198.51.100.6:80"), Server::refusing().after(Duration::from_millis(5)));
    for (n, port) in (1..7).zip(40_000..) {
        Connection::syn(&mut recorder, port, &format!("198.51.100.{n}:80"));
        recorder.settle();
    }
    recorder.host().fail(Operation::Connect, libc::EMFILE, 1);
    Connection::syn(&mut recorder, 41_000, SERVER);
    // What policy decides needs no host.
    Connection::syn(&mut recorder, 41_001, "10.0.2.77:80");
    Connection::syn(&mut recorder, 41_002, "10.0.2.3:80");
    recorder.pass(Duration::from_secs(100));
    let report = play(&done(recorder));
    assert_eq!(report.compared, 9, "silence ends when the engine's patience does");
}

#[test]
fn a_peer_answers_late_writes_and_resets() {
    let mut recorder = recorder("");
    recorder.host().serve(at(SERVER), Server::new(Program::Sink).staying_half_open().after(Duration::from_millis(40)));
    let mut guest = Connection::syn(&mut recorder, 40_000, SERVER);
    recorder.settle();
    // The guest is impatient.
    guest.seq -= 1;
    guest.send(&mut recorder, "S", &[]);
    guest.seq += 1;
    recorder.pass(Duration::from_millis(50));
    guest.established(&mut recorder);
    let peer = last(&mut recorder);
    recorder.host().connection_mut(peer).push(&[7; 5000]);
    guest.read(&mut recorder);
    recorder.host().connection_mut(peer).push(b"last words");
    recorder.settle();
    recorder.host().connection_mut(peer).reset();
    recorder.settle();
    // What follows belongs to no connection.
    guest.write(&mut recorder, b"are you there?");
    assert!(play(&done(recorder)).compared > 5);
}

#[test]
fn a_guest_resets_and_comes_again_from_the_same_port() {
    let mut recorder = recorder("");
    recorder.host().serve(at(SERVER), Server::new(Program::Echo));
    for _ in 0..3 {
        let mut guest = Connection::open(&mut recorder, 40_000, SERVER);
        guest.write(&mut recorder, b"one");
        guest.read(&mut recorder);
        guest.send(&mut recorder, "AR", &[]);
        later(&mut recorder);
    }
    // A guest that has forgotten its connection is asked back, resets, and begins anew.
    let mut guest = Connection::open(&mut recorder, 40_000, SERVER);
    guest.write(&mut recorder, b"two");
    guest.read(&mut recorder);
    let old = guest.clone();
    let mut guest = Connection { seq: 9_000_000, ..Connection::new(40_000, at(SERVER)) };
    guest.send(&mut recorder, "S", &[]);
    recorder.settle();
    let challenge = segments(&mut recorder);
    assert_eq!((challenge.len(), challenge[0].flags.as_str()), (1, "A"));
    Connection { seq: old.seq, ..old }.send(&mut recorder, "R", &[]);
    later(&mut recorder);
    guest.send(&mut recorder, "S", &[]);
    guest.seq += 1;
    guest.established(&mut recorder);
    play(&done(recorder));
}

#[test]
fn a_peer_closes_first_and_the_guest_goes_on() {
    let mut recorder = recorder("");
    recorder.host().serve(at(SERVER), Server::new(Program::Source(100_000)));
    let mut guest = Connection::open(&mut recorder, 40_000, SERVER);
    let (bytes, end) = guest.read(&mut recorder);
    assert_eq!((bytes.len(), end), (100_000, true));
    guest.write(&mut recorder, b"thank you");
    guest.finish(&mut recorder);
    // In TIME-WAIT.
    recorder.pass(Duration::from_secs(2));
    assert!(play(&done(recorder)).compared > 60);
}

#[test]
fn lost_segments_are_sent_again() {
    let mut recorder = recorder("");
    recorder.host().serve(at(SERVER), Server::new(Program::Source(20_000)));
    let mut guest = Connection::open(&mut recorder, 40_000, SERVER);
    // Nothing arrives, for a while.
    segments(&mut recorder);
    recorder.pass(Duration::from_secs(4));
    // Then only the third and following: duplicate acknowledgements with SACK blocks.
    let segments = segments(&mut recorder);
    assert!(segments.len() >= 2, "{segments:?}");
    for n in 2..6u32 {
        let edges = [guest.ack + 2920, guest.ack + 1460 * n];
        let sack = [&[1, 1, 5, 10][..], &edges[0].to_be_bytes(), &edges[1].to_be_bytes()].concat();
        let frame = guest.frame_with("A", &[], &sack);
        recorder.send(&frame);
        recorder.settle();
    }
    guest.ack += 1460;
    guest.send(&mut recorder, "A", &[]);
    recorder.settle();
    guest.read(&mut recorder);
    recorder.pass(Duration::from_secs(70));
    guest.read(&mut recorder);
    play(&done(recorder));
}

#[test]
fn a_closed_window_is_probed_until_it_opens() {
    let mut recorder = recorder("");
    recorder.host().serve(at(SERVER), Server::new(Program::Sink).staying_half_open());
    let mut guest = Connection::open(&mut recorder, 40_000, SERVER);
    let peer = last(&mut recorder);
    recorder.host().connection_mut(peer).push(b"some");
    guest.window = 0;
    guest.read(&mut recorder);
    // The peer writes while the window is closed: no segment tells when.
    recorder.pass(Duration::from_millis(123));
    recorder.host().connection_mut(peer).push(&[1; 3000]);
    recorder.host().connection_mut(peer).finish();
    recorder.pass(Duration::from_secs(8));
    guest.send(&mut recorder, "A", &[]);
    recorder.pass(Duration::from_secs(3));
    guest.window = 0xffff;
    guest.send(&mut recorder, "A", &[]);
    recorder.settle();
    guest.read(&mut recorder);
    let recorded = done(recorder);
    assert_eq!(recorded.sidecar.peers.len(), 1, "{:?}", recorded.sidecar);
}

#[test]
fn a_peer_that_reads_slowly_closes_the_guests_window() {
    let mut recorder = recorder("");
    let slow = Server::new(Program::Sink).staying_half_open().send_queue(4096).reading(1000, Duration::from_millis(10));
    recorder.host().serve(at(SERVER), slow);
    let mut guest = Connection::open(&mut recorder, 40_000, SERVER);
    for _ in 0..6 {
        guest.write(&mut recorder, &[9; 1400]);
    }
    recorder.pass(Duration::from_millis(500));
    guest.finish(&mut recorder);
    let recorded = done(recorder);
    assert_eq!(recorded.sidecar.peers[0].send_queue, Some(4096));
    assert!(recorded.sidecar.peers[0].reads.len() > 3);
}

#[test]
fn segments_out_of_order_repeated_and_outside_the_window_are_answered() {
    let mut recorder = recorder("");
    recorder.host().serve(at(SERVER), Server::new(Program::Echo));
    let mut guest = Connection::open(&mut recorder, 40_000, SERVER);
    let ahead = Connection { seq: guest.seq + 5, ..guest.clone() };
    ahead.send(&mut recorder, "AP", b"world");
    recorder.settle();
    guest.write(&mut recorder, b"hello");
    ahead.send(&mut recorder, "AP", b"world");
    recorder.settle();
    Connection { seq: guest.seq.wrapping_sub(3), ..guest.clone() }.send(&mut recorder, "AP", b"llo");
    Connection { seq: guest.seq.wrapping_add(1 << 30), ..guest.clone() }.send(&mut recorder, "AP", b"far");
    Connection { seq: guest.seq + 9, ..guest.clone() }.send(&mut recorder, "AR", &[]);
    Connection { ack: guest.ack.wrapping_add(77_777), ..guest.clone() }.send(&mut recorder, "A", &[]);
    recorder.settle();
    play(&done(recorder));
}

#[test]
fn clients_of_forwards_ask_for_the_guest_first() {
    let mut recorder = recorder("hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=udp::5353-:53");
    let client = Server::new(Program::Sink).staying_half_open();
    let id = recorder.host().dial(at("127.0.0.1:8080"), at("127.0.0.1:50000"), &client).unwrap();
    recorder.host().connection_mut(id).push(b"GET /");
    recorder.settle();
    recorder.received();
    later(&mut recorder);
    arp(&mut recorder, 2, [10, 0, 2, 2]);
    let segments = segments(&mut recorder);
    assert_eq!((segments.len(), segments[0].flags.as_str()), (1, "S"));
    let mut guest = Connection::new(80, at("10.0.2.2:50000"));
    guest.ack = segments[0].seq.wrapping_add(1);
    guest.send(&mut recorder, "SA", &[]);
    recorder.settle();
    guest.seq += 1;
    assert_eq!(guest.read(&mut recorder).0, b"GET /");
    guest.write(&mut recorder, b"200 OK");
    guest.finish(&mut recorder);
    recorder.host().connection_mut(id).finish();
    recorder.settle();
    guest.read(&mut recorder);

    // One whom the guest refuses, one who goes before he is answered, and a datagram.
    let id = recorder.host().dial(at("127.0.0.1:8080"), at("127.0.0.1:50001"), &client).unwrap();
    recorder.settle();
    recorder.received();
    recorder.host().connection_mut(id).push(b"left unread");
    let id = recorder.host().dial(at("127.0.0.1:8080"), at("127.0.0.1:50002"), &client).unwrap();
    recorder.settle();
    later(&mut recorder);
    recorder.host().connection_mut(id).reset();
    recorder.settle();
    assert!(recorder.host().inject_udp(at("127.0.0.1:5353"), at("127.0.0.1:50003"), b"who is?"));
    recorder.settle();
    datagram(&mut recorder, 53, "10.0.2.2:50003", b"it is");
    recorder.pass(Duration::from_secs(5));
    let report = play(&done(recorder));
    assert!(report.compared >= 8);
}

#[test]
fn a_guest_refuses_a_client() {
    let mut recorder = recorder("hostfwd=tcp:127.0.0.1:8080-:80");
    arp(&mut recorder, 1, [10, 0, 2, 2]);
    recorder.received();
    recorder.host().dial(at("127.0.0.1:8080"), at("127.0.0.1:50000"), &Server::new(Program::Echo)).unwrap();
    recorder.settle();
    let syn = segments(&mut recorder).remove(0);
    let guest = Connection { ack: syn.seq.wrapping_add(1), seq: 0, ..Connection::new(80, at("10.0.2.2:50000")) };
    guest.send(&mut recorder, "AR", &[]);
    recorder.pass(Duration::from_secs(5));
    play(&done(recorder));
}

#[test]
fn datagrams_go_out_and_come_back() {
    let mut recorder = recorder("");
    recorder.host().serve_udp(at("198.51.100.7:123"), UdpServer::Echo);
    recorder.host().serve_udp(at("127.0.0.1:5000"), UdpServer::Respond(|data| vec![data.to_vec(), b"and more".to_vec()]));
    datagram(&mut recorder, 5000, "198.51.100.7:123", b"what time is it?");
    datagram(&mut recorder, 5000, "10.0.2.2:5000", b"who are you?");
    datagram(&mut recorder, 5001, "198.51.100.8:1", b"nobody answers");
    let socket = recorder.host().sent_datagrams()[0].from;
    assert!(recorder.host().inject_udp(socket, at("198.51.100.7:99"), b"from another port of the same host"));
    assert!(recorder.host().inject_udp(socket, at("203.0.113.9:99"), b"from a stranger: filtered"));
    recorder.settle();
    recorder.host().fail(Operation::SendTo, libc::EHOSTUNREACH, 1);
    datagram(&mut recorder, 5002, "198.51.100.9:1", b"no way");
    datagram(&mut recorder, 5003, "10.0.2.3:99", b"closed");
    datagram(&mut recorder, 5003, "10.0.2.99:99", b"nobody there");
    recorder.host().fail(Operation::BindDatagram, libc::EMFILE, 1);
    datagram(&mut recorder, 5004, "198.51.100.9:1", b"no socket");
    let report = play(&done(recorder));
    assert_eq!(report.compared, 7);
}

#[test]
fn names_are_asked_for_over_udp_and_tcp() {
    let mut recorder = recorder("");
    recorder.host().serve_service(StreamService::Dns, Server::new(Program::Respond(|question| question.to_ascii_uppercase())));
    datagram(&mut recorder, 5000, "10.0.2.3:53", b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00first");
    datagram(&mut recorder, 5000, "10.0.2.3:53", b"\x00\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00second");
    datagram(&mut recorder, 5001, "10.0.2.3:53", b"\x00\x03\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00never answered");
    let questions = recorder.questions();
    assert_eq!(questions.len(), 3);
    for question in questions[..2].iter().rev() {
        later(&mut recorder);
        recorder
            .answer(question.way_back, &[&question.message[..2], &b"\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00answer"[..]].concat());
        recorder.settle();
    }
    let mut guest = Connection::open(&mut recorder, 40_000, "10.0.2.3:53");
    guest.write(&mut recorder, b"question");
    assert_eq!(guest.read(&mut recorder).0, b"QUESTION");
    guest.finish(&mut recorder);
    guest.read(&mut recorder);
    assert!(play(&done(recorder)).compared >= 5);
}

#[test]
fn super_frames_go_both_ways() {
    let mut recorder = recorder_with(ALL);
    recorder.host().serve(at(SERVER), Server::new(Program::Echo));
    let mut guest = Connection::open(&mut recorder, 40_000, SERVER);
    let payload: Vec<u8> = (0..20_000u32).map(|n| n as u8).collect();
    let frame = guest.frame("AP", &payload);
    let gso = Some(Gso { kind: GsoKind::TcpV4, size: 1460, ecn: false });
    recorder.send_with(PortId(0), &frame, FrameMeta { checksum: Checksum::Partial { start: 34, offset: 16 }, gso });
    guest.seq += 20_000;
    recorder.settle();
    assert_eq!(guest.read(&mut recorder).0, payload);
    recorder.host().serve_udp(at("198.51.100.7:123"), UdpServer::Silent);
    datagram(&mut recorder, 5000, "198.51.100.7:123", b"hello");
    let socket = recorder.host().sent_datagrams()[0].from;
    assert!(recorder.host().inject_udp_segments(socket, at("198.51.100.7:123"), &[5; 5000], 1000));
    recorder.settle();
    play(&done(recorder));
}

#[test]
fn what_is_malformed_is_dropped_for_the_same_reason() {
    let mut recorder = recorder("");
    let good = Connection::new(40_000, at(SERVER)).frame("S", &[]);
    recorder.send(&good[..30]);
    recorder.send(&[]);
    let mut bad = good.clone();
    bad[50] ^= 1;
    recorder.send(&bad);
    let mut fragment = good;
    fragment[20] |= 0x20;
    recorder.send(&fragment);
    recorder.settle();
    assert_eq!(recorder.counters().drop_malformed, 2);
    assert_eq!(recorder.counters().drop_checksum, 2);
    play(&done(recorder));
}

#[test]
fn guests_talk_to_each_other() {
    let mut recorder = recorder("");
    let other = recorder.add_port("other", 1500, Offloads::NONE).unwrap();
    let mut ask = [&[0xff; 6][..], &MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &MAC, &ADDRESS, &[0; 6], &[10, 0, 2, 16]].concat();
    recorder.send(&ask);
    recorder.settle();
    let their = [0x52, 0x54, 0, 0, 0, 1];
    ask[..6].copy_from_slice(&MAC);
    ask[6..12].copy_from_slice(&their);
    ask[22..28].copy_from_slice(&their);
    ask[28..32].copy_from_slice(&[10, 0, 2, 16]);
    recorder.send_with(other, &ask, FrameMeta::default());
    recorder.settle();
    assert_eq!(recorder.received().len(), 2);
    assert_eq!(play(&done(recorder)).compared, 2);
}

#[test]
fn limits_hold_in_the_replay_too() {
    let mut setup = Setup { user: "ipv6=off".into(), ..Setup::default() };
    setup.limits.tcp_flows = Some(1);
    setup.timeouts.tcp_idle = Some(60_000);
    let mut recorder = Recorder::new(setup).unwrap();
    recorder.host().serve_elsewhere(Server::new(Program::Echo));
    Connection::open(&mut recorder, 40_000, SERVER);
    let refused = Connection::syn(&mut recorder, 40_001, SERVER);
    recorder.settle();
    assert_eq!(segments(&mut recorder)[0].flags, "RA");
    let _ = refused;
    // The first is asked whether it is still there, and given up.
    recorder.pass(Duration::from_secs(600));
    let report = play(&done(recorder));
    assert!(report.compared >= 6);
}
