//! The header that virtio-net and tap devices put in front of a frame, as [`FrameMeta`].
//!
//! `struct virtio_net_hdr` (virtio 1.2, section 5.1.6) is 10 bytes long; with `VIRTIO_NET_F_MRG_RXBUF` or `VIRTIO_F_VERSION_1` two more
//! follow that count buffers. All fields are little-endian here: a modern device, or a tap device after `TUNSETVNETLE`.
//!
//! [`decode`] takes the header from a guest and so believes none of it: what comes out describes bytes that the frame really has.

use super::{Checksum, ETHERNET_HEADER, FrameMeta, Gso, GsoKind};

/// Length of the header without `num_buffers`.
pub const HEADER: usize = 10;

/// Length of the header with `num_buffers`.
pub const HEADER_WITH_BUFFERS: usize = 12;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// Where TCP has its checksum (RFC 9293 section 3.1), and the length of its header without options.
const TCP_CHECKSUM: u16 = 16;
const TCP_HEADER: u16 = 20;

/// Where UDP has its checksum (RFC 768), and the length of its header.
const UDP_CHECKSUM: u16 = 6;
const UDP_HEADER: u16 = 8;

/// Why a header says nothing sensible about its frame. The frame is to be dropped and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VnetError {
    /// The checksum would be taken of, or put at, bytes that the frame does not have, or that are its Ethernet header.
    #[error("the checksum to be filled in lies outside of the frame")]
    ChecksumOutside,
    /// A segmentation type that does not exist, or UFO, which is never offered.
    #[error("unknown segmentation type {0:#04x}")]
    UnknownGso(u8),
    /// To be cut into segments of no bytes.
    #[error("segmentation is asked for, but the segment size is 0")]
    GsoWithoutSize,
    /// Segments need checksums of their own, so `NEEDS_CSUM` must be set, for the checksum field of the same protocol.
    #[error("segmentation is asked for, but not for the checksum of that protocol to be filled in")]
    GsoWithoutChecksum,
}

/// The meaning of `header` for a frame of `frame_len` bytes that a guest has sent.
///
/// `hdr_len` is ignored, as the specification wants it of devices that do not trust their driver; so are unknown flags.
///
/// # Errors
///
/// When the header contradicts itself or the frame.
pub fn decode(header: &[u8; HEADER], frame_len: usize) -> Result<FrameMeta, VnetError> {
    let [flags, gso_type, _, _, size_low, size_high, start_low, start_high, offset_low, offset_high] = *header;
    let checksum = if flags & NEEDS_CSUM != 0 {
        let start = u16::from_le_bytes([start_low, start_high]);
        let offset = u16::from_le_bytes([offset_low, offset_high]);
        if usize::from(start) < ETHERNET_HEADER || usize::from(start) + usize::from(offset) + 2 > frame_len {
            return Err(VnetError::ChecksumOutside);
        }
        Checksum::Partial { start, offset }
    } else if flags & DATA_VALID != 0 {
        Checksum::Verified
    } else {
        Checksum::Complete
    };
    if gso_type == GSO_NONE {
        return Ok(FrameMeta { checksum, gso: None });
    }

    let (kind, checksum_at, transport_header) = match gso_type & !GSO_ECN {
        GSO_TCPV4 => (GsoKind::TcpV4, TCP_CHECKSUM, TCP_HEADER),
        GSO_TCPV6 => (GsoKind::TcpV6, TCP_CHECKSUM, TCP_HEADER),
        GSO_UDP_L4 if gso_type == GSO_UDP_L4 => (GsoKind::Udp, UDP_CHECKSUM, UDP_HEADER),
        _ => return Err(VnetError::UnknownGso(gso_type)),
    };
    let size = u16::from_le_bytes([size_low, size_high]);
    if size == 0 {
        return Err(VnetError::GsoWithoutSize);
    }
    match checksum {
        Checksum::Partial { start, offset } if offset == checksum_at => {
            if usize::from(start) + usize::from(transport_header) > frame_len {
                return Err(VnetError::ChecksumOutside);
            }
        }
        _ => return Err(VnetError::GsoWithoutChecksum),
    }
    Ok(FrameMeta { checksum, gso: Some(Gso { kind, size, ecn: gso_type & GSO_ECN != 0 }) })
}

