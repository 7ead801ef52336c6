//! An engine in virtual time: the real stack, switch and DHCP server, with a scripted host and ports whose frames are kept.
//!
//! It takes the turns of [`crate::engine`]: the frames of all ports, then news of sockets, then timers, then what has become possible.
//! Each turn has one time, as there.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};

use super::tftp::RecordedTftp;
use crate::addr::MacAddr;
use crate::config::{Config, HostForward, Protocol};
use crate::frame::{Chunk, ChunkMut, Frame, FrameMeta, FrameMut, MAX_FRAME, Offloads};
use crate::gateway::dhcp::DhcpServer;
use crate::gateway::dhcp6::Dhcp6Server;
use crate::host::Host;
use crate::host::sim::SimHost;
use crate::port::{Egress, Halves, Ingress, PortId, Sent};
use crate::stack::{Context, Counters, DhcpReply, DnsWayBack, Listen, Services, Stack, TftpService};
use crate::switch::{Forwarding, Switch};
use crate::time::Instant;

/// News of sockets that are taken in one turn, as by the engine.
const EVENTS: usize = 128;

/// A frame that was sent to a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentFrame {
    /// To which port.
    pub port: PortId,
    /// The frame, from the Ethernet header on.
    pub bytes: Vec<u8>,
    /// What is left to the receiver.
    pub meta: FrameMeta,
}

/// A question to the DNS server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Where its answer goes.
    pub way_back: DnsWayBack,
    /// The message.
    pub message: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Stage {
    pub(super) host: SimHost,
    now: Instant,
    stack: Stack,
    switch: Switch,
    services: VirtualServices,
    ports: Vec<PortId>,
    forwards: Vec<Forward>,
    sent: Outbox,
}

/// The services at the virtual addresses: the real DHCP server, and whoever answers DNS.
#[derive(Debug)]
struct VirtualServices {
    dhcp: Option<DhcpServer>,
    dhcp6: Option<Dhcp6Server>,
    questions: Vec<Question>,
    refuses: bool,
    tftp: Option<RecordedTftp>,
}

impl Services for VirtualServices {
    fn dhcp(&mut self, now: Instant, from: MacAddr, message: &[u8]) -> Option<DhcpReply> {
        let mut reply = Vec::new();
        let answer = self.dhcp.as_mut()?.handle(now, from, message, &mut reply).ok()??;
        Some(DhcpReply { to: answer.to, mac: answer.mac, port: answer.port, message: reply })
    }

    fn dhcp6(&mut self, now: Instant, from: MacAddr, multicast: bool, message: &[u8]) -> Option<Vec<u8>> {
        let mut reply = Vec::new();
        self.dhcp6.as_mut()?.handle(now, from, multicast, message, &mut reply).ok()?;
        Some(reply)
    }

    fn dns(&mut self, way_back: DnsWayBack, message: &[u8]) -> bool {
        if !self.refuses {
            self.questions.push(Question { way_back, message: message.to_vec() });
        }
        !self.refuses
    }

    fn tftp(&mut self) -> Option<&mut dyn TftpService> {
        self.tftp.as_mut().map(|tftp| tftp as &mut dyn TftpService)
    }
}

macro_rules! context {
    ($stage:expr) => {
        &mut Context { now: $stage.now, link: $stage.switch.egress(), host: &mut $stage.host, services: &mut $stage.services }
    };
}

impl Stage {
    /// An engine without ports at time zero. The forwards of `config` are bound on the scripted host.
    ///
    /// # Errors
    ///
    /// When two forwards have the same port.
    pub(super) fn new(config: &Config, seed: u64) -> io::Result<Self> {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let mut stack = Stack::new(config, key);
        let mut host = SimHost::new(seed);
        let mut forwards = forwards(config);
        for forward in &mut forwards {
            let listen = Listen::Port(forward.protocol, forward.host, None);
            forward.host = stack.forward(&mut host, listen, forward.guest)?.1.unwrap_or(forward.host);
        }
        let services = VirtualServices {
            dhcp: DhcpServer::new(config),
            dhcp6: Dhcp6Server::new(config),
            questions: Vec::new(),
            refuses: false,
            tftp: RecordedTftp::of(config),
        };
        let mut stage = Self {
            host,
            now: Instant::ZERO,
            stack,
            switch: Switch::default(),
            services,
            ports: Vec::new(),
            forwards,
            sent: Outbox::default(),
        };
        // Before it has ports, an engine says nothing; its clock for saying things unasked begins now.
        stage.end_turn();
        Ok(stage)
    }

    pub(super) const fn now(&self) -> Instant {
        self.now
    }

    pub(super) fn counters(&self) -> &Counters {
        self.stack.counters()
    }

    /// The forwards, with the addresses that were really bound.
    pub(super) fn forwards(&self) -> &[Forward] {
        &self.forwards
    }

    /// Whether the DNS server takes no questions.
    pub(super) const fn refuse_questions(&mut self, refuses: bool) {
        self.services.refuses = refuses;
    }

