//! The ACPI tables: all that tells the guest what this machine consists of. There is no firmware and no other description.
//!
//! The machine is "hardware-reduced" (ACPI 6.5, section 4.1): no PIC, no PIT, no event registers. So every interrupt that a guest may use is
//! named here, the serial port's and those of the PCI slots.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, PackageBuilder, Path,
    ResourceTemplate, Scope,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace as Space, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};

use crate::legacy::{cmos, power, serial};
use crate::memory::layout;
use crate::pci;

const OEM: [u8; 6] = *b"SLPWAY";
const TABLE: [u8; 8] = *b"SLIPWAY ";
const REVISION: u32 = 1;

/// FADT: there is no VGA (bit 2 of IAPC_BOOT_ARCH); and, as bit 1 is clear, no keyboard controller worth probing.
const BOOT_ARCH_NO_VGA: u16 = 1 << 2;

/// Everything that [`tables`] wrote, and where it belongs: from [`layout::ACPI`] on, the root pointer first.
pub fn tables(cpus: u8) -> Vec<u8> {
    let mut image = Image::default();
    // The root pointer has its place already, because that is where it is looked for; it is written last.
    image.bytes.resize(ROOT_SIZE, 0);
    let dsdt = image.add(&dsdt());
    let fadt = image.add(&fadt(dsdt));
    let madt = image.add(&madt(cpus));
    let mcfg = image.add(&mcfg());
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    for table in [fadt, madt, mcfg] {
        xsdt.add_entry(table);
    }
    let xsdt = image.add(&xsdt);
    let mut root = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut root);
    image.bytes[..root.len()].copy_from_slice(&root);
    image.bytes
}

/// Room for the root pointer.
const ROOT_SIZE: usize = 64;

/// Tables one after the other, as they will lie in the guest's memory.
#[derive(Default)]
struct Image {
    bytes: Vec<u8>,
}

impl Image {
    /// Appends a table and returns its address.
    fn add(&mut self, table: &dyn Aml) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        let address = layout::ACPI + u64::try_from(self.bytes.len()).unwrap_or(0);
        table.to_aml_bytes(&mut Bytes(&mut self.bytes));
        address
    }
}

/// Where the tables' writers put their bytes.
struct Bytes<'a>(&'a mut Vec<u8>);

impl AmlSink for Bytes<'_> {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }
}

/// The fixed description: sleeping and resetting by one register each.
fn fadt(dsdt: u64) -> impl Aml {
    let port = |port: u16| GAS::new(Space::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(port));
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::Headless);
    fadt.iapc_boot_arch = BOOT_ARCH_NO_VGA.into();
    fadt.sleep_control_reg = port(power::SLEEP_CONTROL);
    fadt.sleep_status_reg = port(power::SLEEP_STATUS);
    fadt.reset_reg = port(power::RESET);
    fadt.reset_value = power::RESET_VALUE;
    fadt.finalize()
}

/// The processors and the I/O APIC.
fn madt(cpus: u8) -> impl Aml {
    let address = u32::try_from(layout::LOCAL_APIC).unwrap_or(0);
    let mut madt = MADT::new(OEM, TABLE, REVISION, LocalInterruptController::Address(address));
    for cpu in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, u32::try_from(layout::IO_APIC).unwrap_or(0), 0));
    madt
}

/// Where PCI configuration space is mapped.
fn mcfg() -> impl Aml {
    let mut mcfg = MCFG::new(OEM, TABLE, REVISION);
    mcfg.add_ecam(layout::ECAM, 0, 0, 0);
    mcfg
}

/// The devices.
fn dsdt() -> impl Aml {
    let mut aml = Vec::new();
    Name::new(path("_S5_"), &Package::new(vec![&power::SLEEP_TYPE_S5, &0_u8, &0_u8, &0_u8])).to_aml_bytes(&mut aml);
    host_bridge(&mut aml);
    reserved_window(&mut aml);
    serial_port(&mut aml);
    clock(&mut aml);
    let mut table = Sdt::new(*b"DSDT", 36, 6, OEM, TABLE, REVISION);
    table.append_slice(&aml);
    table
}

/// PCI bus 0: its windows, and which interrupt the pin of each slot raises.
fn host_bridge(aml: &mut Vec<u8>) {
    let last = |start: u64, len: u64| u32::try_from(start + len - 1).unwrap_or(u32::MAX);
    let bus = AddressSpace::new_bus_number(0_u16, 0);
    let configuration = IO::new(pci::CONFIG_ADDRESS, pci::CONFIG_ADDRESS, 1, 8);
    let ports_last = layout::PCI_PORTS + u16::try_from(layout::PCI_PORTS_SIZE - 1).unwrap_or(0);
    let ports = AddressSpace::new_io(layout::PCI_PORTS, ports_last, None);
    let memory = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        u32::try_from(layout::PCI_MEMORY).unwrap_or(0),
        last(layout::PCI_MEMORY, layout::PCI_MEMORY_SIZE),
        None,
    );
    let mut routes = PackageBuilder::new();
    for slot in 0..pci::SLOTS {
        // Any function of the device, pin INTA#, no link device, the interrupt.
        let device = u32::from(slot) << 16 | 0xffff;
        routes.add_element(&Package::new(vec![&device, &0_u8, &0_u8, &pci::intx_gsi(slot)]));
    }
    device(
        aml,
        "PCI0",
        &[
            &Name::new(path("_HID"), &EISAName::new("PNP0A08")),
            &Name::new(path("_CID"), &EISAName::new("PNP0A03")),
            &Name::new(path("_SEG"), &0_u8),
            &Name::new(path("_BBN"), &0_u8),
            &Name::new(path("_UID"), &0_u8),
            &Name::new(path("_CRS"), &ResourceTemplate::new(vec![&bus, &configuration, &ports, &memory])),
            &Name::new(path("_PRT"), &routes),
        ],
    );
}

