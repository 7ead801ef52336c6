//! The configuration space of one function (PCI Local Bus 3.0, chapter 6): 256 bytes, of which the guest may change some.

/// Offsets of the header.
mod field {
    pub(super) const COMMAND: usize = 0x04;
    pub(super) const STATUS: usize = 0x06;
    pub(super) const BARS: usize = 0x10;
    pub(super) const CAPABILITIES: usize = 0x34;
    pub(super) const INTERRUPT_LINE: usize = 0x3c;
    pub(super) const INTERRUPT_PIN: usize = 0x3d;
    pub(super) const FIRST_CAPABILITY: usize = 0x40;
}

/// There is a list of capabilities (status register).
const STATUS_CAPABILITIES: u8 = 1 << 4;

/// Bytes of configuration space that a function of conventional PCI has.
const SIZE: usize = 256;

/// How many base address registers a function has.
pub(super) const BARS: usize = 6;

/// What a function is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Identity {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Class, subclass and programming interface: `0x02_00_00` is an Ethernet controller.
    pub class: u32,
    /// Vendor of the subsystem.
    pub subsystem_vendor: u16,
    /// The subsystem.
    pub subsystem: u16,
}

/// What a base address register decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarKind {
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere; takes this register and the next.
    Memory64,
    /// I/O ports.
    Io,
}

/// Where a function answers, if its decoding is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseAddress {
    /// Memory or ports.
    pub kind: BarKind,
    /// The first address.
    pub address: u64,
    /// How many there are: a power of two.
    pub size: u64,
}

/// The command register.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Command(pub u16);

impl Command {
    /// Whether accesses to I/O ports are answered.
    pub const fn io(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether accesses to memory are answered.
    pub const fn memory(self) -> bool {
        self.0 & 1 << 1 != 0
    }

    /// Whether the function may access memory itself, and send messages.
    pub const fn bus_master(self) -> bool {
        self.0 & 1 << 2 != 0
    }

    /// Whether the interrupt pin must stay quiet.
    pub const fn intx_disabled(self) -> bool {
        self.0 & 1 << 10 != 0
    }
}

/// The configuration space of a function.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    /// Which bits the guest may change.
    writable: [u8; SIZE],
    bars: [Option<(BarKind, u64)>; BARS],
    /// Where the next capability goes, and where the last one keeps its link.
    next: usize,
    link: usize,
}

impl ConfigSpace {
    /// A function without base addresses, capabilities or interrupts.
    pub fn new(identity: &Identity) -> Self {
        let mut bytes = [0; SIZE];
        bytes[0..2].copy_from_slice(&identity.vendor.to_le_bytes());
        bytes[2..4].copy_from_slice(&identity.device.to_le_bytes());
        bytes[8..12].copy_from_slice(&(identity.class << 8).to_le_bytes());
        bytes[8] = identity.revision;
        bytes[0x2c..0x2e].copy_from_slice(&identity.subsystem_vendor.to_le_bytes());
        bytes[0x2e..0x30].copy_from_slice(&identity.subsystem.to_le_bytes());
        let mut writable = [0; SIZE];
        // I/O, memory and bus master enable; interrupt disable.
        writable[field::COMMAND..field::COMMAND + 2].copy_from_slice(&0x0407_u16.to_le_bytes());
        // Cache line size and latency timer hold what the guest puts there.
        writable[0x0c] = 0xff;
        writable[0x0d] = 0xff;
        writable[field::INTERRUPT_LINE] = 0xff;
        Self { bytes, writable, bars: [None; BARS], next: field::FIRST_CAPABILITY, link: field::CAPABILITIES }
    }

    /// Gives the function a base address register of `size` bytes, a power of two of at least 16 (4 for ports).
    ///
    /// # Panics
    ///
    /// When that is no size for one, or the register is taken: a mistake in a device.
    pub fn add_bar(&mut self, index: usize, kind: BarKind, size: u64) {
        let least = if kind == BarKind::Io { 4 } else { 16 };
        assert!(size.is_power_of_two() && size >= least && size <= 1 << 30, "no size for a base address register: {size}");
        assert!(self.bars[index].is_none(), "base address register {index} is taken");
        self.bars[index] = Some((kind, size));
        let at = field::BARS + 4 * index;
        let (flags, mask) = match kind {
            BarKind::Memory32 => (0, !(size - 1) & 0xffff_ffff),
            BarKind::Memory64 => (0b100, !(size - 1)),
            BarKind::Io => (0b001, !(size - 1) & 0xffff),
        };
        self.bytes[at] = flags;
        let mask = mask.to_le_bytes();
        let len = if kind == BarKind::Memory64 { 8 } else { 4 };
        assert!(index * 4 + len <= 4 * BARS, "no second half for base address register {index}");
        self.writable[at..at + len].copy_from_slice(&mask[..len]);
    }

    /// Lets the function interrupt by INTA#.
    pub fn use_interrupt_pin(&mut self) {
        self.bytes[field::INTERRUPT_PIN] = 1;
    }

