//! Initial sequence numbers (RFC 6528): nobody outside can guess them, and the same addresses never see them go back.

use netstack::host::sim::{Program, Server};
use netstack::time::Duration;

use crate::SERVERS;
use crate::kit::hand::Hand;
use crate::kit::wire::{ACK, RST, Segment};
use crate::kit::world::{Setup, World};

fn world(seed: u64) -> World {
    let mut world = World::new(Setup { seed, guests: 0, latency: Duration::ZERO, ..Setup::default() });
    for server in SERVERS {
        world.host.serve(server, Server::new(Program::Sink));
    }
    world
}

/// Opens a connection, resets it, and tells the initial sequence number.
fn initial_sequence(world: &mut World, port: u16, server: std::net::SocketAddr) -> u32 {
    let hand = Hand::syn(world, port, server);
    let syn_ack = hand.take(world).pop().unwrap();
    world.give(&Segment { ack: 0, seq: syn_ack.ack, ..hand.segment(RST) });
    world.give(&Segment { ack: syn_ack.seq + 1, seq: syn_ack.ack, ..hand.segment(RST | ACK) });
    hand.take(world);
    syn_ack.seq
}

#[test]
fn neighbouring_connections_have_sequence_numbers_without_a_pattern() {
    for server in SERVERS {
        let mut world = world(1);
        let numbers: Vec<u32> = (0..200).map(|n| initial_sequence(&mut world, 40_000 + n, server)).collect();
        let mut steps: Vec<u32> = numbers.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
        let small = steps.iter().filter(|step| step.cast_signed().unsigned_abs() < 1 << 24).count();
        assert!(small < 10, "{small} of 199 neighbours are near each other");
        steps.sort_unstable();
        steps.dedup();
        assert!(steps.len() > 195);
        let bits = numbers.iter().fold((0, u32::MAX), |(or, and), number| (or | number, and & number));
        assert_eq!(bits, (u32::MAX, 0), "every bit varies");
    }
}

#[test]
fn the_same_connection_begins_elsewhere_in_another_run() {
    for server in SERVERS {
        let mut numbers: Vec<u32> = (0..50).map(|seed| initial_sequence(&mut world(seed), 40_000, server)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 50);
    }
}

#[test]
fn the_same_addresses_get_ever_higher_numbers_at_the_pace_of_the_clock() {
    for server in SERVERS {
        let mut world = world(1);
        let mut last = initial_sequence(&mut world, 40_000, server);
        for _ in 0..100 {
            world.pass(Duration::from_secs(2));
            let next = initial_sequence(&mut world, 40_000, server);
            let step = next.wrapping_sub(last);
            assert!((400_000..600_000).contains(&step), "2 s are 500,000 ticks of 4 us, not {step}");
            last = next;
        }
    }
}
