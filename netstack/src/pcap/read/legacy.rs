//! The old format: a header of 24 bytes, then 16 before each packet.

use std::borrow::Cow;

use pcap_parser::pcap::{PcapHeader, parse_pcap_frame, parse_pcap_frame_be, parse_pcap_header};

use super::{ETHERNET, Format, Interface, MAX_PACKET, Packet, Problem, Recording, What};

const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;

pub(super) fn read(bytes: &[u8]) -> Result<Recording<'_>, Problem> {
    let Ok((_, header)) = parse_pcap_header(bytes) else {
        let what = What::Truncated { place: "file header", needs: FILE_HEADER as u64, has: bytes.len() as u64 };
        return Err(Problem { offset: 0, what });
    };
    // The upper half has other uses: the length of an FCS.
    let link_type = header.network.0 as u32 & 0xffff;
    if link_type != ETHERNET {
        return Err(Problem { offset: 0, what: What::LinkType(link_type) });
    }
    let mut recording = Recording::new(Format::Pcap);
    recording.interfaces.push(Interface { link_type, snaplen: header.snaplen, ..Interface::default() });
    let mut offset = FILE_HEADER;
    while offset < bytes.len() {
        match packet(&bytes[offset..], &header) {
            Ok((packet, len)) => {
                recording.packets.push(Packet { number: recording.packets.len() + 1, offset: offset as u64, ..packet });
                offset += len;
            }
            Err(what) => {
                recording.problem = Some(Problem { offset: offset as u64, what });
                break;
            }
        }
    }
    Ok(recording.finish())
}

/// The packet at the beginning of `rest`, and the length of its record.
fn packet<'a>(rest: &'a [u8], header: &PcapHeader) -> Result<(Packet<'a>, usize), What> {
    let truncated = |needs, has| What::Truncated { place: "packet", needs, has };
    let Some(length) = rest.get(8..12).and_then(<[u8]>::first_chunk) else {
        return Err(truncated(PACKET_HEADER as u64, rest.len() as u64));
    };
    let claimed = if header.is_bigendian() { u32::from_be_bytes(*length) } else { u32::from_le_bytes(*length) };
    if claimed as usize > MAX_PACKET {
        return Err(What::TooLong(claimed.into()));
    }
    let parsed = if header.is_bigendian() { parse_pcap_frame_be(rest) } else { parse_pcap_frame(rest) };
    let Ok((after, frame)) = parsed else {
        return Err(truncated(u64::from(claimed) + PACKET_HEADER as u64, rest.len() as u64));
    };
    let unit = if header.is_nanosecond_precision() { 1 } else { 1000 };
    let packet = Packet {
        number: 0,
        offset: 0,
        stamp: u64::from(frame.ts_sec) * 1_000_000_000 + u64::from(frame.ts_usec) * unit,
        interface: 0,
        direction: None,
        original_len: frame.origlen as usize,
        data: Cow::Borrowed(frame.data),
        comments: Vec::new(),
    };
    Ok((packet, rest.len() - after.len()))
}
