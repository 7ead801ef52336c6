//! How connections begin.
//!
//! A guest's SYN is answered only when the host's socket is connected, so that a guest learns the truth: refused is a reset,
//! unreachable is ICMP, silence is silence. A client of a forward is accepted first, for the kernel leaves no choice, and its guest is
//! asked then; a guest that refuses makes the client see a reset.

use std::io;
use std::net::SocketAddr;

use hashbrown::HashSet;
use siphasher::sip::SipHasher24;
use std::hash::{Hash, Hasher};

use super::close::Ending;
use super::flow::{Flow, FlowKey, Phase, largest_segment};
use super::segment::Segment;
use super::seq::Seq;
use super::table::GENERATION_MASK;
use super::{Listener, Relay, send_reset};
use crate::addr::MacAddr;
use crate::host::{SocketId, StreamService, Token};
use crate::port::PortId;
use crate::stack::icmp::{self, Quote};
use crate::stack::neighbour::Station;
use crate::stack::policy::{Attempt, Verdict};
use crate::stack::token::Owner;
use crate::stack::{Context, Shared};
use crate::time::{Duration, Instant};
use crate::wire::icmp_error::{Problem, Unreachable};

/// Clients of a forward that are accepted in one go, so that those who connect without end do not keep the engine from all else.
const ACCEPTS: usize = 64;

/// How long to wait with accepting after that was refused.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The shortest and the longest pause before a socket of AF_UNIX is tried again whose backlog is full.
const LOCAL_RETRY: Duration = Duration::from_millis(2);
const LOCAL_RETRY_MAX: Duration = Duration::from_millis(500);

/// How many ports are tried for a client that two addresses of the host show the guest alike.
const PORT_TRIES: u16 = 64;

/// The first of the ports that clients without one are shown with (RFC 6335 section 6), and how many of them are tried for each.
pub(super) const CLIENT_PORTS: u16 = 49_152;
const CLIENT_PORT_TRIES: u16 = 4096;

/// Clients that are accepted at the end of a forward, at most: as many as a kernel lets wait.
const BACKLOG: usize = 4096;

impl Relay {
    /// A guest opens a connection.
    pub(super) fn open(&mut self, cx: &mut Context<'_>, shared: &mut Shared, station: Station, key: FlowKey, segment: &Segment) {
        if segment.fin || key.guest.port() == 0 || key.remote.port() == 0 {
            shared.counters.drop_malformed += 1;
            return;
        }
        match shared.policy.decide(&Attempt::tcp(key.guest, key.remote)) {
            Verdict::Host(to) => self.open_to(cx, shared, station, key, segment, Destination::Host(to)),
            Verdict::Local(number) => self.open_to(cx, shared, station, key, segment, Destination::Local(number)),
            Verdict::Service(service) => self.open_to(cx, shared, station, key, segment, Destination::Service(service)),
            Verdict::Dns => self.open_to(cx, shared, station, key, segment, Destination::Service(StreamService::Dns)),
            Verdict::Closed | Verdict::Forbidden | Verdict::Here | Verdict::Dhcp | Verdict::Dhcp6 | Verdict::Tftp => {
                shared.counters.tcp_forbidden += 1;
                send_reset(cx, shared, station, &key, segment);
            }
            Verdict::Unreachable => {
                shared.counters.tcp_connect_failed += 1;
                icmp::tell(cx, shared, station, Problem::Unreachable(Unreachable::Host), &quote(&key, segment.seq));
            }
            Verdict::Nowhere => shared.counters.drop_destination += 1,
        }
    }

    fn open_to(
        &mut self,
        cx: &mut Context<'_>,
        shared: &mut Shared,
        station: Station,
        key: FlowKey,
        segment: &Segment,
        to: Destination,
    ) {
        if !self.may_open(shared) {
            return send_reset(cx, shared, station, &key, segment);
        }
        let iss = self.initial_sequence(&key, cx.now);
        let mut flow = Flow::new(key, station, Phase::Connecting, iss, cx.now);
        flow.negotiate(segment.seq, segment.mss, segment.window_scale, largest_segment(cx.link.mtu(station.port), key.guest));
        flow.set_window_of_syn(segment);
        let id = self.add(shared, flow);

        let token = self.owner(id).token();
        let opened = match to {
            Destination::Host(address) => cx.host.connect(address, token),
            Destination::Local(number) => connect_local(cx, shared, number, token),
            Destination::Service(service) => cx.host.open_service(service, key.guest, token),
        };
        match (opened, self.table.get_mut(id)) {
            (Ok(socket), Some(flow)) => {
                flow.socket = Some(socket);
                shared.counters.tcp_opened += 1;
                if matches!(to, Destination::Local(_) | Destination::Service(_)) {
                    self.connected(cx, shared, id);
                }
            }
            (Err(error), Some(_)) if is_full(to, &error) => self.connect_later(shared, id, cx.now),
            (Err(error), _) => self.refuse(cx, shared, id, &error),
            (Ok(socket), None) => cx.host.close(socket),
        }
    }

