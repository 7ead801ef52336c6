//! Datagram and ping sockets of the simulated host, and the servers that they reach.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::listener::covers;
use super::stream::News;
use super::way::Arrival;
use super::{DatagramError, Family, Received, SendOptions, SimHost, Socket, SocketId, Teller, Token, errno, own_address};
use crate::frame::{Chunk, ChunkMut};
use crate::wire::icmp_error::{Problem, Unreachable, fill_checksum};

/// Bytes that wait in a socket before what follows is dropped, as by Linux's `net.core.rmem_default`.
const RECEIVE_QUEUE: usize = 212_992;

/// What a datagram server does.
#[derive(Debug, Clone, Copy)]
pub enum UdpServer {
    /// Sends each datagram back.
    Echo,
    /// Only takes notice, like every address without a server.
    Silent,
    /// Nobody listens at the port, and the host there says so.
    Closed,
    /// Answers each datagram with as many as the function returns.
    Respond(fn(&[u8]) -> Vec<Vec<u8>>),
}

/// A datagram that the stack has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentDatagram {
    /// Where the receiver sees it come from.
    pub from: SocketAddr,
    /// Who receives it.
    pub to: SocketAddr,
    /// What it carries.
    pub payload: Vec<u8>,
    /// How it was sent.
    pub options: SendOptions,
}

/// An echo request that the stack has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentEcho {
    /// Who receives it.
    pub to: IpAddr,
    /// The ICMP message, as it leaves the host.
    pub message: Vec<u8>,
    /// How it was sent.
    pub options: SendOptions,
}

impl SentEcho {
    /// The address of this host and the identifier that it was sent with.
    pub fn from(&self) -> SocketAddr {
        let identifier = self.message.get(4..6).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u16::from_be_bytes(*bytes));
        SocketAddr::new(own_address(self.to), identifier)
    }
}

/// Bytes of what was sent that an error quotes, behind the headers: as little as RFC 792 asks for.
const QUOTED: usize = 8;

#[derive(Debug)]
pub(super) struct DatagramSocket {
    /// What it is bound to; of a ping socket the port is its identifier.
    pub(super) local: SocketAddr,
    pub(super) ping: bool,
    /// Errors, and what is known of the payloads that they are about.
    errors: VecDeque<(DatagramError, Vec<u8>)>,
    inbox: VecDeque<Waiting>,
    waiting: usize,
    /// Whether sends would block, and whether the stack has found out.
    full: bool,
    told_full: bool,
}

#[derive(Debug)]
struct Waiting {
    from: SocketAddr,
    data: Vec<u8>,
    segment: Option<u16>,
    hop_limit: Option<u8>,
}

impl DatagramSocket {
    const fn new(local: SocketAddr, ping: bool) -> Self {
        Self { local, ping, errors: VecDeque::new(), inbox: VecDeque::new(), waiting: 0, full: false, told_full: false }
    }
}

impl SimHost {
    /// Puts a datagram server at `address`.
    pub fn serve_udp(&mut self, address: SocketAddr, server: UdpServer) {
        self.udp_servers.insert(address, server);
    }

    /// All datagrams that the stack has sent, oldest first; several that went in one call are counted one by one.
    pub fn sent_datagrams(&self) -> &[SentDatagram] {
        &self.sent_datagrams
    }

    /// Forgets the datagrams that the stack has sent so far.
    pub fn forget_datagrams(&mut self) {
        self.sent_datagrams.clear();
    }

    /// Somebody at `from` sends a datagram to a socket of this host. Returns whether there is such a socket and it has room.
    pub fn inject_udp(&mut self, to: SocketAddr, from: SocketAddr, data: &[u8]) -> bool {
        self.inject(to, from, data, None)
    }

    /// Somebody at `from` sends several datagrams of `segment` bytes each, and they are received together.
    pub fn inject_udp_segments(&mut self, to: SocketAddr, from: SocketAddr, data: &[u8], segment: u16) -> bool {
        self.inject(to, from, data, Some(segment))
    }

