//! The host as it is: sockets of an ordinary user, watched by one epoll instance of their own.
//!
//! The sockets are not registered with the runtime one by one. The runtime watches the epoll descriptor alone; that saves its
//! book-keeping for every socket, which would be larger than a flow, and a wake-up for every event (see `docs/one-epoll.md`).

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::SocketFlags;
use slab::Slab;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::{
    DatagramError, Event, Family, Host, Received, SendOptions, SendRoom, SocketId, StreamService, Token, not_received, socket_file,
    sys,
};
use crate::frame::{Chunk, ChunkMut};

/// Events taken from the kernel at a time.
pub(crate) const EVENTS: usize = 128;

/// A time-out that does not wait.
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Connections that the kernel keeps for a listener until they are accepted.
const BACKLOG: i32 = 4096;

/// The size of the buffer that swallows bytes where the kernel cannot skip them, and how often it can stand in one list.
const SKIP: usize = 64 << 10;
const SKIP_CHUNKS: usize = 512;

/// Opens streams to services of this process, on behalf of the guest at this address.
pub type ServiceConnector = Box<dyn FnMut(StreamService, SocketAddr) -> io::Result<ServiceStream> + Send>;

/// Our end of a stream to a service.
pub struct ServiceStream {
    end: End,
    guard: Option<Box<dyn Any + Send>>,
}

enum End {
    Local(UnixStream),
    Tcp(TcpStream),
}

impl ServiceStream {
    /// A stream within this process: our end, and the service's, which does not block.
    ///
    /// # Errors
    ///
    /// When there are no descriptors left.
    pub fn pair() -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        theirs.set_nonblocking(true)?;
        Ok((Self { end: End::Local(ours), guard: None }, theirs))
    }

    /// A stream whose other end needs to be TCP.
    pub const fn tcp(stream: TcpStream) -> Self {
        Self { end: End::Tcp(stream), guard: None }
    }

    /// Keeps `guard` until our end is closed: so a service learns of that even if it does not look at its own end.
    #[must_use]
    pub fn guarded(self, guard: impl Any + Send) -> Self {
        Self { guard: Some(Box::new(guard)), ..self }
    }
}

impl fmt::Debug for ServiceStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.end {
            End::Local(_) => "within this process",
            End::Tcp(_) => "TCP",
        };
        f.debug_struct("ServiceStream").field("kind", &kind).field("guarded", &self.guard.is_some()).finish()
    }
}

/// Sockets of the machine that this process runs on.
pub struct KernelHost {
    epoll: OwnedFd,
    sockets: Slab<Entry>,
    services: ServiceConnector,
    /// What is to be dropped with a socket: what serves the other end of a stream, or the file of a listener.
    guards: HashMap<u32, Box<dyn Any + Send>>,
    /// Whether TCP sockets know `SO_PEEK_OFF` (Linux 6.9).
    peek_offset: bool,
    skip: Vec<u8>,
    /// Whether it was said that this user may not open ping sockets.
    ping_forbidden: bool,
}

struct Entry {
    fd: OwnedFd,
    token: Token,
    kind: Kind,
    /// Where the kernel will start the next peek, if that was set.
    peek_at: Option<usize>,
    /// Whether what is sent may be fragmented, and with which hop limit it goes, if that was set.
    dont_fragment: Option<bool>,
    hop_limit: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    /// A stream of AF_UNIX, which cannot discard without copying.
    Local,
    Listener,
    /// A listener of AF_UNIX, at a file.
    LocalListener,
    Datagram(Family),
    Ping(Family),
}

/// How often a call is made again that has failed because of something that was sent before.
const PENDING_ERRORS: usize = 2;

