//! The PHY, a Marvell 88E1011, behind MDIC. Its link is at 1000 Mbit/s, and up unless its cable is taken out.

/// Fields of MDIC.
const DATA: u32 = 0xffff;
const REGISTER_SHIFT: u32 = 16;
const PHY_SHIFT: u32 = 21;
const OP_WRITE: u32 = 1 << 26;
const OP_READ: u32 = 2 << 26;
const OP: u32 = 3 << 26;
const READY: u32 = 1 << 28;
const INTERRUPT: u32 = 1 << 29;
const ERROR: u32 = 1 << 30;

/// The address of the only PHY.
const ADDRESS: u32 = 1;

/// Registers (IEEE 802.3 clause 22, and Marvell's own).
mod register {
    pub(super) const CONTROL: usize = 0;
    pub(super) const STATUS: usize = 1;
    pub(super) const ID_HIGH: usize = 2;
    pub(super) const ID_LOW: usize = 3;
    pub(super) const ADVERTISEMENT: usize = 4;
    pub(super) const PARTNER: usize = 5;
    pub(super) const EXPANSION: usize = 6;
    pub(super) const NEXT_PAGE: usize = 7;
    pub(super) const CONTROL_1000: usize = 9;
    pub(super) const STATUS_1000: usize = 10;
    pub(super) const EXTENDED_STATUS: usize = 15;
    pub(super) const SPECIFIC_CONTROL: usize = 16;
    pub(super) const SPECIFIC_STATUS: usize = 17;
    pub(super) const EXTENDED_CONTROL: usize = 20;
    pub(super) const COUNT: usize = 32;
}

/// Bits of the control register that go off by themselves: reset, restart of the negotiation.
const RESET: u16 = 1 << 15;
const RESTART: u16 = 1 << 9;

#[derive(Debug)]
pub(super) struct Phy {
    registers: [u16; register::COUNT],
}

/// What an access to MDIC has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Access {
    /// What MDIC reads as now.
    pub(super) mdic: u32,
    /// Whether the driver wants an interrupt because it is done.
    pub(super) interrupt: bool,
    /// Whether the link was negotiated anew.
    pub(super) renegotiated: bool,
}

impl Phy {
    pub(super) const fn new() -> Self {
        let mut registers = [0; register::COUNT];
        // Negotiation on, full duplex, 1000 Mbit/s.
        registers[register::CONTROL] = 0x1140;
        // All kinds of 10 and 100 Mbit/s, extended status, negotiation able and complete, link up, extended registers.
        registers[register::STATUS] = 0x796d;
        registers[register::ID_HIGH] = 0x0141;
        registers[register::ID_LOW] = 0x0c20;
        registers[register::ADVERTISEMENT] = 0x0de1;
        registers[register::PARTNER] = 0x45e1;
        registers[register::EXPANSION] = 0x0001;
        registers[register::NEXT_PAGE] = 0x2001;
        registers[register::CONTROL_1000] = 0x0e00;
        // Both receivers work, and the partner can do 1000 Mbit/s in full duplex.
        registers[register::STATUS_1000] = 0x3800;
        registers[register::EXTENDED_STATUS] = 0x3000;
        registers[register::SPECIFIC_CONTROL] = 0x0360;
        // 1000 Mbit/s, full duplex, resolved, link up.
        registers[register::SPECIFIC_STATUS] = 0xac00;
        registers[register::EXTENDED_CONTROL] = 0x0d60;
        Self { registers }
    }

    /// What a register reads as, with the cable in or out.
    fn read(&self, number: usize, plugged: bool) -> u16 {
        // Of a link that is down, neither its status nor what was negotiated.
        let gone = match number {
            _ if plugged => 0,
            register::STATUS => 1 << 5 | 1 << 2,
            register::SPECIFIC_STATUS => 1 << 11 | 1 << 10,
            register::STATUS_1000 => 1 << 13 | 1 << 12 | 1 << 11,
            _ => 0,
        };
        self.registers[number] & !gone
    }

