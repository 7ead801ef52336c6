//! What the API has done, counted beside the engine.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::stack::Counters;

/// Counts that the tasks of the API write and the engine reads. Each has the name of its field in [`Counters`].
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) api_commands: AtomicU64,
    pub(crate) api_refused: AtomicU64,
    pub(crate) api_limit_clients: AtomicU64,
    pub(crate) api_limit_request_bytes: AtomicU64,
    pub(crate) api_stalled: AtomicU64,
}

impl Tally {
    /// Writes down what was counted so far.
    pub(crate) fn tell(&self, counters: &mut Counters) {
        counters.api_commands = self.api_commands.load(Ordering::Relaxed);
        counters.api_refused = self.api_refused.load(Ordering::Relaxed);
        counters.api_limit_clients = self.api_limit_clients.load(Ordering::Relaxed);
        counters.api_limit_request_bytes = self.api_limit_request_bytes.load(Ordering::Relaxed);
        counters.api_stalled = self.api_stalled.load(Ordering::Relaxed);
    }
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
