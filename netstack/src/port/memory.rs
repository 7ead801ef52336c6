//! A port in memory: frames as vectors, for programs that embed the engine and for tests.
//!
//! [`MemoryPort::pair`] makes the two ends of a cable. The engine takes the [`MemoryPort`]; the [`GuestEnd`] is the guest's network card.
//! It needs no runtime: both ends wake whoever waits through the plain [`std::task`] interface.
//!
//! What always holds:
//!
//! - Both directions are bounded by a number of frames, so a guest that does not take its frames stops the flows, not the process.
//! - The guest sees a frame only after the engine's flush, so a flush that was forgotten shows in every test.
//! - With [`MemoryConfig::scatter`], frames are handed over in pieces, as a virtqueue would.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::{Egress, Halves, Ingress, Port, Sent};
use crate::frame::{Chunk, ChunkMut, Frame, FrameMeta, FrameMut, MAX_FRAME, Offloads};

/// What a memory port is to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryConfig {
    /// The port's name in messages.
    pub name: String,
    /// The largest IP packet of a frame to the guest, after segmentation.
    pub mtu: u16,
    /// What the guest takes in frames that are sent to it. What it sends may need all of them.
    pub offloads: Offloads,
    /// How many frames wait in each direction before it is full.
    pub capacity: usize,
    /// The length of the pieces of memory that frames are handed over in; 0 means in one piece.
    pub scatter: usize,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { name: "memory".to_owned(), mtu: 1500, offloads: Offloads::NONE, capacity: 256, scatter: 0 }
    }
}

/// The engine's end of the cable.
#[derive(Debug)]
pub struct MemoryPort {
    name: String,
    ingress: MemoryIngress,
    egress: MemoryEgress,
}

impl MemoryPort {
    /// A cable: one end for the engine, one for whoever plays the guest.
    pub fn pair(config: MemoryConfig) -> (Self, GuestEnd) {
        let to_engine = Arc::new(Direction::new(config.capacity));
        let to_guest = Arc::new(Direction::new(config.capacity));
        let guest = GuestEnd { to_engine: Arc::clone(&to_engine), to_guest: Arc::clone(&to_guest) };
        let port = Self {
            name: config.name,
            ingress: MemoryIngress { from_guest: to_engine, scatter: config.scatter },
            egress: MemoryEgress {
                to_guest,
                mtu: config.mtu,
                offloads: config.offloads,
                scatter: config.scatter,
                unflushed: VecDeque::new(),
            },
        };
        (port, guest)
    }
}

impl Port for MemoryPort {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn attach(self: Box<Self>) -> io::Result<Halves> {
        Ok(Halves { ingress: Box::new(self.ingress), egress: Box::new(self.egress) })
    }
}

/// The guest's end of the cable. When it is dropped, the guest has gone for good.
///
/// One task at a time may wait to receive, and one to send.
#[derive(Debug)]
pub struct GuestEnd {
    to_engine: Arc<Direction>,
    to_guest: Arc<Direction>,
}

/// Why a frame was not sent to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GuestSendError {
    /// As many frames wait already as may.
    #[error("the engine has not yet taken the frames sent before: wait for room")]
    Full,
    /// The engine has dropped its end.
    #[error("the engine no longer uses this port")]
    Gone,
    /// The frame is longer than [`MAX_FRAME`], or is to be cut into segments of no bytes.
    #[error(
        "no port can carry such a frame: it is longer than an Ethernet header and the largest IP packet, or its segment size is 0"
    )]
    Malformed,
}

impl GuestEnd {
    /// Whether the engine has the link up.
    pub fn link_is_up(&self) -> bool {
        !self.to_guest.lock().link_down
    }

    /// Sends a frame to the engine.
    ///
    /// # Errors
    ///
    /// When there is no room for it, when the engine has gone, or when no port could carry it.
    pub fn send(&self, frame: impl Into<Vec<u8>>, meta: FrameMeta) -> Result<(), GuestSendError> {
        let frame = frame.into();
        if frame.len() > MAX_FRAME || meta.gso.is_some_and(|gso| gso.size == 0) {
            return Err(GuestSendError::Malformed);
        }
        let mut state = self.to_engine.lock();
        if state.receiver_gone {
            return Err(GuestSendError::Gone);
        }
        if state.frames.len() >= state.capacity {
            return Err(GuestSendError::Full);
        }
        state.frames.push_back((frame, meta));
        state.wake_receiver();
        Ok(())
    }

    /// Waits until [`GuestEnd::send`] has room, or the engine has gone.
    pub async fn room(&self) {
        poll_fn(|cx| self.poll_room(cx)).await;
    }

    /// As [`GuestEnd::room`], for those who poll.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.to_engine.lock();
        if state.frames.len() < state.capacity || state.receiver_gone {
            return Poll::Ready(());
        }
        state.sender = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Takes the oldest frame that the engine has sent, if there is one.
    pub fn recv(&self) -> Option<(Vec<u8>, FrameMeta)> {
        self.to_guest.take()
    }

    /// Waits for a frame from the engine. `None` when the engine has gone and everything it sent was taken.
    pub async fn received(&self) -> Option<(Vec<u8>, FrameMeta)> {
        poll_fn(|cx| self.poll_received(cx)).await
    }

