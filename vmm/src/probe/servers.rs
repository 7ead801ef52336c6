//! The servers that the probe guest exchanges bytes with, on the loopback address of this machine: see [`probe_body::data`].

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use probe_body::data::{Checksum, Pattern};

/// Bytes handed to the kernel at once. Not a multiple of anything on the way, so that boundaries fall everywhere.
const CHUNK: usize = (256 << 10) - 3;

/// How long a client may stand still.
const PATIENCE: Duration = Duration::from_secs(30);

/// Two listeners, each with a thread; every client has one of its own. They end when this is dropped, clients when they are done.
#[derive(Debug)]
pub struct Servers {
    up: Server,
    down: Server,
}

impl Servers {
    /// Starts them on free ports.
    ///
    /// # Errors
    ///
    /// When nothing can be bound to 127.0.0.1, or no thread can be had.
    pub fn start() -> io::Result<Self> {
        Ok(Self { up: Server::start(take)?, down: Server::start(give)? })
    }

    /// The port of the one that takes bytes, for [`probe_body::plan::Plan::up`].
    pub const fn up_port(&self) -> u16 {
        self.up.port
    }

    /// The port of the one that sends bytes, for [`probe_body::plan::Plan::down`].
    pub const fn down_port(&self) -> u16 {
        self.down.port
    }
}

#[derive(Debug)]
struct Server {
    port: u16,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(answer: fn(&mut TcpStream) -> io::Result<()>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let ends = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new().name("probe server".to_owned()).spawn({
            let ends = Arc::clone(&ends);
            move || accept(&listener, &ends, answer)
        })?;
        Ok(Self { port, ends, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        // Wakes the thread. If that cannot be, it is left to itself: it waits and does nothing.
        let woken = TcpStream::connect_timeout(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port).into(), PATIENCE).is_ok();
        if let (true, Some(thread)) = (woken, self.thread.take()) {
            // It does not panic; and if it did, there would be nothing left to do.
            _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, ends: &AtomicBool, answer: fn(&mut TcpStream) -> io::Result<()>) {
    for stream in listener.incoming() {
        if ends.load(Ordering::Acquire) {
            return;
        }
        let Ok(mut stream) = stream else { return };
        let client = thread::Builder::new().name("probe client".to_owned()).spawn(move || {
            let served = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
            if let Err(err) = served.and_then(|()| answer(&mut stream)) {
                // The guest sees the early end and reports it.
                tracing::debug!(%err, "a client of the probe's servers went away");
            }
        });
        if let Err(err) = client {
            tracing::warn!(%err, "no thread for a client of the probe's servers");
        }
    }
}

/// Takes everything and answers with its count and checksum.
fn take(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut sum = Checksum::default();
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => sum.update(&buffer[..len]),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    stream.write_all([sum.count().to_be_bytes(), sum.value().to_be_bytes()].as_flattened())?;
    stream.shutdown(Shutdown::Write)
}

/// Sends as many bytes as it is asked for, and their checksum.
fn give(stream: &mut TcpStream) -> io::Result<()> {
    let mut wanted = [0; 8];
    stream.read_exact(&mut wanted)?;
    let wanted = u64::from_be_bytes(wanted);
    let mut chunk = vec![0; CHUNK];
    Pattern::default().fill(&mut chunk);
    let mut sum = Checksum::default();
    while sum.count() < wanted {
        let len = usize::try_from(wanted - sum.count()).map_or(CHUNK, |left| left.min(CHUNK));
        stream.write_all(&chunk[..len])?;
        sum.update(&chunk[..len]);
    }
    stream.write_all(&sum.value().to_be_bytes())?;
    stream.shutdown(Shutdown::Write)
}
