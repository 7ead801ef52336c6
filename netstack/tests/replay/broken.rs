//! Recordings that were changed in one place: playing them fails, and names the packet and the field.

use netstack::frame::Offloads;
use netstack::host::sim::{Program, Server, UdpServer};
use netstack::pcap::note::{Note, PortNote, SectionNote};
use netstack::pcap::read::{self, Packet};
use netstack::pcap::write::{Direction, Record, Writer};
use netstack::replay::record::Recorded;
use netstack::replay::{Difference, Report};

use crate::guest::*;

/// A guest leases nothing, but asks for the gateway, echoes, and asks a server for the time.
fn recorded() -> Recorded {
    let mut recorder = recorder("");
    recorder.host().serve(at(SERVER), Server::new(Program::Echo));
    recorder.host().serve_udp(at("198.51.100.7:123"), UdpServer::Echo);
    arp(&mut recorder, 1, [10, 0, 2, 2]);
    let mut guest = Connection::open(&mut recorder, 40_000, SERVER);
    for line in ["first line", "second line", "third line"] {
        guest.write(&mut recorder, line.as_bytes());
        guest.read(&mut recorder);
    }
    guest.finish(&mut recorder);
    guest.read(&mut recorder);
    datagram(&mut recorder, 5000, "198.51.100.7:123", b"what time is it?");
    done(recorder)
}

