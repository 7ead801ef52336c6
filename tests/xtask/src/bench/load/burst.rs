//! Many connections at once, each from its opening to its answer, in one thread.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use super::{Latency, PATIENCE, raise_descriptor_limit};

/// How a burst of connections went.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Burst {
    /// From the call until the connection was there.
    pub(crate) connected: Latency,
    /// From the call until the byte had come back.
    pub(crate) answered: Latency,
    /// Connections that were refused, reset, closed, or not answered in time.
    pub(crate) failed: u32,
    /// How long all of it has taken.
    pub(crate) seconds: f64,
}

impl Burst {
    /// Connections that were answered, by the second.
    pub(crate) fn rate(&self) -> f64 {
        self.answered.rounds as f64 / self.seconds
    }
}

/// A connection that is not over.
#[derive(Debug)]
struct Open {
    stream: TcpStream,
    since: Instant,
    is_connected: bool,
}

/// Opens them and prints how that went.
pub(super) fn run(connections: u32, at_once: u32, to: SocketAddr) -> Result<()> {
    raise_descriptor_limit()?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut open: HashMap<u64, Open> = HashMap::new();
    let (mut connected, mut answered, mut failed, mut opened) = (Vec::new(), Vec::new(), 0, 0);
    let mut events = Vec::with_capacity(256);
    let begun = Instant::now();
    while opened < connections || !open.is_empty() {
        while opened < connections && open.len() < at_once as usize {
            opened += 1;
            let since = Instant::now();
            let stream = start(to)?;
            let key = u64::try_from(stream.as_raw_fd()).unwrap_or_default();
            let interest = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
            epoll::add(&poll, stream.as_fd(), epoll::EventData::new_u64(key), interest)?;
            open.insert(key, Open { stream, since, is_connected: false });
        }
        events.clear();
        let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&patience))?;
        if events.is_empty() {
            // All that are left have had no answer for so long.
            failed += u32::try_from(open.len()).unwrap_or(u32::MAX);
            open.clear();
        }
        for event in &events {
            let key = event.data.u64();
            let Some(this) = open.get_mut(&key) else { continue };
            match go_on(this, &mut connected) {
                Ok(false) => {}
                Ok(true) => {
                    answered.push(this.since.elapsed());
                    open.remove(&key);
                }
                Err(error) => {
                    eprintln!("{error:#}");
                    failed += 1;
                    open.remove(&key);
                }
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let burst = Burst { connected: Latency::of(connected), answered: Latency::of(answered), failed, seconds };
    println!("{}", serde_json::to_string(&burst)?);
    Ok(())
}

fn start(to: SocketAddr) -> Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket: OwnedFd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error).context("cannot connect"),
    }
}

/// Takes a connection as far as it goes now. `true` means that its answer is there.
fn go_on(this: &mut Open, connected: &mut Vec<Duration>) -> Result<bool> {
    if !this.is_connected {
        if let Some(error) = this.stream.take_error()? {
            return Err(error).context("cannot connect");
        }
        match this.stream.write(b"?") {
            Ok(_) => {
                connected.push(this.since.elapsed());
                this.is_connected = true;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return Ok(false),
            Err(error) => return Err(error).context("cannot ask"),
        }
    }
    match this.stream.read(&mut [0]) {
        Ok(len) => {
            ensure!(len == 1, "closed without an answer");
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error).context("no answer"),
    }
}