/// The header that says `meta` of a frame to a guest.
///
/// `header_len` comes from [`header_len`]. `num_buffers` is how many buffers the frame fills; 1 for a guest that did not negotiate
/// mergeable ones. A header without that field is the first [`HEADER`] bytes.
pub fn encode(meta: &FrameMeta, header_len: u16, num_buffers: u16) -> [u8; HEADER_WITH_BUFFERS] {
    let (flags, start, offset) = match meta.checksum {
        Checksum::Complete => (0, 0, 0),
        Checksum::Partial { start, offset } => (NEEDS_CSUM, start, offset),
        Checksum::Verified => (DATA_VALID, 0, 0),
    };
    let (gso_type, size) = match meta.gso {
        None => (GSO_NONE, 0),
        Some(Gso { kind, size, ecn }) => {
            let kind = match kind {
                GsoKind::TcpV4 => GSO_TCPV4,
                GsoKind::TcpV6 => GSO_TCPV6,
                GsoKind::Udp => GSO_UDP_L4,
            };
            (if ecn { kind | GSO_ECN } else { kind }, size)
        }
    };
    let [hdr_low, hdr_high] = header_len.to_le_bytes();
    let [size_low, size_high] = size.to_le_bytes();
    let [start_low, start_high] = start.to_le_bytes();
    let [offset_low, offset_high] = offset.to_le_bytes();
    let [buffers_low, buffers_high] = num_buffers.to_le_bytes();
    [
        flags,
        gso_type,
        hdr_low,
        hdr_high,
        size_low,
        size_high,
        start_low,
        start_high,
        offset_low,
        offset_high,
        buffers_low,
        buffers_high,
    ]
}

