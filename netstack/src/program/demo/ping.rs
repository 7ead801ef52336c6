//! ICMP echo (RFC 792, RFC 4443 section 4) through an unprivileged ping socket.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes after the ICMP header, as of ping(8).
const PAYLOAD: usize = 56;

/// Sends `count` echo requests, one after the other, and returns how long each answer took.
///
/// # Errors
///
/// `PermissionDenied` when this group may not ping; `TimedOut` for a missing answer; what the network reports.
pub(crate) fn ping(to: IpAddr, count: u16) -> io::Result<Vec<Duration>> {
    let (domain, protocol, request, reply) =
        if to.is_ipv4() { (Domain::IPV4, Protocol::ICMPV4, 8, 0) } else { (Domain::IPV6, Protocol::ICMPV6, 128, 129) };
    let socket: UdpSocket = Socket::new(domain, Type::DGRAM, Some(protocol))?.into();
    socket.connect(SocketAddr::new(to, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    (1..=count)
        .map(|sequence| {
            // The kernel fills in checksum and identifier.
            let mut packet = vec![request, 0, 0, 0, 0, 0];
            packet.extend(sequence.to_be_bytes());
            packet.extend((0..PAYLOAD).map(|i| i as u8));
            let sent = Instant::now();
            socket.send(&packet)?;
            let mut answer = [0; 8 + PAYLOAD + 1];
            loop {
                let len = match socket.recv(&mut answer) {
                    Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                    Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                        return Err(io::Error::new(
                            io::ErrorKind::TimedOut,
                            format!("no answer to request {sequence} within {PATIENCE:?}"),
                        ));
                    }
                    received => received?,
                };
                // A late answer to an earlier request is none to this one.
                if len >= 8 && answer[0] == reply && answer[6..8] == sequence.to_be_bytes() {
                    return if answer[8..len] == packet[8..] {
                        Ok(sent.elapsed())
                    } else {
                        Err(io::Error::other("the answer has other data"))
                    };
                }
            }
        })
        .collect()
}
