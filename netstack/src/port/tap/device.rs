//! The system calls of a tap device, and what their errors mean to a user.
//!
//! The interface is that of `linux/if_tun.h`, described in the kernel's `Documentation/networking/tuntap.rst`.

use std::ffi::c_int;
use std::fs::OpenOptions;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::frame::{Offloads, vnet};

const CONTROL: &str = "/dev/net/tun";

const FLAGS: c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// Why a tap device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// No `/dev/net/tun`, or nothing behind it.
    #[error(
        "there is no {CONTROL} to make tap device with: load the kernel module (`modprobe tun` as root), or, inside of a container, hand \
         the device in (such as with `--device {CONTROL}`)"
    )]
    NoControl(#[source] io::Error),
    /// `/dev/net/tun` may not be opened.
    #[error(
        "{CONTROL} may not be opened by this user: its permissions are usually 0666 (`chmod 0666 {CONTROL}` as root); inside of a \
         container, its device rules must allow it too"
    )]
    ControlForbidden(#[source] io::Error),
    /// `/dev/net/tun` cannot be opened for another reason.
    #[error("cannot open {CONTROL}")]
    Control(#[source] io::Error),
    /// The name is not one that an interface can have.
    #[error("`{0}` cannot be the name of an interface: it takes 1 to 15 bytes without `/`, `:` and spaces")]
    BadName(String),
    /// The caller has no say over its network namespace.
    #[error(
        "not allowed to make tap device `{name}`: it takes CAP_NET_ADMIN over the network namespace, which every user has in a \
         namespace of their own (such as that of `slipway shell`); or have root make it for this user: `ip tuntap add {name} mode tap \
         vnet_hdr user $USER`"
    )]
    Forbidden {
        /// The interface.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Somebody else uses the device.
    #[error("tap device `{name}` is in use by another program: end that one, or choose another name")]
    Busy {
        /// The interface.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The name belongs to something that is no tap device of our kind.
    #[error(
        "interface `{name}` exists and is no tap device with IFF_NO_PI and IFF_VNET_HDR: choose another name, or make it so with `ip \
         tuntap add {name} mode tap vnet_hdr`"
    )]
    NotATap {
        /// The interface.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A call that should not fail did.
    #[error("cannot {doing} of tap device `{name}`")]
    Setup {
        /// What was being done.
        doing: &'static str,
        /// The interface.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A descriptor that was handed in is not an open tap device of our kind.
    #[error("the descriptor is no tap device that was opened with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR")]
    ForeignDescriptor(#[source] io::Error),
}

/// Opens the device that makes devices.
pub(super) fn open_control() -> Result<OwnedFd, TapError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(CONTROL)
        .map(OwnedFd::from)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO | libc::ENOTDIR) => TapError::NoControl(error),
            Some(libc::EACCES | libc::EPERM) => TapError::ControlForbidden(error),
            _ => TapError::Control(error),
        })
}

/// Makes the descriptor one of tap device `name`; returns the name that the device really has.
pub(super) fn attach(fd: &OwnedFd, name: &str) -> Result<String, TapError> {
    let bad = || TapError::BadName(name.to_owned());
    if name.len() >= libc::IFNAMSIZ
        || name.contains(['/', ':', '\0'])
        || name.contains(char::is_whitespace)
        || matches!(name, "." | "..")
    {
        return Err(bad());
    }
    let mut request = request();
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = flags();
    // SAFETY: TUNSETIFF reads and writes a `struct ifreq`, which lives through the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    let name = name.to_owned();
    check(result).map_err(|source| match source.raw_os_error() {
        Some(libc::EPERM) => TapError::Forbidden { name, source },
        Some(libc::EBUSY) => TapError::Busy { name, source },
        Some(libc::EINVAL | libc::EEXIST) => TapError::NotATap { name, source },
        _ => TapError::Setup { doing: "set the mode", name, source },
    })?;
    Ok(name_of(&request))
}

