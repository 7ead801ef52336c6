//! The PCI function of a virtio device (virtio 1.2, section 4.1): modern only.
//!
//! Everything lies in base address register 0, one page for each structure, so that a hypervisor could map each alone:
//!
//! ```text
//! 0x0000  common configuration    0x3000  notification, 4 bytes a queue
//! 0x1000  ISR status              0x4000  MSI-X table
//! 0x2000  device configuration    0x4800  MSI-X pending bits
//! ```
//!
//! What always holds:
//!
//! - A register access never waits for the data path. A reset asks for the queues back, and reads as unfinished until they are.
//! - Accesses of sizes and at places that no driver needs read as they fall, and change nothing.

mod registers;

use std::fmt;
use std::sync::Arc;

use super::handover::{ActiveQueue, QueueControl};
use super::interrupt::{Health, Interrupts, QueueInterrupt};
use super::queue::{Queue, QueueError, QueueSetup};
use super::{Parts, feature};
use crate::irq::{IntxLine, MsiRoute};
use crate::memory::GuestMemory;
use crate::pci::{BarKind, ConfigSpace, Doorbell, Identity, Msix, PciDevice};

/// Where the structures are.
const BAR: usize = 0;
const BAR_SIZE: u64 = 0x8000;
const COMMON: u64 = 0;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const MSIX_TABLE: u64 = 0x4000;
const MSIX_PENDING: u64 = 0x4800;
const PAGE: u64 = 0x1000;
/// Bytes between the notification registers of two queues.
const NOTIFY_MULTIPLIER: u32 = 4;

/// PCI numbers of virtio devices (section 4.1.2).
const VENDOR: u16 = 0x1af4;
const FIRST_DEVICE: u16 = 0x1040;
const SUBSYSTEM: u16 = 0x1100;

/// The vendor-specific capability, and what it can say (section 4.1.4).
const CAPABILITY: u8 = 0x09;
const CAP_COMMON: u8 = 1;
const CAP_NOTIFY: u8 = 2;
const CAP_ISR: u8 = 3;
const CAP_DEVICE: u8 = 4;
const CAP_PCI: u8 = 5;
/// Where `bar`, `offset`, `length` and the data window are in the capability for access through configuration space.
const CAP_BAR: u16 = 4;
const CAP_OFFSET: u16 = 8;
const CAP_LENGTH: u16 = 12;
const CAP_DATA: u16 = 16;

/// Bits of the device status register (section 2.1).
pub mod status {
    /// A driver has seen the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// It knows how to drive it.
    pub const DRIVER: u8 = 2;
    /// It is ready.
    pub const DRIVER_OK: u8 = 4;
    /// Both agree on the features.
    pub const FEATURES_OK: u8 = 8;
    /// The device can do nothing more before it is reset.
    pub const NEEDS_RESET: u8 = 64;
    /// The driver has given up.
    pub const FAILED: u8 = 128;
}

/// Which MSI-X vectors a device with this many queues can use: one a queue, and one for the configuration.
pub const fn vectors(queues: usize) -> usize {
    queues + 1
}

/// A virtio device on the PCI bus.
pub struct VirtioPci {
    config: ConfigSpace,
    msix: Msix,
    interrupts: Arc<Interrupts>,
    config_interrupt: QueueInterrupt,
    health: Arc<Health>,
    memory: GuestMemory,
    parts: Parts,
    queues: Vec<QueueState>,
    /// The capability for access through configuration space.
    window: u16,
    status: u8,
    /// The driver has asked for a reset that is not finished.
    resetting: bool,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    queue_select: u16,
}

/// What the driver has said of a queue.
#[derive(Debug)]
struct QueueState {
    setup: QueueSetup,
    enabled: bool,
    /// The driver has asked for a reset of this queue that is not finished.
    resetting: bool,
    interrupt: QueueInterrupt,
}

