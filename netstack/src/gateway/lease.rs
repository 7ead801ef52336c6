//! Who has which address: the table that DHCP and DHCPv6 have in common.
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
//! Every record is the record of an address that the server may lease, so there are never more than `LARGEST_POOL` and the fixed ones.
//! No operation but listing looks at all of them. Which address a client gets is the protocols' own to say: see `dhcp::leases` and
//! `dhcp6::leases`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::addr::MacAddr;
use crate::time::Instant;

/// Addresses leased at most, apart from fixed ones: from the first one on. A larger network has room for guests with addresses of their
/// own choice.
pub(super) const LARGEST_POOL: usize = 4096;

/// Leases and offers that the frames of one station can get: enough for a bridge in a guest, and short of the whole pool by default.
pub(super) const STATION_LEASES: u32 = 64;

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
pub struct Lease<Address, Client> {
    /// The address.
    pub address: Address,
    /// The client's hardware address; that of the card by which it asked, where its messages do not say.
    pub mac: MacAddr,
    /// Who the client is.
    pub client: Client,
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
    pub(super) firmware: bool,
    /// Whether the client had this address before it was offered.
    returning: bool,
}

impl<Address, Client> Lease<Address, Client> {
    /// Whether the address is the client's at `now`.
    pub fn is_in_force(&self, now: Instant) -> bool {
        self.state == LeaseState::Bound && now < self.expires
    }

    /// Whether the address is waiting for somebody to need it.
    const fn is_idle(&self) -> bool {
        matches!(self.state, LeaseState::Released | LeaseState::Expired)
    }

    /// Whether it counts for the station that it was leased by.
    pub(super) const fn is_counted(&self) -> bool {
        matches!(self.state, LeaseState::Offered | LeaseState::Bound)
    }
}

/// Who wants an address.
#[derive(Debug, Clone)]
pub(super) struct Claim<Client> {
    pub(super) client: Client,
    pub(super) mac: MacAddr,
    /// The source of the frame.
    pub(super) station: MacAddr,
    pub(super) hostname: Option<String>,
    pub(super) firmware: bool,
}

/// The table. Where a method takes the client's `own` address, that is the address of the record that it has, if it has one.
#[derive(Debug)]
pub(super) struct Table<Address, Client> {
    /// Addresses that are kept for one client each. They have no record while nobody has them: nobody else gets them.
    fixed: BTreeSet<Address>,
    /// Addresses of the pool without a record.
    free: BTreeSet<Address>,
    records: BTreeMap<Address, Lease<Address, Client>>,
    /// Records by client, without those in quarantine.
    by_client: BTreeMap<Client, Address>,
    /// The record that was last changed for a hardware address, without those in quarantine.
    by_mac: BTreeMap<MacAddr, Address>,
    /// What ends by itself, the next first.
    deadlines: BTreeSet<(Instant, Address)>,
    /// Remembered addresses of the pool that nobody has, the longest unused first.
    idle: BTreeSet<(Instant, Address)>,
    /// Leases and offers of each station that has any.
    counts: BTreeMap<MacAddr, u32>,
}

