//! The virtual machine: memory, processors, buses and interrupts, put together on KVM.
//!
//! A [`Machine`] is built, devices are plugged in, and it is started; a [`Running`] one is waited for and stopped. Each processor has a
//! thread of its own. However a machine ends, its [`StopSwitch`] says how, and all of its threads have ended when [`Running::wait`]
//! returns.

mod ending;
mod interrupts;
mod vcpu;

use std::io::{self, Write};
use std::sync::Arc;
use std::thread::JoinHandle;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::boot::Entry;
use crate::bus::{Bus, Overlap};
use crate::irq::{IntxLine, MsiRoute};
use crate::legacy::cmos::{self, Cmos};
use crate::legacy::i8042::KeyboardController;
use crate::legacy::power::{self, Power};
use crate::legacy::serial::{self, SerialPort};
use crate::memory::{GuestMemory, layout};
use crate::pci::{ConfigPorts, ConfigWindow, HostBridge, PciBus, PciDevice, PlugError, intx_gsi};
use crate::{acpi, cpu};

pub use ending::{Ending, Fault, StopSwitch};
use interrupts::Interrupts;

/// The most processors that a machine may have: what 8-bit APIC identifiers can name, and what a machine of this kind is good for.
pub const MAX_CPUS: u8 = 64;

/// A machine that has not been started.
#[derive(Debug)]
pub struct Machine {
    kvm: Kvm,
    vm: Arc<VmFd>,
    memory: GuestMemory,
    cpus: u8,
    mmio: Arc<Bus>,
    ports: Arc<Bus>,
    pci: PciBus,
    interrupts: Arc<Interrupts>,
    serial: Arc<SerialPort>,
    stop: StopSwitch,
}

