//! ARP (RFC 826): the virtual hosts answer, and what guests say of themselves is remembered.

use std::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, ETHERNET_HEADER_LEN, EthernetAddress, EthernetFrame, EthernetProtocol};

use super::emit;
use super::neighbour::Station;
use super::{Context, Shared};
use crate::addr::MacAddr;
use crate::frame::FrameMeta;
use crate::port::{PortId, Sent};

const ARP_LEN: usize = 28;

/// Takes an ARP packet. Returns the guest's address that it tells of.
pub(crate) fn input(cx: &mut Context<'_>, shared: &mut Shared, station: Station, packet: &[u8]) -> Option<IpAddr> {
    let parsed = ArpPacket::new_checked(packet).and_then(|packet| ArpRepr::parse(&packet));
    let Ok(ArpRepr::EthernetIpv4 { operation, source_hardware_addr, source_protocol_addr, target_protocol_addr, .. }) = parsed
    else {
        shared.counters.drop_malformed += 1;
        return None;
    };
    let source = MacAddr(source_hardware_addr.0);
    if operation == ArpOperation::Request && shared.policy.is_virtual_host(target_protocol_addr.into()) {
        let reply = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: EthernetAddress(MacAddr::of_virtual_host(target_protocol_addr.into()).0),
            source_protocol_addr: target_protocol_addr,
            target_hardware_addr: source_hardware_addr,
            target_protocol_addr: source_protocol_addr,
        };
        send(cx, shared, station.port, station.mac, &reply);
    }
    let ip = IpAddr::V4(source_protocol_addr);
    // A probe (RFC 5227) has no address yet. A claim to an address of ours, or made for another station, is not believed.
    (source == station.mac && shared.policy.is_on_link(ip) && shared.policy.is_guest_address(ip)).then_some(ip)
}

/// Asks everybody on the link who has `ip`.
pub(crate) fn solicit(cx: &mut Context<'_>, shared: &mut Shared, gateway: Ipv4Addr, ip: Ipv4Addr) {
    let request = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(MacAddr::of_virtual_host(gateway.into()).0),
        source_protocol_addr: gateway,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: ip,
    };
    for port in cx.link.ports() {
        send(cx, shared, port, MacAddr::BROADCAST, &request);
    }
}

fn send(cx: &mut Context<'_>, shared: &mut Shared, port: PortId, to: MacAddr, repr: &ArpRepr) {
    let ArpRepr::EthernetIpv4 { source_hardware_addr, .. } = *repr else { return };
    let mut bytes = [0; ETHERNET_HEADER_LEN + ARP_LEN];
    let mut ethernet = EthernetFrame::new_unchecked(&mut bytes[..]);
    ethernet.set_src_addr(source_hardware_addr);
    ethernet.set_dst_addr(EthernetAddress(to.0));
    ethernet.set_ethertype(EthernetProtocol::Arp);
    repr.emit(&mut ArpPacket::new_unchecked(ethernet.payload_mut()));
    let sent = emit::send(cx, shared, port, bytes.len(), &mut |room| {
        room.copy_from(0, &bytes);
        Some((bytes.len(), FrameMeta::default()))
    });
    if sent == Sent::Full {
        shared.counters.drop_port_full += 1;
    }
}
