//! The system calls of the data path, with raw scatter-gather lists. Each returns at once and maps `EINTR` away.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use socket2::{SockAddr, SockAddrStorage};
use tokio::io::unix::AsyncFd;

use super::error_queue::{ExtendedError, QueuedError};
use super::{Family, Received, SendOptions};
use crate::frame::{Chunk, ChunkMut};

/// Room for the control messages that are sent and received with datagrams: two of at most an `int` each.
const CONTROL_SPACE: usize = 64;

/// Room for those of an error: what it is and who tells, and some that the socket wants told of everything.
const ERROR_CONTROL_SPACE: usize = 256;

/// `sendmsg(2)`.
pub(super) fn send(fd: BorrowedFd<'_>, data: &[Chunk<'_>]) -> io::Result<usize> {
    let mut message = empty_message();
    message.msg_iov = data.as_ptr().cast_mut().cast();
    message.msg_iovlen = data.len() as _;
    send_message(fd, &message)
}

/// `sendmsg(2)` to an address, as several datagrams of `segment` bytes each if that is set, and with a hop limit of its own.
pub(super) fn send_to(fd: BorrowedFd<'_>, to: SocketAddr, data: &[Chunk<'_>], options: SendOptions) -> io::Result<()> {
    let address = SockAddr::from(to);
    let mut control = Control([0; CONTROL_SPACE]);
    let mut used = 0;
    if let Some(segment) = options.segment {
        used += put_control(&mut control.0[used..], libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    if let Some(hop_limit) = options.hop_limit {
        let (level, name) = hop_limit_option(to);
        used += put_control(&mut control.0[used..], level, name, &libc::c_int::from(hop_limit).to_ne_bytes());
    }
    let mut message = empty_message();
    message.msg_name = address.as_ptr().cast_mut().cast();
    message.msg_namelen = address.len();
    message.msg_iov = data.as_ptr().cast_mut().cast();
    message.msg_iovlen = data.len() as _;
    if used > 0 {
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = used as _;
    }
    send_message(fd, &message).map(|_| ())
}

/// What the hop limit of a datagram is called as a control message.
const fn hop_limit_option(to: SocketAddr) -> (libc::c_int, libc::c_int) {
    match to {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TTL),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT),
    }
}

/// Writes a control message to the start of `into`, which has room for it. Returns how much room it takes.
fn put_control(into: &mut [u8], level: libc::c_int, name: libc::c_int, value: &[u8]) -> usize {
    // SAFETY: these only compute.
    let (len, space) = unsafe { (libc::CMSG_LEN(value.len() as u32) as usize, libc::CMSG_SPACE(value.len() as u32) as usize) };
    let start = len - value.len();
    // The layout of struct cmsghdr: its length, its level and its type.
    into[..size_of::<usize>()].copy_from_slice(&len.to_ne_bytes());
    into[size_of::<usize>()..][..4].copy_from_slice(&level.to_ne_bytes());
    into[size_of::<usize>() + 4..][..4].copy_from_slice(&name.to_ne_bytes());
    into[start..len].copy_from_slice(value);
    space
}

fn send_message(fd: BorrowedFd<'_>, message: &libc::msghdr) -> io::Result<usize> {
    retry(|| {
        // SAFETY: the message was built above from a slice of chunks, which have the layout of iovec and are readable, and from
        // addresses and control data that outlive the call.
        unsafe { libc::sendmsg(fd.as_raw_fd(), message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) }
    })
}

/// `recvmsg(2)` with `MSG_PEEK`.
pub(super) fn peek(fd: BorrowedFd<'_>, into: &mut [ChunkMut<'_>]) -> io::Result<usize> {
    let mut message = empty_message();
    message.msg_iov = into.as_mut_ptr().cast();
    message.msg_iovlen = into.len() as _;
    retry(|| {
        // SAFETY: chunks have the layout of iovec and are writable; the message outlives the call.
        unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_PEEK | libc::MSG_DONTWAIT) }
    })
}

/// Removes bytes from the receive queue of a TCP socket without copying them.
pub(super) fn discard(fd: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
    retry(|| {
        // SAFETY: with MSG_TRUNC a TCP socket copies nothing (tcp(7)), so no buffer is needed.
        unsafe { libc::recv(fd.as_raw_fd(), ptr::null_mut(), len, libc::MSG_TRUNC | libc::MSG_DONTWAIT) }
    })
}

/// `recvmsg(2)` of a datagram, or of several of the same size (`UDP_GRO`).
pub(super) fn receive_from(fd: BorrowedFd<'_>, into: &mut [ChunkMut<'_>]) -> io::Result<Received> {
    let mut from = SockAddrStorage::zeroed();
    let mut control = Control([0; CONTROL_SPACE]);
    let mut message = empty_message();
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = from.size_of();
    message.msg_iov = into.as_mut_ptr().cast();
    message.msg_iovlen = into.len() as _;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_SPACE as _;
    let len = retry(|| {
        // SAFETY: chunks have the layout of iovec and are writable; the message and what it points to outlive the call.
        unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) }
    })?;
    // SAFETY: the kernel has written an address of this length.
    let from = unsafe { SockAddr::new(from, message.msg_namelen) };
    let from = from.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    let (mut segment, mut hop_limit) = (None, None);
    for_each_control(&message, |level, name, value| match (level, name) {
        (libc::SOL_UDP, libc::UDP_GRO) => {
            segment = int(value).and_then(|size| u16::try_from(size).ok()).filter(|size| *size > 0 && usize::from(*size) < len);
        }
        (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
            hop_limit = int(value).and_then(|limit| u8::try_from(limit).ok());
        }
        _ => {}
    });
    Ok(Received { len, from, segment, hop_limit })
}

