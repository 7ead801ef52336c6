//! A network of simulated servers and clients in virtual time: the [`Host`] without an operating system.
//!
//! What a kernel and the world behind it would do is scripted by the test: servers by address ([`SimHost::serve`]), datagram servers
//! ([`SimHost::serve_udp`]), clients that connect to what the stack listens on ([`SimHost::dial`]), faults ([`SimHost::fail`]). Time
//! passes only in [`SimHost::advance`]. The same script and the same seed give the same run.
//!
//! What always holds, because the real kernel does so:
//!
//! - Events are edges, and carry nothing that the [`Host`] contract does not promise: `writable` comes when a connection is established
//!   or has failed, and once after [`Host::notify_writable`] or a send that would have blocked, when a third of the queue is free.
//! - Queues have capacities. What was peeked stays until it is discarded, and a full receive queue stops the peer.
//! - A stream that is closed with unread bytes, or written to after its peer went, ends with a reset.
//! - An error by ICMP about a datagram or an echo request waits in the socket that has sent it; errors quote little, as RFC 792 allows.
//! - Each use of a socket that is not open, and each discard of bytes that were not peeked, is a mistake of the stack. It panics.

mod datagram;
mod listener;
mod server;
mod stream;
mod talk;
#[cfg(test)]
mod tests;
mod way;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    DatagramError, Event, Family, Host, Received, SendOptions, SendRoom, SocketId, StreamService, Teller, Token, not_received,
};
use crate::frame::{Chunk, ChunkMut};
use crate::time::Instant;

pub use datagram::{SentDatagram, SentEcho, UdpServer};
pub use server::{Program, Server};
pub use stream::{Connection, ConnectionId, DIGEST_START, digest, pattern};
pub use talk::{Leave, Stream, Talk};
pub use way::Way;

use datagram::DatagramSocket;
use listener::Listener;
use stream::News;

/// The address that the simulated host has on its IPv4 network: that of the documentation (RFC 5737).
pub const HOST_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The address that the simulated host has on its IPv6 network (RFC 3849).
pub const HOST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// How often each method of [`Host`] was called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field has the name of its method")]
pub struct Calls {
    pub events: u64,
    pub connect: u64,
    pub connect_local: u64,
    pub open_service: u64,
    pub listen: u64,
    pub listen_local: u64,
    pub accept: u64,
    pub set_token: u64,
    pub take_error: u64,
    pub send: u64,
    pub peek: u64,
    pub discard: u64,
    pub send_room: u64,
    pub notify_writable: u64,
    pub shutdown_write: u64,
    pub bind_datagram: u64,
    pub open_ping: u64,
    pub send_to: u64,
    pub receive_from: u64,
    pub take_datagram_error: u64,
    pub close: u64,
    pub reset: u64,
}

impl Calls {
    /// All calls but those of [`Host::events`], which only asks whether there is news.
    pub const fn about_sockets(&self) -> u64 {
        self.connect
            + self.connect_local
            + self.open_service
            + self.listen
            + self.listen_local
            + self.accept
            + self.set_token
            + self.take_error
            + self.send
            + self.peek
            + self.discard
            + self.send_room
            + self.notify_writable
            + self.shutdown_write
            + self.bind_datagram
            + self.open_ping
            + self.send_to
            + self.receive_from
            + self.take_datagram_error
            + self.close
            + self.reset
    }
}

/// A method of [`Host`] that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each variant has the name of its method")]
pub enum Operation {
    Connect,
    ConnectLocal,
    OpenService,
    Listen,
    Accept,
    Send,
    Peek,
    BindDatagram,
    OpenPing,
    SendTo,
    ReceiveFrom,
}

