//! A PCI bus with one device of each kind, and a guest that accesses it by all ways there are.

use std::io;
use std::sync::Arc;

use netstack::addr::MacAddr;
use netstack_judge::script::{Draft, Script};
use vmm::bus::{Bus, BusDevice};
use vmm::e1000::{self, E1000Config};
use vmm::irq::MsiRoute;
use vmm::irq::fake::{FakeLine, FakeMsi};
use vmm::memory::{GuestMemory, layout};
use vmm::pci::{ConfigPorts, ConfigWindow, DoorbellTies, PciBus, Space};
use vmm::virtio::net::{self, NetConfig};
use vmm::virtio::transport::{VirtioPci, vectors};
use vmm::virtio::{Parts, entropy};
use vmm_sys_util::eventfd::EventFd;

use crate::memory;

/// Steps of one script.
const STEPS: usize = 1024;

/// Slots with a device.
const DEVICES: u64 = 3;

/// Bytes of the window that one function has, and one slot.
const FUNCTION: u64 = 4096;
const SLOT: u64 = 8 * FUNCTION;

/// Capabilities that a list can have: more would not fit.
const MOST_CAPABILITIES: usize = 48;

/// What a byte of the script begins.
mod step {
    pub(super) const WINDOW: u8 = 0;
    pub(super) const INDEX: u8 = 1;
    pub(super) const DATA: u8 = 2;
    pub(super) const MEMORY: u8 = 3;
    pub(super) const PORTS: u8 = 4;
    pub(super) const FAR: u8 = 5;
    pub(super) const COUNT: u8 = 6;
}

/// No eventfd is tied to anything: every write comes through the devices.
#[derive(Debug)]
struct NoTies;

impl DoorbellTies for NoTies {
    fn tie(&self, _space: Space, _address: u64, _event: &EventFd) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn untie(&self, _space: Space, _address: u64, _event: &EventFd) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

struct Trial {
    memory: Arc<Bus>,
    ports: Arc<Bus>,
    window: ConfigWindow,
    data: ConfigPorts,
}

/// Has a guest do what the script says.
pub fn judge(input: &[u8]) {
    let trial = Trial::new();
    let before = trial.identities();
    let mut script = Script::new(input);
    let mut done = 0;
    while !script.is_over() && done < STEPS {
        trial.step(&mut script);
        done += 1;
    }
    assert_eq!(trial.identities(), before, "a function has become another one");
}

fn virtio(memory: &GuestMemory, parts: Parts) -> VirtioPci {
    let routes = FakeMsi::several(vectors(parts.queues.len())).into_iter().map(|route| route as Arc<dyn MsiRoute>).collect();
    VirtioPci::new("trial".to_owned(), memory.clone(), parts, routes, Arc::new(FakeLine::default()))
}

impl Trial {
    /// The data paths are gone at once, so that nothing waits for them.
    fn new() -> Self {
        let ram = memory::fresh();
        let (memory, ports) = (Arc::new(Bus::default()), Arc::new(Bus::default()));
        let mut bus = PciBus::new(Arc::clone(&memory), Arc::clone(&ports), Arc::new(NoTies));
        let config = NetConfig { name: "trial".to_owned(), mac: MacAddr([2, 0, 0, 0, 0, 1]), mtu: 1500 };
        let (parts, _port) = net::new(config).expect("descriptors");
        bus.plug(1, Box::new(virtio(&ram, parts))).expect("room");
        let config = E1000Config { name: "trial".to_owned(), mac: MacAddr([2, 0, 0, 0, 0, 2]), mtu: 1500 };
        let (card, _port) = e1000::new(config, ram.clone(), Arc::new(FakeLine::default())).expect("descriptors");
        bus.plug(2, Box::new(card)).expect("room");
        let (parts, _worker) = entropy::new().expect("descriptors");
        bus.plug(3, Box::new(virtio(&ram, parts))).expect("room");
        let bus = Arc::new(bus);
        Self { memory, ports, window: ConfigWindow(Arc::clone(&bus)), data: ConfigPorts::new(bus) }
    }

