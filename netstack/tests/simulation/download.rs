//! From the host to the guest: what the host's socket has reaches the guest once, in order, and stays in the socket until it has.

use netstack::frame::Offloads;
use netstack::host::sim::{ConnectionId, Program, Server, pattern};
use netstack::time::{Duration, Instant};

use crate::SERVERS;
use crate::kit::hand::Hand;
use crate::kit::wire::{ACK, Body, FIN, SYN, Segment};
use crate::kit::world::{Setup, World};

const PORT: u16 = 50_000;
const FIRST: ConnectionId = ConnectionId(0);

fn bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    pattern(0, &mut bytes);
    bytes
}

/// The moments at which segments with payload came, since anything was taken last.
fn arrivals(world: &mut World) -> Vec<(Instant, Segment)> {
    let data = |(at, parsed): (Instant, crate::kit::wire::Parsed)| match parsed.body {
        Body::Tcp(segment) if !segment.payload.is_empty() => Some((at, segment)),
        _ => None,
    };
    world.take_timed().into_iter().filter_map(data).collect()
}

#[test]
fn a_stream_arrives_as_it_was_sent() {
    for server in SERVERS {
        let mut world = World::with_guest();
        world.host.serve(server, Server::new(Program::Source(3_000_000)));
        let flow = world.guest().connect(server);
        world.until(|world| world.guest().saw_end(flow));
        assert!(world.guest().received(flow) == bytes(3_000_000));
        let counters = world.counters();
        assert_eq!((counters.tcp_fast_retransmits, counters.tcp_timeouts), (0, 0), "the link loses nothing");
    }
}

#[test]
fn bytes_stay_in_the_socket_until_the_guest_has_acknowledged_them() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Idle).greeting(b"0123456789"));
        let mut hand = Hand::open(&mut world, PORT, server);
        assert_eq!(hand.take(&mut world).pop().unwrap().payload, b"0123456789");
        assert_eq!(world.host.connection(FIRST).undelivered(), 10);
        hand.ack = hand.ack.wrapping_add(4);
        hand.acknowledge(&mut world);
        assert_eq!(world.host.connection(FIRST).undelivered(), 6);
        hand.ack = hand.ack.wrapping_add(6);
        hand.acknowledge(&mut world);
        assert_eq!(world.host.connection(FIRST).undelivered(), 0);
        assert_eq!(hand.take(&mut world), []);
    }
}

#[test]
fn segments_are_as_large_as_the_guest_said_and_the_link_takes() {
    for server in SERVERS {
        let headers = if server.is_ipv4() { 40 } else { 60 };
        for (offered, mtu) in [(536, 1500), (1460, 1500), (9000, 1500), (65_000, 9000), (1460, 1280)] {
            let mut world = World::new(Setup { mtu, guests: 0, ..Setup::default() });
            world.host.serve(server, Server::new(Program::Source(30_000)));
            let mut hand = Hand::new(&world, PORT, server);
            let [high, low] = u16::to_be_bytes(offered);
            world.give(&Segment { options: vec![2, 4, high, low], ack: 0, ..hand.segment(SYN) });
            hand.seq += 1;
            hand.complete(&mut world);
            let largest = hand.take(&mut world).iter().map(|segment| segment.payload.len()).max().unwrap();
            assert_eq!(largest, usize::from(offered.min(mtu - headers)));
        }
    }
}

#[test]
fn a_segment_size_that_makes_no_sense_makes_no_silly_segments() {
    for server in SERVERS {
        for mss in [0, 1, 7] {
            let mut world = World::by_hand();
            world.host.serve(server, Server::new(Program::Source(10_000)));
            let mut hand = Hand::new(&world, PORT, server);
            world.give(&Segment { options: vec![2, 4, 0, mss], ack: 0, ..hand.segment(SYN) });
            hand.seq += 1;
            hand.complete(&mut world);
            let data = hand.take(&mut world);
            assert!(data.iter().all(|segment| segment.payload.len() <= 1460));
            assert!(data.len() < 400, "{} segments for a few bytes", data.len());
        }
    }
}

#[test]
fn no_more_is_under_way_than_the_guests_window_allows() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Source(1_000_000)));
        let mut hand = Hand::new(&world, PORT, server);
        hand.window = 5000;
        world.give(&Segment { options: vec![2, 4, 5, 0xb4], ack: 0, ..hand.segment(SYN) });
        hand.seq += 1;
        hand.complete(&mut world);
        let mut edge = hand.ack.wrapping_add(5000);
        for _ in 0..20 {
            for segment in hand.take(&mut world) {
                let end = segment.seq.wrapping_add(segment.sequence_len());
                assert!(edge.wrapping_sub(end) < 1 << 31, "behind the edge of the window");
                if segment.seq == hand.ack {
                    hand.ack = end;
                }
            }
            edge = hand.ack.wrapping_add(5000);
            hand.acknowledge(&mut world);
        }
        assert!(hand.ack.wrapping_sub(world.host.connection(FIRST).undelivered() as u32) != 0);
    }
}

