//! From the guest to the socket (RFC 9293 section 3.10.7).

use std::io;

use super::close::Ending;
use super::flow::{Flow, Phase, largest_segment};
use super::segment::Segment;
use super::seq::Seq;
use super::{Relay, send_reset};
use crate::frame::{Chunk, Frame};
use crate::host::{SendRoom, SocketId};
use crate::stack::neighbour::Station;
use crate::stack::{Context, Shared};

/// Chunks of a frame that go into one system call.
const MAX_CHUNKS: usize = 64;

/// Duplicate acknowledgements that mean a loss (RFC 5681 section 3.2).
const DUPLICATE_ACKS: u8 = 3;

impl Relay {
    /// A segment for a flow that exists.
    pub(super) fn segment_arrived(
        &mut self,
        cx: &mut Context<'_>,
        shared: &mut Shared,
        id: u32,
        station: Station,
        segment: &Segment,
        frame: &Frame<'_>,
    ) {
        let Some(flow) = self.table.get_mut(id) else { return };
        if flow.station.port != station.port {
            // Another guest that uses this one's address gets no hold of its connections. Behind one port all are one.
            shared.counters.drop_source += 1;
            return;
        }
        match flow.phase {
            Phase::Connecting if segment.rst => self.drop_flow(cx, id, Ending::Reset),
            // A guest that was started again has not been answered yet, and need not notice that it was.
            Phase::Connecting if segment.syn && segment.ack.is_none() && segment.seq + 1 != flow.rcv_nxt => {
                let largest = largest_segment(cx.link.mtu(station.port), flow.key.guest);
                flow.station = station;
                flow.negotiate(segment.seq, segment.mss, segment.window_scale, largest);
                flow.set_window_of_syn(segment);
            }
            // The guest asks again; the answer comes when there is one.
            Phase::Connecting => {}
            Phase::SynSent => self.answered(cx, shared, id, station, segment),
            Phase::TimeWait if is_new_connection(flow, segment) => {
                let key = flow.key;
                self.drop_flow(cx, id, Ending::Close);
                self.open(cx, shared, station, key, segment);
            }
            Phase::SynReceived if segment.syn && segment.seq + 1 == flow.rcv_nxt => {
                flow.todo.syn = true;
                self.enqueue(id);
            }
            _ => self.synchronized(cx, shared, id, station, segment, frame),
        }
    }

    /// The guest answers our SYN (RFC 9293 section 3.10.7.3).
    fn answered(&mut self, cx: &mut Context<'_>, shared: &mut Shared, id: u32, station: Station, segment: &Segment) {
        let Some(flow) = self.table.get_mut(id) else { return };
        let expected = segment.ack == Some(flow.snd_una + 1);
        if segment.rst {
            if expected {
                shared.counters.tcp_reset_by_guest += 1;
                self.drop_flow(cx, id, Ending::Reset);
            }
        } else if !expected {
            let key = flow.key;
            send_reset(cx, shared, station, &key, segment);
        } else if segment.syn {
            let mtu = cx.link.mtu(station.port);
            flow.station = station;
            flow.negotiate(segment.seq, segment.mss, segment.window_scale, largest_segment(mtu, flow.key.guest));
            flow.snd_una += 1;
            flow.set_window_of_syn(segment);
            flow.todo.ack = true;
            self.established(cx, shared, id);
        }
    }

    fn established(&mut self, cx: &Context<'_>, shared: &mut Shared, id: u32) {
        let Some(flow) = self.table.get_mut(id) else { return };
        self.opening -= 1;
        flow.phase = Phase::Open;
        flow.heard = cx.now;
        flow.snd_nxt = flow.snd_nxt.max(flow.snd_una);
        flow.recover = flow.snd_una;
        flow.retransmit_at = None;
        flow.rtt.backoff = 0;
        self.schedule_expiry(shared, id);
        self.enqueue(id);
    }