    /// Makes the send queues of all datagram sockets full, or free again.
    pub fn set_udp_full(&mut self, full: bool) {
        let mut freed = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if let Some(Socket::Datagram(socket)) = slot.as_mut().map(|slot| &mut slot.socket) {
                socket.full = full;
                if !full && std::mem::take(&mut socket.told_full) {
                    freed.push(SocketId(u32::try_from(index).unwrap_or(u32::MAX)));
                }
            }
        }
        for socket in freed {
            self.post(socket, News { writable: true, ..News::default() });
        }
    }

    fn inject(&mut self, to: SocketAddr, from: SocketAddr, data: &[u8], segment: Option<u16>) -> bool {
        let found = self.slots.iter_mut().enumerate().find_map(|(index, slot)| match slot.as_mut().map(|slot| &mut slot.socket) {
            Some(Socket::Datagram(socket)) if !socket.ping && covers(socket.local, to) => Some((index, socket)),
            _ => None,
        });
        let Some((index, socket)) = found else { return false };
        if socket.waiting + data.len() > RECEIVE_QUEUE {
            return false;
        }
        socket.waiting += data.len();
        socket.inbox.push_back(Waiting { from, data: data.to_vec(), segment, hop_limit: None });
        self.post(SocketId(u32::try_from(index).unwrap_or(u32::MAX)), News { readable: true, ..News::default() });
        true
    }

    fn datagram_socket(&mut self, id: SocketId) -> &mut DatagramSocket {
        let Socket::Datagram(socket) = &mut self.slot(id).socket else {
            panic!("the stack used {id:?} as a datagram socket, which it is not")
        };
        socket
    }

    pub(super) fn bind_datagram_socket(&mut self, local: SocketAddr, token: Token) -> io::Result<(SocketId, SocketAddr)> {
        let local = if local.port() == 0 { SocketAddr::new(local.ip(), self.free_port()) } else { local };
        let taken = self.slots.iter().flatten().any(|slot| match &slot.socket {
            Socket::Datagram(other) if other.ping => false,
            Socket::Datagram(other) => covers(other.local, local) || covers(local, other.local),
            Socket::Stream(_) | Socket::Listener(_) => false,
        });
        if taken {
            return Err(errno(libc::EADDRINUSE));
        }
        Ok((self.open(token, Socket::Datagram(DatagramSocket::new(local, false))), local))
    }

    pub(super) fn open_ping_socket(&mut self, family: Family, token: Token) -> SocketId {
        let any = match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let local = SocketAddr::new(any, self.free_port());
        self.open(token, Socket::Datagram(DatagramSocket::new(local, true)))
    }

    pub(super) fn send_datagrams(
        &mut self,
        id: SocketId,
        to: SocketAddr,
        data: &[Chunk<'_>],
        options: SendOptions,
    ) -> io::Result<()> {
        let socket = self.datagram_socket(id);
        if socket.local.is_ipv4() != to.is_ipv4() {
            return Err(errno(libc::EAFNOSUPPORT));
        }
        if socket.full {
            socket.told_full = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let (local, ping) = (socket.local, socket.ping);
        let mut bytes = vec![0; data.iter().map(Chunk::len).sum()];
        let mut filled = 0;
        for chunk in data {
            filled += chunk.copy_to(0, &mut bytes[filled..]);
        }
        if ping {
            return self.send_echo(id, local.port(), to, bytes, options);
        }
        let size = options.segment.map_or(bytes.len(), usize::from);
        if bytes.len() > 65_507 || size == 0 && options.segment.is_some() {
            return Err(errno(libc::EMSGSIZE));
        }
        let ip = if local.ip().is_unspecified() { own_address(to.ip()) } else { local.ip() };
        let from = SocketAddr::new(ip, local.port());
        // A datagram without payload is one too, though it has no chunks.
        let payloads: Vec<&[u8]> = if bytes.is_empty() { vec![&[]] } else { bytes.chunks(size).collect() };
        for payload in payloads {
            if !self.leaves(id, to, 8 + payload.len(), options) {
                return Err(errno(libc::EMSGSIZE));
            }
            self.sent_datagrams.push(SentDatagram { from, to, payload: payload.to_vec(), options });
            match self.arrival(to.ip(), 8 + payload.len(), options) {
                Arrival::Lost => continue,
                Arrival::Error(problem, teller) => {
                    self.fail_datagram(id, problem, teller, to, payload);
                    continue;
                }
                Arrival::There { .. } => {}
            }
            match self.udp_servers.get(&to) {
                Some(UdpServer::Echo) => _ = self.inject_udp(from, to, payload),
                Some(UdpServer::Respond(answer)) => {
                    for payload in answer(payload) {
                        self.inject_udp(from, to, &payload);
                    }
                }
                Some(UdpServer::Closed) => {
                    self.fail_datagram(id, Problem::Unreachable(Unreachable::Port), to.ip(), to, payload);
                }
                Some(UdpServer::Silent) | None => {}
            }
        }
        Ok(())
    }

    /// As Linux does: only echo requests leave, with the socket's own identifier.
    fn send_echo(
        &mut self,
        id: SocketId,
        identifier: u16,
        to: SocketAddr,
        mut message: Vec<u8>,
        options: SendOptions,
    ) -> io::Result<()> {
        let request = if to.is_ipv4() { 8 } else { 128 };
        if message.len() < 8 || message[..2] != [request, 0] {
            return Err(errno(libc::EINVAL));
        }
        if !self.leaves(id, to, message.len(), options) {
            return Err(errno(libc::EMSGSIZE));
        }
        let own = own_address(to.ip());
        message[4..6].copy_from_slice(&identifier.to_be_bytes());
        fill_checksum(own, to.ip(), &mut message);
        self.sent_echoes.push(SentEcho { to: to.ip(), message: message.clone(), options });
        match self.arrival(to.ip(), message.len(), options) {
            Arrival::Lost => {}
            Arrival::Error(problem, teller) => self.fail_datagram(id, problem, teller, to, &message),
            Arrival::There { answers: false, .. } => {}
            Arrival::There { routers, .. } => {
                message[0] = if to.is_ipv4() { 0 } else { 129 };
                fill_checksum(to.ip(), own, &mut message);
                self.inject_echo(id, to.ip(), message, 64_u8.saturating_sub(routers));
            }
        }
        Ok(())
    }

    /// What comes to a ping socket.
    fn inject_echo(&mut self, id: SocketId, from: IpAddr, message: Vec<u8>, hop_limit: u8) {
        let socket = self.datagram_socket(id);
        if socket.waiting + message.len() > RECEIVE_QUEUE {
            return;
        }
        socket.waiting += message.len();
        let from = SocketAddr::new(from, 0);
        socket.inbox.push_back(Waiting { from, data: message, segment: None, hop_limit: Some(hop_limit) });
        self.post(id, News { readable: true, ..News::default() });
    }

    /// Somebody at `from` sends an ICMP message to the ping socket of an address and identifier. Returns whether there is such a socket.
    pub fn inject_echo_reply(&mut self, to: SocketAddr, from: IpAddr, message: &[u8], hop_limit: u8) -> bool {
        let found = self.slots.iter().enumerate().find_map(|(index, slot)| match slot.as_ref().map(|slot| &slot.socket) {
            Some(Socket::Datagram(socket)) if socket.ping && covers(socket.local, to) => Some(index),
            _ => None,
        });
        let Some(index) = found else { return false };
        self.inject_echo(SocketId(u32::try_from(index).unwrap_or(u32::MAX)), from, message.to_vec(), hop_limit);
        true
    }

    /// Somebody at `from` sends an answer to what no ping socket has asked it: to the one that was opened last. Returns whether there is one.
    pub fn inject_unasked_echo(&mut self, from: IpAddr, message: &[u8]) -> bool {
        let found = self.slots.iter().enumerate().rev().find_map(|(index, slot)| match slot.as_ref().map(|slot| &slot.socket) {
            Some(Socket::Datagram(socket)) if socket.ping => Some(index),
            _ => None,
        });
        let Some(index) = found else { return false };
        self.inject_echo(SocketId(u32::try_from(index).unwrap_or(u32::MAX)), from, message.to_vec(), 64);
        true
    }

    /// Somebody tells the socket at `local` of an error about something that it may have sent to `to`. Returns whether there is such a socket.
    pub fn inject_error(&mut self, local: SocketAddr, problem: Problem, teller: IpAddr, to: SocketAddr, payload: &[u8]) -> bool {
        let found = self.slots.iter().enumerate().find_map(|(index, slot)| match slot.as_ref().map(|slot| &slot.socket) {
            Some(Socket::Datagram(socket)) if covers(socket.local, local) => Some(index),
            _ => None,
        });
        let Some(index) = found else { return false };
        self.fail_datagram(SocketId(u32::try_from(index).unwrap_or(u32::MAX)), problem, teller, to, payload);
        true
    }

    /// All echo requests that the stack has sent, oldest first.
    pub fn sent_echoes(&self) -> &[SentEcho] {
        &self.sent_echoes
    }

    /// Whether something of `len` bytes behind its IP header leaves this host. If not, the socket knows why.
    fn leaves(&mut self, id: SocketId, to: SocketAddr, len: usize, options: SendOptions) -> bool {
        let Some(mtu) = self.too_big_for(to.ip(), len, options) else { return true };
        let error = DatagramError {
            problem: Problem::TooBig { mtu },
            teller: Teller::Socket,
            destination: SocketAddr::new(to.ip(), 0),
            len: 0,
        };
        self.post_error(id, error, Vec::new());
        false
    }

    fn fail_datagram(&mut self, id: SocketId, problem: Problem, teller: IpAddr, to: SocketAddr, payload: &[u8]) {
        let teller = if self.is_own(teller) { Teller::ThisHost } else { Teller::Other(teller) };
        // As routers of IPv4 do that know only RFC 792: of an ICMP message that is its header, of a datagram nothing.
        let quoted =
            if self.datagram_socket(id).ping { payload.len().min(QUOTED.max(self.quoted)) } else { payload.len().min(self.quoted) };
        let error = DatagramError { problem, teller, destination: to, len: quoted };
        self.post_error(id, error, payload[..quoted].to_vec());
    }

    fn post_error(&mut self, id: SocketId, error: DatagramError, payload: Vec<u8>) {
        self.datagram_socket(id).errors.push_back((error, payload));
        self.post(id, News { failed: true, ..News::default() });
    }

    pub(super) fn next_error(&mut self, id: SocketId, payload: &mut [u8]) -> Option<DatagramError> {
        let socket = self.datagram_socket(id);
        let (mut error, data) = socket.errors.pop_front()?;
        let more = !socket.errors.is_empty();
        error.len = data.len().min(payload.len());
        payload[..error.len].copy_from_slice(&data[..error.len]);
        if more {
            self.post(id, News { failed: true, ..News::default() });
        }
        Some(error)
    }

    pub(super) fn receive_datagrams(&mut self, id: SocketId, into: &mut [ChunkMut<'_>]) -> io::Result<Received> {
        let socket = self.datagram_socket(id);
        let Some(Waiting { from, data, segment, hop_limit }) = socket.inbox.pop_front() else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        socket.waiting -= data.len();
        let mut len = 0;
        for chunk in into {
            len += chunk.copy_from(0, &data[len..]);
        }
        Ok(Received { len, from, segment, hop_limit })
    }
}
