//! One relayed connection: what is remembered of it.
//!
//! No payload is kept here. What the guest sent is in the send queue of the host's socket, what is for the guest waits in that socket's
//! receive queue until the guest has acknowledged it. A flow is a few hundred bytes plus its socket.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::congestion::Congestion;
use super::segment::SynOptions;
use super::seq::Seq;
use crate::host::SocketId;
use crate::stack::neighbour::Station;
use crate::stack::timer::Entries;
use crate::time::{Duration, Instant};

/// What identifies a connection: the guest's end, and the other end as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    pub(crate) guest: SocketAddr,
    pub(crate) remote: SocketAddr,
}

/// How far a connection has come. What RFC 9293 section 3.3.2 calls ESTABLISHED, FIN-WAIT-1 and -2, CLOSE-WAIT, CLOSING and LAST-ACK is
/// [`Phase::Open`] here; the flow's flags `guest_closed`, `fin_sent` and `fin_acked` tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The guest's SYN has come; the host's socket is connecting. The guest has not been answered.
    Connecting,
    /// SYN-RECEIVED: the host's socket is connected, and the guest has been sent a SYN-ACK.
    SynReceived,
    /// SYN-SENT: a forward's client is connected, and the guest has been sent a SYN, or is being looked for.
    SynSent,
    /// The handshake with the guest is done.
    Open,
    /// TIME-WAIT: both directions are closed and the socket is gone; a late FIN is acknowledged once more.
    TimeWait,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) key: FlowKey,
    pub(crate) station: Station,
    /// `None` only in TIME-WAIT, and while a full socket of AF_UNIX is to be tried again.
    pub(crate) socket: Option<SocketId>,
    /// Tells this flow from earlier ones in the same place of the table.
    pub(crate) generation: u32,
    /// The generation of the listener that it came by; 0 if the guest has opened it.
    pub(crate) listener: u32,
    pub(crate) phase: Phase,
    pub(crate) todo: Todo,

    /// The next sequence number expected from the guest.
    pub(crate) rcv_nxt: Seq,
    /// The right edge of the window that the guest was given.
    pub(crate) rcv_adv: Seq,
    /// Our window scale; `None` if the guest does not scale.
    pub(crate) rcv_scale: Option<u8>,
    /// Bytes from the guest that the socket has not taken yet, in order. Empty nearly always: the window follows the socket's room.
    #[expect(clippy::box_collection, reason = "a flow that holds nothing, as nearly all do, is smaller by three words")]
    pub(crate) held: Option<Box<VecDeque<u8>>>,
    /// The guest has sent FIN and everything before it.
    pub(crate) guest_closed: bool,
    /// An event was asked for when the send queue has room.
    pub(crate) awaits_room: bool,

    /// The first of our sequence numbers that the guest has not acknowledged.
    pub(crate) snd_una: Seq,
    /// The next to be sent. Behind `snd_max` after it was rewound to send again.
    pub(crate) snd_nxt: Seq,
    /// The highest ever sent.
    pub(crate) snd_max: Seq,
    /// Acknowledged bytes that are still in the socket's receive queue.
    pub(crate) to_discard: u32,
    /// The guest's window in bytes, and the sequence and acknowledgement numbers of the segment that it was told in.
    pub(crate) snd_wnd: u32,
    pub(crate) snd_wl1: Seq,
    pub(crate) snd_wl2: Seq,
    /// The largest window that the guest ever had.
    pub(crate) max_wnd: u32,
    /// The guest's window scale.
    pub(crate) snd_scale: u8,
    /// Payload of the largest segment that the guest takes.
    pub(crate) mss: u16,
    /// The host's side has closed, and everything before that was sent at least up to `snd_nxt`.
    pub(crate) host_closed: bool,
    /// FIN was sent; its sequence number is the one before `snd_max`.
    pub(crate) fin_sent: bool,
    pub(crate) fin_acked: bool,
    /// Our FIN was sent before the guest's had come: TIME-WAIT is ours.
    pub(crate) active_close: bool,

    pub(crate) duplicate_acks: u8,
    /// The highest number sent when the last loss was noticed. Duplicate acknowledgements before it tell of no new loss (RFC 6582).
    pub(crate) recover: Seq,
    pub(crate) congestion: Congestion,
    pub(crate) rtt: RoundTrip,
    /// When to send again what is not acknowledged, or to probe a closed window.
    pub(crate) retransmit_at: Option<Instant>,
    /// When the guest or the host was last heard of.
    pub(crate) heard: Instant,
    /// How often the guest was asked whether it is still there, or whether its window is still closed, since it answered last.
    pub(crate) probes: u8,
    /// What the wheel has for this flow.
    pub(crate) timers: Timers,
}

