//! One run of a plan, with everything held against what must be.
//!
//! What always holds, looked at in every turn:
//!
//! - Each side hears what the other says, in order and unchanged (`Talk`); each frame of the stack is right ([`super::watch`]).
//! - No limit is exceeded, and nobody goes on for ever without time passing.
//! - A conversation that nothing ends comes to its end. One that is cut short was reset, refused or unplugged by somebody.
//! - When all is over, one more conversation goes well; and then nothing is left: no connection, no mapping, no socket.

mod acts;
mod datagrams;
mod flows;

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::plan::{Plan, What};
use super::watch::Watch;
use super::world::{Faults, GuestCard, Setup, World};
use crate::config::{Config, Limits};
use crate::frame::Offloads;
use crate::host::sim::ConnectionId;
use crate::port::PortId;
use crate::stack::{Counters, ForwardSocket};
use crate::time::{Duration, Instant};

use acts::Act;
use datagrams::Datagrams;
use flows::Conversation;

/// Where servers are.
const SERVER_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7);

/// Turns without time passing that nobody needs.
const TOO_MANY_TURNS: u64 = 20_000;

/// How long no conversation may get on after the last trouble: much longer than any time-out but that of idle connections.
const PATIENCE: Duration = Duration::from_secs(3600);

/// How long it may take until nothing is left: as long as the longest time-out, and what it takes to ask a silent guest.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3 * 3600);

/// What a run has come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Bytes that guests have said and the host's side has heard, and the other way.
    pub up: u64,
    /// See `up`.
    pub down: u64,
    /// Conversations that came to their end, and others.
    pub complete: u64,
    /// See `complete`.
    pub cut: u64,
    /// Datagrams that came back to guests.
    pub echoes: u64,
    /// How long it took on the virtual clock.
    pub time: Duration,
    /// Turns of everybody.
    pub turns: u64,
    /// What the stack has counted.
    pub counters: Counters,
}

/// Runs a plan.
///
/// # Panics
///
/// When anything is not as it must be. [`catch`] returns that as a value.
pub fn run(plan: &Plan, trace: usize) -> Report {
    let mut run = Run::new(plan, trace);
    run.troubled();
    run.calm_down();
    run.one_more();
    run.one_more_datagram();
    run.wind_up();
    run.report()
}

/// Runs a plan, and returns what was wrong, if anything. What is wrong is a panic, so the panic hook is called.
///
/// # Errors
///
/// The words of the panic.
pub fn catch(plan: &Plan) -> Result<Report, Failure> {
    std::panic::catch_unwind(|| run(plan, 0)).map_err(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        Failure(words.or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned())).unwrap_or_default())
    })
}

/// What was wrong in a run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

