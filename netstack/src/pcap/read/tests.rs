//! Files that others write, files that somebody has damaged, and files that are none.

use proptest::prelude::*;

use super::*;

/// A file under construction, in either byte order.
struct File {
    bytes: Vec<u8>,
    big: bool,
}

impl File {
    fn u16(&mut self, value: u16) {
        self.bytes.extend(if self.big { value.to_be_bytes() } else { value.to_le_bytes() });
    }

    fn u32(&mut self, value: u32) {
        self.bytes.extend(if self.big { value.to_be_bytes() } else { value.to_le_bytes() });
    }

    fn pcap(big: bool, magic: u32, link_type: u32) -> Self {
        let mut file = Self { bytes: Vec::new(), big };
        file.u32(magic);
        file.u16(2);
        file.u16(4);
        [0, 0, u32::MAX, link_type].into_iter().for_each(|word| file.u32(word));
        file
    }

    fn record(&mut self, seconds: u32, fraction: u32, len: u32, data: &[u8]) {
        [seconds, fraction, len, len].into_iter().for_each(|word| self.u32(word));
        self.bytes.extend(data);
    }

    fn pcapng(big: bool) -> Self {
        let mut file = Self { bytes: Vec::new(), big };
        file.section(&[(4, b"slipway 1"), (1, b"slipway: epoch=5")]);
        file
    }

    fn section(&mut self, options: &[(u16, &[u8])]) {
        let options = self.options(options);
        let mut body = Self { bytes: Vec::new(), big: self.big };
        body.u32(0x1a2b_3c4d);
        body.u16(1);
        body.u16(0);
        body.bytes.extend([0xff; 8]);
        body.bytes.extend(options);
        self.block(SECTION, &body.bytes);
    }

    fn interface(&mut self, link_type: u16, options: &[(u16, &[u8])]) {
        let options = self.options(options);
        let mut body = Self { bytes: Vec::new(), big: self.big };
        body.u16(link_type);
        body.u16(0);
        body.u32(0);
        body.bytes.extend(options);
        self.block(1, &body.bytes);
    }

    fn packet(&mut self, interface: u32, ticks: u64, data: &[u8], options: &[(u16, &[u8])]) {
        let options = self.options(options);
        let mut body = Self { bytes: Vec::new(), big: self.big };
        body.u32(interface);
        body.u32((ticks >> 32) as u32);
        body.u32(ticks as u32);
        body.u32(data.len() as u32);
        body.u32(data.len() as u32 + 7);
        body.bytes.extend(data);
        body.bytes.resize(body.bytes.len().next_multiple_of(4), 0);
        body.bytes.extend(options);
        self.block(6, &body.bytes);
    }

    fn options(&self, options: &[(u16, &[u8])]) -> Vec<u8> {
        let mut all = Self { bytes: Vec::new(), big: self.big };
        for (code, value) in options {
            all.u16(*code);
            all.u16(value.len() as u16);
            all.bytes.extend(*value);
            all.bytes.resize(all.bytes.len().next_multiple_of(4), 0);
        }
        all.bytes
    }

    fn block(&mut self, kind: u32, body: &[u8]) {
        let len = body.len() as u32 + 12;
        self.u32(kind);
        self.u32(len);
        self.bytes.extend(body);
        self.u32(len);
    }
}

const SECTION: u32 = 0x0a0d_0d0a;

fn message(bytes: &[u8]) -> String {
    match read(bytes) {
        Ok(recording) => recording.problem.map(|problem| problem.to_string()).unwrap_or_default(),
        Err(problem) => problem.to_string(),
    }
}

#[test]
fn pcap_is_read_in_both_orders_and_both_resolutions() {
    for big in [false, true] {
        for (magic, stamp) in [(0xa1b2_c3d4, 7_000_009_000), (0xa1b2_3c4d, 7_000_000_009)] {
            let mut file = File::pcap(big, magic, 1);
            file.record(7, 9, 5, b"hello");
            file.record(8, 0, 0, b"");
            let recording = read(&file.bytes).unwrap();
            assert_eq!((recording.packets.len(), recording.problem), (2, None));
            let first = &recording.packets[0];
            assert_eq!((first.number, first.offset, first.stamp, &*first.data), (1, 24, stamp, &b"hello"[..]));
            assert_eq!(recording.packets[1].offset, 45);
        }
    }
}

