use super::*;
use crate::pci::{ConfigSpace, HostBridge, Identity};
use proptest::collection::vec;
use proptest::prelude::*;
use vmm_sys_util::eventfd::EFD_NONBLOCK;

/// A function with memory, ports and a doorbell, whose registers hold what is written.
#[derive(Debug)]
struct Card {
    config: ConfigSpace,
    bell: Arc<EventFd>,
    register: [u8; 8],
}

impl Card {
    fn new() -> Self {
        let mut config = ConfigSpace::new(&Identity { vendor: 0x1234, device: 0x5678, ..Identity::default() });
        config.add_bar(0, BarKind::Memory32, 0x1000);
        config.add_bar(1, BarKind::Io, 64);
        config.use_interrupt_pin();
        Self { config, bell: Arc::new(EventFd::new(EFD_NONBLOCK).unwrap()), register: [0; 8] }
    }
}

impl PciDevice for Card {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn bar_read(&mut self, bar: usize, offset: u64, data: &mut [u8]) {
        data.fill(u8::try_from(bar).unwrap());
        data[0] = self.register[usize::try_from(offset).unwrap() % 8];
    }

    fn bar_write(&mut self, _bar: usize, offset: u64, data: &[u8]) {
        self.register[usize::try_from(offset).unwrap() % 8] = data[0];
    }

    fn doorbells(&self) -> Vec<Doorbell> {
        vec![Doorbell { bar: 0, offset: 0x800, event: Arc::clone(&self.bell) }]
    }
}

#[derive(Debug, Default)]
struct Ties(Mutex<Vec<u64>>);

impl DoorbellTies for Ties {
    fn tie(&self, space: Space, address: u64, _event: &EventFd) -> io::Result<()> {
        assert_eq!(space, Space::Memory);
        self.0.lock().unwrap().push(address);
        Ok(())
    }

    fn untie(&self, _space: Space, address: u64, _event: &EventFd) -> io::Result<()> {
        let mut tied = self.0.lock().unwrap();
        let place = tied.iter().position(|tied| *tied == address).ok_or(io::ErrorKind::NotFound)?;
        tied.remove(place);
        Ok(())
    }
}

struct Machine {
    memory: Arc<Bus>,
    ports: Arc<Bus>,
    ties: Arc<Ties>,
}

impl Machine {
    /// A host bridge and a card in slot 1, behind both kinds of access.
    fn new() -> Self {
        let machine = Self { memory: Arc::default(), ports: Arc::default(), ties: Arc::default() };
        let mut bus = PciBus::new(machine.memory.clone(), machine.ports.clone(), machine.ties.clone());
        bus.plug(0, Box::new(HostBridge::default())).unwrap();
        bus.plug(1, Box::new(Card::new())).unwrap();
        let bus = Arc::new(bus);
        machine.ports.insert(0xcf8, 8, Arc::new(ConfigPorts::new(bus.clone()))).unwrap();
        machine.memory.insert(layout::ECAM, layout::ECAM_SIZE, Arc::new(ConfigWindow(bus))).unwrap();
        machine
    }

    /// A configuration read by the ports.
    fn read(&self, slot: u32, offset: u32) -> u32 {
        self.ports.write(0xcf8, &(1 << 31 | slot << 11 | offset & 0xfc).to_le_bytes());
        let mut data = [0; 4];
        self.ports.read(0xcfc, &mut data);
        u32::from_le_bytes(data)
    }

    /// A configuration write by the window.
    fn write(&self, slot: u64, offset: u64, value: u32) {
        self.memory.write(layout::ECAM + (slot << 15) + offset, &value.to_le_bytes());
    }

    fn byte(bus: &Bus, address: u64) -> u8 {
        let mut data = [0; 2];
        bus.read(address, &mut data);
        data[1]
    }
}

#[test]
fn functions_are_found_both_ways() {
    let machine = Machine::new();
    assert_eq!(machine.read(0, 0), 0x0008_1b36);
    assert_eq!(machine.read(1, 0), 0x5678_1234);
    assert_eq!(machine.read(2, 0), 0xffff_ffff);
    let mut data = [0; 8];
    machine.memory.read(layout::ECAM + (1 << 15), &mut data);
    assert_eq!(data[..4], 0x5678_1234_u32.to_le_bytes());
    // Function 1 of the card, and the extended space of function 0.
    machine.memory.read(layout::ECAM + (1 << 15) + (1 << 12), &mut data);
    assert_eq!(data, [0xff; 8]);
    machine.memory.read(layout::ECAM + (1 << 15) + 0x100, &mut data);
    assert_eq!(data, [0; 8]);
}

