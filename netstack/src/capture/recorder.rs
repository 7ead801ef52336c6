//! The engine's side of all captures: copies frames, and says what became of them.
//!
//! A frame from a guest is copied before the stack looks at it, because its memory is the guest's again afterwards, and because what it
//! causes comes later in the recording. What became of it is added when that is known, which is why a batch is handed over only at the
//! end of a turn.
//!
//! What always holds: nothing here waits, and nothing but the first batches is allocated. A capture has a fixed number of batches, and
//! how many of them are on their way tells how far behind its thread is.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::task::{Context, Poll};

use tokio::sync::{mpsc, oneshot};

use super::batch::{BATCH, Batch, Entry};
use super::filter::Filter;
use super::output::Opened;
use super::summary::Summary;
use super::writer::{self, Ends};
use super::{CaptureError, CaptureId, CaptureInfo, Progress};
use crate::frame::{Frame, FrameMeta, FrameMut, Offloads};
use crate::pcap::note::SectionNote;
use crate::pcap::write::Direction;
use crate::port::PortId;
use crate::time::Instant;

/// Bytes that filters look at: all headers of everything but strange packets.
const LOOK: usize = 256;

/// What is left of a frame for which there is little time: Ethernet, IPv6 and TCP headers with all options fit.
const CUT: usize = 128;

/// Batches of a capture, at least.
const BATCHES: usize = 12;

/// Captures at once.
const CAPTURES: usize = 16;

/// A port, as a recording describes it.
#[derive(Debug)]
pub struct PortInfo {
    /// Its number on the switch. Others may have had it before.
    pub id: PortId,
    /// What people know it by.
    pub name: String,
    /// What its guest takes.
    pub offloads: Offloads,
    /// Its MTU, in bytes.
    pub mtu: u16,
    /// Tells ports apart that have had the same number.
    pub(super) serial: u64,
}

/// The captures of an engine, to which everything is told that happens.
#[derive(Debug, Default)]
pub struct Recorder {
    captures: Vec<Capture>,
    ports: Vec<Option<Arc<PortInfo>>>,
    now: Instant,
    ports_seen: u64,
    captures_seen: u64,
    /// Of captures that have ended.
    before: Tally,
}

/// What captures have done with frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Recorded, also if only in part.
    pub recorded: u64,
    /// Recorded without what comes behind the headers, because writing was too slow.
    pub cut: u64,
    /// Not recorded, because writing was too slow.
    pub dropped: u64,
}

/// A frame that is to be recorded.
struct Seen<'a> {
    port: &'a Arc<PortInfo>,
    direction: Direction,
    len: usize,
    meta: FrameMeta,
    copy: &'a dyn Fn(usize, &mut [u8]) -> usize,
}

impl Recorder {
    /// Whether anything is recorded at all.
    pub const fn is_on(&self) -> bool {
        !self.captures.is_empty()
    }

    /// From now on it is this late.
    pub const fn set_time(&mut self, now: Instant) {
        self.now = now;
    }

    /// A port is in use.
    pub fn port_added(&mut self, id: PortId, name: &str, offloads: Offloads, mtu: u16) {
        self.ports_seen += 1;
        let place = usize::from(id.0);
        if self.ports.len() <= place {
            self.ports.resize(place + 1, None);
        }
        self.ports[place] = Some(Arc::new(PortInfo { id, name: name.to_owned(), offloads, mtu, serial: self.ports_seen }));
    }

    /// A port is gone.
    pub fn port_removed(&mut self, id: PortId) {
        if let Some(port) = self.ports.get_mut(usize::from(id.0)) {
            *port = None;
        }
    }

    /// A guest has sent a frame, of which nothing has been looked at yet.
    pub fn frame_from_guest(&mut self, port: PortId, frame: &Frame<'_>) {
        self.record(port, Direction::FromGuest, frame.len(), frame.meta, &|at, to| frame.copy_to(at, to));
    }

    /// The frame that a guest has sent last was dropped or refused, for this reason.
    pub fn was_dropped(&mut self, why: &'static str) {
        for entry in self.captures.iter_mut().filter_map(Capture::last) {
            entry.drop = Some(why);
        }
    }

    /// A frame of `len` bytes lies in the memory of a port.
    pub fn frame_to_guest(&mut self, port: PortId, frame: &FrameMut<'_, '_>, len: usize, meta: FrameMeta) {
        self.record(port, Direction::ToGuest, len, meta, &|at, to| frame.copy_to(at, to));
    }

    fn record(
        &mut self,
        port: PortId,
        direction: Direction,
        len: usize,
        meta: FrameMeta,
        copy: &dyn Fn(usize, &mut [u8]) -> usize,
    ) {
        let Some(Some(port)) = self.ports.get(usize::from(port.0)) else { return };
        let seen = Seen { port, direction, len, meta, copy };
        // What is sent to a guest is not dropped any more.
        let dropped = (direction == Direction::ToGuest).then_some(false);
        let mut summary = None;
        for capture in &mut self.captures {
            if direction == Direction::FromGuest {
                capture.last = None;
            }
            if let Some(filter) = &capture.filter {
                let summary = summary.get_or_insert_with(|| seen.summary());
                if filter.chooses(summary, dropped) == Some(false) {
                    continue;
                }
            }
            capture.record(self.now, &seen);
        }
    }

