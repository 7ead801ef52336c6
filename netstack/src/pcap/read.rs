//! Reading capture files: pcap in microseconds and nanoseconds, and pcapng (draft-ietf-opsawg-pcapng), each in both byte orders.
//!
//! The blocks are taken apart by `pcap-parser`. What it leaves to its caller is done here: finding where a block ends, which interface a
//! packet is of, and what a stamp means.
//!
//! What always holds, whatever is in the file:
//!
//! - No length field is believed. What it claims must be there, and nothing is allocated for what is not.
//! - Everything before the first mistake can be used: [`Recording::problem`] says where reading ended and why.
//! - A packet's number is the one that wireshark shows: every packet of the file counts, also one that is of no use here.

mod block;
mod legacy;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;

/// The longest packet that is believed. A larger one is a damaged length field: captures of 256 KiB a packet are the most that libpcap
/// makes, and a frame here is at most 64 KiB long.
pub const MAX_PACKET: usize = 256 << 10;

/// The most interfaces that one file can have.
const MAX_INTERFACES: usize = 4096;

/// LINKTYPE_ETHERNET.
const ETHERNET: u32 = 1;

/// What could be read of a capture file. The packets' bytes are those of the file.
#[derive(Debug, Clone)]
pub struct Recording<'a> {
    /// Which of the formats it is.
    pub format: Format,
    /// The program that wrote it, by its own account.
    pub application: Option<String>,
    /// The comments on the file as a whole: on its first section.
    pub comments: Vec<String>,
    /// The interfaces of all sections, in the order in which they were described.
    pub interfaces: Vec<Interface>,
    /// The packets of Ethernet interfaces, in the order of the file.
    pub packets: Vec<Packet<'a>>,
    /// What was passed over, and what looks wrong though it can be used.
    pub remarks: Vec<Problem>,
    /// Why reading ended before the end of the file, if it did.
    pub problem: Option<Problem>,
}

/// A file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// pcap: one link type, no comments.
    Pcap,
    /// pcapng: interfaces and comments.
    PcapNg,
}

/// Where packets were recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: Option<String>,
    /// Its LINKTYPE: 1 is Ethernet, and packets of others are passed over.
    pub link_type: u32,
    /// The most bytes that were kept of a packet; 0 for all.
    pub snaplen: u32,
    /// Comments on it.
    pub comments: Vec<String>,
}

/// Which way a packet went, if the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Into the machine that recorded.
    Inbound,
    /// Out of it.
    Outbound,
}

/// A recorded packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Which packet of the file it is, counted from 1.
    pub number: usize,
    /// Where its record begins, in bytes from the beginning of the file.
    pub offset: u64,
    /// When it was recorded, in nanoseconds since 1970.
    pub stamp: u64,
    /// Which of the interfaces it is of.
    pub interface: usize,
    /// Which way it went.
    pub direction: Option<Direction>,
    /// How long it was. What is there may be less.
    pub original_len: usize,
    /// Its bytes, from the Ethernet header on.
    pub data: Cow<'a, [u8]>,
    /// Comments on it.
    pub comments: Vec<String>,
}

impl Packet<'_> {
    /// Whether only the beginning was recorded.
    pub fn is_cut(&self) -> bool {
        self.data.len() < self.original_len
    }
}

/// A mistake in a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Bytes from the beginning of the file.
    pub offset: u64,
    /// What it is.
    pub what: What,
}

