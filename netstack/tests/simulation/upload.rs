//! From the guest to the host: what the guest sends arrives once, in order, and no faster than the host's socket takes it.

use netstack::config::{Config, Limits};
use netstack::host::sim::{ConnectionId, DIGEST_START, Program, Server, digest, pattern};
use netstack::time::Duration;

use crate::SERVERS;
use crate::kit::hand::Hand;
use crate::kit::wire::{ACK, FIN, PSH, Segment, URG};
use crate::kit::world::World;

const PORT: u16 = 50_000;
const FIRST: ConnectionId = ConnectionId(0);

fn bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    pattern(0, &mut bytes);
    bytes
}

#[test]
fn a_stream_arrives_as_it_was_sent() {
    for server in SERVERS {
        let mut world = World::with_guest();
        world.host.serve(server, Server::new(Program::Sink));
        let flow = world.guest().connect(server);
        let data = bytes(3_000_000);
        world.guest().write(flow, &data);
        world.guest().finish(flow);
        world.until(|world| world.host.connections().any(|connection| connection.saw_end()));
        assert_eq!(world.host.connection(FIRST).received_digest(), digest(DIGEST_START, &data));
        assert_eq!(world.counters().tcp_held_bytes, 0, "the window is what the socket takes");
    }
}

#[test]
fn the_window_is_the_room_in_the_send_queue() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Idle).send_queue(100_000));
        let mut hand = Hand::open(&mut world, PORT, server);
        hand.send(&mut world, &[1; 1000]);
        let first = hand.take(&mut world).pop().unwrap();
        assert_eq!(first.ack, hand.seq);
        let window = hand.window_of(&first);
        assert!((49_000..=100_000).contains(&window), "{window}");
        let mut edge = first.ack.wrapping_add(window);
        for _ in 0..40 {
            hand.send(&mut world, &[1; 1000]);
            for segment in hand.take(&mut world) {
                let now = segment.ack.wrapping_add(hand.window_of(&segment));
                assert!(now.wrapping_sub(edge) < 1 << 31, "the right edge of the window is never taken back");
                edge = now;
            }
        }
        let in_flight = edge.wrapping_sub(hand.seq);
        assert!(in_flight <= 60_000, "the window has shrunk with the room: {in_flight}");
    }
}

#[test]
fn a_window_that_was_offered_stays_so_though_the_queue_shrinks() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Idle).send_queue(100_000));
        let mut hand = Hand::open(&mut world, PORT, server);
        hand.send(&mut world, &[1; 1000]);
        let before = hand.take(&mut world).pop().unwrap();
        let edge = before.ack.wrapping_add(hand.window_of(&before));
        world.host.connection_mut(FIRST).set_send_queue(20_000);
        hand.send(&mut world, &[2; 1000]);
        let after = hand.take(&mut world).pop().unwrap();
        let now = after.ack.wrapping_add(hand.window_of(&after));
        // As far as the scale of the window can tell.
        assert!(edge.wrapping_sub(now) < 256 || now.wrapping_sub(edge) < 256, "RFC 9293 section 3.8.6: {before:?}, {after:?}");
        // And what was offered is taken.
        while hand.seq.wrapping_add(1000).wrapping_sub(now) > 1 << 31 {
            hand.send(&mut world, &[3; 1000]);
        }
        assert_eq!(hand.take(&mut world).pop().unwrap().ack, hand.seq);
        world.host.connection_mut(FIRST).run(Program::Sink);
        world.settle();
        assert_eq!(world.host.connection(FIRST).received_len(), u64::from(hand.seq - 1001));
    }
}

#[test]
fn silly_windows_are_not_offered() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Idle).send_queue(20_000));
        let mut hand = Hand::open(&mut world, PORT, server);
        // Fill what is offered, whatever it is.
        let mut window = 20_000;
        for _ in 0..100 {
            if window == 0 {
                break;
            }
            hand.send(&mut world, &vec![7; (window as usize).min(1440)]);
            world.pass(Duration::from_millis(300));
            let last = hand.take(&mut world).pop().expect("each segment is acknowledged");
            window = last.ack.wrapping_add(hand.window_of(&last)).wrapping_sub(hand.seq);
        }
        assert_eq!(window, 0, "the queue is full");
        // One byte of room is no reason to say anything, and neither are a hundred (RFC 9293 section 3.8.6.2.2).
        for _ in 0..5 {
            world.host.connection_mut(FIRST).read(20);
            world.pass(Duration::from_millis(300));
        }
        assert_eq!(hand.take(&mut world), []);
        // A probe of the guest is answered, and does not open a silly window either.
        world.give(&hand.data_at(hand.seq, b"!"));
        let answer = hand.take(&mut world).pop().unwrap();
        assert!(hand.window_of(&answer) == 0 || hand.window_of(&answer) >= 536, "{answer:?}");
    }
}

