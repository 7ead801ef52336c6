//! Listening sockets in the file system.
//!
//! A socket file belongs to its listener: it goes when the listener goes, and one that a killed process has left behind is taken over. A
//! file on which somebody still listens, or that is no socket, is never touched.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};

/// Listens at `path`, without blocking. The file has `mode`, or what the umask leaves of everything.
///
/// # Errors
///
/// - [`io::ErrorKind::AddrInUse`] when somebody listens there,
/// - [`io::ErrorKind::AlreadyExists`] when there is a file that is no socket,
/// - [`io::ErrorKind::InvalidFilename`] when the path is too long for an address,
/// - and what the kernel says when it cannot make the file.
pub(crate) fn listen(path: &Path, mode: Option<Mode>, backlog: i32) -> io::Result<(Socket, SocketFile)> {
    let address = SockAddr::unix(path).map_err(|_| io::ErrorKind::InvalidFilename)?;
    remove_stale(path, &address)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    if let Some(mode) = mode {
        // The file gets the mode of the socket, so there is no moment at which others could connect.
        fchmod(&socket, mode)?;
    }
    socket.bind(&address)?;
    let file = SocketFile::of(path)?;
    socket.listen(backlog)?;
    Ok((socket, file))
}

/// Removes the socket at `path` if nobody listens there.
fn remove_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    match probe.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        // It went by itself.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // WouldBlock is a listener that is busy.
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        Ok(()) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// The file of a listening socket; removed with it, if it is still the same.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Ok(metadata) = fs::symlink_metadata(&self.path)
            && (metadata.dev(), metadata.ino()) == (self.device, self.inode)
        {
            // If it cannot be removed, the next listener at this path finds that nobody listens.
            let _ = fs::remove_file(&self.path);
        }
    }
}
