//! What a receiver without offloads needs: checksums filled in, and a super-frame cut into frames that fit the link.
//!
//! Ports that take offloads never come here. It is needed between two guests of which one leaves this work to the other, who does not
//! take it: a tap device that talks to a virtual machine on a stream port.
//!
//! Nothing in the frame is trusted: neither its lengths nor that its meta describes it. What makes no sense is refused with a reason.
//! The length fields of IP and UDP in a super-frame are not even looked at, because some senders leave them 0; the frame's own counts.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{EtherType, IpNumber};
use smoltcp::wire::{IpProtocol, checksum};

use super::{Checksum, ETHERNET_HEADER, Frame, FrameMeta, Gso, GsoKind, MAX_FRAME, Offloads};

/// Segments made of one frame, at most: those of the largest packet by the smallest MSS that Linux takes, 48. Without a limit, a guest
/// could have one frame become 65,000.
const MAX_SEGMENTS: usize = 65535_usize.div_ceil(48);

/// Bytes in which all headers must be found. Two VLAN tags, an IPv6 header, a few extension headers and the longest TCP header fit.
const MAX_HEADERS: usize = 512;

const IPV6_HEADER: usize = 40;
const VLAN_TAG: usize = 4;

/// Why a frame cannot be finished or cut. It is to be dropped and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// The headers, or the place of the checksum, lie past the end of the frame, or the frame is too long.
    #[error("the frame is shorter than its headers, or longer than a frame can be")]
    BadLength,
    /// The meta asks for rules that are not those of the packet in the frame.
    #[error("the frame is no packet of the protocol by whose rules it is to be cut")]
    OtherProtocol,
    /// An IP fragment has no transport header to repeat.
    #[error("a fragment cannot be cut into segments")]
    Fragment,
    /// The segment size is absurdly small for the frame.
    #[error("the frame would become too many segments")]
    TooManySegments,
}

/// Whether the frame is what its meta says, so that another guest may be given both.
///
/// # Errors
///
/// When it is not. A frame without checksum to fill in and without segment size is always fine.
pub fn check(frame: &Frame<'_>) -> Result<(), SegmentError> {
    if frame.len() > MAX_FRAME {
        return Err(SegmentError::BadLength);
    }
    let Checksum::Partial { start, offset } = frame.meta.checksum else {
        return frame.meta.gso.map_or(Ok(()), |_| Err(SegmentError::OtherProtocol));
    };
    let (start, offset) = (usize::from(start), usize::from(offset));
    if start < ETHERNET_HEADER || start + offset + 2 > frame.len() {
        return Err(SegmentError::BadLength);
    }
    if let Some(gso) = frame.meta.gso {
        let mut headers = [0; MAX_HEADERS];
        let len = frame.copy_to(0, &mut headers);
        let headers = Headers::find(&headers[..len], start, gso)?;
        if offset != headers.checksum_offset() {
            return Err(SegmentError::OtherProtocol);
        }
        headers.segments(frame.len(), gso.size.into())?;
    }
    Ok(())
}

/// Hands `frame` to `emit` in a form that a receiver with `offloads` takes: as it is, with its checksum filled in, or cut into segments
/// in their order. `scratch` is only there to be used again; nothing in it matters.
///
/// # Errors
///
/// When the frame contradicts its meta. Nothing was emitted then.
pub fn segment(
    frame: &Frame<'_>,
    offloads: &Offloads,
    scratch: &mut Vec<u8>,
    emit: &mut dyn FnMut(&[u8], FrameMeta),
) -> Result<(), SegmentError> {
    if frame.len() > MAX_FRAME {
        return Err(SegmentError::BadLength);
    }
    scratch.clear();
    scratch.resize(frame.len(), 0);
    frame.copy_to(0, scratch);
    if offloads.accept(&frame.meta) {
        emit(scratch, frame.meta);
        return Ok(());
    }
    match frame.meta {
        FrameMeta { gso: Some(gso), checksum: Checksum::Partial { start, .. } } => {
            let headers = Headers::find(scratch, usize::from(start), gso)?;
            headers.cut(scratch, usize::from(gso.size), emit)
        }
        FrameMeta { gso: Some(_), .. } => Err(SegmentError::OtherProtocol),
        FrameMeta { gso: None, checksum } => {
            if let Checksum::Partial { start, offset } = checksum {
                finish_checksum(scratch, start.into(), offset.into())?;
            }
            emit(scratch, FrameMeta::default());
            Ok(())
        }
    }
}

/// Fills in the checksum of the bytes from `start` on, whose field, `offset` bytes after that, holds the sum of the pseudo-header.
fn finish_checksum(frame: &mut [u8], start: usize, offset: usize) -> Result<(), SegmentError> {
    let summed = frame.get_mut(start..).ok_or(SegmentError::BadLength)?;
    let sum = not_zero(!checksum::data(summed));
    let field = summed.get_mut(offset..).and_then(|rest| rest.first_chunk_mut()).ok_or(SegmentError::BadLength)?;
    *field = sum.to_be_bytes();
    Ok(())
}

