//! Long conversations that check themselves: each side knows what it has to say, and what it has to hear.
//!
//! A [`Stream`] is a place in one block of bytes without order that everybody shares. Writing and comparing cost no more than copying, and
//! a byte that is lost, doubled or from another stream is noticed with the next ones at the latest.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// A prime number, so that no size of segment or queue makes a stream repeat itself.
const BLOCK: usize = 1_048_583;

/// A stream of bytes without end that is the same for everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream(usize);

impl Stream {
    /// The stream of this number. Streams of different numbers have nothing in common within reach.
    pub const fn new(number: u64) -> Self {
        // The golden ratio spreads neighbouring numbers over the block.
        Self((number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24) as usize % BLOCK)
    }

    /// Fills `into` with the bytes from `at` on.
    pub fn fill(self, at: u64, into: &mut [u8]) {
        let mut filled = 0;
        while filled < into.len() {
            let part = self.part(at + filled as u64, into.len() - filled);
            into[filled..filled + part.len()].copy_from_slice(part);
            filled += part.len();
        }
    }

    /// Where `data` is not what this stream has from `at` on.
    pub fn first_difference(self, at: u64, data: &[u8]) -> Option<u64> {
        let mut compared = 0;
        while compared < data.len() {
            let part = self.part(at + compared as u64, data.len() - compared);
            let theirs = &data[compared..compared + part.len()];
            if theirs != part {
                let same = part.iter().zip(theirs).take_while(|(a, b)| a == b).count();
                return Some(at + (compared + same) as u64);
            }
            compared += part.len();
        }
        None
    }

    /// The bytes from `at` on, at most `len`, and at least one.
    pub fn part(self, at: u64, len: usize) -> &'static [u8] {
        let block = block();
        let from = ((self.0 as u64 + at) % BLOCK as u64) as usize;
        &block[from..BLOCK.min(from + len)]
    }
}

fn block() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let mut state = 0;
        std::iter::repeat_with(|| super::split_mix(&mut state).to_le_bytes()).flatten().take(BLOCK).collect()
    })
}

/// One side of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Talk {
    /// What it says.
    pub says: Stream,
    /// How many bytes of it.
    pub len: u64,
    /// What the other side says.
    pub hears: Stream,
    /// How many bytes it hears before it begins; more than the other side says: it waits for the end.
    pub begins_after: u64,
    /// Whether it closes only when the other side has.
    pub closes_last: bool,
    /// Whether it goes before everything is said.
    pub leaves: Leave,
}

/// How somebody goes before everything is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Leave {
    /// It does not.
    Never,
    /// It closes both directions after it has heard so many bytes.
    Close(u64),
    /// It resets the connection after it has heard so many bytes.
    Reset(u64),
}

impl Talk {
    /// Whether it may speak, having heard so much.
    pub const fn has_begun(&self, heard: u64, end: bool) -> bool {
        heard >= self.begins_after || end
    }

    /// Whether it closes its sending side, having said and heard so much.
    pub const fn is_over(&self, said: u64, heard: u64, end: bool) -> bool {
        said == self.len && self.has_begun(heard, end) && (end || !self.closes_last)
    }
}
