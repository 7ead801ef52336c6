//! Completing the checksums that sender and receiver of a frame have left to each other, so that nobody who reads the recording takes
//! them for errors.

use etherparse::IpNumber;
use smoltcp::wire::{IpProtocol, checksum as sum};

use super::summary::Summary;
use crate::frame::{Checksum, FrameMeta};
use crate::pcap::note::NotedChecksum;
use crate::wire::checksum;

/// Completes the checksum of a whole frame, if it is that of the transport protocol in it, and tells what was said about it.
pub(super) fn checksum(bytes: &mut [u8], whole: bool, meta: &FrameMeta, summary: &Summary) -> Option<NotedChecksum> {
    let (start, offset) = match meta.checksum {
        Checksum::Complete => return None,
        Checksum::Verified => return Some(NotedChecksum::Verified),
        Checksum::Partial { start, offset } => (start, offset),
    };
    let elsewhere = Some(NotedChecksum::PartialAt { start, offset });
    let (protocol, field) = match summary.protocol {
        Some(IpNumber::TCP) => (IpProtocol::Tcp, 16),
        Some(IpNumber::UDP) => (IpProtocol::Udp, 6),
        _ => return elsewhere,
    };
    let Some((source, destination)) = summary.addresses else { return elsewhere };
    if usize::from(start) != summary.transport.start || offset != field {
        return elsewhere;
    }
    if !whole {
        return Some(NotedChecksum::Partial);
    }
    let Some(transport) = bytes.get_mut(summary.transport.clone()) else { return elsewhere };
    let Some(place) = transport.get_mut(usize::from(field)..).and_then(|rest| rest.first_chunk_mut()) else { return elsewhere };
    *place = [0; 2];
    let pseudo_header = checksum::pseudo_header(source, destination, protocol, transport.len());
    let total = !sum::combine(&[pseudo_header, sum::data(transport)]);
    // RFC 768: zero would mean that there is none. For TCP the two forms of zero are the same.
    let total = if total == 0 { u16::MAX } else { total };
    if let Some(place) = transport.get_mut(usize::from(field)..).and_then(|rest| rest.first_chunk_mut()) {
        *place = total.to_be_bytes();
    }
    Some(NotedChecksum::Partial)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::summary::tests::{ping, tcp, udp6};

    fn finished(bytes: &mut [u8], start: u16, offset: u16) -> Option<NotedChecksum> {
        let meta = FrameMeta { checksum: Checksum::Partial { start, offset }, gso: None };
        let summary = Summary::of(bytes);
        checksum(bytes, true, &meta, &summary)
    }

    #[test]
    fn a_checksum_is_what_the_sender_would_have_written() {
        for (right, start, offset) in [(tcp(None, b"some data"), 34, 16), (udp6(b"other data"), 54, 6)] {
            let mut frame = right.clone();
            frame[usize::from(start + offset)..][..2].copy_from_slice(&[0xab, 0xcd]);
            assert_eq!(finished(&mut frame, start, offset), Some(NotedChecksum::Partial));
            assert_eq!(frame, right);
        }
    }

    #[test]
    fn a_checksum_that_is_none_of_the_protocol_is_left_alone() {
        for (frame, start, offset) in [(tcp(None, b""), 34, 6), (tcp(None, b""), 36, 16), (ping(1), 34, 2), (vec![0; 9], 14, 16)] {
            let mut left = frame.clone();
            assert_eq!(finished(&mut left, start, offset), Some(NotedChecksum::PartialAt { start, offset }));
            assert_eq!(left, frame);
        }
    }

    #[test]
    fn part_of_a_frame_cannot_be_summed() {
        let frame = tcp(None, &[1; 500]);
        let meta = FrameMeta { checksum: Checksum::Partial { start: 34, offset: 16 }, gso: None };
        let mut part = frame[..96].to_vec();
        let summary = Summary::of(&part);
        assert_eq!(checksum(&mut part, false, &meta, &summary), Some(NotedChecksum::Partial));
        assert_eq!(part, frame[..96]);
    }
}
