//! Pinging the world: guests' echo requests through ping sockets of the host, as RFC 5508 wants a NAT to do it.
//!
//! Each identifier of each guest's address has one socket, whatever is pinged with it. The kernel gives the socket an identifier of its own;
//! answers and errors get the guest's again. Only hosts that were pinged may answer. Everything else of a request stays: its sequence
//! number, its data, the mark that forbids fragments, and the hop limit less one, for we are a router. So those who look for the way by
//! echo requests find it.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::io;
use std::net::{IpAddr, SocketAddr};

use hashbrown::HashTable;
use slab::Slab;

use super::emit::{self, HOP_LIMIT, Path};
use super::hash::Keyed;
use super::icmp::{self, Quote};
use super::neighbour::Station;
use super::packet::Packet;
use super::peers::Peers;
use super::token::Owner;
use super::{Context, Shared};
use crate::config::{Limits, Timeouts};
use crate::frame::{Chunk, ChunkMut, Frame, MAX_FRAME};
use crate::host::{Event, Family, SendOptions, SocketId, Teller};
use crate::port::PortId;
use crate::time::{Duration, Instant};
use crate::wire::icmp_error::{self, HEADER, MAX_QUOTE_V6, Problem, Unreachable};

const GENERATION_MASK: u32 = (1 << 24) - 1;

/// Answers, and errors, that one socket delivers before others get their turn.
const TURN: usize = 64;

/// All ping mappings.
#[derive(Debug)]
pub(crate) struct Pings {
    pings: Slab<Ping>,
    index: HashTable<u32>,
    hash: Keyed,
    generation: u32,
    /// Sockets that may have answers.
    ready: VecDeque<Owner>,
    limit: usize,
    peers: usize,
    idle: Duration,
}

/// The socket that stands for an identifier of a guest.
#[derive(Debug)]
struct Ping {
    key: Key,
    station: Station,
    socket: SocketId,
    generation: u32,
    peers: Peers,
    used: Instant,
    /// It is on the list of sockets that are ready.
    queued: bool,
}

/// Who pings: a guest behind another port that uses the same address is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    port: PortId,
    guest: IpAddr,
    id: u16,
}

