use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use netstack::frame::MAX_FRAME;
use netstack::port::{Egress, Ingress, Sent};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::bell::Bell;
use crate::guest_tcp::{self, GUEST_MAC, Network, Nic};
use crate::virtio::driver::{Driver, DriverQueue, READ, WRITE};
use crate::virtio::{feature as common, transport::status};

const MTU: u16 = 1500;
/// What Linux asks for, but for the control queue.
const LINUX: u64 = feature::ALL | common::TRANSPORT;

/// A guest with a virtio-net driver.
struct Guest {
    driver: Driver,
    receive: DriverQueue,
    transmit: DriverQueue,
    /// Where each chain that can be received into begins.
    posted: Vec<(u16, u64, usize)>,
    sending: Vec<(u16, u64)>,
}

fn card(mtu: u16) -> (Driver, NetPort) {
    let config = NetConfig { name: "net0".to_owned(), mac: MacAddr(GUEST_MAC), mtu };
    let (parts, port) = new(config).unwrap();
    let mut driver = Driver::new(parts);
    driver.use_messages();
    (driver, port)
}

impl Guest {
    fn start(mut driver: Driver, features: u64, size: u16) -> Self {
        assert!(driver.negotiate(features));
        let (receive, transmit) = (driver.queue(0, size), driver.queue(1, size));
        driver.ready();
        Self { driver, receive, transmit, posted: Vec::new(), sending: Vec::new() }
    }

    /// Posts receive buffers of this length.
    fn post(&mut self, count: usize, len: usize) {
        for _ in 0..count {
            let at = self.driver.allocate(len);
            self.post_at(at, len);
        }
    }

    fn post_at(&mut self, at: u64, len: usize) {
        let head = self.receive.add(&[(at, len, WRITE)]);
        self.posted.push((head, at, len));
        self.driver.kick(&self.receive);
    }

    /// Transmits a frame whose header and bytes are spread over pieces of these lengths; the last one takes the rest. Returns where it
    /// lies.
    fn transmit(&mut self, header: [u8; 12], frame: &[u8], pieces: &[usize]) -> u64 {
        let bytes = [&header[..], frame].concat();
        let at = self.driver.allocate(bytes.len());
        self.driver.memory.write_slice(&bytes, GuestAddress(at)).unwrap();
        let mut chain = Vec::new();
        let mut from = 0;
        for len in pieces.iter().copied().chain([usize::MAX]) {
            let len = len.min(bytes.len() - from);
            chain.push((at + from as u64, len, READ));
            from += len;
        }
        self.transmit.add(&chain);
        self.driver.kick(&self.transmit);
        at
    }

    /// The next frame that was received, with its header; the buffers are posted again.
    fn received(&mut self) -> Option<([u8; 12], Vec<u8>)> {
        let mut bytes = Vec::new();
        let mut left = 1;
        while left > 0 {
            let (head, len) = self.receive.take_used()?;
            let place = self.posted.iter().position(|(posted, ..)| *posted == head).unwrap();
            let (_, at, room) = self.posted.swap_remove(place);
            let mut buffer = vec![0; len as usize];
            self.driver.memory.read_slice(&mut buffer, GuestAddress(at)).unwrap();
            if bytes.is_empty() {
                left = u16::from_le_bytes([buffer[10], buffer[11]]);
            }
            left -= 1;
            assert!(left == 0 || buffer.len() == room, "only the last buffer may have room left");
            bytes.extend(buffer);
            self.post_at(at, room);
        }
        let frame = bytes.split_off(12);
        Some((bytes.try_into().unwrap(), frame))
    }
}

fn attach(port: NetPort) -> (Box<dyn Ingress>, Box<dyn Egress>) {
    let mut halves = Box::new(port).attach().unwrap();
    // The engine flushes each turn, and so finds queues that were handed over.
    halves.egress.flush().unwrap();
    (halves.ingress, halves.egress)
}

