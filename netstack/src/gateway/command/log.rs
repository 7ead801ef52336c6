//! What commands write to standard error, in our log. A guest can make them write, so there is an end to it.

use std::sync::{Mutex, PoisonError};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::time::{Duration, Instant};

/// The longest line, in bytes. Of a longer one the rest is left out.
const LONGEST_LINE: usize = 512;

/// Lines of all commands together that are logged at once, and how long it takes until there is room for another.
const LINES: u32 = 100;
const LINE_EVERY: Duration = Duration::from_secs(1);

/// The log of the commands of one engine.
#[derive(Debug, Default)]
pub(super) struct Log(Mutex<Room>);

#[derive(Debug, Default)]
struct Room {
    used: u32,
    since: Option<Instant>,
}

impl Log {
    /// Logs what comes from `errors`, until its end. What there is no room for is read all the same, so that nobody waits for us.
    pub(super) async fn take(self: std::sync::Arc<Self>, mut errors: Receiver, command: String) {
        let mut buffer = [0; 4096];
        let mut lines = Lines::default();
        while let Ok(len @ 1..) = errors.read(&mut buffer).await {
            lines.add(&buffer[..len], |line| self.tell(&command, line));
        }
        lines.end(|line| self.tell(&command, line));
    }

    /// Logs a line about a command, or of it, if there is room for it.
    pub(super) fn tell(&self, command: &str, line: &str) {
        match self.room() {
            0 => {}
            1 => tracing::warn!(command, "{line} [more than this is said too fast, and left out]"),
            _ => tracing::warn!(command, "{line}"),
        }
    }

    /// How many lines may be logged now, this one included; takes one of them.
    fn room(&self) -> u32 {
        let mut room = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let since = *room.since.get_or_insert(now);
        let freed = u32::try_from((now - since).as_secs() / LINE_EVERY.as_secs()).unwrap_or(u32::MAX);
        room.since = Some(since + LINE_EVERY * freed.min(u32::from(u16::MAX)));
        room.used = room.used.saturating_sub(freed);
        let free = LINES - room.used;
        room.used += free.min(1);
        free
    }
}

/// Bytes, cut into lines.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
}

impl Lines {
    fn add(&mut self, bytes: &[u8], mut tell: impl FnMut(&str)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            let room = LONGEST_LINE - self.line.len();
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if ended {
                self.end(&mut tell);
            }
        }
    }

    fn end(&mut self, mut tell: impl FnMut(&str)) {
        let line = String::from_utf8_lossy(&self.line);
        // What a terminal would obey is not for it.
        let line: String = line.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if !line.is_empty() {
            tell(&line);
        }
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_whole_and_none_is_too_long() {
        let mut told = Vec::new();
        let mut lines = Lines::default();
        for part in ["first", " line\nsec", "ond\n\n", "a\x1b[2Jb\r\n", &"x".repeat(600), "y\nlast"] {
            lines.add(part.as_bytes(), |line| told.push(line.to_owned()));
        }
        lines.end(|line| told.push(line.to_owned()));
        assert_eq!(told, ["first line", "second", "a [2Jb", &"x".repeat(512), "last"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_that_says_too_much_is_cut_short_and_heard_again_later() {
        let log = Log::default();
        assert_eq!((0..LINES).filter(|_| log.room() > 0).count(), LINES as usize);
        assert_eq!(log.room(), 0);
        tokio::time::advance(LINE_EVERY * 3).await;
        assert_eq!([log.room(), log.room(), log.room(), log.room()], [3, 2, 1, 0]);
    }
}
