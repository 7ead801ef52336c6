//! What the host behind the engine did, derived from what the engine told its guests.
//!
//! A SYN-ACK says that the peer accepted by then, a reset of the SYN that it refused, an ICMP error what error the socket had, and silence
//! that there was none. An ICMP error of somebody else than the gateway says that the host's network has told it. Payload says that the peer had written these bytes by then, FIN that it had closed, a reset that it had reset. A
//! SYN of the engine's own says that a client of a forward had come by then; so does the question who has the guest's address.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::conversation::Key;
use super::load::Scene;
use super::packet::{ACK, FIN, Icmp, RST, SYN, Tcp, Udp};
use super::sidecar::Clock;
use super::{Logged, record::QUEUE};
use crate::config::Protocol;
use crate::host::sim::{Program, Server};
use crate::pcap::write::Direction;
use crate::time::{Duration, Instant};
use crate::wire::icmp_error::{Problem, Unreachable};

/// What a guest takes that does not say (RFC 9293 section 3.7.1).
const DEFAULT_MSS: u16 = 536;

/// What a queue holds of which nothing is known: what was sent was there, and what was acknowledged was taken.
const ENOUGH: usize = 1 << 30;

/// The most bytes that are made up where the recording lost some.
const LARGEST_GAP: u64 = 1 << 20;

/// Something that the host does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Op {
    /// A peer accepts.
    Accept(Key),
    /// A connection attempt fails.
    Fail(Key, i32),
    /// A client connects to a forward.
    Dial(Key),
    /// A peer writes these bytes of its [`Plan::stream`].
    Write(Key, Range<usize>),
    /// These bytes come while the engine looks at those that it had at the beginning of the turn.
    Arrive(Key, Range<usize>),
    /// A peer closes its half.
    Finish(Key),
    /// A peer resets.
    Reset(Key),
    /// A peer has read so much by now.
    Read(Key, u64),
    /// A datagram comes, as in this packet.
    Datagram(usize),
    /// The DNS server answers, as in this packet.
    Answer(usize),
    /// Somebody answers an echo request, as in this packet.
    Echo(usize),
    /// The host's network tells of an error, as in this packet.
    Error(usize),
}

/// What is known of a TCP connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    /// When the guest asked for it first.
    asked: Option<Instant>,
    /// The engine's initial sequence number in the recording.
    pub(super) isn: Option<u32>,
    /// The guest's.
    pub(super) guest_isn: Option<u32>,
    /// The error with which the attempt fails at once.
    pub(super) fails_at_once: Option<i32>,
    /// Whether the recording says that it did.
    refused: bool,
    answered: bool,
    finished: bool,
    over: bool,
    /// What the peer has written.
    pub(super) stream: Vec<u8>,
    written: usize,
    /// The largest payload that the guest takes in a segment.
    mss: usize,
    /// When the engine last sent something that was new, and whether it would have sent more if there had been more.
    hungry: Option<Instant>,
    /// Bytes that its socket holds: to the peer, from it.
    pub(super) queues: Option<(usize, usize)>,
    /// Whether it reads by [`Op::Read`] only.
    pub(super) reads_by_script: bool,
}

impl Plan {
    /// How the peer behaves by itself.
    pub(super) fn server(&self) -> Server {
        if let Some(errno) = self.fails_at_once {
            return Server::failing_at_once(errno);
        }
        let (send_queue, receive_queue) = self.queues.unwrap_or((QUEUE, ENOUGH));
        let program = if self.reads_by_script { Program::Idle } else { Program::Sink };
        Server::new(program).unanswered().staying_half_open().forgetting().send_queue(send_queue).receive_queue(receive_queue)
    }
}

/// Everything that the host does.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) ops: BTreeMap<Instant, Vec<Op>>,
    pub(super) plans: HashMap<Key, Plan>,
    /// The errors with which sending these datagrams fails.
    pub(super) send_faults: HashMap<usize, i32>,
    /// The MTU of the way that these datagrams and echo requests are too big for, as far as the host knows.
    pub(super) narrow: HashMap<usize, u32>,
    /// Conversations that began before the recording did.
    pub(super) skipped: HashSet<Key>,
    /// Whether the engine had a real clock and real sockets.
    real: bool,
    pub(super) remarks: Vec<String>,
}

