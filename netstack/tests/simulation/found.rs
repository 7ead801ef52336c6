//! What searches over seeds have found, each told as the story of what went wrong.

use netstack::config::Protocol;
use netstack::host::sim::{ConnectionId, Program, Server};
use netstack::time::Duration;

use crate::SERVERS;
use crate::kit::hand::Hand;
use crate::kit::wire::{ACK, Body, RST, Segment};
use crate::kit::world::{PORT, World, at};

const FIRST: ConnectionId = ConnectionId(0);

/// Segments of a guest that are behind what was received of it are thrown away with their acknowledgements, and so are ours at the guest.
/// When both sides go back to send again, somebody has to say the latest that is known.
#[test]
fn what_only_acknowledges_has_a_sequence_number_that_a_guest_takes_even_after_going_back() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Idle));
        let mut hand = Hand::open(&mut world, 40_000, server);
        world.host.connection_mut(FIRST).push(&[7; 20_000]);
        world.settle();
        let before = hand.ack;
        let (bytes, _) = hand.receive_without_acknowledging(&mut world);
        assert_eq!(bytes.len(), 20_000);
        // None of the acknowledgements arrives, so everything is sent again, beginning with one segment.
        world.pass(Duration::from_secs(2));
        assert!(world.counters().tcp_timeouts > 0);
        hand.take(&mut world);
        world.give(&Segment { ack: before, ..hand.data_at(hand.seq, b"more") });
        let acks = hand.take(&mut world);
        let last = acks.last().unwrap();
        assert!(last.is(ACK) && last.payload.is_empty(), "{last:?}");
        assert_eq!((last.ack, last.seq), (hand.seq + 4, hand.ack));
    }
}

/// A guest that only waits for data sends nothing to which it could be answered by a reset.
#[test]
fn a_reset_waits_for_a_full_port() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Idle));
        let hand = Hand::open(&mut world, 40_000, server);
        let card = world.link.cards.get_mut(&PORT).unwrap();
        (card.stalled, card.capacity) = (true, 0);
        world.host.connection_mut(FIRST).reset();
        world.pass(Duration::from_secs(60));
        assert_eq!(world.stack.tcp_flows(), 0);
        let card = world.link.cards.get_mut(&PORT).unwrap();
        (card.stalled, card.capacity) = (false, 256);
        world.settle();
        let segments = hand.take(&mut world);
        assert!(matches!(&segments[..], [reset] if reset.is(RST | ACK) && reset.seq == hand.ack), "{segments:?}");
    }
}

/// Datagrams wait in the socket of a forward while its guest is looked for. Once the socket is full, no further one tells of itself.
#[test]
fn a_forward_asks_for_its_guest_until_it_is_there_even_when_no_more_datagrams_fit() {
    for (forward, client, guest) in [
        (at("192.0.2.1:5353"), at("203.0.113.9:45678"), at("10.0.2.15:53")),
        (at("[2001:db8::1]:5353"), at("[2001:db8:9::9]:45678"), at("[fec0::15]:53")),
    ] {
        let mut world = World::by_hand();
        world.forward(Protocol::Udp, forward, guest);
        world.answers_neighbours = false;
        while world.host.inject_udp(forward, client, &[7; 1000]) {}
        world.pass(Duration::from_secs(60));
        // The guest starts. It has nothing to say.
        world.answers_neighbours = true;
        world.pass(Duration::from_secs(2));
        let datagrams = world.take().into_iter().filter(|parsed| matches!(parsed.body, Body::Udp(_))).count();
        assert_eq!(datagrams, 212);
    }
}
