//! Linux's boot protocol (Documentation/arch/x86/boot.rst), 64-bit entry.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::bzimage::BzImage;
use linux_loader::loader::{KernelLoader, KernelLoaderResult};
use std::io::Cursor;
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::{BootError, Entry, Image, Kernel, Payload};
use crate::memory::{GuestMemory, layout};

/// Where the header starts in the file and in the boot parameters.
const HEADER: usize = 0x1f1;
/// What must be read of a file to have all of the header.
pub(super) const HEADER_END: u64 = 0x1f1 + size_of::<setup_header>() as u64;
/// The header's magic number, and where it is.
const MAGIC: &[u8; 4] = b"HdrS";
const MAGIC_AT: usize = 0x202;
/// The first version with `xloadflags`.
const VERSION: u16 = 0x20c;
/// The kernel has a 64-bit entry point, 512 bytes after its start.
const XLF_KERNEL_64: u16 = 1;
const LONG_ENTRY: u64 = 0x200;
/// A boot loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// The command line is what `cmd_line_ptr` says, and not of 1994.
const LOADED_HIGH: u8 = 1;
/// Linux before 2.6.38 kept its initial RAM disk below this.
const INITRD_ADDRESS_MAX: u32 = 0x37ff_ffff;

/// Whether a file that starts like this is a bzImage.
pub(super) fn is_one(start: &[u8]) -> bool {
    start.get(MAGIC_AT..MAGIC_AT + 4) == Some(MAGIC)
}

/// Reads the header of a bzImage, and refuses those that have no 64-bit entry point.
pub(super) fn header(start: &[u8], name: &str) -> Result<setup_header, BootError> {
    let mut header = setup_header::default();
    let len = size_of::<setup_header>();
    let bytes = start
        .get(HEADER..HEADER + len)
        .ok_or_else(|| BootError::Malformed { name: name.to_owned(), why: "it ends within its header".to_owned() })?;
    header.as_mut_slice().copy_from_slice(bytes);
    let refuse = |why: String| BootError::NoLongEntry { name: name.to_owned(), why };
    let (version, flags) = (header.version, header.xloadflags);
    if version < VERSION {
        return Err(refuse(format!("its boot protocol is {}.{}, and 2.12 is needed", version >> 8, version & 0xff)));
    }
    if flags & XLF_KERNEL_64 == 0 {
        return Err(refuse("it is a 32-bit kernel".to_owned()));
    }
    Ok(header)
}

/// Loads the kernel where it prefers to be, the initial RAM disk as high as may be, and the boot parameters.
pub(super) fn load(kernel: &Kernel, header: &setup_header, memory: &GuestMemory, payload: &Payload) -> Result<Entry, BootError> {
    let ram_end = super::low_ram_end(memory);
    let load = header.pref_address;
    let kernel_end = load.saturating_add(u64::from(header.init_size));
    if load < layout::HIGH_RAM {
        let why = format!("it wants to be loaded at {load:#x}");
        return Err(BootError::Malformed { name: kernel.name.clone(), why });
    }
    if kernel_end > ram_end {
        return Err(BootError::KernelTooLarge { name: kernel.name.clone(), needed: kernel_end, available: ram_end });
    }
    let loaded = place(&kernel.image, memory, load)
        .map_err(|err| BootError::Malformed { name: kernel.name.clone(), why: err.to_string() })?;

    let mut params = boot_params { hdr: *header, ..Default::default() };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.loadflags |= LOADED_HIGH;
    params.hdr.code32_start = u32::try_from(load).unwrap_or(0);
    params.hdr.cmd_line_ptr = u32::try_from(layout::COMMAND_LINE).unwrap_or(0);
    super::write_command_line(memory, &payload.command_line, usize::try_from(header.cmdline_size).unwrap_or(0))?;
    if let Some(initrd) = &payload.initrd {
        let highest = match header.initrd_addr_max {
            0 => INITRD_ADDRESS_MAX,
            address => address,
        };
        let floor = kernel_end.max(loaded.kernel_end).next_multiple_of(0x1000);
        let (address, len) = initrd.load(memory, floor, ram_end.min(u64::from(highest) + 1))?;
        // Both are below 4 GiB: RAM there ends earlier.
        params.hdr.ramdisk_image = u32::try_from(address).unwrap_or(0);
        params.hdr.ramdisk_size = u32::try_from(len).unwrap_or(0);
    }
    params.acpi_rsdp_addr = layout::ACPI;
    let map = super::memory_map(memory);
    for (place, entry) in params.e820_table.iter_mut().zip(&map) {
        *place = boot_e820_entry { addr: entry.start, size: entry.len, r#type: entry.kind.number() };
    }
    params.e820_entries = u8::try_from(map.len()).unwrap_or(u8::MAX);
    memory.write_obj(params, GuestAddress(layout::ZERO_PAGE))?;
    Ok(Entry::Long { rip: load + LONG_ENTRY })
}

fn place(image: &Image, memory: &GuestMemory, address: u64) -> Result<KernelLoaderResult, linux_loader::loader::Error> {
    let address = Some(GuestAddress(address));
    match image {
        Image::File(file) => BzImage::load(memory, address, &mut &*file, None),
        Image::Built(bytes) => BzImage::load(memory, address, &mut Cursor::new(bytes), None),
    }
}
