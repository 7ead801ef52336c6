//! The JSON API: commands over a UNIX socket, as slirp4netns's API has them.
//!
//! A client connects, sends one JSON object `{"execute": NAME, "arguments": {...}}`, and gets one object back: `{"return": {...}}`, or
//! `{"error": {"desc": "bad request: ..."}}`. With `"explain": true` beside `execute`, an error also has a `reason`, in a sentence. Then
//! the connection is closed. A request has ended when its object is complete, or when the client shuts down its sending side; in how many
//! pieces it comes does not matter.
//!
//! What always holds:
//!
//! - The socket is of its user alone (mode 0600). One that nobody listens on is replaced; the file goes with the server.
//! - No client keeps another waiting: each has a task of its own, there is a bounded number of them, and who sends or takes nothing for
//!   too long is cut off.
//! - Whatever is sent is answered, and what has been carried out is told, also when the engine ends meanwhile.

pub(super) mod request;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Mode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::request::{Reader, Request};
use super::tally::{Tally, count};
use super::{Failed, Refused, execute};
use crate::config::{Limits, Timeouts};
use crate::engine::Handle;
use crate::host::socket_file::{self, SocketFile};

pub use self::request::{BadRequest, Scanner};

/// Clients that have connected and were not accepted yet, at most.
const BACKLOG: i32 = 64;

/// How long a command may take. A named pipe that nobody reads, for one, opens never.
const COMMAND: Duration = Duration::from_secs(30);

/// How long the last answers may take when the engine has ended.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long to wait after a client could not be accepted: nearly always because descriptors are used up.
const RESPITE: Duration = Duration::from_millis(200);

/// How long a client may take to close its side after it has its answer.
const DRAIN: Duration = Duration::from_millis(100);

/// Bytes that are written at a time. Whoever takes so few in none of its time is cut off.
const PIECE: usize = 64 << 10;

/// Why there is no API.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {}: {}", path.display(), why_not(source))]
pub struct BindError {
    /// Where it was to be.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

fn why_not(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens there already; choose another path, or end that program".to_owned(),
        io::ErrorKind::AlreadyExists => {
            "there is a file which is no socket, so it is left alone; remove it, or choose another path".to_owned()
        }
        io::ErrorKind::NotFound => "its directory is not there; make it first".to_owned(),
        io::ErrorKind::PermissionDenied => "you may not make a file there; choose a directory that you may write to".to_owned(),
        io::ErrorKind::InvalidFilename => "the path is too long for a socket; choose one of at most 107 bytes".to_owned(),
        _ => error.to_string(),
    }
}

/// The API of one engine, before it runs.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    _file: SocketFile,
    clients: usize,
    request_bytes: usize,
    stall: Duration,
}

impl Server {
    /// Listens at `path`. Called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When somebody listens there, or there can be no socket.
    pub fn bind(path: &Path, limits: &Limits, timeouts: &Timeouts) -> Result<Self, BindError> {
        let bind = || {
            let (socket, file) = socket_file::listen(path, Some(Mode::RUSR | Mode::WUSR), BACKLOG)?;
            Ok((UnixListener::from_std(socket.into())?, file))
        };
        let (listener, file) = bind().map_err(|source| BindError { path: path.to_owned(), source })?;
        Ok(Self {
            listener,
            _file: file,
            clients: limits.api_clients,
            request_bytes: limits.api_request_bytes,
            stall: timeouts.api_stall,
        })
    }

    /// Serves clients until the engine has ended, and those that it has until they have their answers.
    pub async fn run(self, engine: Handle) {
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let client = Client { stream, stall: self.stall, engine: engine.clone() };
                        if clients.len() < self.clients {
                            clients.spawn(client.serve(self.request_bytes));
                        } else {
                            client.turn_away();
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a client of the API");
                        tokio::time::sleep(RESPITE).await;
                    }
                },
                Some(_) = clients.join_next() => {}
                () = engine.ended() => break,
            }
        }
        let all = async { while clients.join_next().await.is_some() {} };
        if timeout(FAREWELL, all).await.is_err() {
            tracing::debug!("clients of the API were cut off at the end");
        }
    }
}

