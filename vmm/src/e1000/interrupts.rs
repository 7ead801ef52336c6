//! Interrupt causes, their mask, and when the line may be asserted.
//!
//! A cause is latched at once, whether it is masked or not; drivers that poll look only there. The line is asserted while a cause is not
//! masked, but not more often than the throttling register allows, and a cause may ask to wait a little, so that one interrupt tells of
//! many frames. What has to wait is released by the data path, whose timer it is.
//!
//! Causes come from vCPUs and from the data path at once. Each one who changed something drives the line and then looks again, so the
//! last one leaves the line as the last change wants it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::register::cause;
use crate::irq::IntxLine;

/// Units of the throttling register, and of those that let an interrupt wait.
const THROTTLE_UNIT: u64 = 256;
pub(super) const DELAY_UNIT: u64 = 1024;

/// Nothing waits.
const NEVER: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct Interrupts {
    causes: AtomicU32,
    mask: AtomicU32,
    /// The throttling register.
    throttle: AtomicU32,
    line: Arc<dyn IntxLine>,
    disabled: AtomicBool,
    asserted: AtomicBool,
    started: Instant,
    /// Times in nanoseconds: from when on the line may be asserted again, and when what waits is due.
    next: AtomicU64,
    due: AtomicU64,
}

/// Somebody has to call [`Interrupts::expire`] in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) struct Waits(pub(super) bool);

impl Interrupts {
    pub(super) fn new(line: Arc<dyn IntxLine>) -> Self {
        Self {
            causes: AtomicU32::new(0),
            mask: AtomicU32::new(0),
            throttle: AtomicU32::new(0),
            line,
            disabled: AtomicBool::new(false),
            asserted: AtomicBool::new(false),
            started: Instant::now(),
            next: AtomicU64::new(0),
            due: AtomicU64::new(NEVER),
        }
    }

    /// Latches causes. The line may wait for `delay` nanoseconds more than it has to.
    pub(super) fn raise(&self, causes: u32, delay: u64) -> Waits {
        self.causes.fetch_or(causes & cause::ALL, Ordering::SeqCst);
        self.drive(delay)
    }

    /// What ICR reads as. It is empty afterwards.
    pub(super) fn take(&self) -> u32 {
        let causes = self.causes.swap(0, Ordering::SeqCst);
        let Waits(_) = self.drive(0);
        causes
    }

    /// The causes, which stay.
    pub(super) fn causes(&self) -> u32 {
        self.causes.load(Ordering::SeqCst)
    }

    /// Forgets causes.
    pub(super) fn clear(&self, causes: u32) -> Waits {
        self.causes.fetch_and(!causes, Ordering::SeqCst);
        self.drive(0)
    }

    pub(super) fn mask(&self) -> u32 {
        self.mask.load(Ordering::SeqCst)
    }

    /// Lets causes through.
    pub(super) fn enable(&self, causes: u32) -> Waits {
        self.mask.fetch_or(causes & cause::ALL, Ordering::SeqCst);
        self.drive(0)
    }

    /// Does not let causes through.
    pub(super) fn disable(&self, causes: u32) -> Waits {
        self.mask.fetch_and(!causes, Ordering::SeqCst);
        self.drive(0)
    }

    pub(super) fn set_throttle(&self, units: u32) {
        self.throttle.store(units & 0xffff, Ordering::SeqCst);
    }

    pub(super) fn throttle(&self) -> u32 {
        self.throttle.load(Ordering::SeqCst)
    }

    /// Keeps the line quiet, as the command register of the function wants it.
    pub(super) fn set_disabled(&self, disabled: bool) -> Waits {
        self.disabled.store(disabled, Ordering::SeqCst);
        self.drive(0)
    }

    /// Forgets everything but whether the line is to be quiet.
    pub(super) fn reset(&self) {
        for register in [&self.causes, &self.mask, &self.throttle] {
            register.store(0, Ordering::SeqCst);
        }
        self.next.store(0, Ordering::SeqCst);
        let Waits(_) = self.drive(0);
    }

    /// How long until [`Interrupts::expire`] has to be called, if something waits.
    pub(super) fn until_due(&self) -> Option<Duration> {
        let due = self.due.load(Ordering::SeqCst);
        (due != NEVER).then(|| Duration::from_nanos(due.saturating_sub(self.now())))
    }

    /// Releases what has waited long enough.
    pub(super) fn expire(&self) {
        if self.due.load(Ordering::SeqCst) <= self.now() {
            let Waits(_) = self.drive(0);
        }
    }

    fn pending(&self) -> bool {
        self.causes() & self.mask() != 0 && !self.disabled.load(Ordering::SeqCst)
    }

