//! Ethernet, ARP, IPv4, IPv6.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::IpNumber;
use smoltcp::wire::checksum;

use super::{Base, Fields, hex, right, transport, u16_at, u32_at};
use crate::addr::MacAddr;
use crate::frame::ETHERNET_HEADER;
use crate::replay::form::Place;
use crate::replay::packet;

const ARP_LEN: usize = 28;

pub(super) fn ethernet(fields: &mut Fields, frame: &[u8], base: Base) {
    let Some((source, destination, ethertype)) = packet::ethernet(frame) else {
        return fields.bytes("frame", frame);
    };
    fields.text("eth.destination", destination);
    fields.text("eth.source", source);
    fields.text("eth.type", format_args!("{ethertype:#06x}"));
    let payload = &frame[ETHERNET_HEADER..];
    match ethertype {
        0x0806 if payload.len() >= ARP_LEN => arp(fields, payload),
        0x0800 if payload.len() >= 20 => ipv4(fields, frame, payload, base),
        0x86dd if payload.len() >= 40 => ipv6(fields, frame, payload, base),
        _ => fields.bytes("eth.payload", payload),
    }
}

fn arp(fields: &mut Fields, arp: &[u8]) {
    let mac = |at: usize| arp[at..].first_chunk().copied().map(MacAddr).unwrap_or_default();
    let ip = |at: usize| Ipv4Addr::from(u32_at(arp, at));
    fields.text("arp.types", hex(&arp[..6]));
    match u16_at(arp, 6) {
        1 => fields.text("arp.operation", "request"),
        2 => fields.text("arp.operation", "reply"),
        other => fields.text("arp.operation", other),
    }
    fields.text("arp.sender_mac", mac(8));
    fields.text("arp.sender", ip(14));
    fields.text("arp.target_mac", mac(18));
    fields.text("arp.target", ip(24));
    fields.rest("frame.padding", &arp[ARP_LEN..]);
}

fn ipv4(fields: &mut Fields, frame: &[u8], ip: &[u8], base: Base) {
    let header = (usize::from(ip[0] & 15) * 4).clamp(20, ip.len());
    fields.text("ip.version", ip[0] >> 4);
    fields.text("ip.header_length", usize::from(ip[0] & 15) * 4);
    fields.text("ip.dscp", ip[1] >> 2);
    fields.text("ip.ecn", ip[1] & 3);
    fields.text("ip.length", u16_at(ip, 2));
    fields.text("ip.flags", flags(ip[6] >> 5, &["DF", "MF"]));
    fields.text("ip.offset", usize::from(u16_at(ip, 6) & 0x1fff) * 8);
    fields.text("ip.ttl", ip[8]);
    fields.text("ip.protocol", ip[9]);
    fields.text("ip.checksum", right(checksum::data(&ip[..header]) == !0));
    fields.text("ip.source", Ipv4Addr::from(u32_at(ip, 12)));
    fields.text("ip.destination", Ipv4Addr::from(u32_at(ip, 16)));
    fields.rest("ip.options", &ip[20..header]);
    payload(fields, frame, &ip[header..], base);
}

/// The names of bits, from the second highest of three on.
fn flags(bits: u8, names: &[&str]) -> String {
    let set: Vec<_> = names.iter().enumerate().filter(|(n, _)| bits & (2 >> n) != 0).map(|(_, name)| *name).collect();
    let reserved = if bits & 4 == 0 { "" } else { "reserved " };
    format!("{reserved}{}", set.join(","))
}

fn ipv6(fields: &mut Fields, frame: &[u8], ip: &[u8], base: Base) {
    let word = u32_at(ip, 0);
    let address = |at: usize| ip[at..].first_chunk::<16>().map_or(Ipv6Addr::UNSPECIFIED, |octets| Ipv6Addr::from(*octets));
    fields.text("ipv6.version", word >> 28);
    fields.text("ipv6.traffic_class", word >> 20 & 0xff);
    fields.text("ipv6.flow_label", word & 0xf_ffff);
    fields.text("ipv6.length", u16_at(ip, 4));
    fields.text("ipv6.next_header", ip[6]);
    fields.text("ipv6.hop_limit", ip[7]);
    fields.text("ipv6.source", address(8));
    fields.text("ipv6.destination", address(24));
    payload(fields, frame, &ip[40..], base);
}

fn payload(fields: &mut Fields, frame: &[u8], rest: &[u8], base: Base) {
    let Some(place) = Place::of(frame) else { return fields.bytes("ip.payload", rest) };
    let body = frame.get(place.start..place.start + place.len).unwrap_or_default();
    match place.protocol {
        IpNumber::TCP if body.len() >= 20 => transport::tcp(fields, frame, &place, body, base),
        IpNumber::UDP if body.len() >= 8 => transport::udp(fields, frame, &place, body),
        IpNumber::ICMP if body.len() >= 8 => transport::icmp(fields, frame, &place, body),
        IpNumber::IPV6_ICMP if body.len() >= 8 => transport::icmp(fields, frame, &place, body),
        _ => fields.bytes("ip.payload", body),
    }
    fields.rest("frame.padding", frame.get(place.start + place.len..).unwrap_or_default());
}
