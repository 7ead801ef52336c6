//! Fragments in any order, of any cut, that overlap, repeat and contradict each other, and time between them: what comes out is exactly
//! what a simple model of RFC 791, RFC 8200 and RFC 5722 says, or nothing.
//!
//! The model keeps every byte by itself, and so has nothing in common with the code that is judged.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use netstack::host::sim::UdpServer;
use netstack::sim::fragments::fragment;
use netstack::sim::wire::{self, Body, Datagram};
use netstack::sim::world::{World, at};
use netstack::time::{Duration, Instant};

use crate::script::{Draft, Script};

/// Guests' datagrams, two of each with the same number, so that pieces of one can be told for pieces of the other.
const DATAGRAMS: usize = 8;

/// As many steps as an input may have.
const STEPS: usize = 400;

const TIMEOUTS: [u64; 2] = [30, 60];

/// The lengths of the datagrams, then steps: which one, where the piece begins, how long it is, and flags.
pub fn judge(input: &[u8]) {
    play(input);
}

/// Plays an input; returns how many datagrams have come out.
fn play(input: &[u8]) -> u64 {
    let mut script = Script::new(input);
    let mut scene = Scene::new(&mut script);
    for _ in 0..STEPS {
        if script.is_over() {
            break;
        }
        scene.step(&mut script);
    }
    scene.world.counters().udp_datagrams_out
}

struct Scene {
    world: World,
    /// The packets that are cut.
    packets: Vec<Vec<u8>>,
    models: HashMap<(bool, u32), Model>,
    /// Payloads that must have come out, oldest first.
    expected: Vec<Vec<u8>>,
}

impl Scene {
    fn new(script: &mut Script<'_>) -> Self {
        let mut world = World::by_hand();
        let mut packets = Vec::new();
        for number in 0..DATAGRAMS {
            let server = server(number);
            world.host.serve_udp(server, UdpServer::Echo);
            let len = usize::from(script.half()) % 9000;
            let source = SocketAddr::new(world.station().like(server.ip()), 5000 + number as u16);
            let payload = (0..len).map(|at| (at * 31 + at / 256 + number * 97) as u8).collect();
            packets.push(Datagram { source, destination: server, payload }.packet());
        }
        Self { world, packets, models: HashMap::new(), expected: Vec::new() }
    }

    fn step(&mut self, script: &mut Script<'_>) {
        let (which, begin, len, flags) = (script.byte(), script.half(), script.half(), script.byte());
        if which & 0x80 != 0 {
            self.world.pass(Duration::from_secs(u64::from(which & 0x1f)));
            return;
        }
        let number = usize::from(which) % DATAGRAMS;
        let packet = &self.packets[number];
        let v6 = packet[0] >> 4 == 6;
        let payload = &packet[if v6 { 40 } else { 20 }..];
        let from = usize::from(begin) % (payload.len().div_ceil(8) + 1) * 8;
        let from = from.min(payload.len());
        let mut to = (from + usize::from(len) % 1441).min(payload.len());
        // Mostly such as a sender makes them: whole units, but at the end.
        if flags & 4 == 0 && to < payload.len() {
            to = from + (to - from) / 8 * 8;
        }
        let more = (to < payload.len()) != (flags & 1 != 0);
        let mut piece = payload[from..to].to_vec();
        if flags & 2 != 0
            && let Some(byte) = piece.first_mut()
        {
            *byte ^= 0x55;
        }
        let id = (number / 2) as u32;
        let place = if flags & 8 != 0 { 65_528 } else { from };
        let bytes = fragment(packet, place, &piece, more, id);
        if place == 0 && !more {
            // No fragment at all, or one that is whole: another matter.
            return;
        }
        self.expect((v6, id), number, place, &piece, more);
        self.world.give_packet(&bytes);
        self.check();
    }

    /// What the model makes of a fragment.
    fn expect(&mut self, key: (bool, u32), number: usize, from: usize, piece: &[u8], more: bool) {
        let end = from + piece.len();
        // In IPv6 a first fragment has all headers.
        let incomplete = key.0 && from == 0 && piece.len() < 8;
        if piece.is_empty() || more && !piece.len().is_multiple_of(8) || end > 65_535 || incomplete {
            return;
        }
        let now = self.world.now;
        let timeout = Duration::from_secs(TIMEOUTS[usize::from(key.0)]);
        if self.models.get(&key).is_some_and(|model| now.since(model.born) >= timeout) {
            self.models.remove(&key);
        }
        let model = self.models.entry(key).or_insert_with(|| Model::new(now));
        let Some(whole) = model.add(from, piece, more, if key.0 { 65_535 } else { 65_515 }) else { return };
        self.models.remove(&key);
        // The pieces may be of two datagrams: then the checksum tells, or it does not.
        let source = self.world.station().like(server(number).ip());
        if let Some(payload) = payload_of(source, server(number).ip(), &whole) {
            self.expected.push(payload);
        }
    }

