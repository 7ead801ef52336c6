//! Cutting what is too large for a guest's link (RFC 791 section 3.2, RFC 8200 section 4.5).
//!
//! What is too large are datagrams of hosts, which arrive here whole and would have been cut by the last router before the guest, and
//! long answers of the virtual hosts. The stack is the origin of both for the guest, so it may cut in IPv6 as well, where routers may not.
//! TCP is never cut: its segments have the size of the link.
//!
//! What always holds:
//!
//! - A datagram is not given up half sent: what a full port does not take is kept, and goes on when there is room. Meanwhile nothing
//!   else that is too large is begun for that port, and further datagrams wait in their sockets; so there is at most one [`Burst`] a port.
//! - Fragments that are under way at the same time never have the same number (RFC 6864 section 4.1): it is counted for all guests
//!   together, from an unpredictable beginning.

use std::net::IpAddr;

use etherparse::{IpFragOffset, IpNumber, Ipv6FragmentHeader};
use hashbrown::HashMap;
use smoltcp::wire::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, IpProtocol, Ipv4Packet};

use super::emit::{self, MAX_HEADERS, Path};
use super::hash::Keyed;
use super::reassembly::FRAGMENT_HEADER;
use super::{Context, Shared};
use crate::frame::{ETHERNET_HEADER, FrameMeta};
use crate::port::{PortId, Sent};

/// What is needed for cutting.
#[derive(Debug)]
pub(crate) struct Fragmenter {
    /// The number of the datagram that was cut last.
    id: u32,
    /// What full ports have not taken yet.
    unfinished: HashMap<PortId, Burst, Keyed>,
    /// Ports among them that have room again.
    ready: Vec<PortId>,
    /// Memory for the next burst.
    spare: Vec<u8>,
}

/// A packet for a guest that is too large for its link, or several from the same sender, without their IP headers.
#[derive(Debug)]
pub(crate) struct Burst {
    path: Path,
    protocol: IpProtocol,
    hop_limit: u8,
    /// All of them behind each other, ready but for being cut.
    bytes: Vec<u8>,
    /// The length of each but the last.
    size: usize,
    /// Where the packet begins that is being sent.
    at: usize,
    /// How much of it has been sent.
    sent: usize,
    id: u32,
}

/// Where a fragment belongs.
#[derive(Debug, Clone, Copy)]
struct Cut {
    id: u32,
    offset: usize,
    more: bool,
}

impl Fragmenter {
    pub(crate) fn new(id: u32, hash: Keyed) -> Self {
        Self { id, unfinished: HashMap::with_hasher(hash), ready: Vec::new(), spare: Vec::new() }
    }

    /// Memory to build a burst in; it is empty.
    pub(crate) fn buffer(&mut self) -> Vec<u8> {
        let mut buffer = std::mem::take(&mut self.spare);
        buffer.clear();
        buffer
    }

    /// Whether a port has not taken all fragments yet, so that no further datagram may be begun.
    pub(crate) fn is_busy(&self, port: PortId) -> bool {
        !self.unfinished.is_empty() && self.unfinished.contains_key(&port)
    }

    /// Whether fragments wait for room in this port.
    pub(crate) fn waits_for(&self, port: PortId) -> bool {
        self.is_busy(port) && !self.ready.contains(&port)
    }

    /// A port that was full has room again.
    pub(crate) fn port_writable(&mut self, port: PortId) {
        if self.waits_for(port) {
            self.ready.push(port);
        }
    }

    pub(crate) fn forget_port(&mut self, port: PortId) {
        self.unfinished.remove(&port);
        self.ready.retain(|ready| *ready != port);
    }

    /// How many ports have fragments waiting for them.
    pub(crate) fn waiting(&self) -> usize {
        self.unfinished.len()
    }

    fn finish(&mut self, burst: Burst) {
        self.spare = burst.bytes;
    }
}

/// The most that a packet may carry behind its IP header on a link with this MTU, without being cut.
pub(crate) fn largest_payload(mtu: u16, ipv4: bool) -> usize {
    usize::from(mtu).saturating_sub(if ipv4 { IPV4_HEADER_LEN } else { IPV6_HEADER_LEN })
}

/// Sends packets of `size` bytes each, the last may be shorter, of which at least one is too large for the guest's link. They are taken
/// whole or not at all: [`Sent::Full`] if others before them have not been taken yet.
pub(crate) fn send(
    cx: &mut Context<'_>,
    shared: &mut Shared,
    path: &Path,
    protocol: IpProtocol,
    hop_limit: u8,
    bytes: Vec<u8>,
    size: usize,
) -> Sent {
    let burst = Burst { path: *path, protocol, hop_limit, bytes, size: size.max(1), at: 0, sent: 0, id: 0 };
    if shared.fragmenter.is_busy(path.station.port) {
        shared.counters.drop_port_full += 1;
        shared.fragmenter.finish(burst);
        return Sent::Full;
    }
    advance(cx, shared, burst)
}

