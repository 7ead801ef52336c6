use super::*;
use crate::memory;
use linux_loader::loader::bootparam::boot_params;
use linux_loader::loader::elf::start_info::hvm_start_info;
use std::io::Write;
use vm_memory::ByteValued;

/// What the header says if a test does not change it: as Debian's kernels have it, with less memory.
fn header() -> setup_header {
    setup_header {
        setup_sects: 3,
        boot_flag: 0xaa55,
        header: u32::from_le_bytes(*b"HdrS"),
        version: 0x20f,
        loadflags: 1,
        initrd_addr_max: 0x7fff_ffff,
        kernel_alignment: 0x20_0000,
        relocatable_kernel: 1,
        xloadflags: 0x7f,
        cmdline_size: 2047,
        pref_address: 0x100_0000,
        init_size: 0x80_0000,
        ..Default::default()
    }
}

/// A file that is deleted in the end.
fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// A bzImage with this header: three sectors of set-up code after the first, and a kernel that consists of 0x90.
fn bzimage(header: setup_header) -> tempfile::NamedTempFile {
    let mut image = vec![0; 4 * 512];
    image[0x1f1..0x1f1 + size_of::<setup_header>()].copy_from_slice(header.as_slice());
    image.extend([0x90; 0x1000]);
    file(&image)
}

fn boot(memory: &GuestMemory, header: setup_header, payload: &Payload) -> Result<Entry, BootError> {
    Kernel::open(bzimage(header).path())?.load(memory, payload)
}

fn initrd(len: usize) -> Payload {
    let file = file(&vec![0x55; len]);
    Payload { initrd: Some(Initrd::open(file.path()).unwrap()), command_line: String::new() }
}

