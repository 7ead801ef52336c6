//! Capture files of whatever origin: read, written again, and played to an engine.

use netstack::frame::{Checksum, FrameMeta, Offloads};
use netstack::pcap::note::{Note, NotedChecksum, PortNote, SectionNote};
use netstack::pcap::read::{Packet, Recording, read};
use netstack::pcap::write::{Direction, Record, Writer};
use netstack::port::PortId;
use netstack::replay::sidecar::Sidecar;
use netstack::replay::{Options, replay};
use netstack::time::Duration;

use crate::engine::{frames_seed, play_frames};
use crate::frame::seeds as frame_seeds;

/// Frames of a file that are played, at most.
const PLAYED: usize = 100;

/// The longest recording that is replayed, in packets.
const REPLAYED: usize = 40;

/// A file.
pub fn judge(input: &[u8]) {
    let recording = match read(input) {
        Ok(recording) => recording,
        Err(problem) => {
            assert!(problem.offset <= input.len() as u64 && problem.to_string().len() > 10, "{problem:?}");
            return;
        }
    };
    judge_recording(&recording, input.len());
    judge_beginnings(&recording, input);
    judge_writing(&recording);
    play(&recording);
    if recording.packets.len() <= REPLAYED {
        judge_replay(input);
    }
}

/// What was read is in the file, in its order.
fn judge_recording(recording: &Recording<'_>, len: usize) {
    let mut before: Option<&Packet<'_>> = None;
    for packet in &recording.packets {
        assert!(packet.offset < len as u64 && packet.data.len() <= len, "packet {} is not in the file", packet.number);
        assert_eq!(recording.interfaces.get(packet.interface).map(|interface| interface.link_type), Some(1));
        assert!(packet.number >= 1 && before.is_none_or(|before| before.number < packet.number && before.offset < packet.offset));
        before = Some(packet);
        for comment in &packet.comments {
            // Anybody's words, or ours.
            if let Ok(note) = comment.parse::<Note>() {
                let again: Note = note.to_string().parse().expect("a note that we wrote");
                assert_eq!(again, note);
            }
        }
    }
    for problem in recording.remarks.iter().chain(&recording.problem) {
        assert!(problem.offset <= len as u64 && problem.to_string().len() > 10, "{problem:?}");
    }
}

/// A file that ends too early has the packets up to there.
fn judge_beginnings(recording: &Recording<'_>, input: &[u8]) {
    for len in [input.len() / 2, input.len().saturating_sub(1)] {
        let Ok(beginning) = read(&input[..len]) else { continue };
        assert!(beginning.packets.len() <= recording.packets.len());
        for (early, late) in beginning.packets.iter().zip(&recording.packets) {
            assert_eq!((early.number, early.offset, &early.data), (late.number, late.offset, &late.data));
        }
    }
}

/// What we write of it reads the same.
fn judge_writing(recording: &Recording<'_>) {
    let section = SectionNote { epoch: 1, mtu: 1500, user: None };
    let mut writer = Writer::new(Vec::new(), &section).expect("memory");
    let port = PortNote { port: PortId(0), offloads: Offloads::NONE, mtu: 1500 };
    let interface = writer.add_interface("port", 0, &port).expect("memory");
    for packet in &recording.packets {
        let direction = match packet.direction {
            Some(netstack::pcap::read::Direction::Outbound) => Direction::ToGuest,
            _ => Direction::FromGuest,
        };
        let note = packet.comments.iter().find_map(|comment| comment.parse().ok()).unwrap_or_default();
        let len = packet.original_len.max(packet.data.len());
        writer
            .write(&Record { interface, stamp: packet.stamp, direction, bytes: &packet.data, len, lost: 0, note: &note })
            .expect("memory");
    }
    let written = writer.into_inner();
    let again = read(&written).expect("a file that we wrote");
    assert_eq!(again.problem, None);
    assert_eq!(again.comments.first().map(|comment| comment.parse()), Some(Ok(section)));
    assert_eq!(again.packets.len(), recording.packets.len());
    for (old, new) in recording.packets.iter().zip(&again.packets) {
        assert_eq!((old.stamp, &old.data), (new.stamp, &new.data), "packet {}", old.number);
    }
}

/// A replay comes to the same each time, or it is told why there can be none.
fn judge_replay(input: &[u8]) {
    let replayed = || replay(input, Sidecar::default(), &Options::default());
    match (replayed(), replayed()) {
        (Ok(first), Ok(second)) => assert_eq!(first, second, "the same recording, another outcome"),
        (Err(first), Err(second)) => assert_eq!(first.to_string(), second.to_string()),
        (first, second) => panic!("{first:?} and then {second:?}"),
    }
}