#[test]
fn a_window_that_opens_by_little_is_not_filled_by_little() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Source(100_000)));
        let mut hand = Hand::new(&world, PORT, server);
        hand.window = 4380;
        world.give(&Segment { options: vec![2, 4, 5, 0xb4], ack: 0, ..hand.segment(SYN) });
        hand.seq += 1;
        hand.complete(&mut world);
        hand.take(&mut world);
        // RFC 9293 section 3.8.6.2.1: a hundred bytes at a time are not worth a segment each.
        for _ in 0..10 {
            hand.ack = hand.ack.wrapping_add(100);
            hand.acknowledge(&mut world);
            assert_eq!(hand.take(&mut world), []);
        }
        hand.ack = hand.ack.wrapping_add(460);
        hand.acknowledge(&mut world);
        let data = hand.take(&mut world);
        assert!(!data.is_empty() && data[0].payload.len() >= 1440, "{data:?}");
    }
}

#[test]
fn three_duplicate_acknowledgements_bring_the_missing_segment_again() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Source(20_000)));
        let mut hand = Hand::open(&mut world, PORT, server);
        let first = hand.take(&mut world);
        assert!(first.len() >= 5, "{first:?}");
        // The second segment was lost.
        hand.ack = first[0].seq.wrapping_add(first[0].sequence_len());
        hand.acknowledge(&mut world);
        hand.take(&mut world);
        for _ in 0..2 {
            hand.acknowledge(&mut world);
        }
        assert_eq!(hand.take(&mut world), [], "two are reordering, not loss");
        hand.acknowledge(&mut world);
        let again = hand.take(&mut world);
        assert_eq!(again[0].seq, hand.ack);
        assert_eq!(again[0].payload, first[1].payload);
        assert_eq!((world.counters().tcp_fast_retransmits, world.counters().tcp_timeouts), (1, 0));
        // The rest, in order, and nothing twice once it is acknowledged.
        let (data, end) = receive_from(&mut hand, &mut world, again);
        assert_eq!((data, end), (bytes(20_000)[first[0].payload.len()..].to_vec(), true));
    }
}

#[test]
fn what_a_retransmission_doubles_causes_no_other_one() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Source(20_000)));
        let mut hand = Hand::open(&mut world, PORT, server);
        hand.take(&mut world);
        for _ in 0..10 {
            hand.acknowledge(&mut world);
        }
        // The guest had all but the first: it answers what comes twice with duplicate acknowledgements (RFC 6582 section 3.2).
        hand.ack = hand.ack.wrapping_add(3000);
        for _ in 0..10 {
            hand.acknowledge(&mut world);
        }
        assert_eq!(world.counters().tcp_fast_retransmits, 1);
    }
}

/// Goes on receiving, beginning with `segments`; what was seen already is skipped.
fn receive_from(hand: &mut Hand, world: &mut World, mut segments: Vec<Segment>) -> (Vec<u8>, bool) {
    let (mut data, mut end) = (Vec::new(), false);
    while !segments.is_empty() {
        for segment in segments {
            let skip = hand.ack.wrapping_sub(segment.seq);
            if skip < segment.sequence_len() {
                data.extend(&segment.payload[skip as usize..]);
                end |= segment.has(FIN);
                hand.ack = segment.seq.wrapping_add(segment.sequence_len());
            }
        }
        hand.acknowledge(world);
        segments = hand.take(world);
    }
    (data, end)
}

#[test]
fn what_is_not_acknowledged_comes_again_ever_more_rarely() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Idle));
        let mut hand = Hand::open(&mut world, PORT, server);
        world.host.connection_mut(FIRST).push(b"are you there?");
        let start = world.now;
        world.pass(Duration::from_secs(65));
        let seen = arrivals(&mut world);
        assert!(seen.iter().all(|(_, segment)| segment.payload == b"are you there?" && segment.seq == hand.ack), "{seen:?}");
        let times: Vec<u64> = seen.iter().map(|(at, _)| at.since(start).as_micros() as u64).collect();
        let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        // RFC 6298: never under a second (section 2.4), doubled each time (section 5.5), and at least 60 s as the most (section 2.5).
        assert!(gaps[0] >= 190_000, "{gaps:?}");
        assert!(gaps.windows(2).all(|pair| pair[1].abs_diff(pair[0] * 2) <= pair[0] / 5), "{gaps:?}");
        assert!(gaps.len() >= 4, "{gaps:?}");
        assert_eq!(world.counters().tcp_timeouts as usize, gaps.len());
        // And it still is the same connection.
        hand.ack = hand.ack.wrapping_add(14);
        hand.acknowledge(&mut world);
        assert_eq!(world.host.connection(FIRST).undelivered(), 0);
        world.host.connection_mut(FIRST).push(b"good");
        world.settle();
        assert_eq!(hand.receive(&mut world), (b"good".to_vec(), false));
    }
}

