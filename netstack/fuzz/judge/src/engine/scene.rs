//! Everybody in one clock: two guests, the stack, the services at the virtual addresses and a network of servers.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netstack::addr::MacAddr;
use netstack::config::{Config, GuestForward, GuestTarget, Limits, Protocol, SmbConfig};
use netstack::frame::{Chunk, Frame, FrameMeta, Offloads};
use netstack::gateway::dhcp::DhcpServer;
use netstack::gateway::dhcp6::Dhcp6Server;
use netstack::host::sim::{ConnectionId, Program, Server, SimHost, UdpServer, Way};
use netstack::host::{Host, StreamService};
use netstack::port::PortId;
use netstack::sim::card;
use netstack::sim::fragments::Assembler;
use netstack::sim::link::TestLink;
use netstack::sim::wire::{self, ACK, Body, Parsed, SYN};
use netstack::stack::{Context, DhcpReply, DnsWayBack, Listen, Services, Stack};
use netstack::time::{Duration, Instant};

use super::hand::Hand;
use super::verdict;
use crate::script::Script;

pub(super) const PORTS: [PortId; 2] = [PortId(0), PortId(1)];
/// The gateway's card.
pub(super) const GATEWAY: MacAddr = MacAddr([0x52, 0x55, 10, 0, 2, 2]);
/// Ends of connections that are kept in mind, at most: the oldest makes room.
const HANDS: usize = 12;
/// Turns in which everything must come to rest.
const TURNS: usize = 50_000;
/// The ports that lead to guest 0: of the host, and in the guest.
pub(super) const FORWARDED: (u16, u16) = (2222, 22);

/// A guest's addresses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guest {
    pub(super) mac: MacAddr,
    pub(super) v4: Ipv4Addr,
    pub(super) v6: Ipv6Addr,
}

impl Guest {
    pub(super) fn of(number: usize) -> Self {
        let last = 15 + u8::from(number != 0);
        Self {
            mac: MacAddr([0x52, 0x54, 0, 0, 0, last]),
            v4: Ipv4Addr::new(10, 0, 2, last),
            v6: Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, u16::from(last)),
        }
    }

    pub(super) const fn like(self, other: IpAddr) -> IpAddr {
        if other.is_ipv4() { IpAddr::V4(self.v4) } else { IpAddr::V6(self.v6) }
    }
}

/// The services, with the real DHCP server, and DNS questions kept to be answered later.
#[derive(Debug, Default)]
pub(super) struct Gateway {
    dhcp: Option<DhcpServer>,
    dhcp6: Option<Dhcp6Server>,
    pub(super) questions: VecDeque<(DnsWayBack, Vec<u8>)>,
}

impl Services for Gateway {
    fn dhcp(&mut self, now: Instant, from: MacAddr, message: &[u8]) -> Option<DhcpReply> {
        let mut reply = Vec::new();
        let answer = self.dhcp.as_mut()?.handle(now, from, message, &mut reply).ok()??;
        Some(DhcpReply { to: answer.to, mac: answer.mac, port: answer.port, message: reply })
    }

    fn dhcp6(&mut self, now: Instant, from: MacAddr, multicast: bool, message: &[u8]) -> Option<Vec<u8>> {
        let mut reply = Vec::new();
        self.dhcp6.as_mut()?.handle(now, from, multicast, message, &mut reply).ok()?;
        Some(reply)
    }

    fn dns(&mut self, way_back: DnsWayBack, message: &[u8]) -> bool {
        let room = self.questions.len() < 4;
        if room {
            self.questions.push_back((way_back, message.to_vec()));
        }
        room
    }
}

/// All of it.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) now: Instant,
    pub(super) stack: Stack,
    pub(super) host: SimHost,
    pub(super) link: TestLink,
    pub(super) gateway: Gateway,
    pub(super) hands: VecDeque<Hand>,
    /// The last frames that guests have sent, the latest first.
    pub(super) sent: VecDeque<(PortId, Vec<u8>, FrameMeta)>,
    /// Clients of the forward, as the guest sees them.
    pub(super) clients: Vec<(SocketAddr, ConnectionId)>,
    pub(super) next_port: u16,
    /// Fragments that guests have got.
    assemblers: [Assembler; 2],
    limits: Limits,
    mtus: [u16; 2],
    offloads: [Offloads; 2],
    listeners: usize,
    /// Whether anything may have been sent in the name of a hand.
    spoilt: bool,
}

macro_rules! context {
    ($scene:expr) => {
        &mut Context { now: $scene.now, link: &mut $scene.link, host: &mut $scene.host, services: &mut $scene.gateway }
    };
}

