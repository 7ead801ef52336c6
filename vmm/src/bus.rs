//! Who answers at which address: one bus for memory-mapped registers, one for I/O ports.
//!
//! A range belongs to one device. What nobody answers reads as all ones and swallows writes, as on a PC. The map changes while the guest
//! runs, when it moves a base address of a PCI function; it is locked only while it is looked up, never while a device works.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// What answers on a bus. Called from vCPU threads, from several at once; `offset` counts from the start of the device's range.
pub trait BusDevice: fmt::Debug + Send + Sync {
    /// Fills `data` with what a read of that many bytes (1 to 8 in practice; nothing may be relied upon) finds.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Takes a write.
    fn write(&self, offset: u64, data: &[u8]);
}

/// A map of ranges to devices.
#[derive(Debug, Default)]
pub struct Bus {
    ranges: RwLock<BTreeMap<u64, Range>>,
}

#[derive(Debug)]
struct Range {
    len: u64,
    device: Arc<dyn BusDevice>,
}

/// Two devices cannot answer at one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the range of {len:#x} bytes at {start:#x} overlaps another")]
pub struct Overlap {
    /// Where the refused range starts.
    pub start: u64,
    /// Its length.
    pub len: u64,
}

impl Bus {
    /// Lets `device` answer at `len` addresses from `start` on.
    ///
    /// # Errors
    ///
    /// When another one already answers at one of them, or the range is empty or wraps.
    pub fn insert(&self, start: u64, len: u64, device: Arc<dyn BusDevice>) -> Result<(), Overlap> {
        let overlap = Overlap { start, len };
        let last = len.checked_sub(1).and_then(|more| start.checked_add(more)).ok_or(overlap)?;
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((before, range)) = ranges.range(..=last).next_back()
            && before + (range.len - 1) >= start
        {
            return Err(overlap);
        }
        ranges.insert(start, Range { len, device });
        Ok(())
    }

    /// Ends what [`Bus::insert`] began at `start`.
    pub fn remove(&self, start: u64) {
        self.ranges.write().unwrap_or_else(PoisonError::into_inner).remove(&start);
    }

    /// Ends it for all devices: they may hold the bus themselves, and would otherwise keep each other alive for ever.
    pub fn clear(&self) {
        let ranges = std::mem::take(&mut *self.ranges.write().unwrap_or_else(PoisonError::into_inner));
        drop(ranges);
    }

    /// A read by a vCPU.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((device, offset)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// A write by a vCPU.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(address, data.len()) {
            device.write(offset, data);
        }
    }

    /// Whose range the whole access lies in.
    fn find(&self, address: u64, len: usize) -> Option<(Arc<dyn BusDevice>, u64)> {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let (start, range) = ranges.range(..=address).next_back()?;
        let offset = address - start;
        let end = offset.checked_add(u64::try_from(len).ok()?)?;
        (end <= range.len).then(|| (Arc::clone(&range.device), offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Debug, Default)]
    struct Recorder(Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Recorder {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(u8::try_from(offset).unwrap());
        }

        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    #[test]
    fn an_access_reaches_the_device_with_its_offset() {
        let (bus, device) = (Bus::default(), Arc::new(Recorder::default()));
        bus.insert(0x3f8, 8, device.clone()).unwrap();
        let mut byte = [0];
        bus.read(0x3fd, &mut byte);
        assert_eq!(byte, [5]);
        bus.write(0x3f8, &[65]);
        assert_eq!(*device.0.lock().unwrap(), [(0, vec![65])]);
    }

    #[test]
    fn nobody_answers_with_all_ones() {
        let (bus, device) = (Bus::default(), Arc::new(Recorder::default()));
        bus.insert(0x10, 4, device.clone()).unwrap();
        for address in [0, 0xf, 0x12, 0x14, u64::MAX] {
            let mut data = [0; 4];
            bus.read(address, &mut data);
            assert_eq!(data, [0xff; 4], "{address:#x}");
            bus.write(address, &data);
        }
        bus.remove(0x10);
        let mut data = [0];
        bus.read(0x10, &mut data);
        assert_eq!(data, [0xff]);
        assert!(device.0.lock().unwrap().is_empty());
    }

    #[test]
    fn ranges_never_overlap() {
        let (bus, device) = (Bus::default(), Arc::new(Recorder::default()));
        bus.insert(0x100, 0x10, device.clone()).unwrap();
        for (start, len) in [(0x100, 1), (0xff, 2), (0x10f, 1), (0x80, 0x100), (0x104, 4), (0, 0), (u64::MAX, 2)] {
            assert_eq!(bus.insert(start, len, device.clone()), Err(Overlap { start, len }));
        }
        bus.insert(0x110, 1, device.clone()).unwrap();
        bus.insert(0xff, 1, device.clone()).unwrap();
        bus.insert(u64::MAX, 1, device).unwrap();
    }
}
