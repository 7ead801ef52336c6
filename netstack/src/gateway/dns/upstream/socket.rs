//! The sockets that hickory sends upstream questions through.
//!
//! They differ from hickory's own in one thing: a UDP socket is connected to its server. So the kernel drops what anybody else sends
//! to it, and it reports at once that a port is closed or a network cannot be reached, where an unconnected one would wait in vain.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hickory_net::runtime::{DnsUdpSocket, RuntimeProvider, TokioHandle, TokioRuntimeProvider, TokioTime};
use rustix::net::{RecvFlags, recv};
use tokio::io::{Interest, ReadBuf};
use tokio::net::UdpSocket;

/// hickory's tokio runtime with connected UDP sockets.
#[derive(Clone, Default)]
pub(super) struct Runtime(TokioRuntimeProvider);

type Opening<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

impl RuntimeProvider for Runtime {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = Connected;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> TokioHandle {
        self.0.create_handle()
    }

    fn connect_tcp(&self, server: SocketAddr, local: Option<SocketAddr>, wait: Option<Duration>) -> Opening<Self::Tcp> {
        self.0.connect_tcp(server, local, wait)
    }

    fn bind_udp(&self, local: SocketAddr, server: SocketAddr) -> Opening<Connected> {
        Box::pin(async move {
            let socket = UdpSocket::bind(local).await?;
            socket.connect(server).await?;
            Ok(Connected { socket, server })
        })
    }
}

/// A UDP socket that hears one server only.
pub(super) struct Connected {
    socket: UdpSocket,
    server: SocketAddr,
}

/// What an asynchronous method of a hickory trait returns.
type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl DnsUdpSocket for Connected {
    type Time = TokioTime;

    fn recv_from<'socket, 'buffer, 'both>(&'socket self, buffer: &'buffer mut [u8]) -> Boxed<'both, io::Result<(usize, SocketAddr)>>
    where
        'socket: 'both,
        'buffer: 'both,
        Self: 'both,
    {
        // tokio's own `recv` sleeps on when there is an error but nothing to read.
        Box::pin(async move {
            loop {
                let ready = self.socket.ready(Interest::READABLE | Interest::ERROR).await?;
                // One at a time: only for a single interest does `try_io` clear what has turned out not to be so.
                let interest = if ready.is_error() { Interest::ERROR } else { Interest::READABLE };
                let received = self.socket.try_io(interest, || Ok(recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT)?));
                match received {
                    Ok((length, _)) => return Ok((length, self.server)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        })
    }

    fn poll_recv_from(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(self.socket.poll_recv(cx, &mut buffer))?;
        Poll::Ready(Ok((buffer.filled().len(), self.server)))
    }

    fn poll_send_to(&self, cx: &mut Context<'_>, message: &[u8], _server: SocketAddr) -> Poll<io::Result<usize>> {
        self.socket.poll_send(cx, message)
    }
}
