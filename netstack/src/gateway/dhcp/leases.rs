//! Who has which address.
//!
//! There is one record an address at most, and one a client. A record moves between five states; each move takes it out of the table,
//! changes it and puts it back, so that the indices below can never disagree with it:
//!
//! ```text
//!              offer               bind
//!   (free) ----------> Offered ----------> Bound ----release---> Released
//!     ^                   |                 | |                     |
//!     |<---time, new------+   decline       | +------time-----> Expired
//!     |<---time---- Declined <--------------+                       |
//!     +<--------------somebody else needs the address---------------+
//! ```
//!
//! Every record is the record of an address that this server may lease, so there are never more than [`LARGEST_POOL`] and the static ones.
//! No operation but listing looks at all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::Refused;
use super::request::Request;
use crate::addr::MacAddr;
use crate::config::Ipv4Config;
use crate::time::Instant;

/// Addresses leased at most, apart from static ones: from the first one on. A larger network has room for guests with fixed addresses.
const LARGEST_POOL: u32 = 4096;

/// Leases and offers that the frames of one station can get: enough for a bridge in a guest, and short of the whole pool by default.
const STATION_LEASES: u32 = 64;

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
    /// Two hexadecimal digits a byte, as DHCP clients print theirs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hardware(mac) => write!(f, "{mac}"),
            Self::Option(bytes) => bytes.iter().enumerate().try_for_each(|(at, byte)| {
                let colon = if at == 0 { "" } else { ":" };
                write!(f, "{colon}{byte:02x}")
            }),
        }
    }
}

/// What became of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeaseState {
    /// Offered, and not requested yet.
    Offered,
    /// Leased.
    Bound,
    /// Given back.
    Released,
    /// Run out.
    Expired,
    /// Found in use by somebody who has no lease.
    Declined,
}

/// What is known of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// The client's hardware address.
    pub mac: MacAddr,
    /// Who the client is.
    pub client: ClientId,
    /// What it calls itself: one label in lower case.
    pub hostname: Option<String>,
    /// What became of the address. A lease that ran out says so only after the next message; [`Lease::is_in_force`] knows at once.
    pub state: LeaseState,
    /// When the offer, the lease or the quarantine ends, or when the lease ended.
    pub expires: Instant,
    /// When the client first got this address without losing it since.
    pub since: Instant,
    /// Whose frames it was leased by.
    station: MacAddr,
    /// Whether it was leased to boot firmware.
    firmware: bool,
    /// Whether the client had this address before it was offered.
    returning: bool,
}

impl Lease {
    /// Whether the address is the client's at `now`.
    pub fn is_in_force(&self, now: Instant) -> bool {
        self.state == LeaseState::Bound && now < self.expires
    }

    /// Whether the address is waiting for somebody to need it.
    fn is_idle(&self) -> bool {
        matches!(self.state, LeaseState::Released | LeaseState::Expired)
    }

    /// Whether it counts for the station that it was leased by.
    fn is_counted(&self) -> bool {
        matches!(self.state, LeaseState::Offered | LeaseState::Bound)
    }
}

/// The table.
#[derive(Debug)]
pub(super) struct Leases {
    net: Ipv4Net,
    /// The addresses that anyone can get: from the first to the last, without the reserved ones.
    first: Ipv4Addr,
    last: Ipv4Addr,
    /// Of the virtual hosts and of the clients with a static address.
    reserved: BTreeSet<Ipv4Addr>,
    /// The address that is kept for a hardware address.
    fixed: BTreeMap<MacAddr, Ipv4Addr>,
    /// Addresses of the pool without a record.
    free: BTreeSet<Ipv4Addr>,
    records: BTreeMap<Ipv4Addr, Lease>,
    /// Records by client, without those in quarantine.
    by_client: BTreeMap<ClientId, Ipv4Addr>,
    /// The record that was last changed for a hardware address, without those in quarantine.
    by_mac: BTreeMap<MacAddr, Ipv4Addr>,
    /// What ends by itself, the next first.
    deadlines: BTreeSet<(Instant, Ipv4Addr)>,
    /// Remembered addresses of the pool that nobody has, the longest unused first.
    idle: BTreeSet<(Instant, Ipv4Addr)>,
    /// Leases and offers of each station that has any.
    counts: BTreeMap<MacAddr, u32>,
}

