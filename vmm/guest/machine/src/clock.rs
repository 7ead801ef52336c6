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
    /// A clock for a counter of `khz` kilohertz; `None` if nobody knows: then the hypervisor is asked, or the timer.
    pub fn new(khz: Option<u64>) -> Self {
        Self { khz: khz.filter(|khz| *khz > 0).or_else(announced).unwrap_or_else(measured).max(1) }
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

/// Counts while the PC's timer counts 5 ms in its channel 2.
fn measured() -> u64 {
    const HERTZ: u64 = 1_193_182;
    const MILLIS: u64 = 5;
    const GATE: u16 = 0x61;
    const OUTPUT: u8 = 0x20;
    let [low, high, ..] = (HERTZ * MILLIS / 1000).to_le_bytes();
    // The gate opens, the speaker stays off; mode 0, low byte and high byte.
    port::write_u8(GATE, port::read_u8(GATE) & !2 | 1);
    port::write_u8(0x43, 0xb0);
    port::write_u8(0x42, low);
    port::write_u8(0x42, high);
    let begun = ticks();
    // A machine without a timer would be waited for in vain.
    while port::read_u8(GATE) & OUTPUT == 0 && ticks() - begun < 1 << 30 {}
    (ticks() - begun) / MILLIS
}
