//! Streams of bytes that are known, both ways at once, for as long as they are let: not one may be lost or changed.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// Bytes written at a time.
const BLOCK: usize = 64 << 10;

/// What a client has sent and received.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Streamed {
    /// Bytes that the server has received, and that were what was sent.
    pub(crate) up: u64,
    /// Bytes that the client has received, likewise.
    pub(crate) down: u64,
    /// Bytes that were sent and not received.
    pub(crate) lost: u64,
}

/// Answers each client with the stream until it closes, and then with what it has received.
pub(super) fn serve(at: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(at)?;
    loop {
        let (connection, _) = listener.accept()?;
        thread::spawn(move || {
            if let Err(error) = attend(connection) {
                eprintln!("{error:#}");
            }
        });
    }
}

/// The stream, then its length and that of what was received, 8 bytes each.
fn attend(mut connection: TcpStream) -> Result<()> {
    let closed = AtomicBool::new(false);
    let mut reading = connection.try_clone()?;
    let (sent, received) = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let received = check(&mut reading);
            closed.store(true, Ordering::Relaxed);
            received
        });
        let sent = pour(&mut connection, &closed);
        (sent, reader.join())
    });
    let received = received.map_err(|_| anyhow::anyhow!("the reader has panicked"))??;
    connection.write_all(&sent?.to_le_bytes())?;
    connection.write_all(&received.to_le_bytes())?;
    Ok(())
}

/// Streams until the standard input ends, and prints how that went.
pub(super) fn run(to: SocketAddr) -> Result<()> {
    let mut connection = TcpStream::connect(to).context("cannot connect")?;
    let told = AtomicBool::new(false);
    let mut reading = connection.try_clone()?;
    let (sent, heard) = thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut tail = Tail::default();
            let mut block = vec![0; BLOCK];
            loop {
                match reading.read(&mut block)? {
                    0 => return Ok::<_, anyhow::Error>(tail),
                    len => tail.take(&block[..len])?,
                }
            }
        });
        scope.spawn(|| {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            told.store(true, Ordering::Relaxed);
        });
        let sent = pour(&mut connection, &told).and_then(|sent| {
            connection.shutdown(Shutdown::Write)?;
            Ok(sent)
        });
        (sent, reader.join())
    });
    let (sent, heard) = (sent?, heard.map_err(|_| anyhow::anyhow!("the reader has panicked"))??);
    let (theirs, up) = heard.numbers()?;
    let streamed = Streamed { up, down: heard.checked, lost: (sent - up) + (theirs - heard.checked) };
    println!("{}", serde_json::to_string(&streamed)?);
    Ok(())
}

/// Writes the stream until it is told to end.
fn pour(connection: &mut TcpStream, end: &AtomicBool) -> Result<u64> {
    let mut sent = 0;
    let mut block = vec![0; BLOCK];
    while !end.load(Ordering::Relaxed) {
        block.iter_mut().zip(sent..).for_each(|(byte, at)| *byte = byte_at(at));
        connection.write_all(&block).context("cannot send")?;
        sent += BLOCK as u64;
    }
    Ok(sent)
}

/// Reads the stream to its end, and returns how long it was.
fn check(connection: &mut TcpStream) -> Result<u64> {
    let mut received = 0;
    let mut block = vec![0; BLOCK];
    loop {
        let len = connection.read(&mut block).context("cannot receive")?;
        if len == 0 {
            return Ok(received);
        }
        ensure!(block[..len].iter().zip(received..).all(|(byte, at)| *byte == byte_at(at)), "byte {received} and on are others");
        received += len as u64;
    }
}

/// What has been received, of which the last 16 bytes are no part of the stream.
#[derive(Debug, Default)]
struct Tail {
    checked: u64,
    rest: Vec<u8>,
}

impl Tail {
    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.rest.extend_from_slice(bytes);
        let stream = self.rest.len().saturating_sub(16);
        let checked = self.checked;
        let same = self.rest.drain(..stream).zip(checked..).all(|(byte, at)| byte == byte_at(at));
        ensure!(same, "byte {checked} and on are others");
        self.checked += stream as u64;
        Ok(())
    }

    /// How much the server has sent and received.
    fn numbers(&self) -> Result<(u64, u64)> {
        let number = |at: usize| self.rest.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        number(0).zip(number(8)).context("the server has not said what it received")
    }
}

/// The stream: its period is no power of two, so that blocks that are lost or doubled are noticed.
const fn byte_at(at: u64) -> u8 {
    (at % 251) as u8
}