/// The simulated host: see the [module](self).
#[derive(Debug)]
pub struct SimHost {
    now: Instant,
    random: u64,
    slots: Vec<Option<Slot>>,
    /// Numbers of slots that are free, and ports that sockets have, with how many of them.
    free: BTreeSet<usize>,
    ports: HashMap<u16, usize>,
    connections: Vec<Connection>,
    /// Connections in whose life something happened since they were last settled, in that order.
    touched: VecDeque<ConnectionId>,
    alarms: BTreeSet<(Instant, ConnectionId)>,
    /// Sockets with news that [`Host::events`] has not told yet; may name one twice, or one that has no news any more.
    news: VecDeque<SocketId>,
    servers: HashMap<SocketAddr, Server>,
    services: HashMap<StreamService, Server>,
    local_servers: HashMap<PathBuf, Server>,
    elsewhere: Server,
    expected: Option<Server>,
    udp_servers: HashMap<SocketAddr, UdpServer>,
    sent_datagrams: Vec<SentDatagram>,
    sent_echoes: Vec<SentEcho>,
    ways: HashMap<IpAddr, Way>,
    /// What was learned of ways by errors.
    path_mtus: HashMap<IpAddr, usize>,
    /// Bytes of what was sent that errors quote.
    quoted: usize,
    faults: Vec<Fault>,
    faults_met: u64,
    max_sockets: usize,
    next_port: u16,
    spurious: bool,
    calls: Calls,
}

#[derive(Debug)]
struct Slot {
    token: Token,
    pending: News,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Stream(ConnectionId),
    Listener(Listener),
    Datagram(DatagramSocket),
}

#[derive(Debug)]
struct Fault {
    operation: Operation,
    errno: i32,
    times: usize,
}

impl SimHost {
    /// A host on whose network nothing answers yet: connections are refused, datagrams vanish.
    pub fn new(seed: u64) -> Self {
        Self {
            now: Instant::ZERO,
            random: seed,
            slots: Vec::new(),
            free: BTreeSet::new(),
            ports: HashMap::new(),
            connections: Vec::new(),
            touched: VecDeque::new(),
            alarms: BTreeSet::new(),
            news: VecDeque::new(),
            servers: HashMap::new(),
            services: HashMap::new(),
            local_servers: HashMap::new(),
            elsewhere: Server::refusing(),
            expected: None,
            udp_servers: HashMap::new(),
            sent_datagrams: Vec::new(),
            sent_echoes: Vec::new(),
            ways: HashMap::new(),
            path_mtus: HashMap::new(),
            quoted: 0,
            faults: Vec::new(),
            faults_met: 0,
            max_sockets: usize::MAX,
            next_port: 32_768,
            spurious: false,
            calls: Calls::default(),
        }
    }

    /// Puts a server at `address`.
    pub fn serve(&mut self, address: SocketAddr, server: Server) {
        self.servers.insert(address, server);
    }

    /// Says what happens to connections to all other addresses. At first they are refused.
    pub fn serve_elsewhere(&mut self, server: Server) {
        self.elsewhere = server;
    }

    /// Says what happens to the next connection or service that the stack opens, wherever it leads. `None`: as elsewhere.
    pub const fn expect(&mut self, server: Option<Server>) {
        self.expected = server;
    }

    /// Offers a service to [`Host::open_service`].
    pub fn serve_service(&mut self, service: StreamService, server: Server) {
        self.services.insert(service, server);
    }

    /// Puts a server behind the path of a socket. At other paths there is none.
    pub fn serve_local(&mut self, path: impl Into<PathBuf>, server: Server) {
        self.local_servers.insert(path.into(), server);
    }

    /// Makes the next `times` calls of `operation` fail with `errno`.
    pub fn fail(&mut self, operation: Operation, errno: i32, times: usize) {
        self.faults.push(Fault { operation, errno, times });
    }

    /// Lets no more calls fail because of [`SimHost::fail`].
    pub fn forgive(&mut self) {
        self.faults.clear();
    }

    /// How many calls have failed because of [`SimHost::fail`].
    pub const fn faults_met(&self) -> u64 {
        self.faults_met
    }

    /// Sets how many sockets can be open at once; a further one fails with `EMFILE`.
    pub const fn set_max_sockets(&mut self, max: usize) {
        self.max_sockets = max;
    }

    /// Lets events come also without any reason, as a real kernel's sometimes do.
    pub const fn set_spurious_events(&mut self, spurious: bool) {
        self.spurious = spurious;
    }

