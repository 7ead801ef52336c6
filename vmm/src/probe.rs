//! The built-in probe guest: a whole guest in a quarter of a megabyte that uses its network card and says what came of it.
//!
//! It is the `no_std` program below `vmm/guest`: smoltcp over small drivers for virtio-net and the e1000. [`IMAGE`] is what a machine
//! boots; the [`Plan`] on its command line says what to do; every line of its serial port that [`Report::parse`] understands says how it
//! went. [`Servers`] are the other end of its transfers.
//!
//! [`simulate`] runs the very same body within this process, over a port in memory: where there is no `/dev/kvm`, and to see what a
//! virtual machine and its card cost beside it.

mod servers;
mod simulated;

pub use probe_body::plan::{NicKind, Plan, PlanError, Wait};
pub use probe_body::report::{Mac, Moved, Report};

pub use self::servers::Servers;
pub use self::simulated::{SimulateError, simulate};

/// The image, to be booted as a kernel: an ELF file with a PVH note. Its memory ends below 40 MiB.
pub const IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/probe.elf"));
