//! The card, driven as Linux and iPXE do it, and as nobody should.

mod hostile;
mod on_an_engine;

use std::task::{Context, Poll, Waker};

use netstack::frame::{Checksum, FrameMeta, Gso, GsoKind};
use netstack::port::{Egress, Ingress, Sent};
use vm_memory::{Bytes, GuestAddress};

use super::register::*;
use super::*;
use crate::bell::Bell;
use crate::guest_tcp::GUEST_MAC;

const RING: u32 = 64;
const TX_RING: u64 = 0x1_0000;
const RX_RING: u64 = 0x1_8000;
const TX_BUFFERS: u64 = 0x10_0000;
const RX_BUFFERS: u64 = 0x20_0000;

/// Commands and options of transmit descriptors.
const EOP: u32 = 1 << 24;
const IFCS: u32 = 1 << 25;
const TSE: u32 = 1 << 26;
const RS: u32 = 1 << 27;
const DEXT: u32 = 1 << 29;
const VLE: u32 = 1 << 30;
const IDE: u32 = 1 << 31;
const LEGACY_IC: u32 = 1 << 26;
const DATA: u32 = DEXT | 1 << 20;
const TCP: u32 = 1 << 24;
const IP: u32 = 1 << 25;

/// A machine with the card and a driver's rings.
struct Guest {
    card: E1000,
    memory: GuestMemory,
    line: Arc<Bell>,
    /// Where the next descriptor of each ring goes, and which one is looked at next.
    tail: u32,
    clean: u32,
    receive_tail: u32,
    next: u32,
}

fn card() -> (Guest, E1000Port) {
    let memory = crate::virtio::driver::memory();
    let line = Arc::new(Bell::default());
    let config = E1000Config { name: "net0".to_owned(), mac: MacAddr(GUEST_MAC), mtu: 9000 };
    let (card, port) = new(config, memory.clone(), line.clone()).unwrap();
    (Guest { card, memory, line, tail: 0, clean: 0, receive_tail: 0, next: 0 }, port)
}

fn attach(port: E1000Port) -> (Box<dyn Ingress>, Box<dyn Egress>) {
    let halves = Box::new(port).attach().unwrap();
    (halves.ingress, halves.egress)
}

impl Guest {
    fn get(&mut self, register: u32) -> u32 {
        let mut data = [0; 4];
        self.card.bar_read(MEMORY, register.into(), &mut data);
        u32::from_le_bytes(data)
    }

    fn set(&mut self, register: u32, value: u32) {
        self.card.bar_write(MEMORY, register.into(), &value.to_le_bytes());
    }

    fn io(&mut self, register: u32, value: u32) {
        self.card.bar_write(PORTS, IOADDR, &register.to_le_bytes());
        self.card.bar_write(PORTS, IODATA, &value.to_le_bytes());
    }

    fn pci_status(&mut self) -> u16 {
        let mut data = [0; 2];
        self.card.config_read(PCI_STATUS, &mut data);
        u16::from_le_bytes(data)
    }

    /// Command register: I/O, memory, bus master.
    fn enable(&mut self) {
        self.card.config_write(4, &7_u16.to_le_bytes());
    }

    /// As Linux's `e1000_reset_hw`.
    fn reset_like_linux(&mut self) {
        self.set(IMC, !0);
        self.set(RCTL, 0);
        self.set(TCTL, 1 << 3);
        let control = self.get(CTRL);
        self.io(CTRL, control | ctrl::RST);
        self.set(IMC, !0);
        self.get(ICR);
    }

    /// As Linux brings the interface up, with interrupts that wait for nothing.
    fn up_like_linux(&mut self) {
        self.enable();
        self.reset_like_linux();
        let control = self.get(CTRL);
        self.set(CTRL, control | ctrl::SLU);
        self.rings();
        self.set(TCTL, 0x0103_f0fa);
        self.set(RXCSUM, 0x300);
        // 2048 bytes a buffer, broadcast, and the FCS stays.
        self.set(RCTL, 0x0000_8002);
        self.post(RING - 1);
        self.set(IMS, 0x9d);
        // The first interrupt is one that the driver makes itself.
        self.set(ICS, cause::LSC);
        self.get(ICR);
    }

