//! A child process that shares our program: forked while we have one thread, joined to us by a socket, gone when we are gone.
//!
//! Namespaces are entered by a process that then stays there, so the part of a subcommand that lives inside runs in such a child. What it
//! has to hand out, a tap above all, comes over the socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketFlags, SocketType,
};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus};

use crate::program::descriptor::watch;
use crate::program::failure::{Failure, OrFail};

/// The longest message of a [`Link`], in bytes.
const MESSAGE_LIMIT: usize = 64 << 10;

/// A child of this process.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    /// The way to talk with it.
    pub(crate) link: Link,
}

/// Starts a child that runs `story` and exits with what it returns. Call it before any thread is started, which a runtime does.
///
/// # Errors
///
/// When the process may have no child or no more descriptors.
pub(crate) fn fork(story: impl FnOnce(Link) -> u8) -> Result<Child, Failure> {
    let doing = || "cannot start a child process";
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).or_fail(doing)?;
    let parent = rustix::process::getpid();
    // SAFETY: this process has a single thread (see above), so the child is a whole process that may do anything the parent may.
    match unsafe { libc::fork() } {
        -1 => Err(Failure::new(doing()).because(io::Error::last_os_error())),
        0 => {
            drop(ours);
            die_with_parent(parent);
            let code = catch_unwind(AssertUnwindSafe(|| story(Link(theirs)))).unwrap_or(101);
            std::process::exit(code.into());
        }
        pid => {
            let pid = Pid::from_raw(pid).ok_or_else(|| Failure::new(doing()))?;
            Ok(Child { pid, link: Link(ours) })
        }
    }
}

/// Has the kernel end this process when the one that forked it ends. To be repeated after a change of user namespace, which may undo it.
pub(crate) fn die_with_parent(parent: Pid) {
    let set = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // The parent may have ended before the line above.
    if set.is_err() || rustix::process::getppid() != Some(parent) {
        std::process::exit(1);
    }
}

impl Child {
    /// Waits for its end without a runtime; the exit code by the convention of shells.
    ///
    /// # Errors
    ///
    /// When it is no child of ours any more.
    pub(crate) fn wait(&self) -> io::Result<u8> {
        loop {
            if let Some((_, status)) = retry_on_intr(|| rustix::process::waitpid(Some(self.pid), WaitOptions::empty()))? {
                return Ok(exit_code(status));
            }
        }
    }

    /// Waits for its end within a runtime.
    ///
    /// # Errors
    ///
    /// As [`Child::wait`], and when the runtime has no descriptor left to watch it with.
    pub(crate) async fn ended(&self) -> io::Result<u8> {
        let pidfd = watch(rustix::process::pidfd_open(self.pid, PidfdFlags::empty())?)?;
        loop {
            let mut ready = pidfd.readable().await?;
            match rustix::process::waitpid(Some(self.pid), WaitOptions::NOHANG)? {
                Some((_, status)) => return Ok(exit_code(status)),
                None => ready.clear_ready(),
            }
        }
    }

    /// Sends it a signal. One that has ended is left in peace.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Err(err) = rustix::process::kill_process(self.pid, signal) {
            tracing::debug!(pid = self.pid.as_raw_pid(), %err, "the child took no signal");
        }
    }
}

/// What a shell reports for a status: the exit code, or 128 and the signal's number.
fn exit_code(status: WaitStatus) -> u8 {
    let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// One end of a socket that carries messages, each with a descriptor or without.
#[derive(Debug)]
pub(crate) struct Link(OwnedFd);

impl Link {
    /// Another descriptor of this end.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Sends one message of at most 64 KiB.
    ///
    /// # Errors
    ///
    /// `BrokenPipe` when the other process has gone.
    pub(crate) fn send(&self, message: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<_> = descriptor.into_iter().collect();
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(Errno::NOBUFS.into());
        }
        retry_on_intr(|| rustix::net::sendmsg(&self.0, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL))?;
        Ok(())
    }

    /// Waits for a message; `None` when the other process has gone.
    ///
    /// # Errors
    ///
    /// What `recvmsg(2)` reports.
    pub(crate) fn receive(&self) -> io::Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
        let mut message = vec![0; MESSAGE_LIMIT];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(&mut message)], &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(None),
                other => break other?,
            }
        };
        if received.bytes == 0 {
            return Ok(None);
        }
        message.truncate(received.bytes);
        let descriptor = control.drain().find_map(|item| match item {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        Ok(Some((message, descriptor)))
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn pair() -> (Link, Link) {
        let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        (Link(a), Link(b))
    }

    #[test]
    fn a_descriptor_travels_with_its_message() {
        let (inside, outside) = pair();
        let mut file = tempfile::tempfile().unwrap();
        inside.send(b"tap", Some(file.as_fd())).unwrap();
        inside.send(b"done", None).unwrap();
        let (message, descriptor) = outside.receive().unwrap().unwrap();
        assert_eq!(message, b"tap");
        file.write_all(b"seen").unwrap();
        let twin = std::fs::File::from(descriptor.unwrap());
        assert_eq!(twin.metadata().unwrap().len(), 4);
        assert!(outside.receive().unwrap().unwrap().1.is_none());
    }

    #[test]
    fn the_end_of_the_other_process_is_seen() {
        let (inside, outside) = pair();
        drop(inside);
        assert!(outside.receive().unwrap().is_none());
        assert_eq!(outside.send(b"go", None).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
