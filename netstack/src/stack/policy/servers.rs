//! The virtual hosts of forwards from guests and of the SMB server. What they serve is there for restricted guests too: whoever has set it
//! up has allowed it. They serve nothing else.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use super::Verdict;
use crate::addr::MacAddr;
use crate::config::{Config, GuestTarget, SMB_PORTS};
use crate::host::StreamService;

/// The port of HTTP (RFC 9110 section 4.2.1).
const HTTP_PORT: u16 = 80;

/// What is behind which port of which address.
#[derive(Debug, Clone, Default)]
pub(super) struct Servers {
    served: BTreeMap<SocketAddr, Verdict>,
    /// Their addresses and cards, sorted: every frame is held against them.
    addresses: Vec<IpAddr>,
    cards: Vec<MacAddr>,
    /// The sockets of AF_UNIX that some of them lead to.
    paths: Vec<PathBuf>,
}

impl Servers {
    /// What a configuration names on purpose. `gateways` are all addresses of the gateway.
    pub(super) fn new<'a>(config: &Config, gateways: impl IntoIterator<Item = &'a IpAddr>) -> Self {
        let mut servers = Self::default();
        for (number, forward) in (0..).zip(&config.guest_forwards) {
            let Some(address) = config.guest_forward_address(forward) else { continue };
            let verdict = match &forward.target {
                GuestTarget::Tcp(target) => Verdict::Host(*target),
                GuestTarget::Unix(path) => {
                    servers.paths.push(path.clone());
                    Verdict::Local(servers.paths.len() as u16 - 1)
                }
                GuestTarget::Command(_) | GuestTarget::Hook(_) => Verdict::Service(StreamService::GuestForward(number)),
            };
            servers.served.entry(address).or_insert(verdict);
        }
        if let Some(address) = config.smb_address() {
            for port in SMB_PORTS {
                let verdict = Verdict::Service(StreamService::Smb(port));
                servers.served.entry(SocketAddr::new(address.into(), port)).or_insert(verdict);
            }
        }
        if config.boot.http_root.is_some() {
            for gateway in gateways {
                servers.served.insert(SocketAddr::new(*gateway, HTTP_PORT), Verdict::Service(StreamService::Http));
            }
        }
        servers.addresses = config.server_addresses().collect();
        servers.addresses.sort_unstable();
        servers.addresses.dedup();
        servers.cards = servers.addresses.iter().map(|ip| MacAddr::of_virtual_host(*ip)).collect();
        servers.cards.sort_unstable();
        servers
    }

    /// Where what a guest sends to this address and port goes.
    pub(super) fn behind(&self, destination: SocketAddr) -> Option<Verdict> {
        self.served.get(&destination).copied()
    }

    pub(super) fn has(&self, ip: IpAddr) -> bool {
        self.addresses.binary_search(&ip).is_ok()
    }

    pub(super) fn has_card(&self, mac: MacAddr) -> bool {
        self.cards.binary_search(&mac).is_ok()
    }

    /// The socket with this number.
    pub(super) fn path(&self, number: u16) -> Option<&Path> {
        self.paths.get(usize::from(number)).map(PathBuf::as_path)
    }
}
