//! A Linux tap device: the kernel's own network stack, in some network namespace, is the guest.
//!
//! The device speaks `IFF_VNET_HDR`, so frames of 64 KiB with a segment size cross it in both directions with one system call each, at
//! any MTU. Interface configuration (up, addresses, routes) is not done here; whoever made the namespace does it.
//!
//! What always holds:
//!
//! - Each direction has one buffer, made once, into which the kernel reads or out of which it writes; a frame is never moved.
//! - A frame that the device does not take now stays in that buffer, and the port is full until it is written.
//! - What the kernel refuses for good (the interface is down, the header does not please it) is dropped and counted. Only a device that
//!   no longer exists ends the port.

mod device;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub use device::TapError;

use super::{Egress, Halves, Ingress, Port, Sent};
use crate::frame::{Chunk, ChunkMut, Frame, FrameMeta, FrameMut, MAX_FRAME, Offloads, vnet};

/// The header in front of each frame, without the count of buffers, which means nothing on a tap device.
const HEADER: usize = vnet::HEADER;

/// An open tap device.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: String,
    mtu: u16,
    offloads: Offloads,
}

impl Tap {
    /// Opens tap device `name` in the calling thread's network namespace, and makes it if there is none. An empty name, or one with
    /// `%d`, lets the kernel choose one. `mtu` is the interface's; it is not set here.
    ///
    /// The device belongs to the namespace in which it was opened, and can be used from any other.
    ///
    /// # Errors
    ///
    /// When there is no `/dev/net/tun`, or it or the namespace is not ours to use, or the device is taken.
    pub fn open(name: &str, mtu: u16) -> Result<Self, TapError> {
        let fd = device::open_control()?;
        let name = device::attach(&fd, name)?;
        let offloads = device::configure(&fd, &name)?;
        Ok(Self { fd, name, mtu, offloads })
    }

    /// Takes over a tap device that somebody else has opened with `IFF_TAP`, `IFF_NO_PI` and `IFF_VNET_HDR`. The header's form and the
    /// offloads are set here.
    ///
    /// # Errors
    ///
    /// When the descriptor is no such device.
    pub fn from_fd(fd: OwnedFd, mtu: u16) -> Result<Self, TapError> {
        let name = device::inspect(&fd)?;
        let offloads = device::configure(&fd, &name)?;
        Ok(Self { fd, name, mtu, offloads })
    }

    /// The name of the interface.
    pub fn interface(&self) -> &str {
        &self.name
    }

    /// What the device takes over from the engine.
    pub const fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn split(self) -> io::Result<(TapIngress, TapEgress)> {
        // SAFETY: an `OwnedFd` stays the same open descriptor until it is dropped.
        let fd = unsafe { AsyncFd::register(self.fd) }.map_err(|error| error.into_parts().1)?;
        let fd = Arc::new(fd);
        Ok((TapIngress::new(Arc::clone(&fd)), TapEgress::new(fd, self.mtu, self.offloads)))
    }
}

impl AsFd for Tap {
    /// To hand the device to another process, which takes it over by [`Tap::from_fd`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Port for Tap {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn attach(self: Box<Self>) -> io::Result<Halves> {
        let (ingress, egress) = self.split()?;
        Ok(Halves { ingress: Box::new(ingress), egress: Box::new(egress) })
    }
}

struct TapIngress {
    fd: Arc<AsyncFd<OwnedFd>>,
    buffer: Box<[u8]>,
    dropped: u64,
    /// Ends when the device is deleted, which is told as an error condition and not as readability.
    deletion: Pin<Box<dyn Future<Output = ()> + Send>>,
    deleted: bool,
}

impl TapIngress {
    fn new(fd: Arc<AsyncFd<OwnedFd>>) -> Self {
        let watched = Arc::clone(&fd);
        let deletion = Box::pin(async move {
            // A runtime that goes away ends the port as well.
            let _ = watched.ready(Interest::ERROR).await;
        });
        // One byte more than a frame can have, to recognise those that have more.
        Self { fd, buffer: vec![0; HEADER + MAX_FRAME + 1].into_boxed_slice(), dropped: 0, deletion, deleted: false }
    }

    fn read(&mut self) -> io::Result<usize> {
        let buffer = &mut self.buffer[..];
        if self.deleted {
            return match device::read(self.fd.get_ref(), buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::UnexpectedEof.into()),
                result => result,
            };
        }
        self.fd.try_io(Interest::READABLE, |fd| device::read(fd, buffer))
    }
}

impl Ingress for TapIngress {
    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(Frame<'_>)) -> io::Result<usize> {
        let mut received = 0;
        // What is dropped counts too, or a guest could keep us here for ever.
        for _ in 0..budget {
            let len = match self.read() {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(received),
                Err(_) if received > 0 => return Ok(received),
                Err(error) => return Err(end_of_device(error)),
            };
            received += 1;
            match parse(&self.buffer[..len]) {
                Some((frame, meta)) => sink(Frame::new(&[Chunk::from(frame)], meta)),
                None => self.dropped += 1,
            }
        }
        Ok(received)
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.deleted {
            return Poll::Ready(());
        }
        if self.fd.poll_read_ready(cx).is_ready() {
            // An error means that the runtime is going away: there is nothing left to wait for.
            return Poll::Ready(());
        }
        ready!(self.deletion.as_mut().poll(cx));
        self.deleted = true;
        Poll::Ready(())
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl fmt::Debug for TapIngress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TapIngress").field("dropped", &self.dropped).finish_non_exhaustive()
    }
}