impl Pings {
    pub(crate) fn new(limits: &Limits, timeouts: &Timeouts, hash: Keyed) -> Self {
        Self {
            pings: Slab::new(),
            index: HashTable::new(),
            hash,
            generation: 0,
            ready: VecDeque::new(),
            limit: limits.icmp_mappings,
            peers: limits.udp_peers,
            idle: timeouts.icmp_idle,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.pings.len()
    }

    /// Entries on the list of those that have something to do.
    pub(crate) fn waiting(&self) -> usize {
        self.ready.len()
    }

    /// Sends a guest's echo request on. `message` is the whole of it, and `frame` what it has come in.
    pub(crate) fn request(
        &mut self,
        cx: &mut Context<'_>,
        shared: &mut Shared,
        station: Station,
        (packet, frame): (&Packet, &Frame<'_>),
        to: SocketAddr,
        message: &[u8],
    ) {
        let (&[_, code, _, _, high, low], true) = (message.first_chunk().unwrap_or(&[0; 6]), message.len() >= HEADER) else {
            return;
        };
        if code != 0 {
            // RFC 792 knows no other.
            shared.counters.drop_malformed += 1;
            return;
        }
        let key = Key { port: station.port, guest: packet.source, id: u16::from_be_bytes([high, low]) };
        let (id, socket) = match self.socket_for(cx, shared, station, key, to.ip()) {
            Ok(found) => found,
            Err(Refusal::Limit) => return,
            Err(Refusal::Forbidden) => {
                // The truth, where silence would say that nobody is there.
                let problem = Problem::Unreachable(Unreachable::Prohibited);
                return icmp::tell(cx, shared, station, problem, &Quote::of_frame(key.guest, frame));
            }
        };
        let hop_limit = Some(packet.hop_limit.saturating_sub(1).max(1));
        let options = SendOptions { segment: None, hop_limit, dont_fragment: packet.dont_fragment };
        let Err(error) = cx.host.send_to(socket, to, &[Chunk::from(message)], options) else {
            shared.counters.icmp_echo_out += 1;
            return;
        };
        shared.counters.drop_host_send += 1;
        let quote = Quote::of_frame(key.guest, frame);
        match icmp::problem_of(&error) {
            Some(problem) => icmp::tell(cx, shared, station, problem, &quote),
            None => self.take_errors(cx, shared, id, Some(quote)),
        }
    }

    /// Takes news of a mapping's socket.
    pub(crate) fn host_event(&mut self, cx: &mut Context<'_>, shared: &mut Shared, owner: Owner, event: Event) {
        let Owner::Ping { id, generation } = owner else { return };
        if self.get(id, generation).is_none() {
            return;
        }
        if event.failed {
            self.take_errors(cx, shared, id, None);
        }
        if event.readable
            && let Some(ping) = self.pings.get_mut(id as usize)
            && !std::mem::replace(&mut ping.queued, true)
        {
            self.ready.push_back(owner);
        }
    }

    /// Delivers answers to guests from at most `budget` sockets. Returns whether more are waiting.
    pub(crate) fn run(&mut self, cx: &mut Context<'_>, shared: &mut Shared, budget: usize) -> bool {
        if self.ready.is_empty() {
            return false;
        }
        let mut buffer = std::mem::take(&mut shared.scratch);
        buffer.resize(MAX_FRAME, 0);
        for _ in 0..budget {
            let Some(owner) = self.ready.pop_front() else { break };
            let Owner::Ping { id, generation } = owner else { continue };
            let Some(ping) = self.pings.get_mut(id as usize).filter(|ping| ping.generation == generation) else { continue };
            let more = (0..TURN).all(|_| ping.receive(cx, shared, &mut buffer));
            ping.queued = more;
            if more {
                self.ready.push_back(owner);
            }
        }
        shared.scratch = buffer;
        !self.ready.is_empty()
    }

    /// Tells a guest what is wrong with its echo requests. `refused` is the one that the socket has just not taken.
    fn take_errors(&mut self, cx: &mut Context<'_>, shared: &mut Shared, id: u32, mut refused: Option<Quote>) {
        let Some(ping) = self.pings.get(id as usize) else { return };
        let Ping { key, station, socket, .. } = *ping;
        let mut message = [0; MAX_QUOTE_V6];
        // While there are more, a further event follows.
        for _ in 0..TURN {
            let Some(error) = cx.host.take_datagram_error(socket, &mut message) else { return };
            if error.teller == Teller::Socket {
                if let Some(quote) = refused.take() {
                    icmp::tell(cx, shared, station, error.problem, &quote);
                }
                continue;
            }
            shared.counters.icmp_errors_in += 1;
            let seen = error.destination.ip();
            if !ping.peers.contains(seen) {
                shared.counters.drop_filtered += 1;
                continue;
            }
            let quote = Quote::echo_request(key.guest, seen, key.id, message.get(..error.len).unwrap_or_default());
            icmp::relay(cx, shared, station, &error, seen, &quote);
        }
    }

    /// The timer of a mapping has come due: it goes if nothing was pinged for long enough.
    pub(crate) fn expire(&mut self, cx: &mut Context<'_>, shared: &mut Shared, owner: Owner) {
        let Owner::Ping { id, generation } = owner else { return };
        let Some(ping) = self.get(id, generation) else { return };
        let at = ping.used + self.idle;
        if cx.now < at {
            shared.wheel.set(at, owner);
        } else {
            self.remove(cx, id);
        }
    }

    /// Ends all mappings behind a port that is gone.
    pub(crate) fn forget_port(&mut self, cx: &mut Context<'_>, port: PortId) {
        let gone: Vec<usize> = self.pings.iter().filter(|(_, ping)| ping.key.port == port).map(|(id, _)| id).collect();
        for id in gone {
            self.remove(cx, id as u32);
        }
    }

    fn get(&self, id: u32, generation: u32) -> Option<&Ping> {
        self.pings.get(id as usize).filter(|ping| ping.generation == generation)
    }

    /// The mapping, and its socket, by which this guest pings `to`; made if there is none yet and the limits allow it.
    fn socket_for(
        &mut self,
        cx: &mut Context<'_>,
        shared: &mut Shared,
        station: Station,
        key: Key,
        to: IpAddr,
    ) -> Result<(u32, SocketId), Refusal> {
        let same = |id: &u32| self.pings.get(*id as usize).is_some_and(|ping| ping.key == key);
        let id = match self.index.find(self.hash.hash_one(key), same) {
            Some(id) => *id,
            None => self.insert(cx, shared, station, key, to)?,
        };
        let (peers, hash) = (self.peers, self.hash);
        let ping = self.pings.get_mut(id as usize).ok_or(Refusal::Limit)?;
        ping.station = station;
        ping.used = cx.now;
        ping.peers.note(cx.now, to, peers, hash);
        Ok((id, ping.socket))
    }

    fn insert(
        &mut self,
        cx: &mut Context<'_>,
        shared: &mut Shared,
        station: Station,
        key: Key,
        to: IpAddr,
    ) -> Result<u32, Refusal> {
        if self.pings.len() >= self.limit {
            shared.counters.icmp_limit_mappings += 1;
            return Err(Refusal::Limit);
        }
        self.generation = (self.generation + 1) & GENERATION_MASK;
        let generation = self.generation;
        let entry = self.pings.vacant_entry();
        let id = entry.key() as u32;
        let owner = Owner::Ping { id, generation };
        let socket = cx.host.open_ping(Family::of(key.guest), owner.token()).map_err(|error| {
            if error.kind() == io::ErrorKind::PermissionDenied {
                shared.counters.icmp_forbidden += 1;
                return Refusal::Forbidden;
            }
            shared.counters.icmp_limit_host += 1;
            Refusal::Limit
        })?;
        entry.insert(Ping { key, station, socket, generation, peers: Peers::new(to), used: cx.now, queued: false });
        let Self { pings, index, hash, .. } = self;
        let rehash = |id: &u32| pings.get(*id as usize).map_or(0, |ping| hash.hash_one(ping.key));
        index.insert_unique(hash.hash_one(key), id, rehash);
        shared.counters.icmp_mapped += 1;
        shared.wheel.set(cx.now + self.idle, owner);
        Ok(id)
    }

    fn remove(&mut self, cx: &mut Context<'_>, id: u32) {
        let Some(ping) = self.pings.try_remove(id as usize) else { return };
        if let Ok(entry) = self.index.find_entry(self.hash.hash_one(ping.key), |other| *other == id) {
            entry.remove();
        }
        cx.host.close(ping.socket);
    }
}

/// Why a guest cannot ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// We, or the host, are at our limits. It was counted.
    Limit,
    /// The host does not let us.
    Forbidden,
}

impl Ping {
    /// Receives one answer and sends it to the guest. Returns whether there may be more.
    fn receive(&self, cx: &mut Context<'_>, shared: &mut Shared, buffer: &mut [u8]) -> bool {
        let received = match cx.host.receive_from(self.socket, &mut [ChunkMut::from(&mut *buffer)]) {
            Ok(received) => received,
            Err(error) => return error.kind() == io::ErrorKind::Interrupted,
        };
        let (guest, from) = (self.key.guest, received.from.ip());
        let reply = icmp::echo_reply(guest.is_ipv4());
        let Some(message) = buffer.get_mut(..received.len).filter(|message| message.len() >= HEADER && message[0] == reply) else {
            return true;
        };
        if !self.peers.contains(from) {
            shared.counters.drop_filtered += 1;
            return true;
        }
        message[4..6].copy_from_slice(&self.key.id.to_be_bytes());
        icmp_error::fill_checksum(from, guest, message);
        let path = Path { station: self.station, router: shared.router_mac(from), source: from, destination: guest };
        // How far it has come is what those want to know who look for the way; we are a router on it.
        let hop_limit = received.hop_limit.map_or(HOP_LIMIT, |limit| limit.saturating_sub(1).max(1));
        let sent = emit::send_message(cx, shared, &path, icmp::protocol(guest.is_ipv4()), hop_limit, message);
        if sent == crate::port::Sent::Yes {
            shared.counters.icmp_echo_in += 1;
        }
        true
    }
}