#[test]
fn a_kernel_is_loaded_where_it_prefers_and_entered_in_64_bit_mode() {
    let memory = memory::allocate(64 << 20).unwrap();
    let payload = Payload { initrd: None, command_line: "console=ttyS0".to_owned() };
    assert_eq!(boot(&memory, header(), &payload).unwrap(), Entry::Long { rip: 0x100_0200 });
    let at = |address| memory.read_obj::<u8>(GuestAddress(address)).unwrap();
    assert_eq!((at(0xff_ffff), at(0x100_0000), at(0x100_0fff), at(0x100_1000)), (0, 0x90, 0x90, 0));

    let params: boot_params = memory.read_obj(GuestAddress(layout::ZERO_PAGE)).unwrap();
    assert_eq!((params.hdr.type_of_loader, params.hdr.loadflags & 1), (0xff, 1));
    assert_eq!({ params.hdr.pref_address }, 0x100_0000, "the rest of the header is the kernel's own");
    assert_eq!({ params.acpi_rsdp_addr }, layout::ACPI);
    assert_eq!({ params.hdr.cmd_line_ptr }, 0x2_0000);
    let mut line = [0; 14];
    memory.read_slice(&mut line, GuestAddress(layout::COMMAND_LINE)).unwrap();
    assert_eq!(&line, b"console=ttyS0\0");
    assert_eq!(usize::from(params.e820_entries), memory_map(&memory).len());
    let first = params.e820_table[0];
    assert_eq!(({ first.addr }, { first.size }, { first.r#type }), (0, layout::LOW_RAM_END, 1));
}

#[test]
fn the_initial_ram_disk_is_as_high_as_may_be_and_touches_nothing() {
    let memory = memory::allocate(64 << 20).unwrap();
    boot(&memory, header(), &initrd(5000)).unwrap();
    let params: boot_params = memory.read_obj(GuestAddress(layout::ZERO_PAGE)).unwrap();
    assert_eq!(({ params.hdr.ramdisk_image }, { params.hdr.ramdisk_size }), ((64 << 20) - 0x2000, 5000));
    assert_eq!(memory.read_obj::<u8>(GuestAddress((64 << 20) - 0x2000 + 4999)).unwrap(), 0x55);

    // An old kernel has its own idea of where it may be.
    let old = setup_header { initrd_addr_max: 0x27f_ffff, ..header() };
    boot(&memory, old, &initrd(5000)).unwrap();
    let params: boot_params = memory.read_obj(GuestAddress(layout::ZERO_PAGE)).unwrap();
    assert_eq!({ params.hdr.ramdisk_image }, 0x280_0000 - 0x2000);
}

#[test]
fn what_does_not_fit_is_refused() {
    let memory = memory::allocate(32 << 20).unwrap();
    // The kernel ends at 24 MiB: 8 MiB are left.
    assert!(boot(&memory, header(), &initrd(8 << 20)).is_ok());
    let error = boot(&memory, header(), &initrd((8 << 20) + 1)).unwrap_err();
    assert!(matches!(error, BootError::InitrdTooLarge { available, .. } if available == 8 << 20), "{error}");
    let error = boot(&memory, setup_header { init_size: 0x200_0000, ..header() }, &Payload::default()).unwrap_err();
    assert!(error.to_string().contains("needs 48 MiB of memory below 3 GiB, and the virtual machine has 32 MiB there"), "{error}");
    let long = Payload { initrd: None, command_line: "x".repeat(2048) };
    assert!(matches!(boot(&memory, header(), &long), Err(BootError::CommandLineTooLong { len: 2048, limit: 2047 })));
}

#[test]
fn a_kernel_without_a_64_bit_entry_is_refused() {
    let refused = |header| Kernel::open(bzimage(header).path()).unwrap_err().to_string();
    assert!(refused(setup_header { xloadflags: 0, ..header() }).contains("32-bit kernel"));
    assert!(refused(setup_header { version: 0x206, ..header() }).contains("boot protocol is 2.6"));
}

#[test]
fn a_damaged_header_harms_nobody() {
    let memory = memory::allocate(32 << 20).unwrap();
    for header in [
        setup_header { pref_address: u64::MAX, ..header() },
        setup_header { pref_address: 0, ..header() },
        setup_header { init_size: u32::MAX, ..header() },
        setup_header { setup_sects: 0xff, ..header() },
    ] {
        assert!(boot(&memory, header, &Payload::default()).is_err());
    }
    // One byte short, and nothing at all behind the header.
    let whole = std::fs::read(bzimage(header()).path()).unwrap();
    let cut = file(&whole[..0x1f1 + size_of::<setup_header>() - 1]);
    assert!(Kernel::open(cut.path()).unwrap_err().to_string().contains("within its header"));
}

/// An ELF image with one segment at 2 MiB and a note that names its entry point, if there is one.
fn elf(entry: Option<u32>) -> Vec<u8> {
    let mut image = vec![0; 0x1000];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(0x10, &2_u16.to_le_bytes());
    put(0x12, &62_u16.to_le_bytes());
    put(0x18, &0x20_0000_u64.to_le_bytes());
    put(0x20, &64_u64.to_le_bytes());
    put(0x34, &[64, 0, 56, 0, 2, 0]);
    // PT_LOAD from 0x800 on, with room behind it.
    put(64, &1_u32.to_le_bytes());
    for (at, value) in [(0x8, 0x800_u64), (0x10, 0x20_0000), (0x18, 0x20_0000), (0x20, 0x100), (0x28, 0x4000)] {
        put(64 + at, &value.to_le_bytes());
    }
    // PT_NOTE: name "Xen", type 18, a 4-byte address.
    if let Some(entry) = entry {
        put(120, &4_u32.to_le_bytes());
        for (at, value) in [(0x8, 0x400_u64), (0x20, 20), (0x28, 20), (0x30, 4)] {
            put(120 + at, &value.to_le_bytes());
        }
        put(0x400, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
        put(0x40c, b"Xen\0");
        put(0x410, &entry.to_le_bytes());
    }
    put(0x800, &[0xf4; 0x100]);
    image
}

#[test]
fn an_elf_image_is_entered_where_its_note_says() {
    let memory = memory::allocate(16 << 20).unwrap();
    let kernel = file(&elf(Some(0x20_0010)));
    let payload = Payload { command_line: "hello".to_owned(), ..initrd(100) };
    let entry = Kernel::open(kernel.path()).unwrap().load(&memory, &payload).unwrap();
    assert_eq!(entry, Entry::Pvh { eip: 0x20_0010 });
    assert_eq!(memory.read_obj::<u8>(GuestAddress(0x20_00ff)).unwrap(), 0xf4);
    let info: hvm_start_info = memory.read_obj(GuestAddress(layout::PVH_START)).unwrap();
    assert_eq!((info.magic, info.version, info.nr_modules), (0x336e_c578, 1, 1));
    assert_eq!((info.cmdline_paddr, info.rsdp_paddr), (layout::COMMAND_LINE, layout::ACPI));
    let module: [u64; 2] = memory.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
    assert_eq!(module, [(16 << 20) - 0x1000, 100]);
    let last = info.memmap_paddr + u64::from(info.memmap_entries - 1) * 24;
    assert_eq!(memory.read_obj::<u32>(GuestAddress(last + 16)).unwrap(), 2, "configuration space is reserved");
}

#[test]
fn an_elf_image_that_nobody_can_enter_is_refused() {
    let memory = memory::allocate(16 << 20).unwrap();
    let kernel = file(&elf(None));
    let error = Kernel::open(kernel.path()).unwrap().load(&memory, &Payload::default()).unwrap_err();
    assert!(matches!(error, BootError::NoPvhEntry { .. }), "{error}");
    let damaged = file(&elf(Some(1))[..100]);
    let error = Kernel::open(damaged.path()).unwrap().load(&memory, &Payload::default()).unwrap_err();
    assert!(matches!(error, BootError::Malformed { .. }), "{error}");
}
