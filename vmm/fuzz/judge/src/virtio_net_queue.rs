//! A virtio network card, its registers, its rings, and a driver that does anything.

use std::sync::Arc;

use netstack::addr::MacAddr;
use netstack::frame::{Checksum, FrameMeta, Gso, GsoKind};
use netstack::port::Sent;
use netstack_judge::script::{Draft, Script};
use vm_memory::{Bytes, GuestAddress};
use vmm::irq::MsiRoute;
use vmm::irq::fake::{FakeLine, FakeMsi};
use vmm::memory::GuestMemory;
use vmm::pci::PciDevice;
use vmm::virtio::net::{self, NetConfig};
use vmm::virtio::transport::{VirtioPci, vectors};

use crate::memory;
use crate::port::Attached;

/// Steps of one script.
const STEPS: usize = 512;

/// Where a driver that knows what it does has its rings, and how many places they have.
const SIZE: u16 = 64;
const RINGS: [Rings; 2] = [Rings::at(0x1000), Rings::at(0x5000)];
const INDIRECT: u64 = 0x9000;
const BUFFERS: u64 = 0x1_0000;

/// Fields of the common configuration.
const DRIVER_FEATURE_SELECT: u64 = 0x08;
const DRIVER_FEATURE: u64 = 0x0c;
const STATUS: u64 = 0x14;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_DESC: u64 = 0x20;
const QUEUE_RESET: u64 = 0x3a;
const NOTIFY: u64 = 0x3000;

const VERSION_1: u64 = 1 << 32;
const MRG_RXBUF: u64 = 1 << 15;

/// The three parts of a queue.
#[derive(Debug, Clone, Copy)]
struct Rings {
    descriptors: u64,
    available: u64,
    used: u64,
}

impl Rings {
    const fn at(start: u64) -> Self {
        Self { descriptors: start, available: start + 0x1000, used: start + 0x2000 }
    }
}

struct Trial {
    device: VirtioPci,
    memory: GuestMemory,
    port: Attached,
}

/// What a byte of the script begins.
mod step {
    pub(super) const WRITE: u8 = 0;
    pub(super) const READ: u8 = 1;
    pub(super) const CONFIG: u8 = 2;
    pub(super) const POKE: u8 = 3;
    pub(super) const DESCRIPTOR: u8 = 4;
    pub(super) const OFFER: u8 = 5;
    pub(super) const INDEX: u8 = 6;
    pub(super) const TURN: u8 = 7;
    pub(super) const SEND: u8 = 8;
    pub(super) const SET_UP: u8 = 9;
    pub(super) const RESET_QUEUE: u8 = 10;
    pub(super) const COUNT: u8 = 11;
}

/// Has a driver do what the script says.
pub fn judge(input: &[u8]) {
    let mut script = Script::new(input);
    let mut trial = Trial::new();
    let mut done = 0;
    while !script.is_over() && done < STEPS {
        trial.step(&mut script);
        done += 1;
    }
    trial.recovers();
}

impl Trial {
    fn new() -> Self {
        let memory = memory::fresh();
        let config = NetConfig { name: "trial".to_owned(), mac: MacAddr([2, 0, 0, 0, 0, 1]), mtu: 1500 };
        let (parts, port) = net::new(config).expect("descriptors");
        let routes = FakeMsi::several(vectors(2)).into_iter().map(|route| route as Arc<dyn MsiRoute>).collect();
        let device = VirtioPci::new("trial".to_owned(), memory.clone(), parts, routes, Arc::new(FakeLine::default()));
        Self { device, memory, port: Attached::new(port) }
    }

