//! Joins ports, and the engine as one more, on one link.
//!
//! A learning switch: it remembers behind which port a station was seen last, and sends frames between guests there, or everywhere while
//! it does not know. Guests differ in what they leave to others, so a frame is finished or cut where its receiver does not take it.
//!
//! What always holds:
//!
//! - With a single port there is nothing to decide, and nothing is looked up.
//! - Each port is remembered with a bounded number of stations, so one guest that makes up addresses harms no other.
//! - Between guests this is a switch like any other: a frame for a port that is full, or too long for it, is dropped and counted. What
//!   the engine sends is not affected.

mod stations;

use std::collections::VecDeque;
use std::fmt;

use crate::addr::MacAddr;
use crate::capture::Recorder;
use crate::frame::{ETHERNET_HEADER, Frame, FrameMeta, FrameMut, Offloads, segment, vnet};
use crate::port::{Egress, Halves, Ingress, PortId, Sent};
use crate::time::Instant;
use stations::Stations;

/// How many ids of ports that are gone rest before the first is used again: so what is still under way to a port, such as an answer from a
/// name server, does not reach the guest after it.
const RESTING_IDS: usize = 256;

/// How much longer than the MTU a frame with a VLAN tag may be (IEEE 802.3 clause 3.2.7).
const VLAN_TAG: usize = 4;

/// The ports to the guests, as the stack sees them.
pub trait Link: fmt::Debug {
    /// As [`crate::port::Egress::mtu`]; 0 for a port that is gone.
    fn mtu(&self, port: PortId) -> u16;

    /// As [`crate::port::Egress::offloads`].
    fn offloads(&self, port: PortId) -> Offloads;

    /// As [`crate::port::Egress::send`]; [`Sent::Declined`] for a port that is gone, [`Sent::Full`] for one whose link is down.
    fn send(
        &mut self,
        port: PortId,
        capacity: usize,
        fill: &mut dyn FnMut(&mut FrameMut<'_, '_>) -> Option<(usize, FrameMeta)>,
    ) -> Sent;

    /// All ports.
    fn ports(&self) -> Vec<PortId>;
}

/// All ports. The halves are kept apart, so that frames can go out on any port while one is drained.
#[derive(Debug, Default)]
pub struct Switch {
    ingresses: Vec<Option<Box<dyn Ingress>>>,
    egresses: Egresses,
    resting: VecDeque<PortId>,
}

/// There are 65,536 ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are as many ports as there can be: detach one")]
pub struct TooManyPorts;

impl Switch {
    /// Joins a port.
    ///
    /// # Errors
    ///
    /// When there are too many.
    pub fn add(&mut self, halves: Halves) -> Result<PortId, TooManyPorts> {
        let next = PortId::try_from(self.ingresses.len());
        let rested = self.resting.len() > RESTING_IDS || next.is_err();
        let port = match rested.then(|| self.resting.pop_front()).flatten() {
            Some(port) => port,
            None => {
                let port = next?;
                self.ingresses.push(None);
                self.egresses.outlets.push(None);
                port
            }
        };
        self.ingresses[usize::from(port.0)] = Some(halves.ingress);
        self.egresses.outlets[usize::from(port.0)] = Some(halves.egress);
        self.egresses.count += 1;
        Ok(port)
    }

    /// Drops a port, and all that was known about the stations behind it.
    pub fn remove(&mut self, port: PortId) {
        let Some(ingress) = self.ingresses.get_mut(usize::from(port.0)).and_then(Option::take) else { return };
        drop(ingress);
        self.egresses.outlets[usize::from(port.0)] = None;
        self.egresses.down.retain(|down| *down != port);
        self.egresses.count -= 1;
        self.egresses.stations.forget(port);
        self.resting.push_back(port);
    }

    /// The ingress half of one port, and the egress halves of all.
    pub fn split(&mut self, port: PortId) -> Option<(&mut (dyn Ingress + 'static), &mut Egresses)> {
        Some((self.ingresses.get_mut(usize::from(port.0))?.as_deref_mut()?, &mut self.egresses))
    }

    /// The ingress half of a port.
    pub fn ingress(&mut self, port: PortId) -> Option<&mut (dyn Ingress + 'static)> {
        self.ingresses.get_mut(usize::from(port.0))?.as_deref_mut()
    }

    /// What is told of every frame that passes.
    pub const fn recorder(&mut self) -> &mut Recorder {
        &mut self.egresses.recorder
    }

    /// The egress halves of all ports.
    pub const fn egress(&mut self) -> &mut Egresses {
        &mut self.egresses
    }
}

impl TryFrom<usize> for PortId {
    type Error = TooManyPorts;