#[test]
fn a_window_that_was_closed_opens_by_itself_when_the_queue_drains() {
    for server in SERVERS {
        let mut world = World::with_guest();
        world.host.serve(server, Server::new(Program::Idle).send_queue(64 << 10));
        let flow = world.guest().connect(server);
        let data = bytes(500_000);
        world.guest().write(flow, &data);
        world.pass(Duration::from_secs(1));
        let waiting = world.host.connection(FIRST).unread();
        assert!((24 << 10..=64 << 10).contains(&waiting), "{waiting}");
        // The guest's own probes come only after a while. Nothing needs them.
        let before = world.now;
        world.host.connection_mut(FIRST).run(Program::Sink);
        world.until(|world| world.host.connection(FIRST).received_len() == 500_000);
        assert!(world.now.since(before) < Duration::from_millis(150), "{:?}", world.now.since(before));
        assert_eq!(world.host.connection(FIRST).received(), data);
    }
}

#[test]
fn nothing_is_lost_when_the_socket_takes_less_than_it_had_room_for() {
    for server in SERVERS {
        let mut world = World::with_guest();
        world.host.serve(server, Server::new(Program::Sink));
        let flow = world.guest().connect(server);
        world.until(|world| world.guest().is_established(flow));
        let data = bytes(300_000);
        world.guest().write(flow, &data);
        world.guest().finish(flow);
        for take in [Some(1), Some(0), Some(777), Some(0), Some(1459), None] {
            world.host.connection_mut(FIRST).take_at_most(take);
            world.pass(Duration::from_millis(3));
        }
        world.until(|world| world.host.connection(FIRST).saw_end());
        assert_eq!(world.host.connection(FIRST).received(), data);
        assert!(world.counters().tcp_held_bytes > 0, "the story is about bytes that were held");
    }
}

#[test]
fn what_is_held_in_all_flows_together_is_bounded_and_still_nothing_is_lost() {
    for server in SERVERS {
        let mut world = World::new(crate::kit::world::Setup {
            config: Config { limits: Limits { tcp_held_bytes: 3000, ..Limits::default() }, ..Config::default() },
            ..Default::default()
        });
        world.host.serve(server, Server::new(Program::Sink));
        let flow = world.guest().connect(server);
        world.until(|world| world.guest().is_established(flow));
        world.host.connection_mut(FIRST).take_at_most(Some(0));
        let data = bytes(200_000);
        world.guest().write(flow, &data);
        world.pass(Duration::from_secs(3));
        assert!(world.counters().tcp_limit_held > 0);
        assert!(world.guest().unsent(flow) >= 197_000, "what was not taken was not acknowledged");
        world.host.connection_mut(FIRST).take_at_most(None);
        world.until(|world| world.host.connection(FIRST).received_len() == 200_000);
        assert_eq!(world.host.connection(FIRST).received(), data);
    }
}

#[test]
fn a_segment_that_comes_twice_arrives_once() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink));
        let mut hand = Hand::open(&mut world, PORT, server);
        let at = hand.seq;
        hand.send(&mut world, b"once");
        hand.take(&mut world);
        world.give(&hand.data_at(at, b"once"));
        let answer = hand.take(&mut world);
        assert!(answer.len() == 1 && answer[0].ack == hand.seq, "{answer:?}");
        assert_eq!(world.host.connection(FIRST).received(), b"once");
    }
}

#[test]
fn segments_that_overlap_give_each_byte_once_and_the_first_version_stays() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink));
        let mut hand = Hand::open(&mut world, PORT, server);
        let at = hand.seq;
        hand.send(&mut world, b"abcdef");
        world.give(&hand.data_at(at + 2, b"CDEFgh"));
        world.give(&hand.data_at(at, b"ABCDEFGHij"));
        world.give(&hand.data_at(at + 3, b"XYZ"));
        assert_eq!(world.host.connection(FIRST).received(), b"abcdefghij");
        assert_eq!(hand.take(&mut world).pop().unwrap().ack, at + 10);
    }
}

#[test]
fn a_gap_is_answered_by_duplicate_acknowledgements_until_it_is_filled() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink));
        let hand = Hand::open(&mut world, PORT, server);
        let at = hand.seq;
        for n in 1..=3 {
            world.give(&hand.data_at(at + n * 3, b"xyz"));
            let answer = hand.take(&mut world);
            assert!(answer.len() == 1 && answer[0].is(ACK) && answer[0].ack == at, "{answer:?}");
        }
        assert_eq!(world.host.connection(FIRST).received(), b"");
        assert_eq!(world.counters().tcp_out_of_order, 3);
        for n in 0..=3 {
            world.give(&hand.data_at(at + n * 3, b"xyz"));
        }
        assert_eq!(world.host.connection(FIRST).received(), b"xyzxyzxyzxyz");
        assert_eq!(hand.take(&mut world).pop().unwrap().ack, at + 12);
    }
}

