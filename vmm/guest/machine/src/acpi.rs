//! The little of ACPI that it takes to power the machine off.

use crate::port;

/// Sleep type 5 in hardware-reduced ACPI (6.4, section 4.8.3.7), with the enable bit. Type 5 is what the `\_S5` of such machines says.
const REDUCED_OFF: u8 = 5 << 2 | 1 << 5;

/// Sleep type 0 with the enable bit: what soft-off is in the PM1 control register of QEMU's PC.
const PM1_OFF: u16 = 1 << 13;

/// Powers the machine off, by the tables at `rsdp`; or else resets it.
pub fn power_off(rsdp: u64) {
    if let Some(fadt) = find_fadt(rsdp) {
        /// Bit 20 of the flags: there are no PM1 registers, but a sleep control register.
        const HW_REDUCED: u32 = 1 << 20;
        if fadt.read::<u32>(112) & HW_REDUCED != 0 {
            let (space, address) = (fadt.read::<u8>(244), fadt.read::<u64>(248));
            match space {
                0 => {
                    crate::memory::map(address, 1);
                    // SAFETY: the table says that this is the register.
                    unsafe { (address as *mut u8).write_volatile(REDUCED_OFF) };
                }
                _ => port::write_u8(address as u16, REDUCED_OFF),
            }
        } else {
            port::write_u16(fadt.read::<u32>(64) as u16, PM1_OFF);
        }
    }
    // Without tables, or if they lie: by the keyboard controller and by the reset control register.
    port::write_u8(0x64, 0xfe);
    port::write_u8(0xcf9, 0x06);
}

/// A table in memory.
#[derive(Debug, Clone, Copy)]
struct Table(u64);

impl Table {
    fn read<T: Copy>(self, offset: u64) -> T {
        // SAFETY: all memory below 4 GiB is mapped, and `T` is a plain number here.
        unsafe { ((self.0 + offset) as *const T).read_unaligned() }
    }

    fn is(self, signature: &[u8]) -> bool {
        (0..).zip(signature).all(|(offset, byte)| self.read::<u8>(offset) == *byte)
    }

    /// The tables that this one lists, by addresses of `size` bytes.
    fn listed(self, size: u64) -> impl Iterator<Item = Self> {
        let end = u64::from(self.read::<u32>(4));
        (36..end.saturating_sub(size - 1))
            .step_by(size as usize)
            .map(move |at| Self(if size == 8 { self.read::<u64>(at) } else { u64::from(self.read::<u32>(at)) }))
    }
}

fn find_fadt(rsdp: u64) -> Option<Table> {
    let rsdp = Some(rsdp).filter(|at| *at != 0).or_else(scan).map(Table)?;
    let xsdt: u64 = if rsdp.read::<u8>(15) >= 2 { rsdp.read(24) } else { 0 };
    let is_fadt = |table: &Table| table.is(b"FACP");
    if xsdt == 0 { Table(u64::from(rsdp.read::<u32>(16))).listed(4).find(is_fadt) } else { Table(xsdt).listed(8).find(is_fadt) }
}

/// Looks where firmware of a PC puts the first table.
fn scan() -> Option<u64> {
    (0xe_0000..0x10_0000).step_by(16).find(|at| Table(*at).is(b"RSD PTR "))
}
