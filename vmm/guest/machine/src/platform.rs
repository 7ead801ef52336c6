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
        let due = |now: u64| deadline.is_some_and(|deadline| now >= deadline);
        if self.wait == Wait::Poll {
            while !nic.halves().0.poll() && !due(self.clock.micros()) {
                core::hint::spin_loop();
            }
            return;
        }
        // What comes after this look makes the wait end at once.
        let seen = interrupt::count();
        nic.arm(true);
        let now = self.clock.micros();
        if !nic.halves().0.poll() && !due(now) {
            interrupt::tick_in(deadline.map_or(0, |deadline| deadline - now));
            interrupt::wait(seen);
        }
        nic.arm(false);
    }

    fn report(&mut self, report: &Report<'_>) {
        self.say(report);
        if self.wait == Wait::Interrupt && *report == Report::Done {
            let (count, nic) = (u64::from(interrupt::count()), u64::from(interrupt::count_of(N::VECTOR)));
            self.say(&Report::Interrupts { count, nic });
        }
    }
}
