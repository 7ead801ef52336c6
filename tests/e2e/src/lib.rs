//! What the end-to-end tests stand on: guests with real kernels, and the servers and clients at both ends.
//!
//! The tests run the program `slipway` as a user would: without any right, whoever runs the tests ([`unprivileged`]). Its guests are the
//! running kernel in a network namespace ([`namespace`]), a stock Debian kernel in QEMU ([`qemu`]), and one in our own virtual machine,
//! which runs on a machine with KVM that QEMU imitates ([`nested`]); in all of them the test types commands
//! into a shell ([`session`]) and looks at what they print. What listens on the host's loopback meanwhile is in [`host`], and what the
//! guest needs beyond the tools of Debian is the program `e2e-guest`.
//!
//! A [`story`] needs no kernel: it is a guest that sends its frames by hand, to slipway, to libslirp, or in virtual time. What stories and
//! real guests have been recorded is known to [`fixtures`].
//!
//! What always holds: nothing waits for time to pass, only for something to happen, and for that at most [`PATIENCE`]; and what a test has
//! started ends with it.

pub mod fixtures;
pub mod host;
pub mod initrd;
pub mod namespace;
pub mod nested;
pub mod pattern;
pub mod processes;
pub mod programs;
pub mod qemu;
pub mod session;
pub mod story;
pub mod tshark;
pub mod unprivileged;
pub mod wait;

/// How long something may take that takes no time unless it is broken.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// How long what moves much data, or boots a machine without hardware support, may take.
pub const LONG_PATIENCE: std::time::Duration = std::time::Duration::from_secs(150);
