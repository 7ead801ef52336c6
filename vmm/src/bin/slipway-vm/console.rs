//! The guest's console: what is typed goes to the serial port as fast as the guest reads, what the guest writes goes to standard output.

use std::io::{self, Write};
use std::sync::Arc;
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::stdio::{stdin, stdout};
use vmm::legacy::serial::SerialPort;
use vmm::machine::{Ending, StopSwitch};

/// Ctrl-A, which begins a command to this program.
const ESCAPE: u8 = 0x01;

/// How often to try again a port that did not say that it has room: one that the guest has put into its loop-back mode.
const RETRY: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Standard output, as the serial port writes to it. Output that is stuck when the machine ends is given up.
#[derive(Debug)]
pub(crate) struct Output(pub(crate) StopSwitch);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(stdout(), bytes) {
                // Somebody kicks this thread out of what it is doing.
                Err(Errno::INTR) if self.0.is_thrown() => return Ok(bytes.len()),
                Err(Errno::INTR) => {}
                // A terminal that others have made nonblocking.
                Err(Errno::AGAIN) => {
                    if self.0.is_thrown() {
                        return Ok(bytes.len());
                    }
                    _ = poll(&mut [PollFd::new(&stdout(), PollFlags::OUT), PollFd::new(&self.0, PollFlags::IN)], None);
                }
                outcome => return Ok(outcome?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Feeds the guest with what is typed, on a thread of its own that ends with the machine or with the input.
pub(crate) fn feed(port: Arc<SerialPort>, stop: StopSwitch) -> io::Result<()> {
    thread::Builder::new().name("console".to_owned()).spawn(move || {
        if let Err(err) = pump(&port, &stop) {
            tracing::warn!("the console takes no more input: {err}");
        }
    })?;
    Ok(())
}

fn pump(port: &SerialPort, stop: &StopSwitch) -> io::Result<()> {
    let mut keys = Keys::default();
    let mut waiting: Vec<u8> = Vec::new();
    while !stop.is_thrown() {
        let sent = port.receive(&waiting);
        waiting.drain(..sent);
        if !waiting.is_empty() {
            let room = PollFd::from_borrowed_fd(borrowed(port.room()), PollFlags::IN);
            poll_some(&mut [room, PollFd::new(stop, PollFlags::IN)], Some(&RETRY))?;
            _ = port.room().read();
            continue;
        }
        poll_some(&mut [PollFd::new(&stdin(), PollFlags::IN), PollFd::new(stop, PollFlags::IN)], None)?;
        if stop.is_thrown() {
            break;
        }
        let mut typed = [0; 256];
        match rustix::io::read(stdin(), &mut typed) {
            Ok(0) => break,
            Ok(len) => {
                if keys.take(&typed[..len], &mut waiting) {
                    stop.end(Ending::Stopped);
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(err) => return Err(err.into()),
        }
    }
    Ok(())
}

fn poll_some(fds: &mut [PollFd<'_>], timeout: Option<&Timespec>) -> io::Result<()> {
    match poll(fds, timeout) {
        Err(Errno::INTR) | Ok(_) => Ok(()),
        Err(err) => Err(err.into()),
    }
}

fn borrowed(event: &vmm_sys_util::eventfd::EventFd) -> std::os::fd::BorrowedFd<'_> {
    use std::os::fd::{AsRawFd, BorrowedFd};
    // SAFETY: the descriptor is open for as long as its owner is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// Tells keys for the guest from commands to this program.
#[derive(Debug, Default)]
struct Keys {
    escaped: bool,
}

impl Keys {
    /// Adds to `guest` what is meant for the guest; true when the machine is to end.
    fn take(&mut self, typed: &[u8], guest: &mut Vec<u8>) -> bool {
        for key in typed {
            match (std::mem::take(&mut self.escaped), *key) {
                (true, b'x' | b'X') => return true,
                (true, ESCAPE) => guest.push(ESCAPE),
                // No command: it was meant for the guest.
                (true, key) => guest.extend([ESCAPE, key]),
                (false, ESCAPE) => self.escaped = true,
                (false, key) => guest.push(key),
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(parts: &[&[u8]]) -> (Vec<u8>, bool) {
        let (mut keys, mut guest) = (Keys::default(), Vec::new());
        let ended = parts.iter().any(|part| keys.take(part, &mut guest));
        (guest, ended)
    }

    #[test]
    fn keys_go_to_the_guest() {
        assert_eq!(typed(&[b"ls\r", b"\x03\x1a\x04"]), (b"ls\r\x03\x1a\x04".to_vec(), false));
    }

    #[test]
    fn control_a_and_x_end_the_machine() {
        assert_eq!(typed(&[b"a\x01x"]), (b"a".to_vec(), true));
        assert_eq!(typed(&[b"\x01", b"x"]), (Vec::new(), true));
    }

    #[test]
    fn other_keys_after_control_a_are_the_guests() {
        assert_eq!(typed(&[b"\x01\x01x"]), (b"\x01x".to_vec(), false));
        assert_eq!(typed(&[b"\x01b\x01"]), (b"\x01b".to_vec(), false));
    }
}