    /// Lets time pass until `now`: peers connect, read and write.
    pub fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        while let Some(&(due, id)) = self.alarms.first() {
            if due > self.now {
                break;
            }
            self.alarms.pop_first();
            self.touched.push_back(id);
        }
        self.settle();
    }

    /// When something happens next if nobody calls: a slow peer reads on, a connection attempt ends.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.alarms.first().map(|(due, _)| *due)
    }

    /// Whether [`Host::events`] may have something to tell.
    pub fn has_news(&self) -> bool {
        !self.touched.is_empty() || !self.news.is_empty()
    }

    /// Sockets that the stack has open.
    pub fn open_sockets(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// How often the stack has called.
    pub const fn calls(&self) -> Calls {
        self.calls
    }

    /// All connections there have ever been, oldest first.
    pub fn connections(&self) -> impl DoubleEndedIterator<Item = &Connection> {
        self.connections.iter()
    }

    /// One connection, from the peer's point of view.
    ///
    /// # Panics
    ///
    /// When there is none with this id.
    pub fn connection(&self, id: ConnectionId) -> &Connection {
        &self.connections[id.0]
    }

    /// One connection, to act for the peer. What it does is told to the stack by the next call of [`Host::events`].
    ///
    /// # Panics
    ///
    /// When there is none with this id.
    pub fn connection_mut(&mut self, id: ConnectionId) -> &mut Connection {
        self.touched.push_back(id);
        &mut self.connections[id.0]
    }

    /// The connection that was made last.
    pub fn last_connection(&self) -> Option<ConnectionId> {
        self.connections.len().checked_sub(1).map(ConnectionId)
    }

    /// Deals with all that has happened to connections, until nothing more follows from it.
    fn settle(&mut self) {
        while let Some(id) = self.touched.pop_front() {
            let connection = &mut self.connections[id.0];
            let news = connection.settle(self.now);
            if let Some(due) = connection.alarm() {
                self.alarms.insert((due, id));
            }
            if let Some(socket) = connection.socket {
                self.post(socket, news);
            }
        }
    }

    fn post(&mut self, socket: SocketId, news: News) {
        if news == News::default() {
            return;
        }
        if let Some(Some(slot)) = self.slots.get_mut(socket.0 as usize) {
            slot.pending.add(news);
            self.news.push_back(socket);
        }
    }

    /// Takes the lowest free number, as a descriptor table does.
    fn open(&mut self, token: Token, socket: Socket) -> SocketId {
        *self.ports.entry(self.port_of(&socket)).or_default() += 1;
        let index = self.free.pop_first().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[index] = Some(Slot { token, pending: News::default(), socket });
        SocketId(u32::try_from(index).unwrap_or(u32::MAX))
    }

    fn free(&mut self, id: SocketId) -> Option<Socket> {
        let index = id.0 as usize;
        let slot = self.slots.get_mut(index)?.take()?;
        self.free.insert(index);
        let port = self.port_of(&slot.socket);
        if let Some(count) = self.ports.get_mut(&port) {
            *count -= 1;
            if *count == 0 {
                self.ports.remove(&port);
            }
        }
        Some(slot.socket)
    }

    fn port_of(&self, socket: &Socket) -> u16 {
        match socket {
            Socket::Stream(id) => self.connections[id.0].local().port(),
            Socket::Listener(listener) => listener.port(),
            Socket::Datagram(socket) => socket.local.port(),
        }
    }

    /// Opens a stream that is connected from the beginning and has no address of its own.
    fn open_within(&mut self, local: SocketAddr, server: &Server, token: Token) -> SocketId {
        let id = ConnectionId(self.connections.len());
        let within = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        self.connections.push(Connection::established(id, local, within, server, self.now));
        let socket = self.open(token, Socket::Stream(id));
        self.connections[id.0].socket = Some(socket);
        self.touched.push_back(id);
        socket
    }

    fn room_for_a_socket(&self) -> io::Result<()> {
        if self.open_sockets() >= self.max_sockets { Err(errno(libc::EMFILE)) } else { Ok(()) }
    }

    fn slot(&mut self, id: SocketId) -> &mut Slot {
        match self.slots.get_mut(id.0 as usize) {
            Some(Some(slot)) => slot,
            _ => panic!("the stack used {id:?}, which is not open"),
        }
    }

    fn stream(&mut self, id: SocketId) -> &mut Connection {
        let Socket::Stream(connection) = self.slot(id).socket else { panic!("the stack used {id:?} as a stream, which it is not") };
        self.touched.push_back(connection);
        &mut self.connections[connection.0]
    }

    fn check_fault(&mut self, operation: Operation) -> io::Result<()> {
        if self.faults.is_empty() {
            return Ok(());
        }
        let Some(index) = self.faults.iter().position(|fault| fault.operation == operation && fault.times > 0) else {
            return Ok(());
        };
        let fault = &mut self.faults[index];
        fault.times -= 1;
        self.faults_met += 1;
        let error = errno(fault.errno);
        self.faults.retain(|fault| fault.times > 0);
        Err(error)
    }

    /// An ephemeral port that no socket of this host has; when all are in use, one that streams may share, as their peers differ.
    fn free_port(&mut self) -> u16 {
        const FIRST: u16 = 32_768;
        loop {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST);
            if !self.ports.contains_key(&port) || self.ports.len() > usize::from(u16::MAX - FIRST) {
                return port;
            }
        }
    }

    fn add_spurious_news(&mut self) {
        for index in 0..self.slots.len() {
            let random = split_mix(&mut self.random);
            if random & 7 == 0 {
                let news = News { readable: random & 8 != 0, writable: random & 16 != 0, failed: false };
                let connected = match &self.slots[index] {
                    Some(Slot { socket: Socket::Stream(id), .. }) => self.connections[id.0].is_established(),
                    Some(_) => true,
                    None => false,
                };
                if connected && let Ok(id) = u32::try_from(index) {
                    self.post(SocketId(id), news);
                }
            }
        }
    }
}

