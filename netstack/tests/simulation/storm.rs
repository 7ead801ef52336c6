//! Many conversations at once, begun, ended, reset, stalled and unplugged by chance, on a host that runs out of things. Whatever
//! happens, nothing panics, no stream is wrong, and in the end nothing is left.

use std::net::SocketAddr;

use netstack::config::{Config, Limits, Protocol};
use netstack::frame::Offloads;
use netstack::host::sim::{ConnectionId, Operation, Program, Server, pattern};
use netstack::port::PortId;
use netstack::time::Duration;
use smoltcp::socket::tcp::State;

use crate::SERVERS;
use crate::kit::guest::FlowId;
use crate::kit::random::Random;
use crate::kit::world::{Faults, Setup, World, at};

const GUESTS: u8 = 2;

fn servers(world: &mut World) -> Vec<SocketAddr> {
    let programs = [
        Server::new(Program::Echo),
        Server::new(Program::Source(60_000)),
        Server::new(Program::Sink).reading(700, Duration::from_millis(3)).send_queue(9000),
        Server::new(Program::Source(30_000)).after(Duration::from_millis(20)).receive_queue(5000),
        Server::new(Program::CloseAfter(5000)),
        Server::new(Program::ResetAfter(3000)),
        Server::refusing().after(Duration::from_millis(1)),
        Server::failing(libc::EHOSTUNREACH),
        Server::failing_at_once(libc::ENETUNREACH),
        Server::silent(),
        Server::new(Program::Echo).staying_half_open(),
    ];
    let mut all = Vec::new();
    for server in SERVERS {
        for (port, program) in (1000..).zip(programs) {
            let address = SocketAddr::new(server.ip(), port);
            world.host.serve(address, program);
            all.push(address);
        }
    }
    all
}

fn storm(seed: u64) {
    let mut random = Random::new(seed);
    let limits = Limits { tcp_flows: 40, tcp_opening: 15, tcp_held_bytes: 20_000, neighbours: 8, ..Limits::default() };
    let mut world = World::new(Setup {
        config: Config { limits, ..Config::default() },
        seed,
        guests: GUESTS,
        offloads: if random.chance(500) { Offloads::ALL } else { Offloads::NONE },
        guests_segment: random.chance(500),
        faults: Faults { lost: 5, doubled: 10, late: 30, damaged: 5 },
        ..Setup::default()
    });
    let servers = servers(&mut world);
    let listen = at("192.0.2.1:2222");
    world.forward(Protocol::Tcp, listen, at("10.0.2.15:22"));
    world.host.set_spurious_events(random.chance(500));
    let mut flows: Vec<(PortId, FlowId)> = Vec::new();
    for _ in 0..400 {
        let port = PortId(u16::try_from(random.below(GUESTS.into())).unwrap());
        let some_flow =
            |random: &mut Random| usize::try_from(random.below(flows.len().max(1) as u64)).ok().and_then(|n| flows.get(n)).copied();
        match random.below(12) {
            0..=2 => {
                let to = servers[usize::try_from(random.below(servers.len() as u64)).unwrap()];
                let guest = world.guests.get_mut(&port).unwrap();
                guest.buffer = usize::try_from(2000 + random.below(60_000)).unwrap();
                let flow = guest.connect(to);
                let mut data = vec![0; usize::try_from(random.below(20_000)).unwrap()];
                pattern(0, &mut data);
                guest.write(flow, &data);
                flows.push((port, flow));
            }
            3 => {
                if let Some((port, flow)) = some_flow(&mut random) {
                    world.guests.get_mut(&port).unwrap().finish(flow);
                }
            }
            4 => {
                if let Some((port, flow)) = some_flow(&mut random) {
                    world.guests.get_mut(&port).unwrap().reset(flow);
                }
            }
            5 => {
                if let Some((port, flow)) = some_flow(&mut random) {
                    let reads = random.chance(500);
                    world.guests.get_mut(&port).unwrap().set_reads(flow, reads);
                }
            }
            6 => {
                let Some(ConnectionId(last)) = world.host.last_connection() else { continue };
                let id = usize::try_from(random.below(last as u64 + 1)).unwrap();
                let connection = world.host.connection_mut(ConnectionId(id));
                match random.below(5) {
                    0 => connection.reset(),
                    1 => connection.close(),
                    2 => connection.finish(),
                    3 => connection.take_at_most(Some(usize::try_from(random.below(3)).unwrap())),
                    _ => connection.take_at_most(None),
                }
            }
            7 => {
                let card = world.link.cards.get_mut(&port).unwrap();
                card.stalled = random.chance(500);
                card.capacity = usize::try_from(1 + random.below(64)).unwrap();
            }
            8 => {
                let operations = [Operation::Connect, Operation::Accept, Operation::Send, Operation::Peek, Operation::BindDatagram];
                let operation = operations[usize::try_from(random.below(5)).unwrap()];
                let errors = if matches!(operation, Operation::Send | Operation::Peek) {
                    [libc::ECONNRESET, libc::EPIPE, libc::ETIMEDOUT, libc::EHOSTUNREACH]
                } else {
                    [libc::EMFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL]
                };
                world.host.fail(operation, errors[usize::try_from(random.below(4)).unwrap()], 1);
            }
            9 => {
                let from = SocketAddr::new([203, 0, 113, 9].into(), 2000 + u16::try_from(random.below(50)).unwrap());
                let _ = world.host.dial(listen, from, &Server::new(Program::Source(10_000)));
                if random.chance(500) {
                    world.guests.get_mut(&PortId(0)).unwrap().listen(22);
                }
            }
            10 if random.chance(100) => {
                world.unplug(port);
                flows.retain(|(other, _)| *other != port);
                world.plug(port);
            }
            _ => world.pass(Duration::from_millis(random.below(400))),
        }
        world.pass(Duration::from_micros(random.below(2000)));
    }
    // The storm is over. Whoever does not read, reads; and everybody comes to an end.
    world.faults = Faults::default();
    world.host.set_spurious_events(false);
    for card in world.link.cards.values_mut() {
        card.stalled = false;
    }
    for id in 0..world.host.connections().count() {
        let connection = world.host.connection_mut(ConnectionId(id));
        connection.take_at_most(None);
        connection.finish();
    }
    for (port, flow) in &flows {
        let guest = world.guests.get_mut(port).unwrap();
        guest.set_reads(*flow, true);
        guest.finish(*flow);
    }
    world.pass(Duration::from_secs(400));
    // This guest's stack asks for ever for what never answers.
    for (port, flow) in flows {
        let guest = world.guests.get_mut(&port).unwrap();
        if guest.state(flow) == State::SynSent {
            guest.reset(flow);
        }
    }
    world.pass(Duration::from_secs(9 * 3600));
    for connection in world.host.connections() {
        let mut expected = vec![0; connection.received().len()];
        pattern(0, &mut expected);
        assert!(connection.received() == expected, "a stream of a guest is not what it has sent");
    }
    let left: Vec<_> = world.stack.flows().collect();
    assert_eq!(left, [], "of {} sockets", world.host.open_sockets());
    assert_eq!(world.host.open_sockets(), 1, "the listener of the forward is all that stays");
}

#[test]
fn nothing_is_left_after_a_storm() {
    for seed in 0..40 {
        storm(seed);
    }
}
