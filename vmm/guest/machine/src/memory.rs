//! Memory: one arena that only grows, the mapping of device registers, and the functions that compilers take for granted.

use alloc::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of the arena. Pages that are never touched cost nothing.
const ARENA: usize = 32 << 20;

/// Bytes of a large page.
const LARGE_PAGE: u64 = 2 << 20;

/// Zeroed memory that devices may reach too, for good: at its own physical address.
pub fn leak(bytes: usize, align: usize) -> *mut u8 {
    ALLOCATOR.take(bytes, align)
}

/// Makes `len` bytes of device registers at `address` reachable. Those below 4 GiB always are.
pub fn map(address: u64, len: u64) {
    let mut page = address & !(LARGE_PAGE - 1);
    while page < address + len {
        if page >= 4 << 30 {
            map_page(page);
        }
        page += LARGE_PAGE;
    }
}

/// Enters a page of 2 MiB into the tables, below 512 GiB.
fn map_page(page: u64) {
    const PRESENT_WRITABLE_USER: u64 = 7;
    const LARGE: u64 = 0x80;
    const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    unsafe extern "C" {
        static mut level3: [u64; 512];
    }
    let (upper, lower) = ((page >> 30) as usize, (page >> 21) as usize % 512);
    assert!(upper < 512, "a device's registers are beyond 512 GiB");
    // SAFETY: nothing but this function uses the tables, and an entry that becomes present needs no flush.
    unsafe {
        let entry = (&raw mut level3).cast::<u64>().add(upper);
        if entry.read_volatile() == 0 {
            entry.write_volatile(leak(4096, 4096) as u64 | PRESENT_WRITABLE_USER);
        }
        let table = (entry.read_volatile() & ADDRESS) as *mut u64;
        table.add(lower).write_volatile(page | LARGE | PRESENT_WRITABLE_USER);
    }
}

#[cfg_attr(probe_image, global_allocator)]
static ALLOCATOR: Arena = Arena { memory: Memory(UnsafeCell::new([0; ARENA])), used: AtomicUsize::new(0) };

struct Arena {
    memory: Memory,
    used: AtomicUsize,
}

#[repr(align(4096))]
struct Memory(UnsafeCell<[u8; ARENA]>);

// SAFETY: every part of it is handed out once.
unsafe impl Sync for Memory {}

impl Arena {
    fn take(&self, bytes: usize, align: usize) -> *mut u8 {
        let mut at = 0;
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            at = used.next_multiple_of(align);
            at.checked_add(bytes).filter(|end| *end <= ARENA)
        });
        match taken {
            // SAFETY: the arena reaches that far.
            Ok(_) => unsafe { self.memory.0.get().cast::<u8>().add(at) },
            Err(_) => core::ptr::null_mut(),
        }
    }
}

// SAFETY: memory is handed out once, aligned, zeroed as the loader has left it, and never taken back.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.take(layout.size(), layout.align())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.take(layout.size(), layout.align())
    }

    unsafe fn dealloc(&self, _memory: *mut u8, _layout: Layout) {}
}

/// What compilers call for assignments and comparisons. There is no C library.
#[cfg(probe_image)]
mod functions {
    use core::arch::asm;

    /// Bytes that one turn of the loop copies.
    const BLOCK: usize = 64;

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
        let blocks = len / BLOCK;
        // SAFETY: the caller answers for both ranges. In assembly, because a loop would become a call of this very function; and not by a
        // string instruction, whose speed depends on where the two ranges lie.
        unsafe {
            if blocks > 0 {
                asm!(
                    "2:",
                    "movups {a}, [{from}]",
                    "movups {b}, [{from} + 16]",
                    "movups {c}, [{from} + 32]",
                    "movups {d}, [{from} + 48]",
                    "movups [{to}], {a}",
                    "movups [{to} + 16], {b}",
                    "movups [{to} + 32], {c}",
                    "movups [{to} + 48], {d}",
                    "add {from}, 64",
                    "add {to}, 64",
                    "dec {blocks}",
                    "jnz 2b",
                    from = inout(reg) from => _,
                    to = inout(reg) to => _,
                    blocks = inout(reg) blocks => _,
                    a = out(xmm_reg) _,
                    b = out(xmm_reg) _,
                    c = out(xmm_reg) _,
                    d = out(xmm_reg) _,
                    options(nostack),
                );
            }
            let mut at = blocks * BLOCK;
            while at + 8 <= len {
                let word = from.add(at).cast::<[u8; 8]>().read_volatile();
                to.add(at).cast::<[u8; 8]>().write_volatile(word);
                at += 8;
            }
            while at < len {
                to.add(at).write_volatile(from.add(at).read());
                at += 1;
            }
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
        if (to as usize).wrapping_sub(from as usize) >= len {
            // SAFETY: forwards, nothing is overwritten before it was read.
            return unsafe { memcpy(to, from, len) };
        }
        let mut at = len;
        while at > 0 {
            at -= 1;
            // SAFETY: the caller answers for both ranges.
            unsafe { to.add(at).write_volatile(from.add(at).read()) };
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, value: i32, len: usize) -> *mut u8 {
        // SAFETY: the caller answers for the range.
        unsafe {
            asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("al") value as u8, options(nostack, preserves_flags));
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
        for at in 0..len {
            // SAFETY: the caller answers for both ranges.
            let (a, b) = unsafe { (left.add(at).read_volatile(), right.add(at).read_volatile()) };
            if a != b {
                return i32::from(a) - i32::from(b);
            }
        }
        0
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
        // SAFETY: as above.
        unsafe { memcmp(left, right, len) }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn strlen(text: *const u8) -> usize {
        let mut len = 0;
        // SAFETY: the caller answers for a zero at its end.
        while unsafe { text.add(len).read_volatile() } != 0 {
            len += 1;
        }
        len
    }
}
