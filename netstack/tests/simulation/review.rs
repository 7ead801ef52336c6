//! Where progress hangs on a single event, and where nothing at all must happen.

use netstack::host::sim::{ConnectionId, Program, Server};
use netstack::time::Duration;

use crate::SERVERS;
use crate::kit::hand::Hand;
use crate::kit::wire::{SYN, Segment};
use crate::kit::world::World;

const FIRST: ConnectionId = ConnectionId(0);

#[test]
fn a_guest_that_has_read_all_there_is_may_keep_its_window_closed() {
    for server in SERVERS {
        let mut world = World::by_hand();
        world.host.serve(server, Server::new(Program::Idle).greeting(&[7; 500]));
        let mut hand = Hand::new(&world, 50_000, server);
        hand.window = 500;
        world.give(&Segment { ack: 0, ..hand.segment(SYN) });
        hand.seq += 1;
        hand.complete(&mut world);
        assert_eq!(hand.take(&mut world).iter().map(|segment| segment.payload.len()).sum::<usize>(), 500, "all that fits");
        hand.ack = hand.ack.wrapping_add(500);
        hand.window = 0;
        hand.acknowledge(&mut world);
        world.pass(Duration::from_secs(3600));
        assert_eq!(hand.take(&mut world), [], "there is nothing to probe the window with");
        assert!(world.host.connection(FIRST).is_established());
        world.host.connection_mut(FIRST).push(b"more");
        world.settle();
        hand.window = 500;
        hand.acknowledge(&mut world);
        assert_eq!(hand.take(&mut world).last().unwrap().payload, b"more");
    }
}
