//! The registers of the first processor: flat segments, and for a 64-bit entry an identity map of the first 4 GiB.
//!
//! The guest soon makes its own tables; ours are where it keeps nothing yet ([`layout`]).

use kvm_bindings::{Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use crate::boot::Entry;
use crate::memory::{GuestMemory, layout};

/// The descriptor table. Selectors 0x10 and 0x18 are what Linux's boot protocol asks for.
const GDT: [u64; 5] = [
    0,
    0,
    // Code, 64-bit; or 32-bit, by what the processor is told.
    0x00af_9b00_0000_ffff,
    // Data.
    0x00cf_9300_0000_ffff,
    // The task state, of the least size.
    0x0000_8b00_0000_0067,
];
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;

/// Bits of control registers and of EFER (AMD64 Architecture Programmer's Manual, volume 2, chapter 3).
const CR0_PROTECTED: u64 = 1;
const CR0_EXTENSION: u64 = 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LONG_ENABLED: u64 = 1 << 8;
const EFER_LONG_ACTIVE: u64 = 1 << 10;

/// Page table bits: present and writable; a large page.
const PRESENT: u64 = 0b11;
const LARGE: u64 = 1 << 7;
const LARGE_PAGE: u64 = 2 << 20;
const TABLE: u64 = 0x1000;
const ENTRIES: u64 = 512;
const GIBIBYTES: u64 = 4;

/// Model-specific registers: fast string operations; the default memory type write-back, with MTRRs on.
const MISC_ENABLE: (u32, u64) = (0x1a0, 1);
const MTRR_DEFAULT_TYPE: (u32, u64) = (0x2ff, 0x806);

/// Interrupt pins of the local APIC: from the PIC, and the NMI.
const LINT0: usize = 0x350;
const LINT1: usize = 0x360;
const EXTERNAL_INTERRUPT: u32 = 7 << 8;
const NON_MASKABLE: u32 = 4 << 8;

// What is written here overlaps nothing.
const _: () = {
    assert!(layout::GDT + 8 * GDT.len() as u64 <= layout::IDT);
    assert!(layout::PAGE_TABLES + (2 + GIBIBYTES) * TABLE <= layout::COMMAND_LINE);
};

/// Puts the descriptor table and the page tables into memory.
pub(crate) fn write_tables(memory: &GuestMemory) -> Result<(), vm_memory::GuestMemoryError> {
    for (address, entry) in (layout::GDT..).step_by(8).zip(GDT) {
        memory.write_obj(entry, GuestAddress(address))?;
    }
    memory.write_obj(0_u64, GuestAddress(layout::IDT))?;
    // One table of the fourth level, one of the third, and one of the second for each gibibyte.
    let third = layout::PAGE_TABLES + TABLE;
    let second = third + TABLE;
    memory.write_obj(third | PRESENT, GuestAddress(layout::PAGE_TABLES))?;
    for gibibyte in 0..GIBIBYTES {
        memory.write_obj((second + gibibyte * TABLE) | PRESENT, GuestAddress(third + gibibyte * 8))?;
    }
    for page in 0..GIBIBYTES * ENTRIES {
        memory.write_obj((page * LARGE_PAGE) | PRESENT | LARGE, GuestAddress(second + page * 8))?;
    }
    Ok(())
}

/// Sets the registers of the first processor.
pub(crate) fn set_first(vcpu: &VcpuFd, entry: Entry) -> Result<(), kvm_ioctls::Error> {
    let mut system = vcpu.get_sregs()?;
    segments(&mut system, matches!(entry, Entry::Long { .. }));
    let mut general = kvm_regs { rflags: 2, ..Default::default() };
    match entry {
        Entry::Long { rip } => {
            system.cr0 = CR0_PROTECTED | CR0_EXTENSION | CR0_PAGING;
            system.cr3 = layout::PAGE_TABLES;
            system.cr4 = CR4_PAE;
            system.efer = EFER_LONG_ENABLED | EFER_LONG_ACTIVE;
            general.rip = rip;
            general.rsi = layout::ZERO_PAGE;
        }
        Entry::Pvh { eip } => {
            system.cr0 = CR0_PROTECTED | CR0_EXTENSION;
            system.cr4 = 0;
            general.rip = u64::from(eip);
            general.rbx = layout::PVH_START;
        }
    }
    vcpu.set_sregs(&system)?;
    vcpu.set_regs(&general)?;
    vcpu.set_fpu(&kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() })
}

fn segments(system: &mut kvm_sregs, long: bool) {
    let flat = |selector, type_| kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        s: 1,
        g: 1,
        db: 1,
        ..Default::default()
    };
    let data = flat(DATA, 3);
    system.cs = kvm_segment { l: u8::from(long), db: u8::from(!long), ..flat(CODE, 11) };
    for segment in [&mut system.ds, &mut system.es, &mut system.fs, &mut system.gs, &mut system.ss] {
        *segment = data;
    }
    system.tr = kvm_segment { limit: 0x67, s: 0, g: 0, db: 0, ..flat(TASK, 11) };
    system.gdt.base = layout::GDT;
    system.gdt.limit = u16::try_from(size_of_val(&GDT) - 1).unwrap_or(0);
    system.idt.base = layout::IDT;
    system.idt.limit = 7;
}

/// Sets what all processors share.
pub(crate) fn set_model_specific(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    for (index, data) in [MISC_ENABLE, MTRR_DEFAULT_TYPE] {
        let entry = kvm_msr_entry { index, data, ..Default::default() };
        // A host that lacks one does not need it.
        match Msrs::from_entries(&[entry]).map(|msrs| vcpu.set_msrs(&msrs)) {
            Ok(Ok(1)) => {}
            outcome => tracing::debug!("the model-specific register {index:#x} was not set: {outcome:?}"),
        }
    }
    let mut apic = vcpu.get_lapic()?;
    for (register, mode) in [(LINT0, EXTERNAL_INTERRUPT), (LINT1, NON_MASKABLE)] {
        for (place, byte) in apic.regs[register..register + 4].iter_mut().zip(mode.to_le_bytes()) {
            *place = i8::from_le_bytes([byte]);
        }
    }
    vcpu.set_lapic(&apic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;

    #[test]
    fn the_first_four_gibibytes_are_where_they_seem_to_be() {
        let memory = memory::allocate(2 << 20).unwrap();
        write_tables(&memory).unwrap();
        let entry = |table: u64, index: u64| memory.read_obj::<u64>(GuestAddress((table & !0xfff) + index * 8)).unwrap();
        for address in [0, 0x10_0000, 0x1234_5678, 0xc000_0000, 0xffff_ffff_u64] {
            let third = entry(layout::PAGE_TABLES, address >> 39);
            let second = entry(third, address >> 30 & 511);
            let page = entry(second, address >> 21 & 511);
            assert_eq!(page & !0xfff, address & !(LARGE_PAGE - 1), "{address:#x}");
            assert_eq!((third & 3, second & 3, page & 0x83), (3, 3, 0x83));
        }
    }
}
