//! The TCP conversations of a run.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Run, SERVER_V4, SERVER_V6};
use crate::config::Protocol;
use crate::host::sim::{ConnectionId, HOST_V4, HOST_V6, Leave, Program, Server, Stream, Talk};
use crate::port::PortId;
use crate::sim::guest::{Addresses, FlowId};
use crate::sim::plan::{Answer, FlowPlan, PeerPlan, Reset, When};
use crate::sim::watch::FIRST_PORT;
use crate::sim::world::World;
use crate::stack::{ForwardSocket, Listen};
use crate::time::Duration;
use smoltcp::socket::tcp::State;

/// Where clients of forwards are.
pub(super) const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
pub(super) const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9);

/// The first port that forwards listen on, and the first that guests do.
const FIRST_FORWARD: u16 = 20_000;
const FIRST_SERVICE: u16 = 30_000;

/// Bytes that the last conversation has each way at least.
const LAST: u64 = 20_000;

/// A conversation and how far it has come.
pub(super) struct Conversation {
    plan: FlowPlan,
    number: usize,
    /// Whether nothing in the plan ends it before its time.
    must_complete: bool,
    /// Whether what tells the guest of an end may get lost. Only a guest that sends something asks again.
    may_not_learn: bool,
    started: bool,
    /// The guest's end, until the guest is unplugged.
    guest: Option<FlowId>,
    was_open: bool,
    reset_done: bool,
    pub(super) connection: Option<ConnectionId>,
    /// That by which its client comes, while it is there.
    forward: Option<ForwardSocket>,
    pub(super) complete: bool,
    /// It has ended in another way.
    pub(super) cut: bool,
    pub(super) heard_by_guest: u64,
    pub(super) heard_by_peer: u64,
}

impl Conversation {
    fn new(number: usize, plan: FlowPlan, must_complete: bool) -> Self {
        Self {
            plan,
            number,
            must_complete,
            may_not_learn: false,
            started: false,
            guest: None,
            was_open: false,
            reset_done: false,
            connection: None,
            forward: None,
            complete: false,
            cut: false,
            heard_by_guest: 0,
            heard_by_peer: 0,
        }
    }

    /// Whether its end is waited for.
    pub(super) const fn is_due(&self) -> bool {
        self.started && self.must_complete && !self.complete && !self.cut
    }

    pub(super) fn describe(&self, world: &World) -> String {
        let Self { number, plan, heard_by_guest, heard_by_peer, .. } = self;
        let state = self.guest.and_then(|flow| Some(world.guests.get(&self.port())?.state(flow)));
        let relayed = world.stack.flows().find(|flow| flow.remote.port() == FIRST_PORT + *number as u16);
        format!(
            "conversation {number} (up {heard_by_peer} of {}, down {heard_by_guest} of {}, guest in {state:?}, stack {relayed:?})",
            plan.up, plan.down
        )
    }

    fn port(&self) -> PortId {
        PortId(self.plan.guest.into())
    }

    fn guest_ip(&self) -> IpAddr {
        let Addresses { v4, v6, .. } = Addresses::of(self.plan.guest);
        if self.plan.v6 { v6.into() } else { v4.into() }
    }

    fn number16(&self) -> u16 {
        self.number as u16
    }

    /// The end that is not the guest's.
    fn remote(&self) -> SocketAddr {
        let ip: IpAddr = match (self.plan.inbound, self.plan.v6) {
            (false, false) => SERVER_V4.into(),
            (false, true) => SERVER_V6.into(),
            (true, false) => CLIENT_V4.into(),
            (true, true) => CLIENT_V6.into(),
        };
        SocketAddr::new(ip, FIRST_PORT + self.number16())
    }

    /// What a forward listens on.
    fn forward(&self) -> SocketAddr {
        let ip: IpAddr = if self.plan.v6 { HOST_V6.into() } else { HOST_V4.into() };
        SocketAddr::new(ip, FIRST_FORWARD + self.number16())
    }

