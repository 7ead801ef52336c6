//! The upstream servers: which one is asked, and which next when it does not help.
//!
//! Servers are asked in the order in which the user named them, like the C library does, because the first may know names that the
//! others do not. But nobody waits for a dead one:
//!
//! - A server that has not answered within [`PATIENCE`] is not given up, the next is asked beside it, and the first answer wins.
//! - A server that cannot be reached, or is silent [`STRIKES`] times in a row, is down: it goes to the end of the line for [`DOWN`].
//!   After that one question tries it out, beside a healthy server, so that even then nobody waits for it.
//! - SERVFAIL and REFUSED are answers that another server may improve on. If none does, the first of them is the answer.
//!
//! Datagrams have 1232 bytes (DNS flag day 2020); what is truncated is asked again over TCP (RFC 7766 section 5). Every question has a
//! random id, a socket and so a port of its own, and an answer must come from the server's address with the question in it (RFC 5452).

mod socket;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_net::NetError;
use hickory_net::tcp::TcpClientStream;
use hickory_net::udp::UdpClientStream;
use hickory_net::xfer::{DnsHandle, DnsRequestSender, FirstAnswer};
use hickory_proto::op::{DnsRequest, DnsRequestOptions, DnsResponse, Message, ResponseCode};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::message::is_answer;
use super::resolv_conf::Timing;
use socket::Runtime;

/// How long a server may take before the next is asked as well.
const PATIENCE: Duration = Duration::from_millis(400);
/// How long all servers together may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long we look for a better answer once there is a bad one.
const SECOND_OPINION: Duration = Duration::from_secs(1);
/// How often a server may be silent before it counts as down.
const STRIKES: u32 = 2;
/// For how long a server that is down is left alone.
const DOWN: Duration = Duration::from_secs(30);

/// No server has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no upstream server has answered")]
pub(super) struct Unreachable;

/// The upstream servers and what is known of their health.
#[derive(Debug)]
pub(super) struct Upstream {
    servers: Vec<Arc<Server>>,
}

impl Upstream {
    pub(super) fn new(servers: &[SocketAddr], timing: Timing) -> Self {
        let server = |address: &SocketAddr| Arc::new(Server { address: *address, timing, health: Mutex::default() });
        Self { servers: servers.iter().map(server).collect() }
    }

    /// Asks until a server answers, and returns its message as it is.
    ///
    /// # Errors
    ///
    /// When no server has answered within [`DEADLINE`].
    pub(super) async fn ask(&self, request: &Message) -> Result<Message, Unreachable> {
        let start = Instant::now();
        let mut line = self.line(start);
        let mut asked: Vec<Asked> = Vec::new();
        let mut answers = JoinSet::new();
        let mut poor_answer = None;
        let mut deadline = start + DEADLINE;
        let mut next_due = true;
        loop {
            while next_due && let Some(candidate) = line.pop_front() {
                // A server that is tried out does not count: the next is asked at the same time.
                next_due = candidate.on_trial;
                let server = candidate.server;
                let (index, request) = (asked.len(), request.clone());
                asked.push(Asked { server: Arc::clone(&server), since: Instant::now(), done: false });
                answers.spawn(async move { (index, server.exchange(&request).await) });
            }
            next_due = false;
            if answers.is_empty() {
                break;
            }
            tokio::select! {
                answer = answers.join_next() => {
                    let Some(Ok((index, result))) = answer else { continue };
                    let Some(asked_server) = asked.get_mut(index) else { continue };
                    asked_server.done = true;
                    match result {
                        Ok(message) => {
                            asked_server.server.health().up();
                            if !matches!(message.metadata.response_code, ResponseCode::ServFail | ResponseCode::Refused) {
                                blame_the_silent(&asked);
                                return Ok(message);
                            }
                            poor_answer.get_or_insert(message);
                            deadline = deadline.min(Instant::now() + SECOND_OPINION);
                        }
                        Err(error) => {
                            tracing::debug!(server = %asked_server.server.address, %error, "an upstream server does not answer");
                            asked_server.server.health().failed(&error);
                        }
                    }
                    next_due = true;
                }
                () = sleep(PATIENCE), if !line.is_empty() => next_due = true,
                () = sleep_until(deadline) => break,
            }
        }
        blame_the_silent(&asked);
        poor_answer.ok_or(Unreachable)
    }

    /// All servers, and whether each is up.
    pub(super) fn servers(&self) -> impl Iterator<Item = (SocketAddr, bool)> {
        self.servers.iter().map(|server| (server.address, server.health().down_until.is_none()))
    }