/// In UDP, zero means that there is no checksum, and its complement is sent instead (RFC 768). To TCP, both are the same number.
const fn not_zero(sum: u16) -> u16 {
    if sum == 0 { 0xffff } else { sum }
}

/// Where the headers of a super-frame are.
#[derive(Debug, Clone, Copy)]
struct Headers {
    ip: usize,
    version: Version,
    transport: usize,
    protocol: IpProtocol,
    payload: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V4,
    V6,
}

impl Headers {
    /// Finds the headers, and checks that they are those that `gso` speaks of, and that the transport header is at `start`.
    fn find(frame: &[u8], start: usize, gso: Gso) -> Result<Self, SegmentError> {
        let frame = &frame[..frame.len().min(MAX_HEADERS)];
        let (ip, ether_type) = skip_vlan_tags(frame)?;
        let (version, next, transport) = match ether_type {
            EtherType::IPV4 => {
                let (next, transport) = ipv4_payload(frame, ip)?;
                (Version::V4, next, transport)
            }
            EtherType::IPV6 => {
                let (next, transport) = ipv6_payload(frame, ip)?;
                (Version::V6, next, transport)
            }
            _ => return Err(SegmentError::OtherProtocol),
        };
        let (protocol, payload) = match (gso.kind, version, next) {
            (GsoKind::TcpV4, Version::V4, IpNumber::TCP) | (GsoKind::TcpV6, Version::V6, IpNumber::TCP) => {
                let words = byte_at(frame, transport + 12)? >> 4;
                if words < 5 {
                    return Err(SegmentError::BadLength);
                }
                (IpProtocol::Tcp, transport + usize::from(words) * 4)
            }
            (GsoKind::Udp, _, IpNumber::UDP) => (IpProtocol::Udp, transport + 8),
            _ => return Err(SegmentError::OtherProtocol),
        };
        if transport != start {
            return Err(SegmentError::OtherProtocol);
        }
        if payload > frame.len() {
            return Err(SegmentError::BadLength);
        }
        Ok(Self { ip, version, transport, protocol, payload })
    }

    /// How many segments a frame of `len` bytes becomes.
    fn segments(self, len: usize, size: usize) -> Result<usize, SegmentError> {
        let payload = len.saturating_sub(self.payload);
        match payload.checked_div(size) {
            Some(0..MAX_SEGMENTS) => Ok(payload.div_ceil(size).max(1)),
            _ => Err(SegmentError::TooManySegments),
        }
    }

    /// Where the transport header has its checksum.
    const fn checksum_offset(self) -> usize {
        match self.protocol {
            IpProtocol::Tcp => 16,
            _ => 6,
        }
    }

    fn cut(self, frame: &mut [u8], size: usize, emit: &mut dyn FnMut(&[u8], FrameMeta)) -> Result<(), SegmentError> {
        let segments = self.segments(frame.len(), size)?;
        let mut original = [0; MAX_HEADERS];
        let original = &mut original[..self.payload];
        original.copy_from_slice(&frame[..self.payload]);
        // The headers of each segment are written in front of its payload, over the end of the one before, which is gone by then.
        for index in 0..segments {
            let start = index * size;
            let end = frame.len().min(start + self.payload + size);
            let segment = &mut frame[start..end];
            let (headers, _) = segment.split_at_mut(self.payload);
            headers.copy_from_slice(original);
            self.finish(segment, index, size, index + 1 == segments);
            emit(segment, FrameMeta::default());
        }
        Ok(())
    }

    /// Makes a segment a frame of its own: lengths, numbers, flags and checksums. Its bytes include all headers, as [`Headers::find`] has
    /// made sure.
    fn finish(self, segment: &mut [u8], index: usize, size: usize, last: bool) {
        let (headers, transport) = segment.split_at_mut(self.transport);
        let ip = &mut headers[self.ip..];
        let sum = match self.version {
            Version::V4 => finish_ipv4(ip, transport.len(), index, self.protocol),
            Version::V6 => finish_ipv6(ip, transport.len(), self.protocol),
        };
        match self.protocol {
            IpProtocol::Tcp => finish_tcp(transport, index, size, last),
            _ => put(transport, 4, low_half(transport.len())),
        }
        let field = self.checksum_offset();
        put(transport, field, 0);
        let sum = checksum::combine(&[sum, checksum::data(transport)]);
        put(transport, field, not_zero(!sum));
    }
}