impl Leases {
    /// An empty table. The addresses of `servers` are not for guests either.
    pub(super) fn new(ipv4: &Ipv4Config, static_leases: &[(MacAddr, Ipv4Addr)], servers: &[Ipv4Addr]) -> Self {
        let hosts = |address: &Ipv4Addr| is_host(ipv4.net, *address);
        let virtual_hosts: BTreeSet<_> = servers.iter().copied().chain([ipv4.gateway, ipv4.dns]).collect();
        let usable = |address: &Ipv4Addr| hosts(address) && !virtual_hosts.contains(address);
        let fixed: BTreeMap<_, _> = static_leases.iter().copied().filter(|(_, address)| usable(address)).collect();
        let reserved: BTreeSet<_> = fixed.values().copied().chain(virtual_hosts).collect();
        let first = u32::from(ipv4.dhcp_start);
        let last = u32::from(ipv4.net.broadcast()).min(first.saturating_add(LARGEST_POOL + reserved.len() as u32));
        let free: BTreeSet<_> = (first..=last)
            .map(Ipv4Addr::from)
            .filter(|address| hosts(address) && !reserved.contains(address))
            .take(LARGEST_POOL as usize)
            .collect();
        Self {
            net: ipv4.net,
            first: ipv4.dhcp_start,
            last: free.last().copied().unwrap_or(ipv4.dhcp_start),
            reserved,
            fixed,
            free,
            records: BTreeMap::new(),
            by_client: BTreeMap::new(),
            by_mac: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            idle: BTreeSet::new(),
            counts: BTreeMap::new(),
        }
    }

    /// Whether `address` can be a host's on this network.
    pub(super) fn contains(&self, address: Ipv4Addr) -> bool {
        is_host(self.net, address)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.records.values()
    }

    pub(super) fn get(&self, address: Ipv4Addr) -> Option<&Lease> {
        self.records.get(&address)
    }

