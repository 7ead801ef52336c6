//! A modern virtio-net function on PCI (virtio 1.2, sections 4.1 and 5.1), driven by looking at its rings.
//!
//! One pair of queues. A frame and its header lie in one buffer, so a frame is one descriptor. With segmentation offloads, buffers are as
//! long as the longest super-frame, in both directions: what arrives is in one piece, as smoltcp wants it.

use core::num::NonZeroU16;

use probe_body::card::{MAX_FRAME, Nic, Offloads, Receive, Transmit, Wanted};
use probe_body::report::Mac;

use crate::interrupt::{self, Interrupts};
use crate::pci::Function;
use crate::virtqueue::{Used, Virtqueue, WRITE};

/// Length of `struct virtio_net_hdr` with `num_buffers`.
const HEADER: usize = 12;

/// Buffers of each queue.
const BUFFERS: u16 = 64;

/// Buffers that the device has to receive into. Few, so that they are in the cache when they are written again.
const OFFERED: u16 = 16;

/// Frames that are sent before the device is told although more follow: it works while the rest is written.
const BATCH: u16 = 8;

const FEATURE_CSUM: u64 = 1 << 0;
const FEATURE_GUEST_CSUM: u64 = 1 << 1;
const FEATURE_MTU: u64 = 1 << 3;
const FEATURE_MAC: u64 = 1 << 5;
const FEATURE_GUEST_TSO4: u64 = 1 << 7;
const FEATURE_HOST_TSO4: u64 = 1 << 11;
const FEATURE_EVENT_IDX: u64 = 1 << 29;
const FEATURE_VERSION_1: u64 = 1 << 32;

/// What is used where the device has it.
const WANTED: u64 = FEATURE_CSUM
    | FEATURE_GUEST_CSUM
    | FEATURE_MTU
    | FEATURE_MAC
    | FEATURE_GUEST_TSO4
    | FEATURE_HOST_TSO4
    | FEATURE_EVENT_IDX
    | FEATURE_VERSION_1;

const STATUS_ACKNOWLEDGE: u8 = 1;
const STATUS_DRIVER: u8 = 2;
const STATUS_DRIVER_OK: u8 = 4;
const STATUS_FEATURES_OK: u8 = 8;

/// Where the fields of the common configuration are (section 4.1.4.3).
mod common {
    pub(super) const DEVICE_FEATURE_SELECT: u64 = 0;
    pub(super) const DEVICE_FEATURE: u64 = 4;
    pub(super) const DRIVER_FEATURE_SELECT: u64 = 8;
    pub(super) const DRIVER_FEATURE: u64 = 12;
    pub(super) const STATUS: u64 = 20;
    pub(super) const QUEUE_SELECT: u64 = 22;
    pub(super) const QUEUE_SIZE: u64 = 24;
    pub(super) const QUEUE_MSIX_VECTOR: u64 = 26;
    pub(super) const QUEUE_ENABLE: u64 = 28;
    pub(super) const QUEUE_NOTIFY_OFF: u64 = 30;
    pub(super) const QUEUE_DESC: u64 = 32;
}

/// A virtio-net device in use.
#[derive(Debug)]
pub struct VirtioNet {
    mac: Mac,
    mtu: usize,
    offloads: Offloads,
    receive: ReceiveQueue,
    transmit: TransmitQueue,
}

