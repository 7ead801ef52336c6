//! The raw file, or block device, that a disk is.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use vm_memory::VolatileSlice;

use super::SECTOR;

/// Why a file cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It is not there, or not ours.
    #[error("cannot open the disk {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Two guests that write to one disk destroy its contents.
    #[error("the disk {} is in use by another virtual machine: end that one, or open the disk read-only in both", .0.display())]
    InUse(PathBuf),
    /// There are no parts of sectors.
    #[error(
        "the disk {} has {len} bytes, which is no multiple of 512: make it larger with `truncate -s %512 {}`", path.display(), path.display()
    )]
    OddLength {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
    },
}

/// An open disk.
#[derive(Debug)]
pub struct Disk {
    file: File,
    len: u64,
    read_only: bool,
}

/// What one system call is given at most.
const BATCH: usize = 256;

impl Disk {
    /// Opens a raw image or a block device, and locks it against other virtual machines.
    ///
    /// # Errors
    ///
    /// When it cannot be opened or locked, or has parts of sectors.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, DiskError> {
        let failed = |source| DiskError::Open { path: path.to_owned(), source };
        let mut file = OpenOptions::new().read(true).write(!read_only).open(path).map_err(failed)?;
        let lock = if read_only { FlockOperation::NonBlockingLockShared } else { FlockOperation::NonBlockingLockExclusive };
        match flock(&file, lock) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(DiskError::InUse(path.to_owned())),
            // Not every file system has locks.
            Err(error) => tracing::debug!(path = %path.display(), %error, "the disk cannot be locked"),
        }
        // The length of a block device is not in its metadata.
        let len = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if !len.is_multiple_of(SECTOR) {
            return Err(DiskError::OddLength { path: path.to_owned(), len });
        }
        Ok(Self { file, len, read_only })
    }

    /// How many sectors it has.
    pub const fn sectors(&self) -> u64 {
        self.len / SECTOR
    }

    /// Whether it can only be read.
    pub const fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Fills `slices` with the bytes from `at` on.
    pub(super) fn read(&self, at: u64, slices: &[VolatileSlice<'_, ()>]) -> io::Result<()> {
        // SAFETY: the iovecs are those of slices of guest memory, which is mapped and writable.
        transfer(at, slices, |vectors, count, at| unsafe { libc::preadv(self.file.as_raw_fd(), vectors, count, at) })
    }

    /// Writes what is in `slices` from `at` on.
    pub(super) fn write(&self, at: u64, slices: &[VolatileSlice<'_, ()>]) -> io::Result<()> {
        // SAFETY: the iovecs are those of slices of guest memory, which is mapped and readable.
        transfer(at, slices, |vectors, count, at| unsafe { libc::pwritev(self.file.as_raw_fd(), vectors, count, at) })
    }

    /// Waits until everything that was written is on the medium.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// These bytes are not needed any more. Where the file cannot forget them, they stay, which is as good.
    pub(super) fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        match fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, len) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes these bytes zeros; holes, if that is allowed.
    pub(super) fn zero(&self, at: u64, len: u64, unmap: bool) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let how = if unmap { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
        match fallocate(&self.file, how | FallocateFlags::KEEP_SIZE, at, len) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP) => self.write_zeros(at, len),
            Err(error) => Err(error.into()),
        }
    }

    fn write_zeros(&self, mut at: u64, len: u64) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        let zeros = vec![0; 1 << 16];
        let end = at + len;
        while at < end {
            let part = usize::try_from(end - at).unwrap_or(usize::MAX).min(zeros.len());
            self.file.write_all_at(&zeros[..part], at)?;
            at += part as u64;
        }
        Ok(())
    }
}

/// Moves all bytes of `slices` by as many calls as it takes.
fn transfer(
    at: u64,
    slices: &[VolatileSlice<'_, ()>],
    mut call: impl FnMut(*const libc::iovec, libc::c_int, libc::off_t) -> isize,
) -> io::Result<()> {
    let (mut first, mut done) = (0, 0);
    let mut offset = i64::try_from(at).map_err(io::Error::other)?;
    while first < slices.len() {
        let mut vectors = Vec::with_capacity(BATCH.min(slices.len() - first));
        for (n, slice) in slices[first..].iter().take(BATCH).enumerate() {
            let skip = if n == 0 { done } else { 0 };
            let rest = slice.offset(skip).map_err(io::Error::other)?;
            vectors.push(libc::iovec { iov_base: rest.ptr_guard_mut().as_ptr().cast(), iov_len: rest.len() });
        }
        let count = libc::c_int::try_from(vectors.len()).map_err(io::Error::other)?;
        let moved = match call(vectors.as_ptr(), count, offset) {
            // The file has become shorter than it was.
            0 if vectors.iter().any(|vector| vector.iov_len > 0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            moved @ 0.. => moved.unsigned_abs(),
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
        };
        offset += i64::try_from(moved).map_err(io::Error::other)?;
        done += moved;
        while first < slices.len() && done >= slices[first].len() {
            done -= slices[first].len();
            first += 1;
        }
    }
    Ok(())
}