/// Derives the script of a recording.
pub(super) fn derive(scene: &Scene) -> Script {
    let mut script = Script { skipped: headless(scene), real: scene.clock == Clock::Real, ..Script::default() };
    for key in &script.skipped {
        script.remarks.push(format!("{key} began before the recording: it is not played"));
    }
    script.remarks.sort();
    let mut solicited = Solicited::default();
    let mut latest: HashMap<Key, usize> = HashMap::new();
    for (index, packet) in scene.packets.iter().enumerate() {
        let (key, _) = scene.whole(index);
        if script.skipped.contains(&key) {
            continue;
        }
        solicited.take(packet);
        match key {
            Key::Tcp { .. } => script.tcp(scene, &mut solicited, key, packet),
            Key::Udp { .. } => {
                if packet.direction == Direction::FromGuest {
                    latest.insert(key, index);
                    script.note_refusal(index, packet);
                }
                script.udp(scene, &mut solicited, &latest, key, index);
            }
            Key::Icmp { remote, .. } => {
                if packet.direction == Direction::FromGuest {
                    latest.insert(key, index);
                    script.note_refusal(index, packet);
                } else if !script.error(scene, &latest, key, index) && !scene.is_virtual_host(remote) {
                    script.at(packet.at, Op::Echo(index));
                }
            }
            _ => {}
        }
    }
    if scene.clock == Clock::Real {
        // A kernel's sockets hold more or less, as it likes.
        script.plans.values_mut().for_each(|plan| plan.queues = Some((ENOUGH, ENOUGH)));
    }
    script.apply_sidecar(scene);
    script
}

/// Conversations whose beginning is not in the recording. What is only answered by resets belongs to no connection, and can be played.
fn headless(scene: &Scene) -> HashSet<Key> {
    let (mut headless, mut lonely, mut sockets) = (HashSet::new(), HashMap::new(), HashSet::new());
    if scene.clock == Clock::Virtual {
        // A scripted recording begins with its engine.
        return headless;
    }
    for (index, packet) in scene.packets.iter().enumerate() {
        let (key, _) = &scene.whole(index);
        if let Key::Tcp { number: 0, .. } = key
            && let Some(tcp) = Tcp::of(&packet.bytes)
        {
            if packet.direction == Direction::ToGuest {
                lonely.insert(*key, false);
                if !tcp.has(RST) {
                    headless.insert(*key);
                }
            } else if scene.foreign || packet.note.drop.is_none() {
                lonely.entry(*key).or_insert(true);
            }
        }
        if let Key::Udp { port, guest, .. } = key {
            let forwarded = || scene.config.host_forwards.iter().any(|rule| rule.host.protocol() == Protocol::Udp);
            if packet.direction == Direction::FromGuest {
                sockets.insert((*port, *guest));
            } else if !sockets.contains(&(*port, *guest)) && !forwarded() {
                headless.insert(*key);
            }
        }
    }
    headless.extend(lonely.into_iter().filter(|(_, lonely)| *lonely).map(|(key, _)| key));
    headless
}

impl Script {
    fn at(&mut self, time: Instant, op: Op) {
        self.ops.entry(time).or_default().push(op);
    }

    fn tcp(&mut self, scene: &Scene, solicited: &mut Solicited, key: Key, packet: &Logged) {
        let plan = self.plans.entry(key).or_default();
        let now = packet.at;
        let Some(tcp) = Tcp::of(&packet.bytes) else {
            // An error about the guest's SYN.
            let error = Icmp::of(&packet.bytes).and_then(|icmp| icmp.error(&packet.bytes)).and_then(|error| error.errno());
            return error.into_iter().for_each(|errno| self.fail(scene, key, now, errno));
        };
        if packet.direction == Direction::FromGuest {
            if tcp.has(SYN) && !plan.answered {
                plan.guest_isn = Some(tcp.seq);
                plan.mss = tcp.mss(&packet.bytes).unwrap_or(DEFAULT_MSS).into();
            }
            if tcp.opens() {
                plan.asked.get_or_insert(now);
                plan.refused |= packet.note.drop.as_deref() == Some("tcp_connect_failed");
            }
            return;
        }
        if tcp.opens() {
            if plan.isn.is_none() {
                plan.isn = Some(tcp.seq);
                let when = solicited.explains(tcp.destination.ip(), now);
                self.at(when, Op::Dial(key));
            }
            return;
        }
        if tcp.has(SYN | ACK) && !plan.answered {
            plan.isn = Some(tcp.seq);
            plan.answered = true;
            return self.at(now, Op::Accept(key));
        }
        if tcp.has(RST) {
            return self.reset(scene, key, packet, &tcp);
        }
        let Some(isn) = plan.isn else { return };
        let start = offset(plan, isn, tcp.seq);
        let payload = packet.bytes.get(tcp.payload.clone()).unwrap_or_default();
        let missing = packet.original_len.saturating_sub(packet.bytes.len());
        if !payload.is_empty() || missing > 0 {
            self.payload(key, packet, start, payload, missing);
        }
        let plan = self.plans.entry(key).or_default();
        if tcp.has(FIN) && !plan.finished {
            plan.finished = true;
            self.at(now, Op::Finish(key));
        }
    }

