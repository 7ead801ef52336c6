//! What packets were before they were cut: a recording has the fragments, but what the host had to do with is the whole.
//!
//! Fragments are compared as the frames that they are. Only who looks for what the host did takes them for what they make together.

use std::collections::HashMap;

use etherparse::defrag::IpDefragPool;
use etherparse::{IpNumber, SlicedPacket};

use super::Logged;
use super::conversation::{self, Key};
use crate::frame::ETHERNET_HEADER;
use crate::pcap::write::Direction;
use crate::port::PortId;

/// A packet that was cut.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) key: Key,
    /// The frame that it would have been.
    pub(super) bytes: Vec<u8>,
}

/// The packets that were cut, each at the place of the fragment that stands for it: of a guest's packet the one that completes it, for then
/// the engine acts; of the engine's the one that was sent first, for then the engine had it.
pub(super) fn find(packets: &[Logged]) -> HashMap<usize, Whole> {
    let mut pool: IpDefragPool<(), (PortId, bool)> = IpDefragPool::new();
    let mut first: HashMap<Identity, usize> = HashMap::new();
    let mut wholes = HashMap::new();
    for (index, packet) in packets.iter().enumerate() {
        let Some(identity) = Identity::of(packet) else { continue };
        let Ok(sliced) = SlicedPacket::from_ethernet(&packet.bytes) else { continue };
        let begin = *first.entry(identity).or_insert(index);
        let channel = (packet.port, packet.direction == Direction::FromGuest);
        let Ok(Some(payload)) = pool.process_sliced_packet(&sliced, (), channel) else { continue };
        first.remove(&identity);
        let bytes = unite(&packet.bytes, payload.ip_number, &payload.payload);
        let key = conversation::key_of(packet.port, packet.direction, &bytes, |_| 0);
        let at = if packet.direction == Direction::FromGuest { index } else { begin };
        wholes.insert(at, Whole { key, bytes });
    }
    wholes
}

/// What fragments of the same packet have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Identity {
    port: PortId,
    from_guest: bool,
    addresses: [u8; 32],
    id: u32,
}

impl Identity {
    /// That of a fragment. Only headers that the engine itself writes are looked for in IPv6: other chains tell nothing about the host.
    fn of(packet: &Logged) -> Option<Self> {
        let ip = packet.bytes.get(ETHERNET_HEADER..)?;
        let mut addresses = [0; 32];
        let id = match packet.bytes.get(12..14)? {
            [0x08, 0x00] if u16::from_be_bytes(*ip.get(6..)?.first_chunk()?) & 0x3fff != 0 => {
                addresses[..8].copy_from_slice(ip.get(12..20)?);
                u16::from_be_bytes(*ip.get(4..)?.first_chunk()?).into()
            }
            [0x86, 0xdd] if *ip.get(6)? == IpNumber::IPV6_FRAGMENTATION_HEADER.0 => {
                addresses.copy_from_slice(ip.get(8..40)?);
                u32::from_be_bytes(*ip.get(44..)?.first_chunk()?)
            }
            _ => return None,
        };
        Some(Self { port: packet.port, from_guest: packet.direction == Direction::FromGuest, addresses, id })
    }
}

/// The frame of a packet of which `fragment` is one. Its lengths and checksums are nobody's business.
fn unite(fragment: &[u8], protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
    let is_v4 = fragment.get(12..14) == Some(&[0x08, 0x00]);
    let header = if is_v4 { usize::from(fragment.get(14).map_or(5, |first| first & 15)) * 4 } else { 40 };
    let mut bytes = fragment.get(..ETHERNET_HEADER + header).unwrap_or(fragment).to_vec();
    bytes.extend_from_slice(payload);
    let clamp = |len: usize| u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
    let mut set = |at: usize, value: &[u8]| {
        if let Some(field) = bytes.get_mut(ETHERNET_HEADER + at..ETHERNET_HEADER + at + value.len()) {
            field.copy_from_slice(value);
        }
    };
    if is_v4 {
        set(2, &clamp(header + payload.len()));
        set(6, &[0, 0]);
    } else {
        set(4, &clamp(payload.len()));
        set(6, &[protocol.0]);
    }
    bytes
}
