//! UNIX and TCP sockets as one kind of thing.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::{AddressFamily, SendFlags, SocketType, send};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

/// A guest whose machine has vanished without a word is given up after this time and three unanswered probes.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_PROBE: Duration = Duration::from_secs(10);

/// A connected stream socket, of one family or the other.
#[derive(Debug)]
pub enum StreamSocket {
    /// On this machine.
    Unix(StdUnixStream),
    /// Anywhere.
    Tcp(std::net::TcpStream),
}

impl From<StdUnixStream> for StreamSocket {
    fn from(socket: StdUnixStream) -> Self {
        Self::Unix(socket)
    }
}

impl From<std::net::TcpStream> for StreamSocket {
    fn from(socket: std::net::TcpStream) -> Self {
        Self::Tcp(socket)
    }
}

impl TryFrom<UnixStream> for StreamSocket {
    type Error = io::Error;

    fn try_from(socket: UnixStream) -> io::Result<Self> {
        socket.into_std().map(Self::Unix)
    }
}

impl TryFrom<TcpStream> for StreamSocket {
    type Error = io::Error;

    fn try_from(socket: TcpStream) -> io::Result<Self> {
        socket.into_std().map(Self::Tcp)
    }
}

impl TryFrom<OwnedFd> for StreamSocket {
    type Error = io::Error;

    /// Takes over a descriptor that was handed in.
    fn try_from(fd: OwnedFd) -> io::Result<Self> {
        let family = rustix::net::sockopt::socket_domain(&fd)?;
        if rustix::net::sockopt::socket_type(&fd)? == SocketType::STREAM {
            if family == AddressFamily::UNIX {
                return Ok(Self::Unix(fd.into()));
            }
            if family == AddressFamily::INET || family == AddressFamily::INET6 {
                return Ok(Self::Tcp(fd.into()));
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, "the descriptor is neither a UNIX nor a TCP stream socket"))
    }
}

impl StreamSocket {
    /// Has the runtime watch the socket.
    pub(super) fn watch(self) -> io::Result<Connection> {
        Ok(match self {
            Self::Unix(socket) => {
                socket.set_nonblocking(true)?;
                Connection::Unix(UnixStream::from_std(socket)?)
            }
            Self::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                // Frames are whole when they are written; waiting for more of them only delays their answers.
                socket.set_nodelay(true)?;
                let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_PROBE).with_retries(3);
                SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
                Connection::Tcp(TcpStream::from_std(socket)?)
            }
        })
    }
}

/// A stream socket that the runtime watches.
#[derive(Debug)]
pub(super) enum Connection {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Connection {
    /// Reads what there is; 0 is the end. `WouldBlock` without a system call while nothing has come.
    pub(super) fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.try_read(into),
            Self::Tcp(socket) => socket.try_read(into),
        }
    }

    /// Writes as much as there is room for, without ever raising SIGPIPE.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.try_io(Interest::WRITABLE, || Ok(send(socket, bytes, SendFlags::NOSIGNAL)?)),
            Self::Tcp(socket) => socket.try_io(Interest::WRITABLE, || Ok(send(socket, bytes, SendFlags::NOSIGNAL)?)),
        }
    }

    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Unix(socket) => socket.poll_read_ready(cx),
            Self::Tcp(socket) => socket.poll_read_ready(cx),
        }
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Unix(socket) => socket.poll_write_ready(cx),
            Self::Tcp(socket) => socket.poll_write_ready(cx),
        }
    }
}