#[test]
fn a_guest_that_vanishes_is_given_up_and_its_server_told() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Idle));
        Hand::open(&mut world, PORT, server);
        world.host.connection_mut(FIRST).push(b"are you there?");
        world.pass(Duration::from_secs(3600));
        assert_eq!((world.host.open_sockets(), world.counters().tcp_expired), (0, 1));
        assert!(world.host.connection(FIRST).saw_reset(), "not all that the server sent has arrived, and it has to know");
    }
}

#[test]
fn a_closed_window_is_probed_until_it_opens() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Source(200_000)));
        let mut hand = Hand::open(&mut world, PORT, server);
        let first = hand.take(&mut world);
        hand.ack = first.last().map(|segment| segment.seq.wrapping_add(segment.sequence_len())).unwrap();
        hand.window = 0;
        hand.acknowledge(&mut world);
        assert_eq!(hand.take(&mut world), []);
        // RFC 9293 section 3.8.6.1: probed, at intervals that grow, for as long as the guest answers.
        let mut probes = Vec::new();
        for _ in 0..3600 {
            world.pass(Duration::from_secs(1));
            let now = world.now;
            for probe in hand.take(&mut world) {
                assert!(probe.payload.len() <= 1, "a window that is closed takes at most a byte: {probe:?}");
                probes.push(now);
                hand.acknowledge(&mut world);
            }
        }
        assert!((20..400).contains(&probes.len()), "{} probes in an hour", probes.len());
        assert!(world.counters().tcp_window_probes > 0);
        hand.window = 0xffff;
        hand.acknowledge(&mut world);
        let more = hand.take(&mut world);
        assert!(!more.is_empty() && more[0].seq == hand.ack, "{more:?}");
        let taken = first.iter().map(|segment| segment.payload.len()).sum::<usize>();
        let (data, end) = receive_from(&mut hand, &mut world, more);
        assert!(data == bytes(200_000)[taken..] && end);
    }
}

#[test]
fn a_window_that_opens_after_hours_is_used_as_if_it_had_never_been_closed() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Source(200_000)));
        let mut hand = Hand::open(&mut world, PORT, server);
        let first = hand.take(&mut world);
        hand.ack = first.last().map(|segment| segment.seq.wrapping_add(segment.sequence_len())).unwrap();
        hand.window = 0;
        for _ in 0..100 {
            hand.acknowledge(&mut world);
            world.pass(Duration::from_secs(60));
        }
        hand.take(&mut world);
        hand.window = 0xffff;
        hand.acknowledge(&mut world);
        assert!(!hand.take(&mut world).is_empty());
        // All of that is lost. The time-outs of the closed window are no measure for it.
        world.pass(Duration::from_millis(3100));
        assert_eq!(hand.take(&mut world)[0].seq, hand.ack);
    }
}

#[test]
fn a_guest_that_takes_its_window_back_and_drops_what_was_under_way_gets_it_again() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Idle).greeting(b"0123456789"));
        let mut hand = Hand::open(&mut world, PORT, server);
        hand.take(&mut world);
        hand.window = 0;
        hand.acknowledge(&mut world);
        world.pass(Duration::from_millis(100));
        hand.window = 0xffff;
        hand.acknowledge(&mut world);
        world.pass(Duration::from_secs(2));
        assert_eq!(hand.receive(&mut world).0, b"0123456789");
    }
}

#[test]
fn a_guest_that_vanishes_behind_a_closed_window_is_given_up() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Source(200_000)));
        let mut hand = Hand::open(&mut world, PORT, server);
        let first = hand.take(&mut world);
        hand.ack = first.last().map(|segment| segment.seq.wrapping_add(segment.sequence_len())).unwrap();
        hand.window = 0;
        hand.acknowledge(&mut world);
        world.pass(Duration::from_secs(3 * 3600));
        assert_eq!((world.host.open_sockets(), world.counters().tcp_expired), (0, 1));
    }
}

#[test]
fn a_window_update_that_is_lost_does_no_harm() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Source(200_000)));
        let mut hand = Hand::open(&mut world, PORT, server);
        let first = hand.take(&mut world);
        hand.ack = first.last().map(|segment| segment.seq.wrapping_add(segment.sequence_len())).unwrap();
        hand.window = 0;
        hand.acknowledge(&mut world);
        hand.window = 0xffff;
        world.pass(Duration::from_secs(70));
        let probes = hand.take(&mut world);
        assert!(!probes.is_empty());
        hand.acknowledge(&mut world);
        assert!(hand.take(&mut world).iter().map(|segment| segment.payload.len()).sum::<usize>() > 10_000);
    }
}

