//! Registers of the 82540EM and their bits, by the names and numbers of Intel's manual (PCI/PCI-X Family of Gigabit Ethernet Controllers
//! Software Developer's Manual, chapter 13).

/// Device control.
pub(super) const CTRL: u32 = 0x0000;
/// Device status.
pub(super) const STATUS: u32 = 0x0008;
/// EEPROM control and data: its four wires.
pub(super) const EECD: u32 = 0x0010;
/// EEPROM read: the same by words.
pub(super) const EERD: u32 = 0x0014;
/// Extended device control.
pub(super) const CTRL_EXT: u32 = 0x0018;
/// MDI control: the registers of the PHY.
pub(super) const MDIC: u32 = 0x0020;
/// Flow control: address, type, timer.
pub(super) const FCAL: u32 = 0x0028;
pub(super) const FCAH: u32 = 0x002c;
pub(super) const FCT: u32 = 0x0030;
/// Type of frames with a VLAN tag.
pub(super) const VET: u32 = 0x0038;
/// Interrupt cause read; it is empty afterwards.
pub(super) const ICR: u32 = 0x00c0;
/// Interrupt throttling, in units of 256 ns.
pub(super) const ITR: u32 = 0x00c4;
/// Interrupt cause set.
pub(super) const ICS: u32 = 0x00c8;
/// Interrupt mask: set, clear.
pub(super) const IMS: u32 = 0x00d0;
pub(super) const IMC: u32 = 0x00d8;
/// Receive control.
pub(super) const RCTL: u32 = 0x0100;
pub(super) const FCTTV: u32 = 0x0170;
pub(super) const TXCW: u32 = 0x0178;
/// Transmit control, gaps, and what else there is for half duplex.
pub(super) const TCTL: u32 = 0x0400;
pub(super) const TIPG: u32 = 0x0410;
pub(super) const AIT: u32 = 0x0458;
pub(super) const LEDCTL: u32 = 0x0e00;
/// How the packet buffer is divided.
pub(super) const PBA: u32 = 0x1000;
pub(super) const FCRTL: u32 = 0x2160;
pub(super) const FCRTH: u32 = 0x2168;
/// The receive ring: base, length in bytes, head, tail; and how long its interrupts may wait, in units of 1.024 us.
pub(super) const RDBAL: u32 = 0x2800;
pub(super) const RDBAH: u32 = 0x2804;
pub(super) const RDLEN: u32 = 0x2808;
pub(super) const RDH: u32 = 0x2810;
pub(super) const RDT: u32 = 0x2818;
pub(super) const RDTR: u32 = 0x2820;
pub(super) const RXDCTL: u32 = 0x2828;
pub(super) const RADV: u32 = 0x282c;
pub(super) const RSRPD: u32 = 0x2c00;
/// The same for transmission.
pub(super) const TDBAL: u32 = 0x3800;
pub(super) const TDBAH: u32 = 0x3804;
pub(super) const TDLEN: u32 = 0x3808;
pub(super) const TDH: u32 = 0x3810;
pub(super) const TDT: u32 = 0x3818;
pub(super) const TIDV: u32 = 0x3820;
pub(super) const TXDCTL: u32 = 0x3828;
pub(super) const TADV: u32 = 0x382c;
pub(super) const TSPMT: u32 = 0x3830;
/// Statistics, each cleared by reading it.
pub(super) const STATISTICS: u32 = 0x4000;
pub(super) const STATISTICS_END: u32 = 0x4100;
/// Receive checksum control.
pub(super) const RXCSUM: u32 = 0x5000;
/// Multicast table array: 4096 bits.
pub(super) const MTA: u32 = 0x5200;
pub(super) const MTA_END: u32 = 0x5400;
/// Receive addresses: 16 of 48 bits, and whether each is valid.
pub(super) const RA: u32 = 0x5400;
pub(super) const RA_END: u32 = 0x5480;
/// VLAN filter table array: 4096 bits.
pub(super) const VFTA: u32 = 0x5600;
pub(super) const VFTA_END: u32 = 0x5800;
/// Wake-up and management, which are remembered and mean nothing here.
pub(super) const WUC: u32 = 0x5800;
pub(super) const WUFC: u32 = 0x5808;
pub(super) const MANC: u32 = 0x5820;
pub(super) const SWSM: u32 = 0x5b50;
/// The first offset at which there is nothing more.
pub(super) const END: u32 = 0x6000;