impl VirtioPci {
    /// The function of the device that `parts` describes, in a guest with this memory. It has one vector for each of `routes`;
    /// [`vectors`] says how many make sense. Drivers without MSI-X are interrupted by `line`. `name` is for messages.
    pub fn new(name: String, memory: GuestMemory, parts: Parts, routes: Vec<Arc<dyn MsiRoute>>, line: Arc<dyn IntxLine>) -> Self {
        let mut config = ConfigSpace::new(&Identity {
            vendor: VENDOR,
            device: FIRST_DEVICE + parts.device_type,
            revision: 1,
            class: parts.class,
            subsystem_vendor: VENDOR,
            subsystem: SUBSYSTEM,
        });
        config.add_bar(BAR, BarKind::Memory32, BAR_SIZE);
        config.use_interrupt_pin();
        let notify_len = NOTIFY_MULTIPLIER * u32::try_from(parts.queues.len()).unwrap_or(u32::MAX);
        let device_len = u32::try_from(parts.config.len()).unwrap_or(u32::MAX);
        structure(&mut config, CAP_COMMON, COMMON, registers::COMMON_LEN as u32, &[]);
        structure(&mut config, CAP_NOTIFY, NOTIFY, notify_len, &NOTIFY_MULTIPLIER.to_le_bytes());
        structure(&mut config, CAP_ISR, ISR, 1, &[]);
        if device_len > 0 {
            structure(&mut config, CAP_DEVICE, DEVICE, device_len, &[]);
        }
        let window = window(&mut config);
        let bar = BAR as u8;
        let msix = Msix::new(&mut config, routes, (bar, MSIX_TABLE as u32), (bar, MSIX_PENDING as u32));
        let all = (0..msix.len()).filter_map(|number| msix.vector(u16::try_from(number).ok()?)).collect();
        let interrupts = Interrupts::new(all, line);
        let config_interrupt = interrupts.configuration();
        let health = Health::new(name, config_interrupt.clone());
        let queues = parts.queues.iter().map(|queue| QueueState::new(queue, interrupts.queue())).collect();
        Self {
            config,
            msix,
            interrupts,
            config_interrupt,
            health,
            memory,
            parts,
            queues,
            window,
            status: 0,
            resetting: false,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            queue_select: 0,
        }
    }

    fn features(&self) -> u64 {
        self.parts.features | feature::TRANSPORT
    }

    /// Whether the device can work with exactly what the driver wants (section 2.2.2).
    fn accepts(&self, wanted: u64) -> bool {
        let needs_met = |&(any, needed): &(u64, u64)| wanted & any == 0 || wanted & needed == needed;
        wanted & !self.features() == 0 && wanted & feature::VERSION_1 != 0 && self.parts.requires.iter().all(needs_met)
    }

    /// What the driver finds in the status register.
    fn status(&mut self) -> u8 {
        if self.resetting && self.parts.queues.iter().all(QueueControl::is_idle) {
            self.finish_reset();
        }
        self.status | if self.health.has_failed() { status::NEEDS_RESET } else { 0 }
    }

    fn set_status(&mut self, value: u8) {
        if value == 0 {
            self.resetting = true;
            self.parts.queues.iter().for_each(QueueControl::stop);
            self.status();
            return;
        }
        // A driver has to wait until it reads 0 (section 4.1.4.3.2). One that does not, and whose device had nothing to stop, is served.
        self.status();
        if self.resetting {
            return;
        }
        let new = value & !self.status;
        self.status |= value & !status::NEEDS_RESET;
        if new & status::FEATURES_OK != 0 && !self.accepts(self.driver_features) {
            self.status &= !status::FEATURES_OK;
        }
        if new & status::DRIVER_OK != 0 && self.status & status::FEATURES_OK != 0 {
            for index in 0..self.queues.len() {
                if self.queues[index].enabled {
                    self.start(index);
                }
            }
        }
    }

    const fn is_running(&self) -> bool {
        const BOTH: u8 = status::DRIVER_OK | status::FEATURES_OK;
        self.status & BOTH == BOTH && !self.resetting
    }

    /// Hands a queue that the driver has enabled to the data path.
    fn start(&mut self, index: usize) {
        let state = &self.queues[index];
        let event_idx = self.driver_features & feature::EVENT_IDX != 0;
        let fits = state.setup.size <= self.parts.queues[index].max_size();
        let queue = if fits { Queue::new(&self.memory, &state.setup, event_idx) } else { Err(QueueError::Rings) };
        match queue {
            Ok(queue) => self.parts.queues[index].start(ActiveQueue {
                queue,
                memory: self.memory.clone(),
                features: self.driver_features,
                interrupt: state.interrupt.clone(),
                health: Arc::clone(&self.health),
            }),
            Err(error) => self.fail(error),
        }
    }

    fn fail(&self, error: QueueError) {
        self.health.fail(error);
    }

    fn enable_queue(&mut self) {
        let index = usize::from(self.queue_select);
        let running = self.is_running();
        let Some(state) = self.queues.get_mut(index) else { return };
        if state.enabled || state.resetting {
            return;
        }
        state.enabled = true;
        if running {
            self.start(index);
        }
    }

    /// Resets the selected queue alone (section 2.6.1).
    fn reset_queue(&mut self) {
        let index = usize::from(self.queue_select);
        let allowed = self.is_running() && self.driver_features & feature::RING_RESET != 0;
        let (Some(state), Some(control)) = (self.queues.get_mut(index), self.parts.queues.get(index)) else { return };
        if allowed && state.enabled {
            state.resetting = true;
            control.stop();
        }
    }

    /// Finishes the resets of queues that the data path has let go of.
    fn settle_queues(&mut self) {
        for (state, control) in self.queues.iter_mut().zip(&self.parts.queues) {
            if state.resetting && control.is_idle() {
                state.reset(control);
            }
        }
    }

    fn finish_reset(&mut self) {
        self.resetting = false;
        self.status = 0;
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.driver_features = 0;
        self.queue_select = 0;
        for (state, control) in self.queues.iter_mut().zip(&self.parts.queues) {
            state.reset(control);
        }
        self.config_interrupt.choose(super::interrupt::NO_VECTOR);
        self.interrupts.take_isr();
        self.health.recover();
    }

