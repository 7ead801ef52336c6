//! TFTP transfers: each has a socket on the host's loopback address, which talks to the server of this process and to nothing else.
//!
//! To the guest the transfer is with the gateway, at the port that the server has chosen. What is found out at its beginning, and how it
//! is known that the server is the server, is the service's matter ([`TftpService`]); here is what it costs to keep to it: until the
//! first block has come, every datagram is shown to the service, and from then on all come from one address, and go to it.

use std::fmt;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};

use hashbrown::HashTable;
use slab::Slab;

use crate::config::{Limits, Timeouts};
use crate::frame::Chunk;
use crate::host::{SendOptions, SocketId};
use crate::port::PortId;
use crate::stack::Context;
use crate::stack::hash::Keyed;
use crate::stack::neighbour::Station;
use crate::time::{Duration, Instant};

/// How often it is looked whether transfers are over.
pub(super) const CHECK: Duration = Duration::from_secs(5);

const GENERATION_MASK: u32 = (1 << 24) - 1;

/// A transfer, for the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransferId(pub u64);

/// What is sent to the server first, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TftpOpening {
    /// The server.
    pub server: SocketAddr,
    /// The request.
    pub datagram: Vec<u8>,
}

/// Why a request is not passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TftpRefusal {
    /// It is no request, and nobody is answered.
    Nonsense,
    /// This is answered.
    Refused(Vec<u8>),
    /// There are as many transfers as there may be; this is answered.
    Busy(Vec<u8>),
}

/// What a datagram that has come to a transfer's socket means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TftpAnswer {
    /// It is not the server's: nobody hears of it.
    Stranger,
    /// The sender is the server, and this is for the guest instead.
    ToGuest(Vec<u8>),
    /// The sender is the server, and this is the answer; the guest hears nothing of it.
    ToServer(Vec<u8>),
    /// The sender is the server, and this datagram and all that follow are for the guest as they are.
    Data,
    /// There will be no transfer, and this is for the guest.
    Refused(Vec<u8>),
}

/// The TFTP server, as the stack sees it.
pub trait TftpService: fmt::Debug {
    /// A guest's datagram to the server's own port, on a link on which `largest_block` bytes fit a packet.
    ///
    /// # Errors
    ///
    /// When it is not a request that can be served.
    fn request(&mut self, message: &[u8], largest_block: usize) -> Result<TransferId, TftpRefusal>;

    /// There is a socket for a transfer, at the address `client`, which holds `room` bytes as the kernel counts them. Returns what it
    /// begins with.
    fn start(&mut self, transfer: TransferId, client: SocketAddr, room: usize) -> Option<TftpOpening>;

    /// A datagram has come to the transfer's socket, before any block.
    fn answer(&mut self, transfer: TransferId, from: SocketAddr, datagram: &[u8]) -> TftpAnswer;

    /// The guest says this to the server; of a longer datagram it is the beginning. Returns whether it ends the transfer by it.
    fn hears(&mut self, transfer: TransferId, start: &[u8]) -> bool;

    /// Whether the server is done with it, so that nothing may be sent to its port any more.
    fn is_over(&self, transfer: TransferId) -> bool;

    /// The transfer is forgotten here. Returns what to say to the server so that it forgets it too, and does not wait for the guest.
    fn end(&mut self, transfer: TransferId) -> Vec<Vec<u8>>;
}

/// All transfers.
#[derive(Debug)]
pub(super) struct Transfers {
    transfers: Slab<Transfer>,
    index: HashTable<u32>,
    hash: Keyed,
    generation: u32,
    limit: usize,
    pub(super) idle: Duration,
}

#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) guest: SocketAddr,
    pub(super) station: Station,
    /// The gateway's address to which the guest has sent.
    pub(super) gateway: IpAddr,
    pub(super) socket: SocketId,
    pub(super) service: TransferId,
    /// The request, by which it is known when it is sent again.
    pub(super) request: Vec<u8>,
    pub(super) opening: TftpOpening,
    /// The server's port for this transfer, once it is known.
    pub(super) peer: Option<SocketAddr>,
    /// The first block has come.
    pub(super) has_data: bool,
    pub(super) generation: u32,
    pub(super) used: Instant,
    pub(super) queued: bool,
}

