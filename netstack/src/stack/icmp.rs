//! ICMP and ICMPv6 (RFC 792, RFC 4443): echo of the virtual hosts, and telling guests what cannot be reached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, Icmpv6DstUnreachable, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Repr, Ipv6Repr,
};

use super::emit::{self, HOP_LIMIT, Path};
use super::neighbour::Station;
use super::packet::Packet;
use super::policy::{Attempt, Verdict};
use super::{Context, Shared};

/// Why something cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreachable {
    Network,
    Host,
    Port,
    Prohibited,
}

/// The beginning of the packet that an error is about, as the guest sent it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quote {
    pub(crate) guest: IpAddr,
    pub(crate) remote: IpAddr,
    pub(crate) protocol: IpProtocol,
    /// The first 8 bytes behind the IP header: RFC 792 asks for those.
    pub(crate) transport: [u8; 8],
}

/// Tells a guest that what it sent did not arrive, and why.
pub(crate) fn send_unreachable(cx: &mut Context<'_>, shared: &mut Shared, station: Station, quote: &Quote, why: Unreachable) {
    // RFC 792: the router where the way ended says so. That is never an address of the host.
    let Some(source) = shared.policy.gateway(quote.guest.is_ipv4()) else { return };
    let path = Path { station, router: shared.router_mac(source), source, destination: quote.guest };
    let (message, protocol) = match (quote.guest, quote.remote) {
        (IpAddr::V4(guest), IpAddr::V4(remote)) => (unreachable_v4(guest, remote, quote, why), IpProtocol::Icmp),
        (IpAddr::V6(guest), IpAddr::V6(remote)) => (unreachable_v6(source, guest, remote, quote, why), IpProtocol::Icmpv6),
        _ => return,
    };
    shared.counters.icmp_errors_out += 1;
    emit::send_message(cx, shared, &path, protocol, HOP_LIMIT, &message);
}

fn unreachable_v4(guest: Ipv4Addr, remote: Ipv4Addr, quote: &Quote, why: Unreachable) -> Vec<u8> {
    let repr = Icmpv4Repr::DstUnreachable {
        reason: match why {
            Unreachable::Network => Icmpv4DstUnreachable::NetUnreachable,
            Unreachable::Host => Icmpv4DstUnreachable::HostUnreachable,
            Unreachable::Port => Icmpv4DstUnreachable::PortUnreachable,
            Unreachable::Prohibited => Icmpv4DstUnreachable::CommProhibited,
        },
        header: Ipv4Repr {
            src_addr: guest,
            dst_addr: remote,
            next_header: quote.protocol,
            payload_len: quote.transport.len(),
            hop_limit: HOP_LIMIT,
        },
        data: &quote.transport,
    };
    let mut message = vec![0; repr.buffer_len()];
    repr.emit(&mut Icmpv4Packet::new_unchecked(&mut message), &ChecksumCapabilities::default());
    message
}

fn unreachable_v6(source: IpAddr, guest: Ipv6Addr, remote: Ipv6Addr, quote: &Quote, why: Unreachable) -> Vec<u8> {
    let repr = Icmpv6Repr::DstUnreachable {
        reason: match why {
            Unreachable::Network => Icmpv6DstUnreachable::NoRoute,
            Unreachable::Host => Icmpv6DstUnreachable::AddrUnreachable,
            Unreachable::Port => Icmpv6DstUnreachable::PortUnreachable,
            Unreachable::Prohibited => Icmpv6DstUnreachable::AdminProhibit,
        },
        header: Ipv6Repr {
            src_addr: guest,
            dst_addr: remote,
            next_header: quote.protocol,
            payload_len: quote.transport.len(),
            hop_limit: HOP_LIMIT,
        },
        data: &quote.transport,
    };
    let mut message = vec![0; repr.buffer_len()];
    if let IpAddr::V6(source) = source {
        repr.emit(&source, &guest, &mut Icmpv6Packet::new_unchecked(&mut message), &ChecksumCapabilities::default());
    }
    message
}

/// Answers an IPv4 echo request to a virtual host.
pub(crate) fn input_v4(cx: &mut Context<'_>, shared: &mut Shared, station: Station, packet: &Packet, message: &mut [u8]) {
    let Ok(mut icmp) = Icmpv4Packet::new_checked(&mut *message) else {
        shared.counters.drop_malformed += 1;
        return;
    };
    let answered = shared.policy.decide(&Attempt::echo(packet.source, packet.destination)) == Verdict::Here;
    if icmp.msg_type() != smoltcp::wire::Icmpv4Message::EchoRequest || !answered {
        shared.counters.drop_protocol += 1;
        return;
    }
    icmp.set_msg_type(smoltcp::wire::Icmpv4Message::EchoReply);
    icmp.fill_checksum();
    echo_back(cx, shared, station, packet, IpProtocol::Icmp, message);
}

/// Answers an IPv6 echo request to a virtual host.
pub(crate) fn input_v6(cx: &mut Context<'_>, shared: &mut Shared, station: Station, packet: &Packet, message: &mut [u8]) {
    let (IpAddr::V6(guest), IpAddr::V6(host)) = (packet.source, packet.destination) else { return };
    let Ok(mut icmp) = Icmpv6Packet::new_checked(&mut *message) else {
        shared.counters.drop_malformed += 1;
        return;
    };
    let answered = shared.policy.decide(&Attempt::echo(packet.source, packet.destination)) == Verdict::Here;
    if icmp.msg_type() != smoltcp::wire::Icmpv6Message::EchoRequest || !answered {
        shared.counters.drop_protocol += 1;
        return;
    }
    icmp.set_msg_type(smoltcp::wire::Icmpv6Message::EchoReply);
    icmp.fill_checksum(&host, &guest);
    echo_back(cx, shared, station, packet, IpProtocol::Icmpv6, message);
}

fn echo_back(cx: &mut Context<'_>, shared: &mut Shared, station: Station, packet: &Packet, protocol: IpProtocol, message: &[u8]) {
    let path =
        Path { station, router: shared.router_mac(packet.destination), source: packet.destination, destination: packet.source };
    emit::send_message(cx, shared, &path, protocol, HOP_LIMIT, message);
}
