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

use std::collections::BTreeMap;
use crate::port::{Egress, Halves, Ingress};

/// Interim: joins ports with the engine only.
#[derive(Debug, Default)]
pub struct Switch { ingress: BTreeMap<u16, Box<dyn Ingress>>, egress: Egresses, next: u16 }
/// The egress halves.
#[derive(Debug, Default)]
pub struct Egresses(BTreeMap<u16, Box<dyn Egress>>);
impl Switch {
    /// x
    pub fn add(&mut self, halves: Halves) -> PortId { let id = self.next; self.next += 1; self.ingress.insert(id, halves.ingress); self.egress.0.insert(id, halves.egress); PortId(id) }
    /// x
    pub fn remove(&mut self, port: PortId) { self.ingress.remove(&port.0); self.egress.0.remove(&port.0); }
    /// x
    pub fn split(&mut self, port: PortId) -> Option<(&mut dyn Ingress, &mut Egresses)> { Some((self.ingress.get_mut(&port.0)?.as_mut(), &mut self.egress)) }
    /// x
    pub fn egress(&mut self) -> &mut Egresses { &mut self.egress }
    /// x
    pub fn ingress(&mut self, port: PortId) -> Option<&mut (dyn Ingress + 'static)> { self.ingress.get_mut(&port.0).map(|b| b.as_mut()) }
}
impl Egresses {
    /// x
    pub fn get(&mut self, port: PortId) -> Option<&mut (dyn Egress + 'static)> { self.0.get_mut(&port.0).map(|b| b.as_mut()) }
}
impl Link for Egresses {
    fn mtu(&self, port: PortId) -> u16 { self.0.get(&port.0).map_or(0, |e| e.mtu()) }
    fn offloads(&self, port: PortId) -> Offloads { self.0.get(&port.0).map_or(Offloads::NONE, |e| e.offloads()) }
    fn send(&mut self, port: PortId, capacity: usize, fill: &mut dyn FnMut(&mut FrameMut<'_, '_>) -> Option<(usize, FrameMeta)>) -> Sent {
        self.0.get_mut(&port.0).map_or(Sent::Declined, |e| e.send(capacity, fill))
    }
    fn ports(&self) -> Vec<PortId> { self.0.keys().map(|k| PortId(*k)).collect() }
}
