//! Time as the engine is told it.
//!
//! The core never reads a clock. Whoever drives it, the async engine or a simulation, hands in an [`Instant`] with every call, so a
//! day of protocol timers can pass in a microsecond and every run can be repeated.

use std::ops::{Add, Sub};
pub use std::time::Duration;

/// A point in time: microseconds since the engine was created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The moment at which the engine was created.
    pub const ZERO: Self = Self(0);

    /// The instant `micros` microseconds after the engine was created.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the engine was created.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`, or zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(rhs.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, rhs: Self) -> Duration {
        self.since(rhs)
    }
}
