//! The thread of one processor: it runs the guest and answers what only this program can answer.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use kvm_ioctls::{VcpuExit, VcpuFd};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::ending::{Ending, Fault, StopSwitch};
use crate::bus::Bus;
use crate::memory::GuestMemory;

/// The longest instruction.
const INSTRUCTION: usize = 15;

/// How long to wait for a kicked thread before it is kicked again.
const KICK_AGAIN: Duration = Duration::from_millis(2);

/// A processor that is about to run.
#[derive(Debug)]
pub(super) struct Vcpu {
    pub(super) id: usize,
    pub(super) vcpu: VcpuFd,
    pub(super) mmio: Arc<Bus>,
    pub(super) ports: Arc<Bus>,
    pub(super) memory: GuestMemory,
    pub(super) stop: StopSwitch,
}

/// A mistake of ours in a device must not leave a machine that nobody can stop.
struct EndOnPanic<'a>(&'a StopSwitch, usize);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let what = "this program has a mistake, told above".to_owned();
            self.0.end(Ending::Failed(Fault::Run { cpu: self.1, what }));
        }
    }
}

impl Vcpu {
    /// Runs the guest until the machine ends.
    pub(super) fn run(mut self) {
        let stop = self.stop.clone();
        let _guard = EndOnPanic(&stop, self.id);
        while !stop.is_thrown() {
            if let Some(ending) = self.step() {
                stop.end(ending);
            }
        }
    }

    /// Runs the guest until it needs an answer, and gives it.
    fn step(&mut self) -> Option<Ending> {
        let cpu = self.id;
        match self.vcpu.run() {
            Ok(VcpuExit::IoIn(port, data)) => self.ports.read(u64::from(port), data),
            Ok(VcpuExit::IoOut(port, data)) => self.ports.write(u64::from(port), data),
            Ok(VcpuExit::MmioRead(address, data)) => self.mmio.read(address, data),
            Ok(VcpuExit::MmioWrite(address, data)) => self.mmio.write(address, data),
            Ok(VcpuExit::Intr) => {}
            Ok(VcpuExit::Shutdown) => return Some(Ending::TripleFault),
            Ok(VcpuExit::FailEntry(reason, _)) => return Some(Ending::Failed(Fault::Entry { cpu, reason })),
            Ok(VcpuExit::InternalError) => return Some(Ending::Failed(self.internal_error())),
            Ok(exit) => {
                let what = format!("KVM returned with {exit:?}");
                return Some(Ending::Failed(Fault::Run { cpu, what }));
            }
            Err(err) if matches!(err.errno(), libc::EINTR | libc::EAGAIN) => {}
            Err(err) => return Some(Ending::Failed(Fault::Run { cpu, what: err.to_string() })),
        }
        None
    }

    /// Finds out what KVM could not do.
    fn internal_error(&mut self) -> Fault {
        let rip = self.vcpu.get_regs().ok().map(|regs| regs.rip);
        let bytes = rip.map(|rip| self.instruction(rip)).unwrap_or_default();
        let run = self.vcpu.get_kvm_run();
        // SAFETY: the exit reason says that this member of the union is the one that KVM has filled in.
        let suberror = unsafe { run.__bindgen_anon_1.internal }.suberror;
        Fault::Internal { cpu: self.id, suberror, rip, bytes }
    }

    /// The bytes at a linear address, as many as an instruction may have and memory holds.
    fn instruction(&self, rip: u64) -> Vec<u8> {
        let base = self.vcpu.get_sregs().map_or(0, |system| system.cs.base);
        let Ok(found) = self.vcpu.translate_gva(base.wrapping_add(rip)) else { return Vec::new() };
        let mut bytes = vec![0; INSTRUCTION];
        let read =
            if found.valid == 0 { 0 } else { self.memory.read(&mut bytes, GuestAddress(found.physical_address)).unwrap_or(0) };
        bytes.truncate(read);
        bytes
    }
}

/// Makes the signal that kicks a processor out of the guest do nothing else.
pub(super) fn catch_kicks() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    register_signal_handler(SIGRTMIN(), nothing).map_err(io::Error::from)
}

/// Waits until the thread of a processor has ended. A kick that comes just before the thread enters the guest is lost, so it is repeated.
pub(super) fn kick_until_done(thread: JoinHandle<()>) {
    while !thread.is_finished() {
        if let Err(err) = thread.kill(SIGRTMIN()) {
            tracing::debug!("cannot kick a processor: {err}");
        }
        std::thread::park_timeout(KICK_AGAIN);
    }
    // A panic has been told and counted already.
    _ = thread.join();
}
