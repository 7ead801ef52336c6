//! The pieces of one datagram, in whatever order they come (RFC 791 section 3.2, RFC 8200 section 4.5).
//!
//! What always holds: no two pieces have a byte in common, and none lies behind the end. So a datagram is whole as soon as its pieces
//! have as many bytes as it has, and there is only one way to put them together.

use crate::frame::Frame;

/// The longest that the fragmented part of a datagram can be: what the offset and the length of an IPv4 or IPv6 packet can say.
pub(crate) const MAX_TOTAL: usize = 65535;

/// Bytes that are compared at a time.
const BLOCK: usize = 512;

/// The bytes that there are of a datagram.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    /// In the order in which they came.
    bytes: Vec<u8>,
    /// In the order in which they belong.
    pieces: Vec<Piece>,
    /// How long the whole is, once the last piece has come.
    total: Option<usize>,
}

/// Where some bytes belong, and where they are.
#[derive(Debug, Clone, Copy)]
struct Piece {
    offset: u16,
    len: u16,
    /// In the bytes that there are.
    at: u16,
}

impl Piece {
    const fn offset(&self) -> usize {
        self.offset as usize
    }

    const fn end(&self) -> usize {
        self.offset as usize + self.len as usize
    }
}

/// A piece that comes: `len` bytes at `at` of a frame, which belong at `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: usize,
    pub(crate) at: usize,
    pub(crate) len: usize,
    /// Whether others belong behind it.
    pub(crate) more: bool,
}

/// What has become of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Added {
    /// It was taken, and others are missing.
    Taken,
    /// It was taken, and now all are there.
    Whole,
    /// It had come before, byte for byte, as a network may repeat a packet.
    Repeated,
    /// It contradicts another: they overlap, or end in different places. No honest sender cuts a datagram so, and two receivers would put
    /// it together in two ways, which is how firewalls are passed (RFC 1858, RFC 5722). Nothing of such a datagram may be believed.
    Contradiction,
}

impl Pieces {
    /// Takes a piece of a frame. It must have at least one byte, end by [`MAX_TOTAL`], and be all there.
    pub(crate) fn add(&mut self, place: Place, frame: &Frame<'_>) -> Added {
        let Place { offset, len, more, .. } = place;
        let end = offset + len;
        if len == 0 || end > MAX_TOTAL || self.contradicts_the_end(end, more) {
            return Added::Contradiction;
        }
        let index = self.pieces.partition_point(|piece| piece.offset() < offset);
        if index.checked_sub(1).and_then(|before| self.pieces.get(before)).is_some_and(|before| before.end() > offset) {
            return Added::Contradiction;
        }
        if let Some(after) = self.pieces.get(index).copied()
            && after.offset() < end
        {
            let same = after.offset() == offset && after.end() == end && self.holds(after, place.at, frame);
            return if same { Added::Repeated } else { Added::Contradiction };
        }
        let start = self.bytes.len();
        let (Ok(offset), Ok(short), Ok(at)) = (u16::try_from(offset), u16::try_from(len), u16::try_from(start)) else {
            return Added::Contradiction;
        };
        self.reserve(len);
        self.bytes.resize(start + len, 0);
        if frame.copy_to(place.at, &mut self.bytes[start..]) != len {
            return Added::Contradiction;
        }
        self.pieces.insert(index, Piece { offset, len: short, at });
        if !more {
            self.total = Some(end);
        }
        if self.total == Some(self.bytes.len()) { Added::Whole } else { Added::Taken }
    }

    /// Whether a piece that ends at `end` cannot belong to the same datagram as those that are there.
    fn contradicts_the_end(&self, end: usize, more: bool) -> bool {
        match self.total {
            Some(total) if more => end >= total,
            Some(total) => end != total,
            None => !more && self.pieces.last().is_some_and(|last| last.end() >= end),
        }
    }

    /// Whether the bytes at `at` of a frame are those of a piece.
    fn holds(&self, piece: Piece, mut at: usize, frame: &Frame<'_>) -> bool {
        let mut block = [0; BLOCK];
        self.of(piece).chunks(BLOCK).all(|bytes| {
            let copied = frame.copy_to(at, &mut block[..bytes.len()]);
            at += copied;
            block[..copied] == *bytes
        })
    }

    fn of(&self, piece: Piece) -> &[u8] {
        self.bytes.get(usize::from(piece.at)..usize::from(piece.at) + usize::from(piece.len)).unwrap_or_default()
    }

    /// Makes room for `len` bytes more. A buffer is a power of two long: it grows rarely, and is never more than twice as long as what it
    /// holds, but for the smallest.
    fn reserve(&mut self, len: usize) {
        let want = self.bytes.len() + len;
        if want > self.bytes.capacity() {
            let capacity = want.next_power_of_two().max(2048);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
    }

    /// The bytes that the datagram begins with, as many as its first piece has.
    pub(crate) fn beginning(&self) -> Option<&[u8]> {
        self.pieces.first().filter(|first| first.offset == 0).map(|first| self.of(*first))
    }

    /// Where the last of them ends.
    pub(crate) fn end(&self) -> usize {
        self.pieces.last().map_or(0, Piece::end)
    }

    /// How many pieces there are.
    pub(crate) const fn count(&self) -> usize {
        self.pieces.len()
    }

    /// Bytes of memory that they take.
    pub(crate) const fn memory(&self) -> usize {
        self.bytes.capacity() + self.pieces.capacity() * size_of::<Piece>()
    }

    /// Puts all pieces behind each other.
    pub(crate) fn write_to(&self, whole: &mut Vec<u8>) {
        for piece in &self.pieces {
            whole.extend_from_slice(self.of(*piece));
        }
    }
}

#[cfg(test)]
mod tests;
