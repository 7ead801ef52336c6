//! How connections end: half-close, resets, and the timers that leave nothing behind.

use netstack::config::{Config, Timeouts};
use netstack::host::sim::{ConnectionId, Program, Server};
use netstack::time::Duration;

use crate::SERVERS;
use crate::kit::hand::Hand;
use crate::kit::wire::{ACK, FIN, RST, Segment};
use crate::kit::world::World;

const PORT: u16 = 50_000;
const FIRST: ConnectionId = ConnectionId(0);

#[test]
fn a_guest_that_has_closed_still_receives() {
    for server in SERVERS {
        let mut world = World::with_guest();
        world.host.serve(server, Server::new(Program::Sink).staying_half_open());
        let flow = world.guest().connect(server);
        world.guest().write(flow, b"question");
        world.guest().finish(flow);
        world.until(|world| world.host.connections().any(|connection| connection.saw_end()));
        assert_eq!(world.host.connection(FIRST).received(), b"question");
        world.pass(Duration::from_secs(20));
        world.host.connection_mut(FIRST).push(b"answer");
        world.host.connection_mut(FIRST).finish();
        world.until(|world| world.guest().saw_end(flow));
        assert_eq!(world.guest().received(flow), b"answer");
        world.pass(Duration::from_secs(120));
        assert_eq!(world.host.open_sockets(), 0);
        assert!(!world.host.connection(FIRST).saw_reset());
    }
}

#[test]
fn a_server_that_has_closed_still_receives() {
    for server in SERVERS {
        let mut world = World::with_guest();
        world.host.serve(server, Server::new(Program::Source(5)));
        let flow = world.guest().connect(server);
        world.until(|world| world.guest().saw_end(flow));
        world.pass(Duration::from_secs(20));
        world.guest().write(flow, b"thank you");
        world.guest().finish(flow);
        world.until(|world| world.host.connection(FIRST).saw_end());
        assert_eq!(world.host.connection(FIRST).received(), b"thank you");
        world.pass(Duration::from_secs(120));
        assert_eq!(world.host.open_sockets(), 0);
        assert!(!world.host.connection(FIRST).saw_reset());
    }
}

#[test]
fn both_may_close_at_once() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Idle));
        let mut hand = Hand::open(&mut world, PORT, server);
        world.host.connection_mut(FIRST).finish();
        world.settle();
        let fin = hand.take(&mut world).pop().unwrap();
        assert!(fin.is(FIN | ACK), "{fin:?}");
        // The guest has not seen it yet.
        hand.finish(&mut world);
        assert!(world.host.connection(FIRST).saw_end());
        hand.ack = fin.seq.wrapping_add(1);
        hand.acknowledge(&mut world);
        let last = hand.take(&mut world);
        assert!(last.iter().all(|segment| segment.ack == hand.seq), "{last:?}");
        world.pass(Duration::from_secs(120));
        assert_eq!(world.host.open_sockets(), 0);
        assert!(!world.host.connection(FIRST).saw_reset());
    }
}

#[test]
fn a_reset_of_the_guest_reaches_the_server_as_a_reset() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink));
        let mut hand = Hand::open(&mut world, PORT, server);
        hand.send(&mut world, b"never mind");
        hand.take(&mut world);
        hand.reset(&mut world);
        let connection = world.host.connection(FIRST);
        assert!(connection.saw_reset() && !connection.saw_end());
        assert_eq!((world.host.open_sockets(), world.counters().tcp_reset_by_guest), (0, 1));
        assert_eq!(hand.take(&mut world), []);
    }
}

#[test]
fn a_reset_of_the_server_reaches_the_guest_as_a_reset() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink));
        let mut hand = Hand::open(&mut world, PORT, server);
        hand.send(&mut world, b"hello");
        hand.take(&mut world);
        world.host.connection_mut(FIRST).reset();
        world.settle();
        let answer = hand.take(&mut world);
        assert!(answer.len() == 1 && answer[0].has(RST), "{answer:?}");
        assert_eq!(answer[0].seq, hand.ack, "RFC 5961: else the guest does not believe it");
        assert_eq!((world.host.open_sockets(), world.counters().tcp_reset_by_host), (0, 1));
    }
}

#[test]
fn what_had_arrived_before_a_reset_still_reaches_the_guest() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink));
        let mut hand = Hand::open(&mut world, PORT, server);
        // A server that answers a request it has not read to the end, and closes.
        world.host.connection_mut(FIRST).push(b"413 Content Too Large");
        world.host.advance(world.now);
        world.host.connection_mut(FIRST).reset();
        world.settle();
        let segments = hand.take(&mut world);
        assert_eq!(segments[0].payload, b"413 Content Too Large", "{segments:?}");
        hand.ack = hand.ack.wrapping_add(21);
        assert!(segments[1].has(RST) && segments[1].seq == hand.ack, "{segments:?}");
        assert_eq!(world.host.open_sockets(), 0);
    }
}

