//! `slipway serve`: a network for virtual machines of other programs, which connect to a socket. Every connection is a guest.

use std::io;
use std::time::Duration;

use netstack::engine::Handle;
use netstack::port::Port;
use netstack::port::stream::{StreamListener, StreamPort};
use tokio::task::JoinSet;

use crate::cli::{PortSpec, ServeArgs};
use crate::engine::{self, Termination};
use crate::failure::Failure;

/// How long to wait after a guest could not be accepted: nearly always because descriptors are used up, which others have to end.
const RESPITE: Duration = Duration::from_millis(200);

/// Serves until told to end.
pub(crate) fn run(args: &ServeArgs) -> Result<u8, Failure> {
    engine::with_engine(args.network.config()?, async |handle| serve(handle, &args.ports).await)?;
    Ok(0)
}

async fn serve(handle: Handle, ports: &[PortSpec]) -> Result<(), Failure> {
    let mut termination = Termination::catch()?;
    let mut tasks = JoinSet::new();
    for port in ports {
        let listener = listen(port)?;
        tracing::info!(port = port.text, "listening");
        tasks.spawn(accept_all(handle.clone(), listener));
    }
    tell_forwards(&handle).await;
    tokio::select! {
        signal = termination.asked() => tracing::info!(signal, "asked to end"),
        // Tasks that accept never end.
        Some(_) = tasks.join_next() => return Err(Failure::new("a listener has stopped by itself")),
    }
    Ok(())
}

fn listen(port: &PortSpec) -> Result<StreamListener, Failure> {
    StreamListener::bind(&port.address).map_err(|err| {
        let failure = Failure::new(format!("cannot listen on {}", port.text)).because(&err);
        match err.kind() {
            io::ErrorKind::AddrInUse => {
                failure.advice("Another program listens there, perhaps another slipway; end it or choose another address.")
            }
            io::ErrorKind::PermissionDenied => {
                failure.advice("Choose a path in a directory that you may write to, or a port above 1023.")
            }
            io::ErrorKind::NotFound => failure.advice("Make the directory of the socket first."),
            _ => failure,
        }
    })
}

/// With port 0 only this tells which port it has become.
async fn tell_forwards(handle: &Handle) {
    for forward in handle.host_forwards().await {
        tracing::info!(%forward, "forwarding");
    }
}

async fn accept_all(handle: Handle, mut listener: StreamListener) {
    let mut guests = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
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
