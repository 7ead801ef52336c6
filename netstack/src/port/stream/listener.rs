//! Waiting for guests to connect.
//!
//! A socket file belongs to the listener: only its user may connect (mode 0600), it goes when the listener goes, and one that a killed
//! process has left behind is taken over. A file on which somebody still listens, or that is no socket, is never touched.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::Mode;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::{StreamAddress, StreamPort, StreamSocket};
use crate::host::socket_file::{self, SocketFile};

/// Guests that have connected and were not accepted yet, at most.
const BACKLOG: i32 = 64;

/// Why a [`StreamListener`] could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another program has it.
    #[error("another program listens at {0} already: end that one, or choose another address")]
    InUse(StreamAddress),
    /// There is a file of another kind.
    #[error("{} exists and is no socket, so it is left alone: remove it, or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// `struct sockaddr_un` has 108 bytes, with a zero at the end.
    #[error("the path {} is too long for a socket: at most 107 bytes", .0.display())]
    PathTooLong(PathBuf),
    /// The kernel will not have it.
    #[error("cannot listen at {address}")]
    Listen {
        /// Where.
        address: StreamAddress,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Waits at an address for guests to connect.
#[derive(Debug)]
pub struct StreamListener {
    listener: Listener,
    accepted: AtomicU64,
}

#[derive(Debug)]
enum Listener {
    Unix(UnixListener, SocketFile),
    Tcp(TcpListener),
}

impl StreamListener {
    /// Listens at `address`. Called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the address is taken, not ours, or impossible.
    pub fn bind(address: &StreamAddress) -> Result<Self, ListenError> {
        let listen_error = |source: io::Error| match (source.kind(), address) {
            (io::ErrorKind::AddrInUse, _) => ListenError::InUse(address.clone()),
            (io::ErrorKind::AlreadyExists, StreamAddress::Unix(path)) => ListenError::NotASocket(path.clone()),
            (io::ErrorKind::InvalidFilename, StreamAddress::Unix(path)) => ListenError::PathTooLong(path.clone()),
            _ => ListenError::Listen { address: address.clone(), source },
        };
        let listener = match address {
            StreamAddress::Unix(path) => listen_at_path(path).map_err(listen_error)?,
            StreamAddress::Tcp(address) => Listener::Tcp(listen_at_port(*address).map_err(listen_error)?),
        };
        Ok(Self { listener, accepted: AtomicU64::new(0) })
    }

    /// Where it really listens: with the port that was chosen if 0 was asked for.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell.
    pub fn local_address(&self) -> io::Result<StreamAddress> {
        match &self.listener {
            Listener::Unix(_, file) => Ok(StreamAddress::Unix(file.path().to_owned())),
            Listener::Tcp(listener) => listener.local_addr().map(StreamAddress::Tcp),
        }
    }

    /// Waits for the next guest, which takes IP packets of up to `mtu` bytes. Its name tells it apart from the others of this listener.
    /// Dropping the future loses no guest.
    ///
    /// # Errors
    ///
    /// Mostly that there are no descriptors left, which passes: wait a little before the next call.
    pub async fn accept(&self, mtu: u16) -> io::Result<StreamPort> {
        let (socket, name) = match &self.listener {
            Listener::Unix(listener, file) => {
                let (socket, _) = listener.accept().await?;
                let number = self.accepted.fetch_add(1, Ordering::Relaxed) + 1;
                (StreamSocket::try_from(socket)?, format!("unix:{}#{number}", file.path().display()))
            }
            Listener::Tcp(listener) => {
                let (socket, peer) = listener.accept().await?;
                (StreamSocket::try_from(socket)?, format!("tcp:{peer}"))
            }
        };
        Ok(StreamPort::new(socket, mtu, name))
    }
}

fn listen_at_path(path: &Path) -> io::Result<Listener> {
    let (socket, file) = socket_file::listen(path, Some(Mode::RUSR | Mode::WUSR), BACKLOG)?;
    Ok(Listener::Unix(UnixListener::from_std(socket.into())?, file))
}

fn listen_at_port(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn path_in(directory: &tempfile::TempDir) -> (PathBuf, StreamAddress) {
        let path = directory.path().join("vm.sock");
        (path.clone(), StreamAddress::Unix(path))
    }

    #[tokio::test]
    async fn the_socket_file_is_private_and_goes_with_its_listener() {
        let directory = tempfile::tempdir().unwrap();
        let (path, address) = path_in(&directory);
        let listener = StreamListener::bind(&address).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(listener.local_address().unwrap(), address);
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_left_behind_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let (path, address) = path_in(&directory);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listener = StreamListener::bind(&address).unwrap();
        let _guest = UnixStream::connect(&path).unwrap();
        listener.accept(1500).await.unwrap();
    }

    #[tokio::test]
    async fn a_socket_in_use_and_a_file_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (path, address) = path_in(&directory);
        let listener = StreamListener::bind(&address).unwrap();
        assert!(matches!(StreamListener::bind(&address), Err(ListenError::InUse(_))));
        drop(listener);
        fs::write(&path, "precious").unwrap();
        assert!(matches!(StreamListener::bind(&address), Err(ListenError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_file_that_replaced_ours_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, address) = path_in(&directory);
        let listener = StreamListener::bind(&address).unwrap();
        let successor = directory.path().join("successor");
        fs::write(&successor, "").unwrap();
        fs::rename(&successor, &path).unwrap();
        drop(listener);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn what_cannot_be_listened_at_is_said() {
        let long = StreamAddress::Unix(format!("/tmp/{}", "x".repeat(110)).into());
        assert!(matches!(StreamListener::bind(&long), Err(ListenError::PathTooLong(_))));
        let nowhere = StreamAddress::Unix("/nonexistent/directory/vm.sock".into());
        assert!(matches!(StreamListener::bind(&nowhere), Err(ListenError::Listen { .. })));
        let any = StreamListener::bind(&"tcp:127.0.0.1:0".parse().unwrap()).unwrap();
        let taken = any.local_address().unwrap();
        assert!(matches!(StreamListener::bind(&taken), Err(ListenError::InUse(address)) if address == taken));
    }

    #[tokio::test]
    async fn guests_of_one_listener_can_be_told_apart() {
        use crate::port::Port;
        let directory = tempfile::tempdir().unwrap();
        let (path, address) = path_in(&directory);
        let listener = StreamListener::bind(&address).unwrap();
        let _guests = [UnixStream::connect(&path).unwrap(), UnixStream::connect(&path).unwrap()];
        let names = [listener.accept(1500).await.unwrap().name(), listener.accept(1500).await.unwrap().name()];
        assert_eq!(names, [format!("{address}#1"), format!("{address}#2")]);
    }
}
