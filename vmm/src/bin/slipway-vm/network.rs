//! The networks of a machine: each is an engine on a thread of its own, and the cards of the machine are its ports.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netstack::capture::Opened;
use netstack::config::Config;
use netstack::control::api::Server;
use netstack::engine::{Engine, Handle};
use netstack::port::Port;
use tokio::runtime::{Builder, Runtime};

use netstack::program::failure::Failure;

/// How long an engine that was told to stop may take to write what it has recorded.
const FAREWELL: Duration = Duration::from_secs(6);

/// A network that runs.
#[derive(Debug)]
pub(crate) struct Network {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    /// Starts an engine, which takes commands at `api_socket`. It and its forwards listen when this returns.
    ///
    /// # Errors
    ///
    /// When the engine cannot start: an address is taken, for example.
    pub(crate) fn start(id: &str, config: &Config, api_socket: Option<PathBuf>) -> Result<Self, Failure> {
        let fail = || Failure::new(format!("cannot start the network {id}"));
        let (started, start) = mpsc::sync_channel(1);
        let config = config.clone();
        let body = move || {
            let runtime = match runtime() {
                Ok(runtime) => runtime,
                Err(failure) => {
                    _ = started.send(Err(failure));
                    return;
                }
            };
            runtime.block_on(async {
                match begin(&config, api_socket.as_deref()) {
                    Ok((engine, api)) => {
                        let serving = api.map(|server| tokio::spawn(server.run(engine.handle())));
                        _ = started.send(Ok(engine.handle()));
                        engine.run().await;
                        if let Some(serving) = serving {
                            // It lets its last clients go, which does not take long.
                            _ = tokio::time::timeout(FAREWELL, serving).await;
                        }
                    }
                    Err(failure) => _ = started.send(Err(failure)),
                }
            });
        };
        let thread = thread::Builder::new().name(format!("net-{id}")).spawn(body).map_err(|err| fail().because_of(&err))?;
        match start.recv() {
            Ok(Ok(handle)) => Ok(Self { handle, thread: Some(thread) }),
            Ok(Err(failure)) => Err(failure.of(fail())),
            Err(_) => Err(fail()),
        }
    }

    /// What it can be told things by.
    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Joins a card to the network.
    ///
    /// # Errors
    ///
    /// When the network has no room for it.
    pub(crate) async fn attach(&self, port: Box<dyn Port>) -> Result<(), Failure> {
        let name = port.name();
        let attached = self.handle.attach(port).await;
        attached.map(|_| ()).map_err(|err| Failure::new(format!("cannot connect {name} to its network")).because_of(&err))
    }

    /// Records its frames from now on.
    ///
    /// # Errors
    ///
    /// When the recording cannot begin.
    pub(crate) async fn record(&self, capture: Opened) -> Result<(), Failure> {
        let begun = self.handle.begin_capture(capture).await;
        begun.map(drop).map_err(|err| Failure::new("cannot record").because_of(&err))
    }

    /// Tells on the log where its forwards listen.
    pub(crate) async fn tell_forwards(&self) {
        for forward in self.handle.host_forwards().await.unwrap_or_default() {
            tracing::info!("forwarding {forward}");
        }
    }
}

/// An engine, and what listens for commands to it.
fn begin(config: &Config, api_socket: Option<&Path>) -> Result<(Engine, Option<Server>), Failure> {
    let engine = Engine::new(config).map_err(|err| Failure::new("the engine has not started").because_of(&err))?;
    let api = api_socket.map(|path| Server::bind(path, &config.limits, &config.timeouts)).transpose();
    Ok((engine, api.map_err(|err| Failure::new("cannot make --api-socket").because(err))?))
}

impl Drop for Network {
    /// Lets the engine say goodbye, but does not wait for ever.
    fn drop(&mut self) {
        self.handle.shutdown();
        let Some(thread) = self.thread.take() else { return };
        let (done, ended) = mpsc::channel();
        let waiter = thread::spawn(move || {
            _ = thread.join();
            _ = done.send(());
        });
        if ended.recv_timeout(FAREWELL).is_err() {
            tracing::debug!("the network was cut off at the end");
        }
        drop(waiter);
    }
}

/// A runtime on this thread alone.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    Builder::new_current_thread().enable_all().build().map_err(|err| Failure::new("cannot start the event loop").because_of(&err))
}
