//! Writing pcapng, little-endian, with nanosecond stamps.
//!
//! The blocks that come once, of a section and of its interfaces, are written by `pcap-parser`. It builds a block in memory of its own,
//! which costs a copy and allocations; so the frames, which come a million times, are written here: their payload goes from where it lies
//! straight to the output.
//!
//! What always holds: a block is written whole by one call, and nothing is kept back. Who wants fewer system calls puts a
//! [`BufWriter`](io::BufWriter) in between, which passes large frames on without a copy.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IoSlice, Write};

use pcap_parser::{InterfaceDescriptionBlock, Linktype, OptionCode, PcapNGOption, SectionHeaderBlock, ToVec};

use super::note::{Note, PortNote, SectionNote};

/// Type of the Enhanced Packet Block, and its options (draft-ietf-opsawg-pcapng section 4.3).
const ENHANCED_PACKET: u32 = 6;
const COMMENT: u16 = 1;
const FLAGS: u16 = 2;
const DROP_COUNT: u16 = 4;

/// Bytes of an Enhanced Packet Block before the packet, and after it without options.
const HEAD: usize = 28;

/// Time resolution: 10⁻⁹ s.
const NANOSECONDS: u8 = 9;

/// Which way a frame went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the guest to the engine.
    FromGuest,
    /// From the engine, or another guest, to the guest.
    ToGuest,
}

impl Direction {
    /// As in the lowest two bits of `epb_flags`: inbound and outbound, as the engine sees it.
    pub const fn flags(self) -> u32 {
        match self {
            Self::FromGuest => 1,
            Self::ToGuest => 2,
        }
    }
}

/// A frame to be written.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// The number of its interface, as [`Writer::add_interface`] has returned it.
    pub interface: u32,
    /// When it was seen, in nanoseconds since 1970.
    pub stamp: u64,
    /// Which way it went.
    pub direction: Direction,
    /// Its bytes, or as many of them as are to be kept.
    pub bytes: &'a [u8],
    /// How long it was.
    pub len: usize,
    /// How many records were lost before this one.
    pub lost: u64,
    /// What else there is to say.
    pub note: &'a Note,
}

/// Writes one section of a pcapng file.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    interfaces: u32,
    written: u64,
    /// What stands before and after the frame that is written; to be used again.
    head: Vec<u8>,
    tail: Vec<u8>,
    comment: String,
}

impl<W: Write> Writer<W> {
    /// Begins a section.
    ///
    /// # Errors
    ///
    /// What the output reports.
    pub fn new(out: W, section: &SectionNote) -> io::Result<Self> {
        let program = format!("slipway {}", env!("CARGO_PKG_VERSION"));
        let comment = section.to_string();
        let mut block = SectionHeaderBlock {
            block_type: 0,
            block_len1: 0,
            bom: 0,
            major_version: 1,
            minor_version: 0,
            // Unknown until the end.
            section_len: -1,
            options: vec![option(OptionCode::Comment, &comment), option(OptionCode::ShbUserAppl, &program)],
            block_len2: 0,
        };
        let mut writer = Self { out, interfaces: 0, written: 0, head: Vec::new(), tail: Vec::new(), comment: String::new() };
        writer.write_block(&mut block)?;
        Ok(writer)
    }

    /// Describes the next interface, an Ethernet, and returns its number. `snaplen` is the most bytes kept of a frame; 0 for all.
    ///
    /// # Errors
    ///
    /// What the output reports.
    pub fn add_interface(&mut self, name: &str, snaplen: u32, note: &PortNote) -> io::Result<u32> {
        let comment = note.to_string();
        let mut block = InterfaceDescriptionBlock {
            block_type: 0,
            block_len1: 0,
            linktype: Linktype::ETHERNET,
            reserved: 0,
            snaplen,
            // The resolution is added to them.
            options: vec![option(OptionCode::Comment, &comment), option(OptionCode::IfName, name)],
            block_len2: 0,
            if_tsresol: NANOSECONDS,
            if_tsoffset: 0,
        };
        self.write_block(&mut block)?;
        let number = self.interfaces;
        self.interfaces += 1;
        Ok(number)
    }

