//! What the guest transmits: the transmit ring as the engine's ingress.

use std::io;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};

use netstack::frame::{Chunk, ETHERNET_HEADER, Frame, FrameMeta, MAX_FRAME};
use netstack::port::Ingress;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::filter;
use super::interrupts::{DELAY_UNIT, Waits};
use super::offload::{Context, HEAD, Offload, Span};
use super::register::{self, cause, rctl};
use super::shared::Shared;
use super::statistics::Cast;
use crate::kick::{Kick, Timer};
use crate::memory::GuestMemory;

/// Pieces that a frame may have; a longer one is dropped. 64 KiB in pages take 17, and drivers for cards that split more finely some more.
const MAX_PIECES: usize = 128;

/// Descriptors that one turn looks at, before others get theirs.
const DESCRIPTORS_PER_TURN: usize = 4096;

/// The bits of a descriptor (manual, section 3.3).
mod bit {
    /// Commands in the last byte of the second half's first word: of all kinds of descriptors, of data, and of contexts.
    pub(super) const EOP: u8 = 1 << 0;
    pub(super) const LEGACY_IC: u8 = 1 << 2;
    pub(super) const TSE: u8 = 1 << 2;
    pub(super) const RS: u8 = 1 << 3;
    pub(super) const RPS: u8 = 1 << 4;
    pub(super) const DEXT: u8 = 1 << 5;
    pub(super) const VLE: u8 = 1 << 6;
    pub(super) const IDE: u8 = 1 << 7;
    pub(super) const CONTEXT_TCP: u8 = 1 << 0;
    pub(super) const CONTEXT_IP: u8 = 1 << 1;
    /// Options of data.
    pub(super) const IXSM: u8 = 1 << 0;
    pub(super) const TXSM: u8 = 1 << 1;
    /// Status: done.
    pub(super) const DD: u8 = 1 << 0;
}

/// Where the status byte is in a descriptor.
const STATUS: u64 = 12;

const TYPE_CONTEXT: u8 = 0;
const TYPE_DATA: u8 = 1;

/// A descriptor of the driver.
#[derive(Debug, Clone, Copy)]
enum Descriptor {
    Context {
        context: Context,
        segment: bool,
    },
    Data(Data),
    /// Of a type that does not exist.
    Unknown,
}

/// A descriptor that leads to bytes of a frame.
#[derive(Debug, Clone, Copy)]
struct Data {
    address: u64,
    len: u32,
    command: u8,
    /// What the driver leaves to the card; counts only in the first descriptor of a frame.
    what: What,
    /// The control information of a VLAN tag.
    special: u16,
}

#[derive(Debug, Clone, Copy)]
enum What {
    /// A legacy descriptor brings its own checksum.
    Legacy(Option<Span>),
    /// Others have it in a context.
    Options { options: u8, segment: bool },
}

fn parse(bytes: [u8; 16]) -> (Descriptor, u8) {
    let [a, b, c, d, e, f, g, h, l0, l1, l2, command, _status, options, s0, s1] = bytes;
    let address = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    let special = u16::from_le_bytes([s0, s1]);
    if command & bit::DEXT == 0 {
        let len = u32::from(u16::from_le_bytes([l0, l1]));
        let checksum = (command & bit::LEGACY_IC != 0).then_some(Span { start: options, at: l2, end: 0 });
        return (Descriptor::Data(Data { address, len, command, what: What::Legacy(checksum), special }), command);
    }
    let segment = command & bit::TSE != 0;
    let descriptor = match l2 >> 4 {
        TYPE_CONTEXT => Descriptor::Context {
            context: Context {
                ip: Span { start: a, at: b, end: u16::from_le_bytes([c, d]) },
                transport: Span { start: e, at: f, end: u16::from_le_bytes([g, h]) },
                header_len: options,
                mss: special,
                tcp: command & bit::CONTEXT_TCP != 0,
                ipv4: command & bit::CONTEXT_IP != 0,
            },
            segment,
        },
        TYPE_DATA => {
            let len = u32::from_le_bytes([l0, l1, l2 & 0xf, 0]);
            Descriptor::Data(Data { address, len, command, what: What::Options { options, segment }, special })
        }
        _ => Descriptor::Unknown,
    };
    (descriptor, command)
}

/// What is remembered between descriptors, until a reset.
#[derive(Debug)]
struct State {
    /// The last contexts: for checksums, and for segmentation.
    checksum: Context,
    segmentation: Context,
    /// The frame that is being put together.
    begun: Option<Offload>,
    pieces: Vec<(u64, u32)>,
    bytes: usize,
    /// It has too many pieces, or too many bytes, and will be dropped.
    too_long: bool,
    /// Where a descriptor of it is that the driver wants to see done.
    reports: Vec<u64>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            checksum: Context::default(),
            segmentation: Context::default(),
            begun: None,
            pieces: Vec::with_capacity(MAX_PIECES),
            bytes: 0,
            too_long: false,
            reports: Vec::with_capacity(MAX_PIECES),
        }
    }
}

