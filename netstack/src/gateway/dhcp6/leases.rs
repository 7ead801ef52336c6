//! Who has which address.
//!
//! There is one record an address at most, and one for each identity association of a client. A record moves between the same five states
//! as with DHCPv4 (see `gateway::dhcp::leases`); each move takes it out of the table and puts it back changed, so that the indices can
//! never disagree with it. There are never more records than [`LARGEST_POOL`]. No operation but listing looks at all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv6Addr;

use super::request::{Association, Request};
use crate::addr::MacAddr;
use crate::config::Ipv6Config;
use crate::gateway::dhcp::LeaseState;
use crate::time::Instant;

/// Addresses leased at most: from the first one on. They are far from where guests that choose their addresses themselves choose them.
const LARGEST_POOL: usize = 4096;

/// Leases and offers that the frames of one station can get, as with DHCPv4.
const STATION_LEASES: u32 = 64;

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
    /// Two hexadecimal digits a byte, as DHCP clients print theirs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(at, byte)| {
            let colon = if at == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02x}")
        })
    }
}

/// What is known of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv6Addr,
    /// Who the client is.
    pub client: Duid,
    /// Which of its interfaces the address is for (RFC 8415 section 12).
    pub iaid: u32,
    /// The card that it was last leased by.
    pub mac: MacAddr,
    /// What it calls itself: one label in lower case.
    pub hostname: Option<String>,
    /// What became of the address. A lease that ran out says so only after the next message; [`Lease::is_in_force`] knows at once.
    pub state: LeaseState,
    /// When the offer, the lease or the quarantine ends, or when the lease ended.
    pub expires: Instant,
    /// When the client first got this address without losing it since.
    pub since: Instant,
    /// Whether it was leased to boot firmware.
    firmware: bool,
    /// Whether the client had this address before it was offered.
    returning: bool,
}

impl Lease {
    /// Whether the client has the address at `now`.
    pub fn is_in_force(&self, now: Instant) -> bool {
        self.state == LeaseState::Bound && now < self.expires
    }

    /// Whether the address is remembered for a client that does not have it.
    const fn is_idle(&self) -> bool {
        matches!(self.state, LeaseState::Released | LeaseState::Expired)
    }

    const fn is_counted(&self) -> bool {
        matches!(self.state, LeaseState::Offered | LeaseState::Bound)
    }

    fn key(&self) -> Key {
        (self.client.clone(), self.iaid)
    }
}

type Key = (Duid, u32);

/// Who wants an address.
#[derive(Debug)]
pub(super) struct Client {
    key: Key,
    station: MacAddr,
    hostname: Option<String>,
    firmware: bool,
}

impl Client {
    /// The client for one of the associations that it asks for; `None` if it does not say who it is.
    pub(super) fn of(request: &Request, association: &Association, station: MacAddr) -> Option<Self> {
        let key = (request.client.clone()?, association.iaid);
        Some(Self { key, station, hostname: request.hostname.clone(), firmware: request.firmware })
    }
}

/// The table.
#[derive(Debug)]
pub(super) struct Leases {
    /// Addresses of the pool without a record.
    free: BTreeSet<Ipv6Addr>,
    records: BTreeMap<Ipv6Addr, Lease>,
    /// Records by client, without those in quarantine.
    by_client: BTreeMap<Key, Ipv6Addr>,
    /// The record that was last changed for a card, without those in quarantine.
    by_station: BTreeMap<MacAddr, Ipv6Addr>,
    /// What ends by itself, the next first.
    deadlines: BTreeSet<(Instant, Ipv6Addr)>,
    /// Remembered addresses that nobody has, the longest unused first.
    idle: BTreeSet<(Instant, Ipv6Addr)>,
    /// Leases and offers of each station that has any.
    counts: BTreeMap<MacAddr, u32>,
}

