//! The probe guest over the `virtio-drivers` crate, as an image that tests boot.

#![no_std]

/// An ELF file with a PVH note.
pub const IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/probe-independent.elf"));