/// The entries in the wheel for a flow, and for those that had its number before.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Timers {
    pub(crate) retransmit: Entries,
    pub(crate) expire: Entries,
}

/// Work that a flow waits to have done at its next turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Todo {
    /// It is on the ready list, or on the list of those that wait for a full port.
    pub(crate) queued: bool,
    /// A SYN or SYN-ACK is to be sent.
    pub(crate) syn: bool,
    /// The guest is to be sent an acknowledgement, alone if no data goes its way.
    pub(crate) ack: bool,
    /// The socket may have bytes, or an end of file, that were not peeked yet.
    pub(crate) read: bool,
    /// The socket has failed, and what it still had was sent.
    pub(crate) last: bool,
    /// The first unacknowledged segment is known to be lost and is to be sent again, alone.
    pub(crate) resend: bool,
    /// One byte is to be sent although the window is closed.
    pub(crate) probe: bool,
}

impl Flow {
    /// A flow whose guest has opened or is to open with `options`; sequence numbers start at `iss` and `irs`.
    pub(crate) fn new(key: FlowKey, station: Station, phase: Phase, iss: Seq, now: Instant) -> Self {
        Self {
            key,
            station,
            socket: None,
            generation: 0,
            listener: 0,
            phase,
            todo: Todo::default(),
            rcv_nxt: Seq(0),
            rcv_adv: Seq(0),
            rcv_scale: None,
            held: None,
            guest_closed: false,
            awaits_room: false,
            snd_una: iss,
            snd_nxt: iss,
            snd_max: iss,
            to_discard: 0,
            snd_wnd: 0,
            snd_wl1: Seq(0),
            snd_wl2: Seq(0),
            max_wnd: 0,
            snd_scale: 0,
            mss: DEFAULT_MSS,
            host_closed: false,
            fin_sent: false,
            fin_acked: false,
            active_close: false,
            duplicate_acks: 0,
            recover: iss,
            congestion: Congestion::default(),
            rtt: RoundTrip::default(),
            retransmit_at: None,
            heard: now,
            probes: 0,
            timers: Timers::default(),
        }
    }

    /// Takes over what the guest's SYN said of it. `largest` is the most that fits the link.
    pub(crate) fn negotiate(&mut self, irs: Seq, mss: Option<u16>, window_scale: Option<u8>, largest: u16) {
        self.rcv_nxt = irs + 1;
        self.rcv_adv = self.rcv_nxt;
        self.mss = mss.unwrap_or_else(|| default_mss(self.key.guest)).clamp(MIN_MSS, largest.max(MIN_MSS));
        self.rcv_scale = window_scale.map(|_| WINDOW_SCALE);
        self.snd_scale = window_scale.unwrap_or(0);
    }

    /// The options of our SYN or SYN-ACK. A SYN-ACK offers window scaling only to a guest that did (RFC 7323 section 2.2).
    pub(crate) fn syn_options(&self, mtu: u16) -> SynOptions {
        let window_scale = if self.phase == Phase::SynSent { Some(WINDOW_SCALE) } else { self.rcv_scale };
        SynOptions { mss: largest_segment(mtu, self.key.guest), window_scale }
    }

    /// Sequence numbers sent and not acknowledged.
    pub(crate) fn in_flight(&self) -> u32 {
        self.snd_nxt.ahead_of(self.snd_una)
    }

    pub(crate) fn held_len(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.len())
    }

    /// Everything the guest sent has been passed on, and everything we sent was acknowledged, the ends included.
    pub(crate) fn is_finished(&self) -> bool {
        self.guest_closed && self.fin_acked && self.held.is_none()
    }

    /// Goes back to the first unacknowledged byte: everything from there on will be peeked and sent again.
    pub(crate) fn rewind(&mut self) {
        self.snd_nxt = self.snd_una;
        self.host_closed = false;
        self.rtt.timed = None;
        self.todo.resend = false;
        self.todo.read = true;
    }

    /// Whether FIN is the next thing to be sent, for the first time or again.
    pub(crate) fn fin_is_due(&self) -> bool {
        self.host_closed && !self.fin_acked && (!self.fin_sent || self.snd_nxt + 1 == self.snd_max)
    }

    /// The state in the words of RFC 9293 section 3.3.2.
    pub(crate) fn state_name(&self) -> &'static str {
        match (self.phase, self.guest_closed, self.fin_sent, self.fin_acked) {
            (Phase::Connecting, ..) => "CONNECTING",
            (Phase::SynReceived, ..) => "SYN-RECEIVED",
            (Phase::SynSent, ..) => "SYN-SENT",
            (Phase::TimeWait, ..) => "TIME-WAIT",
            (Phase::Open, false, false, _) => "ESTABLISHED",
            (Phase::Open, true, false, _) => "CLOSE-WAIT",
            (Phase::Open, false, true, false) => "FIN-WAIT-1",
            (Phase::Open, false, true, true) => "FIN-WAIT-2",
            (Phase::Open, true, true, _) if self.active_close => "CLOSING",
            (Phase::Open, true, true, _) => "LAST-ACK",
        }
    }
}

