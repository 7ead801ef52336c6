//! Packets in pieces, cut and put together without the code under test.

use std::fmt;

use etherparse::defrag::IpDefragPool;
use etherparse::{IpNumber, SlicedPacket};

/// Where the payload of the IP packet in a frame begins, whose IPv4 header has no options, and whose IPv6 header is the only one.
const fn headers(frame: &[u8]) -> usize {
    if frame[14] >> 4 == 4 { 34 } else { 54 }
}

/// Cuts the packet of a frame into fragments with at most `size` bytes of its payload each, a multiple of 8.
pub fn cut(frame: &[u8], size: usize, id: u16) -> Vec<Vec<u8>> {
    let payload = &frame[headers(frame)..];
    let pieces = payload.chunks(size).enumerate();
    pieces.map(|(n, piece)| fragment(frame, n * size, piece, n * size + piece.len() < payload.len(), id)).collect()
}

/// One fragment of the packet of a frame: these bytes, which belong at `offset` of its payload.
pub fn fragment(frame: &[u8], offset: usize, bytes: &[u8], more: bool, id: u16) -> Vec<u8> {
    let mut fragment = frame[..headers(frame)].to_vec();
    let place = (offset / 8) as u16;
    if frame[14] >> 4 == 4 {
        fragment[16..18].copy_from_slice(&(20 + bytes.len() as u16).to_be_bytes());
        fragment[18..20].copy_from_slice(&id.to_be_bytes());
        fragment[20..22].copy_from_slice(&(place | u16::from(more) << 13).to_be_bytes());
        fragment[24..26].fill(0);
        let sum = header_checksum(&fragment[14..34]);
        fragment[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        fragment[18..20].copy_from_slice(&(8 + bytes.len() as u16).to_be_bytes());
        let next = std::mem::replace(&mut fragment[20], IpNumber::IPV6_FRAGMENTATION_HEADER.0);
        fragment.extend([next, 0]);
        fragment.extend((place << 3 | u16::from(more)).to_be_bytes());
        fragment.extend([0, 0]);
        fragment.extend(id.to_be_bytes());
    }
    fragment.extend(bytes);
    fragment
}

/// The checksum of an IPv4 header in which that field is zero.
pub fn header_checksum(header: &[u8]) -> u16 {
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// The fragments that have come, until they are whole.
#[derive(Default)]
pub struct Pieces(IpDefragPool<(), ()>);

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pieces")
    }
}

impl Pieces {
    /// Takes a frame. `None` for a fragment, unless it is the last that was missing: then the frame is that of the whole.
    pub fn take(&mut self, frame: Vec<u8>) -> Option<Vec<u8>> {
        let sliced = SlicedPacket::from_ethernet(&frame).ok().filter(SlicedPacket::is_ip_payload_fragmented);
        let Some(whole) = sliced.map(|sliced| self.0.process_sliced_packet(&sliced, (), ())) else { return Some(frame) };
        let payload = whole.ok()??;
        let mut whole = frame[..headers(&frame)].to_vec();
        whole.extend(&payload.payload);
        if whole[14] >> 4 == 4 {
            let len = u16::try_from(whole.len() - 14).unwrap_or(u16::MAX);
            whole[16..18].copy_from_slice(&len.to_be_bytes());
            whole[20..22].fill(0);
            whole[24..26].fill(0);
            let sum = header_checksum(&whole[14..34]);
            whole[24..26].copy_from_slice(&sum.to_be_bytes());
        } else {
            let len = u16::try_from(whole.len() - 54).unwrap_or(u16::MAX);
            whole[18..20].copy_from_slice(&len.to_be_bytes());
            whole[20] = payload.ip_number.0;
        }
        Some(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::story::frame::{Body, Datagram, Told};

    #[test]
    fn what_was_cut_is_put_together() {
        for (source, destination) in [("10.0.2.15:1", "10.0.2.2:2"), ("[fec0::15]:1", "[fec0::2]:2")] {
            let datagram = Datagram {
                source: source.parse().expect("an address"),
                destination: destination.parse().expect("an address"),
                payload: (0..3000).map(|n| n as u8).collect(),
            };
            let mut fragments = cut(&datagram.frame([2; 6], [4; 6]), 1000, 7);
            assert_eq!(fragments.len(), 4);
            fragments.rotate_left(1);
            let mut pieces = Pieces::default();
            let whole: Vec<_> = fragments.into_iter().filter_map(|fragment| pieces.take(fragment)).collect();
            assert_eq!(whole.len(), 1);
            let told = Told::read(&whole[0], true);
            assert_eq!((told.complaint, told.body), (None, Body::Udp(datagram)));
        }
    }
}
