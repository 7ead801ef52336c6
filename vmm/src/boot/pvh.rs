//! The PVH boot protocol (Xen's docs/misc/pvh.pandoc and `start_info.h`): an ELF image with a note that names a 32-bit entry point.

use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::loader::{KernelLoader, KernelLoaderResult};
use std::io::Cursor;
use vm_memory::{Address, Bytes, GuestAddress};

use super::{BootError, Entry, Image, Kernel, Payload};
use crate::memory::{GuestMemory, layout};

/// The magic number of the start info: "xEn3".
const MAGIC: u32 = 0x336e_c578;
/// With a memory map.
const VERSION: u32 = 1;
/// Where the module list and the memory map are, counted from the start info.
const MODULES: u64 = 0x40;
const MAP: u64 = 0x80;
/// What a kernel takes as command line is known only to itself; Linux takes this much.
const COMMAND_LINE: usize = 2047;

/// Loads the kernel where its program headers say, the initial RAM disk as high as may be, and the start info.
pub(super) fn load(kernel: &Kernel, memory: &GuestMemory, payload: &Payload) -> Result<Entry, BootError> {
    let loaded =
        place(&kernel.image, memory).map_err(|err| BootError::Malformed { name: kernel.name.clone(), why: err.to_string() })?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(BootError::NoPvhEntry { name: kernel.name.clone() });
    };
    let ram_end = super::low_ram_end(memory);
    if loaded.kernel_end > ram_end {
        return Err(BootError::KernelTooLarge { name: kernel.name.clone(), needed: loaded.kernel_end, available: ram_end });
    }
    super::write_command_line(memory, &payload.command_line, COMMAND_LINE)?;

    let start = GuestAddress(layout::PVH_START);
    let map = super::memory_map(memory);
    for (index, entry) in (0..).zip(&map) {
        let written = hvm_memmap_table_entry { addr: entry.start, size: entry.len, type_: entry.kind.number(), reserved: 0 };
        let size = u64::try_from(size_of::<hvm_memmap_table_entry>()).unwrap_or(0);
        memory.write_obj(written, start.unchecked_add(MAP + index * size))?;
    }
    let mut modules = 0;
    if let Some(initrd) = &payload.initrd {
        let floor = loaded.kernel_end.max(layout::HIGH_RAM).next_multiple_of(0x1000);
        let (paddr, size) = initrd.load(memory, floor, ram_end)?;
        memory.write_obj(hvm_modlist_entry { paddr, size, ..Default::default() }, start.unchecked_add(MODULES))?;
        modules = 1;
    }
    let info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        nr_modules: modules,
        modlist_paddr: if modules == 0 { 0 } else { layout::PVH_START + MODULES },
        cmdline_paddr: layout::COMMAND_LINE,
        rsdp_paddr: layout::ACPI,
        memmap_paddr: layout::PVH_START + MAP,
        memmap_entries: u32::try_from(map.len()).unwrap_or(0),
        ..Default::default()
    };
    memory.write_obj(info, start)?;
    let eip = u32::try_from(entry.raw_value()).map_err(|_| BootError::NoPvhEntry { name: kernel.name.clone() })?;
    Ok(Entry::Pvh { eip })
}

fn place(image: &Image, memory: &GuestMemory) -> Result<KernelLoaderResult, linux_loader::loader::Error> {
    match image {
        Image::File(file) => Elf::load(memory, None, &mut &*file, None),
        Image::Built(bytes) => Elf::load(memory, None, &mut Cursor::new(bytes), None),
    }
}
