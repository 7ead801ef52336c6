//! The TFTP server on the gateway (RFC 1350), with the options of RFC 2347, 2348, 2349 and 7440: what guests boot from.
//!
//! Blocks, windows, time-outs and retransmissions are async-tftp's. It wants UDP sockets, so it has them on the host's loopback address,
//! one to take requests and another for each transfer, and the engine gives each transfer a socket beside them. That must not open two
//! doors: nobody else on the host may talk to the server, and a guest may reach no other service of the loopback address.
//!
//! ```text
//! guest ── gateway:69 ──► engine ── socket of the transfer ──► request socket ┐
//!       ◄─ gateway:P ───         ◄──────────── blocks ────────── port P       ┴ async-tftp ── Reader ── file
//! ```
//!
//! - A guest's request is read here (`message`) and refused here if it is not sound. What the server gets is a request of our own,
//!   whose "file name" is a random key of 128 bits, good once, and from the address of the transfer's socket only (`ticket`). The name
//!   that the guest sent goes to the `reader` past the sockets. Whoever else sends to the server has no key and gets an error.
//! - The server answers from a port that it chooses (its transfer identifier). Anybody on the host can send to the transfer's socket, so
//!   the answer must prove that it is the server's: our request always asks for the length of the file (`tsize`), and as that the server
//!   tells a random number of 64 bits, which only it and we know. The answer that has it is the server's, and from then on the transfer
//!   is with that port alone, in both directions. The guest is told the true length, and only what it has asked for; if it has asked
//!   for nothing, the answer is acknowledged in its name, and it gets the first block, as RFC 1350 has it.
//! - When the server has closed its port, whoever gets it next must not hear the guest: the `reader` is dropped after the port is
//!   closed, which marks the ticket, and the engine looks at it before every datagram that it passes on.
//!
//! Memory is bounded: a window is as large as the transfer's socket can hold, so none of it is lost on the way, and there are as many
//! transfers as [`crate::config::Limits::tftp_transfers`] says, those that only the server still knows of included.

#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod message;
mod reader;
mod server;
mod ticket;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use self::message::{Answer, ErrorCode, Options, Request};
use self::server::Server;
use self::ticket::{Ticket, Tickets};
use super::files::{Refused, Root, RootError};
use crate::stack::{TftpAnswer, TftpOpening, TftpRefusal, TftpService, TransferId};

/// The block size without the option (RFC 1350).
const BLOCK: u16 = 512;

/// Blocks in a window, at most.
const LARGEST_WINDOW: u16 = 64;

/// The longest time-out that a guest can ask for, in seconds. So long a transfer of which the guest knows nothing more stays at most nine
/// times.
const LONGEST_TIMEOUT: u8 = 10;

/// Why the TFTP server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its directory.
    #[error("tftp: {0}")]
    Root(#[from] RootError),
    /// Its socket or its thread.
    #[error("cannot start the TFTP server")]
    Server(#[source] io::Error),
}

/// The server, seen from the engine.
#[derive(Debug)]
pub struct Tftp {
    server: Server,
    tickets: Arc<Tickets>,
    transfers: HashMap<TransferId, Transfer>,
    next: u64,
    limit: usize,
}

/// A transfer, seen from the engine.
#[derive(Debug)]
struct Transfer {
    ticket: Arc<Ticket>,
    asked: Options,
    granted: Options,
    /// The server's port for this transfer, once that is proven.
    peer: Option<SocketAddr>,
    /// The block that the guest has acknowledged last; 0 are the options.
    acknowledged: Option<u16>,
}

impl Tftp {
    /// Starts to serve the files of `root`, at most `limit` at a time.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub fn start(root: &Path, limit: usize) -> Result<Self, StartError> {
        let tickets = Arc::new(Tickets::default());
        let server = Server::start(Arc::new(Root::open(root)?), Arc::clone(&tickets)).map_err(StartError::Server)?;
        Ok(Self { server, tickets, transfers: HashMap::new(), next: 0, limit })
    }

    /// The socket that takes requests, on the host's loopback address. It answers nobody but this engine.
    pub const fn address(&self) -> SocketAddr {
        self.server.address
    }
}

impl TftpService for Tftp {
    fn request(&mut self, message: &[u8], largest_block: usize) -> Result<TransferId, TftpRefusal> {
        let request = Request::parse(message).map_err(|why| why.answer().map_or(TftpRefusal::Nonsense, TftpRefusal::Refused))?;
        if self.tickets.alive() >= self.limit {
            return Err(TftpRefusal::Busy(message::error(ErrorCode::Undefined, "too many transfers at a time; try again")));
        }
        let failed = |_| TftpRefusal::Refused(message::error(ErrorCode::Undefined, "the server cannot take requests now"));
        let ticket = self.tickets.issue(request.name).map_err(failed)?;
        let id = TransferId(self.next);
        self.next += 1;
        let asked = request.options;
        let granted = Options {
            // RFC 2348: the server may take a smaller size. What does not fit the link in one piece is slower, not faster.
            block_size: asked.block_size.map(|size| size.min(u16::try_from(largest_block).unwrap_or(u16::MAX)).max(8)),
            timeout: asked.timeout.filter(|seconds| *seconds <= LONGEST_TIMEOUT),
            ..Options::default()
        };
        self.transfers.insert(id, Transfer { ticket, asked, granted, peer: None, acknowledged: None });
        Ok(id)
    }

