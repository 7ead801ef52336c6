//! What the guest receives: its receive queue as the engine's egress.
//!
//! Buffers are taken from the ring ahead of their use and kept until a frame fills them, because a frame may turn out much shorter than
//! the room that was asked for.

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll, ready};

use netstack::frame::{Checksum, ChunkMut, FrameMeta, FrameMut, MAX_FRAME, Offloads, vnet};
use netstack::port::{Egress, Sent};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::{HEADER, LINK_STATUS, LINK_UP, STANDARD_MTU, feature, offloads};
use crate::kick::Kick;
use crate::memory::GuestMemory;
use crate::virtio::DeviceConfig;
use crate::virtio::handover::{ActiveQueue, DeviceGone, QueueSlot};
use crate::virtio::queue::{MAX_CHAIN, QueueError};

/// Pieces of memory that one frame may be spread over. With the buffers that drivers use, 64 KiB take 16 to 45.
const MAX_PIECES: usize = 128;

/// Room that no frame exceeds.
const ENOUGH: usize = HEADER + MAX_FRAME;

#[derive(Debug)]
pub(super) struct NetEgress {
    slot: QueueSlot,
    space: DeviceConfig,
    kick: Kick,
    mtu: u16,
    buffers: Buffers,
    dropped: u64,
}

/// What the port has come to with the room for one frame.
enum Room {
    Enough,
    /// The driver will notify when it has posted more.
    Wait,
    /// However long one waits.
    Never,
}

impl NetEgress {
    /// Must be called within the runtime that will drive it.
    pub(super) fn new(slot: QueueSlot, space: DeviceConfig, mtu: u16) -> io::Result<Self> {
        let kick = Kick::watch(slot.kick())?;
        Ok(Self { slot, space, kick, mtu, buffers: Buffers::default(), dropped: 0 })
    }

    fn features(&self) -> Option<u64> {
        self.slot.peek().map(|active| active.features)
    }

    fn fail(&mut self, error: QueueError) {
        self.buffers = Buffers::default();
        self.slot.fail(error);
    }
}

impl Egress for NetEgress {
    fn mtu(&self) -> u16 {
        match self.features() {
            Some(features) if features & feature::MTU == 0 => self.mtu.min(STANDARD_MTU),
            _ => self.mtu,
        }
    }

    fn offloads(&self) -> Offloads {
        offloads(self.features().unwrap_or(0), self.buffers.take_super_frames)
    }

