//! The sans-IO core: frames in, frames out, and calls of a [`Host`] that return at once.
//!
//! The stack never reads a clock, never sleeps and never opens anything. It is handed the time, a seed for what must be unpredictable,
//! frames and news of sockets, so every behaviour can be tested in virtual time and every run repeated.
//!
//! Work is proportional to what happens, never to how many flows exist: frames find their flow by hash, sockets tell whose they are by
//! a token, timers lie in one wheel, and what has something to do is on a ready list.
//!
//! | file | what |
//! |---|---|
//! | `packet`, `emit` | reading and writing headers |
//! | `policy` | where a guest may go: the one place where that is decided |
//! | `neighbour`, `arp`, `ndp` | who is on the link |
//! | `icmp` | echo of the virtual hosts, and telling guests what is wrong with what they send |
//! | `ping` | echo requests to the world |
//! | `pmtu` | what guests' routers say of packets that were too large |
//! | `reassembly`, `fragmentation` | putting together what guests have cut, and cutting what is too large for them |
//! | `udp` | the UDP relay |
//! | `tcp` | the TCP relay |
//! | `forward` | what of the host leads to guests |
//! | `timer`, `token`, `hash`, `peers`, `counters` | what they share |

mod arp;
mod counters;
mod emit;
mod forward;
mod fragmentation;
mod hash;
mod icmp;
mod ndp;
mod neighbour;
mod packet;
mod peers;
mod ping;
mod pmtu;
mod policy;
mod reassembly;
mod tcp;
mod timer;
mod token;
mod udp;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use hashbrown::HashMap;
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};
use smoltcp::wire::Icmpv6Message;

pub use self::counters::Counters;
use self::emit::Path;
pub use self::forward::{ForwardSocket, Listen};
use self::fragmentation::Fragmenter;
use self::hash::Keyed;
use self::icmp::{ErrorLimit, ParameterProblem, Quote};
use self::neighbour::{Neighbours, Station};
use self::packet::{
    Content, Datagram, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Headers, Packet, Transport, Unreadable,
};
use self::ping::Pings;
use self::pmtu::TooBig;
pub(crate) use self::policy::LINK_LOCAL_GATEWAY;
use self::policy::{Attempt, Policy, Verdict};
use self::reassembly::{Fragment, Reassembly};
pub use self::tcp::FlowInfo;
use self::tcp::Relay;
use self::timer::Wheel;
use self::token::Owner;
use self::udp::Nat;
pub use self::udp::{TftpAnswer, TftpOpening, TftpRefusal, TftpService, TransferId, UdpFlowInfo};
use crate::addr::MacAddr;
use crate::config::{Config, Ipv6Config};
use crate::frame::{Chunk, ETHERNET_HEADER, Frame, FrameMeta};
use crate::host::{Event, Host};
use crate::port::PortId;
use crate::switch::Link;
use crate::time::{Duration, Instant};
use crate::wire::icmp_error::Problem;

/// Flows that one call of [`Stack::run`] serves.
const RUN_BUDGET: usize = 64;

/// What the stack works with, for the length of one call.
#[derive(Debug)]
pub struct Context<'a> {
    /// The time. Never goes back.
    pub now: Instant,
    /// The ports to the guests.
    pub link: &'a mut dyn Link,
    /// The sockets.
    pub host: &'a mut dyn Host,
    /// What lives at the virtual addresses.
    pub services: &'a mut dyn Services,
}

/// The services at the virtual addresses, as the stack sees them: it hands them datagrams.
pub trait Services: fmt::Debug {
    /// A guest's message to the DHCP server, from the card at `from`. Returns what to answer, if anything.
    fn dhcp(&mut self, now: Instant, from: MacAddr, message: &[u8]) -> Option<DhcpReply>;

    /// A guest's message to the DHCPv6 server, from the card at `from`, to a group or to the server's own address. Returns what to
    /// answer, if anything.
    fn dhcp6(&mut self, now: Instant, from: MacAddr, multicast: bool, message: &[u8]) -> Option<Vec<u8>>;

    /// A guest's question to the DNS server over UDP. The answer comes later, by [`Stack::send_dns`]. Returns whether it was taken.
    fn dns(&mut self, way_back: DnsWayBack, message: &[u8]) -> bool;

    /// The TFTP server, if there is one.
    fn tftp(&mut self) -> Option<&mut dyn TftpService> {
        None
    }
}

