//! What searches over seeds have found, each told as the story of what went wrong.

use netstack::host::sim::{ConnectionId, Program, Server};
use netstack::time::Duration;

use crate::SERVERS;
use crate::kit::hand::Hand;
use crate::kit::wire::{ACK, RST};
use crate::kit::world::{PORT, World};

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
        let (bytes, _) = hand.receive_without_acknowledging(&mut world);
        assert_eq!(bytes.len(), 20_000);
        // None of the acknowledgements arrives, so everything is sent again, beginning with one segment.
        world.pass(Duration::from_secs(2));
        hand.take(&mut world);
        hand.send(&mut world, b"more");
        let acks = hand.take(&mut world);
        let last = acks.last().unwrap();
        assert!(last.is(ACK) && last.payload.is_empty(), "{last:?}");
        assert_eq!((last.ack, last.seq), (hand.seq, hand.ack));
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