    fn send(&mut self, capacity: usize, fill: &mut dyn FnMut(&mut FrameMut<'_, '_>) -> Option<(usize, FrameMeta)>) -> Sent {
        let Some(active) = self.slot.active() else { return Sent::Full };
        let sent = match self.buffers.reserve(active, HEADER + capacity) {
            Ok(Room::Enough) => self.buffers.fill(active, capacity, fill),
            Ok(Room::Wait) => Ok(Sent::Full),
            Ok(Room::Never) => {
                self.dropped += 1;
                Ok(Sent::Declined)
            }
            Err(error) => Err(error),
        };
        sent.unwrap_or_else(|error| {
            self.fail(error);
            Sent::Full
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.slot.update().map_err(|DeviceGone| io::ErrorKind::UnexpectedEof)? {
            self.buffers = Buffers::default();
        }
        if let Some(Err(error)) = self.slot.active().map(ActiveQueue::publish) {
            self.fail(error);
        }
        Ok(())
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // A driver that becomes ready wakes through the ingress.
            let Some(active) = self.slot.active() else { return Poll::Pending };
            match active.queue.enable_notification(&active.memory) {
                Ok(true) => return Poll::Ready(()),
                Ok(false) => {}
                Err(error) => {
                    self.fail(error);
                    return Poll::Pending;
                }
            }
            ready!(self.kick.poll(cx));
        }
    }

    fn set_link(&mut self, up: bool) {
        self.space.write(LINK_STATUS, &(if up { LINK_UP } else { 0 }).to_le_bytes());
        // A driver that comes later finds it as it is.
        if let Some(active) = self.slot.peek() {
            active.health.config_changed();
        }
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// The buffers that were taken from the ring and not filled yet.
#[derive(Debug)]
struct Buffers {
    pieces: VecDeque<BufferPiece>,
    /// Bytes in all pieces.
    bytes: usize,
    /// Whether the driver has ever had room for the longest frame. One that never has must not be sent any, or it would wait for ever.
    take_super_frames: bool,
}

/// A piece of a buffer.
#[derive(Debug, Clone, Copy)]
struct BufferPiece {
    address: GuestAddress,
    len: usize,
    /// The buffer, if this is its last piece.
    ends: Option<u16>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { pieces: VecDeque::with_capacity(MAX_PIECES + MAX_CHAIN), bytes: 0, take_super_frames: false }
    }
}

impl Buffers {
    /// Takes buffers from the ring until there is room for any frame, and says whether there is for one of `needed` bytes.
    fn reserve(&mut self, active: &mut ActiveQueue, needed: usize) -> Result<Room, QueueError> {
        let mergeable = active.features & feature::MRG_RXBUF != 0;
        loop {
            let target = if mergeable { ENOUGH.max(needed) } else { 1 };
            while self.bytes < target && self.pieces.len() < MAX_PIECES {
                if !self.take(active)? {
                    break;
                }
            }
            let room = if mergeable { self.mergeable() } else { self.first() };
            self.take_super_frames = room >= ENOUGH || mergeable && self.take_super_frames;
            if room >= needed {
                return Ok(Room::Enough);
            }
            let more_would_help = if mergeable { self.pieces.len() < MAX_PIECES } else { self.pieces.is_empty() };
            if !more_would_help {
                return Ok(Room::Never);
            }
            // Each turn takes a buffer, of which there are no more than the ring has places.
            if !active.queue.enable_notification(&active.memory)? {
                return Ok(Room::Wait);
            }
        }
    }

    /// Takes one buffer from the ring, if there is one.
    fn take(&mut self, active: &mut ActiveQueue) -> Result<bool, QueueError> {
        let ActiveQueue { queue, memory, .. } = active;
        let mut len = 0;
        let pieces = &mut self.pieces;
        let popped = queue.pop(memory, |piece| {
            if !piece.writable {
                return Err(QueueError::WrongBuffer);
            }
            len += piece.slice.len();
            pieces.push_back(BufferPiece { address: piece.address, len: piece.slice.len(), ends: None });
            Ok(())
        })?;
        let Some(head) = popped else { return Ok(false) };
        // One without room for the header can hold nothing (section 5.1.6.3.1).
        match pieces.back_mut() {
            Some(last) if len >= HEADER => last.ends = Some(head),
            _ => return Err(QueueError::WrongBuffer),
        }
        self.bytes += len;
        Ok(true)
    }

    /// Bytes that a frame over several buffers can have.
    fn mergeable(&self) -> usize {
        if self.pieces.len() <= MAX_PIECES {
            return self.bytes;
        }
        self.pieces.iter().take(MAX_PIECES).map(|piece| piece.len).sum()
    }

    /// Bytes in the first buffer.
    fn first(&self) -> usize {
        let mut bytes = 0;
        for piece in self.pieces.iter().take(MAX_PIECES) {
            bytes += piece.len;
            if piece.ends.is_some() {
                break;
            }
        }
        bytes
    }

    /// Lends room for `capacity` bytes and a header, which is known to be there, and completes the buffers that a frame has filled.
    fn fill(
        &mut self,
        active: &mut ActiveQueue,
        capacity: usize,
        fill: &mut dyn FnMut(&mut FrameMut<'_, '_>) -> Option<(usize, FrameMeta)>,
    ) -> Result<Sent, QueueError> {
        let ActiveQueue { queue, memory, features, .. } = active;
        let (mut header, mut frame) = ([const { ChunkMut::empty() }; HEADER], [const { ChunkMut::empty() }; MAX_PIECES]);
        let (headers, frames) = self.lend(memory, capacity, &mut header, &mut frame)?;
        let mut room = FrameMut::new(&mut frame[..frames]);
        let Some((len, mut meta)) = fill(&mut room) else { return Ok(Sent::Declined) };
        let len = len.min(room.len());
        if *features & feature::GUEST_CSUM == 0 && meta.checksum == Checksum::Verified {
            meta.checksum = Checksum::Complete;
        }
        let byte_at = |at| {
            let mut byte = [0];
            (room.copy_to(at, &mut byte) == 1).then_some(byte[0])
        };
        let header_len = vnet::header_len(&meta, len, byte_at);
        let mut left = HEADER + len;
        let mut buffers = 0;
        let mut written = 0_usize;
        while left > 0 {
            let Some(piece) = self.pieces.pop_front() else { break };
            self.bytes -= piece.len;
            let part = piece.len.min(left);
            (left, written) = (left - part, written + part);
            if let Some(head) = piece.ends {
                queue.complete(memory, head, u32::try_from(written).unwrap_or(u32::MAX))?;
                (buffers, written) = (buffers + 1, 0);
            } else if left == 0 {
                // The rest of the last buffer goes unused.
                let head = self.skip_rest().ok_or(QueueError::WrongBuffer)?;
                queue.complete(memory, head, u32::try_from(written).unwrap_or(u32::MAX))?;
                buffers += 1;
            }
        }
        FrameMut::new(&mut header[..headers]).copy_from(0, &vnet::encode(&meta, header_len, buffers));
        Ok(Sent::Yes)
    }

    /// Drops pieces up to the end of the buffer that they belong to, and returns which one that is.
    fn skip_rest(&mut self) -> Option<u16> {
        loop {
            let piece = self.pieces.pop_front()?;
            self.bytes -= piece.len;
            if piece.ends.is_some() {
                return piece.ends;
            }
        }
    }

    /// Puts the memory for the header and for `capacity` bytes behind it into chunks; returns how many of each there are.
    fn lend<'m>(
        &self,
        memory: &'m GuestMemory,
        capacity: usize,
        header: &mut [ChunkMut<'m>],
        frame: &mut [ChunkMut<'m>],
    ) -> Result<(usize, usize), QueueError> {
        let (mut headers, mut frames) = (0, 0);
        let (mut in_header, mut in_frame) = (HEADER, capacity);
        for piece in &self.pieces {
            if in_header == 0 && in_frame == 0 {
                break;
            }
            let here = memory.get_slice(piece.address, piece.len).map_err(|_| QueueError::OutsideRam)?;
            let first = piece.len.min(in_header);
            let second = (piece.len - first).min(in_frame);
            (in_header, in_frame) = (in_header - first, in_frame - second);
            let start = here.ptr_guard_mut().as_ptr();
            if first > 0
                && let Some(place) = header.get_mut(headers)
            {
                // SAFETY: the slice borrows the guest's memory, which stays mapped for at least 'm, and the first `first` bytes of it are
                // this chunk's alone: pieces of a well-behaved driver do not overlap, and those of another are no memory of ours.
                *place = unsafe { ChunkMut::from_raw_parts(start, first) };
                headers += 1;
            }
            if second > 0
                && let Some(place) = frame.get_mut(frames)
            {
                // SAFETY: as above; `first + second` is at most the length of the slice.
                *place = unsafe { ChunkMut::from_raw_parts(start.add(first), second) };
                frames += 1;
            }
        }
        Ok((headers, frames))
    }
}
