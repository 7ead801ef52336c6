//! An Intel 82540EM, driven as simply as its manual allows: one descriptor a frame, legacy descriptors, no offloads.
//!
//! Its doorbells are registers and not eventfds, so each costs tens of microseconds: tails are written once for many frames. What it has
//! done is read from the descriptors in memory, never from its head registers.

use core::sync::atomic::{Ordering, fence};

use probe_body::card::{Nic, Offloads, Receive, Transmit, Wanted};
use probe_body::report::Mac;

use crate::interrupt::{self, Interrupts};
use crate::memory;
use crate::pci::Function;

/// Descriptors of each ring, and the bytes of each buffer.
const RING: usize = 256;
const BUFFER: usize = 2048;

/// Frames that are sent, and buffers that are given back, before the device is told although more follow.
const BATCH: usize = 64;

/// Registers (PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual, section 13).
mod register {
    pub(super) const CTRL: u64 = 0x0;
    pub(super) const ICR: u64 = 0xc0;
    pub(super) const IMS: u64 = 0xd0;
    pub(super) const IMC: u64 = 0xd8;
    pub(super) const RCTL: u64 = 0x100;
    pub(super) const TCTL: u64 = 0x400;
    pub(super) const TIPG: u64 = 0x410;
    pub(super) const RDBAL: u64 = 0x2800;
    pub(super) const RDT: u64 = 0x2818;
    pub(super) const TDBAL: u64 = 0x3800;
    pub(super) const TDT: u64 = 0x3818;
    pub(super) const RAL0: u64 = 0x5400;
    pub(super) const RAH0: u64 = 0x5404;
}

const CTRL_SLU: u32 = 1 << 6;
const CTRL_RST: u32 = 1 << 26;
/// Enabled, broadcasts too, buffers of 2 KiB, without the FCS.
const RCTL_ON: u32 = 1 << 1 | 1 << 15 | 1 << 26;
/// Enabled, short frames padded, the usual collision limits.
const TCTL_ON: u32 = 1 << 1 | 1 << 3 | 0x0f << 4 | 0x40 << 12;
/// The inter-packet gaps that the manual wants for copper.
const TIPG_COPPER: u32 = 10 | 8 << 10 | 6 << 20;
/// A frame has arrived; the ring is short of buffers; a frame was lost for want of one.
const INTERRUPT_RECEIVE: u32 = 1 << 7 | 1 << 4 | 1 << 6;

/// End of packet, insert FCS, report status.
const COMMAND_SEND: u8 = 1 | 2 | 8;
const STATUS_DONE: u8 = 1;

/// An e1000 in use.
#[derive(Debug)]
pub struct E1000 {
    mac: Mac,
    receive: ReceiveRing,
    transmit: TransmitRing,
}

impl E1000 {
    /// The first such device of the machine, in use. With `interrupts`, it pulls its line when frames arrive.
    ///
    /// # Errors
    ///
    /// When there is one, but its registers cannot be reached or it does not come out of its reset.
    pub fn find(interrupts: bool) -> Result<Option<Self>, &'static str> {
        let Some(function) = Function::find(&[(0x8086, 0x100e)]) else { return Ok(None) };
        Self::new(function, interrupts).map(Some)
    }

    fn new(function: Function, interrupts: bool) -> Result<Self, &'static str> {
        const REGISTERS: u64 = 128 << 10;
        const ADDRESS_VALID: u32 = 1 << 31;
        function.enable(interrupts);
        let registers = Registers(function.bar(0, REGISTERS).ok_or("the e1000 has no registers in memory")?);
        registers.write(register::IMC, u32::MAX);
        registers.write(register::CTRL, CTRL_RST);
        let mut looks = 0;
        while registers.read(register::CTRL) & CTRL_RST != 0 {
            looks += 1;
            if looks > 10_000 {
                return Err("the e1000 does not come out of its reset");
            }
        }
        registers.write(register::IMC, u32::MAX);
        registers.write(register::CTRL, registers.read(register::CTRL) | CTRL_SLU);
        let (low, high) = (registers.read(register::RAL0), registers.read(register::RAH0));
        if high & ADDRESS_VALID == 0 {
            return Err("the e1000 has no address");
        }
        let [a, b, c, d] = low.to_le_bytes();
        let [e, f, ..] = high.to_le_bytes();

        let receive = ReceiveRing::new(registers);
        let transmit = TransmitRing::new(registers);
        registers.write(register::TIPG, TIPG_COPPER);
        registers.write(register::TCTL, TCTL_ON);
        registers.write(register::RCTL, RCTL_ON);
        if interrupts {
            interrupt::route_line(function, registers.0 + register::ICR, registers.0 + register::IMC);
        }
        Ok(Self { mac: Mac([a, b, c, d, e, f]), receive, transmit })
    }
}

