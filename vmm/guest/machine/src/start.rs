//! What the loader has passed on, and the ends that a guest can come to.

#[cfg(probe_image)]
use core::arch::global_asm;
use core::fmt::Write;
use core::panic::PanicInfo;

use probe_body::report::Report;

use crate::acpi;
use crate::serial::Serial;

// Its addresses are fixed, so no program of this system can be linked with it.
#[cfg(probe_image)]
global_asm!(include_str!("boot.s"), options(att_syntax));

unsafe extern "C" {
    static start_tsc: u64;
    static fault_record: [u64; 4];
}

/// What the loader has passed on (`struct hvm_start_info` of PVH).
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// The kernel command line.
    pub command_line: &'static str,
    /// Where the first ACPI table is; 0 if that is not said.
    pub rsdp: u64,
    /// The time-stamp counter at the first instruction.
    pub ticks: u64,
}

impl Start {
    /// Reads the structure at `info`.
    ///
    /// # Safety
    ///
    /// It must be there, and the command line for good.
    pub unsafe fn read(info: u64) -> Self {
        const MAGIC: u32 = 0x336e_c578;
        const COMMAND_LINE: u64 = 24;
        const RSDP: u64 = 32;
        // SAFETY: the stub has written it before ring 3.
        let ticks = unsafe { (&raw const start_tsc).read_volatile() };
        // SAFETY: the caller says so.
        let field = |offset: u64| unsafe { ((info + offset) as *const u64).read_unaligned() };
        if field(0) as u32 != MAGIC {
            return Self { command_line: "", rsdp: 0, ticks };
        }
        let text = field(COMMAND_LINE);
        let command_line = if text == 0 {
            ""
        } else {
            // SAFETY: the caller says so; a loader ends it with a zero.
            unsafe { core::ffi::CStr::from_ptr(text as *const _) }.to_str().unwrap_or("")
        };
        Self { command_line, rsdp: field(RSDP), ticks }
    }
}

/// Powers the machine off. Whether all went well was reported; it makes no difference here.
pub fn finish(start: &Start, _succeeded: bool) -> ! {
    acpi::power_off(start.rsdp);
    loop {
        core::hint::spin_loop();
    }
}

/// Reports a panic and powers off.
pub fn panicked(info: &PanicInfo<'_>) -> ! {
    let mut serial = Serial::new();
    // A serial port takes everything.
    let _ = writeln!(serial, "\nprobe: failed step=guest why={}", Flat(info));
    let _ = writeln!(serial, "{}", Report::Done);
    acpi::power_off(0);
    loop {
        core::hint::spin_loop();
    }
}

/// A panic in one line.
struct Flat<'a>(&'a PanicInfo<'a>);

impl core::fmt::Display for Flat<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "panic: {}", self.0.message())?;
        self.0.location().map_or(Ok(()), |location| write!(f, " at {location}"))
    }
}

/// Where the stub goes to with an exception.
#[unsafe(no_mangle)]
extern "C" fn machine_fault() -> ! {
    // SAFETY: the stub has written it before it came here.
    let [vector, code, rip, address] = unsafe { (&raw const fault_record).read_volatile() };
    let mut serial = Serial::new();
    let _ = writeln!(serial, "\n{}", Report::Fault { vector, rip, code, address });
    acpi::power_off(0);
    loop {
        core::hint::spin_loop();
    }
}
