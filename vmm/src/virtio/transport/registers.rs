//! The common configuration structure (virtio 1.2, section 4.1.4.3).
//!
//! A driver accesses each field with its own width, and 64-bit fields in two halves.

use super::VirtioPci;

/// Length of the structure.
pub(super) const COMMON_LEN: usize = 0x3c;

mod field {
    pub(super) const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub(super) const DEVICE_FEATURE: u64 = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub(super) const DRIVER_FEATURE: u64 = 0x0c;
    pub(super) const CONFIG_VECTOR: u64 = 0x10;
    pub(super) const NUM_QUEUES: u64 = 0x12;
    pub(super) const DEVICE_STATUS: u64 = 0x14;
    pub(super) const CONFIG_GENERATION: u64 = 0x15;
    pub(super) const QUEUE_SELECT: u64 = 0x16;
    pub(super) const QUEUE_SIZE: u64 = 0x18;
    pub(super) const QUEUE_VECTOR: u64 = 0x1a;
    pub(super) const QUEUE_ENABLE: u64 = 0x1c;
    pub(super) const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    pub(super) const QUEUE_DESC: u64 = 0x20;
    pub(super) const QUEUE_DRIVER: u64 = 0x28;
    pub(super) const QUEUE_DEVICE: u64 = 0x30;
    pub(super) const QUEUE_NOTIFY_DATA: u64 = 0x38;
    pub(super) const QUEUE_RESET: u64 = 0x3a;
}

impl VirtioPci {
    pub(super) fn common_read(&mut self, offset: u64, data: &mut [u8]) {
        let image = self.common();
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        if let Some(there) = image.get(from..) {
            let len = there.len().min(data.len());
            data[..len].copy_from_slice(&there[..len]);
        }
    }

    /// The structure as it reads now.
    fn common(&mut self) -> [u8; COMMON_LEN] {
        self.settle_queues();
        let status = self.status();
        let features = half(self.features(), self.device_feature_select);
        let accepted = half(self.driver_features, self.driver_feature_select);
        let queues = u16::try_from(self.queues.len()).unwrap_or(u16::MAX);
        let mut image = [0; COMMON_LEN];
        let mut put = |field: u64, bytes: &[u8]| {
            if let Some(place) = usize::try_from(field).ok().and_then(|at| image.get_mut(at..at + bytes.len())) {
                place.copy_from_slice(bytes);
            }
        };
        put(field::DEVICE_FEATURE_SELECT, &self.device_feature_select.to_le_bytes());
        put(field::DEVICE_FEATURE, &features.to_le_bytes());
        put(field::DRIVER_FEATURE_SELECT, &self.driver_feature_select.to_le_bytes());
        put(field::DRIVER_FEATURE, &accepted.to_le_bytes());
        put(field::CONFIG_VECTOR, &self.config_interrupt.vector().to_le_bytes());
        put(field::NUM_QUEUES, &queues.to_le_bytes());
        put(field::DEVICE_STATUS, &[status]);
        put(field::CONFIG_GENERATION, &[self.parts.config.generation()]);
        put(field::QUEUE_SELECT, &self.queue_select.to_le_bytes());
        // A queue that does not exist has size 0 (section 4.1.4.3).
        if let Some(queue) = self.queues.get(usize::from(self.queue_select)) {
            put(field::QUEUE_SIZE, &queue.setup.size.to_le_bytes());
            put(field::QUEUE_VECTOR, &queue.interrupt.vector().to_le_bytes());
            put(field::QUEUE_ENABLE, &u16::from(queue.enabled && !queue.resetting).to_le_bytes());
            put(field::QUEUE_NOTIFY_OFF, &self.queue_select.to_le_bytes());
            put(field::QUEUE_DESC, &queue.setup.descriptors.to_le_bytes());
            put(field::QUEUE_DRIVER, &queue.setup.available.to_le_bytes());
            put(field::QUEUE_DEVICE, &queue.setup.used.to_le_bytes());
            put(field::QUEUE_NOTIFY_DATA, &self.queue_select.to_le_bytes());
            put(field::QUEUE_RESET, &u16::from(queue.resetting).to_le_bytes());
        }
        image
    }

    pub(super) fn common_write(&mut self, offset: u64, data: &[u8]) {
        self.settle_queues();
        match *data {
            [value] if offset == field::DEVICE_STATUS => self.set_status(value),
            [a, b] => self.common_write_16(offset, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.common_write_32(offset, u32::from_le_bytes([a, b, c, d])),
            // Not a form that drivers have to use, but one that some do for addresses.
            [a, b, c, d, e, f, g, h] => {
                self.common_write_32(offset, u32::from_le_bytes([a, b, c, d]));
                self.common_write_32(offset + 4, u32::from_le_bytes([e, f, g, h]));
            }
            _ => {}
        }
    }

    fn common_write_16(&mut self, offset: u64, value: u16) {
        let selected = self.queues.get_mut(usize::from(self.queue_select));
        match (offset, selected) {
            (field::CONFIG_VECTOR, _) => self.config_interrupt.choose(value),
            (field::QUEUE_SELECT, _) => self.queue_select = value,
            (field::QUEUE_SIZE, Some(queue)) if !queue.enabled => queue.setup.size = value,
            (field::QUEUE_VECTOR, Some(queue)) => queue.interrupt.choose(value),
            (field::QUEUE_ENABLE, _) if value == 1 => self.enable_queue(),
            (field::QUEUE_RESET, _) if value == 1 => self.reset_queue(),
            _ => {}
        }
    }

    fn common_write_32(&mut self, offset: u64, value: u32) {
        match offset {
            field::DEVICE_FEATURE_SELECT => self.device_feature_select = value,
            field::DRIVER_FEATURE_SELECT => self.driver_feature_select = value,
            // What was agreed upon stays (section 2.2.1).
            field::DRIVER_FEATURE if self.status & super::status::FEATURES_OK == 0 => {
                set_half(&mut self.driver_features, self.driver_feature_select, value);
            }
            field::QUEUE_DESC..field::QUEUE_NOTIFY_DATA if offset.is_multiple_of(4) => {
                let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) else { return };
                if queue.enabled {
                    return;
                }
                let (place, half) = match offset {
                    field::QUEUE_DESC..field::QUEUE_DRIVER => (&mut queue.setup.descriptors, offset - field::QUEUE_DESC),
                    field::QUEUE_DRIVER..field::QUEUE_DEVICE => (&mut queue.setup.available, offset - field::QUEUE_DRIVER),
                    _ => (&mut queue.setup.used, offset - field::QUEUE_DEVICE),
                };
                set_half(place, if half == 0 { 0 } else { 1 }, value);
            }
            _ => {}
        }
    }
}

/// The lower (0) or upper (1) half; there are no others.
const fn half(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

const fn set_half(place: &mut u64, select: u32, value: u32) {
    match select {
        0 => *place = *place & !0xffff_ffff | value as u64,
        1 => *place = *place & 0xffff_ffff | (value as u64) << 32,
        _ => {}
    }
}