/// Goes on with what ports have not taken, where there is room now.
pub(crate) fn run(cx: &mut Context<'_>, shared: &mut Shared) {
    while let Some(port) = shared.fragmenter.ready.pop() {
        if let Some(burst) = shared.fragmenter.unfinished.remove(&port) {
            advance(cx, shared, burst);
        }
    }
}

/// Sends what there is room for, and keeps the rest until there is more. [`Sent::Declined`]: given up, and counted.
fn advance(cx: &mut Context<'_>, shared: &mut Shared, mut burst: Burst) -> Sent {
    let sent = go_on(cx, shared, &mut burst);
    if sent == Sent::Full {
        shared.fragmenter.unfinished.insert(burst.path.station.port, burst);
        return Sent::Yes;
    }
    shared.counters.drop_too_large += u64::from(sent == Sent::Declined);
    shared.fragmenter.finish(burst);
    sent
}

/// Sends as much as there is room for. [`Sent::Declined`]: the link is gone, or too small for any fragment.
fn go_on(cx: &mut Context<'_>, shared: &mut Shared, burst: &mut Burst) -> Sent {
    let port = burst.path.station.port;
    let largest = largest_payload(cx.link.mtu(port), burst.path.destination.is_ipv4());
    // Every fragment but the last has a multiple of 8 bytes.
    let piece = if burst.path.destination.is_ipv4() { largest } else { largest.saturating_sub(FRAGMENT_HEADER) } & !7;
    if piece == 0 {
        return Sent::Declined;
    }
    while burst.at < burst.bytes.len() {
        let len = burst.size.min(burst.bytes.len() - burst.at);
        let cut = burst.sent > 0 || len > largest;
        if cut && burst.sent == 0 {
            shared.fragmenter.id = shared.fragmenter.id.wrapping_add(1);
            burst.id = shared.fragmenter.id;
        }
        let (offset, left) = (burst.sent, len - burst.sent);
        let now = if cut { left.min(piece) } else { left };
        let cut = cut.then_some(Cut { id: burst.id, offset, more: now < left });
        match burst.send_part(cx, shared, offset..offset + now, cut) {
            Sent::Yes => {}
            sent => return sent,
        }
        burst.sent += now;
        if cut.is_some() {
            shared.counters.fragments_out += 1;
        }
        if burst.sent == len {
            shared.counters.fragmented += u64::from(cut.is_some());
            burst.at += len;
            burst.sent = 0;
        }
    }
    Sent::Yes
}

impl Burst {
    /// Sends a part of the packet at hand, as a fragment or, if it is the whole packet and that fits, as it is.
    fn send_part(&self, cx: &mut Context<'_>, shared: &mut Shared, part: std::ops::Range<usize>, cut: Option<Cut>) -> Sent {
        let payload = self.bytes.get(self.at + part.start..self.at + part.end).unwrap_or_default();
        let mut headers = [0; MAX_HEADERS];
        let start = self.emit(&mut headers, payload.len(), cut);
        let len = start + payload.len();
        emit::send(cx, shared, self.path.station.port, len, &mut |room| {
            room.copy_from(0, &headers[..start]);
            room.copy_from(start, payload);
            Some((len, FrameMeta::default()))
        })
    }

    /// Writes the headers of a fragment, or of a packet that is none; returns how long they are.
    fn emit(&self, headers: &mut [u8], payload: usize, cut: Option<Cut>) -> usize {
        let Self { path, protocol, hop_limit, .. } = *self;
        let start = path.header_len();
        let Some(Cut { id, offset, more }) = cut else {
            path.emit(headers, protocol, hop_limit, payload);
            return start;
        };
        match path.destination {
            IpAddr::V4(_) => {
                path.emit(headers, protocol, hop_limit, payload);
                let mut ip = Ipv4Packet::new_unchecked(&mut headers[ETHERNET_HEADER..]);
                // The lower half: 16 bits are all that there are.
                ip.set_ident((id & 0xffff) as u16);
                ip.set_dont_frag(false);
                ip.set_more_frags(more);
                ip.set_frag_offset(u16::try_from(offset).unwrap_or(0));
                ip.fill_checksum();
                start
            }
            IpAddr::V6(_) => {
                path.emit(headers, IpProtocol::Ipv6Frag, hop_limit, FRAGMENT_HEADER + payload);
                let blocks = u16::try_from(offset / 8).ok().and_then(|blocks| IpFragOffset::try_new(blocks).ok());
                let header = Ipv6FragmentHeader::new(IpNumber(protocol.into()), blocks.unwrap_or_default(), more, id);
                headers[start..start + FRAGMENT_HEADER].copy_from_slice(&header.to_bytes());
                start + FRAGMENT_HEADER
            }
        }
    }
}
