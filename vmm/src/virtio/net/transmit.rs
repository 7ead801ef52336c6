//! What the guest transmits: its transmit queue as the engine's ingress.

use std::io;
use std::task::{Context, Poll};

use netstack::frame::{Chunk, ETHERNET_HEADER, Frame, FrameMeta, MAX_FRAME, vnet};
use netstack::port::Ingress;

use super::{HEADER, negotiated};
use crate::kick::Kick;
use crate::virtio::handover::{ActiveQueue, DeviceGone, QueueSlot};
use crate::virtio::queue::{MAX_CHAIN, Piece, QueueError};

#[derive(Debug)]
pub(super) struct NetIngress {
    slot: QueueSlot,
    kick: Kick,
    dropped: u64,
}

impl NetIngress {
    /// Must be called within the runtime that will drive it.
    pub(super) fn new(slot: QueueSlot) -> io::Result<Self> {
        let kick = Kick::watch(slot.kick())?;
        Ok(Self { slot, kick, dropped: 0 })
    }
}

impl Ingress for NetIngress {
    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(Frame<'_>)) -> io::Result<usize> {
        self.slot.update().map_err(|DeviceGone| io::ErrorKind::UnexpectedEof)?;
        let Some(active) = self.slot.active() else { return Ok(0) };
        match drain(active, budget, sink, &mut self.dropped) {
            Ok(received) => Ok(received),
            Err(error) => {
                self.slot.fail(error);
                Ok(0)
            }
        }
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.kick.poll(cx)
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// Hands the frames that wait to `sink`, at most `budget`. Fewer than that means that there are no more, and that the driver will notify
/// when there are.
fn drain(active: &mut ActiveQueue, budget: usize, sink: &mut dyn FnMut(Frame<'_>), dropped: &mut u64) -> Result<usize, QueueError> {
    let ActiveQueue { queue, memory, features, .. } = active;
    let mut chunks = [Chunk::empty(); MAX_CHAIN];
    let mut received = 0;
    queue.disable_notification(memory)?;
    while received < budget {
        let mut used = 0;
        let popped = queue.pop(memory, |piece| {
            *chunks.get_mut(used).ok_or(QueueError::BrokenChain)? = lend(&piece)?;
            used += 1;
            Ok(())
        })?;
        let Some(head) = popped else {
            if queue.enable_notification(memory)? {
                continue;
            }
            break;
        };
        // What is dropped counts too, or a driver could keep us here.
        received += 1;
        match parse(&mut chunks[..used], *features) {
            Some(frame) => sink(frame),
            None => *dropped += 1,
        }
        queue.complete(memory, head, 0)?;
    }
    active.publish()?;
    Ok(received)
}

fn lend<'m>(piece: &Piece<'m>) -> Result<Chunk<'m>, QueueError> {
    if piece.writable {
        return Err(QueueError::WrongBuffer);
    }
    // SAFETY: the slice borrows the guest's memory, which stays mapped for at least 'm. This process changes it only through chunks, and
    // through the devices, whose writes are those of a guest to this frame.
    Ok(unsafe { Chunk::from_raw_parts(piece.slice.ptr_guard().as_ptr(), piece.slice.len()) })
}

/// The frame behind the header; `None` if it makes no sense.
fn parse<'a>(chunks: &'a mut [Chunk<'_>], features: u64) -> Option<Frame<'a>> {
    let mut header = [0; HEADER];
    let whole = Frame::new(chunks, FrameMeta::default());
    let len = whole.len().checked_sub(HEADER)?;
    if !(ETHERNET_HEADER..=MAX_FRAME).contains(&len) || whole.copy_to(0, &mut header) < HEADER {
        return None;
    }
    let meta = vnet::decode(header.first_chunk()?, len).ok()?;
    let meta = negotiated(meta, features)?;
    // The header is the first chunk, or the beginning of it, or several.
    let (mut skip, mut first) = (HEADER, 0);
    while skip >= chunks.get(first)?.len() {
        skip -= chunks[first].len();
        first += 1;
    }
    let frame = &mut chunks[first..];
    frame[0] = frame[0].part(skip, usize::MAX);
    Some(Frame::new(frame, meta))
}
