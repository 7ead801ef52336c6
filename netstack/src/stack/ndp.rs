//! Neighbour discovery (RFC 4861): the virtual hosts and the router are found, guests learn their prefix, and what guests say of
//! themselves is remembered.

use std::net::{IpAddr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv6Message, Icmpv6Packet, Icmpv6Repr, IpProtocol, NdiscNeighborFlags, NdiscRepr, RawHardwareAddress};

use super::emit::{self, Path};
use super::neighbour::Station;
use super::packet::Packet;
use super::policy::LINK_LOCAL_GATEWAY;
use super::{Context, Shared};
use crate::addr::MacAddr;
use crate::port::PortId;
use crate::time::Duration;
use crate::wire::router_advertisement::RouterAdvertisement;

/// RFC 4861: what comes with another hop limit has crossed a router.
const HOP_LIMIT: u8 = 255;

/// How often the router makes itself heard unasked (RFC 4861 section 6.2.1: MaxRtrAdvInterval).
pub(crate) const ADVERTISEMENT_INTERVAL: Duration = Duration::from_secs(600);

/// How long guests may use the router without hearing of it.
const ROUTER_LIFETIME: Duration = Duration::from_secs(1800);

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Whether this is a message of neighbour discovery.
pub(crate) const fn is_discovery(kind: Icmpv6Message) -> bool {
    matches!(
        kind,
        Icmpv6Message::RouterSolicit
            | Icmpv6Message::RouterAdvert
            | Icmpv6Message::NeighborSolicit
            | Icmpv6Message::NeighborAdvert
            | Icmpv6Message::Redirect
    )
}

/// Takes a message. Returns the guest's address that it tells of.
pub(crate) fn input(
    cx: &mut Context<'_>,
    shared: &mut Shared,
    station: Station,
    packet: &Packet,
    message: &[u8],
) -> Option<IpAddr> {
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (packet.source, packet.destination) else { return None };
    let parsed = Icmpv6Packet::new_checked(message)
        .and_then(|icmp| Icmpv6Repr::parse(&source, &destination, &icmp, &ChecksumCapabilities::ignored()));
    let Ok(Icmpv6Repr::Ndisc(discovery)) = parsed else {
        shared.counters.drop_malformed += 1;
        return None;
    };
    if packet.hop_limit != HOP_LIMIT {
        shared.counters.drop_malformed += 1;
        return None;
    }
    match discovery {
        NdiscRepr::RouterSolicit { .. } => {
            answer_solicitation(cx, shared, station, source);
            told(shared, source)
        }
        NdiscRepr::NeighborSolicit { target_addr, .. } => {
            if shared.policy.is_virtual_host(target_addr.into()) {
                advertise(cx, shared, station, source, target_addr);
            }
            told(shared, source)
        }
        NdiscRepr::NeighborAdvert { target_addr, .. } => told(shared, target_addr),
        // Guests are no routers.
        NdiscRepr::RouterAdvert { .. } | NdiscRepr::Redirect { .. } => {
            shared.counters.drop_protocol += 1;
            None
        }
    }
}

fn told(shared: &Shared, ip: Ipv6Addr) -> Option<IpAddr> {
    let ip = IpAddr::V6(ip);
    shared.policy.is_guest_address(ip).then_some(ip)
}

/// Answers a neighbour solicitation for a virtual host (RFC 4861 section 7.2.4).
fn advertise(cx: &mut Context<'_>, shared: &mut Shared, station: Station, asker: Ipv6Addr, target: Ipv6Addr) {
    let (mac, asked_by_nobody) = (MacAddr::of_virtual_host(target.into()), asker.is_unspecified());
    let destination = if asked_by_nobody { ALL_NODES } else { asker };
    let mut flags = NdiscNeighborFlags::OVERRIDE;
    flags.set(NdiscNeighborFlags::SOLICITED, !asked_by_nobody);
    flags.set(NdiscNeighborFlags::ROUTER, Some(IpAddr::V6(target)) != shared.dns_v6());
    let repr = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        flags,
        target_addr: target,
        lladdr: Some(RawHardwareAddress::from_bytes(&mac.0)),
    });
    send(cx, shared, station, (mac, target, destination), &repr);
}

/// Asks everybody on the link who has `ip`.
pub(crate) fn solicit(cx: &mut Context<'_>, shared: &mut Shared, ip: Ipv6Addr) {
    let mac = MacAddr::of_virtual_host(LINK_LOCAL_GATEWAY.into());
    let repr =
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr: ip, lladdr: Some(RawHardwareAddress::from_bytes(&mac.0)) });
    let o = ip.octets();
    // The solicited-node group (RFC 4291 section 2.7.1).
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, o[13], o[14], o[15]]);
    for port in cx.link.ports() {
        let station = Station { port, mac: MacAddr::of_ipv6_multicast(group) };
        send(cx, shared, station, (mac, LINK_LOCAL_GATEWAY, group), &repr);
    }
}

/// Tells a station that has asked of the router and the prefix, and nobody else: so there is no need to hold back what others would hear
/// too often (RFC 4861 section 6.2.6, RFC 7772 section 5.1). One that has no address yet is found by its card (RFC 6085).
fn answer_solicitation(cx: &mut Context<'_>, shared: &mut Shared, station: Station, asker: Ipv6Addr) {
    let to = if asker.is_unspecified() { ALL_NODES } else { asker };
    send_advertisement(cx, shared, station, to);
}

/// Tells the stations behind a port of the router and the prefix.
pub(crate) fn advertise_router(cx: &mut Context<'_>, shared: &mut Shared, port: PortId) {
    send_advertisement(cx, shared, Station { port, mac: MacAddr::of_ipv6_multicast(ALL_NODES) }, ALL_NODES);
}

fn send_advertisement(cx: &mut Context<'_>, shared: &mut Shared, station: Station, to: Ipv6Addr) {
    let Some(config) = shared.ipv6.clone() else { return };
    let mac = MacAddr::of_virtual_host(LINK_LOCAL_GATEWAY.into());
    let message = RouterAdvertisement {
        router: mac,
        prefix: config.prefix,
        managed: config.managed && !shared.restrict,
        other: !shared.restrict,
        mtu: cx.link.mtu(station.port).min(shared.mtu),
        lifetime: if shared.restrict { Duration::ZERO } else { ROUTER_LIFETIME },
        dns: (!shared.restrict).then_some(config.dns),
        search: &shared.search,
    }
    .emit(LINK_LOCAL_GATEWAY, to);
    let path = Path { station, router: mac, source: LINK_LOCAL_GATEWAY.into(), destination: to.into() };
    emit::send_message(cx, shared, &path, IpProtocol::Icmpv6, HOP_LIMIT, &message);
}

fn send(
    cx: &mut Context<'_>,
    shared: &mut Shared,
    station: Station,
    (mac, source, destination): (MacAddr, Ipv6Addr, Ipv6Addr),
    repr: &Icmpv6Repr<'_>,
) {
    let mut message = vec![0; repr.buffer_len()];
    repr.emit(&source, &destination, &mut Icmpv6Packet::new_unchecked(&mut message[..]), &ChecksumCapabilities::default());
    let path = Path { station, router: mac, source: source.into(), destination: destination.into() };
    emit::send_message(cx, shared, &path, IpProtocol::Icmpv6, HOP_LIMIT, &message);
}