impl KernelHost {
    /// A host without sockets. Streams to services are handed to `services`.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an epoll instance or a socket.
    pub fn new(services: ServiceConnector) -> io::Result<Self> {
        let probe = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            sockets: Slab::new(),
            services,
            guards: HashMap::new(),
            peek_offset: sys::set_peek_offset(probe.as_fd(), 0).is_ok(),
            skip: Vec::new(),
            ping_forbidden: false,
        })
    }

    /// A descriptor that becomes readable when [`Host::events`] has something to tell, watched by the current runtime.
    ///
    /// # Errors
    ///
    /// When there are no descriptors left, or no runtime.
    pub fn watch(&self) -> io::Result<AsyncFd<OwnedFd>> {
        sys::watch(self.epoll.try_clone()?)
    }

    fn add(&mut self, fd: OwnedFd, kind: Kind, token: Token) -> io::Result<SocketId> {
        let entry = self.sockets.vacant_entry();
        let id = u32::try_from(entry.key()).map_err(|_| io::Error::from_raw_os_error(libc::ENFILE))?;
        epoll::add(&self.epoll, &fd, EventData::new_u64(id.into()), interest(kind))?;
        entry.insert(Entry { fd, token, kind, peek_at: None, dont_fragment: None, hop_limit: None });
        Ok(SocketId(id))
    }

    fn release(&mut self, socket: SocketId) {
        if !self.guards.is_empty() {
            self.guards.remove(&socket.0);
        }
    }

    fn entry(&self, socket: SocketId) -> io::Result<&Entry> {
        self.sockets.get(socket.0 as usize).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn fd(&self, socket: SocketId) -> io::Result<BorrowedFd<'_>> {
        self.entry(socket).map(|entry| entry.fd.as_fd())
    }

    /// Peeks behind `offset` bytes that the kernel copies into a buffer which nobody reads: before Linux 6.9.
    fn peek_behind(&mut self, stream: SocketId, offset: usize, into: &mut [ChunkMut<'_>]) -> io::Result<usize> {
        let Self { skip, sockets, .. } = self;
        let entry = sockets.get(stream.0 as usize).ok_or(io::ErrorKind::NotConnected)?;
        if offset > SKIP * SKIP_CHUNKS {
            // More is under way to the guest than this kernel lets us look past; it goes on when the guest has acknowledged some.
            return Err(io::ErrorKind::WouldBlock.into());
        }
        skip.resize(SKIP, 0);
        let start = skip.as_mut_ptr();
        let mut list = Vec::with_capacity(offset.div_ceil(SKIP) + into.len());
        for at in (0..offset).step_by(SKIP) {
            // SAFETY: the buffer is SKIP bytes long and outlives the list; that its chunks overlap is no harm, for nobody reads it.
            list.push(unsafe { ChunkMut::from_raw_parts(start, (offset - at).min(SKIP)) });
        }
        list.extend(into.iter_mut().map(|chunk| chunk.part(0, usize::MAX)));
        match sys::peek(entry.fd.as_fd(), &mut list)? {
            0 => Ok(0),
            got if got > offset => Ok(got - offset),
            // Nothing lies behind: an end of file, or not yet.
            _ => at_end(entry.fd.as_fd()),
        }
    }
}

/// Tells an end of file from a queue that has nothing new.
fn at_end(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut poll = [rustix::event::PollFd::from_borrowed_fd(fd, rustix::event::PollFlags::RDHUP)];
    rustix::event::poll(&mut poll, Some(&AT_ONCE))?;
    if poll[0].revents().contains(rustix::event::PollFlags::RDHUP) { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) }
}

const fn interest(kind: Kind) -> EventFlags {
    match kind {
        Kind::Tcp | Kind::Local => EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET),
        Kind::Listener | Kind::LocalListener | Kind::Datagram(_) | Kind::Ping(_) => EventFlags::IN.union(EventFlags::ET),
    }
}