/// One connection.
struct Client {
    stream: UnixStream,
    stall: Duration,
    engine: Handle,
}

impl Client {
    /// From its request to its answer.
    async fn serve(mut self, request_bytes: usize) {
        let mut reader = Reader::new(request_bytes);
        let tally = Arc::clone(self.engine.tally());
        let answer = match timeout(self.stall, reader.read(&mut self.stream)).await {
            Err(_) => return count(&tally.api_stalled),
            Ok(Err(error)) => return tracing::debug!(%error, "a client of the API has gone"),
            Ok(Ok(request)) => match request {
                Ok(request) => self.carry_out(request, &tally).await,
                Err(bad) => {
                    count(if bad == BadRequest::TooLarge { &tally.api_limit_request_bytes } else { &tally.api_refused });
                    error_of(&bad.to_string(), None)
                }
            },
        };
        self.answer(&answer, &tally).await;
        // Closing a connection from which not all was read would look like a failure to the client. Nearly always there is no more.
        if matches!(self.stream.try_read(&mut [0; 4096]), Ok(1..)) && self.stream.shutdown().await.is_ok() {
            let drain = async { while matches!(self.stream.read(&mut [0; 4096]).await, Ok(1..)) {} };
            let _ = timeout(DRAIN, drain).await;
        }
    }

    async fn carry_out(&self, Request { execute: name, arguments, explain }: Request, tally: &Tally) -> String {
        let outcome = match timeout(COMMAND, execute(&name, arguments, &self.engine)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let refused = Refused::new(format!("it has taken more than {} s", COMMAND.as_secs()));
                Some(Err(Failed { refused, compatible: false }))
            }
        };
        let (failed, known) = match outcome {
            Some(Ok(answer)) => {
                count(&tally.api_commands);
                return answer;
            }
            Some(Err(failed)) => (failed, true),
            None => {
                let why = format!("there is no command `{name}`; there are {}", super::NAMES.join(", "));
                (Failed { refused: Refused::because("unknown execute", why), compatible: true }, false)
            }
        };
        count(&tally.api_refused);
        let Failed { refused: Refused { what, why }, compatible } = failed;
        let what = if known { format!("{name}: {what}") } else { what };
        let what = match &why {
            Some(why) if !compatible => format!("{what}: {why}"),
            _ => what,
        };
        error_of(&format!("bad request: {what}"), why.filter(|_| explain).as_deref())
    }

    async fn answer(&mut self, answer: &str, tally: &Tally) {
        for piece in answer.as_bytes().chunks(PIECE) {
            match timeout(self.stall, self.stream.write_all(piece)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return tracing::debug!(%error, "a client of the API has gone"),
                Err(_) => return count(&tally.api_stalled),
            }
        }
    }

    /// There are too many clients: this one is told so, if it takes it.
    fn turn_away(self) {
        count(&self.engine.tally().api_limit_clients);
        let answer = error_of("bad request: too many clients at once: wait until another is done", None);
        // It has just connected, so there is room for a line. What it has sent already is read, for else the line would be lost.
        let _ = self.stream.try_read(&mut [0; 4096]);
        let _ = self.stream.try_write(answer.as_bytes());
    }
}

/// An answer that says what has gone wrong.
fn error_of(what: &str, why: Option<&str>) -> String {
    #[derive(serde::Serialize)]
    struct Answer<'a> {
        error: Error<'a>,
    }
    #[derive(serde::Serialize)]
    struct Error<'a> {
        desc: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
    }
    // Texts can always be written.
    serde_json::to_string(&Answer { error: Error { desc: what, reason: why } }).unwrap_or_default()
}
