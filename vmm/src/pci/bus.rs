//! PCI bus 0: finds functions for configuration accesses, and keeps the address maps in step with their base address registers.
//!
//! There are two ways to configuration space, as on a PC: an index and a data port ([`ConfigPorts`]), and a window of memory
//! ([`ConfigWindow`]). Both end in [`PciBus`]. A base address is answered while the function decodes it and it lies in one of the windows
//! that the host bridge forwards; what is elsewhere is not on this bus.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::{BarKind, BaseAddress, Doorbell, PciDevice};
use crate::bus::{Bus, BusDevice};
use crate::memory::layout;

/// The index port of configuration accesses; the data port is 4 higher.
pub const CONFIG_ADDRESS: u16 = 0xcf8;

/// How many devices there may be on the bus, the host bridge among them.
pub const SLOTS: u8 = 32;

/// How many base address registers a function has.
const BARS: usize = super::config::BARS;

/// Interrupts of the I/O APIC that no old device has.
const INTX_FIRST: u8 = 16;
const INTX_COUNT: u8 = 8;

/// Which interrupt pin INTA# of the device in this slot raises. The first eight devices after the host bridge have one each.
pub const fn intx_gsi(slot: u8) -> u8 {
    INTX_FIRST + slot.wrapping_sub(1) % INTX_COUNT
}

/// Ties doorbells to addresses, so that a write there needs nobody's attention but the data path's.
pub trait DoorbellTies: fmt::Debug + Send + Sync {
    /// From now on a write at `address` adds one to `event`.
    ///
    /// # Errors
    ///
    /// When something else is tied there. The write then reaches the device like every other.
    fn tie(&self, space: Space, address: u64, event: &EventFd) -> io::Result<()>;

    /// Ends that.
    ///
    /// # Errors
    ///
    /// When it was not tied.
    fn untie(&self, space: Space, address: u64, event: &EventFd) -> io::Result<()>;
}

/// The two address spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Memory.
    Memory,
    /// I/O ports.
    Ports,
}

impl BaseAddress {
    /// In which address space it is.
    pub const fn space(&self) -> Space {
        match self.kind {
            BarKind::Memory32 | BarKind::Memory64 => Space::Memory,
            BarKind::Io => Space::Ports,
        }
    }

    /// Whether the host bridge forwards accesses to it.
    fn is_forwarded(&self) -> bool {
        let (start, len) = match self.space() {
            Space::Memory => (layout::PCI_MEMORY, layout::PCI_MEMORY_SIZE),
            Space::Ports => (u64::from(layout::PCI_PORTS), u64::from(layout::PCI_PORTS_SIZE)),
        };
        self.address >= start && self.address.checked_add(self.size).is_some_and(|end| end <= start + len)
    }
}

/// The bus.
#[derive(Debug)]
pub struct PciBus {
    functions: Vec<Option<Arc<Function>>>,
    memory: Arc<Bus>,
    ports: Arc<Bus>,
    ties: Arc<dyn DoorbellTies>,
    /// What of the windows has not been given out.
    free_memory: u64,
    free_port: u64,
}

/// A device cannot be put on the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlugError {
    /// All slots are taken, or this one is.
    #[error("there is no room for another device on the PCI bus: it has {SLOTS} slots")]
    NoSlot,
    /// The windows are too small for all base addresses.
    #[error("there is no room for {0:#x} more bytes of device registers")]
    NoSpace(u64),
}

/// A function in its slot.
#[derive(Debug)]
struct Function {
    inner: Mutex<Inner>,
    doorbells: Vec<Doorbell>,
}

#[derive(Debug)]
struct Inner {
    device: Box<dyn PciDevice>,
    /// What is answered now.
    mapped: [Option<BaseAddress>; BARS],
}

impl PciBus {
    /// A bus without devices, whose base addresses appear on these buses.
    pub fn new(memory: Arc<Bus>, ports: Arc<Bus>, ties: Arc<dyn DoorbellTies>) -> Self {
        let functions = (0..SLOTS).map(|_| None).collect();
        Self { functions, memory, ports, ties, free_memory: layout::PCI_MEMORY, free_port: u64::from(layout::PCI_PORTS) }
    }

