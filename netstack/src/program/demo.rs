//! `slipway demo`: the proof that this program works on this machine, with nothing from outside it.
//!
//! Servers run on the host's loopback address; a child in new namespaces is the guest and uses them through the engine: see `guest` for
//! what it does. The last steps go the other way, from the host to the guest's servers. The parent draws progress and prints the table.

mod dhcp;
mod dns;
mod guest;
mod ping;
mod servers;
mod steps;
mod transfer;

use std::io::{self, IsTerminal, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use crate::config::{Config, HostForward, Protocol};
use crate::engine::Handle;
use crate::port::tap::Tap;
use tokio::sync::mpsc;

use self::guest::{GUEST_PORT, Message, Plan};
use self::servers::Servers;
use crate::program::cli::DemoArgs;
use crate::program::engine::Beside;
use crate::program::failure::{Failure, OrFail, plain};
use crate::program::process::{Child, Link, die_with_parent, fork};
use crate::program::report::{Outcome, Part, Report, Step};
use crate::program::tap::{TapSpec, hand_out, take};
use crate::program::{diagnose, engine, namespace};

/// What this guest is.
const TITLE: &str = "a guest in a network namespace";

/// The guest's interface.
const INTERFACE: &str = "tap0";

/// The name that the guest tells the DHCP server.
const HOSTNAME: &str = "demo";

/// How long the guest may be silent before it is given up. Every step of its own gives up sooner.
const SILENCE: Duration = Duration::from_secs(60);

/// How long a connection to the guest may stand still.
const PATIENCE: Duration = Duration::from_secs(20);

/// Shows it all; 1 if something has failed.
pub(crate) fn run(args: &DemoArgs) -> Result<u8, Failure> {
    let report = Report { parts: vec![part(args.size, args.mtu)?] };
    report.print(args.json)?;
    Ok(u8::from(!report.passed()))
}

/// What a guest in a network namespace does: `size` MiB each way, over a link with this MTU. Must be called by a process with a single
/// thread, since the guest is a fork of it.
///
/// # Errors
///
/// When this machine does not allow it.
pub fn part(size: u32, mtu: u16) -> Result<Part, Failure> {
    diagnose::check_tun()?;
    let (servers, ports) = Servers::bind()?;
    let mut config = Config { mtu, ..Config::default() };
    config.host_forwards = [Protocol::Tcp, Protocol::Udp].map(forward).into();
    let (Some(ipv4), Some(ipv6)) = (&config.ipv4, &config.ipv6) else { unreachable!("both are on by default") };
    let plan = Plan {
        interface: INTERFACE,
        mtu,
        size: u64::from(size) << 20,
        ports,
        expected: ipv4.dhcp_start,
        gateway_v6: ipv6.gateway,
        prefix_v6: ipv6.prefix,
    };
    let us = rustix::process::getpid();
    let child = fork(|link| {
        inside(&link, us, &plan).map_or_else(
            |failure| {
                failure.report();
                failure.code()
            },
            |()| 0,
        )
    })?;
    let Some((tap, _)) = take(&child, config.mtu)? else {
        let code = child.wait().or_fail(|| "cannot wait for the guest")?;
        let why = format!("it could not be made, for the reason told above; its process has ended with code {code}");
        return Ok(Part { title: TITLE, steps: vec![Step::skipped("namespaces", why)] });
    };
    servers.start();
    let told = engine::with_engine(&config, Beside::default(), async |handle| watch(&child, handle, tap, plan.size).await)?;
    let steps = told.ok_or_else(|| Failure::new("the network has stopped by itself"))?;
    Ok(Part { title: TITLE, steps })
}

/// A free port of the host that leads to the guest.
fn forward(protocol: Protocol) -> HostForward {
    HostForward::of_port(protocol, (Ipv4Addr::LOCALHOST, 0).into(), GUEST_PORT)
}

/// The guest.
fn inside(link: &Link, parent: rustix::process::Pid, plan: &Plan) -> Result<(), Failure> {
    namespace::enter_new()?;
    die_with_parent(parent);
    namespace::allow_ping();
    hand_out(link, &TapSpec { name: INTERFACE, mtu: plan.mtu, up: true, addresses: None })?;
    // The parent lets us go when the engine has the tap.
    match link.receive() {
        Ok(Some(_)) => guest::run(link, plan).or_fail(|| "the guest cannot tell what it sees"),
        _ => Ok(()),
    }
}

/// Follows the guest to its end.
async fn watch(child: &Child, handle: Handle, tap: Tap, size: u64) -> Result<Vec<Step>, Failure> {
    let attachment = handle.attach(Box::new(tap)).await.or_fail(|| "cannot attach the tap")?;
    let forwards = handle.host_forwards().await.or_fail(|| "cannot learn the forwarded ports")?;
    let mut messages = read_all(child.link.try_clone().or_fail(|| "cannot listen to the guest")?);
    // A guest that has gone is seen below.
    let _ = child.link.send(b"go", None);

    let mut steps = Vec::new();
    let mut progress = Progress::new(size);
    loop {
        let message = match tokio::time::timeout(SILENCE, messages.recv()).await {
            Ok(Some(message)) => message,
            Ok(None) => {
                let code = child.ended().await.or_fail(|| "cannot wait for the guest")?;
                if code != 0 {
                    steps.push(progress.interrupted(format!("the guest has ended with code {code}")));
                }
                break;
            }
            Err(_) => {
                steps.push(progress.interrupted(format!("the guest was silent for {} s", SILENCE.as_secs())));
                break;
            }
        };
        match message {
            Message::Begun(name) => progress.begin(name),
            Message::Progress(done) => progress.at(done),
            Message::Ended(step) => {
                progress.end();
                steps.push(step);
            }
            Message::Serving => {
                for forward in &forwards {
                    let (name, check): (_, fn(SocketAddr) -> io::Result<String>) = match forward.host.protocol() {
                        Protocol::Tcp => ("TCP from the host to the guest", tcp_to_guest),
                        Protocol::Udp => ("UDP from the host to the guest", udp_to_guest),
                    };
                    progress.begin(name.to_owned());
                    let Some(address) = forward.host.address() else { continue };
                    steps.push(from_host(name, address, check).await);
                    progress.end();
                }
                let _ = child.link.send(b"done", None);
            }
        }
    }
    progress.end();
    drop(attachment);
    Ok(steps)
}

/// Receives in a thread of its own, because the link blocks.
fn read_all(link: Link) -> mpsc::Receiver<Message> {
    let (sender, receiver) = mpsc::channel(16);
    thread::spawn(move || {
        while let Ok(Some((bytes, _))) = link.receive() {
            let Ok(message) = serde_json::from_slice(&bytes) else { return };
            if sender.blocking_send(message).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A step that the host does, in a thread of its own, because the engine has this one.
async fn from_host(name: &str, to: SocketAddr, check: fn(SocketAddr) -> io::Result<String>) -> Step {
    let started = Instant::now();
    let seen = tokio::task::spawn_blocking(move || check(to)).await.unwrap_or_else(|err| Err(io::Error::other(err)));
    let (outcome, detail) = match seen {
        Ok(seen) => (Outcome::Passed, seen),
        Err(err) => (Outcome::Failed, format!("through {to}: {}", plain(&err.to_string()))),
    };
    Step { name: name.to_owned(), outcome, detail, seconds: started.elapsed().as_secs_f64() }
}

fn tcp_to_guest(to: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let message = b"from the host to the guest and back";
    stream.write_all(message)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer != message {
        return Err(io::Error::other(format!("{} of {} bytes came back", answer.len(), message.len())));
    }
    Ok(format!("{to} leads to port {GUEST_PORT} of the guest, there and back"))
}

fn udp_to_guest(to: SocketAddr) -> io::Result<String> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    steps::echo_all(&socket, &[1, 512, 1200])?;
    Ok(format!("{to} leads to port {GUEST_PORT} of the guest, there and back"))
}

/// One line on standard error that says what is going on; nothing unless that is a terminal.
#[derive(Debug)]
struct Progress {
    shown: bool,
    size: u64,
    step: String,
    begun: Instant,
}

impl Progress {
    fn new(size: u64) -> Self {
        Self { shown: io::stderr().is_terminal(), size, step: "start of the guest".to_owned(), begun: Instant::now() }
    }

    fn begin(&mut self, step: String) {
        self.begun = Instant::now();
        self.step = step;
        self.draw("");
    }

    fn at(&self, done: u64) {
        self.draw(&format!(" {} %", done * 100 / self.size.max(1)));
    }

    fn draw(&self, more: &str) {
        if self.shown {
            eprint!("\r\x1b[K{}...{more}", self.step);
        }
    }

    fn end(&self) {
        if self.shown {
            eprint!("\r\x1b[K");
        }
    }

    /// The step that was going on has come to no end.
    fn interrupted(&self, why: String) -> Step {
        Step { name: self.step.clone(), outcome: Outcome::Failed, detail: why, seconds: self.begun.elapsed().as_secs_f64() }
    }
}
