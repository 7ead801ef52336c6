//! The bare machine as the body of a guest sees it.

use core::fmt::Write;

use probe_body::Platform;
use probe_body::card::{Nic, Receive};
use probe_body::plan::{Plan, Wait};
use probe_body::report::Report;

use crate::clock::{self, Clock};
use crate::interrupt::{self, Interrupts};
use crate::serial::Serial;
use crate::start::Start;

/// How long to look at the rings before the processor is halted, in microseconds: less than an interrupt costs where ring 0 is interpreted.
const LOOK: u64 = 30;

/// Clock, serial port, and the way to wait.
#[derive(Debug)]
pub struct Machine {
    clock: Clock,
    serial: Serial,
    wait: Wait,
    seed: u64,
}

impl Machine {
    /// The machine, for a guest that is to follow `plan`.
    pub fn new(plan: &Plan<'_>) -> Self {
        if plan.wait == Wait::Interrupt {
            interrupt::enable();
        }
        Self { clock: Clock::new(plan.tsc_khz), serial: Serial::new(), wait: plan.wait, seed: clock::ticks() }
    }

    /// When the guest began, by its clock.
    pub fn began(&self, start: &Start) -> u64 {
        self.clock.to_micros(start.ticks)
    }

    /// Writes a line to the serial port.
    pub fn say(&mut self, report: &Report<'_>) {
        // A serial port takes everything.
        let _ = writeln!(self.serial, "{report}");
    }
}

impl<N: Nic + Interrupts> Platform<N> for Machine {
    fn now(&self) -> u64 {
        self.clock.micros()
    }

    fn random(&mut self) -> u64 {
        // xorshift*, from a counter that never stands still.
        self.seed ^= clock::ticks();
        self.seed ^= self.seed >> 12;
        self.seed ^= self.seed << 25;
        self.seed ^= self.seed >> 27;
        self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn idle(&mut self, nic: &mut N, deadline: Option<u64>) {
        let begun = self.clock.micros();
        let end = deadline.unwrap_or(u64::MAX);
        let looked = match self.wait {
            Wait::Poll => end,
            Wait::Interrupt => end.min(begun + LOOK),
        };
        while !nic.halves().0.poll() {
            let now = self.clock.micros();
            if now >= end {
                return;
            }
            if now < looked {
                core::hint::spin_loop();
                continue;
            }
            // What comes after this line makes the wait end at once.
            let seen = interrupt::count();
            nic.arm();
            if !nic.halves().0.poll() {
                interrupt::tick_in(deadline.map_or(0, |deadline| deadline - now));
                interrupt::wait(seen);
            }
            nic.disarm();
            return;
        }
    }

    fn report(&mut self, report: &Report<'_>) {
        self.say(report);
        if self.wait == Wait::Interrupt && *report == Report::Done {
            let (count, nic) = (u64::from(interrupt::count()), u64::from(interrupt::count_of(N::VECTOR)));
            self.say(&Report::Interrupts { count, nic });
        }
    }
}
