//! Intel's 82540EM, the network card that guests without virtio know: one port of the engine behind registers and two descriptor rings.
//!
//! | module | what is there |
//! |---|---|
//! | `register` | offsets and bits, by the manual's names |
//! | `eeprom`, `phy` | what is behind EECD, EERD and MDIC |
//! | `interrupts` | causes, mask, line and throttling |
//! | `shared` | what the registers and the data path share |
//! | `transmit`, `offload` | the guest's frames, with the work that the driver left to the card |
//! | `receive`, `filter` | frames to the guest, and which ones it wants |
//! | `statistics` | counters |
//!
//! A register access does no work on rings. It changes a register and, if the data path waits for that, wakes it. The data path reads and
//! writes the guest's memory, in the engine's task; it never segments: a segmentation context and its data become one super-frame.
//!
//! What always holds:
//!
//! - Only RAM is read and written. Addresses elsewhere, a base address of this very card among them, and tails outside of a ring bring the
//!   link down until the driver resets the card.
//! - Whatever is in the rings, a turn looks at a bounded number of descriptors and each look goes on by one.
//! - What a context says of a frame is taken when the frame begins, and judged against the frame when it is complete.

mod eeprom;
mod filter;
mod interrupts;
mod offload;
mod phy;
mod receive;
mod register;
mod shared;
mod statistics;
mod transmit;

use std::io;
use std::sync::Arc;

use netstack::addr::MacAddr;
use netstack::port::{Halves, Port};

use self::eeprom::Eeprom;
use self::phy::Phy;
use self::register::{cause, ctrl, rctl, status, tctl};
use self::shared::Shared;
use crate::irq::IntxLine;
use crate::memory::GuestMemory;
use crate::pci::{BarKind, ConfigSpace, Identity, PciDevice};

const VENDOR: u16 = 0x8086;
const DEVICE: u16 = 0x100e;

/// Registers in memory, and the two by which they are accessed from I/O ports.
const MEMORY: usize = 0;
const MEMORY_SIZE: u64 = 0x2_0000;
const PORTS: usize = 1;
const PORTS_SIZE: u64 = 64;
const IOADDR: u64 = 0;
const IODATA: u64 = 4;

/// "Received master abort" in the status register of the function: nobody answered at an address that it accessed.
const PCI_STATUS: u16 = 0x06;
const RECEIVED_MASTER_ABORT: u16 = 1 << 13;

/// What a network card is to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct E1000Config {
    /// Its name in messages.
    pub name: String,
    /// Its address.
    pub mac: MacAddr,
    /// The largest IP packet on its link: 68 to 16110 bytes. More than 1500 is used only while the driver has enabled long packets.
    pub mtu: u16,
}

/// The card on the PCI bus.
#[derive(Debug)]
pub struct E1000 {
    config: ConfigSpace,
    shared: Arc<Shared>,
    mac: MacAddr,
    eeprom: Eeprom,
    phy: Phy,
    /// The register that the I/O ports lead to.
    address: u32,
}

/// The data path of the card, to be attached to an engine.
#[derive(Debug)]
pub struct E1000Port {
    name: String,
    mtu: u16,
    memory: GuestMemory,
    shared: Arc<Shared>,
}

/// Makes a network card in a guest with this memory, which it interrupts by `line`.
///
/// # Errors
///
/// When the kernel has no descriptors left.
pub fn new(config: E1000Config, memory: GuestMemory, line: Arc<dyn IntxLine>) -> io::Result<(E1000, E1000Port)> {
    let shared = Arc::new(Shared::new(line)?);
    let port = E1000Port { name: config.name, mtu: config.mtu, memory, shared: Arc::clone(&shared) };
    let mut space = ConfigSpace::new(&Identity {
        vendor: VENDOR,
        device: DEVICE,
        revision: 3,
        class: 0x02_00_00,
        subsystem_vendor: VENDOR,
        subsystem: DEVICE,
    });
    space.add_bar(MEMORY, BarKind::Memory32, MEMORY_SIZE);
    space.add_bar(PORTS, BarKind::Io, PORTS_SIZE);
    space.use_interrupt_pin();
    let eeprom = Eeprom::new(config.mac, DEVICE, VENDOR);
    let mut card = E1000 { config: space, shared, mac: config.mac, eeprom, phy: Phy::new(), address: 0 };
    card.reset();
    Ok((card, port))
}

impl E1000 {
    /// As after power-on, but for the PHY, the configuration space, and what I/O ports lead to.
    fn reset(&mut self) {
        self.eeprom.reset();
        let shared = &self.shared;
        let [a, b, c, d, e, f] = self.mac.0;
        shared.reset(|| {
            shared.set(register::CTRL, ctrl::SWDPIN2 | ctrl::SWDPIN0 | ctrl::SPD_1000 | ctrl::SLU | ctrl::FD);
            shared.set(register::PBA, 0x0010_0030);
            shared.set(register::VET, 0x8100);
            shared.set(register::RA, u32::from_le_bytes([a, b, c, d]));
            shared.set(register::RA + 4, u32::from(u16::from_le_bytes([e, f])) | register::RAH_AV);
        });
    }

    fn read(&mut self, offset: u32) -> u32 {
        let shared = &self.shared;
        match offset {
            register::STATUS => {
                let link = if shared.link_is_up() { status::LU } else { 0 };
                status::FD | link | status::SPEED_1000 | status::ASDV_1000 | status::MTXCKOK | status::BUS_MASTER | 1 << 31
            }
            register::EECD => self.eeprom.eecd(),
            register::ICR => shared.interrupts.take(),
            register::ICS => shared.interrupts.causes(),
            register::IMS => shared.interrupts.mask(),
            register::ITR => shared.interrupts.throttle(),
            register::STATISTICS..register::STATISTICS_END => shared.statistics.take(offset),
            _ => shared.get(offset),
        }
    }