#[test]
fn what_lies_outside_of_the_window_is_not_taken() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Idle).send_queue(40_000));
        let hand = Hand::open(&mut world, PORT, server);
        for seq in [hand.seq.wrapping_add(10_000_000), hand.seq.wrapping_sub(10_000), hand.seq.wrapping_add(1 << 31)] {
            world.give(&hand.data_at(seq, &[6; 100]));
            let answer = hand.take(&mut world);
            assert!(answer.len() <= 1 && answer.iter().all(|segment| segment.is(ACK) && segment.ack == hand.seq), "{answer:?}");
        }
        // More than was offered: at most what was offered is acknowledged.
        for n in 0..80 {
            world.give(&hand.data_at(hand.seq.wrapping_add(n * 1000), &[9; 1000]));
        }
        let taken = hand.take(&mut world).pop().unwrap().ack.wrapping_sub(hand.seq);
        assert!(taken <= 40_000, "{taken}");
        assert!(world.host.connection(FIRST).unread() as u32 <= taken + 1);
    }
}

#[test]
fn sequence_numbers_wrap() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink));
        let mut hand = Hand::new(&world, PORT, server);
        hand.seq = u32::MAX - 1000;
        world.give(&Segment { ack: 0, ..hand.segment(crate::kit::wire::SYN) });
        hand.seq += 1;
        hand.complete(&mut world);
        let data = bytes(5000);
        for piece in data.chunks(600) {
            hand.send(&mut world, piece);
        }
        assert_eq!(world.host.connection(FIRST).received(), data);
        assert_eq!(hand.take(&mut world).pop().unwrap().ack, hand.seq);
    }
}

#[test]
fn urgent_data_stays_in_line() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink));
        let mut hand = Hand::open(&mut world, PORT, server);
        let mut segment = hand.data_at(hand.seq, b"ab!cd");
        segment.flags = ACK | PSH | URG;
        let mut packet = segment.packet();
        let header = packet.len() - 5 - 20;
        packet[header + 18..header + 20].copy_from_slice(&3u16.to_be_bytes());
        crate::kit::wire::set_checksum(hand.local.ip(), hand.remote.ip(), 6, &mut packet[header..], 16);
        world.give_packet(&packet);
        hand.seq += 5;
        hand.send(&mut world, b"ef");
        assert_eq!(world.host.connection(FIRST).received(), b"ab!cdef");
    }
}

#[test]
fn every_second_segment_at_least_is_acknowledged_and_none_waits_long() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink));
        let mut hand = Hand::open(&mut world, PORT, server);
        hand.send(&mut world, &[1; 10]);
        // RFC 9293 section 3.8.6.3: within half a second.
        world.pass(Duration::from_millis(499));
        assert_eq!(hand.take(&mut world).pop().unwrap().ack, hand.seq);
        for _ in 0..2 {
            hand.send(&mut world, &[1; 1440]);
        }
        assert!(!hand.take(&mut world).is_empty());
    }
}

#[test]
fn a_keepalive_of_the_guest_is_answered() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink));
        let mut hand = Hand::open(&mut world, PORT, server);
        hand.send(&mut world, b"abc");
        hand.take(&mut world);
        // RFC 9293 section 3.8.4: an old sequence number, with or without a byte of garbage.
        for garbage in [&b""[..], b"?"] {
            world.give(&hand.data_at(hand.seq - 1, garbage));
            let answer = hand.take(&mut world);
            assert!(answer.len() == 1 && answer[0].is(ACK) && answer[0].ack == hand.seq, "{answer:?}");
        }
        assert_eq!(world.host.connection(FIRST).received(), b"abc");
    }
}

#[test]
fn the_end_may_come_with_the_last_bytes_and_again_with_some_of_them() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink));
        let hand = Hand::open(&mut world, PORT, server);
        let last = Segment { flags: FIN | ACK | PSH, ..hand.data_at(hand.seq, b"last words") };
        world.give(&last);
        world.give(&last);
        world.give(&Segment { flags: FIN | ACK | PSH, ..hand.data_at(hand.seq + 5, b"words") });
        assert!(hand.take(&mut world).iter().all(|segment| segment.ack == hand.seq + 11));
        assert!(world.host.connection(FIRST).saw_end());
        assert_eq!(world.host.connection(FIRST).received(), b"last words");
    }
}

