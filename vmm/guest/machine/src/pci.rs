//! PCI configuration space by ports CF8 and CFC, for the functions of bus 0.

use crate::{memory, port};

/// Configuration register 4: what the function may do.
const COMMAND: u8 = 0x04;
const MEMORY: u32 = 1 << 1;
const BUS_MASTER: u32 = 1 << 2;
const NO_INTX: u32 = 1 << 10;
const STATUS_CAPABILITIES: u32 = 1 << 20;

/// A function of bus 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Function {
    device: u8,
}

impl Function {
    /// The first function that is one of these, by vendor and device.
    pub fn find(wanted: &[(u16, u16)]) -> Option<Self> {
        (0..32).map(|device| Self { device }).find(|function| {
            let [a, b, c, d] = function.read(0).to_le_bytes();
            wanted.contains(&(u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])))
        })
    }

    /// The 32-bit register at `offset`, a multiple of 4.
    pub fn read(self, offset: u8) -> u32 {
        self.select(offset);
        port::read_u32(0xcfc)
    }

    /// Writes the 32-bit register at `offset`, a multiple of 4.
    pub fn write(self, offset: u8, value: u32) {
        self.select(offset);
        port::write_u32(0xcfc, value);
    }

    fn select(self, offset: u8) {
        port::write_u32(0xcf8, 1 << 31 | u32::from(self.device) << 11 | u32::from(offset & 0xfc));
    }

    /// Lets the function answer to its addresses and reach memory, and interrupt by its pin or not.
    pub fn enable(self, intx: bool) {
        let command = self.read(COMMAND) & 0xffff | MEMORY | BUS_MASTER;
        self.write(COMMAND, if intx { command & !NO_INTX } else { command | NO_INTX });
    }

    /// Where memory BAR `index` is, made reachable for `len` bytes. `None` if there is none of that kind.
    pub fn bar(self, index: u8, len: u64) -> Option<u64> {
        let offset = 0x10 + 4 * index;
        let low = self.read(offset);
        let high = match low & 7 {
            0 => 0,
            4 if index < 5 => self.read(offset + 4),
            _ => return None,
        };
        let address = u64::from(high) << 32 | u64::from(low & !15);
        if address == 0 {
            return None;
        }
        memory::map(address, len);
        Some(address)
    }

    /// The interrupt line that firmware has written down.
    pub fn interrupt_line(self) -> u8 {
        self.read(0x3c).to_le_bytes()[0]
    }

    /// Every capability: its kind and where it is.
    pub fn capabilities(self) -> impl Iterator<Item = (u8, u8)> {
        let first = if self.read(COMMAND) & STATUS_CAPABILITIES == 0 { 0 } else { self.read(0x34).to_le_bytes()[0] };
        let mut next = first & 0xfc;
        // A list that bites its tail ends.
        (0..48).map_while(move |_| {
            let at = next;
            if at == 0 {
                return None;
            }
            let [kind, following, ..] = self.read(at).to_le_bytes();
            next = following & 0xfc;
            Some((kind, at))
        })
    }
}