    /// Begins a turn at `now`, which is not before the last one.
    pub(super) fn begin_turn(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// Adds a port, whose guest is told of the router at once.
    ///
    /// # Errors
    ///
    /// When there are too many.
    pub(super) fn add_port(&mut self, mtu: u16, offloads: Offloads) -> io::Result<PortId> {
        // Ports are numbered in their order, and none is taken away.
        let port = PortId::try_from(self.ports.len()).map_err(io::Error::other)?;
        let outlet = Outlet { mtu, offloads, port, sent: Arc::clone(&self.sent), buffer: vec![0; MAX_FRAME] };
        let port = self.switch.add(Halves { ingress: Box::new(NoIngress), egress: Box::new(outlet) }).map_err(io::Error::other)?;
        self.ports.push(port);
        self.stack.port_added(context!(self), port);
        Ok(port)
    }

    /// A guest sends a frame. Returns why it went no further, in the words that a capture has for it.
    pub(super) fn input(&mut self, port: PortId, bytes: &[u8], meta: FrameMeta) -> Option<&'static str> {
        let chunks = [Chunk::from(bytes)];
        let frame = Frame::new(&chunks, meta);
        let Self { stack, switch, .. } = self;
        let (stack_before, switch_before) = (stack.counters().clone(), switch.egress().counters().dropped());
        match switch.egress().forward(self.now, port, &frame, |mac| stack.is_ours(mac)) {
            Forwarding::ToEngine | Forwarding::ToEngineAndOthers => self.stack.input(context!(self), port, &frame),
            Forwarding::Forwarded | Forwarding::Dropped => {}
        }
        let between_guests = (self.switch.egress().counters().dropped() > switch_before).then_some("switch_dropped");
        self.stack.counters().refusal_since(&stack_before).or(between_guests)
    }

    /// The DNS server answers.
    pub(super) fn answer(&mut self, way_back: &DnsWayBack, message: &[u8]) {
        self.stack.send_dns(context!(self), way_back, message);
    }

    /// Does the rest of a turn. Returns whether there is more to do without time passing.
    pub(super) fn end_turn(&mut self) -> bool {
        self.host.advance(self.now);
        let mut events = Vec::with_capacity(EVENTS);
        self.host.events(&mut events);
        for event in events {
            self.stack.host_event(context!(self), event);
        }
        if self.stack.next_deadline().is_some_and(|deadline| deadline <= self.now) {
            self.stack.expire(context!(self));
        }
        let more = self.stack.run(context!(self));
        // What peers do about what they were just sent is part of the next turn.
        more || self.host.has_news() || self.stack.next_deadline().is_some_and(|deadline| deadline <= self.now)
    }

    /// When something happens next if nobody does anything.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.stack.next_deadline().into_iter().chain(self.host.next_deadline()).min()
    }

    /// The frames that were sent since this was asked last.
    pub(super) fn take_sent(&mut self) -> impl Iterator<Item = SentFrame> + use<> {
        std::mem::take(&mut *lock(&self.sent)).into_iter()
    }

    /// The questions that were asked since this was asked last.
    pub(super) fn take_questions(&mut self) -> Vec<Question> {
        std::mem::take(&mut self.services.questions)
    }
}

/// A port of the host that leads to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Forward {
    pub(super) protocol: Protocol,
    pub(super) host: SocketAddr,
    pub(super) guest: SocketAddr,
}

/// The forwards that a configuration asks for, one by one.
fn forwards(config: &Config) -> Vec<Forward> {
    let default = config.ipv4.as_ref().map(|ipv4| ipv4.dhcp_start.into());
    let each = |rule: &HostForward| {
        let (protocol, guest, guest_port) = (rule.host.protocol(), rule.guest.or(default), rule.guest_port);
        // A recording has nothing of where clients of UNIX sockets connect; to the guest they are like those of a port of the loopback.
        let host = rule.host.address().unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 0).into());
        (0..rule.host.count()).filter_map(move |n| {
            Some(Forward {
                protocol,
                host: (host.ip(), host.port().checked_add(n)?).into(),
                guest: (guest?, guest_port.checked_add(n)?).into(),
            })
        })
    };
    config.host_forwards.iter().flat_map(each).collect()
}

/// Frames in the order in which they were sent, to all ports.
type Outbox = Arc<Mutex<Vec<SentFrame>>>;

fn lock(outbox: &Outbox) -> std::sync::MutexGuard<'_, Vec<SentFrame>> {
    outbox.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The half of a port that nothing comes from: frames are put in by hand.
#[derive(Debug)]
struct NoIngress;

impl Ingress for NoIngress {
    fn receive(&mut self, _: usize, _: &mut dyn FnMut(Frame<'_>)) -> io::Result<usize> {
        Ok(0)
    }

    fn poll_readable(&mut self, _: &mut TaskContext<'_>) -> Poll<()> {
        Poll::Pending
    }
}

/// The half of a port that keeps what is sent.
#[derive(Debug)]
struct Outlet {
    mtu: u16,
    offloads: Offloads,
    port: PortId,
    sent: Outbox,
    buffer: Vec<u8>,
}

impl Egress for Outlet {
    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn send(&mut self, capacity: usize, fill: &mut dyn FnMut(&mut FrameMut<'_, '_>) -> Option<(usize, FrameMeta)>) -> Sent {
        let Some(room) = self.buffer.get_mut(..capacity) else { return Sent::Declined };
        let mut chunks = [ChunkMut::from(room)];
        let Some((len, meta)) = fill(&mut FrameMut::new(&mut chunks)) else { return Sent::Declined };
        let bytes = self.buffer[..len].to_vec();
        lock(&self.sent).push(SentFrame { port: self.port, bytes, meta });
        Sent::Yes
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn poll_writable(&mut self, _: &mut TaskContext<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}