impl VirtioNet {
    /// The first such device of the machine, in use. With `msix`, it interrupts by [`interrupt::MSI`] when asked to.
    ///
    /// # Errors
    ///
    /// When there is one, but it is not what the specification says.
    pub fn find(msix: bool) -> Result<Option<Self>, &'static str> {
        const VENDOR: u16 = 0x1af4;
        const TRANSITIONAL: u16 = 0x1000;
        const MODERN: u16 = 0x1041;
        let Some(function) = Function::find(&[(VENDOR, MODERN), (VENDOR, TRANSITIONAL)]) else { return Ok(None) };
        Self::new(function, msix).map(Some)
    }

    fn new(function: Function, msix: bool) -> Result<Self, &'static str> {
        function.enable(false);
        let regions = Regions::find(function)?;
        let common = regions.common;
        common.write::<u8>(common::STATUS, 0);
        while common.read::<u8>(common::STATUS) != 0 {}
        let mut status = STATUS_ACKNOWLEDGE | STATUS_DRIVER;
        common.write(common::STATUS, status);

        let features = regions.features() & WANTED;
        if features & FEATURE_VERSION_1 == 0 {
            return Err("the virtio-net device is not a modern one");
        }
        regions.set_features(features);
        status |= STATUS_FEATURES_OK;
        common.write(common::STATUS, status);
        if common.read::<u8>(common::STATUS) & STATUS_FEATURES_OK == 0 {
            return Err("the virtio-net device refuses a choice of its own features");
        }

        let has = |feature| features & feature != 0;
        let mut mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
        if has(FEATURE_MAC) {
            for (offset, byte) in (0..).zip(&mut mac) {
                *byte = regions.device.read(offset);
            }
        }
        let mtu = if has(FEATURE_MTU) { usize::from(regions.device.read::<u16>(10)) } else { 1500 };
        let segmentation = has(FEATURE_CSUM) && has(FEATURE_HOST_TSO4);
        let large = |large: bool| HEADER + if large { MAX_FRAME } else { 14 + mtu };

        if msix {
            regions.set_msix(function)?;
        }
        let event_idx = has(FEATURE_EVENT_IDX);
        let receive = ReceiveQueue::new(regions.queue(0, event_idx, msix)?, large(has(FEATURE_GUEST_TSO4)));
        let transmit = TransmitQueue::new(regions.queue(1, event_idx, false)?, large(segmentation));
        common.write(common::STATUS, status | STATUS_DRIVER_OK);

        let offloads = Offloads { send_checksum: has(FEATURE_CSUM), receive_checksum: has(FEATURE_GUEST_CSUM), segmentation };
        let mut device = Self { mac: Mac(mac), mtu, offloads, receive, transmit };
        device.flush();
        Ok(device)
    }
}

impl Nic for VirtioNet {
    type Receive = ReceiveQueue;
    type Transmit = TransmitQueue;

    fn name(&self) -> &'static str {
        "virtio-net"
    }

    fn mac(&self) -> Mac {
        self.mac
    }

    fn mtu(&self) -> usize {
        self.mtu
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn halves(&mut self) -> (&mut ReceiveQueue, &mut TransmitQueue) {
        (&mut self.receive, &mut self.transmit)
    }

    fn flush(&mut self) {
        self.receive.queue.publish();
        self.transmit.flush();
    }
}

impl Interrupts for VirtioNet {
    const VECTOR: u8 = interrupt::MSI;

    fn arm(&mut self) {
        self.receive.queue.want_interrupt(true);
    }

    fn disarm(&mut self) {
        self.receive.queue.want_interrupt(false);
    }
}

/// Frames from the device.
#[derive(Debug)]
pub struct ReceiveQueue {
    queue: Virtqueue,
    buffers: Buffers,
    taken: Option<Used>,
}

impl ReceiveQueue {
    fn new(mut queue: Virtqueue, len: usize) -> Self {
        let buffers = Buffers::new(len);
        for index in 0..OFFERED {
            queue.describe(index, buffers.address(index) as u64, len, WRITE);
            queue.offer(index);
        }
        queue.want_interrupt(false);
        Self { queue, buffers, taken: None }
    }
}

impl Receive for ReceiveQueue {
    fn poll(&mut self) -> bool {
        if self.taken.is_none() {
            self.taken = self.queue.take_used();
        }
        self.taken.is_some()
    }

    fn take<R>(&mut self, look: impl FnOnce(&[u8]) -> R) -> R {
        let Some(Used { descriptor, len }) = self.taken.take() else { return look(&[]) };
        let frame = self.buffers.frame(descriptor, len.saturating_sub(HEADER));
        let result = look(frame);
        self.queue.offer(descriptor);
        result
    }
}

/// Frames to the device.
#[derive(Debug)]
pub struct TransmitQueue {
    queue: Virtqueue,
    buffers: Buffers,
    /// Buffers that the device does not have.
    free: [u16; BUFFERS as usize],
    free_len: usize,
    unpublished: u16,
}

impl TransmitQueue {
    fn new(mut queue: Virtqueue, len: usize) -> Self {
        queue.want_interrupt(false);
        // The same few buffers are used again and again, those that are in the cache.
        let free = core::array::from_fn(|index| BUFFERS - 1 - index as u16);
        Self { queue, buffers: Buffers::new(len), free, free_len: usize::from(BUFFERS), unpublished: 0 }
    }