/// Sets length, identification and checksum; returns the sum of the pseudo-header.
fn finish_ipv4(ip: &mut [u8], payload: usize, index: usize, protocol: IpProtocol) -> u16 {
    put(ip, 2, low_half(ip.len() + payload));
    // Each one may be fragmented on its way, and needs a number of its own (RFC 6864 section 4).
    put(ip, 4, get(ip, 4).wrapping_add(low_half(index)));
    put(ip, 10, 0);
    put(ip, 10, !checksum::data(ip));
    let (source, destination) = (address::<4>(ip, 12), address::<4>(ip, 16));
    checksum::pseudo_header_v4(&Ipv4Addr::from(source), &Ipv4Addr::from(destination), protocol, low_half(payload).into())
}

/// Sets the length; returns the sum of the pseudo-header.
fn finish_ipv6(ip: &mut [u8], payload: usize, protocol: IpProtocol) -> u16 {
    put(ip, 4, low_half(ip.len() - IPV6_HEADER + payload));
    let (source, destination) = (address::<16>(ip, 8), address::<16>(ip, 24));
    checksum::pseudo_header_v6(&Ipv6Addr::from(source), &Ipv6Addr::from(destination), protocol, low_half(payload).into())
}

/// Sets the sequence number, and the flags: FIN and PSH are for the last segment, CWR is for the first (RFC 3168 section 6.1.2).
fn finish_tcp(tcp: &mut [u8], index: usize, size: usize, last: bool) {
    const FIN: u8 = 0x01;
    const PSH: u8 = 0x08;
    const CWR: u8 = 0x80;
    let offset = u32::try_from(index * size).unwrap_or(u32::MAX);
    if let Some(sequence) = tcp.get_mut(4..).and_then(|rest| rest.first_chunk_mut()) {
        *sequence = u32::from_be_bytes(*sequence).wrapping_add(offset).to_be_bytes();
    }
    if let Some(flags) = tcp.get_mut(13) {
        if !last {
            *flags &= !(FIN | PSH);
        }
        if index > 0 {
            *flags &= !CWR;
        }
    }
}

/// Where the packet begins, and what it is (IEEE 802.1Q).
fn skip_vlan_tags(frame: &[u8]) -> Result<(usize, EtherType), SegmentError> {
    let mut packet = ETHERNET_HEADER;
    for _ in 0..3 {
        let ether_type = EtherType(u16::from_be_bytes([byte_at(frame, packet - 2)?, byte_at(frame, packet - 1)?]));
        match ether_type {
            EtherType::VLAN_TAGGED_FRAME | EtherType::PROVIDER_BRIDGING => packet += VLAN_TAG,
            _ => return Ok((packet, ether_type)),
        }
    }
    Err(SegmentError::OtherProtocol)
}

/// The protocol and the place of what an IPv4 packet carries.
fn ipv4_payload(frame: &[u8], ip: usize) -> Result<(IpNumber, usize), SegmentError> {
    let first = byte_at(frame, ip)?;
    let header = usize::from(first & 0x0f) * 4;
    if first >> 4 != 4 {
        return Err(SegmentError::OtherProtocol);
    }
    if header < 20 {
        return Err(SegmentError::BadLength);
    }
    // More-fragments, or an offset that is not 0.
    if byte_at(frame, ip + 6)? & 0x3f != 0 || byte_at(frame, ip + 7)? != 0 {
        return Err(SegmentError::Fragment);
    }
    Ok((IpNumber(byte_at(frame, ip + 9)?), ip + header))
}

/// The protocol and the place of what an IPv6 packet carries, after its extension headers (RFC 8200 section 4).
fn ipv6_payload(frame: &[u8], ip: usize) -> Result<(IpNumber, usize), SegmentError> {
    if byte_at(frame, ip)? >> 4 != 6 {
        return Err(SegmentError::OtherProtocol);
    }
    let (mut next, mut at) = (IpNumber(byte_at(frame, ip + 6)?), ip + IPV6_HEADER);
    // Each turn goes on by at least 8 bytes, and `byte_at` ends it.
    loop {
        match next {
            IpNumber::IPV6_HEADER_HOP_BY_HOP | IpNumber::IPV6_ROUTE_HEADER | IpNumber::IPV6_DESTINATION_OPTIONS => {
                next = IpNumber(byte_at(frame, at)?);
                at += (usize::from(byte_at(frame, at + 1)?) + 1) * 8;
            }
            IpNumber::IPV6_FRAGMENTATION_HEADER => return Err(SegmentError::Fragment),
            _ => return Ok((next, at)),
        }
    }
}

fn byte_at(frame: &[u8], at: usize) -> Result<u8, SegmentError> {
    frame.get(at).copied().ok_or(SegmentError::BadLength)
}

fn get(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |field| u16::from_be_bytes(*field))
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(field) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *field = value.to_be_bytes();
    }
}

fn address<const N: usize>(ip: &[u8], at: usize) -> [u8; N] {
    ip.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

/// Lengths here come from a frame, which is no longer than [`MAX_FRAME`], minus its Ethernet header.
fn low_half(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