    /// The engine has sent payload: the peer has written what of it is new.
    fn payload(&mut self, key: Key, packet: &Logged, start: i64, payload: &[u8], missing: usize) {
        let plan = self.plans.entry(key).or_default();
        let end = plan.stream.len();
        // A keep-alive begins before the stream does.
        let (skip, start) = if start < 0 { (start.unsigned_abs(), 0) } else { (0, start.unsigned_abs()) };
        let gap = start.saturating_sub(end as u64);
        if gap > LARGEST_GAP {
            self.remarks.push(format!("packet {} is {gap} bytes ahead of {key}: what it carries is not used", packet.number));
            return;
        }
        if gap > 0 {
            self.remarks.push(format!(
                "{gap} bytes of {key} before packet {} are not in the recording: they are played as zeros",
                packet.number
            ));
        }
        let skip = skip + (end as u64).saturating_sub(start);
        plan.stream.resize(end + gap as usize, 0);
        plan.stream.extend(payload.get(usize::try_from(skip).unwrap_or(usize::MAX)..).unwrap_or_default());
        let there = payload.len() as u64;
        let lost = missing as u64 - skip.saturating_sub(there).min(missing as u64);
        plan.stream.resize(plan.stream.len() + lost as usize, 0);
        let new = plan.written..plan.stream.len();
        if !new.is_empty() {
            plan.written = new.end;
            // A segment that is not full was all that there was, also if another follows in the same turn of an engine in the real world.
            let arrived_meanwhile = plan.hungry == Some(packet.at);
            let full = plan.mss > 0 && new.len().is_multiple_of(plan.mss);
            plan.hungry = (!full && self.real).then_some(packet.at);
            self.at(packet.at, if arrived_meanwhile { Op::Arrive(key, new) } else { Op::Write(key, new) });
        }
    }

    fn reset(&mut self, scene: &Scene, key: Key, packet: &Logged, tcp: &Tcp) {
        let plan = self.plans.entry(key).or_default();
        let asked_by_guest = plan.asked.is_some();
        if asked_by_guest && !plan.answered {
            return self.fail(scene, key, packet.at, libc::ECONNREFUSED);
        }
        let is_answer = || {
            // The engine answers what belongs to no connection by a reset that continues it (RFC 9293 section 3.10.7.1).
            let same_turn = scene.packets.iter().zip(&scene.keys).filter(|(other, k)| other.at == packet.at && **k == key);
            same_turn
                .filter_map(|(other, _)| Tcp::of(&other.bytes))
                .any(|other| other.source == tcp.destination && other.has(ACK) && other.ack == tcp.seq)
        };
        if tcp.has(ACK) || !plan.answered && !asked_by_guest && !is_answer() {
            plan.over = true;
            self.at(packet.at, Op::Reset(key));
        }
    }

    fn fail(&mut self, scene: &Scene, key: Key, now: Instant, errno: i32) {
        let plan = self.plans.entry(key).or_default();
        if plan.answered || plan.over {
            return;
        }
        plan.over = true;
        if plan.refused || scene.foreign && plan.asked == Some(now) {
            plan.fails_at_once = Some(errno);
        } else {
            self.at(now, Op::Fail(key, errno));
        }
    }

    fn udp(&mut self, scene: &Scene, solicited: &mut Solicited, latest: &HashMap<Key, usize>, key: Key, index: usize) {
        let packet = &scene.packets[index];
        let (_, bytes) = scene.whole(index);
        let Key::Udp { remote, guest, .. } = key else { return };
        if packet.direction == Direction::FromGuest {
            return;
        }
        if self.error(scene, latest, key, index) {
            // Somebody, or the engine itself, has told of it.
        } else if Udp::of(bytes).is_some() {
            if scene.is_dns(remote) {
                self.at(packet.at, Op::Answer(index));
            } else {
                let when = if latest.contains_key(&key) { packet.at } else { solicited.explains(guest.ip(), packet.at) };
                self.at(when, Op::Datagram(index));
            }
        }
    }

