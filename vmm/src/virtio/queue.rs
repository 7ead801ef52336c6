//! A split virtqueue (virtio 1.2, section 2.7), served in batches.
//!
//! The ring's layout, its indices and its descriptor chains are those of the `virtio-queue` crate. What is added here is what a fast device
//! and a hostile driver need: used buffers are written one by one but published together, with one question whether the driver wants to
//! hear of them; and whatever contradicts the specification is told from the end of a chain, and ends the device's work.
//!
//! What always holds:
//!
//! - The rings lie in RAM, and so does each piece of a chain that is handed out.
//! - A chain has at most [`MAX_CHAIN`] pieces, and at most as many chains are out as the ring has places, so a driver can neither keep the
//!   device busy with one chain nor make it remember more and more of them.
//! - After an error the queue is not used again until the driver has reset it.

use std::num::Wrapping;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue as Ring, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

use crate::memory::GuestMemory;

/// Places in the largest ring that a device here offers.
pub const MAX_SIZE: u16 = 256;

/// Pieces of the longest chain, also of an indirect one (section 2.7.5.3.1: no longer than the queue is large). A piece that crosses from
/// one range of RAM into the next counts as two.
pub const MAX_CHAIN: usize = MAX_SIZE as usize;

/// Where the fields are in the rings (sections 2.7.6 and 2.7.8).
const RING_INDEX: u64 = 2;
const RING_START: u64 = 4;
const AVAILABLE_ELEMENT: u64 = 2;
const USED_ELEMENT: u64 = 8;

/// What a driver did that it must not do. Its device needs a reset now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// Misaligned, or not in RAM, or of a size that is no power of two.
    #[error("its rings are misaligned, outside of RAM, or of an impossible size")]
    Rings,
    /// The index of the available ring is further ahead than the ring has places.
    #[error("more buffers are available than the ring has places")]
    JumpingIndex,
    /// A chain that leaves the table, never ends, or is too long; or an indirect table in an indirect table.
    #[error("a descriptor chain leaves its table, does not end, or is too long")]
    BrokenChain,
    /// A buffer, or a part of it, is not in RAM.
    #[error("a buffer lies outside of RAM")]
    OutsideRam,
    /// A buffer to be read where the device only writes, the other way round, or one of a length that the request cannot have.
    #[error("a buffer is not of the kind or length that the device expects")]
    WrongBuffer,
}

/// Where a driver has put a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueSetup {
    /// Places in the rings: a power of two, at most the device's maximum.
    pub size: u16,
    /// Address of the descriptor table.
    pub descriptors: u64,
    /// Address of the available ring, the driver's.
    pub available: u64,
    /// Address of the used ring, the device's.
    pub used: u64,
}

/// A piece of a descriptor chain, found to be in RAM.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'m> {
    /// Its address in the guest.
    pub address: GuestAddress,
    /// Its bytes.
    pub slice: VolatileSlice<'m, ()>,
    /// Whether it is for the device to write; else for it to read.
    pub writable: bool,
}

/// A queue that the driver has enabled.
#[derive(Debug)]
pub struct Queue {
    ring: Ring,
    available: GuestAddress,
    used: GuestAddress,
    size: u16,
    event_idx: bool,
    /// The used index that the driver was told last.
    published: Wrapping<u16>,
    /// Used elements that were written since.
    pending: u16,
    /// Chains that were popped and not completed.
    out: u16,
}

impl Queue {
    /// The queue that a driver has set up like this, from its beginning.
    ///
    /// # Errors
    ///
    /// When the rings cannot be where the driver says.
    pub fn new(memory: &GuestMemory, setup: &QueueSetup, event_idx: bool) -> Result<Self, QueueError> {
        let mut ring = Ring::new(MAX_SIZE).map_err(|_| QueueError::Rings)?;
        let (available, used) = (GuestAddress(setup.available), GuestAddress(setup.used));
        ring.try_set_size(setup.size).map_err(|_| QueueError::Rings)?;
        ring.try_set_desc_table_address(GuestAddress(setup.descriptors)).map_err(|_| QueueError::Rings)?;
        ring.try_set_avail_ring_address(available).map_err(|_| QueueError::Rings)?;
        ring.try_set_used_ring_address(used).map_err(|_| QueueError::Rings)?;
        ring.set_event_idx(event_idx);
        ring.set_ready(true);
        // The crate takes an available ring at address 0 for one that was never set.
        if setup.available == 0 || !ring.is_valid(memory) {
            return Err(QueueError::Rings);
        }
        Ok(Self { ring, available, used, size: setup.size, event_idx, published: Wrapping(0), pending: 0, out: 0 })
    }

    /// Places in its rings.
    pub const fn size(&self) -> u16 {
        self.size
    }

