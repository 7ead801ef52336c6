//! The state in which processors start: what they say of themselves, and the registers of the first one.
//!
//! The first processor starts where the kernel wants it. The others wait for the kernel to start them, which KVM's local APICs do.

mod cpuid;
mod registers;

pub(crate) use cpuid::for_vcpu;
pub(crate) use registers::{set_first, set_model_specific, write_tables};
