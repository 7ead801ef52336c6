//! The guest's memory: a little RAM between pages that cannot be accessed.

use std::ptr;

use vm_memory::{Bytes, GuestAddress, GuestRegionMmap, MmapRegion};
use vmm::memory::GuestMemory;

/// Bytes of RAM, from address 0 on. Everything else is not there.
pub const SIZE: u64 = 256 << 10;

/// What lies on either side of it and cannot be accessed: more than any length in a ring says.
const GUARD: usize = 1 << 30;

thread_local! {
    static MEMORY: GuestMemory = map();
}

/// The memory, filled with zeros. There is one for each thread, so what had it before must be gone.
pub fn fresh() -> GuestMemory {
    let memory = MEMORY.with(Clone::clone);
    let zeros = [0; 4096];
    for page in (0..SIZE).step_by(zeros.len()) {
        memory.write_slice(&zeros, GuestAddress(page)).expect("it is RAM");
    }
    memory
}

fn map() -> GuestMemory {
    let size = SIZE as usize;
    // SAFETY: a new mapping, wherever there is room.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size + 2 * GUARD,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    assert_ne!(start, libc::MAP_FAILED, "no address space");
    // SAFETY: the range lies within the mapping.
    let ram = unsafe { start.cast::<u8>().add(GUARD) };
    // SAFETY: it is part of our own mapping, of which nobody knows yet.
    let made = unsafe { libc::mprotect(ram.cast(), size, libc::PROT_READ | libc::PROT_WRITE) };
    assert_eq!(made, 0, "no memory");
    // SAFETY: the range is mapped like this and stays so until the process ends.
    let region = unsafe { MmapRegion::build_raw(ram, size, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE) };
    let region =
        GuestRegionMmap::new(region.expect("a mapping of whole pages"), GuestAddress(0)).expect("it ends in the address space");
    GuestMemory::from_regions(vec![region]).expect("one region")
}