    /// Explains an ICMP error about a datagram or an echo request. Returns whether the packet is one.
    fn error(&mut self, scene: &Scene, latest: &HashMap<Key, usize>, key: Key, index: usize) -> bool {
        let packet = &scene.packets[index];
        let Some(icmp) = Icmp::of(&packet.bytes) else { return false };
        let Some(error) = icmp.error(&packet.bytes) else { return false };
        // The gateway speaks for itself, for the host, and for the host's loopback address, which has closed ports.
        let at_loopback = scene.is_gateway(error.remote.ip()) && error.problem == Problem::Unreachable(Unreachable::Port);
        if !scene.is_virtual_host(icmp.source) || at_loopback {
            self.at(packet.at, Op::Error(index));
            return true;
        }
        let about = latest.get(&key).filter(|about| scene.packets[**about].at == packet.at);
        match (about, error.problem, error.errno()) {
            (Some(about), Problem::TooBig { mtu }, _) => {
                self.send_faults.remove(about);
                self.narrow.insert(*about, mtu);
            }
            // The socket did not take it.
            (Some(about), _, Some(errno)) if scene.foreign || self.send_faults.contains_key(about) => {
                self.send_faults.insert(*about, errno);
            }
            // The host has sent it, and said later that there was no way.
            (_, _, Some(_)) => self.at(packet.at, Op::Error(index)),
            _ => {}
        }
        true
    }

    /// What the recording says of a datagram that the host did not take.
    fn note_refusal(&mut self, index: usize, packet: &Logged) {
        if packet.note.drop.as_deref() == Some("host_send") {
            self.send_faults.insert(index, libc::EIO);
        }
    }

    fn apply_sidecar(&mut self, scene: &Scene) {
        let known: Vec<Key> = self.plans.keys().copied().collect();
        for key in known {
            let Key::Tcp { guest, remote, number, .. } = key else { continue };
            let Some(peer) = scene.sidecar.peer(guest, remote, number) else { continue };
            let Some(plan) = self.plans.get_mut(&key) else { continue };
            let room = if peer.writes.is_empty() { ENOUGH } else { QUEUE };
            plan.queues = Some((peer.send_queue.unwrap_or(QUEUE), peer.receive_queue.unwrap_or(room)));
            plan.reads_by_script = !peer.reads.is_empty();
            let len = plan.stream.len();
            for (time, total) in &peer.reads {
                self.at(Instant::from_micros(*time), Op::Read(key, *total));
            }
            let of_this = |op: &Op| {
                matches!(op, Op::Write(k, _) | Op::Arrive(k, _) if *k == key && !peer.writes.is_empty())
                    || matches!(op, Op::Finish(k) if *k == key && peer.finishes.is_some())
            };
            self.ops.values_mut().for_each(|ops| ops.retain(|op| !of_this(op)));
            let mut before = 0;
            for (time, total) in &peer.writes {
                let end = usize::try_from(*total).unwrap_or(usize::MAX).min(len);
                if end > before {
                    self.at(Instant::from_micros(*time), Op::Write(key, before..end));
                    before = end;
                }
            }
            if let Some(time) = peer.finishes {
                self.at(Instant::from_micros(time), Op::Finish(key));
            }
        }
    }
}

/// Where in the peer's stream a segment begins; before it if negative.
fn offset(plan: &Plan, isn: u32, seq: u32) -> i64 {
    // Near the end of what is known: a stream may be longer than its numbers go.
    let end = plan.stream.len() as i64;
    let near = isn.wrapping_add(1).wrapping_add(plan.stream.len() as u32);
    end + i64::from(seq.wrapping_sub(near) as i32)
}

/// Questions of the engine to the link that nothing explains yet: each is asked because somebody outside wants to reach the guest.
#[derive(Debug, Default)]
struct Solicited(HashMap<IpAddr, Instant>);

impl Solicited {
    fn take(&mut self, packet: &Logged) {
        if packet.direction == Direction::FromGuest {
            return;
        }
        let asked = match packet.bytes.get(12..14) {
            Some([0x08, 0x06]) if packet.bytes.get(20..22) == Some(&[0, 1]) => {
                packet.bytes.get(38..42).and_then(|ip| ip.first_chunk::<4>()).map(|ip| IpAddr::from(*ip))
            }
            _ => Icmp::of(&packet.bytes)
                .filter(|icmp| icmp.is_discovery() && icmp.kind == 135)
                .and_then(|icmp| packet.bytes.get(icmp.body)?.first_chunk::<16>().map(|ip| IpAddr::from(*ip))),
        };
        if let Some(ip) = asked {
            self.0.entry(ip).or_insert(packet.at);
        }
    }

    /// When whoever reaches a guest at `now` first wanted to.
    fn explains(&mut self, guest: IpAddr, now: Instant) -> Instant {
        const PATIENCE: Duration = Duration::from_secs(100);
        self.0.remove(&guest).filter(|asked| now.since(*asked) < PATIENCE).unwrap_or(now)
    }
}

/// The forward that leads to a guest's address.
pub(super) fn forward_to(
    forwards: &[super::stage::Forward],
    protocol: Protocol,
    guest: SocketAddr,
) -> Option<super::stage::Forward> {
    forwards.iter().find(|forward| forward.protocol == protocol && forward.guest == guest).copied()
}
