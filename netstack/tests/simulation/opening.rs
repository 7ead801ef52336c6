//! How connections of guests begin.

use netstack::host::sim::{Program, Server};
use netstack::time::Duration;

use crate::SERVERS;
use crate::kit::hand::{Hand, SYN_OPTIONS};
use crate::kit::wire::{ACK, RST, SYN, Segment};
use crate::kit::world::{Setup, World};

const PORT: u16 = 50_000;

#[test]
fn the_syn_ack_waits_until_the_host_is_connected() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink).after(Duration::from_millis(30)));
        let mut hand = Hand::syn(&mut world, PORT, server);
        world.pass(Duration::from_millis(29));
        assert_eq!(hand.take(&mut world), []);
        world.pass(Duration::from_millis(1));
        hand.complete(&mut world);
        assert_eq!(world.counters().tcp_opened, 1);
    }
}

#[test]
fn a_syn_that_comes_again_is_the_same_connection() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink).after(Duration::from_secs(2)));
        let mut hand = Hand::syn(&mut world, PORT, server);
        let syn = Segment { seq: hand.seq - 1, ack: 0, options: SYN_OPTIONS.to_vec(), ..hand.segment(SYN) };
        world.pass(Duration::from_secs(1));
        world.give(&syn);
        world.pass(Duration::from_secs(1));
        let first = hand.take(&mut world);
        assert!(first.len() == 1 && first[0].is(SYN | ACK), "{first:?}");
        world.give(&syn);
        let again = hand.complete(&mut world);
        assert_eq!(again.seq, first[0].seq);
        assert_eq!(world.host.calls().connect, 1);
    }
}

#[test]
fn a_syn_ack_that_is_lost_comes_again() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink));
        let mut hand = Hand::syn(&mut world, PORT, server);
        assert_eq!(hand.take(&mut world).len(), 1);
        world.pass(Duration::from_millis(2900));
        assert_eq!(hand.take(&mut world).len(), 1, "after one second, and not again before two more");
        world.pass(Duration::from_millis(200));
        hand.complete(&mut world);
        world.pass(Duration::from_secs(60));
        assert_eq!(hand.take(&mut world), []);
    }
}

#[test]
fn a_guest_that_never_completes_the_opening_is_forgotten_with_its_socket() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink));
        Hand::syn(&mut world, PORT, server);
        assert_eq!(world.host.open_sockets(), 1);
        world.pass(Duration::from_secs(300));
        assert_eq!(world.host.open_sockets(), 0);
        assert_eq!(world.counters().tcp_expired, 1);
    }
}

#[test]
fn the_first_data_can_stand_for_an_acknowledgement_that_was_lost() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Echo));
        let mut hand = Hand::syn(&mut world, PORT, server);
        let syn_ack = hand.take(&mut world).pop().unwrap();
        hand.ack = syn_ack.seq.wrapping_add(1);
        hand.send(&mut world, b"here I am");
        assert_eq!(hand.receive(&mut world).0, b"here I am");
    }
}

#[test]
fn an_acknowledgement_of_another_syn_ack_is_reset() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Echo));
        let mut hand = Hand::syn(&mut world, PORT, server);
        let syn_ack = hand.take(&mut world).pop().unwrap();
        hand.ack = syn_ack.seq.wrapping_add(77);
        hand.acknowledge(&mut world);
        let answer = hand.take(&mut world);
        assert!(answer.len() == 1 && answer[0].is(RST) && answer[0].seq == hand.ack, "RFC 9293 section 3.10.7.4: {answer:?}");
        hand.ack = syn_ack.seq.wrapping_add(1);
        hand.send(&mut world, b"this is me");
        assert_eq!(hand.receive(&mut world).0, b"this is me");
    }
}

#[test]
fn port_zero_is_nobody() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve_elsewhere(Server::new(Program::Echo));
        Hand::syn(&mut world, 0, server);
        Hand::syn(&mut world, PORT, std::net::SocketAddr::new(server.ip(), 0));
        assert_eq!((world.host.connections().count(), world.take()), (0, vec![]));
    }
}

