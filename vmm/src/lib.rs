//! A minimal KVM virtual machine monitor whose network cards feed the `netstack` engine in-process.
//!
//! It boots an unmodified Linux as an ordinary user who may open `/dev/kvm`. The guest sees a PC without firmware: ACPI tables, one PCI
//! bus, a serial port. Its network cards are ports of the engine ([`netstack::port::Port`]), so that what the guest sends goes from its
//! own memory into a socket of this process, and back.
//!
//! | module | what is there |
//! |---|---|
//! | [`machine`] | puts everything together on KVM, runs it and ends it |
//! | [`boot`] | kernels, and what they are told at their start |
//! | [`acpi`] | the tables that describe the machine to the guest |
//! | [`memory`] | the guest's memory, and the map of its address space |
//! | [`bus`] | who answers at which address or I/O port |
//! | [`irq`] | how a device interrupts: messages and lines |
//! | [`pci`] | functions on PCI bus 0, their configuration, base addresses and MSI-X |
//! | [`virtio`] | virtio devices: network card, disk, entropy |
//! | [`e1000`] | the other network card, for guests without virtio |
//! | [`probe`] | the built-in guest that tries it all, and its form within this process |
//! | [`legacy`] | the serial port, the clock, and the registers that end the machine |
//!
//! Who may do what: register accesses of a device come from vCPU threads, one at a time for a device. What moves data runs elsewhere (a
//! task of the engine, a thread of the disk) and shares with the registers only atomics and eventfds, never a lock, so that a doorbell
//! costs the guest no more than an eventfd.
//!
//! A guest is an attacker: nothing that it does may panic, hang or grow this process, or reach memory that is not its own.

pub mod acpi;
pub mod boot;
pub mod bus;
mod cpu;
pub mod e1000;
pub mod irq;
mod kick;
pub mod legacy;
pub mod machine;
pub mod memory;
pub mod pci;
pub mod probe;
pub mod virtio;

#[cfg(test)]
mod bell;
#[cfg(test)]
mod guest_tcp;