/// The name of the device that the descriptor belongs to, if it is one that was opened as we do it. Makes it non-blocking.
pub(super) fn inspect(fd: &OwnedFd) -> Result<String, TapError> {
    let mut request = request();
    // SAFETY: TUNGETIFF writes a `struct ifreq`, which lives through the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request) };
    check(result).map_err(TapError::ForeignDescriptor)?;
    // SAFETY: the kernel has written the flags.
    let found = unsafe { request.ifr_ifru.ifru_flags };
    if found & (flags() | libc::IFF_TUN as i16) != flags() {
        return Err(TapError::ForeignDescriptor(io::ErrorKind::InvalidInput.into()));
    }
    let name = name_of(&request);
    rustix::io::ioctl_fionbio(fd.as_fd(), true).map_err(|error| TapError::Setup {
        doing: "make the descriptor non-blocking",
        name: name.clone(),
        source: error.into(),
    })?;
    Ok(name)
}

/// Sets the form of the header, and what the kernel may leave to us in frames that it sends. Returns what we may leave to the kernel.
pub(super) fn configure(fd: &OwnedFd, name: &str) -> Result<Offloads, TapError> {
    let failed = |doing| move |source| TapError::Setup { doing, name: name.to_owned(), source };
    set_int(fd, libc::TUNSETVNETHDRSZ, vnet::HEADER as c_int).map_err(failed("set the header length"))?;
    set_int(fd, libc::TUNSETVNETLE, 1).map_err(failed("set the byte order"))?;

    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    let udp = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    match set_offload(fd, tcp | udp) {
        Ok(()) => Ok(Offloads::ALL),
        // Linux before 6.2 knows no UDP segmentation here.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            set_offload(fd, tcp).map_err(failed("set the offloads"))?;
            Ok(Offloads { uso: false, ..Offloads::ALL })
        }
        Err(error) => Err(failed("set the offloads")(error)),
    }
}

/// Reads one frame with its header.
pub(super) fn read(fd: &OwnedFd, into: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the buffer is writable for its whole length.
        let result = unsafe { libc::read(fd.as_raw_fd(), into.as_mut_ptr().cast(), into.len()) };
        match usize::try_from(result) {
            Ok(len) => return Ok(len),
            Err(_) => retry_if_interrupted()?,
        }
    }
}

/// Writes one frame with its header. A device takes all of it or nothing.
pub(super) fn write(fd: &OwnedFd, frame: &[u8]) -> io::Result<()> {
    loop {
        // SAFETY: the buffer is readable for its whole length.
        let result = unsafe { libc::write(fd.as_raw_fd(), frame.as_ptr().cast(), frame.len()) };
        if result >= 0 {
            return Ok(());
        }
        retry_if_interrupted()?;
    }
}

/// Has the interface see its link up or down (Linux 5.0).
pub(super) fn set_carrier(fd: &OwnedFd, up: bool) -> io::Result<()> {
    set_int(fd, libc::TUNSETCARRIER, c_int::from(up))
}

fn retry_if_interrupted() -> io::Result<()> {
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}

fn set_int(fd: &OwnedFd, request: libc::Ioctl, value: c_int) -> io::Result<()> {
    // SAFETY: these requests read an `int`, which lives through the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw const value) })
}

fn set_offload(fd: &OwnedFd, offloads: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) })
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const fn request() -> libc::ifreq {
    // SAFETY: a `struct ifreq` is plain data for which zeroes are valid.
    unsafe { mem::zeroed() }
}

/// The flags as `struct ifreq` has them. IFF_VNET_HDR is 0x4000, so they fit.
const fn flags() -> i16 {
    FLAGS as i16
}

fn name_of(request: &libc::ifreq) -> String {
    let bytes: Vec<u8> = request.ifr_name.iter().map(|&c| c.cast_unsigned()).take_while(|&c| c != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
