//! The guests: their leases, their ports, and the links of those.

use std::fmt::Display;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::control::{Command, Nothing, Refused};
use crate::engine::{Handle, PortName};
use crate::gateway::lease::{Lease, LeaseState};
use crate::time::Instant;

/// Tells all leases of DHCP and DHCPv6.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListLeases {}

/// All DHCP leases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeaseTable {
    /// In the order of their addresses, those of DHCPv6 last.
    pub leases: Vec<LeaseEntry>,
}

/// What is known of an address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeaseEntry {
    /// The address.
    pub address: IpAddr,
    /// The client's hardware address.
    pub mac: String,
    /// Who the client is, as it says: its hardware address, or its client identifier or DUID in hexadecimal digits.
    pub client: String,
    /// What it calls itself.
    pub hostname: Option<String>,
    /// What became of the address: offered, bound, released, expired or declined.
    pub state: String,
    /// For how many seconds this is so, unless something happens; 0 if it is over.
    pub expires_in: f64,
}

impl LeaseEntry {
    pub(crate) fn new<Address: Copy + Into<IpAddr>, Client: Display>(lease: &Lease<Address, Client>, now: Instant) -> Self {
        Self {
            address: lease.address.into(),
            mac: lease.mac.to_string(),
            client: lease.client.to_string(),
            hostname: lease.hostname.clone(),
            state: state_at(lease.state, lease.expires, now),
            expires_in: lease.expires.since(now).as_secs_f64(),
        }
    }
}

fn state_at(state: LeaseState, expires: Instant, now: Instant) -> String {
    let state = match state {
        LeaseState::Offered => "offered",
        LeaseState::Bound if now >= expires => "expired",
        LeaseState::Bound => "bound",
        LeaseState::Released => "released",
        LeaseState::Expired => "expired",
        LeaseState::Declined => "declined",
    };
    state.to_owned()
}

impl Command for ListLeases {
    const NAME: &'static str = "leases";
    type Reply = LeaseTable;

    async fn run(self, engine: &Handle) -> Result<LeaseTable, Refused> {
        Ok(LeaseTable { leases: engine.lease_table().await? })
    }
}

/// Tells all ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListPorts {}

/// All ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortTable {
    /// In the order of their numbers.
    pub ports: Vec<PortEntry>,
}

/// A port: a guest's network card, seen from the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortEntry {
    /// Its number.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// Whether its link is up.
    pub up: bool,
    /// The largest IP packet that it takes in one frame, in bytes.
    pub mtu: u16,
    /// What the guest takes unfinished: checksum, tso4, tso6, uso.
    pub offloads: Vec<String>,
    /// Frames that its side has refused.
    pub dropped: u64,
}

impl Command for ListPorts {
    const NAME: &'static str = "ports";
    type Reply = PortTable;

    async fn run(self, engine: &Handle) -> Result<PortTable, Refused> {
        Ok(PortTable { ports: engine.ports().await? })
    }
}

/// Takes the link of a port down, or up again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetLink {
    /// The port, by number or name.
    pub port: PortName,
    /// Whether it is to be up.
    pub up: bool,
}

impl Command for SetLink {
    const NAME: &'static str = "set_link";
    type Reply = Nothing;

    async fn run(self, engine: &Handle) -> Result<Nothing, Refused> {
        let set = engine.set_link(self.port, self.up).await?;
        set.map(|()| Nothing {}).map_err(|error| Refused::argument("port", error))
    }
}
