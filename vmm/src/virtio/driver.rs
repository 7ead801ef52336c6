//! A guest's virtio driver, for tests: it does what Linux does, over plain guest memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress};

use super::transport::{VirtioPci, status, vectors};
use super::{Parts, feature};
use crate::bell::Bell;
use crate::irq::{IntxLine, MsiRoute};
use crate::memory::GuestMemory;
use crate::pci::PciDevice;

pub(crate) const WRITE: bool = true;
pub(crate) const READ: bool = false;

/// RAM of the test machine: two ranges with a gap. Below 1 MiB, tests put what they like.
pub(crate) fn memory() -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), 16 << 20), (GuestAddress(1 << 32), 1 << 20)]).unwrap()
}

/// A driver of one device.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) device: VirtioPci,
    pub(crate) memory: GuestMemory,
    pub(crate) routes: Vec<Arc<Bell>>,
    pub(crate) line: Arc<Bell>,
    pub(crate) features: u64,
    next: u64,
}

impl Driver {
    pub(crate) fn new(parts: Parts) -> Self {
        let memory = memory();
        let routes: Vec<Arc<Bell>> = (0..vectors(parts.queues.len())).map(|_| Arc::default()).collect();
        let line = Arc::new(Bell::default());
        let given = routes.iter().map(|route| Arc::clone(route) as Arc<dyn MsiRoute>).collect();
        let device = VirtioPci::new("test".to_owned(), memory.clone(), parts, given, Arc::clone(&line) as Arc<dyn IntxLine>);
        Self { device, memory, routes, line, features: 0, next: 1 << 20 }
    }

    /// Memory that nothing else uses.
    pub(crate) fn allocate(&mut self, len: usize) -> u64 {
        let at = self.next;
        self.next += (len as u64).next_multiple_of(4096);
        assert!(self.next <= 16 << 20, "the test machine has not so much memory");
        at
    }

    pub(crate) fn read<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.device.bar_read(0, offset, &mut data);
        data
    }

    pub(crate) fn write<const N: usize>(&mut self, offset: u64, data: [u8; N]) {
        self.device.bar_write(0, offset, &data);
    }

    pub(crate) fn status(&mut self) -> u8 {
        self.read::<1>(0x14)[0]
    }

    pub(crate) fn set_status(&mut self, value: u8) {
        self.write(0x14, [value]);
    }

    pub(crate) fn offered(&mut self) -> u64 {
        self.write(0x00, 0_u32.to_le_bytes());
        let low = u32::from_le_bytes(self.read(0x04));
        self.write(0x00, 1_u32.to_le_bytes());
        u64::from(u32::from_le_bytes(self.read(0x04))) << 32 | u64::from(low)
    }

    /// Resets the device and asks for what it offers of `wanted`. Returns whether it agreed.
    pub(crate) fn negotiate(&mut self, wanted: u64) -> bool {
        self.set_status(0);
        assert_eq!(self.status(), 0, "an idle device is reset at once");
        self.set_status(status::ACKNOWLEDGE);
        self.set_status(status::ACKNOWLEDGE | status::DRIVER);
        let features = self.offered() & wanted;
        self.demand(features)
    }

    /// Writes exactly these features, offered or not.
    pub(crate) fn demand(&mut self, features: u64) -> bool {
        self.features = features;
        for half in [0_u32, 1] {
            self.write(0x08, half.to_le_bytes());
            self.write(0x0c, u32::try_from(features >> (32 * half) & 0xffff_ffff).unwrap().to_le_bytes());
        }
        self.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
        self.status() & status::FEATURES_OK != 0
    }

    /// Switches MSI-X on, with a message for each vector.
    pub(crate) fn use_messages(&mut self) {
        let at = self.capability(0x11).unwrap();
        self.device.config_write(at + 2, &0x8000_u16.to_le_bytes());
        for vector in 0..self.routes.len() as u64 {
            self.write(0x4000 + vector * 16, 0xfee0_0000_u32.to_le_bytes());
            self.write(0x4000 + vector * 16 + 8, 0x40_u32.to_le_bytes());
            self.write(0x4000 + vector * 16 + 12, 0_u32.to_le_bytes());
        }
    }

    pub(crate) fn capability(&mut self, id: u8) -> Option<u16> {
        self.capabilities().into_iter().find(|(found, _)| *found == id).map(|(_, at)| at)
    }

    /// Identifiers and places of the capabilities.
    pub(crate) fn capabilities(&mut self) -> Vec<(u8, u16)> {
        let mut found = Vec::new();
        let mut byte = [0];
        self.device.config_read(0x34, &mut byte);
        while byte[0] != 0 {
            let at = u16::from(byte[0]);
            let mut id = [0; 2];
            self.device.config_read(at, &mut id);
            found.push((id[0], at));
            byte[0] = id[1];
        }
        found
    }

    /// Sets up a queue and enables it; queue n uses vector n + 1.
    pub(crate) fn queue(&mut self, index: u16, size: u16) -> DriverQueue {
        let queue = DriverQueue::new(self, index, size);
        self.enable(&queue);
        queue
    }

    pub(crate) fn enable(&mut self, queue: &DriverQueue) {
        self.write(0x16, queue.index.to_le_bytes());
        self.write(0x18, queue.size.to_le_bytes());
        self.write(0x1a, (queue.index + 1).to_le_bytes());
        for (field, address) in [(0x20, queue.descriptors), (0x28, queue.available), (0x30, queue.used)] {
            self.write(field, u32::try_from(address & 0xffff_ffff).unwrap().to_le_bytes());
            self.write(field + 4, u32::try_from(address >> 32).unwrap().to_le_bytes());
        }
        self.write(0x1c, 1_u16.to_le_bytes());
    }

    pub(crate) fn ready(&mut self) {
        self.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK);
    }

    pub(crate) fn kick(&mut self, queue: &DriverQueue) {
        self.write(0x3000 + 4 * u64::from(queue.index), queue.index.to_le_bytes());
    }

    /// Interrupts of a queue so far.
    pub(crate) fn interrupts(&self, queue: &DriverQueue) -> u64 {
        self.routes[usize::from(queue.index) + 1].signals()
    }

    pub(crate) fn needs_reset(&mut self) -> bool {
        self.status() & status::NEEDS_RESET != 0
    }
}