/// The recording with its packets changed.
pub(crate) fn changed(recorded: &Recorded, change: impl FnOnce(&mut Vec<Packet<'static>>)) -> Recorded {
    let file = read::read(&recorded.file).unwrap();
    let section: SectionNote = file.comments[0].parse().unwrap();
    let mut packets: Vec<Packet<'static>> =
        file.packets.iter().map(|packet| Packet { data: packet.data.to_vec().into(), ..packet.clone() }).map(own).collect();
    change(&mut packets);
    let mut writer = Writer::new(Vec::new(), &section).unwrap();
    for interface in &file.interfaces {
        let note: PortNote = interface.comments[0].parse().unwrap();
        writer.add_interface(interface.name.as_deref().unwrap(), 0, &note).unwrap();
    }
    for packet in &packets {
        let note: Note = packet.comments.first().map(|comment| comment.parse().unwrap()).unwrap_or_default();
        let direction = if packet.direction == Some(read::Direction::Inbound) { Direction::FromGuest } else { Direction::ToGuest };
        writer
            .write(&Record {
                interface: packet.interface as u32,
                stamp: packet.stamp,
                direction,
                bytes: &packet.data,
                len: packet.data.len(),
                lost: 0,
                note: &note,
            })
            .unwrap();
    }
    Recorded { file: writer.into_inner(), sidecar: recorded.sidecar.clone() }
}

fn own(packet: Packet<'_>) -> Packet<'static> {
    let Packet { number, offset, stamp, interface, direction, original_len, data, comments } = packet;
    Packet { number, offset, stamp, interface, direction, original_len, data: data.into_owned().into(), comments }
}

/// The packets of the engine, with the place of each.
fn of_engine(packets: &[Packet<'static>]) -> Vec<usize> {
    (0..packets.len()).filter(|n| packets[*n].direction == Some(read::Direction::Outbound)).collect()
}

/// The place of the first packet of the engine that has this in it.
fn with(packets: &[Packet<'static>], text: &[u8]) -> usize {
    let has = |n: &usize| packets[*n].data.windows(text.len()).any(|window| window == text);
    of_engine(packets).into_iter().find(has).unwrap()
}

/// Changes a 16-bit field of a packet and its TCP or UDP checksum with it.
pub(crate) fn put(packet: &mut Packet<'static>, at: usize, value: u16, checksum: usize) {
    let data = packet.data.to_mut();
    let old = u16::from_be_bytes([data[at], data[at + 1]]);
    let sum = u32::from(!u16::from_be_bytes([data[checksum], data[checksum + 1]])) + u32::from(!old) + u32::from(value);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    data[at..at + 2].copy_from_slice(&value.to_be_bytes());
    data[checksum..checksum + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

#[track_caller]
fn only(report: &Report) -> &Difference {
    let [difference] = &report.differences[..] else { panic!("one difference, not {:#?}", report.differences) };
    difference
}

const TCP_SUM: usize = 34 + 16;

#[test]
fn a_flag_is_named() {
    let mut number = 0;
    let broken = changed(&recorded(), |packets| {
        let n = with(packets, b"second line");
        number = packets[n].number;
        // PSH gone.
        put(&mut packets[n], 34 + 12, 0x5010, TCP_SUM);
    });
    let report = play(&broken);
    let difference = only(&report);
    assert_eq!((difference.packet, difference.field.as_str()), (Some(number), "tcp.flags"));
    assert_eq!((difference.expected.as_deref(), difference.got.as_deref()), (Some("ACK"), Some("PSH,ACK")));
    assert!(difference.conversation.contains("198.51.100.7:80"));
}

#[test]
fn a_window_is_named() {
    let mut number = 0;
    let broken = changed(&recorded(), |packets| {
        let n = with(packets, b"second line");
        number = packets[n].number;
        put(&mut packets[n], 34 + 14, 77, TCP_SUM);
    });
    let report = play(&broken);
    let difference = only(&report);
    assert_eq!((difference.packet, difference.field.as_str()), (Some(number), "tcp.window"));
    assert_eq!((difference.expected.as_deref(), difference.got.as_deref()), (Some("77"), Some("65535")));
}

#[test]
fn a_damaged_byte_of_payload_shows_in_the_checksum() {
    let mut number = 0;
    let broken = changed(&recorded(), |packets| {
        let n = with(packets, b"second line");
        number = packets[n].number;
        packets[n].data.to_mut()[60] ^= 0x20;
    });
    let report = play(&broken);
    let difference = only(&report);
    assert_eq!((difference.packet, difference.field.as_str()), (Some(number), "tcp.checksum"));
}

#[test]
fn a_byte_that_the_engine_itself_has_made_is_named() {
    let mut number = 0;
    let broken = changed(&recorded(), |packets| {
        let n = of_engine(packets)[0];
        number = packets[n].number;
        packets[n].data.to_mut()[31] = 9;
    });
    let report = play(&broken);
    let difference = only(&report);
    assert_eq!((difference.packet, difference.field.as_str()), (Some(number), "arp.sender"));
    assert_eq!(difference.expected.as_deref(), Some("10.0.2.9"));
}

#[test]
fn a_packet_that_is_lost_is_unexpected_when_it_comes() {
    let broken = changed(&recorded(), |packets| {
        let n = of_engine(packets)[1];
        packets.remove(n);
    });
    let report = play(&broken);
    // Without the SYN-ACK, nobody has accepted.
    assert!(report.differences.iter().any(|difference| difference.field == "packet"), "{:#?}", report.differences);

    let broken = changed(&recorded(), |packets| {
        let last = *of_engine(packets).last().unwrap();
        packets.remove(last);
    });
    // What the host did not say, nobody misses.
    assert!(play(&broken).matches());

    let broken = changed(&recorded(), |packets| {
        let arp = of_engine(packets)[0];
        packets.remove(arp);
    });
    let report = play(&broken);
    let difference = only(&report);
    assert_eq!((difference.packet, difference.field.as_str(), difference.expected.as_deref()), (None, "packet", None));
    assert_eq!(difference.got.as_deref(), Some("reply of 10.0.2.2 to 10.0.2.15"));
}

#[test]
fn a_packet_too_many_is_missing() {
    let mut number = 0;
    let broken = changed(&recorded(), |packets| {
        let n = with(packets, b"second line");
        let again = packets[n].clone();
        packets.insert(n + 1, again);
        number = packets[n].number + 1;
    });
    let report = play(&broken);
    let difference = only(&report);
    assert_eq!((difference.packet, difference.field.as_str(), difference.got.as_deref()), (Some(number), "packet", None));
    assert!(difference.expected.as_deref().unwrap().contains("11 bytes"), "{difference:?}");
}

#[test]
fn segments_in_another_order_are_told() {
    let mut numbers = (0, 0);
    let broken = changed(&recorded(), |packets| {
        let (a, b) = (with(packets, b"first line"), with(packets, b"second line"));
        let (first, second) = (packets[a].data.clone(), packets[b].data.clone());
        (packets[a].data, packets[b].data) = (second, first);
        numbers = (packets[a].number, packets[b].number);
    });
    let report = play(&broken);
    let named: Vec<_> = report.differences.iter().map(|difference| (difference.packet, difference.field.as_str())).collect();
    assert!(named.contains(&(Some(numbers.0), "tcp.seq")) || named.contains(&(Some(numbers.0), "packet")), "{named:?}");
}

#[test]
fn every_byte_of_the_engines_side_matters() {
    let recorded = recorded();
    let count = read::read(&recorded.file).unwrap().packets.len();
    let (mut found, mut ignored) = (0, Vec::new());
    for n in 0..count {
        let packet = &read::read(&recorded.file).unwrap().packets[n];
        if packet.direction != Some(read::Direction::Outbound) {
            continue;
        }
        for at in 0..packet.data.len() {
            let broken = changed(&recorded, |packets| packets[n].data.to_mut()[at] ^= 0x01);
            if play(&broken).matches() { ignored.push((n, at)) } else { found += 1 }
        }
    }
    // What no flipped bit may pass: all but the identification of IPv4 packets, which the checksum of the header gives away anyway, and
    // a checksum.
    assert!(ignored.is_empty(), "{ignored:?}");
    assert!(found > 300, "{found}");
}

#[test]
fn a_field_that_varies_is_not_compared() {
    let mut broken = changed(&recorded(), |packets| {
        let n = with(packets, b"second line");
        put(&mut packets[n], 34 + 14, 77, TCP_SUM);
    });
    broken.sidecar.varies = vec!["tcp.window".into()];
    assert!(play(&broken).matches());
}

#[test]
fn offloads_that_were_not_used_are_named() {
    let mut recorder = recorder_with(Offloads::ALL);
    recorder.host().serve(at(SERVER), Server::new(Program::Source(10_000)));
    Connection::open(&mut recorder, 40_000, SERVER).read(&mut recorder);
    let broken = changed(&done(recorder), |packets| {
        let n = packets.iter().position(|packet| packet.comments.iter().any(|comment| comment.contains("gso="))).unwrap();
        packets[n].comments = vec!["slipway: gso=tcp4:1200 checksum=partial".into()];
    });
    let report = play(&broken);
    assert_eq!(only(&report).field, "meta.gso");
}
