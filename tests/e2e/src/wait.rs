//! Waiting for something to happen, and giving up in the end.

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::PATIENCE;

/// Lines of text as they come.
#[derive(Debug)]
pub struct Lines {
    lines: Receiver<String>,
}

impl Lines {
    /// Starts to read, in a thread that ends with the source.
    pub fn of(source: impl Read + Send + 'static) -> Self {
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while source.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                if sender.send(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()).is_err() {
                    break;
                }
                line.clear();
            }
        });
        Self { lines }
    }

    /// The next line; `None` when there is none until then, or none any more.
    pub fn next_before(&self, deadline: Instant) -> Option<String> {
        self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }
}

/// Takes the next connection, with time limits on both of its directions.
///
/// # Panics
///
/// When none comes.
pub fn accept(listener: &TcpListener) -> TcpStream {
    let mut readable = [PollFd::new(listener, PollFlags::IN)];
    let ready = poll(&mut readable, Some(&timespec(PATIENCE))).expect("a listener can be polled");
    assert!(ready > 0, "nobody has connected to {:?}", listener.local_addr());
    let (connection, _) = listener.accept().expect("a connection that was announced");
    limit(&connection);
    connection
}

/// Bounds how long reading and writing may take.
///
/// # Panics
///
/// Never: the bound is not zero.
pub fn limit(connection: &TcpStream) {
    connection.set_read_timeout(Some(PATIENCE)).expect("a timeout that is not zero");
    connection.set_write_timeout(Some(PATIENCE)).expect("a timeout that is not zero");
}

/// Waits until there is a file at this path.
///
/// # Panics
///
/// When there is none in the end.
pub fn until_exists(path: &Path, why_not: impl Fn() -> String) {
    let events = inotify::init(inotify::CreateFlags::CLOEXEC).expect("an inotify descriptor");
    let directory = path.parent().expect("a file is in a directory");
    inotify::add_watch(&events, directory, inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO)
        .expect("a directory to watch");
    let deadline = Instant::now() + PATIENCE;
    while !path.exists() {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut readable = [PollFd::new(&events, PollFlags::IN)];
        let ready = poll(&mut readable, Some(&timespec(left))).expect("events can be polled");
        assert!(ready > 0 && !left.is_zero(), "{} has not appeared: {}", path.display(), why_not());
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        inotify::Reader::new(&events, &mut buffer).next().expect("an event that was announced");
    }
}

/// Waits for a process to end.
///
/// # Panics
///
/// When it does not.
pub fn ended(process: &mut Child) -> ExitStatus {
    let pid = pidfd_open(Pid::from_child(process), PidfdFlags::empty()).expect("a descriptor of a child");
    let mut readable = [PollFd::new(&pid, PollFlags::IN)];
    let ready = poll(&mut readable, Some(&timespec(PATIENCE))).expect("a process can be polled");
    assert!(ready > 0, "process {} does not end", process.id());
    process.wait().expect("a child can be waited for")
}

fn timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration).expect("a duration of seconds")
}

/// Waits for a process of this number to end, whoever's child it is.
///
/// # Panics
///
/// When it does not.
pub fn until_gone(pid: u32) {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("the number of a process");
    let Ok(pidfd) = pidfd_open(number, PidfdFlags::empty()) else { return };
    let mut readable = [PollFd::new(&pidfd, PollFlags::IN)];
    let ready = poll(&mut readable, Some(&timespec(PATIENCE))).expect("a process can be polled");
    assert!(ready > 0, "process {pid} does not end");
}

/// Waits until there is nothing at this path any more.
///
/// # Panics
///
/// When there still is in the end.
pub fn until_removed(path: &Path) {
    let events = inotify::init(inotify::CreateFlags::CLOEXEC).expect("an inotify descriptor");
    let directory = path.parent().expect("a file is in a directory");
    inotify::add_watch(&events, directory, inotify::WatchFlags::DELETE).expect("a directory to watch");
    let deadline = Instant::now() + PATIENCE;
    while path.exists() {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut readable = [PollFd::new(&events, PollFlags::IN)];
        let ready = poll(&mut readable, Some(&timespec(left))).expect("events can be polled");
        assert!(ready > 0 && !left.is_zero(), "{} is still there", path.display());
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        inotify::Reader::new(&events, &mut buffer).next().expect("an event that was announced");
    }
}