    fn flush(&mut self) {
        self.queue.publish();
        self.unpublished = 0;
    }
}

impl Transmit for TransmitQueue {
    fn poll(&mut self) -> bool {
        while let Some(used) = self.queue.take_used() {
            if let Some(place) = self.free.get_mut(self.free_len) {
                *place = used.descriptor;
                self.free_len += 1;
            }
        }
        self.free_len > 0
    }

    fn send<R>(&mut self, len: usize, write: impl FnOnce(&mut [u8]) -> (R, Wanted)) -> R {
        // Callers ask for room first; a frame without room is written, and lost.
        let place = self.free_len.saturating_sub(1);
        let buffer = self.free[place];
        let (result, wanted) = write(self.buffers.frame(buffer, len));
        *self.buffers.header(buffer) = header(wanted);
        self.queue.describe(buffer, self.buffers.address(buffer) as u64, HEADER + len, 0);
        self.queue.offer(buffer);
        self.free_len = place;
        self.unpublished += 1;
        if self.unpublished >= BATCH {
            self.flush();
        }
        result
    }
}

/// The header that says what the device is to do (section 5.1.6).
fn header(wanted: Wanted) -> [u8; HEADER] {
    const NEEDS_CSUM: u8 = 1;
    const GSO_TCPV4: u8 = 1;
    /// Ethernet, IPv4 and TCP without options: a hint only.
    const HEADERS: u16 = 54;
    let mut header = [0; HEADER];
    if let Some(partial) = wanted.checksum {
        header[0] = NEEDS_CSUM;
        header[6..8].copy_from_slice(&partial.start.to_le_bytes());
        header[8..10].copy_from_slice(&partial.offset.to_le_bytes());
    }
    if let Some(size) = wanted.segment.map(NonZeroU16::get) {
        header[1] = GSO_TCPV4;
        header[2..4].copy_from_slice(&HEADERS.to_le_bytes());
        header[4..6].copy_from_slice(&size.to_le_bytes());
    }
    header
}

/// As many buffers as a queue uses, one behind the other; each begins with a header, 4 bytes into it, so that IP headers are aligned.
#[derive(Debug)]
struct Buffers {
    memory: *mut u8,
    len: usize,
    stride: usize,
}

impl Buffers {
    /// Puts the frame at a multiple of 16, plus 2.
    const LEAD: usize = 6;

    fn new(len: usize) -> Self {
        let stride = (Self::LEAD + len).next_multiple_of(64);
        Self { memory: crate::memory::leak(stride * usize::from(BUFFERS), 4096), len, stride }
    }

    /// Where the header of buffer `index` is.
    fn address(&self, index: u16) -> *mut u8 {
        let index = usize::from(index % BUFFERS);
        // SAFETY: within the memory.
        unsafe { self.memory.add(index * self.stride + Self::LEAD) }
    }

    fn header(&mut self, index: u16) -> &mut [u8; HEADER] {
        // SAFETY: a buffer is longer than that, and the device does not have it.
        unsafe { &mut *self.address(index).cast() }
    }

    /// The `len` bytes behind the header, or as many as there are.
    fn frame(&mut self, index: u16, len: usize) -> &mut [u8] {
        // SAFETY: within the buffer, which the device does not have.
        unsafe { core::slice::from_raw_parts_mut(self.address(index).add(HEADER), len.min(self.len - HEADER)) }
    }
}

/// The parts of the device's memory, found by its capabilities (section 4.1.4).
#[derive(Debug)]
struct Regions {
    common: Registers,
    device: Registers,
    notify: Registers,
    notify_multiplier: u32,
}

