//! A server of the guest's own, for connections that are forwarded to it: it sends everything back.

use smoltcp::socket::tcp;

use super::transfer::{finish, new_socket};
use crate::Platform;
use crate::card::Nic;
use crate::data::Checksum;
use crate::guest::{Failure, Guest};
use crate::report::{Moved, Report};

/// How long a client may take to come, and then to say something, in microseconds.
const PATIENCE: u64 = 30_000_000;

/// Echoes one connection until its client closes it.
pub(crate) fn serve<N: Nic, P: Platform<N>>(guest: &mut Guest<'_, N, P>, port: u16) -> Result<(), Failure> {
    let mut socket = new_socket();
    socket.listen(port).map_err(|_| Failure("that is no port to listen on"))?;
    let handle = guest.sockets.add(socket);
    guest.platform.report(&Report::Serving { port });
    let mut result = guest.until(PATIENCE, |_, sockets| sockets.get_mut::<tcp::Socket<'_>>(handle).may_send().then_some(()));
    let begun = guest.platform.now();
    let mut sum = Checksum::default();
    if result.is_ok() {
        result = guest
            .until(PATIENCE, |_, sockets| {
                let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
                while socket.can_recv() && socket.can_send() {
                    let mut some = [0; 4096];
                    let room = socket.send_capacity() - socket.send_queue();
                    let some = &mut some[..room.min(4096)];
                    let Ok(len) = socket.recv_slice(some) else { break };
                    sum.update(&some[..len]);
                    if socket.send_slice(&some[..len]) != Ok(len) {
                        return Some(Err(Failure("the client has gone before it had everything back")));
                    }
                }
                if socket.may_recv() || socket.can_recv() {
                    return None;
                }
                // The client has closed its half: it has its bytes once it has acknowledged them.
                if !socket.is_active() {
                    return Some(Err(Failure("the client has reset the connection")));
                }
                (socket.send_queue() == 0).then_some(Ok(()))
            })
            .flatten();
    }
    let micros = guest.platform.now() - begun;
    finish(guest, handle, result.is_ok());
    result?;
    guest.platform.report(&Report::Served(Moved { bytes: sum.count(), micros, checksum: sum.value() }));
    Ok(())
}
