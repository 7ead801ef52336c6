//! How connections end: closed by both sides, reset by either, or given up.

use std::io;

use super::flow::{Flow, Phase};
use super::open::quote;
use super::transmit::Parting;
use super::{Relay, transmit};
use crate::port::Sent;
use crate::stack::icmp;
use crate::stack::token::Owner;
use crate::stack::{Context, Shared};
use crate::time::{Duration, Instant};
use crate::wire::icmp_error::{Problem, Unreachable};

/// How long TIME-WAIT lasts. Twice the lifetime of a segment (RFC 9293 section 3.6.1), which on a link that does not leave the machine is
/// short; and a guest that is in a hurry may use the port again at once (RFC 6191).
const TIME_WAIT: Duration = Duration::from_secs(1);

/// A silent guest is asked this often whether it is still there, this long apart, before it is given up (RFC 9293 section 3.8.4).
const KEEPALIVE_PROBES: u8 = 3;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(75);

/// A segment is sent this often before the guest is given up: a little over five minutes with the time-outs of RFC 6298, as RFC 9293
/// section 3.8.3 asks of R2.
const MAX_BACKOFF: u8 = 9;

/// What becomes of a flow's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// What is queued is still sent.
    Close,
    /// The peer sees a reset.
    Reset,
}

impl Relay {
    /// Takes a flow out of the table and ends its socket.
    pub(super) fn drop_flow(&mut self, cx: &mut Context<'_>, id: u32, ending: Ending) {
        let Some(flow) = self.table.remove(id) else { return };
        self.held -= flow.held_len();
        if matches!(flow.phase, Phase::Connecting | Phase::SynReceived | Phase::SynSent) {
            self.opening -= 1;
        }
        if planted!(LeakSocket) && flow.phase == Phase::Connecting {
            return;
        }
        if let Some(socket) = flow.socket {
            match ending {
                Ending::Close => cx.host.close(socket),
                Ending::Reset => cx.host.reset(socket),
            }
        }
    }

    /// The host's side is broken: the guest sees a reset, or learns why it cannot be reached.
    pub(super) fn host_failed(&mut self, cx: &mut Context<'_>, shared: &mut Shared, id: u32, error: &io::Error) {
        match self.table.get(id) {
            Some(flow) if flow.phase == Phase::Connecting => self.refuse(cx, shared, id, error),
            Some(flow) if flow.phase == Phase::Open && !flow.todo.last => {
                self.send_last(cx, shared, id);
                self.host_failed(cx, shared, id, error);
            }
            Some(_) => {
                shared.counters.tcp_reset_by_host += 1;
                self.abort(cx, shared, id);
            }
            None => {}
        }
    }

    /// Sends what had arrived before the host's side broke: without a relay between, the guest would have it too.
    fn send_last(&mut self, cx: &mut Context<'_>, shared: &mut Shared, id: u32) {
        let Some(flow) = self.table.get_mut(id) else { return };
        flow.todo.last = true;
        flow.todo.read = true;
        if self.discard(cx, id).is_ok() {
            self.send_data(cx, shared, id);
        }
    }

    /// Resets both sides.
    pub(super) fn abort(&mut self, cx: &mut Context<'_>, shared: &mut Shared, id: u32) {
        if let Some(parting) = self.table.get(id).and_then(Parting::of)
            && parting.send(cx, shared) == Sent::Full
        {
            self.part_later(parting);
        }
        self.drop_flow(cx, id, Ending::Reset);
    }

    /// A guest that only waits for what the host sends would never learn of a reset that its port had no room for.
    fn part_later(&mut self, parting: Parting) {
        let waiting = self.partings.entry(parting.port()).or_default();
        // Each was a connection, and a guest that takes nothing opens no others.
        if waiting.len() < self.limits.tcp_flows {
            waiting.push(parting);
        }
    }

    /// Sends resets that had to wait, at most `budget` of them. Returns how many.
    pub(super) fn part(&mut self, cx: &mut Context<'_>, shared: &mut Shared, budget: usize) -> usize {
        for sent in 0..budget {
            let Some(parting) = self.parting.pop() else { return sent };
            if parting.send(cx, shared) == Sent::Full {
                self.part_later(parting);
            }
        }
        budget
    }

    /// The guest has closed: once the socket has everything, so does the host's side.
    pub(super) fn finish_sending(&mut self, cx: &mut Context<'_>, id: u32) {
        if let Some(flow) = self.table.get(id)
            && flow.held.is_none()
            && let Some(socket) = flow.socket
        {
            // A socket that is no longer connected says so by an event of its own.
            let _ = cx.host.shutdown_write(socket);
        }
    }

    /// Ends a flow that both sides have closed.
    pub(super) fn try_finish(&mut self, cx: &mut Context<'_>, shared: &mut Shared, id: u32) {
        let Some(flow) = self.table.get_mut(id) else { return };
        if flow.phase != Phase::Open || !flow.is_finished() {
            return;
        }
        // Bytes left in the receive queue would make the kernel send a reset.
        let _ = self.discard(cx, id);
        let Some(flow) = self.table.get_mut(id) else { return };
        if !flow.active_close {
            return self.drop_flow(cx, id, Ending::Close);
        }
        if let Some(socket) = flow.socket.take() {
            cx.host.close(socket);
        }
        flow.phase = Phase::TimeWait;
        flow.heard = cx.now;
        flow.retransmit_at = None;
        self.schedule_expiry(shared, id);
    }

