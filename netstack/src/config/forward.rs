//! Forwards: what of the host leads to a guest.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP (RFC 9293).
    Tcp,
    /// UDP (RFC 768).
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// Something of the host that leads to a guest: a port, a range of ports, or a UNIX socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostForward {
    /// What clients connect to.
    pub host: HostSide,
    /// The guest's address; `None` means the first address of DHCP (IPv4), as in QEMU.
    pub guest: Option<IpAddr>,
    /// The port in the guest, the first of as many as the host's side has.
    pub guest_port: u16,
}

/// The host's side of a forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostSide {
    /// Ports that follow each other, on the host and in the guest alike.
    Ports {
        /// TCP or UDP.
        protocol: Protocol,
        /// The address to listen on.
        address: IpAddr,
        /// The only interface to be reached by, if it is to be only one (`SO_BINDTODEVICE`).
        interface: Option<String>,
        /// The first port to listen on; 0 means any free one, and then there is only one.
        first: u16,
        /// How many ports: at least 1.
        count: u16,
    },
    /// A stream socket in the file system, whose connections are TCP connections in the guest. The path is absolute and has at most
    /// [`SOCKET_PATH_MAX`] bytes.
    Unix(PathBuf),
}

/// The longest path of a socket in the file system, in bytes: `struct sockaddr_un` has 108, with a zero at the end.
pub const SOCKET_PATH_MAX: usize = 107;

impl HostForward {
    /// One port of the host that leads to where DHCP leases first.
    pub const fn of_port(protocol: Protocol, host: SocketAddr, guest_port: u16) -> Self {
        let (address, first) = (host.ip(), host.port());
        Self { host: HostSide::Ports { protocol, address, interface: None, first, count: 1 }, guest: None, guest_port }
    }
}

impl HostSide {
    /// How many ports of the guest it leads to: at least 1.
    pub const fn count(&self) -> u16 {
        match self {
            Self::Ports { count, .. } => *count,
            Self::Unix(_) => 1,
        }
    }

    /// The protocol that the guest sees.
    pub const fn protocol(&self) -> Protocol {
        match self {
            Self::Ports { protocol, .. } => *protocol,
            Self::Unix(_) => Protocol::Tcp,
        }
    }

    /// The first address to connect to; `None` for a UNIX socket.
    pub const fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Ports { address, first, .. } => Some(SocketAddr::new(*address, *first)),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for HostSide {
    /// For people. The form that can be read again is that of [`HostForward`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports { protocol, address, interface, first, count } => {
                write!(f, "{protocol} {}", SocketAddr::new(*address, *first))?;
                if *count > 1 {
                    write!(f, "-{}", first.saturating_add(count - 1))?;
                }
                interface.iter().try_for_each(|interface| write!(f, " on {interface}"))
            }
            Self::Unix(path) => write!(f, "UNIX {}", path.display()),
        }
    }
}
