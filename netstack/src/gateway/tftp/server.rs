//! The server proper: async-tftp, in a thread of its own, on a socket that answers to nobody but this process.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use async_tftp::packet::Error as Refusal;
use async_tftp::server::{Handler, TftpServerBuilder};
use futures_lite::future;
use tokio::sync::oneshot;

use super::reader::Reader;
use super::ticket::{Key, Tickets};
use crate::gateway::files::Root;

/// How long an acknowledgement is waited for before blocks are sent again, unless the guest says another time.
const TIMEOUT: Duration = Duration::from_secs(1);

/// How often blocks are sent again before the transfer is given up.
const RETRIES: u32 = 8;

/// The server's thread. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// Starts to serve the files of `root` to those who have a ticket.
    pub(super) fn start(root: Arc<Root>, tickets: Arc<Tickets>) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = socket.local_addr()?;
        let other = |error: async_tftp::Error| io::Error::other(error);
        let builder = TftpServerBuilder::with_handler(Doorkeeper { root, tickets })
            .std_socket(socket)
            .map_err(other)?
            .timeout(TIMEOUT)
            .max_send_retries(RETRIES);
        let server = future::block_on(builder.build()).map_err(other)?;
        let (stop, stopped) = oneshot::channel();
        let run = async move {
            if let Err(error) = server.serve().await {
                tracing::error!(%error, "the TFTP server has ended");
            }
        };
        let stopped = async move { drop(stopped.await) };
        let thread = thread::Builder::new().name("tftp".to_owned()).spawn(|| async_io::block_on(future::or(stopped, run)))?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        // It only waits for sockets, timers and this; what it reads from disks others wait for.
        self.thread.take().map(thread::JoinHandle::join);
    }
}

/// Lets in whoever has a ticket.
struct Doorkeeper {
    root: Arc<Root>,
    tickets: Arc<Tickets>,
}

impl Handler for Doorkeeper {
    type Reader = Reader;
    type Writer = futures_lite::io::Sink;

    async fn read_req_open(&mut self, client: &SocketAddr, path: &Path) -> Result<(Reader, Option<u64>), Refusal> {
        let key = path.to_str().and_then(Key::of_name);
        let ticket = key.and_then(|key| self.tickets.take(key, *client)).ok_or(Refusal::PermissionDenied)?;
        let proof = ticket.proof;
        Ok((Reader::new(Arc::clone(&self.root), ticket), Some(proof)))
    }

    async fn write_req_open(&mut self, _: &SocketAddr, _: &Path, _: Option<u64>) -> Result<Self::Writer, Refusal> {
        Err(Refusal::PermissionDenied)
    }
}
