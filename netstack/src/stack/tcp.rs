//! The TCP relay: two TCPs joined end to end, with nothing in between.
//!
//! Towards the guest it speaks TCP (RFC 9293) itself; towards the world the kernel does. What the guest sends goes from the guest's
//! memory into the socket's send queue, and the window that the guest sees is the room in that queue. What the world sends stays in the
//! socket's receive queue, is peeked from there into the guest's memory, and is discarded when the guest has acknowledged it. So the
//! kernel's queues are the only buffers, retransmission is a matter of peeking again, and back-pressure reaches from end to end.
//!
//! What always holds:
//!
//! - Nothing acknowledged is lost: a byte is acknowledged when it is in the socket, or held here in order, within a limit.
//! - Nothing is reordered, and no right edge of a window is ever taken back.
//! - A flow that has nothing to do costs no time at all.
//! - There is no congestion control towards a guest whose link does not lose: its window bounds what is under way. See [`congestion`].
//!
//! | file | what |
//! |---|---|
//! | [`segment`] | headers, read and written |
//! | [`flow`] | the state of one connection |
//! | [`table`] | all of them |
//! | [`open`] | connections opened by guests, and by clients of forwards |
//! | [`receive`] | from the guest to the socket |
//! | [`transmit`] | from the socket to the guest |
//! | [`congestion`] | how much may be under way after a loss |
//! | [`close`] | ends, resets and timers |
//! | [`too_big`] | smaller segments for a narrower way |

mod close;
mod congestion;
mod flow;
mod open;
mod receive;
mod segment;
mod seq;
mod table;
mod too_big;
mod transmit;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use hashbrown::{HashMap, HashSet};
use slab::Slab;

pub(crate) use self::flow::FlowKey;
use self::flow::{Flow, Phase};
use self::segment::Header;
pub(crate) use self::segment::Segment;
pub(crate) use self::seq::Seq;
use self::table::Table;
use self::transmit::{Parting, Turn};
use super::hash::Keyed;
use super::neighbour::Station;
use super::policy::{Attempt, Verdict};
use super::token::Owner;
use super::{Context, Shared};
use crate::config::{Limits, Timeouts};
use crate::frame::Frame;
use crate::host::{Event, SocketId};
use crate::port::PortId;
use crate::time::Instant;

/// All TCP connections.
#[derive(Debug)]
pub(crate) struct Relay {
    table: Table,
    /// Flows with something to do, in the order in which they will be served.
    ready: VecDeque<u32>,
    /// Flows that wait until a full port has room.
    blocked: HashMap<PortId, Vec<u32>, Keyed>,
    /// Flows to guests whose station is being looked for.
    seeking: HashMap<IpAddr, HashSet<u32, Keyed>, Keyed>,
    /// Resets of flows that are gone, which wait until a full port has room; and those that can be sent now.
    partings: HashMap<PortId, Vec<Parting>, Keyed>,
    parting: Vec<Parting>,
    listeners: Slab<Listener>,
    /// The generation of the listener that was added last.
    listened: u32,
    /// Where the search for a port begins that a client without one is shown with.
    client_port: u16,
    /// Flows that are not open yet.
    opening: usize,
    /// Bytes held in all flows together.
    held: usize,
    isn_key: [u8; 16],
    limits: Limits,
    timeouts: Timeouts,
}

/// A forward's listening socket.
#[derive(Debug)]
struct Listener {
    /// Tells this listener from earlier ones in the same place, and its flows from others: never 0.
    generation: u32,
    socket: SocketId,
    guest: SocketAddr,
    /// When accepting is tried again without an event.
    retry: Option<Instant>,
}

/// A connection, for people and programs to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowInfo {
    /// The guest's end.
    pub guest: SocketAddr,
    /// The other end, as the guest sees it.
    pub remote: SocketAddr,
    /// The state, in the words of RFC 9293.
    pub state: &'static str,
}