    fn synchronized(
        &mut self,
        cx: &mut Context<'_>,
        shared: &mut Shared,
        id: u32,
        station: Station,
        segment: &Segment,
        frame: &Frame<'_>,
    ) {
        let Some(flow) = self.table.get_mut(id) else { return };
        // RFC 5961 sections 3 and 4: a reset must hit exactly; a near miss, or a SYN, is asked back.
        if segment.rst {
            if segment.seq == flow.rcv_nxt {
                shared.counters.tcp_reset_by_guest += 1;
                self.drop_flow(cx, id, Ending::Reset);
            } else if flow.in_window(segment.seq) {
                self.acknowledge(id);
            }
            return;
        }
        if segment.syn || !flow.is_acceptable(segment) {
            shared.counters.tcp_out_of_window += 1;
            return self.acknowledge(id);
        }
        let Some(ack) = segment.ack else {
            shared.counters.drop_malformed += 1;
            return;
        };
        flow.heard = cx.now;
        flow.probes = 0;
        if flow.phase == Phase::SynReceived {
            if ack != flow.snd_una + 1 {
                let (station, key) = (flow.station, flow.key);
                return send_reset(cx, shared, station, &key, segment);
            }
            flow.snd_una = ack;
            flow.snd_wnd = u32::from(segment.window) << flow.snd_scale;
            flow.max_wnd = flow.max_wnd.max(flow.snd_wnd);
            flow.snd_wl1 = segment.seq;
            flow.snd_wl2 = ack;
            self.established(cx, shared, id);
        }
        if !self.acknowledged(cx, shared, id, ack, segment) {
            return self.acknowledge(id);
        }
        if let Some(flow) = self.table.get_mut(id) {
            // A guest may change its card.
            flow.station = station;
        }
        if segment.payload_len > 0 || segment.fin {
            self.text(cx, shared, id, segment, frame);
        }
        self.try_finish(cx, shared, id);
    }

    /// Has the guest sent an acknowledgement at the flow's next turn.
    pub(super) fn acknowledge(&mut self, id: u32) {
        if let Some(flow) = self.table.get_mut(id) {
            flow.todo.ack = true;
            self.enqueue(id);
        }
    }

    /// Takes the acknowledgement and the window of a segment. Returns false for an acknowledgement that no guest can send.
    fn acknowledged(&mut self, cx: &Context<'_>, shared: &mut Shared, id: u32, ack: Seq, segment: &Segment) -> bool {
        let Some(flow) = self.table.get_mut(id) else { return true };
        // RFC 5961 section 5.2: what is too old to be from this guest is worth as little as what is too new.
        if ack > flow.snd_max || flow.snd_una.ahead_of(ack) > flow.max_wnd {
            return false;
        }
        let window = u32::from(segment.window) << flow.snd_scale;
        let advance = ack.ahead_of(flow.snd_una);
        if advance > 0 {
            let fin = u32::from(flow.fin_sent && ack == flow.snd_max);
            flow.snd_una = ack;
            flow.snd_nxt = flow.snd_nxt.max(ack);
            flow.to_discard += advance - fin;
            flow.fin_acked = fin == 1;
            flow.duplicate_acks = 0;
            flow.todo.resend = flow.congestion.acknowledged(advance - fin, flow.mss.into(), ack >= flow.recover);
            // Left behind by 2 GiB, it would seem to be ahead.
            flow.recover = flow.recover.max(ack);
            flow.rtt.acknowledged(ack, cx.now);
            if flow.snd_una == flow.snd_max {
                flow.retransmit_at = None;
            } else {
                Self::start_retransmit_timer(flow, id, shared, cx.now);
            }
            self.enqueue(id);
        } else if ack == flow.snd_una
            && segment.payload_len == 0
            && !segment.fin
            && window == flow.snd_wnd
            && window > 0
            && flow.snd_max > flow.snd_una
        {
            flow.duplicate_acks = flow.duplicate_acks.saturating_add(1);
            if flow.congestion.is_recovering() {
                flow.congestion.duplicate(flow.mss.into());
                self.enqueue(id);
            } else if flow.duplicate_acks == DUPLICATE_ACKS && flow.snd_una >= flow.recover {
                shared.counters.tcp_fast_retransmits += 1;
                flow.recover = flow.snd_max;
                flow.congestion.lost(flow.snd_max.ahead_of(flow.snd_una), flow.mss.into());
                flow.todo.resend = true;
                self.enqueue(id);
            }
        }
        let Some(flow) = self.table.get_mut(id) else { return true };
        // RFC 9293 section 3.10.7.4: an old segment must not undo a newer window.
        if planted!(StaleWindow) || flow.snd_wl1 < segment.seq || flow.snd_wl1 == segment.seq && flow.snd_wl2 <= ack {
            let opened = window > flow.snd_wnd;
            if opened && flow.snd_wnd == 0 {
                // How long it was closed says nothing about how long to wait for what is sent now.
                flow.rtt.backoff = 0;
                if flow.retransmit_at.is_some() {
                    Self::start_retransmit_timer(flow, id, shared, cx.now);
                }
            }
            flow.snd_wnd = window;
            flow.max_wnd = flow.max_wnd.max(window);
            flow.snd_wl1 = segment.seq;
            flow.snd_wl2 = ack;
            if opened {
                if flow.snd_una == flow.snd_max {
                    // The timer was for probing the closed window.
                    flow.retransmit_at = None;
                    flow.rtt.backoff = 0;
                }
                self.enqueue(id);
            }
        }
        true
    }