/// A socket that does not block and does not survive `exec`; one that is bound to `interface`, if one is named.
fn new_socket(address: SocketAddr, interface: Option<&str>, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking().cloexec(), None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if let Some(interface) = interface {
        // Of a user without rights the kernel takes it once, which is enough (Linux 5.7).
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    Ok(socket)
}

impl Host for KernelHost {
    fn events(&mut self, events: &mut Vec<Event>) {
        let mut buffer = [MaybeUninit::<epoll::Event>::uninit(); EVENTS];
        // EINTR and everything else mean the same: there is nothing to tell now.
        let Ok((news, _)) = epoll::wait(&self.epoll, &mut buffer, Some(&AT_ONCE)) else { return };
        events.extend(news.iter().filter_map(|event| {
            let (data, flags) = (event.data, event.flags);
            let entry = self.sockets.get(usize::try_from(data.u64()).ok()?)?;
            Some(Event {
                token: entry.token,
                readable: flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP),
                writable: flags.contains(EventFlags::OUT),
                failed: flags.contains(EventFlags::ERR),
            })
        }));
    }

    fn connect(&mut self, remote: SocketAddr, token: Token) -> io::Result<SocketId> {
        let socket = new_socket(remote, None, Type::STREAM)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_out_of_band_inline(true)?;
        match socket.connect(&remote.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        self.add(socket.into(), Kind::Tcp, token)
    }

    fn connect_local(&mut self, path: &Path, token: Token) -> io::Result<SocketId> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
        socket.connect(&SockAddr::unix(path)?)?;
        self.add(socket.into(), Kind::Local, token)
    }

    fn open_service(&mut self, service: StreamService, guest: SocketAddr, token: Token) -> io::Result<SocketId> {
        let ServiceStream { end, guard } = (self.services)(service, guest)?;
        let socket = match end {
            End::Local(stream) => {
                stream.set_nonblocking(true)?;
                self.add(stream.into(), Kind::Local, token)?
            }
            End::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                self.add(stream.into(), Kind::Tcp, token)?
            }
        };
        self.guards.extend(guard.map(|guard| (socket.0, guard)));
        Ok(socket)
    }

    fn listen(&mut self, address: SocketAddr, interface: Option<&str>, token: Token) -> io::Result<(SocketId, SocketAddr)> {
        let socket = new_socket(address, interface, Type::STREAM)?;
        socket.set_reuse_address(true)?;
        // Those that are accepted inherit these.
        socket.set_tcp_nodelay(true)?;
        socket.set_out_of_band_inline(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let bound = local_address(&socket);
        Ok((self.add(socket.into(), Kind::Listener, token)?, bound))
    }

    fn listen_local(&mut self, path: &Path, token: Token) -> io::Result<SocketId> {
        // Who may connect is for the umask to say, as for every other file that a user makes.
        let (socket, file) = socket_file::listen(path, None, BACKLOG)?;
        let id = self.add(socket.into(), Kind::LocalListener, token)?;
        self.guards.insert(id.0, Box::new(file));
        Ok(id)
    }

    fn accept(&mut self, listener: SocketId, token: Token) -> io::Result<(SocketId, SocketAddr)> {
        let Entry { fd, kind, .. } = self.entry(listener)?;
        let kind = if *kind == Kind::LocalListener { Kind::Local } else { Kind::Tcp };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (socket, from) = rustix::net::acceptfrom_with(fd, flags)?;
        let from = from.and_then(|from| SocketAddr::try_from(from).ok());
        let from = from.unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into());
        Ok((self.add(socket, kind, token)?, from))
    }

    fn set_token(&mut self, socket: SocketId, token: Token) {
        if let Some(entry) = self.sockets.get_mut(socket.0 as usize) {
            entry.token = token;
        }
    }

    fn take_error(&mut self, socket: SocketId) -> Option<io::Error> {
        SockRef::from(&self.fd(socket).ok()?).take_error().unwrap_or_else(Some)
    }

    fn send(&mut self, stream: SocketId, data: &[Chunk<'_>]) -> io::Result<usize> {
        sys::send(self.fd(stream)?, data)
    }

    fn peek(&mut self, stream: SocketId, offset: usize, into: &mut [ChunkMut<'_>]) -> io::Result<usize> {
        let can_offset = self.peek_offset || self.entry(stream)?.kind == Kind::Local;
        if !can_offset {
            return self.peek_behind(stream, offset, into);
        }
        let entry = self.sockets.get_mut(stream.0 as usize).ok_or(io::ErrorKind::NotConnected)?;
        // As long as nothing was set, peeks start at the front.
        if entry.peek_at != Some(offset) && (offset > 0 || entry.peek_at.is_some()) {
            let at = i32::try_from(offset).map_err(|_| io::ErrorKind::WouldBlock)?;
            sys::set_peek_offset(entry.fd.as_fd(), at)?;
            entry.peek_at = Some(offset);
        }
        let len = sys::peek(entry.fd.as_fd(), into)?;
        entry.peek_at = entry.peek_at.map(|at| at + len);
        Ok(len)
    }

    fn discard(&mut self, stream: SocketId, len: usize) -> io::Result<()> {
        let Self { skip, sockets, .. } = self;
        let entry = sockets.get_mut(stream.0 as usize).ok_or(io::ErrorKind::NotConnected)?;
        let mut left = len;
        while left > 0 {
            let gone = if entry.kind == Kind::Local {
                skip.resize(SKIP, 0);
                let want = left.min(SKIP);
                rustix::io::read(&entry.fd, &mut skip[..want])?
            } else {
                sys::discard(entry.fd.as_fd(), left)?
            };
            if gone == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= gone;
        }
        entry.peek_at = entry.peek_at.map(|at| at.saturating_sub(len));
        Ok(())
    }

    fn send_room(&mut self, stream: SocketId) -> SendRoom {
        match self.fd(stream).and_then(sys::send_queue) {
            Ok((capacity, used)) => SendRoom { free: capacity.saturating_sub(used), capacity },
            Err(_) => SendRoom { free: 0, capacity: 0 },
        }
    }

    fn notify_writable(&mut self, stream: SocketId) {
        // Looking at the socket anew makes the kernel note that somebody waits for room, and report it at once if there is.
        if let Ok(entry) = self.entry(stream) {
            let _ = epoll::modify(&self.epoll, &entry.fd, EventData::new_u64(stream.0.into()), interest(entry.kind));
        }
    }

    fn shutdown_write(&mut self, stream: SocketId) -> io::Result<()> {
        SockRef::from(&self.fd(stream)?).shutdown(std::net::Shutdown::Write)
    }

    fn bind_datagram(&mut self, local: SocketAddr, interface: Option<&str>, token: Token) -> io::Result<(SocketId, SocketAddr)> {
        let socket = new_socket(local, interface, Type::DGRAM)?;
        socket.bind(&local.into())?;
        // Older kernels know no GRO for UDP; then datagrams come one by one.
        let _ = sys::set_udp_gro(socket.as_fd());
        let family = Family::of(local.ip());
        sys::keep_errors(socket.as_fd(), family)?;
        let bound = local_address(&socket);
        Ok((self.add(socket.into(), Kind::Datagram(family), token)?, bound))
    }

    fn receive_room(&mut self, socket: SocketId, wanted: usize) -> usize {
        let Ok(fd) = self.fd(socket) else { return 0 };
        let socket = SockRef::from(&fd);
        // The kernel doubles what it is told, and tells the double (socket(7)).
        let _ = socket.set_recv_buffer_size(wanted / 2);
        socket.recv_buffer_size().unwrap_or_default()
    }

    fn open_ping(&mut self, family: Family, token: Token) -> io::Result<SocketId> {
        let (domain, protocol) = match family {
            Family::V4 => (Domain::IPV4, Protocol::ICMPV4),
            Family::V6 => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(protocol)).map_err(|error| {
            // Some kernels are built without, and then there is no such protocol.
            let forbidden = matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EPROTONOSUPPORT));
            if !forbidden {
                return error;
            }
            if !std::mem::replace(&mut self.ping_forbidden, true) {
                tracing::warn!(%error, "guests cannot ping the world, for this user may not send echo requests. {}", super::PING_REMEDY);
            }
            io::ErrorKind::PermissionDenied.into()
        })?;
        sys::keep_errors(socket.as_fd(), family)?;
        sys::tell_hop_limit(socket.as_fd(), family)?;
        self.add(socket.into(), Kind::Ping(family), token)
    }

    fn send_to(&mut self, socket: SocketId, to: SocketAddr, data: &[Chunk<'_>], options: SendOptions) -> io::Result<()> {
        let entry = self.sockets.get_mut(socket.0 as usize).ok_or(io::ErrorKind::NotConnected)?;
        let fd = entry.fd.as_fd();
        let mut options = options;
        if let Kind::Datagram(family) | Kind::Ping(family) = entry.kind
            && entry.dont_fragment != Some(options.dont_fragment)
        {
            sys::set_dont_fragment(fd, family, options.dont_fragment)?;
            entry.dont_fragment = Some(options.dont_fragment);
        }
        // Before Linux 5.18 ping sockets of IPv6 take no control messages.
        if let Kind::Ping(family) = entry.kind
            && let Some(hop_limit) = options.hop_limit.take()
            && entry.hop_limit != Some(hop_limit)
        {
            sys::set_hop_limit(fd, family, hop_limit)?;
            entry.hop_limit = Some(hop_limit);
        }
        let sent = regardless_of_the_past(|| sys::send_to(fd, to, data, options));
        match (&sent, options.segment) {
            // The kernel cuts for the way only what the way takes; the rest it fragments, or says how much the way takes.
            (Err(error), Some(size)) if matches!(error.raw_os_error(), Some(libc::EMSGSIZE | libc::EINVAL)) => {
                one_by_one(data, size, |datagram| {
                    regardless_of_the_past(|| sys::send_to(fd, to, datagram, SendOptions { segment: None, ..options }))
                })
            }
            _ => sent,
        }
    }

    fn receive_from(&mut self, socket: SocketId, into: &mut [ChunkMut<'_>]) -> io::Result<Received> {
        let fd = self.fd(socket)?;
        regardless_of_the_past(|| sys::receive_from(fd, into)).map_err(|error| not_received(&error))
    }

    fn take_datagram_error(&mut self, socket: SocketId, payload: &mut [u8]) -> Option<DatagramError> {
        let fd = self.fd(socket).ok()?;
        // Ends with the queue.
        while let Ok(queued) = sys::receive_error(fd, payload) {
            if let Some(error) = queued.read(is_own_address) {
                return Some(error);
            }
        }
        None
    }

    fn close(&mut self, socket: SocketId) {
        // Closing takes it out of the epoll instance.
        self.sockets.try_remove(socket.0 as usize);
        self.release(socket);
    }

    fn reset(&mut self, stream: SocketId) {
        if let Some(entry) = self.sockets.try_remove(stream.0 as usize) {
            let _ = SockRef::from(&entry.fd).set_linger(Some(std::time::Duration::ZERO));
        }
        self.release(stream);
    }
}

/// Makes a call of a datagram socket whose errors are kept. The kernel fails such a call also for what ICMP has said of something sent
/// before, which waits in the queue of errors all the same: each such failure comes once, and then the call is made again.
fn regardless_of_the_past<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut result = call();
    for _ in 0..PENDING_ERRORS {
        match &result {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => result = call(),
            _ => break,
        }
    }
    result
}

