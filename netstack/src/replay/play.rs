//! Plays a recording: the guest's frames and the host's doings at their times, turn by turn, and keeps what the engine sends.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::conversation::{self, Ends, Key};
use super::form;
use super::load::Scene;
use super::packet::{Icmp, Tcp, Udp};
use super::script::{Op, Plan, Script, forward_to};
use super::sidecar::Clock;
use super::stage::{Question, SentFrame, Stage};
use super::translate;
use crate::config::Protocol;
use crate::frame::{Chunk, Frame, FrameMeta, Offloads, segment};
use crate::host::sim::{ConnectionId, HOST_V4, HOST_V6, Operation, Way};
use crate::pcap::note::Note;
use crate::pcap::write::Direction;
use crate::port::PortId;
use crate::time::{Duration, Instant};

/// How late an engine with a real clock notices that a timer is due.
const LATENESS: Duration = Duration::from_micros(2500);

/// How long a busy engine with a real clock may take for a turn.
const LONGEST_TURN: Duration = Duration::from_millis(20);

/// Bytes before the payload of a datagram, and before the body of an ICMP message.
const UDP_HEADER: usize = 8;
const ICMP_HEADER: usize = 8;

const TICK: Duration = Duration::from_micros(1);

/// Turns without anything from the recording, after which an engine is said to be busy without end.
const MAX_TURNS: usize = 1_000_000;

/// Packets of the engine for each of the recording, and some more, after which it is said to send without end.
const MOST_SENT: usize = 8;
const MORE_SENT: usize = 100_000;

/// A packet that the engine has sent.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) at: Instant,
    pub(super) port: PortId,
    pub(super) key: Key,
    /// In the form of a file, with the sequence numbers of this run.
    pub(super) bytes: Vec<u8>,
    pub(super) note: Note,
}

/// What happened, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Happened {
    /// The guest sent this packet of the recording.
    Guest(usize),
    /// The engine sent this packet of the run.
    Engine(usize),
}

/// What came of playing a recording.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) sent: Vec<Sent>,
    pub(super) order: Vec<Happened>,
    /// For each TCP connection, the engine's initial sequence numbers: in the recording, in this run.
    pub(super) isns: HashMap<Key, (Option<u32>, Option<u32>)>,
    /// Why guests' packets went no further.
    pub(super) drops: HashMap<usize, Option<&'static str>>,
    pub(super) remarks: Vec<String>,
}

struct Player<'a> {
    scene: &'a Scene,
    script: &'a Script,
    stage: Stage,
    /// The stage's number of each port of the recording, once it is there, and the other way round.
    ports: HashMap<PortId, PortId>,
    names: HashMap<PortId, PortId>,
    connections: HashMap<Key, ConnectionId>,
    /// The connection that there is between two ends now.
    current: HashMap<Ends, Key>,
    questions: Vec<Question>,
    /// The host's sockets that stand for guests' UDP ports.
    sockets: HashMap<(PortId, SocketAddr), SocketAddr>,
    /// Likewise those that stand for the identifiers of echo requests.
    pings: HashMap<Key, SocketAddr>,
    run: Run,
}

/// Plays `scene` by `script`.
///
/// # Errors
///
/// When the network cannot be set up: two forwards have the same port.
pub(super) fn play(scene: &Scene, script: &Script) -> io::Result<Run> {
    let mut player = Player {
        scene,
        script,
        stage: Stage::new(&scene.config, scene.seed)?,
        ports: HashMap::new(),
        names: HashMap::new(),
        connections: HashMap::new(),
        current: HashMap::new(),
        questions: Vec::new(),
        sockets: HashMap::new(),
        pings: HashMap::new(),
        run: Run::default(),
    };
    player.run.isns = script.plans.iter().map(|(key, plan)| (*key, (plan.isn, None))).collect();
    player.all()?;
    Ok(player.run)
}