    fn try_from(index: usize) -> Result<Self, TooManyPorts> {
        u16::try_from(index).map(Self).map_err(|_| TooManyPorts)
    }
}

/// For whom a frame from a guest is, beside those it was already sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarding {
    /// For the engine alone.
    ToEngine,
    /// For everybody: it was sent to the other guests, and the engine may look at it too.
    ToEngineAndOthers,
    /// For another guest, to which it was sent; or nobody knows where that one is, and it was sent to all.
    Forwarded,
    /// For another guest, but it did not go there.
    Dropped,
}

/// What became of frames between guests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SwitchCounters {
    /// Sent to a port; once for each port.
    pub forwarded: u64,
    /// Dropped because the port was full.
    pub full: u64,
    /// Dropped because the port's link is down.
    pub down: u64,
    /// Dropped because they are longer than the port's MTU allows, even after segmentation.
    pub too_long: u64,
    /// Dropped because they are not what their offload state says.
    pub malformed: u64,
    /// Not remembered with their sender, because their port has too many of them.
    pub unlearned: u64,
}

impl SwitchCounters {
    /// What did not go where it was sent.
    pub const fn dropped(&self) -> u64 {
        self.full + self.down + self.too_long + self.malformed
    }
}

/// The egress halves of all ports, and what is known about who is behind them.
#[derive(Debug, Default)]
pub struct Egresses {
    outlets: Vec<Option<Box<dyn Egress>>>,
    /// Ports whose link is down: nearly always none.
    down: Vec<PortId>,
    count: usize,
    stations: Stations,
    scratch: Vec<u8>,
    counters: SwitchCounters,
    recorder: Recorder,
}

impl Egresses {
    /// What is told of every frame that passes.
    pub const fn recorder(&mut self) -> &mut Recorder {
        &mut self.recorder
    }

    /// The egress half of a port.
    pub fn get(&mut self, port: PortId) -> Option<&mut (dyn Egress + 'static)> {
        self.outlets.get_mut(usize::from(port.0))?.as_deref_mut()
    }

    /// Whether the link of a port is up.
    pub fn is_up(&self, port: PortId) -> bool {
        self.down.is_empty() || !self.down.contains(&port)
    }

    /// Takes the link of a port down, or up again, and tells its guest.
    pub fn set_link(&mut self, port: PortId, up: bool) {
        if self.is_up(port) == up {
            return;
        }
        if let Some(egress) = self.outlets.get_mut(usize::from(port.0)).and_then(Option::as_deref_mut) {
            egress.set_link(up);
            self.down.retain(|down| *down != port);
            if !up {
                self.down.push(port);
            }
        }
    }

    /// What became of frames between guests so far.
    pub const fn counters(&self) -> &SwitchCounters {
        &self.counters
    }

    /// Sends a frame, which came from port `from`, to the other guests that it is for, and says whether it is for the engine too, whose
    /// addresses are those for which `ours` is true. Of a single guest, everything is for the engine.
    pub fn forward(&mut self, now: Instant, from: PortId, frame: &Frame<'_>, ours: impl Fn(MacAddr) -> bool) -> Forwarding {
        if self.count < 2 {
            return Forwarding::ToEngine;
        }
        let mut addresses = [0; 12];
        if frame.len() < ETHERNET_HEADER || frame.copy_to(0, &mut addresses) < addresses.len() {
            self.counters.malformed += 1;
            return Forwarding::Dropped;
        }
        let [a, b, c, d, e, f, source @ ..] = addresses;
        let (destination, source) = (MacAddr([a, b, c, d, e, f]), MacAddr(source));
        if source.is_unicast() && !ours(source) && !self.stations.learn(now, source, from) {
            self.counters.unlearned += 1;
        }
        if destination.is_multicast() {
            self.flood(from, frame);
            return Forwarding::ToEngineAndOthers;
        }
        if ours(destination) {
            return Forwarding::ToEngine;
        }
        match self.stations.find(now, destination) {
            // It has heard it already.
            Some(port) if port == from => Forwarding::Dropped,
            Some(port) if self.deliver(port, frame) => Forwarding::Forwarded,
            Some(_) => Forwarding::Dropped,
            None => {
                self.flood(from, frame);
                Forwarding::Forwarded
            }
        }
    }

    fn flood(&mut self, from: PortId, frame: &Frame<'_>) {
        for port in self.ports() {
            if port != from {
                self.deliver(port, frame);
            }
        }
    }

