//! Where a capture is written: one file after the other, or a stream.
//!
//! What always holds: a file ends with a whole block, also if the disk is full; every file of a rotation begins with all that is needed to
//! read it alone; and what is new can be read by its owner only.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::recorder::PortInfo;
use super::{CaptureConfig, CaptureError, Destination, Filter, Rotation};
use crate::pcap::note::{PortNote, SectionNote};
use crate::pcap::write::{Record, Writer};

/// What is collected before it is handed to the system. Frames that are larger go there straight.
const BUFFER: usize = 16 << 10;

/// Ends of blocks that are remembered, at most, until what they end has been handed to the system.
const ENDS: usize = 4096;

/// The most bytes that a block is longer than the frame in it: its fields and options, with the longest note.
const OVERHEAD: u64 = 320;

/// Ports that are remembered without looking whether they are still there.
const PORTS: usize = 1024;

/// A capture whose file is open: what the user may have got wrong was right.
#[derive(Debug)]
pub struct Opened {
    pub(super) name: String,
    pub(super) filter: Option<Filter>,
    pub(super) snaplen: u32,
    pub(super) segment: bool,
    pub(super) memory: usize,
    pub(super) user: Option<String>,
    path: Option<PathBuf>,
    rotation: Option<Rotation>,
    sink: Sink,
}

impl CaptureConfig {
    /// Opens the file. A named pipe waits for its reader.
    ///
    /// # Errors
    ///
    /// When it cannot be opened for writing, or is to be rotated and no regular file.
    pub fn open(self) -> Result<Opened, CaptureError> {
        let Self { to, filter, snaplen, rotation, segment, memory, user } = self;
        let name = to.to_string();
        let (path, sink) = match to {
            Destination::Stream { stream, .. } => (None, Sink::Stream(stream)),
            Destination::File(path) => match create(&path) {
                Ok(sink) => (Some(path), sink),
                Err(source) => return Err(CaptureError::Create { path, source }),
            },
        };
        if rotation.is_some() && !matches!(sink, Sink::File { .. }) {
            return Err(CaptureError::Rotation(name));
        }
        Ok(Opened { name, filter, snaplen, segment, memory, user, path, rotation, sink })
    }
}

impl Opened {
    pub(super) fn into_output(self, section: SectionNote) -> io::Result<Output> {
        let Self { snaplen, path, rotation, sink, .. } = self;
        let file = Writer::new(BufWriter::with_capacity(BUFFER, sink), &section)?;
        let ends = vec![0, file.written()];
        Ok(Output { file, path, rotation, section, snaplen, interfaces: HashMap::new(), ends, before: 0 })
    }
}

/// What takes bytes.
enum Sink {
    /// A regular file, and how much of it is written.
    File { file: File, written: u64 },
    /// A pipe, a device, or whatever cannot be cut back.
    Stream(Box<dyn Write + Send>),
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::File { .. } => "File",
            Self::Stream(_) => "Stream",
        })
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File { file, written } => {
                let len = file.write(bytes)?;
                *written += len as u64;
                Ok(len)
            }
            Self::Stream(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File { file, .. } => file.flush(),
            Self::Stream(stream) => stream.flush(),
        }
    }
}

/// A recording holds what people have said and done, so only its owner may read it.
fn create(path: &Path) -> io::Result<Sink> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let regular = file.metadata()?.is_file();
    Ok(if regular { Sink::File { file, written: 0 } } else { Sink::Stream(Box::new(file)) })
}

/// A recording in the making.
#[derive(Debug)]
pub(super) struct Output {
    file: Writer<BufWriter<Sink>>,
    path: Option<PathBuf>,
    rotation: Option<Rotation>,
    section: SectionNote,
    snaplen: u32,
    /// The interfaces of the file, by the serial number of their port.
    interfaces: HashMap<u64, Interface>,
    /// Where blocks end, the first of them in what the system has.
    ends: Vec<u64>,
    /// Bytes in the files before this one.
    before: u64,
}

#[derive(Debug)]
struct Interface {
    port: Arc<PortInfo>,
    number: u32,
}

impl Output {
    /// Writes a frame of `port`; the interface of `record` is found here.
    pub(super) fn write(&mut self, port: &Arc<PortInfo>, record: Record<'_>) -> io::Result<()> {
        if let Some(rotation) = self.rotation
            && self.file.written() + record.bytes.len() as u64 + OVERHEAD > rotation.size
            && !self.interfaces.is_empty()
        {
            self.rotate(rotation.files)?;
        }
        let interface = match self.interfaces.get(&port.serial) {
            Some(interface) => interface.number,
            None => self.add_interface(port)?,
        };
        self.file.write(&Record { interface, ..record })?;
        self.block_ends()
    }

    /// Hands everything to the system.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.ends.clear();
        self.ends.push(self.file.written());
        Ok(())
    }

    /// Bytes of all files.
    pub(super) const fn written(&self) -> u64 {
        self.before + self.file.written()
    }

    /// Gives up after an error: what was written of the last block is taken back where that is possible.
    pub(super) fn give_up(self) {
        let (sink, _) = self.file.into_inner().into_parts();
        if let Sink::File { file, written } = sink {
            let end = self.ends.iter().rev().find(|end| **end <= written).copied().unwrap_or_default();
            if let Err(error) = file.set_len(end) {
                tracing::debug!(%error, "the last record of the capture is not whole");
            }
        }
    }

    fn add_interface(&mut self, port: &Arc<PortInfo>) -> io::Result<u32> {
        if self.interfaces.len() >= PORTS {
            self.forget_gone();
        }
        let note = PortNote { port: port.id, offloads: port.offloads, mtu: port.mtu };
        let number = self.file.add_interface(&port.name, self.snaplen, &note)?;
        self.interfaces.insert(port.serial, Interface { port: Arc::clone(port), number });
        self.block_ends()?;
        Ok(number)
    }

    /// Forgets the ports of which nothing can come any more: only we know them.
    fn forget_gone(&mut self) {
        self.interfaces.retain(|_, interface| Arc::strong_count(&interface.port) > 1);
    }

    fn block_ends(&mut self) -> io::Result<()> {
        self.ends.push(self.file.written());
        if self.ends.len() > ENDS { self.flush() } else { Ok(()) }
    }

    /// Ends this file and begins another in its place.
    fn rotate(&mut self, files: u32) -> io::Result<()> {
        let Some(path) = self.path.clone() else { return Ok(()) };
        self.flush()?;
        for age in (0..files.saturating_sub(1)).rev() {
            match fs::rename(aged(&path, age), aged(&path, age + 1)) {
                // Of the first rotations, there are not so many yet; and somebody may have taken one away.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let sink = create(&path)?;
        let next = Writer::new(BufWriter::with_capacity(BUFFER, sink), &self.section)?;
        self.before += self.file.written();
        self.file = next;
        self.ends = vec![0, self.file.written()];
        self.forget_gone();
        // In the order in which they came, also if some in between are gone.
        let mut ports: Vec<_> = self.interfaces.drain().map(|(_, interface)| interface.port).collect();
        ports.sort_by_key(|port| port.serial);
        ports.iter().try_for_each(|port| self.add_interface(port).map(drop))
    }
}

/// The name of the file that was rotated so many times.
fn aged(path: &Path, age: u32) -> PathBuf {
    if age == 0 {
        return path.to_owned();
    }
    let mut name = OsString::from(path);
    name.push(format!(".{age}"));
    name.into()
}