impl Host for SimHost {
    fn events(&mut self, events: &mut Vec<Event>) {
        self.calls.events += 1;
        self.settle();
        if self.spurious {
            self.add_spurious_news();
        }
        while events.len() < events.capacity() {
            let Some(id) = self.news.pop_front() else { break };
            let Some(Some(slot)) = self.slots.get_mut(id.0 as usize) else { continue };
            let news = std::mem::take(&mut slot.pending);
            if news != News::default() {
                let News { readable, writable, failed } = news;
                events.push(Event { token: slot.token, readable, writable, failed });
            }
        }
    }

    fn connect(&mut self, remote: SocketAddr, token: Token) -> io::Result<SocketId> {
        self.calls.connect += 1;
        self.check_fault(Operation::Connect)?;
        self.room_for_a_socket()?;
        let server = self.expected.take().unwrap_or_else(|| *self.servers.get(&remote).unwrap_or(&self.elsewhere));
        let local = SocketAddr::new(own_address(remote.ip()), self.free_port());
        let id = ConnectionId(self.connections.len());
        let connection = Connection::connecting(id, local, remote, &server, self.now)?;
        self.connections.push(connection);
        let socket = self.open(token, Socket::Stream(id));
        self.connections[id.0].socket = Some(socket);
        self.touched.push_back(id);
        Ok(socket)
    }

