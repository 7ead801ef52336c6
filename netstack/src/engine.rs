//! The async shell around the stack: waits for frames, sockets, timers and commands, and calls the stack. It never blocks.
//!
//! One engine is one task, without a lock. Everything that takes its time (DNS upstream, control connections) runs beside it in tasks of
//! its own and talks to it by channel.
//!
//! Each turn drains frames up to a budget, then news of sockets, lets the stack do what has become possible, and flushes every port once.
//! Only when there is nothing left to do does the task sleep.

mod builder;
mod capture;
mod forwards;
mod handle;
mod links;
mod services;

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::SystemTime;

use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant as TokioInstant, Sleep};

pub use self::builder::Builder;
use self::builder::Hooks;
use self::forwards::Forwards;
pub use self::forwards::{BoundForward, ForwardId, ForwardRefused};
use self::handle::Command;
pub use self::handle::{Attachment, EngineGone, Handle};
pub use self::links::{NoSuchPort, PortName};
use self::services::Gateway;
use crate::config::Config;
use crate::control::Info;
use crate::gateway::files::RootError;
use crate::gateway::{dns, smb, tftp};
use crate::host::kernel::{self, KernelHost};
use crate::host::{Event, Host};
use crate::port::{Port, PortId};
use crate::stack::{Context, Counters, Stack};
use crate::switch::{Forwarding, Link, Switch};
use crate::time::{Duration, Instant};

/// Frames that one port hands in before sockets get their turn.
const FRAMES_PER_TURN: usize = 64;

/// Turns that a busy engine takes before other tasks get theirs, and the runtime looks at its descriptors.
const TURNS: usize = 4;

/// Commands that wait for the engine, before those who send them wait too.
const COMMANDS: usize = 64;

