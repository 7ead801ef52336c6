//! Commands that serve guests: a process for each connection, whose standard input and output the connection is.
//!
//! What always holds:
//!
//! - A process is started and waited for beside the engine, never by it. A thread of its own starts them: the kernel ends a process with
//!   the thread that has started it, if it was asked to, and so nothing outlives us, not even when we are killed.
//! - Each is the first of a session and process group of its own. When its connection has ended it is given some time, the whole group
//!   then gets SIGTERM, and after the same time again SIGKILL.
//! - There are never more than `Limits::guest_forward_commands` of them.
//! - What they write to standard error goes to the log, line by line, so much of it and no more.

mod log;

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc as threads};
use std::thread;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::timeout;

use self::log::Log;
use crate::host::kernel::ServiceStream;
use crate::host::{child, sys};
use crate::time::Duration;

/// All commands of one engine.
#[derive(Debug)]
pub(crate) struct Commands {
    spawner: threads::Sender<Job>,
    room: Arc<Semaphore>,
    /// How long a process has to end by itself, and again after SIGTERM.
    patience: Duration,
    log: Arc<Log>,
    /// Told when the engine ends. Every process has a receiver, so the sender knows when the last has gone.
    closing: watch::Sender<bool>,
}

/// A process that is to be started.
#[derive(Debug)]
struct Job {
    command: Command,
    reply: oneshot::Sender<io::Result<Process>>,
}

impl Commands {
    /// No command yet. At most `limit` will run at once.
    ///
    /// # Errors
    ///
    /// When the process may have no further thread.
    pub(crate) fn new(limit: usize, patience: Duration) -> io::Result<Self> {
        let (spawner, jobs) = threads::channel();
        thread::Builder::new().name("commands".to_owned()).spawn(move || start_all(&jobs))?;
        let room = Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)));
        Ok(Self { spawner, room, patience, log: Arc::default(), closing: watch::Sender::new(false) })
    }

    /// Starts `command` by the shell. Returns our end of its standard input and output. Must be called within a runtime.
    ///
    /// # Errors
    ///
    /// `QuotaExceeded` when as many run as may; when there are no descriptors left.
    pub(crate) fn shell(&self, command: &str) -> io::Result<ServiceStream> {
        let permit = self.permit()?;
        let (ours, theirs) = ServiceStream::pair()?;
        // Commands do not expect that a read may fail because there is nothing yet.
        theirs.set_nonblocking(false)?;
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(command);
        let gone = self.start(shell, command, &theirs.into(), permit)?;
        Ok(ours.guarded(gone))
    }

    /// A place for one more process.
    ///
    /// # Errors
    ///
    /// `QuotaExceeded` when there is none.
    pub(crate) fn permit(&self) -> io::Result<OwnedSemaphorePermit> {
        let full = |_| io::Error::from(Errno::DQUOT);
        Arc::clone(&self.room).try_acquire_owned().map_err(full)
    }

    /// Starts `command` with `stream` as its standard input and output. It is ended after what this returns was dropped. In the log it is
    /// called `name`.
    ///
    /// # Errors
    ///
    /// When there are no descriptors left.
    pub(crate) fn start(
        &self,
        mut command: Command,
        name: &str,
        stream: &OwnedFd,
        permit: OwnedSemaphorePermit,
    ) -> io::Result<oneshot::Sender<()>> {
        let (errors, their_errors) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        command.stdin(stream.try_clone()?).stdout(stream.try_clone()?).stderr(Stdio::from(their_errors));
        rustix::io::ioctl_fionbio(&errors, true)?;
        let errors = tokio::net::unix::pipe::Receiver::from_owned_fd(errors)?;
        let (reply, started) = oneshot::channel();
        self.spawner.send(Job { command, reply }).map_err(|_| io::ErrorKind::ConnectionRefused)?;

        let (connection, gone) = oneshot::channel();
        let (patience, closing, log) = (self.patience, self.closing.subscribe(), Arc::clone(&self.log));
        let supervision = Supervision { name: name.to_owned(), patience, closing, log };
        tokio::spawn(Arc::clone(&self.log).take(errors, name.to_owned()));
        tokio::spawn(async move {
            let _permit = permit;
            match started.await {
                Ok(Ok(process)) => supervision.run(process, gone).await,
                Ok(Err(error)) => supervision.tell(&format!("it cannot be started: {error}")),
                Err(_) => {}
            }
        });
        Ok(connection)
    }

    /// Ends all processes, as if their connections had ended, and waits until they have: no longer than three times the patience.
    pub(crate) async fn end(&self) {
        self.closing.send_replace(true);
        self.closing.closed().await;
    }
}

