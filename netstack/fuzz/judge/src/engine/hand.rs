//! The guests' ends of TCP connections, which send what they are told to.
//!
//! Whatever numbers a segment has, its bytes are those of one stream at these numbers, so that what arrives at the other end can be
//! judged however much was sent twice, too early or not at all.

use std::net::SocketAddr;

use netstack::host::sim::{Connection, ConnectionId, pattern};
use netstack::sim::wire::{ACK, FIN, RST, SYN, Segment};

/// One end.
#[derive(Debug, Clone)]
pub(super) struct Hand {
    pub(super) guest: usize,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) isn: u32,
    /// The next sequence number to send.
    pub(super) seq: u32,
    /// The other end's first sequence number, once it is known.
    pub(super) irs: Option<u32>,
    /// The next sequence number that is expected.
    pub(super) ack: u32,
    /// The last number that was acknowledged to it.
    acknowledged: u32,
    /// The highest number that was sent, counted from `isn`.
    highest: u32,
    /// The connection on the host's side.
    pub(super) connection: Option<ConnectionId>,
    /// How much of what arrived there was looked at.
    looked_at: usize,
    /// Whether the numbers no longer say which bytes were sent.
    pub(super) spoilt: bool,
}

impl Hand {
    pub(super) const fn new(guest: usize, local: SocketAddr, remote: SocketAddr, isn: u32) -> Self {
        Self {
            guest,
            local,
            remote,
            isn,
            seq: isn,
            irs: None,
            ack: 0,
            acknowledged: isn,
            highest: 0,
            connection: None,
            looked_at: 0,
            spoilt: false,
        }
    }

    /// Begins anew with the same addresses. What of the old connection is still under way cannot be told from the new one.
    pub(super) const fn reopen(&mut self, isn: u32) {
        self.isn = isn;
        self.seq = isn;
        self.irs = None;
        self.spoilt = true;
    }

    /// A segment with `len` bytes of the stream, whose number is `by` past the next.
    pub(super) fn segment(&mut self, flags: u8, by: u32, ack_by: u32, window: u16, len: usize) -> Segment {
        // With a SYN, any number begins a stream, and then it is another one.
        self.spoilt |= flags & SYN != 0 && by != 0;
        let seq = if flags & SYN != 0 { self.isn } else { self.seq }.wrapping_add(by);
        let first = seq.wrapping_add(u32::from(flags & SYN != 0)).wrapping_sub(self.isn).wrapping_sub(1);
        let mut payload = vec![0; len];
        // What lies before the beginning is not part of the stream.
        let before = if first >= 1 << 31 { (first.wrapping_neg() as usize).min(len) } else { 0 };
        pattern(u64::from(first.wrapping_add(before as u32)), &mut payload[before..]);
        let segment = Segment {
            source: self.local,
            destination: self.remote,
            flags,
            seq,
            ack: if flags & ACK != 0 { self.ack.wrapping_add(ack_by) } else { 0 },
            window,
            options: Vec::new(),
            payload,
        };
        let end = seq.wrapping_add(segment.sequence_len());
        let reach = end.wrapping_sub(self.isn);
        if reach < 1 << 31 {
            self.highest = self.highest.max(reach);
        }
        segment
    }

    /// Counts a segment as sent in order.
    pub(super) fn advance(&mut self, segment: &Segment) {
        self.seq = segment.seq.wrapping_add(segment.sequence_len());
    }

    /// Goes back to what was not acknowledged, as after a time-out.
    pub(super) const fn go_back(&mut self) {
        self.seq = self.acknowledged;
    }

    /// Looks at a segment of the stack, which is one of this connection.
    pub(super) fn observe(&mut self, segment: &Segment) {
        if segment.has(SYN) && self.irs.is_none() {
            self.irs = Some(segment.seq);
            self.ack = segment.seq.wrapping_add(1);
        }
        let Some(irs) = self.irs else { return };
        if segment.has(RST) {
            return;
        }
        if segment.has(ACK) && !self.spoilt {
            self.acknowledged = segment.ack;
            let acknowledged = segment.ack.wrapping_sub(self.isn);
            assert!(
                acknowledged <= self.highest,
                "{acknowledged} numbers are acknowledged and {} were sent: {self:?}",
                self.highest
            );
        }
        if segment.has(SYN) {
            return;
        }
        let offset = segment.seq.wrapping_sub(irs).wrapping_sub(1);
        if !self.spoilt && !segment.payload.is_empty() {
            let mut expected = vec![0; segment.payload.len()];
            pattern(offset.into(), &mut expected);
            assert!(segment.payload == expected, "other bytes than the peer sent, at {offset}: {self:?}");
        }
        if segment.seq == self.ack {
            let end = u32::from(segment.has(FIN));
            self.ack = self.ack.wrapping_add(u32::try_from(segment.payload.len()).unwrap_or(0)).wrapping_add(end);
        }
    }

    /// Looks at what has arrived at the other end: the stream from its beginning, without a gap.
    pub(super) fn judge(&mut self, connection: &Connection) {
        let received = connection.received();
        if self.spoilt || received.len() <= self.looked_at {
            return;
        }
        let new = &received[self.looked_at..];
        let mut expected = vec![0; new.len()];
        pattern(self.looked_at as u64, &mut expected);
        assert!(new == expected, "other bytes than the guest sent, after {}: {self:?}", self.looked_at);
        self.looked_at = received.len();
        let sent = self.highest as usize;
        assert!(received.len() <= sent, "{} bytes arrived of {sent}: {self:?}", received.len());
    }
}