fn send(egress: &mut dyn Egress, frame: &[u8], meta: FrameMeta) -> Sent {
    egress.send(frame.len(), &mut |room| {
        assert_eq!(room.copy_from(0, frame), frame.len());
        Some((frame.len(), meta))
    })
}

fn frames(ingress: &mut dyn Ingress) -> Vec<(Vec<u8>, FrameMeta)> {
    let mut frames = Vec::new();
    let received = ingress
        .receive(64, &mut |frame| {
            let mut bytes = vec![0; frame.len()];
            frame.copy_to(0, &mut bytes);
            frames.push((bytes, frame.meta));
        })
        .unwrap();
    assert!(received < 64);
    frames
}

fn is_ready(poll: impl FnOnce(&mut Context<'_>) -> Poll<()>) -> bool {
    poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

#[tokio::test]
async fn the_configuration_tells_address_link_and_mtu() {
    let (mut driver, _port) = card(9000);
    assert_eq!(driver.read::<12>(0x2000), [0x52, 0x54, 0, 0x12, 0x34, 0x56, 1, 0, 1, 0, 0x28, 0x23]);
    assert!(driver.negotiate(LINUX));
    assert_eq!(driver.features, LINUX);
    driver.set_status(0);
    assert!(!driver.demand(common::VERSION_1 | feature::HOST_TSO4), "super-frames without checksums");
}

#[tokio::test]
async fn a_link_that_goes_down_is_a_change_of_the_configuration() {
    let (driver, port) = card(MTU);
    let mut guest = Guest::start(driver, LINUX, 16);
    let (_ingress, mut egress) = attach(port);
    egress.flush().unwrap();
    let generation = |guest: &mut Guest| guest.driver.read::<1>(0x15);
    let before = generation(&mut guest);
    guest.driver.write(0x10, 0_u16.to_le_bytes());
    for (n, up, told) in [(1, false, [0, 0]), (2, true, [1, 0])] {
        egress.set_link(up);
        assert_eq!(guest.driver.routes[0].signals(), n, "the driver is told that something has changed");
        assert_eq!(guest.driver.read::<2>(0x2006), told);
        assert_ne!(generation(&mut guest), before);
    }
}

#[tokio::test]
async fn a_frame_is_lent_where_the_guest_has_put_it() {
    let (driver, port) = card(MTU);
    let mut guest = Guest::start(driver, LINUX, 16);
    let (mut ingress, _egress) = attach(port);
    let at = guest.transmit([0; 12], &[7; 100], &[12, 50]);
    let mut seen = Vec::new();
    ingress
        .receive(64, &mut |frame| {
            let mut byte = [0];
            frame.copy_to(99, &mut byte);
            seen.push((frame.len(), byte[0]));
            // The guest changes it while it is looked at: there is no copy.
            guest.driver.memory.write_slice(&[9; 112], GuestAddress(at)).unwrap();
            frame.copy_to(99, &mut byte);
            seen.push((frame.len(), byte[0]));
        })
        .unwrap();
    assert_eq!(seen, [(100, 7), (100, 9)]);
    assert_eq!(guest.transmit.take_used().map(|(_, len)| len), Some(0));
}

#[tokio::test]
async fn the_header_may_lie_anywhere() {
    for pieces in [&[][..], &[12], &[5, 7], &[1; 12], &[20], &[12, 1, 1, 1], &[4, 4, 30]] {
        let (driver, port) = card(MTU);
        let mut guest = Guest::start(driver, LINUX, 32);
        let (mut ingress, _egress) = attach(port);
        let frame: Vec<u8> = (0..60).collect();
        guest.transmit([1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0], &frame, pieces);
        let meta = FrameMeta { checksum: Checksum::Partial { start: 34, offset: 16 }, gso: None };
        assert_eq!(frames(&mut *ingress), [(frame, meta)], "{pieces:?}");
    }
}

#[tokio::test]
async fn a_driver_may_use_only_what_it_has_negotiated() {
    let tcp4 = [1, 1, 54, 0, 0xb4, 0x05, 34, 0, 16, 0, 0, 0];
    let checksum = [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0];
    let vouched = [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let everything = feature::CSUM | feature::HOST_TSO4;
    for (features, header, passes) in [
        (everything, tcp4, true),
        (feature::CSUM, tcp4, false),
        (feature::CSUM, checksum, true),
        (0, checksum, false),
        (0, vouched, true),
    ] {
        let (driver, port) = card(MTU);
        let mut guest = Guest::start(driver, common::VERSION_1 | features, 16);
        let (mut ingress, _egress) = attach(port);
        guest.transmit(header, &[0; 3000], &[]);
        let frames = frames(&mut *ingress);
        assert_eq!(frames.len(), usize::from(passes), "{features:#x} {header:?}");
        assert_eq!(ingress.dropped(), u64::from(!passes));
        assert!(frames.iter().all(|(_, meta)| meta.checksum != Checksum::Verified));
        assert!(guest.transmit.take_used().is_some(), "the buffer goes back in any case");
    }
}

#[tokio::test]
async fn frames_that_make_no_sense_are_dropped_and_counted() {
    let (driver, port) = card(MTU);
    let mut guest = Guest::start(driver, LINUX, 16);
    let (mut ingress, _egress) = attach(port);
    guest.transmit([0; 12], &[0; 13], &[]);
    guest.transmit([0; 12], &[0; MAX_FRAME + 1], &[]);
    guest.transmit([1, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0], &[0; 60], &[]);
    guest.transmit.add(&[(0x1000, 5, READ)]);
    guest.transmit.add(&[(0x1000, 0, READ)]);
    guest.transmit([0; 12], &[0; 14], &[]);
    assert_eq!(frames(&mut *ingress).len(), 1);
    assert_eq!(ingress.dropped(), 5);
    assert!(!guest.driver.needs_reset());
}

#[tokio::test]
async fn the_guest_is_interrupted_once_for_a_batch_that_it_waits_for() {
    let (driver, port) = card(MTU);
    let mut guest = Guest::start(driver, LINUX, 64);
    let (mut ingress, mut egress) = attach(port);
    for _ in 0..10 {
        guest.transmit([0; 12], &[0; 60], &[12]);
    }
    assert_eq!(frames(&mut *ingress).len(), 10);
    assert_eq!(guest.driver.interrupts(&guest.transmit), 1);

    guest.post(16, 2048);
    for _ in 0..10 {
        assert_eq!(send(&mut *egress, &[1; 60], FrameMeta::default()), Sent::Yes);
    }
    assert_eq!(guest.received(), None, "nothing is published before the flush");
    egress.flush().unwrap();
    assert_eq!(guest.driver.interrupts(&guest.receive), 1);
    assert_eq!(std::iter::from_fn(|| guest.received()).count(), 10);
}

#[tokio::test]
async fn a_budget_is_kept_and_the_rest_comes_next_time() {
    let (driver, port) = card(MTU);
    let mut guest = Guest::start(driver, LINUX, 64);
    let (mut ingress, _egress) = attach(port);
    for _ in 0..5 {
        guest.transmit([0; 12], &[0; 60], &[]);
    }
    assert_eq!(ingress.receive(3, &mut |_| {}).unwrap(), 3);
    assert_eq!(ingress.receive(3, &mut |_| {}).unwrap(), 2);
    assert_eq!(guest.transmit.available_event(), 5, "it wants to hear of the next one");
}

#[tokio::test]
async fn a_kick_makes_the_port_readable() {
    let (driver, port) = card(MTU);
    let mut guest = Guest::start(driver, LINUX, 64);
    let (mut ingress, _egress) = attach(port);
    std::future::poll_fn(|cx| ingress.poll_readable(cx)).await;
    assert_eq!(frames(&mut *ingress).len(), 0, "the queues have come");
    assert!(!is_ready(|cx| ingress.poll_readable(cx)));
    guest.transmit([0; 12], &[0; 60], &[]);
    std::future::poll_fn(|cx| ingress.poll_readable(cx)).await;
    assert_eq!(frames(&mut *ingress).len(), 1);
    assert!(!is_ready(|cx| ingress.poll_readable(cx)));
}

#[tokio::test]
async fn a_large_frame_fills_several_buffers() {
    let (driver, port) = card(MTU);
    let mut guest = Guest::start(driver, LINUX, 128);
    let (_ingress, mut egress) = attach(port);
    guest.post(100, 1536);
    let mut frame: Vec<u8> = (0..20_000_u32).map(|n| (n % 251) as u8).collect();
    // The header of TCP has 8 words.
    frame[46] = 0x80;
    let meta = FrameMeta {
        checksum: Checksum::Partial { start: 34, offset: 16 },
        gso: Some(Gso { kind: GsoKind::TcpV4, size: 1460, ecn: false }),
    };
    assert_eq!(send(&mut *egress, &frame, meta), Sent::Yes);
    assert_eq!(send(&mut *egress, &frame[..60], FrameMeta::default()), Sent::Yes);
    egress.flush().unwrap();
    let (header, received) = guest.received().unwrap();
    assert!(received == frame);
    // 20,012 bytes in buffers of 1536.
    assert_eq!(header, [1, 1, 66, 0, 0xb4, 0x05, 34, 0, 16, 0, 14, 0]);
    let (header, received) = guest.received().unwrap();
    assert_eq!((header, &received[..]), ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], &frame[..60]));
}

#[tokio::test]
async fn a_frame_exactly_as_long_as_its_buffers_wastes_none() {
    let (driver, port) = card(MTU);
    let mut guest = Guest::start(driver, LINUX, 64);
    let (_ingress, mut egress) = attach(port);
    guest.post(50, 1536);
    for len in [1524, 1525, 3 * 1536 - 12, 3 * 1536 - 11] {
        let frame = vec![5; len];
        assert_eq!(send(&mut *egress, &frame, FrameMeta::default()), Sent::Yes);
        egress.flush().unwrap();
        let (header, received) = guest.received().unwrap();
        assert_eq!(received, frame);
        assert_eq!(usize::from(header[10]), (len + 12).div_ceil(1536));
    }
}

#[tokio::test]
async fn a_buffer_in_pieces_is_filled_piece_by_piece() {
    let (driver, port) = card(MTU);
    let mut guest = Guest::start(driver, LINUX, 64);
    let (_ingress, mut egress) = attach(port);
    let at = guest.driver.allocate(4096);
    let pieces = [(at, 4, WRITE), (at + 100, 8, WRITE), (at + 200, 1, WRITE), (at + 300, 2000, WRITE)];
    guest.receive.add(&pieces);
    assert_eq!(send(&mut *egress, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14], FrameMeta::default()), Sent::Yes);
    egress.flush().unwrap();
    assert_eq!(guest.receive.take_used().map(|(_, len)| len), Some(26));
    let mut bytes = [0; 13];
    guest.driver.memory.read_slice(&mut bytes, GuestAddress(at + 300)).unwrap();
    assert_eq!(bytes, [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
    let mut count = [0; 2];
    guest.driver.memory.read_slice(&mut count, GuestAddress(at + 106)).unwrap();
    assert_eq!(count, [1, 0]);
}

#[tokio::test]
async fn what_was_declined_leaves_the_room_for_the_next() {
    let (driver, port) = card(MTU);
    let mut guest = Guest::start(driver, LINUX, 64);
    let (_ingress, mut egress) = attach(port);
    guest.post(1, 2048);
    assert_eq!(egress.send(1500, &mut |_| None), Sent::Declined);
    assert_eq!(send(&mut *egress, &[1; 1500], FrameMeta::default()), Sent::Yes);
    assert_eq!(send(&mut *egress, &[1; 60], FrameMeta::default()), Sent::Full);
}

#[tokio::test]
async fn a_full_port_is_writable_when_the_guest_has_posted_buffers() {
    let (driver, port) = card(MTU);
    let mut guest = Guest::start(driver, LINUX, 64);
    let (_ingress, mut egress) = attach(port);
    assert_eq!(send(&mut *egress, &[1; 60], FrameMeta::default()), Sent::Full);
    assert!(!is_ready(|cx| egress.poll_writable(cx)));
    guest.post(1, 2048);
    std::future::poll_fn(|cx| egress.poll_writable(cx)).await;
    assert_eq!(send(&mut *egress, &[1; 60], FrameMeta::default()), Sent::Yes);
    assert_eq!(send(&mut *egress, &[1; 60], FrameMeta::default()), Sent::Full);
    assert!(!is_ready(|cx| egress.poll_writable(cx)));
}

#[tokio::test]
async fn super_frames_are_taken_only_by_a_guest_with_room_for_them() {
    let room = |count, len, features| {
        let (driver, port) = card(MTU);
        let mut guest = Guest::start(driver, features, 256);
        let (_ingress, mut egress) = attach(port);
        guest.post(count, len);
        send(&mut *egress, &[1; 60], FrameMeta::default());
        egress.offloads()
    };
    let single = LINUX & !feature::MRG_RXBUF;
    assert_eq!(room(64, 1536, LINUX), Offloads::ALL);
    assert_eq!(room(8, 2048, LINUX), Offloads { checksum: true, ..Offloads::NONE });
    assert_eq!(room(4, HEADER + MAX_FRAME, single), Offloads::ALL);
    assert_eq!(room(64, 1536, single), Offloads { checksum: true, ..Offloads::NONE });
    assert_eq!(room(64, 1536, common::VERSION_1 | feature::MRG_RXBUF), Offloads::NONE);
    let one_uso = LINUX & !feature::GUEST_USO6;
    assert_eq!(room(64, 1536, one_uso), Offloads { uso: false, ..Offloads::ALL });
}

#[tokio::test]
async fn what_no_buffer_can_hold_is_declined_for_good() {
    let (driver, port) = card(MTU);
    let mut guest = Guest::start(driver, LINUX & !feature::MRG_RXBUF, 64);
    let (_ingress, mut egress) = attach(port);
    guest.post(8, 1000);
    assert_eq!(send(&mut *egress, &[1; 1000], FrameMeta::default()), Sent::Declined);
    assert_eq!(egress.dropped(), 1);
    assert_eq!(send(&mut *egress, &[1; 988], FrameMeta::default()), Sent::Yes);
}

#[tokio::test]
async fn a_guest_that_checks_sums_itself_is_told_nothing_of_them() {
    for (features, flags) in [(LINUX, 2), (common::VERSION_1, 0)] {
        let (driver, port) = card(MTU);
        let mut guest = Guest::start(driver, features, 16);
        let (_ingress, mut egress) = attach(port);
        guest.post(4, 2048);
        let verified = FrameMeta { checksum: Checksum::Verified, gso: None };
        assert_eq!(send(&mut *egress, &[1; 60], verified), Sent::Yes);
        egress.flush().unwrap();
        assert_eq!(guest.received().unwrap().0[0], flags);
    }
}

#[tokio::test]
async fn a_driver_that_was_not_told_the_mtu_uses_the_standard_one() {
    for (features, mtu, expected) in [(LINUX, 9000, 9000), (LINUX & !feature::MTU, 9000, 1500), (LINUX & !feature::MTU, 576, 576)] {
        let (driver, port) = card(mtu);
        let _guest = Guest::start(driver, features, 16);
        let (_ingress, egress) = attach(port);
        assert_eq!(egress.mtu(), expected);
    }
}

#[tokio::test]
async fn without_a_driver_there_are_no_frames_and_no_room() {
    let (driver, port) = card(MTU);
    let (mut ingress, mut egress) = attach(port);
    assert!(frames(&mut *ingress).is_empty());
    assert_eq!(send(&mut *egress, &[1; 60], FrameMeta::default()), Sent::Full);
    assert!(!is_ready(|cx| egress.poll_writable(cx)));
    let mut guest = Guest::start(driver, LINUX, 16);
    guest.post(1, 2048);
    std::future::poll_fn(|cx| ingress.poll_readable(cx)).await;
    egress.flush().unwrap();
    assert!(is_ready(|cx| egress.poll_writable(cx)));
    assert_eq!(send(&mut *egress, &[1; 60], FrameMeta::default()), Sent::Yes);
}

#[tokio::test]
async fn a_reset_in_flight_ends_the_use_of_the_old_rings() {
    let (driver, port) = card(MTU);
    let mut guest = Guest::start(driver, LINUX, 16);
    let (mut ingress, mut egress) = attach(port);
    guest.post(4, 2048);
    guest.transmit([0; 12], &[0; 60], &[]);
    assert_eq!(send(&mut *egress, &[1; 60], FrameMeta::default()), Sent::Yes);
    guest.driver.set_status(0);
    assert_ne!(guest.driver.status(), 0);
    assert!(frames(&mut *ingress).is_empty(), "what was not taken before is gone");
    egress.flush().unwrap();
    assert_eq!(guest.driver.status(), 0);
    assert_eq!(guest.receive.published(), 0, "nothing is written to memory that the driver has back");
    assert_eq!(guest.transmit.published(), 0);
    assert_eq!(send(&mut *egress, &[1; 60], FrameMeta::default()), Sent::Full);

    let mut guest = Guest::start(guest.driver, LINUX, 32);
    guest.post(1, 2048);
    egress.flush().unwrap();
    assert_eq!(send(&mut *egress, &[2; 60], FrameMeta::default()), Sent::Yes);
    egress.flush().unwrap();
    assert_eq!(guest.received().unwrap().1, [2; 60]);
    guest.transmit([0; 12], &[0; 60], &[]);
    assert_eq!(frames(&mut *ingress).len(), 1);
}

#[tokio::test]
async fn the_end_of_the_machine_ends_the_port() {
    let (driver, port) = card(MTU);
    let guest = Guest::start(driver, LINUX, 16);
    let (mut ingress, mut egress) = attach(port);
    drop(guest);
    std::future::poll_fn(|cx| ingress.poll_readable(cx)).await;
    assert_eq!(ingress.receive(1, &mut |_| {}).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(egress.flush().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn buffers_of_the_wrong_kind_end_the_queue_and_the_guest_sees_it() {
    let (driver, port) = card(MTU);
    let mut guest = Guest::start(driver, LINUX, 16);
    let (mut ingress, mut egress) = attach(port);
    guest.transmit.add(&[(0x1000, 12, READ), (0x2000, 60, WRITE)]);
    assert!(frames(&mut *ingress).is_empty());
    assert!(guest.driver.needs_reset());
    assert_eq!(guest.driver.status() & status::DRIVER_OK, status::DRIVER_OK);
    guest.post(1, 2048);
    assert_eq!(send(&mut *egress, &[1; 60], FrameMeta::default()), Sent::Yes, "the other queue works on");

    for bad in [(0x1000, 1500, READ), (0x1000, 11, WRITE), (0x1000, 0, WRITE), (16 << 20, 1500, WRITE)] {
        let (driver, port) = card(MTU);
        let mut guest = Guest::start(driver, LINUX, 16);
        let (_ingress, mut egress) = attach(port);
        guest.receive.add(&[bad]);
        assert_eq!(send(&mut *egress, &[1; 60], FrameMeta::default()), Sent::Full);
        assert!(guest.driver.needs_reset(), "{bad:?}");
        assert!(!is_ready(|cx| egress.poll_writable(cx)));
        egress.flush().unwrap();
    }
}

impl Nic for Guest {
    fn send(&mut self, frame: &[u8], meta: FrameMeta) {
        while let Some((head, _)) = self.transmit.take_used() {
            self.sending.retain(|(sending, _)| *sending != head);
        }
        let header = netstack::frame::vnet::encode(&meta, 54, 0);
        // Buffers of 4 KiB by an indirect table, as Linux sends what a program has written.
        let bytes = [&header[..], frame].concat();
        let slot = (0..).find(|slot| self.sending.iter().all(|(_, used)| used != slot)).unwrap();
        let table = 0x8_0000 + slot * 0x1000;
        let at = 0x80_0000 + slot * 0x2_0000;
        assert!(slot < 32, "the device returns no buffers");
        self.driver.memory.write_slice(&bytes, GuestAddress(at)).unwrap();
        let pieces: Vec<_> = (0..bytes.len()).step_by(4096).map(|n| (at + n as u64, 4096.min(bytes.len() - n), READ)).collect();
        let head = self.transmit.add_indirect(table, &pieces);
        self.sending.push((head, slot));
        self.driver.kick(&self.transmit);
    }

    fn receive(&mut self) -> Option<(Vec<u8>, FrameMeta)> {
        let (header, frame) = self.received()?;
        let meta = netstack::frame::vnet::decode(header.first_chunk().unwrap(), frame.len()).unwrap();
        Some((frame, meta))
    }

    fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.driver.routes[1])
    }
}

async fn on_an_engine(features: u64, count: usize, len: usize) -> (Guest, Network) {
    let (driver, port) = card(MTU);
    let network = Network::with(port).await;
    let mut guest = Guest::start(driver, features, 256);
    guest.post(count, len);
    (guest, network)
}

#[tokio::test]
async fn super_frames_of_the_guest_reach_a_server_of_the_host() {
    let (mut guest, network) = on_an_engine(LINUX, 64, 1536).await;
    guest_tcp::upload(&mut guest, 1_000_000, 60_000).await;
    network.shut_down().await;
}

#[tokio::test]
async fn the_host_fills_the_buffers_of_the_guest_with_super_frames() {
    let (mut guest, network) = on_an_engine(LINUX, 200, 1536).await;
    let (longest, super_frames) = guest_tcp::download(&mut guest, 2_000_000).await;
    assert!(super_frames && longest > 10_000, "{longest}");
    network.shut_down().await;
}

#[tokio::test]
async fn a_simple_driver_gets_plain_frames() {
    let (mut guest, network) = on_an_engine(common::VERSION_1 | feature::CSUM, 200, 1536).await;
    guest_tcp::upload(&mut guest, 100_000, 1460).await;
    let (longest, super_frames) = guest_tcp::download(&mut guest, 300_000).await;
    assert_eq!((longest, super_frames), (1460, false));
    network.shut_down().await;
}

#[tokio::test]
async fn a_ring_too_small_for_a_super_frame_stalls_nothing() {
    let (mut guest, network) = on_an_engine(LINUX, 8, 2048).await;
    let (longest, super_frames) = guest_tcp::download(&mut guest, 300_000).await;
    assert_eq!((longest, super_frames), (1460, false));
    network.shut_down().await;
}

#[tokio::test]
async fn a_driver_may_come_again_after_a_reset() {
    let (mut guest, network) = on_an_engine(LINUX, 64, 1536).await;
    guest_tcp::upload(&mut guest, 100_000, 60_000).await;
    guest.driver.set_status(0);
    while guest.driver.status() != 0 {
        tokio::task::yield_now().await;
    }
    let mut guest = Guest::start(guest.driver, LINUX, 128);
    guest.post(64, 1536);
    guest_tcp::upload(&mut guest, 100_000, 60_000).await;
    guest_tcp::download(&mut guest, 100_000).await;
    network.shut_down().await;
}
