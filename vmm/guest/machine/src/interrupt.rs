//! Interrupts as ring 3 sees them: counters that the stub counts up, and the controllers that are set up from here.

use core::arch::asm;

use crate::pci::Function;

unsafe extern "C" {
    static interrupts: u32;
    static interrupts_of: [u32; 32];
    static mut line_cause: u64;
    static mut line_mask: u64;
}

/// The vector of a card's MSI-X.
pub const MSI: u8 = 32;
/// The vector of a card's pin. The stub reads the cause to lower the line.
pub const LINE: u8 = 33;
/// The vector of the timer.
const TIMER: u8 = 34;
/// Where the local controller sends what was nothing.
const SPURIOUS: u32 = 63;

const LOCAL_APIC: u64 = 0xfee0_0000;
const LOCAL_SPURIOUS: u64 = LOCAL_APIC + 0xf0;
const LOCAL_TIMER: u64 = LOCAL_APIC + 0x320;
const LOCAL_TIMER_COUNT: u64 = LOCAL_APIC + 0x380;
const LOCAL_TIMER_DIVIDE: u64 = LOCAL_APIC + 0x3e0;
const IO_APIC: u64 = 0xfec0_0000;

/// The address and data by which a device sends `vector` to the first processor.
pub const fn message(vector: u8) -> (u64, u32) {
    (LOCAL_APIC, vector as u32)
}

/// How many interrupts there were.
pub fn count() -> u32 {
    // SAFETY: a word that the stub counts up.
    unsafe { (&raw const interrupts).read_volatile() }
}

/// How many there were of `vector`.
pub fn count_of(vector: u8) -> u32 {
    // SAFETY: as above; the stub counts vectors from 32 on.
    unsafe { (&raw const interrupts_of).cast::<u32>().add(usize::from(vector - 32) % 32).read_volatile() }
}

/// Halts until there was an interrupt beyond the first `seen`.
pub fn wait(seen: u32) {
    // SAFETY: the stub looks at EAX and returns.
    unsafe { asm!("int3", in("eax") seen, options(nostack)) }
}

/// Lets the local controller deliver interrupts, and its timer tick once when told to.
pub fn enable() {
    write(LOCAL_SPURIOUS, 0x100 | SPURIOUS);
    // Divides by 16; one shot.
    write(LOCAL_TIMER_DIVIDE, 3);
    write(LOCAL_TIMER, u32::from(TIMER));
}

/// Makes the timer tick in about `micros` microseconds, at the one gigahertz that KVM's has. Stops it with 0.
pub fn tick_in(micros: u64) {
    const TICKS_PER_MICRO: u64 = 1000 / 16;
    write(LOCAL_TIMER_COUNT, u32::try_from(micros.saturating_mul(TICKS_PER_MICRO)).unwrap_or(u32::MAX));
}

/// Leads the pin of `function` to [`LINE`], level-triggered. When it interrupts, the stub reads the register at `cause`, which lowers the
/// line, and writes ones to the one at `mask`, which keeps it there.
pub fn route_line(function: Function, cause: u64, mask: u64) {
    // SAFETY: only the stub reads them, and only once the line is led there.
    unsafe {
        (&raw mut line_cause).write_volatile(cause);
        (&raw mut line_mask).write_volatile(mask);
    }
    let entry = 0x10 + 2 * u32::from(function.interrupt_line());
    // Level-triggered, active high as KVM's lines are, to the first processor.
    io_apic(entry + 1, 0);
    io_apic(entry, 1 << 15 | u32::from(LINE));
}

fn io_apic(register: u32, value: u32) {
    write(IO_APIC, register);
    write(IO_APIC + 0x10, value);
}

fn write(address: u64, value: u32) {
    // SAFETY: a register of a controller that every PC has there.
    unsafe { (address as *mut u32).write_volatile(value) };
}

/// A card that can be waited for.
pub trait Interrupts {
    /// The vector that it interrupts by.
    const VECTOR: u8;

    /// Asks it to interrupt at the next frame that arrives. One that is there already may have been missed.
    fn arm(&mut self);

    /// Asks it not to.
    fn disarm(&mut self);
}
