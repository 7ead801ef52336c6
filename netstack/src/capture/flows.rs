//! Which conversation a frame belongs to.
//!
//! A conversation is what goes between two addresses and ports, or under one identifier of echo requests; both directions of it have
//! the same number, wherever the frame was seen. A connection that is opened anew between the same ports is another one.
//!
//! A guest can make up as many conversations as it sends frames, so only the latest are remembered. One that was silent while
//! [`GENERATION`] others were begun gets a new number when it goes on.

use std::collections::HashMap;
use std::net::IpAddr;

use super::summary::Summary;

/// How many conversations are begun before those are forgotten of which nothing was seen meanwhile.
const GENERATION: usize = 1 << 16;

/// The conversations of a capture.
#[derive(Debug, Default)]
pub(super) struct Flows {
    last: u64,
    recent: HashMap<Key, Flow>,
    before: HashMap<Key, Flow>,
}

/// An end of a conversation.
type End = (IpAddr, u16);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    protocol: u8,
    lower: End,
    upper: End,
}

#[derive(Debug, Clone, Copy)]
struct Flow {
    number: u64,
    /// Who has opened the connection, and with which sequence number.
    opened: Option<(End, u32)>,
    /// Whether it has got further than that.
    open: bool,
}

impl Flows {
    /// The number of the conversation, from 1 on, of a frame that is part of one.
    pub(super) fn number(&mut self, summary: &Summary) -> Option<u64> {
        let (source, destination) = summary.addresses?;
        let (from, to) = summary.ports.or_else(|| summary.echo.map(|id| (id, id)))?;
        let (source, destination) = ((source, from), (destination, to));
        let (lower, upper) = if source <= destination { (source, destination) } else { (destination, source) };
        let key = Key { protocol: summary.protocol?.0, lower, upper };

        let known = self.recent.get(&key).or_else(|| self.before.get(&key)).copied();
        let opening = summary.opens.map(|sequence| (source, sequence));
        let flow = match known {
            Some(flow) if !flow.is_succeeded_by(opening) => Flow { open: flow.open || opening.is_none(), ..flow },
            _ => {
                self.last += 1;
                Flow { number: self.last, opened: opening, open: opening.is_none() }
            }
        };
        if self.recent.insert(key, flow).is_none() && self.recent.len() >= GENERATION {
            self.before = std::mem::take(&mut self.recent);
        }
        Some(flow.number)
    }
}

impl Flow {
    /// Whether a segment opens another connection in the place of this one. Both sides may open the same one at once, and a SYN may be
    /// sent again.
    fn is_succeeded_by(&self, opening: Option<(End, u32)>) -> bool {
        match (opening, self.opened) {
            (None, _) => false,
            (Some(new), Some(old)) if new.0 == old.0 => new.1 != old.1,
            (Some(_), _) => self.open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::summary::tests::{arp, ping, tcp, udp6};

    fn back(mut summary: Summary) -> Summary {
        summary.addresses = summary.addresses.map(|(a, b)| (b, a));
        summary.ports = summary.ports.map(|(a, b)| (b, a));
        summary
    }

    #[test]
    fn both_directions_are_one_conversation() {
        let mut flows = Flows::default();
        let [segment, datagram, echo] = [tcp(None, b""), udp6(b""), ping(7)].map(|frame| Summary::of(&frame));
        for _ in 0..2 {
            assert_eq!(flows.number(&segment), Some(1));
            assert_eq!(flows.number(&back(datagram.clone())), Some(2));
            assert_eq!(flows.number(&back(echo.clone())), Some(3));
            assert_eq!(flows.number(&back(segment.clone())), Some(1));
            assert_eq!(flows.number(&datagram), Some(2));
            assert_eq!(flows.number(&echo), Some(3));
        }
        assert_eq!(flows.number(&Summary::of(&ping(8))), Some(4));
        assert_eq!(flows.number(&Summary::of(&arp())), None);
    }

    #[test]
    fn a_connection_that_is_opened_anew_is_another() {
        let mut flows = Flows::default();
        let of = |syn| Summary::of(&tcp(syn, b""));
        assert_eq!(flows.number(&of(Some(100))), Some(1));
        assert_eq!(flows.number(&of(Some(100))), Some(1), "sent again");
        assert_eq!(flows.number(&back(of(None))), Some(1));
        assert_eq!(flows.number(&of(Some(100))), Some(1), "late");
        assert_eq!(flows.number(&of(Some(200))), Some(2));
        assert_eq!(flows.number(&of(None)), Some(2));
        assert_eq!(flows.number(&back(of(Some(5)))), Some(3), "opened by the other side");
    }

    #[test]
    fn both_sides_may_open_one_connection() {
        let mut flows = Flows::default();
        let syn = Summary::of(&tcp(Some(100), b""));
        assert_eq!(flows.number(&syn), Some(1));
        assert_eq!(flows.number(&back(syn)), Some(1));
    }

    #[test]
    fn only_so_many_conversations_are_remembered() {
        let mut flows = Flows::default();
        let busy = Summary::of(&tcp(None, b""));
        let mut other = busy.clone();
        assert_eq!(flows.number(&busy), Some(1));
        for n in 0..3 * GENERATION as u32 {
            other.addresses = Some(([10, 9, 9, 9].into(), n.to_be_bytes().into()));
            flows.number(&other);
            if n % 1000 == 0 {
                assert_eq!(flows.number(&busy), Some(1), "one that goes on is not forgotten");
            }
            assert!(flows.recent.len() + flows.before.len() <= 2 * GENERATION);
        }
    }
}