impl Transfers {
    pub(super) fn new(limits: &Limits, timeouts: &Timeouts, hash: Keyed) -> Self {
        Self {
            limit: limits.tftp_transfers,
            transfers: Slab::new(),
            index: HashTable::new(),
            hash,
            generation: 0,
            idle: timeouts.tftp_idle,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.transfers.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.transfers.len()
    }

    pub(super) fn get(&self, id: u32, generation: u32) -> Option<&Transfer> {
        self.transfers.get(id as usize).filter(|transfer| transfer.generation == generation)
    }

    pub(super) fn get_mut(&mut self, id: u32, generation: u32) -> Option<&mut Transfer> {
        self.transfers.get_mut(id as usize).filter(|transfer| transfer.generation == generation)
    }

    /// The transfer of a guest's address behind this port.
    pub(super) fn find(&self, port: PortId, guest: SocketAddr) -> Option<u32> {
        let same = |id: &u32| {
            self.transfers.get(*id as usize).is_some_and(|transfer| transfer.guest == guest && transfer.station.port == port)
        };
        self.index.find(self.hash.hash_one(guest), same).copied()
    }

    pub(super) fn by_id(&mut self, id: u32) -> Option<&mut Transfer> {
        self.transfers.get_mut(id as usize)
    }

    /// The number and the generation that the next transfer will have.
    pub(super) fn next(&mut self) -> (u32, u32) {
        self.generation = (self.generation + 1) & GENERATION_MASK;
        (self.transfers.vacant_key() as u32, self.generation)
    }

    /// Keeps a transfer, under the number that was told before.
    pub(super) fn insert(&mut self, transfer: Transfer) {
        let Self { transfers, index, hash, .. } = self;
        let guest = transfer.guest;
        let id = transfers.insert(transfer) as u32;
        let rehash = |id: &u32| transfers.get(*id as usize).map_or(0, |transfer| hash.hash_one(transfer.guest));
        index.insert_unique(hash.hash_one(guest), id, rehash);
    }

    /// Ends a transfer, on both sides.
    pub(super) fn remove(&mut self, cx: &mut Context<'_>, id: u32) {
        let Some(transfer) = self.transfers.try_remove(id as usize) else { return };
        if let Ok(entry) = self.index.find_entry(self.hash.hash_one(transfer.guest), |other| *other == id) {
            entry.remove();
        }
        let mut parting = Vec::new();
        if let Some(service) = cx.services.tftp() {
            let is_over = service.is_over(transfer.service);
            parting = service.end(transfer.service);
            if is_over {
                // Its port may be somebody else's by now.
                parting.clear();
            }
        }
        for datagram in parting {
            if let Some(peer) = transfer.peer {
                let _ = cx.host.send_to(transfer.socket, peer, &[Chunk::from(&datagram[..])], SendOptions::default());
            }
        }
        cx.host.close(transfer.socket);
    }

    /// Ends what is over, if there are as many transfers as there may be: others may come as fast as these have gone.
    pub(super) fn make_room(&mut self, cx: &mut Context<'_>) {
        if self.transfers.len() < self.limit {
            return;
        }
        let Some(service) = cx.services.tftp() else { return };
        let over: Vec<usize> =
            self.transfers.iter().filter(|(_, transfer)| service.is_over(transfer.service)).map(|(id, _)| id).collect();
        for id in over {
            self.remove(cx, id as u32);
        }
    }

    pub(super) fn forget_port(&mut self, cx: &mut Context<'_>, port: PortId) {
        let gone: Vec<usize> =
            self.transfers.iter().filter(|(_, transfer)| transfer.station.port == port).map(|(id, _)| id).collect();
        for id in gone {
            self.remove(cx, id as u32);
        }
    }
}
