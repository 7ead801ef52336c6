//! Holds what an engine sends against what a recording says that it sent.
//!
//! Conversation by conversation, in order. Where the two lists part, the nearest place is looked for from which on they agree again: what
//! lies between is told as different in a field, as missing, or as unexpected.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::conversation::Key;
use super::dissect::{self, Base, Field, Value};
use super::load::Scene;
use super::packet::{ACK, Icmp, Tcp};
use super::play::{Run, Sent};
use super::script::Script;
use super::sidecar::Clock;
use super::{Difference, Logged, translate};
use crate::pcap::write::Direction;
use crate::time::{Duration, Instant};

/// How far ahead a place is looked for from which on both agree again.
const WINDOW: usize = 6;

/// Bytes of a payload that are shown around the first that differs.
const SHOWN: usize = 16;

/// How much earlier or later a packet may be where the clock is virtual: turns that do nothing take a microsecond each.
const TOLERANCE: Duration = Duration::from_millis(1);

/// A field by name, as expected, and as it is.
type Differing = (String, Option<String>, Option<String>);

/// What came of a comparison.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// Packets of the engine that were held against others.
    pub(super) compared: usize,
    pub(super) differences: Vec<Difference>,
    pub(super) remarks: Vec<String>,
}

struct Judge<'a> {
    scene: &'a Scene,
    run: &'a Run,
    script: &'a Script,
    outcome: Comparison,
}

/// Compares a run with its recording.
pub(super) fn compare(scene: &Scene, script: &Script, run: &Run) -> Comparison {
    let mut lists: BTreeMap<Key, (Vec<&Logged>, Vec<&Sent>)> = BTreeMap::new();
    for (packet, key) in scene.packets.iter().zip(&scene.keys) {
        if packet.direction == Direction::ToGuest && !script.skipped.contains(key) {
            lists.entry(*key).or_default().0.push(packet);
        }
    }
    for sent in &run.sent {
        lists.entry(sent.key).or_default().1.push(sent);
    }
    let mut judge = Judge { scene, run, script, outcome: Comparison::default() };
    for (key, (mut expected, mut got)) in lists {
        if judge.varies("tcp.window") {
            expected = without_window_updates(expected, |packet| &packet.bytes);
            got = without_window_updates(got, |sent| &sent.bytes);
        }
        if scene.foreign && matches!(key, Key::Discovery(_)) {
            judge.without_announcements(&mut expected, &mut got);
        }
        judge.outcome.compared += expected.len();
        judge.conversation(key, &expected, &got);
    }
    judge.drops();
    judge.outcome.differences.sort_by_key(|difference| (difference.at_us, difference.packet));
    judge.outcome
}

/// Segments that say nothing but that the window is larger. Where windows are not compared, neither is whether they are told.
fn without_window_updates<T: Copy>(packets: Vec<T>, bytes: impl Fn(&T) -> &Vec<u8>) -> Vec<T> {
    let mut before: Option<Tcp> = None;
    let mut is_update = |packet: &T| {
        let Some(tcp) = Tcp::of(bytes(packet)) else { return false };
        let update = tcp.flags == ACK
            && tcp.payload.is_empty()
            && before.as_ref().is_some_and(|before| (before.seq, before.ack) == (tcp.seq, tcp.ack) && tcp.window > before.window);
        // What comes next begins where the payload ends.
        let end = tcp.seq.wrapping_add(tcp.payload.len() as u32);
        before = Some(Tcp { seq: end, ..tcp });
        update
    };
    packets.into_iter().filter(|packet| !is_update(packet)).collect()
}