/// What the DHCP server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhcpReply {
    /// The address to send to: a guest's, or the broadcast address.
    pub to: Ipv4Addr,
    /// The card to send to.
    pub mac: MacAddr,
    /// The port to send to: 68, or 67 for a relay.
    pub port: u16,
    /// The message.
    pub message: Vec<u8>,
}

/// Where the answer to a DNS question goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DnsWayBack {
    /// The port behind which the guest is.
    pub port: PortId,
    /// Its card.
    pub mac: MacAddr,
    /// The address and port that asked.
    pub guest: SocketAddr,
    /// The address that was asked.
    pub server: SocketAddr,
}

/// How much there is of what guests can use up. Each field has the name of its bound in [`crate::config::Limits`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// TCP connections, in any state.
    pub tcp_flows: usize,
    /// TCP connections that are being opened.
    pub tcp_opening: usize,
    /// Bytes from guests that sockets have not taken yet.
    pub tcp_held_bytes: usize,
    /// UDP mappings.
    pub udp_mappings: usize,
    /// Ping mappings.
    pub icmp_mappings: usize,
    /// Stations whose addresses are remembered.
    pub neighbours: usize,
    /// Datagrams of which fragments are missing, behind all ports together.
    pub reassembly_datagrams: usize,
    /// Bytes of their fragments.
    pub reassembly_bytes: usize,
}

/// The network stack that guests see: ARP, ICMP, UDP, TCP and their relation to the host's sockets.
#[derive(Debug)]
pub struct Stack {
    shared: Shared,
    tcp: Relay,
    udp: Nat,
    ping: Pings,
    reassembly: Reassembly,
    /// Memory for the datagram that was put together last.
    whole: Vec<u8>,
    due: Vec<Owner>,
}

/// What all protocols need.
#[derive(Debug)]
struct Shared {
    policy: Policy,
    counters: Counters,
    neighbours: Neighbours,
    wheel: Wheel<Owner>,
    /// When the link was asked last for each address: as many as there are guests that forwards lead to.
    solicited: HashMap<IpAddr, Instant, Keyed>,
    icmp_errors: ErrorLimit,
    /// Memory for what must be looked at in one piece.
    scratch: Vec<u8>,
    fragmenter: Fragmenter,
    mtu: u16,
    restrict: bool,
    ipv6: Option<Ipv6Config>,
    search: Vec<String>,
}

impl Stack {
    /// A stack as configured. `seed` must be unpredictable in production: sequence numbers and the placement in tables come from it.
    pub fn new(config: &Config, seed: [u8; 32]) -> Self {
        let mut random = ChaCha12Rng::from_seed(seed);
        let mut key = || {
            let mut key = [0; 16];
            random.fill_bytes(&mut key);
            key
        };
        let (hash, isn_key) = (Keyed::new(key()), key());
        let fragmenter = Fragmenter::new(random.next_u32(), hash);
        let mut wheel = Wheel::new();
        if config.ipv6.is_some() {
            wheel.set(Instant::ZERO, Owner::RouterAdvertisement);
        }
        Self {
            tcp: Relay::new(config.limits.clone(), config.timeouts.clone(), hash, isn_key),
            udp: Nat::new(&config.limits, &config.timeouts, config.full_cone, hash),
            ping: Pings::new(&config.limits, &config.timeouts, hash),
            reassembly: Reassembly::new(&config.limits, &config.timeouts, hash),
            whole: Vec::new(),
            shared: Shared {
                policy: Policy::new(config),
                counters: Counters::default(),
                neighbours: Neighbours::new(config.limits.neighbours, hash),
                wheel,
                solicited: HashMap::with_hasher(hash),
                icmp_errors: ErrorLimit::new(config.limits.icmp_errors_per_second),
                scratch: Vec::new(),
                fragmenter,
                mtu: config.mtu,
                restrict: config.restrict,
                ipv6: config.ipv6.clone(),
                search: config.dhcp.search.clone(),
            },
            due: Vec::new(),
        }
    }