/// Splits what was read into the frame and its meaning; `None` if it makes no sense.
fn parse(bytes: &[u8]) -> Option<(&[u8], FrameMeta)> {
    let (header, frame) = bytes.split_first_chunk::<HEADER>()?;
    if frame.len() > MAX_FRAME {
        return None;
    }
    let meta = vnet::decode(header, frame.len()).ok()?;
    Some((frame, meta))
}

struct TapEgress {
    fd: Arc<AsyncFd<OwnedFd>>,
    mtu: u16,
    offloads: Offloads,
    buffer: Box<[u8]>,
    /// Bytes of the header and frame in the buffer that the device has not taken; 0 if there is none.
    pending: usize,
    dropped: u64,
    /// The error that has ended the device.
    broken: Option<i32>,
}

impl TapEgress {
    fn new(fd: Arc<AsyncFd<OwnedFd>>, mtu: u16, offloads: Offloads) -> Self {
        Self { fd, mtu, offloads, buffer: vec![0; HEADER + MAX_FRAME].into_boxed_slice(), pending: 0, dropped: 0, broken: None }
    }

    /// Writes the frame in the buffer. It stays there, pending, if the device has no room.
    fn write(&mut self, len: usize) {
        let bytes = &self.buffer[..len];
        self.pending = 0;
        // A tap device nearly always takes a frame at once, so its readiness is looked at only when it did not: `try_io` then forgets a
        // readiness that is no more.
        let mut result = device::write(self.fd.get_ref(), bytes);
        if would_block(&result) {
            result = self.fd.try_io(Interest::WRITABLE, |fd| device::write(fd, bytes));
        }
        match result {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.pending = len,
            Err(error) => match error.raw_os_error() {
                Some(errno @ (libc::EBADFD | libc::EBADF | libc::ENODEV | libc::ENXIO)) => self.broken = Some(errno),
                // EIO: the interface is down. EINVAL: the header does not please this kernel. ENOMEM, ENOBUFS: it will pass.
                _ => self.dropped += 1,
            },
        }
    }

    fn write_pending(&mut self) {
        if self.pending > 0 {
            self.write(self.pending);
        }
    }
}

impl Egress for TapEgress {
    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn send(&mut self, capacity: usize, fill: &mut dyn FnMut(&mut FrameMut<'_, '_>) -> Option<(usize, FrameMeta)>) -> Sent {
        self.write_pending();
        if self.pending > 0 {
            return Sent::Full;
        }
        if self.broken.is_some() {
            return Sent::Declined;
        }
        let Some(room) = self.buffer[HEADER..].get_mut(..capacity) else { return Sent::Declined };
        let Some((len, meta)) = fill(&mut FrameMut::new(&mut [ChunkMut::from(&mut *room)])) else { return Sent::Declined };
        let frame = &room[..len.min(capacity)];
        let header = vnet::encode(&meta, vnet::header_len(&meta, frame.len(), |at| frame.get(at).copied()), 0);
        let len = HEADER + frame.len();
        self.buffer[..HEADER].copy_from_slice(&header[..HEADER]);
        self.write(len);
        Sent::Yes
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_pending();
        match self.broken {
            Some(errno) => Err(end_of_device(io::Error::from_raw_os_error(errno))),
            None => Ok(()),
        }
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.write_pending();
            if self.pending == 0 {
                return Poll::Ready(());
            }
            if let Err(error) = ready!(self.fd.poll_write_ready(cx)) {
                // The runtime is going away; nobody will ever say that there is room.
                self.pending = 0;
                self.broken = Some(error.raw_os_error().unwrap_or(libc::ENODEV));
            }
        }
    }

    fn is_flushed(&self) -> bool {
        self.pending == 0
    }

    fn set_link(&mut self, up: bool) {
        // An older kernel does not know how to tell; then its guest notices that nothing comes, as with a cable that is cut elsewhere.
        if let Err(error) = device::set_carrier(self.fd.get_ref(), up) {
            tracing::debug!(%error, up, "the interface cannot be told of its link");
        }
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl fmt::Debug for TapEgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TapEgress").field("pending", &self.pending).field("dropped", &self.dropped).finish_non_exhaustive()
    }
}

fn would_block<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// What the kernel says of a device that was deleted, alone or with its namespace, as the end of the guest.
fn end_of_device(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EBADFD | libc::ENODEV | libc::ENXIO | libc::EFAULT) => {
            io::Error::new(io::ErrorKind::UnexpectedEof, "the tap device was deleted")
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests;