    /// Sends a guest's frame to another, in a form that it takes. Returns whether it is on its way, or a part of it.
    fn deliver(&mut self, port: PortId, frame: &Frame<'_>) -> bool {
        if !self.is_up(port) {
            self.counters.down += 1;
            return false;
        }
        let Self { outlets, counters, scratch, recorder, .. } = self;
        let Some(egress) = outlets.get_mut(usize::from(port.0)).and_then(Option::as_deref_mut) else { return false };
        if segment::check(frame).is_err() {
            counters.malformed += 1;
            return false;
        }
        if longest_segment(frame) > ETHERNET_HEADER + VLAN_TAG + usize::from(egress.mtu()) {
            counters.too_long += 1;
            return false;
        }
        let mut delivered = false;
        let mut count = |sent| match sent {
            Sent::Yes => {
                counters.forwarded += 1;
                delivered = true;
            }
            Sent::Full | Sent::Declined => counters.full += 1,
        };
        let offloads = egress.offloads();
        if offloads.accept(&frame.meta) {
            let mut fill = |room: &mut FrameMut<'_, '_>| copy(frame, room).then_some((frame.len(), frame.meta));
            count(send(egress, recorder, port, frame.len(), &mut fill));
        } else {
            let mut emit = |segment: &[u8], meta| {
                let mut fill =
                    |room: &mut FrameMut<'_, '_>| (room.copy_from(0, segment) == segment.len()).then_some((segment.len(), meta));
                count(send(egress, recorder, port, segment.len(), &mut fill));
            };
            if segment::segment(frame, &offloads, scratch, &mut emit).is_err() {
                counters.malformed += 1;
            }
        }
        delivered
    }
}

impl Link for Egresses {
    fn mtu(&self, port: PortId) -> u16 {
        self.outlets.get(usize::from(port.0)).and_then(Option::as_ref).map_or(0, |egress| egress.mtu())
    }

    fn offloads(&self, port: PortId) -> Offloads {
        self.outlets.get(usize::from(port.0)).and_then(Option::as_ref).map_or(Offloads::NONE, |egress| egress.offloads())
    }

    fn send(
        &mut self,
        port: PortId,
        capacity: usize,
        fill: &mut dyn FnMut(&mut FrameMut<'_, '_>) -> Option<(usize, FrameMeta)>,
    ) -> Sent {
        if !self.is_up(port) {
            return Sent::Full;
        }
        let Self { outlets, recorder, .. } = self;
        let egress = outlets.get_mut(usize::from(port.0)).and_then(Option::as_deref_mut);
        egress.map_or(Sent::Declined, |egress| send(egress, recorder, port, capacity, fill))
    }

    fn ports(&self) -> Vec<PortId> {
        let used = self.outlets.iter().enumerate().filter(|(_, egress)| egress.is_some());
        used.filter_map(|(index, _)| PortId::try_from(index).ok()).collect()
    }
}

/// Sends a frame, of which the recorder is told once it is written.
fn send(
    egress: &mut (dyn Egress + 'static),
    recorder: &mut Recorder,
    port: PortId,
    capacity: usize,
    fill: &mut dyn FnMut(&mut FrameMut<'_, '_>) -> Option<(usize, FrameMeta)>,
) -> Sent {
    if !recorder.is_on() {
        return egress.send(capacity, fill);
    }
    egress.send(capacity, &mut |room| {
        let (len, meta) = fill(room)?;
        recorder.frame_to_guest(port, room, len, meta);
        Some((len, meta))
    })
}

/// The length of the longest frame that a frame becomes when it is cut.
fn longest_segment(frame: &Frame<'_>) -> usize {
    let Some(gso) = frame.meta.gso else { return frame.len() };
    let byte_at = |at| {
        let mut byte = [0];
        (frame.copy_to(at, &mut byte) == 1).then_some(byte[0])
    };
    let headers = vnet::header_len(&frame.meta, frame.len(), byte_at);
    frame.len().min(usize::from(headers) + usize::from(gso.size))
}

/// Copies a frame from one port's memory to another's. Returns whether there was room.
fn copy(frame: &Frame<'_>, room: &mut FrameMut<'_, '_>) -> bool {
    let mut block = [0; 4096];
    let mut at = 0;
    while at < frame.len() {
        let len = frame.copy_to(at, &mut block);
        if len == 0 || room.copy_from(at, &block[..len]) < len {
            return false;
        }
        at += len;
    }
    true
}

#[cfg(test)]
mod tests;
