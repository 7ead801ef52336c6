//! A PCI function with one doorbell, one register, and one that is its interrupt line.

use std::sync::{Arc, Mutex};

use vmm::irq::IntxLine;
use vmm::pci::{BarKind, ConfigSpace, Doorbell, Identity, PciDevice};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// The register.
pub(crate) const REGISTER: u64 = 0x100;
/// The register that asserts the line, by a 1, or not.
pub(crate) const ASSERT: u64 = 0x104;
const BELL: u64 = 0x800;

/// The function.
#[derive(Debug)]
pub(crate) struct Card {
    config: ConfigSpace,
    line: Arc<dyn IntxLine>,
    seen: Arc<Seen>,
}

/// What has come of it.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) bell: Arc<EventFd>,
    pub(crate) writes: Mutex<Vec<(u64, u32)>>,
}

impl Card {
    pub(crate) fn new(line: Arc<dyn IntxLine>) -> (Self, Arc<Seen>) {
        let mut config = ConfigSpace::new(&Identity { vendor: 0x1234, device: 1, ..Identity::default() });
        config.add_bar(0, BarKind::Memory32, 0x1000);
        config.use_interrupt_pin();
        let bell = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
        let seen = Arc::new(Seen { bell, writes: Mutex::default() });
        (Self { config, line, seen: Arc::clone(&seen) }, seen)
    }
}

impl PciDevice for Card {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn bar_read(&mut self, _bar: usize, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn bar_write(&mut self, _bar: usize, offset: u64, data: &[u8]) {
        let value = u32::from_le_bytes(data.try_into().unwrap());
        self.seen.writes.lock().unwrap().push((offset, value));
        if offset == ASSERT {
            self.line.set(value == 1);
        }
    }

    fn doorbells(&self) -> Vec<Doorbell> {
        vec![Doorbell { bar: 0, offset: BELL, event: Arc::clone(&self.seen.bell) }]
    }
}
