//! What the probe guest does: it gets a lease, pings, resolves a name, and moves bytes both ways over TCP, and says how each went.
//!
//! Its TCP/IP is smoltcp, so that the engine on the other side of the card is held against a stack that it has not written. The same body
//! runs in two places: on the bare virtual machine, over the drivers of `probe-machine`; and within a process, over a port in memory,
//! where there is no `/dev/kvm` or where the two are to be compared. Only the card ([`card::Nic`]) and the clock ([`Platform`]) differ.
//!
//! - [`plan`]: what to do, as the words of a kernel command line.
//! - [`report`]: what was done, as lines of text that programs read.
//! - [`card`]: what a driver offers, made into smoltcp's device.
//! - [`data`]: the bytes of a transfer and the checksum by which both ends compare them.
//! - [`guest`]: the stack, and the loop that drives it; the steps are below it.
//!
//! Nothing here blocks or panics on what arrives from the network, and nothing is allocated after the sockets are made.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod card;
pub mod data;
pub mod guest;
pub mod plan;
pub mod report;
mod steps;

pub use guest::run;

/// What the guest needs of the machine that it runs on, beside a card.
pub trait Platform<N> {
    /// Microseconds since some moment before the guest began.
    fn now(&self) -> u64;

    /// Something unpredictable enough for port numbers and sequence numbers.
    fn random(&mut self) -> u64;

    /// Passes the time until a frame may have arrived on `nic`, or until `deadline` (in microseconds of [`Platform::now`]); may return
    /// sooner for no reason.
    fn idle(&mut self, nic: &mut N, deadline: Option<u64>);

    /// Tells the world.
    fn report(&mut self, report: &report::Report<'_>);
}
