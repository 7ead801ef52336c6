//! An engine, its runtime and its errors, as the subcommands use them.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use crate::capture::Opened;
use crate::config::Config;
use crate::control::api::Server;
use crate::engine::{Engine, Handle};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::program::capture::explain;
use crate::program::failure::{Failure, OrFail};

/// How long an engine that was told to stop may take to write what it has recorded.
const FAREWELL: Duration = Duration::from_secs(6);

/// What there is to be beside an engine.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    /// What its traffic is recorded into.
    pub(crate) capture: Option<Opened>,
    /// Where it listens for commands.
    pub(crate) api_socket: Option<PathBuf>,
}

/// Runs `story` beside an engine, and stops the engine when the story has ended. Returns what the story does, or `None` if the engine was
/// told to end meanwhile.
///
/// # Errors
///
/// When the engine or what is beside it cannot start; or what the story returns.
pub(crate) fn with_engine<T>(
    config: &Config,
    beside: Beside,
    story: impl AsyncFnOnce(Handle) -> Result<T, Failure>,
) -> Result<Option<T>, Failure> {
    runtime()?.block_on(async {
        let engine = Engine::new(config).map_err(|err| Failure::new("cannot start the network").because_of(&err))?;
        let handle = engine.handle();
        let api = beside.api_socket.map(|path| listen(&path, config)).transpose()?;
        let serving = api.map(|server| tokio::spawn(server.run(handle.clone())));
        let mut running = pin!(engine.run());
        let story = async {
            tell_forwards(&handle).await;
            if let Some(capture) = beside.capture {
                handle.begin_capture(capture).await.map_err(|error| explain(&error))?;
            }
            story(handle.clone()).await
        };
        let told = tokio::select! {
            told = story => {
                handle.shutdown();
                if tokio::time::timeout(FAREWELL, running).await.is_err() {
                    tracing::debug!("the network was cut off at the end");
                }
                told.map(Some)
            },
            () = &mut running => {
                tracing::info!("the network was told to end");
                Ok(None)
            }
        };
        if let Some(serving) = serving {
            // It lets its last clients go, which does not take long.
            let _ = tokio::time::timeout(FAREWELL, serving).await;
        }
        told
    })
}

fn listen(path: &Path, config: &Config) -> Result<Server, Failure> {
    Server::bind(path, &config.limits, &config.timeouts).map_err(|err| Failure::new("cannot make --api-socket").because(err))
}

/// Where a forward was to have any free port, only this tells which one it has.
async fn tell_forwards(handle: &Handle) {
    for forward in handle.host_forwards().await.unwrap_or_default() {
        tracing::info!("forwarding {forward}");
    }
}

/// A runtime on this thread alone.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    Builder::new_current_thread().enable_all().build().or_fail(|| "cannot start the event loop")
}

/// The signals that ask a service to end.
#[derive(Debug)]
pub(crate) struct Termination {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Termination {
    /// Catches them from now on; within a runtime.
    pub(crate) fn catch() -> Result<Self, Failure> {
        let catch = |kind| signal(kind).or_fail(|| "cannot catch signals");
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
            hangup: catch(SignalKind::hangup())?,
        })
    }

    /// Waits for one of them and tells its name.
    pub(crate) async fn asked(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}
