//! Literal frames, and any frames: what comes out is parsed and verified by smoltcp, which had no part in making it.

use etherparse::PacketBuilder;
use proptest::prelude::*;
use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpAddress, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket};

use super::*;
use crate::frame::Chunk;

const SUPER_FRAME: [u8; 61] = [
    0x02, 0x00, 0x00, 0x00, 0x00, 0x02, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x08, 0x00, // Ethernet
    0x45, 0x00, 0x00, 0x2f, 0xff, 0xff, 0x40, 0x00, 0x40, 0x06, 0x22, 0xab, 10, 0, 2, 15, 10, 0, 2, 16, // IPv4
    0x1f, 0x90, 0xc0, 0x00, 0xff, 0xff, 0xff, 0xfe, 0x00, 0x00, 0x00, 0x07, 0x50, 0x99, 0x20, 0x00, 0x18, 0x40, 0x00,
    0x00, // TCP
    b'a', b'b', b'c', b'd', b'e', b'f', b'g',
];

/// The frame cut by 3: identification, sequence number, flags and checksums were computed by hand.
const SEGMENTS: [&[u8]; 3] = [
    &[
        0x02, 0x00, 0x00, 0x00, 0x00, 0x02, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x08, 0x00, // Ethernet
        0x45, 0x00, 0x00, 0x2b, 0xff, 0xff, 0x40, 0x00, 0x40, 0x06, 0x22, 0xaf, 10, 0, 2, 15, 10, 0, 2, 16, // IPv4
        0x1f, 0x90, 0xc0, 0x00, 0xff, 0xff, 0xff, 0xfe, 0x00, 0x00, 0x00, 0x07, 0x50, 0x90, 0x20, 0x00, 0xd3, 0x39, 0x00,
        0x00, // TCP
        b'a', b'b', b'c',
    ],
    &[
        0x02, 0x00, 0x00, 0x00, 0x00, 0x02, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x08, 0x00, // Ethernet
        0x45, 0x00, 0x00, 0x2b, 0x00, 0x00, 0x40, 0x00, 0x40, 0x06, 0x22, 0xaf, 10, 0, 2, 15, 10, 0, 2, 16, // IPv4
        0x1f, 0x90, 0xc0, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x07, 0x50, 0x10, 0x20, 0x00, 0xcd, 0xb4, 0x00,
        0x00, // TCP
        b'd', b'e', b'f',
    ],
    &[
        0x02, 0x00, 0x00, 0x00, 0x00, 0x02, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x08, 0x00, // Ethernet
        0x45, 0x00, 0x00, 0x29, 0x00, 0x01, 0x40, 0x00, 0x40, 0x06, 0x22, 0xb0, 10, 0, 2, 15, 10, 0, 2, 16, // IPv4
        0x1f, 0x90, 0xc0, 0x00, 0x00, 0x00, 0x00, 0x04, 0x00, 0x00, 0x00, 0x07, 0x50, 0x19, 0x20, 0x00, 0x31, 0x10, 0x00,
        0x00, // TCP
        b'g',
    ],
];

fn meta(start: u16, kind: GsoKind, size: u16) -> FrameMeta {
    let offset = if kind == GsoKind::Udp { 6 } else { 16 };
    FrameMeta { checksum: Checksum::Partial { start, offset }, gso: Some(Gso { kind, size, ecn: false }) }
}

fn cut_for(bytes: &[u8], meta: FrameMeta, offloads: &Offloads) -> Result<Vec<(Vec<u8>, FrameMeta)>, SegmentError> {
    let chunks: Vec<_> = bytes.chunks(23).map(Chunk::from).collect();
    let mut frames = Vec::new();
    let mut scratch = vec![0xaa; 100];
    segment(&Frame::new(&chunks, meta), offloads, &mut scratch, &mut |frame, meta| frames.push((frame.to_vec(), meta)))?;
    Ok(frames)
}

