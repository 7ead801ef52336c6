//! From the socket to the guest.

use std::io;
use std::ops::ControlFlow;

use smoltcp::wire::{TCP_HEADER_LEN, TcpControl};

use super::Relay;
use super::flow::{Flow, FlowKey, Phase};
use super::open::UNKNOWN_STATION;
use super::segment::Header;
use super::seq::Seq;
use crate::frame::{ChunkMut, MAX_FRAME};
use crate::port::{PortId, Sent};
use crate::stack::emit::{self, Path};
use crate::stack::neighbour::Station;
use crate::stack::{Context, Shared};

/// Bytes that one flow sends in one turn before others get theirs.
const TURN_BYTES: usize = 256 << 10;
/// Frames that one flow sends in one turn: what counts where frames are small.
const TURN_FRAMES: usize = 64;

/// Bytes under way to a guest at most, however large its window is: several times what its link can hold. All of them lie in the
/// socket's receive queue until they are acknowledged. More would fill that queue up to where the kernel drops what arrives, and would
/// have left the processor's cache by the time the guest reads it (see `docs/the-window-is-the-socket.md`).
const MAX_IN_FLIGHT: u32 = 1 << 20;

/// Chunks of a port's memory that one frame is peeked into.
const MAX_CHUNKS: usize = 64;

/// How a flow's turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// There is nothing more to do.
    Done,
    /// There is more, but others come first.
    Again,
    /// The port is full.
    Blocked,
}

/// What sending a segment with payload has come to.
enum Peeked {
    /// The port has no room.
    Full,
    Bytes(usize),
    End,
    Nothing,
    Failed(io::Error),
}

impl Relay {
    /// Does what a flow has to do.
    pub(super) fn turn(&mut self, cx: &mut Context<'_>, shared: &mut Shared, id: u32) -> Turn {
        if let Err(error) = self.discard(cx, id) {
            self.host_failed(cx, shared, id, &error);
            return Turn::Done;
        }
        if let ControlFlow::Break(turn) = self.send_syn(cx, shared, id) {
            return turn;
        }
        if !self.resend(cx, shared, id) {
            return Turn::Blocked;
        }
        let turn = self.send_data(cx, shared, id);
        if turn == Turn::Blocked {
            return turn;
        }
        let Some(flow) = self.table.get_mut(id) else { return Turn::Done };
        if flow.fin_is_due() && flow.phase == Phase::Open && turn == Turn::Done && !self.send_fin(cx, shared, id) {
            return Turn::Blocked;
        }
        let Some(flow) = self.table.get_mut(id) else { return Turn::Done };
        if flow.todo.ack && matches!(flow.phase, Phase::SynReceived | Phase::Open | Phase::TimeWait) {
            let header = flow.header(cx, flow.seq_without_payload(), TcpControl::None);
            if send_header(cx, shared, flow, &header) == Sent::Full {
                return Turn::Blocked;
            }
            flow.todo.ack = false;
        }
        turn
    }

    /// Removes what the guest has acknowledged from the socket's receive queue.
    pub(super) fn discard(&mut self, cx: &mut Context<'_>, id: u32) -> io::Result<()> {
        let Some(flow) = self.table.get_mut(id) else { return Ok(()) };
        match flow.socket {
            Some(socket) if flow.to_discard > 0 => cx.host.discard(socket, std::mem::take(&mut flow.to_discard) as usize),
            _ => Ok(()),
        }
    }

    /// Sends the SYN or SYN-ACK that is due. Nothing else can be sent before it was answered.
    fn send_syn(&mut self, cx: &mut Context<'_>, shared: &mut Shared, id: u32) -> ControlFlow<Turn> {
        let Some(flow) = self.table.get(id) else { return ControlFlow::Break(Turn::Done) };
        if !matches!(flow.phase, Phase::SynReceived | Phase::SynSent) {
            return ControlFlow::Continue(());
        }
        if !flow.todo.syn {
            // A guest that has begun anew meanwhile is asked back.
            let ack = flow.todo.ack && flow.phase == Phase::SynReceived;
            return if ack { ControlFlow::Continue(()) } else { ControlFlow::Break(Turn::Done) };
        }
        if flow.phase == Phase::SynSent {
            self.seek(cx, shared, id);
        }
        let Some(flow) = self.table.get_mut(id) else { return ControlFlow::Break(Turn::Done) };
        if flow.station != UNKNOWN_STATION {
            let mut header = flow.header(cx, flow.snd_una, TcpControl::Syn);
            header.options = Some(flow.syn_options(cx.link.mtu(flow.station.port)));
            if flow.phase == Phase::SynSent {
                header.ack = None;
                header.window = u16::MAX;
            }
            match send_header(cx, shared, flow, &header) {
                Sent::Full => return ControlFlow::Break(Turn::Blocked),
                Sent::Yes | Sent::Declined => {}
            }
            flow.snd_nxt = flow.snd_una + 1;
            flow.snd_max = flow.snd_nxt;
        }
        flow.todo.syn = false;
        if flow.retransmit_at.is_none_or(|at| at <= cx.now) {
            Self::start_retransmit_timer(flow, id, shared, cx.now);
        }
        ControlFlow::Break(Turn::Done)
    }

