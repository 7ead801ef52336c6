//! Programs that we start, and what the kernel does for us between `fork` and `exec`.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::Signal;

/// Makes what `command` starts the first process of a session and process group of its own, and has the kernel kill it when the thread
/// that starts it ends, by whatever way.
pub(crate) fn die_with_this_thread(command: &mut Command) {
    let parent = rustix::process::getpid();
    let prepare = move || {
        rustix::process::setsid()?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have ended before the line above. One outside of our PID namespace has no number here.
        match rustix::process::getppid() {
            Some(other) if other != parent => Err(io::Error::from_raw_os_error(libc::ESRCH)),
            _ => Ok(()),
        }
    };
    // SAFETY: the closure makes four system calls and neither allocates nor takes a lock, so it may run in the child of a process that
    // has other threads.
    unsafe { command.pre_exec(prepare) };
}

/// Makes what `command` starts the first process of a session of its own, which signals for ours do not reach.
pub(crate) fn live_apart(command: &mut Command) {
    let prepare = || {
        rustix::process::setsid()?;
        Ok(())
    };
    // SAFETY: the closure makes one system call and neither allocates nor takes a lock, see above.
    unsafe { command.pre_exec(prepare) };
}