    fn write(&mut self, offset: u32, value: u32) {
        let shared = &self.shared;
        match offset {
            register::CTRL => self.control(value),
            register::EECD => self.eeprom.set_eecd(value),
            register::EERD => shared.set(offset, self.eeprom.read_word(value)),
            register::MDIC => {
                let access = self.phy.access(value, shared.is_plugged());
                shared.set(offset, access.mdic);
                let done = if access.interrupt { cause::MDAC } else { 0 };
                let link = if access.renegotiated { cause::LSC } else { 0 };
                shared.raise(done | link, 0);
            }
            register::ICR => shared.look_after(shared.interrupts.clear(value)),
            register::ICS => shared.raise(value, 0),
            register::IMS => shared.look_after(shared.interrupts.enable(value)),
            register::IMC => shared.look_after(shared.interrupts.disable(value)),
            register::ITR => shared.interrupts.set_throttle(value),
            _ => {
                if let Some(bits) = register::writable(offset) {
                    let before = shared.get(offset);
                    shared.set(offset, value & bits);
                    self.follow(offset, before, value & bits);
                }
            }
        }
    }

    fn control(&mut self, value: u32) {
        if value & ctrl::RST != 0 {
            self.reset();
            return;
        }
        if value & ctrl::PHY_RST != 0 {
            self.phy = Phy::new();
            self.shared.raise(cause::LSC, 0);
        }
        let up = self.shared.link_is_up();
        self.shared.set(register::CTRL, value & !ctrl::PHY_RST);
        match (up, self.shared.link_is_up()) {
            (false, true) => {
                self.shared.raise(cause::LSC, 0);
                self.shared.receive.changed();
                self.shared.transmit.changed();
            }
            (true, false) => {
                self.shared.quiesce();
                self.shared.raise(cause::LSC, 0);
            }
            _ => {}
        }
    }

    /// Tells the data path of a register that matters to it.
    fn follow(&self, offset: u32, before: u32, now: u32) {
        let shared = &self.shared;
        match offset {
            register::RCTL if before & rctl::EN != 0 && now & rctl::EN == 0 => shared.quiesce(),
            register::TCTL if before & tctl::EN != 0 && now & tctl::EN == 0 => shared.quiesce(),
            register::RCTL | register::RDT => {
                let ring = shared.receive_ring();
                if shared.may_receive() && out_of_ring(ring.tail, ring.len) {
                    shared.fail("the tail of the receive ring is outside of it");
                }
                shared.receive.changed();
            }
            register::TCTL | register::TDT => {
                let ring = shared.transmit_ring();
                if shared.may_transmit() && out_of_ring(ring.tail, ring.len) {
                    shared.fail("the tail of the transmit ring is outside of it");
                }
                shared.transmit.changed();
            }
            _ => {}
        }
    }
}

/// A ring without descriptors is switched off, and its tail means nothing.
const fn out_of_ring(tail: u32, len: u32) -> bool {
    len > 0 && tail >= len
}

impl Drop for E1000 {
    fn drop(&mut self) {
        self.shared.leave();
    }
}

impl PciDevice for E1000 {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        let mut status = self.config.u16_at(PCI_STATUS) & !RECEIVED_MASTER_ABORT;
        if self.shared.has_failed() {
            status |= RECEIVED_MASTER_ABORT;
        }
        self.config.set(PCI_STATUS, &status.to_le_bytes());
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        self.config.write(offset, data);
        let command = self.config.command();
        self.shared.set_bus_master(command.bus_master());
        self.shared.look_after(self.shared.interrupts.set_disabled(command.intx_disabled()));
    }

    /// Registers have 32 bits, and an access of another size or between two of them finds nothing.
    fn bar_read(&mut self, bar: usize, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Ok(word) = <&mut [u8; 4]>::try_from(data) else { return };
        let value = match (bar, offset) {
            (MEMORY, 0..MEMORY_SIZE) if offset.is_multiple_of(4) => self.read(offset as u32),
            (PORTS, IOADDR) => self.address,
            (PORTS, IODATA) if self.address.is_multiple_of(4) => self.read(self.address),
            _ => 0,
        };
        *word = value.to_le_bytes();
    }

    fn bar_write(&mut self, bar: usize, offset: u64, data: &[u8]) {
        let Ok(word) = <[u8; 4]>::try_from(data) else { return };
        let value = u32::from_le_bytes(word);
        match (bar, offset) {
            (MEMORY, 0..MEMORY_SIZE) if offset.is_multiple_of(4) => self.write(offset as u32, value),
            (PORTS, IOADDR) => self.address = value,
            (PORTS, IODATA) if self.address.is_multiple_of(4) => self.write(self.address, value),
            _ => {}
        }
    }
}

impl Port for E1000Port {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn attach(self: Box<Self>) -> io::Result<Halves> {
        let ingress = transmit::E1000Ingress::new(Arc::clone(&self.shared), self.memory.clone())?;
        let egress = receive::E1000Egress::new(self.shared, self.memory, self.mtu)?;
        Ok(Halves { ingress: Box::new(ingress), egress: Box::new(egress) })
    }
}

#[cfg(test)]
mod tests;
