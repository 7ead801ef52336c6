//! The two forms of a frame: as the engine has it, with what is left to others beside it, and as a file has it, finished, with a comment.

use std::net::IpAddr;

use etherparse::{IpNumber, Ipv4HeaderSlice, Ipv6ExtensionsSlice, Ipv6HeaderSlice};
use smoltcp::wire::{IpProtocol, checksum as sum};

use crate::frame::{Checksum, ETHERNET_HEADER, FrameMeta, Gso};
use crate::pcap::note::{Note, NotedChecksum};
use crate::wire::checksum;

/// Where a packet's transport header is, and between whom it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: IpNumber,
    /// From the beginning of the frame.
    pub(super) start: usize,
    /// Bytes from there to the end of the packet, or of what was kept of it.
    pub(super) len: usize,
    /// Whether all of the packet is there.
    pub(super) whole: bool,
}

impl Place {
    /// Finds the transport header of a frame that carries an IP packet, and not a fragment. Extension headers of IPv6 are passed. Lengths that are wrong are the frame's own:
    /// this is for looking at frames, not for judging them.
    pub(super) fn of(frame: &[u8]) -> Option<Self> {
        let ip = frame.get(ETHERNET_HEADER..)?;
        let (source, destination, protocol, header, len) = match frame[ETHERNET_HEADER - 2..ETHERNET_HEADER] {
            [0x08, 0x00] => {
                let header = Ipv4HeaderSlice::from_slice(ip).ok().filter(|header| !header.is_fragmenting_payload())?;
                let len = usize::from(header.total_len()).checked_sub(header.slice().len());
                let addresses = (header.source_addr().into(), header.destination_addr().into());
                (addresses.0, addresses.1, header.protocol(), header.slice().len(), len)
            }
            [0x86, 0xdd] => {
                let header = Ipv6HeaderSlice::from_slice(ip).ok()?;
                let addresses = (header.source_addr().into(), header.destination_addr().into());
                let behind = ip.get(header.slice().len()..)?;
                // A chain that contradicts itself is looked at as the payload.
                let (protocol, chain) = match Ipv6ExtensionsSlice::from_slice(header.next_header(), behind) {
                    Ok((chain, ..)) if chain.is_fragmenting_payload() => return None,
                    Ok((_, protocol, rest)) => (protocol, behind.len() - rest.len()),
                    Err(_) => (header.next_header(), 0),
                };
                let len = usize::from(header.payload_length()).checked_sub(chain);
                (addresses.0, addresses.1, protocol, header.slice().len() + chain, len)
            }
            _ => return None,
        };
        let start = ETHERNET_HEADER + header;
        let there = frame.len() - start;
        let len = len.unwrap_or(there);
        Some(Self { source, destination, protocol, start, len: len.min(there), whole: len <= there })
    }

    /// Where the transport header has its checksum.
    pub(super) const fn checksum_offset(&self) -> Option<usize> {
        match self.protocol {
            IpNumber::TCP => Some(16),
            IpNumber::UDP => Some(6),
            IpNumber::IPV6_ICMP => Some(2),
            _ => None,
        }
    }

    fn pseudo_header(&self) -> u16 {
        let protocol = match self.protocol {
            IpNumber::TCP => IpProtocol::Tcp,
            IpNumber::UDP => IpProtocol::Udp,
            _ => IpProtocol::Icmpv6,
        };
        checksum::pseudo_header(self.source, self.destination, protocol, self.len)
    }

    /// Whether the checksum of the transport header is right.
    pub(super) fn is_sound(&self, frame: &[u8]) -> bool {
        let body = frame.get(self.start..self.start + self.len).unwrap_or_default();
        match self.checksum_offset() {
            None => true,
            // RFC 768: none was made.
            Some(at) if self.protocol == IpNumber::UDP && self.source.is_ipv4() && body.get(at..at + 2) == Some(&[0, 0]) => true,
            Some(_) => sum::combine(&[self.pseudo_header(), sum::data(body)]) == !0,
        }
    }
}

/// The form for the engine of a frame from a file.
pub(super) fn for_engine(bytes: &[u8], note: &Note) -> (Vec<u8>, FrameMeta) {
    let mut bytes = bytes.to_vec();
    let gso = note.gso.map(|(kind, size)| Gso { kind, size, ecn: false });
    let checksum = match note.checksum {
        None => Checksum::Complete,
        Some(NotedChecksum::Verified) => Checksum::Verified,
        // It was not completed, so there is nothing to undo.
        Some(NotedChecksum::PartialAt { start, offset }) => Checksum::Partial { start, offset },
        Some(NotedChecksum::Partial) => unfinish(&mut bytes).unwrap_or_default(),
    };
    (bytes, FrameMeta { checksum, gso })
}

/// Takes the checksum out of a frame again and leaves the sum of the pseudo-header, as who leaves the rest to others does.
fn unfinish(bytes: &mut [u8]) -> Option<Checksum> {
    let place = Place::of(bytes)?;
    let offset = place.checksum_offset()?;
    let pseudo_header = place.pseudo_header();
    let field = bytes.get_mut(place.start + offset..)?.first_chunk_mut()?;
    *field = pseudo_header.to_be_bytes();
    Some(Checksum::Partial { start: u16::try_from(place.start).ok()?, offset: u16::try_from(offset).ok()? })
}

/// The form for a file of a frame from the engine, or from a guest that speaks to it.
pub(super) fn for_file(mut bytes: Vec<u8>, meta: &FrameMeta) -> (Vec<u8>, Note) {
    let mut note = Note { gso: meta.gso.map(|gso| (gso.kind, gso.size)), ..Note::default() };
    note.checksum = match meta.checksum {
        Checksum::Complete => None,
        Checksum::Verified => Some(NotedChecksum::Verified),
        Checksum::Partial { start, offset } => {
            Some(finish(&mut bytes, start, offset).unwrap_or(NotedChecksum::PartialAt { start, offset }))
        }
    };
    (bytes, note)
}

/// Completes a checksum, where it is that of the protocol in the frame.
fn finish(bytes: &mut [u8], start: u16, offset: u16) -> Option<NotedChecksum> {
    let place = Place::of(bytes).filter(|place| place.whole && place.start == usize::from(start))?;
    let at = place.checksum_offset().filter(|at| *at == usize::from(offset))?;
    let end = place.start + place.len;
    bytes.get_mut(place.start + at..end)?.first_chunk_mut::<2>()?.fill(0);
    let total = !sum::combine(&[place.pseudo_header(), sum::data(&bytes[place.start..end])]);
    // RFC 768: zero would mean that there is none.
    let total = if total == 0 && place.protocol == IpNumber::UDP { u16::MAX } else { total };
    *bytes.get_mut(place.start + at..end)?.first_chunk_mut()? = total.to_be_bytes();
    Some(NotedChecksum::Partial)
}

/// Whether the checksum was left to a card that was never asked, as in what `tcpdump` sees of a machine's own frames.
pub(super) fn looks_unfinished(bytes: &[u8]) -> bool {
    let Some(place) = Place::of(bytes).filter(|place| place.whole) else { return false };
    let field = place.checksum_offset().and_then(|at| bytes.get(place.start + at..)?.first_chunk::<2>());
    field.is_some_and(|field| u16::from_be_bytes(*field) == place.pseudo_header()) && !place.is_sound(bytes)
}
