//! The device configuration (virtio 1.2, section 2.5): what a driver reads of the kind of a device, and what the device may change
//! meanwhile.
//!
//! A driver that reads several fields looks at the generation before and after; if it has changed, it reads them again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A device configuration. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct DeviceConfig(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    generation: u8,
}

impl From<Vec<u8>> for DeviceConfig {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Content { bytes, generation: 0 })))
    }
}

impl DeviceConfig {
    /// How many bytes it has, which never changes.
    pub fn len(&self) -> usize {
        self.lock().bytes.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies what is there from `from` on.
    pub fn read(&self, from: usize, into: &mut [u8]) {
        if let Some(there) = self.lock().bytes.get(from..) {
            let len = there.len().min(into.len());
            into[..len].copy_from_slice(&there[..len]);
        }
    }

    /// Changes a field. The driver is told by whoever changes it.
    pub fn write(&self, at: usize, field: &[u8]) {
        let mut content = self.lock();
        content.generation = content.generation.wrapping_add(1);
        if let Some(place) = content.bytes.get_mut(at..at + field.len()) {
            place.copy_from_slice(field);
        }
    }

    /// What changes whenever a field does.
    pub fn generation(&self) -> u8 {
        self.lock().generation
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_by_all_and_has_a_generation_of_its_own() {
        let config = DeviceConfig::from(vec![1, 2, 3, 4]);
        let driver = config.clone();
        let before = driver.generation();
        config.write(1, &[7, 8]);
        let mut seen = [0; 6];
        driver.read(0, &mut seen);
        assert_eq!(seen, [1, 7, 8, 4, 0, 0]);
        assert_ne!(driver.generation(), before);
        config.write(3, &[9, 9]);
        driver.read(9, &mut seen);
        assert_eq!((driver.len(), seen[0]), (4, 1), "nothing is beyond its end");
    }
}
