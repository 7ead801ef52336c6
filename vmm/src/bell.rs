//! Interrupts that a test can wait for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::irq::{IntxLine, MsiMessage, MsiRoute};

/// A vector or a line that rings.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: AtomicU64,
    asserted: AtomicBool,
    notify: Notify,
}

impl Bell {
    /// How often it was signalled, or went from low to high.
    pub(crate) fn signals(&self) -> u64 {
        self.rung.load(Ordering::SeqCst)
    }

    /// Whether a line is asserted.
    pub(crate) fn is_asserted(&self) -> bool {
        self.asserted.load(Ordering::SeqCst)
    }

    /// Waits for the next interrupt, or takes one that came since the last call.
    pub(crate) async fn rings(&self) {
        self.notify.notified().await;
    }
}

impl MsiRoute for Bell {
    fn program(&self, _message: MsiMessage) {}

    fn signal(&self) {
        self.rung.fetch_add(1, Ordering::SeqCst);
        self.notify.notify_one();
    }
}

impl IntxLine for Bell {
    fn set(&self, asserted: bool) {
        if !self.asserted.swap(asserted, Ordering::SeqCst) && asserted {
            self.signal();
        }
    }
}
