//! Cutting packets, and putting together what the stack has cut, in ways of its own: not with the code that is under test.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::wire;

/// The number of the fragment header of IPv6.
const FRAGMENT: u8 = 44;

/// Cuts an IP packet without extension headers into fragments with at most `piece` bytes of its payload each, which must be a multiple
/// of 8.
///
/// # Panics
///
/// When it is not.
pub fn cut(packet: &[u8], piece: usize, id: u32) -> Vec<Vec<u8>> {
    assert!(piece > 0 && piece.is_multiple_of(8), "{piece} bytes cannot be said in units of eight");
    let payload = &packet[header_len(packet)..];
    let mut at = 0;
    let pieces = payload.chunks(piece).map(|bytes| {
        let fragment = fragment(packet, at, bytes, at + bytes.len() < payload.len(), id);
        at += bytes.len();
        fragment
    });
    pieces.collect()
}

/// One fragment of a packet: these bytes, which belong at `offset` of its payload.
pub fn fragment(packet: &[u8], offset: usize, bytes: &[u8], more: bool, id: u32) -> Vec<u8> {
    let mut fragment = packet[..header_len(packet)].to_vec();
    let units = u16::try_from(offset / 8).unwrap();
    if packet[0] >> 4 == 4 {
        let len = u16::try_from(fragment.len() + bytes.len()).unwrap();
        fragment[2..4].copy_from_slice(&len.to_be_bytes());
        fragment[4..6].copy_from_slice(&(id as u16).to_be_bytes());
        fragment[6..8].copy_from_slice(&(u16::from(more) << 13 | units).to_be_bytes());
        fragment[10..12].fill(0);
        let sum = wire::checksum(&fragment);
        fragment[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        let len = u16::try_from(8 + bytes.len()).unwrap();
        fragment[4..6].copy_from_slice(&len.to_be_bytes());
        let next = std::mem::replace(&mut fragment[6], FRAGMENT);
        fragment.extend([next, 0]);
        fragment.extend((units << 3 | u16::from(more)).to_be_bytes());
        fragment.extend(id.to_be_bytes());
    }
    fragment.extend(bytes);
    fragment
}

fn header_len(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 4 { usize::from(packet[0] & 15) * 4 } else { 40 }
}

/// The fragments that have come, until they are whole.
#[derive(Debug, Default)]
pub struct Assembler {
    packets: BTreeMap<(IpAddr, IpAddr, u32), Packet>,
}

#[derive(Debug, Default)]
struct Packet {
    header: Vec<u8>,
    pieces: BTreeMap<usize, Vec<u8>>,
    total: Option<usize>,
}

impl Assembler {
    /// Takes a frame. Returns it if it is no fragment; or, if it is the last that was missing, a frame with the packet that was cut.
    ///
    /// # Panics
    ///
    /// When fragments overlap, or are not as an honest sender makes them: our stack must not send such.
    pub fn add(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let Some(Fragment { key, header, offset, more, bytes }) = Fragment::of(frame) else { return Some(frame.to_vec()) };
        assert!(!bytes.is_empty() && (!more || bytes.len().is_multiple_of(8)), "a fragment of {} bytes", bytes.len());
        let packet = self.packets.entry(key).or_default();
        if offset == 0 {
            packet.header = header;
        }
        if !more {
            packet.total = Some(offset + bytes.len());
        }
        assert!(packet.pieces.insert(offset, bytes).is_none(), "a fragment twice");
        let mut end = 0;
        for (offset, bytes) in &packet.pieces {
            assert!(*offset >= end, "fragments overlap");
            if *offset > end {
                return None;
            }
            end += bytes.len();
        }
        (packet.total == Some(end)).then(|| self.packets.remove(&key).unwrap().into_frame())
    }

    /// How many packets are not whole.
    pub fn waiting(&self) -> usize {
        self.packets.len()
    }
}

impl Packet {
    fn into_frame(self) -> Vec<u8> {
        let mut frame = self.header;
        frame.extend(self.pieces.into_values().flatten());
        if frame[14] >> 4 == 4 {
            let len = u16::try_from(frame.len() - 14).unwrap();
            frame[16..18].copy_from_slice(&len.to_be_bytes());
            frame[20..22].fill(0);
            frame[24..26].fill(0);
            let sum = wire::checksum(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        } else {
            let len = u16::try_from(frame.len() - 54).unwrap();
            frame[18..20].copy_from_slice(&len.to_be_bytes());
        }
        frame
    }
}

struct Fragment {
    key: (IpAddr, IpAddr, u32),
    /// The headers of the packet that was cut, but for its length.
    header: Vec<u8>,
    offset: usize,
    more: bool,
    bytes: Vec<u8>,
}

impl Fragment {
    fn of(frame: &[u8]) -> Option<Self> {
        let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        match word(12) {
            wire::ETHERTYPE_IPV4 => {
                let field = word(20);
                if field & 0x3fff == 0 {
                    return None;
                }
                assert_eq!(wire::checksum(&frame[14..34]), 0, "the checksum of a fragment's header is wrong");
                assert_eq!(field & 0x4000, 0, "a fragment that must not be fragmented");
                assert_eq!(usize::from(word(16)), frame.len() - 14, "the length of a fragment is wrong");
                let ip = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).unwrap());
                Some(Self {
                    key: (ip(26), ip(30), word(18).into()),
                    header: frame[..34].to_vec(),
                    offset: usize::from(field & 0x1fff) * 8,
                    more: field & 0x2000 != 0,
                    bytes: frame[34..].to_vec(),
                })
            }
            wire::ETHERTYPE_IPV6 if frame[20] == FRAGMENT => {
                assert_eq!(usize::from(word(18)), frame.len() - 54, "the length of a fragment is wrong");
                let ip = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
                let mut header = frame[..54].to_vec();
                header[20] = frame[54];
                Some(Self {
                    key: (ip(22), ip(38), u32::from_be_bytes(frame[58..62].try_into().unwrap())),
                    header,
                    offset: usize::from(word(56) >> 3) * 8,
                    more: frame[57] & 1 != 0,
                    bytes: frame[62..].to_vec(),
                })
            }
            _ => None,
        }
    }
}

/// Whether a frame carries a piece of a packet only.
pub fn is_fragment(frame: &[u8]) -> bool {
    Fragment::of(frame).is_some()
}
