//! Putting together what a guest has cut into fragments (RFC 791 and RFC 815; RFC 8200 section 4.5).
//!
//! A datagram that is whole goes the way of every packet: it is written behind the headers of its first fragment, and read as if it had
//! come in one frame, its checksum verified over all of it. So nothing behind this knows of fragments.
//!
//! What always holds:
//!
//! - Fragments of different datagrams are never mixed: those of a datagram come through the same port, from and to the same addresses,
//!   with the same number, and in IPv4 with the same protocol.
//! - Fragments that overlap end the datagram, and whatever else comes of it is dropped until it would have timed out (RFC 5722). RFC 791
//!   would let the later one win in IPv4; but nobody cuts a datagram so, other than to have a firewall see another packet than its host.
//!   A fragment that comes twice, byte for byte, is no overlap: networks do repeat.
//! - Each port has bounds of its own, in datagrams and in bytes. A guest that begins many and ends none displaces its own oldest, and
//!   nothing of a guest behind another port.
//! - A datagram that is not whole when its time is over is forgotten, and its sender told, if the first fragment was there.
//!
//! There is one timer for each port, however many datagrams begin and end meanwhile.

mod pieces;

use std::collections::BTreeMap;
use std::net::IpAddr;

use hashbrown::HashMap;
use smoltcp::wire::Ipv4Packet;

pub(crate) use self::pieces::Place;
use self::pieces::{Added, MAX_TOTAL, Pieces};
use super::Shared;
use super::counters::Counters;
use super::hash::Keyed;
use super::timer::Entries;
use super::token::Owner;
use crate::config::{Limits, Timeouts};
use crate::frame::{ETHERNET_HEADER, Frame};
use crate::port::PortId;
use crate::time::{Duration, Instant};

/// Length of the fragment header of IPv6.
pub(crate) const FRAGMENT_HEADER: usize = 8;

/// A fragment: whose it is, and where it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// The protocol in IPv4. 0 in IPv6, where fragments are told apart without it (RFC 8200 section 4.5).
    pub(crate) protocol: u8,
    pub(crate) id: u32,
    pub(crate) place: Place,
    /// Bytes of the headers before the piece, with the Ethernet header and the fragment header.
    pub(crate) headers: usize,
    /// Where in the headers of IPv6 is the number of the fragment header.
    pub(crate) next_header_at: usize,
}

/// Which datagram a fragment is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    port: PortId,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    id: u32,
}

/// All datagrams of which fragments have come.
#[derive(Debug)]
pub(crate) struct Reassembly {
    datagrams: HashMap<Key, Datagram, Keyed>,
    ports: HashMap<PortId, Share, Keyed>,
    /// Counts the datagrams, to tell those apart that time out at the same moment.
    serial: u64,
    datagrams_limit: usize,
    bytes_limit: usize,
    fragments_limit: usize,
    timeouts: [Duration; 2],
}

/// A datagram of which fragments have come.
#[derive(Debug)]
struct Datagram {
    expires: (Instant, u64),
    pieces: Pieces,
    /// The headers of the first fragment, once it has come.
    headers: Vec<u8>,
    next_header_at: usize,
    /// Fragments have contradicted each other: it will never be whole.
    spoilt: bool,
    /// What it counts for in its port's share.
    bytes: usize,
}

/// What there is of one port.
#[derive(Debug, Default)]
struct Share {
    /// By the time at which they expire.
    order: BTreeMap<(Instant, u64), Key>,
    bytes: usize,
    timer: Entries,
}

/// A datagram whose time is over, of which the beginning had come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Late {
    /// The first fragment as it came, from the Ethernet header on.
    pub(crate) first: Vec<u8>,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
}

impl Reassembly {
    pub(crate) fn new(limits: &Limits, timeouts: &Timeouts, hash: Keyed) -> Self {
        Self {
            datagrams: HashMap::with_hasher(hash),
            ports: HashMap::with_hasher(hash),
            serial: 0,
            datagrams_limit: limits.reassembly_datagrams.max(1),
            bytes_limit: limits.reassembly_bytes,
            fragments_limit: limits.reassembly_fragments,
            timeouts: [timeouts.reassembly_v4, timeouts.reassembly_v6],
        }
    }

