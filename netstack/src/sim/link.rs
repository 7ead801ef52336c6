//! The guests' network cards, seen from the stack: queues of frames with capacities and offloads.

use std::collections::{BTreeMap, VecDeque};

use crate::frame::{ChunkMut, FrameMeta, FrameMut, MAX_FRAME, Offloads};
use crate::port::{PortId, Sent};
use crate::switch::Link;

/// All ports of a simulation.
#[derive(Debug)]
pub struct TestLink {
    /// Their cards.
    pub cards: BTreeMap<PortId, Queue>,
    buffer: Vec<u8>,
}

/// One port's queue of frames to the guest.
#[derive(Debug)]
pub struct Queue {
    /// The largest IP packet that it takes, in bytes.
    pub mtu: u16,
    /// What it does for the stack.
    pub offloads: Offloads,
    /// Frames that it holds before it is full.
    pub capacity: usize,
    /// Whether the guest takes frames out at all.
    pub stalled: bool,
    /// What it holds.
    pub frames: VecDeque<(Vec<u8>, FrameMeta)>,
    /// Frames that the stack has sent, and how many of them stood for several.
    pub sent: u64,
    /// How many of those frames stood for several.
    pub super_frames: u64,
    /// Whether the stack has found it full, and was not told yet that it has room.
    pub was_full: bool,
    /// How often the stack found it full.
    pub refused: u64,
}

impl Default for TestLink {
    fn default() -> Self {
        Self { cards: BTreeMap::new(), buffer: vec![0; MAX_FRAME] }
    }
}

impl TestLink {
    /// Without any port.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a port, or replaces it by one that holds nothing.
    pub fn add(&mut self, port: PortId, mtu: u16, offloads: Offloads) {
        let queue = Queue {
            mtu,
            offloads,
            capacity: 256,
            stalled: false,
            frames: VecDeque::new(),
            sent: 0,
            super_frames: 0,
            was_full: false,
            refused: 0,
        };
        self.cards.insert(port, queue);
    }
}

impl Link for TestLink {
    fn mtu(&self, port: PortId) -> u16 {
        self.cards.get(&port).map_or(0, |card| card.mtu)
    }

    fn offloads(&self, port: PortId) -> Offloads {
        self.cards.get(&port).map_or(Offloads::NONE, |card| card.offloads)
    }

    fn ports(&self) -> Vec<PortId> {
        self.cards.keys().copied().collect()
    }

    fn send(
        &mut self,
        port: PortId,
        capacity: usize,
        fill: &mut dyn FnMut(&mut FrameMut<'_, '_>) -> Option<(usize, FrameMeta)>,
    ) -> Sent {
        let Some(queue) = self.cards.get_mut(&port) else { return Sent::Declined };
        assert!(capacity <= MAX_FRAME, "a frame of {capacity} bytes");
        if queue.frames.len() >= queue.capacity {
            queue.was_full = true;
            queue.refused += 1;
            return Sent::Full;
        }
        // Two pieces at an odd place, as a guest's descriptors may be.
        self.buffer[..capacity].fill(0xee);
        let (first, second) = self.buffer[..capacity].split_at_mut(capacity.min(61));
        let mut chunks = [ChunkMut::from(first), ChunkMut::from(second)];
        let Some((len, meta)) = fill(&mut FrameMut::new(&mut chunks)) else { return Sent::Declined };
        assert!(len <= capacity, "a frame of {len} bytes in room for {capacity}");
        assert!(queue.offloads.accept(&meta), "{meta:?} was not agreed to: {:?}", queue.offloads);
        queue.sent += 1;
        queue.super_frames += u64::from(meta.gso.is_some());
        queue.frames.push_back((self.buffer[..len].to_vec(), meta));
        Sent::Yes
    }
}