    /// Nothing more will be added to what is recorded so far.
    pub fn end_turn(&mut self) {
        self.captures.iter_mut().for_each(Capture::end_turn);
    }

    /// Hands over what waits to be written, and leaves the waker where there is to be more of it first.
    pub fn poll(&mut self, cx: &mut Context<'_>) {
        self.captures.iter_mut().for_each(|capture| capture.poll(cx));
    }

    /// Begins a capture. `epoch` is the wall clock at time zero, in nanoseconds since 1970.
    ///
    /// # Errors
    ///
    /// When there are too many, or the system has no thread for it.
    pub fn start(&mut self, opened: Opened, epoch: u64, mtu: u16) -> Result<CaptureId, CaptureError> {
        if self.captures.len() >= CAPTURES {
            return Err(CaptureError::TooMany(CAPTURES));
        }
        let id = CaptureId(self.captures_seen + 1);
        self.captures.push(Capture::start(id, opened, epoch, mtu)?);
        self.captures_seen += 1;
        Ok(id)
    }

    /// Ends a capture; `None` if there is none of that number.
    pub fn stop(&mut self, id: CaptureId) -> Option<Ending> {
        let place = self.captures.iter().position(|capture| capture.id == id)?;
        let capture = self.captures.remove(place);
        let Tally { recorded, cut, dropped } = capture.tally;
        self.before.recorded += recorded;
        self.before.cut += cut;
        self.before.dropped += dropped;
        Some(capture.stop())
    }

    /// All captures that were not stopped.
    pub fn list(&self) -> Vec<CaptureInfo> {
        self.captures.iter().map(Capture::info).collect()
    }

    /// How many batches there are, in all captures together.
    #[cfg(test)]
    pub(super) fn batches(&self) -> usize {
        self.captures.iter().map(|capture| capture.batches).sum()
    }

    /// What all captures have done so far, also those that have ended.
    pub fn tally(&self) -> Tally {
        self.captures.iter().fold(self.before, |sum, capture| Tally {
            recorded: sum.recorded + capture.tally.recorded,
            cut: sum.cut + capture.tally.cut,
            dropped: sum.dropped + capture.tally.dropped,
        })
    }
}

impl Seen<'_> {
    fn summary(&self) -> Summary {
        let mut start = [0; LOOK];
        let len = (self.copy)(0, &mut start[..LOOK.min(self.len)]);
        Summary::of(&start[..len])
    }
}

/// A capture that ends.
#[derive(Debug)]
pub struct Ending {
    info: CaptureInfo,
    progress: Arc<Progress>,
    done: oneshot::Receiver<()>,
}

impl Ending {
    /// Waits until everything is written, and tells what has become of it.
    pub async fn done(self) -> CaptureInfo {
        // A thread that has panicked tells nothing, and has ended.
        let _ = self.done.await;
        self.info.with(&self.progress)
    }
}

impl CaptureInfo {
    fn with(self, progress: &Progress) -> Self {
        use std::sync::atomic::Ordering::Relaxed;
        Self {
            records: progress.records.load(Relaxed),
            bytes: progress.bytes.load(Relaxed),
            failure: progress.failure.get().cloned(),
            ..self
        }
    }
}

/// One capture.
#[derive(Debug)]
struct Capture {
    id: CaptureId,
    to: String,
    filter: Option<Filter>,
    snaplen: usize,
    segment: bool,
    epoch: u64,
    tally: Tally,
    /// Frames that were not recorded, by port, of which nothing was recorded since.
    lost: HashMap<u64, u64>,
    /// What is being filled, and what was filled in this turn.
    open: Option<Batch>,
    full: Vec<Batch>,
    free: Vec<Batch>,
    /// Batches that exist, and may exist.
    batches: usize,
    limit: usize,
    /// Batches that the thread has.
    away: usize,
    /// Where the frame is that a guest has sent last: in which of the batches of this turn, and there.
    last: Option<(usize, usize)>,
    to_writer: Option<SyncSender<Batch>>,
    from_writer: mpsc::Receiver<Batch>,
    progress: Arc<Progress>,
    done: Option<oneshot::Receiver<()>>,
}