/// Why an engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No randomness for what must be unpredictable.
    #[error("cannot read random bytes from the kernel")]
    Random(#[source] io::Error),
    /// No descriptors, or no runtime to watch them.
    #[error("cannot set up the sockets of the engine")]
    Host(#[source] io::Error),
    /// A forward from guests has no address at which they could find it.
    #[error("the forward from port {0} of the guests' network has no address, because IPv4 is off: name one of IPv6")]
    NoServer(u16),
    /// A forward from guests leads to a hook that nobody has given.
    #[error("there is no hook `{0}` for the forward that leads to it")]
    NoHook(String),
    /// There can be no SMB server.
    #[error(transparent)]
    Smb(#[from] smb::SmbError),
    /// A forward cannot be made.
    #[error(transparent)]
    Forward(#[from] ForwardRefused),
    /// The DNS service did not start.
    #[error(transparent)]
    Dns(#[from] dns::StartError),
    /// The TFTP server did not start.
    #[error(transparent)]
    Tftp(#[from] tftp::StartError),
    /// The HTTP server did not start.
    #[error("http: {0}")]
    Http(#[from] RootError),
}

/// A user-mode network: a stack, the host's sockets, the services, and the ports to the guests.
#[derive(Debug)]
pub struct Engine {
    stack: Stack,
    host: KernelHost,
    host_events: AsyncFd<OwnedFd>,
    switch: Switch,
    ports: Vec<PortState>,
    gateway: Gateway,
    dns_answers: mpsc::Receiver<dns::Response>,
    commands: mpsc::Receiver<Command>,
    handle: Handle,
    forwards: Forwards,
    config: Config,
    started: TokioInstant,
    /// The wall clock at that moment, in nanoseconds since 1970.
    epoch: u64,
    /// The time of the turn.
    now: Instant,
    mtu: u16,
    events: Vec<Event>,
    /// Whether news of sockets may wait.
    host_ready: bool,
    /// Frames from guests whose link was down.
    dropped_on_links: u64,
}

/// A port that is in use.
#[derive(Debug)]
struct PortState {
    id: PortId,
    name: String,
    readable: bool,
    /// Told when the port ends, and why.
    closed: Option<oneshot::Sender<String>>,
}

/// What woke the engine.
enum Woken {
    /// Frames, sockets or time: the next turn will see.
    Turn,
    Command(Command),
    Answer(dns::Response),
    Shutdown,
}

impl Engine {
    /// Sets up an engine: binds the forwards and starts the DNS service. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// See [`EngineError`]. Nothing stays behind.
    pub fn new(config: &Config) -> Result<Self, EngineError> {
        Self::builder(config).build()
    }

    /// An engine that is to have more than a configuration can say.
    pub fn builder(config: &Config) -> Builder<'_> {
        Builder::new(config)
    }

    fn assemble(config: &Config, hooks: Hooks) -> Result<Self, EngineError> {
        let mut seed = [0; 32];
        fill_random(&mut seed).map_err(EngineError::Random)?;
        let (gateway, dns_answers, connector) = Gateway::new(config, hooks)?;
        let host = KernelHost::new(connector).map_err(EngineError::Host)?;
        let host_events = host.watch().map_err(EngineError::Host)?;
        let (sender, commands) = mpsc::channel(COMMANDS);
        let mut engine = Self {
            stack: Stack::new(config, seed),
            host,
            host_events,
            switch: Switch::default(),
            ports: Vec::new(),
            gateway,
            dns_answers,
            commands,
            handle: Handle::new(sender),
            forwards: Forwards::default(),
            config: config.clone(),
            started: TokioInstant::now(),
            epoch: wall_clock(),
            now: Instant::ZERO,
            mtu: config.mtu,
            events: Vec::new(),
            host_ready: true,
            dropped_on_links: 0,
        };
        for rule in &config.host_forwards {
            engine.add_forward(rule)?;
        }
        Ok(engine)
    }

    /// A handle by which the engine can be told things while it runs.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until [`Handle::shutdown`] is called. Ports that end are dropped; their [`Attachment`]s are told.
    pub async fn run(mut self) {
        let mut timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        loop {
            let busy = (0..TURNS).all(|_| self.turn());
            let woken = if busy {
                // Others get their turn, and the runtime looks at its descriptors.
                tokio::task::yield_now().await;
                poll_fn(|cx| Poll::Ready(self.poll(cx, &mut timer))).await
            } else {
                poll_fn(|cx| self.poll(cx, &mut timer).map_or(Poll::Pending, |woken| Poll::Ready(Some(woken)))).await
            };
            match woken {
                None | Some(Woken::Turn) => {}
                Some(Woken::Command(command)) => {
                    self.read_clock();
                    self.command(command);
                }
                Some(Woken::Answer(answer)) => {
                    self.read_clock();
                    self.answer(&answer);
                }
                Some(Woken::Shutdown) => return self.end().await,
            }
        }
    }

    /// Ends what would outlive the engine: recordings that are to be written, and commands that serve guests.
    async fn end(mut self) {
        self.end_captures().await;
        // That their connections are closed is what commands are to notice first.
        drop(self.host);
        self.gateway.end().await;
    }

    /// Does what there is to do, a bounded amount of it. Returns whether there is more.
    ///
    /// All that is done in a turn is done at the same time, so whoever plays a recording knows what was.
    fn turn(&mut self) -> bool {
        self.read_clock();
        let mut busy = self.take_frames();
        busy |= self.take_events();
        let Self { stack, host, switch, gateway, now, .. } = self;
        let now = *now;
        let mut cx = Context { now, link: switch.egress(), host, services: gateway };
        if stack.next_deadline().is_some_and(|at| at <= now) {
            stack.expire(&mut cx);
        }
        busy |= stack.run(&mut cx);
        self.flush();
        self.switch.recorder().end_turn();
        busy
    }

    fn take_frames(&mut self) -> bool {
        let now = self.now;
        let mut busy = false;
        let mut broken = Vec::new();
        let Self { stack, host, switch, gateway, ports, dropped_on_links, .. } = self;
        for port in ports.iter_mut().filter(|port| port.readable) {
            let Some((ingress, egress)) = switch.split(port.id) else { continue };
            let up = egress.is_up(port.id);
            let received = ingress.receive(FRAMES_PER_TURN, &mut |frame| {
                if !up {
                    *dropped_on_links += 1;
                    return;
                }
                let before = egress.recorder().is_on().then(|| {
                    egress.recorder().frame_from_guest(port.id, &frame);
                    (stack.counters().clone(), egress.counters().dropped())
                });
                let forwarding = egress.forward(now, port.id, &frame, |mac| stack.is_ours(mac));
                if matches!(forwarding, Forwarding::ToEngine | Forwarding::ToEngineAndOthers) {
                    stack.input(&mut Context { now, link: egress, host, services: gateway }, port.id, &frame);
                }
                if let Some((stack_before, switch_before)) = before {
                    let between_guests = (egress.counters().dropped() > switch_before).then_some("switch_dropped");
                    if let Some(why) = stack.counters().refusal_since(&stack_before).or(between_guests) {
                        egress.recorder().was_dropped(why);
                    }
                }
            });
            match received {
                Ok(count) => {
                    port.readable = count == FRAMES_PER_TURN;
                    busy |= port.readable;
                    // What the guest has sent often has its effect at once, as a connection to this machine has. It costs less to look
                    // than to sleep and be woken.
                    self.host_ready |= count > 0;
                }
                Err(error) => broken.push((port.id, error)),
            }
        }
        for (port, error) in broken {
            self.close_port(port, &error.to_string());
        }
        busy
    }

    fn take_events(&mut self) -> bool {
        if !self.host_ready {
            return false;
        }
        let now = self.now;
        let Self { stack, host, switch, gateway, events, .. } = self;
        events.clear();
        host.events(events);
        // A call that did not fill its buffer has told everything; whatever comes later wakes us.
        self.host_ready = events.len() >= kernel::EVENTS;
        for event in events.drain(..) {
            stack.host_event(&mut Context { now, link: switch.egress(), host, services: gateway }, event);
        }
        self.host_ready
    }

    fn flush(&mut self) {
        let mut broken = Vec::new();
        for port in &self.ports {
            if let Some(egress) = self.switch.egress().get(port.id)
                && let Err(error) = egress.flush()
            {
                broken.push((port.id, error));
            }
        }
        for (port, error) in broken {
            self.close_port(port, &error.to_string());
        }
    }

    /// Looks at everything that can wake the engine, and leaves the waker where there is nothing. `None`: nothing at all has happened.
    fn poll(&mut self, cx: &mut TaskContext<'_>, timer: &mut Pin<Box<Sleep>>) -> Option<Woken> {
        match self.commands.poll_recv(cx) {
            Poll::Ready(Some(Command::Shutdown) | None) => return Some(Woken::Shutdown),
            Poll::Ready(Some(command)) => return Some(Woken::Command(command)),
            Poll::Pending => {}
        }
        if let Poll::Ready(Some(answer)) = self.dns_answers.poll_recv(cx) {
            return Some(Woken::Answer(answer));
        }
        let mut woken = None;
        for port in &mut self.ports {
            if !port.readable
                && let Some(ingress) = self.switch.ingress(port.id)
                && ingress.poll_readable(cx).is_ready()
            {
                port.readable = true;
            }
            if port.readable {
                woken = Some(Woken::Turn);
            }
            // What a flush had to leave is driven out by waiting, also if the stack waits for nothing.
            let waits = self.stack.waits_for(port.id);
            // Of a link that is down, its coming up tells.
            let waits = waits && self.switch.egress().is_up(port.id);
            if let Some(egress) = self.switch.egress().get(port.id)
                && (waits || !egress.is_flushed())
                && egress.poll_writable(cx).is_ready()
                && waits
            {
                self.stack.port_writable(port.id);
                woken = Some(Woken::Turn);
            }
        }
        // Everything that was there has been taken, or will be; the next edge comes for what is new.
        while let Poll::Ready(Ok(mut guard)) = self.host_events.poll_read_ready(cx) {
            guard.clear_ready();
            self.host_ready = true;
        }
        if self.host_ready {
            woken = Some(Woken::Turn);
        }
        self.switch.recorder().poll(cx);
        if let Some(deadline) = self.stack.next_deadline() {
            let deadline = self.started + Duration::from_micros(deadline.as_micros());
            if timer.deadline() != deadline {
                timer.as_mut().reset(deadline);
            }
            if timer.as_mut().poll(cx).is_ready() {
                woken = Some(Woken::Turn);
            }
        }
        woken
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Attach { port, reply } => {
                // Whoever asked may have gone; then the port goes too, by its own way.
                let _ = reply.send(self.attach(port));
            }
            Command::Detach(port) => self.close_port(port, "detached"),
            Command::Counters(reply) => drop(reply.send(self.counters())),
            Command::AddForward { rule, reply } => self.forward_on_command(&rule, reply),
            Command::RemoveForward { id, flows, reply } => drop(reply.send(self.remove_forward(id, flows))),
            Command::Forwards(reply) => drop(reply.send(self.forwards.list())),
            Command::Flows(reply) => drop(reply.send(self.stack.flows().collect())),
            Command::Leases(reply) => drop(reply.send(self.gateway.leases(self.now))),
            Command::Leases6(reply) => drop(reply.send(self.gateway.leases6())),
            Command::StartCapture { opened, reply } => self.start_capture(*opened, reply),
            Command::StopCapture { id, reply } => drop(reply.send(self.switch.recorder().stop(id))),
            Command::Captures(reply) => drop(reply.send(self.switch.recorder().list())),
            Command::UdpFlows(reply) => drop(reply.send(self.stack.udp_flows(self.now).collect())),
            Command::LeaseTable(reply) => drop(reply.send(self.lease_table())),
            Command::Dns(reply) => drop(reply.send(self.gateway.dns_service())),
            Command::Ports(reply) => drop(reply.send(self.port_table())),
            Command::SetLink { port, up, reply } => drop(reply.send(self.set_link(&port, up))),
            Command::Info(reply) => drop(reply.send(Info::new(&self.config, self.started.elapsed().as_secs_f64()))),
            Command::Shutdown => {}
        }
    }

    /// What the stack, the switch and the ports that are there have counted.
    fn counters(&mut self) -> Counters {
        let mut counters = self.stack.counters().clone();
        let switch = *self.switch.egress().counters();
        counters.switch_forwarded = switch.forwarded;
        counters.switch_dropped = switch.dropped();
        let captures = self.switch.recorder().tally();
        counters.capture_frames = captures.recorded;
        counters.capture_cut = captures.cut;
        counters.capture_dropped = captures.dropped;
        counters.drop_link_down = self.dropped_on_links;
        self.handle.tally().tell(&mut counters);
        for port in &self.ports {
            let ingress = self.switch.ingress(port.id).map_or(0, |ingress| ingress.dropped());
            let egress = self.switch.egress().get(port.id).map_or(0, |egress| egress.dropped());
            counters.drop_port += ingress + egress;
        }
        counters
    }

    fn attach(&mut self, port: Box<dyn Port>) -> io::Result<Attachment> {
        let name = port.name();
        let id = self.switch.add(port.attach()?).map_err(io::Error::other)?;
        let (closed, receiver) = oneshot::channel();
        tracing::info!(port = %name, "attached");
        let egress = self.switch.egress();
        let (offloads, mtu) = (egress.offloads(id), egress.mtu(id));
        egress.recorder().port_added(id, &name, offloads, mtu);
        self.ports.push(PortState { id, name, readable: true, closed: Some(closed) });
        let now = self.now;
        let Self { stack, host, switch, gateway, .. } = self;
        stack.port_added(&mut Context { now, link: switch.egress(), host, services: gateway }, id);
        Ok(Attachment { id, closed: receiver })
    }

    fn close_port(&mut self, id: PortId, why: &str) {
        let Some(place) = self.ports.iter().position(|port| port.id == id) else { return };
        let port = self.ports.swap_remove(place);
        tracing::info!(port = %port.name, why, "gone");
        let now = self.now;
        let Self { stack, host, switch, gateway, .. } = self;
        stack.port_removed(&mut Context { now, link: switch.egress(), host, services: gateway }, id);
        self.switch.remove(id);
        self.switch.recorder().port_removed(id);
        if let Some(closed) = port.closed {
            // Nobody has to listen.
            let _ = closed.send(why.to_owned());
        }
    }

    fn answer(&mut self, answer: &dns::Response) {
        let now = self.now;
        let Some(way_back) = self.gateway.way_back(answer) else { return };
        let Self { stack, host, switch, gateway, .. } = self;
        stack.send_dns(&mut Context { now, link: switch.egress(), host, services: gateway }, &way_back, &answer.message);
    }

    /// Makes the time what the clock says, and later than before: so no two turns have the same.
    fn read_clock(&mut self) {
        let clock = Instant::from_micros(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX));
        self.now = clock.max(self.now + Duration::from_micros(1));
        self.switch.recorder().set_time(self.now);
    }
}

/// Nanoseconds since 1970; 0 on a machine whose clock was never set.
fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or_default()
}

fn fill_random(buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        filled += rustix::rand::getrandom(&mut buffer[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(())
}