    /// What the capability for access through configuration space points at, if that is something.
    fn windowed(&self, len: usize) -> Option<u64> {
        let offset = u64::from(self.config.u32_at(self.window + CAP_OFFSET));
        let length = self.config.u32_at(self.window + CAP_LENGTH);
        let bar = self.config.u32_at(self.window + CAP_BAR) & 0xff;
        let fits = usize::try_from(length) == Ok(len) && matches!(len, 1 | 2 | 4) && offset + len as u64 <= BAR_SIZE;
        (fits && bar == BAR as u32).then_some(offset)
    }
}

/// Announces a structure of the device.
fn structure(config: &mut ConfigSpace, kind: u8, offset: u64, len: u32, more: &[u8]) {
    config.add_capability(CAPABILITY, &capability(kind, offset as u32, len, more), &[]);
}

fn window(config: &mut ConfigSpace) -> u16 {
    let body = capability(CAP_PCI, 0, 0, &[0; 4]);
    let mut writable = vec![0; body.len()];
    // Counted from behind the link: `bar`, `offset` and `length`.
    writable[2] = 0xff;
    writable[6..14].fill(0xff);
    config.add_capability(CAPABILITY, &body, &writable)
}

/// `struct virtio_pci_cap` behind the link to the next capability.
fn capability(kind: u8, offset: u32, len: u32, more: &[u8]) -> Vec<u8> {
    let cap_len = u8::try_from(16 + more.len()).unwrap_or_default();
    let mut body = vec![cap_len, kind, BAR as u8, 0, 0, 0];
    body.extend(offset.to_le_bytes());
    body.extend(len.to_le_bytes());
    body.extend(more);
    body
}

impl QueueState {
    fn new(control: &QueueControl, interrupt: QueueInterrupt) -> Self {
        let setup = QueueSetup { size: control.max_size(), ..QueueSetup::default() };
        Self { setup, enabled: false, resetting: false, interrupt }
    }

    fn reset(&mut self, control: &QueueControl) {
        *self = Self::new(control, self.interrupt.clone());
        self.interrupt.choose(super::interrupt::NO_VECTOR);
    }
}

impl PciDevice for VirtioPci {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        match self.windowed(data.len()) {
            Some(place) if offset == self.window + CAP_DATA => self.bar_read(BAR, place, data),
            _ => self.config.read(offset, data),
        }
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        match self.windowed(data.len()) {
            Some(place) if offset == self.window + CAP_DATA => self.bar_write(BAR, place, data),
            _ => {
                self.config.write(offset, data);
                self.msix.configured(&self.config);
                self.interrupts.configured(self.msix.is_enabled(), self.config.command().intx_disabled());
            }
        }
    }

    fn bar_read(&mut self, bar: usize, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if bar != BAR {
            return;
        }
        match offset {
            ..ISR => self.common_read(offset, data),
            ISR => {
                if let Some(byte) = data.first_mut() {
                    *byte = self.interrupts.take_isr();
                }
            }
            DEVICE..NOTIFY => {
                let from = usize::try_from(offset - DEVICE).unwrap_or(usize::MAX);
                self.parts.config.read(from, data);
            }
            MSIX_TABLE..MSIX_PENDING => self.msix.table_read(offset - MSIX_TABLE, data),
            MSIX_PENDING..BAR_SIZE => self.msix.pending_read(offset - MSIX_PENDING, data),
            _ => {}
        }
    }

    fn bar_write(&mut self, bar: usize, offset: u64, data: &[u8]) {
        if bar != BAR {
            return;
        }
        match offset {
            ..ISR => self.common_write(offset, data),
            NOTIFY..MSIX_TABLE => {
                let queue = (offset - NOTIFY) / u64::from(NOTIFY_MULTIPLIER);
                let queue = usize::try_from(queue).ok().and_then(|queue| self.parts.queues.get(queue));
                if let Some(queue) = queue.filter(|_| offset.is_multiple_of(u64::from(NOTIFY_MULTIPLIER))) {
                    // A counter that is full has woken whoever waits.
                    let _ = queue.kick().write(1);
                }
            }
            MSIX_TABLE..MSIX_PENDING => self.msix.table_write(offset - MSIX_TABLE, data),
            _ => {}
        }
    }

    fn doorbells(&self) -> Vec<Doorbell> {
        let offsets = (NOTIFY..NOTIFY + PAGE).step_by(NOTIFY_MULTIPLIER as usize);
        let doorbell = |(queue, offset): (&QueueControl, u64)| Doorbell { bar: BAR, offset, event: Arc::clone(queue.kick()) };
        self.parts.queues.iter().zip(offsets).map(doorbell).collect()
    }
}

impl fmt::Debug for VirtioPci {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioPci").field("health", &self.health).field("status", &self.status).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
