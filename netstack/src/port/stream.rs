//! Frames over a stream socket, as QEMU's `-netdev stream` and most other virtual machine monitors send them.
//!
//! On the wire each frame follows its length: four bytes, big-endian. There is no room for offload state, so every frame carries its
//! checksum and fits the MTU.
//!
//! What always holds:
//!
//! - One system call moves as many frames as there are, in either direction, and frames are handed out where they were read.
//! - Both buffers are bounded. What the socket does not take now waits in the outgoing one; when that has no room, the port is full.
//! - A peer that goes away ends the port with [`io::ErrorKind::UnexpectedEof`], one that sends an impossible length with
//!   [`io::ErrorKind::InvalidData`], because nothing after that can be made sense of.

mod address;
mod connection;
mod framing;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod listener;

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

pub use address::{ParseStreamAddressError, StreamAddress};
pub use connection::StreamSocket;
pub use listener::{ListenError, StreamListener};

use super::{Egress, Halves, Ingress, Port, Sent};
use crate::frame::{Chunk, ChunkMut, Frame, FrameMeta, FrameMut, MAX_FRAME, Offloads};
use connection::Connection;
use framing::{Incoming, Next, Outgoing};

/// A connected stream socket with a guest's network card at its other end.
#[derive(Debug)]
pub struct StreamPort {
    socket: StreamSocket,
    mtu: u16,
    name: String,
}

impl StreamPort {
    /// The guest at the other end of `socket`, which takes IP packets of up to `mtu` bytes and is known by `name`.
    pub fn new(socket: impl Into<StreamSocket>, mtu: u16, name: impl Into<String>) -> Self {
        Self { socket: socket.into(), mtu, name: name.into() }
    }
}

impl Port for StreamPort {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn attach(self: Box<Self>) -> io::Result<Halves> {
        let connection = Arc::new(self.socket.watch()?);
        let ingress = StreamIngress { connection: Arc::clone(&connection), incoming: Incoming::new(), ended: None, dropped: 0 };
        let egress = StreamEgress { connection, mtu: self.mtu, outgoing: Outgoing::new(), ended: None };
        Ok(Halves { ingress: Box::new(ingress), egress: Box::new(egress) })
    }
}

/// Why a half yields, or takes, nothing more.
#[derive(Debug, Clone, Copy)]
enum End {
    /// The socket has reported this.
    Socket(io::ErrorKind),
    /// The peer has announced a frame of this length.
    Impossible(u32),
}

impl From<End> for io::Error {
    fn from(end: End) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, InvalidData, NotConnected, TimedOut, UnexpectedEof};
        match end {
            End::Socket(BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | TimedOut | UnexpectedEof) => {
                Self::new(UnexpectedEof, "the peer has closed the connection")
            }
            End::Socket(kind) => kind.into(),
            End::Impossible(len) => {
                let hint = "is it really sending Ethernet frames as `-netdev stream` does?";
                Self::new(InvalidData, format!("the peer has announced a frame of {len} bytes, which no frame has: {hint}"))
            }
        }
    }
}

#[derive(Debug)]
struct StreamIngress {
    connection: Arc<Connection>,
    incoming: Incoming,
    /// Reported once the frames before it were handed out.
    ended: Option<End>,
    dropped: u64,
}

impl StreamIngress {
    /// Reads what there is; returns whether that was anything.
    fn read(&mut self) -> bool {
        match self.connection.read(self.incoming.room()) {
            Ok(0) => self.ended = Some(End::Socket(io::ErrorKind::UnexpectedEof)),
            Ok(len) => {
                self.incoming.filled(len);
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.ended = Some(End::Socket(error.kind())),
        }
        false
    }
}

impl Ingress for StreamIngress {
    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(Frame<'_>)) -> io::Result<usize> {
        let mut received = 0;
        while received < budget {
            let frame = match self.incoming.next_frame() {
                Next::Frame(frame) => frame,
                Next::Incomplete => {
                    if self.ended.is_none() && self.read() {
                        continue;
                    }
                    break;
                }
                Next::Impossible(len) => {
                    self.ended = Some(End::Impossible(len));
                    break;
                }
            };
            // What is dropped counts too, or a guest could keep us here for ever.
            received += 1;
            if frame.len() <= MAX_FRAME {
                sink(Frame::new(&[Chunk::from(frame)], FrameMeta::default()));
            } else {
                self.dropped += 1;
            }
        }
        match self.ended {
            Some(end) if received == 0 && budget > 0 => Err(end.into()),
            _ => Ok(received),
        }
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.ended.is_some() || self.incoming.is_ready() {
            return Poll::Ready(());
        }
        // An error means that the runtime is going away; then there is nothing left to wait for.
        self.connection.poll_read_ready(cx).map(drop)
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[derive(Debug)]
struct StreamEgress {
    connection: Arc<Connection>,
    mtu: u16,
    outgoing: Outgoing,
    ended: Option<End>,
}

impl StreamEgress {
    /// Writes as much as the socket takes.
    fn write(&mut self) {
        while self.ended.is_none() && !self.outgoing.is_empty() {
            match self.connection.write(self.outgoing.unsent()) {
                Ok(len) => self.outgoing.sent(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => self.ended = Some(End::Socket(error.kind())),
            }
        }
    }
}

impl Egress for StreamEgress {
    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn offloads(&self) -> Offloads {
        Offloads::NONE
    }

    fn send(&mut self, capacity: usize, fill: &mut dyn FnMut(&mut FrameMut<'_, '_>) -> Option<(usize, FrameMeta)>) -> Sent {
        if capacity > MAX_FRAME || self.ended.is_some() {
            return Sent::Declined;
        }
        if !self.outgoing.has_room(capacity) {
            self.write();
        }
        let Some(room) = self.outgoing.room(capacity) else { return Sent::Full };
        match fill(&mut FrameMut::new(&mut [ChunkMut::from(room)])) {
            Some((len, meta)) if len > 0 => {
                debug_assert!(self.offloads().accept(&meta), "{meta:?} cannot be said on this port");
                self.outgoing.push(len.min(capacity));
                Sent::Yes
            }
            _ => Sent::Declined,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write();
        self.ended.map_or(Ok(()), |end| Err(end.into()))
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.write();
            if self.is_flushed() {
                return Poll::Ready(());
            }
            if let Err(error) = ready!(self.connection.poll_write_ready(cx)) {
                self.ended = Some(End::Socket(error.kind()));
            }
        }
    }

    fn is_flushed(&self) -> bool {
        self.outgoing.is_empty() || self.ended.is_some()
    }
}

#[cfg(test)]
mod tests;