fn cut(bytes: &[u8], meta: FrameMeta) -> Result<Vec<Vec<u8>>, SegmentError> {
    let frames = cut_for(bytes, meta, &Offloads::NONE)?;
    assert!(frames.iter().all(|(_, meta)| *meta == FrameMeta::default()));
    Ok(frames.into_iter().map(|(frame, _)| frame).collect())
}

#[test]
fn a_tcp_super_frame_becomes_the_segments_that_it_stands_for() {
    assert_eq!(cut(&SUPER_FRAME, meta(34, GsoKind::TcpV4, 3)).unwrap(), SEGMENTS);
}

#[test]
fn a_length_of_zero_in_the_ip_header_is_no_matter() {
    let mut frame = SUPER_FRAME;
    frame[16..18].fill(0);
    assert_eq!(cut(&frame, meta(34, GsoKind::TcpV4, 3)).unwrap(), SEGMENTS);
}

#[test]
fn a_frame_that_is_not_cut_gets_its_checksum() {
    // The first segment again, with the sum of its pseudo-header where its checksum was.
    let mut frame = SEGMENTS[0].to_vec();
    frame[50..52].copy_from_slice(&[0x18, 0x3c]);
    let partial = FrameMeta { checksum: Checksum::Partial { start: 34, offset: 16 }, gso: None };
    assert_eq!(cut(&frame, partial).unwrap(), [SEGMENTS[0]]);
}

#[test]
fn a_receiver_gets_as_much_as_it_takes() {
    let large = meta(34, GsoKind::TcpV4, 3);
    assert_eq!(check(&Frame::new(&[Chunk::from(&SUPER_FRAME[..])], large)), Ok(()));
    assert_eq!(cut_for(&SUPER_FRAME, large, &Offloads::ALL).unwrap(), [(SUPER_FRAME.to_vec(), large)]);
    let only_checksum = Offloads { checksum: true, ..Offloads::NONE };
    assert_eq!(cut_for(&SUPER_FRAME, large, &only_checksum).unwrap().len(), 3);
}

#[test]
fn a_datagram_whose_checksum_comes_to_zero_says_so_in_the_other_way() {
    // A payload that brings the sum to all ones: the complement of the sum without it.
    let mut frame = udp_v4(&[0, 0]);
    let partial = FrameMeta { checksum: Checksum::Partial { start: 34, offset: 6 }, gso: None };
    let without = cut(&frame, partial).unwrap().remove(0);
    frame[42..44].copy_from_slice(&without[40..42]);
    assert_eq!(cut(&frame, partial).unwrap()[0][40..42], [0xff, 0xff]);
}

#[test]
fn what_contradicts_itself_is_refused() {
    use SegmentError::{BadLength, Fragment, OtherProtocol, TooManySegments};
    let good = meta(34, GsoKind::TcpV4, 3);
    let refused = |change: &dyn Fn(&mut [u8]), meta| {
        let mut frame = SUPER_FRAME;
        change(&mut frame);
        let error = cut(&frame, meta).unwrap_err();
        assert_eq!(check(&Frame::new(&[Chunk::from(&frame[..])], meta)), Err(error));
        error
    };
    assert_eq!(refused(&|_| (), meta(34, GsoKind::TcpV6, 3)), OtherProtocol);
    assert_eq!(refused(&|_| (), meta(34, GsoKind::Udp, 3)), OtherProtocol);
    assert_eq!(refused(&|_| (), meta(35, GsoKind::TcpV4, 3)), OtherProtocol);
    assert_eq!(refused(&|_| (), FrameMeta { checksum: Checksum::Complete, ..good }), OtherProtocol);
    assert_eq!(refused(&|frame| frame[12] = 9, good), OtherProtocol);
    assert_eq!(refused(&|frame| frame[14] = 0x55, good), OtherProtocol);
    assert_eq!(refused(&|frame| frame[14] = 0x44, good), BadLength);
    assert_eq!(refused(&|frame| frame[14] = 0x4f, good), BadLength);
    assert_eq!(refused(&|frame| frame[20] = 0x20, good), Fragment);
    assert_eq!(refused(&|frame| frame[21] = 1, good), Fragment);
    assert_eq!(refused(&|frame| frame[46] = 0x40, good), BadLength);
    assert_eq!(refused(&|frame| frame[46] = 0xf0, good), BadLength);
    assert_eq!(refused(&|_| (), meta(34, GsoKind::TcpV4, 0)), TooManySegments);

    let long = [&SUPER_FRAME[..], &[0; 60_000]].concat();
    assert_eq!(cut(&long, meta(34, GsoKind::TcpV4, 8)), Err(TooManySegments));
    assert_eq!(cut(&SUPER_FRAME[..40], good), Err(BadLength));
    assert_eq!(cut(&[], good), Err(BadLength));
    assert_eq!(cut(&vec![0; MAX_FRAME + 1], good), Err(BadLength));
    for (start, offset) in [(62, 0), (60, 0), (34, 26), (34, 0xffff), (0xffff, 0xffff)] {
        let partial = FrameMeta { checksum: Checksum::Partial { start, offset }, gso: None };
        assert_eq!(cut(&SUPER_FRAME, partial), Err(BadLength), "{start} + {offset}");
    }
}

