//! A virtual machine with one card on a network of its own.

use std::io::{self, Write};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netstack::addr::MacAddr;
use netstack::config::Config;
use netstack::engine::{Engine, Handle};
use netstack::port::Port;
use vmm::boot::{Kernel, Payload};
use vmm::e1000::{self, E1000Config};
use vmm::machine::{Ending, Machine, StopSwitch};
use vmm::memory;
use vmm::probe::{NicKind, Plan};
use vmm::virtio::net::{self, NetConfig};
use vmm::virtio::transport::{self, VirtioPci};

/// The guest's RAM.
const MEMORY: u64 = 64 << 20;

/// How long a guest may be silent. Every step of its own gives up sooner.
const PATIENCE: Duration = Duration::from_secs(100);

/// A machine that has not been started.
pub(crate) struct Vm {
    machine: Machine,
    console: Console,
    network: Network,
}

impl Vm {
    /// A machine with a card of this kind. `None`, loudly, where there is no `/dev/kvm`.
    pub(crate) fn new(nic: NicKind, config: &Config) -> Option<Self> {
        if let Err(err) = std::fs::File::options().read(true).write(true).open("/dev/kvm") {
            eprintln!("!!! SKIPPED: a test of virtual machines. /dev/kvm cannot be opened: {err}");
            return None;
        }
        let console = Console::default();
        let memory = memory::allocate(MEMORY).unwrap();
        let mut machine = Machine::new(memory, 1, StopSwitch::new().unwrap(), Box::new(console.clone())).unwrap();
        let port = plug(&mut machine, nic, config.mtu);
        Some(Self { machine, console, network: Network::start(config, port) })
    }

    /// Boots the image with the plan on its command line, waits until it has powered the machine off, and returns what it has said.
    pub(crate) fn run(self, image: &'static [u8], plan: &Plan<'_>) -> Vec<String> {
        self.run_with(image, plan, |_| {})
    }

    /// As [`Vm::run`]; `line` is shown every line when it has come.
    pub(crate) fn run_with(self, image: &'static [u8], plan: &Plan<'_>, line: impl FnMut(&str)) -> Vec<String> {
        match self.boot(image, plan, line) {
            (Ending::PowerOff, said) => said,
            (Ending::Failed(fault), said) => panic!("the machine has failed: {fault}\n{said:#?}"),
            (other, said) => panic!("the guest has not powered the machine off, but: {other:?}\n{said:#?}"),
        }
    }

    /// Boots the image and returns how the machine has ended.
    pub(crate) fn end(self, image: &'static [u8]) -> Ending {
        self.boot(image, &Plan::default(), |_| {}).0
    }

    fn boot(self, image: &'static [u8], plan: &Plan<'_>, mut line: impl FnMut(&str)) -> (Ending, Vec<String>) {
        let Self { machine, console, network } = self;
        let kernel = Kernel::built_in("the guest", image).unwrap();
        let payload = Payload { command_line: plan.to_string(), ..Payload::default() };
        let entry = kernel.load(machine.memory(), &payload).unwrap();
        let lines = console.lines();
        let running = machine.start(entry).unwrap();
        let stop = running.stop().clone();
        let waiting = thread::spawn(move || {
            let ending = running.wait();
            console.close();
            ending
        });
        let mut said = Vec::new();
        // Ends with the machine.
        loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(text) => {
                    line(&text);
                    said.push(text);
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => stop.end(Ending::Stopped),
            }
        }
        let ending = waiting.join().unwrap();
        drop(network);
        (ending, said)
    }
}

/// Plugs a card in and returns its port.
fn plug(machine: &mut Machine, nic: NicKind, mtu: u16) -> Box<dyn Port> {
    let mac = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    match nic {
        NicKind::VirtioNet | NicKind::Auto => {
            let (parts, port) = net::new(NetConfig { name: "virtio-net".to_owned(), mac, mtu }).unwrap();
            let plug = machine.plug(transport::vectors(parts.queues.len())).unwrap();
            let memory = machine.memory().clone();
            let device = VirtioPci::new("virtio-net".to_owned(), memory, parts, plug.msi.clone(), Arc::clone(&plug.intx));
            machine.attach(&plug, Box::new(device)).unwrap();
            Box::new(port)
        }
        NicKind::E1000 => {
            let plug = machine.plug(0).unwrap();
            let config = E1000Config { name: "e1000".to_owned(), mac, mtu };
            let (device, port) = e1000::new(config, machine.memory().clone(), Arc::clone(&plug.intx)).unwrap();
            machine.attach(&plug, Box::new(device)).unwrap();
            Box::new(port)
        }
    }
}

/// An engine on a thread of its own.
struct Network {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    fn start(config: &Config, port: Box<dyn Port>) -> Self {
        let (started, starts) = mpsc::channel();
        let config = config.clone();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let engine = Engine::new(&config).unwrap();
                let handle = engine.handle();
                let running = tokio::spawn(engine.run());
                let attachment = handle.attach(port).await.unwrap();
                started.send(handle).unwrap();
                running.await.unwrap();
                drop(attachment);
            });
        });
        Self { handle: starts.recv().unwrap(), thread: Some(thread) }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.handle.shutdown();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "the engine has panicked");
        }
    }
}

/// The guest's serial port, line by line.
#[derive(Debug, Clone, Default)]
struct Console(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    text: Vec<u8>,
    sender: Option<mpsc::Sender<String>>,
}

impl Console {
    /// Where lines come from now on.
    fn lines(&self) -> mpsc::Receiver<String> {
        let (sender, receiver) = mpsc::channel();
        self.0.lock().unwrap().sender = Some(sender);
        receiver
    }

    /// Nothing more will come.
    fn close(&self) {
        self.0.lock().unwrap().sender = None;
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut lines = self.0.lock().unwrap();
        for byte in bytes {
            if *byte != b'\n' {
                lines.text.push(*byte);
                continue;
            }
            let line = String::from_utf8_lossy(&std::mem::take(&mut lines.text)).trim_end().to_owned();
            if let Some(sender) = &lines.sender {
                _ = sender.send(line);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