#[test]
fn a_refused_connection_is_reset() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::refusing().after(Duration::from_millis(5)));
        let hand = Hand::syn(&mut world, PORT, server);
        assert_eq!(hand.take(&mut world), []);
        world.pass(Duration::from_millis(5));
        let answer = hand.take(&mut world);
        assert!(answer.len() == 1 && answer[0].is(RST | ACK), "{answer:?}");
        assert_eq!(answer[0].ack, hand.seq, "else the guest does not believe it");
        assert_eq!((world.host.open_sockets(), world.counters().tcp_connect_failed), (0, 1));
    }
}

#[test]
fn an_unreachable_destination_is_told_by_icmp_that_quotes_the_syn() {
    for server in SERVERS {
        let (network, host) = if server.is_ipv4() { ((3, 0), (3, 1)) } else { ((1, 0), (1, 3)) };
        for (errno, (kind, code)) in [(libc::ENETUNREACH, network), (libc::EHOSTUNREACH, host)] {
            for behaviour in [Server::failing_at_once(errno), Server::failing(errno).after(Duration::from_secs(3))] {
                let mut world = World::by_hand();
                world.host.serve(server, behaviour);
                let hand = Hand::syn(&mut world, PORT, server);
                world.pass(Duration::from_secs(3));
                let icmp = world.take_icmp();
                assert_eq!(icmp.len(), 1);
                assert_eq!((icmp[0].kind, icmp[0].code), (kind, code), "for error {errno}");
                let syn = hand.segment(SYN).packet();
                let (addresses, header) = if server.is_ipv4() { (12..20, 20) } else { (8..40, 40) };
                let quoted = &icmp[0].payload;
                assert_eq!(quoted[addresses.clone()], syn[addresses], "the addresses of the SYN");
                assert_eq!(quoted[header..header + 4], syn[header..header + 4], "its ports");
                assert_eq!(quoted[header + 4..header + 8], (hand.seq - 1).to_be_bytes(), "its sequence number");
                assert_eq!(world.host.open_sockets(), 0);
            }
        }
    }
}

#[test]
fn a_destination_that_never_answers_is_silence_first_and_icmp_in_the_end() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::silent());
        Hand::syn(&mut world, PORT, server);
        world.pass(Duration::from_secs(70));
        assert_eq!(world.take(), []);
        assert_eq!(world.host.open_sockets(), 1);
        world.pass(Duration::from_secs(10));
        let icmp = world.take_icmp();
        assert_eq!((icmp.len(), icmp[0].kind), (1, if server.is_ipv4() { 3 } else { 1 }));
        assert_eq!(world.host.open_sockets(), 0);
    }
}

#[test]
fn a_guest_that_gives_up_while_the_host_connects_leaves_nothing_behind() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink).after(Duration::from_secs(5)));
        let hand = Hand::syn(&mut world, PORT, server);
        world.give(&Segment { ack: 0, ..hand.segment(RST) });
        assert_eq!(world.host.open_sockets(), 0);
        world.pass(Duration::from_secs(10));
        assert_eq!(world.take(), []);
    }
}

#[test]
fn the_syn_ack_says_the_segment_size_of_the_link_and_scales_the_window() {
    for server in SERVERS {
        let headers = if server.is_ipv4() { 40 } else { 60 };
        for mtu in [1280, 1500, 9000, 65_520] {
            let mut world = World::new(Setup { mtu, guests: 0, ..Setup::default() });
            world.host.serve(server, Server::new(Program::Sink));
            let syn_ack = Hand::syn(&mut world, PORT, server).complete(&mut world);
            assert_eq!(syn_ack.mss(), Some(mtu - headers));
            assert!(syn_ack.window_scale().is_some());
        }
    }
}