    fn step(&mut self, script: &mut Script<'_>) {
        match script.byte() % step::COUNT {
            step::WRITE => {
                let offset = place(script);
                let value = script.double().to_le_bytes();
                let len = script.choose(&[4, 2, 1, 8, 3]);
                self.device.bar_write(0, offset, &value[..len]);
            }
            step::READ => {
                let mut data = [0; 8];
                let len = script.choose(&[4, 2, 1, 8, 3]);
                let offset = place(script);
                self.device.bar_read(0, offset, &mut data[..len]);
            }
            step::CONFIG => {
                let offset = u16::from(script.byte());
                let value = script.word().to_le_bytes();
                let len = script.choose(&[4, 2, 1]);
                self.device.config_write(offset, &value[..len]);
                self.device.config_read(offset, &mut [0; 4][..len]);
            }
            step::POKE => {
                let at = u64::from(script.half()) & 0xffff;
                let piece = script.short_piece();
                self.memory.write_slice(piece, GuestAddress(at)).expect("it is RAM");
            }
            step::DESCRIPTOR => {
                let table = script.choose(&[RINGS[0].descriptors, RINGS[1].descriptors, INDIRECT]);
                let number = u64::from(script.byte());
                let address = address(script);
                let len = script.choose(&[1526, 12, 60, 4096, 0, 11, 16, 1 << 16, u32::MAX, 48]);
                let flags = u16::from(script.byte() & 7);
                let next = u16::from(script.byte());
                self.descriptor(table, number, (address, len), flags, next);
            }
            step::OFFER => {
                let queue = script.byte() & 1;
                let head = u16::from(script.byte());
                let rings = RINGS[usize::from(queue)];
                let index: u16 = self.memory.read_obj(GuestAddress(rings.available + 2)).expect("it is RAM");
                let place = rings.available + 4 + 2 * u64::from(index % SIZE);
                self.memory.write_obj(head, GuestAddress(place)).expect("it is RAM");
                self.memory.write_obj(index.wrapping_add(1), GuestAddress(rings.available + 2)).expect("it is RAM");
                self.kick(queue);
            }
            step::INDEX => {
                let rings = RINGS[usize::from(script.byte() & 1)];
                let index = script.half();
                self.memory.write_obj(index, GuestAddress(rings.available + 2)).expect("it is RAM");
            }
            step::TURN => drop(self.port.turn()),
            step::SEND => {
                let room = script.choose(&[60, 1514, 9014, 14, 65549, 1]);
                let used = usize::from(script.half());
                let meta = FrameMeta {
                    checksum: Checksum::Partial { start: 34, offset: 16 },
                    gso: (room > 1514).then_some(Gso { kind: GsoKind::TcpV4, size: 1460, ecn: false }),
                };
                self.port.send(&vec![0x5a; room], used, meta);
            }
            step::SET_UP => {
                let features = script.double() | VERSION_1;
                let size = script.choose(&[SIZE, 1, 2, 256, 0, 3]);
                self.set_up(features, size);
            }
            step::RESET_QUEUE => {
                self.put(QUEUE_SELECT, u16::from(script.byte() & 1));
                self.put(QUEUE_RESET, 1);
            }
            _ => {}
        }
    }

    fn put(&mut self, field: u64, value: u16) {
        self.device.bar_write(0, field, &value.to_le_bytes());
    }

    fn put_status(&mut self, value: u8) {
        self.device.bar_write(0, STATUS, &[value]);
    }

    fn status(&mut self) -> u8 {
        let mut data = [0];
        self.device.bar_read(0, STATUS, &mut data);
        data[0]
    }

    fn kick(&mut self, queue: u8) {
        self.device.bar_write(0, NOTIFY + 4 * u64::from(queue), &u16::from(queue).to_le_bytes());
    }

    fn descriptor(&self, table: u64, number: u64, (address, len): (u64, u32), flags: u16, next: u16) {
        let second = u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48;
        self.memory.write_obj(address, GuestAddress(table + 16 * number)).expect("it is RAM");
        self.memory.write_obj(second, GuestAddress(table + 16 * number + 8)).expect("it is RAM");
    }

    /// What a driver does from its reset to being ready, but for waiting.
    fn set_up(&mut self, features: u64, size: u16) {
        self.put_status(0);
        self.put_status(1);
        self.put_status(3);
        for half in 0..2_u32 {
            self.device.bar_write(0, DRIVER_FEATURE_SELECT, &half.to_le_bytes());
            let part = (features >> (32 * half)) as u32;
            self.device.bar_write(0, DRIVER_FEATURE, &part.to_le_bytes());
        }
        self.put_status(11);
        for (queue, rings) in (0..).zip(RINGS) {
            self.put(QUEUE_SELECT, queue);
            self.put(QUEUE_SIZE, size);
            for (field, address) in (0..).step_by(8).zip([rings.descriptors, rings.available, rings.used]) {
                self.device.bar_write(0, QUEUE_DESC + field, &(address as u32).to_le_bytes());
                self.device.bar_write(0, QUEUE_DESC + field + 4, &0_u32.to_le_bytes());
            }
            self.put(QUEUE_ENABLE, 1);
        }
        self.put_status(15);
    }