#[test]
fn pcapng_is_read_in_both_orders_with_names_directions_and_comments() {
    for big in [false, true] {
        let mut file = File::pcapng(big);
        file.interface(1, &[(2, b"tap0"), (9, &[9]), (1, b"slipway: port=0")]);
        let flags = if big { 2u32.to_be_bytes() } else { 2u32.to_le_bytes() };
        file.packet(0, 5_000_000_123, b"frame", &[(2, &flags), (1, b"one"), (1, b"two"), (0, b""), (1, b"behind the end")]);
        // Statistics, and a block that nobody has heard of.
        file.block(5, &[0; 12]);
        file.block(0x7777, b"whatever");
        let recording = read(&file.bytes).unwrap();
        assert_eq!(recording.problem, None);
        assert_eq!(recording.application.as_deref(), Some("slipway 1"));
        assert_eq!(recording.comments, ["slipway: epoch=5"]);
        assert_eq!(recording.interfaces[0].name.as_deref(), Some("tap0"));
        assert_eq!(recording.interfaces[0].comments, ["slipway: port=0"]);
        let [packet] = &recording.packets[..] else { panic!("{recording:?}") };
        assert_eq!((packet.stamp, packet.direction), (5_000_000_123, Some(Direction::Outbound)));
        assert_eq!((packet.original_len, packet.is_cut()), (12, true));
        assert_eq!(packet.comments, ["one", "two"]);
    }
}

#[test]
fn stamps_have_the_unit_and_the_offset_of_their_interface() {
    for big in [false, true] {
        let mut file = File::pcapng(big);
        let offset = if big { (-3i64).to_be_bytes() } else { (-3i64).to_le_bytes() };
        file.interface(1, &[]);
        file.interface(1, &[(9, &[0x80 | 10])]);
        file.interface(1, &[(9, &[3]), (14, &offset)]);
        file.interface(1, &[(9, &[127])]);
        file.packet(0, 5_000_000, b"", &[]);
        file.packet(1, 5 << 10 | 512, b"", &[]);
        file.packet(2, 10_000, b"", &[]);
        file.packet(3, u64::MAX, b"", &[]);
        let stamps: Vec<_> = read(&file.bytes).unwrap().packets.iter().map(|packet| packet.stamp).collect();
        assert_eq!(stamps, [5_000_000_000, 5_500_000_000, 7_000_000_000, 0]);
    }
}

#[test]
fn each_section_numbers_its_interfaces_anew() {
    let mut file = File::pcapng(false);
    file.interface(1, &[(2, b"first")]);
    file.packet(0, 1, b"a", &[]);
    file.big = true;
    file.section(&[]);
    file.interface(1, &[(2, b"second")]);
    file.packet(0, 2, b"b", &[]);
    let recording = read(&file.bytes).unwrap();
    let names: Vec<_> = recording.packets.iter().map(|packet| recording.interfaces[packet.interface].name.as_deref()).collect();
    assert_eq!(names, [Some("first"), Some("second")]);
}

#[test]
fn simple_and_obsolete_packets_are_read_too() {
    for big in [false, true] {
        let mut file = File::pcapng(big);
        file.interface(1, &[]);
        let mut simple = File { bytes: Vec::new(), big };
        simple.u32(3);
        simple.bytes.extend(b"abc\0");
        file.block(3, &simple.bytes);
        let mut old = File { bytes: Vec::new(), big };
        old.u16(0);
        old.u16(9);
        [0, 77, 2, 60].into_iter().for_each(|word| old.u32(word));
        old.bytes.extend(b"de\0\0");
        old.bytes.extend(file.options(&[(1, b"lost nine")]));
        file.block(2, &old.bytes);
        let recording = read(&file.bytes).unwrap();
        assert_eq!(recording.problem, None);
        let data: Vec<_> = recording.packets.iter().map(|packet| (&*packet.data, packet.original_len, packet.stamp)).collect();
        assert_eq!(data, [(&b"abc"[..], 3, 0), (&b"de"[..], 60, 77_000)]);
        assert_eq!(recording.packets[1].comments, ["lost nine"]);
    }
}

#[test]
fn packets_of_other_links_are_passed_over_and_told() {
    let mut file = File::pcapng(false);
    file.interface(113, &[]);
    file.interface(1, &[]);
    file.packet(0, 1, b"cooked", &[]);
    file.packet(1, 2, b"ethernet", &[]);
    let recording = read(&file.bytes).unwrap();
    assert_eq!((recording.packets.len(), recording.packets[0].number), (1, 2));
    assert!(recording.remarks[0].to_string().contains("link type 113 (Linux cooked capture"), "{:?}", recording.remarks);

    let cooked = File::pcap(false, 0xa1b2_c3d4, 101);
    assert!(message(&cooked.bytes).contains("link type 101 (raw IP), but only Ethernet (1) can be used"));
}

#[test]
fn what_is_before_a_truncation_is_used() {
    let mut file = File::pcapng(false);
    file.interface(1, &[]);
    file.packet(0, 1, b"whole", &[]);
    let whole = file.bytes.len();
    file.packet(0, 2, b"cut off", &[]);
    for len in whole + 1..file.bytes.len() {
        let recording = read(&file.bytes[..len]).unwrap();
        assert_eq!(recording.packets.len(), 1);
        let problem = recording.problem.unwrap().to_string();
        assert!(problem.contains("truncated in the ") && problem.contains(&format!("at offset {whole}")), "{problem}");
    }

    let mut file = File::pcap(true, 0xa1b2_c3d4, 1);
    file.record(1, 0, 5, b"whole");
    file.record(2, 0, 100, b"cut off");
    let recording = read(&file.bytes).unwrap();
    assert_eq!(recording.packets.len(), 1);
    let problem = recording.problem.unwrap().to_string();
    assert_eq!(problem, "truncated in the packet at offset 45: 116 bytes should follow, but the file ends after 23");
}

