//! An e1000, its registers, its rings, and a driver that does anything.

use std::sync::Arc;

use netstack::addr::MacAddr;
use netstack::frame::FrameMeta;
use netstack::port::Sent;
use netstack_judge::script::{Draft, Script};
use vm_memory::{Bytes, GuestAddress};
use vmm::e1000::{self, E1000, E1000Config};
use vmm::irq::fake::FakeLine;
use vmm::memory::GuestMemory;
use vmm::pci::PciDevice;

use crate::memory;
use crate::port::Attached;

/// Steps of one script.
const STEPS: usize = 512;

/// Base address registers.
const MEMORY: usize = 0;
const PORTS: usize = 1;

/// Registers that do something.
const CTRL: u64 = 0x0000;
const STATUS: u64 = 0x0008;
const EECD: u64 = 0x0010;
const EERD: u64 = 0x0014;
const MDIC: u64 = 0x0020;
const ICR: u64 = 0x00c0;
const ITR: u64 = 0x00c4;
const ICS: u64 = 0x00c8;
const IMS: u64 = 0x00d0;
const IMC: u64 = 0x00d8;
const RCTL: u64 = 0x0100;
const TCTL: u64 = 0x0400;
const RDBAL: u64 = 0x2800;
const RDT: u64 = 0x2818;
const TDBAL: u64 = 0x3800;
const TDT: u64 = 0x3818;
const REGISTERS: [u64; 30] = [
    CTRL, STATUS, EECD, EERD, MDIC, ICR, ITR, ICS, IMS, IMC, RCTL, TCTL, RDBAL, 0x2804, 0x2808, 0x2810, RDT, 0x2820, 0x282c, TDBAL,
    0x3804, 0x3808, 0x3810, TDT, 0x3820, 0x382c, 0x5000, 0x5404, 0x5600, 0x38,
];
const RST: u32 = 1 << 26;
const LU: u32 = 1 << 1;

/// Where a driver that knows what it does has its rings and buffers.
const RING: u32 = 32;
const TRANSMIT_RING: u64 = 0x1000;
const RECEIVE_RING: u64 = 0x2000;
const BUFFERS: u64 = 0x1_0000;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// What a byte of the script begins.
mod step {
    pub(super) const WRITE: u8 = 0;
    pub(super) const READ: u8 = 1;
    pub(super) const RAW: u8 = 2;
    pub(super) const PORT: u8 = 3;
    pub(super) const CONFIG: u8 = 4;
    pub(super) const POKE: u8 = 5;
    pub(super) const DATA: u8 = 6;
    pub(super) const BUFFER: u8 = 7;
    pub(super) const TAIL: u8 = 8;
    pub(super) const TURN: u8 = 9;
    pub(super) const SEND: u8 = 10;
    pub(super) const SET_UP: u8 = 11;
    pub(super) const COUNT: u8 = 12;
}

