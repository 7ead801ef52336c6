//! Behind which port each station was seen last (IEEE 802.1Q clause 8.8, in small).

use std::collections::HashMap;

use crate::addr::MacAddr;
use crate::port::PortId;
use crate::time::{Duration, Instant};

/// Stations remembered behind one port. A guest that is a router or a bridge has a few.
const PER_PORT: usize = 256;

/// How long a station that says nothing is remembered: the value that IEEE 802.1Q recommends.
const AGEING: Duration = Duration::from_secs(300);

/// How often a port that has too many stations is looked through for old ones.
const SWEEP: Duration = Duration::from_secs(1);

/// The stations that were seen. Their addresses are chosen by guests, so the hash is the keyed one of the standard library.
#[derive(Debug, Default)]
pub(super) struct Stations {
    by_address: HashMap<MacAddr, Station>,
    by_port: HashMap<PortId, Behind>,
}

#[derive(Debug)]
struct Station {
    port: PortId,
    seen: Instant,
}

#[derive(Debug, Default)]
struct Behind {
    stations: usize,
    swept: Option<Instant>,
}

impl Stations {
    /// A frame came from the station through the port. Returns whether that is remembered.
    pub(super) fn learn(&mut self, now: Instant, address: MacAddr, port: PortId) -> bool {
        if let Some(station) = self.by_address.get_mut(&address)
            && station.port == port
        {
            station.seen = now;
            return true;
        }
        if !self.make_room(now, port) {
            return false;
        }
        self.by_port.entry(port).or_default().stations += 1;
        if let Some(before) = self.by_address.insert(address, Station { port, seen: now }) {
            self.count_down(before.port);
        }
        true
    }

    /// The port behind which the station is.
    pub(super) fn find(&self, now: Instant, address: MacAddr) -> Option<PortId> {
        self.by_address.get(&address).filter(|station| now.since(station.seen) < AGEING).map(|station| station.port)
    }

    /// The port is gone.
    pub(super) fn forget(&mut self, port: PortId) {
        if self.by_port.remove(&port).is_some() {
            self.by_address.retain(|_, station| station.port != port);
        }
    }

    /// Whether there is room for one more station behind the port, after the old ones were forgotten if need be.
    fn make_room(&mut self, now: Instant, port: PortId) -> bool {
        let behind = self.by_port.entry(port).or_default();
        if behind.stations < PER_PORT {
            return true;
        }
        if behind.swept.is_some_and(|swept| now.since(swept) < SWEEP) {
            return false;
        }
        behind.swept = Some(now);
        let by_port = &mut self.by_port;
        self.by_address.retain(|_, station| {
            let keep = now.since(station.seen) < AGEING;
            if !keep && let Some(behind) = by_port.get_mut(&station.port) {
                behind.stations = behind.stations.saturating_sub(1);
            }
            keep
        });
        self.by_port.get(&port).is_some_and(|behind| behind.stations < PER_PORT)
    }

    fn count_down(&mut self, port: PortId) {
        if let Some(behind) = self.by_port.get_mut(&port) {
            behind.stations = behind.stations.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: PortId = PortId(1);
    const TWO: PortId = PortId(2);

    fn address(number: usize) -> MacAddr {
        let [a, b] = (number as u16).to_be_bytes();
        MacAddr([2, 0, 0, 0, a, b])
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_station_is_where_it_was_seen_last() {
        let mut stations = Stations::default();
        assert_eq!(stations.find(at(0), address(0)), None);
        assert!(stations.learn(at(0), address(0), ONE));
        assert_eq!(stations.find(at(0), address(0)), Some(ONE));
        assert!(stations.learn(at(1), address(0), TWO));
        assert_eq!(stations.find(at(1), address(0)), Some(TWO));
    }

    #[test]
    fn a_silent_station_is_forgotten_and_one_that_speaks_is_not() {
        let mut stations = Stations::default();
        stations.learn(at(0), address(0), ONE);
        stations.learn(at(0), address(1), ONE);
        stations.learn(at(299), address(1), ONE);
        assert_eq!(stations.find(at(300), address(0)), None);
        assert_eq!(stations.find(at(300), address(1)), Some(ONE));
    }

    #[test]
    fn a_port_with_too_many_stations_takes_no_place_from_others() {
        let mut stations = Stations::default();
        for number in 0..PER_PORT {
            assert!(stations.learn(at(0), address(number), ONE));
        }
        assert!(!stations.learn(at(0), address(PER_PORT), ONE));
        assert!(stations.learn(at(0), address(PER_PORT), TWO));
        assert!(stations.learn(at(0), address(0), ONE), "those that are known stay so");

        // One moves away and leaves its place, and the old ones do in time.
        assert!(stations.learn(at(0), address(7), TWO));
        assert!(stations.learn(at(0), address(1000), ONE));
        assert!(!stations.learn(at(0), address(1001), ONE));
        assert!(stations.learn(at(300), address(1001), ONE));
        assert_eq!(stations.by_address.len(), 1);
        assert_eq!(stations.by_port[&ONE].stations, 1);
    }

    #[test]
    fn the_stations_of_a_port_go_with_it() {
        let mut stations = Stations::default();
        stations.learn(at(0), address(0), ONE);
        stations.learn(at(0), address(1), TWO);
        stations.forget(ONE);
        assert_eq!(stations.find(at(0), address(0)), None);
        assert_eq!(stations.find(at(0), address(1)), Some(TWO));
    }
}