    /// As [`GuestEnd::received`], for those who poll.
    pub fn poll_received(&self, cx: &mut Context<'_>) -> Poll<Option<(Vec<u8>, FrameMeta)>> {
        let mut state = self.to_guest.lock();
        match state.take() {
            Some(frame) => Poll::Ready(Some(frame)),
            None if state.sender_gone => Poll::Ready(None),
            None => {
                state.receiver = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// How many frames from the engine have not been taken.
    pub fn waiting(&self) -> usize {
        self.to_guest.lock().frames.len()
    }

    /// Changes how many frames from the engine may wait before the port is full. 0 makes it full at once.
    pub fn set_capacity(&self, frames: usize) {
        let mut state = self.to_guest.lock();
        state.capacity = frames;
        if state.frames.len() < frames {
            state.wake_sender();
        }
    }
}

impl Drop for GuestEnd {
    fn drop(&mut self) {
        self.to_engine.sender_leaves();
        self.to_guest.receiver_leaves();
    }
}

/// One direction of the cable.
#[derive(Debug)]
struct Direction(Mutex<DirectionState>);

#[derive(Debug)]
struct DirectionState {
    frames: VecDeque<(Vec<u8>, FrameMeta)>,
    capacity: usize,
    sender: Option<Waker>,
    receiver: Option<Waker>,
    sender_gone: bool,
    receiver_gone: bool,
    link_down: bool,
}

impl Direction {
    const fn new(capacity: usize) -> Self {
        Self(Mutex::new(DirectionState {
            frames: VecDeque::new(),
            capacity,
            sender: None,
            receiver: None,
            sender_gone: false,
            receiver_gone: false,
            link_down: false,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, DirectionState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<(Vec<u8>, FrameMeta)> {
        self.lock().take()
    }

    fn sender_leaves(&self) {
        let mut state = self.lock();
        state.sender_gone = true;
        state.wake_receiver();
    }

    fn receiver_leaves(&self) {
        let mut state = self.lock();
        state.receiver_gone = true;
        state.frames.clear();
        state.wake_sender();
    }
}

impl DirectionState {
    fn take(&mut self) -> Option<(Vec<u8>, FrameMeta)> {
        let frame = self.frames.pop_front()?;
        if self.frames.len() < self.capacity {
            self.wake_sender();
        }
        Some(frame)
    }

    fn wake_sender(&mut self) {
        if let Some(waker) = self.sender.take() {
            waker.wake();
        }
    }

    fn wake_receiver(&mut self) {
        if let Some(waker) = self.receiver.take() {
            waker.wake();
        }
    }
}

#[derive(Debug)]
struct MemoryIngress {
    from_guest: Arc<Direction>,
    scatter: usize,
}

impl Ingress for MemoryIngress {
    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(Frame<'_>)) -> io::Result<usize> {
        for received in 0..budget {
            // The lock is not held while the frame is looked at: the answer may go to a port of the same task.
            let Some((bytes, meta)) = self.from_guest.take() else {
                if received == 0 && self.from_guest.lock().sender_gone {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                return Ok(received);
            };
            if self.scatter == 0 {
                sink(Frame::new(&[Chunk::from(&bytes[..])], meta));
            } else {
                let chunks: Vec<_> = bytes.chunks(self.scatter).map(Chunk::from).collect();
                sink(Frame::new(&chunks, meta));
            }
        }
        Ok(budget)
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.from_guest.lock();
        if !state.frames.is_empty() || state.sender_gone {
            return Poll::Ready(());
        }
        state.receiver = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for MemoryIngress {
    fn drop(&mut self) {
        self.from_guest.receiver_leaves();
    }
}

#[derive(Debug)]
struct MemoryEgress {
    to_guest: Arc<Direction>,
    mtu: u16,
    offloads: Offloads,
    scatter: usize,
    unflushed: VecDeque<(Vec<u8>, FrameMeta)>,
}

impl Egress for MemoryEgress {
    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn send(&mut self, capacity: usize, fill: &mut dyn FnMut(&mut FrameMut<'_, '_>) -> Option<(usize, FrameMeta)>) -> Sent {
        if capacity > MAX_FRAME {
            return Sent::Declined;
        }
        {
            let state = self.to_guest.lock();
            // A guest that has gone takes everything and sees nothing; flush tells.
            if !state.receiver_gone && state.frames.len() + self.unflushed.len() >= state.capacity {
                return Sent::Full;
            }
        }
        let mut bytes = vec![0; capacity];
        let filled = if self.scatter == 0 {
            fill(&mut FrameMut::new(&mut [ChunkMut::from(&mut bytes[..])]))
        } else {
            let mut chunks: Vec<_> = bytes.chunks_mut(self.scatter).map(ChunkMut::from).collect();
            fill(&mut FrameMut::new(&mut chunks))
        };
        let Some((len, meta)) = filled else { return Sent::Declined };
        debug_assert!(len <= capacity, "{len} bytes were put where {capacity} had been asked for");
        debug_assert!(self.offloads.accept(&meta), "{meta:?} goes beyond {:?}", self.offloads);
        bytes.truncate(len);
        self.unflushed.push_back((bytes, meta));
        Sent::Yes
    }

    fn set_link(&mut self, up: bool) {
        self.to_guest.lock().link_down = !up;
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut state = self.to_guest.lock();
        if state.receiver_gone {
            self.unflushed.clear();
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !self.unflushed.is_empty() {
            state.frames.append(&mut self.unflushed);
            state.wake_receiver();
        }
        Ok(())
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.to_guest.lock();
        if state.frames.len() + self.unflushed.len() < state.capacity || state.receiver_gone {
            return Poll::Ready(());
        }
        state.sender = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for MemoryEgress {
    fn drop(&mut self) {
        self.to_guest.sender_leaves();
    }
}

#[cfg(test)]
mod tests;
