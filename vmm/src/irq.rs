//! How a device interrupts the guest: message-signalled interrupts and level-triggered lines.
//!
//! Devices know only the two traits. The machine makes them of KVM's irqfds, GSI routes and lines; tests use the [`fake`]s.
//! Both may be used from any thread at once, and neither blocks.

use std::fmt;

/// What a device writes, and where, to interrupt by a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// Where the write goes: a local APIC.
    pub address: u64,
    /// What is written: the vector and how it is delivered.
    pub data: u32,
}

/// One message-signalled interrupt of one device. [`crate::pci::Msix`] programs and masks it; a data path has a
/// [`crate::pci::MsixVector`] in its hands.
pub trait MsiRoute: fmt::Debug + Send + Sync {
    /// Which message [`MsiRoute::signal`] sends from now on; called from vCPU threads only.
    fn program(&self, message: MsiMessage);

    /// Sends the message. One write to an eventfd; several before the guest looks may become one. Without a message so far, nothing
    /// happens.
    fn signal(&self);
}

/// The interrupt line of a device, level-triggered. A line that devices share is high while any of them asserts it.
///
/// A device whose threads compute the level from shared state and then call this must make sure that the last call tells the last level,
/// for example by computing it anew after each call until it has not changed.
pub trait IntxLine: fmt::Debug + Send + Sync {
    /// Asserts or deasserts the line on behalf of this device.
    fn set(&self, asserted: bool);
}

/// Interrupts that nobody takes, for tests: they remember what happened.
pub mod fake {
    use super::{IntxLine, MsiMessage, MsiRoute};
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    /// A route that counts.
    #[derive(Debug, Default)]
    pub struct FakeMsi {
        signals: AtomicU64,
        message: Mutex<Option<MsiMessage>>,
    }

    impl FakeMsi {
        /// `count` of them, as they are given to a device.
        pub fn several(count: usize) -> Vec<Arc<Self>> {
            (0..count).map(|_| Arc::default()).collect()
        }

        /// How often it was signalled.
        pub fn signals(&self) -> u64 {
            self.signals.load(Ordering::SeqCst)
        }

        /// What it was programmed with last.
        pub fn message(&self) -> Option<MsiMessage> {
            self.message.lock().ok().and_then(|message| *message)
        }
    }

    impl MsiRoute for FakeMsi {
        fn program(&self, message: MsiMessage) {
            if let Ok(mut place) = self.message.lock() {
                *place = Some(message);
            }
        }

        fn signal(&self) {
            self.signals.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A line with a lamp.
    #[derive(Debug, Default)]
    pub struct FakeLine {
        asserted: AtomicBool,
        rises: AtomicU64,
    }

    impl FakeLine {
        /// Whether it is asserted.
        pub fn is_asserted(&self) -> bool {
            self.asserted.load(Ordering::SeqCst)
        }

        /// How often it became asserted.
        pub fn rises(&self) -> u64 {
            self.rises.load(Ordering::SeqCst)
        }
    }

    impl IntxLine for FakeLine {
        fn set(&self, asserted: bool) {
            if !self.asserted.swap(asserted, Ordering::SeqCst) && asserted {
                self.rises.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}