    /// Sees to it that the flow is looked at when it may have to be given up.
    pub(super) fn schedule_expiry(&mut self, shared: &mut Shared, id: u32) {
        let Some(at) = self.table.get(id).map(|flow| self.expiry(flow)) else { return };
        if self.table.timers_mut(id).is_some_and(|timers| timers.expire.want(at)) {
            shared.wheel.set(at, Owner::TcpExpire { id });
        }
    }

    /// When a flow will have been silent for too long.
    fn expiry(&self, flow: &Flow) -> Instant {
        let times = &self.timeouts;
        let patience = match flow.phase {
            Phase::Connecting => times.tcp_connect,
            Phase::SynReceived | Phase::SynSent => times.tcp_guest_connect,
            Phase::TimeWait => TIME_WAIT,
            Phase::Open if flow.guest_closed && flow.fin_sent => times.tcp_closing,
            Phase::Open if flow.guest_closed || flow.fin_sent => times.tcp_half_closed,
            Phase::Open => times.tcp_idle.saturating_add(KEEPALIVE_INTERVAL * flow.probes.into()),
        };
        flow.heard + patience
    }

    /// The expiry timer of a flow has come due.
    pub(crate) fn expire(&mut self, cx: &mut Context<'_>, shared: &mut Shared, id: u32) {
        if !self.table.timers_mut(id).is_some_and(|timers| timers.expire.come(cx.now)) {
            return;
        }
        let Some(flow) = self.table.get(id) else { return };
        let (phase, half) = (flow.phase, flow.guest_closed || flow.fin_sent);
        let (station, key, irs) = (flow.station, flow.key, flow.rcv_nxt - 1);
        if self.table.get(id).is_some_and(|flow| cx.now < self.expiry(flow)) {
            return self.schedule_expiry(shared, id);
        }
        match phase {
            Phase::TimeWait if planted!(LeakFlow) => {}
            Phase::TimeWait => self.drop_flow(cx, id, Ending::Close),
            Phase::Connecting => {
                shared.counters.tcp_connect_failed += 1;
                self.drop_flow(cx, id, Ending::Close);
                icmp::tell(cx, shared, station, Problem::Unreachable(Unreachable::Host), &quote(&key, irs));
            }
            Phase::Open if !half => self.ask(cx, shared, id),
            Phase::SynReceived | Phase::SynSent | Phase::Open => {
                shared.counters.tcp_expired += 1;
                self.abort(cx, shared, id);
            }
        }
    }

    /// Asks a silent guest whether it is still there, or gives it up.
    fn ask(&mut self, cx: &mut Context<'_>, shared: &mut Shared, id: u32) {
        let Some(flow) = self.table.get_mut(id) else { return };
        if flow.probes >= KEEPALIVE_PROBES {
            shared.counters.tcp_expired += 1;
            return self.abort(cx, shared, id);
        }
        flow.probes += 1;
        transmit::send_keepalive(cx, shared, flow);
        self.schedule_expiry(shared, id);
    }

    /// The retransmission timer of a flow has come due (RFC 6298 section 5; for a closed window, RFC 9293 section 3.8.6.1).
    pub(crate) fn retransmit(&mut self, cx: &mut Context<'_>, shared: &mut Shared, id: u32) {
        if !self.table.timers_mut(id).is_some_and(|timers| timers.retransmit.come(cx.now)) {
            return;
        }
        let Some(flow) = self.table.get_mut(id) else { return };
        let Some(at) = flow.retransmit_at else { return };
        if cx.now < at {
            return Self::arm_retransmit(flow, id, shared, at);
        }
        if flow.phase == Phase::Connecting {
            return self.connect_again(cx, shared, id);
        }
        // A guest may keep its window closed for as long as it answers; everything else must be acknowledged some time.
        let window_closed = flow.phase == Phase::Open && flow.snd_wnd == 0;
        let unanswered = if window_closed { flow.probes } else { flow.rtt.backoff };
        if unanswered >= MAX_BACKOFF {
            shared.counters.tcp_expired += 1;
            return self.abort(cx, shared, id);
        }
        match flow.phase {
            Phase::SynReceived => flow.todo.syn = true,
            Phase::SynSent => {
                flow.todo.syn = true;
                if flow.rtt.backoff > 0 {
                    // RFC 1122 section 2.3.2.1: what was known of the guest's station may be out of date.
                    shared.solicit(cx, flow.key.guest.ip());
                }
            }
            Phase::Open if window_closed => {
                flow.rewind();
                flow.todo.probe = true;
                flow.probes += 1;
            }
            Phase::Open => {
                shared.counters.tcp_timeouts += 1;
                flow.recover = flow.snd_max;
                flow.congestion.timed_out(flow.snd_max.ahead_of(flow.snd_una), flow.mss.into());
                flow.rewind();
            }
            Phase::Connecting | Phase::TimeWait => return,
        }
        flow.rtt.back_off();
        Self::start_retransmit_timer(flow, id, shared, cx.now);
        self.enqueue(id);
    }
}