/// A machine cannot be built or started.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// `/dev/kvm` cannot be opened.
    #[error("cannot open /dev/kvm")]
    Open(#[source] kvm_ioctls::Error),
    /// KVM on this host lacks something.
    #[error("KVM of this host lacks {0}, which a virtual machine needs")]
    Lacks(&'static str),
    /// KVM refused something.
    #[error("KVM refused to {what}")]
    Kvm {
        /// What it was asked for.
        what: &'static str,
        /// What it said.
        source: kvm_ioctls::Error,
    },
    /// The host refused a resource.
    #[error("cannot {what}")]
    Host {
        /// What was asked for.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The guest's memory refused a write: a mistake in the memory map.
    #[error("cannot write to the guest's memory")]
    Memory(#[from] vm_memory::GuestMemoryError),
    /// Two devices at one address: a mistake in the memory map.
    #[error(transparent)]
    Overlap(#[from] Overlap),
    /// A device does not fit.
    #[error(transparent)]
    Plug(#[from] PlugError),
}

/// Turns a refusal of KVM into an error that says what it was asked for.
fn refused(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> MachineError {
    move |source| MachineError::Kvm { what, source }
}

fn host(what: &'static str) -> impl Fn(io::Error) -> MachineError {
    move |source| MachineError::Host { what, source }
}

/// What a device is plugged in with.
#[derive(Debug)]
pub struct Plug {
    slot: u8,
    /// A route for each MSI-X vector.
    pub msi: Vec<Arc<dyn MsiRoute>>,
    /// The line of interrupt pin INTA#.
    pub intx: Arc<dyn IntxLine>,
}

impl Machine {
    /// A machine with this memory and so many processors (1 to [`MAX_CPUS`]), without devices but those that every machine has. `stop` ends
    /// it; what the guest writes to its serial port goes to `console`.
    ///
    /// # Errors
    ///
    /// When there is no KVM, or it refuses.
    pub fn new(memory: GuestMemory, cpus: u8, stop: StopSwitch, console: Box<dyn Write + Send>) -> Result<Self, MachineError> {
        let kvm = Kvm::new().map_err(MachineError::Open)?;
        let vm = Arc::new(virtual_machine(&kvm, &memory)?);
        let interrupts = Arc::new(Interrupts::new(Arc::clone(&vm)));
        let line = EventFd::new(EFD_NONBLOCK).map_err(host("make an eventfd"))?;
        vm.register_irqfd(&line, serial::GSI).map_err(refused("connect the serial port's interrupt"))?;
        let serial = Arc::new(SerialPort::new(line, console).map_err(host("make an eventfd"))?);

        let (mmio, ports) = (Arc::<Bus>::default(), Arc::<Bus>::default());
        ports.insert(u64::from(serial::BASE), SerialPort::PORTS, serial.clone())?;
        ports.insert(u64::from(cmos::INDEX), Cmos::PORTS, Arc::new(Cmos::default()))?;
        ports.insert(u64::from(power::SLEEP_CONTROL), Power::PORTS, Arc::new(Power::new(stop.clone())))?;
        for command in [false, true] {
            let controller = Arc::new(KeyboardController::new(stop.clone(), command));
            ports.insert(controller.port(), 1, controller)?;
        }
        let mut pci = PciBus::new(Arc::clone(&mmio), Arc::clone(&ports), interrupts.clone());
        pci.plug(0, Box::new(HostBridge::default()))?;
        Ok(Self { kvm, vm, memory, cpus, mmio, ports, pci, interrupts, serial, stop })
    }

    /// The guest's memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The guest's console.
    pub fn serial(&self) -> &Arc<SerialPort> {
        &self.serial
    }

    /// What ends the machine.
    pub fn stop(&self) -> &StopSwitch {
        &self.stop
    }

    /// Prepares to plug in a device with this many MSI-X vectors.
    ///
    /// # Errors
    ///
    /// When all slots are taken, or KVM has no more interrupts.
    pub fn plug(&self, vectors: usize) -> Result<Plug, MachineError> {
        let slot = self.pci.free_slot().ok_or(PlugError::NoSlot)?;
        let msi = (0..vectors).map(|_| self.interrupts.message()).collect::<Result<_, _>>()?;
        Ok(Plug { slot, msi, intx: self.interrupts.line(intx_gsi(slot), slot) })
    }

    /// Plugs the device in.
    ///
    /// # Errors
    ///
    /// When its base addresses do not fit.
    pub fn attach(&mut self, plug: &Plug, device: Box<dyn PciDevice>) -> Result<(), MachineError> {
        Ok(self.pci.plug(plug.slot, device)?)
    }

    /// Starts the processors.
    ///
    /// # Errors
    ///
    /// When KVM or the host refuses to.
    pub fn start(self, entry: Entry) -> Result<Running, MachineError> {
        let pci = Arc::new(self.pci);
        self.ports.insert(u64::from(crate::pci::CONFIG_ADDRESS), ConfigPorts::PORTS, Arc::new(ConfigPorts::new(pci.clone())))?;
        self.mmio.insert(layout::ECAM, layout::ECAM_SIZE, Arc::new(ConfigWindow(pci)))?;
        self.memory.write_slice(&acpi::tables(self.cpus), GuestAddress(layout::ACPI))?;
        cpu::write_tables(&self.memory)?;

        let supported =
            self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(refused("tell what processors it can offer"))?;
        let deadline = self.vm.check_extension(Cap::TscDeadlineTimer);
        vcpu::catch_kicks().map_err(host("catch a signal"))?;
        let mut vcpus = Vec::new();
        for id in 0..self.cpus {
            let vcpu = self.vm.create_vcpu(u64::from(id)).map_err(refused("make a processor"))?;
            let entries = cpu::for_vcpu(&supported, id, self.cpus, deadline);
            let cpuid =
                CpuId::from_entries(&entries).map_err(|_| MachineError::Lacks("room for what processors say of themselves"))?;
            vcpu.set_cpuid2(&cpuid).map_err(refused("set what a processor says of itself"))?;
            cpu::set_model_specific(&vcpu).map_err(refused("set registers of a processor"))?;
            if id == 0 {
                cpu::set_first(&vcpu, entry).map_err(refused("set registers of the first processor"))?;
            }
            vcpus.push(vcpu);
        }
        let buses = [Arc::clone(&self.mmio), Arc::clone(&self.ports)];
        let mut running = Running { stop: self.stop, threads: Vec::new(), buses };
        for (id, vcpu) in vcpus.into_iter().enumerate() {
            let vcpu = vcpu::Vcpu {
                id,
                vcpu,
                mmio: Arc::clone(&self.mmio),
                ports: Arc::clone(&self.ports),
                memory: self.memory.clone(),
                stop: running.stop.clone(),
            };
            let thread = std::thread::Builder::new().name(format!("vcpu{id}")).spawn(move || vcpu.run());
            running.threads.push(thread.map_err(host("start a thread for a processor"))?);
        }
        Ok(running)
    }
}

/// A machine of KVM with its memory, its interrupt controllers and its timer.
fn virtual_machine(kvm: &Kvm, memory: &GuestMemory) -> Result<VmFd, MachineError> {
    let needed = [
        (Cap::Irqchip, "interrupt controllers"),
        (Cap::Irqfd, "interrupts by eventfd"),
        (Cap::Ioeventfd, "doorbells by eventfd"),
        (Cap::IrqRouting, "interrupt routing"),
        (Cap::UserMemory, "guest memory"),
    ];
    for (cap, name) in needed {
        if !kvm.check_extension(cap) {
            return Err(MachineError::Lacks(name));
        }
    }
    let vm = kvm.create_vm().map_err(refused("make a virtual machine"))?;
    for (slot, region) in (0..).zip(memory.iter()) {
        let start = region.start_addr();
        let address = memory.get_host_address(start)?;
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: start.raw_value(),
            memory_size: region.len(),
            userspace_addr: u64::try_from(address.addr()).unwrap_or(0),
        };
        // SAFETY: the region is mapped for as long as `memory` or a clone of it lives, and the threads that run the machine hold one.
        unsafe { vm.set_user_memory_region(region) }.map_err(refused("take the guest's memory"))?;
    }
    vm.set_tss_address(usize::try_from(layout::KVM_TSS).unwrap_or(0)).map_err(refused("place its own pages"))?;
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP).map_err(refused("place its own pages"))?;
    vm.create_irq_chip().map_err(refused("make interrupt controllers"))?;
    vm.create_pit2(kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() }).map_err(refused("make a timer"))?;
    Ok(vm)
}

/// A machine whose processors run.
#[derive(Debug)]
pub struct Running {
    stop: StopSwitch,
    threads: Vec<JoinHandle<()>>,
    buses: [Arc<Bus>; 2],
}

impl Running {
    /// What ends it.
    pub fn stop(&self) -> &StopSwitch {
        &self.stop
    }

    /// Waits until the machine has ended, all of its threads, and its devices.
    pub fn wait(mut self) -> Ending {
        let ending = self.stop.wait();
        self.join();
        ending
    }

    fn join(&mut self) {
        self.threads.drain(..).for_each(vcpu::kick_until_done);
        self.buses.iter().for_each(|bus| bus.clear());
    }
}

impl Drop for Running {
    /// A machine that nobody waits for any more is stopped.
    fn drop(&mut self) {
        self.stop.end(Ending::Stopped);
        self.join();
    }
}