    /// Takes a frame that a guest has sent.
    pub fn input(&mut self, cx: &mut Context<'_>, from: PortId, frame: &Frame<'_>) {
        self.shared.counters.frames_in += 1;
        self.shared.counters.bytes_in += frame.len() as u64;
        let headers = Headers::copy_of(frame);
        let Some(ethernet) = headers.ethernet().filter(|ethernet| ethernet.source.is_unicast()) else {
            self.shared.counters.drop_malformed += 1;
            return;
        };
        let station = Station { port: from, mac: ethernet.source };
        match ethernet.ethertype {
            ETHERTYPE_IPV4 if self.shared.policy.gateway(true).is_some() => self.ip(cx, station, &ethernet, &headers, frame),
            ETHERTYPE_IPV6 if self.shared.policy.gateway(false).is_some() => self.ip(cx, station, &ethernet, &headers, frame),
            ETHERTYPE_ARP => {
                let told = arp::input(cx, &mut self.shared, station, headers.payload());
                self.learn(cx.now, told, station);
            }
            _ => self.shared.counters.drop_protocol += 1,
        }
    }

    fn ip(&mut self, cx: &mut Context<'_>, station: Station, ethernet: &Ethernet, headers: &Headers, frame: &Frame<'_>) {
        match packet::parse(ethernet, headers, frame) {
            Ok(Content::Packet(packet)) if self.is_too_big(cx, station, &packet, frame) => {
                self.shared.counters.drop_too_large += 1;
                if self.is_for_us(ethernet.destination, packet.destination, false) {
                    let mtu = self.link_mtu(cx, station.port, packet.source.is_ipv4());
                    self.report(cx, station, (packet.source, packet.destination), Problem::TooBig { mtu: mtu.into() }, frame);
                }
            }
            Ok(Content::Packet(packet)) => self.packet(cx, station, ethernet, &packet, frame),
            Ok(Content::Fragment(fragment)) => self.fragment(cx, station, ethernet, &fragment, frame),
            Err(why) => self.unreadable(cx, station, ethernet, headers, why, frame),
        }
    }

    fn packet(&mut self, cx: &mut Context<'_>, station: Station, ethernet: &Ethernet, packet: &Packet, frame: &Frame<'_>) {
        let is_tcp = matches!(packet.transport, Transport::Tcp(_));
        if !self.is_for_us(ethernet.destination, packet.destination, is_tcp) {
            self.shared.counters.drop_destination += 1;
            return;
        }
        let from_guest = self.shared.policy.is_guest_address(packet.source);
        // A guest without an address yet speaks from the unspecified one: to the DHCP server, and to look for duplicates.
        let beginner = packet.source.is_unspecified() && !is_tcp;
        if !from_guest && !beginner {
            self.shared.counters.drop_source += 1;
            return;
        }
        if packet.hop_limit <= 1 && self.leaves_the_link(packet) {
            return self.hop_limit_exceeded(cx, station, packet, frame);
        }
        let addresses = (packet.source, packet.destination);
        match &packet.transport {
            Transport::Tcp(segment) => self.tcp.input(cx, &mut self.shared, station, addresses, segment, frame),
            Transport::Udp(datagram) if from_guest || self.is_for_dhcp(packet, datagram) => {
                self.udp.input(cx, &mut self.shared, station, packet, datagram, frame);
            }
            Transport::Udp(_) => self.shared.counters.drop_source += 1,
            Transport::Icmp { offset, len } => self.icmp(cx, station, packet, (*offset, *len), frame),
        }
    }

    /// Whether a packet is larger than anything that its guest was told the link takes, and must not be cut either. One that may be cut is
    /// taken as it is: nothing is gained by cutting it first. So is one of which nobody can be told, as from a guest without an address. A
    /// super-frame is no packet.
    fn is_too_big(&self, cx: &Context<'_>, station: Station, packet: &Packet, frame: &Frame<'_>) -> bool {
        let len = frame.len() - ETHERNET_HEADER;
        // Nearly all packets are smaller than the first bound, and no port is asked.
        len > usize::from(self.shared.mtu)
            && packet.dont_fragment
            && self.shared.policy.is_guest_address(packet.source)
            && !self.shared.policy.is_group(packet.destination)
            && frame.meta.gso.is_none()
            && len > usize::from(self.link_mtu(cx, station.port, packet.source.is_ipv4()))
    }

    /// The largest packet that a guest may send: what DHCP and router advertisements tell it, or what its port takes if that is more.
    fn link_mtu(&self, cx: &Context<'_>, port: PortId, ipv4: bool) -> u16 {
        // RFC 8200 section 5: no link of IPv6 is smaller.
        self.shared.mtu.max(cx.link.mtu(port)).max(if ipv4 { 68 } else { 1280 })
    }

