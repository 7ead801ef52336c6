//! Listeners of the simulated host, and the clients that connect to them.
//!
//! As with the real kernel, a client is connected as soon as it is in the listener's backlog, long before the stack accepts it, and a
//! listener that is closed resets those that still wait.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::stream::News;
use super::{Connection, ConnectionId, Server, SimHost, Socket, SocketId, Token, errno};

#[derive(Debug)]
pub(super) struct Listener {
    place: Place,
    backlog: VecDeque<ConnectionId>,
}

#[derive(Debug, PartialEq, Eq)]
enum Place {
    Port(SocketAddr),
    Path(PathBuf),
}

impl Listener {
    /// Its port; 0 if it is at a path.
    pub(super) const fn port(&self) -> u16 {
        match &self.place {
            Place::Port(address) => address.port(),
            Place::Path(_) => 0,
        }
    }
}

impl SimHost {
    /// A client at `from` connects to what the stack listens on at `to`, and behaves as `client` says.
    ///
    /// # Errors
    ///
    /// `ECONNREFUSED` when nobody listens there.
    pub fn dial(&mut self, to: SocketAddr, from: SocketAddr, client: &Server) -> io::Result<ConnectionId> {
        let covered = |place: &Place| matches!(place, Place::Port(address) if covers(*address, to));
        self.dial_where(covered, to, from, client)
    }

    /// A client connects to what the stack listens on at `path`, and behaves as `client` says.
    ///
    /// # Errors
    ///
    /// `ECONNREFUSED` when nobody listens there.
    pub fn dial_local(&mut self, path: &Path, client: &Server) -> io::Result<ConnectionId> {
        let nowhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        self.dial_where(|place| matches!(place, Place::Path(other) if other == path), nowhere, nowhere, client)
    }

    fn dial_where(
        &mut self,
        is_there: impl Fn(&Place) -> bool,
        to: SocketAddr,
        from: SocketAddr,
        client: &Server,
    ) -> io::Result<ConnectionId> {
        let id = ConnectionId(self.connections.len());
        let found = self.slots.iter_mut().enumerate().find_map(|(index, slot)| match slot.as_mut().map(|slot| &mut slot.socket) {
            Some(Socket::Listener(listener)) if is_there(&listener.place) => Some((index, listener)),
            _ => None,
        });
        let Some((index, listener)) = found else { return Err(errno(libc::ECONNREFUSED)) };
        listener.backlog.push_back(id);
        self.connections.push(Connection::established(id, to, from, client, self.now).dialled());
        self.touched.push_back(id);
        self.post(SocketId(u32::try_from(index).unwrap_or(u32::MAX)), News { readable: true, ..News::default() });
        Ok(id)
    }

    pub(super) fn bind_listener(&mut self, address: SocketAddr, token: Token) -> io::Result<(SocketId, SocketAddr)> {
        let address = if address.port() == 0 { SocketAddr::new(address.ip(), self.free_port()) } else { address };
        let taken = self.slots.iter().flatten().any(|slot| match &slot.socket {
            Socket::Listener(Listener { place: Place::Port(other), .. }) => covers(*other, address) || covers(address, *other),
            Socket::Listener(_) | Socket::Stream(_) | Socket::Datagram(_) => false,
        });
        if taken {
            return Err(errno(libc::EADDRINUSE));
        }
        Ok((self.open(token, Socket::Listener(Listener { place: Place::Port(address), backlog: VecDeque::new() })), address))
    }

    pub(super) fn bind_local_listener(&mut self, path: &Path, token: Token) -> io::Result<SocketId> {
        let place = Place::Path(path.to_owned());
        if self.slots.iter().flatten().any(|slot| matches!(&slot.socket, Socket::Listener(other) if other.place == place)) {
            return Err(errno(libc::EADDRINUSE));
        }
        Ok(self.open(token, Socket::Listener(Listener { place, backlog: VecDeque::new() })))
    }

    pub(super) fn accept_from(&mut self, listener: SocketId, token: Token) -> io::Result<(SocketId, SocketAddr)> {
        let Socket::Listener(state) = &mut self.slot(listener).socket else {
            panic!("the stack accepts from {listener:?}, which does not listen")
        };
        let Some(id) = state.backlog.pop_front() else { return Err(io::ErrorKind::WouldBlock.into()) };
        let socket = self.open(token, Socket::Stream(id));
        self.connections[id.0].accepted(socket);
        self.touched.push_back(id);
        Ok((socket, self.connections[id.0].remote()))
    }

    pub(super) fn abandon(&mut self, listener: Listener) {
        for id in listener.backlog {
            self.connections[id.0].reset_by_stack();
        }
    }
}

/// Whether a socket bound to `bound` gets what is sent to `to`.
pub(super) fn covers(bound: SocketAddr, to: SocketAddr) -> bool {
    bound.port() == to.port() && bound.is_ipv4() == to.is_ipv4() && (bound.ip() == to.ip() || bound.ip().is_unspecified())
}