    /// Sees to it that a socket of AF_UNIX whose backlog is full is tried again, less and less often.
    fn connect_later(&mut self, shared: &mut Shared, id: u32, now: Instant) {
        if let Some(flow) = self.table.get_mut(id) {
            let pause = now.since(flow.heard).clamp(LOCAL_RETRY, LOCAL_RETRY_MAX);
            Self::arm_retransmit(flow, id, shared, now + pause);
        }
    }

    /// Tries again to connect to a socket of AF_UNIX.
    pub(super) fn connect_again(&mut self, cx: &mut Context<'_>, shared: &mut Shared, id: u32) {
        let token = self.owner(id).token();
        let Some(flow) = self.table.get_mut(id) else { return };
        let Verdict::Local(number) = shared.policy.decide(&Attempt::tcp(flow.key.guest, flow.key.remote)) else { return };
        flow.retransmit_at = None;
        match connect_local(cx, shared, number, token) {
            Ok(socket) => {
                flow.socket = Some(socket);
                shared.counters.tcp_opened += 1;
                self.connected(cx, shared, id);
            }
            Err(error) if is_full(Destination::Local(number), &error) => self.connect_later(shared, id, cx.now),
            Err(error) => self.refuse(cx, shared, id, &error),
        }
    }

    /// Whether the limits allow one more connection; counts it if they do not.
    fn may_open(&self, shared: &mut Shared) -> bool {
        if self.table.len() >= self.limits.tcp_flows {
            shared.counters.tcp_limit_flows += 1;
            return false;
        }
        if self.opening >= self.limits.tcp_opening {
            shared.counters.tcp_limit_opening += 1;
            return false;
        }
        true
    }

    fn add(&mut self, shared: &mut Shared, flow: Flow) -> u32 {
        self.opening += 1;
        let id = self.table.insert(flow);
        self.schedule_expiry(shared, id);
        id
    }

    fn owner(&self, id: u32) -> Owner {
        Owner::TcpFlow { id, generation: self.table.get(id).map_or(0, |flow| flow.generation) }
    }

    /// The host's socket is connected: the guest gets its SYN-ACK.
    pub(super) fn connected(&mut self, cx: &Context<'_>, shared: &mut Shared, id: u32) {
        let Some(flow) = self.table.get_mut(id) else { return };
        flow.phase = Phase::SynReceived;
        flow.heard = cx.now;
        flow.todo.syn = true;
        flow.todo.read = true;
        self.schedule_expiry(shared, id);
        self.enqueue(id);
    }

    /// The host's side cannot be connected: the guest learns why, and the flow is gone.
    pub(super) fn refuse(&mut self, cx: &mut Context<'_>, shared: &mut Shared, id: u32, error: &io::Error) {
        let Some(flow) = self.table.get(id) else { return };
        let (station, key, irs) = (flow.station, flow.key, flow.rcv_nxt - 1);
        self.drop_flow(cx, id, Ending::Close);
        match Refusal::of(error) {
            Refusal::Unreachable(why) => {
                shared.counters.tcp_connect_failed += 1;
                icmp::tell(cx, shared, station, Problem::Unreachable(why), &quote(&key, irs));
            }
            refusal => {
                let counters = &mut shared.counters;
                *(match refusal {
                    Refusal::Resources => &mut counters.tcp_limit_host,
                    Refusal::Commands => &mut counters.tcp_limit_commands,
                    Refusal::Reset | Refusal::Unreachable(_) => &mut counters.tcp_connect_failed,
                }) += 1;
                super::transmit::send_refusal(cx, shared, station, &key, irs + 1);
            }
        }
    }

    /// Adds a forward: connections to the socket that `listen` makes go to `guest`. Returns who owns it, and what else `listen` has.
    pub(crate) fn add_listener<T>(
        &mut self,
        listen: impl FnOnce(Owner) -> io::Result<(SocketId, T)>,
        guest: SocketAddr,
    ) -> io::Result<(Owner, T)> {
        let generation = next_generation(self.listened);
        let entry = self.listeners.vacant_entry();
        let owner = Owner::TcpListener { id: entry.key() as u32, generation };
        let (socket, bound) = listen(owner)?;
        entry.insert(Listener { generation, socket, guest, retry: None });
        self.listened = generation;
        Ok((owner, bound))
    }

