//! The language between ports and the stack: a frame is a packet plus offload state, and may be 64 KiB long.
//!
//! virtio-net, tap devices with `IFF_VNET_HDR` and the e1000's TSO contexts all say the same two things about a frame: where a checksum
//! is still to be filled in, and into segments of which size it may be cut. [`FrameMeta`] says them here, in both directions, so that
//! an MTU of 1500 costs no more than an MTU of 65520.
//!
//! What always holds:
//!
//! - A [`Frame`] starts with the Ethernet header, has no FCS and no preamble, and is at most [`MAX_FRAME`] bytes long.
//! - The memory of a frame belongs to the port and is only lent. It may be guest memory: see [`Chunk`].
//! - A port that announces no [`Offloads`] never sees a frame that needs one.

mod chunk;
pub mod segment;
pub mod vnet;

pub use chunk::{Chunk, ChunkMut};

/// Length of the Ethernet header.
pub const ETHERNET_HEADER: usize = 14;

/// The longest frame: an Ethernet header and the largest IP packet.
pub const MAX_FRAME: usize = ETHERNET_HEADER + 65535;

/// What is known of the transport checksum of a frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Checksum {
    /// The checksum is in the frame and nobody has verified it.
    #[default]
    Complete,
    /// The checksum field holds the sum of the pseudo-header only. The ones' complement sum of the bytes from `start` to the end of the
    /// frame belongs at `start + offset`. Both count from the start of the frame, as in virtio (1.2, section 5.1.6.2).
    Partial {
        /// Where the summed bytes begin: the transport header.
        start: u16,
        /// Where the checksum field is, counted from `start`.
        offset: u16,
    },
    /// Whoever made the frame vouches for it: it came through no wire on which it could have been damaged.
    Verified,
}

/// The transport protocol by whose rules a super-frame is cut into segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP over either: every segment becomes a datagram of its own.
    Udp,
}

/// Generic segmentation offload: the frame stands for several, each with at most `size` bytes of payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gso {
    /// The rules for cutting it.
    pub kind: GsoKind,
    /// Payload bytes of each segment but the last. Never 0.
    pub size: u16,
    /// Whether the first segment carries CWR and the others must not (RFC 3168).
    pub ecn: bool,
}

/// The offload state that travels beside a frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FrameMeta {
    /// What is known of the transport checksum.
    pub checksum: Checksum,
    /// Whether the frame stands for several.
    pub gso: Option<Gso>,
}

/// What a receiver of frames can take over from the sender.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Frames with [`Checksum::Partial`] are welcome.
    pub checksum: bool,
    /// So are frames with [`GsoKind::TcpV4`].
    pub tso4: bool,
    /// So are frames with [`GsoKind::TcpV6`].
    pub tso6: bool,
    /// So are frames with [`GsoKind::Udp`].
    pub uso: bool,
}

impl Offloads {
    /// Nothing: every frame fits the MTU and carries its checksum.
    pub const NONE: Self = Self { checksum: false, tso4: false, tso6: false, uso: false };
    /// Everything.
    pub const ALL: Self = Self { checksum: true, tso4: true, tso6: true, uso: true };

    /// Whether a frame with this meta needs nothing that is not offered.
    pub const fn accept(&self, meta: &FrameMeta) -> bool {
        let gso = match meta.gso {
            None => true,
            Some(Gso { kind: GsoKind::TcpV4, .. }) => self.tso4,
            Some(Gso { kind: GsoKind::TcpV6, .. }) => self.tso6,
            Some(Gso { kind: GsoKind::Udp, .. }) => self.uso,
        };
        gso && (self.checksum || !matches!(meta.checksum, Checksum::Partial { .. }))
    }
}

/// A frame that a guest has sent: pieces of the port's memory, lent while it is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    chunks: &'a [Chunk<'a>],
    len: usize,
    /// Its offload state.
    pub meta: FrameMeta,
}

impl<'a> Frame<'a> {
    /// The frame that these chunks hold, one after the other.
    pub fn new(chunks: &'a [Chunk<'a>], meta: FrameMeta) -> Self {
        Self { chunks, len: chunks.iter().map(Chunk::len).sum(), meta }
    }

    /// Its length in bytes, with the Ethernet header.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes at all.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies bytes from `offset` on into `to`; returns how many there were.
    pub fn copy_to(&self, mut offset: usize, to: &mut [u8]) -> usize {
        let mut copied = 0;
        for chunk in self.chunks {
            if copied == to.len() {
                break;
            }
            copied += chunk.copy_to(offset, &mut to[copied..]);
            offset = offset.saturating_sub(chunk.len());
        }
        copied
    }

    /// Puts the chunks of the `len` bytes at `offset` into `parts`; returns how many chunks those are. Bytes for which `parts` has too
    /// few places, or which the frame does not have, are left out.
    pub fn parts(&self, mut offset: usize, mut len: usize, parts: &mut [Chunk<'a>]) -> usize {
        let mut used = 0;
        for chunk in self.chunks {
            if len == 0 || used == parts.len() {
                break;
            }
            let part = chunk.part(offset, len);
            offset = offset.saturating_sub(chunk.len());
            if !part.is_empty() {
                len -= part.len();
                parts[used] = part;
                used += 1;
            }
        }
        used
    }
}

