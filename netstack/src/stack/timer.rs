//! One wheel for all timers.
//!
//! A hierarchical timing wheel: eight levels of 64 slots, the finest a millisecond wide, each level 64 times as wide as the one before.
//! Setting a timer costs a few instructions, and time passing costs in proportion to the timers that come due, never to how many exist.
//!
//! There is no cancelling. An entry that comes due is only a hint: its owner looks whether the deadline it keeps has passed, and sets
//! the timer again where it has not. So a deadline that moves later with every segment costs one entry, not one a segment.

use crate::time::Instant;

const LEVEL_BITS: u32 = 6;
const SLOTS: usize = 1 << LEVEL_BITS;
const LEVELS: usize = 8;
const TICK_MICROS: u64 = 1000;

/// The wheel. `T` says whose timer it is.
#[derive(Debug)]
pub(crate) struct Wheel<T> {
    /// Ticks until which everything has been taken out.
    now: u64,
    levels: [Level<T>; LEVELS],
    len: usize,
}

#[derive(Debug)]
struct Level<T> {
    /// Bit i is set while slot i has entries.
    occupied: u64,
    slots: [Vec<(u64, T)>; SLOTS],
}

impl<T> Wheel<T> {
    pub(crate) fn new() -> Self {
        Self { now: 0, levels: std::array::from_fn(|_| Level { occupied: 0, slots: std::array::from_fn(|_| Vec::new()) }), len: 0 }
    }

    /// Entries set and not yet due.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Has `item` come due at `at`, or at the next tick if that is over. Deadlines are rounded up, so nothing comes early.
    pub(crate) fn set(&mut self, at: Instant, item: T) {
        let tick = at.as_micros().div_ceil(TICK_MICROS).max(self.now + 1);
        self.insert(tick, item);
        self.len += 1;
    }

    /// When there is something to take out, or to move to a finer level, next.
    pub(crate) fn next(&self) -> Option<Instant> {
        (0..LEVELS).filter_map(|level| self.next_tick_of(level)).min().map(|tick| Instant::from_micros(tick * TICK_MICROS))
    }

    /// Takes out everything due at `now`, in no particular order, and puts it into `due`.
    pub(crate) fn advance(&mut self, now: Instant, due: &mut Vec<T>) {
        let target = now.as_micros() / TICK_MICROS;
        while let Some((tick, level)) = (0..LEVELS).filter_map(|level| Some((self.next_tick_of(level)?, level))).min() {
            if tick > target {
                break;
            }
            self.now = tick;
            let slot = slot_of(tick, level);
            self.levels[level].occupied &= !(1 << slot);
            let mut entries = std::mem::take(&mut self.levels[level].slots[slot]);
            for (at, item) in entries.drain(..) {
                if at <= tick {
                    self.len -= 1;
                    due.push(item);
                } else {
                    self.insert(at, item);
                }
            }
            // The slot keeps its memory for the next time around.
            if self.levels[level].slots[slot].is_empty() {
                self.levels[level].slots[slot] = entries;
            }
        }
        self.now = self.now.max(target);
    }

    fn insert(&mut self, tick: u64, item: T) {
        let level = level_of(self.now, tick);
        let slot = slot_of(tick, level);
        self.levels[level].occupied |= 1 << slot;
        self.levels[level].slots[slot].push((tick, item));
    }

    /// The first tick at which a slot of this level has to be looked at.
    fn next_tick_of(&self, level: usize) -> Option<u64> {
        let occupied = self.levels[level].occupied;
        if occupied == 0 {
            return None;
        }
        let here = slot_of(self.now, level);
        let ahead = occupied.rotate_right(u32::try_from(here).unwrap_or(0)).trailing_zeros();
        let shift = LEVEL_BITS * u32::try_from(level).unwrap_or(0);
        // A slot that is due now was emptied when its time came, so the current slot, if occupied, is a whole turn away.
        let ahead = if ahead == 0 && level > 0 { SLOTS as u64 } else { u64::from(ahead) };
        Some((((self.now >> shift) + ahead) << shift).max(self.now))
    }
}

/// What an owner knows of the entries that it has in the wheel, so that it sets none that one there can stand for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Entries {
    /// The one that comes first.
    next: Option<Instant>,
    /// One behind it: what was the first until an earlier one was needed.
    after: Option<Instant>,
}

