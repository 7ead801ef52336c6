//! The host bridge in slot 0: what joins the bus to the processors. It has nothing to configure; guests only look whether it is there.

use super::{ConfigSpace, Identity, PciDevice};

/// A bridge that kernels know and have no special treatment for: the "QEMU PCIe host bridge" of Red Hat.
const IDENTITY: Identity =
    Identity { vendor: 0x1b36, device: 0x0008, revision: 0, class: 0x06_0000, subsystem_vendor: 0x1af4, subsystem: 0x1100 };

/// The host bridge.
#[derive(Debug)]
pub struct HostBridge {
    config: ConfigSpace,
}

impl Default for HostBridge {
    fn default() -> Self {
        Self { config: ConfigSpace::new(&IDENTITY) }
    }
}

impl PciDevice for HostBridge {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn bar_read(&mut self, _bar: usize, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn bar_write(&mut self, _bar: usize, _offset: u64, _data: &[u8]) {}
}
