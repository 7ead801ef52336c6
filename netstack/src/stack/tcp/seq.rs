//! Sequence numbers, which wrap (RFC 9293 section 3.4).

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, AddAssign, Sub};

/// A sequence number. Comparisons are right for numbers less than 2 GiB apart.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seq(pub(crate) u32);

impl Seq {
    /// How far `self` is ahead of `other`; zero if it is behind.
    pub(crate) fn ahead_of(self, other: Self) -> u32 {
        if self > other { self.0.wrapping_sub(other.0) } else { 0 }
    }

    pub(crate) fn max(self, other: Self) -> Self {
        if other > self { other } else { self }
    }
}

impl PartialOrd for Seq {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.0.wrapping_sub(other.0).cast_signed().cmp(&0))
    }
}

impl Add<u32> for Seq {
    type Output = Self;

    fn add(self, rhs: u32) -> Self {
        Self(self.0.wrapping_add(rhs))
    }
}

impl AddAssign<u32> for Seq {
    fn add_assign(&mut self, rhs: u32) {
        *self = *self + rhs;
    }
}

impl Sub<u32> for Seq {
    type Output = Self;

    fn sub(self, rhs: u32) -> Self {
        Self(self.0.wrapping_sub(rhs))
    }
}

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_survives_the_wrap() {
        let (before, after) = (Seq(u32::MAX - 1), Seq(3));
        assert!(before < after);
        assert_eq!(after.ahead_of(before), 5);
        assert_eq!(before.ahead_of(after), 0);
        assert_eq!(before + 5, after);
        assert_eq!(before.max(after), after);
    }
}