struct Run<'a> {
    plan: &'a Plan,
    world: World,
    limits: Limits,
    flows: Vec<Conversation>,
    datagrams: Vec<Datagrams>,
    /// What is still to happen, the next last.
    acts: Vec<(Instant, Act)>,
    /// Whether events come without reason at present.
    spurious: bool,
    turns: u64,
    /// Forwards that come and go, and lead nobody anywhere.
    churned: Vec<ForwardSocket>,
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan, trace: usize) -> Self {
        let mut limits = Limits::default();
        let low = &plan.limits;
        let set = |limit: &mut usize, low: Option<usize>| *limit = low.unwrap_or(*limit);
        set(&mut limits.tcp_flows, low.flows);
        set(&mut limits.tcp_opening, low.opening);
        set(&mut limits.tcp_held_bytes, low.held);
        set(&mut limits.udp_mappings, low.mappings);
        set(&mut limits.neighbours, low.neighbours);
        let mut world = World::new(Setup {
            config: Config { limits: limits.clone(), ..Config::default() },
            seed: plan.seed,
            guests: 0,
            latency: Duration::from_micros(plan.latency),
            ..Setup::default()
        });
        world.tells = trace > 0;
        world.trace.keep(trace);
        for (n, guest) in plan.guests.iter().enumerate() {
            let n = n as u8;
            let offloads = if guest.offloads { Offloads::ALL } else { Offloads::NONE };
            world.add_guest(n, GuestCard { mtu: guest.mtu, offloads, segments: guest.segments });
            if let Some(card) = world.link.cards.get_mut(&PortId(n.into())) {
                card.capacity = guest.capacity;
            }
        }
        let link = plan.link;
        world.faults = Faults { lost: link.lost, doubled: link.doubled, late: link.late, damaged: link.damaged };
        world.watch = Some(Box::new(Watch::default()));
        let mut run = Self {
            plan,
            world,
            limits,
            flows: Vec::new(),
            datagrams: Vec::new(),
            acts: Vec::new(),
            spurious: false,
            turns: 0,
            churned: Vec::new(),
        };
        run.prepare_flows();
        run.prepare_datagrams();
        run.prepare_acts();
        run
    }

    /// Everything that is planned, until all that must come to its end has.
    fn troubled(&mut self) {
        while let Some((at, _)) = self.acts.last() {
            let at = *at;
            self.until(at);
            while let Some((_, act)) = self.acts.pop_if(|(due, _)| *due <= self.world.now) {
                self.act(act);
            }
        }
        self.until_complete();
    }

    fn until_complete(&mut self) {
        let heard = |flows: &[Conversation]| flows.iter().map(|flow| flow.heard_by_guest + flow.heard_by_peer).sum::<u64>();
        let mut latest = heard(&self.flows);
        let mut end = self.world.now + PATIENCE;
        while self.flows.iter().any(|flow| flow.is_due()) {
            if heard(&self.flows) != latest {
                latest = heard(&self.flows);
                end = self.world.now + PATIENCE;
            }
            if self.world.now >= end || !self.advance(end) {
                let late = self.flows.iter().find(|flow| flow.is_due());
                panic!("{} does not come to its end", late.map_or_else(String::new, |flow| flow.describe(&self.world)));
            }
        }
    }

    /// Lets time pass until `end`.
    fn until(&mut self, end: Instant) {
        while self.world.now < end {
            if !self.advance(end) {
                self.world.now = end;
                self.settle();
            }
        }
    }

    /// Moves on to what happens next, but not beyond `end`. Returns whether there is anything before.
    fn advance(&mut self, end: Instant) -> bool {
        match self.world.next_deadline().filter(|next| *next < end) {
            Some(next) => {
                self.world.move_to(next);
                self.settle();
                true
            }
            None => false,
        }
    }

    /// Everything that follows without time passing.
    fn settle(&mut self) {
        for guest in self.world.guests.values_mut() {
            guest.knows_gateway = true;
        }
        let mut turns = 0;
        self.world.host.set_spurious_events(self.spurious);
        loop {
            let busy = self.world.turn();
            // One turn in each instant: else those without reason would be a reason of their own.
            self.world.host.set_spurious_events(false);
            self.check_limits();
            turns += 1;
            assert!(turns < TOO_MANY_TURNS, "{turns} turns without time passing");
            if !busy && !self.follow_flows() && !self.follow_datagrams() {
                break;
            }
        }
        self.turns += turns;
    }

    fn check_limits(&self) {
        let (usage, limits) = (self.world.stack.usage(), &self.limits);
        let within = usage.tcp_flows <= limits.tcp_flows
            && usage.tcp_opening <= limits.tcp_opening
            && usage.tcp_held_bytes <= limits.tcp_held_bytes
            && usage.udp_mappings <= limits.udp_mappings
            && usage.neighbours <= limits.neighbours;
        assert!(within, "a limit is exceeded: {usage:?} of {limits:?}");
    }

    /// Ends everything that is wrong.
    fn calm_down(&mut self) {
        self.world.faults = Faults::default();
        self.world.host.forgive();
        self.world.host.set_max_sockets(usize::MAX);
        self.settle();
        self.world.trace.remark(self.world.now, || "--- the troubles are over".to_owned());
    }

    /// Ends every conversation that goes on, and waits until nothing is left.
    fn wind_up(&mut self) {
        self.end_flows();
        let end = self.world.now + LONGEST_TIMEOUT;
        while !self.nothing_is_left() {
            if self.world.now >= end || !self.advance(end) {
                let left: Vec<_> = self.world.stack.flows().collect();
                let (usage, sockets) = (self.world.stack.usage(), self.world.host.open_sockets());
                let waiting = self.world.stack.waiting();
                panic!("in the end something is left: {usage:?}, {waiting} waiting, {sockets} sockets, {left:?}");
            }
        }
        self.check_cuts();
    }

    fn nothing_is_left(&self) -> bool {
        let usage = self.world.stack.usage();
        (usage.tcp_flows, usage.tcp_opening, usage.tcp_held_bytes, usage.udp_mappings) == (0, 0, 0, 0)
            && self.world.stack.waiting() == 0
            && self.world.host.open_sockets() == self.forwards()
    }

    fn report(&self) -> Report {
        let mut report = Report {
            time: self.world.now.since(Instant::ZERO),
            turns: self.turns,
            counters: self.world.counters().clone(),
            ..Report::default()
        };
        for flow in &self.flows {
            report.up += flow.heard_by_peer;
            report.down += flow.heard_by_guest;
            *(if flow.complete { &mut report.complete } else { &mut report.cut }) += 1;
        }
        report.echoes = self.datagrams.iter().map(|datagrams| u64::from(datagrams.echoes)).sum();
        report
    }

    /// Refusals that can have ended a conversation each.
    fn refusals(&self) -> u64 {
        let counters = self.world.counters();
        // This guest's stack throws away what a program has not read by the time that TIME-WAIT is over.
        let deaf = self.plan.troubles.iter().filter(|trouble| matches!(trouble.what, What::Deaf(_))).count() as u64;
        let slept = if self.plan.leaps() { counters.tcp_expired + deaf } else { 0 };
        counters.tcp_limit_flows + counters.tcp_limit_opening + counters.tcp_limit_host + self.world.host.faults_met() + slept
    }

    fn connection(&mut self, flow: usize) -> Option<ConnectionId> {
        self.world.watch.as_mut().and_then(|watch| watch.connection(&self.world.host, flow))
    }
}
