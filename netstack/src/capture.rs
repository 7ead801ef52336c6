//! Live capture: what goes between guests and the engine, recorded while it happens.
//!
//! The engine copies frames into batches ([`Recorder`]); a thread of its own with the lowest priority makes a pcapng file of them. The two
//! share nothing but channels of batches, so a disk that is slow, full or gone never holds the engine up.
//!
//! What always holds:
//!
//! - While nothing is captured, a frame costs one branch. While something is, no memory is allocated for it: batches are used again.
//! - Memory is bounded by [`CaptureConfig::memory`]. If half of it waits to be written, only the headers of frames are kept; if all of it
//!   does, frames are not recorded. Both is counted, and stands in the file.
//! - Whatever ends a capture before its time is told once, and the file can be read up to there.
//!
//! | file | what |
//! |---|---|
//! | `recorder`, `batch` | the engine's side |
//! | `writer`, `output` | the thread's side |
//! | `filter`, `summary` | which frames are meant |
//! | `flows`, `finish` | what the thread adds: numbers of flows, and checksums |

mod batch;
pub mod filter;
mod finish;
mod flows;
mod output;
mod recorder;
mod summary;
mod writer;

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

pub use self::filter::{Filter, FilterError};
pub use self::output::Opened;
pub use self::recorder::{Ending, PortInfo, Recorder, Tally};

/// How a capture is made. [`CaptureConfig::to_file`] and [`CaptureConfig::to_stream`] record everything.
#[derive(Debug)]
pub struct CaptureConfig {
    /// Where it goes.
    pub to: Destination,
    /// Which frames are recorded; `None` for all.
    pub filter: Option<Filter>,
    /// The most bytes that are kept of a frame; 0 for all.
    pub snaplen: u32,
    /// When a new file is begun; only for files.
    pub rotation: Option<Rotation>,
    /// Records super-frames as the frames for which they stand, rather than as they are.
    pub segment: bool,
    /// Bytes that may wait to be written, about: at least 4 MiB. Beside them, the flows that are remembered take 15 MiB at most.
    pub memory: usize,
    /// The options with which the network was made, in QEMU's syntax, to be told in the file.
    pub user: Option<String>,
}

/// [`CaptureConfig::memory`] if nothing else is said.
const MEMORY: usize = 16 << 20;

impl CaptureConfig {
    /// Into a new file, which only its owner may read. A file that exists is overwritten and keeps its permissions.
    pub fn to_file(path: impl Into<PathBuf>) -> Self {
        Self::new(Destination::File(path.into()))
    }

    /// Into a pipe or whatever else takes bytes. It may block; `name` is what people are told about it.
    pub fn to_stream(name: impl Into<String>, stream: impl Write + Send + 'static) -> Self {
        Self::new(Destination::Stream { name: name.into(), stream: Box::new(stream) })
    }

    fn new(to: Destination) -> Self {
        Self { to, filter: None, snaplen: 0, rotation: None, segment: false, memory: MEMORY, user: None }
    }
}

/// Where a capture goes.
pub enum Destination {
    /// A file, or a named pipe.
    File(PathBuf),
    /// Something that is open.
    Stream {
        /// What people know it by.
        name: String,
        /// What takes the bytes.
        stream: Box<dyn Write + Send>,
    },
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Stream { name, .. } => f.write_str(name),
        }
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Destination({self})")
    }
}

/// When a capture begins a new file, and how many it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// The size of a file, in bytes. One is begun before the frame with which it would become larger.
    pub size: u64,
    /// How many files are kept, with the one that is written: at least 1. The one before is called `FILE.1`, the one before that `FILE.2`.
    pub files: u32,
}

/// Why a capture cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be made or opened.
    #[error("cannot write the capture to {}", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Only files can be renamed.
    #[error("{0} is no regular file, so there cannot be a new one each time that it is full")]
    Rotation(String),
    /// No thread for it.
    #[error("cannot start a thread for the capture")]
    Thread(#[source] io::Error),
    /// As many as there may be.
    #[error("there are {0} captures already: stop one")]
    TooMany(usize),
    /// The engine has ended.
    #[error(transparent)]
    Gone(#[from] crate::engine::EngineGone),
}

/// A capture of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CaptureId(pub u64);

/// How a capture is getting on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureInfo {
    /// Which one.
    pub id: CaptureId,
    /// Where it goes.
    pub to: String,
    /// Which frames are recorded, as it was written.
    pub filter: Option<String>,
    /// Records written.
    pub records: u64,
    /// Bytes written, in all files together.
    pub bytes: u64,
    /// Frames of which only the headers were kept, because writing was too slow.
    pub cut: u64,
    /// Frames that were not recorded, because writing was too slow.
    pub dropped: u64,
    /// Why it has ended, if it did so by itself.
    pub failure: Option<String>,
}

/// What the thread tells of its work while it works.
#[derive(Debug, Default)]
struct Progress {
    records: AtomicU64,
    bytes: AtomicU64,
    failure: OnceLock<String>,
}

impl Progress {
    fn tell(&self, records: u64, bytes: u64) {
        self.records.store(records, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
