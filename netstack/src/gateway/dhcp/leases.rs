//! Which address a client of DHCP gets. Who has which is in the [table](crate::gateway::lease) that DHCPv6 has too.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

use super::Refused;
use super::request::Request;
use crate::addr::MacAddr;
use crate::config::Ipv4Config;
use crate::gateway::lease::{self, Claim, LARGEST_POOL, STATION_LEASES, Table};
use crate::time::Instant;

/// Who a client is (RFC 2131 section 4.2).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientId {
    /// Its hardware address: it sent no client identifier.
    Hardware(MacAddr),
    /// Option 61, as it came: 2 to 255 bytes.
    Option(Box<[u8]>),
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hardware(mac) => write!(f, "{mac}"),
            Self::Option(bytes) => lease::write_identifier(f, bytes),
        }
    }
}

/// What is known of an address.
pub type Lease = lease::Lease<Ipv4Addr, ClientId>;

/// The leases, and the rules by which they are given.
#[derive(Debug)]
pub(super) struct Leases {
    net: Ipv4Net,
    /// The addresses that anyone can get, without the reserved ones.
    pool: RangeInclusive<Ipv4Addr>,
    /// Of the virtual hosts and of the clients with a static address.
    reserved: BTreeSet<Ipv4Addr>,
    /// The address that is kept for a hardware address.
    fixed: BTreeMap<MacAddr, Ipv4Addr>,
    table: Table<Ipv4Addr, ClientId>,
}

impl Leases {
    /// No leases. The addresses of `servers` are not for guests either.
    pub(super) fn new(ipv4: &Ipv4Config, static_leases: &[(MacAddr, Ipv4Addr)], servers: &[Ipv4Addr]) -> Self {
        let hosts = |address: &Ipv4Addr| is_host(ipv4.net, *address);
        let virtual_hosts: BTreeSet<_> = servers.iter().copied().chain([ipv4.gateway, ipv4.dns]).collect();
        let usable = |address: &Ipv4Addr| hosts(address) && !virtual_hosts.contains(address);
        let fixed: BTreeMap<_, _> = static_leases.iter().copied().filter(|(_, address)| usable(address)).collect();
        let reserved: BTreeSet<_> = fixed.values().copied().chain(virtual_hosts).collect();
        let first = u32::from(ipv4.dhcp_start);
        let last = u32::from(ipv4.net.broadcast()).min(first.saturating_add(LARGEST_POOL as u32 + reserved.len() as u32));
        let free: BTreeSet<_> = (first..=last)
            .map(Ipv4Addr::from)
            .filter(|address| hosts(address) && !reserved.contains(address))
            .take(LARGEST_POOL)
            .collect();
        let last = free.last().copied().unwrap_or(ipv4.dhcp_start);
        let table = Table::new(free, fixed.values().copied().collect());
        Self { net: ipv4.net, pool: ipv4.dhcp_start..=last, reserved, fixed, table }
    }

    /// Whether `address` can be a host's on this network.
    pub(super) fn contains(&self, address: Ipv4Addr) -> bool {
        is_host(self.net, address)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.table.iter()
    }

    pub(super) fn get(&self, address: Ipv4Addr) -> Option<&Lease> {
        self.table.get(address)
    }

    /// Ends what ends by itself by `now`.
    pub(super) fn expire(&mut self, now: Instant) {
        self.table.expire(now);
    }

    /// The address that this client gets: the one kept for it, else the one that it has or had, else the one that it asks for, else one
    /// that nobody has had, else the one that has been without a client for the longest time.
    pub(super) fn choose(&self, request: &Request, from: MacAddr) -> Result<Ipv4Addr, Refused> {
        if let Some(fixed) = self.fixed_for(request) {
            return Ok(fixed);
        }
        if let Some(own) = self.own(request).filter(|&own| self.is_pooled(own)) {
            return self.admit(own, from).map(|()| own);
        }
        let wanted = [request.requested, Some(request.ciaddr)].into_iter().flatten().find(|address| self.table.is_free(*address));
        let chosen = wanted.or_else(|| self.table.any()).ok_or(Refused::PoolExhausted)?;
        self.admit(chosen, from).map(|()| chosen)
    }

    /// Whether the client may have the address that it names: its own, the one that is kept for it, or, when the server knows nothing of
    /// either (it was started again, say, and its guests were not), one that nobody has.
    pub(super) fn may_have(&self, address: Ipv4Addr, request: &Request, from: MacAddr) -> Result<bool, Refused> {
        if let Some(fixed) = self.fixed_for(request) {
            return Ok(fixed == address);
        }
        let own = self.own(request).filter(|&own| self.is_pooled(own));
        let granted = own.map_or_else(|| self.table.is_free(address), |own| own == address);
        if granted {
            self.admit(address, from)?;
        }
        Ok(granted)
    }

