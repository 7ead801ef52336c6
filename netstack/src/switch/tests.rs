//! Guests on memory ports, with different offloads, and the engine among them.

use etherparse::PacketBuilder;
use smoltcp::wire::{EthernetFrame, Ipv4Packet, TcpPacket};

use super::*;
use crate::frame::{Checksum, Gso, GsoKind};
use crate::port::Port;
use crate::port::memory::{GuestEnd, MemoryConfig, MemoryPort};
use crate::time::Duration;

const ENGINE: MacAddr = MacAddr([0x52, 0x55, 10, 0, 2, 2]);
const ALICE: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const BOB: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);
const CAROL: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xc]);

#[derive(Default)]
struct Network {
    switch: Switch,
    now: Instant,
}

impl Network {
    fn join(&mut self, config: MemoryConfig) -> (PortId, GuestEnd) {
        let (port, guest) = MemoryPort::pair(MemoryConfig { scatter: 100, ..config });
        (self.switch.add(Box::new(port).attach().unwrap()).unwrap(), guest)
    }

    fn plain(&mut self) -> (PortId, GuestEnd) {
        self.join(MemoryConfig::default())
    }

    /// Forwards what a port has received, one frame.
    fn turn(&mut self, port: PortId) -> Forwarding {
        let (ingress, egresses) = self.switch.split(port).unwrap();
        let mut outcome = None;
        ingress.receive(1, &mut |frame| outcome = Some(egresses.forward(self.now, port, &frame, |mac| mac == ENGINE))).unwrap();
        for port in egresses.ports() {
            // A guest that has gone says so here; its port is still there.
            let _ = egresses.get(port).unwrap().flush();
        }
        outcome.unwrap()
    }

    fn send(&mut self, (port, guest): &(PortId, GuestEnd), frame: Vec<u8>, meta: FrameMeta) -> Forwarding {
        guest.send(frame, meta).unwrap();
        self.turn(*port)
    }

    /// A short frame from one station to another.
    fn word(&mut self, at: &(PortId, GuestEnd), source: MacAddr, destination: MacAddr) -> Forwarding {
        self.send(at, frame(source, destination, 60), FrameMeta::default())
    }

    fn counters(&mut self) -> SwitchCounters {
        *self.switch.egress().counters()
    }
}

fn frame(source: MacAddr, destination: MacAddr, len: usize) -> Vec<u8> {
    let mut frame = [&destination.0[..], &source.0, &[0x88, 0xb5]].concat();
    frame.resize(len, 0x42);
    frame
}

/// TCP with `payload` bytes in segments of 1000.
fn super_frame(source: MacAddr, destination: MacAddr, payload: usize) -> (Vec<u8>, FrameMeta) {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(source.0, destination.0)
        .ipv4([10, 0, 2, 15], [10, 0, 2, 16], 64)
        .tcp(80, 1000, 5, 100)
        .write(&mut frame, &vec![7; payload])
        .unwrap();
    let checksum = Checksum::Partial { start: 34, offset: 16 };
    (frame, FrameMeta { checksum, gso: Some(Gso { kind: GsoKind::TcpV4, size: 1000, ecn: false }) })
}

#[test]
fn all_of_a_single_guest_is_for_the_engine() {
    let mut network = Network::default();
    let alice = network.plain();
    for destination in [ENGINE, BOB, MacAddr::BROADCAST] {
        assert_eq!(network.word(&alice, ALICE, destination), Forwarding::ToEngine);
    }
    assert_eq!(alice.1.recv(), None);
}