impl Judge<'_> {
    fn varies(&self, field: &str) -> bool {
        let named = |name: &str| field.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        // Where a kernel was behind the engine, the window was the room in its socket.
        self.scene.clock == Clock::Real && named("tcp.window") || self.scene.sidecar.varies.iter().any(|name| named(name))
    }

    /// When a router makes itself known unasked cannot be told from a recording that does not say when the engine began.
    fn without_announcements(&mut self, expected: &mut Vec<&Logged>, got: &mut Vec<&Sent>) {
        let announces = |bytes: &[u8]| {
            Icmp::of(bytes).is_some_and(|icmp| icmp.kind == 134 && matches!(icmp.destination, IpAddr::V6(to) if to.is_multicast()))
        };
        let before = (expected.len(), got.len());
        expected.retain(|packet| !announces(&packet.bytes));
        got.retain(|sent| !announces(&sent.bytes));
        if (expected.len(), got.len()) != before {
            self.outcome
                .remarks
                .push("router advertisements to all are not compared: the recording does not say when the engine began".to_owned());
        }
    }

    fn base(&self, key: Key, recorded: bool) -> Base {
        let (of_file, of_run) = self.run.isns.get(&key).copied().unwrap_or_default();
        let guest = self.script.plans.get(&key).and_then(|plan| plan.guest_isn).unwrap_or_default();
        Base { engine: if recorded { of_file } else { of_run }.unwrap_or_default(), guest }
    }

    fn conversation(&mut self, key: Key, expected: &[&Logged], got: &[&Sent]) {
        let (mut i, mut j) = (0, 0);
        while i < expected.len() && j < got.len() {
            let (skip, extra) = self.agree_again(key, &expected[i..], &got[j..]);
            let pairs = skip.min(extra);
            for n in 0..pairs {
                self.differ(key, expected[i + n], got[j + n]);
            }
            expected[i + pairs..i + skip].iter().for_each(|packet| self.missing(key, packet));
            got[j + pairs..j + extra].iter().for_each(|sent| self.unexpected(key, sent));
            i += skip;
            j += extra;
            if i < expected.len() && j < got.len() && self.fields(key, expected[i], got[j]).is_empty() {
                i += 1;
                j += 1;
            }
        }
        expected[i..].iter().for_each(|packet| self.missing(key, packet));
        got[j..].iter().for_each(|sent| self.unexpected(key, sent));
    }

    /// How many packets of each list to pass over until both agree.
    fn agree_again(&self, key: Key, expected: &[&Logged], got: &[&Sent]) -> (usize, usize) {
        if self.fields(key, expected[0], got[0]).is_empty() {
            return (0, 0);
        }
        for distance in 1..2 * WINDOW {
            // Of those equally near, the one that takes most for different and fewest for lost.
            let mut splits: Vec<(usize, usize)> = (0..=distance).map(|skip| (skip, distance - skip)).collect();
            splits.sort_by_key(|(skip, extra)| skip.abs_diff(*extra));
            for (skip, extra) in splits {
                if let (Some(a), Some(b)) = (expected.get(skip), got.get(extra))
                    && self.fields(key, a, b).is_empty()
                {
                    return (skip, extra);
                }
            }
        }
        (1, 1)
    }

    /// The fields in which two packets differ.
    fn fields(&self, key: Key, expected: &Logged, got: &Sent) -> Vec<Differing> {
        let mut differences = self.in_time(expected, got);
        differences.extend(self.in_bytes(key, expected, got));
        differences.retain(|(name, ..)| !self.varies(name));
        differences
    }

    /// In virtual time, things happen when they are due.
    fn in_time(&self, expected: &Logged, got: &Sent) -> Vec<Differing> {
        let late = expected.at.since(got.at).max(got.at.since(expected.at));
        if self.scene.clock == Clock::Real || late <= TOLERANCE {
            return Vec::new();
        }
        let told = |at: Instant| Some(format!("{} us", at.as_micros()));
        vec![("time".to_owned(), told(expected.at), told(got.at))]
    }

    fn in_bytes(&self, key: Key, expected: &Logged, got: &Sent) -> Vec<Differing> {
        let (of_file, of_run) = (self.base(key, true), self.base(key, false));
        let mut bytes = got.bytes.clone();
        let mut ours = of_run;
        if expected.bytes.len() < expected.original_len && bytes.len() == expected.original_len {
            bytes.truncate(expected.bytes.len());
        } else if matches!(key, Key::Tcp { .. }) {
            translate::sequence(&mut bytes, of_file.engine.wrapping_sub(of_run.engine));
            if bytes == expected.bytes && got.note.gso == expected.note.gso && got.note.checksum == expected.note.checksum {
                return Vec::new();
            }
            ours = of_file;
        }
        let mut expected_fields = dissect::dissect(&expected.bytes, &expected.note, of_file);
        let mut got_fields = dissect::dissect(&bytes, &got.note, ours);
        if self.scene.foreign {
            // Others do not say what was left to the receiver.
            let told = |field: &Field| {
                !(field.name.starts_with("meta.") || field.name.ends_with(".checksum") && expected.note.checksum.is_some())
            };
            expected_fields.retain(told);
            got_fields.retain(told);
        }
        between(&expected_fields, &got_fields)
    }

    fn differ(&mut self, key: Key, expected: &Logged, got: &Sent) {
        for (field, expected_value, got_value) in self.fields(key, expected, got) {
            self.outcome.differences.push(Difference {
                packet: Some(expected.number),
                at_us: expected.at.as_micros(),
                conversation: key.to_string(),
                field,
                expected: expected_value,
                got: got_value,
            });
        }
    }

    fn missing(&mut self, key: Key, packet: &Logged) {
        let summary = dissect::summary(&packet.bytes, self.base(key, true));
        self.outcome.differences.push(Difference {
            packet: Some(packet.number),
            at_us: packet.at.as_micros(),
            conversation: key.to_string(),
            field: "packet".to_owned(),
            expected: Some(summary),
            got: None,
        });
    }

    fn unexpected(&mut self, key: Key, sent: &Sent) {
        let summary = dissect::summary(&sent.bytes, self.base(key, false));
        self.outcome.differences.push(Difference {
            packet: None,
            at_us: sent.at.as_micros(),
            conversation: key.to_string(),
            field: "packet".to_owned(),
            expected: None,
            got: Some(summary),
        });
    }

    /// Why guests' packets went no further, where the recording says.
    fn drops(&mut self) {
        if self.scene.foreign || self.varies("drop") {
            return;
        }
        for (index, got) in &self.run.drops {
            let packet = &self.scene.packets[*index];
            let expected = packet.note.drop.as_deref();
            // How full a port was is not in a recording.
            if expected != *got && expected != Some("port_full") {
                self.outcome.differences.push(Difference {
                    packet: Some(packet.number),
                    at_us: packet.at.as_micros(),
                    conversation: self.scene.keys[*index].to_string(),
                    field: "drop".to_owned(),
                    expected: expected.map(ToOwned::to_owned),
                    got: got.map(ToOwned::to_owned),
                });
            }
        }
    }
}