    /// Takes a fragment. When all of a packet are there, it goes the way of every other, as if it had come in one frame.
    fn fragment(&mut self, cx: &mut Context<'_>, station: Station, ethernet: &Ethernet, fragment: &Fragment, frame: &Frame<'_>) {
        if !self.is_for_us(ethernet.destination, fragment.destination, false) {
            self.shared.counters.drop_destination += 1;
            return;
        }
        if !self.shared.policy.is_guest_address(fragment.source) {
            self.shared.counters.drop_source += 1;
            return;
        }
        let mut whole = std::mem::take(&mut self.whole);
        if self.reassembly.add(cx.now, &mut self.shared, station.port, fragment, frame, &mut whole) {
            let chunks = [Chunk::from(&whole[..])];
            // Nobody vouches for the checksum of the whole: it is verified.
            let frame = Frame::new(&chunks, FrameMeta::default());
            let headers = Headers::copy_of(&frame);
            match packet::parse(ethernet, &headers, &frame) {
                // What the guest itself has cut may be cut again.
                Ok(Content::Packet(packet)) => {
                    self.packet(cx, station, ethernet, &Packet { dont_fragment: false, ..packet }, &frame);
                }
                Ok(Content::Fragment(_)) => self.shared.counters.drop_malformed += 1,
                Err(why) => self.unreadable(cx, station, ethernet, &headers, why, &frame),
            }
        }
        self.whole = whole;
    }

    /// Counts what cannot be read, and tells its sender if there is something to tell.
    fn unreadable(
        &mut self,
        cx: &mut Context<'_>,
        station: Station,
        ethernet: &Ethernet,
        headers: &Headers,
        why: Unreadable,
        frame: &Frame<'_>,
    ) {
        self.shared.count_unreadable(why);
        let Unreadable::Problem { code, pointer } = why else { return };
        if let Some(addresses) = packet::addresses(ethernet, headers)
            && self.is_for_us(ethernet.destination, addresses.1, false)
        {
            self.report(cx, station, addresses, Problem::Parameter { code: code as u8, pointer }, frame);
        }
    }

    /// Tells the sender of a frame's packet what is wrong with it.
    fn report(
        &mut self,
        cx: &mut Context<'_>,
        station: Station,
        (source, destination): (IpAddr, IpAddr),
        problem: Problem,
        frame: &Frame<'_>,
    ) {
        icmp::report(cx, &mut self.shared, station, destination, problem, &Quote::of_frame(source, frame));
    }

    /// Whether a packet in a frame to `card` is ours to look at. What is sent to a group is for a group or a virtual host: a router does
    /// not pass it on, and nobody is told an error about it (RFC 1122 section 3.2.2).
    fn is_for_us(&self, card: MacAddr, to: IpAddr, is_tcp: bool) -> bool {
        let policy = &self.shared.policy;
        if !card.is_multicast() {
            return policy.is_virtual_host_mac(card);
        }
        (policy.is_group(to) || policy.is_virtual_host(to)) && !is_tcp
    }

    /// Whether a packet goes on from here, as far as its addresses tell.
    fn leaves_the_link(&self, packet: &Packet) -> bool {
        let policy = &self.shared.policy;
        !policy.is_virtual_host(packet.destination) && !policy.is_group(packet.destination) && !packet.source.is_unspecified()
    }

    /// A packet that may not cross one more router has come to one (RFC 1812 section 5.3.1, RFC 8200 section 3).
    fn hop_limit_exceeded(&mut self, cx: &mut Context<'_>, station: Station, packet: &Packet, frame: &Frame<'_>) {
        if let Transport::Icmp { offset, .. } = packet.transport {
            let mut kind = [0];
            frame.copy_to(offset, &mut kind);
            if icmp::Kind::of(packet.source.is_ipv4(), &kind) == icmp::Kind::Error {
                self.shared.counters.drop_icmp_error += 1;
                return;
            }
        }
        self.shared.counters.drop_hop_limit += 1;
        icmp::tell(cx, &mut self.shared, station, Problem::HopLimit, &Quote::of_frame(packet.source, frame));
    }

    fn is_for_dhcp(&self, packet: &Packet, datagram: &Datagram) -> bool {
        let source = SocketAddr::new(packet.source, datagram.source_port);
        let destination = SocketAddr::new(packet.destination, datagram.destination_port);
        self.shared.policy.decide(&Attempt::udp(source, destination)) == Verdict::Dhcp
    }

