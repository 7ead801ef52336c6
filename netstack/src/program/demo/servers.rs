//! The servers of the demo: on this machine's loopback address, where the guest reaches them at the gateway's address.
//!
//! They are bound before the guest is started, so that it knows their ports, and run in threads of their own, so that the engine has its
//! thread for itself.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::thread;

use super::transfer::{serve_download, serve_upload};
use crate::program::failure::{Failure, OrFail};

/// The longest message of the half-close step, in bytes.
const MESSAGE_LIMIT: u64 = 64 << 10;

/// All servers, bound but not running.
#[derive(Debug)]
pub(crate) struct Servers {
    download: TcpListener,
    download_v6: Option<TcpListener>,
    upload: TcpListener,
    reply_at_end: TcpListener,
    udp_echo: UdpSocket,
}

/// Where they are, and where nobody is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    /// Sends as much as it is asked for.
    pub(crate) download: u16,
    /// The same on the IPv6 loopback address; `None` where the machine has none.
    pub(crate) download_v6: Option<u16>,
    /// Takes everything and tells its checksum.
    pub(crate) upload: u16,
    /// Answers only after the client has closed its half.
    pub(crate) reply_at_end: u16,
    /// UDP: sends every datagram back.
    pub(crate) udp_echo: u16,
    /// A TCP port on which nobody listens.
    pub(crate) closed: u16,
}

impl Servers {
    /// Binds all of them to free ports.
    pub(crate) fn bind() -> Result<(Self, Ports), Failure> {
        Self::try_bind().or_fail(|| "cannot bind the servers of the demo to 127.0.0.1")
    }

    fn try_bind() -> io::Result<(Self, Ports)> {
        let tcp = |address: IpAddr| TcpListener::bind((address, 0));
        let local = IpAddr::from(Ipv4Addr::LOCALHOST);
        let servers = Self {
            download: tcp(local)?,
            download_v6: tcp(Ipv6Addr::LOCALHOST.into()).ok(),
            upload: tcp(local)?,
            reply_at_end: tcp(local)?,
            udp_echo: UdpSocket::bind((local, 0))?,
        };
        let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
        let ports = Ports {
            download: port(&servers.download)?,
            download_v6: servers.download_v6.as_ref().map(port).transpose()?,
            upload: port(&servers.upload)?,
            reply_at_end: port(&servers.reply_at_end)?,
            udp_echo: servers.udp_echo.local_addr()?.port(),
            // Free a moment ago; the kernel does not hand it out again soon.
            closed: port(&tcp(local)?)?,
        };
        Ok((servers, ports))
    }

    /// Runs them until the program ends.
    pub(crate) fn start(self) {
        let Self { download, download_v6, upload, reply_at_end, udp_echo } = self;
        serve_tcp(download, serve_download);
        if let Some(download_v6) = download_v6 {
            serve_tcp(download_v6, serve_download);
        }
        serve_tcp(upload, serve_upload);
        serve_tcp(reply_at_end, serve_reply_at_end);
        serve_udp_echo(udp_echo);
    }
}

/// Answers every client of `listener` in a thread of its own.
pub(crate) fn serve_tcp(listener: TcpListener, answer: fn(&mut TcpStream) -> io::Result<()>) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                if let Err(err) = answer(&mut stream) {
                    // The client sees the early end and reports it.
                    tracing::debug!(%err, "a client of the demo went away");
                }
            });
        }
    });
}

/// Sends every datagram back to where it came from.
pub(crate) fn serve_udp_echo(socket: UdpSocket) {
    thread::spawn(move || {
        let mut buffer = vec![0; 65_535];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            if let Err(err) = socket.send_to(&buffer[..len], from) {
                tracing::debug!(%err, "an echo was not sent");
            }
        }
    });
}

/// Reads to the end of the client's half, then answers with the same bytes and closes.
pub(crate) fn serve_reply_at_end(stream: &mut TcpStream) -> io::Result<()> {
    let mut message = Vec::new();
    Read::by_ref(stream).take(MESSAGE_LIMIT).read_to_end(&mut message)?;
    stream.write_all(&message)?;
    stream.shutdown(Shutdown::Write)
}
