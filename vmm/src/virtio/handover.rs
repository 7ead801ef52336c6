//! How a queue goes from the registers to the data path, and back.
//!
//! A [`QueueControl`] is with the registers and is used by vCPUs, its [`QueueSlot`] is with the data path. When the driver is ready, the
//! control sends the queue; at a reset it asks for it back. Neither waits: the driver sees in the status register that a reset is still
//! going on, until the data path has let go of the queue (virtio 1.2, section 2.4.1), so that its memory can be used for something else.
//!
//! What always holds: while [`QueueControl::is_idle`], the data path touches no memory of the guest on account of this queue.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::interrupt::{Health, QueueInterrupt};
use super::queue::{Queue, QueueError};
use crate::memory::GuestMemory;

/// A queue in use, with all that its data path needs.
#[derive(Debug)]
pub struct ActiveQueue {
    /// The queue.
    pub queue: Queue,
    /// Where its rings and buffers are.
    pub memory: GuestMemory,
    /// The features that were negotiated.
    pub features: u64,
    /// Tells the driver of used buffers.
    pub interrupt: QueueInterrupt,
    /// Where a broken driver is reported.
    pub health: Arc<Health>,
}

impl ActiveQueue {
    /// Publishes what was completed, and interrupts if the driver wants to be.
    ///
    /// # Errors
    ///
    /// As [`Queue::publish`].
    pub fn publish(&mut self) -> Result<(), QueueError> {
        if self.queue.publish(&self.memory)? {
            self.interrupt.signal();
        }
        Ok(())
    }
}

#[derive(Debug)]
enum Order {
    Start(Box<ActiveQueue>),
    Stop,
}

/// The registers' end of a queue.
#[derive(Debug)]
pub struct QueueControl {
    max_size: u16,
    orders: Sender<Order>,
    idle: Arc<AtomicBool>,
    kick: Arc<EventFd>,
    wake: Arc<EventFd>,
}

/// The data path's end of a queue.
#[derive(Debug)]
pub struct QueueSlot {
    orders: Receiver<Order>,
    idle: Arc<AtomicBool>,
    kick: Arc<EventFd>,
    active: Option<Box<ActiveQueue>>,
}

/// The device is gone, and will never send another queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the device was removed")]
pub struct DeviceGone;

/// Makes the two ends of a queue of at most `max_size` places.
///
/// # Errors
///
/// When the kernel has no descriptors left.
pub fn queue(max_size: u16) -> io::Result<(QueueControl, QueueSlot)> {
    let kick = Arc::new(EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
    let (sender, receiver) = channel();
    let idle = Arc::new(AtomicBool::new(true));
    let control =
        QueueControl { max_size, orders: sender, idle: Arc::clone(&idle), kick: Arc::clone(&kick), wake: Arc::clone(&kick) };
    Ok((control, QueueSlot { orders: receiver, idle, kick, active: None }))
}

impl QueueControl {
    /// Makes a data path that serves several queues be woken through `event` when there is an order for this one. Otherwise it is woken
    /// as by the driver.
    #[must_use]
    pub fn waking(mut self, event: Arc<EventFd>) -> Self {
        self.wake = event;
        self
    }

    /// Places in the largest ring.
    pub const fn max_size(&self) -> u16 {
        self.max_size
    }

    /// What the driver writes to when it has made buffers available.
    pub const fn kick(&self) -> &Arc<EventFd> {
        &self.kick
    }

    /// Hands the queue over.
    pub fn start(&self, queue: ActiveQueue) {
        self.idle.store(false, Ordering::Release);
        if self.orders.send(Order::Start(Box::new(queue))).is_err() {
            self.idle.store(true, Ordering::Release);
        }
        self.wake();
    }

    /// Asks for the queue back. It is, once the queue is idle.
    pub fn stop(&self) {
        if self.is_idle() {
            return;
        }
        // A data path that is gone has made it idle itself, or would have.
        if self.orders.send(Order::Stop).is_err() {
            self.idle.store(true, Ordering::Release);
        }
        self.wake();
    }

    /// Whether the data path has nothing of this queue.
    pub fn is_idle(&self) -> bool {
        self.idle.load(Ordering::Acquire)
    }

    /// An eventfd whose counter is full wakes as well.
    fn wake(&self) {
        let _ = self.wake.write(1);
    }
}

impl Drop for QueueControl {
    fn drop(&mut self) {
        // The data path finds that nobody will send orders any more. The sender must be gone before it looks.
        let (nobody, _) = channel();
        drop(std::mem::replace(&mut self.orders, nobody));
        self.wake();
    }
}

impl QueueSlot {
    /// Follows the orders that have come. Returns whether there were any.
    ///
    /// # Errors
    ///
    /// When the device is gone. The queue is gone then too.
    pub fn update(&mut self) -> Result<bool, DeviceGone> {
        let mut changed = false;
        loop {
            match self.orders.try_recv() {
                Ok(Order::Start(queue)) => self.active = Some(queue),
                Ok(Order::Stop) => self.release(),
                Err(TryRecvError::Empty) => return Ok(changed),
                Err(TryRecvError::Disconnected) => {
                    self.release();
                    return Err(DeviceGone);
                }
            }
            changed = true;
        }
    }

    /// The queue, if the data path has it.
    pub fn active(&mut self) -> Option<&mut ActiveQueue> {
        self.active.as_deref_mut()
    }

    /// As [`QueueSlot::active`], to look at.
    pub fn peek(&self) -> Option<&ActiveQueue> {
        self.active.as_deref()
    }

    /// Lets go of a queue whose driver broke the rules, and reports it.
    pub fn fail(&mut self, error: QueueError) {
        if let Some(queue) = &self.active {
            queue.health.fail(error);
        }
        self.release();
    }

    /// What the driver writes to when it has made buffers available.
    pub const fn kick(&self) -> &Arc<EventFd> {
        &self.kick
    }

    fn release(&mut self) {
        self.active = None;
        self.idle.store(true, Ordering::Release);
    }
}

impl Drop for QueueSlot {
    fn drop(&mut self) {
        // In this order: a queue that is sent meanwhile either goes with the channel, or its sender is told that it could not be.
        let (_, nothing) = channel();
        drop(std::mem::replace(&mut self.orders, nothing));
        self.release();
    }
}
