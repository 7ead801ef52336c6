//! A small load generator: what iperf3 does not measure.
//!
//! The server answers every byte with a byte. The client measures how long that takes on an open connection (request/response, RR), with
//! a connection for each (connect/request/response, CRR), or holds many connections open and does nothing.

mod burst;
mod names;
mod stream;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use rustix::event::epoll;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

pub(crate) use self::burst::Burst;
pub(crate) use self::stream::Streamed;

/// What the generator does.
#[derive(Debug, Subcommand)]
pub(crate) enum Load {
    /// Answers every byte with a byte, on any number of connections.
    Serve {
        /// Where to listen.
        at: SocketAddr,
    },
    /// Streams known bytes to every client, and checks those that it gets.
    ServeStream {
        /// Where to listen.
        at: SocketAddr,
    },
    /// Streams known bytes there, and checks those that it gets, until its input ends.
    Stream {
        /// Where the server is.
        #[arg(long)]
        to: SocketAddr,
    },
    /// Waits until the server answers.
    Probe {
        /// Where the server is.
        #[arg(long)]
        to: SocketAddr,
    },
    /// One byte there and back, on one connection.
    Rr(Rounds),
    /// A connection, one byte there and back, and its end.
    Crr(Rounds),
    /// Opens connections, many at once: on each a byte there and back, then its end.
    Burst {
        /// How many.
        #[arg(long)]
        connections: u32,
        /// How many of them at once.
        #[arg(long)]
        at_once: u32,
        /// Where the server is.
        #[arg(long)]
        to: SocketAddr,
    },
    /// Asks a DNS server for an address, one question at a time.
    Ask(Rounds),
    /// A DNS server of hickory's that knows that address.
    Names {
        /// Where to listen.
        at: SocketAddr,
    },
    /// Opens connections, prints how many, and holds them until its input ends.
    Idle {
        /// How many.
        #[arg(long)]
        flows: u32,
        /// Where the server is.
        #[arg(long)]
        to: SocketAddr,
    },
}

/// For how long to measure.
#[derive(Debug, Args)]
pub(crate) struct Rounds {
    /// At most so many seconds.
    #[arg(long)]
    secs: u64,
    /// At most so many rounds.
    #[arg(long, default_value_t = 40_000)]
    count: usize,
    /// Where the server is.
    #[arg(long)]
    to: SocketAddr,
}

/// How long rounds took, in microseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// Rounds measured.
    pub(crate) rounds: usize,
    /// Half of them took at most this.
    pub(crate) p50: f64,
    /// 99 of 100 took at most this.
    pub(crate) p99: f64,
}

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Does it.
pub(crate) fn run(load: &Load) -> Result<()> {
    match load {
        Load::Serve { at } => serve(*at),
        Load::ServeStream { at } => stream::serve(*at),
        Load::Stream { to } => stream::run(*to),
        Load::Probe { to } => probe(*to),
        Load::Rr(rounds) => request_response(rounds),
        Load::Crr(rounds) => connect_request_response(rounds),
        Load::Burst { connections, at_once, to } => burst::run(*connections, *at_once, *to),
        Load::Ask(rounds) => names::ask(rounds),
        Load::Names { at } => names::serve(*at),
        Load::Idle { flows, to } => idle(*flows, *to),
    }
}

fn serve(at: SocketAddr) -> Result<()> {
    raise_descriptor_limit()?;
    let listener = TcpListener::bind(at)?;
    listener.set_nonblocking(true)?;
    // With a short queue, a burst would wait for a SYN to be sent again.
    rustix::net::listen(&listener, 4096)?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let key = |fd: &dyn AsRawFd| epoll::EventData::new_u64(u64::try_from(fd.as_raw_fd()).unwrap_or_default());
    epoll::add(&poll, &listener, key(&listener), epoll::EventFlags::IN)?;
    let mut connections = std::collections::HashMap::new();
    let mut events = Vec::with_capacity(256);
    loop {
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in &events {
            if event.data.u64() == key(&listener).u64() {
                while let Ok((connection, _)) = listener.accept() {
                    connection.set_nonblocking(true)?;
                    connection.set_nodelay(true)?;
                    let key = key(&connection);
                    epoll::add(&poll, connection.as_fd(), key, epoll::EventFlags::IN)?;
                    connections.insert(key.u64(), connection);
                }
            } else if let Some(connection) = connections.get_mut(&event.data.u64())
                && !answer(connection)
            {
                connections.remove(&event.data.u64());
            }
        }
    }
}

/// Answers what has come. `false` means that the connection has ended.
fn answer(connection: &mut TcpStream) -> bool {
    let mut bytes = [0; 256];
    match connection.read(&mut bytes) {
        Ok(0) => false,
        Ok(n) => connection.write_all(&bytes[..n]).is_ok(),
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

fn probe(to: SocketAddr) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match open(to).and_then(|mut connection| round(&mut connection)) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error.context("the server cannot be reached")),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn request_response(rounds: &Rounds) -> Result<()> {
    let mut connection = open(rounds.to)?;
    measure(rounds, || round(&mut connection))
}

fn connect_request_response(rounds: &Rounds) -> Result<()> {
    measure(rounds, || round(&mut open(rounds.to)?))
}

fn idle(flows: u32, to: SocketAddr) -> Result<()> {
    raise_descriptor_limit()?;
    let mut connections = Vec::new();
    for _ in 0..flows {
        let opened = open(to).and_then(|mut connection| round(&mut connection).map(|()| connection));
        match opened {
            Ok(connection) => connections.push(connection),
            Err(error) => {
                eprintln!("{error:#}");
                break;
            }
        }
    }
    println!("{}", connections.len());
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

/// Repeats a round, after a few that do not count, and prints the result.
fn measure(rounds: &Rounds, mut round: impl FnMut() -> Result<()>) -> Result<()> {
    for _ in 0..50 {
        round()?;
    }
    let deadline = Instant::now() + Duration::from_secs(rounds.secs);
    let mut took = Vec::with_capacity(rounds.count);
    while took.len() < rounds.count && Instant::now() < deadline {
        let started = Instant::now();
        round()?;
        took.push(started.elapsed());
    }
    println!("{}", serde_json::to_string(&Latency::of(took))?);
    Ok(())
}

impl Latency {
    pub(crate) fn of(mut took: Vec<Duration>) -> Self {
        took.sort_unstable();
        let percentile = |percent: usize| took.get(took.len() * percent / 100).map_or(f64::NAN, |t| t.as_secs_f64() * 1e6);
        Self { rounds: took.len(), p50: percentile(50), p99: percentile(99) }
    }
}

fn open(to: SocketAddr) -> Result<TcpStream> {
    let connection = TcpStream::connect_timeout(&to, PATIENCE).context("cannot connect")?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    Ok(connection)
}

fn round(connection: &mut TcpStream) -> Result<()> {
    connection.write_all(b"?").context("cannot ask")?;
    connection.read_exact(&mut [0]).context("no answer")
}

/// Allows as many descriptors as there may be connections.
fn raise_descriptor_limit() -> Result<()> {
    let wanted = 65_536;
    let limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum.map_or(wanted, |maximum| maximum.max(wanted));
    let raised = Rlimit { current: Some(maximum), maximum: Some(maximum) };
    // Only root may raise the hard limit.
    setrlimit(Resource::Nofile, raised)
        .or_else(|_| setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }))
        .context("cannot raise the limit of open files")
}