    fn icmp(&mut self, cx: &mut Context<'_>, station: Station, packet: &Packet, (offset, len): (usize, usize), frame: &Frame<'_>) {
        let mut message = std::mem::take(&mut self.shared.scratch);
        message.clear();
        message.resize(len, 0);
        frame.copy_to(offset, &mut message);
        let kind = message.first().map_or(0, |kind| *kind);
        if packet.destination.is_ipv6() && MULTICAST_LISTENERS.contains(&kind) {
            // Which groups guests listen to is for routers of groups (RFC 3810). Every kernel says it, and nobody here has to know.
        } else if packet.destination.is_ipv6() && ndp::is_discovery(Icmpv6Message::from(kind)) {
            let told = ndp::input(cx, &mut self.shared, station, packet, &message);
            self.learn(cx.now, told, station);
        } else if packet.source.is_unspecified() {
            // Nobody can be answered there (RFC 1122 section 3.2.1.3, RFC 4443 section 2.2).
            self.shared.counters.drop_source += 1;
        } else if self.narrows(cx, station.port, packet, &message) {
            // It was meant for the TCP relay.
        } else if let Some(to) = icmp::input(cx, &mut self.shared, station, packet, &mut message, frame) {
            self.ping.request(cx, &mut self.shared, station, (packet, frame), to, &message);
        }
        self.shared.scratch = message;
    }

    /// Whether a message tells that segments to a guest are too large for a part of its network, and made them smaller.
    fn narrows(&mut self, cx: &Context<'_>, port: PortId, packet: &Packet, message: &[u8]) -> bool {
        let told = TooBig::of(message, packet.source.is_ipv4());
        told.is_some_and(|told| self.tcp.too_big(cx, &mut self.shared, port, &told))
    }

    fn learn(&mut self, now: Instant, told: Option<IpAddr>, station: Station) {
        let Some(ip) = told else { return };
        if self.shared.neighbours.learn(now, ip, station) {
            self.shared.counters.neighbours_evicted += 1;
        }
        self.tcp.neighbour_found(ip, station);
        self.udp.neighbour_found(ip);
    }

    /// Takes news of a socket.
    pub fn host_event(&mut self, cx: &mut Context<'_>, event: Event) {
        match Owner::of(event.token) {
            Some(Owner::TcpFlow { id, generation }) => self.tcp.host_event(cx, &mut self.shared, id, generation, event),
            Some(Owner::TcpListener { id, generation }) => self.tcp.accept(cx, &mut self.shared, id, generation),
            Some(owner @ (Owner::UdpMapping { .. } | Owner::UdpForward { .. } | Owner::TftpTransfer { .. })) => {
                self.udp.host_event(cx, &mut self.shared, owner, event);
            }
            Some(owner @ Owner::Ping { .. }) => self.ping.host_event(cx, &mut self.shared, owner, event),
            _ => {}
        }
    }

    /// Does what has become possible: moves bytes of ready sockets, acknowledges, delivers datagrams; a bounded amount of it. Returns
    /// whether there is more to do at once.
    pub fn run(&mut self, cx: &mut Context<'_>) -> bool {
        fragmentation::run(cx, &mut self.shared);
        let tcp = self.tcp.run(cx, &mut self.shared, RUN_BUDGET);
        let udp = self.udp.run(cx, &mut self.shared, RUN_BUDGET);
        let ping = self.ping.run(cx, &mut self.shared, RUN_BUDGET);
        tcp || udp || ping
    }

    /// Does what is due at `cx.now`.
    pub fn expire(&mut self, cx: &mut Context<'_>) {
        let mut due = std::mem::take(&mut self.due);
        self.shared.wheel.advance(cx.now, &mut due);
        for owner in due.drain(..) {
            match owner {
                Owner::TcpRetransmit { id } => self.tcp.retransmit(cx, &mut self.shared, id),
                Owner::TcpExpire { id } => self.tcp.expire(cx, &mut self.shared, id),
                Owner::UdpMapping { .. } | Owner::UdpClient { .. } | Owner::TftpTransfer { .. } => {
                    self.udp.expire(cx, &mut self.shared, owner);
                }
                Owner::Ping { .. } => self.ping.expire(cx, &mut self.shared, owner),
                Owner::RouterAdvertisement => self.advertise(cx),
                Owner::Reassembly { port } => self.expire_fragments(cx, port),
                Owner::TcpListener { id, generation } => self.tcp.accept(cx, &mut self.shared, id, generation),
                Owner::UdpForward { id, generation } => self.udp.seek_again(id, generation),
                Owner::TcpFlow { .. } => {}
            }
        }
        self.due = due;
    }

