//! PCI bus 0: functions, their configuration space, base addresses and interrupts.
//!
//! A device implements [`PciDevice`] over a [`ConfigSpace`], and [`Msix`] or an interrupt pin. The bus finds functions for both kinds of
//! configuration access, keeps the address maps in step with their base address registers, and ties [`Doorbell`]s to eventfds.
//!
//! A network card or disk is made from [`GuestMemory`](crate::memory::GuestMemory), a [`MsiRoute`](crate::irq::MsiRoute) for each MSI-X
//! vector that it wants, and its [`IntxLine`](crate::irq::IntxLine) if it has a pin. It falls into two: the [`PciDevice`] for the bus, and
//! what moves its data (a [`netstack::port::Port`], a thread).
//!
//! Registers are accessed by vCPU threads, one at a time for a device: the bus locks each function for that long. The data path of a
//! device must not need that lock.

mod bridge;
mod bus;
mod config;
mod msix;

use std::fmt;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

pub use bridge::HostBridge;
pub use bus::{CONFIG_ADDRESS, ConfigPorts, ConfigWindow, DoorbellTies, PciBus, PlugError, SLOTS, Space, intx_gsi};
pub use config::{BarKind, BaseAddress, Command, ConfigSpace, Identity};
pub use msix::{Msix, MsixVector};

/// A function on the bus, as vCPUs see it.
pub trait PciDevice: fmt::Debug + Send {
    /// Its configuration space.
    fn config(&self) -> &ConfigSpace;

    /// Its configuration space, for the bus to assign addresses in.
    fn config_mut(&mut self) -> &mut ConfigSpace;

    /// A configuration read of 1, 2 or 4 bytes that crosses no 4-byte boundary. `offset` is below 4096.
    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        self.config().read(offset, data);
    }

    /// A configuration write of the same form. A device that has MSI-X, or that must know when it becomes bus master, does its work after
    /// passing the write on to [`ConfigSpace::write`]. The bus looks after the base addresses.
    fn config_write(&mut self, offset: u16, data: &[u8]) {
        self.config_mut().write(offset, data);
    }

    /// A read within base address register `bar`, of any size that a processor can do; the whole of it lies within the range.
    fn bar_read(&mut self, bar: usize, offset: u64, data: &mut [u8]);

    /// A write within base address register `bar`.
    fn bar_write(&mut self, bar: usize, offset: u64, data: &[u8]);

    /// Registers for which a write only wakes the data path. Constant. Such writes need not come through [`PciDevice::bar_write`], but
    /// they may: where eventfds are not tied to addresses, it must do the same.
    fn doorbells(&self) -> Vec<Doorbell> {
        Vec::new()
    }
}

/// A register that is an eventfd: a write of any value and size there adds one to it.
#[derive(Debug, Clone)]
pub struct Doorbell {
    /// In which base address register it lies.
    pub bar: usize,
    /// Where in it.
    pub offset: u64,
    /// What is written to. Nonblocking.
    pub event: Arc<EventFd>,
}
