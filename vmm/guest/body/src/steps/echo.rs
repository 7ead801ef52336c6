//! An ICMP echo and its answer.

use alloc::vec;
use core::net::Ipv4Addr;

use smoltcp::iface::SocketHandle;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::icmp;
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, IpAddress};

use crate::Platform;
use crate::card::Nic;
use crate::guest::{Failure, Guest, PATIENCE};
use crate::report::Report;

/// Marks our echoes.
const IDENT: u16 = 0x5157;

/// What is sent and must come back.
const DATA: &[u8] = b"slipway's probe guest, there and back again";

/// Pings `to` once.
pub(crate) fn ping<N: Nic, P: Platform<N>>(guest: &mut Guest<'_, N, P>, to: Ipv4Addr) -> Result<(), Failure> {
    let handle = send(guest, to)?;
    let begun = guest.platform.now();
    let answered = guest.until(PATIENCE, |_, sockets| {
        let (packet, from) = sockets.get_mut::<icmp::Socket<'_>>(handle).recv().ok()?;
        let packet = Icmpv4Packet::new_checked(packet).ok()?;
        let answer = Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default());
        let good =
            from == IpAddress::Ipv4(to) && matches!(answer, Ok(Icmpv4Repr::EchoReply { seq_no: 1, data, .. }) if data == DATA);
        Some(good)
    });
    let micros = guest.platform.now() - begun;
    guest.sockets.remove(handle);
    if !answered? {
        return Err(Failure("what came back is not what was sent"));
    }
    guest.platform.report(&Report::Ping { to, micros });
    Ok(())
}

/// Makes sure that the stack knows the way to `to`. smoltcp forgets the first question to a DNS server that it has to look for, and looks
/// for one neighbour a second; here that second has gone by.
pub(crate) fn find<N: Nic, P: Platform<N>>(guest: &mut Guest<'_, N, P>, to: Ipv4Addr) -> Result<(), Failure> {
    guest.skip(1_000_000);
    let handle = send(guest, to)?;
    // The answer is of no interest, if there is one.
    let sent = guest.until(PATIENCE, |_, sockets| (sockets.get::<icmp::Socket<'_>>(handle).send_queue() == 0).then_some(()));
    guest.sockets.remove(handle);
    sent
}

/// Queues an echo in a socket of its own.
fn send<N: Nic, P: Platform<N>>(guest: &mut Guest<'_, N, P>, to: Ipv4Addr) -> Result<SocketHandle, Failure> {
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 1024]);
    let mut socket = icmp::Socket::new(buffer(), buffer());
    socket.bind(icmp::Endpoint::Ident(IDENT)).map_err(|_| Failure("no ICMP socket"))?;
    let request = Icmpv4Repr::EchoRequest { ident: IDENT, seq_no: 1, data: DATA };
    let room = socket.send(request.buffer_len(), IpAddress::Ipv4(to)).map_err(|_| Failure("the echo was not sent"))?;
    request.emit(&mut Icmpv4Packet::new_unchecked(room), &ChecksumCapabilities::default());
    Ok(guest.sockets.add(socket))
}
