//! What must hold of the devices whatever a guest does: the substance of the fuzz targets.
//!
//! Each module is a target. Its `judge` takes any bytes at all, has a guest do what they say, and panics if a device does something that
//! it must not; a fuzzer calls it with what it makes up, and ordinary tests with what they make up and with the inputs that once made it
//! panic. Its `seeds` are inputs to begin with, each of which gets far.
//!
//! | module | what is given | what is asked |
//! |---|---|---|
//! | [`virtio_net_queue`] | registers, rings and buffers of a virtio network card, and frames to it | frames are what was agreed, and after a reset everything works |
//! | [`e1000_mmio`] | the same of an e1000 | the same |
//! | [`pci_config`] | accesses to configuration space and base addresses, by all ways | functions stay what they are |
//!
//! All memory of the guest lies between pages that cannot be accessed ([`memory`]), so a device that leaves it ends the process.
#![expect(clippy::missing_panics_doc, reason = "to panic is how all of this tells what is wrong")]

pub mod e1000_mmio;
pub mod memory;
pub mod pci_config;
pub mod port;
pub mod virtio_net_queue;

pub use netstack_judge::Target;

/// All of them.
pub const TARGETS: [Target; 3] = [
    Target { name: "virtio_net_queue", judge: virtio_net_queue::judge, seeds: virtio_net_queue::seeds },
    Target { name: "e1000_mmio", judge: e1000_mmio::judge, seeds: e1000_mmio::seeds },
    Target { name: "pci_config", judge: pci_config::judge, seeds: pci_config::seeds },
];