struct Trial {
    card: E1000,
    memory: GuestMemory,
    port: Attached,
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
        let config = E1000Config { name: "trial".to_owned(), mac: MacAddr(MAC), mtu: 9000 };
        let (card, port) = e1000::new(config, memory.clone(), Arc::new(FakeLine::default())).expect("descriptors");
        Self { card, memory, port: Attached::new(port) }
    }

    fn step(&mut self, script: &mut Script<'_>) {
        match script.byte() % step::COUNT {
            step::WRITE => {
                let register = script.choose(&REGISTERS);
                self.set(register, script.word());
            }
            step::READ => {
                let register = script.choose(&REGISTERS);
                let value = self.get(register);
                let last = [0x2808, 0x3808].contains(&register);
                assert!(!last || value <= 0xf_ff80, "a ring of {value:#x} bytes");
            }
            step::RAW => {
                let offset = u64::from(script.word() & 0x1_ffff);
                let value = script.double().to_le_bytes();
                let len = script.choose(&[4, 1, 2, 8, 3, 0]);
                self.card.bar_write(MEMORY, offset, &value[..len]);
                self.card.bar_read(MEMORY, offset, &mut [0; 8][..len]);
            }
            step::PORT => {
                let (offset, value) = (u64::from(script.byte() & 7), script.word().to_le_bytes());
                self.card.bar_write(PORTS, offset, &value);
                self.card.bar_read(PORTS, offset, &mut [0; 4]);
            }
            step::CONFIG => {
                let (offset, value) = (u16::from(script.byte()), script.word().to_le_bytes());
                let len = script.choose(&[4, 2, 1]);
                self.card.config_write(offset, &value[..len]);
                self.card.config_read(offset, &mut [0; 4][..len]);
            }
            step::POKE => {
                let at = u64::from(script.half()) & 0x3fff;
                let piece = script.short_piece();
                self.memory.write_slice(piece, GuestAddress(at)).expect("it is RAM");
            }
            // A transmit descriptor of one of the three kinds, or of none.
            step::DATA => {
                let place = TRANSMIT_RING + 16 * (u64::from(script.byte()) % u64::from(RING));
                let first = if script.byte() & 1 == 0 { address(script) } else { script.double() };
                let command = script.word();
                let second = script.word();
                self.put(place, first, command, second);
            }
            step::BUFFER => {
                let place = RECEIVE_RING + 16 * (u64::from(script.byte()) % u64::from(RING));
                let at = address(script);
                self.memory.write_obj(at, GuestAddress(place)).expect("it is RAM");
            }
            step::TAIL => {
                let register = script.choose(&[TDT, RDT]);
                let tail = script.byte();
                self.set(register, tail.into());
            }
            step::TURN => drop(self.port.turn()),
            step::SEND => {
                let room = script.choose(&[60, 1514, 14, 9014, 1518, 65549, 1]);
                let mut frame = vec![0x5a; room];
                for (place, byte) in frame.iter_mut().zip(script.choose(&[MAC, [0xff; 6], [1, 0, 0x5e, 0, 0, 1]])) {
                    *place = byte;
                }
                if script.byte() & 1 != 0 && room >= 16 {
                    frame[12..14].copy_from_slice(&[0x81, 0]);
                }
                let used = usize::from(script.half());
                self.port.send(&frame, used, FrameMeta::default());
            }
            step::SET_UP => {
                let control = script.word() | 2;
                self.set_up(control);
            }
            _ => {}
        }
    }

    fn get(&mut self, register: u64) -> u32 {
        let mut data = [0; 4];
        self.card.bar_read(MEMORY, register, &mut data);
        u32::from_le_bytes(data)
    }

    fn set(&mut self, register: u64, value: u32) {
        self.card.bar_write(MEMORY, register, &value.to_le_bytes());
    }

    fn put(&self, place: u64, first: u64, command: u32, second: u32) {
        self.memory.write_obj(first, GuestAddress(place)).expect("it is RAM");
        self.memory.write_obj(command, GuestAddress(place + 8)).expect("it is RAM");
        self.memory.write_obj(second, GuestAddress(place + 12)).expect("it is RAM");
    }

    /// What a driver does from its reset on.
    fn set_up(&mut self, control: u32) {
        self.card.config_write(4, &7_u16.to_le_bytes());
        self.set(CTRL, RST);
        self.set(IMS, 0x9d);
        for (base, ring) in [(TDBAL, TRANSMIT_RING), (RDBAL, RECEIVE_RING)] {
            self.set(base, ring as u32);
            self.set(base + 8, RING * 16);
        }
        for number in 0..u64::from(RING) {
            let buffer = BUFFERS + 0x8000 + 0x800 * number;
            self.put(RECEIVE_RING + 16 * number, buffer, 0, 0);
        }
        self.set(TCTL, 2);
        self.set(RCTL, control);
        self.set(RDT, RING - 1);
    }

    /// Whatever was done before, a reset makes the card one that works.
    fn recovers(mut self) {
        self.set_up(1 << 15 | 1 << 26 | 2);
        assert!(self.port.turn().is_empty(), "a frame from before the reset");
        assert_eq!(self.get(STATUS) & LU, LU, "the link is down after a reset");
        let mut frame: Vec<u8> = (0..64).collect();
        frame[..6].copy_from_slice(&MAC);
        self.memory.write_slice(&frame, GuestAddress(BUFFERS)).expect("it is RAM");
        self.put(TRANSMIT_RING, BUFFERS, 1 << 24 | 1 << 27 | 64, 0);
        self.set(TDT, 1);
        assert!(self.port.turn() == [&frame[..]], "the card transmits something else");
        assert_eq!(self.port.send(&frame, frame.len(), FrameMeta::default()), Sent::Yes);
        self.port.turn();
        let mut done = [0; 2];
        for (place, ring) in done.iter_mut().zip([TRANSMIT_RING, RECEIVE_RING]) {
            *place = self.memory.read_obj::<u8>(GuestAddress(ring + 12)).expect("it is RAM") & 1;
        }
        assert_eq!(done, [1, 1], "a descriptor is not done");
        let mut received = vec![0; 64];
        self.memory.read_slice(&mut received, GuestAddress(BUFFERS + 0x8000)).expect("it is RAM");
        assert!(received == frame, "the card receives something else");
        assert_eq!(self.get(ICR) & 0x81, 0x81, "the causes are not latched");
    }
}