impl Nic for E1000 {
    type Receive = ReceiveRing;
    type Transmit = TransmitRing;

    fn name(&self) -> &'static str {
        "e1000"
    }

    fn mac(&self) -> Mac {
        self.mac
    }

    fn mtu(&self) -> usize {
        1500
    }

    fn offloads(&self) -> Offloads {
        Offloads::default()
    }

    fn halves(&mut self) -> (&mut ReceiveRing, &mut TransmitRing) {
        (&mut self.receive, &mut self.transmit)
    }

    fn flush(&mut self) {
        self.transmit.flush();
        // Buffers are given back late, in batches: the device has many others.
        if self.receive.unpublished >= BATCH {
            self.receive.flush();
        }
    }
}

impl Interrupts for E1000 {
    const VECTOR: u8 = interrupt::LINE;

    fn arm(&mut self) {
        // What has come before was seen.
        self.receive.registers.read(register::ICR);
        self.receive.registers.write(register::IMS, INTERRUPT_RECEIVE);
    }

    /// The stub has done it, if there was an interrupt; if not, one more harms nobody.
    fn disarm(&mut self) {}
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct ReceiveDescriptor {
    address: u64,
    len: u16,
    checksum: u16,
    status: u8,
    errors: u8,
    special: u16,
}

/// Frames from the device.
#[derive(Debug)]
pub struct ReceiveRing {
    registers: Registers,
    ring: *mut ReceiveDescriptor,
    buffers: *mut u8,
    next: usize,
    unpublished: usize,
}

impl ReceiveRing {
    fn new(registers: Registers) -> Self {
        let ring = memory::leak(RING * size_of::<ReceiveDescriptor>(), 4096).cast::<ReceiveDescriptor>();
        let buffers = memory::leak(RING * BUFFER, 4096);
        for index in 0..RING {
            // SAFETY: within the ring and the buffers.
            unsafe {
                let address = buffers.add(index * BUFFER) as u64;
                ring.add(index).write_volatile(ReceiveDescriptor { address, ..ReceiveDescriptor::default() });
            }
        }
        registers.set_ring(register::RDBAL, ring as u64, RING * size_of::<ReceiveDescriptor>());
        // One is kept back: a tail that equals the head means that there are none.
        registers.write(register::RDT, RING as u32 - 1);
        Self { registers, ring, buffers, next: 0, unpublished: 0 }
    }

    fn flush(&mut self) {
        fence(Ordering::Release);
        self.registers.write(register::RDT, ((self.next + RING - 1) % RING) as u32);
        self.unpublished = 0;
    }
}

impl Receive for ReceiveRing {
    fn poll(&mut self) -> bool {
        // SAFETY: within the ring; a byte that the device writes last.
        let status = unsafe { (&raw const (*self.ring.add(self.next)).status).read_volatile() };
        status & STATUS_DONE != 0
    }