    /// Holds what has come out against what must have.
    fn check(&mut self) {
        let sent: Vec<Vec<u8>> = self.world.host.sent_datagrams().iter().map(|datagram| datagram.payload.clone()).collect();
        assert!(sent == self.expected, "{} datagrams came out where {} should have", sent.len(), self.expected.len());
        // The answers come back, in fragments if they are large: the station has put them together with every check.
        let answers: Vec<Vec<u8>> = self
            .world
            .take()
            .into_iter()
            .filter_map(|parsed| if let Body::Udp(datagram) = parsed.body { Some(datagram.payload) } else { None })
            .collect();
        assert!(answers == self.expected, "an answer is not what was asked");
        assert_eq!(self.world.fragments_waiting(), 0);
        self.world.host.forget_datagrams();
        self.expected.clear();
        let usage = self.world.stack.usage();
        assert!(usage.reassembly_datagrams <= DATAGRAMS && usage.reassembly_bytes <= 4 << 20);
        assert_eq!(self.world.counters().reassembly_limit, 0);
    }
}

fn server(number: usize) -> SocketAddr {
    at(if number % 4 < 2 { "198.51.100.7:7" } else { "[2001:db8:1::7]:7" })
}

/// The payload of a UDP datagram, if it is a sound one.
fn payload_of(source: IpAddr, destination: IpAddr, datagram: &[u8]) -> Option<Vec<u8>> {
    let len = usize::from(u16::from_be_bytes(*datagram.get(4..6)?.first_chunk()?));
    let datagram = datagram.get(..len.max(8)).filter(|_| len >= 8)?;
    let none = datagram.get(6..8) == Some(&[0, 0]);
    let right = wire::transport_checksum(source, destination, wire::PROTOCOL_UDP, datagram) == 0;
    (right || none && source.is_ipv4()).then(|| datagram[8..].to_vec())
}

/// A datagram, byte by byte.
struct Model {
    born: Instant,
    bytes: Vec<Option<u8>>,
    pieces: Vec<(usize, usize)>,
    total: Option<usize>,
    spoilt: bool,
}

impl Model {
    fn new(born: Instant) -> Self {
        Self { born, bytes: vec![None; 65_536], pieces: Vec::new(), total: None, spoilt: false }
    }

    /// Takes a piece; returns the whole if it is there.
    fn add(&mut self, from: usize, piece: &[u8], more: bool, longest: usize) -> Option<Vec<u8>> {
        let end = from + piece.len();
        if self.spoilt {
            return None;
        }
        let agrees = match self.total {
            Some(total) => {
                if more {
                    end < total
                } else {
                    end == total
                }
            }
            None => more || self.pieces.iter().all(|(_, other)| *other < end),
        };
        let again =
            self.pieces.contains(&(from, end)) && piece.iter().zip(&self.bytes[from..end]).all(|(new, old)| *old == Some(*new));
        if agrees && again {
            return None;
        }
        if !agrees || self.bytes[from..end].iter().any(Option::is_some) {
            self.spoilt = true;
            return None;
        }
        for (place, byte) in self.bytes[from..end].iter_mut().zip(piece) {
            *place = Some(*byte);
        }
        self.pieces.push((from, end));
        if !more {
            self.total = Some(end);
        }
        // The length of the packet has no more room.
        if self.pieces.iter().any(|(from, _)| *from == 0) && self.pieces.iter().any(|(_, end)| *end > longest) {
            self.spoilt = true;
            return None;
        }
        let total = self.total?;
        self.bytes[..total].iter().copied().collect()
    }
}

/// Datagrams in three pieces in several orders; pieces that overlap; a pause in between; pieces of two datagrams.
pub fn seeds() -> Vec<Vec<u8>> {
    let lens = (0..DATAGRAMS).fold(Draft::default(), |draft, _| draft.half(3992));
    let piece =
        |draft: Draft, which: u8, unit: u16, len: u16, flags: u8| draft.bytes(&[which]).half(unit).half(len).bytes(&[flags]);
    let in_order = |order: [u16; 3], which: u8| {
        order.into_iter().fold(lens.clone(), |draft, n| piece(draft, which, n * 180, 1440, 0)).finish()
    };
    let mut seeds: Vec<Vec<u8>> = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
        .into_iter()
        .flat_map(|order| [in_order(order, 0), in_order(order, 2)])
        .collect();
    let overlapping = piece(piece(lens.clone(), 0, 0, 1440, 0), 0, 100, 1440, 0);
    seeds.push(piece(overlapping, 0, 360, 1440, 0).finish());
    let paused = piece(lens.clone(), 2, 0, 1440, 0).bytes(&[0x9f, 0, 0, 0, 0, 0]).bytes(&[0x9f, 0, 0, 0, 0, 0]);
    seeds.push([0, 180, 360].into_iter().fold(paused, |draft, unit| piece(draft, 2, unit, 1440, 0)).finish());
    let mixed = piece(piece(lens.clone(), 0, 0, 1440, 0), 1, 180, 1440, 0);
    seeds.push(piece(mixed, 0, 360, 1440, 0).finish());
    let odd = piece(piece(lens.clone(), 4, 0, 1440, 1), 4, 0, 1440, 2);
    seeds.push(piece(piece(odd, 4, 5, 77, 4), 4, 0, 8, 8).finish());
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_come_out_of_every_order_and_of_no_contradiction() {
        let counts: Vec<u64> = seeds().iter().map(|seed| play(seed)).collect();
        // Twelve orders; an overlap; one after a pause of a minute; pieces of two datagrams, which the checksum tells; and odd ones.
        assert_eq!(counts, [&[1; 12][..], &[0, 1, 0, 0]].concat());
    }
}
