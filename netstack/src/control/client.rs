//! A client of the [JSON API](super::api), for programs that have no runtime.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Command;

/// How long an answer may take: longer than a command may take there.
const PATIENCE: Duration = Duration::from_secs(40);

/// The API of an engine, somewhere on this machine.
#[derive(Debug, Clone)]
pub struct Client {
    path: PathBuf,
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody can be reached.
    #[error("cannot connect to {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the engine has not answered")]
    Broken(#[source] io::Error),
    /// What came was no answer.
    #[error("this is no answer of an engine: {0}")]
    Strange(String),
    /// The engine refuses.
    #[error("{}", why.as_deref().unwrap_or(what))]
    Refused {
        /// In a few words.
        what: String,
        /// In a sentence.
        why: Option<String>,
    },
}

#[derive(Debug, Serialize)]
struct Request<'a, C> {
    execute: &'a str,
    arguments: &'a C,
    explain: bool,
}

/// What is not there for a command whose reply stands alone.
#[derive(Debug, Deserialize)]
struct Answer<R> {
    #[serde(rename = "return")]
    reply: R,
}

impl Client {
    /// That which listens at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has a command carried out.
    ///
    /// # Errors
    ///
    /// When it was not, or the answer makes no sense.
    pub fn call<C: Command>(&self, command: &C) -> Result<C::Reply, CallError> {
        let answer = self.call_raw(command)?;
        let reply =
            if C::BARE { serde_json::from_str(&answer) } else { serde_json::from_str(&answer).map(|Answer { reply }| reply) };
        reply.map_err(|_| CallError::Strange(answer))
    }

    /// Likewise, and returns the answer as it came.
    ///
    /// # Errors
    ///
    /// When it was not carried out.
    pub fn call_raw<C: Command>(&self, command: &C) -> Result<String, CallError> {
        let request = Request { execute: C::NAME, arguments: command, explain: true };
        let request = serde_json::to_string(&request).map_err(|error| CallError::Broken(error.into()))?;
        let answer = self.exchange(&request)?;
        let value: Value = serde_json::from_str(&answer).map_err(|_| CallError::Strange(answer.clone()))?;
        let Some(error) = value.get("error") else { return Ok(answer) };
        let text = |key| error.get(key).and_then(Value::as_str).map(str::to_owned);
        Err(CallError::Refused { what: text("desc").unwrap_or_default(), why: text("reason") })
    }

    fn exchange(&self, request: &str) -> Result<String, CallError> {
        let connect = |source| CallError::Connect { path: self.path.clone(), source };
        let mut stream = UnixStream::connect(&self.path).map_err(connect)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(CallError::Broken)?;
        // An engine that turns us away has closed its side already, and its answer says why.
        let sent = stream.write_all(request.as_bytes()).and_then(|()| stream.shutdown(Shutdown::Write));
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        if !answer.is_empty() {
            return String::from_utf8(answer).map_err(|error| CallError::Strange(error.to_string()));
        }
        let error = read.err().or_else(|| sent.err()).unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
        Err(CallError::Broken(error))
    }
}
