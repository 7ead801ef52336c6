//! The system calls of the data path, with raw scatter-gather lists. Each returns at once and maps `EINTR` away.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use socket2::{SockAddr, SockAddrStorage};
use tokio::io::unix::AsyncFd;

use super::Received;
use crate::frame::{Chunk, ChunkMut};

/// Room for the control messages that are sent and received here: one `int`.
const CONTROL_SPACE: usize = 64;

/// `sendmsg(2)`.
pub(super) fn send(fd: BorrowedFd<'_>, data: &[Chunk<'_>]) -> io::Result<usize> {
    let mut message = empty_message();
    message.msg_iov = data.as_ptr().cast_mut().cast();
    message.msg_iovlen = data.len() as _;
    send_message(fd, &message)
}

/// `sendmsg(2)` to an address, as several datagrams of `segment` bytes each if that is set.
pub(super) fn send_to(fd: BorrowedFd<'_>, to: SocketAddr, data: &[Chunk<'_>], segment: Option<u16>) -> io::Result<()> {
    let to = SockAddr::from(to);
    let mut control = Control([0; CONTROL_SPACE]);
    let mut message = empty_message();
    message.msg_name = to.as_ptr().cast_mut().cast();
    message.msg_namelen = to.len();
    message.msg_iov = data.as_ptr().cast_mut().cast();
    message.msg_iovlen = data.len() as _;
    if let Some(segment) = segment {
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE only computes; CMSG_FIRSTHDR points into `control`, which is aligned for a cmsghdr and larger than the
        // space for an u16; the header and the data lie within it.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(size_of::<u16>() as u32) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_UDP;
            (*header).cmsg_type = libc::UDP_SEGMENT;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as _;
            ptr::copy_nonoverlapping(segment.to_ne_bytes().as_ptr(), libc::CMSG_DATA(header), size_of::<u16>());
        }
    }
    send_message(fd, &message).map(|_| ())
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
    let mut segment = None;
    // SAFETY: the kernel has filled the control buffer and set its length; the macros stay within it, and the data of UDP_GRO is an int.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_UDP && (*header).cmsg_type == libc::UDP_GRO {
                let size = ptr::read_unaligned(libc::CMSG_DATA(header).cast::<libc::c_int>());
                segment = u16::try_from(size).ok().filter(|size| *size > 0 && usize::from(*size) < len);
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok(Received { len, from, segment })
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