    fn service(&self) -> SocketAddr {
        SocketAddr::new(self.guest_ip(), FIRST_SERVICE + self.number16())
    }

    fn streams(&self) -> (Stream, Stream) {
        (Stream::new(2 * self.number as u64), Stream::new(2 * self.number as u64 + 1))
    }

    fn guest_talk(&self) -> Talk {
        let (up, down) = self.streams();
        let begins_after = waits_for(self.plan.guest_begins_after, self.plan.down);
        let closes_last = self.plan.guest_closes_last;
        Talk { says: up, len: self.plan.up, hears: down, begins_after, closes_last, leaves: Leave::Never }
    }

    fn server(&self) -> Server {
        let (up, down) = self.streams();
        let PeerPlan { answer, delay, reads, send_queue, receive_queue, begins_after, closes_last, leaves } = self.plan.peer;
        let begins_after = waits_for(begins_after, self.plan.up);
        let talk = Talk { says: down, len: self.plan.down, hears: up, begins_after, closes_last, leaves };
        let server = match answer {
            Answer::Accepts => Server::new(Program::Talk(talk)),
            Answer::Fails(errno) => Server::failing(errno),
            Answer::FailsAtOnce(errno) => Server::failing_at_once(errno),
            Answer::Hangs => Server::silent(),
        };
        let server = server.after(Duration::from_micros(delay)).send_queue(send_queue).receive_queue(receive_queue);
        match reads {
            Some((bytes, every)) => server.reading(bytes, Duration::from_micros(every)),
            None => server,
        }
    }

    /// Looks how far it has come. Returns whether that has made anything happen.
    fn follow(&mut self, world: &mut World) -> bool {
        let guest = self.guest.and_then(|flow| Some((world.guests.get(&self.port())?, flow)));
        let mut guest_has_ended = true;
        let mut guest_saw_end = false;
        let mut state = State::Closed;
        if let Some((guest, flow)) = guest {
            self.heard_by_guest = guest.heard(flow);
            guest_saw_end = guest.saw_end(flow);
            state = guest.state(flow);
            self.was_open |= !matches!(state, State::Closed | State::Listen | State::SynSent | State::SynReceived);
            // What has arrived can still be read.
            guest_has_ended = matches!(state, State::Closed | State::Listen) && guest.unread(flow) == 0;
        }
        let connection = self.connection.map(|id| world.host.connection(id));
        let mut peer_has_ended = state == State::Closed;
        let mut is_broken = false;
        if let Some(connection) = connection {
            self.heard_by_peer = connection.received_len();
            let heard_all = self.heard_by_peer == self.plan.up && self.heard_by_guest == self.plan.down;
            self.complete |= heard_all && guest_saw_end && connection.saw_end();
            is_broken = !connection.is_established() || connection.saw_reset();
            peer_has_ended = is_broken || connection.saw_end() && !connection.is_held_by_stack();
        }
        let is_over =
            is_broken && self.may_not_learn && !world.stack.flows().any(|flow| flow.remote.port() == self.remote().port());
        if self.must_complete && !self.complete && peer_has_ended && (guest_has_ended || is_over) {
            self.cut = true;
        }
        self.reset(world, state)
    }

    fn reset(&mut self, world: &mut World, state: State) -> bool {
        let (Some(Reset { by_guest, when }), Some(flow), false) = (self.plan.reset, self.guest, self.reset_done) else {
            return false;
        };
        let heard = if by_guest { self.heard_by_guest } else { self.heard_by_peer };
        let closed = matches!(state, State::FinWait1 | State::FinWait2 | State::Closing | State::TimeWait | State::LastAck);
        let due = match when {
            When::Opening if !by_guest => self.connection.is_some(),
            When::Opening => matches!(state, State::SynSent | State::SynReceived),
            When::Open => self.was_open,
            When::Heard(bytes) => self.was_open && heard >= bytes,
            When::GuestClosed => closed,
            When::PeerClosed => matches!(state, State::CloseWait | State::Closing | State::LastAck | State::TimeWait),
        };
        if !due {
            return false;
        }
        match (by_guest, self.connection) {
            (true, _) => {
                let Some(guest) = world.guests.get_mut(&self.port()) else { return false };
                guest.reset(flow);
            }
            (false, Some(connection)) => world.host.connection_mut(connection).reset(),
            (false, None) => return false,
        }
        self.reset_done = true;
        true
    }
}

