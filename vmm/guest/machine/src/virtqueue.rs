//! A split virtqueue (virtio 1.2, section 2.7) as its driver sees it.
//!
//! Every descriptor stands for one buffer of its own for good, so there are no free lists: who uses the queue keeps count of which are out.
//! Buffers are published in batches, and the device is told only if it wants to know: with `VIRTIO_F_EVENT_IDX`, it says how far it has
//! looked. Looking at what it has used is a read of memory.

use core::sync::atomic::{Ordering, fence};

use crate::memory;

/// The device may write to the buffer.
pub const WRITE: u16 = 2;

/// The driver's side of a queue.
#[derive(Debug)]
pub struct Virtqueue {
    index: u16,
    size: u16,
    event_idx: bool,
    descriptors: *mut Descriptor,
    available: *mut u16,
    used: *const u16,
    doorbell: *mut u16,
    /// The next place in the available ring, and how far the device has been told.
    next: u16,
    published: u16,
    /// How far the used ring was looked at.
    seen: u16,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

/// A buffer that the device has done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Its descriptor.
    pub descriptor: u16,
    /// How many bytes the device has written.
    pub len: usize,
}

impl Virtqueue {
    /// A queue of `size` descriptors, a power of two.
    pub fn new(index: u16, size: u16, event_idx: bool) -> Self {
        let entries = usize::from(size);
        Self {
            index,
            size,
            event_idx,
            descriptors: memory::leak(16 * entries, 4096).cast(),
            available: memory::leak(6 + 2 * entries, 4096).cast(),
            used: memory::leak(6 + 8 * entries, 4096).cast(),
            doorbell: core::ptr::null_mut(),
            next: 0,
            published: 0,
            seen: 0,
        }
    }

    /// Where its three parts are: descriptors, available ring, used ring.
    pub fn addresses(&self) -> [u64; 3] {
        [self.descriptors as u64, self.available as u64, self.used as u64]
    }

    /// Where the device is told.
    pub const fn set_doorbell(&mut self, address: u64) {
        self.doorbell = address as *mut u16;
    }

    /// Makes a descriptor stand for a buffer.
    pub fn describe(&mut self, descriptor: u16, address: u64, len: usize, flags: u16) {
        let entry = Descriptor { address, len: len as u32, flags, next: 0 };
        // SAFETY: within the table.
        unsafe { self.descriptors.add(usize::from(descriptor % self.size)).write_volatile(entry) };
    }

    /// Puts a buffer into the available ring. The device sees it after [`Virtqueue::publish`].
    pub fn offer(&mut self, descriptor: u16) {
        // SAFETY: within the ring.
        unsafe { self.available.add(2 + usize::from(self.next % self.size)).write_volatile(descriptor) };
        self.next = self.next.wrapping_add(1);
    }

    /// Whether buffers were offered that the device cannot see.
    pub const fn is_unpublished(&self) -> bool {
        self.next != self.published
    }

    /// Shows the device what was offered, and rings the doorbell if the device has asked for it.
    pub fn publish(&mut self) {
        if !self.is_unpublished() {
            return;
        }
        fence(Ordering::Release);
        // SAFETY: the index of the available ring.
        unsafe { self.available.add(1).write_volatile(self.next) };
        // The device looks at the index after it has said how far it has looked; we look there after we have written the index.
        fence(Ordering::SeqCst);
        let wanted = if self.event_idx {
            // SAFETY: the field behind the used ring.
            let event = unsafe { self.used.add(2 + 4 * usize::from(self.size)).read_volatile() };
            self.next.wrapping_sub(event).wrapping_sub(1) < self.next.wrapping_sub(self.published)
        } else {
            // SAFETY: the flags of the used ring.
            unsafe { self.used.read_volatile() & 1 == 0 }
        };
        self.published = self.next;
        if wanted {
            // SAFETY: the device's register.
            unsafe { self.doorbell.write_volatile(self.index) };
        }
    }

    /// Whether the device has done with a buffer that was not looked at.
    pub fn has_used(&self) -> bool {
        // SAFETY: the index of the used ring.
        unsafe { self.used.add(1).read_volatile() != self.seen }
    }

    /// The oldest buffer that the device has done with.
    pub fn take_used(&mut self) -> Option<Used> {
        if !self.has_used() {
            return None;
        }
        fence(Ordering::Acquire);
        let at = 2 + 4 * usize::from(self.seen % self.size);
        // SAFETY: within the ring, whose entries are two 32-bit words.
        let [descriptor, len] = unsafe { self.used.add(at).cast::<[u32; 2]>().read_volatile() };
        self.seen = self.seen.wrapping_add(1);
        Some(Used { descriptor: descriptor as u16 % self.size, len: len as usize })
    }

    /// Asks the device to interrupt when it has done with one more buffer, or never.
    pub fn want_interrupt(&mut self, wanted: bool) {
        if self.event_idx {
            // Never is half the way around from here, and moves on with every call.
            let event = if wanted { self.seen } else { self.seen.wrapping_add(0x8000) };
            // SAFETY: the field behind the available ring.
            unsafe { self.available.add(2 + usize::from(self.size)).write_volatile(event) };
        } else {
            // SAFETY: the flags of the available ring.
            unsafe { self.available.write_volatile(u16::from(!wanted)) };
        }
        fence(Ordering::SeqCst);
    }
}