impl Capture {
    fn start(id: CaptureId, opened: Opened, epoch: u64, mtu: u16) -> Result<Self, CaptureError> {
        let limit = (opened.memory / BATCH).max(BATCHES);
        // Neither channel is ever full: there are not more batches.
        let (to_writer, full) = sync_channel(limit);
        let (written, from_writer) = mpsc::channel(limit);
        let (done, ended) = oneshot::channel();
        let progress = Arc::new(Progress::default());
        let snaplen = if opened.snaplen == 0 { usize::MAX } else { usize::try_from(opened.snaplen).unwrap_or(usize::MAX) };
        let capture = Self {
            id,
            to: opened.name.clone(),
            filter: opened.filter.clone(),
            snaplen,
            segment: opened.segment,
            epoch,
            tally: Tally::default(),
            lost: HashMap::new(),
            open: None,
            full: Vec::with_capacity(limit),
            free: Vec::with_capacity(limit),
            batches: 0,
            limit,
            away: 0,
            last: None,
            to_writer: Some(to_writer),
            from_writer,
            progress: Arc::clone(&progress),
            done: Some(ended),
        };
        let section = SectionNote { epoch, mtu, user: opened.user.clone() };
        writer::spawn(opened, section, Ends { full, written, progress, done })?;
        Ok(capture)
    }

    fn record(&mut self, now: Instant, seen: &Seen<'_>) {
        if self.to_writer.is_none() {
            return;
        }
        // What is to be cut into segments has to be whole.
        let wanted = if self.segment && seen.meta.gso.is_some() { seen.len } else { seen.len.min(self.snaplen) };
        let behind = self.away + self.full.len() >= self.limit / 2;
        let kept = if behind { wanted.min(CUT) } else { wanted };
        if !self.make_room(kept) {
            self.tally.dropped += 1;
            *self.lost.entry(seen.port.serial).or_default() += 1;
            return;
        }
        let Some(open) = &mut self.open else { return };
        let stamp = self.epoch + now.as_micros() * 1000;
        let entry = Entry::new(Arc::clone(seen.port), seen.direction, stamp, seen.len, seen.meta);
        let entry = open.push(entry, kept, |to| (seen.copy)(0, to));
        entry.cut = kept < wanted;
        if !self.lost.is_empty() {
            entry.lost = self.lost.remove(&seen.port.serial).unwrap_or_default();
        }
        self.tally.recorded += 1;
        self.tally.cut += u64::from(entry.cut);
        if seen.direction == Direction::FromGuest {
            self.last = Some((self.full.len(), open.len() - 1));
        }
    }

    /// Sees to it that a frame of which `kept` bytes are recorded fits into the open batch, if there is memory left.
    fn make_room(&mut self, kept: usize) -> bool {
        if self.open.as_ref().is_some_and(|open| open.has_room(kept)) {
            return true;
        }
        let Some(next) = self.free.pop().or_else(|| self.allocate()) else { return false };
        self.full.extend(self.open.replace(next));
        true
    }

    fn allocate(&mut self) -> Option<Batch> {
        (self.batches < self.limit).then(|| {
            self.batches += 1;
            Batch::new()
        })
    }

    fn last(&mut self) -> Option<&mut Entry> {
        let (batch, entry) = self.last?;
        let batch = if batch == self.full.len() { self.open.as_mut() } else { self.full.get_mut(batch) };
        batch?.entry(entry)
    }

    fn end_turn(&mut self) {
        self.last = None;
        let mut full = std::mem::take(&mut self.full);
        full.drain(..).for_each(|batch| self.hand_over(batch));
        self.full = full;
        while let Ok(batch) = self.from_writer.try_recv() {
            self.take_back(batch);
        }
    }

    /// Hands over the open batch unless the thread is at work; then it waits for the thread to be done, so that it is woken less often.
    fn poll(&mut self, cx: &mut Context<'_>) {
        while self.open.as_ref().is_some_and(|open| !open.is_empty()) {
            if self.away == 0 {
                if let Some(open) = self.open.take() {
                    self.hand_over(open);
                }
                return;
            }
            match self.from_writer.poll_recv(cx) {
                Poll::Ready(Some(batch)) => self.take_back(batch),
                Poll::Ready(None) => self.give_up(),
                Poll::Pending => return,
            }
        }
    }

    fn hand_over(&mut self, batch: Batch) {
        let Some(to_writer) = &self.to_writer else { return };
        if to_writer.try_send(batch).is_ok() {
            self.away += 1;
        } else {
            self.give_up();
        }
    }

    fn take_back(&mut self, batch: Batch) {
        self.away -= 1;
        self.free.push(batch);
    }

    /// The thread has ended, and has told why.
    fn give_up(&mut self) {
        self.to_writer = None;
        self.open = None;
        self.full.clear();
        self.free = Vec::new();
    }

    fn info(&self) -> CaptureInfo {
        let info = CaptureInfo {
            id: self.id,
            to: self.to.clone(),
            filter: self.filter.as_ref().map(ToString::to_string),
            records: 0,
            bytes: 0,
            cut: self.tally.cut,
            dropped: self.tally.dropped,
            failure: None,
        };
        info.with(&self.progress)
    }

    fn stop(mut self) -> Ending {
        let done = self.done.take().unwrap_or_else(|| oneshot::channel().1);
        Ending { info: self.info(), progress: Arc::clone(&self.progress), done }
    }
}

/// Whatever way a capture ends, all that was recorded is written.
impl Drop for Capture {
    fn drop(&mut self) {
        self.end_turn();
        if let Some(open) = self.open.take().filter(|open| !open.is_empty()) {
            self.hand_over(open);
        }
    }
}