    /// Sends what the socket has and the guest's window allows, in frames as large as the port takes.
    pub(super) fn send_data(&mut self, cx: &mut Context<'_>, shared: &mut Shared, id: u32) -> Turn {
        let mut budget = TURN_BYTES;
        for _ in 0..TURN_FRAMES {
            let Some(flow) = self.table.get_mut(id) else { return Turn::Done };
            if flow.phase != Phase::Open || !flow.todo.read || flow.host_closed || flow.fin_acked {
                return Turn::Done;
            }
            let room = flow.room_in_window();
            // A window that has opened meanwhile needs no probe.
            let probe = std::mem::take(&mut flow.todo.probe) && room == 0;
            if room == 0 && !probe {
                if flow.retransmit_at.is_none() {
                    Self::start_retransmit_timer(flow, id, shared, cx.now);
                }
                return Turn::Done;
            }
            match flow.send_segment(cx, shared, flow.snd_nxt, room.max(1)) {
                Peeked::Full => {
                    flow.todo.probe = probe;
                    return Turn::Blocked;
                }
                Peeked::Bytes(len) => {
                    self.data_sent(cx, shared, id, len, probe);
                    budget = budget.saturating_sub(len);
                    if budget == 0 {
                        return Turn::Again;
                    }
                }
                Peeked::End => {
                    flow.host_closed = true;
                    return Turn::Done;
                }
                Peeked::Nothing => {
                    flow.todo.read = false;
                    if flow.snd_una == flow.snd_max {
                        // A guest with a closed window owes no answer while there is nothing to ask it about.
                        flow.stop_retransmitting();
                    }
                    return Turn::Done;
                }
                Peeked::Failed(error) => {
                    self.host_failed(cx, shared, id, &error);
                    return Turn::Done;
                }
            }
        }
        Turn::Again
    }

    /// Sends the first unacknowledged segment again, if it is known to be lost. Returns false if the port is full.
    fn resend(&mut self, cx: &mut Context<'_>, shared: &mut Shared, id: u32) -> bool {
        let Some(flow) = self.table.get_mut(id) else { return true };
        if !flow.todo.resend || flow.phase != Phase::Open {
            return true;
        }
        let sent = flow.snd_max.ahead_of(flow.snd_una) - u32::from(flow.fin_sent && !flow.fin_acked);
        let sent_again = if sent > 0 {
            flow.send_segment(cx, shared, flow.snd_una, usize::from(flow.mss).min(sent as usize))
        } else {
            let header = flow.header(cx, flow.snd_una, TcpControl::Fin);
            if send_header(cx, shared, flow, &header) == Sent::Full { Peeked::Full } else { Peeked::Nothing }
        };
        match sent_again {
            Peeked::Full => return false,
            Peeked::Failed(error) => self.host_failed(cx, shared, id, &error),
            Peeked::Bytes(_) | Peeked::End | Peeked::Nothing => {
                flow.todo.resend = false;
                // Karn's algorithm: what was sent twice is not timed.
                flow.rtt.timed = None;
                Self::start_retransmit_timer(flow, id, shared, cx.now);
            }
        }
        true
    }

    /// Notes that `len` bytes from `snd_nxt` on were sent, into the guest's window or to probe a closed one.
    fn data_sent(&mut self, cx: &Context<'_>, shared: &mut Shared, id: u32, len: usize, probe: bool) {
        let Some(flow) = self.table.get_mut(id) else { return };
        let len = u32::try_from(len).unwrap_or(0);
        flow.todo.ack = false;
        flow.heard = cx.now;
        if probe {
            shared.counters.tcp_window_probes += 1;
            // The guest need not take what is beyond its window: once it opens, what is sent begins with the same byte.
            flow.snd_max = flow.snd_max.max(flow.snd_nxt + len);
        } else {
            flow.advance(len, cx.now);
        }
        if flow.retransmit_at.is_none() {
            Self::start_retransmit_timer(flow, id, shared, cx.now);
        }
    }

