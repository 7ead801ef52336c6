//! The host side: what the stack asks of the machine it runs on, as one trait.
//!
//! [`Host`] has two forms. [`kernel::KernelHost`] is the sockets of an ordinary user. [`sim::SimHost`] is a network of simulated servers
//! in virtual time, for tests. The stack cannot tell them apart.
//!
//! What every form keeps to: each call returns at once; what is not possible yet is [`io::ErrorKind::WouldBlock`], and an [`Event`] with
//! the socket's [`Token`] follows once it may be possible. Events are edges: one comes when something *became* possible, not while it
//! stays so.

pub(crate) mod child;
mod error_queue;
pub mod kernel;
pub mod sim;
pub(crate) mod socket_file;
pub(crate) mod sys;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crate::frame::{Chunk, ChunkMut};
use crate::wire::icmp_error::Problem;

/// What to do where users may not open ping sockets.
pub const PING_REMEDY: &str = "As root: `sysctl -w net.ipv4.ping_group_range=\"0 2147483647\"`, and put \
     `net.ipv4.ping_group_range=0 2147483647` into /etc/sysctl.d/slipway.conf to keep it (it is for IPv6 as well, and each network \
     namespace has its own).";

/// What the owner of a socket wants to be told when the socket has news. The host only keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// A socket of the host. Its number is used again after the socket was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SocketId(pub u32);

/// News of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// What the socket was opened with.
    pub token: Token,
    /// There is something to read, to accept, or an end of file.
    pub readable: bool,
    /// A connection was established or has failed, or there is room in the send queue again.
    pub writable: bool,
    /// The connection was reset, or an error waits in [`Host::take_error`] or [`Host::take_datagram_error`].
    pub failed: bool,
}

/// A version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// That of an address.
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// A service of this process that guests reach as a stream, without any socket that others on the host could reach too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamService {
    /// The DNS forwarder (RFC 7766).
    Dns,
    /// The command or the hook of the forward from guests with this number in [`crate::config::Config::guest_forwards`].
    GuestForward(u16),
    /// The HTTP server that guests boot from.
    Http,
    /// The SMB server, at this port.
    Smb(u16),
}

/// How full the send queue of a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendRoom {
    /// Bytes that it would take now, by the kernel's own accounting. An estimate: small writes cost more than their length.
    pub free: usize,
    /// Bytes that it would take if it were empty.
    pub capacity: usize,
}

/// A datagram, or several of the same size from the same sender, that were received together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes received in all.
    pub len: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// Set when it is several datagrams of this many bytes each (the last may be shorter), as by `UDP_GRO`.
    pub segment: Option<u16>,
    /// The time to live or hop limit that it has arrived with. Only ping sockets tell.
    pub hop_limit: Option<u8>,
}

/// How a datagram is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SendOptions {
    /// It is several datagrams of this many bytes each (the last may be shorter), as by `UDP_SEGMENT`.
    pub segment: Option<u16>,
    /// The time to live or hop limit; the host's own if not set.
    pub hop_limit: Option<u8>,
    /// No router may fragment it, and neither may the host: what is too big for the way is an error, `EMSGSIZE` or one by ICMP. If not set,
    /// routers may (IPv4), or the host does (IPv6).
    pub dont_fragment: bool,
}

/// An error by ICMP about something that a datagram or ping socket has sent, or why it could not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatagramError {
    /// What is wrong.
    pub problem: Problem,
    /// Who says so.
    pub teller: Teller,
    /// Where it was sent to. The port is 0 for ping sockets, and when the socket itself says so.
    pub destination: SocketAddr,
    /// How many bytes of the payload are known: for ping sockets, of the ICMP message.
    pub len: usize,
}

/// Who has told of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Teller {
    /// The socket: what was to be sent has not left it. Nothing of it is quoted; it is what [`Host::send_to`] has just refused.
    Socket,
    /// This host, which has tried to send it.
    ThisHost,
    /// Somebody on the way, or the destination.
    Other(IpAddr),
}

/// The machine that the engine runs on: sockets that never block.
pub trait Host: fmt::Debug {
    /// Appends the news since the last call to `events`, at most as many as it has room for, so that nobody is starved.
    fn events(&mut self, events: &mut Vec<Event>);

    /// Starts to connect a stream to `remote`. The outcome is told by an event: `writable` for success, `failed` for failure.
    ///
    /// # Errors
    ///
    /// What `socket(2)` and `connect(2)` report at once, such as a full descriptor table or an unreachable network.
    fn connect(&mut self, remote: SocketAddr, token: Token) -> io::Result<SocketId>;

    /// Connects to the stream socket of AF_UNIX at `path`. It is connected at once or not at all.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when its backlog is full: there is no event for that, so it has to be tried again. Else what `connect(2)` reports, such
    /// as that nobody listens or that there is no such path.
    fn connect_local(&mut self, path: &Path, token: Token) -> io::Result<SocketId>;

    /// Opens a stream to a service of this process, on behalf of the guest at `guest`. It is connected at once.
    ///
    /// # Errors
    ///
    /// When the service is not offered ([`io::ErrorKind::ConnectionRefused`]) or has too many clients
    /// ([`io::ErrorKind::QuotaExceeded`] where a limit of the configuration says so).
    fn open_service(&mut self, service: StreamService, guest: SocketAddr, token: Token) -> io::Result<SocketId>;

