//! DNS over a stream (RFC 7766): a guest's TCP connection, of which the engine hands us the other end.
//!
//! Each message has its length in front. Questions are worked on side by side and answered as answers come. A guest that asks faster
//! than it reads is not read from; one that is silent, or does not take its answers, loses the connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::forwarder::Forwarder;
use super::message::Transport;

/// Questions of one connection in work at once; further ones are not read until there is room.
const IN_FLIGHT: usize = 16;
/// A connection without a question for this long is closed (RFC 7766 section 6.2.3 asks for "the order of a few seconds").
const IDLE: Duration = Duration::from_secs(10);
/// How much is read at once, in bytes.
const READ: usize = 2048;

/// Serves one connection until either side is done with it. `questions` bounds those of all connections together.
pub(super) async fn serve(stream: UnixStream, forwarder: Arc<Forwarder>, questions: Arc<Semaphore>) {
    let (input, output) = stream.into_split();
    let (answers, queue) = mpsc::channel(IN_FLIGHT);
    tokio::join!(write(output, queue), read(Messages::new(input), answers, forwarder, questions));
}

async fn read(mut messages: Messages, answers: mpsc::Sender<Vec<u8>>, forwarder: Arc<Forwarder>, questions: Arc<Semaphore>) {
    let seats = Arc::new(Semaphore::new(IN_FLIGHT));
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
        let message = tokio::select! {
            () = answers.closed() => return,
            message = timeout(IDLE, messages.next()) => message,
        };
        let message = match message {
            Ok(Ok(Some(message))) => message,
            // What has been asked is still answered: the guest may have closed its own half only.
            Ok(Ok(None) | Err(_)) => return,
            // Ours is one of the seats that are taken.
            Err(_idle) if seats.available_permits() + 1 < IN_FLIGHT => continue,
            Err(_idle) => return,
        };
        let Ok(permit) = Arc::clone(&questions).acquire_owned().await else { return };
        let (forwarder, answers) = (Arc::clone(&forwarder), answers.clone());
        tokio::spawn(async move {
            if let Some(answer) = forwarder.answer(&message, Transport::Tcp).await {
                drop(permit);
                // The connection may be gone by now.
                let _ = answers.send(answer).await;
            }
            drop(seat);
        });
    }
}

async fn write(mut output: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(answer) = queue.recv().await {
        let Ok(length) = u16::try_from(answer.len()) else { continue };
        // Length and message in one segment (RFC 7766 section 8).
        let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
        if !matches!(timeout(IDLE, output.write_all(&framed)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// The messages in a stream.
struct Messages {
    input: OwnedReadHalf,
    /// What has been read of messages that have not been taken yet: never more than one of them and a bit.
    pending: Vec<u8>,
}

impl Messages {
    fn new(input: OwnedReadHalf) -> Self {
        Self { input, pending: Vec::new() }
    }

    /// The next message; `None` at the end of the stream. Nothing is lost if the future is dropped.
    async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(message) = self.take() {
                return Ok(Some(message));
            }
            self.pending.reserve(READ);
            if self.input.read_buf(&mut self.pending).await? == 0 {
                return Ok(None);
            }
        }
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let (length, rest) = self.pending.split_first_chunk()?;
        let message = rest.get(..usize::from(u16::from_be_bytes(*length)))?.to_vec();
        self.pending.drain(..length.len() + message.len());
        Some(message)
    }
}