    /// Sends FIN. Returns false if the port is full.
    fn send_fin(&mut self, cx: &mut Context<'_>, shared: &mut Shared, id: u32) -> bool {
        let Some(flow) = self.table.get_mut(id) else { return true };
        let header = flow.header(cx, flow.snd_nxt, TcpControl::Fin);
        if send_header(cx, shared, flow, &header) == Sent::Full {
            return false;
        }
        flow.active_close |= !flow.guest_closed && !flow.fin_sent;
        flow.fin_sent = true;
        flow.todo.ack = false;
        flow.advance(1, cx.now);
        if flow.retransmit_at.is_none() {
            Self::start_retransmit_timer(flow, id, shared, cx.now);
        }
        self.schedule_expiry(shared, id);
        true
    }
}

impl Flow {
    fn path(&self, shared: &Shared) -> Path {
        path(shared, self.station, &self.key)
    }

    /// Sends what the socket has from `seq` on, at most `want` bytes, in one frame; a super-frame if the port takes those.
    fn send_segment(&mut self, cx: &mut Context<'_>, shared: &mut Shared, seq: Seq, want: usize) -> Peeked {
        let Some(socket) = self.socket else { return Peeked::Nothing };
        let path = self.path(shared);
        let port = path.station.port;
        let offloads = cx.link.offloads(port);
        let super_frames = if path.destination.is_ipv4() { offloads.tso4 } else { offloads.tso6 };
        let mss = usize::from(self.mss);
        let want = want.min(if super_frames { largest_super_frame(&path, mss) } else { mss });
        let headers = path.header_len() + TCP_HEADER_LEN;
        // What was acknowledged has been discarded at the beginning of this turn.
        let offset = seq.ahead_of(self.snd_una) as usize + usize::from(planted!(WrongOffset) && seq < self.snd_max);
        let header = self.header(cx, seq, TcpControl::Psh);

        let mut peeked = Peeked::Nothing;
        let mut bytes = 0;
        let host = &mut *cx.host;
        let sent = cx.link.send(port, headers + want, &mut |room| {
            let mut parts = [const { ChunkMut::empty() }; MAX_CHUNKS];
            let count = room.parts(headers, want, &mut parts);
            peeked = match host.peek(socket, offset, &mut parts[..count]) {
                Ok(0) => Peeked::End,
                Ok(len) => Peeked::Bytes(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Peeked::Nothing,
                Err(error) => Peeked::Failed(error),
            };
            let Peeked::Bytes(len) = peeked else { return None };
            let filled = header.finish(room, &path, len, mss, &offloads);
            bytes = filled.0;
            Some(filled)
        });
        match sent {
            Sent::Full => return Peeked::Full,
            Sent::Yes => {
                shared.counters.frames_out += 1;
                shared.counters.bytes_out += bytes as u64;
            }
            Sent::Declined => {}
        }
        peeked
    }

    /// The header of a segment at `seq`. Where an acknowledgement is due, the window is looked at anew.
    fn header(&mut self, cx: &mut Context<'_>, seq: Seq, control: TcpControl) -> Header {
        if (self.todo.ack || control == TcpControl::Syn)
            && !self.guest_closed
            && let Some(socket) = self.socket
        {
            let room = cx.host.send_room(socket);
            self.rcv_adv = self.right_edge(room);
            self.await_room(cx, socket, room);
        }
        // The window of a SYN is not scaled (RFC 7323 section 2.2).
        let scale = if control == TcpControl::Syn { 0 } else { self.rcv_scale.unwrap_or(0) };
        let open = self.rcv_adv.ahead_of(self.rcv_nxt);
        let window = u16::try_from(open >> scale).unwrap_or(u16::MAX);
        if control == TcpControl::Syn {
            self.rcv_adv = self.rcv_nxt + u32::from(window);
        }
        Header {
            source_port: self.key.remote.port(),
            destination_port: self.key.guest.port(),
            seq,
            ack: Some(self.rcv_nxt + u32::from(planted!(AckTooFar) && self.held.is_some())),
            control,
            window,
            options: None,
        }
    }

    /// The sequence number of a segment that only acknowledges. After going back to send again, the next one to be sent may be one that
    /// the guest has already: it would throw the segment away, and its acknowledgement with it (RFC 9293 section 3.10.7.4). The same goes
    /// for one beyond its window.
    fn seq_without_payload(&self) -> Seq {
        let edge = self.snd_una + self.snd_wnd;
        let latest = if self.snd_max > edge { edge } else { self.snd_max };
        latest.max(self.snd_nxt)
    }

    /// How many bytes the guest may be sent now. Small pieces of a large window are left until there is more room (RFC 9293 section
    /// 3.8.6.2.1).
    fn room_in_window(&self) -> usize {
        let (in_flight, mss) = (self.in_flight(), u32::from(self.mss));
        let room = self.snd_wnd.min(MAX_IN_FLIGHT).saturating_sub(in_flight);
        let uncongested = self.congestion.window().saturating_sub(in_flight);
        let silly = in_flight > 0 && room < mss.min(self.max_wnd / 2) || in_flight >= mss && uncongested < mss;
        if silly { 0 } else { room.min(uncongested) as usize }
    }

    /// Nothing is under way any more, and nothing waits for a closed window.
    pub(super) fn stop_retransmitting(&mut self) {
        self.retransmit_at = None;
        self.rtt.backoff = 0;
        self.probes = 0;
    }

    /// Moves on by `len` sequence numbers that were sent.
    fn advance(&mut self, len: u32, now: crate::time::Instant) {
        self.snd_nxt += len;
        // Karn's algorithm: what was sent before is not timed.
        if self.snd_nxt > self.snd_max {
            self.rtt.timed.get_or_insert((self.snd_nxt, now));
        }
        self.snd_max = self.snd_max.max(self.snd_nxt);
    }
}

/// The payload of the largest super-frame: whole segments that fit a frame. An IPv6 packet could be longer by its header.
fn largest_super_frame(path: &Path, mss: usize) -> usize {
    let most = MAX_FRAME - path.header_len() - TCP_HEADER_LEN;
    if mss >= most { most } else { most / mss * mss }
}

fn path(shared: &Shared, station: Station, key: &FlowKey) -> Path {
    let source = key.remote.ip();
    Path { station, router: shared.router_mac(source), source, destination: key.guest.ip() }
}

fn send_header(cx: &mut Context<'_>, shared: &mut Shared, flow: &Flow, header: &Header) -> Sent {
    send_control(cx, shared, flow.station, &flow.key, header)
}

/// Sends a segment without payload.
pub(super) fn send_control(cx: &mut Context<'_>, shared: &mut Shared, station: Station, key: &FlowKey, header: &Header) -> Sent {
    let path = path(shared, station, key);
    let offloads = cx.link.offloads(station.port);
    emit::send(cx, shared, station.port, path.header_len() + header.len(), &mut |room| {
        Some(header.finish(room, &path, 0, usize::MAX, &offloads))
    })
}

/// Refuses a SYN; `ack` is behind it.
pub(super) fn send_refusal(cx: &mut Context<'_>, shared: &mut Shared, station: Station, key: &FlowKey, ack: Seq) {
    send_control(cx, shared, station, key, &reset(key, Seq(0), Some(ack)));
}

/// A reset for the guest's side of a flow that is gone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parting {
    station: Station,
    key: FlowKey,
    seq: Seq,
    ack: Option<Seq>,
}

