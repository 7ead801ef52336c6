//! A directory whose files guests may read, and no way out of it.
//!
//! The directory is opened once, at the start. Every name that a guest asks for is resolved by the kernel below that descriptor
//! (`openat2` with `RESOLVE_BENEATH`), so that neither `..` nor an absolute path nor a symbolic link leads out of it, also while somebody
//! changes the tree. Links that stay inside work. What is opened is a regular file, and it is opened to be read only.

use std::fmt;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, ReadWriteFlags};

/// How often a name is looked up again when the tree changed meanwhile.
const TRIES: usize = 8;

/// Why a directory cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// It cannot be opened.
    #[error("cannot serve the files of `{}`: {}", .path.display(), why_not_opened(cause))]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        cause: io::Error,
    },
    /// Names cannot be resolved safely.
    #[error(
        "cannot serve the files of `{}`: the kernel has no openat2, which keeps guests inside; it came with Linux 5.6, and a container's \
         seccomp profile may forbid it",
        .path.display()
    )]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        cause: io::Error,
    },
}

fn why_not_opened(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such directory; make it, or name another one".to_owned(),
        io::ErrorKind::NotADirectory => "it is not a directory; name the directory that the files are in".to_owned(),
        io::ErrorKind::PermissionDenied => "this user may not read it; change its permissions, or name another one".to_owned(),
        _ => error.to_string(),
    }
}

/// Why a guest does not get a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// There is none of that name.
    NotFound,
    /// The name leads out of the directory, to what is no regular file, or to what this user may not read.
    Forbidden,
    /// The machine cannot open it now.
    Failed,
}

impl From<Errno> for Refused {
    fn from(error: Errno) -> Self {
        match error {
            // EINVAL: a name with a zero in it.
            Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::INVAL => Self::NotFound,
            // EXDEV: out of the directory. ELOOP: a link of /proc, or too many links.
            Errno::XDEV | Errno::LOOP | Errno::ACCESS | Errno::PERM | Errno::NXIO | Errno::NODEV => Self::Forbidden,
            _ => Self::Failed,
        }
    }
}

/// A directory that is served.
#[derive(Debug)]
pub struct Root {
    dir: File,
    path: PathBuf,
    /// Whether its file system may be asked what is in memory.
    may_ask: bool,
}

impl Root {
    /// Opens a directory to be served.
    ///
    /// # Errors
    ///
    /// See [`RootError`].
    pub fn open(path: &Path) -> Result<Self, RootError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .map_err(|error| RootError::Open { path: path.to_owned(), cause: error.into() })?;
        let root = Self { dir: dir.into(), path: path.to_owned(), may_ask: true };
        match root.resolve(Path::new("."), OFlags::PATH) {
            Ok(_) => Ok(root),
            Err(error @ (Errno::NOSYS | Errno::PERM)) => Err(RootError::Unsafe { path: path.to_owned(), cause: error.into() }),
            Err(error) => Err(RootError::Open { path: path.to_owned(), cause: error.into() }),
        }
    }

    /// Where the directory is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file of this name. A leading `/` means the directory itself. May have to wait for a disk.
    ///
    /// # Errors
    ///
    /// Why the guest does not get it.
    pub fn file(&self, name: &[u8]) -> Result<PlainFile, Refused> {
        let inside: &[u8] = &name[name.iter().take_while(|byte| **byte == b'/').count()..];
        if inside.is_empty() {
            return Err(Refused::Forbidden);
        }
        let path = Path::new(std::ffi::OsStr::from_bytes(inside));
        // A named pipe must not make us wait, nor a terminal become ours.
        let file = File::from(self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?);
        let status = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Err(Refused::Forbidden);
        }
        let size = u64::try_from(status.st_size).unwrap_or_default();
        Ok(PlainFile { file, size, can_tell: AtomicBool::new(self.may_ask) })
    }

    /// As on a file system that cannot tell what is in memory.
    #[cfg(test)]
    pub(crate) fn without_telling(self) -> Self {
        Self { may_ask: false, ..self }
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> Result<std::os::fd::OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut result = Err(Errno::AGAIN);
        for _ in 0..TRIES {
            result = rustix::fs::openat2(&self.dir, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
            // EAGAIN: something was renamed on the way, and the kernel cannot tell whether that led outside.
            if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
                break;
            }
        }
        result
    }
}

/// A regular file that is open to be read.
pub struct PlainFile {
    file: File,
    size: u64,
    /// Whether the file system can tell what is in memory.
    can_tell: AtomicBool,
}

impl PlainFile {
    /// Its length in bytes, as it was when the file was opened.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// When it was changed last, if that is known.
    pub fn modified(&self) -> Option<SystemTime> {
        self.file.metadata().ok()?.modified().ok()
    }

    /// Reads what is in memory, without waiting for a disk. `None`: it may have to be waited for, by [`PlainFile::read`]. 0 bytes: nothing
    /// lies at `offset`.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn read_now(&self, into: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        if !self.can_tell.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match rustix::io::preadv2(&self.file, &mut [IoSliceMut::new(into)], offset, ReadWriteFlags::NOWAIT) {
            Ok(len) => Ok(Some(len)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                self.can_tell.store(false, Ordering::Relaxed);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads at `offset`; waits for a disk if it must.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn read(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(into, offset)
    }
}

impl fmt::Debug for PlainFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainFile").field("size", &self.size).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
