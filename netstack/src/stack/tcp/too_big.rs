//! A router on the guest's side says that a segment was too large for its next link (RFC 1191 section 6.4, RFC 8201 section 5.4).
//!
//! The flow's segments get smaller at once, and what is under way is sent again. They never grow again: a way that got wider would be
//! found out only by losing segments, and the way between two ends on one machine hardly ever does.

use super::Relay;
use super::flow::{Phase, largest_segment};
use crate::port::PortId;
use crate::stack::pmtu::TooBig;
use crate::stack::{Context, Shared};

impl Relay {
    /// Believes it, if it is about a segment that was sent to a guest behind this port, and was not acknowledged (RFC 5927 section 7.1).
    /// Returns whether anything has changed.
    pub(crate) fn too_big(&mut self, cx: &Context<'_>, shared: &mut Shared, port: PortId, told: &TooBig) -> bool {
        let Some(id) = self.table.find(&told.flow) else { return false };
        let Some(flow) = self.table.get_mut(id) else { return false };
        let under_way = told.seq >= flow.snd_una && told.seq < flow.snd_max;
        let mss = largest_segment(told.mtu, told.flow.guest);
        if flow.phase != Phase::Open || flow.station.port != port || !under_way || mss >= flow.mss {
            return false;
        }
        flow.mss = mss;
        flow.rewind();
        // Acknowledgements of what got through all the same tell of no loss.
        flow.recover = flow.snd_max;
        flow.duplicate_acks = 0;
        Self::start_retransmit_timer(flow, id, shared, cx.now);
        shared.counters.tcp_narrowed += 1;
        self.enqueue(id);
        true
    }
}