pub(super) mod ctrl {
    pub(in super::super) const FD: u32 = 1 << 0;
    pub(in super::super) const SLU: u32 = 1 << 6;
    pub(in super::super) const SPD_1000: u32 = 1 << 9;
    pub(in super::super) const SWDPIN0: u32 = 1 << 18;
    pub(in super::super) const SWDPIN2: u32 = 1 << 20;
    pub(in super::super) const RST: u32 = 1 << 26;
    pub(in super::super) const VME: u32 = 1 << 30;
    pub(in super::super) const PHY_RST: u32 = 1 << 31;
}

pub(super) mod status {
    pub(in super::super) const FD: u32 = 1 << 0;
    pub(in super::super) const LU: u32 = 1 << 1;
    pub(in super::super) const SPEED_1000: u32 = 1 << 7;
    pub(in super::super) const ASDV_1000: u32 = 1 << 9;
    pub(in super::super) const MTXCKOK: u32 = 1 << 10;
    pub(in super::super) const BUS_MASTER: u32 = 1 << 19;
}

pub(super) mod cause {
    pub(in super::super) const TXDW: u32 = 1 << 0;
    pub(in super::super) const TXQE: u32 = 1 << 1;
    pub(in super::super) const LSC: u32 = 1 << 2;
    pub(in super::super) const RXDMT0: u32 = 1 << 4;
    pub(in super::super) const RXT0: u32 = 1 << 7;
    pub(in super::super) const MDAC: u32 = 1 << 9;
    /// All that there are.
    pub(in super::super) const ALL: u32 = 0x0001_ffff;
}

pub(super) mod rctl {
    pub(in super::super) const EN: u32 = 1 << 1;
    pub(in super::super) const UPE: u32 = 1 << 3;
    pub(in super::super) const MPE: u32 = 1 << 4;
    pub(in super::super) const LPE: u32 = 1 << 5;
    pub(in super::super) const LBM: u32 = 3 << 6;
    pub(in super::super) const RDMTS_SHIFT: u32 = 8;
    pub(in super::super) const MO_SHIFT: u32 = 12;
    pub(in super::super) const BAM: u32 = 1 << 15;
    pub(in super::super) const BSIZE_SHIFT: u32 = 16;
    pub(in super::super) const VFE: u32 = 1 << 18;
    pub(in super::super) const BSEX: u32 = 1 << 25;
    pub(in super::super) const SECRC: u32 = 1 << 26;
}

pub(super) mod tctl {
    pub(in super::super) const EN: u32 = 1 << 1;
}

pub(super) mod rxcsum {
    pub(in super::super) const IPOFL: u32 = 1 << 8;
    pub(in super::super) const TUOFL: u32 = 1 << 9;
}

/// An address in [`RA`] counts (upper half).
pub(super) const RAH_AV: u32 = 1 << 31;

/// Which bits of an ordinary register, which does nothing but remember, the driver can change. `None` for what is no such register.
pub(super) const fn writable(offset: u32) -> Option<u32> {
    match offset {
        RDBAL | TDBAL => Some(!0xf),
        RDLEN | TDLEN => Some(0xf_ff80),
        RDH | RDT | TDH | TDT | ITR | VET | RADV | TADV | FCT | FCTTV => Some(0xffff),
        // Their uppermost bit flushes what waits, and reads as 0.
        RDTR | TIDV => Some(0xffff),
        CTRL_EXT | FCAL | FCAH | RCTL | TXCW | TCTL | TIPG | AIT | LEDCTL | PBA | FCRTL | FCRTH | RDBAH | TDBAH | RXDCTL
        | TXDCTL | RSRPD | TSPMT | RXCSUM | WUC | WUFC | MANC | SWSM => Some(!0),
        MTA..MTA_END | RA..RA_END | VFTA..VFTA_END => Some(!0),
        _ => None,
    }
}