    fn step(&self, script: &mut Script<'_>) {
        let kind = script.byte() % step::COUNT;
        let address = match kind {
            step::WINDOW => {
                let slot = u64::from(script.byte()) % (DEVICES + 2);
                slot * SLOT + u64::from(script.byte())
            }
            step::INDEX => 0,
            step::DATA => 4 + u64::from(script.byte() & 3),
            step::MEMORY => layout::PCI_MEMORY + u64::from(script.word() & 0xf_ffff),
            step::PORTS => u64::from(layout::PCI_PORTS) + u64::from(script.byte()),
            _ => script.double() & 0xf_ffff,
        };
        let len = script.choose(&[4, 2, 1, 8, 3]);
        let value = &script.double().to_le_bytes()[..len];
        let data = &mut [0; 8][..len];
        match kind {
            step::MEMORY => {
                self.memory.write(address, value);
                self.memory.read(address, data);
            }
            step::PORTS => {
                self.ports.write(address, value);
                self.ports.read(address, data);
            }
            step::INDEX | step::DATA => access(&self.data, address, value, data),
            _ => access(&self.window, address, value, data),
        }
    }

    fn read(&self, slot: u64, offset: u64, len: usize) -> u64 {
        let mut data = [0; 8];
        self.window.read(slot * SLOT + offset, &mut data[..len]);
        u64::from_le_bytes(data)
    }

    /// What no guest can change: identity, class, header, kinds of base addresses, and the list of capabilities.
    fn identities(&self) -> Vec<u64> {
        let mut found = Vec::new();
        for slot in 1..=DEVICES {
            found.extend([self.read(slot, 0, 4), self.read(slot, 8, 4), self.read(slot, 0xe, 1), self.read(slot, 0x2c, 4)]);
            found.extend((0x10..0x28).step_by(4).map(|bar| self.read(slot, bar, 4) & 0xf));
            let mut at = self.read(slot, 0x34, 1);
            let mut count = 0;
            while at != 0 {
                count += 1;
                assert!(count <= MOST_CAPABILITIES, "the list of capabilities has no end");
                found.extend([at, self.read(slot, at, 1)]);
                at = self.read(slot, at + 1, 1);
            }
        }
        found
    }
}

fn access(device: &impl BusDevice, at: u64, value: &[u8], data: &mut [u8]) {
    device.write(at, value);
    device.read(at, data);
}

/// Inputs to begin with.
pub fn seeds() -> Vec<Vec<u8>> {
    let window =
        |draft: Draft, slot: u8, offset: u8, len: u8, value: u64| draft.bytes(&[step::WINDOW, slot, offset, len]).double(value);
    let sizes = (0..6).fold(Draft::default(), |draft, bar| window(draft, 1 + bar % 3, 0x10 + 4 * bar, 0, 0xffff_ffff));
    let enabled = (1..4).fold(Draft::default(), |draft, slot| window(draft, slot, 4, 1, 7));
    let used = enabled.clone().bytes(&[step::MEMORY]).word(0x14).bytes(&[2]).double(1).bytes(&[step::PORTS, 0, 0]).double(0x3818);
    let moved = window(window(enabled.clone(), 1, 0x10, 0, 0xc010_0000), 2, 0x14, 0, 0xc101);
    let ports = Draft::default().bytes(&[step::INDEX, 0]).double(0x8000_1004).bytes(&[step::DATA, 0, 1]).double(7);
    let messages = (0x40..0xc0).step_by(4).fold(enabled, |draft, offset| window(draft, 1, offset, 0, !0));
    let far = Draft::default().bytes(&[step::FAR]).double(0xf_ffff).bytes(&[3]).double(!0);
    [sizes, used, moved, ports, messages, far].into_iter().map(Draft::finish).collect()
}
