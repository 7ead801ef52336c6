//! KVM's interrupts: routes for messages, lines for pins, and doorbells tied to addresses.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting,
    kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip, kvm_irq_routing_msi,
    kvm_irq_routing_msi__bindgen_ty_1,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{MachineError, host, refused};
use crate::irq::{IntxLine, MsiMessage, MsiRoute};
use crate::pci::{DoorbellTies, Space};

/// Pins of the I/O APIC: these interrupt numbers are taken.
const IO_APIC_PINS: u32 = 24;
/// Pins of a PIC, of which there are two.
const PIC_PINS: u32 = 8;

/// All interrupts of a machine.
#[derive(Debug)]
pub(super) struct Interrupts {
    vm: Arc<VmFd>,
    routes: Mutex<Routes>,
    /// Who asserts each pin of the I/O APIC: a bit a slot.
    lines: Arc<[Mutex<u32>; IO_APIC_PINS as usize]>,
}

/// What each interrupt number stands for. KVM takes them all at once.
#[derive(Debug)]
struct Routes {
    messages: Vec<Option<MsiMessage>>,
}

impl Routes {
    /// The pins of the interrupt controllers as KVM has them by default, and the messages known so far.
    fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let pic = (0..2 * PIC_PINS).map(|gsi| {
            let chip = if gsi < PIC_PINS { KVM_IRQCHIP_PIC_MASTER } else { KVM_IRQCHIP_PIC_SLAVE };
            pin(gsi, chip, gsi % PIC_PINS)
        });
        let io_apic = (0..IO_APIC_PINS).map(|gsi| pin(gsi, KVM_IRQCHIP_IOAPIC, gsi));
        let messages = (IO_APIC_PINS..).zip(&self.messages).filter_map(|(gsi, message)| Some(send(gsi, (*message)?)));
        pic.chain(io_apic).chain(messages).collect()
    }
}

fn pin(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let u = kvm_irq_routing_entry__bindgen_ty_1 { irqchip: kvm_irq_routing_irqchip { irqchip, pin } };
    kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, u, ..Default::default() }
}

fn send(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let [a, b, c, d, e, f, g, h] = message.address.to_le_bytes();
    let msi = kvm_irq_routing_msi {
        address_lo: u32::from_le_bytes([a, b, c, d]),
        address_hi: u32::from_le_bytes([e, f, g, h]),
        data: message.data,
        __bindgen_anon_1: kvm_irq_routing_msi__bindgen_ty_1 { pad: 0 },
    };
    let u = kvm_irq_routing_entry__bindgen_ty_1 { msi };
    kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, u, ..Default::default() }
}

impl Interrupts {
    pub(super) fn new(vm: Arc<VmFd>) -> Self {
        let lines = Arc::new(std::array::from_fn(|_| Mutex::default()));
        Self { vm, routes: Mutex::new(Routes { messages: Vec::new() }), lines }
    }

    /// A route for one more message.
    pub(super) fn message(self: &Arc<Self>) -> Result<Arc<dyn MsiRoute>, MachineError> {
        let event = EventFd::new(EFD_NONBLOCK).map_err(host("make an eventfd"))?;
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let index = routes.messages.len();
        let gsi = u32::try_from(index).map_or(u32::MAX, |index| IO_APIC_PINS + index);
        self.vm.register_irqfd(&event, gsi).map_err(refused("connect an interrupt to an eventfd"))?;
        routes.messages.push(None);
        Ok(Arc::new(KvmMsi { interrupts: Arc::clone(self), index, event }))
    }

    /// The line that this slot shares with others.
    pub(super) fn line(&self, gsi: u8, slot: u8) -> Arc<dyn IntxLine> {
        Arc::new(KvmLine { vm: Arc::clone(&self.vm), lines: Arc::clone(&self.lines), gsi, mask: 1 << (slot % 32) })
    }
}

/// A message of KVM.
#[derive(Debug)]
struct KvmMsi {
    interrupts: Arc<Interrupts>,
    index: usize,
    event: EventFd,
}

impl MsiRoute for KvmMsi {
    fn program(&self, message: MsiMessage) {
        let mut routes = self.interrupts.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(place) = routes.messages.get_mut(self.index) else { return };
        if place.replace(message) == Some(message) {
            return;
        }
        let entries = KvmIrqRouting::from_entries(&routes.entries());
        match entries.map(|entries| self.interrupts.vm.set_gsi_routing(&entries)) {
            Ok(Ok(())) => {}
            outcome => tracing::error!("KVM does not take the route of an interrupt: {outcome:?}"),
        }
    }

    fn signal(&self) {
        // Fails only when the counter is full, which is a signal too.
        _ = self.event.write(1);
    }
}

/// A line of KVM's I/O APIC, as one device has it.
#[derive(Debug)]
struct KvmLine {
    vm: Arc<VmFd>,
    lines: Arc<[Mutex<u32>; IO_APIC_PINS as usize]>,
    gsi: u8,
    mask: u32,
}

impl IntxLine for KvmLine {
    fn set(&self, asserted: bool) {
        // The lock keeps the order of levels; it is held for one system call at most.
        let mut line = self.lines[usize::from(self.gsi)].lock().unwrap_or_else(PoisonError::into_inner);
        let before = *line;
        *line = if asserted { before | self.mask } else { before & !self.mask };
        if (before == 0) != (*line == 0)
            && let Err(err) = self.vm.set_irq_line(u32::from(self.gsi), *line != 0)
        {
            tracing::error!("KVM does not take an interrupt: {err}");
        }
    }
}

impl DoorbellTies for Interrupts {
    fn tie(&self, space: Space, address: u64, event: &EventFd) -> io::Result<()> {
        Ok(self.vm.register_ioevent(event, &place(space, address), NoDatamatch)?)
    }

    fn untie(&self, space: Space, address: u64, event: &EventFd) -> io::Result<()> {
        Ok(self.vm.unregister_ioevent(event, &place(space, address), NoDatamatch)?)
    }
}

const fn place(space: Space, address: u64) -> IoEventAddress {
    match space {
        Space::Memory => IoEventAddress::Mmio(address),
        Space::Ports => IoEventAddress::Pio(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_after_the_pins() {
        let message = MsiMessage { address: 0xfee0_1000, data: 0x4031 };
        let entries = Routes { messages: vec![None, Some(message)] }.entries();
        assert_eq!(entries.len(), 16 + 24 + 1);
        let last = entries.last().unwrap();
        assert_eq!((last.gsi, last.type_), (25, KVM_IRQ_ROUTING_MSI));
        assert_eq!(entries.iter().filter(|entry| entry.gsi == 4).count(), 2, "the PIC and the I/O APIC");
    }
}
