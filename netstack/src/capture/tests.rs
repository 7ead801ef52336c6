//! A recorder with a guest on port 0, and what can be read of what was recorded.

use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Waker};

use pcap_parser::{Block, PcapBlockOwned, PcapNGSlice};
use proptest::prelude::*;
use smoltcp::wire::{EthernetFrame, IpAddress, Ipv4Packet, TcpPacket};

use super::summary::tests::{arp, ping, tcp, udp6};
use super::*;
use crate::frame::{Checksum, Chunk, ChunkMut, Frame, FrameMeta, FrameMut, Gso, GsoKind, Offloads};
use crate::pcap::note::{Note, NotedChecksum, PortNote, SectionNote};
use crate::port::PortId;
use crate::time::Instant;

const PORT: PortId = PortId(0);
const EPOCH: u64 = 1_790_000_000_000_000_000;
const PARTIAL: FrameMeta = FrameMeta { checksum: Checksum::Partial { start: 34, offset: 16 }, gso: None };

/// An engine, as far as a recorder needs one.
struct Rig {
    recorder: Recorder,
    turns: u64,
}

impl Rig {
    fn new() -> Self {
        let mut rig = Self { recorder: Recorder::default(), turns: 0 };
        rig.recorder.port_added(PORT, "tap0", Offloads::ALL, 1500);
        rig
    }

    /// One that records, and where to.
    fn recording(config: impl FnOnce(&mut CaptureConfig)) -> (Self, CaptureId, Stream) {
        let mut rig = Self::new();
        let stream = Stream::default();
        let mut to_stream = CaptureConfig::to_stream("a stream", stream.clone());
        config(&mut to_stream);
        let id = rig.start(to_stream);
        (rig, id, stream)
    }

    fn start(&mut self, config: CaptureConfig) -> CaptureId {
        self.recorder.start(config.open().unwrap(), EPOCH, 1500).unwrap()
    }

    fn frame_from_guest(&mut self, frame: &[u8], meta: FrameMeta) {
        self.recorder.frame_from_guest(PORT, &Frame::new(&[Chunk::from(frame)], meta));
    }

    fn frame_to_guest(&mut self, frame: &[u8], meta: FrameMeta) {
        let mut room = frame.to_vec();
        room.extend([0xee; 100]);
        let mut chunks = [ChunkMut::from(&mut room[..])];
        self.recorder.frame_to_guest(PORT, &FrameMut::new(&mut chunks), frame.len(), meta);
    }

    fn turn(&mut self) {
        self.recorder.end_turn();
        self.recorder.poll(&mut Context::from_waker(Waker::noop()));
        self.turns += 1;
        self.recorder.set_time(Instant::from_micros(self.turns));
    }

    fn stop(&mut self, id: CaptureId) -> CaptureInfo {
        let ending = self.recorder.stop(id).unwrap();
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(ending.done())
    }
}

/// Takes bytes unless it is held up, until it is full.
#[derive(Clone, Default)]
struct Stream(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    held: bool,
    limit: Option<usize>,
}