    /// Listens for streams at `address`, that come in by `interface` if one is named; port 0 means any free one. Returns the address
    /// really bound. Events say when to accept.
    ///
    /// # Errors
    ///
    /// When the address is taken, not ours, or a privileged port, or there is no such interface.
    fn listen(&mut self, address: SocketAddr, interface: Option<&str>, token: Token) -> io::Result<(SocketId, SocketAddr)>;

    /// Listens for streams at a socket in the file system. One that nobody listens on is replaced; the file goes with the listener.
    ///
    /// # Errors
    ///
    /// When somebody listens there, when there is another kind of file, or when none can be made.
    fn listen_local(&mut self, path: &Path, token: Token) -> io::Result<SocketId>;

    /// Takes a connection from a listener, and says who has connected: the unspecified address and port 0 where clients have none, as
    /// those of [`Host::listen_local`]. Its events carry `token`.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is none.
    fn accept(&mut self, listener: SocketId, token: Token) -> io::Result<(SocketId, SocketAddr)>;

    /// Changes what later events of this socket carry.
    fn set_token(&mut self, socket: SocketId, token: Token);

    /// The error that has ended a socket or a connection attempt, once.
    fn take_error(&mut self, socket: SocketId) -> Option<io::Error>;

    /// Writes to a stream as much as its send queue takes; returns how much that is. The chunks may be guest memory.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when it takes nothing now; anything else ends the stream.
    fn send(&mut self, stream: SocketId, data: &[Chunk<'_>]) -> io::Result<usize>;

    /// Copies bytes out of the receive queue of a stream, from the byte `offset` after the oldest that has not been discarded, without
    /// removing them. 0 means that the peer has closed and nothing follows.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there are no such bytes yet; anything else ends the stream.
    fn peek(&mut self, stream: SocketId, offset: usize, into: &mut [ChunkMut<'_>]) -> io::Result<usize>;

    /// Removes the `len` oldest bytes from the receive queue of a stream; all of them have been peeked.
    ///
    /// # Errors
    ///
    /// Any error ends the stream.
    fn discard(&mut self, stream: SocketId, len: usize) -> io::Result<()>;

    /// How full the send queue of a stream is.
    fn send_room(&mut self, stream: SocketId) -> SendRoom;

    /// Asks for an event with `writable` as soon as at least a third of the send queue is free. Sent at once if it is so already.
    fn notify_writable(&mut self, stream: SocketId);

    /// Sends what is queued, then an end of file. The other direction stays open.
    ///
    /// # Errors
    ///
    /// When the stream is no longer connected.
    fn shutdown_write(&mut self, stream: SocketId) -> io::Result<()>;

    /// Opens an unconnected datagram socket of the family of `local`, bound to it, and to `interface` if one is named. Returns the address
    /// really bound.
    ///
    /// # Errors
    ///
    /// When there are no more descriptors or ports, or the address is taken, or there is no such interface.
    fn bind_datagram(&mut self, local: SocketAddr, interface: Option<&str>, token: Token) -> io::Result<(SocketId, SocketAddr)>;

    /// Has a datagram socket hold `wanted` bytes that were not received yet, as the kernel counts them, or as many as may be. Returns
    /// how many it holds.
    fn receive_room(&mut self, socket: SocketId, wanted: usize) -> usize {
        let _ = socket;
        wanted
    }

    /// Opens a ping socket: what is sent through it are echo requests (whole ICMP messages, to port 0), and what is received are the answers
    /// to those. The host puts an identifier and a checksum of its own into the requests.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::PermissionDenied`] when the host does not let this user send echo requests; else as for
    /// [`Host::bind_datagram`].
    fn open_ping(&mut self, family: Family, token: Token) -> io::Result<SocketId>;

    /// Sends a datagram, several, or an echo request.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when the send queue is full; else why it cannot be sent. Never an error about something sent before. With `EMSGSIZE`,
    /// [`Host::take_datagram_error`] tells the MTU of the way, if it is that.
    fn send_to(&mut self, socket: SocketId, to: SocketAddr, data: &[Chunk<'_>], options: SendOptions) -> io::Result<()>;

    /// Receives a datagram, several of the same size from the same sender, or an answer to an echo request.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is none; `Interrupted` when there may be some all the same.
    fn receive_from(&mut self, socket: SocketId, into: &mut [ChunkMut<'_>]) -> io::Result<Received>;

    /// The oldest error about what a datagram or ping socket has sent that was not told yet. What is known of the payload is written to
    /// `payload`. While there are more of them, a further event with `failed` follows.
    fn take_datagram_error(&mut self, socket: SocketId, payload: &mut [u8]) -> Option<DatagramError>;

    /// Closes a socket; a stream sends what is queued first.
    fn close(&mut self, socket: SocketId);

    /// Ends a stream with a reset: what is queued is thrown away, and the peer learns it.
    fn reset(&mut self, stream: SocketId);
}

/// What [`Host::receive_from`] tells of an error of a datagram socket. What is not about there being nothing is about something that was
/// sent before, and what has arrived waits behind it.
fn not_received(error: &io::Error) -> io::Error {
    let nothing = error.kind() == io::ErrorKind::WouldBlock;
    if nothing { io::ErrorKind::WouldBlock } else { io::ErrorKind::Interrupted }.into()
}
