//! Seeds out of recorded conversations: real messages of real clients are where a fuzzer gets furthest from.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;

use netstack::frame::{Checksum, FrameMeta, Gso, GsoKind};
use netstack::pcap::note::{Note, NotedChecksum};
use netstack::pcap::read::{Direction, Packet, Recording, read};

use crate::{dhcp, dhcp6, dns, engine, frame};

/// The longest file, and the longest frame, that is a seed.
const LONGEST_FILE: usize = 64 << 10;
const LONGEST_FRAME: usize = 4096;
/// Frames of one recording that are a seed together, at most.
const TOGETHER: usize = 60;

/// Seeds of each target, by its name. What is in several recordings is in here once.
pub type Found = BTreeMap<&'static str, BTreeSet<Vec<u8>>>;

/// The seeds in the recordings of a directory; none if there is no such directory.
///
/// # Errors
///
/// What the file system says.
pub fn seeds(directory: &Path) -> io::Result<Found> {
    let mut found = Found::new();
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            for (target, more) in seeds(&path)? {
                found.entry(target).or_default().extend(more);
            }
        } else if path.extension().is_some_and(|extension| extension == OsStr::new("pcap") || extension == OsStr::new("pcapng")) {
            take(&fs::read(&path)?, &mut found);
        }
    }
    Ok(found)
}

fn take(file: &[u8], found: &mut Found) {
    let mut add = |target, seed| found.entry(target).or_default().insert(seed);
    if file.len() <= LONGEST_FILE {
        add("capture_file", file.to_vec());
    }
    // Damaged ones are there too, and what can be read of them is as good as any.
    let Ok(recording) = read(file) else { return };
    let mut of_guests = Vec::new();
    for packet in recording.packets.iter().filter(|packet| packet.data.len() <= LONGEST_FRAME) {
        add("frame", frame::frame_seed(&packet.data, &meta_of(packet)));
        if packet.direction != Some(Direction::Outbound) {
            of_guests.push(&packet.data[..]);
        }
        if let Some((_, 67, message)) = datagram(&packet.data) {
            add("dhcp", dhcp::message_seed(message));
        }
        if let Some((_, 547, message)) = datagram(&packet.data) {
            add("dhcp6", dhcp6::message_seed(message));
        }
    }
    for together in of_guests.chunks(TOGETHER) {
        add("engine", engine::frames_seed(together.iter().copied()));
    }
    for seed in questions(&recording) {
        add("dns", seed);
    }
}

/// Questions to name servers with what was answered.
fn questions(recording: &Recording<'_>) -> Vec<Vec<u8>> {
    let datagrams = || recording.packets.iter().filter_map(|packet| datagram(&packet.data));
    let answers: BTreeMap<_, _> = datagrams()
        .filter(|(from, ..)| *from == 53)
        .filter_map(|(_, to, message)| Some(((to, message.get(..2)?), message)))
        .collect();
    let asked = datagrams().filter(|(_, to, _)| *to == 53);
    let seed = |(from, _, question): (u16, u16, &[u8])| {
        let answer = question.get(..2).and_then(|id| answers.get(&(from, id)));
        dns::question_seed(false, question, answer.copied().unwrap_or_default())
    };
    asked.map(seed).collect()
}

/// The ports and the payload of a UDP datagram in a frame, as far as a look at the usual places tells.
fn datagram(frame: &[u8]) -> Option<(u16, u16, &[u8])> {
    let transport = match frame.get(12..15)? {
        [8, 0, 0x45] if frame.get(23) == Some(&17) => 34,
        [0x86, 0xdd, _] if frame.get(20) == Some(&17) => 54,
        _ => return None,
    };
    let half = |at: usize| Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?));
    let len = usize::from(half(transport + 4)?);
    Some((half(transport)?, half(transport + 2)?, frame.get(transport + 8..transport + len.max(8))?))
}

/// The offload state that the recording tells of.
fn meta_of(packet: &Packet<'_>) -> FrameMeta {
    let note: Note = packet.comments.iter().find_map(|comment| comment.parse().ok()).unwrap_or_default();
    let start = if packet.data.get(12) == Some(&0x86) { 54 } else { 34 };
    let gso = note.gso.map(|(kind, size)| Gso { kind, size, ecn: false });
    let offset = if note.gso.is_some_and(|(kind, _)| kind == GsoKind::Udp) { 6 } else { 16 };
    let checksum = match note.checksum {
        Some(NotedChecksum::Partial) => Checksum::Partial { start, offset },
        Some(NotedChecksum::PartialAt { start, offset }) => Checksum::Partial { start, offset },
        Some(NotedChecksum::Verified) => Checksum::Verified,
        None => Checksum::Complete,
    };
    FrameMeta { checksum, gso }
}
