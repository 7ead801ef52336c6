//! ICMP and ICMPv6 (RFC 792, RFC 4443): what guests send, echo of the virtual hosts, and what guests are told when something is wrong.

mod error;
mod limit;

use smoltcp::wire::{Icmpv4Message, Icmpv6Message, IpProtocol};
use std::net::SocketAddr;

pub(crate) use self::error::{ParameterProblem, Quote, problem_of, relay, report, tell};
pub(crate) use self::limit::ErrorLimit;
use super::emit::{self, HOP_LIMIT, Path};
use super::neighbour::Station;
use super::packet::Packet;
use super::policy::{Attempt, Verdict};
use super::{Context, Shared};
use crate::frame::Frame;
use crate::wire::icmp_error::{self, HEADER, Problem, Unreachable};

/// What an ICMP message of a guest is, as far as that matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    EchoRequest,
    /// An error or a redirect: nobody is ever told an error about one (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e)).
    Error,
    Other,
}

impl Kind {
    /// Of the message that begins with these bytes.
    pub(crate) fn of(ipv4: bool, message: &[u8]) -> Self {
        let Some(&kind) = message.first() else { return Self::Other };
        match (ipv4, kind) {
            (true, 8) | (false, 128) => Self::EchoRequest,
            (true, 3 | 4 | 5 | 11 | 12) | (false, 0..=127 | 137) => Self::Error,
            _ => Self::Other,
        }
    }
}

/// The type of an echo reply.
pub(crate) fn echo_reply(ipv4: bool) -> u8 {
    if ipv4 { Icmpv4Message::EchoReply.into() } else { Icmpv6Message::EchoReply.into() }
}

/// ICMP as a protocol in IP.
pub(crate) const fn protocol(ipv4: bool) -> IpProtocol {
    if ipv4 { IpProtocol::Icmp } else { IpProtocol::Icmpv6 }
}

/// Takes a guest's message that is not one of neighbour discovery. Returns where it is to be sent on to: an echo request for a host of the
/// world.
pub(crate) fn input(
    cx: &mut Context<'_>,
    shared: &mut Shared,
    station: Station,
    packet: &Packet,
    message: &mut [u8],
    frame: &Frame<'_>,
) -> Option<SocketAddr> {
    let (guest, host) = (packet.source, packet.destination);
    if message.len() < HEADER {
        shared.counters.drop_malformed += 1;
        return None;
    }
    match Kind::of(guest.is_ipv4(), message) {
        Kind::EchoRequest => {}
        Kind::Error => {
            shared.counters.drop_icmp_error += 1;
            return None;
        }
        Kind::Other => {
            shared.counters.drop_protocol += 1;
            return None;
        }
    }
    match shared.policy.decide(&Attempt::echo(guest, host)) {
        Verdict::Host(to) => return Some(to),
        Verdict::Here => {
            message[0] = echo_reply(guest.is_ipv4());
            icmp_error::fill_checksum(host, guest, message);
            let path = Path { station, router: shared.router_mac(host), source: host, destination: guest };
            emit::send_message(cx, shared, &path, protocol(guest.is_ipv4()), HOP_LIMIT, message);
        }
        Verdict::Unreachable => {
            shared.counters.drop_destination += 1;
            tell(cx, shared, station, Problem::Unreachable(Unreachable::Host), &Quote::of_frame(guest, frame));
        }
        _ => shared.counters.drop_destination += 1,
    }
    None
}
