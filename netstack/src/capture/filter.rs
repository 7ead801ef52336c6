//! Which frames are recorded: expressions in the manner of pcap-filter(7).
//!
//! ```text
//! host 10.0.2.15 and not (port 53 or arp)
//! tcp portrange 8000-8080 or drops
//! ```
//!
//! | primitive | frames |
//! |---|---|
//! | `host A`, or just `A` | from or to this address; for ARP, asked by it or about it |
//! | `net A/LEN` | from or to a network |
//! | `port N`, `portrange N-M` | TCP and UDP, from or to this port, or one of these |
//! | `ip`, `ip6`, `arp`, `tcp`, `udp`, `icmp`, `icmp6` | of this protocol |
//! | `drops` | of guests, that were dropped or refused |
//!
//! `src` and `dst` in front of the first three kinds choose one direction. `not` (or `!`) binds closest, then `and` (`&&`), then `or`
//! (`||`); parentheses group. Between a protocol and what follows, `and` may be left out: `udp port 53`.
//!
//! A filter is asked twice. The engine asks before it copies a frame, with what its headers say; what was dropped is not known by then,
//! so an answer may be *perhaps*. The thread that writes asks again.

mod parse;

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use etherparse::IpNumber;
use ipnet::IpNet;

pub use self::parse::FilterError;
use super::summary::{Network, Summary};

/// The language, told to users.
pub const HELP: &str = "\
host A                 frames from or to this address; `host` may be left out
net A/LEN              frames from or to this network
port N, portrange N-M  TCP and UDP from or to this port, or one of these
ip, ip6, arp, tcp, udp, icmp, icmp6
                       frames of this protocol
drops                  frames of guests that were dropped or refused
`src` or `dst` before the first three chooses one direction. `not` (or `!`) binds closest, then `and` (`&&`), then `or` (`||`);
parentheses group. Example: tcp port 80 or drops and not src net 10.0.2.0/24";

/// An expression that chooses frames. Made by [`str::parse`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    text: String,
    expression: Expression,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Expression {
    /// Each of them.
    All(Vec<Self>),
    /// At least one of them.
    Any(Vec<Self>),
    Not(Box<Self>),
    Is(Primitive),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Primitive {
    Host(Side, IpAddr),
    Net(Side, IpNet),
    Ports(Side, RangeInclusive<u16>),
    Protocol(Protocol),
    Drops,
}

/// Which of the two ends of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Either,
    Source,
    Destination,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Ip,
    Ip6,
    Arp,
    Tcp,
    Udp,
    Icmp,
    Icmp6,
}

impl Filter {
    /// Whether the frame is chosen; `None` if that depends on whether it was dropped, and that is not known.
    pub(super) fn chooses(&self, summary: &Summary, dropped: Option<bool>) -> Option<bool> {
        self.expression.holds(summary, dropped)
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        Ok(Self { expression: parse::parse(text)?, text: text.to_owned() })
    }
}

/// As it was written.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Expression {
    /// `None` for *perhaps*.
    fn holds(&self, summary: &Summary, dropped: Option<bool>) -> Option<bool> {
        match self {
            Self::All(parts) => decide(parts, summary, dropped, false),
            Self::Any(parts) => decide(parts, summary, dropped, true),
            Self::Not(part) => part.holds(summary, dropped).map(|holds| !holds),
            Self::Is(Primitive::Drops) => dropped,
            Self::Is(primitive) => Some(primitive.holds(summary)),
        }
    }
}

/// The first part that is `decisive` decides; without one, the answer is the opposite, or *perhaps* if a part says so.
fn decide(parts: &[Expression], summary: &Summary, dropped: Option<bool>, decisive: bool) -> Option<bool> {
    let mut answer = Some(!decisive);
    for part in parts {
        match part.holds(summary, dropped) {
            Some(holds) if holds == decisive => return Some(decisive),
            Some(_) => {}
            None => answer = None,
        }
    }
    answer
}

impl Primitive {
    fn holds(&self, summary: &Summary) -> bool {
        match self {
            Self::Host(side, host) => side.holds(summary.addresses, |address| address == host),
            Self::Net(side, net) => side.holds(summary.addresses, |address| net.contains(address)),
            Self::Ports(side, ports) => side.holds(summary.ports, |port| ports.contains(port)),
            Self::Protocol(protocol) => protocol.holds(summary),
            // Known to nobody here; the expression asks whoever knows.
            Self::Drops => false,
        }
    }
}

impl Side {
    fn holds<T>(self, ends: Option<(T, T)>, is: impl Fn(&T) -> bool) -> bool {
        ends.is_some_and(|(source, destination)| match self {
            Self::Either => is(&source) || is(&destination),
            Self::Source => is(&source),
            Self::Destination => is(&destination),
        })
    }
}

impl Protocol {
    fn holds(self, summary: &Summary) -> bool {
        match self {
            Self::Ip => summary.network == Some(Network::V4),
            Self::Ip6 => summary.network == Some(Network::V6),
            Self::Arp => summary.network == Some(Network::Arp),
            Self::Tcp => summary.protocol == Some(IpNumber::TCP),
            Self::Udp => summary.protocol == Some(IpNumber::UDP),
            Self::Icmp => summary.protocol == Some(IpNumber::ICMP),
            Self::Icmp6 => summary.protocol == Some(IpNumber::IPV6_ICMP),
        }
    }
}

#[cfg(test)]
mod tests;