#[derive(Debug)]
pub(super) struct E1000Ingress {
    shared: Arc<Shared>,
    memory: GuestMemory,
    bell: Kick,
    timer: Timer,
    state: State,
    resets: u32,
    dropped: u64,
}

/// An access to the guest's memory that went elsewhere.
#[derive(Debug)]
struct OutsideRam;

/// What there was to do.
enum Step {
    /// Nothing more: the ring is empty, or the card is off.
    Nothing,
    /// A descriptor that completes no frame.
    Descriptor,
    /// The last descriptor of a frame.
    Frame,
}

/// What the driver is to be told after a turn.
#[derive(Debug, Default)]
struct News {
    /// Descriptors it wanted to see done were.
    written_back: bool,
    /// One of them without permission to wait.
    urgent: bool,
}

impl E1000Ingress {
    /// Must be called within the runtime that will drive it.
    pub(super) fn new(shared: Arc<Shared>, memory: GuestMemory) -> io::Result<Self> {
        let bell = Kick::watch(shared.transmit.bell())?;
        let resets = shared.resets();
        Ok(Self { shared, memory, bell, timer: Timer::new()?, state: State::default(), resets, dropped: 0 })
    }

    fn ready(&self) -> bool {
        self.shared.may_transmit() && self.shared.transmit_ring().available() > 0
    }

