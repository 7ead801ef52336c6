//! The statistics registers: counters that reading clears.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::register::{STATISTICS, STATISTICS_END};

const COUNT: usize = (STATISTICS_END - STATISTICS) as usize / 4;

/// Counters of 32 bits, by their offsets.
mod counter {
    pub(super) const RECEIVED_BY_SIZE: [u32; 6] = [0x405c, 0x4060, 0x4064, 0x4068, 0x406c, 0x4070];
    pub(super) const GPRC: u32 = 0x4074;
    pub(super) const BPRC: u32 = 0x4078;
    pub(super) const MPRC: u32 = 0x407c;
    pub(super) const GPTC: u32 = 0x4080;
    pub(super) const ROC: u32 = 0x40ac;
    pub(super) const TPR: u32 = 0x40d0;
    pub(super) const TPT: u32 = 0x40d4;
    pub(super) const TRANSMITTED_BY_SIZE: [u32; 6] = [0x40d8, 0x40dc, 0x40e0, 0x40e4, 0x40e8, 0x40ec];
    pub(super) const MPTC: u32 = 0x40f0;
    pub(super) const BPTC: u32 = 0x40f4;
    pub(super) const TSCTC: u32 = 0x40f8;
    // The lower halves of those of 64 bits; the upper ones follow.
    pub(super) const GORC: u32 = 0x4088;
    pub(super) const GOTC: u32 = 0x4090;
    pub(super) const TOR: u32 = 0x40c0;
    pub(super) const TOT: u32 = 0x40c8;
}

/// The longest frame of each class, with its FCS, but for the last.
const CLASSES: [usize; 5] = [64, 127, 255, 511, 1023];

/// Length of the FCS, which counts.
const FCS: usize = 4;

#[derive(Debug)]
pub(super) struct Statistics {
    counters: [AtomicU32; COUNT],
    received: AtomicU64,
    transmitted: AtomicU64,
    all_received: AtomicU64,
    all_transmitted: AtomicU64,
}

/// To whom a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cast {
    Unicast,
    Multicast,
    Broadcast,
}

impl Cast {
    /// By the destination address, the first bytes of the frame.
    pub(super) fn of(destination: &[u8]) -> Self {
        match destination {
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, ..] => Self::Broadcast,
            [first, ..] if first & 1 != 0 => Self::Multicast,
            _ => Self::Unicast,
        }
    }
}

impl Statistics {
    pub(super) fn new() -> Self {
        Self {
            counters: [const { AtomicU32::new(0) }; COUNT],
            received: AtomicU64::new(0),
            transmitted: AtomicU64::new(0),
            all_received: AtomicU64::new(0),
            all_transmitted: AtomicU64::new(0),
        }
    }

    /// What the register at `offset` reads as. It is 0 afterwards; of one with 64 bits, both halves are when the upper one is read.
    pub(super) fn take(&self, offset: u32) -> u32 {
        match offset {
            counter::GORC | counter::GOTC | counter::TOR | counter::TOT => {
                self.wide(offset).map_or(0, |wide| wide.load(Ordering::Relaxed) as u32)
            }
            _ => match self.wide(offset.wrapping_sub(4)) {
                Some(wide) => (wide.swap(0, Ordering::Relaxed) >> 32) as u32,
                None => self.counter(offset).map_or(0, |counter| counter.swap(0, Ordering::Relaxed)),
            },
        }
    }

    /// The guest has received a frame of `len` bytes.
    pub(super) fn receive(&self, cast: Cast, len: usize) {
        let len = len + FCS;
        self.add(counter::TPR, 1);
        self.add(counter::GPRC, 1);
        match cast {
            Cast::Unicast => {}
            Cast::Multicast => self.add(counter::MPRC, 1),
            Cast::Broadcast => self.add(counter::BPRC, 1),
        }
        self.add(by_size(counter::RECEIVED_BY_SIZE, len), 1);
        self.received.fetch_add(len as u64, Ordering::Relaxed);
        self.all_received.fetch_add(len as u64, Ordering::Relaxed);
    }

    /// A frame was too long for the guest.
    pub(super) fn too_long(&self) {
        self.add(counter::ROC, 1);
        self.add(counter::TPR, 1);
    }

    /// The guest has sent `frames` frames with `bytes` bytes in all. `segmented` says that they were one for the guest.
    pub(super) fn transmit(&self, cast: Cast, frames: usize, bytes: usize, segmented: bool) {
        let count = u32::try_from(frames).unwrap_or(u32::MAX);
        let bytes = bytes + frames * FCS;
        self.add(counter::TPT, count);
        self.add(counter::GPTC, count);
        match cast {
            Cast::Unicast => {}
            Cast::Multicast => self.add(counter::MPTC, count),
            Cast::Broadcast => self.add(counter::BPTC, count),
        }
        self.add(by_size(counter::TRANSMITTED_BY_SIZE, bytes / frames.max(1)), count);
        if segmented {
            self.add(counter::TSCTC, 1);
        }
        self.transmitted.fetch_add(bytes as u64, Ordering::Relaxed);
        self.all_transmitted.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn reset(&self) {
        for counter in &self.counters {
            counter.store(0, Ordering::Relaxed);
        }
        for wide in [&self.received, &self.transmitted, &self.all_received, &self.all_transmitted] {
            wide.store(0, Ordering::Relaxed);
        }
    }

    fn add(&self, offset: u32, count: u32) {
        if let Some(counter) = self.counter(offset) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    fn counter(&self, offset: u32) -> Option<&AtomicU32> {
        self.counters.get(offset.wrapping_sub(STATISTICS) as usize / 4)
    }

    const fn wide(&self, offset: u32) -> Option<&AtomicU64> {
        match offset {
            counter::GORC => Some(&self.received),
            counter::GOTC => Some(&self.transmitted),
            counter::TOR => Some(&self.all_received),
            counter::TOT => Some(&self.all_transmitted),
            _ => None,
        }
    }
}

fn by_size(counters: [u32; 6], len: usize) -> u32 {
    let class = CLASSES.iter().position(|longest| len <= *longest).unwrap_or(CLASSES.len());
    counters[class]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_clears() {
        let statistics = Statistics::new();
        statistics.receive(Cast::Broadcast, 60);
        statistics.receive(Cast::Unicast, 1514);
        assert_eq!([0x4074, 0x4078, 0x405c, 0x4070, 0x40d0].map(|offset| statistics.take(offset)), [2, 1, 1, 1, 2]);
        assert_eq!([0x4074, 0x4078, 0x405c, 0x4070, 0x40d0].map(|offset| statistics.take(offset)), [0; 5]);
        assert_eq!((statistics.take(0x4088), statistics.take(0x4088)), (1582, 1582), "until the upper half is read");
        assert_eq!((statistics.take(0x408c), statistics.take(0x4088)), (0, 0));
    }

    #[test]
    fn a_segmented_frame_counts_as_what_it_becomes() {
        let statistics = Statistics::new();
        statistics.transmit(Cast::Unicast, 10, 10 * 1514, true);
        assert_eq!([0x4080, 0x40d4, 0x40ec, 0x40f8, 0x4090].map(|offset| statistics.take(offset)), [10, 10, 10, 1, 15180]);
    }
}