/// The length of all headers of a frame, for the `hdr_len` field: 0 when `meta` does not tell where the transport header is.
///
/// Linux lays out its socket buffer by it: headers in the linear part, payload in page fragments. Without it, a frame of 64 KiB asks for
/// that much memory in one piece. `byte_at` reads one byte of the frame.
pub fn header_len(meta: &FrameMeta, frame_len: usize, byte_at: impl FnOnce(usize) -> Option<u8>) -> u16 {
    let Checksum::Partial { start, offset } = meta.checksum else { return 0 };
    let transport = match offset {
        TCP_CHECKSUM => {
            let data_offset = byte_at(usize::from(start) + 12).unwrap_or_default();
            u16::from(data_offset >> 4).saturating_mul(4).max(TCP_HEADER)
        }
        UDP_CHECKSUM => UDP_HEADER,
        _ => offset.saturating_add(2),
    };
    start.saturating_add(transport).min(u16::try_from(frame_len).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PARTIAL_TCP: Checksum = Checksum::Partial { start: 34, offset: 16 };

    #[test]
    fn a_plain_frame_has_an_empty_header() {
        assert_eq!(decode(&[0; 10], 60), Ok(FrameMeta::default()));
        assert_eq!(encode(&FrameMeta::default(), 0, 1), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn a_tcp_super_frame_says_how_it_is_cut() {
        let header = [1, 1, 54, 0, 0xb4, 0x05, 34, 0, 16, 0];
        let meta = FrameMeta { checksum: PARTIAL_TCP, gso: Some(Gso { kind: GsoKind::TcpV4, size: 1460, ecn: false }) };
        assert_eq!(decode(&header, 65000), Ok(meta));
        assert_eq!(encode(&meta, 54, 0)[..10], header);
    }

    #[test]
    fn congestion_is_told_by_the_high_bit() {
        let header = [1, 0x84, 74, 0, 0xa0, 0x05, 54, 0, 16, 0];
        let checksum = Checksum::Partial { start: 54, offset: 16 };
        let meta = FrameMeta { checksum, gso: Some(Gso { kind: GsoKind::TcpV6, size: 1440, ecn: true }) };
        assert_eq!(decode(&header, 9000), Ok(meta));
        assert_eq!(encode(&meta, 74, 0)[..10], header);
    }

    #[test]
    fn datagrams_are_cut_by_type_5() {
        let header = [1, 5, 42, 0, 0xe8, 0x03, 34, 0, 6, 0];
        let checksum = Checksum::Partial { start: 34, offset: 6 };
        let meta = FrameMeta { checksum, gso: Some(Gso { kind: GsoKind::Udp, size: 1000, ecn: false }) };
        assert_eq!(decode(&header, 5042), Ok(meta));
        assert_eq!(encode(&meta, 42, 0)[..10], header);
    }

    #[test]
    fn a_verified_checksum_is_believed() {
        assert_eq!(decode(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0], 60).unwrap().checksum, Checksum::Verified);
        let meta = FrameMeta { checksum: Checksum::Verified, gso: None };
        assert_eq!(encode(&meta, 0, 0)[0], 2);
    }

    #[test]
    fn a_header_that_contradicts_itself_is_refused() {
        let decode_start_offset = |start: u16, offset: u16| {
            let ([a, b], [c, d]) = (start.to_le_bytes(), offset.to_le_bytes());
            decode(&[1, 0, 0, 0, 0, 0, a, b, c, d], 60)
        };
        assert!(decode_start_offset(42, 16).is_ok());
        assert_eq!(decode_start_offset(43, 16), Err(VnetError::ChecksumOutside));
        assert_eq!(decode_start_offset(13, 16), Err(VnetError::ChecksumOutside));
        assert_eq!(decode_start_offset(0xffff, 0xffff), Err(VnetError::ChecksumOutside));

        assert_eq!(decode(&[1, 1, 0, 0, 0, 0, 34, 0, 16, 0], 1000), Err(VnetError::GsoWithoutSize));
        assert_eq!(decode(&[0, 1, 0, 0, 1, 0, 34, 0, 16, 0], 1000), Err(VnetError::GsoWithoutChecksum));
        assert_eq!(decode(&[1, 1, 0, 0, 1, 0, 34, 0, 6, 0], 1000), Err(VnetError::GsoWithoutChecksum));
        assert_eq!(decode(&[1, 5, 0, 0, 1, 0, 34, 0, 16, 0], 1000), Err(VnetError::GsoWithoutChecksum));
        assert_eq!(decode(&[1, 1, 0, 0, 1, 0, 34, 0, 16, 0], 53), Err(VnetError::ChecksumOutside));
        for unknown in [2, 3, 6, 0x7f, 0x80, 0x83, 0x85, 0xff] {
            assert_eq!(decode(&[1, unknown, 0, 0, 1, 0, 34, 0, 16, 0], 1000), Err(VnetError::UnknownGso(unknown)));
        }
    }

    #[test]
    fn the_headers_end_where_the_payload_begins() {
        let meta = FrameMeta { checksum: PARTIAL_TCP, gso: None };
        assert_eq!(header_len(&meta, 1514, |at| (at == 46).then_some(0x80)), 66);
        assert_eq!(header_len(&meta, 60, |_| Some(0xf0)), 60, "never past the end of the frame");
        assert_eq!(header_len(&meta, 1514, |_| None), 54);
        let udp = FrameMeta { checksum: Checksum::Partial { start: 54, offset: 6 }, gso: None };
        assert_eq!(header_len(&udp, 1514, |_| None), 62);
        assert_eq!(header_len(&FrameMeta::default(), 1514, |_| None), 0);
    }

    proptest! {
        #[test]
        fn what_is_decoded_encodes_to_the_same_meaning(header: [u8; HEADER], gso_type in 0_u8..6, frame_len in 0_usize..65549) {
            let mut header = header;
            header[1] = header[1] & GSO_ECN | gso_type;
            if let Ok(meta) = decode(&header, frame_len) {
                let again = encode(&meta, 0, 1);
                prop_assert_eq!(decode(again.first_chunk().unwrap(), frame_len), Ok(meta));
                if let Checksum::Partial { start, offset } = meta.checksum {
                    prop_assert!(usize::from(start) + usize::from(offset) + 2 <= frame_len);
                }
            }
        }
    }
}
