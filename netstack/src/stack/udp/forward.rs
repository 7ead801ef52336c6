//! Forwards: a socket of the host whose datagrams go to a guest, and the clients that have sent to it.

use std::io;
use std::net::SocketAddr;

use hashbrown::HashMap;
use slab::Slab;

use super::UdpFlowInfo;
use crate::config::{Limits, Timeouts};
use crate::host::SocketId;
use crate::port::PortId;
use crate::stack::Shared;
use crate::stack::hash::Keyed;
use crate::stack::token::Owner;
use crate::time::{Duration, Instant};

/// How many ports are tried for a client that the guest would take for another one.
const PORT_TRIES: u16 = 64;
const GENERATION_MASK: u32 = (1 << 24) - 1;

/// All forwards and their clients.
#[derive(Debug)]
pub(super) struct Forwards {
    forwards: Slab<Forward>,
    clients: Slab<Client>,
    /// By the guest's address and by how the guest sees the client.
    by_guest: HashMap<(SocketAddr, SocketAddr), u32, Keyed>,
    /// By the forward and the client's real address.
    by_client: HashMap<(u32, SocketAddr), u32, Keyed>,
    /// The generation of the forward or the client that was added last.
    generation: u32,
    limit: usize,
    idle: Duration,
}

/// A forward's socket.
#[derive(Debug)]
pub(super) struct Forward {
    /// Tells this forward from earlier ones in the same place.
    generation: u32,
    pub(super) socket: SocketId,
    pub(super) guest: SocketAddr,
    /// It is on the list of sockets that are ready, or of those that are blocked.
    pub(super) queued: bool,
    /// A timer is set to ask for its guest again.
    pub(super) seeks: bool,
}

#[derive(Debug)]
struct Client {
    forward: u32,
    real: SocketAddr,
    guest: SocketAddr,
    /// The port behind which the guest was when it was sent a datagram last: only from there are answers taken.
    port: PortId,
    seen: SocketAddr,
    generation: u32,
    used: Instant,
}

impl Forwards {
    pub(super) fn new(limits: &Limits, timeouts: &Timeouts, hash: Keyed) -> Self {
        Self {
            forwards: Slab::new(),
            clients: Slab::new(),
            by_guest: HashMap::with_hasher(hash),
            by_client: HashMap::with_hasher(hash),
            generation: 0,
            limit: limits.udp_mappings,
            idle: timeouts.udp_idle,
        }
    }

    pub(super) fn add(
        &mut self,
        bind: impl FnOnce(Owner) -> io::Result<(SocketId, SocketAddr)>,
        guest: SocketAddr,
    ) -> io::Result<(Owner, SocketAddr)> {
        let generation = (self.generation + 1) & GENERATION_MASK;
        let entry = self.forwards.vacant_entry();
        let owner = Owner::UdpForward { id: entry.key() as u32, generation };
        let (socket, bound) = bind(owner)?;
        entry.insert(Forward { generation, socket, guest, queued: false, seeks: false });
        self.generation = generation;
        Ok((owner, bound))
    }

    /// Takes a forward away, and its clients with it. What is left to do is to close its socket.
    pub(super) fn remove(&mut self, id: u32, generation: u32) -> Option<Forward> {
        self.get(id, generation)?;
        let gone = self.forwards.try_remove(id as usize);
        let Self { clients, by_guest, by_client, .. } = self;
        clients.retain(|_, client| {
            if client.forward != id {
                return true;
            }
            by_guest.remove(&(client.guest, client.seen));
            by_client.remove(&(client.forward, client.real));
            false
        });
        gone
    }

    pub(super) fn get(&self, id: u32, generation: u32) -> Option<&Forward> {
        self.forwards.get(id as usize).filter(|forward| forward.generation == generation)
    }

    pub(super) fn get_mut(&mut self, id: u32, generation: u32) -> Option<&mut Forward> {
        self.forwards.get_mut(id as usize).filter(|forward| forward.generation == generation)
    }

    pub(super) fn len(&self) -> usize {
        self.forwards.len()
    }

    /// All clients.
    pub(super) fn flows(&self, now: Instant) -> impl Iterator<Item = UdpFlowInfo> {
        self.clients.iter().map(move |(_, client)| UdpFlowInfo {
            guest: client.guest,
            client: Some(client.seen),
            idle: now.since(client.used),
        })
    }

    /// The forward, its socket, and the real address of the client that the guest at `guest`, behind `port`, sees as `seen`.
    pub(super) fn client(
        &mut self,
        now: Instant,
        port: PortId,
        guest: SocketAddr,
        seen: SocketAddr,
    ) -> Option<(Owner, SocketId, SocketAddr)> {
        if self.by_guest.is_empty() {
            return None;
        }
        let client = self.clients.get_mut(*self.by_guest.get(&(guest, seen))? as usize).filter(|client| client.port == port)?;
        client.used = now;
        let (id, real) = (client.forward, client.real);
        let forward = self.forwards.get(id as usize)?;
        Some((Owner::UdpForward { id, generation: forward.generation }, forward.socket, real))
    }

    /// The guest of a forward, the port behind which it was last, and how it sees the client at `real`.
    pub(super) fn guest_of_client(&self, forward: u32, real: SocketAddr) -> Option<(SocketAddr, PortId, SocketAddr)> {
        let client = self.clients.get(*self.by_client.get(&(forward, real))? as usize)?;
        Some((client.guest, client.port, client.seen))
    }

    /// How the guest of a forward, behind `port`, sees the client at `real`. `None` if there are too many clients, or no address to show.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        forward: u32,
        port: PortId,
        real: SocketAddr,
    ) -> Option<SocketAddr> {
        if let Some(client) = self.by_client.get(&(forward, real)).and_then(|id| self.clients.get_mut(*id as usize)) {
            client.used = now;
            client.port = port;
            return Some(client.seen);
        }
        if self.clients.len() >= self.limit {
            shared.counters.udp_limit_mappings += 1;
            return None;
        }
        let guest = self.forwards.get(forward as usize)?.guest;
        let ip = shared.policy.as_seen_by_guest(real.ip())?;
        let ip = if ip.is_ipv4() == guest.is_ipv4() { ip } else { shared.policy.gateway(guest.is_ipv4())? };
        let seen = (0..PORT_TRIES)
            .map(|n| SocketAddr::new(ip, real.port().wrapping_sub(n)))
            .find(|seen| seen.port() != 0 && !self.by_guest.contains_key(&(guest, *seen)))?;
        self.generation = (self.generation + 1) & GENERATION_MASK;
        let generation = self.generation;
        let id = self.clients.insert(Client { forward, real, guest, port, seen, generation, used: now }) as u32;
        self.by_guest.insert((guest, seen), id);
        self.by_client.insert((forward, real), id);
        shared.wheel.set(now + self.idle, Owner::UdpClient { id, generation });
        Some(seen)
    }

    /// The timer of a client has come due: it is forgotten if it was silent for long enough.
    pub(super) fn expire(&mut self, now: Instant, shared: &mut Shared, id: u32, generation: u32) {
        let Some(client) = self.clients.get(id as usize).filter(|client| client.generation == generation) else { return };
        let at = client.used + self.idle;
        if now < at {
            shared.wheel.set(at, Owner::UdpClient { id, generation });
            return;
        }
        let client = self.clients.remove(id as usize);
        self.by_guest.remove(&(client.guest, client.seen));
        self.by_client.remove(&(client.forward, client.real));
    }
}
