//! Virtio 1.2 devices on PCI: a network card, a disk, and a source of entropy.
//!
//! | module | what is there |
//! |---|---|
//! | [`transport`] | the PCI function: capabilities, registers, negotiation, reset |
//! | [`handover`] | how a queue goes from the registers to the data path, and back |
//! | [`interrupt`] | how the data path tells the driver something |
//! | [`queue`] | a virtqueue, served in batches |
//! | [`net`] | the network card: a port of the engine over two queues |
//! | [`block`] | the disk: a raw file |
//! | [`entropy`] | random bytes of the host |
//! | [`worker`] | a thread that serves a queue |
//!
//! A device is two halves. The half for the vCPUs is the same for all kinds, [`transport::VirtioPci`], made of what [`Parts`] says; the
//! half that moves data is the kind's own and runs elsewhere. They share no lock: when the driver is ready, each queue is handed over as a
//! value, and at a reset it is asked back. A driver that breaks the rules finds `DEVICE_NEEDS_RESET` in the status register.

pub mod block;
mod config;
pub mod entropy;
pub mod handover;
pub mod interrupt;
pub mod net;
pub mod queue;
pub mod transport;
pub mod worker;

pub use crate::virtio::config::DeviceConfig;
use crate::virtio::handover::QueueControl;

/// Feature bits of every device (virtio 1.2, chapter 6).
pub mod feature {
    /// Descriptors may lead to tables of descriptors.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Each side says at which index it wants to hear from the other.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// The device is one of virtio 1.0 or later. No other driver is served.
    pub const VERSION_1: u64 = 1 << 32;
    /// One queue can be reset alone.
    pub const RING_RESET: u64 = 1 << 40;

    /// What all devices here offer.
    pub const TRANSPORT: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1 | RING_RESET;
}

/// The half of a device that is for the vCPUs, as its kind describes it.
#[derive(Debug)]
pub struct Parts {
    /// The device type (chapter 5): 1 is a network card.
    pub device_type: u16,
    /// Class, subclass and programming interface for PCI.
    pub class: u32,
    /// The kind's own feature bits.
    pub features: u64,
    /// Which other features each feature needs: those of the second mask, if any of the first is there.
    pub requires: &'static [(u64, u64)],
    /// The device configuration, which no driver changes here.
    pub config: DeviceConfig,
    /// The queues, in their order.
    pub queues: Vec<QueueControl>,
}

#[cfg(test)]
pub(crate) mod driver;