    /// Holds `address` for the client until `until`. A lease in force stays what it is.
    pub(super) fn offer(&mut self, address: Ipv4Addr, request: &Request, from: MacAddr, now: Instant, until: Instant) {
        let own = self.own(request);
        let other = own.filter(|&own| own != address).and_then(|own| self.table.get(own));
        if !self.is_pooled(address) && other.is_some_and(|lease| lease.is_in_force(now)) {
            // An address that is kept for the client needs not be held. The one that it has is its own until it takes the offer.
            return;
        }
        self.table.offer(address, own, claim(request, from), now, until);
    }

    /// Leases `address` to the client until `until`.
    pub(super) fn bind(&mut self, address: Ipv4Addr, request: &Request, from: MacAddr, now: Instant, until: Instant) {
        let own = self.own(request);
        self.table.bind(address, own, claim(request, from), now, until);
    }

    /// Forgets the offer that the client did not choose.
    pub(super) fn withdraw_offer(&mut self, request: &Request) {
        if let Some(address) = self.own(request) {
            self.table.withdraw_offer(address);
        }
    }

    /// Takes the address back from the client.
    pub(super) fn release(&mut self, address: Ipv4Addr, request: &Request, now: Instant) -> Result<(), Refused> {
        let own = self.own(request);
        if self.table.release(address, own, now) { Ok(()) } else { Err(Refused::NotTheirs) }
    }

    /// Leases the address to nobody until `until`.
    pub(super) fn decline(&mut self, address: Ipv4Addr, request: &Request, until: Instant) -> Result<(), Refused> {
        let own = self.own(request);
        if self.table.decline(address, own, until) { Ok(()) } else { Err(Refused::NotTheirs) }
    }

    /// The address of the client's record.
    ///
    /// A client that is not known by its identity is the one that is known by the same hardware address, if one of the two has no
    /// client identifier, or the one that is known is boot firmware: a guest that starts over the network has two or three DHCP
    /// clients one after the other, each with its own idea of its identity, and is to keep its address through all of them. Two
    /// operating systems with identifiers of their own on one hardware address (ipvlan) stay two clients.
    fn own(&self, request: &Request) -> Option<Ipv4Addr> {
        if let Some(address) = self.table.of_client(&request.client) {
            return Some(address);
        }
        let lease = self.table.of_mac(request.mac)?;
        let without_id = |client: &ClientId| matches!(client, ClientId::Hardware(_));
        (without_id(&lease.client) || without_id(&request.client) || lease.firmware || request.firmware).then_some(lease.address)
    }

    /// The static address of the client, unless somebody else has it or it is in quarantine.
    fn fixed_for(&self, request: &Request) -> Option<Ipv4Addr> {
        let &address = self.fixed.get(&request.mac)?;
        let usable = match self.table.get(address) {
            None => true,
            Some(lease) => {
                lease.state != lease::LeaseState::Declined && (lease.mac == request.mac || lease.client == request.client)
            }
        };
        usable.then_some(address)
    }

    /// Whether anyone can get the address.
    fn is_pooled(&self, address: Ipv4Addr) -> bool {
        self.pool.contains(&address) && !self.reserved.contains(&address)
    }

    /// Refuses one more lease to a station that has many. An address that is leased already is not one more.
    fn admit(&self, address: Ipv4Addr, from: MacAddr) -> Result<(), Refused> {
        let counted = self.table.get(address).is_some_and(Lease::is_counted);
        if counted || self.table.count(from) < STATION_LEASES { Ok(()) } else { Err(Refused::StationLimit) }
    }
}

/// The client, as the table knows it.
fn claim(request: &Request, from: MacAddr) -> Claim<ClientId> {
    Claim {
        client: request.client.clone(),
        mac: request.mac,
        station: from,
        hostname: request.hostname.clone(),
        firmware: request.firmware,
    }
}

/// Whether `address` is one of the net's, and neither its first (the network itself) nor its last (the broadcast address).
fn is_host(net: Ipv4Net, address: Ipv4Addr) -> bool {
    net.contains(&address) && address != net.network() && address != net.broadcast()
}

#[cfg(any(test, feature = "fuzzing"))]
impl Leases {
    /// Panics unless the table agrees with itself.
    pub(super) fn check(&self) {
        self.table.check(|address| self.is_pooled(address));
    }
}
