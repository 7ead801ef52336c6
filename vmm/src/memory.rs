//! The guest's memory, and the map of the guest's physical address space.
//!
//! RAM lies below 3 GiB and, what does not fit there, above 4 GiB; the gap between holds what is not RAM. It is one anonymous file that
//! is mapped shared, so that other processes can be given it. No code forms a `&[u8]` of it: other processors write to it at any time.
//!
//! ```text
//! 0x0000_0000  RAM   0x500 GDT, 0x540 IDT, 0x6000 PVH start info, 0x7000 boot parameters, 0x9000 page tables, 0x2_0000 command line
//! 0x0009_fc00  reserved up to 1 MiB; ACPI tables from 0xe_0000 on
//! 0x0010_0000  RAM   kernel, initial RAM disk
//! 0xc000_0000  base addresses of PCI functions
//! 0xe000_0000  PCI configuration space of bus 0 (ECAM, 1 MiB)
//! 0xfec0_0000  I/O APIC; 0xfee0_0000 local APICs; 0xfffb_d000 KVM's own pages
//! 0x1_0000_0000  RAM
//! ```

use std::io;
use std::os::fd::OwnedFd;

use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, MmapRegion};

/// The memory of a guest. Clones are cheap and see the same memory.
pub type GuestMemory = GuestMemoryMmap<()>;

/// Where things are in the guest's physical address space.
pub mod layout {
    /// The global descriptor table that vCPU 0 starts with.
    pub const GDT: u64 = 0x500;
    /// The interrupt descriptor table that vCPU 0 starts with; empty.
    pub const IDT: u64 = 0x540;
    /// `hvm_start_info`, its module list and memory map, for a PVH kernel.
    pub const PVH_START: u64 = 0x6000;
    /// `boot_params`, the zero page, for a Linux kernel.
    pub const ZERO_PAGE: u64 = 0x7000;
    /// The page tables that vCPU 0 starts with: identity, the first 4 GiB.
    pub const PAGE_TABLES: u64 = 0x9000;
    /// The kernel's command line.
    pub const COMMAND_LINE: u64 = 0x2_0000;
    /// How many bytes there are for it, with the final NUL.
    pub const COMMAND_LINE_MAX: usize = 0x1_0000;
    /// What ordinary RAM below 1 MiB ends with.
    pub const LOW_RAM_END: u64 = 0x9_fc00;
    /// ACPI tables, where every kernel looks for the first of them.
    pub const ACPI: u64 = 0xe_0000;
    /// How many bytes there are for them.
    pub const ACPI_SIZE: u64 = 0x2_0000;
    /// RAM above the holes of the old PC.
    pub const HIGH_RAM: u64 = 0x10_0000;
    /// The gap for what is not RAM.
    pub const GAP: u64 = 0xc000_0000;
    /// Where base addresses of PCI functions are given out, below [`ECAM`].
    pub const PCI_MEMORY: u64 = GAP;
    /// How many bytes there are for them.
    pub const PCI_MEMORY_SIZE: u64 = 0x2000_0000;
    const _: () = assert!(COMMAND_LINE + COMMAND_LINE_MAX as u64 <= LOW_RAM_END);
    /// PCI configuration space by memory accesses.
    pub const ECAM: u64 = 0xe000_0000;
    /// Its size: one bus of 32 devices with 8 functions of 4 KiB.
    pub const ECAM_SIZE: u64 = 0x10_0000;
    /// The I/O APIC in KVM.
    pub const IO_APIC: u64 = 0xfec0_0000;
    /// The local APICs in KVM.
    pub const LOCAL_APIC: u64 = 0xfee0_0000;
    /// Three pages that KVM wants for itself on some processors.
    pub const KVM_TSS: u64 = 0xfffb_d000;
    /// One more.
    pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
    /// RAM that did not fit below the gap.
    pub const RAM_ABOVE_4G: u64 = 0x1_0000_0000;
    /// Where I/O ports of PCI functions are given out.
    pub const PCI_PORTS: u16 = 0xc000;
    /// How many there are.
    pub const PCI_PORTS_SIZE: u32 = 0x4000;
}

/// The ranges of RAM of a guest with `size` bytes: address and length.
pub fn ranges(size: u64) -> Vec<(GuestAddress, u64)> {
    let below = size.min(layout::GAP);
    let mut ranges = vec![(GuestAddress(0), below)];
    if size > below {
        ranges.push((GuestAddress(layout::RAM_ABOVE_4G), size - below));
    }
    ranges
}

/// Makes the memory of a guest: `size` bytes, a multiple of 4096. Pages take memory of the host when they are first touched.
///
/// # Errors
///
/// When the host has no room for that much address space.
pub fn allocate(size: u64) -> io::Result<GuestMemory> {
    let file = rustix::fs::memfd_create("guest memory", rustix::fs::MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&file, size)?;
    map(&file, size)
}

fn map(file: &OwnedFd, size: u64) -> io::Result<GuestMemory> {
    let mut offset = 0;
    let mut regions = Vec::new();
    for (address, len) in ranges(size) {
        let backing = FileOffset::new(std::fs::File::from(file.try_clone()?), offset);
        let mapped = usize::try_from(len).map_err(io::Error::other).and_then(|len| {
            let region = MmapRegion::from_file(backing, len).map_err(io::Error::other)?;
            vm_memory::GuestRegionMmap::new(region, address)
                .ok_or_else(|| io::Error::other("guest memory ends beyond the address space"))
        })?;
        regions.push(mapped);
        offset += len;
    }
    GuestMemory::from_regions(regions).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestMemoryBackend};

    #[test]
    fn ram_leaves_the_gap_free() {
        assert_eq!(ranges(512 << 20), [(GuestAddress(0), 512 << 20)]);
        assert_eq!(ranges(5 << 30), [(GuestAddress(0), 3 << 30), (GuestAddress(4 << 30), 2 << 30)]);
    }

    #[test]
    fn memory_is_there_and_nothing_else_is() {
        let memory = allocate(4 << 20).unwrap();
        memory.write_obj(0x1234_5678_u32, GuestAddress(0x1000)).unwrap();
        assert_eq!(memory.clone().read_obj::<u32>(GuestAddress(0x1000)).unwrap(), 0x1234_5678);
        assert!(memory.write_obj(0_u8, GuestAddress(4 << 20)).is_err());
        assert_eq!(memory.num_regions(), 1);
    }
}
