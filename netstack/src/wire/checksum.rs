//! The Internet checksum (RFC 1071) over frames that lie in pieces.

use std::net::IpAddr;

use smoltcp::wire::{IpAddress, IpProtocol, checksum};

use crate::frame::{Frame, FrameMut};

/// Bytes that are copied out of a frame at a time to be summed. Even, so that every block starts at an even offset.
const BLOCK: usize = 2048;

/// The sum of the pseudo-header of a transport packet of `len` bytes, not complemented (RFC 9293 section 3.1, RFC 8200 section 8.1).
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: IpProtocol, len: usize) -> u16 {
    // The length of a super-frame is that of the whole; it fits, because no frame is longer than 64 KiB.
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    checksum::pseudo_header(&IpAddress::from(source), &IpAddress::from(destination), protocol, len)
}

/// The sum of the `len` bytes of a frame from `offset` on, not complemented.
pub fn of_frame(frame: &Frame<'_>, offset: usize, len: usize) -> u16 {
    in_blocks(offset, len, |at, block| frame.copy_to(at, block))
}

/// The sum of the `len` bytes from `offset` on that were just written to a frame, not complemented.
pub fn of_written(frame: &FrameMut<'_, '_>, offset: usize, len: usize) -> u16 {
    in_blocks(offset, len, |at, block| frame.copy_to(at, block))
}

/// Whether the transport packet of `len` bytes at `offset` carries a correct checksum.
pub fn verify(frame: &Frame<'_>, offset: usize, len: usize, source: IpAddr, destination: IpAddr, protocol: IpProtocol) -> bool {
    checksum::combine(&[pseudo_header(source, destination, protocol, len), of_frame(frame, offset, len)]) == !0
}

fn in_blocks(mut offset: usize, mut len: usize, mut read: impl FnMut(usize, &mut [u8]) -> usize) -> u16 {
    let mut block = [0; BLOCK];
    let mut sum = 0;
    while len > 0 {
        let want = len.min(BLOCK);
        let got = read(offset, &mut block[..want]);
        if got == 0 {
            break;
        }
        sum = checksum::combine(&[sum, checksum::data(&block[..got])]);
        offset += got;
        len -= got;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Chunk, FrameMeta};

    #[test]
    fn pieces_and_the_whole_have_the_same_sum() {
        let bytes: Vec<u8> = (0..10_001u32).map(|i| (i * 7 + i / 256) as u8).collect();
        let (a, rest) = bytes.split_at(3);
        let (b, c) = rest.split_at(4096);
        let chunks = [Chunk::from(a), Chunk::from(b), Chunk::from(c)];
        let frame = Frame::new(&chunks, FrameMeta::default());
        assert_eq!(of_frame(&frame, 0, bytes.len()), checksum::data(&bytes));
        assert_eq!(of_frame(&frame, 5, 9000), checksum::data(&bytes[5..9005]));
    }
}