    fn start(&mut self, transfer: TransferId, client: SocketAddr, room: usize) -> Option<TftpOpening> {
        let Self { server, tickets, transfers, .. } = self;
        let Transfer { ticket, asked, granted, .. } = transfers.get_mut(&transfer)?;
        let most = window_for(room, granted.block_size.unwrap_or(BLOCK)).min(LARGEST_WINDOW);
        granted.window_size = asked.window_size.map(|blocks| blocks.min(most));
        let window = usize::from(granted.window_size.unwrap_or(1)) * usize::from(granted.block_size.unwrap_or(BLOCK));
        tickets.present(ticket, client, window);
        let ours = Options { transfer_size: Some(0), ..*granted };
        let datagram = Request { name: ticket.key.name().into_bytes(), options: ours }.write();
        Some(TftpOpening { server: server.address, datagram })
    }

    fn answer(&mut self, transfer: TransferId, from: SocketAddr, datagram: &[u8]) -> TftpAnswer {
        let Some(Transfer { ticket, asked, granted, peer, acknowledged }) = self.transfers.get_mut(&transfer) else {
            return TftpAnswer::Stranger;
        };
        if let Some(Err(why)) = ticket.opened.get() {
            // Whoever says so: it is true, and all that there is to say.
            return TftpAnswer::Refused(refusal(*why));
        }
        match Answer::parse(datagram) {
            Answer::Options(options) if peer.is_none() && options.transfer_size == Some(ticket.proof) => *peer = Some(from),
            _ if *peer != Some(from) => return TftpAnswer::Stranger,
            Answer::Data | Answer::Other => return TftpAnswer::Data,
            Answer::Options(_) => {}
        }
        let size = ticket.opened.get().and_then(|opened| opened.ok());
        let told = Options { transfer_size: asked.transfer_size.and(size), ..*granted };
        if told.is_empty() {
            *acknowledged = Some(0);
            TftpAnswer::ToServer(message::acknowledgement(0))
        } else {
            TftpAnswer::ToGuest(message::option_acknowledgement(&told))
        }
    }

    fn hears(&mut self, transfer: TransferId, start: &[u8]) -> bool {
        if let Some(transfer) = self.transfers.get_mut(&transfer) {
            transfer.acknowledged = message::acknowledged(start).or(transfer.acknowledged);
        }
        message::is_error(start)
    }

    fn is_over(&self, transfer: TransferId) -> bool {
        self.transfers.get(&transfer).is_none_or(|transfer| transfer.ticket.is_over())
    }

    fn end(&mut self, transfer: TransferId) -> Vec<Vec<u8>> {
        let Some(Transfer { ticket, granted, acknowledged, .. }) = self.transfers.remove(&transfer) else { return Vec::new() };
        ticket.cancel();
        self.tickets.withdraw(&ticket);
        // The server takes no notice of errors, and would send what it has again and again. If it believes that it has arrived, it asks
        // for more, which it does not get, or it has nothing more and is done.
        let next = acknowledged.map_or(0, |block| block.wrapping_add(1));
        (0..=granted.window_size.unwrap_or(1)).map(|n| message::acknowledgement(next.wrapping_add(n))).collect()
    }
}

/// Why this datagram to the server's port is no request that can be served, if it is none.
pub(crate) fn refused(message: &[u8]) -> Option<TftpRefusal> {
    let why = Request::parse(message).err()?;
    Some(why.answer().map_or(TftpRefusal::Nonsense, TftpRefusal::Refused))
}

/// What the first answer of a server means that need not prove that it is one: a recording's.
pub(crate) fn recorded_answer(datagram: &[u8]) -> TftpAnswer {
    match Answer::parse(datagram) {
        Answer::Data => TftpAnswer::Data,
        Answer::Options(_) => TftpAnswer::ToGuest(datagram.to_vec()),
        Answer::Other => TftpAnswer::Refused(datagram.to_vec()),
    }
}

/// Whether a guest ends its transfer by this datagram.
pub(crate) fn ends(datagram: &[u8]) -> bool {
    message::is_error(datagram)
}

/// What a guest is told of a file that it does not get.
fn refusal(why: Refused) -> Vec<u8> {
    match why {
        Refused::NotFound => message::error(ErrorCode::NotFound, "no such file"),
        Refused::Forbidden => message::error(ErrorCode::AccessViolation, "no file that may be read"),
        Refused::Failed => message::error(ErrorCode::Undefined, "the file cannot be opened"),
    }
}

/// How many blocks of a size a socket holds whose queue takes `room` bytes, by the kernel's own accounting, which counts what it has
/// allocated: headers and the block, rounded up, and its record of the packet.
fn window_for(room: usize, block: u16) -> u16 {
    const HEADERS: usize = 512;
    const RECORD: usize = 256;
    let len = usize::from(block) + HEADERS;
    let allocated = if len <= 16 << 10 { len.next_power_of_two() } else { len.next_multiple_of(4096) + 4096 };
    u16::try_from(room / (allocated + RECORD)).unwrap_or(u16::MAX).max(1)
}

#[cfg(test)]
mod tests;