#[test]
fn headers_that_lead_nowhere_come_to_an_end() {
    // Hop-by-hop options for ever.
    let mut frame = vec![0; 3000];
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    frame[14] = 0x60;
    assert_eq!(cut(&frame, meta(54, GsoKind::TcpV6, 100)), Err(SegmentError::BadLength));
    // VLAN tags for ever.
    let mut frame = vec![0x81; 100];
    frame.iter_mut().skip(1).step_by(2).for_each(|byte| *byte = 0);
    assert_eq!(cut(&frame, meta(54, GsoKind::TcpV6, 100)), Err(SegmentError::OtherProtocol));
}

#[test]
fn tags_and_extension_headers_are_repeated_in_every_segment() {
    let mut plain = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv6([1; 16], [2; 16], 64)
        .tcp(80, 1000, 5, 100)
        .write(&mut plain, &[7; 2500])
        .unwrap();
    plain[20] = 60;
    let mut frame = plain[..12].to_vec();
    frame.extend([0x81, 0, 0, 42]);
    frame.extend(&plain[12..54]);
    // Destination options: TCP follows, 8 bytes, padding.
    frame.extend([6, 0, 1, 4, 0, 0, 0, 0]);
    frame.extend(&plain[54..]);
    let frames = cut(&frame, meta(66, GsoKind::TcpV6, 1000)).unwrap();
    assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [1086, 1086, 586]);
    for (index, segment) in frames.iter().enumerate() {
        assert_eq!(segment[12..18], frame[12..18]);
        let ip = Ipv6Packet::new_checked(&segment[18..]).unwrap();
        assert_eq!(usize::from(ip.payload_len()), segment.len() - 58);
        let tcp = TcpPacket::new_checked(&segment[66..]).unwrap();
        assert!(tcp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
        assert_eq!(tcp.seq_number().0, 5 + 1000 * index as i32);
    }
}

fn udp_v4(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 2, 15], [10, 0, 2, 16], 64).udp(1, 2).write(&mut frame, payload).unwrap();
    let sum = checksum::pseudo_header_v4(
        &Ipv4Addr::new(10, 0, 2, 15),
        &Ipv4Addr::new(10, 0, 2, 16),
        IpProtocol::Udp,
        8 + payload.len() as u32,
    );
    frame[40..42].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// A super-frame of any kind, and where its transport header is.
fn super_frame(kind: GsoKind, v6: bool, payload: &[u8]) -> (Vec<u8>, u16) {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let (builder, start) =
        if v6 { (builder.ipv6([1; 16], [2; 16], 64), 54) } else { (builder.ipv4([10, 0, 2, 15], [10, 0, 2, 16], 64), 34) };
    let mut frame = Vec::new();
    if kind == GsoKind::Udp {
        builder.udp(1, 2).write(&mut frame, payload).unwrap();
    } else {
        builder
            .tcp(80, 1000, u32::MAX - 2000, 100)
            .ack(9)
            .psh()
            .fin()
            .options_raw(&[1; 12])
            .unwrap()
            .write(&mut frame, payload)
            .unwrap();
    }
    (frame, start)
}