    /// The lowest slot that is free.
    pub fn free_slot(&self) -> Option<u8> {
        self.functions.iter().position(Option::is_none).and_then(|slot| u8::try_from(slot).ok())
    }

    /// Puts a device into a slot and gives it its addresses, as firmware would; decoding them is left to the guest.
    ///
    /// # Errors
    ///
    /// When there is no room.
    pub fn plug(&mut self, slot: u8, mut device: Box<dyn PciDevice>) -> Result<(), PlugError> {
        for index in 0..BARS {
            if let Some(bar) = device.config().bar(index) {
                let address = self.assign(&bar)?;
                device.config_mut().set_bar(index, address);
            }
        }
        if device.config().has_interrupt_pin() {
            device.config_mut().set_interrupt_line(intx_gsi(slot));
        }
        let place = self.functions.get_mut(usize::from(slot)).filter(|place| place.is_none()).ok_or(PlugError::NoSlot)?;
        let doorbells = device.doorbells();
        *place = Some(Arc::new(Function { inner: Mutex::new(Inner { device, mapped: [None; BARS] }), doorbells }));
        Ok(())
    }

    fn assign(&mut self, bar: &BaseAddress) -> Result<u64, PlugError> {
        let free = match bar.space() {
            Space::Memory => &mut self.free_memory,
            Space::Ports => &mut self.free_port,
        };
        let placed = BaseAddress { address: free.next_multiple_of(bar.size), ..*bar };
        if !placed.is_forwarded() {
            return Err(PlugError::NoSpace(bar.size));
        }
        *free = placed.address + placed.size;
        Ok(placed.address)
    }

    /// A configuration read. What is not there reads as all ones.
    pub fn read(&self, slot: u8, function: u8, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        let Some(found) = self.function(slot, function) else { return };
        let mut inner = found.lock();
        in_words(offset, data.len(), |at, range| inner.device.config_read(at, &mut data[range]));
    }

    /// A configuration write.
    pub fn write(&self, slot: u8, function: u8, offset: u16, data: &[u8]) {
        let Some(found) = self.function(slot, function) else { return };
        let mut inner = found.lock();
        in_words(offset, data.len(), |at, range| inner.device.config_write(at, &data[range]));
        self.remap(found, &mut inner);
    }

    fn function(&self, slot: u8, function: u8) -> Option<&Arc<Function>> {
        self.functions.get(usize::from(slot))?.as_ref().filter(|_| function == 0)
    }

    /// Makes the address maps say what the base address registers and the command register say.
    fn remap(&self, function: &Arc<Function>, inner: &mut Inner) {
        let command = inner.device.config().command();
        for index in 0..BARS {
            let wanted = inner.device.config().bar(index).filter(|bar| {
                bar.is_forwarded()
                    && match bar.space() {
                        Space::Memory => command.memory(),
                        Space::Ports => command.io(),
                    }
            });
            if wanted == inner.mapped[index] {
                continue;
            }
            if let Some(bar) = inner.mapped[index].take() {
                self.unmap(function, index, &bar);
            }
            if let Some(bar) = wanted
                && self.map(function, index, &bar)
            {
                inner.mapped[index] = Some(bar);
            }
        }
    }

    fn map(&self, function: &Arc<Function>, index: usize, bar: &BaseAddress) -> bool {
        let window = Arc::new(Window { function: Arc::clone(function), bar: index });
        if let Err(err) = self.bus(bar).insert(bar.address, bar.size, window) {
            tracing::debug!("base address register {index} is not decoded: {err}");
            return false;
        }
        for doorbell in function.doorbells.iter().filter(|doorbell| doorbell.bar == index) {
            if let Err(err) = self.ties.tie(bar.space(), bar.address + doorbell.offset, &doorbell.event) {
                tracing::debug!("a doorbell at {:#x} is not tied to its eventfd: {err}", bar.address + doorbell.offset);
            }
        }
        true
    }

    fn unmap(&self, function: &Function, index: usize, bar: &BaseAddress) {
        for doorbell in function.doorbells.iter().filter(|doorbell| doorbell.bar == index) {
            // One that could not be tied cannot be untied either.
            _ = self.ties.untie(bar.space(), bar.address + doorbell.offset, &doorbell.event);
        }
        self.bus(bar).remove(bar.address);
    }

