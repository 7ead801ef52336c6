//! The DNS service that guests reach at 10.0.2.3 and fec0::3, port 53, over UDP and TCP.
//!
//! It forwards: a question goes to the host's own resolvers and their answer comes back as a whole message, with record types, sections
//! and response codes that we need not know. Before that it answers what it knows itself ([`LocalNames`], [`Names`], the hosts file),
//! and what it has been told before. Everything follows the host live: when resolv.conf or the hosts file changes, the next question
//! sees it.
//!
//! It runs beside the engine as ordinary tasks and listens on no socket, so that nobody but guests can reach it. The engine hands it
//! datagrams with [`DnsHandle::query`], and one end of a socket pair for each TCP connection with [`DnsHandle::stream`]; answers to
//! datagrams come back on a channel.
//!
//! What always holds: neither call ever waits; what is in work, kept or remembered is bounded; whatever bytes a guest or a server
//! sends, the result is an answer, a refusal or silence.
//!
//! Messages and exchanges are hickory's (`hickory-proto`, `hickory-net`). Its resolver and its server are not used: the resolver turns
//! negative answers into errors and loses their sections on the way, does not try another server after SERVFAIL, and waits in vain for
//! a closed port; the server wants sockets of its own.

mod cache;
mod forwarder;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod hosts;
mod local;
mod message;
mod names;
mod resolv_conf;
mod stream;
#[cfg(test)]
mod tests;
mod upstream;
mod watched;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use serde::{Deserialize, Serialize};
use tokio::runtime;
use tokio::sync::{Semaphore, mpsc};

use crate::config::DnsConfig;
use forwarder::{Forwarder, count};
use local::Local;
pub use local::LocalNames;
use message::Transport;
pub use names::{NameRefused, Names};

/// TCP connections of guests at once; further ones are refused.
const STREAMS: usize = 128;
/// How old what we know of resolv.conf and of the hosts file may be.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A datagram of a guest for the DNS service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Where it came from.
    pub guest: SocketAddr,
    /// Comes back with the answer. It means something to the caller only.
    pub tag: u64,
    /// Its payload.
    pub message: Vec<u8>,
}

/// A datagram that answers a [`Query`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Where it goes.
    pub guest: SocketAddr,
    /// As in the query.
    pub tag: u64,
    /// Its payload: as long as the guest has said that it can take, and at most 4096 bytes.
    pub message: Vec<u8>,
}

/// As much is in work as may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the DNS service has as much to do as it may")]
pub struct Overloaded;

/// Why the service did not start.
#[derive(Debug, thiserror::Error)]
#[error("the DNS service has to be started inside a tokio runtime")]
pub struct StartError(#[from] runtime::TryCurrentError);

/// The service as what started it sees it. Clones are the same service; its tasks end when there is nothing left for them to answer.
#[derive(Debug, Clone)]
pub struct DnsHandle {
    forwarder: Arc<Forwarder>,
    runtime: runtime::Handle,
    /// Room for datagrams' questions.
    datagrams: Arc<Semaphore>,
    /// Room for connections.
    streams: Arc<Semaphore>,
    /// Room for connections' questions. Theirs wait for each other, so that they cannot make datagrams fail, nor the other way round.
    stream_questions: Arc<Semaphore>,
    responses: mpsc::Sender<Response>,
}

/// What the service has done since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsStats {
    /// Messages that were no queries and got no answer.
    pub dropped: u64,
    /// Queries that could not be read, or that a forwarder does not answer.
    pub refused: u64,
    /// Answers from names that we know ourselves.
    pub local: u64,
    /// Answers from the cache.
    pub cached: u64,
    /// Questions that joined the same question of somebody else.
    pub joined: u64,
    /// Questions that went upstream.
    pub forwarded: u64,
    /// Of those, the ones that no server answered.
    pub failed: u64,
    /// Datagrams and connections that there was no room for.
    pub overloaded: u64,
}

/// What the service knows, and from whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsStatus {
    /// The servers that are asked, in their order, and whether each has answered when it was asked last.
    pub servers: Vec<(SocketAddr, bool)>,
    /// The names of guests, their addresses, and for how long they are good.
    pub names: Vec<(String, IpAddr, Duration)>,
    /// Questions whose answers are kept, and for how long.
    pub cached: Vec<(String, Duration)>,
}

