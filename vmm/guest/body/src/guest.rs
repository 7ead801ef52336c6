//! The stack, the loop that drives it, and the order of the steps.

use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;

use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketSet};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress};

use crate::Platform;
use crate::card::{Card, Nic};
use crate::plan::Plan;
use crate::report::Report;
use crate::steps;

/// Frames that are taken in before something is sent, so that acknowledgements do not wait for the end of a burst.
const FRAMES_PER_TURN: usize = 16;

/// What every step but a transfer may take, in microseconds.
pub(crate) const PATIENCE: u64 = 10_000_000;

/// Follows the plan and reports every step. Returns whether all of them succeeded.
pub fn run<N: Nic, P: Platform<N>>(plan: &Plan<'_>, nic: N, platform: &mut P, started: u64) -> bool {
    let ready = Report::Ready { nic: nic.name(), mac: nic.mac(), micros: platform.now().saturating_sub(started) };
    platform.report(&ready);
    let mut guest = Guest::new(nic, platform);
    let succeeded = follow(plan, &mut guest);
    platform.report(&Report::Done);
    succeeded
}

fn follow<N: Nic, P: Platform<N>>(plan: &Plan<'_>, guest: &mut Guest<'_, N, P>) -> bool {
    // Nothing else works without a lease.
    let Some(lease) = guest.step("lease", steps::lease) else { return false };
    let mut succeeded = true;
    if let Some(to) = plan.ping {
        succeeded &= guest.step("ping", |guest| steps::ping(guest, to)).is_some();
    }
    if let Some(name) = plan.name {
        succeeded &= guest.step("name", |guest| steps::resolve(guest, lease.dns, name)).is_some();
    }
    if let Some(server) = plan.up {
        succeeded &= guest.step("up", |guest| steps::up(guest, server, plan.bytes)).is_some();
    }
    if let Some(server) = plan.down {
        succeeded &= guest.step("down", |guest| steps::down(guest, server, plan.bytes)).is_some();
    }
    if let Some(port) = plan.serve {
        succeeded &= guest.step("serve", |guest| steps::serve(guest, port)).is_some();
    }
    succeeded
}

/// What DHCP has told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lease {
    pub(crate) dns: Option<Ipv4Addr>,
}

/// A stack on a card.
pub(crate) struct Guest<'p, N, P> {
    pub(crate) interface: Interface,
    pub(crate) sockets: SocketSet<'static>,
    card: Card<N>,
    pub(crate) platform: &'p mut P,
    /// How far the stack's clock goes ahead of the platform's, in microseconds.
    ahead: u64,
}

impl<'p, N: Nic, P: Platform<N>> Guest<'p, N, P> {
    fn new(nic: N, platform: &'p mut P) -> Self {
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(nic.mac().0)));
        config.random_seed = platform.random();
        let mut card = Card::new(nic);
        let interface = Interface::new(config, &mut card, instant(platform.now()));
        Self { interface, sockets: SocketSet::new(Vec::new()), card, platform, ahead: 0 }
    }

    /// Runs a step and reports it if it fails; what it has to say otherwise, it says itself.
    fn step<T>(&mut self, name: &str, step: impl FnOnce(&mut Self) -> Result<T, Failure>) -> Option<T> {
        match step(self) {
            Ok(value) => Some(value),
            Err(failure) => {
                self.platform.report(&Report::Failed { step: name, why: failure.0 });
                None
            }
        }
    }

    /// Drives the stack until `done` has something, for at most `patience` microseconds without any news from the network.
    pub(crate) fn until<T>(
        &mut self,
        patience: u64,
        mut done: impl FnMut(&mut Interface, &mut SocketSet<'static>) -> Option<T>,
    ) -> Result<T, Failure> {
        let mut last_news = self.platform.now();
        loop {
            let news = self.turn();
            if let Some(value) = done(&mut self.interface, &mut self.sockets) {
                // What it has written is on its way before the next step begins.
                self.turn();
                return Ok(value);
            }
            let now = self.platform.now();
            if news {
                last_news = now;
                continue;
            }
            let end = last_news + patience;
            if now >= end {
                return Err(Failure("nothing has come for a long time"));
            }
            let due = self.interface.poll_at(self.stack_time(now), &self.sockets).map(|due| micros(due).saturating_sub(self.ahead));
            self.platform.idle(&mut self.card.nic, Some(due.map_or(end, |due| due.min(end))));
        }
    }

    /// Lets the stack believe that `micros` microseconds have gone by. Only between connections.
    pub(crate) const fn skip(&mut self, micros: u64) {
        self.ahead += micros;
    }

    fn stack_time(&self, now: u64) -> Instant {
        instant(now + self.ahead)
    }

    /// Takes in and sends what there is, a bounded amount of it; returns whether there was anything.
    fn turn(&mut self) -> bool {
        let now = self.stack_time(self.platform.now());
        let mut news = false;
        self.interface.poll_maintenance(now);
        for _ in 0..FRAMES_PER_TURN {
            match self.interface.poll_ingress_single(now, &mut self.card, &mut self.sockets) {
                PollIngressSingleResult::None => break,
                PollIngressSingleResult::PacketProcessed | PollIngressSingleResult::SocketStateChanged => news = true,
            }
        }
        // Ends when the sockets have nothing more to say or the card has no room.
        while self.interface.poll_egress(now, &mut self.card, &mut self.sockets) == PollResult::SocketStateChanged {
            news = true;
        }
        self.card.nic.flush();
        news
    }
}

impl<N, P> fmt::Debug for Guest<'_, N, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest").finish_non_exhaustive()
    }
}

/// Why a step came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure(pub(crate) &'static str);

fn instant(micros: u64) -> Instant {
    Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
}

fn micros(instant: Instant) -> u64 {
    u64::try_from(instant.total_micros()).unwrap_or(0)
}