/// Sends datagrams of `size` bytes each, the last of what is left. Stops at the first that cannot be sent.
fn one_by_one(data: &[Chunk<'_>], size: u16, mut send: impl FnMut(&[Chunk<'_>]) -> io::Result<()>) -> io::Result<()> {
    let mut rest = data.iter().map(|chunk| chunk.part(0, usize::MAX)).collect::<std::collections::VecDeque<_>>();
    let mut datagram = Vec::new();
    while !rest.is_empty() {
        let mut room = usize::from(size.max(1));
        while let Some(chunk) = rest.pop_front() {
            let part = chunk.part(0, room);
            room -= part.len();
            if part.len() < chunk.len() {
                rest.push_front(chunk.part(part.len(), usize::MAX));
            }
            datagram.push(part);
            if room == 0 {
                break;
            }
        }
        send(&datagram)?;
        datagram.clear();
    }
    Ok(())
}

/// Whether this machine has an address. Only those can be bound to (if `ip_nonlocal_bind` is set, all can: then no router is shown, and
/// nothing is given away).
fn is_own_address(ip: IpAddr) -> bool {
    ip.is_loopback()
        || new_socket(SocketAddr::new(ip, 0), None, Type::DGRAM)
            .is_ok_and(|socket| socket.bind(&SocketAddr::new(ip, 0).into()).is_ok())
}

