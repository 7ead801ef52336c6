//! Reading a file for the server, without keeping its thread from other transfers.
//!
//! The server reads a window whole, sends it, and waits for the guest. While it does the last two, a thread that may wait for disks fetches
//! what comes next. So a transfer holds twice what it sends at a time, in two buffers that are used by turns, and few blocks cost a
//! change of threads.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use blocking::Task;
use futures_lite::{AsyncRead, FutureExt};

use super::ticket::Ticket;
use crate::gateway::files::{PlainFile, Refused, Root};

/// Bytes that are fetched at a time, at least: small blocks, one at a time, need not each cost a change of threads.
const LEAST: usize = 64 << 10;

/// Likewise at most: a window of 16 of the largest blocks.
const MOST: usize = 16 << 16;

/// The file of one transfer.
pub(super) struct Reader {
    ticket: Arc<Ticket>,
    state: State,
    /// What was fetched, and how much of it was read.
    pieces: Vec<u8>,
    taken: usize,
}

enum State {
    /// The file is being opened, and its beginning fetched.
    Opening(Task<Result<Fetched, Refused>>),
    /// What follows is being fetched.
    Fetching(Task<io::Result<Fetched>>),
    /// Everything was fetched.
    AtEnd,
    /// There was an error.
    Ended,
}

/// A piece of a file.
struct Fetched {
    file: PlainFile,
    bytes: Vec<u8>,
    /// Where the next piece begins.
    next: u64,
}

impl Fetched {
    /// Reads up to `want` bytes at `offset`, into a buffer that is used again. A file that grows meanwhile ends where the guest was told that
    /// it does; one that has become shorter ends there.
    fn read(file: PlainFile, offset: u64, want: usize, mut bytes: Vec<u8>) -> io::Result<Self> {
        let left = usize::try_from(file.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        bytes.resize(want.min(left), 0);
        let mut len = 0;
        while len < bytes.len() {
            match file.read(&mut bytes[len..], offset + len as u64) {
                Ok(0) => break,
                Ok(more) => len += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(len);
        Ok(Self { file, bytes, next: offset + len as u64 })
    }
}

impl Reader {
    /// Starts to open the file of `ticket`.
    pub(super) fn new(root: Arc<Root>, ticket: Arc<Ticket>) -> Self {
        let (name, want) = (ticket.file.clone(), Self::want(&ticket));
        let open = move || {
            let file = root.file(&name)?;
            Fetched::read(file, 0, want, Vec::new()).map_err(|_| Refused::Failed)
        };
        let state = State::Opening(blocking::unblock(open));
        Self { ticket, state, pieces: Vec::new(), taken: 0 }
    }

    fn want(ticket: &Ticket) -> usize {
        ticket.window_bytes().clamp(LEAST, MOST)
    }

    /// Takes a piece, and has the next one fetched.
    fn take(&mut self, fetched: Fetched) {
        let Fetched { file, bytes, next } = fetched;
        let want = Self::want(&self.ticket);
        let buffer = std::mem::replace(&mut self.pieces, bytes);
        self.taken = 0;
        // A piece that is not full is the last one.
        if self.pieces.len() < want {
            self.state = State::AtEnd;
            return;
        }
        self.state = State::Fetching(blocking::unblock(move || Fetched::read(file, next, want, buffer)));
    }

    fn end(&mut self, error: io::Error) -> Poll<io::Result<usize>> {
        self.state = State::Ended;
        Poll::Ready(Err(error))
    }
}

impl AsyncRead for Reader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.ticket.is_cancelled() {
            return this.end(io::ErrorKind::ConnectionAborted.into());
        }
        loop {
            let rest = this.pieces.get(this.taken..).unwrap_or_default();
            if !rest.is_empty() {
                let len = rest.len().min(into.len());
                into[..len].copy_from_slice(&rest[..len]);
                this.taken += len;
                return Poll::Ready(Ok(len));
            }
            match &mut this.state {
                State::Opening(task) => {
                    let opened = ready!(task.poll(cx));
                    // The engine must know before the server says a word.
                    let told = opened.as_ref().map(|fetched| fetched.file.size()).map_err(|why| *why);
                    let _ = this.ticket.opened.set(told);
                    match opened {
                        Ok(fetched) => this.take(fetched),
                        Err(_) => return this.end(io::ErrorKind::NotFound.into()),
                    }
                }
                State::Fetching(task) => match ready!(task.poll(cx)) {
                    Ok(fetched) => this.take(fetched),
                    Err(error) => return this.end(error),
                },
                State::AtEnd => return Poll::Ready(Ok(0)),
                State::Ended => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // The server drops it after its socket.
        self.ticket.end();
    }
}