    fn bus(&self, bar: &BaseAddress) -> &Bus {
        match bar.space() {
            Space::Memory => &self.memory,
            Space::Ports => &self.ports,
        }
    }
}

impl Function {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A base address range on a bus.
#[derive(Debug)]
struct Window {
    function: Arc<Function>,
    bar: usize,
}

impl BusDevice for Window {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.function.lock().device.bar_read(self.bar, offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.function.lock().device.bar_write(self.bar, offset, data);
    }
}

/// Configuration accesses by I/O ports (PCI Local Bus 3.0, section 3.2.2.3.2).
#[derive(Debug)]
pub struct ConfigPorts {
    bus: Arc<PciBus>,
    address: Mutex<u32>,
}

impl ConfigPorts {
    /// How many ports there are, from [`CONFIG_ADDRESS`] on.
    pub const PORTS: u64 = 8;

    /// The ports of this bus.
    pub const fn new(bus: Arc<PciBus>) -> Self {
        Self { bus, address: Mutex::new(0) }
    }

    /// What the index selects: slot, function, and the offset that this data port adds to. None if it is off or for another bus.
    fn selected(&self, port: u64) -> Option<(u8, u8, u16)> {
        let address = *self.address.lock().unwrap_or_else(PoisonError::into_inner);
        let enabled = address & 1 << 31 != 0;
        let [low, middle, bus, _] = address.to_le_bytes();
        (enabled && bus == 0).then(|| (middle >> 3, middle & 7, u16::from(low & 0xfc) + u16::try_from(port & 3).unwrap_or(0)))
    }
}

impl BusDevice for ConfigPorts {
    fn read(&self, port: u64, data: &mut [u8]) {
        data.fill(0xff);
        if port >= 4 {
            if let Some((slot, function, offset)) = self.selected(port) {
                self.bus.read(slot, function, offset, data);
            }
        } else if let (0, Ok(data)) = (port, <&mut [u8; 4]>::try_from(data)) {
            *data = self.address.lock().unwrap_or_else(PoisonError::into_inner).to_le_bytes();
        }
    }

    fn write(&self, port: u64, data: &[u8]) {
        if port >= 4 {
            if let Some((slot, function, offset)) = self.selected(port) {
                self.bus.write(slot, function, offset, data);
            }
        } else if let (0, Ok(data)) = (port, <[u8; 4]>::try_from(data)) {
            // Narrower writes mean other registers, on other machines.
            *self.address.lock().unwrap_or_else(PoisonError::into_inner) = u32::from_le_bytes(data);
        }
    }
}

/// Configuration accesses by memory (PCI Express 5.0, section 7.2.2).
#[derive(Debug)]
pub struct ConfigWindow(pub Arc<PciBus>);

impl ConfigWindow {
    /// Slot, function and offset of an address in the window.
    fn decode(offset: u64) -> Option<(u8, u8, u16)> {
        let slot = u8::try_from(offset >> 15).ok().filter(|slot| *slot < SLOTS)?;
        Some((slot, u8::try_from(offset >> 12 & 7).ok()?, u16::try_from(offset & 0xfff).ok()?))
    }
}

impl BusDevice for ConfigWindow {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match Self::decode(offset) {
            Some((slot, function, offset)) => self.0.read(slot, function, offset, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some((slot, function, offset)) = Self::decode(offset) {
            self.0.write(slot, function, offset, data);
        }
    }
}

/// Cuts an access into pieces of 1, 2 or 4 bytes that cross no 4-byte boundary, and stay within 4096 bytes.
fn in_words(offset: u16, len: usize, mut piece: impl FnMut(u16, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < len {
        let at = usize::from(offset) + done;
        let Some(place) = u16::try_from(at).ok().filter(|at| *at < 4096) else { return };
        let room = 4 - at % 4;
        let step = match room.min(len - done) {
            3 if at.is_multiple_of(2) => 2,
            3 => 1,
            step => step,
        };
        piece(place, done..done + step);
        done += step;
    }
}

#[cfg(test)]
mod tests;
