//! The forwards of an engine: each with a number by which it can be removed, whatever of the host it takes.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::Engine;
use super::handle::{Command, EngineGone, Handle};
use crate::config::qemu::OptionError;
use crate::config::{HostForward, HostSide, qemu};
use crate::stack::{Context, ForwardSocket, Listen};

/// The number of a forward. They count from 1, and none is given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ForwardId(pub u32);

impl fmt::Display for ForwardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A forward that is in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundForward {
    /// By what it can be removed.
    pub id: ForwardId,
    /// What of the host it takes, with the port that was chosen if any free one was asked for.
    pub host: HostSide,
    /// The guest's address, and the first port there.
    pub guest: SocketAddr,
}

impl fmt::Display for BoundForward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.host, self.guest)?;
        match self.host.count() {
            0 | 1 => Ok(()),
            count => write!(f, "-{}", self.guest.port().saturating_add(count - 1)),
        }
    }
}

/// Why a forward was not made.
#[derive(Debug, thiserror::Error)]
pub enum ForwardRefused {
    /// The host refuses the port or the path.
    #[error("cannot forward {host}: {}", why_not_bound(host, source))]
    NotBound {
        /// What was to be taken; of a range, the port that could not be.
        host: HostSide,
        /// What the kernel said.
        source: io::Error,
    },
    /// It leads to a guest network that is switched off.
    #[error("the forward of {0} has no guest to lead to, because IPv4 is off: name a guest address")]
    NoGuest(HostSide),
    /// It leads to what is no guest.
    #[error(transparent)]
    Rule(#[from] OptionError),
    /// There is no engine that could.
    #[error(transparent)]
    Gone(#[from] EngineGone),
}

fn why_not_bound(host: &HostSide, error: &io::Error) -> String {
    let told = match host {
        HostSide::Ports { address, interface, first, .. } => why_no_port(*address, interface.as_deref(), *first, error),
        HostSide::Unix(_) => why_no_socket(error).map(str::to_owned),
    };
    told.unwrap_or_else(|| match error.raw_os_error() {
        Some(libc::EMFILE) => "this process has as many files open as it may; raise the limit (`ulimit -n`)".to_owned(),
        _ => error.to_string(),
    })
}

fn why_no_port(address: IpAddr, interface: Option<&str>, port: u16, error: &io::Error) -> Option<String> {
    Some(match (error.kind(), error.raw_os_error(), interface) {
        (_, Some(libc::ENODEV), Some(interface)) => format!("this machine has no interface {interface}; `ip link` lists them"),
        (_, Some(libc::EPERM), Some(_)) => {
            "this kernel lets only root bind to an interface (others since Linux 5.7); name an address instead".to_owned()
        }
        (io::ErrorKind::AddrInUse, ..) => {
            format!("port {port} is taken by another program; choose another one, or end that program")
        }
        (io::ErrorKind::PermissionDenied, ..) => {
            format!("port {port} is privileged; choose one from 1024 on, or lower net.ipv4.ip_unprivileged_port_start")
        }
        (io::ErrorKind::AddrNotAvailable, ..) => format!("{address} is no address of this machine"),
        (_, Some(libc::EINVAL), None) if is_link_local(address) => {
            format!("{address} is on every link; name the interface too, such as [{address}%eth0]")
        }
        _ => return None,
    })
}

const fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn why_no_socket(error: &io::Error) -> Option<&'static str> {
    Some(match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens there already; choose another path, or end that program",
        io::ErrorKind::AlreadyExists => {
            "there is a file which is no socket, so it is left alone; remove it, or choose another path"
        }
        io::ErrorKind::NotFound => "its directory is not there; make it first",
        io::ErrorKind::PermissionDenied => "you may not make a file there; choose a path in a directory that you may write to",
        io::ErrorKind::InvalidFilename => "the path is too long; choose one of at most 107 bytes",
        _ => return None,
    })
}

/// All forwards that are in place.
#[derive(Debug, Default)]
pub(super) struct Forwards {
    forwards: BTreeMap<ForwardId, Forward>,
    last: u32,
}

#[derive(Debug)]
struct Forward {
    bound: BoundForward,
    sockets: Vec<ForwardSocket>,
}

impl Forwards {
    pub(super) fn list(&self) -> Vec<BoundForward> {
        self.forwards.values().map(|forward| forward.bound.clone()).collect()
    }
}

impl Engine {
    /// Puts a forward in place, the whole of it or nothing.
    pub(super) fn add_forward(&mut self, rule: &HostForward) -> Result<BoundForward, ForwardRefused> {
        qemu::check::check_guest(rule, &self.config)?;
        let default = self.config.ipv4.as_ref().map(|ipv4| IpAddr::V4(ipv4.dhcp_start));
        let guest = rule.guest.or(default).ok_or_else(|| ForwardRefused::NoGuest(rule.host.clone()))?;
        let mut sockets = Vec::new();
        match self.bind(rule, guest, &mut sockets) {
            Ok(host) => {
                self.forwards.last += 1;
                let id = ForwardId(self.forwards.last);
                let bound = BoundForward { id, host, guest: SocketAddr::new(guest, rule.guest_port) };
                self.forwards.forwards.insert(id, Forward { bound: bound.clone(), sockets });
                Ok(bound)
            }
            Err(error) => {
                self.end_sockets(sockets, true);
                Err(error)
            }
        }
    }

