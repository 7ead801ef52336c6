//! The bare virtual machine that a guest image runs on.
//!
//! The image is an ELF file with a PVH entry. A short ring-0 stub (`boot.s`) lays out page tables, a TSS and an IDT and goes down to
//! ring 3, where everything else happens, drivers included: where KVM has no hardware to lean on, it interprets ring 0, slowly and without
//! SSE, while ring 3 runs at full speed. Ports are open to ring 3 by the TSS, and all memory is mapped, virtual to physical.
//!
//! What follows from it:
//!
//! - Access to a device's registers leaves the guest and costs tens of microseconds, but for doorbells that are an ioeventfd. So drivers
//!   look at rings in memory, not at registers.
//! - Interrupts land in the stub, which counts and acknowledges them; ring 3 looks at the counters ([`interrupt`]).
//! - Memory comes from one arena and is not given back ([`memory`]).
//!
//! An image is a `main.rs` that names its function by [`entry!`]. Only builds with `--cfg probe_image` are images; in others this
//! library is only checked.

#![no_std]

extern crate alloc;

pub mod acpi;
pub mod clock;
pub mod e1000;
pub mod interrupt;
pub mod memory;
pub mod pci;
pub mod platform;
pub mod port;
pub mod serial;
pub mod start;
pub mod virtio_net;
pub mod virtqueue;

/// Makes `$run` (a `fn(&Start) -> bool`) what the image does: it is called in ring 3, and when it returns the machine is powered off.
#[macro_export]
macro_rules! entry {
    ($run:path) => {
        /// Where the stub goes to.
        ///
        /// # Safety
        ///
        /// Only for the stub: `info` is what the loader has passed on.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn machine_start(info: u64) -> ! {
            // SAFETY: the loader has put the start information there.
            let start = unsafe { $crate::start::Start::read(info) };
            $crate::start::finish(&start, $run(&start))
        }

        #[panic_handler]
        fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
            $crate::start::panicked(info)
        }
    };
}
