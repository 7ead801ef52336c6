//! Takes a frame apart into named fields, so that a difference can be told by its name.
//!
//! Everything that is in a frame is in some field, except what may differ from run to run: the identification of an IPv4 packet, and where
//! the engine's sequence numbers begin. Checksums are told as right or wrong, for their value follows from the rest.

mod application;
mod internet;
mod transport;

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use crate::pcap::note::{Note, NotedChecksum};

/// One field of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: Cow<'static, str>,
    pub(super) value: Value,
}

/// What a field holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Bytes(Vec<u8>),
}

/// Where the sequence numbers of a TCP connection begin.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Base {
    pub(super) engine: u32,
    pub(super) guest: u32,
}

/// The fields found so far.
#[derive(Debug, Default)]
struct Fields(Vec<Field>);

impl Fields {
    fn text(&mut self, name: impl Into<Cow<'static, str>>, value: impl fmt::Display) {
        self.0.push(Field { name: name.into(), value: Value::Text(value.to_string()) });
    }

    fn bytes(&mut self, name: impl Into<Cow<'static, str>>, value: &[u8]) {
        self.0.push(Field { name: name.into(), value: Value::Bytes(value.to_vec()) });
    }

    /// Bytes that are there only sometimes.
    fn rest(&mut self, name: impl Into<Cow<'static, str>>, value: &[u8]) {
        if !value.is_empty() {
            self.bytes(name, value);
        }
    }
}

/// The fields of a frame to a guest, as a file has it.
pub(super) fn dissect(frame: &[u8], note: &Note, base: Base) -> Vec<Field> {
    let mut fields = Fields::default();
    internet::ethernet(&mut fields, frame, base);
    if let Some((kind, size)) = note.gso {
        fields.text("meta.gso", format_args!("{kind:?} in segments of {size}"));
    }
    match note.checksum {
        None => {}
        Some(NotedChecksum::Verified) => fields.text("meta.checksum", "verified"),
        Some(NotedChecksum::Partial) => fields.text("meta.checksum", "left to the receiver"),
        Some(NotedChecksum::PartialAt { start, offset }) => {
            fields.text("meta.checksum", format_args!("left to the receiver, from {start} at {offset}"));
        }
    }
    fields.0
}

/// A frame in one line.
pub(super) fn summary(frame: &[u8], base: Base) -> String {
    let fields = dissect(frame, &Note::default(), base);
    let text = |name: &str| {
        fields.iter().find(|field| field.name == name).and_then(|field| match &field.value {
            Value::Text(text) => Some(text.as_str()),
            Value::Bytes(_) => None,
        })
    };
    let mut line = String::new();
    let tells = [
        ("arp.operation", ""),
        ("arp.sender", "of "),
        ("arp.target", "to "),
        ("tcp.flags", ""),
        ("tcp.seq", "seq "),
        ("tcp.ack", "ack "),
        ("tcp.window", "window "),
        ("dhcp.option.53", "DHCP "),
        ("dhcp.your_address", "yiaddr "),
        ("dns.id", "DNS "),
        ("icmp.type", "ICMP "),
        ("icmp.code", "code "),
    ];
    for (name, label) in tells {
        if let Some(value) = text(name) {
            let gap = if line.is_empty() { "" } else { " " };
            let _ = write!(line, "{gap}{label}{value}");
        }
    }
    let payload = fields.iter().find(|field| field.name.ends_with(".payload"));
    if let Some(Field { value: Value::Bytes(bytes), .. }) = payload {
        let _ = write!(line, " {} bytes", bytes.len());
    }
    if line.is_empty() { format!("a frame of {} bytes", frame.len()) } else { line.trim().to_owned() }
}

/// A number of 16 bits, or 0 where there is none.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |field| u16::from_be_bytes(*field))
}

/// A number of 32 bits, or 0 where there is none.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |field| u32::from_be_bytes(*field))
}

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

const fn right(sound: bool) -> &'static str {
    if sound { "right" } else { "wrong" }
}