impl Scene {
    /// A network as the script wants it, on which everything that guests can reach is there.
    pub(super) fn new(script: &mut Script<'_>) -> Self {
        let (flags, sizes, cards) = (script.byte(), script.byte(), script.byte());
        let mut config =
            Config { restrict: flags & 1 != 0, host_loopback: flags & 2 == 0, full_cone: flags & 4 != 0, ..Config::default() };
        // Hours in which nothing happens tell nothing, and are most of what there is to do.
        config.timeouts.tcp_idle = Duration::from_secs(300);
        if flags & 8 != 0 {
            config.limits = Limits {
                tcp_flows: 6,
                tcp_opening: 3,
                tcp_held_bytes: 5000,
                udp_mappings: 4,
                icmp_mappings: 3,
                udp_peers: 2,
                neighbours: 3,
                reassembly_datagrams: 3,
                reassembly_bytes: 5000,
                reassembly_fragments: 10,
                ..Limits::default()
            };
        }
        if sizes & 8 != 0 {
            config.guest_forwards = guest_forwards();
            config.smb = Some(SmbConfig { server: Some(Ipv4Addr::new(10, 0, 2, 77)), ..SmbConfig::default() });
        }
        match flags >> 6 {
            1 => config.ipv4 = None,
            2 => config.ipv6 = None,
            _ => {}
        }
        config.mtu = [1500, 1280, 9000, 65520][usize::from(sizes % 4)];
        if config.ipv6.is_none() && sizes & 4 != 0 {
            config.mtu = 576;
        }
        let tcp_only = Offloads { uso: false, ..Offloads::ALL };
        let checksums = Offloads { checksum: true, ..Offloads::NONE };
        let offloads = [Offloads::NONE, Offloads::ALL, tcp_only, checksums];
        let offloads = [offloads[usize::from(cards % 4)], offloads[usize::from(cards / 4 % 4)]];
        let stack = Stack::new(&config, [sizes; 32]);
        let mut scene = Self::with_stack(stack, config.mtu, offloads[0]);
        scene.mtus[1] = config.mtu.min(if cards & 16 != 0 { 1280 } else { u16::MAX });
        scene.offloads = offloads;
        scene.limits = config.limits.clone();
        scene.gateway.dhcp = DhcpServer::new(&config);
        scene.link.add(PORTS[1], scene.mtus[1], offloads[1]);
        scene.serve();
        scene.forward(&config);
        scene.settle();
        scene
    }

    /// A guest on a link, and nothing else.
    pub(super) fn with_stack(stack: Stack, mtu: u16, offloads: Offloads) -> Self {
        let mut link = TestLink::new();
        link.add(PORTS[0], mtu, offloads);
        Self {
            now: Instant::ZERO,
            stack,
            host: SimHost::new(1),
            link,
            gateway: Gateway::default(),
            hands: VecDeque::new(),
            sent: VecDeque::new(),
            clients: Vec::new(),
            next_port: 1000,
            assemblers: Default::default(),
            limits: Limits::default(),
            mtus: [mtu; 2],
            offloads: [offloads; 2],
            listeners: 0,
            spoilt: false,
        }
    }

    /// A server of each kind, at a port of its own.
    fn serve(&mut self) {
        let servers = [
            Server::new(Program::Echo),
            Server::new(Program::Sink),
            Server::new(Program::Source(100_000)),
            Server::refusing(),
            Server::silent(),
            Server::failing(113),
            Server::new(Program::CloseAfter(10)),
            Server::new(Program::ResetAfter(10)),
            Server::new(Program::Sink).reading(100, Duration::from_millis(10)).send_queue(4096).receive_queue(4096),
            Server::failing_at_once(101),
            Server::new(Program::Idle),
            Server::new(Program::Echo).after(Duration::from_secs(2)).staying_half_open(),
        ];
        for (port, server) in (80..).zip(servers) {
            for ip in hosts() {
                self.host.serve(SocketAddr::new(ip, port), server);
            }
        }
        self.host.serve_service(StreamService::Dns, Server::new(Program::Echo));
        self.host.serve_service(StreamService::GuestForward(1), Server::new(Program::Echo));
        self.host.serve_local("/run/server", Server::new(Program::Source(100_000)));
        for ip in hosts() {
            self.host.serve_udp(SocketAddr::new(ip, 7), UdpServer::Echo);
            self.host.serve_udp(SocketAddr::new(ip, 9), UdpServer::Closed);
        }
        // The hosts of the world are two routers away, the first of which has a narrow link behind it.
        let [near, far, ..] = hosts();
        for (ip, routers) in [(near, [[203, 0, 113, 1], [203, 0, 113, 2]].map(IpAddr::from)), (far, ROUTERS_V6.map(IpAddr::V6))] {
            self.host.lay(ip, Way::direct().router(routers[0], 1300).router(routers[1], 1500));
        }
        self.host.set_quoted(1000);
    }