impl<Address: Copy + Ord, Client: Clone + Ord> Table<Address, Client> {
    /// A table without records. `free` is the pool.
    pub(super) const fn new(free: BTreeSet<Address>, fixed: BTreeSet<Address>) -> Self {
        Self {
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

    pub(super) fn iter(&self) -> impl Iterator<Item = &Lease<Address, Client>> {
        self.records.values()
    }

    pub(super) fn get(&self, address: Address) -> Option<&Lease<Address, Client>> {
        self.records.get(&address)
    }

    /// The address of the record of this client.
    pub(super) fn of_client(&self, client: &Client) -> Option<Address> {
        self.by_client.get(client).copied()
    }

    /// The record that was last changed for this hardware address.
    pub(super) fn of_mac(&self, mac: MacAddr) -> Option<&Lease<Address, Client>> {
        self.records.get(self.by_mac.get(&mac)?)
    }

    /// Whether nobody has, or is remembered for, this address of the pool.
    pub(super) fn is_free(&self, address: Address) -> bool {
        self.free.contains(&address)
    }

    /// An address that nobody has had, else the one that has been without a client for the longest time.
    pub(super) fn any(&self) -> Option<Address> {
        self.free.first().copied().or_else(|| self.idle.first().map(|&(_, address)| address))
    }

    /// How many leases and offers a station has.
    pub(super) fn count(&self, station: MacAddr) -> u32 {
        self.counts.get(&station).copied().unwrap_or(0)
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

    /// Holds `address` for the client until `until`. A lease in force stays what it is.
    pub(super) fn offer(&mut self, address: Address, own: Option<Address>, claim: Claim<Client>, now: Instant, until: Instant) {
        let old = self.assign(address, own, &claim);
        if let Some(lease) = old.clone().filter(|lease| lease.state == LeaseState::Bound) {
            self.put(lease);
            return;
        }
        let returning = old.as_ref().is_some_and(|lease| lease.returning || lease.is_idle());
        self.put(Lease { state: LeaseState::Offered, expires: until, returning, ..renewed(address, old, claim, now) });
    }

    /// Leases `address` to the client until `until`.
    pub(super) fn bind(&mut self, address: Address, own: Option<Address>, claim: Claim<Client>, now: Instant, until: Instant) {
        let old = self.assign(address, own, &claim);
        self.put(Lease { state: LeaseState::Bound, expires: until, returning: true, ..renewed(address, old, claim, now) });
    }

    /// Forgets the offer of `address`, if it is one, which its client did not choose.
    pub(super) fn withdraw_offer(&mut self, address: Address) {
        if self.records.get(&address).is_some_and(|lease| lease.state == LeaseState::Offered)
            && let Some(lease) = self.take(address)
            && lease.returning
        {
            self.put(Lease { state: LeaseState::Released, ..lease });
        }
    }

    /// Takes the address back from the client. Returns whether it was the client's.
    pub(super) fn release(&mut self, address: Address, own: Option<Address>, now: Instant) -> bool {
        let Some(lease) = self.take_own(address, own) else { return false };
        self.put(Lease { state: LeaseState::Released, expires: now, ..lease });
        true
    }

    /// Leases the address to nobody until `until`. Returns whether it was the client's.
    pub(super) fn decline(&mut self, address: Address, own: Option<Address>, until: Instant) -> bool {
        let Some(lease) = self.take_own(address, own) else { return false };
        self.put(Lease { state: LeaseState::Declined, expires: until, returning: false, hostname: None, ..lease });
        true
    }

    /// Takes out the record of an address that the client has or was offered.
    fn take_own(&mut self, address: Address, own: Option<Address>) -> Option<Lease<Address, Client>> {
        let counted = self.records.get(&address).is_some_and(Lease::is_counted);
        if own == Some(address) && counted { self.take(address) } else { None }
    }

    /// Clears the way for a record of `address` for the client: forgets the record that it has for another address, and takes out the
    /// one that there is for this. Returns that one if it was the client's.
    fn assign(&mut self, address: Address, own: Option<Address>, claim: &Claim<Client>) -> Option<Lease<Address, Client>> {
        if let Some(other) = own.filter(|&own| own != address) {
            self.take(other);
        }
        let old = self.take(address);
        self.free.remove(&address);
        old.filter(|lease| own == Some(address) || (lease.mac == claim.mac && self.fixed.contains(&address)))
    }

    /// Takes a record out of the table and of every index.
    fn take(&mut self, address: Address) -> Option<Lease<Address, Client>> {
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
        if !self.fixed.contains(&address) {
            self.free.insert(address);
        }
        Some(lease)
    }

    /// Puts a record into the table and into every index.
    fn put(&mut self, lease: Lease<Address, Client>) {
        let address = lease.address;
        if lease.is_idle() {
            if self.fixed.contains(&address) {
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
fn renewed<Address, Client>(
    address: Address,
    old: Option<Lease<Address, Client>>,
    claim: Claim<Client>,
    now: Instant,
) -> Lease<Address, Client> {
    let since = old.as_ref().filter(|lease| lease.state == LeaseState::Bound).map_or(now, |lease| lease.since);
    let known_name = old.and_then(|lease| lease.hostname);
    let Claim { client, mac, station, hostname, firmware } = claim;
    Lease {
        address,
        mac,
        client,
        hostname: hostname.or(known_name),
        state: LeaseState::Offered,
        expires: now,
        since,
        station,
        firmware,
        returning: false,
    }
}

/// Writes an identifier as DHCP clients print theirs: two hexadecimal digits a byte.
pub(super) fn write_identifier(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().enumerate().try_for_each(|(at, byte)| {
        let colon = if at == 0 { "" } else { ":" };
        write!(f, "{colon}{byte:02x}")
    })
}

#[cfg(any(test, feature = "fuzzing"))]
impl<Address: Copy + Ord + fmt::Debug, Client: Clone + Ord + fmt::Debug> Table<Address, Client> {
    /// Panics unless the indices say what the records say, and all free addresses are `pooled`, as are those of records that are not kept
    /// for one client.
    pub(super) fn check(&self, pooled: impl Fn(Address) -> bool) {
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
        assert!(self.free.iter().all(|address| pooled(*address) && !self.records.contains_key(address)));
        assert!(self.records.keys().all(|address| pooled(*address) != self.fixed.contains(address)));
        let of_the_pool = self.records.keys().filter(|address| pooled(**address)).count();
        assert!(self.free.len() + of_the_pool <= LARGEST_POOL);
    }

    /// The largest number of leases and offers of a station.
    pub(super) fn largest_count(&self) -> u32 {
        self.counts.values().copied().max().unwrap_or(0)
    }
}