#[test]
fn the_data_port_can_be_read_in_parts() {
    let machine = Machine::new();
    machine.read(1, 0);
    let (mut half, mut byte) = ([0; 2], [0; 1]);
    machine.ports.read(0xcfe, &mut half);
    machine.ports.read(0xcfd, &mut byte);
    assert_eq!((half, byte), ([0x78, 0x56], [0x12]));
}

#[test]
fn only_a_whole_index_selects() {
    let machine = Machine::new();
    machine.read(1, 0);
    machine.ports.write(0xcf8, &[0]);
    machine.ports.write(0xcf9, &[6]);
    let mut data = [0; 4];
    machine.ports.read(0xcfc, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x5678_1234);
    // Off, and another bus.
    for index in [0, 1 << 31 | 1 << 16 | 1 << 11] {
        machine.ports.write(0xcf8, &u32::to_le_bytes(index));
        machine.ports.read(0xcfc, &mut data);
        assert_eq!(data, [0xff; 4]);
    }
}

#[test]
fn addresses_are_given_out_and_decoded_on_demand() {
    let machine = Machine::new();
    let (memory, port) = (u64::from(machine.read(1, 0x10)), u64::from(machine.read(1, 0x14) & !3));
    assert_eq!((memory, port), (layout::PCI_MEMORY, u64::from(layout::PCI_PORTS)));
    assert_eq!(machine.read(1, 0x3c), 0x0110, "INTA# of slot 1");
    assert_eq!(Machine::byte(&machine.memory, memory), 0xff);

    machine.write(1, 4, 2);
    assert_eq!((Machine::byte(&machine.memory, memory), Machine::byte(&machine.ports, port)), (0, 0xff));
    machine.write(1, 4, 3);
    assert_eq!((Machine::byte(&machine.memory, memory), Machine::byte(&machine.ports, port)), (0, 1));
    assert_eq!(*machine.ties.0.lock().unwrap(), [memory + 0x800]);

    machine.write(1, 4, 0);
    assert_eq!(Machine::byte(&machine.memory, memory), 0xff);
    assert!(machine.ties.0.lock().unwrap().is_empty());
}

#[test]
fn a_base_address_moves_with_its_doorbells() {
    let machine = Machine::new();
    machine.write(1, 4, 2);
    let (old, new) = (layout::PCI_MEMORY, layout::PCI_MEMORY + 0x10_0000);
    machine.write(1, 0x10, u32::try_from(new).unwrap());
    assert_eq!((Machine::byte(&machine.memory, old), Machine::byte(&machine.memory, new)), (0xff, 0));
    assert_eq!(*machine.ties.0.lock().unwrap(), [new + 0x800]);
}

#[test]
fn nothing_outside_the_windows_is_decoded() {
    let machine = Machine::new();
    machine.write(1, 4, 3);
    for address in [0_u32, 0x1000, 0xffff_f000, 0xe000_0000, 0xfee0_0000, 0xbfff_f000] {
        machine.write(1, 0x10, address);
        assert!(machine.ties.0.lock().unwrap().is_empty(), "{address:#x}");
    }
    machine.write(1, 0x14, 0xcf8);
    assert_eq!(machine.read(1, 0), 0x5678_1234, "the configuration ports are still theirs");
}

#[test]
fn a_guest_may_write_anything_anywhere() {
    let machine = Machine::new();
    for slot in 0..32 {
        for offset in (0..4096).step_by(3) {
            for value in [0, 0xffff_ffff, 0xc000_0007] {
                machine.write(slot, offset, value);
            }
        }
    }
    machine.memory.write(layout::ECAM + layout::ECAM_SIZE - 4, &[0; 8]);
    assert_eq!(machine.read(1, 0), 0x5678_1234);
}