#[test]
fn an_end_counts_only_once_everything_before_it_was_taken() {
    for server in SERVERS {
        let limits = Limits { tcp_held_bytes: 0, ..Limits::default() };
        let mut world = World::by_hand_with(Config { limits, ..Config::default() });
        world.host.serve(server, Server::new(Program::Sink));
        let hand = Hand::open(&mut world, PORT, server);
        let at = hand.seq;
        world.host.connection_mut(FIRST).take_at_most(Some(3));
        world.give(&Segment { flags: FIN | ACK | PSH, ..hand.data_at(at, b"abcdef") });
        assert_eq!(hand.take(&mut world).pop().unwrap().ack, at + 3);
        assert!(!world.host.connection(FIRST).saw_end());
        world.host.connection_mut(FIRST).take_at_most(None);
        world.give(&Segment { flags: FIN | ACK | PSH, ..hand.data_at(at, b"abcdef") });
        assert!(hand.take(&mut world).iter().any(|segment| segment.ack == at + 7));
        assert!(world.host.connection(FIRST).saw_end());
        assert_eq!(world.host.connection(FIRST).received(), b"abcdef");
    }
}

#[test]
fn what_comes_after_the_end_is_ignored() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink).staying_half_open());
        let mut hand = Hand::open(&mut world, PORT, server);
        hand.finish(&mut world);
        world.give(&hand.data_at(hand.seq, b"one more thing"));
        assert_eq!(hand.take(&mut world).pop().unwrap().ack, hand.seq);
        assert_eq!(world.host.connection(FIRST).received(), b"");
        assert!(world.host.connection(FIRST).is_established());
    }
}

#[test]
fn a_batch_of_segments_is_acknowledged_once() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink).send_queue(1 << 20));
        let mut hand = Hand::open(&mut world, PORT, server);
        hand.send(&mut world, b"!");
        hand.take(&mut world);
        let batch: Vec<Segment> = (0..40).map(|n| hand.data_at(hand.seq + n * 1000, &[3; 1000])).collect();
        world.give_batch(&batch);
        let answers = hand.take(&mut world);
        assert!(answers.len() == 1 && answers[0].ack == hand.seq + 40_000, "{answers:?}");
    }
}

#[test]
fn selective_acknowledgement_is_not_offered_for_it_is_not_honoured() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink));
        let mut hand = Hand::new(&world, PORT, server);
        let options = vec![2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
        world.give(&Segment { options, ack: 0, ..hand.segment(crate::kit::wire::SYN) });
        hand.seq += 1;
        let syn_ack = hand.complete(&mut world);
        assert_eq!((syn_ack.option(4), syn_ack.option(8)), (None, None), "neither SACK nor timestamps");
        // Without agreement, later segments carry no timestamps, but a guest that sends them is understood.
        world.give(&Segment { options: vec![1, 1, 8, 10, 0, 0, 0, 2, 0, 0, 0, 1], ..hand.data_at(hand.seq, b"stamped") });
        assert_eq!(world.host.connection(FIRST).received(), b"stamped");
    }
}

#[test]
fn a_peer_that_takes_away_its_socket_resets_the_guest_that_sends_on() {
    for server in SERVERS {
        let mut world = World::with_guest();
        world.host.serve(server, Server::new(Program::ResetAfter(10_000)));
        let flow = world.guest().connect(server);
        world.guest().write(flow, &bytes(1_000_000));
        world.until(|world| world.guest().is_dead(flow));
        world.pass(Duration::from_secs(1));
        assert_eq!((world.host.open_sockets(), world.counters().tcp_reset_by_host), (0, 1));
    }
}

#[test]
fn a_slow_reader_gets_everything_though_the_guest_closed_long_ago() {
    for server in SERVERS {
        let mut world = World::with_guest();
        world.host.serve(server, Server::new(Program::Sink).reading(5000, Duration::from_millis(50)).send_queue(40_000));
        let flow = world.guest().connect(server);
        let data = bytes(400_000);
        world.guest().write(flow, &data);
        world.guest().finish(flow);
        world.until(|world| world.host.connections().any(|connection| connection.saw_end()));
        assert_eq!(world.host.connection(FIRST).received(), data);
        assert!(!world.host.connection(FIRST).saw_reset());
    }
}

#[test]
fn a_fin_behind_a_gap_ends_nothing() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Sink));
        let hand = Hand::open(&mut world, PORT, server);
        world.give(&Segment { seq: hand.seq + 3, ..hand.segment(FIN | ACK) });
        assert!(!world.host.connection(FIRST).saw_end());
        world.give(&hand.data_at(hand.seq, b"abc"));
        assert!(!world.host.connection(FIRST).saw_end());
        world.give(&Segment { seq: hand.seq + 3, ..hand.segment(FIN | ACK) });
        assert!(world.host.connection(FIRST).saw_end());
        assert_eq!(world.host.connection(FIRST).received(), b"abc");
    }
}