/// Its frames are played to an engine, as if all of them were a guest's.
fn play(recording: &Recording<'_>) {
    let first = recording.packets.first().map_or(0, |packet| packet.stamp);
    let frames = recording.packets.iter().take(PLAYED).map(|packet| {
        let note: Note = packet.comments.iter().find_map(|comment| comment.parse().ok()).unwrap_or_default();
        let checksum = match note.checksum {
            Some(NotedChecksum::PartialAt { start, offset }) => Checksum::Partial { start, offset },
            Some(_) => Checksum::Verified,
            None => Checksum::Complete,
        };
        // A recording of years is played in minutes.
        let time = Duration::from_nanos(packet.stamp.saturating_sub(first)).min(Duration::from_secs(600));
        (time, &packet.data[..], FrameMeta { checksum, gso: None })
    });
    play_frames(frames);
}

/// Files of both formats and byte orders, with frames of every protocol.
pub fn seeds() -> Vec<Vec<u8>> {
    let frames: Vec<Vec<u8>> = frame_seeds().iter().map(|seed| seed[14..].to_vec()).filter(|frame| frame.len() < 1500).collect();
    let mut seeds = Vec::new();
    for (magic, big) in [(0xa1b2_c3d4_u32, false), (0xa1b2_3c4d, false), (0xa1b2_c3d4, true), (0xa1b2_3c4d, true)] {
        let word = |word: u32| if big { word.to_be_bytes() } else { word.to_le_bytes() };
        let half = |half: u16| if big { half.to_be_bytes() } else { half.to_le_bytes() };
        let mut file =
            [word(magic).to_vec(), half(2).to_vec(), half(4).to_vec(), vec![0; 8], word(65535).to_vec(), word(1).to_vec()].concat();
        for (second, frame) in (1..).zip(frames.iter().take(4)) {
            let len = word(u32::try_from(frame.len()).unwrap_or(0));
            file.extend([&word(second)[..], &word(7), &len, &len, frame].concat());
        }
        seeds.push(file);
    }
    let mut writer =
        Writer::new(Vec::new(), &SectionNote { epoch: 5, mtu: 1500, user: Some("net=10.0.2.0/24".to_owned()) }).expect("memory");
    let port = PortNote { port: PortId(0), offloads: Offloads::ALL, mtu: 1500 };
    let interface = writer.add_interface("tap0", 0, &port).expect("memory");
    for (stamp, frame) in (1..).zip(frames.iter().take(5)) {
        let note = Note { flow: Some(stamp), checksum: Some(NotedChecksum::Partial), ..Note::default() };
        let record = Record {
            interface,
            stamp: stamp * 1_000_000,
            direction: Direction::FromGuest,
            bytes: frame,
            len: frame.len(),
            lost: 0,
            note: &note,
        };
        writer.write(&record).expect("memory");
    }
    seeds.push(writer.into_inner());
    // A section in the other byte order with one interface, one packet of each kind of block, and a block of an unknown kind.
    let block = |kind: u32, body: &[u8]| {
        let body = [body, &vec![0; body.len().next_multiple_of(4) - body.len()]].concat();
        let len = u32::try_from(12 + body.len()).unwrap_or(0).to_be_bytes();
        [&kind.to_be_bytes()[..], &len, &body, &len].concat()
    };
    let section = block(0x0a0d_0d0a, &[&0x1a2b_3c4d_u32.to_be_bytes()[..], &[0, 1, 0, 0], &[0xff; 8]].concat());
    let interface = block(1, &[0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 6, 0, 0, 0, 0, 0, 0, 0]);
    let simple = block(3, &[&60_u32.to_be_bytes()[..], &[0x5a; 60]].concat());
    let enhanced = block(
        6,
        &[&[0; 12][..], &60_u32.to_be_bytes(), &60_u32.to_be_bytes(), &[0x5a; 60], &[0, 2, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0]].concat(),
    );
    let obsolete = block(2, &[&[0; 12][..], &60_u32.to_be_bytes(), &60_u32.to_be_bytes(), &[0x5a; 60]].concat());
    seeds.push([section, interface, simple, enhanced, obsolete, block(5, &[0; 12]), block(0xbad, b"unknown")].concat());
    seeds.push(frames_seed([]));
    seeds
}