impl Entries {
    /// Whether an entry has to be set for `at`, because none comes by then.
    pub(crate) fn want(&mut self, at: Instant) -> bool {
        if self.next.is_some_and(|next| next <= at) {
            return false;
        }
        self.after = self.next.or(self.after);
        self.next = Some(at);
        true
    }

    /// An entry has come due at `now`. Returns whether it is one to act on: another one may still stand for it.
    pub(crate) fn come(&mut self, now: Instant) -> bool {
        if self.next.is_some_and(|next| next > now) {
            return false;
        }
        self.next = self.after.take();
        true
    }
}

/// The level on which two ticks first differ: the highest group of bits in which they do.
fn level_of(now: u64, tick: u64) -> usize {
    let differ = (now ^ tick) | 1;
    let level = ((u64::BITS - 1 - differ.leading_zeros()) / LEVEL_BITS) as usize;
    level.min(LEVELS - 1)
}

fn slot_of(tick: u64, level: usize) -> usize {
    ((tick >> (LEVEL_BITS as usize * level)) as usize) & (SLOTS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drain(wheel: &mut Wheel<u64>, now: u64) -> Vec<u64> {
        let mut due = Vec::new();
        wheel.advance(Instant::from_micros(now), &mut due);
        due.sort_unstable();
        due
    }

    #[test]
    fn entries_come_due_once_and_not_early() {
        let mut wheel = Wheel::new();
        for at in [1u64, 999, 1000, 1001, 64_000, 65_000, 5_000_000, 300_000_000, 100_000_000_000] {
            wheel.set(Instant::from_micros(at), at);
        }
        assert_eq!(drain(&mut wheel, 999), [0; 0]);
        assert_eq!(drain(&mut wheel, 1000), [1, 999, 1000]);
        assert_eq!(drain(&mut wheel, 64_999), [1001, 64_000]);
        assert_eq!(drain(&mut wheel, 299_999_999), [65_000, 5_000_000]);
        assert_eq!(drain(&mut wheel, 100_000_000_000), [300_000_000, 100_000_000_000]);
        assert_eq!((wheel.len(), wheel.next()), (0, None));
    }

    #[test]
    fn an_owner_sets_no_entry_that_another_stands_for() {
        let at = Instant::from_micros;
        let mut entries = Entries::default();
        assert!(entries.want(at(75)));
        assert!(!entries.want(at(80)));
        assert!(entries.want(at(10)));
        assert!(entries.come(at(10)));
        assert!(!entries.want(at(90)), "the one at 75 comes first");
        assert!(entries.want(at(60)));
        assert!(entries.want(at(20)));
        assert!(entries.come(at(20)));
        assert!(entries.come(at(60)));
        assert!(entries.want(at(100)));
        assert!(!entries.come(at(75)), "forgotten, and nothing is due");
        assert!(entries.come(at(100)));
    }

    #[test]
    fn an_entry_for_the_past_comes_at_the_next_tick() {
        let mut wheel = Wheel::new();
        drain(&mut wheel, 10_000_000);
        wheel.set(Instant::from_micros(5), 5);
        assert_eq!(wheel.next(), Some(Instant::from_micros(10_001_000)));
        assert_eq!(drain(&mut wheel, 10_001_000), [5]);
    }

    proptest! {
        /// Whatever is set comes due in the step in which its time comes, and sleeping until `next` never misses any.
        #[test]
        fn nothing_is_early_late_or_lost(
            deadlines in proptest::collection::vec(0u64..400_000_000, 1..200),
            steps in proptest::collection::vec(1u64..90_000_000, 1..40),
        ) {
            let mut wheel = Wheel::new();
            let mut now = 0;
            let mut left = deadlines.clone();
            for &at in &deadlines {
                wheel.set(Instant::from_micros(at), at);
            }
            for step in steps {
                now += step;
                // Sleep as the engine does.
                while let Some(next) = wheel.next().filter(|next| next.as_micros() <= now) {
                    for at in drain(&mut wheel, next.as_micros()) {
                        prop_assert!(at <= next.as_micros());
                        prop_assert!(next.as_micros() < at.max(1).div_ceil(1000) * 1000 + 1000, "late: {} at {}", at, next.as_micros());
                        let place = left.iter().position(|l| *l == at);
                        prop_assert!(place.is_some());
                        left.swap_remove(place.unwrap());
                    }
                }
                prop_assert!(left.iter().all(|at| at.max(&1).div_ceil(1000) * 1000 > now), "missed by {now}");
            }
            prop_assert_eq!(wheel.len(), left.len());
        }
    }
}
