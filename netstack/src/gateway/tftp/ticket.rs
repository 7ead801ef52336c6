//! What both ends of a transfer know of it: the engine, which has the guest, and the server's thread, which has the file.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::gateway::files::Refused;

/// A secret of this process, by which the server knows whose request it is that it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(u128);

impl Key {
    /// The name of the file in the request that the server gets.
    pub(super) fn name(self) -> String {
        format!("{:032x}", self.0)
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        u128::from_str_radix(name, 16).ok().map(Self)
    }
}

/// One transfer.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) key: Key,
    /// The length of the file as the server tells it. It is none, but what only we and the server know: see [`crate::gateway::tftp`].
    pub(super) proof: u64,
    /// The socket from which the request comes.
    client: OnceLock<SocketAddr>,
    /// The file, as the guest calls it.
    pub(super) file: Vec<u8>,
    /// What has come of opening it: its length, or why not.
    pub(super) opened: OnceLock<Result<u64, Refused>>,
    /// The server has closed its socket, or will not open one.
    over: AtomicBool,
    /// Nobody is there any more who would take the rest.
    cancelled: AtomicBool,
    alive: Arc<AtomicUsize>,
}

impl Ticket {
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    pub(super) fn end(&self) {
        if !self.over.swap(true, Ordering::AcqRel) {
            self.alive.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.end();
    }
}

/// All tickets, and those that the server has not seen yet.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    waiting: Mutex<HashMap<Key, Arc<Ticket>>>,
    alive: Arc<AtomicUsize>,
}

impl Tickets {
    /// How many transfers are not over yet, for the guest or only in the server's thread.
    pub(super) fn alive(&self) -> usize {
        self.alive.load(Ordering::Relaxed)
    }

    /// A ticket for a transfer of `file`.
    pub(super) fn issue(&self, file: Vec<u8>) -> io::Result<Arc<Ticket>> {
        let mut random = [0; 24];
        // The kernel gives so few bytes whole, or none.
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let (key, proof) = random.split_at(16);
        let key = Key(u128::from_ne_bytes(key.try_into().unwrap_or_default()));
        let proof = u64::from_ne_bytes(proof.try_into().unwrap_or_default());
        self.alive.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Ticket {
            key,
            proof,
            client: OnceLock::new(),
            file,
            opened: OnceLock::new(),
            over: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            alive: Arc::clone(&self.alive),
        }))
    }

    /// Lets the server take this ticket, once, for a request from `client`.
    pub(super) fn present(&self, ticket: &Arc<Ticket>, client: SocketAddr) {
        let _ = ticket.client.set(client);
        self.waiting().insert(ticket.key, Arc::clone(ticket));
    }

    /// The ticket for a request that came from `client`, if it is one of ours.
    pub(super) fn take(&self, key: Key, client: SocketAddr) -> Option<Arc<Ticket>> {
        let mut waiting = self.waiting();
        if waiting.get(&key)?.client.get() != Some(&client) {
            return None;
        }
        waiting.remove(&key)
    }

    /// Takes back a ticket that the server has not taken.
    pub(super) fn withdraw(&self, ticket: &Ticket) {
        if self.waiting().remove(&ticket.key).is_some() {
            ticket.end();
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<Ticket>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