#[test]
fn the_bus_says_when_it_is_full() {
    let mut bus = PciBus::new(Arc::default(), Arc::default(), Arc::new(Ties::default()));
    while let Some(slot) = bus.free_slot() {
        bus.plug(slot, Box::new(Card::new())).unwrap();
    }
    assert_eq!(bus.plug(5, Box::new(Card::new())), Err(PlugError::NoSlot));
    assert_eq!(bus.plug(32, Box::new(Card::new())), Err(PlugError::NoSlot));
}

#[test]
fn accesses_are_cut_at_word_boundaries() {
    let cut = |offset, len| {
        let mut pieces = Vec::new();
        in_words(offset, len, |at, range| pieces.push((at, range.len())));
        pieces
    };
    assert_eq!(cut(0, 4), [(0, 4)]);
    assert_eq!(cut(0, 8), [(0, 4), (4, 4)]);
    assert_eq!(cut(1, 4), [(1, 1), (2, 2), (4, 1)]);
    assert_eq!(cut(0, 3), [(0, 2), (2, 1)]);
    assert_eq!(cut(4094, 4), [(4094, 2)]);
}

#[test]
fn the_first_devices_have_an_interrupt_of_their_own() {
    let lines: Vec<_> = (1..9).map(intx_gsi).collect();
    assert_eq!(lines, [16, 17, 18, 19, 20, 21, 22, 23]);
    assert_eq!((intx_gsi(9), intx_gsi(31)), (16, 22));
    assert!((0..SLOTS).all(|slot| (16..24).contains(&intx_gsi(slot))));
}

/// What a guest may do to configuration space.
#[derive(Debug, Clone)]
enum Access {
    Index(u32),
    Port { port: u64, data: Vec<u8> },
    Window { offset: u64, data: Vec<u8> },
    Read { offset: u64, len: usize },
}

fn access() -> impl Strategy<Value = Access> {
    // The card is where something happens; the rest of the bus gets its share too.
    let offset = prop_oneof![(1_u64 << 15)..(1 << 15) + 64, 0..layout::ECAM_SIZE];
    let data = prop_oneof![vec(any::<u8>(), 1..=8), Just(vec![0xff; 4]), Just(vec![3, 0]), Just(vec![0, 0x10, 0, 0xc0])];
    prop_oneof![
        prop_oneof![Just(1 << 31 | 1 << 11 | 0x10), Just(1 << 31 | 1 << 11 | 4), any::<u32>()].prop_map(Access::Index),
        (0xcf8_u64..0xd00, data.clone()).prop_map(|(port, data)| Access::Port { port, data }),
        (offset.clone(), data).prop_map(|(offset, data)| Access::Window { offset, data }),
        (offset, 1_usize..=8).prop_map(|(offset, len)| Access::Read { offset, len }),
    ]
}

proptest! {
    #[test]
    fn whatever_a_guest_does_the_maps_agree_with_the_registers(accesses in vec(access(), 1..60)) {
        let machine = Machine::new();
        for access in accesses {
            match access {
                Access::Index(index) => machine.ports.write(0xcf8, &index.to_le_bytes()),
                Access::Port { port, data } => machine.ports.write(port, &data),
                Access::Window { offset, data } => machine.memory.write(layout::ECAM + offset, &data),
                Access::Read { offset, len } => machine.memory.read(layout::ECAM + offset, &mut vec![0; len]),
            }
            prop_assert_eq!(machine.read(1, 0), 0x5678_1234);
            let (command, memory, port) = (machine.read(1, 4), u64::from(machine.read(1, 0x10)), u64::from(machine.read(1, 0x14) & !3));
            let decoded = command & 2 != 0 && (layout::PCI_MEMORY..layout::PCI_MEMORY + layout::PCI_MEMORY_SIZE).contains(&memory);
            let tied = machine.ties.0.lock().unwrap().clone();
            prop_assert_eq!(tied, if decoded { vec![memory + 0x800] } else { Vec::new() });
            let window = u64::from(layout::PCI_PORTS)..u64::from(layout::PCI_PORTS) + u64::from(layout::PCI_PORTS_SIZE);
            if command & 1 != 0 && window.contains(&port) {
                prop_assert_eq!(Machine::byte(&machine.ports, port), 1);
            }
        }
    }
}
