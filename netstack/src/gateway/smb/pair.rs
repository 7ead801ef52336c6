//! Two ends of a TCP connection within this process.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

/// A connection over the loopback takes no time, unless somebody else fills the listener's queue just then.
const PATIENCE: Duration = Duration::from_millis(100);

/// How many strangers are turned away.
const STRANGERS: usize = 16;

/// Connects to ourselves. Others on this machine could connect while we do, so both ends are held against each other.
///
/// # Errors
///
/// When there are no descriptors or ports left, there is no loopback, or others are in the way.
pub(super) fn loopback_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let ours = TcpStream::connect_timeout(&listener.local_addr()?, PATIENCE)?;
    for _ in 0..STRANGERS {
        let (theirs, from) = listener.accept()?;
        if from == ours.local_addr()? {
            theirs.set_nonblocking(false)?;
            theirs.set_nodelay(true)?;
            return Ok((ours, theirs));
        }
    }
    Err(io::ErrorKind::ConnectionRefused.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn the_two_ends_are_each_others() {
        let (mut ours, mut theirs) = loopback_pair().unwrap();
        assert_eq!(ours.peer_addr().unwrap(), theirs.local_addr().unwrap());
        assert_eq!(theirs.peer_addr().unwrap(), ours.local_addr().unwrap());
        ours.write_all(b"abc").unwrap();
        let mut got = [0; 3];
        theirs.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"abc");
        assert!(TcpStream::connect(ours.peer_addr().unwrap()).is_err(), "nobody listens any more");
    }
}