    /// Whatever was done before, a reset makes the card one that works.
    fn recovers(mut self) {
        self.put_status(0);
        self.port.turn();
        assert_eq!(self.status(), 0, "a reset does not end");
        for rings in RINGS {
            self.memory.write_slice(&[0; 0x3000], GuestAddress(rings.descriptors)).expect("it is RAM");
        }
        self.set_up(VERSION_1 | MRG_RXBUF, SIZE);
        self.port.turn();
        assert_eq!(self.status(), 15, "a driver that does all right is refused");

        let frame: Vec<u8> = (0..60).collect();
        self.memory.write_slice(&[0; 12], GuestAddress(BUFFERS)).expect("it is RAM");
        self.memory.write_slice(&frame, GuestAddress(BUFFERS + 12)).expect("it is RAM");
        self.descriptor(RINGS[1].descriptors, 0, (BUFFERS, 72), 0, 0);
        self.descriptor(RINGS[0].descriptors, 0, (BUFFERS + 0x1000, 1526), 2, 0);
        for (queue, rings) in (0..).zip(RINGS) {
            self.memory.write_obj(1_u16, GuestAddress(rings.available + 2)).expect("it is RAM");
            self.kick(queue);
        }
        assert!(self.port.turn() == [&frame[..]], "the card transmits something else");
        assert_eq!(self.port.send(&frame, frame.len(), FrameMeta::default()), Sent::Yes);
        self.port.turn();
        for rings in RINGS {
            let used: u16 = self.memory.read_obj(GuestAddress(rings.used + 2)).expect("it is RAM");
            assert_eq!(used, 1, "a buffer does not come back");
        }
        let mut received = vec![0; 60];
        self.memory.read_slice(&mut received, GuestAddress(BUFFERS + 0x1000 + 12)).expect("it is RAM");
        assert!(received == frame, "the card receives something else");
        assert_eq!(self.status(), 15);
    }
}

/// An offset in the base address range, mostly one where something is.
fn place(script: &mut Script<'_>) -> u64 {
    match script.byte() {
        low @ ..0x60 => u64::from(low),
        0x60..0x80 => 0x1000,
        0x80..0xa0 => NOTIFY + u64::from(script.byte() & 15),
        0xa0..0xc0 => 0x4000 + u64::from(script.byte()),
        0xc0..0xe0 => 0x2000 + u64::from(script.byte() & 31),
        _ => u64::from(script.half() & 0x7fff),
    }
}

/// An address for a buffer: mostly RAM, sometimes where it ends, or where there is none.
fn address(script: &mut Script<'_>) -> u64 {
    match script.byte() {
        low @ ..0xc0 => BUFFERS + 0x400 * u64::from(low),
        0xc0..0xd0 => memory::SIZE - u64::from(script.byte()),
        0xd0..0xe0 => RINGS[0].descriptors + 0x100 * u64::from(script.byte() & 0x7f),
        0xe0..0xf0 => 0xc000_0000,
        _ => script.double(),
    }
}

/// Inputs to begin with.
pub fn seeds() -> Vec<Vec<u8>> {
    let everything = 0x01c0_0011_3001_99ab_u64;
    let set_up = || Draft::default().bytes(&[step::SET_UP]).double(everything).bytes(&[0]);
    // One descriptor: table, number, where its buffer is, which length, flags, next.
    let receive = |draft: Draft, number: u8| {
        draft.bytes(&[step::DESCRIPTOR, 0, number, 4 * number, 0, 2, 0]).bytes(&[step::OFFER, 0, number])
    };
    let transmit = |draft: Draft, number: u8| {
        draft.bytes(&[step::DESCRIPTOR, 1, number, 0x40 + 4 * number, 2, 0, 0]).bytes(&[step::OFFER, 1, number])
    };
    let mut received = set_up();
    for number in 0..48 {
        received = receive(received, number);
    }
    let received = received.bytes(&[step::TURN, step::SEND, 0]).half(60).bytes(&[step::SEND, 4]).half(60_000).bytes(&[step::TURN]);
    let mut transmitted = set_up();
    for number in 0..4 {
        transmitted = transmit(transmitted, number).bytes(&[step::TURN]);
    }
    let chained = set_up().bytes(&[step::DESCRIPTOR, 1, 0, 0, 1, 1, 1]).bytes(&[step::DESCRIPTOR, 1, 1, 1, 2, 0, 0]).bytes(&[
        step::OFFER,
        1,
        0,
        step::TURN,
    ]);
    let looped = set_up().bytes(&[step::DESCRIPTOR, 1, 0, 0, 1, 1, 0]).bytes(&[step::OFFER, 1, 0, step::TURN]);
    let indirect = set_up()
        .bytes(&[step::DESCRIPTOR, 2, 0, 0, 1, 1, 1])
        .bytes(&[step::DESCRIPTOR, 2, 1, 1, 2, 0, 0])
        // An address that is given as it is: the table.
        .bytes(&[step::DESCRIPTOR, 1, 0, 0xff])
        .double(INDIRECT)
        .bytes(&[9, 4, 0])
        .bytes(&[step::OFFER, 1, 0, step::TURN]);
    let reset = transmit(set_up(), 0).bytes(&[step::RESET_QUEUE, 1, step::TURN]).bytes(&[step::WRITE, 0x14]).double(0).bytes(&[2]);
    [received, transmitted, chained, looped, indirect, reset].into_iter().map(Draft::finish).collect()
}
