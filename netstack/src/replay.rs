//! Plays the guest's side of a recording into an engine with a scripted host, in virtual time, and compares what the engine sends with
//! what the recording says.
//!
//! | file | what |
//! |---|---|
//! | `stage` | an engine in virtual time |
//! | [`record`] | making recordings by a script |
//! | [`sidecar`] | what a recording cannot say |
//! | `load`, `wholes` | from files to packets of an engine's time, and what was cut |
//! | `script`, `play`, `translate` | what the host did, and playing it |
//! | `update` | making a recording what the engine sends now |
//! | `dissect`, `compare` | finding what differs, and naming it |
//! | `form` | frames as the engine has them and as files have them |
//! | `packet`, [`conversation`] | whose a packet is |

pub mod conversation;
pub mod record;
pub mod sidecar;

mod compare;
mod dissect;
mod form;
mod load;
mod packet;
mod play;
mod script;
mod stage;
mod tftp;
mod translate;
mod update;
mod wholes;

pub use stage::{Question, SentFrame};

use serde::Serialize;

use self::load::Scene;
use self::play::Run;
use self::script::Script;
use self::sidecar::Sidecar;
use crate::config::qemu;
use crate::pcap::note::Note;
use crate::pcap::read::{Format, Problem};
use crate::pcap::write::Direction;
use crate::port::PortId;
use crate::time::Instant;

/// A packet of a recording, in the form that files have.
#[derive(Debug, Clone)]
struct Logged {
    /// Which packet of the file it is, counted from 1.
    number: usize,
    /// Since the engine began.
    at: Instant,
    port: PortId,
    direction: Direction,
    bytes: Vec<u8>,
    /// How long it was, if not all of it was kept.
    original_len: usize,
    note: Note,
}

/// What to do with a recording.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The options of the network, in QEMU's syntax, whatever the recording says.
    pub user: Option<String>,
}

/// What came of playing a recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What happens in it, in one line.
    pub story: Option<String>,
    /// Packets in it.
    pub packets: usize,
    /// Packets of the engine in it that were compared.
    pub compared: usize,
    /// What differs, in the order of time.
    pub differences: Vec<Difference>,
    /// What else there is to know.
    pub remarks: Vec<String>,
    /// What keeps a part of the recording from being used.
    pub problem: Option<String>,
}

impl Report {
    /// Whether the engine sends what it has sent.
    pub const fn matches(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Something in which a run differs from its recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Which packet of the recording, counted from 1; none if the recording has no such packet.
    pub packet: Option<usize>,
    /// When, in microseconds since the engine began.
    pub at_us: u64,
    /// In which conversation.
    pub conversation: String,
    /// Which field. `packet` is the whole packet: missing, or unexpected. `drop` is why a guest's packet went no further.
    pub field: String,
    /// What the recording has; none if it has nothing there.
    pub expected: Option<String>,
    /// What the engine sends; none if it sends nothing there.
    pub got: Option<String>,
}

/// Plays a recording and compares.
///
/// # Errors
///
/// When it cannot be played at all.
pub fn replay(file: &[u8], sidecar: Sidecar, options: &Options) -> Result<Report, ReplayError> {
    Ok(Played::new(file, sidecar, options)?.report())
}

/// Plays a recording and compares, and returns it with what the engine sends now in place of what it has sent.
///
/// # Errors
///
/// When it cannot be played at all, or is not one that can be written: only those of ours can, and only if they are whole.
pub fn update(file: &[u8], sidecar: Sidecar, options: &Options) -> Result<(Report, Vec<u8>), ReplayError> {
    let played = Played::new(file, sidecar, options)?;
    let why = match &played.scene {
        scene if scene.format == Format::Pcap => Some("it is in the old format, which has no place for what a replay must know"),
        scene if scene.foreign => Some("it was not recorded by this program"),
        scene if scene.problem.is_some() => Some("a part of it cannot be used, and would be lost"),
        _ => None,
    };
    if let Some(why) = why {
        return Err(ReplayError::NotUpdatable(why));
    }
    let file = update::updated(&played.scene, &played.script, &played.run).map_err(ReplayError::Network)?;
    Ok((played.report(), file))
}

/// A recording, and what came of it.
struct Played {
    scene: Scene,
    script: Script,
    run: Run,
}

impl Played {
    fn new(file: &[u8], sidecar: Sidecar, options: &Options) -> Result<Self, ReplayError> {
        let scene = load::load(file, sidecar, options.user.as_deref())?;
        if scene.packets.is_empty() {
            return Err(ReplayError::Empty(scene.problem));
        }
        let script = script::derive(&scene);
        let run = play::play(&scene, &script).map_err(ReplayError::Network)?;
        Ok(Self { scene, script, run })
    }

    fn report(&self) -> Report {
        let Self { scene, script, run } = self;
        let comparison = compare::compare(scene, script, run);
        Report {
            story: scene.sidecar.story.clone(),
            packets: scene.packets.len(),
            compared: comparison.compared,
            differences: comparison.differences,
            remarks: [&scene.remarks[..], &script.remarks, &run.remarks, &comparison.remarks].concat(),
            problem: scene.problem.clone(),
        }
    }
}

/// Why a recording cannot be played at all.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It is no recording that can be read.
    #[error("{0}")]
    NoRecording(#[source] Problem),
    /// The options of its network are wrong.
    #[error("the network's options `{options}` cannot be used: {source}")]
    Options {
        /// What they are.
        options: String,
        /// What is wrong with them.
        source: qemu::OptionError,
    },
    /// No packet is in it, or none that can be used.
    #[error("there is nothing to play: {}", .0.as_deref().unwrap_or("no packets of an Ethernet are in it"))]
    Empty(Option<String>),
    /// It cannot be rewritten.
    #[error("it cannot be updated: {0}")]
    NotUpdatable(&'static str),
    /// Its network cannot be set up.
    #[error("cannot set up the network of the recording: {0}")]
    Network(#[source] std::io::Error),
}