    fn rings(&mut self) {
        for (base, ring) in [(TDBAL, TX_RING), (RDBAL, RX_RING)] {
            self.set(base + 8, RING * 16);
            self.set(base + 4, 0);
            self.set(base, ring as u32);
            self.set(base + 0x18, 0);
            self.set(base + 0x10, 0);
        }
        (self.tail, self.clean, self.receive_tail, self.next) = (0, 0, 0, 0);
    }

    /// Gives the card receive buffers.
    fn post(&mut self, count: u32) {
        for _ in 0..count {
            let at = RX_RING + 16 * u64::from(self.receive_tail);
            self.memory.write_obj(RX_BUFFERS + 4096 * u64::from(self.receive_tail), GuestAddress(at)).unwrap();
            self.memory.write_obj(0_u64, GuestAddress(at + 8)).unwrap();
            self.receive_tail = (self.receive_tail + 1) % RING;
        }
        self.set(RDT, self.receive_tail);
    }

    /// Puts a descriptor into the transmit ring, without telling the card.
    fn descriptor(&mut self, first: u64, command: u32, second: u32) {
        let at = TX_RING + 16 * u64::from(self.tail);
        self.memory.write_obj(first, GuestAddress(at)).unwrap();
        self.memory.write_obj(command, GuestAddress(at + 8)).unwrap();
        self.memory.write_obj(second, GuestAddress(at + 12)).unwrap();
        self.tail = (self.tail + 1) % RING;
    }

