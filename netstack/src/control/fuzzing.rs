//! Requests without the socket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use serde_json::Value;
use tokio::io::{AsyncRead, ReadBuf};

use super::Refused;
use super::api::request::{BadRequest, Reader};

/// The name and the arguments of the request that comes in these pieces, each of which is not empty.
///
/// # Errors
///
/// When it is none, or longer than `limit`.
pub fn read(pieces: &[&[u8]], limit: usize) -> Result<(String, Value), BadRequest> {
    let mut stream = Pieces { piece: &[], more: pieces.iter() };
    let mut reader = Reader::new(limit);
    let reading = std::pin::pin!(reader.read(&mut stream));
    match reading.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(request)) => request.map(|request| (request.execute, request.arguments)),
        Poll::Ready(Err(_)) | Poll::Pending => unreachable!("what is there is read at once"),
    }
}

/// The arguments of a command as they are written by whoever has understood them; `None` if there is no such command.
pub fn understand(name: &str, arguments: Value) -> Option<Result<Value, Refused>> {
    super::understand(name, arguments)
}

/// What is left of the piece at hand, and those behind it: never two in one reading.
struct Pieces<'a> {
    piece: &'a [u8],
    more: std::slice::Iter<'a, &'a [u8]>,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.piece.is_empty() {
            self.piece = self.more.next().copied().unwrap_or_default();
        }
        let (now, later) = self.piece.split_at(self.piece.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.piece = later;
        Poll::Ready(Ok(()))
    }
}