    /// Ends what ends by itself by `now`.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(&(at, address)) = self.deadlines.first() {
            if at > now {
                break;
            }
            let Some(lease) = self.take(address) else {
                self.deadlines.pop_first();
                continue;
            };
            if lease.state == LeaseState::Bound || lease.returning {
                self.put(Lease { state: LeaseState::Expired, ..lease });
            }
        }
    }

    /// The address that this client gets: the one kept for it, else the one that it has or had, else the one that it asks for, else one
    /// that nobody has had, else the one that has been without a client for the longest time.
    pub(super) fn choose(&mut self, request: &Request, from: MacAddr) -> Result<Ipv4Addr, Refused> {
        let own = self.own(request);
        if let Some(fixed) = self.fixed_for(request) {
            return Ok(fixed);
        }
        if let Some(own) = own.filter(|&own| self.is_pooled(own)) {
            return self.admit(own, from).map(|()| own);
        }
        let wanted = [request.requested, Some(request.ciaddr)].into_iter().flatten().find(|address| self.free.contains(address));
        let chosen = wanted.or_else(|| self.free.first().copied()).or_else(|| self.idle.first().map(|&(_, address)| address));
        let chosen = chosen.ok_or(Refused::PoolExhausted)?;
        self.admit(chosen, from).map(|()| chosen)
    }

    /// Whether the client may have the address that it names: its own, the one that is kept for it, or, when the server knows nothing of
    /// either (it was started again, say, and its guests were not), one that nobody has.
    pub(super) fn may_have(&self, address: Ipv4Addr, request: &Request, from: MacAddr) -> Result<bool, Refused> {
        if let Some(fixed) = self.fixed_for(request) {
            return Ok(fixed == address);
        }
        let own = self.own(request).filter(|&own| self.is_pooled(own));
        let granted = own.map_or_else(|| self.free.contains(&address), |own| own == address);
        if granted {
            self.admit(address, from)?;
        }
        Ok(granted)
    }

    /// Holds `address` for the client until `until`. A lease in force stays what it is.
    pub(super) fn offer(&mut self, address: Ipv4Addr, request: &Request, from: MacAddr, now: Instant, until: Instant) {
        let other = self.own(request).filter(|&own| own != address).and_then(|own| self.records.get(&own));
        if !self.is_pooled(address) && other.is_some_and(|lease| lease.is_in_force(now)) {
            // An address that is kept for the client needs not be held. The one that it has is its own until it takes the offer.
            return;
        }
        let old = self.assign(address, request);
        if let Some(lease) = old.clone().filter(|lease| lease.state == LeaseState::Bound) {
            self.put(lease);
            return;
        }
        let returning = old.as_ref().is_some_and(|lease| lease.returning || lease.is_idle());
        self.put(Lease { state: LeaseState::Offered, expires: until, returning, ..renewed(address, old, request, from, now) });
    }

    /// Leases `address` to the client until `until`.
    pub(super) fn bind(&mut self, address: Ipv4Addr, request: &Request, from: MacAddr, now: Instant, until: Instant) {
        let old = self.assign(address, request);
        self.put(Lease { state: LeaseState::Bound, expires: until, returning: true, ..renewed(address, old, request, from, now) });
    }

    /// Forgets the offer that the client did not choose.
    pub(super) fn withdraw_offer(&mut self, request: &Request) {
        let Some(address) = self.own(request) else { return };
        if self.records.get(&address).is_some_and(|lease| lease.state == LeaseState::Offered)
            && let Some(lease) = self.take(address)
            && lease.returning
        {
            self.put(Lease { state: LeaseState::Released, ..lease });
        }
    }

    /// Takes the address back from the client.
    pub(super) fn release(&mut self, address: Ipv4Addr, request: &Request, now: Instant) -> Result<(), Refused> {
        let lease = self.take_own(address, request)?;
        self.put(Lease { state: LeaseState::Released, expires: now, ..lease });
        Ok(())
    }

    /// Leases the address to nobody until `until`.
    pub(super) fn decline(&mut self, address: Ipv4Addr, request: &Request, until: Instant) -> Result<(), Refused> {
        let lease = self.take_own(address, request)?;
        self.put(Lease { state: LeaseState::Declined, expires: until, returning: false, hostname: None, ..lease });
        Ok(())
    }

    /// Takes out the record of an address that the client has or was offered.
    fn take_own(&mut self, address: Ipv4Addr, request: &Request) -> Result<Lease, Refused> {
        let own = self.own(request) == Some(address);
        let counted = self.records.get(&address).is_some_and(Lease::is_counted);
        if own && counted { self.take(address).ok_or(Refused::NotTheirs) } else { Err(Refused::NotTheirs) }
    }

    /// The address of the client's record.
    ///
    /// A client that is not known by its identity is the one that is known by the same hardware address, if one of the two has no
    /// client identifier, or the one that is known is boot firmware: a guest that starts over the network has two or three DHCP
    /// clients one after the other, each with its own idea of its identity, and is to keep its address through all of them. Two
    /// operating systems with identifiers of their own on one hardware address (ipvlan) stay two clients.
    fn own(&self, request: &Request) -> Option<Ipv4Addr> {
        if let Some(&address) = self.by_client.get(&request.client) {
            return Some(address);
        }
        let address = *self.by_mac.get(&request.mac)?;
        let lease = self.records.get(&address)?;
        let without_id = |client: &ClientId| matches!(client, ClientId::Hardware(_));
        (without_id(&lease.client) || without_id(&request.client) || lease.firmware || request.firmware).then_some(address)
    }

    /// The static address of the client, unless somebody else has it or it is in quarantine.
    fn fixed_for(&self, request: &Request) -> Option<Ipv4Addr> {
        let &address = self.fixed.get(&request.mac)?;
        let usable = match self.records.get(&address) {
            None => true,
            Some(lease) => lease.state != LeaseState::Declined && (lease.mac == request.mac || lease.client == request.client),
        };
        usable.then_some(address)
    }

    /// Whether anyone can get the address.
    fn is_pooled(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address) && !self.reserved.contains(&address)
    }

    /// Refuses one more lease to a station that has many. An address that is leased already is not one more.
    fn admit(&self, address: Ipv4Addr, from: MacAddr) -> Result<(), Refused> {
        let count = self.counts.get(&from).copied().unwrap_or(0);
        let counted = self.records.get(&address).is_some_and(Lease::is_counted);
        if counted || count < STATION_LEASES { Ok(()) } else { Err(Refused::StationLimit) }
    }

    /// Clears the way for a record of `address` for the client: forgets the record that it has for another address, and takes out the
    /// one that there is for this. Returns that one if it was the client's.
    fn assign(&mut self, address: Ipv4Addr, request: &Request) -> Option<Lease> {
        let own = self.own(request);
        if let Some(other) = own.filter(|&own| own != address) {
            self.take(other);
        }
        let old = self.take(address);
        self.free.remove(&address);
        old.filter(|lease| own == Some(address) || (lease.mac == request.mac && !self.is_pooled(address)))
    }

    /// Takes a record out of the table and of every index.
    fn take(&mut self, address: Ipv4Addr) -> Option<Lease> {
        let lease = self.records.remove(&address)?;
        self.deadlines.remove(&(lease.expires, address));
        self.idle.remove(&(lease.expires, address));
        if self.by_client.get(&lease.client) == Some(&address) {
            self.by_client.remove(&lease.client);
        }
        if self.by_mac.get(&lease.mac) == Some(&address) {
            self.by_mac.remove(&lease.mac);
        }
        if lease.is_counted()
            && let Some(count) = self.counts.get_mut(&lease.station)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(&lease.station);
            }
        }
        if self.is_pooled(address) {
            self.free.insert(address);
        }
        Some(lease)
    }

    /// Puts a record into the table and into every index. A static address needs no record when nobody has it: nobody else gets it.
    fn put(&mut self, lease: Lease) {
        let address = lease.address;
        if lease.is_idle() {
            if !self.is_pooled(address) {
                return;
            }
            self.idle.insert((lease.expires, address));
        } else {
            self.deadlines.insert((lease.expires, address));
        }
        if lease.state != LeaseState::Declined {
            self.by_client.insert(lease.client.clone(), address);
            self.by_mac.insert(lease.mac, address);
        }
        if lease.is_counted() {
            let count = self.counts.entry(lease.station).or_default();
            *count = count.saturating_add(1);
        }
        self.free.remove(&address);
        self.records.insert(address, lease);
    }
}

