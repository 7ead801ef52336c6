//! The terminal while it is the guest's console: every key goes to the guest, and comes back as it was however this program ends.
//!
//! "However" includes a panic and the signals that mean a mistake in this program. Only SIGKILL cannot be helped; `reset` can.

use std::io;
use std::sync::OnceLock;

use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use vmm_sys_util::signal::register_signal_handler;

/// How the terminal was.
static BEFORE: OnceLock<Termios> = OnceLock::new();

/// Signals after which a program does not go on.
const FATAL: [libc::c_int; 5] = [libc::SIGABRT, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGSEGV];

/// A terminal in raw mode. It is put back when this is dropped.
#[derive(Debug)]
pub(crate) struct Raw(());

impl Raw {
    /// Changes the terminal on standard input, if there is one.
    ///
    /// # Errors
    ///
    /// When the terminal refuses.
    pub(crate) fn enter() -> io::Result<Option<Self>> {
        if !isatty(stdin()) {
            return Ok(None);
        }
        let now = tcgetattr(stdin())?;
        let before = BEFORE.get_or_init(|| now);
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            usual(info);
        }));
        for signal in FATAL {
            register_signal_handler(signal, restore_and_die).map_err(io::Error::from)?;
        }
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Some(Self(())))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if let Some(before) = BEFORE.get() {
        // There is nobody left to tell.
        _ = tcsetattr(stdin(), OptionalActions::Now, before);
    }
}

/// `tcsetattr`, `signal` and `raise` may be called in a signal handler.
extern "C" fn restore_and_die(signal: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    restore();
    // SAFETY: these two take no memory of ours; the default action of a fatal signal ends the process.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}
