//! The recordings in `pcap-fixtures/`: the engine still answers as it did when they were made.

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

use std::fs;
use std::path::{Path, PathBuf};

use netstack::pcap::read::{Direction, read};
use netstack::replay::sidecar::Sidecar;
use netstack::replay::{Options, Report, replay};

/// All recordings: the groups are directories.
fn recordings() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pcap-fixtures");
    let groups = fs::read_dir(directory).unwrap().map(|group| group.unwrap().path()).filter(|path| path.is_dir());
    let files = groups.flat_map(|group| fs::read_dir(group).unwrap().map(|file| file.unwrap().path()).collect::<Vec<_>>());
    let mut recordings: Vec<_> = files.filter(|path| path.extension().is_some_and(|extension| extension == "pcapng")).collect();
    recordings.sort();
    recordings
}

fn play(path: &Path, file: &[u8]) -> Report {
    let sidecar = Sidecar::beside(path).unwrap_or_else(|error| panic!("{error}"));
    replay(file, sidecar, &Options::default()).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_recording_replays() {
    let recordings = recordings();
    assert!(recordings.len() >= 30, "only {} recordings: where are the others?", recordings.len());
    let mut different = Vec::new();
    for path in &recordings {
        let report = play(path, &fs::read(path).unwrap());
        assert!(report.problem.is_none(), "{}: {:?}", path.display(), report.problem);
        assert!(report.compared > 0, "{} has no packet of the engine", path.display());
        different.extend(report.differences.first().map(|difference| format!("{}: {difference:?}", path.display())));
    }
    assert!(different.is_empty(), "{} recordings differ:\n{}", different.len(), different.join("\n"));
}

#[test]
fn every_recording_tells_its_story_in_one_line() {
    for path in recordings() {
        let story = Sidecar::beside(&path).unwrap().story.unwrap_or_default();
        assert!(!story.trim().is_empty() && !story.contains('\n'), "{} has no story", path.display());
    }
}

#[test]
fn all_recordings_together_are_small() {
    let bytes: u64 = recordings().iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(bytes < 2 << 20, "{bytes} bytes");
}

/// Recordings of what is strange, and yet has to be answered or passed on.
const STRANGE: [&str; 5] = ["burst", "ipv4-options", "protocols-with-addresses", "tftp-short", "urgent-pointer"];

#[test]
fn what_makes_no_sense_is_a_counted_drop() {
    let malformed = recordings().into_iter().filter(|path| path.parent().unwrap().ends_with("malformed"));
    for path in malformed.filter(|path| !STRANGE.contains(&path.file_stem().unwrap().to_str().unwrap())) {
        let file = fs::read(&path).unwrap();
        let recording = read(&file).unwrap();
        let drops = recording.packets.iter().flat_map(|packet| &packet.comments).filter(|comment| comment.contains(" drop="));
        assert!(drops.count() > 0, "{}: nothing was dropped", path.display());
    }
}

/// Bytes of an Enhanced Packet Block before the packet (draft-ietf-opsawg-pcapng section 4.3).
const BLOCK_HEADER: usize = 28;

/// The recording with one bit changed, in byte `at` of the last packet of the engine.
fn broken(path: &Path, at: usize) -> Vec<u8> {
    let mut file = fs::read(path).unwrap();
    let recording = read(&file).unwrap();
    let last = recording.packets.iter().rfind(|packet| packet.direction == Some(Direction::Outbound)).unwrap();
    let place = usize::try_from(last.offset).unwrap() + BLOCK_HEADER + at;
    file[place] ^= 1;
    file
}

#[test]
fn a_recording_that_was_tampered_with_names_the_field() {
    let recording = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../pcap-fixtures").join(name);
    for (name, at, field) in [
        ("icmp/echo.pcapng", 22, "ip.ttl"),
        ("tcp/refused.pcapng", 47, "tcp.flags"),
        ("tcp/echo.pcapng", 49, "tcp.window"),
        ("arp/gateway-and-dns.pcapng", 31, "arp.sender"),
        ("dhcp/lease.pcapng", 61, "dhcp.your_address"),
    ] {
        let path = recording(name);
        let report = play(&path, &broken(&path, at));
        let fields: Vec<_> = report.differences.iter().map(|difference| difference.field.as_str()).collect();
        assert!(fields.contains(&field), "{name}: {fields:?} and not {field}");
    }
}
