//! Bytes to a server and from a server: see [`crate::data`] for what is said.

use alloc::vec;
use core::net::{IpAddr, SocketAddr, SocketAddrV4};

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;

use crate::Platform;
use crate::card::Nic;
use crate::data::{Checksum, Pattern};
use crate::guest::{Failure, Guest, PATIENCE};
use crate::report::{Moved, Report};

/// The socket's buffers, each way: as much as the engine keeps under way.
const BUFFER: usize = 1 << 20;

/// The server has closed before it has said all.
const TOO_SHORT: Failure = Failure("the server has closed the connection too early");

/// The server's checksum, or its count, is another one.
const DIFFERENT: Failure = Failure("the checksums of the two ends differ");

/// Sends `bytes` bytes and compares the server's count and checksum.
pub(crate) fn up<N: Nic, P: Platform<N>>(guest: &mut Guest<'_, N, P>, server: SocketAddrV4, bytes: u64) -> Result<(), Failure> {
    connected(guest, server, |guest, handle| {
        let begun = guest.platform.now();
        let (mut pattern, mut sum) = (Pattern::default(), Checksum::default());
        let mut answer = Gathered::<16>::default();
        guest.until(PATIENCE, |_, sockets| {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
            while sum.count() < bytes && socket.can_send() {
                // Once for the bytes to the end of the ring, once for those from its beginning.
                let sent = socket.send(|room| {
                    let len = room.len().min(usize::try_from(bytes - sum.count()).unwrap_or(usize::MAX));
                    pattern.fill(&mut room[..len]);
                    sum.update(&room[..len]);
                    (len, len)
                });
                if sent.is_err() {
                    return Some(Err(TOO_SHORT));
                }
            }
            if sum.count() == bytes && socket.may_send() {
                socket.close();
            }
            answer.read(socket)
        })??;
        let [count, checksum] = [0, 8].map(|at| answer.number(at));
        if (count, checksum) != (bytes, sum.value()) {
            return Err(DIFFERENT);
        }
        let micros = guest.platform.now() - begun;
        guest.platform.report(&Report::Up(Moved { bytes, micros, checksum }));
        Ok(())
    })
}

/// Asks for `bytes` bytes and compares the server's checksum.
pub(crate) fn down<N: Nic, P: Platform<N>>(guest: &mut Guest<'_, N, P>, server: SocketAddrV4, bytes: u64) -> Result<(), Failure> {
    connected(guest, server, |guest, handle| {
        let begun = guest.platform.now();
        let socket = guest.sockets.get_mut::<tcp::Socket<'_>>(handle);
        if socket.send_slice(&bytes.to_be_bytes()) != Ok(8) {
            return Err(TOO_SHORT);
        }
        let mut sum = Checksum::default();
        let mut answer = Gathered::<8>::default();
        guest.until(PATIENCE, |_, sockets| {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
            while sum.count() < bytes && socket.can_recv() {
                let received = socket.recv(|data| {
                    let len = data.len().min(usize::try_from(bytes - sum.count()).unwrap_or(usize::MAX));
                    sum.update(&data[..len]);
                    (len, ())
                });
                if received.is_err() {
                    return Some(Err(TOO_SHORT));
                }
            }
            if sum.count() < bytes {
                return (!socket.may_recv()).then_some(Err(TOO_SHORT));
            }
            answer.read(socket)
        })??;
        let micros = guest.platform.now() - begun;
        let checksum = answer.number(0);
        if checksum != sum.value() {
            return Err(DIFFERENT);
        }
        guest.platform.report(&Report::Down(Moved { bytes, micros, checksum }));
        Ok(())
    })
}

/// Connects to `server`, does `work` with the socket, and closes it.
fn connected<N: Nic, P: Platform<N>, T>(
    guest: &mut Guest<'_, N, P>,
    server: SocketAddrV4,
    work: impl FnOnce(&mut Guest<'_, N, P>, SocketHandle) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut socket = new_socket();
    // One of the dynamic ports (RFC 6335), another one each time.
    let local = 49_152 + u16::try_from(guest.platform.random() % 16_384).unwrap_or(0);
    let remote = SocketAddr::new(IpAddr::V4(*server.ip()), server.port());
    socket.connect(guest.interface.context(), remote, local).map_err(|_| Failure("that is no address of a server"))?;
    let handle = guest.sockets.add(socket);
    let result = guest
        .until(PATIENCE, |_, sockets| {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
            if socket.may_send() {
                return Some(Ok(()));
            }
            (!socket.is_open()).then_some(Err(Failure("the server has refused the connection")))
        })
        .flatten()
        .and_then(|()| work(guest, handle));
    finish(guest, handle, result.is_ok());
    result
}

pub(super) fn new_socket() -> tcp::Socket<'static> {
    let mut socket = tcp::Socket::new(tcp::SocketBuffer::new(vec![0; BUFFER]), tcp::SocketBuffer::new(vec![0; BUFFER]));
    // Every frame of a batch would wait for the acknowledgement of the last, and the engine for the window.
    socket.set_ack_delay(None);
    socket.set_nagle_enabled(false);
    socket
}

/// Closes a connection as it should end, or else resets it, and removes its socket.
pub(super) fn finish<N: Nic, P: Platform<N>>(guest: &mut Guest<'_, N, P>, handle: SocketHandle, orderly: bool) {
    let socket = guest.sockets.get_mut::<tcp::Socket<'_>>(handle);
    if orderly {
        socket.close();
    } else {
        socket.abort();
    }
    // The FIN or the RST must leave; a lost answer to it harms nobody.
    let _ = guest.until(PATIENCE / 10, |_, sockets| {
        let state = sockets.get_mut::<tcp::Socket<'_>>(handle).state();
        matches!(state, tcp::State::Closed | tcp::State::TimeWait | tcp::State::FinWait2).then_some(())
    });
    guest.sockets.remove(handle);
}

/// The few bytes of an answer.
struct Gathered<const LEN: usize> {
    bytes: [u8; LEN],
    len: usize,
}

impl<const LEN: usize> Default for Gathered<LEN> {
    fn default() -> Self {
        Self { bytes: [0; LEN], len: 0 }
    }
}

impl<const LEN: usize> Gathered<LEN> {
    /// Reads on; something once it has all, or never will.
    fn read(&mut self, socket: &mut tcp::Socket<'_>) -> Option<Result<(), Failure>> {
        if let Ok(more) = socket.recv_slice(&mut self.bytes[self.len..]) {
            self.len += more;
        }
        if self.len == LEN {
            return Some(Ok(()));
        }
        (!socket.may_recv()).then_some(Err(TOO_SHORT))
    }

    /// The big-endian number at `at`.
    fn number(&self, at: usize) -> u64 {
        self.bytes[at..at + 8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}