/// Calls `each` with level, type and data of every control message that a call of `recvmsg` has brought.
fn for_each_control(message: &libc::msghdr, mut each: impl FnMut(libc::c_int, libc::c_int, &[u8])) {
    // SAFETY: the kernel has filled the control buffer, which outlives the message, and has set its length; the macros stay within it, and
    // the length of each message covers its header and its data.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(ptr::from_ref(message));
        while !header.is_null() {
            let data = libc::CMSG_DATA(header);
            let len = ((*header).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
            each((*header).cmsg_level, (*header).cmsg_type, std::slice::from_raw_parts(data, len));
            header = libc::CMSG_NXTHDR(ptr::from_ref(message), header);
        }
    }
}

/// An `int` in a control message.
fn int(value: &[u8]) -> Option<libc::c_int> {
    value.first_chunk().map(|bytes| libc::c_int::from_ne_bytes(*bytes))
}

/// `recvmsg(2)` from the queue of errors (`IP_RECVERR`), with as much of what was sent as there is room for in `payload`.
pub(super) fn receive_error(fd: BorrowedFd<'_>, payload: &mut [u8]) -> io::Result<QueuedError> {
    let mut destination = SockAddrStorage::zeroed();
    let mut control = ErrorControl([0; ERROR_CONTROL_SPACE]);
    let mut data = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    let mut message = empty_message();
    message.msg_name = (&raw mut destination).cast();
    message.msg_namelen = destination.size_of();
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = ERROR_CONTROL_SPACE as _;
    let len = retry(|| {
        // SAFETY: the buffer is writable and as long as is said; the message and what it points to outlive the call.
        unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) }
    })?;
    // SAFETY: the kernel has written an address of this length, or none.
    let destination = unsafe { SockAddr::new(destination, message.msg_namelen) }.as_socket();
    let mut error = None;
    for_each_control(&message, |level, name, value| {
        if matches!((level, name), (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)) {
            error = ExtendedError::parse(value);
        }
    });
    Ok(QueuedError { destination, len, error })
}

/// `SO_MEMINFO`: the capacity of the send queue and how much of it is used, in bytes of kernel memory.
pub(super) fn send_queue(fd: BorrowedFd<'_>) -> io::Result<(usize, usize)> {
    /// Indices of the kernel's `SK_MEMINFO_*`.
    const WMEM_ALLOC: usize = 2;
    const SNDBUF: usize = 3;
    const WMEM_QUEUED: usize = 5;
    let mut info = [0u32; 9];
    get_option(fd, libc::SOL_SOCKET, libc::SO_MEMINFO, &mut info)?;
    Ok((info[SNDBUF] as usize, info[WMEM_QUEUED].max(info[WMEM_ALLOC]) as usize))
}

/// `SO_PEEK_OFF`: where the next peek starts.
pub(super) fn set_peek_offset(fd: BorrowedFd<'_>, offset: i32) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, offset)
}

/// `UDP_GRO`: datagrams of the same size may be received together.
pub(super) fn set_udp_gro(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// `IP_RECVERR`: what ICMP says of what was sent waits in a queue of its own.
pub(super) fn keep_errors(fd: BorrowedFd<'_>, family: Family) -> io::Result<()> {
    match family {
        Family::V4 => set_option(fd, libc::IPPROTO_IP, libc::IP_RECVERR, 1),
        Family::V6 => set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1),
    }
}

/// `IP_RECVTTL`: what is received tells how far it has come.
pub(super) fn tell_hop_limit(fd: BorrowedFd<'_>, family: Family) -> io::Result<()> {
    match family {
        Family::V4 => set_option(fd, libc::IPPROTO_IP, libc::IP_RECVTTL, 1),
        Family::V6 => set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1),
    }
}

/// `IP_TTL`: the hop limit of all that is sent.
pub(super) fn set_hop_limit(fd: BorrowedFd<'_>, family: Family, hop_limit: u8) -> io::Result<()> {
    match family {
        Family::V4 => set_option(fd, libc::IPPROTO_IP, libc::IP_TTL, hop_limit.into()),
        Family::V6 => set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, hop_limit.into()),
    }
}

/// `IP_MTU_DISCOVER`: whether what is sent may be fragmented. IPv4's routers may then, so that the mark that forbids it is not set; those of
/// IPv6 never do, so that the kernel must know what the way takes.
pub(super) fn set_dont_fragment(fd: BorrowedFd<'_>, family: Family, dont: bool) -> io::Result<()> {
    match (family, dont) {
        (Family::V4, true) => set_option(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO),
        (Family::V4, false) => set_option(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT),
        (Family::V6, true) => set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO),
        (Family::V6, false) => set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_WANT),
    }
}

/// Has the runtime watch a descriptor that becomes readable.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is the same open descriptor until it is dropped, and that takes it out of the runtime first.
    unsafe { AsyncFd::register(fd) }.map_err(|error| error.into_parts().1)
}

fn set_option(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the option value is an int, and its length is told.
    let result = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size_of::<libc::c_int>() as libc::socklen_t)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn get_option<T>(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: &mut T) -> io::Result<()> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, which is the size of the value, and callers pass plain integers only.
    let result = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, ptr::from_mut(value).cast(), &raw mut len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A control buffer, aligned as `struct cmsghdr` must be.
#[repr(align(8))]
struct Control([u8; CONTROL_SPACE]);

/// Likewise for an error.
#[repr(align(8))]
struct ErrorControl([u8; ERROR_CONTROL_SPACE]);

fn empty_message() -> libc::msghdr {
    // SAFETY: all-zero bytes are a valid msghdr: null pointers and zero lengths.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(len) = usize::try_from(call()) {
            return Ok(len);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