impl std::error::Error for Problem {}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Nothing is in it.
    Empty,
    /// Neither of the formats.
    NoCapture([u8; 4]),
    /// It ends within something.
    Truncated {
        /// In what.
        place: &'static str,
        /// Bytes that should follow.
        needs: u64,
        /// Bytes that do.
        has: u64,
    },
    /// A record that contradicts itself.
    Damaged {
        /// Which.
        place: &'static str,
        /// How.
        why: &'static str,
    },
    /// A packet of more than [`MAX_PACKET`] bytes.
    TooLong(u64),
    /// A packet of an interface that was not described.
    NoInterface(u32),
    /// More interfaces than are believed.
    TooManyInterfaces,
    /// Packets that do not begin with an Ethernet header.
    LinkType(u32),
    /// A packet that is older than one before it.
    Backwards {
        /// Which packet.
        number: usize,
        /// By how much, in nanoseconds.
        by: u64,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offset = self.offset;
        match &self.what {
            What::Empty => f.write_str("the file is empty"),
            What::NoCapture([a, b, c, d]) => {
                write!(f, "this is neither a pcap nor a pcapng file: it begins with {a:02x} {b:02x} {c:02x} {d:02x}")
            }
            What::Truncated { place, needs, has } => {
                write!(f, "truncated in the {place} at offset {offset}: {needs} bytes should follow, but the file ends after {has}")
            }
            What::Damaged { place, why } => write!(f, "damaged in the {place} at offset {offset}: {why}"),
            What::TooLong(len) => write!(
                f,
                "damaged in the packet at offset {offset}: it claims to be {len} bytes long, but no packet is longer than {MAX_PACKET}"
            ),
            What::NoInterface(id) => {
                write!(f, "damaged in the packet at offset {offset}: it is of interface {id}, which the file does not describe")
            }
            What::TooManyInterfaces => {
                write!(f, "damaged in the interface at offset {offset}: there are {MAX_INTERFACES} others before it")
            }
            What::LinkType(link_type) => write!(
                f,
                "the interface at offset {offset} has link type {link_type}{}, but only Ethernet (1) can be used",
                link_type_name(*link_type)
            ),
            What::Backwards { number, by } => {
                write!(
                    f,
                    "the time of packet {number} at offset {offset} is {} us before that of an earlier one",
                    by.div_ceil(1000)
                )
            }
        }
    }
}

/// The names of those that people meet: tcpdump on `any`, on a tun device, on wireless.
const fn link_type_name(link_type: u32) -> &'static str {
    match link_type {
        0 => " (BSD loopback)",
        101 | 228 | 229 => " (raw IP)",
        105 | 127 => " (IEEE 802.11)",
        113 | 276 => " (Linux cooked capture, as of `tcpdump -i any`)",
        _ => "",
    }
}

/// Reads a capture file.
///
/// # Errors
///
/// When it is no capture file, or a pcap file of another link type. A file that is damaged further on yields what is before the damage:
/// see [`Recording::problem`].
pub fn read(bytes: &[u8]) -> Result<Recording<'_>, Problem> {
    let Some(magic) = bytes.first_chunk::<4>() else {
        let what = if bytes.is_empty() {
            What::Empty
        } else {
            What::Truncated { place: "file header", needs: 24, has: bytes.len() as u64 }
        };
        return Err(Problem { offset: 0, what });
    };
    match u32::from_le_bytes(*magic) {
        block::SECTION_HEADER => block::read(bytes),
        0xa1b2_c3d4 | 0xa1b2_3c4d | 0xd4c3_b2a1 | 0x4d3c_b2a1 => legacy::read(bytes),
        _ => Err(Problem { offset: 0, what: What::NoCapture(*magic) }),
    }
}

impl<'a> Recording<'a> {
    const fn new(format: Format) -> Self {
        Self {
            format,
            application: None,
            comments: Vec::new(),
            interfaces: Vec::new(),
            packets: Vec::new(),
            remarks: Vec::new(),
            problem: None,
        }
    }

    /// Looks at the order of time, once all packets are there.
    fn finish(mut self) -> Self {
        let mut latest = 0;
        for packet in &self.packets {
            if packet.stamp < latest {
                let what = What::Backwards { number: packet.number, by: latest - packet.stamp };
                self.remarks.push(Problem { offset: packet.offset, what });
                // One says it all: a file of shuffled packets is not told packet by packet.
                break;
            }
            latest = packet.stamp;
        }
        self
    }
}