/// Our window scale: windows up to 16 MiB in steps of 256 bytes.
pub(crate) const WINDOW_SCALE: u8 = 8;

/// Without the option, the largest segment is what every host must take (RFC 9293 section 3.7.1).
const DEFAULT_MSS: u16 = 536;
const DEFAULT_MSS_IPV6: u16 = 1220;

/// No guest makes us cut its stream finer than this (RFC 791: every link takes 68 bytes).
const MIN_MSS: u16 = 28;

const fn default_mss(guest: SocketAddr) -> u16 {
    if guest.is_ipv4() { DEFAULT_MSS } else { DEFAULT_MSS_IPV6 }
}

/// The payload of the largest segment that fits a packet of `mtu` bytes without options.
pub(crate) fn largest_segment(mtu: u16, guest: SocketAddr) -> u16 {
    mtu.saturating_sub(if guest.is_ipv4() { 40 } else { 60 }).max(MIN_MSS)
}

/// The round trip to the guest, as RFC 6298 measures it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RoundTrip {
    /// Smoothed, and its variation: microseconds. `None` before the first measurement.
    estimate: Option<(u32, u32)>,
    /// How often the time-out was doubled since the guest last acknowledged something new.
    pub(crate) backoff: u8,
    /// The sequence number whose acknowledgement is being timed, and since when (Karn's algorithm: never one sent twice).
    pub(crate) timed: Option<(Seq, Instant)>,
}

impl RoundTrip {
    /// Before anything was measured (RFC 6298 section 2.1).
    const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
    /// RFC 6298 section 2.4 asks for a second, for networks. This is a link within a machine, and longer than any guest keeps an
    /// acknowledgement back.
    const MIN_TIMEOUT: Duration = Duration::from_millis(250);
    const MAX_TIMEOUT: Duration = Duration::from_secs(60);
    const MAX_BACKOFF: u8 = 6;

    /// Notes that everything before `ack` was acknowledged.
    pub(crate) fn acknowledged(&mut self, ack: Seq, now: Instant) {
        self.backoff = 0;
        let Some((_, since)) = self.timed.take_if(|(seq, _)| ack >= *seq) else { return };
        let measured = u32::try_from(now.since(since).as_micros()).unwrap_or(u32::MAX).min(60_000_000);
        self.estimate = Some(match self.estimate {
            None => (measured, measured / 2),
            Some((smoothed, variation)) => {
                (smoothed - smoothed / 8 + measured / 8, variation - variation / 4 + smoothed.abs_diff(measured) / 4)
            }
        });
    }

    /// How long to wait for an acknowledgement: RFC 6298 section 2, doubled by section 5.5.
    pub(crate) fn timeout(&self) -> Duration {
        let base = self.estimate.map_or(Self::FIRST_TIMEOUT, |(smoothed, variation)| {
            Duration::from_micros(u64::from(smoothed) + u64::from(variation.saturating_mul(4)))
        });
        (base.max(Self::MIN_TIMEOUT) * (1 << self.backoff.min(Self::MAX_BACKOFF))).min(Self::MAX_TIMEOUT)
    }

    /// Doubles the time-out.
    pub(crate) fn back_off(&mut self) {
        self.backoff = self.backoff.saturating_add(1);
        self.timed = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_fits_into_half_a_kibibyte() {
        assert!(size_of::<Flow>() <= 512, "{}", size_of::<Flow>());
    }

    #[test]
    fn the_timeout_follows_rfc_6298() {
        let mut rtt = RoundTrip::default();
        assert_eq!(rtt.timeout(), Duration::from_secs(1));
        rtt.timed = Some((Seq(10), Instant::ZERO));
        rtt.acknowledged(Seq(9), Instant::from_micros(1));
        assert!(rtt.timed.is_some());
        rtt.acknowledged(Seq(10), Instant::from_micros(2_000_000));
        assert_eq!(rtt.timeout(), Duration::from_secs(6));
        rtt.back_off();
        assert_eq!(rtt.timeout(), Duration::from_secs(12));
        for _ in 0..200 {
            rtt.back_off();
        }
        assert_eq!(rtt.timeout(), Duration::from_secs(60));
    }
}
