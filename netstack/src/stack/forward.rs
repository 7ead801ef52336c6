//! Forwards, one socket at a time: what of the host leads to a guest, from when to when.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use super::token::Owner;
use super::{Context, Stack};
use crate::config::Protocol;
use crate::host::Host;

/// Where a socket of a forward listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen<'a> {
    /// At a port of the host, perhaps for what comes in by one interface only. Port 0 means any free one.
    Port(Protocol, SocketAddr, Option<&'a str>),
    /// At a stream socket in the file system.
    Path(&'a Path),
}

/// A socket of a forward, to be removed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForwardSocket(Owner);

impl Stack {
    /// Starts to forward what comes to a socket of the host to a guest. Returns by what to end it, and the address really bound, if it
    /// has one.
    ///
    /// # Errors
    ///
    /// When the host refuses the socket.
    pub fn forward(
        &mut self,
        host: &mut dyn Host,
        listen: Listen<'_>,
        guest: SocketAddr,
    ) -> io::Result<(ForwardSocket, Option<SocketAddr>)> {
        let (owner, bound) = match listen {
            Listen::Port(Protocol::Tcp, address, interface) => {
                let listen = |owner: Owner| host.listen(address, interface, owner.token());
                self.tcp.add_listener(listen, guest).map(|(owner, bound)| (owner, Some(bound)))?
            }
            Listen::Port(Protocol::Udp, address, interface) => {
                let bind = |owner: Owner| host.bind_datagram(address, interface, owner.token());
                self.udp.add_forward(bind, guest).map(|(owner, bound)| (owner, Some(bound)))?
            }
            Listen::Path(path) => {
                let listen = |owner: Owner| host.listen_local(path, owner.token()).map(|socket| (socket, None));
                self.tcp.add_listener(listen, guest)?
            }
        };
        Ok((ForwardSocket(owner), bound))
    }

    /// Ends a forward at once: nobody can connect any more. Connections that came by it go on, unless `flows` says that they end too;
    /// datagrams have no other way than its socket. Returns whether it was still there.
    pub fn end_forward(&mut self, cx: &mut Context<'_>, forward: ForwardSocket, flows: bool) -> bool {
        match forward.0 {
            Owner::TcpListener { id, generation } => self.tcp.remove_listener(cx, &mut self.shared, id, generation, flows),
            Owner::UdpForward { id, generation } => self.udp.remove_forward(cx, id, generation),
            _ => false,
        }
    }
}
