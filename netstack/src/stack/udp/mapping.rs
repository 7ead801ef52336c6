//! Mappings: which socket stands for which address and port of a guest (RFC 4787 sections 4 and 5).

use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hashbrown::HashTable;
use slab::Slab;

use super::UdpFlowInfo;
use crate::config::{Limits, Timeouts};
use crate::host::SocketId;
use crate::port::PortId;
use crate::stack::hash::Keyed;
use crate::stack::neighbour::Station;
use crate::stack::peers::Peers;
use crate::stack::token::Owner;
use crate::stack::{Context, Shared};
use crate::time::{Duration, Instant};

const DNS_PORT: u16 = 53;
const GENERATION_MASK: u32 = (1 << 24) - 1;

/// All mappings.
#[derive(Debug)]
pub(super) struct Mappings {
    mappings: Slab<Mapping>,
    index: HashTable<u32>,
    hash: Keyed,
    generation: u32,
    limit: usize,
    peers: usize,
    idle: Duration,
    dns_idle: Duration,
}

/// The socket that stands for a guest's address and port.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) guest: SocketAddr,
    pub(super) station: Station,
    pub(super) socket: SocketId,
    generation: u32,
    peers: Peers,
    used: Instant,
    only_dns: bool,
    /// It is on the list of sockets that are ready, or of those that are blocked.
    pub(super) queued: bool,
}

impl Mapping {
    /// Whether the guest has sent to this host through the mapping.
    pub(super) fn has_sent_to(&self, ip: IpAddr) -> bool {
        self.peers.contains(ip)
    }
}

impl Mappings {
    pub(super) fn new(limits: &Limits, timeouts: &Timeouts, hash: Keyed) -> Self {
        Self {
            mappings: Slab::new(),
            index: HashTable::new(),
            hash,
            generation: 0,
            limit: limits.udp_mappings,
            peers: limits.udp_peers,
            idle: timeouts.udp_idle,
            dns_idle: timeouts.udp_dns_idle,
        }
    }

    /// All mappings.
    pub(super) fn flows(&self, now: Instant) -> impl Iterator<Item = UdpFlowInfo> {
        self.mappings.iter().map(move |(_, mapping)| UdpFlowInfo {
            guest: mapping.guest,
            client: None,
            idle: now.since(mapping.used),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.mappings.len()
    }

    pub(super) fn get(&self, id: u32, generation: u32) -> Option<&Mapping> {
        self.mappings.get(id as usize).filter(|mapping| mapping.generation == generation)
    }

    pub(super) fn get_mut(&mut self, id: u32, generation: u32) -> Option<&mut Mapping> {
        self.mappings.get_mut(id as usize).filter(|mapping| mapping.generation == generation)
    }

    /// The mapping through which this guest sends to `to`, and its socket; made if there is none yet and the limits allow it.
    pub(super) fn socket_for(
        &mut self,
        cx: &mut Context<'_>,
        shared: &mut Shared,
        station: Station,
        guest: SocketAddr,
        to: SocketAddr,
    ) -> Option<(Owner, SocketId)> {
        let id = match self.find(station.port, guest) {
            Some(id) => id,
            None => self.insert(cx, shared, station, guest, to)?,
        };
        let (peers, hash) = (self.peers, self.hash);
        let mapping = self.mappings.get_mut(id as usize)?;
        mapping.station = station;
        mapping.used = cx.now;
        mapping.only_dns &= to.port() == DNS_PORT;
        mapping.peers.note(cx.now, to.ip(), peers, hash);
        Some((Owner::UdpMapping { id, generation: mapping.generation }, mapping.socket))
    }

    /// The mapping of a guest's address behind this port: a guest behind another one that uses the same address has its own.
    fn find(&self, port: PortId, guest: SocketAddr) -> Option<u32> {
        let same = |id: &u32| {
            self.mappings.get(*id as usize).is_some_and(|mapping| mapping.guest == guest && mapping.station.port == port)
        };
        self.index.find(self.hash.hash_one(guest), same).copied()
    }

    fn insert(
        &mut self,
        cx: &mut Context<'_>,
        shared: &mut Shared,
        station: Station,
        guest: SocketAddr,
        to: SocketAddr,
    ) -> Option<u32> {
        if self.mappings.len() >= self.limit {
            shared.counters.udp_limit_mappings += 1;
            return None;
        }
        self.generation = (self.generation + 1) & GENERATION_MASK;
        let generation = self.generation;
        let entry = self.mappings.vacant_entry();
        let id = entry.key() as u32;
        let owner = Owner::UdpMapping { id, generation };
        let any = if guest.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        let Ok((socket, _)) = cx.host.bind_datagram(SocketAddr::new(any, 0), None, owner.token()) else {
            shared.counters.udp_limit_host += 1;
            return None;
        };
        let only_dns = to.port() == DNS_PORT;
        entry.insert(Mapping {
            guest,
            station,
            socket,
            generation,
            peers: Peers::new(to.ip()),
            used: cx.now,
            only_dns,
            queued: false,
        });
        let Self { mappings, index, hash, .. } = self;
        let rehash = |id: &u32| mappings.get(*id as usize).map_or(0, |mapping| hash.hash_one(mapping.guest));
        index.insert_unique(hash.hash_one(guest), id, rehash);
        shared.counters.udp_mapped += 1;
        shared.wheel.set(cx.now + if only_dns { self.dns_idle } else { self.idle }, owner);
        Some(id)
    }

    /// The timer of a mapping has come due: it goes if it was not used for long enough.
    pub(super) fn expire(&mut self, cx: &mut Context<'_>, shared: &mut Shared, id: u32, generation: u32) {
        let Some(mapping) = self.get(id, generation) else { return };
        let at = mapping.used + if mapping.only_dns { self.dns_idle } else { self.idle };
        if cx.now < at {
            shared.wheel.set(at, Owner::UdpMapping { id, generation });
        } else {
            self.remove(cx, id);
        }
    }

    pub(super) fn forget_port(&mut self, cx: &mut Context<'_>, port: PortId) {
        let gone: Vec<usize> = self.mappings.iter().filter(|(_, mapping)| mapping.station.port == port).map(|(id, _)| id).collect();
        for id in gone {
            self.remove(cx, id as u32);
        }
    }

    fn remove(&mut self, cx: &mut Context<'_>, id: u32) {
        let Some(mapping) = self.mappings.try_remove(id as usize) else { return };
        if let Ok(entry) = self.index.find_entry(self.hash.hash_one(mapping.guest), |other| *other == id) {
            entry.remove();
        }
        cx.host.close(mapping.socket);
    }
}