    fn connect_local(&mut self, path: &Path, token: Token) -> io::Result<SocketId> {
        self.calls.connect_local += 1;
        self.check_fault(Operation::ConnectLocal)?;
        self.room_for_a_socket()?;
        let server = self.expected.take().or_else(|| self.local_servers.get(path).copied());
        let server = server.ok_or_else(|| errno(libc::ENOENT))?;
        if let Some(number) = server.refusal() {
            return Err(errno(number));
        }
        Ok(self.open_within(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0), &server, token))
    }

    fn open_service(&mut self, service: StreamService, guest: SocketAddr, token: Token) -> io::Result<SocketId> {
        self.calls.open_service += 1;
        self.check_fault(Operation::OpenService)?;
        let server = self.expected.take().or_else(|| self.services.get(&service).copied());
        let Some(server) = server.filter(|server| server.refusal().is_none()) else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        Ok(self.open_within(guest, &server, token))
    }

    fn listen(&mut self, address: SocketAddr, interface: Option<&str>, token: Token) -> io::Result<(SocketId, SocketAddr)> {
        self.calls.listen += 1;
        self.check_fault(Operation::Listen)?;
        self.room_for_a_socket()?;
        check_interface(interface)?;
        self.bind_listener(address, token)
    }

    fn listen_local(&mut self, path: &Path, token: Token) -> io::Result<SocketId> {
        self.calls.listen_local += 1;
        self.check_fault(Operation::Listen)?;
        self.room_for_a_socket()?;
        self.bind_local_listener(path, token)
    }

    fn accept(&mut self, listener: SocketId, token: Token) -> io::Result<(SocketId, SocketAddr)> {
        self.calls.accept += 1;
        self.check_fault(Operation::Accept)?;
        self.room_for_a_socket()?;
        self.accept_from(listener, token)
    }

    fn set_token(&mut self, socket: SocketId, token: Token) {
        self.calls.set_token += 1;
        self.slot(socket).token = token;
    }

    fn take_error(&mut self, socket: SocketId) -> Option<io::Error> {
        self.calls.take_error += 1;
        match self.slot(socket).socket {
            Socket::Stream(id) => self.connections[id.0].take_error(),
            Socket::Listener(_) | Socket::Datagram(_) => None,
        }
    }

    fn send(&mut self, stream: SocketId, data: &[Chunk<'_>]) -> io::Result<usize> {
        self.calls.send += 1;
        self.check_fault(Operation::Send)?;
        self.stream(stream).send(data)
    }

    fn peek(&mut self, stream: SocketId, offset: usize, into: &mut [ChunkMut<'_>]) -> io::Result<usize> {
        self.calls.peek += 1;
        self.check_fault(Operation::Peek)?;
        self.stream(stream).peek(offset, into)
    }

    fn discard(&mut self, stream: SocketId, len: usize) -> io::Result<()> {
        self.calls.discard += 1;
        self.stream(stream).discard(len)
    }

    fn send_room(&mut self, stream: SocketId) -> SendRoom {
        self.calls.send_room += 1;
        self.stream(stream).send_room()
    }

    fn notify_writable(&mut self, stream: SocketId) {
        self.calls.notify_writable += 1;
        self.stream(stream).notify_writable();
    }

    fn shutdown_write(&mut self, stream: SocketId) -> io::Result<()> {
        self.calls.shutdown_write += 1;
        self.stream(stream).shutdown_write()
    }

    fn bind_datagram(&mut self, local: SocketAddr, interface: Option<&str>, token: Token) -> io::Result<(SocketId, SocketAddr)> {
        self.calls.bind_datagram += 1;
        self.check_fault(Operation::BindDatagram)?;
        self.room_for_a_socket()?;
        check_interface(interface)?;
        self.bind_datagram_socket(local, token)
    }

    fn open_ping(&mut self, family: Family, token: Token) -> io::Result<SocketId> {
        self.calls.open_ping += 1;
        self.check_fault(Operation::OpenPing)?;
        self.room_for_a_socket()?;
        Ok(self.open_ping_socket(family, token))
    }

    fn send_to(&mut self, socket: SocketId, to: SocketAddr, data: &[Chunk<'_>], options: SendOptions) -> io::Result<()> {
        self.calls.send_to += 1;
        self.check_fault(Operation::SendTo)?;
        self.send_datagrams(socket, to, data, options)
    }

    fn receive_from(&mut self, socket: SocketId, into: &mut [ChunkMut<'_>]) -> io::Result<Received> {
        self.calls.receive_from += 1;
        self.check_fault(Operation::ReceiveFrom).map_err(|error| not_received(&error))?;
        self.receive_datagrams(socket, into)
    }

    fn take_datagram_error(&mut self, socket: SocketId, payload: &mut [u8]) -> Option<DatagramError> {
        self.calls.take_datagram_error += 1;
        self.next_error(socket, payload)
    }

    fn close(&mut self, socket: SocketId) {
        self.calls.close += 1;
        self.slot(socket);
        match self.free(socket) {
            Some(Socket::Stream(id)) => {
                self.touched.push_back(id);
                self.connections[id.0].close_by_stack();
            }
            Some(Socket::Listener(listener)) => self.abandon(listener),
            Some(Socket::Datagram(_)) | None => {}
        }
    }

    fn reset(&mut self, stream: SocketId) {
        self.calls.reset += 1;
        self.stream(stream).reset_by_stack();
        self.free(stream);
    }
}

/// The address of this host from which it reaches `remote`.
fn own_address(remote: IpAddr) -> IpAddr {
    match remote {
        IpAddr::V4(ip) if ip.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V4(_) => HOST_V4.into(),
        IpAddr::V6(ip) if ip.is_loopback() => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V6(_) => HOST_V6.into(),
    }
}

/// The simulated host has no other interfaces.
fn check_interface(interface: Option<&str>) -> io::Result<()> {
    if interface.is_none_or(|name| matches!(name, "lo" | "eth0")) { Ok(()) } else { Err(errno(libc::ENODEV)) }
}

/// Sebastiano Vigna's SplitMix64: enough for a simulation, and the same everywhere.
const fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}
