//! A machine with 2 MiB for a guest of a few instructions, and what its guest says.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress};
use vmm::boot::Entry;
use vmm::legacy::serial::SerialPort;
use vmm::machine::{Ending, Machine, MachineError, Running, StopSwitch};
use vmm::memory;

/// Where guests are.
pub(crate) const CODE: u64 = 0x10_0000;
/// Where the code of handlers is.
const HANDLER: u64 = 0x10_1000;
/// The table of interrupts: 256 gates of 16 bytes, and what loads it.
const GATES: u64 = 0x1000;
const GATES_REGISTER: u64 = 0x2000;
/// The stack grows down from here.
const STACK: u32 = 0x8_0000;
/// A gate: of the code segment, present, an interrupt's.
const SELECTOR: u64 = 0x10 << 16;
const GATE: u64 = 0x8e00 << 32;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine that is not started.
pub(crate) struct Vm {
    pub(crate) machine: Machine,
    stop: StopSwitch,
    said: Receiver<u8>,
}

/// One that is.
pub(crate) struct Started {
    pub(crate) stop: StopSwitch,
    pub(crate) serial: Arc<SerialPort>,
    running: Running,
    said: Receiver<u8>,
}

/// Where the guest's output goes.
struct Console(Sender<u8>);

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // After a failed test nobody listens any more.
        bytes.iter().for_each(|byte| _ = self.0.send(*byte));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Vm {
    /// A machine with one processor; none where there is no KVM.
    pub(crate) fn new() -> Option<Self> {
        let (console, said) = channel();
        let stop = StopSwitch::new().unwrap();
        let memory = memory::allocate(2 << 20).unwrap();
        match Machine::new(memory, 1, stop.clone(), Box::new(Console(console))) {
            Ok(machine) => Some(Self { machine, stop, said }),
            Err(MachineError::Open(error)) => {
                eprintln!("SKIPPED: this test needs /dev/kvm, which cannot be opened: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Points a vector at a handler.
    pub(crate) fn handler(&self, vector: u8, code: fn() -> &'static [u8]) {
        let memory = self.machine.memory();
        memory.write_slice(code(), GuestAddress(HANDLER)).unwrap();
        let gate = HANDLER & 0xffff | SELECTOR | GATE | (HANDLER >> 16) << 48;
        memory.write_obj(gate, GuestAddress(GATES + u64::from(vector) * 16)).unwrap();
    }

    /// Starts the guest: its stack and its table of interrupts are set before its first instruction.
    pub(crate) fn start(self, code: &[u8]) -> Started {
        let memory = self.machine.memory();
        memory.write_obj(0xfff_u16, GuestAddress(GATES_REGISTER)).unwrap();
        memory.write_obj(GATES, GuestAddress(GATES_REGISTER + 2)).unwrap();
        // mov esp, STACK; lidt [GATES_REGISTER]
        let mut before = vec![0xbc];
        before.extend(STACK.to_le_bytes());
        before.extend([0x0f, 0x01, 0x1c, 0x25]);
        before.extend(u32::try_from(GATES_REGISTER).unwrap().to_le_bytes());
        let entry = CODE - u64::try_from(before.len()).unwrap();
        memory.write_slice(&before, GuestAddress(entry)).unwrap();
        memory.write_slice(code, GuestAddress(CODE)).unwrap();
        let serial = self.machine.serial().clone();
        let running = self.machine.start(Entry::Long { rip: entry }).unwrap();
        Started { stop: self.stop, serial, running, said: self.said }
    }
}

impl Started {
    /// Waits until the guest has said this, and nothing else before.
    pub(crate) fn expect(&mut self, text: &[u8]) {
        for (at, byte) in text.iter().enumerate() {
            let said = self.said.recv_timeout(PATIENCE);
            assert_eq!(said, Ok(*byte), "after {:?}, with {:?}", text[..at].escape_ascii().to_string(), self.stop.ending());
        }
    }

    /// How it ends.
    pub(crate) fn ending(self) -> Ending {
        self.running.wait()
    }
}
