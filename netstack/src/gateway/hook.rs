//! What a program that embeds the engine serves to guests itself.
//!
//! A hook is handed every connection of its kind as a stream, and deals with it in tasks of its own. It is given to
//! [`Engine::builder`](crate::engine::Engine::builder). A closure will do:
//!
//! ```
//! use netstack::config::{Config, GuestForward, GuestTarget};
//! use netstack::engine::Engine;
//! use tokio::io::AsyncWriteExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Guests find the greeter at port 80 of 10.0.2.4, restricted ones too.
//! let forward = GuestForward { server: None, port: 80, target: GuestTarget::Hook("greeter".to_owned()) };
//! let config = Config { guest_forwards: vec![forward], restrict: true, ..Config::default() };
//! let engine = Engine::builder(&config)
//!     .stream_hook("greeter", |guest: std::net::SocketAddr, mut stream: tokio::net::UnixStream| {
//!         tokio::spawn(async move { stream.write_all(format!("hello, {}\n", guest.ip()).as_bytes()).await });
//!         Ok(())
//!     })
//!     .build()?;
//! # drop(engine);
//! # Ok(())
//! # }
//! ```
//!
//! Whoever has a stream of another kind, such as a TLS connection or a pipe between two tasks, joins the two by [`relay`].

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

/// Serves guests that connect to a [`GuestTarget::Hook`](crate::config::GuestTarget::Hook).
pub trait StreamHook: Send + Sync {
    /// A guest has connected, from this address. Must return at once, for the engine waits: what takes its time belongs into a task,
    /// which is within the engine's runtime.
    ///
    /// The stream is as slow as the guest, and whoever does not read it slows the guest down, and nobody else. Its end of file is the
    /// guest's FIN; dropping it with everything read is ours, and with something unread a reset.
    ///
    /// # Errors
    ///
    /// Any error refuses the guest by a reset; one of [`io::ErrorKind::WouldBlock`] counts as a limit of the host.
    fn connect(&self, guest: SocketAddr, stream: UnixStream) -> io::Result<()>;
}

impl<F: Fn(SocketAddr, UnixStream) -> io::Result<()> + Send + Sync> StreamHook for F {
    fn connect(&self, guest: SocketAddr, stream: UnixStream) -> io::Result<()> {
        self(guest, stream)
    }
}

/// Serves the guests' SMB instead of Samba's `smbd`.
pub trait SmbHook: Send + Sync {
    /// A guest has connected to `port`: 139, where a session request of NetBIOS comes first (RFC 1002 section 4.3.2), or 445. All else is
    /// as with [`StreamHook::connect`].
    ///
    /// # Errors
    ///
    /// Any error refuses the guest by a reset.
    fn connect(&self, guest: SocketAddr, port: u16, stream: UnixStream) -> io::Result<()>;
}

impl<F: Fn(SocketAddr, u16, UnixStream) -> io::Result<()> + Send + Sync> SmbHook for F {
    fn connect(&self, guest: SocketAddr, port: u16, stream: UnixStream) -> io::Result<()> {
        self(guest, port, stream)
    }
}

/// Joins a guest's stream to any other: each side's bytes go to the other, and so does its end, the other direction staying open.
/// Returns when both have ended.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// use netstack::gateway::hook::relay;
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// let (mut guest, stream) = tokio::net::UnixStream::pair()?;
/// // What another part of the program reads and writes in memory.
/// let (theirs, mut service) = tokio::io::duplex(4096);
/// tokio::spawn(relay(stream, theirs));
///
/// guest.write_all(b"question").await?;
/// guest.shutdown().await?;
/// let mut question = String::new();
/// service.read_to_string(&mut question).await?;
/// service.write_all(b"answer").await?;
/// drop(service);
/// let mut answer = String::new();
/// guest.read_to_string(&mut answer).await?;
/// assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The first error of either; both are dropped then, and the guest sees a reset if it has said more than was read.
pub async fn relay(mut guest: UnixStream, mut other: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    tokio::io::copy_bidirectional(&mut guest, &mut other).await.map(drop)
}