impl Stream {
    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.0.lock().unwrap().bytes.clone()
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.1.wait_while(self.0.0.lock().unwrap(), |state| state.held).unwrap();
        let room = state.limit.map_or(bytes.len(), |limit| limit - state.bytes.len());
        if room == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let len = bytes.len().min(room);
        state.bytes.extend(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A record, read again.
#[derive(Debug, Clone, PartialEq)]
struct Read {
    stamp: u64,
    from_guest: bool,
    bytes: Vec<u8>,
    len: usize,
    lost: u64,
    note: Note,
}

#[derive(Debug, Default)]
struct Recording {
    section: Option<SectionNote>,
    ports: Vec<(String, PortNote)>,
    records: Vec<Read>,
}

/// Reads what was recorded; the end of it may be missing.
fn read(file: &[u8]) -> Recording {
    let mut recording = Recording::default();
    for block in PcapNGSlice::from_slice(file).unwrap().map_while(Result::ok) {
        let PcapBlockOwned::NG(block) = block else { panic!("another format") };
        match block {
            Block::SectionHeader(block) => recording.section = block.options[0].as_str().unwrap().parse().ok(),
            Block::InterfaceDescription(block) => {
                let note = block.options[0].as_str().unwrap().parse().unwrap();
                recording.ports.push((block.if_name().unwrap().unwrap().to_owned(), note));
            }
            Block::EnhancedPacket(block) => {
                assert!((block.if_id as usize) < recording.ports.len());
                let value = |code| block.options.iter().find(|option| option.code.0 == code);
                let lost = value(4).map_or(0, |lost| u64::from_le_bytes(lost.value().try_into().unwrap()));
                recording.records.push(Read {
                    stamp: u64::from(block.ts_high) << 32 | u64::from(block.ts_low),
                    from_guest: value(2).unwrap().value()[0] & 3 == 1,
                    bytes: block.data[..block.caplen as usize].to_vec(),
                    len: block.origlen as usize,
                    lost,
                    note: value(1).map_or_else(Note::default, |note| note.as_str().unwrap().parse().unwrap()),
                });
            }
            other => panic!("{other:?}"),
        }
    }
    recording
}

fn has_right_checksums(frame: &[u8]) -> bool {
    let ethernet = EthernetFrame::new_checked(frame).unwrap();
    let ip = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
    let (source, destination) = (IpAddress::Ipv4(ip.src_addr()), IpAddress::Ipv4(ip.dst_addr()));
    ip.verify_checksum() && TcpPacket::new_checked(ip.payload()).unwrap().verify_checksum(&source, &destination)
}

/// A segment of 9000 bytes that is to be cut at 1000, with its checksum left to others.
fn super_frame() -> (Vec<u8>, FrameMeta) {
    let mut frame = tcp(None, &[7; 9000]);
    frame[50..52].copy_from_slice(&[0x12, 0x34]);
    (frame, FrameMeta { gso: Some(Gso { kind: GsoKind::TcpV4, size: 1000, ecn: false }), ..PARTIAL })
}

#[test]
fn frames_are_recorded_in_their_order_with_what_is_known_of_them() {
    let (mut rig, id, stream) = Rig::recording(|config| config.user = Some("ipv6=off".to_owned()));
    rig.turn();
    rig.frame_from_guest(&tcp(Some(1), b""), FrameMeta::default());
    rig.frame_to_guest(&tcp(None, b"answer"), FrameMeta::default());
    rig.turn();
    rig.frame_from_guest(b"no frame", FrameMeta::default());
    rig.recorder.was_dropped("malformed");
    rig.frame_to_guest(&arp(), FrameMeta { checksum: Checksum::Verified, gso: None });
    rig.turn();
    let info = rig.stop(id);
    let Recording { section, ports, records } = read(&stream.bytes());
    assert_eq!(section, Some(SectionNote { epoch: EPOCH, mtu: 1500, user: Some("ipv6=off".to_owned()) }));
    assert_eq!(ports, [("tap0".to_owned(), PortNote { port: PORT, offloads: Offloads::ALL, mtu: 1500 })]);
    let record = |turn: u64, from_guest, bytes: &[u8], note| {
        let (bytes, len) = (bytes.to_vec(), bytes.len());
        Read { stamp: EPOCH + turn * 1000, from_guest, bytes, len, lost: 0, note }
    };
    let flow = Note { flow: Some(1), ..Note::default() };
    let dropped = Note { drop: Some("malformed".into()), ..Note::default() };
    let verified = Note { checksum: Some(NotedChecksum::Verified), ..Note::default() };
    assert_eq!(
        records,
        [
            record(1, true, &tcp(Some(1), b""), flow.clone()),
            record(1, false, &tcp(None, b"answer"), flow),
            record(2, true, b"no frame", dropped),
            record(2, false, &arp(), verified),
        ]
    );
    assert_eq!((info.records, info.bytes, info.cut, info.dropped), (4, stream.bytes().len() as u64, 0, 0));
}

#[test]
fn the_reason_of_a_drop_stands_with_its_frame_though_answers_came_between() {
    let (mut rig, id, stream) = Rig::recording(|_| ());
    // So many that it lies in a batch before those of the answers.
    rig.frame_from_guest(&ping(1), FrameMeta::default());
    for _ in 0..3000 {
        rig.frame_to_guest(&arp(), FrameMeta::default());
    }
    rig.recorder.was_dropped("destination");
    rig.turn();
    rig.stop(id);
    let records = read(&stream.bytes()).records;
    assert_eq!(records.len(), 3001);
    assert_eq!(records[0].note.drop.as_deref(), Some("destination"));
    assert!(records[1..].iter().all(|record| record.note.drop.is_none()));
}

#[test]
fn a_super_frame_is_recorded_as_it_is_with_its_checksum_completed() {
    let (mut rig, id, stream) = Rig::recording(|_| ());
    let (frame, meta) = super_frame();
    rig.frame_from_guest(&frame, meta);
    rig.frame_to_guest(&tcp(None, b"odd"), PARTIAL);
    rig.turn();
    rig.stop(id);
    let records = read(&stream.bytes()).records;
    assert_eq!(records[0].note.to_string(), "slipway: flow=1 gso=tcp4:1000 checksum=partial");
    assert_eq!(records[0].bytes.len(), frame.len());
    assert!(records.iter().all(|record| has_right_checksums(&record.bytes)));
}

#[test]
fn a_super_frame_can_be_recorded_as_what_it_stands_for() {
    let (mut rig, id, stream) = Rig::recording(|config| {
        config.segment = true;
        config.snaplen = 200;
    });
    let (frame, meta) = super_frame();
    rig.frame_to_guest(&frame, meta);
    rig.turn();
    rig.stop(id);
    let records = read(&stream.bytes()).records;
    assert_eq!(records.len(), 9);
    for record in records {
        assert_eq!((record.len, record.bytes.len()), (1054, 200));
        assert_eq!(record.note.to_string(), "slipway: flow=1");
    }
}

#[test]
fn segments_have_checksums_of_their_own() {
    let (mut rig, id, stream) = Rig::recording(|config| config.segment = true);
    let (frame, meta) = super_frame();
    rig.frame_to_guest(&frame, meta);
    rig.turn();
    rig.stop(id);
    let records = read(&stream.bytes()).records;
    assert_eq!(records.len(), 9);
    assert!(records.iter().all(|record| has_right_checksums(&record.bytes)));
}

#[test]
fn a_super_frame_that_is_none_is_recorded_as_it_is() {
    let (mut rig, id, stream) = Rig::recording(|config| config.segment = true);
    let (_, meta) = super_frame();
    rig.frame_from_guest(&udp6(b"datagram"), meta);
    rig.turn();
    rig.stop(id);
    let records = read(&stream.bytes()).records;
    assert_eq!(records[0].bytes, udp6(b"datagram"));
    assert_eq!(records[0].note.checksum, Some(NotedChecksum::PartialAt { start: 34, offset: 16 }));
}

#[test]
fn only_what_the_filter_chooses_is_recorded() {
    let (mut rig, id, stream) = Rig::recording(|config| config.filter = "drops or udp".parse().ok());
    for dropped in [false, true] {
        rig.frame_from_guest(&ping(1), FrameMeta::default());
        if dropped {
            rig.recorder.was_dropped("source");
        }
        rig.turn();
    }
    rig.frame_to_guest(&udp6(b"answer"), FrameMeta::default());
    rig.frame_to_guest(&ping(1), FrameMeta::default());
    rig.turn();
    assert_eq!(rig.stop(id).records, 2);
    let records = read(&stream.bytes()).records;
    assert_eq!(records[0].note.drop.as_deref(), Some("source"));
    assert_eq!(records[1].bytes, udp6(b"answer"));
}

#[test]
fn a_reader_that_is_slow_gets_headers_first_and_then_less_and_it_is_counted() {
    let (mut rig, id, stream) = Rig::recording(|config| config.memory = 0);
    stream.set(|state| state.held = true);
    let frame = tcp(None, &[1; 60_000]);
    let sent = 8_000;
    for _ in 0..sent {
        rig.frame_to_guest(&frame, FrameMeta::default());
        rig.turn();
    }
    let tally = rig.recorder.tally();
    assert!(tally.cut > 0 && tally.dropped > 0, "{tally:?}");
    assert_eq!(tally.recorded + tally.dropped, sent);
    stream.set(|state| state.held = false);
    // Once there is room again, everything is kept again.
    loop {
        rig.turn();
        let before = rig.recorder.tally().cut + rig.recorder.tally().dropped;
        rig.frame_to_guest(&frame, FrameMeta::default());
        if rig.recorder.tally().cut + rig.recorder.tally().dropped == before {
            break;
        }
        std::thread::yield_now();
    }
    rig.turn();
    let info = rig.stop(id);
    let records = read(&stream.bytes()).records;
    assert_eq!(records.len() as u64, info.records);
    assert_eq!(records.iter().map(|record| record.lost).sum::<u64>(), info.dropped);
    assert_eq!(records.iter().filter(|record| record.note.cut == Some(128)).count() as u64, info.cut);
    for record in &records {
        assert_eq!(record.len, frame.len());
        let kept = if record.note.cut.is_some() { 128 } else { frame.len() };
        assert!(record.bytes == frame[..kept]);
    }
    assert!(records.last().unwrap().note.cut.is_none());
}

#[test]
fn batches_are_used_again() {
    let (mut rig, id, stream) = Rig::recording(|_| ());
    for turn in 1..=50 {
        for _ in 0..64 {
            rig.frame_from_guest(&ping(1), FrameMeta::default());
        }
        while rig.recorder.list()[0].records < turn * 64 {
            rig.turn();
            std::thread::yield_now();
        }
    }
    assert!(rig.recorder.batches() <= 2, "{}", rig.recorder.batches());
    rig.stop(id);
    assert_eq!(read(&stream.bytes()).records.len(), 50 * 64);
}

#[test]
fn a_full_disk_ends_the_capture_and_what_was_written_can_be_read() {
    let (mut rig, id, stream) = Rig::recording(|_| ());
    stream.set(|state| state.limit = Some(100_000));
    while rig.recorder.list()[0].failure.is_none() {
        rig.frame_to_guest(&tcp(None, &[1; 60_000]), FrameMeta::default());
        rig.turn();
        std::thread::yield_now();
    }
    // Nothing is recorded any more, and nothing else happens.
    rig.frame_to_guest(&arp(), FrameMeta::default());
    rig.turn();
    let info = rig.stop(id);
    assert_eq!(info.failure.as_deref(), Some("there is no space left for it"));
    assert_eq!(stream.bytes().len(), 100_000);
    assert_eq!(read(&stream.bytes()).records.len(), 1);
}

#[test]
fn captures_do_not_disturb_each_other() {
    let (mut rig, all, everything) = Rig::recording(|_| ());
    let some = Stream::default();
    let mut config = CaptureConfig::to_stream("another", some.clone());
    config.filter = "arp".parse().ok();
    rig.frame_from_guest(&ping(1), FrameMeta::default());
    let second = rig.start(config);
    rig.frame_from_guest(&arp(), FrameMeta::default());
    rig.turn();
    assert_eq!(rig.recorder.list().iter().map(|info| info.id).collect::<Vec<_>>(), [all, second]);
    assert_eq!(rig.stop(all).records, 2);
    rig.frame_from_guest(&arp(), FrameMeta::default());
    rig.turn();
    assert_eq!(rig.stop(second).records, 2);
    assert_eq!((read(&everything.bytes()).records.len(), read(&some.bytes()).records.len()), (2, 2));
    assert!(!rig.recorder.is_on());
    assert_eq!(rig.recorder.tally().recorded, 4);
}

#[test]
fn a_port_of_the_same_number_is_another_interface() {
    let (mut rig, id, stream) = Rig::recording(|_| ());
    rig.frame_to_guest(&arp(), FrameMeta::default());
    rig.recorder.port_removed(PORT);
    rig.frame_to_guest(&arp(), FrameMeta::default());
    rig.recorder.port_added(PORT, "tap1", Offloads::NONE, 9000);
    rig.frame_to_guest(&arp(), FrameMeta::default());
    rig.stop(id);
    let recording = read(&stream.bytes());
    let names: Vec<_> = recording.ports.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((names, recording.records.len()), (vec!["tap0", "tap1"], 2));
}

#[test]
fn old_files_are_renamed_and_the_oldest_are_lost() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("net.pcapng");
    let mut rig = Rig::new();
    let mut config = CaptureConfig::to_file(&path);
    config.rotation = Some(Rotation { size: 10_000, files: 3 });
    let id = rig.start(config);
    for n in 0..50_u8 {
        rig.frame_to_guest(&tcp(None, &[n; 1000]), FrameMeta::default());
        rig.turn();
    }
    let info = rig.stop(id);
    assert_eq!((info.records, info.failure), (50, None));
    let mut names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["net.pcapng", "net.pcapng.1", "net.pcapng.2"]);
    // The last frames, none missing, in files that stand alone.
    let mut seen = Vec::new();
    for name in names.iter().rev() {
        let file = std::fs::read(directory.path().join(name)).unwrap();
        assert!(file.len() <= 10_000 && file.len() > 1000);
        let recording = read(&file);
        assert_eq!((recording.ports.len(), recording.section.unwrap().epoch), (1, EPOCH));
        seen.extend(recording.records.iter().map(|record| record.bytes[100]));
    }
    assert_eq!(seen, (50 - seen.len() as u8..50).collect::<Vec<_>>());
    assert!(seen.len() > 16);
}

