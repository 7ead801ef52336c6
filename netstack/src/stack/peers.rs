//! Whom a guest has sent to by a mapping: only those may answer (RFC 4787 section 5, address-dependent filtering).

use std::net::IpAddr;

use hashbrown::HashMap;

use super::hash::Keyed;
use crate::time::Instant;

/// The hosts sent to: nearly always one. A guest that sends to many displaces the oldest.
#[derive(Debug)]
pub(crate) struct Peers {
    /// The host sent to last.
    latest: IpAddr,
    /// All hosts sent to, once there are several, and when.
    all: Option<Box<HashMap<IpAddr, Instant, Keyed>>>,
}

impl Peers {
    pub(crate) const fn new(first: IpAddr) -> Self {
        Self { latest: first, all: None }
    }

    /// Whether the guest has sent to this host.
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.latest == ip || self.all.as_ref().is_some_and(|all| all.contains_key(&ip))
    }

    /// The guest sends to this host.
    pub(crate) fn note(&mut self, now: Instant, ip: IpAddr, limit: usize, hash: Keyed) {
        if self.latest == ip && self.all.is_none() {
            return;
        }
        let all = self.all.get_or_insert_with(|| {
            let mut all = HashMap::with_hasher(hash);
            all.insert(self.latest, now);
            Box::new(all)
        });
        if all.len() >= limit.max(1) && !all.contains_key(&ip) {
            let oldest = all.iter().min_by_key(|(_, used)| **used).map(|(ip, _)| *ip);
            oldest.map(|ip| all.remove(&ip));
        }
        all.insert(ip, now);
        self.latest = ip;
    }
}
