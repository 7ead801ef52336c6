//! Guests, stack and host in one clock that only moves when nothing is left to do.
//!
//! A run follows from its seed alone. One that fails prints the seed and the last frames.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use crate::addr::MacAddr;
use crate::config::{Config, Protocol};
use crate::frame::{Checksum, Chunk, Frame, FrameMeta, Offloads};
use crate::host::Host;
use crate::host::sim::SimHost;
use crate::port::PortId;
use crate::stack::{Context, Counters, DnsWayBack, Stack};
use crate::time::{Duration, Instant};

use super::card;
use super::guest::{Addresses, Guest};
use super::link::TestLink;
use super::random::Random;
use super::services::TestServices;
use super::wire::{self, Arp, Body, Icmp, Parsed, Segment};

/// What goes wrong on the link between guests and stack, in both directions, in thousandths of all frames.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Never arrive.
    pub lost: u32,
    /// Arrive twice, not always at once.
    pub doubled: u32,
    /// Overtaken by what comes later.
    pub late: u32,
    /// One bit changed on the way to the stack.
    pub damaged: u32,
}

/// How a world begins.
#[derive(Debug, Clone)]
pub struct Setup {
    /// What the stack is told.
    pub config: Config,
    /// Where all chance comes from.
    pub seed: u64,
    /// The largest IP packet on the links, in bytes.
    pub mtu: u16,
    /// What the cards do for the stack.
    pub offloads: Offloads,
    /// Guests with a whole stack, at ports 0, 1, ...; without any, port 0 is operated by hand.
    pub guests: u8,
    /// Whether the guests send super-frames.
    pub guests_segment: bool,
    /// What goes wrong on the links.
    pub faults: Faults,
    /// How long a frame is under way.
    pub latency: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            config: Config::default(),
            seed: 1,
            mtu: 1500,
            offloads: Offloads::NONE,
            guests: 1,
            guests_segment: false,
            faults: Faults::default(),
            latency: Duration::from_micros(50),
        }
    }
}

/// The port of the first guest, or of the station that is operated by hand.
pub const PORT: PortId = PortId(0);
/// The MAC address of 10.0.2.2, to which guests send everything that leaves their network.
pub const GATEWAY: MacAddr = MacAddr([0x52, 0x55, 10, 0, 2, 2]);

/// Guests, stack and host in one clock.
#[derive(Debug)]
pub struct World {
    /// The time.
    pub now: Instant,
    /// The stack under test.
    pub stack: Stack,
    /// The host's sockets, and who is behind them.
    pub host: SimHost,
    /// The cards.
    pub link: TestLink,
    /// What the stack has handed to the virtual services.
    pub services: TestServices,
    /// The guests with a whole stack, by their port.
    pub guests: BTreeMap<PortId, Guest>,
    /// Whether the station at a port operated by hand answers ARP and neighbour solicitations.
    pub answers_neighbours: bool,
    /// What goes wrong on the links from now on.
    pub faults: Faults,
    setup: Setup,
    random: Random,
    in_flight: BTreeMap<(Instant, u64), InFlight>,
    flights: u64,
    inbox: VecDeque<(Instant, Parsed)>,
    trace: VecDeque<String>,
}

#[derive(Debug)]
struct InFlight {
    port: PortId,
    to_stack: bool,
    frame: Vec<u8>,
    meta: FrameMeta,
}

macro_rules! context {
    ($world:expr) => {
        &mut Context { now: $world.now, link: &mut $world.link, host: &mut $world.host, services: &mut $world.services }
    };
}

