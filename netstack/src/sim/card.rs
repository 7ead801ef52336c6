//! What a network card does with offloads: cuts super-frames, fills in checksums, and joins segments.

use std::net::IpAddr;

use crate::frame::{Checksum, FrameMeta, Gso, GsoKind};

use super::wire::{PROTOCOL_TCP, PROTOCOL_UDP, checksum, fold, pseudo_header, set_checksum};

/// Where the headers of a TCP or UDP frame are.
struct Layout {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    transport: usize,
    payload: usize,
}

fn layout(frame: &[u8]) -> Option<Layout> {
    let ip = &frame[14..];
    let (source, destination, protocol, transport) = match frame[12..14] {
        [0x08, 0x00] => {
            let ip4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&ip[at..at + 4]).unwrap());
            (ip4(12), ip4(16), ip[9], 14 + usize::from(ip[0] & 15) * 4)
        }
        [0x86, 0xdd] => {
            let ip6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).unwrap());
            (ip6(8), ip6(24), ip[6], 54)
        }
        _ => return None,
    };
    let payload = match protocol {
        PROTOCOL_TCP => transport + usize::from(frame[transport + 12] >> 4) * 4,
        PROTOCOL_UDP => transport + 8,
        _ => return None,
    };
    Some(Layout { source, destination, protocol, transport, payload })
}

