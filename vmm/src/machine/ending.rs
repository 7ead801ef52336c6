//! How a machine ends, and the switch that ends it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, OnceLock};

use rustix::event::{PollFd, PollFlags, poll};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Why a machine has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The guest has turned it off.
    PowerOff,
    /// The guest wants it reset.
    Reset,
    /// The guest's first fault, the handler's, and the handler's handler's: a real processor resets then.
    TripleFault,
    /// Somebody outside has asked for it.
    Stopped,
    /// A processor cannot go on.
    Failed(Fault),
}

/// Why a processor cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// KVM met an instruction that it cannot emulate, or a state that it does not know.
    Internal {
        /// Which processor.
        cpu: usize,
        /// KVM's number for it: 1 is an instruction that it cannot emulate.
        suberror: u32,
        /// Where it was, if KVM could tell.
        rip: Option<u64>,
        /// The bytes of the instruction and maybe of those behind it.
        bytes: Vec<u8>,
    },
    /// The processor refused the state of the guest.
    Entry {
        /// Which processor.
        cpu: usize,
        /// The hardware's reason.
        reason: u64,
    },
    /// KVM_RUN failed, or ended in a way that this machine has no use for.
    Run {
        /// Which processor.
        cpu: usize,
        /// What happened.
        what: String,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Internal { cpu, suberror, rip, bytes } => {
                match suberror {
                    1 => write!(f, "KVM of this host cannot emulate an instruction on processor {cpu}")?,
                    _ => write!(f, "KVM reports internal error {suberror} on processor {cpu}")?,
                }
                if let Some(rip) = rip {
                    write!(f, " at {rip:#x}")?;
                }
                if !bytes.is_empty() {
                    f.write_str(", bytes")?;
                    bytes.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
                }
                Ok(())
            }
            Self::Entry { cpu, reason } => write!(f, "processor {cpu} refuses the state of the guest, reason {reason:#x}"),
            Self::Run { cpu, what } => write!(f, "processor {cpu} cannot run: {what}"),
        }
    }
}

/// Ends a machine, once, and tells everybody who waits. Clones are the same switch.
#[derive(Debug, Clone)]
pub struct StopSwitch(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    ending: OnceLock<Ending>,
    /// Readable from the end on; nobody reads it.
    event: EventFd,
}

impl StopSwitch {
    /// A switch that is not thrown.
    ///
    /// # Errors
    ///
    /// When no eventfd can be had.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(Shared { ending: OnceLock::new(), event: EventFd::new(EFD_NONBLOCK)? })))
    }

    /// Ends the machine for this reason, unless it already has another.
    pub fn end(&self, ending: Ending) {
        if self.0.ending.set(ending).is_ok()
            && let Err(err) = self.0.event.write(1)
        {
            tracing::error!("cannot tell that the machine has ended: {err}");
        }
    }

    /// Why it has ended, if it has.
    pub fn ending(&self) -> Option<Ending> {
        self.0.ending.get().cloned()
    }

    /// Whether it has ended.
    pub fn is_thrown(&self) -> bool {
        self.0.ending.get().is_some()
    }

    /// Waits for the end.
    pub fn wait(&self) -> Ending {
        loop {
            if let Some(ending) = self.ending() {
                return ending;
            }
            // What interrupts this is of no interest.
            _ = poll(&mut [PollFd::new(self, PollFlags::IN)], None);
        }
    }
}

impl AsFd for StopSwitch {
    /// Becomes readable at the end, and stays so.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the eventfd is open for as long as this borrow of its owner lives.
        unsafe { BorrowedFd::borrow_raw(self.0.event.as_raw_fd()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_counts() {
        let stop = StopSwitch::new().unwrap();
        assert!(!stop.is_thrown());
        stop.clone().end(Ending::PowerOff);
        stop.end(Ending::Reset);
        assert_eq!(stop.wait(), Ending::PowerOff);
        assert_eq!(stop.wait(), Ending::PowerOff, "for everybody who asks");
    }

    #[test]
    fn a_waiting_thread_is_told() {
        let stop = StopSwitch::new().unwrap();
        let waiting = std::thread::spawn({
            let stop = stop.clone();
            move || stop.wait()
        });
        stop.end(Ending::Stopped);
        assert_eq!(waiting.join().unwrap(), Ending::Stopped);
    }

    #[test]
    fn a_fault_names_the_instruction() {
        let fault = Fault::Internal { cpu: 1, suberror: 1, rip: Some(0x10_0000), bytes: vec![0x0f, 0xc7] };
        assert_eq!(fault.to_string(), "KVM of this host cannot emulate an instruction on processor 1 at 0x100000, bytes 0f c7");
    }
}