    /// Ends a forward. Who has connected until now is a client of it still; nobody can connect any more. With `flows`, its connections end
    /// as well. Returns whether there was such a forward.
    pub(crate) fn remove_listener(
        &mut self,
        cx: &mut Context<'_>,
        shared: &mut Shared,
        id: u32,
        generation: u32,
        flows: bool,
    ) -> bool {
        if self.listener(id, generation).is_none() {
            return false;
        }
        if !flows {
            // Whoever waits to be accepted would be reset with the socket.
            self.accept_up_to(cx, shared, id, generation, BACKLOG);
        }
        let listener = self.listeners.remove(id as usize);
        cx.host.close(listener.socket);
        if flows {
            let its: Vec<u32> = self.table.iter().filter(|(_, flow)| flow.listener == generation).map(|(id, _)| id).collect();
            for id in its {
                self.abort(cx, shared, id);
            }
        }
        true
    }

    fn listener(&mut self, id: u32, generation: u32) -> Option<&mut Listener> {
        self.listeners.get_mut(id as usize).filter(|listener| listener.generation == generation)
    }

    /// Clients have connected to a forward.
    pub(crate) fn accept(&mut self, cx: &mut Context<'_>, shared: &mut Shared, id: u32, generation: u32) {
        if let Some(pause) = self.accept_up_to(cx, shared, id, generation, ACCEPTS) {
            self.accept_later(cx, shared, id, generation, pause);
        }
    }

    /// Accepts at most `most` clients. Returns how long to wait before the next are accepted, if there may be more of them.
    fn accept_up_to(
        &mut self,
        cx: &mut Context<'_>,
        shared: &mut Shared,
        id: u32,
        generation: u32,
        most: usize,
    ) -> Option<Duration> {
        let Listener { socket: listening, guest, .. } = *self.listener(id, generation)?;
        for _ in 0..most {
            // The token of the flow is not known before there is a flow, and there is none before it is known who has connected.
            match cx.host.accept(listening, Owner::TcpListener { id, generation }.token()) {
                Ok((socket, client)) => self.open_to_guest(cx, shared, socket, client, guest, generation),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(_) => {
                    // No descriptors are left. Those who wait make no further event, so they are looked for again soon.
                    shared.counters.tcp_limit_host += 1;
                    return Some(ACCEPT_RETRY);
                }
            }
        }
        Some(Duration::ZERO)
    }

    fn accept_later(&mut self, cx: &Context<'_>, shared: &mut Shared, id: u32, generation: u32, pause: Duration) {
        if let Some(Listener { retry, .. }) = self.listener(id, generation)
            && retry.is_none_or(|at| at <= cx.now)
        {
            let at = cx.now + pause;
            *retry = Some(at);
            shared.wheel.set(at, Owner::TcpListener { id, generation });
        }
    }

    fn open_to_guest(
        &mut self,
        cx: &mut Context<'_>,
        shared: &mut Shared,
        socket: SocketId,
        client: SocketAddr,
        guest: SocketAddr,
        listener: u32,
    ) {
        let Some(key) = self.key_for_client(shared, client, guest).filter(|_| self.may_open(shared)) else {
            return cx.host.reset(socket);
        };
        let iss = self.initial_sequence(&key, cx.now);
        let station = shared.neighbours.station(cx.now, guest.ip()).unwrap_or(UNKNOWN_STATION);
        let mut flow = Flow::new(key, station, Phase::SynSent, iss, cx.now);
        flow.socket = Some(socket);
        flow.listener = listener;
        flow.todo.syn = true;
        flow.todo.read = true;
        let id = self.add(shared, flow);
        cx.host.set_token(socket, self.owner(id).token());
        shared.counters.tcp_accepted += 1;
        self.enqueue(id);
    }