#[test]
fn options_that_the_guest_does_not_offer_are_not_used() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Source(100_000)).send_queue(1 << 20));
        let mut hand = Hand::new(&world, PORT, server);
        world.give(&Segment { ack: 0, ..hand.segment(SYN) });
        hand.seq += 1;
        let syn_ack = hand.complete(&mut world);
        assert_eq!((syn_ack.window_scale(), syn_ack.option(4)), (None, None), "neither scaling nor SACK was offered");
        // RFC 9293 section 3.7.1, RFC 6691: without the option it is 536 bytes, or 1220 for IPv6.
        let default = if server.is_ipv4() { 536 } else { 1220 };
        let data = hand.take(&mut world);
        assert!(!data.is_empty() && data.iter().all(|segment| segment.payload.len() <= default), "{data:?}");
        let ack = hand.segment(ACK);
        world.give(&Segment { ack: hand.ack.wrapping_add(default as u32), ..ack });
        assert!(hand.take(&mut world).iter().all(|segment| segment.window > 8192), "an unscaled window means what it says");
    }
}

#[test]
fn data_in_a_syn_is_not_lost() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink));
        let mut hand = Hand::new(&world, PORT, server);
        world.give(&Segment { payload: b"early".to_vec(), ack: 0, ..hand.segment(SYN) });
        hand.seq += 1;
        let segments = hand.take(&mut world);
        assert!(segments[0].is(SYN | ACK));
        hand.ack = segments[0].seq.wrapping_add(1);
        assert!(segments[0].ack == hand.seq || segments[0].ack == hand.seq + 5);
        let at = hand.seq;
        world.give(&hand.data_at(at, b"early and late"));
        assert_eq!(world.host.connections().next().unwrap().received(), b"early and late");
    }
}

#[test]
fn a_segment_for_no_connection_is_answered_by_a_reset() {
    for server in SERVERS {
        let mut world = World::by_hand();
        let hand = Hand::new(&world, PORT, server);
        world.give(&Segment { ack: 4711, ..hand.data_at(1000, b"lost") });
        let answer = hand.take(&mut world);
        assert!(answer.len() == 1 && answer[0].is(RST) && answer[0].seq == 4711, "{answer:?}");
        world.give(&Segment { payload: b"lost".to_vec(), ack: 0, ..hand.segment(0) });
        let answer = hand.take(&mut world);
        assert!(answer.len() == 1 && answer[0].is(RST | ACK) && answer[0].ack == 1004, "{answer:?}");
        hand.reset(&mut world);
        assert_eq!(hand.take(&mut world), [], "a reset is never answered");
        assert_eq!(world.counters().drop_no_flow, 3);
    }
}

#[test]
fn a_guest_talks_with_a_server() {
    for server in SERVERS {
        let mut world = World::with_guest();
        world.host.serve(server, Server::new(Program::Echo).after(Duration::from_millis(3)));
        let flow = world.guest().connect(server);
        world.guest().write(flow, b"hello, world");
        world.until(|world| world.guest().received(flow) == b"hello, world");
        world.guest().finish(flow);
        world.until(|world| world.guest().saw_end(flow));
        world.pass(Duration::from_secs(120));
        let connection = world.host.connections().next().unwrap();
        assert!(connection.saw_end() && !connection.saw_reset());
        assert_eq!(world.host.open_sockets(), 0);
    }
}

#[test]
fn a_guest_without_a_gateway_in_mind_reaches_the_hosts_loopback_through_it() {
    let mut world = World::with_guest();
    world.host.serve("127.0.0.1:22".parse().unwrap(), Server::new(Program::Idle).greeting(b"SSH-2.0"));
    world.host.serve("[::1]:22".parse().unwrap(), Server::new(Program::Idle).greeting(b"SSH-2.0"));
    for gateway in ["10.0.2.2:22", "[fec0::2]:22"] {
        let flow = world.guest().connect(gateway.parse().unwrap());
        world.until(|world| world.guest().received(flow) == b"SSH-2.0");
    }
}
