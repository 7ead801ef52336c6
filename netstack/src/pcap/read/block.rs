//! The blocks of pcapng: a type, a length, what is in it, and the length again.
//!
//! A section begins with a header that says the byte order of all its blocks, and numbers its interfaces from 0 again.

use std::borrow::Cow;

use pcap_parser::pcapng::{
    OptionCode, PcapNGOption, parse_enhancedpacketblock_be, parse_enhancedpacketblock_le, parse_interfacedescriptionblock_be,
    parse_interfacedescriptionblock_le, parse_option_be, parse_option_le, parse_sectionheaderblock, parse_simplepacketblock_be,
    parse_simplepacketblock_le,
};
use pcap_parser::traits::PcapNGPacketBlock;

use super::{Direction, ETHERNET, Format, Interface, MAX_INTERFACES, MAX_PACKET, Packet, Problem, Recording, What};

pub(super) const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
/// Obsolete: older captures have it instead of [`ENHANCED_PACKET`].
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// What every block has: its type and its length, twice.
const FRAMING: usize = 12;

/// The bytes of an obsolete packet block before its data.
const PACKET_HEADER: usize = 28;

const FLAGS: OptionCode = OptionCode(2);

/// What is remembered of an interface to read its packets.
#[derive(Debug, Clone, Copy)]
struct Clock {
    /// Which of all the file's interfaces it is.
    index: usize,
    /// What `if_tsresol` says: a power of ten, or of two if the highest bit is set.
    resolution: u8,
    /// Seconds to add.
    offset: i64,
}

impl Clock {
    /// Nanoseconds since 1970 of a stamp.
    fn nanoseconds(self, high: u32, low: u32) -> u64 {
        let ticks = u128::from(u64::from(high) << 32 | u64::from(low));
        let exponent = u32::from(self.resolution & 0x7f);
        let base: u128 = if self.resolution & 0x80 == 0 { 10 } else { 2 };
        // What is finer than all that can be said is nothing.
        let since = base.checked_pow(exponent).map_or(0, |unit| ticks * 1_000_000_000 / unit);
        let since = i128::try_from(since).unwrap_or(i128::MAX);
        let all = since.saturating_add(i128::from(self.offset) * 1_000_000_000);
        u64::try_from(all.max(0)).unwrap_or(u64::MAX)
    }
}

struct Reader<'a> {
    recording: Recording<'a>,
    sections: usize,
    big_endian: bool,
    /// The interfaces of this section.
    clocks: Vec<Clock>,
    /// Packets so far, of all interfaces.
    number: usize,
}

pub(super) fn read(bytes: &[u8]) -> Result<Recording<'_>, Problem> {
    let recording = Recording::new(Format::PcapNg);
    let mut reader = Reader { recording, sections: 0, big_endian: false, clocks: Vec::new(), number: 0 };
    let mut offset = 0;
    while offset < bytes.len() {
        match reader.block(&bytes[offset..], offset as u64) {
            Ok(len) => offset += len,
            // Without its header, the file says nothing at all.
            Err(what) if reader.sections == 0 => return Err(Problem { offset: offset as u64, what }),
            Err(what) => {
                reader.recording.problem = Some(Problem { offset: offset as u64, what });
                break;
            }
        }
    }
    Ok(reader.recording.finish())
}

impl<'a> Reader<'a> {
    /// Takes the block at the beginning of `rest`. Returns its length.
    fn block(&mut self, rest: &'a [u8], offset: u64) -> Result<usize, What> {
        let place = self.place_of(rest);
        let has = rest.len() as u64;
        if rest.len() < FRAMING {
            return Err(What::Truncated { place, needs: FRAMING as u64, has });
        }
        let big_endian = self.order_of(rest)?;
        let len = number(rest, 4, big_endian) as usize;
        if len < FRAMING || !len.is_multiple_of(4) {
            return Err(What::Damaged { place, why: "its length is none that a block can have" });
        }
        let Some(block) = rest.get(..len) else {
            return Err(What::Truncated { place, needs: len as u64, has });
        };
        if number(block, len - 4, big_endian) as usize != len {
            return Err(What::Damaged { place, why: "its length at its end is another than at its beginning" });
        }
        let kind = number(block, 0, big_endian);
        let understood = match kind {
            SECTION_HEADER => self.section(block, big_endian),
            INTERFACE_DESCRIPTION => self.interface(block, offset)?,
            ENHANCED_PACKET => self.enhanced(block, offset)?,
            SIMPLE_PACKET => self.simple(block, offset)?,
            PACKET => self.obsolete(block, offset)?,
            // Statistics, names, secrets, and what others have made up.
            _ => Some(()),
        };
        understood.ok_or(What::Damaged { place, why: "what is in it does not fit its length" })?;
        Ok(len)
    }

