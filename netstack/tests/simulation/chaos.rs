//! Whole conversations over a link that loses, doubles, delays and damages frames, from many seeds.
//!
//! What must hold whatever happens: each byte arrives once and in order, everybody learns of the end, and nothing is left.

use netstack::config::Protocol;
use netstack::frame::Offloads;
use netstack::host::sim::{ConnectionId, DIGEST_START, Program, Server, digest, pattern};
use netstack::time::Duration;

use crate::SERVERS;
use crate::kit::random::Random;
use crate::kit::world::{Faults, Setup, World, at};

const FIRST: ConnectionId = ConnectionId(0);

fn setup(seed: u64, faults: Faults) -> Setup {
    let mut random = Random::new(seed);
    let offloads = if random.chance(500) { Offloads::ALL } else { Offloads::NONE };
    let mtu = [1280, 1500, 9000, 65_520][usize::try_from(random.below(4)).unwrap()];
    Setup { seed, faults, offloads, mtu, guests_segment: random.chance(500), ..Setup::default() }
}

/// A conversation in which both sides say a lot, at paces that follow from the seed, and then close.
fn converse(seed: u64, faults: Faults) {
    for server in SERVERS {
        let mut world = World::new(setup(seed, faults));
        world.host.set_spurious_events(seed.is_multiple_of(2));
        let mut random = Random::new(seed ^ 0xabcd);
        let len = usize::try_from(20_000 + random.below(200_000)).unwrap();
        let queue = usize::try_from(5_000 + random.below(200_000)).unwrap();
        let mut echo = Server::new(Program::Echo).send_queue(queue).receive_queue(queue);
        if random.chance(400) {
            echo = echo.reading(usize::try_from(500 + random.below(20_000)).unwrap(), Duration::from_millis(1 + random.below(20)));
        }
        world.host.serve(server, echo);
        let flow = world.guest().connect(server);
        let mut data = vec![0; len];
        pattern(0, &mut data);
        world.guest().write(flow, &data);
        world.guest().finish(flow);
        world.until_within(Duration::from_secs(3600), |world| world.guest().saw_end(flow));
        assert_eq!(world.guest().received(flow).len(), len);
        assert!(world.guest().received(flow) == data, "the bytes are others");
        let connection = world.host.connection(FIRST);
        assert_eq!(connection.received_digest(), digest(DIGEST_START, &data));
        assert!(connection.saw_end() && !connection.saw_reset());
        world.faults = Faults::default();
        world.pass(Duration::from_secs(400));
        assert_eq!(world.host.open_sockets(), 0);
    }
}

#[test]
fn a_conversation_survives_loss() {
    for seed in 0..30 {
        converse(seed, Faults { lost: 20, ..Faults::default() });
    }
}

#[test]
fn a_conversation_survives_doubled_and_late_frames() {
    for seed in 0..30 {
        converse(seed, Faults { doubled: 50, late: 100, ..Faults::default() });
    }
}

#[test]
fn a_conversation_survives_everything_at_once() {
    for seed in 0..30 {
        converse(seed, Faults { lost: 10, doubled: 20, late: 50, damaged: 10 });
    }
}

#[test]
fn a_conversation_without_faults_has_no_retransmission() {
    for seed in 0..30 {
        for server in SERVERS {
            let mut world = World::new(setup(seed, Faults::default()));
            world.host.serve(server, Server::new(Program::Echo));
            let flow = world.guest().connect(server);
            world.guest().write(flow, &[1; 300_000]);
            world.guest().finish(flow);
            world.until(|world| world.guest().saw_end(flow));
            let counters = world.counters();
            let again = (counters.tcp_fast_retransmits, counters.tcp_timeouts, counters.tcp_out_of_order, counters.tcp_held_bytes);
            assert_eq!(again, (0, 0, 0, 0));
        }
    }
}

#[test]
fn forwarded_conversations_survive_everything_too() {
    for seed in 0..20 {
        for (listen, client, guest) in [
            (at("192.0.2.1:2222"), at("203.0.113.9:45678"), at("10.0.2.15:22")),
            (at("[2001:db8::1]:2222"), at("[2001:db8:9::9]:45678"), at("[fec0::15]:22")),
        ] {
            let mut world = World::new(setup(seed, Faults { lost: 10, doubled: 20, late: 50, damaged: 10 }));
            world.forward(Protocol::Tcp, listen, guest);
            let flow = world.guest().listen(22);
            let id = world.host.dial(listen, client, &Server::new(Program::Source(150_000))).unwrap();
            let mut data = vec![0; 150_000];
            pattern(0, &mut data);
            world.guest().write(flow, &data[..70_000]);
            world.until_within(Duration::from_secs(3600), |world| world.guest().saw_end(flow));
            assert!(world.guest().received(flow) == data);
            world.guest().finish(flow);
            world.until_within(Duration::from_secs(3600), |world| world.host.connection(id).saw_end());
            assert!(world.host.connection(id).received() == &data[..70_000]);
            assert!(!world.host.connection(id).saw_reset());
        }
    }
}

#[test]
fn many_connections_at_once_do_not_mix() {
    for server in SERVERS {
        let mut world = World::new(Setup { guests: 3, ..Setup::default() });
        world.host.serve(server, Server::new(Program::Echo).after(Duration::from_millis(2)));
        let mut flows = Vec::new();
        for (port, guest) in &mut world.guests {
            for n in 0..60u8 {
                let flow = guest.connect(server);
                let data: Vec<u8> = (0..2000u32).map(|at| (at as u8).wrapping_mul(n).wrapping_add(port.0 as u8)).collect();
                guest.write(flow, &data);
                guest.finish(flow);
                flows.push((*port, flow, data));
            }
        }
        world.until(|world| flows.iter().all(|(port, flow, _)| world.guests[port].saw_end(*flow)));
        for (port, flow, data) in &flows {
            assert!(world.guests[port].received(*flow) == data);
        }
        world.pass(Duration::from_secs(300));
        assert_eq!(world.host.open_sockets(), 0);
    }
}

#[test]
fn a_run_repeats_itself_exactly() {
    let run = |seed| {
        let mut world = World::new(setup(seed, Faults { lost: 20, doubled: 20, late: 50, damaged: 0 }));
        world.host.serve(SERVERS[0], Server::new(Program::Echo));
        let flow = world.guest().connect(SERVERS[0]);
        world.guest().write(flow, &[7; 100_000]);
        world.guest().finish(flow);
        world.until_within(Duration::from_secs(3600), |world| world.guest().saw_end(flow));
        (world.now, world.counters().clone(), world.host.calls())
    };
    assert_eq!(run(3), run(3));
}