impl Relay {
    pub(crate) fn new(limits: Limits, timeouts: Timeouts, hash: Keyed, isn_key: [u8; 16]) -> Self {
        Self {
            table: Table::new(hash),
            ready: VecDeque::new(),
            blocked: HashMap::with_hasher(hash),
            seeking: HashMap::with_hasher(hash),
            partings: HashMap::with_hasher(hash),
            parting: Vec::new(),
            listeners: Slab::new(),
            listened: 0,
            client_port: open::CLIENT_PORTS,
            opening: 0,
            held: 0,
            isn_key,
            limits,
            timeouts,
        }
    }

    /// Takes a segment from a guest.
    pub(crate) fn input(
        &mut self,
        cx: &mut Context<'_>,
        shared: &mut Shared,
        station: Station,
        (guest, remote): (IpAddr, IpAddr),
        segment: &Segment,
        frame: &Frame<'_>,
    ) {
        let key = FlowKey {
            guest: SocketAddr::new(guest, segment.source_port),
            remote: SocketAddr::new(remote, segment.destination_port),
        };
        match self.table.find(&key) {
            Some(id) => self.segment_arrived(cx, shared, id, station, segment, frame),
            // RFC 9293 section 3.9.2.3: nobody is told anything in the name of a group.
            None if shared.policy.decide(&Attempt::tcp(key.guest, key.remote)) == Verdict::Nowhere => {
                shared.counters.drop_destination += 1;
            }
            None if segment.rst => shared.counters.drop_no_flow += 1,
            None if segment.syn && segment.ack.is_none() => self.open(cx, shared, station, key, segment),
            None => {
                shared.counters.drop_no_flow += 1;
                send_reset(cx, shared, station, &key, segment);
            }
        }
    }

    /// Takes news of a flow's socket.
    pub(crate) fn host_event(&mut self, cx: &mut Context<'_>, shared: &mut Shared, id: u32, generation: u32, event: Event) {
        if !self.table.is_current(id, generation) {
            return;
        }
        let Some(flow) = self.table.get_mut(id) else { return };
        let Some(socket) = flow.socket else { return };
        if event.failed
            && let Some(error) = cx.host.take_error(socket)
        {
            return self.host_failed(cx, shared, id, &error);
        }
        if flow.phase == Phase::Connecting {
            if event.writable {
                self.connected(cx, shared, id);
            }
            return;
        }
        flow.heard = cx.now;
        if event.readable || event.failed {
            flow.todo.read = true;
            self.enqueue(id);
        }
        // Every event says whether there is room, also those that came for something else.
        if event.writable && self.table.get(id).is_some_and(|flow| flow.awaits_room) {
            self.room_in_socket(cx, shared, id);
        }
    }

    /// Serves flows that have something to do, at most `budget` of them. Returns whether more are waiting.
    pub(crate) fn run(&mut self, cx: &mut Context<'_>, shared: &mut Shared, budget: usize) -> bool {
        let mut served = self.part(cx, shared, budget);
        while served < budget {
            let Some(id) = self.ready.pop_front() else { break };
            // Numbers of flows that are gone cost nothing, so they cannot pile up.
            let Some(flow) = self.table.get_mut(id) else { continue };
            served += 1;
            flow.todo.queued = false;
            match self.turn(cx, shared, id) {
                Turn::Done => {}
                Turn::Again => self.enqueue(id),
                Turn::Blocked => self.block(id),
            }
        }
        !self.ready.is_empty() || !self.parting.is_empty()
    }

    /// Whether flows wait for room in this port.
    pub(crate) fn waits_for(&self, port: PortId) -> bool {
        self.blocked.get(&port).is_some_and(|flows| !flows.is_empty()) || self.partings.contains_key(&port)
    }

    /// A port that was full has room again.
    pub(crate) fn port_writable(&mut self, port: PortId) {
        self.parting.extend(self.partings.remove(&port).into_iter().flatten());
        let Some(waiting) = self.blocked.get_mut(&port) else { return };
        for id in waiting.drain(..) {
            // Numbers of flows that are gone may have been given again; a turn for nothing does no harm.
            if let Some(flow) = self.table.get_mut(id) {
                flow.todo.queued = true;
                self.ready.push_back(id);
            }
        }
    }