    /// How many datagrams are not whole yet, or never will be.
    pub(crate) fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// Bytes of memory that their fragments take.
    pub(crate) fn bytes(&self) -> usize {
        self.ports.values().map(|share| share.bytes).sum()
    }

    /// Takes a fragment that has come through a port. If it was the last that was missing, the datagram is put into `whole`, with the
    /// headers of a packet that was never cut.
    pub(crate) fn add(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        port: PortId,
        fragment: &Fragment,
        frame: &Frame<'_>,
        whole: &mut Vec<u8>,
    ) -> bool {
        let Fragment { source, destination, protocol, id, .. } = *fragment;
        let key = Key { port, source, destination, protocol, id };
        if !self.datagrams.contains_key(&key) {
            self.begin(now, shared, key);
        }
        let Some(datagram) = self.datagrams.get_mut(&key) else { return false };
        match datagram.add(fragment, frame, self.fragments_limit) {
            Ok(Added::Whole) => {
                datagram.write_to(source.is_ipv4(), whole);
                self.forget(&key);
                shared.counters.reassembled += 1;
                true
            }
            Ok(_) => {
                self.settle(&mut shared.counters, &key);
                false
            }
            Err(count) => {
                *count(&mut shared.counters) += 1;
                self.settle(&mut shared.counters, &key);
                false
            }
        }
    }

    fn begin(&mut self, now: Instant, shared: &mut Shared, key: Key) {
        let Self { datagrams, ports, serial, datagrams_limit, timeouts, .. } = self;
        let share = ports.entry(key.port).or_default();
        if share.order.len() >= *datagrams_limit
            && let Some((_, oldest)) = share.order.pop_first()
            && let Some(displaced) = datagrams.remove(&oldest)
        {
            share.bytes -= displaced.bytes;
            shared.counters.reassembly_limit += 1;
        }
        *serial += 1;
        let expires = (now + timeouts[usize::from(!key.source.is_ipv4())], *serial);
        share.order.insert(expires, key);
        if share.timer.want(expires.0) {
            shared.wheel.set(expires.0, Owner::Reassembly { port: key.port });
        }
        datagrams.insert(
            key,
            Datagram { expires, pieces: Pieces::default(), headers: Vec::new(), next_header_at: 0, spoilt: false, bytes: 0 },
        );
    }

    /// Counts what a datagram takes now, and gives up the oldest of its port, or in the end itself, until all is within bounds.
    fn settle(&mut self, counters: &mut Counters, key: &Key) {
        let Self { datagrams, ports, bytes_limit, .. } = self;
        let (Some(datagram), Some(share)) = (datagrams.get_mut(key), ports.get_mut(&key.port)) else { return };
        let bytes = if datagram.spoilt { 0 } else { datagram.pieces.memory() + datagram.headers.capacity() };
        share.bytes = share.bytes - datagram.bytes + bytes;
        datagram.bytes = bytes;
        while share.bytes > *bytes_limit {
            let others = share.order.iter().find(|(_, other)| *other != key && datagrams.get(*other).is_some_and(|d| d.bytes > 0));
            let given_up = others.map_or(*key, |(_, other)| *other);
            let Some(gone) = datagrams.remove(&given_up) else { return };
            share.order.remove(&gone.expires);
            share.bytes -= gone.bytes;
            counters.reassembly_limit += 1;
        }
    }

    fn forget(&mut self, key: &Key) -> Option<Datagram> {
        let datagram = self.datagrams.remove(key)?;
        if let Some(share) = self.ports.get_mut(&key.port) {
            share.order.remove(&datagram.expires);
            share.bytes -= datagram.bytes;
        }
        Some(datagram)
    }