    /// Forgets datagrams behind a port that have not become whole in time, and tells their senders.
    fn expire_fragments(&mut self, cx: &mut Context<'_>, port: PortId) {
        let now = cx.now;
        self.reassembly.expire(now, &mut self.shared, port, |shared, late| {
            if let [_, _, _, _, _, _, a, b, c, d, e, f, _, _, packet @ ..] = &late.first[..] {
                let station = Station { port, mac: MacAddr([*a, *b, *c, *d, *e, *f]) };
                let quote = Quote::of_packet(late.source, packet);
                icmp::report(cx, shared, station, late.destination, Problem::Reassembly, &quote);
            }
        });
    }

    fn advertise(&mut self, cx: &mut Context<'_>) {
        for port in cx.link.ports() {
            ndp::advertise_router(cx, &mut self.shared, port);
        }
        self.shared.wheel.set(cx.now + ndp::ADVERTISEMENT_INTERVAL, Owner::RouterAdvertisement);
    }

    /// When [`Stack::expire`] has something to do next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.shared.wheel.next()
    }

    /// Whether something waits for room in this port, so that its becoming writable is worth waking up for.
    pub fn waits_for(&self, port: PortId) -> bool {
        self.tcp.waits_for(port) || self.udp.waits_for(port) || self.shared.fragmenter.waits_for(port)
    }

    /// A port that was full has room again.
    pub fn port_writable(&mut self, port: PortId) {
        self.shared.fragmenter.port_writable(port);
        self.tcp.port_writable(port);
        self.udp.port_writable(port);
    }

    /// A port was added: its guest learns of the router at once.
    pub fn port_added(&mut self, cx: &mut Context<'_>, port: PortId) {
        ndp::advertise_router(cx, &mut self.shared, port);
    }

    /// A port is gone: everything that belonged to its guests ends.
    pub fn port_removed(&mut self, cx: &mut Context<'_>, port: PortId) {
        self.tcp.forget_port(cx, port);
        self.udp.forget_port(cx, port);
        self.ping.forget_port(cx, port);
        self.shared.icmp_errors.forget_port(port);
        self.reassembly.forget_port(port);
        self.shared.fragmenter.forget_port(port);
        self.shared.neighbours.forget_port(port);
    }

    /// Whether frames to this card are for the stack.
    pub fn is_ours(&self, mac: MacAddr) -> bool {
        self.shared.policy.is_virtual_host_mac(mac)
    }

    /// Sends the answer to a DNS question.
    pub fn send_dns(&mut self, cx: &mut Context<'_>, way_back: &DnsWayBack, message: &[u8]) {
        let DnsWayBack { port, mac, guest, server } = *way_back;
        let router = self.shared.router_mac(server.ip());
        let path = Path { station: Station { port, mac }, router, source: server.ip(), destination: guest.ip() };
        udp::send_datagram(cx, &mut self.shared, &path, (server.port(), guest.port()), message);
    }

    /// What has happened so far.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// How much there is of what guests can use up.
    pub fn usage(&self) -> Usage {
        Usage {
            tcp_flows: self.tcp.len(),
            tcp_opening: self.tcp.opening(),
            tcp_held_bytes: self.tcp.held_bytes(),
            udp_mappings: self.udp.len(),
            icmp_mappings: self.ping.len(),
            neighbours: self.shared.neighbours.len(),
            reassembly_datagrams: self.reassembly.len(),
            reassembly_bytes: self.reassembly.bytes(),
        }
    }

    /// Entries on the lists of those that have something to do, or wait for a full port.
    pub fn waiting(&self) -> usize {
        self.tcp.waiting() + self.udp.waiting() + self.ping.waiting() + self.shared.fragmenter.waiting()
    }

    /// How many TCP connections there are.
    pub fn tcp_flows(&self) -> usize {
        self.tcp.len()
    }

    /// How many UDP mappings there are.
    pub fn udp_mappings(&self) -> usize {
        self.udp.len()
    }

    /// All TCP connections.
    pub fn flows(&self) -> impl Iterator<Item = FlowInfo> {
        self.tcp.flows()
    }

    /// All UDP mappings and clients of UDP forwards.
    pub fn udp_flows(&self, now: Instant) -> impl Iterator<Item = UdpFlowInfo> {
        self.udp.flows(now)
    }
}

