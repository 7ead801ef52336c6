//! The last frames of a run. They are kept as they were and put into words only when somebody wants to read them.

use std::collections::VecDeque;
use std::fmt;

use super::wire;
use crate::frame::FrameMeta;
use crate::port::PortId;
use crate::time::Instant;

/// Bytes kept of a frame: all headers.
const HEAD: usize = 118;

/// A number of frames, the oldest forgotten first.
#[derive(Debug)]
pub struct Trace {
    noted: VecDeque<Noted>,
    capacity: usize,
}

#[derive(Debug)]
enum Noted {
    Frame(NotedFrame),
    Remark(Instant, String),
}

#[derive(Debug)]
struct NotedFrame {
    at: Instant,
    to_stack: bool,
    port: PortId,
    gso: Option<u16>,
    len: usize,
    head: [u8; HEAD],
}

impl Trace {
    /// One that keeps so many frames.
    pub const fn new(capacity: usize) -> Self {
        Self { noted: VecDeque::new(), capacity }
    }

    /// Changes how many frames are kept.
    pub const fn keep(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    /// Notes a frame to or from the stack.
    pub fn note(&mut self, at: Instant, to_stack: bool, port: PortId, frame: &[u8], meta: FrameMeta) {
        let mut head = [0; HEAD];
        let kept = frame.len().min(HEAD);
        head[..kept].copy_from_slice(&frame[..kept]);
        let gso = meta.gso.map(|gso| gso.size);
        self.push(Noted::Frame(NotedFrame { at, to_stack, port, gso, len: frame.len(), head }));
    }

    /// Notes something else that has happened. The words are made only where traces are long enough to be read.
    pub fn remark(&mut self, at: Instant, words: impl FnOnce() -> String) {
        if self.capacity > SHORT {
            self.push(Noted::Remark(at, words()));
        }
    }

    fn push(&mut self, noted: Noted) {
        if self.noted.len() >= self.capacity {
            self.noted.pop_front();
        }
        if self.capacity > 0 {
            self.noted.push_back(noted);
        }
    }
}

/// Up to so many lines nobody wants to know what else has happened.
const SHORT: usize = 100;

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for noted in &self.noted {
            match noted {
                Noted::Remark(at, words) => writeln!(f, "{:>12} us {words}", at.as_micros())?,
                Noted::Frame(NotedFrame { at, to_stack, port, gso, len, head }) => {
                    let arrow = if *to_stack { "->" } else { "<-" };
                    let what = wire::summary(&head[..HEAD.min(*len)]);
                    write!(f, "{:>12} us port {} {arrow} {len} bytes: {what}", at.as_micros(), port.0)?;
                    match gso {
                        Some(size) => writeln!(f, " in segments of {size}")?,
                        None => writeln!(f)?,
                    }
                }
            }
        }
        Ok(())
    }
}
