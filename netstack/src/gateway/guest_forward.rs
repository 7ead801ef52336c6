//! Streams to what guests are forwarded to within this process: commands, hooks, and the SMB server.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;

use super::command::Commands;
use super::hook::{SmbHook, StreamHook};
use super::smb::Smbd;
use crate::host::kernel::ServiceStream;

/// What is behind the forwards of guests, by their numbers in the configuration.
pub(crate) struct GuestForwards {
    pub(crate) targets: Vec<Target>,
    pub(crate) smb: Smb,
    pub(crate) commands: Option<Commands>,
}

impl fmt::Debug for GuestForwards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestForwards")
            .field("targets", &self.targets.len())
            .field("commands", &self.commands)
            .finish_non_exhaustive()
    }
}

/// What is behind one forward.
pub(crate) enum Target {
    /// Not a service of this process: the stack finds the way by itself.
    Elsewhere,
    Command(String),
    Hook(Arc<dyn StreamHook>),
}

/// What is behind the ports of the SMB server.
pub(crate) enum Smb {
    /// Everybody is refused.
    Nobody,
    Hook(Arc<dyn SmbHook>),
    Smbd(Smbd),
}

impl GuestForwards {
    /// Opens a stream to the target of this number. Must be called within a runtime.
    ///
    /// # Errors
    ///
    /// When there is no such target, it refuses, or a limit is reached.
    pub(crate) fn open(&self, number: u16, guest: SocketAddr) -> io::Result<ServiceStream> {
        match (self.targets.get(usize::from(number)), &self.commands) {
            (Some(Target::Command(command)), Some(commands)) => commands.shell(command),
            (Some(Target::Hook(hook)), _) => handed(|stream| hook.connect(guest, stream)),
            _ => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    /// Opens a stream to the SMB server.
    ///
    /// # Errors
    ///
    /// As [`GuestForwards::open`].
    pub(crate) fn open_smb(&self, port: u16, guest: SocketAddr) -> io::Result<ServiceStream> {
        match (&self.smb, &self.commands) {
            (Smb::Hook(hook), _) => handed(|stream| hook.connect(guest, port, stream)),
            (Smb::Smbd(smbd), Some(commands)) => smbd.open(commands),
            _ => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

/// A stream whose other end was handed to somebody.
fn handed(take: impl FnOnce(tokio::net::UnixStream) -> io::Result<()>) -> io::Result<ServiceStream> {
    let (ours, theirs): (_, StdUnixStream) = ServiceStream::pair()?;
    take(tokio::net::UnixStream::from_std(theirs)?)?;
    Ok(ours)
}
