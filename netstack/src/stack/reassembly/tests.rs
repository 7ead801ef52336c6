//! What datagrams share: keys, bounds and time. The pieces of one are tested beside it.

use smoltcp::wire::{Ipv4Packet, Ipv6Packet};

use super::*;
use crate::config::Config;
use crate::frame::{Chunk, FrameMeta};
use crate::stack::Stack;

const PORT: PortId = PortId(0);

/// A table, and what it needs beside it.
struct Scene {
    table: Reassembly,
    stack: Stack,
    whole: Vec<u8>,
}

impl Scene {
    fn new(limits: &Limits) -> Self {
        let table = Reassembly::new(limits, &Timeouts::default(), Keyed::new([3; 16]));
        Self { table, stack: Stack::new(&Config { ipv6: None, ..Config::default() }, [0; 32]), whole: Vec::new() }
    }

    fn add(&mut self, seconds: u64, fragment: &Fragment, frame: &[u8]) -> bool {
        let chunks = [Chunk::from(frame)];
        let frame = Frame::new(&chunks, FrameMeta::default());
        self.table.add(now(seconds), &mut self.stack.shared, PORT, fragment, &frame, &mut self.whole)
    }

    /// How many senders are told when this much time has passed.
    fn expire(&mut self, seconds: u64) -> usize {
        let mut told = 0;
        self.table.expire(now(seconds), &mut self.stack.shared, PORT, |_, _| told += 1);
        told
    }
}

fn now(seconds: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(seconds)
}

/// A fragment of eight bytes, and the frame that it is in.
fn v4(id: u32, offset: usize, more: bool) -> (Fragment, Vec<u8>) {
    let frame = [&[0xaa; 14][..], &[0x45; 20], &[offset as u8; 8]].concat();
    let fragment = Fragment {
        source: IpAddr::from([10, 0, 2, 15]),
        destination: IpAddr::from([192, 0, 2, 1]),
        protocol: 17,
        id,
        place: Place { offset, at: 34, len: 8, more },
        headers: 34,
        next_header_at: 0,
    };
    (fragment, frame)
}

#[test]
fn the_whole_has_the_headers_of_a_packet_that_was_never_cut() {
    let mut scene = Scene::new(&Limits::default());
    let (last, frame) = v4(1, 8, false);
    assert!(!scene.add(0, &last, &frame));
    let (first, mut frame) = v4(1, 0, true);
    frame[20] = 0x20;
    assert!(scene.add(0, &first, &frame));
    let ip = Ipv4Packet::new_checked(&scene.whole[14..]).unwrap();
    assert!(ip.verify_checksum());
    assert_eq!((ip.total_len(), ip.more_frags(), ip.frag_offset()), (36, false, 0));
    assert_eq!(ip.payload(), [[0; 8], [8; 8]].concat());
    assert_eq!(scene.whole[..14], [0xaa; 14]);
}

#[test]
fn in_ipv6_the_fragment_header_goes_and_others_stay() {
    let mut scene = Scene::new(&Limits::default());
    let ip = |last| IpAddr::from([0xfec0, 0, 0, 0, 0, 0, 0, last]);
    let fragment = |offset, more| Fragment {
        source: ip(15),
        destination: ip(2),
        protocol: 0,
        id: 7,
        place: Place { offset, at: 70, len: 8, more },
        headers: 70,
        next_header_at: 54,
    };
    let frame = |byte| {
        let mut frame = vec![byte; 78];
        frame[14] = 0x60;
        // Hop-by-hop options, which name the fragment header, which names UDP.
        frame[20] = 0;
        frame[54] = 44;
        frame[62] = 17;
        frame
    };
    assert!(!scene.add(0, &fragment(8, false), &frame(8)));
    assert!(scene.add(0, &fragment(0, true), &frame(1)));
    let ip = Ipv6Packet::new_checked(&scene.whole[14..]).unwrap();
    assert_eq!((u8::from(ip.next_header()), ip.payload_len()), (0, 24));
    assert_eq!(ip.payload()[0], 17);
    assert_eq!(ip.payload()[8..], [[1; 8], [8; 8]].concat());
}

#[test]
fn whatever_tells_datagrams_apart_keeps_them_apart() {
    let (first, frame) = v4(1, 0, true);
    let (last, _) = v4(1, 8, false);
    let other = IpAddr::from([192, 0, 2, 2]);
    for stranger in [
        Fragment { id: 2, ..last },
        Fragment { protocol: 6, ..last },
        Fragment { source: other, ..last },
        Fragment { destination: other, ..last },
    ] {
        let mut scene = Scene::new(&Limits::default());
        assert!(!scene.add(0, &first, &frame));
        assert!(!scene.add(0, &stranger, &frame));
        assert_eq!(scene.table.len(), 2);
        assert!(scene.add(0, &last, &frame));
    }
}

#[test]
fn there_is_one_timer_however_many_datagrams_there_are() {
    let mut scene = Scene::new(&Limits { reassembly_datagrams: 4, ..Limits::default() });
    for id in 0..10_000 {
        let (fragment, frame) = v4(id, 0, true);
        scene.add(u64::from(id) / 1000, &fragment, &frame);
    }
    assert_eq!(scene.stack.shared.wheel.len(), 1);
    assert_eq!(scene.table.len(), 4);
    // It was for the first, which is long gone; the last four came in the tenth second.
    assert_eq!(scene.expire(30), 0);
    assert_eq!((scene.stack.shared.wheel.len(), scene.table.len()), (2, 4));
    assert_eq!(scene.expire(39), 4);
    assert_eq!((scene.table.len(), scene.table.bytes()), (0, 0));
}

#[test]
fn a_header_that_was_rewritten_meanwhile_is_not_believed() {
    let mut scene = Scene::new(&Limits::default());
    let (last, frame) = v4(1, 8, false);
    scene.add(0, &last, &frame);
    // It says now that it has 60 bytes, of which the packet has fewer.
    let (first, mut frame) = v4(1, 0, true);
    frame[14] = 0x4f;
    assert!(scene.add(0, &first, &frame));
    assert_eq!(scene.whole[14], 0x45);
}

#[test]
fn a_datagram_that_is_too_long_with_its_headers_is_dropped() {
    let mut scene = Scene::new(&Limits::default());
    let frame = vec![0; 65_549];
    let fragment = |offset, len, more| {
        let (fragment, _) = v4(1, offset, more);
        Fragment { place: Place { offset, at: 34, len, more }, ..fragment }
    };
    // 65535 bytes are what the length says of the whole, and its header has 20 of them.
    assert!(!scene.add(0, &fragment(65_512, 4, false), &frame));
    assert!(!scene.add(0, &fragment(0, 65_512, true), &frame));
    assert_eq!(scene.stack.shared.counters.drop_malformed, 1);
    assert_eq!(scene.table.bytes(), 0);
}
