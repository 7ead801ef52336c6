//! What the registers and the data path share: atomics and eventfds, no lock.
//!
//! The driver may take its memory back after it has switched a direction off or reset the card. A vCPU that does so waits until the data
//! path is not in the middle of a frame of that direction, which is never for long, since the data path waits for nobody; it is the only
//! wait there is. So, after such a register write, nothing touches the old rings.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::interrupts::{Interrupts, Waits};
use super::register::{self, cause, ctrl, rctl, tctl};
use super::statistics::Statistics;
use crate::irq::IntxLine;

const REGISTERS: usize = register::END as usize / 4;

/// How often a driver that breaks the rules is spoken of, since it can go on for ever.
const REPORTS: u32 = 10;

/// Bytes of a descriptor.
pub(super) const DESCRIPTOR: u64 = 16;

#[derive(Debug)]
pub(super) struct Shared {
    registers: Box<[AtomicU32]>,
    pub(super) interrupts: Interrupts,
    pub(super) statistics: Statistics,
    pub(super) receive: Direction,
    pub(super) transmit: Direction,
    bus_master: AtomicBool,
    failed: AtomicBool,
    /// Whether there is a cable in it.
    plugged: AtomicBool,
    reports: AtomicU32,
    resetting: AtomicBool,
    resets: AtomicU32,
    gone: AtomicBool,
}

/// One direction of the data path.
#[derive(Debug)]
pub(super) struct Direction {
    working: AtomicBool,
    waiting: AtomicBool,
    bell: Arc<EventFd>,
}

/// The data path is in the middle of something.
pub(super) struct Working<'a>(&'a Direction);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.working.store(false, Ordering::Release);
    }
}

impl Direction {
    fn new() -> std::io::Result<Self> {
        let bell = Arc::new(EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        Ok(Self { working: AtomicBool::new(false), waiting: AtomicBool::new(true), bell })
    }

    /// Begins to work, if that is `allowed`, until the result is dropped. For the data path.
    pub(super) fn enter(&self, allowed: impl FnOnce() -> bool) -> Option<Working<'_>> {
        self.working.store(true, Ordering::SeqCst);
        // Either this sees what a vCPU has changed, or the vCPU sees that there is work going on.
        fence(Ordering::SeqCst);
        let working = Working(self);
        allowed().then_some(working)
    }

    /// Waits until work that may have begun before the last change is over. For vCPUs.
    fn quiesce(&self) {
        fence(Ordering::SeqCst);
        while self.working.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
    }

