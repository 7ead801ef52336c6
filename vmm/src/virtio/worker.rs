//! A thread that serves one queue: for devices whose work blocks.

use std::io;
use std::os::fd::AsRawFd;
use std::thread::JoinHandle;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::handover::{ActiveQueue, DeviceGone, QueueSlot};
use super::queue::QueueError;

/// What a device does with a request.
pub trait Service: std::fmt::Debug + Send + 'static {
    /// Takes one chain from the queue, if there is one, does what it asks for, and completes it. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// When the driver broke the rules. A request that fails is none of these; it is completed with what went wrong.
    fn serve(&mut self, active: &mut ActiveQueue) -> Result<bool, QueueError>;
}

/// The data path of a device with one queue, to be run by a thread of its own.
#[derive(Debug)]
pub struct Worker<S> {
    slot: QueueSlot,
    service: S,
}

impl<S: Service> Worker<S> {
    /// A worker that serves the queue of `slot`.
    pub const fn new(slot: QueueSlot, service: S) -> Self {
        Self { slot, service }
    }

    /// Runs in a thread of its own with this name, until the device is gone.
    ///
    /// # Errors
    ///
    /// When the kernel has no threads or descriptors left.
    pub fn spawn(mut self, name: String) -> io::Result<JoinHandle<()>> {
        let epoll = Epoll::new()?;
        let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, 0);
        epoll.ctl(ControlOperation::Add, self.slot.kick().as_raw_fd(), event)?;
        std::thread::Builder::new().name(name).spawn(move || {
            while self.drain() == Ok(()) {
                // Each kick is an edge; one that came since the queue was found empty has been kept. An interrupted call looks again.
                let _ = epoll.wait(-1, &mut [EpollEvent::default()]);
            }
        })
    }

    /// Follows the orders that have come, and serves all requests that wait. The driver will notify of the next one.
    ///
    /// # Errors
    ///
    /// When the device is gone.
    pub fn drain(&mut self) -> Result<(), DeviceGone> {
        loop {
            // A reset need not wait until all requests are served.
            self.slot.update()?;
            let Some(active) = self.slot.active() else { return Ok(()) };
            match serve(&mut self.service, active) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => self.slot.fail(error),
            }
        }
    }
}

fn serve(service: &mut impl Service, active: &mut ActiveQueue) -> Result<bool, QueueError> {
    if service.serve(active)? {
        active.publish()?;
        return Ok(true);
    }
    active.queue.enable_notification(&active.memory)
}
