//! Sequence numbers between a recording and a run: the engine chooses its initial ones anew, so what a guest acknowledges has to follow.
//!
//! The checksum is updated with what changes (RFC 1624), so that one that was right stays right, and one that was wrong stays wrong.

use super::packet::{ACK, Tcp};
use crate::frame::{Checksum, FrameMeta};

const SEQ: usize = 4;
const ACKNOWLEDGEMENT: usize = 8;
const CHECKSUM: usize = 16;
const OPTIONS: usize = 20;
const SACK: u8 = 5;

/// Moves what a guest's segment acknowledges, in its header and in its SACK blocks (RFC 2018), by `delta`.
pub(super) fn acknowledgement(frame: &mut [u8], delta: u32, meta: &FrameMeta) {
    let Some(tcp) = Tcp::of(frame).filter(|tcp| tcp.has(ACK) && delta != 0) else { return };
    // The sum of a pseudo-header does not change.
    let summed = !matches!(meta.checksum, Checksum::Partial { .. });
    let blocks = sack_blocks(&frame[tcp.header.clone()]);
    let header = &mut frame[tcp.header];
    add(header, ACKNOWLEDGEMENT, delta, summed);
    blocks.into_iter().for_each(|at| add(header, at, delta, summed));
}

/// Moves the sequence number of an engine's segment by `delta`.
pub(super) fn sequence(frame: &mut [u8], delta: u32) {
    if let Some(tcp) = Tcp::of(frame).filter(|_| delta != 0) {
        add(&mut frame[tcp.header], SEQ, delta, true);
    }
}

/// Where the edges of SACK blocks are in a TCP header.
fn sack_blocks(header: &[u8]) -> Vec<usize> {
    let mut edges = Vec::new();
    let mut at = OPTIONS;
    while let Some(kind) = header.get(at).filter(|kind| **kind != 0) {
        let len = if *kind == 1 { 1 } else { header.get(at + 1).copied().map_or(0, usize::from) };
        if len == 0 || *kind != 1 && len < 2 || at + len > header.len() {
            break;
        }
        if *kind == SACK {
            edges.extend((at + 2..at + len).step_by(4).filter(|edge| edge + 4 <= at + len));
        }
        at += len;
    }
    edges
}

/// Adds to the number of 32 bits at `at` of a TCP header, and keeps its checksum as right as it was.
fn add(header: &mut [u8], at: usize, delta: u32, summed: bool) {
    let Some(field) = header.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<4>()) else { return };
    let before = *field;
    let after = u32::from_be_bytes(before).wrapping_add(delta).to_be_bytes();
    *field = after;
    let Some(checksum) = header.get_mut(CHECKSUM..).and_then(|rest| rest.first_chunk_mut::<2>()).filter(|_| summed) else { return };
    // An option may begin at an odd place; then its bytes weigh the other way round.
    let halves = |[a, b, c, d]: [u8; 4]| {
        let pair = |high, low| u32::from(u16::from_be_bytes([high, low]));
        if at.is_multiple_of(2) { pair(a, b) + pair(c, d) } else { pair(0, a) + pair(b, c) + pair(d, 0) }
    };
    // In ones' complement, 0xffff is nothing, and so is any number of them: what is subtracted stays positive.
    let mut sum = u32::from(!u16::from_be_bytes(*checksum)) + (3 * 0xffff - halves(before)) + halves(after);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    *checksum = (!(sum as u16)).to_be_bytes();
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;
    use crate::replay::form::Place;

    fn frame(ack: u32, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let packet = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 2, 15], [192, 0, 2, 1], 64).tcp(1, 2, 3, 4).ack(ack);
        let mut frame = Vec::new();
        packet.options_raw(options).unwrap().write(&mut frame, payload).unwrap();
        frame
    }

    fn is_sound(frame: &[u8]) -> bool {
        Place::of(frame).unwrap().is_sound(frame)
    }

    #[test]
    fn a_partial_checksum_holds_the_pseudo_header_and_stays() {
        let mut frame = frame(7, &[], b"x");
        let before = frame[50..52].to_vec();
        let meta = FrameMeta { checksum: Checksum::Partial { start: 34, offset: 16 }, gso: None };
        acknowledgement(&mut frame, 1000, &meta);
        assert_eq!((Tcp::of(&frame).unwrap().ack, &frame[50..52]), (1007, &before[..]));
    }

    #[test]
    fn a_segment_that_acknowledges_nothing_is_left_alone() {
        let packet = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 2, 15], [192, 0, 2, 1], 64).tcp(1, 2, 3, 4).syn();
        let mut frame = Vec::new();
        packet.write(&mut frame, &[]).unwrap();
        let before = frame.clone();
        acknowledgement(&mut frame, 1000, &FrameMeta::default());
        assert_eq!(frame, before);
    }

    proptest! {
        /// Blocks at even and odd places; sums that were right stay so, and those that were wrong too.
        #[test]
        fn what_was_right_stays_right(ack: u32, delta: u32, edges in any::<[u32; 2]>(), odd: bool, payload: Vec<u8>, damage in any::<u8>()) {
            let [left, right] = edges.map(u32::to_be_bytes);
            let options = if odd { [&[1, 5, 10][..], &left, &right, &[1]].concat() } else { [&[1, 1, 5, 10][..], &left, &right].concat() };
            let mut frame = frame(ack, &options, &payload[..payload.len().min(1000)]);
            frame[50] ^= damage;
            let sound = is_sound(&frame);
            prop_assert_eq!(sound, damage == 0);
            acknowledgement(&mut frame, delta, &FrameMeta::default());
            prop_assert_eq!(is_sound(&frame), sound);
            prop_assert_eq!(Tcp::of(&frame).unwrap().ack, ack.wrapping_add(delta));
            let at = 54 + if odd { 3 } else { 4 };
            prop_assert_eq!(frame[at..at + 4].to_vec(), edges[0].wrapping_add(delta).to_be_bytes().to_vec());
            sequence(&mut frame, delta);
            prop_assert_eq!(is_sound(&frame), sound);
        }

        /// A guest's options may be any bytes.
        #[test]
        fn no_options_do_harm(options in prop::collection::vec(any::<u8>(), 0..40), delta: u32) {
            let mut padded = options;
            padded.resize(padded.len().next_multiple_of(4), 0);
            let mut frame = frame(1, &padded, &[]);
            acknowledgement(&mut frame, delta, &FrameMeta::default());
        }
    }
}