    /// Takes the payload and the end of a segment.
    fn text(&mut self, cx: &mut Context<'_>, shared: &mut Shared, id: u32, segment: &Segment, frame: &Frame<'_>) {
        self.acknowledge(id);
        let Some(flow) = self.table.get_mut(id) else { return };
        if flow.guest_closed {
            return;
        }
        if segment.seq > flow.rcv_nxt {
            // Nothing is kept out of order: the duplicate acknowledgement makes the guest send the missing part and this one again.
            shared.counters.tcp_out_of_order += 1;
            return;
        }
        let seen = flow.rcv_nxt.ahead_of(segment.seq) as usize;
        if seen > 0 {
            shared.counters.tcp_out_of_order += 1;
        }
        let offered = segment.payload_len.saturating_sub(seen);
        let allowed = offered.min(flow.rcv_adv.ahead_of(flow.rcv_nxt) as usize);
        let Ok(taken) = self.relay(cx, shared, id, frame, segment.payload_offset + segment.payload_len - offered, allowed) else {
            return;
        };
        let Some(flow) = self.table.get_mut(id) else { return };
        flow.rcv_nxt += u32::try_from(taken).unwrap_or(0);
        if segment.fin && taken == offered {
            flow.rcv_nxt += 1;
            flow.guest_closed = true;
            self.finish_sending(cx, id);
            self.schedule_expiry(shared, id);
        }
    }

