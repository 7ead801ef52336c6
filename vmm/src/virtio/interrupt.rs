//! How the data path tells the driver something: that buffers were used, or that the device's configuration or state has changed.
//!
//! Drivers that use MSI-X get a message of the vector that they chose; the others find a bit in the ISR register and their interrupt line
//! asserted until they read it (virtio 1.2, section 4.1.4.5). Nothing here blocks, and everything may be used from any thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};

use super::queue::QueueError;
use crate::irq::IntxLine;
use crate::pci::MsixVector;

/// No vector: the driver does not want to hear of it.
pub const NO_VECTOR: u16 = 0xffff;

/// Bits of the ISR register.
const ISR_QUEUE: u8 = 1;
const ISR_CONFIGURATION: u8 = 2;

/// The interrupts of one device.
#[derive(Debug)]
pub struct Interrupts {
    vectors: Vec<MsixVector>,
    by_message: AtomicBool,
    isr: AtomicU8,
    line: Arc<dyn IntxLine>,
    line_disabled: AtomicBool,
}

/// What interrupts for one reason: a queue, or the configuration.
#[derive(Debug, Clone)]
pub struct QueueInterrupt {
    all: Arc<Interrupts>,
    vector: Arc<AtomicU16>,
    isr: u8,
}

impl Interrupts {
    /// Those of a device with these vectors and this line.
    pub fn new(vectors: Vec<MsixVector>, line: Arc<dyn IntxLine>) -> Arc<Self> {
        let (by_message, line_disabled) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { vectors, by_message, isr: AtomicU8::new(0), line, line_disabled })
    }

    /// An interrupt for used buffers.
    pub fn queue(self: &Arc<Self>) -> QueueInterrupt {
        QueueInterrupt { all: Arc::clone(self), vector: Arc::new(AtomicU16::new(NO_VECTOR)), isr: ISR_QUEUE }
    }

    /// The interrupt for changes of the configuration.
    pub fn configuration(self: &Arc<Self>) -> QueueInterrupt {
        QueueInterrupt { isr: ISR_CONFIGURATION, ..self.queue() }
    }

    /// Takes over what the driver has set in the configuration space.
    pub fn configured(&self, by_message: bool, line_disabled: bool) {
        self.by_message.store(by_message, Ordering::SeqCst);
        self.line_disabled.store(line_disabled, Ordering::SeqCst);
        self.drive_line();
    }

    /// What the driver finds in the ISR register, which is empty afterwards.
    pub fn take_isr(&self) -> u8 {
        let isr = self.isr.swap(0, Ordering::SeqCst);
        self.drive_line();
        isr
    }

    fn level(&self) -> bool {
        self.isr.load(Ordering::SeqCst) != 0
            && !self.by_message.load(Ordering::SeqCst)
            && !self.line_disabled.load(Ordering::SeqCst)
    }

    /// Whoever drives the line last has seen everything that others changed before they drove it.
    fn drive_line(&self) {
        loop {
            let level = self.level();
            self.line.set(level);
            if self.level() == level {
                return;
            }
        }
    }
}

impl QueueInterrupt {
    /// Interrupts the driver.
    pub fn signal(&self) {
        if self.all.by_message.load(Ordering::Acquire) {
            if let Some(vector) = self.all.vectors.get(usize::from(self.vector())) {
                vector.signal();
            }
        } else {
            self.all.isr.fetch_or(self.isr, Ordering::SeqCst);
            self.all.drive_line();
        }
    }

    /// The vector that the driver chose.
    pub fn vector(&self) -> u16 {
        self.vector.load(Ordering::Acquire)
    }

    /// Takes over the driver's choice; [`NO_VECTOR`] if there is no such vector.
    pub fn choose(&self, vector: u16) {
        let known = usize::from(vector) < self.all.vectors.len();
        self.vector.store(if known { vector } else { NO_VECTOR }, Ordering::Release);
    }
}

/// How often a driver that breaks the rules is spoken of, since it can go on for ever.
const REPORTS: u8 = 10;

/// Whether a device still works.
#[derive(Debug)]
pub struct Health {
    name: String,
    failed: AtomicBool,
    reports: AtomicU8,
    interrupt: QueueInterrupt,
}

impl Health {
    /// Of the device with this name, which tells its driver by `interrupt`.
    pub fn new(name: String, interrupt: QueueInterrupt) -> Arc<Self> {
        Arc::new(Self { name, failed: AtomicBool::new(false), reports: AtomicU8::new(0), interrupt })
    }

    /// The driver has done what it must not. It finds `DEVICE_NEEDS_RESET` from now on, and is told (section 2.1.2).
    pub fn fail(&self, error: QueueError) {
        if !self.failed.swap(true, Ordering::AcqRel) {
            if self.reports.load(Ordering::Relaxed) < REPORTS {
                self.reports.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(device = %self.name, %error, "the driver broke the rules; the device waits for its reset");
            }
            self.interrupt.signal();
        }
    }

    /// Tells the driver that the configuration has changed.
    pub fn config_changed(&self) {
        self.interrupt.signal();
    }

    /// Whether the device needs a reset.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// It had its reset.
    pub fn recover(&self) {
        self.failed.store(false, Ordering::Release);
    }
}