    fn place_of(&self, rest: &[u8]) -> &'static str {
        let kind =
            rest.first_chunk().map(|kind| if self.big_endian { u32::from_be_bytes(*kind) } else { u32::from_le_bytes(*kind) });
        match kind {
            Some(SECTION_HEADER) => "section header",
            Some(INTERFACE_DESCRIPTION) => "interface",
            Some(ENHANCED_PACKET | SIMPLE_PACKET | PACKET) => "packet",
            _ => "block",
        }
    }

    /// The byte order of a block: its own if it is a section header, else that of its section.
    fn order_of(&self, rest: &[u8]) -> Result<bool, What> {
        // The type of a section header is the same in both orders.
        if number(rest, 0, false) != SECTION_HEADER {
            return Ok(self.big_endian);
        }
        match number(rest, 8, false) {
            0x1a2b_3c4d => Ok(false),
            0x4d3c_2b1a => Ok(true),
            _ => Err(What::Damaged { place: "section header", why: "it has no byte-order magic" }),
        }
    }

    fn section(&mut self, block: &'a [u8], big_endian: bool) -> Option<()> {
        let (_, header) = parse_sectionheaderblock(block).ok()?;
        if self.sections == 0 {
            self.recording.application = text(&header.options, OptionCode::ShbUserAppl);
            self.recording.comments = comments(&header.options);
        }
        self.sections += 1;
        self.big_endian = big_endian;
        self.clocks.clear();
        Some(())
    }

    fn interface(&mut self, block: &'a [u8], offset: u64) -> Result<Option<()>, What> {
        let parsed =
            if self.big_endian { parse_interfacedescriptionblock_be(block) } else { parse_interfacedescriptionblock_le(block) };
        let Ok((_, description)) = parsed else { return Ok(None) };
        let index = self.recording.interfaces.len();
        if index >= MAX_INTERFACES {
            return Err(What::TooManyInterfaces);
        }
        let options = &description.options;
        let link_type = description.linktype.0 as u32;
        // `pcap-parser` reads the seconds in one byte order only.
        let seconds = value(options, OptionCode::IfTsoffset).and_then(|value| value.first_chunk());
        let seconds =
            seconds.map_or(0, |value| if self.big_endian { i64::from_be_bytes(*value) } else { i64::from_le_bytes(*value) });
        let resolution = value(options, OptionCode::IfTsresol).and_then(<[u8]>::first).copied().unwrap_or(6);
        self.clocks.push(Clock { index, resolution, offset: seconds });
        if link_type != ETHERNET {
            self.recording.remarks.push(Problem { offset, what: What::LinkType(link_type) });
        }
        self.recording.interfaces.push(Interface {
            name: text(options, OptionCode::IfName),
            link_type,
            snaplen: description.snaplen,
            comments: comments(options),
        });
        Ok(Some(()))
    }

    fn enhanced(&mut self, block: &'a [u8], offset: u64) -> Result<Option<()>, What> {
        let parsed = if self.big_endian { parse_enhancedpacketblock_be(block) } else { parse_enhancedpacketblock_le(block) };
        let Ok((_, packet)) = parsed else { return Ok(None) };
        let Some(data) = packet.data.get(..packet.caplen as usize) else { return Ok(None) };
        let stamp = (packet.ts_high, packet.ts_low);
        self.packet(offset, packet.if_id, Some(stamp), packet.origlen, data, &packet.options)?;
        Ok(Some(()))
    }

    fn simple(&mut self, block: &'a [u8], offset: u64) -> Result<Option<()>, What> {
        let parsed = if self.big_endian { parse_simplepacketblock_be(block) } else { parse_simplepacketblock_le(block) };
        let Ok((_, packet)) = parsed else { return Ok(None) };
        let mut len = packet.orig_len() as usize;
        if let Some(clock) = self.clocks.first() {
            let snaplen = self.recording.interfaces[clock.index].snaplen as usize;
            len = if snaplen == 0 { len } else { len.min(snaplen) };
        }
        // It has no length of its own for what was kept; its data is all that the block has room for.
        let Some(data) = packet.data.get(..len.min(packet.data.len())) else { return Ok(None) };
        self.packet(offset, 0, None, packet.orig_len(), data, &[])?;
        Ok(Some(()))
    }

    fn obsolete(&mut self, block: &'a [u8], offset: u64) -> Result<Option<()>, What> {
        let word = |at| number(block, at, self.big_endian);
        if block.len() < PACKET_HEADER + 4 {
            return Ok(None);
        }
        // The interface's number has 16 bits, and a count of losses the others.
        let interface = if self.big_endian { word(8) >> 16 } else { word(8) & 0xffff };
        let (stamp, captured, original) = ((word(12), word(16)), word(20) as usize, word(24));
        let end = PACKET_HEADER.saturating_add(captured);
        let Some(data) = block[..block.len() - 4].get(PACKET_HEADER..end) else { return Ok(None) };
        let mut rest = block[..block.len() - 4].get(end.next_multiple_of(4)..).unwrap_or_default();
        let mut options = Vec::new();
        while !rest.is_empty() {
            let parsed = if self.big_endian { parse_option_be::<()>(rest) } else { parse_option_le::<()>(rest) };
            let Ok((after, option)) = parsed else { break };
            options.push(option);
            rest = after;
        }
        self.packet(offset, interface, Some(stamp), original, data, &options)?;
        Ok(Some(()))
    }

    fn packet(
        &mut self,
        offset: u64,
        interface: u32,
        stamp: Option<(u32, u32)>,
        original: u32,
        data: &'a [u8],
        options: &[PcapNGOption<'_>],
    ) -> Result<(), What> {
        self.number += 1;
        if data.len() > MAX_PACKET {
            return Err(What::TooLong(data.len() as u64));
        }
        let Some(clock) = self.clocks.get(interface as usize) else { return Err(What::NoInterface(interface)) };
        if self.recording.interfaces[clock.index].link_type != ETHERNET {
            return Ok(());
        }
        let flags = value(options, FLAGS).and_then(|value| value.first_chunk());
        let flags = flags.map_or(0, |flags| if self.big_endian { u32::from_be_bytes(*flags) } else { u32::from_le_bytes(*flags) });
        let before = self.recording.packets.last().map_or(0, |packet| packet.stamp);
        self.recording.packets.push(Packet {
            number: self.number,
            offset,
            // A simple packet has no stamp: it was at once with the one before it.
            stamp: stamp.map_or(before, |(high, low)| clock.nanoseconds(high, low)),
            interface: clock.index,
            direction: match flags & 3 {
                1 => Some(Direction::Inbound),
                2 => Some(Direction::Outbound),
                _ => None,
            },
            original_len: original as usize,
            data: Cow::Borrowed(data),
            comments: comments(options),
        });
        Ok(())
    }
}

