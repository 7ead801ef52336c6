//! Who has which IP address on the guests' link (RFC 826, RFC 4861).
//!
//! Flows that a guest has opened know their station from the guest's own frames. This table is for what goes to a guest unasked:
//! forwarded connections and datagrams.

use std::net::IpAddr;

use hashbrown::HashMap;

use super::hash::Keyed;
use crate::addr::MacAddr;
use crate::port::PortId;
use crate::time::{Duration, Instant};

/// Where frames to a guest go: the port it is behind and its card's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Station {
    pub(crate) port: PortId,
    pub(crate) mac: MacAddr,
}

/// How long an entry is kept without being heard of. A guest is asked again after that.
const LIFETIME: Duration = Duration::from_secs(600);

/// The table, bounded: a guest that claims many addresses displaces the oldest.
#[derive(Debug)]
pub(crate) struct Neighbours {
    entries: HashMap<IpAddr, (Station, Instant), Keyed>,
    limit: usize,
}

impl Neighbours {
    pub(crate) fn new(limit: usize, hash: Keyed) -> Self {
        Self { entries: HashMap::with_hasher(hash), limit: limit.max(1) }
    }

    /// Notes that `ip` was heard from `station`. Returns whether another entry had to go for it.
    pub(crate) fn learn(&mut self, now: Instant, ip: IpAddr, station: Station) -> bool {
        let evict = self.entries.len() >= self.limit && !self.entries.contains_key(&ip);
        if evict {
            // Only a guest that invents addresses gets here; the search is bounded by the limit.
            let oldest = self.entries.iter().min_by_key(|(_, (_, heard))| *heard).map(|(ip, _)| *ip);
            oldest.map(|ip| self.entries.remove(&ip));
        }
        self.entries.insert(ip, (station, now));
        evict
    }

    /// The station that has this address, if it was heard of lately.
    pub(crate) fn station(&self, now: Instant, ip: IpAddr) -> Option<Station> {
        self.entries.get(&ip).filter(|(_, heard)| now.since(*heard) < LIFETIME).map(|(station, _)| *station)
    }

    /// How many addresses are remembered.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Forgets all stations behind a port that is gone.
    pub(crate) fn forget_port(&mut self, port: PortId) {
        self.entries.retain(|_, (station, _)| station.port != port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_claims_many_addresses_displaces_only_the_oldest() {
        let mut table = Neighbours::new(3, Keyed::new([7; 16]));
        let ip = |n: u8| IpAddr::from([10, 0, 2, n]);
        let station = |n| Station { port: PortId(0), mac: MacAddr([2, 0, 0, 0, 0, n]) };
        for n in 1..=3 {
            assert!(!table.learn(Instant::from_micros(n.into()), ip(n), station(n)));
        }
        assert!(table.learn(Instant::from_micros(9), ip(4), station(4)));
        let now = Instant::from_micros(10);
        assert_eq!(table.station(now, ip(1)), None);
        assert_eq!(table.station(now, ip(2)), Some(station(2)));
        assert_eq!(table.station(now + LIFETIME, ip(2)), None);
    }
}