    /// Writes a frame.
    ///
    /// # Errors
    ///
    /// What the output reports. Part of the block may be written then.
    pub fn write(&mut self, record: &Record<'_>) -> io::Result<()> {
        let low_half = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        self.tail.clear();
        self.tail.resize(padding(record.bytes.len()), 0);
        self.put_option(FLAGS, &record.direction.flags().to_le_bytes());
        if record.lost > 0 {
            self.put_option(DROP_COUNT, &record.lost.to_le_bytes());
        }
        if !record.note.is_empty() {
            self.comment.clear();
            // Writing to a string does not fail.
            let _ = write!(self.comment, "{}", record.note);
            let comment = std::mem::take(&mut self.comment);
            self.put_option(COMMENT, comment.as_bytes());
            self.comment = comment;
        }
        self.tail.extend([0; 4]);
        let total = low_half(HEAD + record.bytes.len() + self.tail.len() + 4);
        self.tail.extend(total.to_le_bytes());

        let [stamp_low, stamp_high] = [low_word(record.stamp), low_word(record.stamp >> 32)];
        let fields =
            [ENHANCED_PACKET, total, record.interface, stamp_high, stamp_low, low_half(record.bytes.len()), low_half(record.len)];
        self.head.clear();
        self.head.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
        let mut slices = [IoSlice::new(&self.head), IoSlice::new(record.bytes), IoSlice::new(&self.tail)];
        write_all(&mut self.out, &mut slices)?;
        self.written += u64::from(total);
        Ok(())
    }

    /// Bytes of all blocks that were written.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Has the output pass on what it keeps back.
    ///
    /// # Errors
    ///
    /// What the output reports.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// The output.
    pub const fn get_ref(&self) -> &W {
        &self.out
    }

    /// The output. Writing to it breaks the section.
    pub const fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// The output, with all that was written.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn write_block(&mut self, block: &mut impl ToVec) -> io::Result<()> {
        let bytes = block.to_vec().map_err(|error| io::Error::other(format!("{error:?}")))?;
        self.out.write_all(&bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn put_option(&mut self, code: u16, value: &[u8]) {
        let value = &value[..value.len().min(u16::MAX.into())];
        self.tail.extend(code.to_le_bytes());
        self.tail.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
        self.tail.extend(value);
        let len = self.tail.len();
        self.tail.resize(len + padding(value.len()), 0);
    }
}

/// A text as an option; of one that is too long for that, the beginning.
fn option(code: OptionCode, text: &str) -> PcapNGOption<'_> {
    let text = &text[..text.floor_char_boundary(u16::MAX.into())];
    PcapNGOption { code, len: u16::try_from(text.len()).unwrap_or(u16::MAX), value: Cow::Borrowed(text.as_bytes()) }
}

/// How many bytes are missing to a multiple of four.
const fn padding(len: usize) -> usize {
    len.next_multiple_of(4) - len
}