    fn kick(&mut self) {
        self.set(TDT, self.tail);
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    /// Transmits a frame by a legacy descriptor, as iPXE does.
    fn transmit(&mut self, frame: &[u8]) {
        let at = TX_BUFFERS + 4096 * u64::from(self.tail);
        self.write(at, frame);
        self.descriptor(at, EOP | IFCS | RS | frame.len() as u32, 0);
        self.kick();
    }

    /// Whether the driver's descriptor with this number is done.
    fn is_done(&self, number: u32) -> bool {
        self.read(TX_RING + 16 * u64::from(number) + 12, 1)[0] & 1 != 0
    }

    /// The next descriptor that the card has filled: length, status, errors, special.
    fn filled(&mut self) -> Option<(usize, u8, u8, u16)> {
        let bytes = self.read(RX_RING + 16 * u64::from(self.next), 16);
        if bytes[12] & 1 == 0 {
            return None;
        }
        self.next = (self.next + 1) % RING;
        Some((u16::from_le_bytes([bytes[8], bytes[9]]).into(), bytes[12], bytes[13], u16::from_le_bytes([bytes[14], bytes[15]])))
    }

    fn buffer(&self, number: u32, len: usize) -> Vec<u8> {
        self.read(RX_BUFFERS + 4096 * u64::from(number), len)
    }
}

fn frames(ingress: &mut dyn Ingress) -> Vec<(Vec<u8>, FrameMeta)> {
    let mut frames = Vec::new();
    ingress
        .receive(64, &mut |frame| {
            let mut bytes = vec![0; frame.len()];
            frame.copy_to(0, &mut bytes);
            frames.push((bytes, frame.meta));
        })
        .unwrap();
    frames
}

fn send(egress: &mut dyn Egress, frame: &[u8], meta: FrameMeta) -> Sent {
    egress.send(frame.len(), &mut |room| {
        assert_eq!(room.copy_from(0, frame), frame.len());
        Some((frame.len(), meta))
    })
}

fn is_ready(poll: impl FnOnce(&mut Context<'_>) -> Poll<()>) -> bool {
    poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// A frame to the guest, or to another address.
fn frame_to(destination: [u8; 6], len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|n| (n % 255) as u8).collect();
    frame[..6].copy_from_slice(&destination);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame
}

#[test]
fn linux_finds_the_card_it_knows() {
    let (mut guest, _port) = card();
    assert_eq!(guest.card.config().u32_at(0), 0x100e_8086);
    assert_eq!(guest.card.config().u32_at(8), 0x0200_0003);
    assert!(guest.card.config().has_interrupt_pin());
    guest.enable();
    guest.reset_like_linux();
    assert_eq!(guest.get(CTRL) & ctrl::RST, 0, "the reset is over");
    // The address, by EERD and by the receive address; the PHY by MDIC.
    for (word, expected) in [(0, 0x5452), (1, 0x1200), (2, 0x5634)] {
        guest.set(EERD, word << 8 | 1);
        let value = guest.get(EERD);
        assert_eq!((value & 0x10, value >> 16), (0x10, expected));
    }
    assert_eq!((guest.get(RA), guest.get(RA + 4)), (0x1200_5452, 0x8000_5634));
    guest.set(MDIC, 2 << 16 | 1 << 21 | 2 << 26);
    assert_eq!(guest.get(MDIC) & 0x1000_ffff, 0x1000_0141);
    assert_eq!(guest.get(STATUS) & 0xc3, 0x83, "up, full duplex, 1000 Mbit/s");
    assert_eq!(guest.get(PBA), 0x0010_0030);
    assert_eq!(guest.get(VET), 0x8100);
}

#[test]
fn both_ways_to_reset_forget_what_the_driver_has_set() {
    for by_port in [true, false] {
        let (mut guest, _port) = card();
        guest.up_like_linux();
        guest.set(MTA + 8, 0xdead_beef);
        guest.set(ITR, 488);
        assert_eq!((guest.get(MTA + 8), guest.get(ITR)), (0xdead_beef, 488));
        let control = guest.get(CTRL) | ctrl::RST;
        if by_port {
            guest.io(CTRL, control);
        } else {
            guest.set(CTRL, control);
        }
        for register in [MTA + 8, ITR, IMS, RCTL, TCTL, TDBAL, TDLEN, RDT, RXCSUM] {
            assert_eq!(guest.get(register), 0, "{register:#x}");
        }
        assert_eq!(guest.get(RA), 0x1200_5452);
        assert!(guest.get(CTRL) & ctrl::SLU != 0);
    }
}

#[test]
fn the_ports_lead_to_every_register() {
    let (mut guest, _port) = card();
    guest.io(RDBAH, 7);
    assert_eq!(guest.get(RDBAH), 7);
    let mut data = [0; 4];
    guest.card.bar_read(PORTS, IOADDR, &mut data);
    assert_eq!(u32::from_le_bytes(data), RDBAH);
    guest.card.bar_read(PORTS, IODATA, &mut data);
    assert_eq!(u32::from_le_bytes(data), 7);
}

#[test]
fn registers_keep_only_the_bits_they_have() {
    let (mut guest, _port) = card();
    for (register, expected) in [
        (TDBAL, 0xffff_fff0),
        (TDLEN, 0x000f_ff80),
        (RDT, 0xffff),
        (TDH, 0xffff),
        (RDTR, 0xffff),
        (VFTA + 0x1fc, !0),
        (STATUS, guest.get(STATUS)),
        (0x3004, 0),
        (0x5ffc, 0),
        (0x1_fffc, 0),
    ] {
        guest.set(register, !0);
        assert_eq!(guest.get(register), expected, "{register:#x}");
    }
}

#[tokio::test]
async fn a_cable_that_is_taken_out_is_seen_and_nothing_passes() {
    let (mut guest, port) = card();
    let (mut ingress, mut egress) = attach(port);
    guest.enable();
    guest.reset_like_linux();
    guest.up_like_linux();
    guest.post(8);
    guest.get(ICR);
    egress.set_link(false);
    assert_eq!(guest.get(ICR) & cause::LSC, cause::LSC);
    assert_eq!(guest.get(STATUS) & status::LU, 0);
    guest.transmit(&frame_to([0xff; 6], 60));
    assert!(frames(&mut *ingress).is_empty(), "it waits for the link");
    egress.set_link(true);
    assert_eq!(guest.get(ICR) & cause::LSC, cause::LSC);
    assert!(guest.get(STATUS) & status::LU != 0);
    assert_eq!(frames(&mut *ingress).len(), 1);
}

#[tokio::test]
async fn ipxe_sends_and_receives_by_polling() {
    let (mut guest, port) = card();
    let (mut ingress, mut egress) = attach(port);
    guest.enable();
    let control = guest.get(CTRL);
    guest.set(CTRL, control | ctrl::RST);
    guest.set(CTRL, ctrl::SLU | 1 << 5);
    assert!(guest.get(STATUS) & status::LU != 0);
    guest.rings();
    guest.set(TCTL, 0x0103_f0fa);
    guest.set(TXDCTL, 1 << 25);
    guest.set(RCTL, rctl::EN | rctl::UPE | rctl::MPE | rctl::BAM | rctl::SECRC);
    guest.post(8);
    assert_eq!(guest.get(ICR) & !cause::LSC, 0);

    guest.transmit(&frame_to([0xff; 6], 60));
    assert_eq!(frames(&mut *ingress), [(frame_to([0xff; 6], 60), FrameMeta::default())]);
    assert!(guest.is_done(0));
    assert_eq!(guest.get(ICR), cause::TXDW | cause::TXQE, "latched, although nothing is enabled");
    assert_eq!(guest.get(TDH), 1);
    assert!(!guest.line.is_asserted());

    let frame = frame_to(GUEST_MAC, 100);
    assert_eq!(send(&mut *egress, &frame, FrameMeta::default()), Sent::Yes);
    egress.flush().unwrap();
    assert_eq!(guest.get(ICR) & cause::RXT0, cause::RXT0);
    assert_eq!(guest.filled(), Some((100, 0b111, 0, 0)), "done, end, and the sums are to be looked at");
    assert_eq!(guest.buffer(0, 100), frame);
    assert_eq!(guest.get(RDH), 1);
}

#[tokio::test]
async fn the_length_of_a_received_frame_counts_its_fcs_and_short_ones_are_padded() {
    let (mut guest, port) = card();
    let (_ingress, mut egress) = attach(port);
    guest.up_like_linux();
    guest.write(RX_BUFFERS, &[0xaa; 80]);
    assert_eq!(send(&mut *egress, &frame_to(GUEST_MAC, 42), FrameMeta::default()), Sent::Yes);
    assert_eq!(send(&mut *egress, &frame_to(GUEST_MAC, 1514), FrameMeta::default()), Sent::Yes);
    assert_eq!(guest.filled().map(|(len, ..)| len), Some(64));
    let padding = guest.buffer(0, 65);
    assert_eq!(padding[42..], [[0; 22].as_slice(), &[0xaa]].concat());
    assert_eq!(guest.filled().map(|(len, ..)| len), Some(1518));
    let control = guest.get(RCTL);
    guest.set(RCTL, control | rctl::SECRC);
    assert_eq!(send(&mut *egress, &frame_to(GUEST_MAC, 42), FrameMeta::default()), Sent::Yes);
    assert_eq!(guest.filled().map(|(len, ..)| len), Some(60));
}

#[tokio::test]
async fn linux_is_interrupted_until_it_reads_the_cause() {
    let (mut guest, port) = card();
    let (mut ingress, mut egress) = attach(port);
    guest.up_like_linux();
    guest.set(ICS, cause::LSC);
    assert!(guest.line.is_asserted());
    assert_eq!(guest.get(ICR), cause::LSC);
    assert!(!guest.line.is_asserted());
    let rises = guest.line.signals();
    for _ in 0..3 {
        send(&mut *egress, &frame_to(GUEST_MAC, 60), FrameMeta::default());
    }
    assert!(!guest.line.is_asserted(), "not before the flush");
    egress.flush().unwrap();
    assert!(guest.line.is_asserted());
    // The handler: read, mask, poll, unmask.
    assert_eq!(guest.get(ICR), cause::RXT0);
    assert!(!guest.line.is_asserted());
    guest.set(IMC, !0);
    guest.transmit(&frame_to([0xff; 6], 60));
    frames(&mut *ingress);
    assert!(!guest.line.is_asserted());
    guest.set(IMS, 0x9d);
    assert!(guest.line.is_asserted(), "what came while it was masked");
    assert_eq!(guest.line.signals(), rises + 2);
    assert_eq!(guest.get(ICS), cause::TXDW | cause::TXQE);
    guest.set(ICR, cause::TXDW);
    assert_eq!(guest.get(ICR), cause::TXQE);
    egress.flush().unwrap();
    assert!(!guest.line.is_asserted(), "nothing is new");
}

#[tokio::test]
async fn throttled_interrupts_come_when_they_may() {
    let (mut guest, port) = card();
    let (mut ingress, mut egress) = attach(port);
    guest.up_like_linux();
    // 5 ms.
    guest.set(ITR, 19_531);
    send(&mut *egress, &frame_to(GUEST_MAC, 60), FrameMeta::default());
    egress.flush().unwrap();
    assert!(guest.line.is_asserted());
    guest.get(ICR);
    send(&mut *egress, &frame_to(GUEST_MAC, 60), FrameMeta::default());
    egress.flush().unwrap();
    assert!(!guest.line.is_asserted());
    let rung = async {
        while !guest.line.is_asserted() {
            guest.line.rings().await;
        }
    };
    // The engine waits for the port to become readable, and its timer runs there.
    tokio::select! {
        () = rung => {}
        () = async { loop { std::future::poll_fn(|cx| ingress.poll_readable(cx)).await } } => {}
    }
    assert_eq!(guest.get(ICR), cause::RXT0);
}

#[tokio::test]
async fn a_transmit_interrupt_may_wait_and_one_without_permission_does_not() {
    let (mut guest, port) = card();
    let (mut ingress, _egress) = attach(port);
    guest.up_like_linux();
    guest.set(TIDV, 0xffff);
    guest.write(TX_BUFFERS, &frame_to([0xff; 6], 60));
    guest.descriptor(TX_BUFFERS, EOP | IFCS | RS | IDE | 60, 0);
    guest.kick();
    frames(&mut *ingress);
    assert!(guest.is_done(0));
    assert!(!guest.line.is_asserted());
    guest.transmit(&frame_to([0xff; 6], 60));
    frames(&mut *ingress);
    assert!(guest.line.is_asserted());
}

#[tokio::test]
async fn the_fewer_buffers_are_left_the_sooner_the_guest_hears() {
    let (mut guest, port) = card();
    let (_ingress, mut egress) = attach(port);
    guest.up_like_linux();
    // A quarter.
    let control = guest.get(RCTL);
    guest.set(RCTL, control | 1 << rctl::RDMTS_SHIFT);
    let mut sent = 0;
    while guest.get(ICS) & cause::RXDMT0 == 0 {
        assert_eq!(send(&mut *egress, &frame_to(GUEST_MAC, 60), FrameMeta::default()), Sent::Yes);
        egress.flush().unwrap();
        sent += 1;
    }
    assert_eq!(sent, 63 - 16);
}

#[tokio::test]
async fn a_full_ring_waits_for_the_guest() {
    let (mut guest, port) = card();
    let (_ingress, mut egress) = attach(port);
    assert_eq!(send(&mut *egress, &frame_to(GUEST_MAC, 60), FrameMeta::default()), Sent::Full, "no driver");
    assert!(!is_ready(|cx| egress.poll_writable(cx)));
    guest.up_like_linux();
    std::future::poll_fn(|cx| egress.poll_writable(cx)).await;
    for _ in 0..63 {
        assert_eq!(send(&mut *egress, &frame_to(GUEST_MAC, 60), FrameMeta::default()), Sent::Yes);
    }
    assert_eq!(send(&mut *egress, &frame_to(GUEST_MAC, 60), FrameMeta::default()), Sent::Full);
    assert!(!is_ready(|cx| egress.poll_writable(cx)));
    assert_eq!(std::iter::from_fn(|| guest.filled()).count(), 63);
    guest.post(1);
    std::future::poll_fn(|cx| egress.poll_writable(cx)).await;
    assert_eq!(send(&mut *egress, &frame_to(GUEST_MAC, 60), FrameMeta::default()), Sent::Yes);
}

#[tokio::test]
async fn a_frame_longer_than_a_buffer_is_spread_if_long_ones_are_wanted() {
    let (mut guest, port) = card();
    let (_ingress, mut egress) = attach(port);
    guest.up_like_linux();
    assert_eq!(egress.mtu(), 1500);
    assert_eq!(send(&mut *egress, &frame_to(GUEST_MAC, 1519), FrameMeta::default()), Sent::Yes);
    assert_eq!(guest.filled(), None);
    assert_eq!(guest.get(0x40ac), 1, "counted as too long");
    let control = guest.get(RCTL);
    guest.set(RCTL, control | rctl::LPE);
    assert_eq!(egress.mtu(), 9000);
    let frame = frame_to(GUEST_MAC, 5000);
    assert_eq!(send(&mut *egress, &frame, FrameMeta::default()), Sent::Yes);
    let filled: Vec<_> = std::iter::from_fn(|| guest.filled()).map(|(len, status, ..)| (len, status & 3)).collect();
    assert_eq!(filled, [(2048, 1), (2048, 1), (908, 3)]);
    let bytes = [guest.buffer(0, 2048), guest.buffer(1, 2048), guest.buffer(2, 904)].concat();
    assert!(bytes == frame);
}

#[tokio::test]
async fn only_wanted_frames_take_a_buffer() {
    let (mut guest, port) = card();
    let (_ingress, mut egress) = attach(port);
    guest.up_like_linux();
    for (destination, wanted) in [([0x52; 6], false), ([0xff; 6], true), ([1, 0, 0x5e, 0, 0, 1], false), (GUEST_MAC, true)] {
        assert_eq!(send(&mut *egress, &frame_to(destination, 60), FrameMeta::default()), Sent::Yes);
        assert_eq!(guest.filled().is_some(), wanted, "{destination:x?}");
    }
    assert_eq!((guest.get(0x4074), guest.get(0x4078)), (2, 1), "good ones, and broadcast among them");
    assert_eq!(guest.get(0x4074), 0);
}

#[tokio::test]
async fn vouched_for_checksums_need_not_be_looked_at() {
    let (mut guest, port) = card();
    let (_ingress, mut egress) = attach(port);
    guest.up_like_linux();
    let verified = FrameMeta { checksum: Checksum::Verified, gso: None };
    send(&mut *egress, &frame_to(GUEST_MAC, 60), verified);
    assert_eq!(guest.filled().map(|(_, status, ..)| status), Some(0b110_0011));
    guest.set(RXCSUM, 0);
    send(&mut *egress, &frame_to(GUEST_MAC, 60), verified);
    assert_eq!(guest.filled().map(|(_, status, ..)| status), Some(0b111));
    assert_eq!(egress.offloads(), netstack::frame::Offloads::NONE);
}

#[tokio::test]
async fn tags_are_put_on_and_taken_off() {
    let (mut guest, port) = card();
    let (mut ingress, mut egress) = attach(port);
    guest.up_like_linux();
    let plain = frame_to(GUEST_MAC, 80);
    let tagged = [&plain[..12], &[0x81, 0, 0x20, 0x05], &plain[12..]].concat();
    guest.write(TX_BUFFERS, &plain);
    guest.descriptor(TX_BUFFERS, EOP | RS | VLE | 80, 0x2005 << 16);
    guest.kick();
    assert_eq!(frames(&mut *ingress), [(plain.clone(), FrameMeta::default())], "not enabled");
    send(&mut *egress, &tagged, FrameMeta::default());
    assert_eq!(guest.filled(), Some((88, 0b111, 0, 0)));

    let control = guest.get(CTRL);
    guest.set(CTRL, control | ctrl::VME);
    guest.descriptor(TX_BUFFERS, EOP | RS | VLE | 80, 0x2005 << 16);
    guest.kick();
    assert_eq!(frames(&mut *ingress), [(tagged.clone(), FrameMeta::default())]);
    send(&mut *egress, &tagged, FrameMeta::default());
    assert_eq!(guest.filled(), Some((84, 0b1111, 0, 0x2005)));
    assert_eq!(guest.buffer(1, 80), plain);
}

#[tokio::test]
async fn checksums_are_said_the_way_virtio_does() {
    let (mut guest, port) = card();
    let (mut ingress, _egress) = attach(port);
    guest.up_like_linux();
    let frame = frame_to([0xff; 6], 100);
    guest.write(TX_BUFFERS, &frame);
    let partial = |start, offset| FrameMeta { checksum: Checksum::Partial { start, offset }, gso: None };
    // A legacy descriptor: start in its upper word, place in its command word.
    guest.descriptor(TX_BUFFERS, EOP | RS | LEGACY_IC | 40 << 16 | 100, 34 << 8);
    guest.kick();
    assert_eq!(frames(&mut *ingress), [(frame.clone(), partial(34, 6))]);
    // Linux's `e1000_tx_csum`: nothing about IP, and the options in the first descriptor count for all.
    guest.descriptor(34 << 32 | 50 << 40, DEXT | TCP | IDE, 0);
    guest.descriptor(TX_BUFFERS, DATA | 60, 2 << 8);
    guest.descriptor(TX_BUFFERS + 60, DATA | EOP | RS | 40, 0);
    guest.kick();
    assert_eq!(frames(&mut *ingress), [(frame, partial(34, 16))]);
    assert!(!guest.is_done(2) && guest.is_done(3));
    assert_eq!(guest.get(ICR) & cause::TXDW, cause::TXDW);
}

/// Descriptors for a TCP frame to be segmented, in pieces of 4096 bytes and Linux's sentinel of 4.
fn segmented(guest: &mut Guest, frame: &[u8], mss: u32) {
    guest.write(TX_BUFFERS, frame);
    let first = 14 | 24 << 8 | 33 << 16 | 34 << 32 | 50 << 40;
    guest.descriptor(first, DEXT | TSE | IP | TCP | IDE | (frame.len() as u32 - 54), 54 << 8 | mss << 16);
    let command = DATA | TSE | IFCS | IDE;
    let body = frame.len() - 4;
    let mut at = 0;
    while at < body {
        let len = 4096.min(body - at);
        guest.descriptor(TX_BUFFERS + at as u64, command | len as u32, 3 << 8);
        at += len;
    }
    guest.descriptor(TX_BUFFERS + body as u64, command | EOP | RS | 4, 3 << 8);
    guest.kick();
}

#[tokio::test]
async fn a_frame_to_be_segmented_stays_one() {
    let (mut guest, port) = card();
    let (mut ingress, _egress) = attach(port);
    guest.up_like_linux();
    let mut frame = frame_to([0xff; 6], 60_054);
    frame[14] = 0x45;
    frame[16..18].fill(0);
    frame[24..26].fill(0);
    frame[50..52].fill(0);
    segmented(&mut guest, &frame, 1460);
    let sent = frames(&mut *ingress);
    assert_eq!(sent.len(), 1);
    assert_eq!(
        sent[0].1,
        FrameMeta {
            checksum: Checksum::Partial { start: 34, offset: 16 },
            gso: Some(Gso { kind: GsoKind::TcpV4, size: 1460, ecn: false }),
        }
    );
    assert!(sent[0].0[54..] == frame[54..]);
    assert_eq!(sent[0].0[16..18], 60_040_u16.to_be_bytes());
    // 60,000 bytes in 42 segments, one context.
    assert_eq!((guest.get(0x40d4), guest.get(0x40f8)), (42, 1));
    assert_eq!(guest.get(0x4090), 60_000 + 42 * 58);
}

#[tokio::test]
async fn a_context_stays_until_the_next_one() {
    let (mut guest, port) = card();
    let (mut ingress, _egress) = attach(port);
    guest.up_like_linux();
    guest.write(TX_BUFFERS, &frame_to([0xff; 6], 100));
    guest.descriptor(34 << 32 | 50 << 40, DEXT | TCP, 0);
    for _ in 0..2 {
        guest.descriptor(TX_BUFFERS, DATA | EOP | RS | 100, 2 << 8);
    }
    // A context for segmentation is another one.
    guest.descriptor(0, DEXT | TSE | TCP, 0);
    guest.descriptor(TX_BUFFERS, DATA | EOP | RS | 100, 2 << 8);
    guest.descriptor(TX_BUFFERS, DATA | EOP | RS | 100, 0);
    guest.kick();
    let metas: Vec<_> = frames(&mut *ingress).into_iter().map(|(_, meta)| meta.checksum).collect();
    let partial = Checksum::Partial { start: 34, offset: 16 };
    assert_eq!(metas, [partial, partial, partial, Checksum::Complete]);
}

#[tokio::test]
async fn a_doorbell_wakes_only_who_waits() {
    let (mut guest, port) = card();
    let (mut ingress, _egress) = attach(port);
    guest.up_like_linux();
    frames(&mut *ingress);
    while is_ready(|cx| ingress.poll_readable(cx)) {
        frames(&mut *ingress);
    }
    guest.transmit(&frame_to([0xff; 6], 60));
    std::future::poll_fn(|cx| ingress.poll_readable(cx)).await;
    guest.transmit(&frame_to([0xff; 6], 60));
    assert_eq!(frames(&mut *ingress).len(), 2);
    assert!(!is_ready(|cx| ingress.poll_readable(cx)));
}

#[tokio::test]
async fn a_reset_in_flight_forgets_the_frame_that_has_begun() {
    let (mut guest, port) = card();
    let (mut ingress, mut egress) = attach(port);
    guest.up_like_linux();
    guest.write(TX_BUFFERS, &frame_to([0xff; 6], 100));
    guest.descriptor(TX_BUFFERS, RS | 50, 0);
    guest.kick();
    assert!(frames(&mut *ingress).is_empty());
    assert!(!guest.is_done(0));
    send(&mut *egress, &frame_to(GUEST_MAC, 60), FrameMeta::default());
    guest.reset_like_linux();
    assert_eq!(send(&mut *egress, &frame_to(GUEST_MAC, 60), FrameMeta::default()), Sent::Full);
    guest.up_like_linux();
    guest.transmit(&frame_to([0xff; 6], 60));
    assert_eq!(frames(&mut *ingress), [(frame_to([0xff; 6], 60), FrameMeta::default())]);
}

#[tokio::test]
async fn the_end_of_the_machine_ends_the_port() {
    let (guest, port) = card();
    let (mut ingress, mut egress) = attach(port);
    drop(guest);
    std::future::poll_fn(|cx| ingress.poll_readable(cx)).await;
    assert_eq!(ingress.receive(1, &mut |_| {}).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(egress.flush().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}