/// Sets the length fields of a frame to what it has.
fn set_lengths(frame: &mut [u8], layout: &Layout) {
    let len = frame.len() - 14;
    if layout.source.is_ipv4() {
        frame[16..18].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
        frame[24..26].fill(0);
        let sum = checksum(&frame[14..layout.transport]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        frame[18..20].copy_from_slice(&u16::try_from(len - 40).unwrap().to_be_bytes());
    }
    if layout.protocol == PROTOCOL_UDP {
        let len = u16::try_from(frame.len() - layout.transport).unwrap();
        frame[layout.transport + 4..layout.transport + 6].copy_from_slice(&len.to_be_bytes());
    }
}

const fn checksum_offset(protocol: u8) -> usize {
    if protocol == PROTOCOL_TCP { 16 } else { 6 }
}

/// The frames that go over the wire for one that the stack has sent.
///
/// # Panics
///
/// When the offload state contradicts the frame.
pub fn transmit(mut frame: Vec<u8>, meta: FrameMeta, mtu: u16) -> Vec<Vec<u8>> {
    if let Checksum::Partial { start, offset } = meta.checksum {
        let layout = layout(&frame).expect("a partial checksum in a frame without transport");
        assert_eq!(usize::from(start), layout.transport, "the checksum starts with the transport header");
        assert_eq!(usize::from(offset), checksum_offset(layout.protocol));
        let at = usize::from(start + offset);
        let pseudo = pseudo_header(layout.source, layout.destination, layout.protocol, frame.len() - layout.transport);
        assert_eq!(frame[at..at + 2], fold(&pseudo).to_be_bytes(), "the checksum field holds the sum of the pseudo-header");
        let sum = checksum(&frame[layout.transport..]);
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    let frames = match meta.gso {
        None => vec![frame],
        Some(gso) => {
            assert!(matches!(meta.checksum, Checksum::Partial { .. }), "a super-frame has a partial checksum");
            cut(&frame, gso)
        }
    };
    for frame in &frames {
        assert!(frame.len() <= 14 + usize::from(mtu), "a frame of {} bytes on a link of {mtu}", frame.len());
    }
    frames
}

fn cut(frame: &[u8], gso: Gso) -> Vec<Vec<u8>> {
    let layout = layout(frame).expect("a super-frame without transport");
    let kind = match (layout.protocol, layout.source) {
        (PROTOCOL_TCP, IpAddr::V4(_)) => GsoKind::TcpV4,
        (PROTOCOL_TCP, IpAddr::V6(_)) => GsoKind::TcpV6,
        _ => GsoKind::Udp,
    };
    assert_eq!(gso.kind, kind);
    let (headers, payload) = frame.split_at(layout.payload);
    let size = usize::from(gso.size);
    assert!(size > 0 && payload.len() > size, "a super-frame of {} bytes in segments of {size}", payload.len());
    let count = payload.chunks(size).count();
    let mut frames = Vec::new();
    for (index, piece) in payload.chunks(size).enumerate() {
        let mut segment = [headers, piece].concat();
        set_lengths(&mut segment, &layout);
        let transport = layout.transport;
        if layout.protocol == PROTOCOL_TCP {
            let seq = u32::from_be_bytes(segment[transport + 4..transport + 8].try_into().unwrap());
            let seq = seq.wrapping_add(u32::try_from(index * size).unwrap());
            segment[transport + 4..transport + 8].copy_from_slice(&seq.to_be_bytes());
            if index + 1 < count {
                segment[transport + 13] &= !0x09; // FIN and PSH belong to the last byte.
            }
        }
        let offset = checksum_offset(layout.protocol);
        set_checksum(layout.source, layout.destination, layout.protocol, &mut segment[transport..], offset);
        frames.push(segment);
    }
    frames
}

/// Joins segments that follow each other into super-frames, as a guest with segmentation offload would have sent them.
pub fn join(frames: Vec<Vec<u8>>) -> Vec<(Vec<u8>, FrameMeta)> {
    let mut joined: Vec<(Vec<u8>, FrameMeta)> = Vec::new();
    for frame in frames {
        let Some((last, meta)) = joined.last_mut() else {
            joined.push((frame, FrameMeta::default()));
            continue;
        };
        if let Some(size) = follows(last, &frame, meta.gso) {
            let layout = layout(&frame).unwrap();
            let kind = if layout.source.is_ipv4() { GsoKind::TcpV4 } else { GsoKind::TcpV6 };
            last.extend(&frame[layout.payload..]);
            let transport = layout.transport;
            last[transport + 13] |= frame[transport + 13];
            set_lengths(last, &layout);
            let pseudo = pseudo_header(layout.source, layout.destination, PROTOCOL_TCP, last.len() - transport);
            last[transport + 16..transport + 18].copy_from_slice(&fold(&pseudo).to_be_bytes());
            let checksum = Checksum::Partial { start: u16::try_from(transport).unwrap(), offset: 16 };
            *meta = FrameMeta { checksum, gso: Some(Gso { kind, size, ecn: false }) };
        } else {
            joined.push((frame, FrameMeta::default()));
        }
    }
    joined
}

/// The segment size, if `next` continues `last`.
fn follows(last: &[u8], next: &[u8], gso: Option<Gso>) -> Option<u16> {
    let (a, b) = (layout(last)?, layout(next)?);
    let (payload, more) = (last.len() - a.payload, next.len() - b.payload);
    let size = gso.map_or(payload, |gso| usize::from(gso.size));
    let same = a.protocol == PROTOCOL_TCP
        && (a.source, a.destination, a.protocol, a.payload) == (b.source, b.destination, b.protocol, b.payload)
        && last[a.transport..a.transport + 4] == next[b.transport..b.transport + 4]
        && last[a.transport + 8..a.transport + 12] == next[b.transport + 8..b.transport + 12];
    if !same || more == 0 || more > size || payload == 0 || payload % size != 0 || payload + more > 60_000 {
        return None;
    }
    // SYN, FIN and RST end or begin something.
    if last[a.transport + 13] & 7 != 0 || next[b.transport + 13] & 6 != 0 {
        return None;
    }
    let seq = |frame: &[u8], at: usize| u32::from_be_bytes(frame[at + 4..at + 8].try_into().unwrap());
    let expected = seq(last, a.transport).wrapping_add(u32::try_from(payload).unwrap());
    (seq(next, b.transport) == expected).then_some(u16::try_from(size).unwrap())
}
