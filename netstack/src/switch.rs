//! Joins ports, and the engine as one more, on one link.

use std::fmt;

use crate::frame::{FrameMeta, FrameMut, Offloads};
use crate::port::{PortId, Sent};

/// The ports to the guests, as the stack sees them.
pub trait Link: fmt::Debug {
    /// As [`crate::port::Egress::mtu`]; 0 for a port that is gone.
    fn mtu(&self, port: PortId) -> u16;

    /// As [`crate::port::Egress::offloads`].
    fn offloads(&self, port: PortId) -> Offloads;

    /// As [`crate::port::Egress::send`]; [`Sent::Declined`] for a port that is gone.
    fn send(
        &mut self,
        port: PortId,
        capacity: usize,
        fill: &mut dyn FnMut(&mut FrameMut<'_, '_>) -> Option<(usize, FrameMeta)>,
    ) -> Sent;

    /// All ports.
    fn ports(&self) -> Vec<PortId>;
}
