//! All connections, found by address or by number.

use std::hash::BuildHasher;

use hashbrown::HashTable;
use slab::Slab;

use super::flow::{Flow, FlowKey, Timers};
use crate::stack::hash::Keyed;

/// The flows, in a slab, and an index of them by address that stores nothing but their numbers.
#[derive(Debug)]
pub(crate) struct Table {
    flows: Slab<Flow>,
    index: HashTable<u32>,
    hash: Keyed,
    generation: u32,
    /// For each number, the timers of flows that had it: entries in the wheel outlive their flow, and serve the next one.
    timers: Vec<Timers>,
}

impl Table {
    pub(crate) fn new(hash: Keyed) -> Self {
        Self { flows: Slab::new(), index: HashTable::new(), hash, generation: 0, timers: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    /// The number of the flow between these addresses.
    pub(crate) fn find(&self, key: &FlowKey) -> Option<u32> {
        self.index.find(self.hash.hash_one(key), |id| self.flows.get(*id as usize).is_some_and(|flow| flow.key == *key)).copied()
    }

    /// Adds a flow whose key is not in use; returns its number.
    pub(crate) fn insert(&mut self, mut flow: Flow) -> u32 {
        self.generation = self.generation.wrapping_add(1) & GENERATION_MASK;
        flow.generation = self.generation;
        let hash = self.hash.hash_one(flow.key);
        // The number of flows is limited to far less than 2^32.
        let entry = self.flows.vacant_entry();
        let id = entry.key() as u32;
        flow.timers = self.timers.get(entry.key()).copied().unwrap_or_default();
        entry.insert(flow);
        let Self { flows, index, hash: keyed, .. } = self;
        index.insert_unique(hash, id, |id| flows.get(*id as usize).map_or(0, |flow| keyed.hash_one(flow.key)));
        id
    }

    pub(crate) fn remove(&mut self, id: u32) -> Option<Flow> {
        let flow = self.flows.try_remove(id as usize)?;
        if let Ok(entry) = self.index.find_entry(self.hash.hash_one(flow.key), |other| *other == id) {
            entry.remove();
        }
        if self.timers.len() <= id as usize {
            self.timers.resize(id as usize + 1, Timers::default());
        }
        self.timers[id as usize] = flow.timers;
        Some(flow)
    }

    /// The timers of this number, whether a flow has it or not.
    pub(crate) fn timers_mut(&mut self, id: u32) -> Option<&mut Timers> {
        match self.flows.get_mut(id as usize) {
            Some(flow) => Some(&mut flow.timers),
            None => self.timers.get_mut(id as usize),
        }
    }

    pub(crate) fn get(&self, id: u32) -> Option<&Flow> {
        self.flows.get(id as usize)
    }

    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut Flow> {
        self.flows.get_mut(id as usize)
    }

    /// Whether `id` is still the flow that had this generation.
    pub(crate) fn is_current(&self, id: u32, generation: u32) -> bool {
        self.get(id).is_some_and(|flow| flow.generation == generation)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Flow)> {
        self.flows.iter().map(|(id, flow)| (id as u32, flow))
    }
}

/// Generations go into 24 bits of a token.
pub(super) const GENERATION_MASK: u32 = (1 << 24) - 1;
