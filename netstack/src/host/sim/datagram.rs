//! Datagram sockets of the simulated host, and the servers that they reach.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use super::listener::covers;
use super::stream::News;
use super::{Received, SimHost, Socket, SocketId, Token, errno, own_address};
use crate::frame::{Chunk, ChunkMut};

/// Bytes that wait in a socket before what follows is dropped, as by Linux's `net.core.rmem_default`.
const RECEIVE_QUEUE: usize = 212_992;

/// What a datagram server does.
#[derive(Debug, Clone, Copy)]
pub enum UdpServer {
    /// Sends each datagram back.
    Echo,
    /// Only takes notice, like every address without a server.
    Silent,
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
}

#[derive(Debug)]
pub(super) struct DatagramSocket {
    pub(super) local: SocketAddr,
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
            Some(Socket::Datagram(socket)) if covers(socket.local, to) => Some((index, socket)),
            _ => None,
        });
        let Some((index, socket)) = found else { return false };
        if socket.waiting + data.len() > RECEIVE_QUEUE {
            return false;
        }
        socket.waiting += data.len();
        socket.inbox.push_back(Waiting { from, data: data.to_vec(), segment });
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
            Socket::Datagram(other) => covers(other.local, local) || covers(local, other.local),
            Socket::Stream(_) | Socket::Listener(_) => false,
        });
        if taken {
            return Err(errno(libc::EADDRINUSE));
        }
        let socket = DatagramSocket { local, inbox: VecDeque::new(), waiting: 0, full: false, told_full: false };
        Ok((self.open(token, Socket::Datagram(socket)), local))
    }

    pub(super) fn send_datagrams(
        &mut self,
        id: SocketId,
        to: SocketAddr,
        data: &[Chunk<'_>],
        segment: Option<u16>,
    ) -> io::Result<()> {
        let socket = self.datagram_socket(id);
        if socket.local.is_ipv4() != to.is_ipv4() {
            return Err(errno(libc::EAFNOSUPPORT));
        }
        if socket.full {
            socket.told_full = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let ip = if socket.local.ip().is_unspecified() { own_address(to.ip()) } else { socket.local.ip() };
        let from = SocketAddr::new(ip, socket.local.port());

        let mut bytes = vec![0; data.iter().map(Chunk::len).sum()];
        let mut filled = 0;
        for chunk in data {
            filled += chunk.copy_to(0, &mut bytes[filled..]);
        }
        let size = segment.map_or(bytes.len(), usize::from);
        if bytes.len() > 65_507 || size == 0 && segment.is_some() {
            return Err(errno(libc::EMSGSIZE));
        }
        // A datagram without payload is one too, though it has no chunks.
        let payloads: Vec<&[u8]> = if bytes.is_empty() { vec![&[]] } else { bytes.chunks(size).collect() };
        for payload in payloads {
            self.sent_datagrams.push(SentDatagram { from, to, payload: payload.to_vec() });
            match self.udp_servers.get(&to) {
                Some(UdpServer::Echo) => _ = self.inject_udp(from, to, payload),
                Some(UdpServer::Respond(answer)) => {
                    for payload in answer(payload) {
                        self.inject_udp(from, to, &payload);
                    }
                }
                Some(UdpServer::Silent) | None => {}
            }
        }
        Ok(())
    }

    pub(super) fn receive_datagrams(&mut self, id: SocketId, into: &mut [ChunkMut<'_>]) -> io::Result<Received> {
        let socket = self.datagram_socket(id);
        let Some(Waiting { from, data, segment }) = socket.inbox.pop_front() else { return Err(io::ErrorKind::WouldBlock.into()) };
        socket.waiting -= data.len();
        let mut len = 0;
        for chunk in into {
            len += chunk.copy_from(0, &data[len..]);
        }
        Ok(Received { len, from, segment })
    }
}