/// Messages of multicast listener discovery: query, report, done, and the report of its second version (RFC 2710, RFC 3810).
const MULTICAST_LISTENERS: [u8; 4] = [130, 131, 132, 143];

const DHCP_SERVER_PORT: u16 = 67;

/// RFC 8415 section 7.2.
const DHCP6_SERVER_PORT: u16 = 547;
const DHCP6_CLIENT_PORT: u16 = 546;

const SOLICITATION_INTERVAL: Duration = Duration::from_secs(1);

impl Shared {
    /// The card from which frames of this source come: the virtual host's own, or that of the gateway which routes for it.
    fn router_mac(&self, source: IpAddr) -> MacAddr {
        let host = if self.policy.is_virtual_host(source) { Some(source) } else { self.policy.gateway(source.is_ipv4()) };
        host.map_or_else(MacAddr::default, MacAddr::of_virtual_host)
    }

    fn dns_v6(&self) -> Option<IpAddr> {
        self.ipv6.as_ref().map(|config| config.dns.into())
    }

    /// Asks the link who has an address; not more often than once a second (RFC 1122 section 2.3.2.1), however many clients of forwards
    /// have it asked for.
    fn solicit(&mut self, cx: &mut Context<'_>, ip: IpAddr) {
        if self.solicited.get(&ip).is_some_and(|at| cx.now.since(*at) < SOLICITATION_INTERVAL) {
            return;
        }
        self.solicited.insert(ip, cx.now);
        match (ip, self.policy.gateway(true)) {
            (IpAddr::V4(ip), Some(IpAddr::V4(gateway))) => arp::solicit(cx, self, gateway, ip),
            (IpAddr::V6(ip), _) => ndp::solicit(cx, self, ip),
            _ => {}
        }
    }

    fn dhcp(&mut self, cx: &mut Context<'_>, station: Station, message: &[u8]) {
        let Some(IpAddr::V4(gateway)) = self.policy.gateway(true) else { return };
        let Some(reply) = cx.services.dhcp(cx.now, station.mac, message) else {
            self.counters.dhcp_refused += 1;
            return;
        };
        let station = Station { port: station.port, mac: reply.mac };
        let path = Path { station, router: self.router_mac(gateway.into()), source: gateway.into(), destination: reply.to.into() };
        udp::send_datagram(cx, self, &path, (DHCP_SERVER_PORT, reply.port), &reply.message);
    }

    /// The answer goes to the address that asked, which is one of the link, and comes from the gateway's (RFC 8415 section 18.3.10).
    fn dhcp6(&mut self, cx: &mut Context<'_>, station: Station, guest: SocketAddr, server: SocketAddr, message: &[u8]) {
        let Some(reply) = cx.services.dhcp6(cx.now, station.mac, server.ip().is_multicast(), message) else {
            self.counters.dhcp6_refused += 1;
            return;
        };
        let source = IpAddr::V6(LINK_LOCAL_GATEWAY);
        let path = Path { station, router: self.router_mac(source), source, destination: guest.ip() };
        udp::send_datagram(cx, self, &path, (DHCP6_SERVER_PORT, DHCP6_CLIENT_PORT), &reply);
    }

    fn dns(&mut self, cx: &mut Context<'_>, station: Station, guest: SocketAddr, server: SocketAddr, message: &[u8]) {
        let way_back = DnsWayBack { port: station.port, mac: station.mac, guest, server };
        if !cx.services.dns(way_back, message) {
            self.counters.dns_refused += 1;
        }
    }

    fn count_unreadable(&mut self, why: Unreadable) {
        let counters = &mut self.counters;
        *(match why {
            Unreadable::Malformed => &mut counters.drop_malformed,
            Unreadable::BadChecksum => &mut counters.drop_checksum,
            Unreadable::Protocol => &mut counters.drop_protocol,
            Unreadable::Problem { code: ParameterProblem::NextHeader, .. } => &mut counters.drop_protocol,
            Unreadable::Options | Unreadable::Problem { code: ParameterProblem::Option, .. } => &mut counters.drop_options,
            Unreadable::Problem { .. } => &mut counters.drop_malformed,
        }) += 1;
    }
}