/// The fields that are not the same in both, in the order of the frame.
fn between(expected: &[Field], got: &[Field]) -> Vec<Differing> {
    let mut differences = Vec::new();
    let mut unmatched: Vec<&Field> = got.iter().collect();
    for field in expected {
        // An option may be there twice: the first of its name is meant.
        let place = unmatched.iter().position(|other| other.name == field.name);
        match place.map(|place| unmatched.remove(place)) {
            Some(other) if other.value == field.value => {}
            Some(other) => {
                let (a, b) = told(&field.value, &other.value);
                differences.push((field.name.to_string(), Some(a), Some(b)));
            }
            None => differences.push((field.name.to_string(), Some(alone(&field.value)), None)),
        }
    }
    differences.extend(unmatched.into_iter().map(|field| (field.name.to_string(), None, Some(alone(&field.value)))));
    differences
}

fn alone(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Bytes(bytes) => line(bytes, 0),
    }
}

/// Two values, as far as it takes to see where they differ.
fn told(a: &Value, b: &Value) -> (String, String) {
    let (Value::Bytes(a), Value::Bytes(b)) = (a, b) else { return (alone(a), alone(b)) };
    let first = a.iter().zip(b).position(|(a, b)| a != b).unwrap_or_else(|| a.len().min(b.len()));
    (line(a, first), line(b, first))
}

/// A line of a hex dump, with the byte at `first` in it.
fn line(bytes: &[u8], first: usize) -> String {
    let from = first - first % SHOWN;
    let shown = &bytes[from.min(bytes.len())..bytes.len().min(from + SHOWN)];
    let hex: Vec<_> = shown.iter().map(|byte| format!("{byte:02x}")).collect();
    let text: String =
        shown.iter().map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' }).collect();
    format!("{} bytes, first difference at {first}: {from:04x}  {}  {text}", bytes.len(), hex.join(" "))
}