impl Player<'_> {
    fn all(&mut self) -> io::Result<()> {
        let (scene, script) = (self.scene, self.script);
        let times: BTreeSet<Instant> = scene.packets.iter().map(|packet| packet.at).chain(script.ops.keys().copied()).collect();
        let last = scene.packets.last().map_or(Instant::ZERO, |packet| packet.at);
        let lateness = if scene.clock == Clock::Virtual { Duration::ZERO } else { LATENESS };
        let mut next = 0;
        let mut busy = false;
        for time in times.into_iter().filter(|time| *time <= last) {
            // What the engine does by itself before that.
            for _ in 0..MAX_TURNS {
                let soon = if lateness.is_zero() { TICK } else { LONGEST_TURN };
                let at_once = (busy && self.stage.now() + soon < time).then(|| self.stage.now() + TICK);
                let due =
                    self.stage.next_deadline().filter(|due| *due + lateness < time).map(|due| due.max(self.stage.now() + TICK));
                let Some(at) = at_once.into_iter().chain(due).min().filter(|at| *at < time) else { break };
                busy = self.turn(at, 0..0)?;
                if self.run.sent.len() > scene.packets.len() * MOST_SENT + MORE_SENT {
                    break;
                }
            }
            let first = next;
            while scene.packets.get(next).is_some_and(|packet| packet.at <= time) {
                next += 1;
            }
            busy = self.turn(time, first..next)?;
            if self.run.sent.len() > scene.packets.len() * MOST_SENT + MORE_SENT {
                let number = scene.packets.get(next).map_or(0, |packet| packet.number);
                self.run
                    .remarks
                    .push(format!("the engine sends far more than the recording has: it was stopped before packet {number}"));
                return Ok(());
            }
        }
        for _ in 0..MAX_TURNS {
            if !busy {
                return Ok(());
            }
            busy = self.turn(self.stage.now() + TICK, 0..0)?;
        }
        self.run.remarks.push("the engine never came to rest".to_owned());
        Ok(())
    }

    fn turn(&mut self, now: Instant, packets: std::ops::Range<usize>) -> io::Result<bool> {
        self.stage.begin_turn(now);
        let new_port = packets.clone().any(|index| !self.ports.contains_key(&self.scene.packets[index].port));
        if new_port && self.scene.clock == Clock::Real && self.stage.next_deadline().is_some_and(|due| due <= now) {
            // A port comes between turns.
            self.stage.end_turn();
            self.collect();
        }
        for index in packets.clone() {
            self.add_port(self.scene.packets[index].port)?;
        }
        for index in packets {
            if self.scene.packets[index].direction == Direction::FromGuest {
                self.feed(index);
            }
        }
        if let Some(ops) = self.script.ops.get(&now) {
            ops.iter().for_each(|op| self.act(op));
        }
        let busy = self.stage.end_turn();
        self.collect();
        Ok(busy)
    }

    fn add_port(&mut self, port: PortId) -> io::Result<()> {
        if self.ports.contains_key(&port) {
            return Ok(());
        }
        let Some((_, note)) = self.scene.interfaces.get(usize::from(port.0)) else { return Ok(()) };
        let added = self.stage.add_port(note.mtu, note.offloads)?;
        self.ports.insert(port, added);
        self.names.insert(added, port);
        self.collect();
        Ok(())
    }

    /// A guest sends a packet of the recording.
    fn feed(&mut self, index: usize) {
        let (scene, script) = (self.scene, self.script);
        let (packet, key) = (&scene.packets[index], scene.keys[index]);
        self.run.order.push(Happened::Guest(index));
        let Some(port) = self.ports.get(&packet.port).copied().filter(|_| !script.skipped.contains(&key)) else { return };
        let (mut bytes, meta) = packet.for_engine();
        if let Key::Tcp { .. } = key
            && let Some(tcp) = Tcp::of(&packet.bytes)
        {
            self.current.insert(Ends::of(packet.port, packet.direction, &tcp), key);
            if let Some((Some(recorded), Some(now))) = self.run.isns.get(&key) {
                translate::acknowledgement(&mut bytes, now.wrapping_sub(*recorded), &meta);
            }
            self.stage.host.expect(script.plans.get(&key).map(Plan::server));
        }
        let refusal = packet.note.drop.as_deref();
        match refusal {
            Some("udp_limit_host") => self.stage.host.fail(Operation::BindDatagram, libc::EMFILE, 1),
            Some("tcp_limit_host") => {
                for operation in [Operation::Connect, Operation::ConnectLocal, Operation::OpenService] {
                    self.stage.host.fail(operation, libc::EMFILE, 1);
                }
            }
            Some("icmp_limit_host") => self.stage.host.fail(Operation::OpenPing, libc::EMFILE, 1),
            Some("icmp_forbidden") => self.stage.host.fail(Operation::OpenPing, libc::EACCES, 1),
            Some("tcp_limit_commands") => self.stage.host.fail(Operation::OpenService, libc::EDQUOT, 1),
            _ => {}
        }
        if let Some(errno) = script.send_faults.get(&index) {
            self.stage.host.fail(Operation::SendTo, *errno, 1);
        }
        if let (Some(mtu), Key::Udp { remote, .. }) = (script.narrow.get(&index), key) {
            let real = scene.real(remote, remote.is_ipv4()).ip();
            self.stage.host.lay(real, Way::direct().silent().mtu(usize::try_from(*mtu).unwrap_or(usize::MAX)));
        }
        if let (Some(mtu), Key::Icmp { remote, .. }) = (script.narrow.get(&index), key) {
            self.stage.host.lay(remote, Way::direct().silent().mtu(usize::try_from(*mtu).unwrap_or(usize::MAX)));
        }
        self.stage.refuse_questions(refusal == Some("dns_refused"));
        let (connections, datagrams) = (self.stage.host.last_connection(), self.stage.host.sent_datagrams().len());
        let echoes = self.stage.host.sent_echoes().len();
        let drop = self.stage.input(port, &bytes, meta);
        self.stage.host.expect(None);
        self.stage.host.forgive();
        self.run.drops.insert(index, drop);
        if let Some(made) = self.stage.host.last_connection().filter(|made| Some(*made) != connections) {
            self.connections.insert(key, made);
        }
        self.note_socket(packet.port, scene.whole(index).0, datagrams);
        if let Some(sent) = self.stage.host.sent_echoes().get(echoes) {
            self.pings.insert(key, sent.from());
        }
        self.questions.extend(self.stage.take_questions());
        self.collect();
    }

    /// Remembers which socket a guest's datagrams leave by, unless it is that of a forward.
    fn note_socket(&mut self, port: PortId, key: Key, before: usize) {
        let Key::Udp { guest, .. } = key else { return };
        let Some(sent) = self.stage.host.sent_datagrams().get(before) else { return };
        let is_forward = |forward: &super::stage::Forward| {
            forward.protocol == Protocol::Udp && forward.guest == guest && forward.host.port() == sent.from.port()
        };
        if !self.stage.forwards().iter().any(is_forward) {
            self.sockets.insert((port, guest), sent.from);
        }
    }

    fn act(&mut self, op: &Op) {
        match op {
            Op::Dial(key) => self.dial(*key),
            Op::Datagram(index) => self.datagram(*index),
            Op::Answer(index) => self.answer(*index),
            Op::Echo(index) => self.echo(*index),
            Op::Error(index) => self.error(*index),
            Op::Accept(key)
            | Op::Fail(key, _)
            | Op::Write(key, _)
            | Op::Arrive(key, _)
            | Op::Finish(key)
            | Op::Reset(key)
            | Op::Read(key, _) => {
                let Some(id) = self.connections.get(key).copied() else { return };
                let now = self.stage.now();
                let connection = self.stage.host.connection_mut(id);
                match op {
                    Op::Accept(_) => connection.accept(),
                    Op::Fail(_, errno) => connection.fail(*errno),
                    Op::Write(_, range) | Op::Arrive(_, range) if !connection.has_finished() => {
                        let stream = self.script.plans.get(key).map(|plan| &plan.stream[..]);
                        let data = stream.and_then(|stream| stream.get(range.clone())).unwrap_or_default();
                        if matches!(op, Op::Write(..)) { connection.push(data) } else { connection.push_when_seen(data) }
                    }
                    Op::Finish(_) => connection.finish(),
                    Op::Read(_, total) => {
                        let more = total.saturating_sub(connection.received_len());
                        connection.read(usize::try_from(more).unwrap_or(usize::MAX));
                    }
                    Op::Reset(_) => {
                        // What was written before must have arrived.
                        self.stage.host.advance(now);
                        self.stage.host.connection_mut(id).reset();
                    }
                    _ => {}
                }
            }
        }
    }

    /// A client connects to the forward that leads to the guest.
    fn dial(&mut self, key: Key) {
        let Key::Tcp { port, guest, remote, .. } = key else { return };
        let Some(forward) = forward_to(self.stage.forwards(), Protocol::Tcp, guest) else {
            self.run
                .remarks
                .push(format!("{key}: the engine asked the guest, but there is no forward to it; `user` may lack `hostfwd=`"));
            return;
        };
        let from = self.scene.real(remote, forward.host.is_ipv4());
        let server = self.script.plans.get(&key).map(Plan::server);
        if let Some(server) = server
            && let Ok(id) = self.stage.host.dial(reached(forward.host, from), from, &server)
        {
            self.connections.insert(key, id);
            self.current.insert(Ends { port, guest, remote }, key);
        }
    }

    fn datagram(&mut self, index: usize) {
        let packet = &self.scene.packets[index];
        let (Key::Udp { port, guest, remote }, bytes) = self.scene.whole(index) else { return };
        let Some(udp) = Udp::of(bytes) else { return };
        let mut payload = bytes.get(udp.payload).unwrap_or_default().to_vec();
        payload.resize(payload.len() + packet.original_len - packet.bytes.len(), 0);
        let socket = self.sockets.get(&(port, guest)).copied();
        let forward = forward_to(self.stage.forwards(), Protocol::Udp, guest);
        let (to, from) = match (socket, forward) {
            (Some(socket), _) => (socket, self.scene.real(remote, socket.is_ipv4())),
            (None, Some(forward)) => {
                let from = self.scene.real(remote, forward.host.is_ipv4());
                (reached(forward.host, from), from)
            }
            (None, None) => return,
        };
        match packet.note.gso {
            Some((_, size)) => self.stage.host.inject_udp_segments(to, from, &payload, size),
            None => self.stage.host.inject_udp(to, from, &payload),
        };
    }

    /// Somebody answers an echo request.
    fn echo(&mut self, index: usize) {
        let (packet, key) = (&self.scene.packets[index], self.scene.keys[index]);
        let Key::Icmp { remote, .. } = key else { return };
        let (Some(socket), Some(icmp)) = (self.pings.get(&key), Icmp::of(&packet.bytes)) else { return };
        let message = packet.bytes.get(icmp.body.start - ICMP_HEADER..icmp.body.end).unwrap_or_default();
        // We are a router on its way.
        let hop_limit = packet.bytes.get(if remote.is_ipv4() { 22 } else { 21 }).copied().unwrap_or(64).saturating_add(1);
        self.stage.host.inject_echo_reply(*socket, remote, message, hop_limit);
    }

    /// The host's network tells of an error.
    fn error(&mut self, index: usize) {
        let (packet, key) = (&self.scene.packets[index], self.scene.keys[index]);
        let Some(icmp) = Icmp::of(&packet.bytes) else { return };
        let Some(error) = icmp.error(&packet.bytes) else { return };
        let quoted = packet.bytes.get(error.transport.clone()).unwrap_or_default();
        let own = if icmp.source.is_ipv4() { HOST_V4.into() } else { HOST_V6.into() };
        let teller = if self.scene.is_virtual_host(icmp.source) { own } else { icmp.source };
        let (socket, to, payload) = match key {
            Key::Udp { port, guest, remote } => {
                let forward = || forward_to(self.stage.forwards(), Protocol::Udp, guest).map(|forward| forward.host);
                let Some(socket) = self.sockets.get(&(port, guest)).copied().or_else(forward) else { return };
                (socket, self.scene.real(remote, socket.is_ipv4()), quoted.get(UDP_HEADER..).unwrap_or_default())
            }
            Key::Icmp { remote, .. } => {
                let Some(socket) = self.pings.get(&key).copied() else { return };
                (socket, SocketAddr::new(remote, 0), quoted)
            }
            _ => return,
        };
        self.stage.host.set_quoted(payload.len());
        self.stage.host.inject_error(socket, error.problem, teller, to, payload);
    }

    /// The DNS server answers a question that the engine has passed on.
    fn answer(&mut self, index: usize) {
        let (Key::Udp { guest, remote, .. }, bytes) = self.scene.whole(index) else { return };
        let Some(message) = Udp::of(bytes).and_then(|udp| bytes.get(udp.payload)) else { return };
        let is_for = |question: &Question| {
            question.way_back.guest == guest && question.way_back.server == remote && question.message.get(..2) == message.get(..2)
        };
        if let Some(place) = self.questions.iter().position(is_for) {
            let question = self.questions.remove(place);
            self.stage.answer(&question.way_back, message);
            self.collect();
        }
    }

    fn collect(&mut self) {
        let at = self.stage.now();
        for SentFrame { port, bytes, meta } in self.stage.take_sent() {
            let port = self.names.get(&port).copied().unwrap_or(port);
            let key = conversation::key_of(port, Direction::ToGuest, &bytes, |ends| match self.current.get(ends) {
                Some(Key::Tcp { number, .. }) => *number,
                _ => 0,
            });
            if let Some(tcp) = Tcp::of(&bytes).filter(|tcp| tcp.has(super::packet::SYN)) {
                let isn = &mut self.run.isns.entry(key).or_default().1;
                isn.get_or_insert(tcp.seq);
            }
            for (bytes, note) in self.as_recorded(bytes, meta) {
                self.run.order.push(Happened::Engine(self.run.sent.len()));
                self.run.sent.push(Sent { at, port, key, bytes, note });
            }
        }
    }

    /// A frame in the form of this file: one of segments has a super-frame as what it stands for.
    fn as_recorded(&mut self, bytes: Vec<u8>, meta: FrameMeta) -> Vec<(Vec<u8>, Note)> {
        let mut segments = Vec::new();
        if self.scene.segmented && meta.gso.is_some() {
            let chunks = [Chunk::from(&bytes[..])];
            let mut emit = |segment: &[u8], _| segments.push((segment.to_vec(), Note::default()));
            // What cannot be cut is shown as it is.
            let _ = segment::segment(&Frame::new(&chunks, meta), &Offloads::NONE, &mut Vec::new(), &mut emit);
        }
        if segments.is_empty() { vec![form::for_file(bytes, &meta)] } else { segments }
    }
}

/// The address by which a client at `from` reaches what is bound to `bound`.
fn reached(bound: SocketAddr, from: SocketAddr) -> SocketAddr {
    let ip = match (bound.ip(), from.ip().is_loopback()) {
        (ip, _) if !ip.is_unspecified() => ip,
        (IpAddr::V4(_), true) => Ipv4Addr::LOCALHOST.into(),
        (IpAddr::V6(_), true) => Ipv6Addr::LOCALHOST.into(),
        (IpAddr::V4(_), false) => HOST_V4.into(),
        (IpAddr::V6(_), false) => HOST_V6.into(),
    };
    SocketAddr::new(ip, bound.port())
}