    /// Will wait for a change, unless `ready` has become true. Returns whether it waits. For the data path.
    pub(super) fn wait(&self, ready: impl FnOnce() -> bool) -> bool {
        self.waiting.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if ready() {
            self.waiting.store(false, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// Tells a data path that waits of a change. For vCPUs.
    pub(super) fn changed(&self) {
        fence(Ordering::SeqCst);
        if self.waiting.swap(false, Ordering::SeqCst) {
            self.ring();
        }
    }

    /// Wakes the data path.
    pub(super) fn ring(&self) {
        // An eventfd that is full has woken it.
        let _ = self.bell.write(1);
    }

    pub(super) const fn bell(&self) -> &Arc<EventFd> {
        &self.bell
    }
}

/// The state of a descriptor ring, good for one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ring {
    base: u64,
    /// How many descriptors it has.
    pub(super) len: u32,
    /// The next descriptor for the card.
    pub(super) head: u32,
    /// The first descriptor that is the driver's.
    pub(super) tail: u32,
}

impl Ring {
    /// How many descriptors the card may use: none if an index is outside of the ring.
    pub(super) const fn available(&self) -> u32 {
        if self.head >= self.len || self.tail >= self.len {
            return 0;
        }
        if self.tail >= self.head { self.tail - self.head } else { self.len - self.head + self.tail }
    }

    /// Address of a descriptor, if it can have one.
    pub(super) const fn address(&self, index: u32) -> Option<u64> {
        self.base.checked_add(index as u64 * DESCRIPTOR)
    }

    /// The index after this one.
    pub(super) const fn after(&self, index: u32) -> u32 {
        if index + 1 >= self.len { 0 } else { index + 1 }
    }
}

impl Shared {
    pub(super) fn new(line: Arc<dyn IntxLine>) -> std::io::Result<Self> {
        Ok(Self {
            registers: (0..REGISTERS).map(|_| AtomicU32::new(0)).collect(),
            interrupts: Interrupts::new(line),
            statistics: Statistics::new(),
            receive: Direction::new()?,
            transmit: Direction::new()?,
            bus_master: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            plugged: AtomicBool::new(true),
            reports: AtomicU32::new(0),
            resetting: AtomicBool::new(false),
            resets: AtomicU32::new(0),
            gone: AtomicBool::new(false),
        })
    }

    /// An ordinary register; 0 where there is none.
    pub(super) fn get(&self, offset: u32) -> u32 {
        self.registers.get(offset as usize / 4).map_or(0, |register| register.load(Ordering::Acquire))
    }

    pub(super) fn set(&self, offset: u32, value: u32) {
        if let Some(register) = self.registers.get(offset as usize / 4) {
            register.store(value, Ordering::SeqCst);
        }
    }

    pub(super) fn receive_ring(&self) -> Ring {
        self.ring(register::RDBAL, register::RDBAH, register::RDLEN, register::RDH, register::RDT)
    }

    pub(super) fn transmit_ring(&self) -> Ring {
        self.ring(register::TDBAL, register::TDBAH, register::TDLEN, register::TDH, register::TDT)
    }

    fn ring(&self, low: u32, high: u32, len: u32, head: u32, tail: u32) -> Ring {
        Ring {
            base: u64::from(self.get(high)) << 32 | u64::from(self.get(low)),
            len: self.get(len) / DESCRIPTOR as u32,
            head: self.get(head),
            tail: self.get(tail),
        }
    }

    /// Whether the card may take frames from the driver.
    pub(super) fn may_transmit(&self) -> bool {
        self.get(register::TCTL) & tctl::EN != 0 && self.works()
    }

    /// Whether the card may write frames to the driver's memory.
    pub(super) fn may_receive(&self) -> bool {
        self.get(register::RCTL) & rctl::EN != 0 && self.works()
    }

    fn works(&self) -> bool {
        self.bus_master.load(Ordering::SeqCst) && self.link_is_up() && !self.resetting.load(Ordering::SeqCst)
    }

    /// The link is up as soon as the driver wants it, unless the card has failed or has no cable.
    pub(super) fn link_is_up(&self) -> bool {
        self.get(register::CTRL) & ctrl::SLU != 0 && !self.has_failed() && self.is_plugged()
    }

    pub(super) fn is_plugged(&self) -> bool {
        self.plugged.load(Ordering::SeqCst)
    }

    /// Puts the cable in or takes it out. For the data path, while it is not working.
    pub(super) fn plug(&self, plugged: bool) {
        if self.plugged.swap(plugged, Ordering::SeqCst) != plugged {
            self.raise(cause::LSC, 0);
            self.receive.changed();
            self.transmit.changed();
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// The driver has given the card addresses outside of RAM, or indices outside of a ring. It does nothing more until it is reset, and
    /// the link is down, so that the driver sees it.
    pub(super) fn fail(&self, what: &str) {
        if !self.failed.swap(true, Ordering::SeqCst) {
            if self.reports.load(Ordering::Relaxed) < REPORTS {
                self.reports.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(what, "the driver of an e1000 broke the rules; its link is down until it resets the card");
            }
            self.raise(cause::LSC, 0);
        }
    }

    /// How often the card was reset. Whoever remembers something of the driver's forgets it when this changes.
    pub(super) fn resets(&self) -> u32 {
        self.resets.load(Ordering::SeqCst)
    }

    /// Resets the card, after the data path has let go of everything; `registers` sets them up. For vCPUs.
    pub(super) fn reset(&self, registers: impl FnOnce()) {
        self.resetting.store(true, Ordering::SeqCst);
        self.quiesce();
        for register in &self.registers {
            register.store(0, Ordering::SeqCst);
        }
        registers();
        self.failed.store(false, Ordering::SeqCst);
        self.interrupts.reset();
        self.statistics.reset();
        self.resets.fetch_add(1, Ordering::SeqCst);
        self.resetting.store(false, Ordering::SeqCst);
    }

    /// Waits until nothing is done that is not allowed any more. For vCPUs.
    pub(super) fn quiesce(&self) {
        self.receive.quiesce();
        self.transmit.quiesce();
    }

    /// For vCPUs.
    pub(super) fn set_bus_master(&self, bus_master: bool) {
        if self.bus_master.swap(bus_master, Ordering::SeqCst) == bus_master {
            return;
        }
        if bus_master {
            self.receive.changed();
            self.transmit.changed();
        } else {
            self.quiesce();
        }
    }

    /// Latches causes, and has the data path look after the line if that has to wait. For vCPUs; the data path looks anyway.
    pub(super) fn raise(&self, causes: u32, delay: u64) {
        self.look_after(self.interrupts.raise(causes, delay));
    }

    pub(super) fn look_after(&self, waits: Waits) {
        if waits == Waits(true) {
            self.transmit.ring();
        }
    }

    /// The machine is gone.
    pub(super) fn leave(&self) {
        self.gone.store(true, Ordering::SeqCst);
        self.quiesce();
        self.transmit.ring();
        self.receive.ring();
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::fake::FakeLine;

    #[test]
    fn a_ring_never_offers_more_than_it_has() {
        let ring = |len, head, tail| Ring { base: 0, len, head, tail };
        assert_eq!(ring(8, 0, 0).available(), 0);
        assert_eq!(ring(8, 2, 7).available(), 5);
        assert_eq!(ring(8, 7, 2).available(), 3);
        for (len, head, tail) in [(0, 0, 0), (0, 0, 1), (8, 8, 0), (8, 0, 8), (8, 0xffff, 3), (8, 3, 0xffff)] {
            assert_eq!(ring(len, head, tail).available(), 0);
        }
        assert_eq!((ring(8, 0, 0).after(6), ring(8, 0, 0).after(7)), (7, 0));
        assert_eq!(Ring { base: u64::MAX - 15, len: 8, head: 0, tail: 0 }.address(1), None);
    }

    #[test]
    fn a_reset_waits_for_the_frame_that_is_being_written() {
        let shared = Shared::new(Arc::new(FakeLine::default())).unwrap();
        let working = shared.receive.enter(|| true).unwrap();
        std::thread::scope(|scope| {
            let reset = scope.spawn(|| shared.reset(|| {}));
            while !shared.resetting.load(Ordering::SeqCst) {
                assert!(!reset.is_finished(), "it has not waited");
                std::thread::yield_now();
            }
            assert_eq!(shared.resets(), 0);
            drop(working);
        });
        assert_eq!(shared.resets(), 1);
    }

    #[test]
    fn a_change_between_looking_and_waiting_is_not_lost() {
        let shared = Shared::new(Arc::new(FakeLine::default())).unwrap();
        assert!(shared.transmit.wait(|| false));
        shared.transmit.changed();
        assert_eq!(shared.transmit.bell().read().unwrap(), 1);
        shared.transmit.changed();
        assert!(shared.transmit.bell().read().is_err(), "nobody waits");
        assert!(!shared.transmit.wait(|| true));
    }
}
