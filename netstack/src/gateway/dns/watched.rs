//! A file that is read again when it has changed.
//!
//! There is no watcher and no timer: whoever needs the content asks first whether the file is still the one that was read. So nothing
//! happens while nobody asks, and a file that is replaced, moved in place or reached through another symbolic link is noticed alike.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// No more of a file than this is read, in bytes.
const LENGTH_MAX: u64 = 16 << 20;

/// The content of a file, parsed.
#[derive(Debug)]
pub(super) struct Watched<T> {
    path: PathBuf,
    /// The file that was read; `None` if there was none.
    stamp: Option<Stamp>,
    parse: fn(Option<&[u8]>) -> Option<T>,
    value: Arc<T>,
}

/// What tells one content of a file from the next without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl<T: Default + Send + Sync + 'static> Watched<T> {
    /// Reads the file at `path`. `parse` is given its content, or `None` if there is no such file; if it returns `None` the value stays
    /// what it was, at first `T::default()`.
    pub(super) fn open(path: &Path, parse: fn(Option<&[u8]>) -> Option<T>) -> Self {
        let stamp = stamp(path);
        let value = parse(read(path).ok().as_deref()).unwrap_or_default();
        Self { path: path.to_owned(), stamp, parse, value: Arc::new(value) }
    }

    /// What the file said when it was last read.
    pub(super) fn value(&self) -> &Arc<T> {
        &self.value
    }

    /// Reads the file if it has changed.
    pub(super) async fn refresh(&mut self) {
        // Taken before the content, so that a change in between is seen the next time.
        let stamp = stamp(&self.path);
        if stamp == self.stamp {
            return;
        }
        let (path, parse) = (self.path.clone(), self.parse);
        // A large hosts file takes longer to read than frames can wait.
        let parsed = tokio::task::spawn_blocking(move || parse(read(&path).ok().as_deref())).await;
        self.stamp = stamp;
        if let Ok(Some(value)) = parsed {
            tracing::debug!(path = %self.path.display(), "read again, because it has changed");
            self.value = Arc::new(value);
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    path.metadata().ok().filter(Metadata::is_file).map(|file| Stamp {
        file: (file.dev(), file.ino()),
        length: file.len(),
        modified: (file.mtime(), file.mtime_nsec()),
        changed: (file.ctime(), file.ctime_nsec()),
    })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for a writer.
    if !path.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut content = Vec::new();
    File::open(path)?.take(LENGTH_MAX).read_to_end(&mut content)?;
    Ok(content)
}