/// The address that a socket was bound to, which `bind` has just succeeded in.
fn local_address(socket: &Socket) -> SocketAddr {
    socket.local_addr().ok().and_then(|address| address.as_socket()).unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into())
}

impl fmt::Debug for KernelHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelHost")
            .field("sockets", &self.sockets.len())
            .field("peek_offset", &self.peek_offset)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const TOKEN: Token = Token(7);

    /// A host with one stream, and the stream's other end.
    fn connected(peek_offset: bool) -> (KernelHost, SocketId, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut host = KernelHost::new(Box::new(|_, _| Err(io::ErrorKind::ConnectionRefused.into()))).unwrap();
        host.peek_offset &= peek_offset;
        let stream = host.connect(listener.local_addr().unwrap(), TOKEN).unwrap();
        (host, stream, listener.accept().unwrap().0)
    }

    /// Waits for an event with `readable` or `failed`.
    fn readable(host: &mut KernelHost) {
        let mut events = Vec::new();
        while !events.iter().any(|event: &Event| event.readable || event.failed) {
            let mut poll = [rustix::event::PollFd::new(&host.epoll, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut poll, None).unwrap();
            host.events(&mut events);
        }
    }

    fn peek(host: &mut KernelHost, stream: SocketId, offset: usize) -> io::Result<Vec<u8>> {
        let (mut a, mut b) = ([0; 3], [0; 64]);
        let len = host.peek(stream, offset, &mut [ChunkMut::from(&mut a[..]), ChunkMut::from(&mut b[..])])?;
        Ok([&a[..], &b[..]].concat()[..len].to_vec())
    }

    #[test]
    fn peeking_goes_on_behind_what_was_peeked_and_back_on_every_kernel() {
        // With SO_PEEK_OFF, where the kernel has it, and with the way of older kernels.
        for peek_offset in [true, false] {
            let (mut host, stream, mut peer) = connected(peek_offset);
            peer.write_all(b"hello world").unwrap();
            readable(&mut host);
            assert_eq!(peek(&mut host, stream, 0).unwrap(), b"hello world");
            assert_eq!(peek(&mut host, stream, 6).unwrap(), b"world");
            assert_eq!(peek(&mut host, stream, 11).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            host.discard(stream, 6).unwrap();
            assert_eq!(peek(&mut host, stream, 0).unwrap(), b"world");
            assert_eq!(peek(&mut host, stream, 3).unwrap(), b"ld");
            drop(peer);
            readable(&mut host);
            assert_eq!(peek(&mut host, stream, 5).unwrap(), b"");
            assert_eq!(peek(&mut host, stream, 4).unwrap(), b"d");
            host.discard(stream, 5).unwrap();
            assert_eq!(peek(&mut host, stream, 0).unwrap(), b"");
        }
    }

    #[test]
    fn what_is_accepted_neither_delays_nor_blocks_nor_survives_exec() {
        let mut host = KernelHost::new(Box::new(|_, _| Err(io::ErrorKind::ConnectionRefused.into()))).unwrap();
        let (listener, address) = host.listen("127.0.0.1:0".parse().unwrap(), None, TOKEN).unwrap();
        let client = TcpStream::connect(address).unwrap();
        readable(&mut host);
        let (accepted, from) = host.accept(listener, TOKEN).unwrap();
        assert_eq!(from, client.local_addr().unwrap());
        let fd = host.fd(accepted).unwrap();
        let socket = SockRef::from(&fd);
        assert!(socket.tcp_nodelay().unwrap() && socket.out_of_band_inline().unwrap());
        assert!(rustix::fs::fcntl_getfl(fd).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
        assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn a_reset_reaches_the_peer_as_a_reset() {
        let (mut host, stream, mut peer) = connected(true);
        host.reset(stream);
        let error = io::Read::read(&mut peer, &mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn room_is_told_when_it_is_asked_for() {
        let (mut host, stream, mut peer) = connected(true);
        let block = [0u8; 1 << 16];
        while host.send(stream, &[Chunk::from(&block[..])]).is_ok() {}
        let room = host.send_room(stream);
        assert!(room.free < room.capacity / 3, "{room:?}");
        let mut events = Vec::new();
        host.events(&mut events);
        host.notify_writable(stream);
        // The peer takes everything; then there is room.
        let reader = std::thread::spawn(move || io::copy(&mut peer, &mut io::sink()));
        events.clear();
        while !events.iter().any(|event| event.writable) {
            let mut poll = [rustix::event::PollFd::new(&host.epoll, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut poll, None).unwrap();
            events.clear();
            host.events(&mut events);
        }
        let room = host.send_room(stream);
        assert!(room.free >= room.capacity / 3, "{room:?}");
        host.close(stream);
        reader.join().unwrap().unwrap();
    }

    #[test]
    fn a_local_socket_whose_backlog_is_full_would_block_and_another_path_has_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let mut host = KernelHost::new(Box::new(|_, _| Err(io::ErrorKind::ConnectionRefused.into()))).unwrap();
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let first = host.connect_local(&path, TOKEN).unwrap();
        assert_eq!(host.connect_local(&path, TOKEN).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let (mut peer, _) = listener.accept().unwrap();
        host.connect_local(&path, TOKEN).unwrap();

        peer.write_all(b"hello").unwrap();
        readable(&mut host);
        assert_eq!(peek(&mut host, first, 0).unwrap(), b"hello");
        drop(listener);
        assert_eq!(host.connect_local(&path, TOKEN).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let nowhere = host.connect_local(&directory.path().join("nowhere"), TOKEN).unwrap_err();
        assert_eq!(nowhere.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_guard_goes_with_our_end_of_its_stream() {
        let (guard, watched) = std::sync::mpsc::channel::<()>();
        let mut given = Some(guard);
        let mut host = KernelHost::new(Box::new(move |_, _| {
            let (ours, _) = ServiceStream::pair()?;
            Ok(ours.guarded(given.take()))
        }))
        .unwrap();
        let guest = "10.0.2.15:1".parse().unwrap();
        let guarded = host.open_service(StreamService::Dns, guest, TOKEN).unwrap();
        let other = host.open_service(StreamService::Dns, guest, TOKEN).unwrap();
        host.reset(other);
        assert_eq!(watched.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty));
        host.close(guarded);
        assert_eq!(watched.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected));
    }
}