/// Room for a frame to a guest: pieces of the port's memory, lent while they are filled.
#[derive(Debug)]
pub struct FrameMut<'a, 'm> {
    chunks: &'a mut [ChunkMut<'m>],
    len: usize,
}

impl<'a, 'm> FrameMut<'a, 'm> {
    /// The room that these chunks offer, one after the other.
    pub fn new(chunks: &'a mut [ChunkMut<'m>]) -> Self {
        let len = chunks.iter().map(ChunkMut::len).sum();
        Self { chunks, len }
    }

    /// Its length in bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no room at all.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies `from` to `offset`; returns how many bytes there was room for.
    pub fn copy_from(&mut self, mut offset: usize, from: &[u8]) -> usize {
        let mut copied = 0;
        for chunk in self.chunks.iter_mut() {
            if copied == from.len() {
                break;
            }
            copied += chunk.copy_from(offset, &from[copied..]);
            offset = offset.saturating_sub(chunk.len());
        }
        copied
    }

    /// Copies bytes from `offset` on into `to`; returns how many there were. For what has to be summed again after it was written.
    pub fn copy_to(&self, mut offset: usize, to: &mut [u8]) -> usize {
        let mut copied = 0;
        for chunk in self.chunks.iter() {
            if copied == to.len() {
                break;
            }
            copied += chunk.as_chunk().copy_to(offset, &mut to[copied..]);
            offset = offset.saturating_sub(chunk.len());
        }
        copied
    }

    /// Puts the chunks of the at most `len` bytes at `offset` into `parts`; returns how many chunks those are.
    pub fn parts<'s>(&'s mut self, mut offset: usize, mut len: usize, parts: &mut [ChunkMut<'s>]) -> usize {
        let mut used = 0;
        for chunk in self.chunks.iter_mut() {
            if len == 0 || used == parts.len() {
                break;
            }
            let whole = chunk.len();
            let part = chunk.part(offset, len);
            offset = offset.saturating_sub(whole);
            if !part.is_empty() {
                len -= part.len();
                parts[used] = part;
                used += 1;
            }
        }
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_found_across_chunks() {
        let chunks = [Chunk::from(&b"abc"[..]), Chunk::empty(), Chunk::from(&b"defg"[..]), Chunk::from(&b"h"[..])];
        let frame = Frame::new(&chunks, FrameMeta::default());
        assert_eq!(frame.len(), 8);
        let mut bytes = [0; 4];
        assert_eq!(frame.copy_to(2, &mut bytes), 4);
        assert_eq!(&bytes, b"cdef");
        assert_eq!(frame.copy_to(6, &mut bytes), 2);
        assert_eq!(&bytes[..2], b"gh");
        assert_eq!(frame.copy_to(9, &mut bytes), 0);

        let mut parts = [Chunk::empty(); 4];
        assert_eq!(frame.parts(1, 4, &mut parts), 2);
        assert_eq!((parts[0].len(), parts[1].len()), (2, 2));
        assert_eq!(frame.parts(3, 100, &mut parts), 2);
        assert_eq!(frame.parts(8, 1, &mut parts), 0);
    }

    #[test]
    fn writes_go_across_chunks() {
        let (mut a, mut b) = ([0; 3], [0; 5]);
        let mut chunks = [ChunkMut::from(&mut a[..]), ChunkMut::from(&mut b[..])];
        let mut room = FrameMut::new(&mut chunks);
        assert_eq!(room.copy_from(2, b"xyz"), 3);
        assert_eq!(room.copy_from(7, b"too long"), 1);
        assert_eq!((&a, &b), (b"\0\0x", b"yz\0\0t"));
    }

    #[test]
    fn a_receiver_without_offloads_takes_only_finished_frames() {
        let partial = FrameMeta { checksum: Checksum::Partial { start: 34, offset: 16 }, gso: None };
        let large = FrameMeta { gso: Some(Gso { kind: GsoKind::TcpV4, size: 1460, ecn: false }), ..partial };
        assert!(Offloads::NONE.accept(&FrameMeta::default()));
        assert!(!Offloads::NONE.accept(&partial));
        assert!(Offloads::ALL.accept(&large));
        assert!(!Offloads { tso4: false, ..Offloads::ALL }.accept(&large));
    }
}