#[test]
fn a_reset_is_where_the_guest_expects_it_though_data_is_under_way() {
    for server in SERVERS {
        let mut world = World::with_guest();
        world.host.serve(server, Server::new(Program::Source(10_000_000)));
        let flow = world.guest().connect(server);
        world.until(|world| world.guest().received(flow).len() > 100_000);
        world.host.connection_mut(FIRST).reset();
        world.until(|world| world.guest().is_dead(flow));
        assert_eq!(world.host.open_sockets(), 0);
    }
}

#[test]
fn a_reset_that_does_not_hit_exactly_is_asked_back() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink));
        let hand = Hand::open(&mut world, PORT, server);
        for seq in [hand.seq + 1, hand.seq + 1000] {
            world.give(&Segment { seq, ..hand.segment(RST) });
            let answer = hand.take(&mut world);
            assert!(answer.len() == 1 && answer[0].is(ACK) && answer[0].ack == hand.seq, "RFC 5961 section 3: {answer:?}");
        }
        world.give(&Segment { seq: hand.seq.wrapping_add(1 << 30), ..hand.segment(RST) });
        assert_eq!(hand.take(&mut world), [], "out of the window it is nothing at all");
        assert!(world.host.connection(FIRST).is_established());
    }
}

#[test]
fn a_syn_within_a_connection_is_asked_back() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink));
        let hand = Hand::open(&mut world, PORT, server);
        for seq in [hand.seq, hand.seq + 500, hand.seq.wrapping_sub(5_000_000)] {
            world.give(&Segment { seq, ..hand.segment(crate::kit::wire::SYN) });
            let answer = hand.take(&mut world);
            assert!(answer.len() == 1 && answer[0].is(ACK) && answer[0].ack == hand.seq, "RFC 5961 section 4: {answer:?}");
        }
        assert!(world.host.connection(FIRST).is_established());
        assert_eq!(world.host.calls().connect, 1);
    }
}

#[test]
fn a_guest_that_started_anew_gets_its_connection_on_the_same_port() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink));
        let old = Hand::open(&mut world, PORT, server);
        // The guest was rebooted, and chooses the same port: its SYN is asked back, and what it is told makes it reset.
        let mut fresh = Hand { seq: 77_000_000, ..old.clone() };
        world.give(&Segment { ack: 0, options: crate::kit::hand::SYN_OPTIONS.to_vec(), ..fresh.segment(crate::kit::wire::SYN) });
        let challenge = fresh.take(&mut world).pop().unwrap();
        assert!(challenge.is(ACK));
        world.give(&Segment { seq: challenge.ack, ack: 0, ..fresh.segment(RST) });
        world.give(&Segment { ack: 0, options: crate::kit::hand::SYN_OPTIONS.to_vec(), ..fresh.segment(crate::kit::wire::SYN) });
        fresh.seq += 1;
        fresh.complete(&mut world);
        assert_eq!(world.host.connections().count(), 2);
        assert!(world.host.connection(FIRST).saw_reset());
    }
}

#[test]
fn a_port_can_be_used_again_at_once_whoever_closed_first() {
    for server in SERVERS {
        for guest_first in [true, false] {
            let mut world = World::by_hand();
            world.host.serve(server, Server::new(Program::Idle));
            let mut hand = Hand::open(&mut world, PORT, server);
            if guest_first {
                hand.finish(&mut world);
            }
            world.host.connection_mut(FIRST).finish();
            world.settle();
            hand.take(&mut world);
            hand.ack = hand.ack.wrapping_add(1);
            if guest_first {
                hand.acknowledge(&mut world);
            } else {
                hand.finish(&mut world);
            }
            world.pass(Duration::from_millis(10));
            hand.take(&mut world);
            // RFC 9293 section 3.6.1: behind the old sequence numbers.
            let mut again = Hand { seq: hand.seq + 100_000, ..hand };
            world.give(&Segment {
                ack: 0,
                options: crate::kit::hand::SYN_OPTIONS.to_vec(),
                ..again.segment(crate::kit::wire::SYN)
            });
            again.seq += 1;
            world.pass(Duration::from_millis(10));
            again.complete(&mut world);
            assert_eq!(world.host.connections().count(), 2);
        }
    }
}

#[test]
fn a_fin_that_is_lost_comes_again() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Idle).greeting(b"bye"));
        let mut hand = Hand::open(&mut world, PORT, server);
        world.host.connection_mut(FIRST).finish();
        assert_eq!(hand.receive(&mut world), (b"bye".to_vec(), true));
        // As if the acknowledgement of the FIN had never been sent.
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Idle).greeting(b"bye"));
        let hand = Hand::open(&mut world, PORT, server);
        world.host.connection_mut(FIRST).finish();
        world.pass(Duration::from_secs(4));
        let fins = hand.take(&mut world).iter().filter(|segment| segment.has(FIN)).count();
        assert!((2..=4).contains(&fins), "{fins}");
    }
}