impl Parting {
    /// The reset of a flow whose guest knows of it.
    pub(super) fn of(flow: &Flow) -> Option<Self> {
        let ack = (flow.phase != Phase::SynSent).then_some(flow.rcv_nxt);
        let knows = flow.phase != Phase::Connecting && flow.station != UNKNOWN_STATION;
        knows.then_some(Self { station: flow.station, key: flow.key, seq: flow.snd_max, ack })
    }

    pub(super) const fn port(&self) -> PortId {
        self.station.port
    }

    pub(super) fn send(&self, cx: &mut Context<'_>, shared: &mut Shared) -> Sent {
        send_control(cx, shared, self.station, &self.key, &reset(&self.key, self.seq, self.ack))
    }
}

/// Asks the guest whether it is still there: an old sequence number that it must answer (RFC 9293 section 3.8.4).
pub(super) fn send_keepalive(cx: &mut Context<'_>, shared: &mut Shared, flow: &mut Flow) {
    let header = flow.header(cx, flow.snd_una - 1, TcpControl::None);
    send_header(cx, shared, flow, &header);
}

const fn reset(key: &FlowKey, seq: Seq, ack: Option<Seq>) -> Header {
    Header {
        source_port: key.remote.port(),
        destination_port: key.guest.port(),
        seq,
        ack,
        control: TcpControl::Rst,
        window: 0,
        options: None,
    }
}
