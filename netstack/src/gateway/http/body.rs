//! What answers consist of: a file, a piece at a time, or a line that says what is wrong.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use hyper::body::{Bytes, Frame, SizeHint};
use tokio::task::JoinHandle;

use crate::gateway::files::PlainFile;

/// Bytes of a file that are read at a time.
const PIECE: usize = 128 << 10;

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Body {
    Text(Option<Bytes>),
    File(Reading),
}

/// A part of a file that is being sent.
#[derive(Debug)]
pub(super) struct Reading {
    file: Arc<PlainFile>,
    at: u64,
    left: u64,
    /// A piece that has to come from a disk.
    fetching: Option<JoinHandle<io::Result<Vec<u8>>>>,
    progress: Arc<AtomicU64>,
}

impl Body {
    pub(super) fn empty() -> Self {
        Self::Text(None)
    }

    pub(super) fn text(text: &'static str) -> Self {
        Self::Text(Some(Bytes::from_static(text.as_bytes())))
    }

    /// `len` bytes of `file`, from `first` on. `progress` grows with each piece.
    pub(super) fn file(file: PlainFile, first: u64, len: u64, progress: Arc<AtomicU64>) -> Self {
        Self::File(Reading { file: Arc::new(file), at: first, left: len, fetching: None, progress })
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::File(reading) => reading.poll_piece(cx).map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::File(reading) => reading.left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Text(text) => text.as_ref().map_or(0, Bytes::len) as u64,
            Self::File(reading) => reading.left,
        })
    }
}

impl Reading {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let piece = match &mut self.fetching {
            Some(task) => {
                let fetched = ready!(Pin::new(task).poll(cx));
                self.fetching = None;
                fetched.unwrap_or_else(|error| Err(io::Error::other(error)))
            }
            None => match self.read_now() {
                Some(piece) => piece,
                None => {
                    let (file, at, want) = (Arc::clone(&self.file), self.at, self.want());
                    let task = tokio::task::spawn_blocking(move || {
                        let mut piece = vec![0; want];
                        let len = file.read(&mut piece, at)?;
                        piece.truncate(len);
                        Ok(piece)
                    });
                    self.fetching = Some(task);
                    return self.poll_piece(cx);
                }
            },
        };
        Poll::Ready(Some(match piece {
            // What was promised is not there any more, and the guest learns it by the end of the connection.
            Ok(piece) if piece.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(piece) => {
                self.at += piece.len() as u64;
                self.left -= piece.len() as u64;
                self.progress.fetch_add(1, Ordering::Relaxed);
                Ok(Bytes::from(piece))
            }
            Err(error) => Err(error),
        }))
    }

    fn want(&self) -> usize {
        usize::try_from(self.left).unwrap_or(usize::MAX).min(PIECE)
    }

    /// What is in memory; `None` if a disk may have to be waited for.
    fn read_now(&self) -> Option<io::Result<Vec<u8>>> {
        let mut piece = vec![0; self.want()];
        match self.file.read_now(&mut piece, self.at) {
            Ok(Some(len)) => {
                piece.truncate(len);
                Some(Ok(piece))
            }
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }
}