impl Regions {
    fn find(function: Function) -> Result<Self, &'static str> {
        const VENDOR_SPECIFIC: u8 = 9;
        const COMMON: u8 = 1;
        const NOTIFY: u8 = 2;
        const DEVICE: u8 = 4;
        let (mut common, mut notify, mut device, mut notify_multiplier) = (None, None, None, 0);
        for (kind, at) in function.capabilities() {
            if kind != VENDOR_SPECIFIC {
                continue;
            }
            let kind = function.read(at).to_le_bytes()[3];
            let slot = match kind {
                COMMON => &mut common,
                NOTIFY => &mut notify,
                DEVICE => &mut device,
                _ => continue,
            };
            // The first of a kind is the one that the device prefers.
            if slot.is_some() {
                continue;
            }
            let bar = function.read(at + 4).to_le_bytes()[0];
            let (offset, len) = (u64::from(function.read(at + 8)), u64::from(function.read(at + 12)));
            *slot = function.bar(bar, offset + len).map(|address| Registers(address + offset));
            if kind == NOTIFY {
                notify_multiplier = function.read(at + 16);
            }
        }
        match (common, notify, device) {
            (Some(common), Some(notify), Some(device)) => Ok(Self { common, device, notify, notify_multiplier }),
            _ => Err("the virtio-net device lacks a part of its configuration in memory"),
        }
    }

    fn features(&self) -> u64 {
        let half = |select: u32| {
            self.common.write(common::DEVICE_FEATURE_SELECT, select);
            u64::from(self.common.read::<u32>(common::DEVICE_FEATURE))
        };
        half(0) | half(1) << 32
    }

    fn set_features(&self, features: u64) {
        for (select, half) in [(0_u32, features as u32), (1, (features >> 32) as u32)] {
            self.common.write(common::DRIVER_FEATURE_SELECT, select);
            self.common.write(common::DRIVER_FEATURE, half);
        }
    }

    /// Queue `index`, in use. With `msix`, its interrupts come by the first entry of the table.
    fn queue(&self, index: u16, event_idx: bool, msix: bool) -> Result<Virtqueue, &'static str> {
        let common = self.common;
        common.write(common::QUEUE_SELECT, index);
        if common.read::<u16>(common::QUEUE_SIZE) < BUFFERS {
            return Err("a queue of the virtio-net device is too short");
        }
        common.write(common::QUEUE_SIZE, BUFFERS);
        let mut queue = Virtqueue::new(index, BUFFERS, event_idx);
        for (part, address) in (0..).zip(queue.addresses()) {
            let [low, high] = [address as u32, (address >> 32) as u32];
            common.write(common::QUEUE_DESC + 8 * part, low);
            common.write(common::QUEUE_DESC + 8 * part + 4, high);
        }
        if msix {
            common.write::<u16>(common::QUEUE_MSIX_VECTOR, 0);
            if common.read::<u16>(common::QUEUE_MSIX_VECTOR) != 0 {
                return Err("the virtio-net device has no interrupt for its queue");
            }
        }
        let notify = u64::from(common.read::<u16>(common::QUEUE_NOTIFY_OFF)) * u64::from(self.notify_multiplier);
        queue.set_doorbell(self.notify.0 + notify);
        common.write::<u16>(common::QUEUE_ENABLE, 1);
        Ok(queue)
    }

    /// Enters [`interrupt::MSI`] into the function's MSI-X table and switches MSI-X on.
    fn set_msix(&self, function: Function) -> Result<(), &'static str> {
        const MSIX: u8 = 0x11;
        const ENABLE: u32 = 1 << 31;
        const NONE: &str = "the virtio-net device has no MSI-X";
        let (_, at) = function.capabilities().find(|(kind, _)| *kind == MSIX).ok_or(NONE)?;
        let table = function.read(at + 4);
        let [bar, ..] = (table & 7).to_le_bytes();
        let offset = u64::from(table & !7);
        let entry = Registers(function.bar(bar, offset + 16).ok_or(NONE)? + offset);
        let (address, data) = interrupt::message(interrupt::MSI);
        function.write(at, function.read(at) | ENABLE);
        entry.write(0, address as u32);
        entry.write(4, (address >> 32) as u32);
        entry.write(8, data);
        entry.write(12, 0_u32);
        Ok(())
    }
}

/// Registers in memory. Every access leaves the guest.
#[derive(Debug, Clone, Copy)]
struct Registers(u64);

impl Registers {
    fn read<T: Copy>(self, offset: u64) -> T {
        // SAFETY: a register of the device, mapped.
        unsafe { ((self.0 + offset) as *const T).read_volatile() }
    }

    fn write<T: Copy>(self, offset: u64, value: T) {
        // SAFETY: a register of the device, mapped.
        unsafe { ((self.0 + offset) as *mut T).write_volatile(value) }
    }
}