    /// The station of an address is known now: connections to it can go on.
    pub(crate) fn neighbour_found(&mut self, ip: IpAddr, station: Station) {
        if self.seeking.is_empty() {
            return;
        }
        for id in self.seeking.remove(&ip).into_iter().flatten() {
            if let Some(flow) = self.table.get_mut(id)
                && flow.key.guest.ip() == ip
                && flow.phase == Phase::SynSent
            {
                flow.station = station;
                flow.todo.syn = true;
                self.enqueue(id);
            }
        }
    }

    /// Ends all flows behind a port that is gone.
    pub(crate) fn forget_port(&mut self, cx: &mut Context<'_>, port: PortId) {
        self.blocked.remove(&port);
        self.partings.remove(&port);
        self.parting.retain(|parting| parting.port() != port);
        let gone: Vec<u32> = self.table.iter().filter(|(_, flow)| flow.station.port == port).map(|(id, _)| id).collect();
        for id in gone {
            self.drop_flow(cx, id, close::Ending::Reset);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Entries on the lists of those that have something to do, or wait for a full port.
    pub(crate) fn waiting(&self) -> usize {
        let blocked: usize = self.blocked.values().map(Vec::len).sum();
        let partings: usize = self.partings.values().map(Vec::len).sum();
        self.ready.len() + blocked + partings + self.parting.len()
    }

    /// Connections that are not open yet.
    pub(crate) const fn opening(&self) -> usize {
        self.opening
    }

    /// Bytes held in all connections together.
    pub(crate) const fn held_bytes(&self) -> usize {
        self.held
    }

    /// All connections.
    pub(crate) fn flows(&self) -> impl Iterator<Item = FlowInfo> {
        self.table.iter().map(|(_, flow)| FlowInfo { guest: flow.key.guest, remote: flow.key.remote, state: flow.state_name() })
    }

    fn enqueue(&mut self, id: u32) {
        if let Some(flow) = self.table.get_mut(id)
            && !flow.todo.queued
        {
            flow.todo.queued = true;
            self.ready.push_back(id);
        }
    }

    fn block(&mut self, id: u32) {
        if let Some(flow) = self.table.get_mut(id)
            && !flow.todo.queued
        {
            flow.todo.queued = true;
            let waiting = self.blocked.entry(flow.station.port).or_default();
            waiting.push(id);
            // A guest that takes nothing can still end flows and open others: those that are gone must not pile up.
            if waiting.len() > 64 + 2 * self.table.len() {
                waiting.retain(|id| self.table.get(*id).is_some());
                waiting.sort_unstable();
                waiting.dedup();
            }
        }
    }

    /// Starts the retransmission timer anew (RFC 6298 section 5).
    fn start_retransmit_timer(flow: &mut Flow, id: u32, shared: &mut Shared, now: Instant) {
        let at = now + flow.rtt.timeout();
        Self::arm_retransmit(flow, id, shared, at);
    }

    fn arm_retransmit(flow: &mut Flow, id: u32, shared: &mut Shared, at: Instant) {
        flow.retransmit_at = Some(at);
        if flow.timers.retransmit.want(at) {
            shared.wheel.set(at, Owner::TcpRetransmit { id });
        }
    }
}

/// Answers a segment that belongs to no connection (RFC 9293 section 3.10.7.1).
fn send_reset(cx: &mut Context<'_>, shared: &mut Shared, station: Station, key: &FlowKey, segment: &Segment) {
    let (seq, ack) = match segment.ack {
        Some(ack) => (ack, None),
        None => (Seq(0), Some(segment.seq + segment.len())),
    };
    transmit::send_control(
        cx,
        shared,
        station,
        key,
        &Header {
            source_port: key.remote.port(),
            destination_port: key.guest.port(),
            seq,
            ack,
            control: smoltcp::wire::TcpControl::Rst,
            window: 0,
            options: None,
        },
    );
}