#[test]
fn a_recording_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("net.pcapng");
    let mut rig = Rig::new();
    let id = rig.start(CaptureConfig::to_file(&path));
    rig.stop(id);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(read(&std::fs::read(&path).unwrap()).section.is_some(), "a file without frames can be read too");
}

#[test]
fn what_cannot_be_a_recording_is_refused_in_words() {
    let missing = CaptureConfig::to_file("/nowhere/net.pcapng").open().unwrap_err();
    assert_eq!(missing.to_string(), "cannot write the capture to /nowhere/net.pcapng");
    let mut config = CaptureConfig::to_file("/dev/null");
    config.rotation = Some(Rotation { size: 10_000, files: 1 });
    assert!(matches!(config.open(), Err(CaptureError::Rotation(_))));
    let mut rig = Rig::new();
    for _ in 0..16 {
        rig.start(CaptureConfig::to_file("/dev/null"));
    }
    let opened = CaptureConfig::to_file("/dev/null").open().unwrap();
    assert!(matches!(rig.recorder.start(opened, EPOCH, 1500), Err(CaptureError::TooMany(16))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a guest sends, and says about it, is recorded so that it can be read.
    #[test]
    fn every_frame_is_recorded(
        frames in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..300), any::<(u16, u16, u16)>(), 0..4_usize, 0..4_usize), 1..8),
        segment: bool,
    ) {
        let (mut rig, id, stream) = Rig::recording(|config| config.segment = segment);
        for (noise, (start, offset, size), kind, template) in &frames {
            let mut frame = [tcp(Some(1), noise), udp6(noise), ping(1), noise.clone()][*template].clone();
            for byte in noise.iter().take(2) {
                let at = usize::from(*byte) % frame.len().max(1);
                frame.get_mut(at).into_iter().for_each(|place| *place ^= 0x55);
            }
            let (start, offset) = if size % 2 == 0 { (34, 16) } else { (start % 80, offset % 20) };
            let kinds = [None, Some(GsoKind::TcpV4), Some(GsoKind::TcpV6), Some(GsoKind::Udp)];
            let gso = kinds[*kind].map(|kind| Gso { kind, size: size % 400 + 1, ecn: false });
            rig.frame_from_guest(&frame, FrameMeta { checksum: Checksum::Partial { start, offset }, gso });
        }
        rig.turn();
        let info = rig.stop(id);
        prop_assert_eq!(info.failure, None);
        let records = read(&stream.bytes()).records;
        prop_assert_eq!(records.len() as u64, info.records);
        prop_assert!(records.len() >= frames.len());
    }
}
