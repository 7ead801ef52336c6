//! Eventfds and timers that a task of the engine waits for.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use vmm_sys_util::eventfd::EventFd;

/// An eventfd that the runtime watches.
#[derive(Debug)]
pub(crate) struct Kick(AsyncFd<Arc<EventFd>>);

impl Kick {
    /// Must be called within the runtime. The eventfd must be nonblocking.
    pub(crate) fn watch(event: &Arc<EventFd>) -> io::Result<Self> {
        // SAFETY: an `EventFd` stays the same open descriptor until it is dropped, and the `Arc` keeps it.
        let fd = unsafe { AsyncFd::register_with_interest(Arc::clone(event), Interest::READABLE) };
        fd.map(Self).map_err(|error| error.into_parts().1)
    }

    /// Ready when the eventfd was written to since the last time, or the runtime is going away.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Ok(mut guard) = ready!(self.0.poll_read_ready(cx)) else { return Poll::Ready(()) };
            let written = self.0.get_ref().read().is_ok();
            // A write after the read is told by another edge, which this does not clear.
            guard.clear_ready();
            if written {
                return Poll::Ready(());
            }
        }
    }
}

/// A timer that is exact to the microsecond, as the runtime's own are not.
#[derive(Debug)]
pub(crate) struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    /// A timer that is not set. Must be called within the runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        // SAFETY: an `OwnedFd` stays the same open descriptor until it is dropped.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        fd.map(Self).map_err(|error| error.into_parts().1)
    }

    /// Sets it to expire once, after this time; one that was set before is forgotten.
    pub(crate) fn set(&self, after: Duration) {
        // 0 would mean not to set it.
        let after = after.max(Duration::from_nanos(1));
        let value = Timespec { tv_sec: after.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: after.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // Fails for times that do not exist only.
        let _ = timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once);
    }

    /// Ready when it has expired since the last time, or the runtime is going away.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Ok(mut guard) = ready!(self.0.poll_read_ready(cx)) else { return Poll::Ready(()) };
            let expired = rustix::io::read(self.0.get_ref(), &mut [0; 8]).is_ok();
            guard.clear_ready();
            if expired {
                return Poll::Ready(());
            }
        }
    }
}