/// An address for a buffer: mostly RAM, sometimes where it ends, or where there is none.
fn address(script: &mut Script<'_>) -> u64 {
    match script.byte() {
        low @ ..0xc0 => BUFFERS + 0x400 * u64::from(low),
        0xc0..0xd0 => memory::SIZE - u64::from(script.byte()),
        0xd0..0xe0 => TRANSMIT_RING + 0x100 * u64::from(script.byte() & 31),
        0xe0..0xf0 => [0, 0xc000_0000][usize::from(script.byte() & 1)],
        _ => script.double(),
    }
}

/// Inputs to begin with.
pub fn seeds() -> Vec<Vec<u8>> {
    let set_up = || Draft::default().bytes(&[step::SET_UP]).word(1 << 15 | 1 << 26);
    let data =
        |draft: Draft, place: u8, command: u32, second: u32| draft.bytes(&[step::DATA, place, 0, place]).word(command).word(second);
    let context = |draft: Draft, place: u8, first: u64, command: u32, second: u32| {
        draft.bytes(&[step::DATA, place, 1]).double(first).word(command).word(second)
    };
    let legacy = data(set_up(), 0, 1 << 24 | 1 << 27 | 60, 0).bytes(&[step::TAIL, 0, 1, step::TURN]);
    let (dext, tse) = (1 << 29, 1 << 26);
    let segmented = context(set_up(), 0, 34 << 32 | 50 << 40, dext | tse | 3 << 24, 54 << 8 | 1460 << 16);
    let segmented = data(segmented, 1, dext | tse | 1 << 20 | 4096, 3 << 8);
    let segmented = data(segmented, 2, dext | tse | 1 << 20 | 1 << 24 | 1 << 27 | 4, 0).bytes(&[step::TAIL, 0, 3, step::TURN]);
    let confused = context(set_up(), 0, 34 << 32 | 50 << 40, dext | tse | 3 << 24, 54 << 8 | 1460 << 16);
    let confused = data(confused, 1, dext | tse | 1 << 20 | 100, 3 << 8);
    let confused = context(confused, 2, 0, dext | tse, 0);
    let confused = data(confused, 3, dext | tse | 1 << 20 | 1 << 24 | 1 << 27, 0).bytes(&[step::TAIL, 0, 4, step::TURN]);
    let received = set_up().bytes(&[step::SEND, 0, 0, 0]).half(60).bytes(&[step::SEND, 1, 1, 1]).half(1514).bytes(&[
        step::TURN,
        step::READ,
        5,
        step::TAIL,
        1,
        3,
    ]);
    let elsewhere =
        set_up().bytes(&[step::BUFFER, 0, 0xe0, 1, step::SEND, 0, 0, 0]).half(60).bytes(&[step::TURN, step::TAIL, 0, 200]);
    let wires = (0..40_u32)
        .fold(set_up(), |draft, n| draft.bytes(&[step::WRITE, 2]).word(2 | n & 1 | (n & 2) << 1).bytes(&[step::READ, 2]));
    let odd = set_up()
        .bytes(&[step::RAW])
        .word(0x3818)
        .double(!0)
        .bytes(&[1])
        .bytes(&[step::PORT, 0])
        .word(0x3818)
        .bytes(&[step::PORT, 4])
        .word(5);
    [legacy, segmented, confused, received, elsewhere, wires, odd].into_iter().map(Draft::finish).collect()
}