    /// Appends a capability: its identifier, and what follows the link to the next one. `writable` says which bits of that the guest may
    /// change; missing bytes are read-only. Returns the offset of the capability.
    ///
    /// # Panics
    ///
    /// When there is no room: a mistake in a device.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> u16 {
        let at = self.next;
        self.bytes[at] = id;
        self.bytes[at + 2..at + 2 + body.len()].copy_from_slice(body);
        self.writable[at + 2..at + 2 + writable.len()].copy_from_slice(writable);
        self.bytes[self.link] = u8::try_from(at).unwrap_or_default();
        self.bytes[field::STATUS] |= STATUS_CAPABILITIES;
        self.link = at + 1;
        self.next = (at + 2 + body.len()).next_multiple_of(4);
        u16::try_from(at).unwrap_or_default()
    }

    /// A read by the guest. There is nothing beyond the first 256 bytes.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        for (at, byte) in (usize::from(offset)..).zip(data) {
            *byte = self.bytes.get(at).copied().unwrap_or(0);
        }
    }

    /// A write by the guest: changes the bits that it may change.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        for (at, &byte) in (usize::from(offset)..).zip(data) {
            if let (Some(place), Some(&mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *place = *place & !mask | byte & mask;
            }
        }
    }

    /// The two bytes at `offset`, as the device sees them.
    pub fn u16_at(&self, offset: u16) -> u16 {
        let mut data = [0; 2];
        self.read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    /// The four bytes at `offset`, as the device sees them.
    pub fn u32_at(&self, offset: u16) -> u32 {
        let mut data = [0; 4];
        self.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// Changes bytes that the guest may not.
    pub fn set(&mut self, offset: u16, data: &[u8]) {
        let at = usize::from(offset);
        if let Some(place) = self.bytes.get_mut(at..at + data.len()) {
            place.copy_from_slice(data);
        }
    }

    /// What the command register says.
    pub fn command(&self) -> Command {
        Command(self.u16_at(0x04))
    }

    /// Where base address register `index` points, whether decoding is on or not.
    pub fn bar(&self, index: usize) -> Option<BaseAddress> {
        let (kind, size) = (*self.bars.get(index)?)?;
        let at = u16::try_from(field::BARS + 4 * index).ok()?;
        let low = u64::from(self.u32_at(at));
        let address = match kind {
            BarKind::Memory32 => low & !0xf,
            BarKind::Memory64 => low & !0xf | u64::from(self.u32_at(at + 4)) << 32,
            BarKind::Io => low & !0x3,
        };
        Some(BaseAddress { kind, address, size })
    }

    /// Points base address register `index` at `address`, as firmware would.
    pub fn set_bar(&mut self, index: usize, address: u64) {
        if let Some(Some((kind, _))) = self.bars.get(index).copied() {
            let len = if kind == BarKind::Memory64 { 8 } else { 4 };
            if let Ok(at) = u16::try_from(field::BARS + 4 * index) {
                self.write(at, &address.to_le_bytes()[..len]);
            }
        }
    }

    /// Tells the guest which interrupt the pin raises, as firmware would.
    pub fn set_interrupt_line(&mut self, line: u8) {
        self.bytes[field::INTERRUPT_LINE] = line;
    }

    /// Whether it interrupts by a pin.
    pub fn has_interrupt_pin(&self) -> bool {
        self.bytes[field::INTERRUPT_PIN] != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network_card() -> ConfigSpace {
        let identity = Identity { vendor: 0x8086, device: 0x100e, revision: 3, class: 0x02_0000, ..Identity::default() };
        ConfigSpace::new(&identity)
    }

    #[test]
    fn the_header_tells_what_it_is() {
        let config = network_card();
        assert_eq!(config.u32_at(0), 0x100e_8086);
        assert_eq!(config.u32_at(8), 0x0200_0003);
    }

    #[test]
    fn the_size_of_a_base_address_is_found_by_writing_ones() {
        let mut config = network_card();
        config.add_bar(0, BarKind::Memory32, 0x2_0000);
        config.add_bar(1, BarKind::Io, 64);
        config.add_bar(2, BarKind::Memory64, 0x1000);
        for register in 0..6 {
            config.write(0x10 + 4 * register, &[0xff; 4]);
        }
        let read = [0, 1, 2, 3, 4].map(|register| config.u32_at(0x10 + 4 * register));
        assert_eq!(read, [0xfffe_0000, 0x0000_ffc1, 0xffff_f004, 0xffff_ffff, 0]);
    }

    #[test]
    fn a_base_address_can_be_moved() {
        let mut config = network_card();
        config.add_bar(2, BarKind::Memory64, 0x1000);
        config.write(0x18, &0xc123_4567_u32.to_le_bytes());
        config.write(0x1c, &1_u32.to_le_bytes());
        assert_eq!(config.bar(2), Some(BaseAddress { kind: BarKind::Memory64, address: 0x1_c123_4000, size: 0x1000 }));
        config.set_bar(2, 0xc000_0000);
        assert_eq!(config.bar(2).map(|bar| bar.address), Some(0xc000_0000));
        assert_eq!(config.bar(3), None);
    }

    #[test]
    fn capabilities_form_a_list() {
        let mut config = network_card();
        let first = config.add_capability(0x09, &[16, 1, 0, 0, 0], &[]);
        let second = config.add_capability(0x11, &[1, 0], &[0, 0xc0]);
        assert_eq!((first, second), (0x40, 0x48));
        assert_eq!(config.u16_at(0x06) & 0x10, 0x10);
        assert_eq!(config.u32_at(0x34) & 0xff, 0x40);
        assert_eq!(config.u16_at(0x40), 0x4809);
        assert_eq!(config.u16_at(0x48), 0x0011);
        config.write(0x4a, &[0xff, 0xff]);
        assert_eq!(config.u16_at(0x4a), 0xc001);
    }

    #[test]
    fn the_guest_changes_only_what_it_may() {
        let mut config = network_card();
        for offset in (0..256).step_by(4) {
            config.write(offset, &[0xff; 4]);
        }
        assert_eq!(config.u32_at(0), 0x100e_8086);
        assert_eq!(config.command(), Command(0x0407));
        assert!(config.command().bus_master() && config.command().intx_disabled());
        assert_eq!(config.u32_at(0x3c), 0xff);
        config.write(254, &[1, 2, 3, 4]);
        config.write(4092, &[0; 4]);
        assert_eq!(config.u32_at(4092), 0);
    }
}