    /// The timer of a port has come due. Forgets what was not made whole in time, and hands those out of which a sender is to be told.
    pub(crate) fn expire(&mut self, now: Instant, shared: &mut Shared, port: PortId, mut tell: impl FnMut(&mut Shared, &Late)) {
        if !self.ports.get_mut(&port).is_some_and(|share| share.timer.come(now)) {
            return;
        }
        while let Some(share) = self.ports.get_mut(&port)
            && let Some((&(at, _), &key)) = share.order.first_key_value()
        {
            if at > now {
                if share.timer.want(at) {
                    shared.wheel.set(at, Owner::Reassembly { port });
                }
                return;
            }
            if let Some(datagram) = self.forget(&key).filter(|datagram| !datagram.spoilt) {
                shared.counters.reassembly_expired += 1;
                if let Some(beginning) = datagram.pieces.beginning() {
                    let first = [&datagram.headers, beginning].concat();
                    tell(shared, &Late { first, source: key.source, destination: key.destination });
                }
            }
        }
    }

    /// Forgets all that came through a port that is gone.
    pub(crate) fn forget_port(&mut self, port: PortId) {
        for key in self.ports.remove(&port).into_iter().flat_map(|share| share.order.into_values()) {
            self.datagrams.remove(&key);
        }
    }
}

/// The counter that tells why a fragment was dropped.
type Count = fn(&mut Counters) -> &mut u64;

impl Datagram {
    fn add(&mut self, fragment: &Fragment, frame: &Frame<'_>, limit: usize) -> Result<Added, Count> {
        if self.spoilt {
            return Err(|counters| &mut counters.drop_fragment);
        }
        let added = self.pieces.add(fragment.place, frame);
        if added == Added::Contradiction {
            self.spoil();
            return Err(|counters| &mut counters.drop_fragment);
        }
        if fragment.place.offset == 0 && added != Added::Repeated {
            self.headers.resize(fragment.headers, 0);
            frame.copy_to(0, &mut self.headers);
            self.next_header_at = fragment.next_header_at;
        }
        // What the headers may take of a packet's length is known only with the first fragment.
        let longest = if fragment.source.is_ipv4() {
            MAX_TOTAL + ETHERNET_HEADER
        } else {
            MAX_TOTAL + ETHERNET_HEADER + 40 + FRAGMENT_HEADER
        };
        if self.pieces.end() + self.headers.len() > longest {
            self.spoil();
            return Err(|counters| &mut counters.drop_malformed);
        }
        if added != Added::Whole && self.pieces.count() >= limit {
            self.spoil();
            return Err(|counters| &mut counters.reassembly_limit);
        }
        Ok(added)
    }

    /// Keeps only that nothing more is wanted.
    fn spoil(&mut self) {
        self.spoilt = true;
        self.pieces = Pieces::default();
        self.headers = Vec::new();
    }

    /// Writes the packet that was cut.
    fn write_to(&self, ipv4: bool, whole: &mut Vec<u8>) {
        whole.clear();
        if ipv4 {
            whole.extend_from_slice(&self.headers);
            self.pieces.write_to(whole);
            let len = u16::try_from(whole.len() - ETHERNET_HEADER).unwrap_or(u16::MAX);
            let mut ip = Ipv4Packet::new_unchecked(&mut whole[ETHERNET_HEADER..]);
            // A guest may have rewritten its header since it was read: where it ends must not be believed twice.
            ip.set_version(4);
            ip.set_header_len(u8::try_from(self.headers.len() - ETHERNET_HEADER).unwrap_or(20));
            ip.set_total_len(len);
            ip.set_more_frags(false);
            ip.set_frag_offset(0);
            ip.fill_checksum();
        } else {
            // The fragment header goes, and whatever named it names what it named.
            let (headers, fragment) = self.headers.split_at(self.headers.len().saturating_sub(FRAGMENT_HEADER));
            whole.extend_from_slice(headers);
            self.pieces.write_to(whole);
            if let (Some(place), Some(next)) = (whole.get_mut(self.next_header_at), fragment.first()) {
                *place = *next;
            }
            let len = u16::try_from(whole.len() - ETHERNET_HEADER - 40).unwrap_or(u16::MAX);
            if let Some(place) = whole.get_mut(ETHERNET_HEADER + 4..ETHERNET_HEADER + 6) {
                place.copy_from_slice(&len.to_be_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests;