#[test]
fn guests_hear_each_other_and_nobody_else_does_once_they_are_known() {
    let mut network = Network::default();
    let (alice, bob, carol) = (network.plain(), network.plain(), network.plain());
    assert_eq!(network.word(&alice, ALICE, MacAddr::BROADCAST), Forwarding::ToEngineAndOthers);
    assert_eq!(network.word(&bob, BOB, ALICE), Forwarding::Forwarded);
    assert_eq!(network.word(&alice, ALICE, BOB), Forwarding::Forwarded);
    assert_eq!(network.word(&alice, ALICE, ENGINE), Forwarding::ToEngine);

    assert_eq!(alice.1.recv().unwrap().0, frame(BOB, ALICE, 60));
    assert_eq!(bob.1.recv().unwrap().0, frame(ALICE, MacAddr::BROADCAST, 60));
    assert_eq!(bob.1.recv().unwrap().0, frame(ALICE, BOB, 60));
    assert_eq!(carol.1.recv().unwrap().0, frame(ALICE, MacAddr::BROADCAST, 60));
    assert_eq!((alice.1.recv(), bob.1.recv(), carol.1.recv()), (None, None, None));
    assert_eq!(network.counters(), SwitchCounters { forwarded: 4, ..SwitchCounters::default() });
}

#[test]
fn a_frame_for_nobody_known_goes_to_all_guests_but_not_to_the_engine() {
    let mut network = Network::default();
    let (alice, bob, carol) = (network.plain(), network.plain(), network.plain());
    assert_eq!(network.word(&alice, ALICE, BOB), Forwarding::Forwarded);
    assert_eq!((alice.1.waiting(), bob.1.waiting(), carol.1.waiting()), (0, 1, 1));
}

#[test]
fn a_station_that_moves_is_found_at_its_new_port() {
    let mut network = Network::default();
    let (alice, bob, carol) = (network.plain(), network.plain(), network.plain());
    network.word(&bob, BOB, ENGINE);
    network.word(&carol, BOB, ENGINE);
    assert_eq!(network.word(&alice, ALICE, BOB), Forwarding::Forwarded);
    assert_eq!((bob.1.waiting(), carol.1.waiting()), (0, 1));

    network.switch.remove(carol.0);
    network.word(&alice, ALICE, BOB);
    assert_eq!(bob.1.waiting(), 1, "with the port went what was known about it");
}

#[test]
fn a_guest_cannot_take_the_engines_address() {
    let mut network = Network::default();
    let (alice, bob) = (network.plain(), network.plain());
    network.word(&bob, ENGINE, ALICE);
    assert_eq!(network.word(&alice, ALICE, ENGINE), Forwarding::ToEngine);
    assert_eq!(bob.1.recv(), None);
}

#[test]
fn a_frame_between_stations_of_the_same_port_stays_there() {
    let mut network = Network::default();
    let (alice, bob) = (network.plain(), network.plain());
    network.word(&alice, CAROL, ENGINE);
    assert_eq!(network.word(&alice, ALICE, CAROL), Forwarding::Dropped);
    assert_eq!((alice.1.waiting(), bob.1.waiting()), (0, 0));
}

#[test]
fn a_silent_station_is_asked_for_again_everywhere() {
    let mut network = Network::default();
    let (alice, bob, carol) = (network.plain(), network.plain(), network.plain());
    network.word(&bob, BOB, ENGINE);
    network.now = network.now + Duration::from_secs(301);
    network.word(&alice, ALICE, BOB);
    assert_eq!((bob.1.waiting(), carol.1.waiting()), (1, 1));
}

