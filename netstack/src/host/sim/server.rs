//! The peers of the simulated host: how each answers a connection attempt, how fast it reads, and what it does.

use super::talk::Talk;
use crate::time::Duration;

/// What a peer does once it is connected.
#[derive(Debug, Clone, Copy)]
pub enum Program {
    /// Nothing by itself; the test reads with [`super::Connection::read`] and writes with [`super::Connection::push`].
    Idle,
    /// Writes back what it reads. Closes after the end of file.
    Echo,
    /// Reads everything. Closes after the end of file.
    Sink,
    /// Writes so many bytes of [`super::pattern`], closes its sending side, and reads everything.
    Source(u64),
    /// Reads so many bytes, then closes.
    CloseAfter(u64),
    /// Reads so many bytes, then resets the connection.
    ResetAfter(u64),
    /// Holds its side of a conversation, and panics when it hears anything else than it has to.
    Talk(Talk),
    /// Answers what it reads, each piece as it comes, with what the function returns. Closes after the end of file.
    Respond(fn(&[u8]) -> Vec<u8>),
}

/// How a connection attempt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Accept,
    Fail(i32),
    FailAtOnce(i32),
    Never,
}

/// A peer: how it answers a connection attempt, how fast it reads, and what it does.
#[derive(Debug, Clone, Copy)]
pub struct Server {
    pub(super) outcome: Outcome,
    pub(super) delay: Duration,
    pub(super) program: Program,
    pub(super) greeting: &'static [u8],
    pub(super) pace: Option<(usize, Duration)>,
    pub(super) send_queue: usize,
    pub(super) receive_queue: usize,
    pub(super) stays_half_open: bool,
    pub(super) forgets: bool,
}

impl Server {
    /// One that accepts at once and runs `program`, behind queues of 128 KiB each way.
    pub const fn new(program: Program) -> Self {
        Self {
            outcome: Outcome::Accept,
            delay: Duration::ZERO,
            program,
            greeting: &[],
            pace: None,
            send_queue: 128 << 10,
            receive_queue: 128 << 10,
            stays_half_open: false,
            forgets: false,
        }
    }

    /// One that refuses each connection: `ECONNREFUSED`.
    pub const fn refusing() -> Self {
        Self::failing(libc::ECONNREFUSED)
    }

    /// One to which no connection is possible: the attempt fails with `errno`, told by an event.
    pub const fn failing(errno: i32) -> Self {
        Self { outcome: Outcome::Fail(errno), ..Self::new(Program::Idle) }
    }

    /// One to which no connection is possible: `connect` itself fails with `errno`.
    pub const fn failing_at_once(errno: i32) -> Self {
        Self { outcome: Outcome::FailAtOnce(errno), ..Self::new(Program::Idle) }
    }

    /// One that never answers a connection attempt.
    pub const fn silent() -> Self {
        Self { outcome: Outcome::Never, ..Self::new(Program::Idle) }
    }

    /// Why it cannot be connected to, for those who are told at once.
    pub(super) const fn refusal(&self) -> Option<i32> {
        match self.outcome {
            Outcome::Fail(errno) | Outcome::FailAtOnce(errno) => Some(errno),
            Outcome::Accept | Outcome::Never => None,
        }
    }

    /// It leaves a connection attempt unanswered, until [`super::Connection::accept`] or [`super::Connection::fail`].
    #[must_use]
    pub const fn unanswered(self) -> Self {
        Self { outcome: Outcome::Never, ..self }
    }

    /// The connection attempt takes so long, however it ends.
    #[must_use]
    pub const fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// It sends these bytes first.
    #[must_use]
    pub const fn greeting(self, greeting: &'static [u8]) -> Self {
        Self { greeting, ..self }
    }

    /// It reads at most `bytes` at a time, and not again before `every` has passed.
    #[must_use]
    pub const fn reading(self, bytes: usize, every: Duration) -> Self {
        Self { pace: Some((bytes, every)), ..self }
    }

    /// The send queue of the stack's socket has this capacity in bytes.
    #[must_use]
    pub const fn send_queue(self, send_queue: usize) -> Self {
        Self { send_queue, ..self }
    }

    /// The receive queue of the stack's socket has this capacity in bytes.
    #[must_use]
    pub const fn receive_queue(self, receive_queue: usize) -> Self {
        Self { receive_queue, ..self }
    }

    /// It does not close its sending side because of an end of file.
    #[must_use]
    pub const fn staying_half_open(self) -> Self {
        Self { stays_half_open: true, ..self }
    }

    /// What it has received is counted and digested, but not kept.
    #[must_use]
    pub const fn forgetting(self) -> Self {
        Self { forgets: true, ..self }
    }
}
