//! Lengths and frames without the stream.

use super::framing::{Incoming, Next, Outgoing};

/// What was read and not yet handed out.
#[derive(Debug)]
pub struct Reader(Incoming);

/// What a stream begins with.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A frame.
    Frame(Vec<u8>),
    /// Not all of one.
    Incomplete,
    /// A length that no frame has.
    Impossible(u32),
}

impl Default for Reader {
    fn default() -> Self {
        Self(Incoming::new())
    }
}

impl Reader {
    /// Takes as many of `bytes` as there is room for; returns how many.
    pub fn read(&mut self, bytes: &[u8]) -> usize {
        let room = self.0.room();
        let len = room.len().min(bytes.len());
        room[..len].copy_from_slice(&bytes[..len]);
        self.0.filled(len);
        len
    }

    /// Takes the next frame out.
    pub fn next_frame(&mut self) -> Found {
        match self.0.next_frame() {
            Next::Frame(frame) => Found::Frame(frame.to_vec()),
            Next::Incomplete => Found::Incomplete,
            Next::Impossible(length) => Found::Impossible(length),
        }
    }

    /// Whether [`Reader::next_frame`] has something to say.
    pub fn is_ready(&self) -> bool {
        self.0.is_ready()
    }
}

/// What was sent and not yet written.
#[derive(Debug)]
pub struct Writer(Outgoing);

impl Default for Writer {
    fn default() -> Self {
        Self(Outgoing::new())
    }
}

impl Writer {
    /// Whether a frame of at most `capacity` bytes can be pushed.
    pub fn has_room(&self, capacity: usize) -> bool {
        self.0.has_room(capacity)
    }

    /// Puts a frame into room for `capacity` bytes; returns whether there was so much.
    pub fn push(&mut self, frame: &[u8], capacity: usize) -> bool {
        let Some(room) = self.0.room(capacity.max(frame.len())) else { return false };
        room[..frame.len()].copy_from_slice(frame);
        self.0.push(frame.len());
        true
    }

    /// What is to be written next.
    pub fn unsent(&self) -> &[u8] {
        self.0.unsent()
    }

    /// So many bytes were written.
    pub fn sent(&mut self, len: usize) {
        self.0.sent(len);
    }

    /// Whether everything was written.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