    fn take<R>(&mut self, look: impl FnOnce(&[u8]) -> R) -> R {
        fence(Ordering::Acquire);
        // SAFETY: within the ring and the buffers; the device is done with both.
        let result = unsafe {
            let descriptor = self.ring.add(self.next);
            let len = usize::from((&raw const (*descriptor).len).read_volatile()).min(BUFFER);
            let result = look(core::slice::from_raw_parts(self.buffers.add(self.next * BUFFER), len));
            (&raw mut (*descriptor).status).write_volatile(0);
            result
        };
        self.next = (self.next + 1) % RING;
        self.unpublished += 1;
        if self.unpublished >= 2 * BATCH {
            self.flush();
        }
        result
    }
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct TransmitDescriptor {
    address: u64,
    len: u16,
    checksum_offset: u8,
    command: u8,
    status: u8,
    checksum_start: u8,
    special: u16,
}

/// Frames to the device.
#[derive(Debug)]
pub struct TransmitRing {
    registers: Registers,
    ring: *mut TransmitDescriptor,
    buffers: *mut u8,
    /// The next descriptor to use, and the oldest that the device may still have.
    next: usize,
    oldest: usize,
    unpublished: usize,
}

impl TransmitRing {
    fn new(registers: Registers) -> Self {
        let ring = memory::leak(RING * size_of::<TransmitDescriptor>(), 4096).cast::<TransmitDescriptor>();
        let buffers = memory::leak(RING * BUFFER, 4096);
        registers.set_ring(register::TDBAL, ring as u64, RING * size_of::<TransmitDescriptor>());
        Self { registers, ring, buffers, next: 0, oldest: 0, unpublished: 0 }
    }

    fn flush(&mut self) {
        if self.unpublished > 0 {
            fence(Ordering::Release);
            self.registers.write(register::TDT, self.next as u32);
            self.unpublished = 0;
        }
    }
}

impl Transmit for TransmitRing {
    fn poll(&mut self) -> bool {
        let after = (self.next + 1) % RING;
        if after != self.oldest {
            return true;
        }
        // SAFETY: within the ring; the device sets the bit when it has done with the frame.
        while unsafe { (&raw const (*self.ring.add(self.oldest)).status).read_volatile() } & STATUS_DONE != 0
            && self.oldest != self.next
        {
            self.oldest = (self.oldest + 1) % RING;
        }
        after != self.oldest
    }

    fn send<R>(&mut self, len: usize, write: impl FnOnce(&mut [u8]) -> (R, Wanted)) -> R {
        let len = len.min(BUFFER);
        // SAFETY: within the ring and the buffers; the device does not have this one.
        let result = unsafe {
            let buffer = self.buffers.add(self.next * BUFFER);
            let (result, _) = write(core::slice::from_raw_parts_mut(buffer, len));
            let descriptor = TransmitDescriptor {
                address: buffer as u64,
                len: len as u16,
                command: COMMAND_SEND,
                ..TransmitDescriptor::default()
            };
            self.ring.add(self.next).write_volatile(descriptor);
            result
        };
        self.next = (self.next + 1) % RING;
        self.unpublished += 1;
        if self.unpublished >= BATCH {
            self.flush();
        }
        result
    }
}

/// The device's registers. Every access leaves the guest.
#[derive(Debug, Clone, Copy)]
struct Registers(u64);

impl Registers {
    fn read(self, register: u64) -> u32 {
        // SAFETY: a register of the device, mapped.
        unsafe { ((self.0 + register) as *const u32).read_volatile() }
    }

    fn write(self, register: u64, value: u32) {
        // SAFETY: a register of the device, mapped.
        unsafe { ((self.0 + register) as *mut u32).write_volatile(value) }
    }

    /// Base, length, head and tail, which follow each other from `first` on.
    fn set_ring(self, first: u64, address: u64, len: usize) {
        self.write(first, address as u32);
        self.write(first + 4, (address >> 32) as u32);
        self.write(first + 8, len as u32);
        self.write(first + 0x10, 0);
        self.write(first + 0x18, 0);
    }
}
