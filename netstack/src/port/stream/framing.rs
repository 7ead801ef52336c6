//! Lengths and frames in the bytes of a stream, without the socket.
//!
//! Both buffers are linear. They are emptied far more often than they are filled to the end, and then start over, so what little is
//! moved is at most one frame a buffer.

use crate::frame::MAX_FRAME;

/// The length field in front of each frame.
const LENGTH: usize = 4;

/// The longest frame that QEMU sends: `NET_BUFSIZE` of its `net/net.h`. Longer ones than [`MAX_FRAME`] are of no use, but can be skipped.
const LONGEST: usize = 4096 + 65536;

/// Bytes read at once, at most.
const INCOMING: usize = 512 * 1024;

/// Bytes that wait to be written, at most.
const OUTGOING: usize = 512 * 1024;

/// What was read and not yet handed out.
pub(super) struct Incoming {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

/// What the bytes that were read begin with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<'a> {
    Frame(&'a [u8]),
    Incomplete,
    Impossible(u32),
}

impl Incoming {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; INCOMING].into_boxed_slice(), start: 0, end: 0 }
    }

    /// Takes the next frame out, if all of it is there.
    pub(super) fn next_frame(&mut self) -> Next<'_> {
        let bytes = &self.buffer[self.start..self.end];
        let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else { return Next::Incomplete };
        let length = u32::from_be_bytes(*length);
        let Ok(len @ 1..=LONGEST) = usize::try_from(length) else { return Next::Impossible(length) };
        let Some(frame) = rest.get(..len) else { return Next::Incomplete };
        self.start += LENGTH + len;
        Next::Frame(frame)
    }

    /// Whether [`Incoming::next_frame`] has something to say without more bytes.
    pub(super) fn is_ready(&self) -> bool {
        let bytes = &self.buffer[self.start..self.end];
        bytes.split_first_chunk::<LENGTH>().is_some_and(|(length, rest)| {
            let length = u32::from_be_bytes(*length);
            length == 0 || usize::try_from(length).map_or(true, |len| len > LONGEST || len <= rest.len())
        })
    }

    /// Where to read more bytes to: never empty after everything complete was taken out.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.end < LENGTH + LONGEST {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.buffer[self.end..]
    }

    /// `len` bytes were read into the room.
    pub(super) fn filled(&mut self, len: usize) {
        self.end = self.buffer.len().min(self.end + len);
    }
}

/// What was sent and not yet written.
pub(super) struct Outgoing {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Outgoing {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; OUTGOING].into_boxed_slice(), start: 0, end: 0 }
    }

    pub(super) const fn has_room(&self, capacity: usize) -> bool {
        capacity <= MAX_FRAME && self.buffer.len() - self.end >= LENGTH + capacity
    }

    /// Where to put a frame of at most `capacity` bytes.
    pub(super) fn room(&mut self, capacity: usize) -> Option<&mut [u8]> {
        if !self.has_room(capacity) {
            return None;
        }
        self.buffer.get_mut(self.end + LENGTH..)?.get_mut(..capacity)
    }

    /// The first `len` bytes of the room are a frame.
    pub(super) fn push(&mut self, len: usize) {
        debug_assert!(self.has_room(len));
        let length = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
        self.buffer[self.end..self.end + LENGTH].copy_from_slice(&length);
        self.end += LENGTH + len;
    }

    pub(super) fn unsent(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// `len` bytes were written.
    pub(super) fn sent(&mut self, len: usize) {
        self.start = self.end.min(self.start + len);
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Incoming({} bytes)", self.end - self.start)
    }
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Outgoing({} bytes)", self.end - self.start)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn feed(incoming: &mut Incoming, bytes: &[u8]) {
        incoming.room()[..bytes.len()].copy_from_slice(bytes);
        incoming.filled(bytes.len());
    }

    #[test]
    fn lengths_are_big_endian_and_count_the_frame_only() {
        let mut outgoing = Outgoing::new();
        outgoing.room(5).unwrap()[..3].copy_from_slice(b"abc");
        outgoing.push(3);
        assert_eq!(outgoing.unsent(), b"\0\0\0\x03abc");

        let mut incoming = Incoming::new();
        feed(&mut incoming, b"\0\0\0\x03abc\0\0\0\x01");
        assert_eq!(incoming.next_frame(), Next::Frame(b"abc"));
        assert_eq!(incoming.next_frame(), Next::Incomplete);
        feed(&mut incoming, b"d");
        assert_eq!(incoming.next_frame(), Next::Frame(b"d"));
    }

    #[test]
    fn impossible_lengths_are_told_before_any_more_is_read() {
        for length in [0, LONGEST as u32 + 1, u32::MAX, 0x4745_5420] {
            let mut incoming = Incoming::new();
            feed(&mut incoming, &length.to_be_bytes());
            assert!(incoming.is_ready());
            assert_eq!(incoming.next_frame(), Next::Impossible(length));
        }
        let mut incoming = Incoming::new();
        feed(&mut incoming, &(LONGEST as u32).to_be_bytes());
        assert_eq!(incoming.next_frame(), Next::Incomplete);
        feed(&mut incoming, &vec![0; LONGEST]);
        assert!(matches!(incoming.next_frame(), Next::Frame(frame) if frame.len() == LONGEST));
    }

    #[test]
    fn a_full_buffer_has_room_again_only_when_it_is_empty() {
        let mut outgoing = Outgoing::new();
        while outgoing.has_room(MAX_FRAME) {
            outgoing.push(MAX_FRAME);
        }
        let unsent = outgoing.unsent().len();
        outgoing.sent(unsent - 1);
        assert!(outgoing.room(MAX_FRAME).is_none());
        outgoing.sent(1);
        assert_eq!(outgoing.room(MAX_FRAME).unwrap().len(), MAX_FRAME);
        assert!(outgoing.room(MAX_FRAME + 1).is_none());
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut_of_the_stream(
            frames in prop::collection::vec((1_usize..MAX_FRAME, any::<u8>()), 1..40),
            cuts in prop::collection::vec(1_usize..300_000, 1..20),
        ) {
            let mut stream = Vec::new();
            for (len, byte) in &frames {
                stream.extend((*len as u32).to_be_bytes());
                stream.extend(vec![*byte; *len]);
            }
            let mut incoming = Incoming::new();
            let mut seen = Vec::new();
            let (mut at, mut cuts) = (0, cuts.iter().cycle());
            while at < stream.len() {
                let room = incoming.room();
                prop_assert!(!room.is_empty());
                let len = room.len().min(*cuts.next().unwrap()).min(stream.len() - at);
                room[..len].copy_from_slice(&stream[at..at + len]);
                incoming.filled(len);
                at += len;
                loop {
                    let ready = incoming.is_ready();
                    let Next::Frame(frame) = incoming.next_frame() else {
                        prop_assert!(!ready);
                        break;
                    };
                    prop_assert!(ready && frame.iter().all(|byte| *byte == frame[0]));
                    seen.push((frame.len(), frame[0]));
                }
            }
            prop_assert_eq!(seen, frames);
        }
    }
}
