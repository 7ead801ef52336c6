//! The ports of an engine and their links, for people to look at and to take down.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Engine;
use super::handle::{Command, EngineGone, Handle};
use crate::control::{LeaseEntry, PortEntry};
use crate::port::PortId;
use crate::stack::Context;

/// A port, as people name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PortName {
    /// By its number.
    Number(u16),
    /// By its name, such as `tap0`; or by its number in digits, if none has that name.
    Name(String),
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// There is no such port, or several have that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is {} port {name}; there are {}", if *several { "more than one" } else { "no" }, list(ports))]
pub struct NoSuchPort {
    name: PortName,
    several: bool,
    ports: Vec<(u16, String)>,
}

fn list(ports: &[(u16, String)]) -> String {
    match ports {
        [] => "none at all".to_owned(),
        ports => ports.iter().map(|(id, name)| format!("{id} ({name})")).collect::<Vec<_>>().join(", "),
    }
}

impl Engine {
    pub(super) fn port_table(&mut self) -> Vec<PortEntry> {
        let egresses = self.switch.egress();
        let mut table: Vec<_> = self
            .ports
            .iter()
            .map(|port| {
                let (up, dropped) = (egresses.is_up(port.id), egresses.get(port.id).map_or(0, |egress| egress.dropped()));
                let offloads = crate::switch::Link::offloads(egresses, port.id);
                PortEntry {
                    id: port.id.0,
                    name: port.name.clone(),
                    up,
                    mtu: crate::switch::Link::mtu(egresses, port.id),
                    offloads: [
                        ("checksum", offloads.checksum),
                        ("tso4", offloads.tso4),
                        ("tso6", offloads.tso6),
                        ("uso", offloads.uso),
                    ]
                    .into_iter()
                    .filter(|(_, has)| *has)
                    .map(|(name, _)| name.to_owned())
                    .collect(),
                    dropped,
                }
            })
            .collect();
        table.sort_by_key(|port| port.id);
        table
    }

    fn find_port(&self, name: &PortName) -> Result<PortId, NoSuchPort> {
        let named: Vec<_> = match name {
            PortName::Number(number) => self.ports.iter().filter(|port| port.id.0 == *number).collect(),
            PortName::Name(name) => self.ports.iter().filter(|port| port.name == *name).collect(),
        };
        match (named.as_slice(), name) {
            ([port], _) => Ok(port.id),
            ([], PortName::Name(digits)) if digits.parse::<u16>().is_ok() => {
                self.find_port(&PortName::Number(digits.parse().unwrap_or_default()))
            }
            (ports, _) => {
                let mut all: Vec<_> = self.ports.iter().map(|port| (port.id.0, port.name.clone())).collect();
                all.sort();
                Err(NoSuchPort { name: name.clone(), several: !ports.is_empty(), ports: all })
            }
        }
    }

    /// Takes a link down or up. While it is down, what its guest sends is dropped, and what is for the guest waits.
    pub(super) fn set_link(&mut self, name: &PortName, up: bool) -> Result<(), NoSuchPort> {
        let port = self.find_port(name)?;
        if self.switch.egress().is_up(port) == up {
            return Ok(());
        }
        self.switch.egress().set_link(port, up);
        tracing::info!(port = %name, up, "link");
        if up {
            let now = self.now;
            let Self { stack, host, switch, gateway, .. } = self;
            stack.port_writable(port);
            // As for a port that is new: the guest may have come from another network.
            stack.port_added(&mut Context { now, link: switch.egress(), host, services: gateway }, port);
        }
        Ok(())
    }

    pub(super) fn lease_table(&self) -> Vec<LeaseEntry> {
        let v4 = self.gateway.leases(self.now);
        let v6 = self.gateway.leases6();
        let v6 = v6.iter().map(|lease| LeaseEntry::new(lease, self.now));
        v4.iter().map(|lease| LeaseEntry::new(lease, self.now)).chain(v6).collect()
    }
}

impl Handle {
    /// The ports.
    ///
    /// # Errors
    ///
    /// When the engine has ended.
    pub async fn ports(&self) -> Result<Vec<PortEntry>, EngineGone> {
        self.ask(Command::Ports).await
    }

    /// Takes the link of a port down, or up again. While it is down, what its guest sends is dropped and counted; connections wait.
    ///
    /// # Errors
    ///
    /// When the engine has ended; the inner result when there is no such port.
    pub async fn set_link(&self, port: PortName, up: bool) -> Result<Result<(), NoSuchPort>, EngineGone> {
        self.ask(|reply| Command::SetLink { port, up, reply }).await
    }
}
