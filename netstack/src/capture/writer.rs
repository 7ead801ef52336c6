//! The thread that makes a file of batches.
//!
//! It has the lowest priority: what a busy machine has no time for is cut short or left out (see [`super::recorder`]) rather than taken
//! from the network. It writes what there is, and when there is no more, it waits a moment before it gives its last batch back. Until then
//! the engine collects, so that a quiet network is recorded at once and a busy one in large pieces, and the engine has somebody to wake
//! only every millisecond.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::batch::{Batch, Entry};
use super::filter::Filter;
use super::finish;
use super::flows::Flows;
use super::output::{Opened, Output};
use super::summary::Summary;
use super::{CaptureError, Progress};
use crate::frame::{Chunk, Frame, Offloads, segment};
use crate::pcap::note::{Note, SectionNote};
use crate::pcap::write::Record;

/// How long the engine collects, at most, before the thread hears of it. At 20 Gbit/s that is 2.5 MB, well below what may wait.
const PAUSE: Duration = Duration::from_millis(1);

/// The weakest of the priorities that need no privilege.
const NICE: i32 = 19;

/// What the thread has to do with the engine.
#[derive(Debug)]
pub(super) struct Ends {
    /// Batches to be written. Closed at the end of the capture.
    pub(super) full: Receiver<Batch>,
    /// Batches that are written.
    pub(super) written: mpsc::Sender<Batch>,
    pub(super) progress: Arc<Progress>,
    /// Told when everything is in the file.
    pub(super) done: oneshot::Sender<()>,
}

/// Starts a thread.
pub(super) fn spawn(opened: Opened, section: SectionNote, ends: Ends) -> Result<(), CaptureError> {
    let work = move || {
        lower_priority();
        let name = opened.name.clone();
        if let Err(error) = record(opened, section, &ends) {
            let why = why_ended(&error);
            tracing::warn!("the capture to {name} has ended: {why}; what was recorded until then can be read");
            // Set once, here.
            let _ = ends.progress.failure.set(why);
        }
        // Nobody has to listen.
        let _ = ends.done.send(());
    };
    thread::Builder::new().name("capture".to_owned()).spawn(work).map(drop).map_err(CaptureError::Thread)
}

/// Linux has priorities for threads, under the name of those of processes (setpriority(2), "C library/kernel differences").
fn lower_priority() {
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "the capture keeps its priority");
    }
}

fn why_ended(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "there is no space left for it".to_owned(),
        io::ErrorKind::BrokenPipe => "nobody reads it any more".to_owned(),
        _ => error.to_string(),
    }
}

/// Writes until the capture ends, or cannot go on.
fn record(opened: Opened, section: SectionNote, ends: &Ends) -> io::Result<()> {
    let (filter, snaplen, segment) = (opened.filter.clone(), opened.snaplen, opened.segment);
    let snaplen = if snaplen == 0 { usize::MAX } else { usize::try_from(snaplen).unwrap_or(usize::MAX) };
    let mut writer = Writer {
        out: Out { output: opened.into_output(section)?, snaplen, records: 0, lost: 0 },
        filter,
        segment,
        flows: Flows::default(),
        scratch: Vec::new(),
    };
    let outcome = writer.work(ends);
    if outcome.is_err() {
        writer.out.output.give_up();
    }
    outcome
}

struct Writer {
    out: Out,
    filter: Option<Filter>,
    segment: bool,
    flows: Flows,
    /// For cutting super-frames; to be used again.
    scratch: Vec<u8>,
}

/// What takes finished records.
struct Out {
    output: Output,
    snaplen: usize,
    records: u64,
    /// What was lost before frames that were not chosen after all.
    lost: u64,
}

impl Writer {
    fn work(&mut self, ends: &Ends) -> io::Result<()> {
        // Whoever reads a pipe sees at once that there is somebody.
        self.out.output.flush()?;
        ends.progress.tell(0, self.out.output.written());
        while let Ok(mut batch) = ends.full.recv() {
            loop {
                self.write_batch(&mut batch)?;
                ends.progress.tell(self.out.records, self.out.output.written());
                match ends.full.try_recv() {
                    Ok(next) => give_back(ends, std::mem::replace(&mut batch, next)),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
            self.out.output.flush()?;
            thread::sleep(PAUSE);
            give_back(ends, batch);
        }
        Ok(())
    }

    fn write_batch(&mut self, batch: &mut Batch) -> io::Result<()> {
        batch.iter_mut().try_for_each(|(entry, bytes)| self.write(entry, bytes))
    }

    fn write(&mut self, entry: &Entry, bytes: &mut [u8]) -> io::Result<()> {
        let summary = Summary::of(bytes);
        // Also what is not recorded is part of its conversation.
        let flow = self.flows.number(&summary);
        if self.filter.as_ref().is_some_and(|filter| filter.chooses(&summary, Some(entry.drop.is_some())) == Some(false)) {
            self.out.lost += entry.lost;
            return Ok(());
        }
        let mut note = Note { flow, drop: entry.drop.map(Into::into), ..Note::default() };
        if self.segment && entry.is_whole() && entry.meta.gso.is_some() && self.write_segments(entry, bytes, &note)? {
            return Ok(());
        }
        note.checksum = finish::checksum(bytes, entry.is_whole(), &entry.meta, &summary);
        note.gso = entry.meta.gso.map(|gso| (gso.kind, gso.size));
        if entry.cut {
            note.cut = u32::try_from(bytes.len()).ok();
        }
        self.out.write(entry, bytes, entry.len, entry.lost, &note)
    }

    /// Writes a super-frame as the frames for which it stands. `false` if it is none, whatever its sender says.
    fn write_segments(&mut self, entry: &Entry, bytes: &[u8], note: &Note) -> io::Result<bool> {
        let chunks = [Chunk::from(bytes)];
        let frame = Frame::new(&chunks, entry.meta);
        let Self { out, scratch, .. } = self;
        let mut outcome = Ok(());
        let mut lost = entry.lost;
        let cut = segment::segment(&frame, &Offloads::NONE, scratch, &mut |segment, _| {
            if outcome.is_ok() {
                outcome = out.write(entry, segment, segment.len(), std::mem::take(&mut lost), note);
            }
        });
        outcome.map(|()| cut.is_ok())
    }
}

impl Out {
    fn write(&mut self, entry: &Entry, bytes: &[u8], len: usize, lost: u64, note: &Note) -> io::Result<()> {
        let lost = lost + std::mem::take(&mut self.lost);
        let bytes = &bytes[..bytes.len().min(self.snaplen)];
        let record = Record { interface: 0, stamp: entry.stamp, direction: entry.direction, bytes, len, lost, note };
        self.output.write(&entry.port, record)?;
        self.records += 1;
        Ok(())
    }
}

/// The engine may have no more use for it.
fn give_back(ends: &Ends, mut batch: Batch) {
    batch.clear();
    let _ = ends.written.try_send(batch);
}
