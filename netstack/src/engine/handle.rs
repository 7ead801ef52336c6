//! Telling a running engine things, and asking it.

use std::io;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{BoundForward, ForwardId, ForwardRefused, NoSuchPort, PortName};
use crate::capture::{CaptureError, CaptureId, CaptureInfo, Ending, Opened};
use crate::config::HostForward;
use crate::control::{Info, LeaseEntry, PortEntry, Tally};
use crate::gateway::dhcp::Lease;
use crate::gateway::dhcp6;
use crate::gateway::dns::DnsHandle;
use crate::port::{Port, PortId};
use crate::stack::{Counters, FlowInfo, UdpFlowInfo};

/// A running engine, seen from another task or thread. Clones are the same engine.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    tally: Arc<Tally>,
}

/// The engine has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine has ended")]
pub struct EngineGone;

impl From<EngineGone> for io::Error {
    fn from(gone: EngineGone) -> Self {
        Self::new(io::ErrorKind::NotConnected, gone)
    }
}

/// A port that was attached.
#[derive(Debug)]
pub struct Attachment {
    /// Its number on the switch.
    pub id: PortId,
    /// Tells why, when the port has ended: its guest has gone, it broke, or it was detached.
    pub closed: oneshot::Receiver<String>,
}

#[derive(Debug)]
pub(super) enum Command {
    Attach { port: Box<dyn Port>, reply: oneshot::Sender<io::Result<Attachment>> },
    Detach(PortId),
    Counters(oneshot::Sender<Counters>),
    AddForward { rule: HostForward, reply: oneshot::Sender<Result<BoundForward, ForwardRefused>> },
    RemoveForward { id: ForwardId, flows: bool, reply: oneshot::Sender<Option<BoundForward>> },
    Forwards(oneshot::Sender<Vec<BoundForward>>),
    Flows(oneshot::Sender<Vec<FlowInfo>>),
    Leases(oneshot::Sender<Vec<Lease>>),
    Leases6(oneshot::Sender<Vec<dhcp6::Lease>>),
    StartCapture { opened: Box<Opened>, reply: oneshot::Sender<Result<CaptureId, CaptureError>> },
    StopCapture { id: CaptureId, reply: oneshot::Sender<Option<Ending>> },
    Captures(oneshot::Sender<Vec<CaptureInfo>>),
    Info(oneshot::Sender<Info>),
    UdpFlows(oneshot::Sender<Vec<UdpFlowInfo>>),
    LeaseTable(oneshot::Sender<Vec<LeaseEntry>>),
    Dns(oneshot::Sender<DnsHandle>),
    Ports(oneshot::Sender<Vec<PortEntry>>),
    SetLink { port: PortName, up: bool, reply: oneshot::Sender<Result<(), NoSuchPort>> },
    Shutdown,
}

impl Handle {
    pub(super) fn new(commands: mpsc::Sender<Command>) -> Self {
        Self { commands, tally: Arc::default() }
    }

    /// What the API of this engine counts.
    pub(crate) const fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Waits until the engine has ended.
    pub async fn ended(&self) {
        self.commands.closed().await;
    }

    /// What the network is.
    ///
    /// # Errors
    ///
    /// When the engine has ended.
    pub async fn info(&self) -> Result<Info, EngineGone> {
        self.ask(Command::Info).await
    }

    /// Joins a guest to the network.
    ///
    /// # Errors
    ///
    /// When the runtime refuses to watch the port, or the engine has ended.
    pub async fn attach(&self, port: Box<dyn Port>) -> io::Result<Attachment> {
        self.ask(|reply| Command::Attach { port, reply }).await?
    }

    /// Takes a guest off the network; its connections end.
    ///
    /// # Errors
    ///
    /// When the engine has ended.
    pub async fn detach(&self, port: PortId) -> Result<(), EngineGone> {
        self.commands.send(Command::Detach(port)).await.map_err(|_| EngineGone)
    }

    /// What has happened so far, in numbers.
    ///
    /// # Errors
    ///
    /// When the engine has ended.
    pub async fn counters(&self) -> Result<Counters, EngineGone> {
        self.ask(Command::Counters).await
    }

    /// All TCP connections.
    ///
    /// # Errors
    ///
    /// When the engine has ended.
    pub async fn flows(&self) -> Result<Vec<FlowInfo>, EngineGone> {
        self.ask(Command::Flows).await
    }

    /// All that guests say over UDP.
    ///
    /// # Errors
    ///
    /// When the engine has ended.
    pub async fn udp_flows(&self) -> Result<Vec<UdpFlowInfo>, EngineGone> {
        self.ask(Command::UdpFlows).await
    }

    /// All DHCP leases, with how long they last from now.
    ///
    /// # Errors
    ///
    /// When the engine has ended.
    pub async fn lease_table(&self) -> Result<Vec<LeaseEntry>, EngineGone> {
        self.ask(Command::LeaseTable).await
    }

    /// The DNS service.
    ///
    /// # Errors
    ///
    /// When the engine has ended.
    pub async fn dns(&self) -> Result<DnsHandle, EngineGone> {
        self.ask(Command::Dns).await
    }

    /// All DHCP leases.
    ///
    /// # Errors
    ///
    /// When the engine has ended.
    pub async fn leases(&self) -> Result<Vec<Lease>, EngineGone> {
        self.ask(Command::Leases).await
    }

    /// All DHCPv6 leases.
    ///
    /// # Errors
    ///
    /// When the engine has ended.
    pub async fn leases6(&self) -> Result<Vec<dhcp6::Lease>, EngineGone> {
        self.ask(Command::Leases6).await
    }

    /// Ends the engine. Returns at once; all that is still open is closed by the task in which the engine runs.
    pub fn shutdown(&self) {
        let commands = self.commands.clone();
        // A full channel must not keep the engine from ending, and this must not wait.
        if commands.try_send(Command::Shutdown).is_err()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                let _ = commands.send(Command::Shutdown).await;
            });
        }
    }

    pub(super) async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, EngineGone> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| EngineGone)?;
        answer.await.map_err(|_| EngineGone)
    }
}
