//! How much may be under way to a guest whose link has lost something.
//!
//! A virtqueue or a tap does not lose frames: what the guest has no room for waits. So a flow begins without a congestion window, and the
//! guest's own window is the only bound. But there are links that lose all the same: an emulated card behind a socket drops what its
//! receive ring has no room for. A burst as large as the guest's window then overruns the ring again and again. From its first loss on,
//! a flow therefore keeps a congestion window, by RFC 5681, with the recovery of RFC 6582 (NewReno).

/// The congestion window of a flow.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Congestion {
    /// Bytes that may be under way. `None` before the first loss: any number.
    window: Option<u32>,
    /// Below this the window grows by what is acknowledged, above it by a segment a round trip.
    threshold: u32,
    /// A loss is being repaired.
    recovering: bool,
}

impl Congestion {
    /// Bytes that may be under way.
    pub(crate) fn window(&self) -> u32 {
        self.window.unwrap_or(u32::MAX)
    }

    /// Whether a loss is being repaired.
    pub(crate) const fn is_recovering(&self) -> bool {
        self.recovering
    }

    /// Three duplicate acknowledgements tell of a loss (RFC 5681 section 3.2).
    pub(crate) fn lost(&mut self, in_flight: u32, mss: u32) {
        self.halve(in_flight, mss);
        self.window = Some(self.threshold.saturating_add(3 * mss));
        self.recovering = true;
    }

    /// One more duplicate acknowledgement: a segment has left the link.
    pub(crate) fn duplicate(&mut self, mss: u32) {
        self.window = self.window.map(|window| window.saturating_add(mss));
    }

    /// The time-out has come: the window begins anew with one segment (RFC 5681 section 3.1).
    pub(crate) fn timed_out(&mut self, in_flight: u32, mss: u32) {
        self.halve(in_flight, mss);
        self.window = Some(mss);
        self.recovering = false;
    }

    /// `acked` bytes were acknowledged; `repaired` tells whether that was everything sent before the loss was noticed. Returns whether
    /// the next unacknowledged segment is known to be lost too (RFC 6582 section 3.2, step 3: a partial acknowledgement).
    pub(crate) fn acknowledged(&mut self, acked: u32, mss: u32, repaired: bool) -> bool {
        let Some(window) = self.window else { return false };
        if self.recovering {
            self.recovering = !repaired;
            let deflated = window.saturating_sub(acked).saturating_add(if acked >= mss { mss } else { 0 });
            self.window = Some(if repaired { self.threshold } else { deflated.max(mss) });
            return !repaired;
        }
        let growth = if window < self.threshold {
            // RFC 3465 with L = 2: late acknowledgements do not slow the start.
            acked.min(2 * mss)
        } else {
            // Rounded up, or a large window would not grow at all.
            u32::try_from(u64::from(acked) * u64::from(mss) / u64::from(window.max(1))).unwrap_or(mss) + 1
        };
        self.window = Some(window.saturating_add(growth));
        false
    }

    fn halve(&mut self, in_flight: u32, mss: u32) {
        self.threshold = (in_flight / 2).max(2 * mss);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1000;

    #[test]
    fn a_link_that_loses_nothing_has_no_congestion_window() {
        let mut congestion = Congestion::default();
        assert!(!congestion.acknowledged(1_000_000, MSS, true));
        assert_eq!(congestion.window(), u32::MAX);
    }

    #[test]
    fn a_loss_halves_the_window_and_each_partial_acknowledgement_asks_for_the_next_segment() {
        let mut congestion = Congestion::default();
        congestion.lost(100 * MSS, MSS);
        assert_eq!(congestion.window(), 53 * MSS);
        congestion.duplicate(MSS);
        assert_eq!(congestion.window(), 54 * MSS);
        assert!(congestion.acknowledged(10 * MSS, MSS, false));
        assert_eq!(congestion.window(), 45 * MSS);
        assert!(!congestion.acknowledged(90 * MSS, MSS, true));
        assert_eq!((congestion.window(), congestion.is_recovering()), (50 * MSS, false));
    }

    #[test]
    fn after_a_time_out_the_window_doubles_up_to_the_threshold_and_then_creeps() {
        let mut congestion = Congestion::default();
        congestion.timed_out(8 * MSS, MSS);
        assert_eq!(congestion.window(), MSS);
        congestion.acknowledged(MSS, MSS, true);
        congestion.acknowledged(2 * MSS, MSS, true);
        assert_eq!(congestion.window(), 4 * MSS);
        congestion.acknowledged(4 * MSS, MSS, true);
        assert_eq!(congestion.window(), 5 * MSS + 1);
    }
}