    fn forward(&mut self, config: &Config) {
        let guest = Guest::of(0);
        let mut rules = Vec::new();
        if config.ipv4.is_some() {
            rules.push((Ipv4Addr::UNSPECIFIED.into(), IpAddr::V4(guest.v4)));
        }
        if config.ipv6.is_some() {
            rules.push((Ipv6Addr::UNSPECIFIED.into(), IpAddr::V6(guest.v6)));
        }
        for (address, guest) in rules {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let (from, to) = (SocketAddr::new(address, FORWARDED.0), SocketAddr::new(guest, FORWARDED.1));
                self.stack.forward(&mut self.host, Listen::Port(protocol, from, None), to).expect("a free port");
                self.listeners += 1;
            }
        }
    }

    /// From now on nobody knows which bytes the hands have sent.
    pub(super) const fn spoil(&mut self) {
        self.spoilt = true;
    }

    /// A guest sends a frame.
    pub(super) fn input(&mut self, port: PortId, frame: &[u8], meta: FrameMeta) {
        if !self.link.cards.contains_key(&port) {
            return;
        }
        let cuts = [frame.len().min(19), frame.len().min(47)];
        let (first, second, third) = (&frame[..cuts[0]], &frame[cuts[0]..cuts[1]], &frame[cuts[1]..]);
        let chunks = [Chunk::from(first), Chunk::from(second), Chunk::empty(), Chunk::from(third)];
        self.stack.input(context!(self), port, &Frame::new(&chunks, meta));
        self.sent.push_front((port, frame.to_vec(), meta));
        self.sent.truncate(8);
    }

    /// A guest sends a packet to the gateway.
    pub(super) fn input_packet(&mut self, guest: usize, packet: &[u8], meta: FrameMeta) {
        let frame = wire::ip_frame(Guest::of(guest).mac, GATEWAY, packet);
        self.input(PORTS[guest], &frame, meta);
    }

    /// A connection has begun.
    pub(super) fn add_hand(&mut self, hand: Hand) -> usize {
        if self.hands.len() == HANDS {
            self.hands.pop_front();
        }
        self.hands.push_back(hand);
        self.hands.len() - 1
    }

    /// Takes a port away, or puts a new card in its place.
    pub(super) fn replug(&mut self, port: PortId) {
        if self.link.cards.remove(&port).is_some() {
            self.stack.port_removed(context!(self), port);
        } else {
            let at = usize::from(port.0);
            self.link.add(port, self.mtus[at], self.offloads[at]);
            self.stack.port_added(context!(self), port);
        }
    }

    /// The name server has answered the oldest question.
    pub(super) fn answer_dns(&mut self, message: &[u8]) {
        if let Some((way_back, _)) = self.gateway.questions.pop_front() {
            self.stack.send_dns(context!(self), &way_back, message);
        }
    }

    /// Everything that follows without time passing.
    pub(super) fn settle(&mut self) {
        for turn in 0.. {
            assert!(turn < TURNS, "it never comes to rest");
            if !self.turn() {
                break;
            }
        }
    }

    /// One turn of what the engine does, and of the guests' cards. Returns whether there may be more to do.
    pub(super) fn turn(&mut self) -> bool {
        self.host.advance(self.now);
        let mut events = Vec::with_capacity(16);
        self.host.events(&mut events);
        let mut busy = !events.is_empty();
        for event in events {
            self.stack.host_event(context!(self), event);
        }
        if self.stack.next_deadline().is_some_and(|deadline| deadline <= self.now) {
            self.stack.expire(context!(self));
            busy = true;
        }
        busy |= self.stack.run(context!(self));
        busy |= self.carry();
        busy
    }

    /// Takes frames out of the cards and looks at them.
    fn carry(&mut self) -> bool {
        let mut carried = Vec::new();
        for (port, card) in self.link.cards.iter_mut().filter(|(_, card)| !card.stalled) {
            let at = usize::from(*port != PORTS[0]);
            carried.extend(card.frames.drain(..).map(|(frame, meta)| (at, frame, meta, card.mtu)));
        }
        let mut busy = !carried.is_empty();
        for (port, card) in &mut self.link.cards {
            if card.was_full && card.frames.len() < card.capacity {
                card.was_full = false;
                if self.stack.waits_for(*port) {
                    self.stack.port_writable(*port);
                    busy = true;
                }
            }
        }
        for (at, frame, meta, mtu) in carried {
            for frame in card::transmit(frame, meta, mtu) {
                // What comes in fragments is looked at when it is whole.
                let Some(frame) = self.assemblers[at].add(&frame) else { continue };
                let parsed = wire::parse(&frame);
                verdict::judge(&parsed);
                self.observe(&parsed);
            }
        }
        busy
    }

    fn observe(&mut self, parsed: &Parsed) {
        let Body::Tcp(segment) = &parsed.body else { return };
        let spoilt = self.spoilt;
        let known = self.hands.iter_mut().rev().find(|hand| hand.local == segment.destination && hand.remote == segment.source);
        if let Some(hand) = known {
            hand.spoilt |= spoilt;
            hand.observe(segment);
        } else if segment.is(SYN) && segment.flags & ACK == 0 {
            // A client of the forward.
            let guest = usize::from(segment.destination.ip() != Guest::of(0).like(segment.destination.ip()));
            let mut hand = Hand::new(guest, segment.destination, segment.source, 5000);
            hand.connection = self.clients.iter().rev().find(|(from, _)| *from == segment.source).map(|(_, id)| *id);
            hand.observe(segment);
            self.add_hand(hand);
        }
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        for step in 0.. {
            assert!(step < TURNS, "there is always something left to do");
            let next = [self.stack.next_deadline(), self.host.next_deadline()].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = next.max(self.now + Duration::from_micros(1));
            self.settle();
        }
        self.now = end;
        self.settle();
    }

    /// What holds at any time.
    pub(super) fn judge(&mut self) {
        let (flows, mappings) = (self.stack.tcp_flows(), self.stack.udp_mappings());
        assert!(flows <= self.limits.tcp_flows, "{flows} connections");
        assert!(mappings <= self.limits.udp_mappings, "{mappings} mappings");
        let usage = self.stack.usage();
        let (datagrams, bytes) = (usage.reassembly_datagrams, usage.reassembly_bytes);
        assert!(datagrams <= PORTS.len() * self.limits.reassembly_datagrams, "{datagrams} datagrams that are not whole");
        assert!(bytes <= PORTS.len() * self.limits.reassembly_bytes, "{bytes} bytes of fragments");
        let sockets = self.host.open_sockets();
        let pings = usage.icmp_mappings;
        assert!(pings <= self.limits.icmp_mappings, "{pings} mappings of pings");
        assert!(
            sockets <= self.listeners + flows + mappings + pings,
            "{sockets} sockets for {flows} connections, {mappings} mappings and {pings} pings"
        );
        for hand in &mut self.hands {
            hand.spoilt |= self.spoilt;
            if let Some(id) = hand.connection {
                hand.judge(self.host.connection(id));
            }
        }
    }

    /// The end: everything goes, by itself in time or with the guests.
    pub(super) fn end(&mut self, ending: u8) {
        self.host.set_max_sockets(usize::MAX);
        if ending & 1 == 0 {
            for card in self.link.cards.values_mut() {
                (card.stalled, card.capacity) = (false, 256);
            }
            // An idle connection is asked whether it is still there, and given up.
            self.pass(Duration::from_secs(2000));
        } else {
            for port in PORTS {
                if self.link.cards.contains_key(&port) {
                    self.replug(port);
                }
            }
            // A client of the forward whose guest was not found yet belongs to no port, and is given up in time.
            self.pass(Duration::from_secs(400));
        }
        self.judge();
        let left = (self.stack.tcp_flows(), self.stack.udp_mappings(), self.host.open_sockets());
        let flows: Vec<_> = self.stack.flows().collect();
        let usage = self.stack.usage();
        assert_eq!((usage.reassembly_datagrams, usage.reassembly_bytes), (0, 0), "fragments are kept for ever");
        assert_eq!(left, (0, 0, self.listeners), "connections, mappings and sockets that nobody needs any more: {flows:?}");
    }
}