    /// Takes the next chain that the driver has made available: hands its pieces to `visit`, in their order, and returns its head, by
    /// which it is [completed](Self::complete). `None` when there is none.
    ///
    /// # Errors
    ///
    /// When the ring or the chain is broken, or with what `visit` says of a piece.
    pub fn pop<'m>(
        &mut self,
        memory: &'m GuestMemory,
        mut visit: impl FnMut(Piece<'m>) -> Result<(), QueueError>,
    ) -> Result<Option<u16>, QueueError> {
        let chain = match self.ring.iter(memory) {
            Ok(mut available) => available.next(),
            Err(_) => return Err(QueueError::JumpingIndex),
        };
        let Some(mut chain) = chain else { return Ok(None) };
        if self.out >= self.size {
            return Err(QueueError::JumpingIndex);
        }
        let head = chain.head_index();
        let mut pieces = 0;
        // The iterator ends alike after the last descriptor and before one that it cannot follow; only in the first case did the one
        // before say that it is the last.
        let mut goes_on = true;
        for descriptor in chain.by_ref() {
            goes_on = descriptor.has_next();
            // Empty ones count too, or a chain of them could be as long as an indirect table.
            pieces += 1;
            let mut address = descriptor.addr();
            let len = descriptor.len() as usize;
            for slice in memory.get_slices(address, len) {
                let slice = slice.map_err(|_| QueueError::OutsideRam)?;
                visit(Piece { address, slice, writable: descriptor.is_write_only() })?;
                address = GuestAddress(address.0.saturating_add(slice.len() as u64));
            }
            if pieces >= MAX_CHAIN && goes_on {
                return Err(QueueError::BrokenChain);
            }
        }
        if goes_on {
            return Err(QueueError::BrokenChain);
        }
        self.out += 1;
        Ok(Some(head))
    }

    /// Gives the chain with this head back, with `written` bytes written to it. The driver sees it after [`Queue::publish`].
    ///
    /// # Errors
    ///
    /// When the used ring is no longer in RAM, which cannot be.
    pub fn complete(&mut self, memory: &GuestMemory, head: u16, written: u32) -> Result<(), QueueError> {
        let place = u64::from((self.published + Wrapping(self.pending)).0 % self.size);
        let address = GuestAddress(self.used.0 + RING_START + place * USED_ELEMENT);
        // `struct virtq_used_elem`: the head, then the length.
        let element = u64::from(head) | u64::from(written) << 32;
        memory.write_obj(element.to_le(), address).map_err(|_| QueueError::OutsideRam)?;
        self.pending += 1;
        self.out = self.out.saturating_sub(1);
        Ok(())
    }

    /// Publishes all that was completed since the last time, and returns whether the driver wants to be notified of it.
    ///
    /// # Errors
    ///
    /// When the rings are no longer in RAM, which cannot be.
    pub fn publish(&mut self, memory: &GuestMemory) -> Result<bool, QueueError> {
        if self.pending == 0 {
            return Ok(false);
        }
        let before = self.published;
        let now = before + Wrapping(self.pending);
        (self.published, self.pending) = (now, 0);
        let index = GuestAddress(self.used.0 + RING_INDEX);
        memory.store(now.0.to_le(), index, Ordering::Release).map_err(|_| QueueError::OutsideRam)?;
        // The driver writes what it wants to hear and then looks at the index; the other way round here, so one of the two sees.
        fence(Ordering::SeqCst);
        let load = |address| memory.load(address, Ordering::Relaxed).map(u16::from_le).map_err(|_| QueueError::OutsideRam);
        if self.event_idx {
            let used_event =
                Wrapping(load(GuestAddress(self.available.0 + RING_START + u64::from(self.size) * AVAILABLE_ELEMENT))?);
            Ok(now - used_event - Wrapping(1) < now - before)
        } else {
            Ok(u32::from(load(self.available)?) & VRING_AVAIL_F_NO_INTERRUPT == 0)
        }
    }

    /// Asks the driver to notify the device when it makes the next buffer available. Returns whether one has become available meanwhile,
    /// of which it may not have.
    ///
    /// # Errors
    ///
    /// When the rings are no longer in RAM, which cannot be.
    pub fn enable_notification(&mut self, memory: &GuestMemory) -> Result<bool, QueueError> {
        self.ring.enable_notification(memory).map_err(|_| QueueError::OutsideRam)
    }

    /// Asks the driver not to notify the device.
    ///
    /// # Errors
    ///
    /// When the rings are no longer in RAM, which cannot be.
    pub fn disable_notification(&mut self, memory: &GuestMemory) -> Result<(), QueueError> {
        self.ring.disable_notification(memory).map_err(|_| QueueError::OutsideRam)
    }
}

#[cfg(test)]
mod tests;