    fn drive(&self, delay: u64) -> Waits {
        loop {
            let mut waits = Waits(false);
            let pending = self.pending();
            if !pending {
                self.asserted.store(false, Ordering::SeqCst);
                self.due.store(NEVER, Ordering::SeqCst);
                self.line.set(false);
            } else if self.asserted.load(Ordering::SeqCst) {
                self.line.set(true);
            } else {
                let now = self.now();
                let due = self.next.load(Ordering::SeqCst).max(now.saturating_add(delay));
                if due <= now || self.due.load(Ordering::SeqCst) <= now {
                    self.asserted.store(true, Ordering::SeqCst);
                    self.due.store(NEVER, Ordering::SeqCst);
                    self.next.store(now + u64::from(self.throttle()) * THROTTLE_UNIT, Ordering::SeqCst);
                    self.line.set(true);
                } else {
                    self.due.fetch_min(due, Ordering::SeqCst);
                    waits = Waits(true);
                }
            }
            if self.pending() == pending {
                return waits;
            }
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(NEVER - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::fake::FakeLine;

    fn interrupts() -> (Interrupts, Arc<FakeLine>) {
        let line = Arc::new(FakeLine::default());
        (Interrupts::new(line.clone()), line)
    }

    #[test]
    fn a_cause_is_latched_even_while_it_is_masked() {
        let (interrupts, line) = interrupts();
        assert_eq!(interrupts.raise(cause::RXT0, 0), Waits(false));
        assert!(!line.is_asserted());
        assert_eq!(interrupts.enable(cause::RXT0 | cause::LSC), Waits(false));
        assert!(line.is_asserted());
        assert_eq!(interrupts.causes(), cause::RXT0);
        assert_eq!(interrupts.take(), cause::RXT0);
        assert!(!line.is_asserted());
        assert_eq!(interrupts.take(), 0);
    }

    #[test]
    fn the_line_follows_causes_and_mask() {
        let (interrupts, line) = interrupts();
        let _ = interrupts.enable(cause::RXT0 | cause::TXDW);
        let _ = interrupts.raise(cause::RXT0 | cause::TXDW, 0);
        let _ = interrupts.clear(cause::RXT0);
        assert!(line.is_asserted());
        let _ = interrupts.disable(cause::TXDW);
        assert!(!line.is_asserted());
        let _ = interrupts.enable(cause::TXDW);
        assert!(line.is_asserted());
        let _ = interrupts.set_disabled(true);
        assert!(!line.is_asserted());
        let _ = interrupts.set_disabled(false);
        assert!(line.is_asserted());
        interrupts.reset();
        assert!(!line.is_asserted());
        assert_eq!((interrupts.mask(), interrupts.causes()), (0, 0));
    }

    #[test]
    fn the_line_does_not_rise_more_often_than_allowed() {
        let (interrupts, line) = interrupts();
        let _ = interrupts.enable(cause::RXT0);
        // The longest there is: 16.8 ms.
        interrupts.set_throttle(0xffff);
        assert_eq!(interrupts.raise(cause::RXT0, 0), Waits(false));
        assert_eq!(interrupts.take(), cause::RXT0);
        assert_eq!(interrupts.raise(cause::RXT0, 0), Waits(true));
        assert!(!line.is_asserted());
        assert_eq!(interrupts.causes(), cause::RXT0, "whoever looks sees it");
        interrupts.expire();
        let wait = interrupts.until_due().expect("something waits");
        std::thread::sleep(wait);
        interrupts.expire();
        assert!(line.is_asserted());
        assert_eq!((interrupts.until_due(), line.rises()), (None, 2));
    }

    #[test]
    fn what_nobody_wants_any_more_does_not_wait() {
        let (interrupts, _line) = interrupts();
        let _ = interrupts.enable(cause::TXDW);
        assert_eq!(interrupts.raise(cause::TXDW, 1_000_000_000), Waits(true));
        assert!(interrupts.until_due().is_some());
        assert_eq!(interrupts.take(), cause::TXDW);
        assert_eq!(interrupts.until_due(), None);
    }

    #[test]
    fn a_cause_that_does_not_wait_takes_along_one_that_does() {
        let (interrupts, line) = interrupts();
        let _ = interrupts.enable(cause::TXDW | cause::LSC);
        assert_eq!(interrupts.raise(cause::TXDW, 1_000_000_000), Waits(true));
        assert!(!line.is_asserted());
        assert_eq!(interrupts.raise(cause::LSC, 0), Waits(false));
        assert!(line.is_asserted());
        assert_eq!(interrupts.until_due(), None);
    }
}
