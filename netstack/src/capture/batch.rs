//! Recorded frames on their way from the engine to the thread that writes them.

use std::sync::Arc;

use super::recorder::PortInfo;
use crate::frame::{FrameMeta, MAX_FRAME};
use crate::pcap::write::Direction;

/// Bytes of frames in a batch: four of the longest.
const BYTES: usize = 4 * MAX_FRAME;

/// Frames in a batch, at most.
const ENTRIES: usize = 1024;

/// What a batch takes of memory, about.
pub(super) const BATCH: usize = BYTES + ENTRIES * size_of::<Entry>();

/// A recorded frame. Its bytes lie in the batch.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) port: Arc<PortInfo>,
    pub(super) direction: Direction,
    /// Nanoseconds since 1970.
    pub(super) stamp: u64,
    /// How long the frame was.
    pub(super) len: usize,
    pub(super) meta: FrameMeta,
    /// Why it went no further.
    pub(super) drop: Option<&'static str>,
    /// Frames of the same port that were not recorded before this one.
    pub(super) lost: u64,
    /// Whether there was no time for the rest.
    pub(super) cut: bool,
    start: usize,
    end: usize,
}

impl Entry {
    pub(super) fn new(port: Arc<PortInfo>, direction: Direction, stamp: u64, len: usize, meta: FrameMeta) -> Self {
        Self { port, direction, stamp, len, meta, drop: None, lost: 0, cut: false, start: 0, end: 0 }
    }

    /// Whether all of the frame is there.
    pub(super) const fn is_whole(&self) -> bool {
        self.end - self.start == self.len
    }
}

/// Frames in the order in which they were seen. Its memory is allocated once and used again.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Box<[u8]>,
    used: usize,
    entries: Vec<Entry>,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; BYTES].into(), used: 0, entries: Vec::with_capacity(ENTRIES) }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a frame of which `kept` bytes are recorded fits.
    pub(super) fn has_room(&self, kept: usize) -> bool {
        self.entries.len() < ENTRIES && self.bytes.len() - self.used >= kept
    }

    /// Adds a frame, for which there is room. `copy` puts its `kept` bytes where it is told and returns how many there really were.
    pub(super) fn push(&mut self, mut entry: Entry, kept: usize, copy: impl FnOnce(&mut [u8]) -> usize) -> &mut Entry {
        entry.start = self.used;
        let place = &mut self.bytes[self.used..][..kept];
        entry.end = self.used + copy(place).min(kept);
        self.used = entry.end;
        self.entries.push(entry);
        let last = self.entries.len() - 1;
        &mut self.entries[last]
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn entry(&mut self, index: usize) -> Option<&mut Entry> {
        self.entries.get_mut(index)
    }

    /// All frames with their bytes.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&Entry, &mut [u8])> {
        let mut rest = &mut self.bytes[..];
        self.entries.iter().map(move |entry| {
            // They lie one after the other, without a gap.
            let (bytes, after) = std::mem::take(&mut rest).split_at_mut(entry.end - entry.start);
            rest = after;
            (entry, bytes)
        })
    }

    pub(super) fn clear(&mut self) {
        self.used = 0;
        self.entries.clear();
    }
}
