//! The body of the probe guest within this process, over a port in memory.
//!
//! The guest has the calling thread, as a vCPU has one of its own; the engine has another.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use netstack::addr::MacAddr;
use netstack::config::Config;
use netstack::engine::{Engine, EngineError, Handle};
use netstack::frame::{Checksum, FrameMeta, Gso, GsoKind, Offloads};
use netstack::port::memory::{GuestEnd, MemoryConfig, MemoryPort};
use probe_body::Platform;
use probe_body::card::{self, Nic, Receive, Transmit, Wanted};
use probe_body::plan::Plan;
use probe_body::report::{Mac, Report};

/// Why there is no simulation.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// The engine does not start.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No thread, or no runtime.
    #[error("cannot run the engine beside the simulated guest")]
    Runtime(#[source] std::io::Error),
    /// The engine has ended before it had the guest's port.
    #[error("the engine has ended before it took the port of the simulated guest")]
    Gone,
}

/// Runs the probe guest's body on a network of its own, whose card takes `offloads`. Everything that it reports is handed to `report`.
/// Returns whether all steps of the plan succeeded.
///
/// # Errors
///
/// When the engine cannot be started, as when a forward's port is taken.
pub fn simulate(
    config: &Config,
    offloads: Offloads,
    plan: &Plan<'_>,
    report: impl FnMut(&Report<'_>),
) -> Result<bool, SimulateError> {
    let memory = MemoryConfig { name: "simulated guest".to_owned(), mtu: config.mtu, offloads, ..MemoryConfig::default() };
    let (port, cable) = MemoryPort::pair(memory);
    let (started, starts) = mpsc::channel();
    let engine = thread::Builder::new().name("engine".to_owned()).spawn({
        let config = config.clone();
        move || drive(&config, port, &started)
    });
    let engine = engine.map_err(SimulateError::Runtime)?;
    let handle = starts.recv().map_err(|_| SimulateError::Gone)??;

    let mut process = Process::new(report);
    let nic = MemoryNic::new(cable, config.mtu, offloads);
    let succeeded = probe_body::run(plan, nic, &mut process, 0);

    handle.shutdown();
    // A panic of the engine has been printed; the guest has seen it go.
    _ = engine.join();
    Ok(succeeded)
}

/// Runs the engine with the port, until it is shut down.
fn drive(config: &Config, port: MemoryPort, started: &Sender<Result<Handle, SimulateError>>) {
    // Whoever waits for it is told; if nobody does, there is nobody to tell.
    let tell = |what| _ = started.send(what);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(err) => return tell(Err(SimulateError::Runtime(err))),
    };
    runtime.block_on(async {
        let engine = match Engine::new(config) {
            Ok(engine) => engine,
            Err(err) => return tell(Err(err.into())),
        };
        let handle = engine.handle();
        let running = tokio::spawn(engine.run());
        let attachment = match handle.attach(Box::new(port)).await {
            Ok(attachment) => attachment,
            Err(err) => return tell(Err(SimulateError::Runtime(err))),
        };
        tell(Ok(handle));
        // Ends with the engine; a panic of its was printed.
        _ = running.await;
        drop(attachment);
    });
}

/// This process as the body sees it.
struct Process<F> {
    began: Instant,
    waker: Waker,
    report: F,
    seed: u64,
}

impl<F: FnMut(&Report<'_>)> Process<F> {
    fn new(report: F) -> Self {
        let began = Instant::now();
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        Self { began, waker: Waker::from(Arc::new(Unpark(thread::current()))), report, seed }
    }
}

impl<F: FnMut(&Report<'_>)> Platform<MemoryNic> for Process<F> {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn random(&mut self) -> u64 {
        // SplitMix64.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 31)
    }

    fn idle(&mut self, nic: &mut MemoryNic, deadline: Option<u64>) {
        let left = deadline.map(|deadline| Duration::from_micros(deadline.saturating_sub(self.now())));
        // Without an engine there is nothing to wait for but the deadline.
        let arrives = !nic.receive.gone && nic.receive.wait(&mut Context::from_waker(&self.waker));
        match (arrives, left) {
            (true, _) => {}
            (false, Some(left)) => thread::park_timeout(left),
            (false, None) => thread::park(),
        }
    }

    fn report(&mut self, report: &Report<'_>) {
        (self.report)(report);
    }
}

/// Wakes the guest's thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The guest's end of the cable as a card.
#[derive(Debug)]
struct MemoryNic {
    mtu: u16,
    offloads: Offloads,
    receive: Arriving,
    transmit: Leaving,
}

impl MemoryNic {
    fn new(cable: GuestEnd, mtu: u16, offloads: Offloads) -> Self {
        let cable = Arc::new(cable);
        let receive = Arriving { cable: Arc::clone(&cable), next: None, gone: false };
        Self { mtu, offloads, receive, transmit: Leaving { cable } }
    }
}

impl Nic for MemoryNic {
    type Receive = Arriving;
    type Transmit = Leaving;

    fn name(&self) -> &'static str {
        "memory"
    }

    fn mac(&self) -> Mac {
        Mac(MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]).0)
    }

    fn mtu(&self) -> usize {
        usize::from(self.mtu)
    }

    fn offloads(&self) -> card::Offloads {
        // The engine takes everything; what comes is as it was agreed.
        card::Offloads {
            send_checksum: self.offloads.checksum,
            receive_checksum: self.offloads.checksum,
            segmentation: self.offloads.checksum && self.offloads.tso4,
        }
    }

    fn halves(&mut self) -> (&mut Arriving, &mut Leaving) {
        (&mut self.receive, &mut self.transmit)
    }

    /// Frames are on their way when they are sent.
    fn flush(&mut self) {}
}

/// Frames from the engine.
#[derive(Debug)]
struct Arriving {
    cable: Arc<GuestEnd>,
    next: Option<Vec<u8>>,
    gone: bool,
}

impl Arriving {
    /// Whether there is a frame, or the engine has gone. If not, the waker is called when that changes.
    fn wait(&mut self, cx: &mut Context<'_>) -> bool {
        if self.next.is_none() {
            match self.cable.poll_received(cx) {
                Poll::Pending => return false,
                Poll::Ready(Some((frame, _))) => self.next = Some(frame),
                Poll::Ready(None) => self.gone = true,
            }
        }
        true
    }
}

impl Receive for Arriving {
    fn poll(&mut self) -> bool {
        if self.next.is_none() {
            self.next = self.cable.recv().map(|(frame, _)| frame);
        }
        self.next.is_some()
    }

    fn take<R>(&mut self, look: impl FnOnce(&[u8]) -> R) -> R {
        look(&self.next.take().unwrap_or_default())
    }
}

/// Frames to the engine.
#[derive(Debug)]
struct Leaving {
    cable: Arc<GuestEnd>,
}

impl Transmit for Leaving {
    fn poll(&mut self) -> bool {
        self.cable.poll_room(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn send<R>(&mut self, len: usize, write: impl FnOnce(&mut [u8]) -> (R, Wanted)) -> R {
        let mut frame = vec![0; len];
        let (result, wanted) = write(&mut frame);
        let checksum = wanted
            .checksum
            .map_or(Checksum::Complete, |partial| Checksum::Partial { start: partial.start, offset: partial.offset });
        let gso = wanted.segment.map(|size| Gso { kind: GsoKind::TcpV4, size: NonZeroU16::get(size), ecn: false });
        // There was room, and no card could tell its stack that the cable is cut.
        _ = self.cable.send(frame, FrameMeta { checksum, gso });
        result
    }
}