/// The number of 32 bits at `at`, or 0 where there is none.
fn number(bytes: &[u8], at: usize, big_endian: bool) -> u32 {
    let Some(number) = bytes.get(at..).and_then(<[u8]>::first_chunk) else { return 0 };
    if big_endian { u32::from_be_bytes(*number) } else { u32::from_le_bytes(*number) }
}

/// The options up to the one that ends them.
fn until_end<'o, 'a>(options: &'o [PcapNGOption<'a>]) -> impl Iterator<Item = &'o PcapNGOption<'a>> {
    options.iter().take_while(|option| option.code != OptionCode::EndOfOpt)
}

fn value<'o>(options: &'o [PcapNGOption<'_>], code: OptionCode) -> Option<&'o [u8]> {
    until_end(options).find(|option| option.code == code).and_then(|option| option.as_bytes().ok())
}

fn text(options: &[PcapNGOption<'_>], code: OptionCode) -> Option<String> {
    value(options, code).map(|value| String::from_utf8_lossy(value).into_owned())
}

fn comments(options: &[PcapNGOption<'_>]) -> Vec<String> {
    let comments = until_end(options).filter(|option| option.code == OptionCode::Comment);
    comments.filter_map(|option| Some(String::from_utf8_lossy(option.as_bytes().ok()?).into_owned())).collect()
}