/// The payload of a frame in which smoltcp finds no fault.
fn verified_payload(frame: &[u8], first: bool, last: bool) -> Vec<u8> {
    let ethernet = EthernetFrame::new_checked(frame).unwrap();
    let (source, destination, protocol, transport): (IpAddress, IpAddress, _, _) = match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => {
            let ip = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
            assert!(ip.verify_checksum());
            assert_eq!(usize::from(ip.total_len()), ethernet.payload().len());
            (ip.src_addr().into(), ip.dst_addr().into(), ip.next_header(), ip.payload().to_vec())
        }
        _ => {
            let ip = Ipv6Packet::new_checked(ethernet.payload()).unwrap();
            assert_eq!(ip.total_len(), ethernet.payload().len());
            (ip.src_addr().into(), ip.dst_addr().into(), ip.next_header(), ip.payload().to_vec())
        }
    };
    if protocol == IpProtocol::Udp {
        let udp = UdpPacket::new_checked(&transport[..]).unwrap();
        assert!(udp.verify_checksum(&source, &destination) && udp.checksum() != 0);
        assert_eq!(usize::from(udp.len()), transport.len());
        return udp.payload().to_vec();
    }
    let tcp = TcpPacket::new_checked(&transport[..]).unwrap();
    assert!(tcp.verify_checksum(&source, &destination));
    assert_eq!((tcp.fin(), tcp.psh(), tcp.cwr()), (last, last, first));
    [&tcp.seq_number().0.to_be_bytes(), tcp.payload()].concat()
}

proptest! {
    #[test]
    fn put_together_again_it_is_the_same(
        (kind, v6) in prop::sample::select(&[
            (GsoKind::TcpV4, false),
            (GsoKind::TcpV6, true),
            (GsoKind::Udp, false),
            (GsoKind::Udp, true),
        ]),
        size in 50_u16..9000,
        payload in prop::collection::vec(any::<u8>(), 0..20_000),
    ) {
        let (mut frame, start) = super_frame(kind, v6, &payload);
        if kind != GsoKind::Udp {
            frame[usize::from(start) + 13] |= 0x80;
        }
        let frames = cut(&frame, meta(start, kind, size)).unwrap();
        let mut again = Vec::new();
        for (index, segment) in frames.iter().enumerate() {
            let last = index + 1 == frames.len();
            let mut part = verified_payload(segment, index == 0, last);
            if kind != GsoKind::Udp {
                let sequence = u32::from_be_bytes(*part.first_chunk().unwrap());
                prop_assert_eq!(sequence.wrapping_sub(u32::MAX - 2000), again.len() as u32);
                part.drain(..4);
            }
            prop_assert!(part.len() == usize::from(size) || last);
            again.extend(part);
        }
        prop_assert_eq!(again, payload);
    }

    #[test]
    fn nothing_that_a_guest_makes_up_breaks_it(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        use_super_frame: bool,
        changes in prop::collection::vec((0_usize..61, any::<u8>()), 0..4),
        start in 0_u16..80,
        offset in 0_u16..40,
        size in 0_u16..40,
        kind in prop::sample::select(&[None, Some(GsoKind::TcpV4), Some(GsoKind::TcpV6), Some(GsoKind::Udp)]),
    ) {
        let mut frame = if use_super_frame { SUPER_FRAME.to_vec() } else { bytes };
        for (at, byte) in changes {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        let gso = kind.map(|kind| Gso { kind, size, ecn: false });
        let meta = FrameMeta { checksum: Checksum::Partial { start: if use_super_frame { 34 } else { start }, offset }, gso };
        let cut = cut(&frame, meta);
        prop_assert!(check(&Frame::new(&[Chunk::from(&frame[..])], meta)).is_err() || cut.is_ok(), "fine to send, but not to cut");
        if let Ok(frames) = cut {
            prop_assert!(frames.iter().all(|segment| segment.len() <= frame.len()));
        }
    }
}