    /// Follows what was written to MDIC, with the cable in or out.
    pub(super) fn access(&mut self, value: u32, plugged: bool) -> Access {
        let number = (value >> REGISTER_SHIFT & 31) as usize;
        let mut renegotiated = false;
        let known = value >> PHY_SHIFT & 31 == ADDRESS;
        let mdic = match value & OP {
            OP_READ if known => value & !DATA | u32::from(self.read(number, plugged)) | READY,
            OP_WRITE if known => {
                renegotiated = self.write(number, (value & DATA) as u16);
                value | READY
            }
            _ => value | READY | ERROR,
        };
        Access { mdic, interrupt: value & INTERRUPT != 0, renegotiated }
    }

    /// Returns whether the link was negotiated anew.
    fn write(&mut self, number: usize, value: u16) -> bool {
        match number {
            register::CONTROL => {
                if value & RESET != 0 {
                    *self = Self::new();
                } else {
                    self.registers[register::CONTROL] = value & !RESTART;
                }
                value & (RESET | RESTART) != 0
            }
            register::ADVERTISEMENT
            | register::NEXT_PAGE
            | register::CONTROL_1000
            | register::SPECIFIC_CONTROL
            | register::EXTENDED_CONTROL
            // The interrupt mask, and where Linux looks for faults of some chips.
            | 18
            | 29
            | 30 => {
                self.registers[number] = value;
                false
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(phy: &mut Phy, address: u32, number: u32) -> u32 {
        phy.access(number << REGISTER_SHIFT | address << PHY_SHIFT | OP_READ, true).mdic
    }

    fn write(phy: &mut Phy, number: u32, value: u16) -> Access {
        phy.access(number << REGISTER_SHIFT | 1 << PHY_SHIFT | OP_WRITE | u32::from(value), true)
    }

    #[test]
    fn a_driver_finds_the_phy_it_knows() {
        let mut phy = Phy::new();
        assert_eq!(read(&mut phy, 1, 2) & (DATA | READY | ERROR), READY | 0x0141);
        assert_eq!(read(&mut phy, 1, 3) & DATA, 0x0c20);
        assert_eq!(read(&mut phy, 0, 2) & (READY | ERROR), READY | ERROR);
    }

    #[test]
    fn the_link_is_up_and_negotiated() {
        let mut phy = Phy::new();
        assert_eq!(read(&mut phy, 1, 1) & 0x24, 0x24);
        assert_eq!(read(&mut phy, 1, 17) & DATA, 0xac00);
    }

    #[test]
    fn without_a_cable_there_is_no_link() {
        let mut phy = Phy::new();
        let mut read = |number: u32, plugged| phy.access(number << REGISTER_SHIFT | 1 << PHY_SHIFT | OP_READ, plugged).mdic & DATA;
        assert_eq!((read(1, false) & 0x24, read(1, true) & 0x24), (0, 0x24));
        assert_eq!((read(17, false) & 0x0c00, read(17, true) & 0x0c00), (0, 0x0c00));
        assert_eq!(read(2, false), 0x0141);
    }

    #[test]
    fn reset_and_restart_go_off_by_themselves() {
        let mut phy = Phy::new();
        assert!(write(&mut phy, 0, 0x1340).renegotiated);
        assert_eq!(read(&mut phy, 1, 0) & DATA, 0x1140);
        write(&mut phy, 4, 0x01e1);
        assert_eq!(read(&mut phy, 1, 4) & DATA, 0x01e1);
        assert!(write(&mut phy, 0, 0x9140).renegotiated);
        assert_eq!((read(&mut phy, 1, 0) & DATA, read(&mut phy, 1, 4) & DATA), (0x1140, 0x0de1));
        assert!(!write(&mut phy, 1, 0).renegotiated);
        assert_eq!(read(&mut phy, 1, 1) & DATA, 0x796d, "read-only");
    }

    #[test]
    fn an_interrupt_comes_if_wanted() {
        let mut phy = Phy::new();
        assert!(phy.access(1 << PHY_SHIFT | OP_READ | INTERRUPT, true).interrupt);
        assert!(!phy.access(1 << PHY_SHIFT | OP_READ, true).interrupt);
    }
}