/// Starts processes until there is nobody left who could want one. This thread's end is theirs.
fn start_all(jobs: &threads::Receiver<Job>) {
    for Job { mut command, reply } in jobs {
        child::die_with_this_thread(&mut command);
        let started = command.spawn().and_then(Process::new);
        // Our copies of its standard input and output keep the connection open.
        drop(command);
        // Whoever wanted it may have gone, and then it goes too.
        drop(reply.send(started));
    }
}

/// The first process of a group.
#[derive(Debug)]
struct Process {
    child: Child,
    pidfd: OwnedFd,
    reaped: bool,
}

impl Process {
    fn new(mut child: Child) -> io::Result<Self> {
        match pidfd_of(&child) {
            Ok(pidfd) => Ok(Self { child, pidfd, reaped: false }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    fn group(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// Sends a signal to the whole group. Returns whether there is anybody in it.
    fn signal(&self, signal: Signal) -> bool {
        self.group().is_some_and(|group| rustix::process::kill_process_group(group, signal).is_ok())
    }

    /// Waits for the end of the first process, and leaves it as a zombie: so its number stays that of this group.
    async fn ended(&self) -> io::Result<()> {
        sys::watch(self.pidfd.try_clone()?)?.readable().await.map(drop)
    }

    /// Takes note of its end, if that has come.
    fn reap(&mut self) {
        match self.child.try_wait() {
            Ok(Some(status)) => {
                self.reaped = true;
                tracing::debug!(pid = self.child.id(), %status, "a command has ended");
            }
            Ok(None) => tracing::warn!(pid = self.child.id(), "a command does not end, though it was killed"),
            Err(error) => tracing::debug!(pid = self.child.id(), %error, "a command is lost"),
        }
    }
}

impl Drop for Process {
    /// Nobody is left to wait for it.
    fn drop(&mut self) {
        if !self.reaped {
            self.signal(Signal::KILL);
            let _ = self.child.try_wait();
        }
    }
}

/// What sees to it that a process ends.
#[derive(Debug)]
struct Supervision {
    name: String,
    patience: Duration,
    closing: watch::Receiver<bool>,
    log: Arc<Log>,
}

impl Supervision {
    async fn run(mut self, mut process: Process, gone: oneshot::Receiver<()>) {
        tokio::select! {
            // Nothing is ever sent: that the other end is dropped is the message.
            _ = gone => {}
            () = self.closed() => {}
        }
        // The end of its input is what most of them wait for.
        let patient = timeout(self.patience, process.ended()).await.is_ok();
        // Others of the group may run though the first has ended; as long as it was not reaped, the number is its own.
        process.signal(Signal::TERM);
        if !patient && timeout(self.patience, process.ended()).await.is_err() {
            self.tell("it has not ended when it was asked to, and is killed");
            process.signal(Signal::KILL);
            // One that waits for a device in the kernel is not killed before it has what it waits for.
            let _ = timeout(self.patience, process.ended()).await;
        }
        process.reap();
        // Those that are left keep the number of the group in use.
        if self.is_peopled(&process) {
            tokio::time::sleep(self.patience).await;
            process.signal(Signal::KILL);
        }
    }

    fn tell(&self, what: &str) {
        self.log.tell(&self.name, what);
    }

    async fn closed(&mut self) {
        // An engine that was dropped without having been told to end has ended too.
        let _ = self.closing.wait_for(|closing| *closing).await;
    }

    fn is_peopled(&self, process: &Process) -> bool {
        process.group().is_some_and(|group| rustix::process::test_kill_process_group(group).is_ok())
    }
}

fn pidfd_of(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

#[cfg(test)]
mod tests;
