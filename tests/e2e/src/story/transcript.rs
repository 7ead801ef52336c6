//! What a guest was told in a story, reduced to what matters, so that the accounts of two networks can be compared.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use super::frame::{Body, Datagram, Icmp, Segment, Told};

/// What was told in a frame: names and values. Numbers that every run has anew (sequence numbers, ids, ports of servers) are not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(BTreeMap<String, String>);

impl Fields {
    /// Nothing was told.
    pub fn none() -> Self {
        Self::one("told", "nothing")
    }

    /// Something was told, and there is nothing else to say about it.
    pub fn one(name: &str, value: impl fmt::Display) -> Self {
        let mut fields = Self::default();
        fields.set(name, value);
        fields
    }

    /// Adds a field.
    pub fn set(&mut self, name: &str, value: impl fmt::Display) {
        self.0.insert(name.to_owned(), value.to_string());
    }

    /// The fields of a frame. `named` says how addresses are called.
    pub fn of(told: &Told, named: impl Fn(SocketAddr) -> String) -> Self {
        match &told.body {
            Body::Arp(arp) => {
                let mut fields = Self::one("told", if arp.operation == 1 { "ARP request" } else { "ARP reply" });
                fields.set("sender", format_args!("{} at {}", arp.sender, card(&arp.sender_card)));
                fields.set("target", arp.target);
                fields
            }
            Body::Udp(datagram) => Self::of_datagram(datagram, named),
            Body::Icmp(icmp) => Self::of_icmp(icmp, told.hops),
            Body::Tcp(segment) => Self::of_segment(segment, named),
            Body::Other(text) => Self::one("told", text),
        }
    }

    fn of_datagram(datagram: &Datagram, named: impl Fn(SocketAddr) -> String) -> Self {
        let mut fields = Self::one("told", "a datagram");
        fields.set("from", named(datagram.source));
        fields.set("to", named(datagram.destination));
        fields.set("data", data(&datagram.payload));
        fields
    }

    fn of_icmp(icmp: &Icmp, hops: u8) -> Self {
        let mut fields = Self::one("told", format_args!("ICMP type {} code {}", icmp.kind, icmp.code));
        fields.set("from", icmp.source);
        fields.set("to", icmp.destination);
        fields.set("hop limit", hops);
        let error = if icmp.source.is_ipv4() { matches!(icmp.kind, 3 | 11 | 12) } else { icmp.kind < 128 };
        if icmp.is_discovery() {
            fields.of_discovery(icmp);
        } else if error {
            fields.set("quote", format_args!("{} bytes", icmp.payload.len()));
        } else {
            fields.set("id and number", format_args!("{:02x?}", icmp.rest));
            fields.set("data", data(&icmp.payload));
        }
        fields
    }

    fn of_discovery(&mut self, icmp: &Icmp) {
        let fixed = match icmp.kind {
            134 => 8,
            135 | 136 => 16,
            _ => 0,
        };
        if icmp.kind == 134 {
            self.set("hop limit for guests", icmp.rest[0]);
            self.set("flags", format_args!("{:#04x}", icmp.rest[1]));
            self.set("lifetime", u16::from_be_bytes([icmp.rest[2], icmp.rest[3]]));
        } else {
            self.set("flags", format_args!("{:#04x}", icmp.rest[0]));
            self.set("target", data(icmp.payload.get(..16).unwrap_or_default()));
        }
        let mut rest = icmp.payload.get(fixed..).unwrap_or_default();
        while let [kind, len, ..] = rest {
            let (option, tail) = rest.split_at(rest.len().min(usize::from(*len).max(1) * 8));
            self.set(&format!("option {kind}"), data(&option[2..]));
            rest = tail;
        }
    }

    fn of_segment(segment: &Segment, named: impl Fn(SocketAddr) -> String) -> Self {
        let mut fields = Self::one("told", segment_kind(segment));
        fields.set("from", named(segment.source));
        if segment.has(super::frame::SYN) {
            fields.set("MSS", segment.option(2).map_or_else(|| "none".to_owned(), |value| format!("{value:02x?}")));
            fields.set("options", format_args!("{:?}", segment.option_kinds()));
        }
        if !segment.payload.is_empty() {
            fields.set("data", data(&segment.payload));
        }
        fields
    }

    /// What is different between these and those: the name, these, those.
    pub fn compare(&self, other: &Self) -> Vec<(String, String, String)> {
        let mut names: Vec<_> = self.0.keys().chain(other.0.keys()).collect();
        names.sort();
        names.dedup();
        let value = |fields: &Self, name| fields.0.get(name).cloned().unwrap_or_else(|| "absent".to_owned());
        // Of different things, only that they are different is worth telling.
        if value(self, "told") != value(other, "told") {
            return vec![("told".to_owned(), value(self, "told"), value(other, "told"))];
        }
        names
            .into_iter()
            .map(|name| (name.clone(), value(self, name), value(other, name)))
            .filter(|(_, one, two)| one != two)
            .collect()
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.0.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        f.write_str(&texts.join(", "))
    }
}

/// SYN-ACK, RST and so on.
fn segment_kind(segment: &Segment) -> &'static str {
    use super::frame::{ACK, FIN, RST, SYN};
    if segment.has(RST) {
        "RST"
    } else if segment.has(SYN | ACK) {
        "SYN-ACK"
    } else if segment.has(SYN) {
        "SYN"
    } else if segment.has(FIN) {
        "FIN"
    } else if segment.payload.is_empty() {
        "ACK"
    } else {
        "data"
    }
}

fn card(octets: &[u8]) -> String {
    let texts: Vec<_> = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    texts.join(":")
}

/// Data in words: as text if it is some, by its length and digest if it is long.
pub fn data(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        "none".to_owned()
    } else if bytes.len() <= 40 && bytes.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
        format!("`{}`", String::from_utf8_lossy(bytes))
    } else if bytes.len() <= 32 {
        let texts: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        texts.join(" ")
    } else {
        let digest = netstack::host::sim::digest(netstack::host::sim::DIGEST_START, bytes);
        format!("{} bytes of digest {digest:016x}", bytes.len())
    }
}

/// All that a guest has taken down, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transcript {
    entries: Vec<(String, Fields)>,
}

/// Something that two networks have told differently.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// What it is about: the answer and its field.
    pub what: String,
    /// What the first has told.
    pub one: String,
    /// What the second has told.
    pub two: String,
}

impl Transcript {
    /// Takes something down.
    pub fn add(&mut self, what: &str, fields: Fields) {
        self.entries.push((what.to_owned(), fields));
    }

    /// Whether something was not as it should be.
    pub fn has_doubts(&self) -> bool {
        self.entries.iter().any(|(_, fields)| fields.0.contains_key("complaint") || fields.0.get("is so").is_some_and(|so| so == "no"))
    }

    /// What is different. Once one account ends, the other's is not compared further.
    pub fn compare(&self, other: &Self) -> Vec<Difference> {
        let mut differences = Vec::new();
        for ((what, one), (also, two)) in self.entries.iter().zip(&other.entries) {
            if what != also {
                differences.push(Difference { what: "the course of the story".to_owned(), one: what.clone(), two: also.clone() });
                break;
            }
            for (field, one, two) in one.compare(two) {
                differences.push(Difference { what: format!("{what}: {field}"), one, two });
            }
        }
        differences
    }
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries.iter().try_for_each(|(what, fields)| writeln!(f, "{what}: {fields}"))
    }
}
