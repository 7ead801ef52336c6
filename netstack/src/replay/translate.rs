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
