//! Addresses of the guests' network behind which something of the host's side is: forwards from guests, and the SMB server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::{Config, Ipv4Config};

/// A port of a virtual host that leads to somewhere on the host's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestForward {
    /// The address that guests connect to; `None` means the fourth of their IPv4 network, as in QEMU. Several may share one.
    pub server: Option<IpAddr>,
    /// The TCP port that guests connect to: 1 or more.
    pub port: u16,
    /// Where it leads.
    pub target: GuestTarget,
}

/// Where a forward from guests leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestTarget {
    /// To a TCP server, whatever else guests may reach.
    Tcp(SocketAddr),
    /// To a stream socket of AF_UNIX, by its path.
    Unix(PathBuf),
    /// To a command, started by `/bin/sh -c` for each connection, which is its standard input and output.
    Command(String),
    /// To a hook of this name, which the embedder has given to [`Builder::stream_hook`](crate::engine::Builder::stream_hook).
    Hook(String),
}

/// The SMB server that guests find at ports 139 and 445 of its address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SmbConfig {
    /// The directory that is shared, as `qemu`. With `None`, and without a [hook](crate::engine::Builder::smb_hook), nobody serves: guests
    /// are refused at once.
    pub directory: Option<PathBuf>,
    /// The server's address; `None` means the fourth of the guests' IPv4 network, as in QEMU.
    pub server: Option<Ipv4Addr>,
    /// The oldest dialect that is spoken, in the words of smb.conf(5), such as `NT1` or `SMB3_00`; `None` leaves it to the server.
    pub min_protocol: Option<String>,
}

/// The ports of an SMB server: over NetBIOS (RFC 1002), and directly.
pub const SMB_PORTS: [u16; 2] = [139, 445];

impl Ipv4Config {
    /// The address at which guests find what is offered without naming an address: the fourth of the network, 10.0.2.4.
    pub fn default_server(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.net.network()) | (0x0204 & u32::from(self.net.hostmask())))
    }
}

impl Config {
    /// The address and port of a forward from guests. `None` if it has the default address and IPv4 is off.
    pub fn guest_forward_address(&self, forward: &GuestForward) -> Option<SocketAddr> {
        let default = || self.ipv4.as_ref().map(|ipv4| ipv4.default_server().into());
        Some(SocketAddr::new(forward.server.or_else(default)?, forward.port))
    }

    /// The address of the SMB server. `None` if there is none, or IPv4 is off.
    pub fn smb_address(&self) -> Option<Ipv4Addr> {
        let ipv4 = self.ipv4.as_ref()?;
        self.smb.as_ref().map(|smb| smb.server.unwrap_or_else(|| ipv4.default_server()))
    }

    /// The addresses of the virtual hosts that are there by [`Config::guest_forwards`] and [`Config::smb`], some perhaps twice.
    pub fn server_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let forwards = self.guest_forwards.iter().filter_map(|forward| self.guest_forward_address(forward));
        forwards.map(|address| address.ip()).chain(self.smb_address().map(IpAddr::from))
    }
}