impl Leases {
    /// An empty table. The addresses of `servers` are not for guests either.
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
        Self {
            free,
            records: BTreeMap::new(),
            by_client: BTreeMap::new(),
            by_station: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            idle: BTreeSet::new(),
            counts: BTreeMap::new(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.records.values()
    }

    pub(super) fn get(&self, address: Ipv6Addr) -> Option<&Lease> {
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

    /// The address that this client gets: the one that it has or had, else one that it asks for, else one that nobody has had, else the
    /// one that has been without a client for the longest time. `None` if there is none, or its station has as many as one may have.
    pub(super) fn choose(&self, client: &Client, wanted: &[Ipv6Addr]) -> Option<Ipv6Addr> {
        let own = self.own(client);
        let wanted = || wanted.iter().copied().find(|address| self.free.contains(address));
        let chosen = own.or_else(wanted).or_else(|| self.free.first().copied());
        let chosen = chosen.or_else(|| self.idle.first().map(|&(_, address)| address))?;
        self.admits(chosen, client).then_some(chosen)
    }

    /// The address that a client which says that it has one keeps: its own, or, when the server knows of none, one of those that it names
    /// and nobody has.
    pub(super) fn keep(&self, client: &Client, named: &[Ipv6Addr]) -> Option<Ipv6Addr> {
        let unknown = || named.iter().copied().find(|address| self.free.contains(address));
        let kept = self.own(client).or_else(unknown)?;
        self.admits(kept, client).then_some(kept)
    }

    /// Holds `address` for the client until `until`. A lease in force stays what it is.
    pub(super) fn offer(&mut self, address: Ipv6Addr, client: &Client, now: Instant, until: Instant) {
        let old = self.assign(address, client);
        if let Some(lease) = old.clone().filter(|lease| lease.state == LeaseState::Bound) {
            self.put(lease);
            return;
        }
        let returning = old.as_ref().is_some_and(|lease| lease.returning || lease.is_idle());
        self.put(Lease { state: LeaseState::Offered, expires: until, returning, ..renewed(address, old, client, now) });
    }

    /// Leases `address` to the client until `until`.
    pub(super) fn bind(&mut self, address: Ipv6Addr, client: &Client, now: Instant, until: Instant) {
        let old = self.assign(address, client);
        self.put(Lease { state: LeaseState::Bound, expires: until, returning: true, ..renewed(address, old, client, now) });
    }

    /// Takes the address back from the client. Returns whether it was the client's.
    pub(super) fn release(&mut self, client: &Client, address: Ipv6Addr, now: Instant) -> bool {
        let Some(lease) = self.take_own(address, client) else { return false };
        self.put(Lease { state: LeaseState::Released, expires: now, ..lease });
        true
    }

    /// Leases the address to nobody until `until`. Returns whether it was the client's.
    pub(super) fn decline(&mut self, client: &Client, address: Ipv6Addr, until: Instant) -> bool {
        let Some(lease) = self.take_own(address, client) else { return false };
        self.put(Lease { state: LeaseState::Declined, expires: until, returning: false, hostname: None, ..lease });
        true
    }

    /// Takes out the record of an address that the client has or was offered.
    fn take_own(&mut self, address: Ipv6Addr, client: &Client) -> Option<Lease> {
        let own = self.by_client.get(&client.key) == Some(&address);
        let counted = self.records.get(&address).is_some_and(Lease::is_counted);
        if own && counted { self.take(address) } else { None }
    }

    /// The address of the client's record. A client of whom nothing is known is the one that was last known by the same card, if one of
    /// the two is boot firmware: what a guest boots by and what it boots have identities of their own, and are to have one address.
    fn own(&self, client: &Client) -> Option<Ipv6Addr> {
        if let Some(&address) = self.by_client.get(&client.key) {
            return Some(address);
        }
        let address = *self.by_station.get(&client.station)?;
        let lease = self.records.get(&address)?;
        (lease.client != client.key.0 && (lease.firmware || client.firmware)).then_some(address)
    }

    /// Whether the client's station may have one more lease, if this is one more.
    fn admits(&self, address: Ipv6Addr, client: &Client) -> bool {
        let count = self.counts.get(&client.station).copied().unwrap_or(0);
        let counted = |lease: &Lease| lease.is_counted() && lease.mac == client.station;
        count < STATION_LEASES || self.records.get(&address).is_some_and(counted)
    }

    /// Clears the way for a record of `address` for the client: takes out the one that it has for another address, and the one that
    /// there is for this. Returns that one if it was the client's.
    fn assign(&mut self, address: Ipv6Addr, client: &Client) -> Option<Lease> {
        let own = self.own(client);
        if let Some(other) = own.filter(|&own| own != address) {
            self.take(other);
        }
        let old = self.take(address);
        self.free.remove(&address);
        old.filter(|_| own == Some(address))
    }

    /// Takes a record out of the table and of every index.
    fn take(&mut self, address: Ipv6Addr) -> Option<Lease> {
        let lease = self.records.remove(&address)?;
        self.deadlines.remove(&(lease.expires, address));
        self.idle.remove(&(lease.expires, address));
        if self.by_client.get(&lease.key()) == Some(&address) {
            self.by_client.remove(&lease.key());
        }
        if self.by_station.get(&lease.mac) == Some(&address) {
            self.by_station.remove(&lease.mac);
        }
        if lease.is_counted()
            && let Some(count) = self.counts.get_mut(&lease.mac)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(&lease.mac);
            }
        }
        self.free.insert(address);
        Some(lease)
    }

    /// Puts a record into the table and into every index.
    fn put(&mut self, lease: Lease) {
        let address = lease.address;
        if lease.is_idle() {
            self.idle.insert((lease.expires, address));
        } else {
            self.deadlines.insert((lease.expires, address));
        }
        if lease.state != LeaseState::Declined {
            self.by_client.insert(lease.key(), address);
            self.by_station.insert(lease.mac, address);
        }
        if lease.is_counted() {
            let count = self.counts.entry(lease.mac).or_default();
            *count = count.saturating_add(1);
        }
        self.free.remove(&address);
        self.records.insert(address, lease);
    }
}

/// What a record becomes when the client is heard of again; the state is the caller's to set.
fn renewed(address: Ipv6Addr, old: Option<Lease>, client: &Client, now: Instant) -> Lease {
    let since = old.as_ref().filter(|lease| lease.state == LeaseState::Bound).map_or(now, |lease| lease.since);
    let known_name = old.and_then(|lease| lease.hostname);
    let (duid, iaid) = client.key.clone();
    Lease {
        address,
        client: duid,
        iaid,
        mac: client.station,
        hostname: client.hostname.clone().or(known_name),
        state: LeaseState::Offered,
        expires: now,
        since,
        firmware: client.firmware,
        returning: false,
    }
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
        let clients: BTreeMap<_, _> = known.clone().map(|lease| (lease.key(), lease.address)).collect();
        assert_eq!(clients.len(), known.count(), "an association has two records");
        assert_eq!(self.by_client, clients);
        assert!(self.by_station.iter().all(|(mac, address)| self.records[address].mac == *mac));
        let mut counts = BTreeMap::new();
        for lease in self.records.values().filter(|lease| lease.is_counted()) {
            *counts.entry(lease.mac).or_default() += 1;
        }
        assert!(counts.values().all(|count| *count <= STATION_LEASES));
        assert_eq!(self.counts, counts);
        assert!(self.free.iter().all(|address| !self.records.contains_key(address)));
        assert!(self.free.len() + self.records.len() <= LARGEST_POOL);
    }
}
