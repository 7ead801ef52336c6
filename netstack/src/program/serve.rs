//! `slipway serve`: a network for virtual machines of other programs, which connect to a socket. Every connection is a guest.

use std::io;
use std::time::Duration;

use crate::engine::Handle;
use crate::port::Port;
use crate::port::stream::{ListenError, StreamListener, StreamPort};
use tokio::task::JoinSet;

use crate::program::capture::StandardOutput;
use crate::program::cli::{PortSpec, ServeArgs};
use crate::program::engine::{self, Termination};
use crate::program::failure::{Failure, OrFail};

/// How long to wait after a guest could not be accepted: nearly always because descriptors are used up, which others have to end.
const RESPITE: Duration = Duration::from_millis(200);

/// Serves until told to end.
pub(crate) fn run(args: &ServeArgs) -> Result<u8, Failure> {
    let config = args.network.config()?;
    let beside = args.network.beside(StandardOutput::Free)?;
    engine::with_engine(&config, beside, async |handle| serve(handle, &args.ports, config.mtu).await)?;
    Ok(0)
}

async fn serve(handle: Handle, ports: &[PortSpec], mtu: u16) -> Result<(), Failure> {
    let mut termination = Termination::catch()?;
    let mut tasks = JoinSet::new();
    for port in ports {
        let listener = listen(port)?;
        let address = listener.local_address().or_fail(|| format!("cannot tell where {} listens", port.text))?;
        tracing::info!(port = %format_args!("stream:{address}"), "listening");
        tasks.spawn(accept_all(handle.clone(), listener, mtu));
    }
    tokio::select! {
        signal = termination.asked() => tracing::info!(signal, "asked to end"),
        // Tasks that accept never end.
        Some(_) = tasks.join_next() => return Err(Failure::new("a listener has stopped by itself")),
    }
    Ok(())
}

fn listen(port: &PortSpec) -> Result<StreamListener, Failure> {
    StreamListener::bind(&port.address).map_err(|err| {
        let failure = Failure::new(format!("cannot open the port {}", port.text)).because_of(&err);
        let ListenError::Listen { source, .. } = err else { return failure };
        match source.kind() {
            io::ErrorKind::PermissionDenied => {
                failure.advice("Choose a path in a directory that you may write to, or a port above 1023.")
            }
            io::ErrorKind::NotFound => failure.advice("Make the directory of the socket first."),
            io::ErrorKind::AddrNotAvailable => failure.advice("Choose an address of this machine."),
            _ => failure,
        }
    })
}

async fn accept_all(handle: Handle, listener: StreamListener, mtu: u16) {
    let mut guests = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(mtu) => match accepted {
                Ok(port) => { guests.spawn(guest(handle.clone(), port)); }
                Err(err) => {
                    tracing::warn!(%err, "cannot accept a guest");
                    tokio::time::sleep(RESPITE).await;
                }
            },
            Some(_) = guests.join_next() => {}
        }
    }
}

/// One guest from its connection to its end.
async fn guest(handle: Handle, port: StreamPort) {
    let name = port.name();
    match handle.attach(Box::new(port)).await {
        Ok(attachment) => {
            tracing::info!(guest = name, id = attachment.id.0, "attached");
            let why = attachment.closed.await;
            tracing::info!(guest = name, why = why.as_deref().unwrap_or("the engine has stopped"), "gone");
        }
        Err(err) => tracing::warn!(guest = name, %err, "not attached"),
    }
}