    /// The servers in the order in which to ask them: those to try out, those that are up, those that are down.
    fn line(&self, now: Instant) -> VecDeque<Candidate> {
        let (mut up, mut down) = (VecDeque::new(), VecDeque::new());
        for server in &self.servers {
            let mut health = server.health();
            let candidate = |on_trial| Candidate { server: Arc::clone(server), on_trial };
            match health.down_until {
                None => up.push_back(candidate(false)),
                Some(until) if until <= now => {
                    // Until the trial has shown something, others leave it alone.
                    health.down_until = Some(now + DOWN);
                    up.push_front(candidate(true));
                }
                Some(_) => down.push_back(candidate(false)),
            }
        }
        up.append(&mut down);
        up
    }
}

/// A server that may be asked.
struct Candidate {
    server: Arc<Server>,
    on_trial: bool,
}

/// A server that has been asked.
struct Asked {
    server: Arc<Server>,
    since: Instant,
    done: bool,
}

/// Counts a strike against every server that had its time and said nothing.
fn blame_the_silent(asked: &[Asked]) {
    for asked in asked.iter().filter(|asked| !asked.done && asked.since.elapsed() >= PATIENCE) {
        asked.server.health().failed(&NetError::Timeout);
    }
}

#[derive(Debug)]
struct Server {
    address: SocketAddr,
    timing: Timing,
    health: Mutex<Health>,
}

#[derive(Debug, Default)]
struct Health {
    /// How many times in a row it has been silent.
    strikes: u32,
    down_until: Option<Instant>,
}

impl Health {
    fn up(&mut self) {
        *self = Self::default();
    }

    fn failed(&mut self, error: &NetError) {
        // A refused datagram or an unreachable network will be the same the next time; silence may have been a lost datagram.
        self.strikes = if matches!(error, NetError::Io(_)) { STRIKES } else { self.strikes.saturating_add(1) };
        if self.strikes >= STRIKES {
            self.down_until = Some(Instant::now() + DOWN);
        }
    }
}

impl Server {
    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks this server, over TCP if the answer does not fit a datagram, and without EDNS if it does not know EDNS.
    async fn exchange(&self, request: &Message) -> Result<Message, NetError> {
        let answer = match self.over_udp(request).await {
            // Perhaps it was longer than we asked for, and so cut off.
            Err(NetError::Proto(_)) => return self.over_tcp(request).await,
            answer => answer?,
        };
        let old = matches!(answer.metadata.response_code, ResponseCode::FormErr | ResponseCode::NotImp) && answer.edns.is_none();
        let answer = if old {
            // RFC 6891 section 7.
            let mut plain = request.clone();
            plain.edns = None;
            self.over_udp(&plain).await?
        } else {
            answer
        };
        if !answer.metadata.truncation {
            return Ok(answer);
        }
        // A server without TCP has at least said this much; the guest sees TC and may try for itself.
        Ok(self.over_tcp(request).await.unwrap_or(answer))
    }

    async fn over_udp(&self, request: &Message) -> Result<Message, NetError> {
        let attempts = self.timing.attempts.max(1);
        let mut options = DnsRequestOptions::default();
        options.retry_interval = self.timing.timeout / u32::from(attempts);
        let mut stream = UdpClientStream::builder(self.address, Runtime::default())
            .with_timeout(Some(self.timing.timeout))
            .with_max_retries(attempts)
            .with_os_port_selection(true)
            .build();
        let answer = stream.send_message(DnsRequest::new(request.clone(), options)).first_answer().await?;
        accept(answer)
    }

    async fn over_tcp(&self, request: &Message) -> Result<Message, NetError> {
        // The runtime ends the connection's task when its last copy goes.
        let runtime = Runtime::default();
        let exchange = TcpClientStream::exchange(self.address, None, self.timing.timeout, None, runtime.clone()).await?;
        let answer = exchange.send(DnsRequest::new(request.clone(), DnsRequestOptions::default())).first_answer().await?;
        // Over UDP hickory compares the questions; over TCP it trusts the connection.
        if answer.queries != request.queries {
            return Err(NetError::from("the answer is to another question"));
        }
        accept(answer)
    }
}

fn accept(answer: DnsResponse) -> Result<Message, NetError> {
    let message = answer.into_message();
    if is_answer(&message) { Ok(message) } else { Err(NetError::from("the message is no answer to a query")) }
}