    /// Looks at the next descriptor.
    fn step(&mut self, news: &mut News, sink: &mut dyn FnMut(Frame<'_>)) -> Result<Step, OutsideRam> {
        let shared = Arc::clone(&self.shared);
        let Some(_working) = shared.transmit.enter(|| shared.may_transmit()) else { return Ok(Step::Nothing) };
        if self.resets != shared.resets() {
            (self.resets, self.state) = (shared.resets(), State::default());
        }
        let ring = shared.transmit_ring();
        if ring.available() == 0 {
            return Ok(Step::Nothing);
        }
        let at = ring.address(ring.head).ok_or(OutsideRam)?;
        let mut bytes = [0; 16];
        self.memory.read_slice(&mut bytes, GuestAddress(at)).map_err(|_| OutsideRam)?;
        let (descriptor, command) = parse(bytes);
        if command & (bit::RS | bit::RPS) != 0 {
            news.written_back = true;
            news.urgent |= command & bit::IDE == 0;
            self.state.reports.push(at);
            // Descriptors without bytes could go on like this for ever.
            self.state.too_long |= self.state.begun.is_some() && self.state.reports.len() >= MAX_PIECES;
        }
        let step = self.follow(&descriptor, sink)?;
        // The driver may use a piece again when it is done, so nothing is before the whole frame is.
        if self.state.begun.is_none() || self.state.too_long {
            for at in self.state.reports.drain(..) {
                let status = GuestAddress(at + STATUS);
                self.memory.store(bit::DD, status, std::sync::atomic::Ordering::Release).map_err(|_| OutsideRam)?;
            }
        }
        shared.set(register::TDH, ring.after(ring.head));
        Ok(step)
    }

    fn follow(&mut self, descriptor: &Descriptor, sink: &mut dyn FnMut(Frame<'_>)) -> Result<Step, OutsideRam> {
        let state = &mut self.state;
        match *descriptor {
            Descriptor::Unknown => Ok(Step::Descriptor),
            // A frame that has begun keeps the context that it began with.
            Descriptor::Context { context, segment } => {
                if segment {
                    state.segmentation = context;
                } else {
                    state.checksum = context;
                }
                Ok(Step::Descriptor)
            }
            Descriptor::Data(data) => {
                state.add(&data);
                if data.command & bit::EOP == 0 {
                    return Ok(Step::Descriptor);
                }
                self.complete(&data, sink)?;
                Ok(Step::Frame)
            }
        }
    }

    /// Hands the frame that is complete to the engine, and forgets it.
    fn complete(&mut self, last: &Data, sink: &mut dyn FnMut(Frame<'_>)) -> Result<(), OutsideRam> {
        let Self { state, memory, shared, dropped, .. } = self;
        let mut offload = state.begun.take().unwrap_or_default();
        if last.command & bit::VLE != 0 && filter::handles_tags(shared) {
            offload.tag = Some((shared.get(register::VET) as u16, last.special));
        }
        let too_long = std::mem::take(&mut state.too_long);
        let len = std::mem::take(&mut state.bytes);
        let pieces = &state.pieces;
        // A card that loops its frames back puts none on the link.
        let looped = shared.get(register::RCTL) & rctl::LBM != 0;
        let result = if too_long || looped || !(ETHERNET_HEADER..=MAX_FRAME).contains(&len) {
            *dropped += 1;
            Ok(())
        } else {
            lend(memory, pieces, |frame| {
                if !send(shared, &offload, frame, sink) {
                    *dropped += 1;
                }
            })
        };
        self.state.pieces.clear();
        result
    }

    /// Tells the driver what was done.
    fn report(&self, news: &News) {
        let shared = &self.shared;
        let mut causes = 0;
        if news.written_back {
            causes |= cause::TXDW;
            if shared.transmit_ring().available() == 0 {
                causes |= cause::TXQE;
            }
        }
        if causes == 0 {
            return;
        }
        let absolute = shared.get(register::TADV);
        let delay = match shared.get(register::TIDV) {
            _ if news.urgent => 0,
            delay if absolute == 0 => delay,
            delay => delay.min(absolute),
        };
        // What waits is looked after before the task sleeps.
        let Waits(_) = shared.interrupts.raise(causes, u64::from(delay) * DELAY_UNIT);
    }
}

impl State {
    /// Adds a piece to the frame, which begins with it if there was none.
    fn add(&mut self, data: &Data) {
        if self.begun.is_none() {
            self.begun = Some(match data.what {
                What::Legacy(None) => Offload::default(),
                What::Legacy(Some(transport)) => {
                    Offload { context: Context { transport, ..Context::default() }, transport: true, ..Offload::default() }
                }
                What::Options { options, segment } => Offload {
                    context: if segment { self.segmentation } else { self.checksum },
                    ip: options & bit::IXSM != 0,
                    transport: options & bit::TXSM != 0,
                    segment,
                    tag: None,
                },
            });
        }
        self.bytes = self.bytes.saturating_add(data.len as usize);
        if self.pieces.len() >= MAX_PIECES || self.bytes > MAX_FRAME {
            self.too_long = true;
        } else if data.len > 0 {
            self.pieces.push((data.address, data.len));
        }
    }
}

/// Lends the pieces as a frame.
fn lend(memory: &GuestMemory, pieces: &[(u64, u32)], use_it: impl FnOnce(&Frame<'_>)) -> Result<(), OutsideRam> {
    // A piece may lie in two ranges of RAM; there are no more than two.
    let mut chunks = [Chunk::empty(); MAX_PIECES + 2];
    let mut used = 0;
    for (address, len) in pieces {
        for slice in memory.get_slices(GuestAddress(*address), *len as usize) {
            let slice = slice.map_err(|_| OutsideRam)?;
            let place = chunks.get_mut(used).ok_or(OutsideRam)?;
            // SAFETY: the slice borrows the guest's memory, which stays mapped meanwhile. This process changes it only through chunks, and
            // through the devices, whose writes are those of a guest to this frame.
            *place = unsafe { Chunk::from_raw_parts(slice.ptr_guard().as_ptr(), slice.len()) };
            used += 1;
        }
    }
    use_it(&Frame::new(&chunks[..used], FrameMeta::default()));
    Ok(())
}

/// Hands the frame on as the driver wants it. Returns whether that made sense.
fn send(shared: &Shared, offload: &Offload, frame: &Frame<'_>, sink: &mut dyn FnMut(Frame<'_>)) -> bool {
    let mut destination = [0; 6];
    frame.copy_to(0, &mut destination);
    let cast = Cast::of(&destination);
    if offload.is_nothing() {
        shared.statistics.transmit(cast, 1, frame.len(), false);
        sink(*frame);
        return true;
    }
    let mut head = [0; HEAD + 4];
    let Some((len, meta)) = offload.apply(&mut head, frame) else { return false };
    let mut chunks = [Chunk::empty(); MAX_PIECES + 3];
    chunks[0] = Chunk::from(&head[..len]);
    let rest = frame.parts(frame.len().min(HEAD), usize::MAX, &mut chunks[1..]);
    let whole = Frame::new(&chunks[..1 + rest], meta);
    if whole.len() > MAX_FRAME {
        return false;
    }
    let (frames, bytes) = match meta.gso {
        None => (1, whole.len()),
        Some(gso) => {
            let headers = usize::from(offload.context.header_len);
            let frames = whole.len().saturating_sub(headers).div_ceil(gso.size.into());
            (frames, whole.len() + frames.saturating_sub(1) * headers)
        }
    };
    shared.statistics.transmit(cast, frames, bytes, meta.gso.is_some());
    sink(whole);
    true
}

impl Ingress for E1000Ingress {
    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(Frame<'_>)) -> io::Result<usize> {
        if self.shared.is_gone() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.shared.interrupts.expire();
        let mut news = News::default();
        let (mut received, mut seen) = (0, 0);
        while received < budget {
            if seen == DESCRIPTORS_PER_TURN {
                self.shared.transmit.ring();
                break;
            }
            seen += 1;
            match self.step(&mut news, sink) {
                Ok(Step::Frame) => received += 1,
                Ok(Step::Descriptor) => {}
                Ok(Step::Nothing) => {
                    if self.shared.transmit.wait(|| self.ready()) {
                        break;
                    }
                }
                Err(OutsideRam) => {
                    self.shared.fail("a transmit ring or buffer lies outside of RAM");
                    self.state = State::default();
                }
            }
        }
        self.report(&news);
        Ok(received)
    }

    fn poll_readable(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        loop {
            if self.bell.poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let Some(wait) = self.shared.interrupts.until_due() else { return Poll::Pending };
            self.timer.set(wait);
            ready!(self.timer.poll(cx));
            self.shared.interrupts.expire();
        }
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}
