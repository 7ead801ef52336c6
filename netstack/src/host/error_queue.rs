//! What the kernel keeps in a socket's queue of errors (`IP_RECVERR` in ip(7)): reading it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{DatagramError, Teller};
use crate::wire::icmp_error::Problem;

/// An entry of the queue.
#[derive(Debug)]
pub(super) struct QueuedError {
    /// Where what was sent was to go.
    pub(super) destination: Option<SocketAddr>,
    /// Bytes of what was sent that the entry has.
    pub(super) len: usize,
    /// The control message that says what is wrong.
    pub(super) error: Option<ExtendedError>,
}

/// The kernel's `struct sock_extended_err`, and the address behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ExtendedError {
    errno: u32,
    origin: u8,
    kind: u8,
    code: u8,
    info: u32,
    offender: Option<IpAddr>,
}

impl ExtendedError {
    /// Reads the data of a control message of type `IP_RECVERR` or `IPV6_RECVERR`. `None` if it ends too early.
    pub(super) fn parse(data: &[u8]) -> Option<Self> {
        let word = |at: usize| data.get(at..at + 4)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
        let &[origin, kind, code, _] = data.get(4..)?.first_chunk()?;
        let offender = data.get(16..).and_then(parse_address);
        Some(Self { errno: word(0)?, origin, kind, code, info: word(8)?, offender })
    }

    /// What is wrong; `None` if that is no matter of the way.
    fn problem(&self) -> Option<Problem> {
        match self.origin {
            libc::SO_EE_ORIGIN_LOCAL if self.errno == libc::EMSGSIZE as u32 => Some(Problem::TooBig { mtu: self.info }),
            // Of a pointer the kernel tells only the number of the byte.
            libc::SO_EE_ORIGIN_ICMP if self.kind == 12 => Problem::of_v4(self.kind, self.code, self.info << 24),
            libc::SO_EE_ORIGIN_ICMP => Problem::of_v4(self.kind, self.code, self.info),
            libc::SO_EE_ORIGIN_ICMP6 => Problem::of_v6(self.kind, self.code, self.info),
            _ => None,
        }
    }
}

/// Reads a `struct sockaddr` of either family.
fn parse_address(data: &[u8]) -> Option<IpAddr> {
    match libc::c_int::from(u16::from_ne_bytes(*data.first_chunk()?)) {
        libc::AF_INET => data.get(4..)?.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)),
        libc::AF_INET6 => data.get(8..)?.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)),
        _ => None,
    }
}

impl QueuedError {
    /// What it tells; `None` if it tells of nothing that a guest could be told. `is_own` says whether an address is one of this machine's.
    pub(super) fn read(&self, is_own: impl FnOnce(IpAddr) -> bool) -> Option<DatagramError> {
        let error = self.error?;
        let problem = error.problem()?;
        let teller = match error.offender {
            _ if error.origin == libc::SO_EE_ORIGIN_LOCAL => Teller::Socket,
            Some(ip) if !is_own(ip) => Teller::Other(ip),
            _ => Teller::ThisHost,
        };
        let destination = self.destination.unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into());
        Some(DatagramError { problem, teller, destination, len: self.len })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::icmp_error::Unreachable;

    fn bytes(errno: i32, origin: u8, kind: u8, code: u8, info: u32) -> Vec<u8> {
        let mut bytes = errno.to_ne_bytes().to_vec();
        bytes.extend([origin, kind, code, 0]);
        bytes.extend(info.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes
    }

    fn from_v4(mut bytes: Vec<u8>, ip: [u8; 4]) -> Vec<u8> {
        bytes.extend((libc::AF_INET as u16).to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(ip);
        bytes.extend([0; 8]);
        bytes
    }

    fn read(data: &[u8]) -> Option<DatagramError> {
        let destination = Some("192.0.2.9:9".parse().unwrap());
        QueuedError { destination, len: 3, error: ExtendedError::parse(data) }.read(|ip| ip == IpAddr::from([192, 0, 2, 1]))
    }

    #[test]
    fn a_router_on_the_way_is_told_from_this_host_and_from_the_socket() {
        let told = from_v4(bytes(libc::EHOSTUNREACH, libc::SO_EE_ORIGIN_ICMP, 11, 0, 0), [198, 51, 100, 1]);
        let error = read(&told).unwrap();
        assert_eq!((error.problem, error.teller), (Problem::HopLimit, Teller::Other([198, 51, 100, 1].into())));
        let told = from_v4(bytes(libc::EHOSTUNREACH, libc::SO_EE_ORIGIN_ICMP, 3, 1, 0), [192, 0, 2, 1]);
        let error = read(&told).unwrap();
        assert_eq!((error.problem, error.teller), (Problem::Unreachable(Unreachable::Host), Teller::ThisHost));
        let error = read(&bytes(libc::EMSGSIZE, libc::SO_EE_ORIGIN_LOCAL, 0, 0, 1300)).unwrap();
        assert_eq!((error.problem, error.teller), (Problem::TooBig { mtu: 1300 }, Teller::Socket));
    }

    #[test]
    fn a_pointer_is_the_number_of_a_byte_in_both_versions() {
        let v4 = read(&bytes(libc::EPROTO, libc::SO_EE_ORIGIN_ICMP, 12, 0, 9)).unwrap();
        let v6 = read(&bytes(libc::EPROTO, libc::SO_EE_ORIGIN_ICMP6, 4, 0, 9)).unwrap();
        assert_eq!((v4.problem, v6.problem), (Problem::Parameter { code: 0, pointer: 9 }, v4.problem));
    }

    #[test]
    fn what_is_no_error_of_a_way_tells_nothing() {
        for (origin, kind) in [(libc::SO_EE_ORIGIN_ICMP, 5), (libc::SO_EE_ORIGIN_TXSTATUS, 0), (libc::SO_EE_ORIGIN_LOCAL, 0)] {
            assert_eq!(read(&bytes(libc::ENOMSG, origin, kind, 0, 0)), None);
        }
    }

    proptest! {
        #[test]
        fn anything_is_read_without_harm(data in proptest::collection::vec(any::<u8>(), 0..80)) {
            read(&data);
            prop_assert!(data.len() >= 12 || ExtendedError::parse(&data).is_none());
        }
    }
}