/// The driver's end of a virtqueue.
#[derive(Debug)]
pub(crate) struct DriverQueue {
    pub(crate) index: u16,
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    pub(crate) available_index: u16,
    used_index: u16,
    free: Vec<u16>,
    chains: HashMap<u16, Vec<u16>>,
    memory: GuestMemory,
    event_idx: bool,
}

impl DriverQueue {
    pub(crate) fn new(driver: &mut Driver, index: u16, size: u16) -> Self {
        let len = usize::from(size);
        Self {
            index,
            size,
            descriptors: driver.allocate(16 * len),
            available: driver.allocate(6 + 2 * len),
            used: driver.allocate(6 + 8 * len),
            available_index: 0,
            used_index: 0,
            free: (0..size).rev().collect(),
            chains: HashMap::new(),
            memory: driver.memory.clone(),
            event_idx: driver.features & feature::EVENT_IDX != 0,
        }
    }

    pub(crate) fn descriptor(&self, table: u64, index: u16, (address, len): (u64, u32), flags: u16, next: u16) {
        let at = table + 16 * u64::from(index);
        self.memory.write_obj(address, GuestAddress(at)).unwrap();
        self.memory.write_obj(len, GuestAddress(at + 8)).unwrap();
        self.memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
        self.memory.write_obj(next, GuestAddress(at + 14)).unwrap();
    }

    /// Makes a chain of these pieces available.
    pub(crate) fn add(&mut self, pieces: &[(u64, usize, bool)]) -> u16 {
        let places: Vec<u16> = pieces.iter().map(|_| self.free.pop().expect("the ring is full")).collect();
        for (n, &(address, len, writable)) in pieces.iter().enumerate() {
            let next = places.get(n + 1).copied();
            let flags = u16::from(next.is_some()) | u16::from(writable) << 1;
            self.descriptor(self.descriptors, places[n], (address, u32::try_from(len).unwrap()), flags, next.unwrap_or(0));
        }
        let head = places[0];
        self.chains.insert(head, places);
        self.offer(head);
        head
    }

    /// As [`DriverQueue::add`], by way of a table at `table`.
    pub(crate) fn add_indirect(&mut self, table: u64, pieces: &[(u64, usize, bool)]) -> u16 {
        for (n, &(address, len, writable)) in (0_u16..).zip(pieces) {
            let last = usize::from(n) + 1 == pieces.len();
            let flags = u16::from(!last) | u16::from(writable) << 1;
            self.descriptor(table, n, (address, u32::try_from(len).unwrap()), flags, n + 1);
        }
        let head = self.free.pop().expect("the ring is full");
        self.descriptor(self.descriptors, head, (table, u32::try_from(16 * pieces.len()).unwrap()), 4, 0);
        self.chains.insert(head, vec![head]);
        self.offer(head);
        head
    }

    /// Puts a head into the available ring.
    pub(crate) fn offer(&mut self, head: u16) {
        let place = self.available + 4 + 2 * u64::from(self.available_index % self.size);
        self.memory.write_obj(head, GuestAddress(place)).unwrap();
        self.set_available(self.available_index.wrapping_add(1));
    }

    pub(crate) fn set_available(&mut self, index: u16) {
        self.available_index = index;
        self.memory.store(index, GuestAddress(self.available + 2), Ordering::Release).unwrap();
    }

    /// Asks for an interrupt when the element with this index is used.
    pub(crate) fn set_used_event(&self, index: u16) {
        let at = self.available + 4 + 2 * u64::from(self.size);
        self.memory.store(index, GuestAddress(at), Ordering::SeqCst).unwrap();
    }

    /// The index at which the device wants to be notified.
    pub(crate) fn available_event(&self) -> u16 {
        self.memory.read_obj(GuestAddress(self.used + 4 + 8 * u64::from(self.size))).unwrap()
    }

    pub(crate) fn published(&self) -> u16 {
        self.memory.load(GuestAddress(self.used + 2), Ordering::Acquire).unwrap()
    }

    /// The next used chain: its head, and how many bytes were written to it.
    pub(crate) fn take_used(&mut self) -> Option<(u16, u32)> {
        if self.published() == self.used_index {
            return None;
        }
        let place = self.used + 4 + 8 * u64::from(self.used_index % self.size);
        let head: u32 = self.memory.read_obj(GuestAddress(place)).unwrap();
        let len = self.memory.read_obj(GuestAddress(place + 4)).unwrap();
        self.used_index = self.used_index.wrapping_add(1);
        if self.event_idx {
            self.set_used_event(self.used_index);
        }
        let head = u16::try_from(head).unwrap();
        self.free.extend(self.chains.remove(&head).expect("the device returned what it was not given"));
        Some((head, len))
    }
}