    /// Passes on `len` bytes of a frame. Returns how many were taken, by the socket or to be held; all others have to come again.
    fn relay(
        &mut self,
        cx: &mut Context<'_>,
        shared: &mut Shared,
        id: u32,
        frame: &Frame<'_>,
        offset: usize,
        len: usize,
    ) -> Result<usize, Gone> {
        let flow = self.table.get_mut(id).ok_or(Gone)?;
        let socket = flow.socket.ok_or(Gone)?;
        let mut taken = 0;
        while taken < len && flow.held.is_none() {
            let mut parts = [Chunk::empty(); MAX_CHUNKS];
            let count = frame.parts(offset + taken, len - taken, &mut parts);
            let parts = &parts[..count];
            let want: usize = parts.iter().map(Chunk::len).sum();
            match cx.host.send(socket, parts) {
                Ok(sent) => {
                    taken += sent + usize::from(planted!(LoseByte) && sent < want);
                    if sent < want || want == 0 {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.host_failed(cx, shared, id, &error);
                    return Err(Gone);
                }
            }
        }
        let rest = len - taken;
        if rest == 0 {
            return Ok(taken);
        }
        if self.held + rest > self.limits.tcp_held_bytes {
            shared.counters.tcp_limit_held += 1;
            return Ok(taken);
        }
        let held = flow.held.get_or_insert_default();
        let mut block = [0; 4096];
        let (mut at, end) = (offset + taken, offset + len);
        while at < end {
            let want = (end - at).min(block.len());
            let got = frame.copy_to(at, &mut block[..want]);
            if got == 0 {
                break;
            }
            held.extend(&block[..got]);
            at += got;
        }
        self.held += rest;
        shared.counters.tcp_held_bytes += rest as u64;
        flow.awaits_room = true;
        cx.host.notify_writable(socket);
        Ok(len)
    }

    /// The socket has room again: what is held goes out, and the guest's window opens.
    pub(super) fn room_in_socket(&mut self, cx: &mut Context<'_>, shared: &mut Shared, id: u32) {
        let Some(flow) = self.table.get_mut(id) else { return };
        let Some(socket) = flow.socket else { return };
        flow.awaits_room = false;
        while let Some(held) = &mut flow.held {
            let (first, second) = held.as_slices();
            match cx.host.send(socket, &[Chunk::from(first), Chunk::from(second)]) {
                Ok(sent) => {
                    let sent = sent - usize::from(planted!(DoubleDeliver) && sent < held.len());
                    held.drain(..sent);
                    self.held -= sent;
                    if held.is_empty() {
                        flow.held = None;
                    } else if sent == 0 {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    flow.awaits_room = true;
                    cx.host.notify_writable(socket);
                    break;
                }
                Err(error) => return self.host_failed(cx, shared, id, &error),
            }
        }
        if self.table.get(id).is_some_and(|flow| flow.guest_closed) && !planted!(ForgetFin) {
            self.finish_sending(cx, id);
            return self.try_finish(cx, shared, id);
        }
        let Some(flow) = self.table.get_mut(id) else { return };
        let room = cx.host.send_room(socket);
        // What was held may have used up the room: then the next event is the one to wait for.
        flow.await_room(cx, socket, room);
        // This event comes once for each time that the room was short, so the update is worth a segment of its own; and nobody else
        // would tell the guest.
        if flow.right_edge(room) > flow.rcv_adv {
            self.acknowledge(id);
        }
    }
}

/// The flow was ended meanwhile.
struct Gone;

/// A SYN for a connection that has just ended begins a new one if it cannot be mistaken for an old segment (RFC 9293 section 3.6.1).
fn is_new_connection(flow: &Flow, segment: &Segment) -> bool {
    segment.syn && segment.ack.is_none() && !segment.rst && segment.seq > flow.rcv_nxt
}

impl Flow {
    fn in_window(&self, seq: Seq) -> bool {
        seq >= self.rcv_nxt && seq < self.rcv_adv.max(self.rcv_nxt + 1)
    }

    /// RFC 9293 section 3.4, but a segment at the left edge always counts, for its acknowledgement, though its payload may not fit.
    fn is_acceptable(&self, segment: &Segment) -> bool {
        let len = segment.len();
        segment.seq == self.rcv_nxt || self.in_window(segment.seq) || len > 0 && self.in_window(segment.seq + (len - 1))
    }

    /// Has the host tell when there is room again, if it is short now.
    pub(super) fn await_room(&mut self, cx: &mut Context<'_>, socket: SocketId, room: SendRoom) {
        if 3 * room.free < room.capacity && !self.awaits_room {
            self.awaits_room = true;
            cx.host.notify_writable(socket);
        }
    }

    /// How far the guest may send, given the room in the socket. Never behind what it was told before.
    pub(super) fn right_edge(&self, room: SendRoom) -> Seq {
        // A quarter is kept back: small writes cost the kernel more than their length. What exceeds the room all the same is held. No
        // window is larger than twice what is offered when the host has told of room, for a guest waits for half of the largest that it
        // has seen (RFC 9293 section 3.8.6.2.1).
        let usable = (room.free - room.free / 4).min(room.capacity / 2).saturating_sub(self.held_len());
        let largest = usize::from(u16::MAX) << self.rcv_scale.unwrap_or(0);
        // Silly windows are not offered (RFC 9293 section 3.8.6.2.2); what is usable of a third is none, for no other event would follow.
        let worth = usize::from(self.mss).min(room.capacity / 4);
        let usable = if usable < worth { 0 } else { usable.min(largest) };
        let edge = self.rcv_nxt + u32::try_from(usable).unwrap_or(0);
        if planted!(WindowBack) { edge } else { self.rcv_adv.max(edge) }
    }
}