#[test]
fn lengths_that_lie_are_told_with_their_place() {
    assert_eq!(message(b""), "the file is empty");
    assert_eq!(message(b"\x7fELF, and more"), "this is neither a pcap nor a pcapng file: it begins with 7f 45 4c 46");
    assert!(message(&[0xd4, 0xc3, 0xb2]).starts_with("truncated in the file header"));

    let mut file = File::pcap(false, 0xa1b2_c3d4, 1);
    file.record(1, 0, 0xffff_fff0, b"");
    assert!(message(&file.bytes).contains("at offset 24: it claims to be 4294967280 bytes long"));

    let mut file = File::pcapng(false);
    let at = file.bytes.len();
    file.interface(1, &[]);
    file.packet(0, 1, b"data", &[]);
    let packet = at + 20;
    let mut damaged = file.bytes.clone();
    damaged[packet + 20..packet + 24].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(message(&damaged).contains(&format!("damaged in the packet at offset {packet}: what is in it does not fit")));
    let mut damaged = file.bytes.clone();
    damaged[packet + 4..packet + 8].copy_from_slice(&0xffff_fffcu32.to_le_bytes());
    assert!(message(&damaged).contains(&format!("truncated in the packet at offset {packet}: 4294967292 bytes should follow")));
    let mut damaged = file.bytes.clone();
    damaged[packet + 4..packet + 8].copy_from_slice(&4u32.to_le_bytes());
    assert!(message(&damaged).contains("its length is none that a block can have"));
    let mut damaged = file.bytes.clone();
    damaged[packet + 8] = 9;
    assert!(message(&damaged).contains("it is of interface 9, which the file does not describe"));
    let last = file.bytes.len() - 4;
    file.bytes[last] ^= 4;
    assert!(message(&file.bytes).contains("its length at its end is another than at its beginning"));
}

#[test]
fn time_that_goes_backwards_is_told_once() {
    let mut file = File::pcap(false, 0xa1b2_c3d4, 1);
    for seconds in [5, 3, 2] {
        file.record(seconds, 0, 0, b"");
    }
    let recording = read(&file.bytes).unwrap();
    assert_eq!(recording.packets.len(), 3);
    let [remark] = &recording.remarks[..] else { panic!("{:?}", recording.remarks) };
    assert_eq!(remark.to_string(), "the time of packet 2 at offset 40 is 2000000 us before that of an earlier one");
}

#[test]
fn a_file_without_packets_is_a_file() {
    assert!(read(&File::pcap(false, 0xa1b2_c3d4, 1).bytes).unwrap().packets.is_empty());
    assert!(read(&File::pcapng(true).bytes).unwrap().packets.is_empty());
}

/// A file with a bit of everything.
fn sample(ng: bool, big: bool) -> Vec<u8> {
    if !ng {
        let mut file = File::pcap(big, 0xa1b2_c3d4, 1);
        (0..4).for_each(|n| file.record(n, n, 8, b"payload."));
        return file.bytes;
    }
    let mut file = File::pcapng(big);
    file.interface(1, &[(2, b"tap0"), (9, &[9]), (14, &[1; 8])]);
    file.interface(113, &[]);
    file.packet(0, 1, b"frame", &[(2, &[1, 0, 0, 0]), (1, b"comment")]);
    file.block(3, b"\x04\0\0\0abcd");
    file.block(2, &[0; 24]);
    file.block(5, &[0; 20]);
    file.section(&[]);
    file.interface(1, &[]);
    file.packet(0, 2, b"another frame", &[]);
    file.bytes
}

proptest! {
    /// Whatever is done to a file, reading it ends, and what it yields is in the file.
    #[test]
    fn no_damage_does_harm(
        ng: bool,
        big: bool,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        cut in any::<prop::sample::Index>(),
        whole: bool,
    ) {
        let mut bytes = sample(ng, big);
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if !whole {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        match read(&bytes) {
            Ok(recording) => {
                let mut last = 0;
                for packet in &recording.packets {
                    prop_assert!(packet.number > last);
                    last = packet.number;
                    prop_assert!((packet.offset as usize) < bytes.len());
                    prop_assert!(packet.data.len() <= bytes.len());
                    prop_assert!(packet.interface < recording.interfaces.len());
                }
                if let Some(problem) = recording.problem {
                    prop_assert!(problem.offset < bytes.len() as u64);
                    prop_assert!(!problem.to_string().is_empty());
                }
            }
            Err(problem) => prop_assert!(problem.offset <= bytes.len() as u64),
        }
    }

    /// Nor does a file of nonsense behind a good beginning.
    #[test]
    fn no_nonsense_does_harm(ng: bool, big: bool, tail in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = if ng { File::pcapng(big).bytes } else { File::pcap(big, 0xa1b2_3c4d, 1).bytes };
        bytes.extend(tail);
        let _ = read(&bytes);
    }
}
