use netstack::frame::Chunk;

use super::*;

/// Runs it on a frame of these bytes; returns the bytes and the meta of the result.
fn apply(offload: &Offload, bytes: &[u8]) -> Option<(Vec<u8>, FrameMeta)> {
    // In pieces, as drivers have it.
    let chunks: Vec<_> = bytes.chunks(100).map(Chunk::from).collect();
    let frame = Frame::new(&chunks, FrameMeta::default());
    let mut head = [0; HEAD + TAG];
    let (len, meta) = offload.apply(&mut head, &frame)?;
    Some(([&head[..len], &bytes[bytes.len().min(HEAD)..]].concat(), meta))
}

/// An Ethernet, IPv4 and TCP header with `payload` bytes behind them, as Linux leaves it for segmentation: no length, no sums.
fn tcp4(payload: usize) -> Vec<u8> {
    let mut frame = vec![0; 54 + payload];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = 0x45;
    frame[23] = 6;
    frame[26..30].copy_from_slice(&[10, 0, 2, 15]);
    frame[30..34].copy_from_slice(&[10, 0, 2, 2]);
    frame[46] = 0x50;
    let sum = checksum::combine(&[checksum::data(&frame[26..34]), 6]);
    frame[50..52].copy_from_slice(&sum.to_be_bytes());
    for (n, byte) in frame[54..].iter_mut().enumerate() {
        *byte = (n % 251) as u8;
    }
    frame
}

fn tso4(mss: u16) -> Offload {
    let context = Context {
        ip: Span { start: 14, at: 24, end: 33 },
        transport: Span { start: 34, at: 50, end: 0 },
        header_len: 54,
        mss,
        tcp: true,
        ipv4: true,
    };
    Offload { context, ip: true, transport: true, segment: true, tag: None }
}

#[test]
fn a_frame_to_be_segmented_gets_its_length_and_both_sums() {
    let (frame, meta) = apply(&tso4(1460), &tcp4(10_000)).unwrap();
    assert_eq!(meta.checksum, Checksum::Partial { start: 34, offset: 16 });
    assert_eq!(meta.gso, Some(Gso { kind: GsoKind::TcpV4, size: 1460, ecn: false }));
    assert_eq!(frame[16..18], 10_040_u16.to_be_bytes());
    assert_eq!(checksum::data(&frame[14..34]), !0, "the IP checksum is right");
    let pseudo = checksum::combine(&[checksum::data(&frame[26..34]), 6, 10_020]);
    assert_eq!(frame[50..52], pseudo.to_be_bytes());
    assert_eq!(frame[54..], tcp4(10_000)[54..]);
}

#[test]
fn a_frame_no_longer_than_a_segment_is_not_cut() {
    let (_, meta) = apply(&tso4(1460), &tcp4(1460)).unwrap();
    assert_eq!(meta, FrameMeta { checksum: Checksum::Partial { start: 34, offset: 16 }, gso: None });
    assert!(apply(&tso4(1460), &tcp4(0)).is_some());
}

#[test]
fn ipv6_is_segmented_by_its_own_rules() {
    let mut frame = vec![0; 74 + 5000];
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    frame[14] = 0x60;
    frame[20] = 6;
    frame[66] = 0x50;
    let context = Context {
        ip: Span { start: 14, at: 0, end: 53 },
        transport: Span { start: 54, at: 70, end: 0 },
        header_len: 74,
        mss: 1440,
        tcp: true,
        ipv4: false,
    };
    let offload = Offload { context, ip: false, transport: true, segment: true, tag: None };
    let (frame, meta) = apply(&offload, &frame).unwrap();
    assert_eq!(meta.gso.map(|gso| gso.kind), Some(GsoKind::TcpV6));
    assert_eq!(frame[18..20], 5020_u16.to_be_bytes());
}

#[test]
fn contexts_that_make_no_sense_for_the_frame_are_refused() {
    let good = tso4(1460);
    let with = |change: fn(&mut Context)| {
        let mut offload = good;
        change(&mut offload.context);
        apply(&offload, &tcp4(5000))
    };
    assert!(with(|_| {}).is_some());
    assert!(with(|context| context.mss = 0).is_none());
    assert!(with(|context| context.header_len = 0).is_none());
    assert!(with(|context| context.header_len = 53).is_none());
    assert!(with(|context| context.transport.at = 33).is_none());
    assert!(with(|context| context.transport.at = 40).is_none());
    assert!(with(|context| context.transport.start = 13).is_none());
    assert!(with(|context| context.transport.end = 100).is_none());
    assert!(with(|context| context.tcp = false).is_none());
    assert!(with(|context| context.ip.start = 200).is_none());
    assert!(with(|context| *context = Context::default()).is_none());
    assert!(apply(&good, &tcp4(5000)[..40]).is_none(), "shorter than its headers");
    assert!(apply(&good, &[0; 14]).is_none());
}

#[test]
fn a_checksum_to_the_end_is_left_to_others() {
    // Linux leaves the fields for IP empty, also for IPv6.
    let context = Context { transport: Span { start: 54, at: 60, end: 0 }, ..Context::default() };
    let offload = Offload { context, transport: true, ..Offload::default() };
    let frame = vec![1; 100];
    let (same, meta) = apply(&offload, &frame).unwrap();
    assert_eq!((same, meta.checksum), (frame, Checksum::Partial { start: 54, offset: 6 }));
}

#[test]
fn any_other_checksum_is_filled_in() {
    let bytes: Vec<u8> = (0..1000_u32).map(|n| (n * 7 % 256) as u8).collect();
    for (start, at, end) in [(0, 20, 0), (20, 10, 0), (20, 30, 499), (21, 30, 500), (15, 200, 998), (255, 17, 900)] {
        let context = Context { transport: Span { start, at, end }, ..Context::default() };
        let offload = Offload { context, transport: true, ..Offload::default() };
        let (frame, meta) = apply(&offload, &bytes).unwrap();
        assert_eq!(meta, FrameMeta::default(), "{start} {at} {end}");
        let end = if end == 0 { bytes.len() } else { usize::from(end) + 1 };
        let mut expected = bytes.clone();
        let sum = !checksum::data(&bytes[usize::from(start)..end]);
        expected[usize::from(at)..usize::from(at) + 2].copy_from_slice(&sum.to_be_bytes());
        assert!(frame == expected, "{start} {at} {end}");
    }
    let outside = Context { transport: Span { start: 100, at: 0, end: 50 }, ..Context::default() };
    assert!(apply(&Offload { context: outside, transport: true, ..Offload::default() }, &bytes).is_none());
}

#[test]
fn a_tag_goes_behind_the_addresses_and_moves_the_rest() {
    let bytes: Vec<u8> = (0..=255).chain(0..=255).collect();
    let offload = Offload { tag: Some((0x8100, 0x2005)), ..Offload::default() };
    let (frame, meta) = apply(&offload, &bytes).unwrap();
    assert_eq!(frame, [&bytes[..12], &[0x81, 0, 0x20, 5], &bytes[12..]].concat());
    assert_eq!(meta, FrameMeta::default());

    let (_, meta) = apply(&Offload { tag: Some((0x8100, 1)), ..tso4(1460) }, &tcp4(5000)).unwrap();
    assert_eq!(meta.checksum, Checksum::Partial { start: 38, offset: 16 });
}