#[test]
fn a_guest_without_offloads_gets_segments_with_checksums() {
    let mut network = Network::default();
    let alice = network.join(MemoryConfig { offloads: Offloads::ALL, ..MemoryConfig::default() });
    let bob = network.plain();
    let (frame, meta) = super_frame(ALICE, BOB, 2500);
    assert_eq!(network.send(&alice, frame.clone(), meta), Forwarding::Forwarded);
    for payload in [1000, 1000, 500] {
        let (frame, meta) = bob.1.recv().unwrap();
        assert_eq!(meta, FrameMeta::default());
        let ethernet = EthernetFrame::new_checked(&frame[..]).unwrap();
        let ip = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
        let tcp = TcpPacket::new_checked(ip.payload()).unwrap();
        assert!(ip.verify_checksum() && tcp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
        assert_eq!(tcp.payload().len(), payload);
    }

    // The other way round, and to one that takes it, it stays whole.
    let (frame, meta) = super_frame(BOB, ALICE, 2500);
    assert_eq!(network.send(&bob, frame.clone(), meta), Forwarding::Forwarded);
    assert_eq!(alice.1.recv().unwrap(), (frame, meta));
}

#[test]
fn a_full_port_loses_what_other_guests_send_and_nothing_else() {
    let mut network = Network::default();
    let alice = network.plain();
    let bob = network.join(MemoryConfig { capacity: 2, ..MemoryConfig::default() });
    network.word(&bob, BOB, ENGINE);
    let outcomes = [(); 3].map(|()| network.word(&alice, ALICE, BOB));
    assert_eq!(outcomes, [Forwarding::Forwarded, Forwarding::Forwarded, Forwarding::Dropped]);
    assert_eq!(network.counters(), SwitchCounters { forwarded: 2, full: 1, ..SwitchCounters::default() });

    // The engine is told, and keeps what it has.
    assert_eq!(network.switch.egress().send(bob.0, 60, &mut |_| panic!("asked to fill a full port")), Sent::Full);
    bob.1.recv().unwrap();
    assert_eq!(network.switch.egress().send(bob.0, 60, &mut |_| Some((60, FrameMeta::default()))), Sent::Yes);
}

#[test]
fn a_frame_must_fit_the_mtu_of_the_port_after_it_was_cut() {
    let mut network = Network::default();
    let alice = network.plain();
    let bob = network.join(MemoryConfig { mtu: 1000, offloads: Offloads::ALL, ..MemoryConfig::default() });
    network.word(&bob, BOB, ENGINE);
    assert_eq!(network.send(&alice, frame(ALICE, BOB, 1014), FrameMeta::default()), Forwarding::Forwarded);
    assert_eq!(network.send(&alice, frame(ALICE, BOB, 1019), FrameMeta::default()), Forwarding::Dropped);
    let (large, mut meta) = super_frame(ALICE, BOB, 2500);
    assert_eq!(network.send(&alice, large.clone(), meta), Forwarding::Dropped);
    assert_eq!(network.counters().too_long, 2);
    meta.gso = meta.gso.map(|gso| Gso { size: 960, ..gso });
    assert_eq!(network.send(&alice, large, meta), Forwarding::Forwarded);
}

#[test]
fn a_frame_that_is_not_what_it_says_reaches_no_other_guest() {
    let mut network = Network::default();
    let alice = network.plain();
    let bob = network.join(MemoryConfig { offloads: Offloads::ALL, ..MemoryConfig::default() });
    let (mut large, meta) = super_frame(ALICE, BOB, 2500);
    large[23] = 17;
    network.send(&alice, large, meta);
    network.send(&alice, frame(ALICE, BOB, 60), FrameMeta { checksum: Checksum::Partial { start: 50, offset: 16 }, gso: None });
    network.send(&alice, vec![0; 13], FrameMeta::default());
    assert_eq!(bob.1.recv(), None);
    assert_eq!(network.counters().malformed, 3);
}

#[test]
fn a_port_that_is_gone_declines() {
    let mut network = Network::default();
    let alice = network.plain();
    network.switch.remove(alice.0);
    network.switch.remove(alice.0);
    let egresses = network.switch.egress();
    for gone in [alice.0, PortId(9999)] {
        assert_eq!(egresses.send(gone, 60, &mut |_| panic!("asked to fill a port that is gone")), Sent::Declined);
        assert_eq!((egresses.mtu(gone), egresses.offloads(gone)), (0, Offloads::NONE));
    }
    assert!(egresses.ports().is_empty());
    assert!(network.switch.split(alice.0).is_none());
}

#[test]
fn ids_rest_before_they_are_used_again() {
    let mut network = Network::default();
    let ids: Vec<_> = (0..=RESTING_IDS + 1)
        .map(|_| {
            let (port, _guest) = network.plain();
            network.switch.remove(port);
            port
        })
        .collect();
    assert_eq!(ids[RESTING_IDS], PortId(RESTING_IDS as u16));
    assert_eq!(ids[RESTING_IDS + 1], ids[0]);
}