/// The first of the ports that forwards have which lead nobody anywhere.
const CHURNED_PORTS: u16 = 1000;

/// How much somebody hears before it begins, if the other side says so much: `u64::MAX` is the end.
fn waits_for(bytes: u64, said: u64) -> u64 {
    if bytes == u64::MAX { bytes } else { bytes.min(said) }
}

impl Run<'_> {
    pub(super) fn prepare_flows(&mut self) {
        for (number, plan) in self.plan.flows.iter().enumerate() {
            let may_not_learn = self.plan.link.lost > 0 || self.plan.link.damaged > 0;
            let flow = Conversation::new(number, plan.clone(), self.plan.must_complete(number));
            self.add_flow(Conversation { may_not_learn, ..flow });
        }
    }

    fn add_flow(&mut self, mut flow: Conversation) {
        let (_, down) = flow.streams();
        if let Some(watch) = &mut self.world.watch {
            watch.add(down, flow.plan.down);
        }
        if flow.plan.inbound {
            flow.forward = Some(self.world.forward(Protocol::Tcp, flow.forward(), flow.service()));
        } else {
            self.world.host.serve(flow.remote(), flow.server());
        }
        self.flows.push(flow);
    }

    /// Sockets that stay open for forwards.
    pub(super) fn forwards(&self) -> usize {
        let datagrams = self.plan.datagrams.iter().filter(|datagrams| datagrams.inbound).count();
        self.flows.iter().filter(|flow| flow.forward.is_some()).count() + datagrams + self.churned.len()
    }

    /// Forwards come and go. Those whose clients have connected are not needed any more.
    pub(super) fn churn(&mut self, count: u16, begins: bool) {
        if !begins {
            for forward in std::mem::take(&mut self.churned) {
                assert!(self.world.end_forward(forward, true), "a forward has gone by itself");
            }
            return;
        }
        for n in 0..count {
            let address = SocketAddr::new(HOST_V4.into(), CHURNED_PORTS + n);
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let guest = SocketAddr::new(Addresses::of(0).v4.into(), 1);
                // The host may refuse it, or another trouble have it.
                let Some(forward) = self.world.try_forward(Listen::Port(protocol, address, None), guest) else { continue };
                if n % 2 == 0 {
                    assert!(self.world.end_forward(forward, false), "a forward has gone by itself");
                    assert!(!self.world.end_forward(forward, false), "a forward is there after its end");
                } else {
                    self.churned.push(forward);
                }
            }
        }
        for flow in self.flows.iter_mut().filter(|flow| flow.started) {
            if let Some(forward) = flow.forward.take() {
                assert!(self.world.end_forward(forward, false), "a forward has gone by itself");
            }
        }
    }

    pub(super) fn start_flow(&mut self, number: usize) {
        let flow = &mut self.flows[number];
        flow.started = true;
        // While the guest is unplugged, nobody is there to begin.
        let Some(guest) = self.world.guests.get_mut(&flow.port()) else { return };
        guest.buffer = flow.plan.buffer;
        if !flow.plan.inbound {
            let id = guest.connect(flow.remote());
            guest.talk(id, flow.guest_talk());
            flow.guest = Some(id);
        } else {
            if flow.plan.peer.answer == Answer::Accepts {
                let id = guest.listen(flow.service().port());
                guest.talk(id, flow.guest_talk());
                flow.guest = Some(id);
            }
            let _ = self.world.host.dial(flow.forward(), flow.remote(), &flow.server());
        }
    }

    /// Looks how far all conversations have come. Returns whether that has made anything happen.
    pub(super) fn follow_flows(&mut self) -> bool {
        let mut busy = false;
        for number in 0..self.flows.len() {
            if !self.flows[number].started || self.flows[number].complete || self.flows[number].cut {
                continue;
            }
            let connection = self.connection(number);
            self.flows[number].connection = connection;
            busy |= self.flows[number].follow(&mut self.world);
        }
        busy
    }

    pub(super) fn forget_guest(&mut self, guest: u8) {
        for flow in self.flows.iter_mut().filter(|flow| flow.plan.guest == guest) {
            flow.guest = None;
        }
    }

    pub(super) fn set_reads(&mut self, number: usize, reads: bool) {
        let Some(flow) = self.flows.get(number) else { return };
        if let (Some(id), Some(guest)) = (flow.guest, self.world.guests.get_mut(&flow.port())) {
            guest.set_reads(id, reads);
        }
    }

    pub(super) fn send_queue(&self, number: usize) -> usize {
        self.flows[number].plan.peer.send_queue
    }

    /// After all that has happened, a conversation goes as if nothing had. It says what is missing.
    pub(super) fn one_more(&mut self) {
        let said = |heard: fn(&Conversation) -> u64| self.flows.iter().map(heard).sum::<u64>();
        let (up, down) = (said(|flow| flow.heard_by_peer), said(|flow| flow.heard_by_guest));
        // Where frames are largest.
        let guests = self.plan.guests.iter().enumerate();
        let guest = guests.max_by_key(|(_, guest)| (guest.mtu, guest.offloads)).map_or(0, |(n, _)| n);
        let plan = FlowPlan {
            guest: guest as u8,
            v6: self.plan.guests[guest].mtu >= 1280 && self.plan.seed & 1 == 1,
            inbound: false,
            starts: 0,
            up: self.plan.least.saturating_sub(up).max(self.plan.least.min(LAST)),
            down: self.plan.least.saturating_sub(down).max(self.plan.least.min(LAST)),
            buffer: 64_000,
            guest_begins_after: 0,
            guest_closes_last: false,
            peer: PeerPlan {
                answer: Answer::Accepts,
                delay: 0,
                reads: None,
                send_queue: 128 << 10,
                receive_queue: 128 << 10,
                begins_after: 0,
                closes_last: false,
                leaves: Leave::Never,
            },
            reset: None,
        };
        self.make_room();
        let number = self.flows.len();
        self.add_flow(Conversation::new(number, plan, true));
        self.start_flow(number);
        self.settle();
        self.until_complete();
        let last = &self.flows[number];
        assert!(last.complete, "after all troubles, {} is cut short", last.describe(&self.world));
    }

    /// Ends conversations that hang, where limits are so low that nobody else could begin.
    fn make_room(&mut self) {
        if self.limits.tcp_flows <= self.flows.len() || self.limits.tcp_opening <= self.flows.len() {
            self.end_flows();
            let end = self.world.now + Duration::from_secs(400);
            self.until(end);
        }
    }

    /// Ends every conversation that goes on.
    pub(super) fn end_flows(&mut self) {
        for flow in &self.flows {
            if let (Some(id), Some(guest)) = (flow.guest, self.world.guests.get_mut(&flow.port())) {
                guest.set_reads(id, true);
                guest.finish(id);
                // This guest's stack asks for ever for what never answers.
                if guest.state(id) == State::SynSent {
                    guest.reset(id);
                }
            }
            if let Some(connection) = flow.connection {
                let connection = self.world.host.connection_mut(connection);
                connection.take_at_most(None);
                connection.finish();
            }
        }
        self.settle();
    }

    /// Whoever was cut short was so by somebody.
    pub(super) fn check_cuts(&self) {
        let cut: Vec<&Conversation> = self.flows.iter().filter(|flow| flow.cut && flow.must_complete).collect();
        let allowed = self.refusals();
        if let Some(flow) = cut.first()
            && cut.len() as u64 > allowed
        {
            panic!("{} is cut short, and nobody has a reason: {} for {allowed}", flow.describe(&self.world), cut.len());
        }
    }
}