impl DnsHandle {
    /// Starts the service in the current tokio runtime. `names` is shared with the DHCP server. The receiver gets the answers to
    /// datagrams; while nobody takes them, no more than [`DnsConfig::concurrent`] questions are worked on.
    ///
    /// Files that cannot be read are as good as empty; the service looks again later.
    ///
    /// # Errors
    ///
    /// When there is no current tokio runtime.
    pub fn spawn(config: &DnsConfig, names: Arc<Names>, local: LocalNames) -> Result<(Self, mpsc::Receiver<Response>), StartError> {
        Self::spawn_checking(config, names, local, CHECK_INTERVAL)
    }

    fn spawn_checking(
        config: &DnsConfig,
        names: Arc<Names>,
        local: LocalNames,
        check_interval: Duration,
    ) -> Result<(Self, mpsc::Receiver<Response>), StartError> {
        let concurrent = config.concurrent.clamp(1, Semaphore::MAX_PERMITS);
        let (responses, receiver) = mpsc::channel(concurrent);
        let forwarder = Forwarder::new(config, Local::new(local, names), check_interval);
        let handle = Self {
            forwarder: Arc::new(forwarder),
            runtime: runtime::Handle::try_current()?,
            datagrams: Arc::new(Semaphore::new(concurrent)),
            streams: Arc::new(Semaphore::new(STREAMS)),
            stream_questions: Arc::new(Semaphore::new(concurrent)),
            responses,
        };
        Ok((handle, receiver))
    }

    /// Answers a datagram, later, on the channel. Never waits.
    ///
    /// # Errors
    ///
    /// When there is no room for another question. The guest has then been answered SERVFAIL, if there was room for that; the caller
    /// has nothing to do but to count.
    pub fn query(&self, query: Query) -> Result<(), Overloaded> {
        let Query { guest, tag, message } = query;
        let Ok(permit) = Arc::clone(&self.datagrams).try_acquire_owned() else {
            count(&self.forwarder.counters.overloaded);
            if let Some(message) = message::refusal(&message, ResponseCode::ServFail) {
                let _ = self.responses.try_send(Response { guest, tag, message });
            }
            return Err(Overloaded);
        };
        let (forwarder, responses) = (Arc::clone(&self.forwarder), self.responses.clone());
        self.runtime.spawn(async move {
            if let Some(message) = forwarder.answer(&message, Transport::Udp).await {
                // Fails when the engine has stopped, and then nobody is interested.
                let _ = responses.send(Response { guest, tag, message }).await;
            }
            drop(permit);
        });
        Ok(())
    }

    /// Serves a TCP connection of `guest` at the other end of `stream` until it is closed. Never waits.
    ///
    /// # Errors
    ///
    /// When there is no room for another connection, or `stream` cannot be used. It is then closed.
    pub fn stream(&self, stream: UnixStream, guest: SocketAddr) -> Result<(), Overloaded> {
        let permit = Arc::clone(&self.streams).try_acquire_owned();
        let (Ok(permit), Ok(stream)) = (permit, self.adopt(stream)) else {
            count(&self.forwarder.counters.overloaded);
            return Err(Overloaded);
        };
        tracing::trace!(%guest, "a DNS connection opens");
        let (forwarder, questions) = (Arc::clone(&self.forwarder), Arc::clone(&self.stream_questions));
        self.runtime.spawn(async move {
            stream::serve(stream, forwarder, questions).await;
            drop(permit);
        });
        Ok(())
    }

    /// The domains that the host searches, for DHCP to pass on. As of the last question; what DHCP has been told to say goes before.
    pub fn search(&self) -> Vec<String> {
        self.forwarder.search()
    }

    /// What the service has done so far.
    pub fn stats(&self) -> DnsStats {
        let counters = &self.forwarder.counters;
        DnsStats {
            dropped: counters.dropped.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
            local: counters.local.load(Ordering::Relaxed),
            cached: counters.cached.load(Ordering::Relaxed),
            joined: counters.joined.load(Ordering::Relaxed),
            forwarded: counters.forwarded.load(Ordering::Relaxed),
            failed: counters.failed.load(Ordering::Relaxed),
            overloaded: counters.overloaded.load(Ordering::Relaxed),
        }
    }

    /// What the service knows, and from whom.
    pub async fn status(&self) -> DnsStatus {
        self.forwarder.status().await
    }

    fn adopt(&self, stream: UnixStream) -> io::Result<tokio::net::UnixStream> {
        stream.set_nonblocking(true)?;
        let _inside = self.runtime.enter();
        tokio::net::UnixStream::from_std(stream)
    }
}