const fn low_word(number: u64) -> u32 {
    let [a, b, c, d, ..] = number.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// [`Write::write_all`] for several slices.
fn write_all(out: &mut impl Write, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    // What begins with an empty slice would be taken for the end.
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match out.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => IoSlice::advance_slices(&mut slices, len),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use pcap_parser::traits::PcapNGPacketBlock;
    use pcap_parser::{Block, PcapBlockOwned, PcapNGSlice};

    use super::*;
    use crate::frame::Offloads;
    use crate::port::PortId;

    /// Takes a byte more with every call.
    #[derive(Default)]
    struct Trickle(Vec<u8>, usize);

    impl Write for Trickle {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            let taken = &bytes[..bytes.len().min(self.1)];
            self.0.extend(taken);
            Ok(taken.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn record<'a>(bytes: &'a [u8], note: &'a Note) -> Record<'a> {
        let stamp = 1_790_000_000_123_456_789;
        Record { interface: 0, stamp, direction: Direction::FromGuest, bytes, len: bytes.len(), lost: 0, note }
    }

    fn blocks(file: &[u8]) -> Vec<Block<'_>> {
        let of_pcapng = |block| match block {
            PcapBlockOwned::NG(block) => block,
            _ => panic!("a block of the older format"),
        };
        PcapNGSlice::from_slice(file).unwrap().map(Result::unwrap).map(of_pcapng).collect()
    }

    fn recorded<W: Write>(out: W, records: &[Record<'_>]) -> W {
        let section = SectionNote { epoch: 1_790_000_000_000_000_000, mtu: 1500, user: Some("ipv6=off".into()) };
        let mut writer = Writer::new(out, &section).unwrap();
        let port = PortNote { port: PortId(7), offloads: Offloads::ALL, mtu: 1500 };
        assert_eq!(writer.add_interface("tap0", 262_144, &port).unwrap(), 0);
        records.iter().for_each(|record| writer.write(record).unwrap());
        writer.into_inner()
    }

    #[test]
    fn a_section_says_who_wrote_it_and_of_what() {
        let file = recorded(Vec::new(), &[]);
        let blocks = blocks(&file);
        let [Block::SectionHeader(section), Block::InterfaceDescription(interface)] = &blocks[..] else { panic!("{blocks:?}") };
        let comment = section.options.iter().find(|option| option.code == OptionCode::Comment).unwrap();
        let note: SectionNote = comment.as_str().unwrap().parse().unwrap();
        assert_eq!((note.mtu, note.user.as_deref()), (1500, Some("ipv6=off")));
        assert!(section.shb_userappl().unwrap().unwrap().starts_with("slipway "));
        assert_eq!(interface.if_name().unwrap().unwrap(), "tap0");
        assert_eq!((interface.linktype, interface.snaplen), (Linktype::ETHERNET, 262_144));
        assert_eq!(interface.ts_resolution(), Some(1_000_000_000));
        let comment = interface.options.iter().find(|option| option.code == OptionCode::Comment).unwrap();
        assert_eq!(comment.as_str().unwrap().parse::<PortNote>().unwrap().port, PortId(7));
    }

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let note = Note { flow: Some(3), ..Note::default() };
        for len in 0..70_usize {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let record = Record { len: len + 100, lost: 5, direction: Direction::ToGuest, ..record(&bytes, &note) };
            let file = recorded(Vec::new(), &[record, record]);
            let blocks = blocks(&file);
            assert_eq!(blocks.len(), 4);
            let Block::EnhancedPacket(packet) = &blocks[3] else { panic!("{blocks:?}") };
            assert_eq!(packet.packet_data(), bytes);
            assert_eq!(packet.origlen as usize, len + 100);
            assert_eq!(u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low), record.stamp);
            let value = |code| packet.options.iter().find(|option| option.code.0 == code).unwrap();
            assert_eq!(value(FLAGS).value(), 2_u32.to_le_bytes());
            assert_eq!(value(DROP_COUNT).value(), 5_u64.to_le_bytes());
            assert_eq!(value(COMMENT).as_str().unwrap().parse::<Note>().unwrap(), note);
        }
    }

    #[test]
    fn what_has_nothing_to_be_said_has_no_comment() {
        let file = recorded(Vec::new(), &[record(b"frame", &Note::default())]);
        let blocks = blocks(&file);
        let Block::EnhancedPacket(packet) = &blocks[2] else { panic!("{blocks:?}") };
        let codes: Vec<_> = packet.options.iter().map(|option| option.code.0).collect();
        assert_eq!(codes, [FLAGS, 0]);
    }

    #[test]
    fn an_output_that_takes_little_gets_everything() {
        let note = Note { cut: Some(4), ..Note::default() };
        let records = [record(b"", &note), record(b"a frame", &note)];
        assert_eq!(recorded(Trickle::default(), &records).0, recorded(Vec::new(), &records));
    }

    #[test]
    fn what_was_written_is_known() {
        let section = SectionNote { epoch: 0, mtu: 1500, user: None };
        let mut writer = Writer::new(Vec::new(), &section).unwrap();
        writer.write(&record(b"frame", &Note::default())).unwrap();
        assert_eq!(writer.written(), writer.get_ref().len() as u64);
    }
}
