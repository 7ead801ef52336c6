//! Which address a client of DHCPv6 gets. Who has which is in the [table](crate::gateway::lease) that DHCP has too, where each identity
//! association of a client is one.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv6Addr;

use super::request::{Association, Request};
use crate::addr::MacAddr;
use crate::config::Ipv6Config;
use crate::gateway::lease::{self, Claim, LARGEST_POOL, STATION_LEASES, Table};
use crate::time::Instant;

/// Who a client is: its DHCP unique identifier (RFC 8415 section 11), a type of two bytes and 1 to 128 bytes more.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duid(Box<[u8]>);

impl Duid {
    /// The identifier in an option, if it is one.
    pub(super) fn new(bytes: &[u8]) -> Option<Self> {
        (3..=130).contains(&bytes.len()).then(|| Self(bytes.into()))
    }

    /// As it stands in a message.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Duid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Duid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        lease::write_identifier(f, &self.0)
    }
}

/// Whom an address is for: one of the interfaces of a client (RFC 8415 section 12).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Who the client is.
    pub duid: Duid,
    /// Which of its interfaces.
    pub iaid: u32,
}

impl fmt::Display for Identity {
    /// The client alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.duid, f)
    }
}

/// What is known of an address.
pub type Lease = lease::Lease<Ipv6Addr, Identity>;

/// Who wants an address. Its hardware address is that of the card by which it asks.
pub(super) type Client = Claim<Identity>;

impl Client {
    /// The client for one of the associations that it asks for; `None` if it does not say who it is.
    pub(super) fn of(request: &Request, association: &Association, station: MacAddr) -> Option<Self> {
        let client = Identity { duid: request.client.clone()?, iaid: association.iaid };
        Some(Self { client, mac: station, station, hostname: request.hostname.clone(), firmware: request.firmware })
    }
}

/// The leases, and the rules by which they are given. The addresses are far from where guests that choose theirs themselves choose them.
#[derive(Debug)]
pub(super) struct Leases {
    table: Table<Ipv6Addr, Identity>,
}

impl Leases {
    /// No leases. The addresses of `servers` are not for guests either.
    pub(super) fn new(ipv6: &Ipv6Config, servers: impl IntoIterator<Item = Ipv6Addr>) -> Self {
        // The first address of a prefix is that of its routers (RFC 4291 section 2.6.1).
        let fixed = [ipv6.gateway, ipv6.dns, ipv6.prefix.network()];
        let reserved: BTreeSet<_> = servers.into_iter().chain(fixed).collect();
        let first = u128::from(ipv6.dhcp_start);
        let free = (first..=first.saturating_add(LARGEST_POOL as u128 + reserved.len() as u128))
            .map(Ipv6Addr::from)
            .filter(|address| ipv6.prefix.contains(address) && !reserved.contains(address))
            .take(LARGEST_POOL)
            .collect();
        Self { table: Table::new(free, BTreeSet::new()) }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.table.iter()
    }

    pub(super) fn get(&self, address: Ipv6Addr) -> Option<&Lease> {
        self.table.get(address)
    }

    /// Ends what ends by itself by `now`.
    pub(super) fn expire(&mut self, now: Instant) {
        self.table.expire(now);
    }

    /// The address that this client gets: the one that it has or had, else one that it asks for, else one that nobody has had, else the
    /// one that has been without a client for the longest time. `None` if there is none, or its station has as many as one may have.
    pub(super) fn choose(&self, client: &Client, wanted: &[Ipv6Addr]) -> Option<Ipv6Addr> {
        let wanted = || wanted.iter().copied().find(|address| self.table.is_free(*address));
        let chosen = self.own(client).or_else(wanted).or_else(|| self.table.any())?;
        self.admits(chosen, client).then_some(chosen)
    }

    /// The address that a client which says that it has one keeps: its own, or, when the server knows of none, one of those that it names
    /// and nobody has.
    pub(super) fn keep(&self, client: &Client, named: &[Ipv6Addr]) -> Option<Ipv6Addr> {
        let unknown = || named.iter().copied().find(|address| self.table.is_free(*address));
        let kept = self.own(client).or_else(unknown)?;
        self.admits(kept, client).then_some(kept)
    }

    /// Holds `address` for the client until `until`. A lease in force stays what it is.
    pub(super) fn offer(&mut self, address: Ipv6Addr, client: Client, now: Instant, until: Instant) {
        let own = self.own(&client);
        self.table.offer(address, own, client, now, until);
    }

    /// Leases `address` to the client until `until`.
    pub(super) fn bind(&mut self, address: Ipv6Addr, client: Client, now: Instant, until: Instant) {
        let own = self.own(&client);
        self.table.bind(address, own, client, now, until);
    }

    /// Takes the address back from the client. Returns whether it was the client's.
    pub(super) fn release(&mut self, client: &Client, address: Ipv6Addr, now: Instant) -> bool {
        let own = self.table.of_client(&client.client);
        self.table.release(address, own, now)
    }

    /// Leases the address to nobody until `until`. Returns whether it was the client's.
    pub(super) fn decline(&mut self, client: &Client, address: Ipv6Addr, until: Instant) -> bool {
        let own = self.table.of_client(&client.client);
        self.table.decline(address, own, until)
    }

    /// The address of the client's record. A client of whom nothing is known is the one that was last known by the same card, if one of
    /// the two is boot firmware: what a guest boots by and what it boots have identities of their own, and are to have one address.
    fn own(&self, client: &Client) -> Option<Ipv6Addr> {
        if let Some(address) = self.table.of_client(&client.client) {
            return Some(address);
        }
        let lease = self.table.of_mac(client.station)?;
        (lease.client.duid != client.client.duid && (lease.firmware || client.firmware)).then_some(lease.address)
    }

    /// Whether the client's station may have one more lease, if this is one more.
    fn admits(&self, address: Ipv6Addr, client: &Client) -> bool {
        let counted = |lease: &Lease| lease.is_counted() && lease.mac == client.station;
        self.table.count(client.station) < STATION_LEASES || self.table.get(address).is_some_and(counted)
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Leases {
    /// Panics unless the table agrees with itself, and no station has more than it may.
    pub(super) fn check(&self) {
        self.table.check(|_| true);
        assert!(self.table.largest_count() <= STATION_LEASES);
    }
}