/// What a record becomes when the client is heard of again; the state is the caller's to set.
fn renewed(address: Ipv4Addr, old: Option<Lease>, request: &Request, from: MacAddr, now: Instant) -> Lease {
    let since = old.as_ref().filter(|lease| lease.state == LeaseState::Bound).map_or(now, |lease| lease.since);
    let known_name = old.and_then(|lease| lease.hostname);
    Lease {
        address,
        mac: request.mac,
        client: request.client.clone(),
        hostname: request.hostname.clone().or(known_name),
        state: LeaseState::Offered,
        expires: now,
        since,
        station: from,
        firmware: request.firmware,
        returning: false,
    }
}

/// Whether `address` is one of the net's, and neither its first (the network itself) nor its last (the broadcast address).
fn is_host(net: Ipv4Net, address: Ipv4Addr) -> bool {
    net.contains(&address) && address != net.network() && address != net.broadcast()
}

#[cfg(any(test, feature = "fuzzing"))]
impl Leases {
    /// Panics unless the indices say what the records say.
    pub(super) fn check(&self) {
        let queued = self.records.values().map(|lease| (lease.expires, lease.address));
        let (idle, deadlines): (BTreeSet<_>, BTreeSet<_>) = queued.partition(|(_, address)| self.records[address].is_idle());
        assert_eq!(self.idle, idle);
        assert_eq!(self.deadlines, deadlines);
        let known = self.records.values().filter(|lease| lease.state != LeaseState::Declined);
        let clients: BTreeMap<_, _> = known.clone().map(|lease| (lease.client.clone(), lease.address)).collect();
        assert_eq!(clients.len(), known.count(), "a client has two records");
        assert_eq!(self.by_client, clients);
        assert!(self.by_mac.iter().all(|(mac, address)| self.records[address].mac == *mac));
        let mut counts = BTreeMap::new();
        for lease in self.records.values().filter(|lease| lease.is_counted()) {
            *counts.entry(lease.station).or_default() += 1;
        }
        assert_eq!(self.counts, counts);
        assert!(self.free.iter().all(|address| self.is_pooled(*address) && !self.records.contains_key(address)));
        let pooled = self.records.keys().filter(|address| self.is_pooled(**address)).count();
        assert!(self.free.len() + pooled <= LARGEST_POOL as usize);
    }
}
