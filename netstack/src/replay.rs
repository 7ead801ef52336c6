//! Plays the guest's side of a recording into an engine with a scripted host, in virtual time, and compares what the engine sends with
//! what the recording says.
//!
//! | file | what |
//! |---|---|
//! | `stage` | an engine in virtual time |
//! | [`record`] | making recordings by a script |
//! | [`sidecar`] | what a recording cannot say |
//! | `form` | frames as the engine has them and as files have them |
//! | `packet`, [`conversation`] | whose a packet is |

pub mod conversation;
pub mod record;
pub mod sidecar;

mod form;
mod load;
mod packet;
mod play;
mod script;
mod stage;
mod translate;

pub use stage::{Question, SentFrame};

use crate::config::qemu;
use crate::pcap::note::Note;
use crate::pcap::read::Problem;
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
    /// Its network cannot be set up.
    #[error("cannot set up the network of the recording: {0}")]
    Network(#[source] std::io::Error),
}