    /// How the guest sees a client: its own address and port, where those are free and a guest can be shown them. One that has none, such
    /// as that of a UNIX socket, is seen as the gateway with a free port.
    fn key_for_client(&mut self, shared: &Shared, client: SocketAddr, guest: SocketAddr) -> Option<FlowKey> {
        let seen = shared.policy.client_as_seen_by_guest(client.ip(), guest.is_ipv4())?;
        let key = |port| FlowKey { guest, remote: SocketAddr::new(seen, port) };
        if client.port() != 0 {
            let ports = (0..PORT_TRIES).map(|n| client.port().wrapping_sub(n));
            return ports.map(key).find(|key| key.remote.port() != 0 && self.table.find(key).is_none());
        }
        for _ in 0..CLIENT_PORT_TRIES {
            let key = key(self.client_port);
            self.client_port = self.client_port.checked_add(1).unwrap_or(CLIENT_PORTS);
            if self.table.find(&key).is_none() {
                return Some(key);
            }
        }
        None
    }

    /// Looks up the guest's station. If it is not known, asks the link, and has the flow told.
    pub(super) fn seek(&mut self, cx: &mut Context<'_>, shared: &mut Shared, id: u32) {
        let Some(ip) = self.table.get(id).map(|flow| flow.key.guest.ip()) else { return };
        if let Some(station) = shared.neighbours.station(cx.now, ip) {
            if let Some(flow) = self.table.get_mut(id) {
                flow.station = station;
            }
            return;
        }
        if self.table.get(id).is_some_and(|flow| flow.station != UNKNOWN_STATION) {
            return;
        }
        let hash = *self.seeking.hasher();
        self.seeking.entry(ip).or_insert_with(|| HashSet::with_hasher(hash)).insert(id);
        shared.solicit(cx, ip);
    }

    /// The initial sequence number of a connection: RFC 6528, a clock of 4 microseconds plus a keyed hash of the addresses.
    pub(super) fn initial_sequence(&self, key: &FlowKey, now: Instant) -> Seq {
        let mut hash = SipHasher24::new_with_key(&self.isn_key);
        key.hash(&mut hash);
        Seq((hash.finish() as u32).wrapping_add((now.as_micros() / 4) as u32))
    }
}

/// The generation after this one, which is never 0 and fits a token.
fn next_generation(generation: u32) -> u32 {
    ((generation + 1) & GENERATION_MASK).max(1)
}

/// A station that is still being looked for.
pub(super) const UNKNOWN_STATION: Station = Station { port: PortId(u16::MAX), mac: MacAddr([0; 6]) };

fn connect_local(cx: &mut Context<'_>, shared: &Shared, number: u16, token: Token) -> io::Result<SocketId> {
    let path = shared.policy.local_path(number).ok_or(io::ErrorKind::ConnectionRefused)?;
    cx.host.connect_local(path, token)
}

/// Whether a connection failed because the server has not accepted others yet. A TCP would wait and ask again; AF_UNIX tells only that.
fn is_full(to: Destination, error: &io::Error) -> bool {
    matches!(to, Destination::Local(_)) && error.kind() == io::ErrorKind::WouldBlock
}

/// Where a guest's connection leads.
#[derive(Debug, Clone, Copy)]
enum Destination {
    Host(SocketAddr),
    Local(u16),
    Service(StreamService),
}

/// What the failure of a connection means to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Reset,
    /// We, not the destination, are at our limits.
    Resources,
    /// As many commands run as are allowed.
    Commands,
    Unreachable(Unreachable),
}

impl Refusal {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENETUNREACH | libc::ENETDOWN) => Self::Unreachable(Unreachable::Network),
            Some(libc::EHOSTUNREACH | libc::EHOSTDOWN | libc::ETIMEDOUT) => Self::Unreachable(Unreachable::Host),
            Some(libc::EACCES | libc::EPERM) => Self::Unreachable(Unreachable::Prohibited),
            Some(libc::EDQUOT) => Self::Commands,
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL | libc::EAGAIN) => {
                Self::Resources
            }
            _ => Self::Reset,
        }
    }
}

/// The part of the guest's SYN that an ICMP error quotes.
pub(super) fn quote(key: &FlowKey, seq: Seq) -> Quote {
    let mut transport = [0; 8];
    transport[..2].copy_from_slice(&key.guest.port().to_be_bytes());
    transport[2..4].copy_from_slice(&key.remote.port().to_be_bytes());
    transport[4..].copy_from_slice(&seq.0.to_be_bytes());
    Quote::rebuilt(key.guest.ip(), key.remote.ip(), smoltcp::wire::IpProtocol::Tcp, &transport)
}

impl Flow {
    /// The window of a SYN is never scaled (RFC 7323 section 2.2).
    pub(super) fn set_window_of_syn(&mut self, segment: &Segment) {
        self.snd_wnd = segment.window.into();
        self.max_wnd = self.snd_wnd;
        self.snd_wl1 = segment.seq;
        self.snd_wl2 = self.snd_una;
    }
}
