//! The built-in guest, from its plan to the steps that it reports.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use netstack::addr::MacAddr;
use netstack::config::Config;
use netstack::frame::Offloads;
use vmm::boot::{Kernel, Payload};
use vmm::machine::{Ending, StopSwitch};
use vmm::memory;
use vmm::probe::{self, NicKind, Plan as Errand, Report, Servers};

use crate::build::Built;
use crate::cli::CardKind;
use crate::network;
use crate::plan::{Card, NetworkPlan, Plan};
use netstack::program::failure::Failure;
use netstack::program::report::{Outcome, Step};

/// How much memory the guest has.
const MEMORY: u64 = 64 << 20;

/// How long it may be silent before it is given up. Every step of its own gives up sooner.
const SILENCE: Duration = Duration::from_secs(120);

/// A name that the engine knows by itself.
const NAME: &str = "gateway.slipway.internal";

/// What the guest does.
fn errand(config: &Config, nic: NicKind, servers: &Servers, bytes: u64) -> Errand<'static> {
    let gateway = config.ipv4.as_ref().map_or(Ipv4Addr::UNSPECIFIED, |ipv4| ipv4.gateway);
    Errand {
        nic,
        ping: Some(gateway),
        name: Some(NAME),
        up: Some(SocketAddrV4::new(gateway, servers.up_port())),
        down: Some(SocketAddrV4::new(gateway, servers.down_port())),
        bytes,
        ..Errand::default()
    }
}

/// Runs it in a virtual machine with this card.
pub(super) fn in_machine(nic: NicKind, bytes: u64) -> Result<Vec<Step>, Failure> {
    let servers = start_servers()?;
    let config = Config::default();
    let command_line = errand(&config, nic, &servers, bytes).to_string();
    let kind = if nic == NicKind::E1000 { CardKind::E1000 } else { CardKind::VirtioNet };
    let card = Card { kind, mac: MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]), mtu: config.mtu };
    let cannot = |err: &(dyn std::error::Error + 'static)| Failure::new("cannot prepare the guest").because_of(err);

    let started = Instant::now();
    let memory = memory::allocate(MEMORY).map_err(|err| cannot(&err))?;
    let kernel = Kernel::built_in("the built-in guest", probe::IMAGE).map_err(|err| cannot(&err))?;
    let entry = kernel.load(&memory, &Payload { initrd: None, command_line }).map_err(|err| cannot(&err))?;
    let mut network = NetworkPlan::new("demo".to_owned(), config, String::new());
    network.cards.push(card);
    let plan = Plan { memory, entry, cpus: 1, disks: Vec::new(), networks: vec![network] };
    let stop = StopSwitch::new().map_err(|err| cannot(&err))?;
    let (console, lines) = Lines::pair();
    let built = network::runtime()?.block_on(Built::of(plan, stop.clone(), Box::new(console)))?;
    let (running, networks) = built.start()?;
    // When the machine is gone, so is its console, and with that the lines end.
    let waiting = thread::spawn(|| running.wait());

    let mut steps = Steps::new(started);
    loop {
        match lines.recv_timeout(SILENCE) {
            Ok(line) => match Report::parse(&line) {
                Some(report) => steps.take(&report),
                None => tracing::debug!("the guest says: {line}"),
            },
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                steps.fail("guest", format!("it was silent for {} s", SILENCE.as_secs()));
                stop.end(Ending::Stopped);
            }
        }
    }
    match waiting.join() {
        Ok(Ending::PowerOff | Ending::Stopped) => {}
        Ok(Ending::Failed(fault)) => steps.fail("machine", fault.to_string()),
        Ok(ending) => steps.fail("machine", format!("it has ended in a strange way: {ending:?}")),
        Err(_) => steps.fail("machine", "this program has a mistake, told above".to_owned()),
    }
    drop(networks);
    Ok(steps.steps)
}

/// Runs its body within this process.
pub(super) fn simulated(bytes: u64) -> Result<Vec<Step>, Failure> {
    let servers = start_servers()?;
    let config = Config::default();
    let mut steps = Steps::new(Instant::now());
    let errand = errand(&config, NicKind::Auto, &servers, bytes);
    probe::simulate(&config, Offloads::ALL, &errand, |report| steps.take(report))
        .map_err(|err| Failure::new("cannot simulate the guest").because_of(&err))?;
    Ok(steps.steps)
}

fn start_servers() -> Result<Servers, Failure> {
    Servers::start().map_err(|err| Failure::new("cannot start servers on the loopback address").because_of(&err))
}

/// The steps so far.
struct Steps {
    started: Instant,
    steps: Vec<Step>,
}

impl Steps {
    const fn new(started: Instant) -> Self {
        Self { started, steps: Vec::new() }
    }

    fn take(&mut self, report: &Report<'_>) {
        match report {
            Report::Ready { nic, mac, .. } => {
                let since = self.started.elapsed();
                self.pass(
                    "start",
                    format!("the guest drives its {nic} {mac}, {} ms after its machine was begun", since.as_millis()),
                    0,
                );
            }
            Report::Lease { address, prefix, router, micros, .. } => {
                let router = router.map(|router| format!(", router {router}")).unwrap_or_default();
                let since = self.started.elapsed().as_millis();
                self.pass("lease", format!("{address}/{prefix}{router}; {since} ms after its machine was begun"), *micros);
            }
            Report::Ping { to, micros } => self.pass("ping", format!("{to} answers in {micros} us"), *micros),
            Report::Name { name, address, micros } => self.pass("name", format!("{name} is {address}"), *micros),
            Report::Up(moved) => self.pass("TCP to the host", transfer(moved), moved.micros),
            Report::Down(moved) => self.pass("TCP from the host", transfer(moved), moved.micros),
            Report::Failed { step, why } => self.fail(step, (*why).to_owned()),
            fault @ Report::Fault { .. } => self.fail("guest", fault.to_string()),
            Report::Serving { .. } | Report::Served(_) | Report::Interrupts { .. } | Report::Done => {}
        }
    }

    fn pass(&mut self, name: &str, detail: String, micros: u64) {
        let seconds = Duration::from_micros(micros).as_secs_f64();
        self.steps.push(Step { name: name.to_owned(), outcome: Outcome::Passed, detail, seconds });
    }

    fn fail(&mut self, name: &str, why: String) {
        self.steps.push(Step { name: name.to_owned(), outcome: Outcome::Failed, detail: why, seconds: 0.0 });
    }
}

fn transfer(moved: &probe::Moved) -> String {
    let megabits = moved.bytes.saturating_mul(8) / moved.micros.max(1);
    format!("{} MiB, checksum right, {megabits} Mbit/s", moved.bytes >> 20)
}

/// A console that passes lines on.
struct Lines {
    to: Sender<String>,
    line: Vec<u8>,
}

impl Lines {
    fn pair() -> (Self, Receiver<String>) {
        let (to, lines) = channel();
        (Self { to, line: Vec::new() }, lines)
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            if *byte == b'\n' {
                let line = String::from_utf8_lossy(&self.line).trim_end().to_owned();
                self.line.clear();
                // Whoever listened may have heard enough.
                _ = self.to.send(line);
            } else if self.line.len() < 4096 {
                self.line.push(*byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
