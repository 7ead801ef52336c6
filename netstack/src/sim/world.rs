//! Guests, stack and host in one clock that only moves when nothing is left to do.
//!
//! A run follows from its seed alone. One that fails prints the seed and the last frames.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use crate::addr::MacAddr;
use crate::config::{Config, Protocol};
use crate::frame::{FrameMeta, Offloads};
use crate::host::Event;
use crate::host::sim::SimHost;
use crate::port::PortId;
use crate::stack::{Context, Counters, DnsWayBack, ForwardSocket, Listen, Stack};
use crate::time::{Duration, Instant};

use super::fragments::Assembler;
use super::guest::{Addresses, Guest};
use super::link::TestLink;
use super::random::Random;
use super::services::TestServices;
use super::trace::Trace;
use super::watch::Watch;
use super::wire::{self, Body, Icmp, Parsed, Segment};

// `$world` as the stack sees it during one call.
macro_rules! context {
    ($world:expr) => {
        &mut Context { now: $world.now, link: &mut $world.link, host: &mut $world.host, services: &mut $world.services }
    };
}

mod turn;

/// What goes wrong on the link between guests and stack, in both directions, in thousandths of all frames.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Never arrive.
    pub lost: u32,
    /// Arrive twice, not always at once.
    pub doubled: u32,
    /// Overtaken by what comes later.
    pub late: u32,
    /// One bit changed.
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

/// A guest's card and link.
#[derive(Debug, Clone, Copy)]
pub struct GuestCard {
    /// The largest IP packet on the link, in bytes.
    pub mtu: u16,
    /// What the card does for the stack.
    pub offloads: Offloads,
    /// Whether the guest sends super-frames.
    pub segments: bool,
}

/// Frames that are shown when something goes wrong.
const TRACE: usize = 60;

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
    /// The last frames, for those who look for what went wrong.
    pub trace: Trace,
    /// Whether it prints its last frames when it goes in a panic.
    pub tells: bool,
    /// Whether the engine gets no time, while everybody else goes on.
    pub frozen: bool,
    /// Holds each frame of the stack against what was said, and panics.
    pub watch: Option<Box<Watch>>,
    setup: Setup,
    cards: BTreeMap<PortId, GuestCard>,
    random: Random,
    in_flight: BTreeMap<(Instant, u64), InFlight>,
    flights: u64,
    inbox: VecDeque<(Instant, Parsed)>,
    /// Fragments that the station operated by hand has received.
    assembler: Assembler,
    fragments_received: u64,
    // Kept between turns for their memory.
    events: Vec<Event>,
    carried: Vec<(PortId, u16, Vec<u8>, FrameMeta)>,
    sent: Vec<InFlight>,
    /// Frames that have arrived while the engine got no time.
    backlog: Vec<InFlight>,
}

#[derive(Debug)]
struct InFlight {
    port: PortId,
    to_stack: bool,
    frame: Vec<u8>,
    meta: FrameMeta,
}

impl World {
    /// A world that has just begun; the first router advertisement is over.
    pub fn new(setup: Setup) -> Self {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&setup.seed.to_le_bytes());
        let card = GuestCard { mtu: setup.mtu, offloads: setup.offloads, segments: setup.guests_segment };
        let mut link = TestLink::new();
        link.add(PORT, card.mtu, card.offloads);
        let mut world = Self {
            now: Instant::ZERO,
            stack: Stack::new(&setup.config, seed),
            host: SimHost::new(setup.seed),
            link,
            services: TestServices::default(),
            guests: BTreeMap::new(),
            answers_neighbours: true,
            faults: setup.faults,
            trace: Trace::new(TRACE),
            tells: true,
            frozen: false,
            watch: None,
            cards: BTreeMap::new(),
            random: Random::new(setup.seed),
            setup,
            in_flight: BTreeMap::new(),
            flights: 0,
            inbox: VecDeque::new(),
            assembler: Assembler::default(),
            fragments_received: 0,
            events: Vec::new(),
            carried: Vec::new(),
            sent: Vec::new(),
            backlog: Vec::new(),
        };
        for n in 0..world.setup.guests {
            world.join(n, card);
        }
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
    pub fn forward(&mut self, protocol: Protocol, host: SocketAddr, guest: SocketAddr) -> ForwardSocket {
        let forward = self.add_forward(Listen::Port(protocol, host, None), guest);
        // What the stack said when it began is not part of any story.
        self.settle();
        self.inbox.clear();
        forward
    }

    /// Likewise, if the host lets it.
    pub fn try_forward(&mut self, listen: Listen<'_>, guest: SocketAddr) -> Option<ForwardSocket> {
        self.stack.forward(&mut self.host, listen, guest).ok().map(|(forward, _)| forward)
    }

    /// Forwards what comes to a socket of the host to a port of a guest, while everything goes on.
    pub fn add_forward(&mut self, listen: Listen<'_>, guest: SocketAddr) -> ForwardSocket {
        self.stack.forward(&mut self.host, listen, guest).unwrap().0
    }

    /// Ends a forward; with `flows`, the connections that came by it too.
    pub fn end_forward(&mut self, forward: ForwardSocket, flows: bool) -> bool {
        let was_there = self.stack.end_forward(context!(self), forward, flows);
        self.settle();
        was_there
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
        self.backlog.retain(|flight| flight.port != port);
        self.stack.port_removed(context!(self), port);
        self.settle();
    }

    /// Adds a port with a new guest behind it, like the one that was there before.
    pub fn plug(&mut self, port: PortId) {
        let card = self.cards[&port];
        self.flights += 1;
        self.join(u8::try_from(port.0).unwrap(), card);
        self.stack.port_added(context!(self), port);
        self.settle();
    }

    /// Puts guest number `n` behind port `n`. The stack is not told.
    fn join(&mut self, n: u8, card: GuestCard) {
        let port = PortId(u16::from(n));
        self.link.add(port, card.mtu, card.offloads);
        let mut guest = Guest::new(n, card.mtu, self.setup.seed ^ self.flights << 8);
        guest.segments = card.segments;
        self.guests.insert(port, guest);
        self.cards.insert(port, card);
    }

    /// Starts a guest anew: it remembers nothing, and the stack is not told.
    pub fn reboot(&mut self, port: PortId) {
        let card = self.cards[&port];
        self.flights += 1;
        let mut guest = Guest::new(u8::try_from(port.0).unwrap(), card.mtu, self.setup.seed ^ self.flights << 8);
        guest.segments = card.segments;
        self.guests.insert(port, guest);
    }

    /// Adds guest number `n`, who may have another kind of card than the others.
    pub fn add_guest(&mut self, n: u8, card: GuestCard) {
        self.join(n, card);
        self.stack.port_added(context!(self), PortId(u16::from(n)));
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

    /// How many fragments the station has received; it puts them together by itself.
    pub fn fragments_received(&self) -> u64 {
        self.fragments_received
    }

    /// How many packets it has not been able to put together.
    pub fn fragments_waiting(&self) -> usize {
        self.assembler.waiting()
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
}

impl Drop for World {
    fn drop(&mut self) {
        if self.tells && std::thread::panicking() {
            println!("seed {}, at {} us, {} sockets open", self.setup.seed, self.now.as_micros(), self.host.open_sockets());
            print!("{}", self.trace);
            println!("{}", self.stack.counters());
        }
    }
}

/// An address and port, from text.
pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