/// Linux maps configuration space only if a motherboard resource covers it.
fn reserved_window(aml: &mut Vec<u8>) {
    let base = u32::try_from(layout::ECAM).unwrap_or(0);
    let window = Memory32Fixed::new(false, base, u32::try_from(layout::ECAM_SIZE).unwrap_or(0));
    device(
        aml,
        "MBRD",
        &[
            &Name::new(path("_HID"), &EISAName::new("PNP0C02")),
            &Name::new(path("_UID"), &0_u8),
            &Name::new(path("_CRS"), &ResourceTemplate::new(vec![&window])),
        ],
    );
}

fn serial_port(aml: &mut Vec<u8>) {
    let ports = IO::new(serial::BASE, serial::BASE, 1, 8);
    let interrupt = Interrupt::new(true, true, false, false, serial::GSI);
    device(
        aml,
        "COM1",
        &[
            &Name::new(path("_HID"), &EISAName::new("PNP0501")),
            &Name::new(path("_UID"), &0_u8),
            &Name::new(path("_CRS"), &ResourceTemplate::new(vec![&ports, &interrupt])),
        ],
    );
}

/// The clock of the PC/AT. It has no interrupt: nobody sets its alarm.
fn clock(aml: &mut Vec<u8>) {
    let ports = IO::new(cmos::INDEX, cmos::INDEX, 1, 2);
    device(
        aml,
        "RTC0",
        &[&Name::new(path("_HID"), &EISAName::new("PNP0B00")), &Name::new(path("_CRS"), &ResourceTemplate::new(vec![&ports]))],
    );
}

/// Appends a device below the system bus.
fn device(aml: &mut Vec<u8>, name: &str, children: &[&dyn Aml]) {
    Scope::new(path("_SB_"), vec![&Device::new(path(name), children.to_vec())]).to_aml_bytes(aml);
}

fn path(name: &str) -> Path {
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tables by their signatures, found as a kernel finds them.
    fn walk(image: &[u8]) -> Vec<(String, Vec<u8>)> {
        let at = |address: u64| usize::try_from(address - layout::ACPI).unwrap();
        let table = |address: u64| {
            let start = at(address);
            let len = u32::from_le_bytes(image[start + 4..start + 8].try_into().unwrap());
            image[start..start + usize::try_from(len).unwrap()].to_vec()
        };
        let quad = |bytes: &[u8], offset: usize| u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap());
        let xsdt = table(quad(image, 24));
        let mut found: Vec<_> = xsdt[36..].chunks(8).map(|entry| table(quad(entry, 0))).collect();
        let fadt = found.iter().find(|table| table.starts_with(b"FACP")).unwrap();
        found.push(table(quad(fadt, 140)));
        found.push(xsdt);
        found.into_iter().map(|table| (String::from_utf8_lossy(&table[..4]).into_owned(), table)).collect()
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn every_table_is_reachable_and_sums_to_zero() {
        let image = tables(2);
        assert!(u64::try_from(image.len()).unwrap() <= layout::ACPI_SIZE);
        assert_eq!(&image[..8], b"RSD PTR ");
        assert_eq!((sum(&image[..20]), sum(&image[..36])), (0, 0));
        let tables = walk(&image);
        let names: Vec<_> = tables.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["FACP", "APIC", "MCFG", "DSDT", "XSDT"]);
        for (name, table) in &tables {
            assert_eq!(sum(table), 0, "{name}");
        }
    }

    #[test]
    fn every_processor_is_listed() {
        let lists = |cpus| walk(&tables(cpus)).into_iter().find(|(name, _)| name == "APIC").unwrap().1.len();
        assert_eq!(lists(3) - lists(1), 2 * 8);
        assert_eq!(lists(255) - lists(254), 8);
    }

    #[test]
    fn the_machine_has_no_hardware_but_what_is_listed() {
        let fadt = walk(&tables(1)).remove(0).1;
        let flags = u32::from_le_bytes(fadt[112..116].try_into().unwrap());
        assert_eq!(flags & (1 << 20 | 1 << 10), 1 << 20 | 1 << 10, "hardware-reduced, with a reset register");
        // Sleep control: system I/O, 8 bits wide, byte access.
        assert_eq!(&fadt[244..248], &[1, 8, 0, 1]);
        assert_eq!(fadt[248..256], u64::from(power::SLEEP_CONTROL).to_le_bytes());
    }
}
