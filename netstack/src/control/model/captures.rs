//! Recordings of the network's frames.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::capture::{CaptureConfig, CaptureId, CaptureInfo, Filter, Rotation};
use crate::control::{Command, Refused};
use crate::engine::Handle;

/// The smallest file that a rotation may ask for, in bytes, and the most files.
const ROTATE_MIN: u64 = 4096;
const FILES_MAX: u32 = 10_000;

/// Begins to record frames into a pcapng file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartCapture {
    /// The file; its path is absolute, because whoever asks may be in another directory than the engine.
    pub file: PathBuf,
    /// Which frames, as `--pcap-filter` has it; all if there is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// How many bytes of each frame; 0 for all.
    #[serde(default)]
    pub snaplen: u32,
    /// Begins a new file when this many bytes are in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotate_bytes: Option<u64>,
    /// How many files are kept then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotate_files: Option<u32>,
    /// Records super-frames as the frames for which they stand.
    #[serde(default)]
    pub segment: bool,
}

/// A recording has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// By what it can be stopped.
    pub id: u64,
}

impl Command for StartCapture {
    const NAME: &'static str = "start_capture";
    type Reply = Started;

    async fn run(self, engine: &Handle) -> Result<Started, Refused> {
        if !self.file.is_absolute() {
            return Err(Refused::argument("file", "the path does not begin with `/`"));
        }
        let filter = self.filter.map(|text| text.parse::<Filter>()).transpose();
        let mut config = CaptureConfig::to_file(self.file);
        config.filter = filter.map_err(|error| Refused::argument("filter", error))?;
        config.snaplen = self.snaplen;
        config.segment = self.segment;
        config.rotation = rotation(self.rotate_bytes, self.rotate_files)?;
        let id = engine.start_capture(config).await.map_err(|error| Refused::because("not started", with_source(&error)))?;
        Ok(Started { id: id.0 })
    }
}

fn rotation(bytes: Option<u64>, files: Option<u32>) -> Result<Option<Rotation>, Refused> {
    let files = files.unwrap_or(10);
    match bytes {
        Some(size) if size < ROTATE_MIN => Err(Refused::argument("rotate_bytes", format!("it is at least {ROTATE_MIN}"))),
        Some(_) if !(1..=FILES_MAX).contains(&files) => {
            Err(Refused::argument("rotate_files", format!("it is from 1 to {FILES_MAX}")))
        }
        Some(size) => Ok(Some(Rotation { size, files })),
        None => Ok(None),
    }
}

/// An error, and what has caused it.
fn with_source(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(&format!(": {error}"));
        next = error.source();
    }
    text
}

/// Ends a recording, and tells what it has come to once everything is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopCapture {
    /// Its number.
    pub id: u64,
}

impl Command for StopCapture {
    const NAME: &'static str = "stop_capture";
    type Reply = CaptureInfo;

    async fn run(self, engine: &Handle) -> Result<CaptureInfo, Refused> {
        let unknown = || Refused::argument("id", format!("there is no capture {}; `captures` tells them", self.id));
        engine.stop_capture(CaptureId(self.id)).await?.ok_or_else(unknown)
    }
}

/// Tells all recordings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListCaptures {}

/// All recordings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureTable {
    /// Also those that have ended by themselves.
    pub captures: Vec<CaptureInfo>,
}

impl Command for ListCaptures {
    const NAME: &'static str = "captures";
    type Reply = CaptureTable;

    async fn run(self, engine: &Handle) -> Result<CaptureTable, Refused> {
        Ok(CaptureTable { captures: engine.captures().await? })
    }
}