#[test]
fn a_guest_that_does_not_read_stops_the_server_and_not_the_stack() {
    for server in SERVERS {
        let mut world = World::with_guest();
        world.guest().buffer = 30_000;
        world.host.serve(server, Server::new(Program::Source(400_000)).receive_queue(50_000));
        let flow = world.guest().connect(server);
        world.guest().set_reads(flow, false);
        world.pass(Duration::from_secs(30));
        assert!(world.host.connection(FIRST).undelivered() >= 50_000);
        let other = world.guest().connect(server);
        world.until(|world| world.guest().saw_end(other));
        world.guest().set_reads(flow, true);
        world.until(|world| world.guest().saw_end(flow));
        assert!(world.guest().received(flow) == bytes(400_000));
    }
}

#[test]
fn super_frames_go_to_a_port_that_takes_them_and_only_there() {
    for server in SERVERS {
        let other_family =
            if server.is_ipv4() { Offloads { tso4: false, ..Offloads::ALL } } else { Offloads { tso6: false, ..Offloads::ALL } };
        let checksum_only = Offloads { checksum: true, ..Offloads::NONE };
        for (offloads, expected) in [(Offloads::ALL, true), (Offloads::NONE, false), (checksum_only, false), (other_family, false)]
        {
            let mut world = World::new(Setup { offloads, ..Setup::default() });
            world.host.serve(server, Server::new(Program::Source(1_000_000)));
            let flow = world.guest().connect(server);
            world.until(|world| world.guest().saw_end(flow));
            assert!(world.guest().received(flow) == bytes(1_000_000));
            let card = &world.link.cards[&crate::kit::world::PORT];
            assert_eq!(card.super_frames > 0, expected, "{offloads:?}");
            if expected {
                assert!(card.sent < 200, "{} frames for a million bytes", card.sent);
            }
        }
    }
}

#[test]
fn super_frames_of_a_guest_are_taken_whole() {
    for server in SERVERS {
        let mut world = World::new(Setup { guests_segment: true, offloads: Offloads::ALL, ..Setup::default() });
        world.host.serve(server, Server::new(Program::Sink).send_queue(1 << 20));
        let flow = world.guest().connect(server);
        world.guest().write(flow, &bytes(1_000_000));
        world.guest().finish(flow);
        world.until(|world| world.host.connections().any(|connection| connection.saw_end()));
        assert!(world.host.connection(FIRST).received() == bytes(1_000_000));
        assert!(world.host.calls().send < 200, "{} sends for a million bytes", world.host.calls().send);
    }
}

#[test]
fn a_large_link_needs_no_offloads() {
    for server in SERVERS {
        let mut world = World::new(Setup { mtu: 65_520, ..Setup::default() });
        world.host.serve(server, Server::new(Program::Echo));
        let flow = world.guest().connect(server);
        let data = bytes(700_000);
        world.guest().write(flow, &data);
        world.guest().finish(flow);
        world.until(|world| world.guest().saw_end(flow));
        assert!(world.guest().received(flow) == data);
    }
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_changes_nothing() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Idle).greeting(b"0123456789"));
        let mut hand = Hand::open(&mut world, PORT, server);
        hand.take(&mut world);
        world.give(&Segment { ack: hand.ack.wrapping_add(11), ..hand.segment(ACK) });
        let answer = hand.take(&mut world);
        assert!(answer.len() == 1 && answer[0].is(ACK), "RFC 9293 section 3.10.7.4: {answer:?}");
        assert_eq!(world.host.connection(FIRST).undelivered(), 10);
        world.give(&Segment { ack: hand.ack.wrapping_sub(100_000), ..hand.segment(ACK) });
        assert_eq!(world.host.connection(FIRST).undelivered(), 10);
        hand.ack = hand.ack.wrapping_add(10);
        hand.acknowledge(&mut world);
        assert_eq!(world.host.connection(FIRST).undelivered(), 0);
    }
}

#[test]
fn an_old_acknowledgement_does_not_bring_back_an_old_window() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Idle).greeting(b"0123456789"));
        let mut hand = Hand::open(&mut world, PORT, server);
        hand.take(&mut world);
        let old = Segment { window: 0, ..hand.segment(ACK) };
        hand.ack = hand.ack.wrapping_add(10);
        hand.acknowledge(&mut world);
        world.give(&old);
        world.host.connection_mut(FIRST).push(b"more");
        world.settle();
        let data = hand.take(&mut world);
        assert!(data.iter().any(|segment| segment.payload == b"more"), "{data:?}");
    }
}
