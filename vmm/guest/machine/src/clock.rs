//! Time, by the time-stamp counter.

use core::arch::x86_64::{__cpuid, _rdtsc};

use crate::port;

/// The time-stamp counter, now.
pub fn ticks() -> u64 {
    // SAFETY: there is nothing it could do wrong.
    unsafe { _rdtsc() }
}

/// A clock of microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    khz: u64,
}

impl Clock {
    /// A clock for a counter of `khz` kilohertz; `None` if nobody knows: then KVM is asked, the hypervisor, or the timer.
    pub fn new(khz: Option<u64>) -> Self {
        let known = khz.filter(|khz| *khz > 0).or_else(written_down).or_else(announced);
        Self { khz: known.unwrap_or_else(measured).max(1) }
    }

    /// Microseconds of the counter.
    pub fn micros(&self) -> u64 {
        self.to_micros(ticks())
    }

    /// A value of the counter in microseconds.
    pub fn to_micros(&self, ticks: u64) -> u64 {
        u64::try_from(u128::from(ticks) * 1000 / u128::from(self.khz)).unwrap_or(u64::MAX)
    }
}

/// What KVM has written into the page that the stub gave it (`struct pvclock_vcpu_time_info`): nanoseconds are the counter, shifted to the
/// left, times the factor, by 2^32.
fn written_down() -> Option<u64> {
    const FACTOR: usize = 24;
    const SHIFT: usize = 28;
    unsafe extern "C" {
        static kvm_clock: [u8; 64];
    }
    let page = (&raw const kvm_clock).cast::<u8>();
    // SAFETY: within the page; the host writes it, never while this processor runs.
    let (factor, shift) = unsafe { (page.add(FACTOR).cast::<u32>().read_volatile(), page.add(SHIFT).cast::<i8>().read_volatile()) };
    let khz = (1_000_000_u64 << 32).checked_div(u64::from(factor))?;
    let bits = u32::from(shift.unsigned_abs());
    if shift < 0 { khz.checked_shl(bits) } else { khz.checked_shr(bits) }
}

/// What the hypervisor says in the leaf that VMware has begun: kilohertz in EAX.
fn announced() -> Option<u64> {
    const HYPERVISOR: u32 = 0x4000_0000;
    const TIMING: u32 = 0x4000_0010;
    const HYPERVISOR_PRESENT: u32 = 1 << 31;
    if __cpuid(1).ecx & HYPERVISOR_PRESENT == 0 || __cpuid(HYPERVISOR).eax < TIMING {
        return None;
    }
    Some(u64::from(__cpuid(TIMING).eax)).filter(|khz| *khz > 0)
}

/// Counts while the PC's timer counts a millisecond in its channel 2, some times: the shortest was disturbed the least.
fn measured() -> u64 {
    (0..8).map(|_| count_a_millisecond()).min().unwrap_or(0)
}

fn count_a_millisecond() -> u64 {
    const HERTZ: u64 = 1_193_182;
    const GATE: u16 = 0x61;
    const OUTPUT: u8 = 0x20;
    let [low, high, ..] = (HERTZ / 1000).to_le_bytes();
    // The gate opens, the speaker stays off; mode 0, low byte and high byte.
    port::write_u8(GATE, port::read_u8(GATE) & !2 | 1);
    port::write_u8(0x43, 0xb0);
    port::write_u8(0x42, low);
    port::write_u8(0x42, high);
    let begun = ticks();
    // A machine without a timer would be waited for in vain.
    while port::read_u8(GATE) & OUTPUT == 0 && ticks() - begun < 1 << 28 {}
    ticks() - begun
}