impl World {
    /// A world that has just begun; the first router advertisement is over.
    pub fn new(setup: Setup) -> Self {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&setup.seed.to_le_bytes());
        let mut link = TestLink::new();
        link.add(PORT, setup.mtu, setup.offloads);
        let mut guests = BTreeMap::new();
        for n in 0..setup.guests {
            let port = PortId(u16::from(n));
            link.add(port, setup.mtu, setup.offloads);
            guests.insert(port, Guest::new(n, setup.mtu, setup.seed));
        }
        let mut world = Self {
            now: Instant::ZERO,
            stack: Stack::new(&setup.config, seed),
            host: SimHost::new(setup.seed),
            link,
            services: TestServices::default(),
            guests,
            answers_neighbours: true,
            faults: setup.faults,
            random: Random::new(setup.seed),
            setup,
            in_flight: BTreeMap::new(),
            flights: 0,
            inbox: VecDeque::new(),
            trace: VecDeque::new(),
        };
        // The first router advertisement is not part of any story.
        world.pass(Duration::from_millis(2));
        world.inbox.clear();
        world
    }

    /// One guest with a whole stack, and everything else by default.
    pub fn with_guest() -> Self {
        Self::new(Setup::default())
    }

    /// A port that the test operates by hand, frame by frame.
    pub fn by_hand() -> Self {
        Self::new(Setup { guests: 0, latency: Duration::ZERO, ..Setup::default() })
    }

    /// Likewise with this configuration.
    pub fn by_hand_with(config: Config) -> Self {
        Self::new(Setup { config, guests: 0, latency: Duration::ZERO, ..Setup::default() })
    }

    /// The first guest.
    pub fn guest(&mut self) -> &mut Guest {
        self.guests.get_mut(&PORT).unwrap()
    }

    /// A measure of all that the stack remembers: the length of its description.
    pub fn remembered(&self) -> usize {
        format!("{:?}", self.stack).len()
    }

    /// What the stack has counted.
    pub fn counters(&self) -> &Counters {
        self.stack.counters()
    }

    /// Forwards a port of the host to a port of a guest.
    pub fn forward(&mut self, protocol: Protocol, host: SocketAddr, guest: SocketAddr) {
        self.stack.forward(&mut self.host, protocol, host, guest).unwrap();
        // What the stack said when it began is not part of any story.
        self.settle();
        self.inbox.clear();
    }

    /// The answer to a DNS question is there.
    pub fn send_dns(&mut self, way_back: &DnsWayBack, message: &[u8]) {
        self.stack.send_dns(context!(self), way_back, message);
        self.settle();
    }

    /// Takes a guest and its port away.
    pub fn unplug(&mut self, port: PortId) {
        self.link.cards.remove(&port);
        self.guests.remove(&port);
        self.in_flight.retain(|_, flight| flight.port != port);
        self.stack.port_removed(context!(self), port);
        self.settle();
    }

    /// Adds a port with a new guest behind it.
    pub fn plug(&mut self, port: PortId) {
        self.link.add(port, self.setup.mtu, self.setup.offloads);
        let number = u8::try_from(port.0).unwrap();
        self.flights += 1;
        self.guests.insert(port, Guest::new(number, self.setup.mtu, self.setup.seed ^ self.flights << 8));
        self.stack.port_added(context!(self), port);
        self.settle();
    }

    // ---- By hand ----

    /// The station at the port that is operated by hand.
    pub const fn station(&self) -> Addresses {
        Addresses::of(0)
    }

    /// The station sends a frame, and everything happens that follows from it without time passing.
    pub fn give_frame(&mut self, frame: &[u8]) {
        self.give_frame_with(frame, FrameMeta::default());
    }

    /// Likewise a station at another port.
    pub fn give_frame_from(&mut self, port: PortId, frame: &[u8]) {
        self.input(port, frame, FrameMeta::default());
        self.settle();
    }

    /// Likewise with offload state.
    pub fn give_frame_with(&mut self, frame: &[u8], meta: FrameMeta) {
        self.input(PORT, frame, meta);
        self.settle();
    }

    /// The station sends several segments at once: the stack sees all of them before it does anything else.
    pub fn give_batch(&mut self, segments: &[Segment]) {
        for segment in segments {
            let frame = wire::ip_frame(self.station().mac, GATEWAY, &segment.packet());
            self.input(PORT, &frame, FrameMeta::default());
        }
        self.settle();
    }

    /// The station sends an IP packet to the gateway.
    pub fn give_packet(&mut self, packet: &[u8]) {
        self.give_frame(&wire::ip_frame(self.station().mac, GATEWAY, packet));
    }

    /// The station sends a segment to the gateway.
    pub fn give(&mut self, segment: &Segment) {
        self.give_packet(&segment.packet());
    }

    /// What the station has received since this was asked last.
    pub fn take(&mut self) -> Vec<Parsed> {
        self.take_timed().into_iter().map(|(_, parsed)| parsed).collect()
    }

    /// Likewise, and when.
    pub fn take_timed(&mut self) -> Vec<(Instant, Parsed)> {
        self.inbox.drain(..).collect()
    }

    /// The TCP segments that the station has received since it took anything last; what else came is dropped.
    pub fn take_segments(&mut self) -> Vec<Segment> {
        self.take()
            .into_iter()
            .filter_map(|parsed| if let Body::Tcp(segment) = parsed.body { Some(segment) } else { None })
            .collect()
    }

    /// Likewise for ICMP, without neighbour discovery.
    pub fn take_icmp(&mut self) -> Vec<Icmp> {
        let icmp = |parsed: Parsed| match parsed.body {
            Body::Icmp(icmp) if !matches!((icmp.source, icmp.kind), (IpAddr::V6(_), 133..=137)) => Some(icmp),
            _ => None,
        };
        self.take().into_iter().filter_map(icmp).collect()
    }

    // ---- Time ----

    /// Everything that follows without time passing.
    pub fn settle(&mut self) {
        let mut turns = 0;
        while self.turn() {
            turns += 1;
            assert!(turns < 1_000_000, "the stack never comes to rest");
        }
    }

    /// Lets so much time pass.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        while let Some(next) = self.next_deadline().filter(|next| *next <= end) {
            self.move_to(next);
            self.settle();
        }
        self.now = end;
        self.settle();
    }

    /// Lets time pass until `done`, but at most 2 minutes.
    #[track_caller]
    pub fn until(&mut self, done: impl FnMut(&mut Self) -> bool) {
        self.until_within(Duration::from_secs(120), done);
    }

    /// Lets time pass until `done`, but at most so long.
    #[track_caller]
    pub fn until_within(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) {
        let end = self.now + limit;
        loop {
            loop {
                if done(self) {
                    return;
                }
                if !self.turn() {
                    break;
                }
            }
            if done(self) {
                return;
            }
            let next = self.next_deadline().unwrap_or_else(|| panic!("nothing will happen any more"));
            assert!(next <= end, "it did not happen within {limit:?}");
            self.move_to(next);
        }
    }

    fn move_to(&mut self, next: Instant) {
        // Whoever names a deadline that is past gets the next microsecond, so that every run ends.
        self.now = next.max(self.now + Duration::from_micros(1));
    }

    fn next_deadline(&mut self) -> Option<Instant> {
        let mut next = [self.stack.next_deadline(), self.host.next_deadline(), self.in_flight.keys().next().map(|(at, _)| *at)]
            .into_iter()
            .flatten()
            .min();
        for guest in self.guests.values_mut() {
            let deadline = guest.next_deadline(self.now);
            next = next.into_iter().chain(deadline).min();
        }
        next
    }

    /// One turn of what the engine does, and of everybody else. Returns whether there may be more to do now.
    fn turn(&mut self) -> bool {
        let mut busy = false;
        self.host.advance(self.now);
        let mut events = Vec::with_capacity(16);
        self.host.events(&mut events);
        for event in events {
            busy = true;
            self.stack.host_event(context!(self), event);
        }
        while let Some(((at, number), _)) =
            self.in_flight.first_key_value().map(|(key, _)| (*key, ())).filter(|((at, _), ())| *at <= self.now)
        {
            busy = true;
            if let Some(flight) = self.in_flight.remove(&(at, number)) {
                self.land(flight);
            }
        }
        if self.stack.next_deadline().is_some_and(|deadline| deadline <= self.now) {
            self.stack.expire(context!(self));
            busy |= self.stack.next_deadline().is_none_or(|deadline| deadline > self.now);
        }
        let more = self.stack.run(context!(self));
        busy |= more;
        busy |= self.carry_to_guests();
        busy |= self.poll_guests();
        busy
    }

    fn input(&mut self, port: PortId, frame: &[u8], meta: FrameMeta) {
        self.note(true, port, frame, meta);
        // Two pieces, as a guest's descriptors may be.
        let (first, second) = frame.split_at(frame.len().min(37));
        let chunks = [Chunk::from(first), Chunk::from(second)];
        self.stack.input(context!(self), port, &Frame::new(&chunks, meta));
    }

    fn land(&mut self, flight: InFlight) {
        if flight.to_stack {
            self.input(flight.port, &flight.frame, flight.meta);
        } else if let Some(guest) = self.guests.get_mut(&flight.port) {
            guest.deliver(flight.frame);
        }
    }

    fn carry_to_guests(&mut self) -> bool {
        let mut carried = Vec::new();
        for (port, queue) in &mut self.link.cards {
            if !queue.stalled {
                carried.extend(queue.frames.drain(..).map(|(frame, meta)| (*port, frame, meta, queue.mtu)));
            }
        }
        let mut busy = !carried.is_empty();
        for (port, queue) in &mut self.link.cards {
            if queue.was_full && queue.frames.len() < queue.capacity {
                queue.was_full = false;
                if self.stack.waits_for(*port) {
                    self.stack.port_writable(*port);
                    busy = true;
                }
            }
        }
        for (port, frame, meta, mtu) in carried {
            self.note(false, port, &frame, meta);
            for frame in card::transmit(frame, meta, mtu) {
                if self.guests.contains_key(&port) {
                    wire::parse(&frame);
                    self.fly(InFlight { port, to_stack: false, frame, meta: FrameMeta::default() });
                } else {
                    self.receive_by_hand(&frame);
                }
            }
        }
        busy
    }

    fn poll_guests(&mut self) -> bool {
        let mut sent = Vec::new();
        for (port, guest) in &mut self.guests {
            let frames = guest.poll(self.now);
            let frames = if self.setup.guests_segment {
                card::join(frames)
            } else {
                frames.into_iter().map(|frame| (frame, FrameMeta::default())).collect()
            };
            sent.extend(frames.into_iter().map(|(frame, meta)| InFlight { port: *port, to_stack: true, frame, meta }));
        }
        let busy = !sent.is_empty();
        sent.into_iter().for_each(|flight| self.fly(flight));
        busy
    }

    fn fly(&mut self, mut flight: InFlight) {
        if self.random.chance(self.faults.lost) {
            return;
        }
        let mut at = self.now + self.setup.latency;
        if self.random.chance(self.faults.late) {
            at = at + Duration::from_micros(self.random.below(3000));
        }
        // What has no checksum yet cannot be damaged: it has crossed no wire.
        if flight.to_stack && flight.meta.checksum == Checksum::Complete && self.random.chance(self.faults.damaged) {
            // The Ethernet header is left alone: the card checks it, and no checksum of ours covers it.
            let bit = 14 * 8 + self.random.below((flight.frame.len() as u64 - 14) * 8);
            let byte = usize::try_from(bit / 8).unwrap();
            flight.frame[byte] ^= 1 << (bit % 8);
        }
        if self.random.chance(self.faults.doubled) {
            let again = InFlight { frame: flight.frame.clone(), ..flight };
            self.flights += 1;
            self.in_flight.insert((at + Duration::from_micros(self.random.below(500)), self.flights), again);
        }
        self.flights += 1;
        self.in_flight.insert((at, self.flights), flight);
    }

    fn receive_by_hand(&mut self, frame: &[u8]) {
        let parsed = wire::parse(frame);
        let me = self.station();
        if self.answers_neighbours {
            match &parsed.body {
                Body::Arp(arp) if arp.operation == 1 && arp.target == me.v4 => {
                    let reply =
                        Arp { operation: 2, sender_mac: me.mac, sender: me.v4, target_mac: arp.sender_mac, target: arp.sender };
                    let frame = wire::ethernet(me.mac, arp.sender_mac, wire::ETHERTYPE_ARP, &reply.bytes());
                    self.input(PORT, &frame, FrameMeta::default());
                }
                Body::Icmp(Icmp { kind: 135, source, payload, .. }) if payload.get(..16) == Some(&me.v6.octets()) => {
                    let payload = [&me.v6.octets()[..], &[2, 1], &me.mac.0].concat();
                    let answer =
                        Icmp { source: me.v6.into(), destination: *source, kind: 136, code: 0, rest: [0x60, 0, 0, 0], payload };
                    let frame = wire::ip_frame(me.mac, parsed.source, &answer.packet());
                    self.input(PORT, &frame, FrameMeta::default());
                }
                _ => {}
            }
        }
        self.inbox.push_back((self.now, parsed));
    }

    fn note(&mut self, to_stack: bool, port: PortId, frame: &[u8], meta: FrameMeta) {
        let arrow = if to_stack { "->" } else { "<-" };
        let what = wire::summary(frame);
        let gso = meta.gso.map_or_else(String::new, |gso| format!(" in segments of {}", gso.size));
        self.trace.push_back(format!("{:>12} us port {} {arrow} {} bytes: {what}{gso}", self.now.as_micros(), port.0, frame.len()));
        if self.trace.len() > 60 {
            self.trace.pop_front();
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("seed {}, at {} us, {} sockets open", self.setup.seed, self.now.as_micros(), self.host.open_sockets());
            self.trace.iter().for_each(|line| println!("{line}"));
            println!("{}", self.stack.counters());
        }
    }
}

/// An address and port, from text.
pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