/// The addresses at which there are servers: of the Internet, and of the host itself.
pub(super) fn hosts() -> [IpAddr; 4] {
    [
        Ipv4Addr::new(198, 51, 100, 7).into(),
        Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7).into(),
        Ipv4Addr::LOCALHOST.into(),
        Ipv6Addr::LOCALHOST.into(),
    ]
}

/// The routers on the way to the second of them.
const ROUTERS_V6: [Ipv6Addr; 2] = [Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1), Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2)];

/// Servers at an address of the guests' network, at ports where others have theirs too.
fn guest_forwards() -> Vec<GuestForward> {
    let targets = [
        GuestTarget::Unix("/run/server".into()),
        GuestTarget::Command("cat".to_owned()),
        GuestTarget::Tcp(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 81)),
    ];
    let forward = |(port, target)| GuestForward { server: Some(Ipv4Addr::new(10, 0, 2, 77).into()), port, target };
    (80..).zip(targets).map(forward).collect()
}

/// Where a guest sends to.
pub(super) fn destinations() -> [IpAddr; 10] {
    [
        Ipv4Addr::new(198, 51, 100, 7).into(),
        Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7).into(),
        Ipv4Addr::new(10, 0, 2, 2).into(),
        Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 2).into(),
        Ipv4Addr::new(10, 0, 2, 3).into(),
        Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 3).into(),
        Ipv4Addr::new(10, 0, 2, 77).into(),
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2).into(),
        Ipv4Addr::new(10, 0, 2, 255).into(),
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
    ]
}
