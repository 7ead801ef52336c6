//! The battery-backed clock of the PC/AT (Motorola MC146818): what time it is in UTC, in binary-coded decimal, and 128 bytes of memory.
//!
//! It cannot be set and has no alarm: the clock is the host's.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::bus::BusDevice;

/// Selects a register; the next port accesses it.
pub const INDEX: u16 = 0x70;

/// Registers of the clock.
mod register {
    pub(super) const SECONDS: u8 = 0x00;
    pub(super) const MINUTES: u8 = 0x02;
    pub(super) const HOURS: u8 = 0x04;
    pub(super) const WEEKDAY: u8 = 0x06;
    pub(super) const DAY: u8 = 0x07;
    pub(super) const MONTH: u8 = 0x08;
    pub(super) const YEAR: u8 = 0x09;
    pub(super) const A: u8 = 0x0a;
    pub(super) const B: u8 = 0x0b;
    pub(super) const C: u8 = 0x0c;
    pub(super) const D: u8 = 0x0d;
    pub(super) const CENTURY: u8 = 0x32;
}

/// Register A: an oscillator of 32,768 Hz, and no update in progress.
const A: u8 = 0x26;
/// Register B: 24 hours, binary-coded decimal.
const B: u8 = 0x02;
/// Register D: the battery is good.
const D: u8 = 0x80;

/// The clock.
#[derive(Debug)]
pub struct Cmos {
    state: Mutex<State>,
    now: fn() -> SystemTime,
}

#[derive(Debug)]
struct State {
    index: u8,
    memory: [u8; 128],
}

impl Default for Cmos {
    fn default() -> Self {
        Self::new(SystemTime::now)
    }
}

impl Cmos {
    /// How many ports there are, from [`INDEX`] on.
    pub const PORTS: u64 = 2;

    /// A clock that shows this time.
    pub fn new(now: fn() -> SystemTime) -> Self {
        Self { state: Mutex::new(State { index: 0, memory: [0; 128] }), now }
    }

    fn register(&self, state: &State) -> u8 {
        let time = Calendar::of((self.now)());
        match state.index {
            register::SECONDS => bcd(time.second),
            register::MINUTES => bcd(time.minute),
            register::HOURS => bcd(time.hour),
            register::WEEKDAY => bcd(time.weekday),
            register::DAY => bcd(time.day),
            register::MONTH => bcd(time.month),
            register::YEAR => bcd(u8::try_from(time.year % 100).unwrap_or(0)),
            register::CENTURY => bcd(u8::try_from(time.year / 100 % 100).unwrap_or(0)),
            register::A => A,
            register::B => B,
            register::C => 0,
            register::D => D,
            index => state.memory[usize::from(index)],
        }
    }
}

impl BusDevice for Cmos {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let (1, [value]) = (offset, data) {
            *value = self.register(&self.state.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        // A word written to the index port is the index and what goes there.
        for (port, value) in (offset..).zip(data) {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match port {
                // The highest bit masks the NMI, of which there is none.
                0 => state.index = value & 0x7f,
                1 => {
                    let index = usize::from(state.index);
                    state.memory[index] = *value;
                }
                _ => {}
            }
        }
    }
}

/// A moment as a calendar shows it, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Calendar {
    year: u64,
    month: u8,
    day: u8,
    /// Sunday is 1.
    weekday: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

impl Calendar {
    fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let (days, seconds) = (since / 86_400, since % 86_400);
        let (year, month, day) = date(days);
        let small = |value: u64| u8::try_from(value).unwrap_or(0);
        Self {
            year,
            month: small(month),
            day: small(day),
            // The epoch was a Thursday.
            weekday: small((days + 4) % 7 + 1),
            hour: small(seconds / 3600),
            minute: small(seconds / 60 % 60),
            second: small(seconds % 60),
        }
    }
}

/// The date that is this many days after the epoch. Years are counted from March, so that a leap day ends one; 400 of them repeat.
fn date(days: u64) -> (u64, u64, u64) {
    // From 0000-03-01 to 1970-01-01.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Binary-coded decimal: a decimal digit in each half.
const fn bcd(value: u8) -> u8 {
    ((value / 10) << 4) | (value % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Calendar {
        Calendar::of(UNIX_EPOCH + Duration::from_secs(seconds))
    }

    fn read(cmos: &Cmos, register: u8) -> u8 {
        cmos.write(0, &[register]);
        let mut value = [0];
        cmos.read(1, &mut value);
        value[0]
    }

    #[test]
    fn the_calendar_is_right() {
        let epoch = Calendar { year: 1970, month: 1, day: 1, weekday: 5, hour: 0, minute: 0, second: 0 };
        assert_eq!(at(0), epoch);
        // `date -u -d @951827696`: Tue Feb 29 12:34:56 UTC 2000
        let leap = Calendar { year: 2000, month: 2, day: 29, weekday: 3, hour: 12, minute: 34, second: 56 };
        assert_eq!(at(951_827_696), leap);
        // Sun Feb 28 23:59:59 UTC 2100, which is no leap year; the next second is in March.
        let century = Calendar { year: 2100, month: 2, day: 28, weekday: 1, hour: 23, minute: 59, second: 59 };
        assert_eq!(at(4_107_542_399), century);
        assert_eq!((at(4_107_542_400).month, at(4_107_542_400).day), (3, 1));
    }

    #[test]
    fn the_time_is_read_in_decimal_digits() {
        let cmos = Cmos::new(|| UNIX_EPOCH + Duration::from_secs(951_827_696));
        let read = [0x32, 0x09, 0x08, 0x07, 0x06, 0x04, 0x02, 0x00].map(|register| read(&cmos, register));
        assert_eq!(read, [0x20, 0x00, 0x02, 0x29, 0x03, 0x12, 0x34, 0x56]);
    }

    #[test]
    fn it_never_seems_to_be_busy_or_flat() {
        let cmos = Cmos::default();
        assert_eq!(read(&cmos, 0x0a) & 0x80, 0);
        assert_eq!(read(&cmos, 0x0d), 0x80);
        assert_eq!(read(&cmos, 0x0b) & 0x06, 0x02);
    }

    #[test]
    fn memory_is_kept_and_the_time_is_not_set() {
        let cmos = Cmos::new(|| UNIX_EPOCH);
        cmos.write(0, &[0x0f, 0x0a]);
        assert_eq!(read(&cmos, 0x0f), 0x0a);
        cmos.write(0, &[0x09, 0x99]);
        assert_eq!(read(&cmos, 0x09), 0x70);
        assert_eq!(read(&cmos, 0xff), 0);
        cmos.write(0, &[0xff, 1, 2, 3]);
        let mut wide = [0; 4];
        cmos.read(0, &mut wide);
        assert_eq!(wide, [0xff; 4]);
    }
}