#[test]
fn a_connection_closed_by_both_is_gone_soon_though_the_guest_never_says_so() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink));
        let mut hand = Hand::open(&mut world, PORT, server);
        hand.finish(&mut world);
        let fin = hand.take(&mut world);
        assert!(fin.iter().any(|segment| segment.has(FIN)), "{fin:?}");
        world.pass(Duration::from_secs(65));
        assert_eq!(world.host.open_sockets(), 0);
        world.pass(Duration::from_secs(120));
        world.take();
        world.give(&hand.segment(ACK));
        assert!(hand.take(&mut world)[0].has(RST), "nobody remembers it");
    }
}

#[test]
fn a_last_fin_that_comes_again_is_acknowledged_again() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Source(0)));
        let mut hand = Hand::open(&mut world, PORT, server);
        assert_eq!(hand.receive(&mut world), (vec![], true));
        hand.finish(&mut world);
        assert_eq!(hand.take(&mut world).pop().unwrap().ack, hand.seq);
        // The guest did not hear that, and says it again (RFC 9293 section 3.6).
        world.give(&Segment { seq: hand.seq - 1, ..hand.segment(FIN | ACK) });
        let answer = hand.take(&mut world);
        assert!(answer.len() == 1 && (answer[0].is(ACK) && answer[0].ack == hand.seq || answer[0].has(RST)), "{answer:?}");
        world.pass(Duration::from_secs(120));
        assert_eq!(world.host.open_sockets(), 0);
    }
}

#[test]
fn a_half_closed_connection_without_traffic_ends_in_time() {
    for server in SERVERS {
        for guest_closes in [true, false] {
            let config = Config {
                timeouts: Timeouts { tcp_half_closed: Duration::from_secs(300), ..Timeouts::default() },
                ..Config::default()
            };
            let mut world = World::by_hand_with(config);
            world.host.serve(server, Server::new(Program::Sink).staying_half_open());
            let mut hand = Hand::open(&mut world, PORT, server);
            if guest_closes {
                hand.finish(&mut world);
            } else {
                world.host.connection_mut(FIRST).finish();
                world.settle();
                hand.receive(&mut world);
            }
            world.pass(Duration::from_secs(200));
            assert_eq!(world.host.open_sockets(), 1);
            // Traffic keeps it: RFC 5382 counts from the last packet.
            if guest_closes {
                world.host.connection_mut(FIRST).push(b"more");
                world.settle();
                hand.receive(&mut world);
            } else {
                hand.send(&mut world, b"more");
            }
            world.pass(Duration::from_secs(200));
            assert_eq!(world.host.open_sockets(), 1);
            world.pass(Duration::from_secs(200));
            assert_eq!(world.host.open_sockets(), 0);
            assert_eq!(world.counters().tcp_expired, 1);
        }
    }
}

#[test]
fn an_idle_connection_is_kept_for_two_hours_and_ended_only_if_the_guest_is_gone() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Echo));
        let mut hand = Hand::open(&mut world, PORT, server);
        let hours = Duration::from_secs(3600);
        // As long as the guest answers when it is asked, it stays.
        for _ in 0..5 {
            for _ in 0..60 {
                world.pass(Duration::from_secs(60));
                if !hand.take(&mut world).is_empty() {
                    hand.acknowledge(&mut world);
                    hand.take(&mut world);
                }
            }
        }
        assert_eq!(world.host.open_sockets(), 1);
        hand.send(&mut world, b"still there?");
        assert_eq!(hand.receive(&mut world).0, b"still there?");
        world.pass(hours);
        assert_eq!(world.host.open_sockets(), 1);
        world.pass(hours * 2);
        assert_eq!((world.host.open_sockets(), world.counters().tcp_expired), (0, 1));
    }
}

#[test]
fn after_a_day_of_connections_nothing_is_left() {
    for server in SERVERS {
        let mut world = World::with_guest();
        world.host.serve(server, Server::new(Program::Echo));
        for round in 0..200u32 {
            let flow = world.guest().connect(server);
            world.guest().write(flow, b"ping");
            world.until(|world| world.guest().received(flow) == b"ping");
            match round % 3 {
                0 => world.guest().finish(flow),
                1 => world.guest().reset(flow),
                _ => {
                    let id = world.host.last_connection().unwrap();
                    world.host.connection_mut(id).reset();
                }
            }
            world.pass(Duration::from_secs(1));
        }
        world.pass(Duration::from_secs(300));
        assert_eq!(world.host.open_sockets(), 0);
        assert_eq!(world.stack.tcp_flows(), 0);
    }
}
