//! What the peers of a recorded script do, as far as their segments do not tell: when they read, and how much their sockets hold.

use std::collections::BTreeMap;

use crate::host::sim::{Connection, ConnectionId, SimHost};
use crate::replay::Logged;
use crate::replay::conversation::{self, Key};
use crate::replay::packet::Tcp;
use crate::replay::sidecar::Peer;
use crate::time::Instant;

/// The queues of a simulated peer of which nothing is said, in bytes.
pub(in crate::replay) const QUEUE: usize = 128 << 10;

/// All peers there were.
#[derive(Debug, Default)]
pub(super) struct Peers {
    known: BTreeMap<ConnectionId, Watched>,
}

/// A peer, and what it was seen doing.
#[derive(Debug)]
struct Watched {
    /// Which packet of the recording asks for the connection.
    asks: usize,
    queues: (usize, usize),
    /// Whether it ever left something unread.
    slow: bool,
    reads: Vec<(u64, u64)>,
    writes: Vec<(u64, u64)>,
    finishes: Option<u64>,
}

impl Watched {
    fn new(asks: usize, connection: &Connection) -> Self {
        let queues = connection.queue_capacities();
        Self { asks, queues, slow: false, reads: Vec::new(), writes: Vec::new(), finishes: None }
    }
}

impl Peers {
    /// A guest's packet was taken: if it has made a connection, that is remembered with it.
    pub(super) fn opened(&mut self, host: &SimHost, packet: usize) {
        for connection in host.connections().rev() {
            // Clients come by themselves, and no packet of a guest makes them.
            if self.known.contains_key(&connection.id()) || connection.is_from_client() {
                break;
            }
            self.known.insert(connection.id(), Watched::new(packet, connection));
        }
    }

    /// The engine has sent a packet: if it asks a guest on behalf of a client, that is remembered with it.
    pub(super) fn asked(&mut self, host: &SimHost, packet: usize, frame: &[u8]) {
        let Some(tcp) = Tcp::of(frame).filter(Tcp::opens) else { return };
        let unknown =
            host.connections().filter(|connection| connection.is_from_client() && !self.known.contains_key(&connection.id()));
        // The port is the client's own unless another client with the same one came from elsewhere.
        let behind = |connection: &&Connection| connection.remote().port().wrapping_sub(tcp.source.port());
        if let Some(connection) = unknown.filter(|connection| connection.is_held_by_stack()).min_by_key(behind) {
            self.known.insert(connection.id(), Watched::new(packet, connection));
        }
    }

    /// Looks at all peers, at the end of a turn.
    pub(super) fn sample(&mut self, host: &SimHost, now: Instant) {
        let now = now.as_micros();
        for (id, watched) in &mut self.known {
            let connection = host.connection(*id);
            watched.slow |= connection.unread() > 0 && connection.is_established();
            let note = |what: &mut Vec<(u64, u64)>, total: u64| {
                if what.last().map_or(total > 0, |(_, before)| total > *before) {
                    what.push((now, total));
                }
            };
            note(&mut watched.reads, connection.received_len());
            note(&mut watched.writes, connection.written_len());
            if connection.has_finished() && watched.finishes.is_none() {
                watched.finishes = Some(now);
            }
        }
    }

    /// What there is to say of them.
    pub(super) fn told(&self, log: &[Logged]) -> Vec<PeerTold> {
        let keys = conversation::assign(log);
        let tell = |watched: &Watched| {
            let Key::Tcp { guest, remote, number, .. } = *keys.get(watched.asks)? else { return None };
            let usual = |len: usize| (len != QUEUE).then_some(len);
            let peer = Peer {
                guest,
                remote,
                number,
                send_queue: usual(watched.queues.0),
                receive_queue: usual(watched.queues.1),
                reads: if watched.slow { watched.reads.clone() } else { Vec::new() },
                writes: watched.writes.clone(),
                finishes: watched.finishes,
            };
            Some(PeerTold { peer, slow: watched.slow })
        };
        self.known.values().filter_map(tell).collect()
    }
}

/// All that a sidecar can say of a peer.
#[derive(Debug, Clone)]
pub(super) struct PeerTold {
    pub(super) peer: Peer,
    slow: bool,
}

impl PeerTold {
    /// What of it no segment can tell, if there is such a thing.
    pub(super) fn needed(&self) -> Option<Peer> {
        let peer = Peer { writes: Vec::new(), finishes: None, ..self.peer.clone() };
        (self.slow || peer.send_queue.is_some() || peer.receive_queue.is_some()).then_some(peer)
    }
}
