//! How many ICMP errors a guest gets (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f)).

use std::collections::HashMap;

use crate::port::PortId;
use crate::time::{Duration, Instant};

/// A bucket of tokens for each port: so many errors a second, and as many at once after a quiet second.
#[derive(Debug)]
pub(crate) struct ErrorLimit {
    /// What one error costs of a second; `None` if there are none at all.
    cost: Option<Duration>,
    /// By port, until when the errors sent so far have used up the time.
    used_up: HashMap<PortId, Instant>,
}

const SECOND: Duration = Duration::from_secs(1);

impl ErrorLimit {
    pub(crate) fn new(per_second: u32) -> Self {
        Self { cost: SECOND.checked_div(per_second), used_up: HashMap::new() }
    }

    /// Whether a guest behind this port may be told one more error now. It counts as told then.
    pub(crate) fn allow(&mut self, now: Instant, port: PortId) -> bool {
        let Some(cost) = self.cost else { return false };
        let used_up = self.used_up.entry(port).or_insert(now);
        let next = now.max(*used_up) + cost;
        let allowed = next <= now + SECOND;
        if allowed {
            *used_up = next;
        }
        allowed
    }

    /// Forgets a port that is gone.
    pub(crate) fn forget_port(&mut self, port: PortId) {
        self.used_up.remove(&port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: PortId = PortId(1);

    fn told_at(limit: &mut ErrorLimit, millis: u64, port: PortId) -> usize {
        (0..1000).filter(|_| limit.allow(Instant::from_micros(millis * 1000), port)).count()
    }

    #[test]
    fn a_second_is_worth_so_many_errors_and_no_more_are_saved_up() {
        let mut limit = ErrorLimit::new(10);
        assert_eq!(told_at(&mut limit, 0, PORT), 10);
        assert_eq!(told_at(&mut limit, 100, PORT), 1);
        assert_eq!(told_at(&mut limit, 600, PORT), 5);
        assert_eq!(told_at(&mut limit, 60_000, PORT), 10);
    }

    #[test]
    fn one_guest_does_not_use_up_the_errors_of_another() {
        let mut limit = ErrorLimit::new(10);
        assert_eq!(told_at(&mut limit, 0, PORT), 10);
        assert_eq!(told_at(&mut limit, 0, PortId(2)), 10);
        limit.forget_port(PORT);
        assert_eq!(limit.used_up.len(), 1);
    }

    #[test]
    fn no_errors_at_all_can_be_had_too() {
        assert_eq!(told_at(&mut ErrorLimit::new(0), 0, PORT), 0);
    }
}
