//! What a driver leaves to the card: checksums, segmentation, and VLAN tags.
//!
//! The card says the same of a frame as virtio-net does, and leaves the work to whoever needs it done. Only what the engine wants to find
//! in the headers is put there, in a copy of them, since the frame itself belongs to the guest: lengths and the IPv4 checksum, which a
//! driver leaves empty in a frame to be segmented.

use netstack::frame::{Checksum, ETHERNET_HEADER, Frame, FrameMeta, Gso, GsoKind};
use smoltcp::wire::checksum;

/// Bytes at the front of a frame that are copied: all that a context, whose offsets have 8 bits, can point to.
pub(super) const HEAD: usize = 272;

/// A VLAN tag, and where it goes: behind the addresses.
const TAG: usize = 4;
const ADDRESSES: usize = 12;

/// A context descriptor (manual, section 3.3.6).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Context {
    /// The IP checksum: where the summed bytes start, where the sum goes, and the last of the summed bytes; 0 means the frame's last.
    pub(super) ip: Span,
    /// The same of the transport checksum.
    pub(super) transport: Span,
    /// Bytes of all headers, in a frame to be segmented.
    pub(super) header_len: u8,
    /// Bytes of payload of each segment.
    pub(super) mss: u16,
    /// The frame is TCP; else UDP.
    pub(super) tcp: bool,
    /// The frame is IPv4; else IPv6.
    pub(super) ipv4: bool,
}

/// What is summed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u8,
    pub(super) at: u8,
    pub(super) end: u16,
}

/// What is to be done with one frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Offload {
    pub(super) context: Context,
    /// Fill in the IP checksum.
    pub(super) ip: bool,
    /// Fill in the transport checksum.
    pub(super) transport: bool,
    /// Segment.
    pub(super) segment: bool,
    /// Insert this VLAN tag: its type and its control information.
    pub(super) tag: Option<(u16, u16)>,
}

impl Offload {
    /// Whether the frame is to go as it is.
    pub(super) const fn is_nothing(&self) -> bool {
        !self.ip && !self.transport && !self.segment && self.tag.is_none()
    }

    /// Does what is left to do in `head`, a copy of the front of `frame`, which may grow by a tag. Returns how many bytes of it there are
    /// now, and what is to be said of the whole; `None` if what is wanted makes no sense for this frame.
    pub(super) fn apply(&self, head: &mut [u8; HEAD + TAG], frame: &Frame<'_>) -> Option<(usize, FrameMeta)> {
        let len = frame.len();
        let copied = frame.copy_to(0, &mut head[..HEAD]);
        let context = &self.context;
        let mut meta = FrameMeta::default();
        if self.segment {
            self.complete_lengths(&mut head[..copied], len)?;
        }
        if self.ip {
            context.ip.fill(&mut head[..copied], frame)?;
        }
        if self.transport || self.segment {
            meta.checksum = context.transport.partial(len).unwrap_or_default();
            if self.segment {
                meta.gso = self.gso(len, meta.checksum)?;
            } else if meta.checksum == Checksum::Complete {
                context.transport.fill(&mut head[..copied], frame)?;
            }
        }
        let Some((kind, control)) = self.tag else { return Some((copied, meta)) };
        if copied < ADDRESSES {
            return None;
        }
        head.copy_within(ADDRESSES..copied, ADDRESSES + TAG);
        head[ADDRESSES..ADDRESSES + 2].copy_from_slice(&kind.to_be_bytes());
        head[ADDRESSES + 2..ADDRESSES + TAG].copy_from_slice(&control.to_be_bytes());
        if let Checksum::Partial { start, .. } = &mut meta.checksum {
            *start += TAG as u16;
        }
        Some((copied + TAG, meta))
    }

    /// Drivers leave the lengths of a frame to be segmented to the card, and sum the pseudo-header without its length.
    fn complete_lengths(&self, head: &mut [u8], len: usize) -> Option<()> {
        let Context { ip, transport, .. } = self.context;
        let (ip, start) = (usize::from(ip.start), usize::from(transport.start));
        let packet = u16::try_from(len.checked_sub(ip)?).ok()?;
        let segment = u16::try_from(len.checked_sub(start)?).ok()?;
        if start < ip {
            return None;
        }
        if self.context.ipv4 {
            put(head, ip + 2, packet)?;
        } else {
            put(head, ip + 4, packet.checked_sub(40)?)?;
        }
        if !self.context.tcp {
            put(head, start + 4, segment)?;
        }
        let at = usize::from(transport.at);
        let sum = checksum::combine(&[get(head, at)?, segment]);
        put(head, at, sum)
    }

    /// How the frame is to be cut; `Some(None)` if it is no longer than one segment.
    fn gso(&self, len: usize, checksum: Checksum) -> Option<Option<Gso>> {
        let Context { header_len, mss, tcp, ipv4, .. } = self.context;
        let (kind, field, shortest) = match (tcp, ipv4) {
            (true, true) => (GsoKind::TcpV4, 16, 20),
            (true, false) => (GsoKind::TcpV6, 16, 20),
            (false, _) => (GsoKind::Udp, 6, 8),
        };
        let Checksum::Partial { start, offset } = checksum else { return None };
        let headers = usize::from(header_len);
        if mss == 0 || offset != field || headers < usize::from(start) + shortest || headers > len {
            return None;
        }
        let segmented = len - headers > usize::from(mss);
        Some(segmented.then_some(Gso { kind, size: mss, ecn: false }))
    }
}

impl Span {
    /// The checksum as one to be filled in later, if it can be said so: up to the end of the frame, behind the Ethernet header.
    fn partial(self, len: usize) -> Option<Checksum> {
        let to_the_end = self.end == 0 || usize::from(self.end) + 1 >= len;
        let start = usize::from(self.start);
        if !to_the_end || start < ETHERNET_HEADER || usize::from(self.at) + 2 > len {
            return None;
        }
        Some(Checksum::Partial { start: self.start.into(), offset: u16::from(self.at.checked_sub(self.start)?) })
    }

    /// Fills in the checksum. What is in its field before counts, as in the card.
    fn fill(self, head: &mut [u8], frame: &Frame<'_>) -> Option<()> {
        let end = if self.end == 0 { frame.len() } else { frame.len().min(usize::from(self.end) + 1) };
        let start = usize::from(self.start);
        if start >= end {
            return None;
        }
        let in_head = head.get(start..end.min(head.len())).unwrap_or_default();
        let mut sum = checksum::data(in_head);
        // An odd number of bytes in front turns the bytes of the sums that follow.
        let mut at = start + in_head.len();
        let mut block = [0; 2048];
        while at < end {
            let wanted = block.len().min(end - at);
            let copied = frame.copy_to(at, &mut block[..wanted]);
            if copied == 0 {
                return None;
            }
            let part = checksum::data(&block[..copied]);
            let part = if (at - start).is_multiple_of(2) { part } else { part.swap_bytes() };
            sum = checksum::combine(&[sum, part]);
            at += copied;
        }
        // In UDP, 0 means that there is none.
        let sum = if sum == u16::MAX { u16::MAX } else { !sum };
        put(head, self.at.into(), sum)
    }
}

fn get(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|field| u16::from_be_bytes(*field))
}

fn put(bytes: &mut [u8], at: usize, value: u16) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut()? = value.to_be_bytes();
    Some(())
}

#[cfg(test)]
mod tests;
