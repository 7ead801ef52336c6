//! Live control: one model of what can be asked of a running engine, by whom ever.
//!
//! A command is a type ([`Command`]): its fields are its arguments, its [`Reply`](Command::Reply) is another type, and its
//! [`run`](Command::run) is the only place where it happens. Everything that controls an engine is made of these types, so that none can
//! know a command that another does not:
//!
//! - embedders: [`Handle::run`] with a command, or the methods of [`Handle`] that it calls,
//! - the JSON API on a UNIX socket ([`api`]), which finds them by their names,
//! - `slipway ctl`, which sends them there ([`client`]).
//!
//! Three commands have the names, arguments, replies and error texts of slirp4netns's API, byte for byte; whoever controls that can
//! control this. All others are ours. `docs/control.md` tells what goes over the socket.

pub mod api;
pub mod client;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod model;
mod tally;

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::model::*;
pub(crate) use self::tally::Tally;
use crate::engine::{EngineGone, Handle};

/// What can be asked of a running engine.
pub trait Command: Serialize + DeserializeOwned + fmt::Debug + Send + 'static {
    /// Its name in the API.
    const NAME: &'static str;

    /// Whether slirp4netns has it, whose error texts are then kept to the letter: they say what, and not why.
    const COMPATIBLE: bool = false;

    /// Whether its reply stands in the answer without `return` around it, as slirp4netns has it once.
    const BARE: bool = false;

    /// What it answers.
    type Reply: Serialize + DeserializeOwned + fmt::Debug + Send + 'static;

    /// Reads its arguments.
    ///
    /// # Errors
    ///
    /// When they are not what it takes.
    fn parse(arguments: Value) -> Result<Self, Refused> {
        serde_json::from_value(arguments).map_err(|error| Refused::because("bad arguments", error))
    }

    /// Does it.
    ///
    /// # Errors
    ///
    /// When it cannot be done, or the engine has ended.
    fn run(self, engine: &Handle) -> impl Future<Output = Result<Self::Reply, Refused>> + Send;
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", why.as_deref().unwrap_or(what))]
pub struct Refused {
    /// In a few words that programs compare.
    pub what: String,
    /// In a sentence for people: what, why, and what to do.
    pub why: Option<String>,
}

impl Refused {
    /// It has gone wrong, and nothing more is to be said about it.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), why: None }
    }

    /// It has gone wrong for a reason.
    pub fn because(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self { what: what.into(), why: Some(why.to_string()) }
    }

    /// An argument is wrong.
    pub fn argument(name: &str, why: impl fmt::Display) -> Self {
        Self::because(format!("bad arguments.{name}"), why)
    }
}

impl From<EngineGone> for Refused {
    fn from(gone: EngineGone) -> Self {
        Self::because("the engine has ended", gone)
    }
}

impl Handle {
    /// Has the engine carry out a command.
    ///
    /// # Errors
    ///
    /// When it cannot be done, or the engine has ended.
    pub async fn run<C: Command>(&self, command: C) -> Result<C::Reply, Refused> {
        command.run(self).await
    }
}

/// No arguments, or nothing to answer but that it was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nothing {}

macro_rules! commands {
    ($($command:ident),+ $(,)?) => {
        /// The names of all commands.
        pub const NAMES: &[&str] = &[$($command::NAME),+];

        /// Carries out the command of this name, and returns the whole answer; `None` if there is no such command.
        pub(crate) async fn execute(name: &str, arguments: Value, engine: &Handle) -> Option<Result<String, Failed>> {
            $(if name == $command::NAME {
                return Some(answer::<$command>(arguments, engine).await);
            })+
            None
        }

        /// What the command of this name makes of its arguments, written down again.
        #[cfg(feature = "fuzzing")]
        fn understand(name: &str, arguments: Value) -> Option<Result<Value, Refused>> {
            $(if name == $command::NAME {
                let written = |command| serde_json::to_value(command).map_err(|error| Refused::because("cannot be written", error));
                return Some($command::parse(arguments).and_then(written));
            })+
            None
        }
    };
}

commands!(
    AddHostfwd,
    ListHostfwd,
    RemoveHostfwd,
    GetInfo,
    ListFlows,
    ListLeases,
    GetDns,
    GetCounters,
    ListPorts,
    SetLink,
    StartCapture,
    StopCapture,
    ListCaptures,
    Shutdown,
);

/// A command that was not carried out, and whether slirp4netns has it.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) refused: Refused,
    pub(crate) compatible: bool,
}

async fn answer<C: Command>(arguments: Value, engine: &Handle) -> Result<String, Failed> {
    let failed = |refused| Failed { refused, compatible: C::COMPATIBLE };
    let command = C::parse(arguments).map_err(failed)?;
    tracing::debug!(?command, "asked");
    let reply = Box::pin(command.run(engine)).await.map_err(failed)?;
    let reply = serde_json::to_string(&reply).map_err(|error| failed(Refused::because("cannot write the reply", error)))?;
    Ok(if C::BARE { reply } else { format!("{{\"return\":{reply}}}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_commands_have_one_name() {
        let mut names = NAMES.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), NAMES.len());
    }
}
