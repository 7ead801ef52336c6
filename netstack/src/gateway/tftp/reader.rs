//! Reading a file for the server, without keeping its thread from other transfers.
//!
//! What the kernel has in memory is read straight into the block. What has to come from a disk is fetched by a thread that may wait, a
//! good piece at a time, so that most blocks cost no change of threads.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use blocking::Task;
use futures_lite::{AsyncRead, FutureExt};

use super::ticket::Ticket;
use crate::gateway::files::{PlainFile, Refused, Root};

/// Bytes that are fetched from a disk at a time.
const AHEAD: usize = 256 << 10;

/// The file of one transfer.
pub(super) struct Reader {
    ticket: Arc<Ticket>,
    state: State,
    offset: u64,
    /// What was fetched and not read yet.
    ahead: Vec<u8>,
    taken: usize,
}

enum State {
    Opening(Task<Result<PlainFile, Refused>>),
    Open(Arc<PlainFile>),
    Fetching(Arc<PlainFile>, Task<io::Result<Vec<u8>>>),
    Ended,
}

impl Reader {
    /// Starts to open the file of `ticket`.
    pub(super) fn new(root: Arc<Root>, ticket: Arc<Ticket>) -> Self {
        let file = ticket.file.clone();
        let state = State::Opening(blocking::unblock(move || root.file(&file)));
        Self { ticket, state, offset: 0, ahead: Vec::new(), taken: 0 }
    }

    /// What was fetched, as much of it as there is.
    fn take_ahead(&mut self, into: &mut [u8]) -> usize {
        let rest = self.ahead.get(self.taken..).unwrap_or_default();
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        self.taken += len;
        self.offset += len as u64;
        len
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
            match &mut this.state {
                State::Opening(task) => {
                    let opened = std::task::ready!(task.poll(cx));
                    // The engine must know before the server says a word.
                    let _ = this.ticket.opened.set(opened.as_ref().map(PlainFile::size).map_err(|why| *why));
                    match opened {
                        Ok(file) => this.state = State::Open(Arc::new(file)),
                        Err(_) => return this.end(io::ErrorKind::NotFound.into()),
                    }
                }
                State::Open(file) => {
                    let file = Arc::clone(file);
                    // A file that grows meanwhile ends where the guest was told that it does.
                    let left = file.size().saturating_sub(this.offset);
                    let most = usize::try_from(left).unwrap_or(usize::MAX).min(into.len());
                    let into = &mut into[..most];
                    if into.is_empty() {
                        return Poll::Ready(Ok(0));
                    }
                    let len = this.take_ahead(into);
                    if len > 0 {
                        return Poll::Ready(Ok(len));
                    }
                    match file.read_now(into, this.offset) {
                        Ok(Some(len)) => {
                            this.offset += len as u64;
                            return Poll::Ready(Ok(len));
                        }
                        Ok(None) => {
                            let (file, offset, mut bytes) = (Arc::clone(&file), this.offset, std::mem::take(&mut this.ahead));
                            let fetching = Arc::clone(&file);
                            let task = blocking::unblock(move || {
                                bytes.resize(AHEAD, 0);
                                let len = fetching.read(&mut bytes, offset)?;
                                bytes.truncate(len);
                                Ok(bytes)
                            });
                            this.state = State::Fetching(file, task);
                        }
                        Err(error) => return this.end(error),
                    }
                }
                State::Fetching(file, task) => {
                    let fetched = std::task::ready!(task.poll(cx));
                    this.state = State::Open(Arc::clone(file));
                    match fetched {
                        // The file has become shorter.
                        Ok(bytes) if bytes.is_empty() => return Poll::Ready(Ok(0)),
                        Ok(bytes) => (this.ahead, this.taken) = (bytes, 0),
                        Err(error) => return this.end(error),
                    }
                }
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