    /// Binds the sockets of a forward. Returns the host's side as it was really bound.
    fn bind(&mut self, rule: &HostForward, guest: IpAddr, sockets: &mut Vec<ForwardSocket>) -> Result<HostSide, ForwardRefused> {
        let Self { stack, host, .. } = self;
        let refused = |host: HostSide| move |source| ForwardRefused::NotBound { host, source };
        let (protocol, address, interface, first, count) = match &rule.host {
            HostSide::Ports { protocol, address, interface, first, count } => (protocol, address, interface, first, count),
            HostSide::Unix(path) => {
                let listening = stack.forward(host, Listen::Path(path), SocketAddr::new(guest, rule.guest_port));
                sockets.push(listening.map_err(refused(rule.host.clone()))?.0);
                return Ok(rule.host.clone());
            }
        };
        let side =
            |first, count| HostSide::Ports { protocol: *protocol, address: *address, interface: interface.clone(), first, count };
        let mut bound = *first;
        for n in 0..*count {
            let port = first.saturating_add(n);
            let listen = Listen::Port(*protocol, SocketAddr::new(*address, port), interface.as_deref());
            let to = SocketAddr::new(guest, rule.guest_port.saturating_add(n));
            let (socket, address) = stack.forward(host, listen, to).map_err(refused(side(port, 1)))?;
            sockets.push(socket);
            if n == 0 {
                bound = address.map_or(bound, |address| address.port());
            }
        }
        Ok(side(bound, *count))
    }

    /// Takes a forward away; with `flows`, the connections that came by it too. Returns what it was, if it was there.
    pub(super) fn remove_forward(&mut self, id: ForwardId, flows: bool) -> Option<BoundForward> {
        let Forward { bound, sockets } = self.forwards.forwards.remove(&id)?;
        self.end_sockets(sockets, flows);
        tracing::info!("no longer forwarding {bound}");
        Some(bound)
    }

    fn end_sockets(&mut self, sockets: Vec<ForwardSocket>, flows: bool) {
        let now = self.now;
        let Self { stack, host, switch, gateway, .. } = self;
        let mut cx = Context { now, link: switch.egress(), host, services: gateway };
        for socket in sockets {
            stack.end_forward(&mut cx, socket, flows);
        }
    }

    pub(super) fn forward_on_command(&mut self, rule: &HostForward, reply: oneshot::Sender<Result<BoundForward, ForwardRefused>>) {
        let outcome = self.add_forward(rule);
        match &outcome {
            Ok(bound) => tracing::info!("forwarding {bound}"),
            Err(error) => tracing::warn!("{error}"),
        }
        if outcome.is_ok() && rule.guest.is_none() {
            self.warn_of_another_guest();
        }
        // Nobody could remove it whom nobody has told its number.
        if let Err(Ok(bound)) = reply.send(outcome) {
            self.remove_forward(bound.id, true);
        }
    }

    /// A forward without an address leads to where DHCP leases first. Tells whoever looks at the log if the only guest is not there.
    fn warn_of_another_guest(&self) {
        let Some(first) = self.config.ipv4.as_ref().map(|ipv4| ipv4.dhcp_start) else { return };
        if let [lease] = self.gateway.leases(self.now).as_slice()
            && lease.address != first
        {
            let address = lease.address;
            tracing::warn!(
                "the forward leads to {first}, but the only guest with a lease has {address}: name that as guest address"
            );
        }
    }
}

impl Handle {
    /// Forwards something of the host to a guest from now on.
    ///
    /// # Errors
    ///
    /// See [`ForwardRefused`]; nothing is forwarded then.
    pub async fn add_host_forward(&self, rule: HostForward) -> Result<BoundForward, ForwardRefused> {
        self.ask(|reply| Command::AddForward { rule, reply }).await?
    }

    /// Ends a forward at once: nobody can connect any more. Its TCP connections go on, unless `flows` says that they end too. Returns what
    /// it was, or `None` if there is none of that number.
    ///
    /// # Errors
    ///
    /// When the engine has ended.
    pub async fn remove_host_forward(&self, id: ForwardId, flows: bool) -> Result<Option<BoundForward>, EngineGone> {
        self.ask(|reply| Command::RemoveForward { id, flows, reply }).await
    }

    /// The forwards, and what they have really bound, in the order of their numbers.
    ///
    /// # Errors
    ///
    /// When the engine has ended.
    pub async fn host_forwards(&self) -> Result<Vec<BoundForward>, EngineGone> {
        self.ask(Command::Forwards).await
    }
}

#[cfg(test)]
mod tests;
