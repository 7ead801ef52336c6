//! TCP, UDP, ICMP and neighbour discovery.

use std::net::Ipv6Addr;

use smoltcp::wire::checksum;

use super::{Base, Fields, application, hex, right, u16_at, u32_at};
use crate::replay::form::Place;

const FLAGS: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];

pub(super) fn tcp(fields: &mut Fields, frame: &[u8], place: &Place, tcp: &[u8], base: Base) {
    let header = (usize::from(tcp[12] >> 4) * 4).clamp(20, tcp.len());
    let names: Vec<_> = (0..8).filter(|n| tcp[13] >> n & 1 == 1).map(|n| FLAGS[n]).collect();
    fields.text("tcp.source_port", u16_at(tcp, 0));
    fields.text("tcp.destination_port", u16_at(tcp, 2));
    fields.text("tcp.flags", names.join(","));
    fields.text("tcp.seq", u32_at(tcp, 4).wrapping_sub(base.engine));
    let ack = u32_at(tcp, 8);
    fields.text("tcp.ack", if tcp[13] & 0x10 == 0 { ack } else { ack.wrapping_sub(base.guest) });
    fields.text("tcp.header_length", usize::from(tcp[12] >> 4) * 4);
    fields.text("tcp.reserved", tcp[12] & 15);
    fields.text("tcp.window", u16_at(tcp, 14));
    if place.whole {
        fields.text("tcp.checksum", right(place.is_sound(frame)));
    }
    fields.text("tcp.urgent", u16_at(tcp, 18));
    options(fields, &tcp[20..header]);
    fields.bytes("tcp.payload", &tcp[header..]);
}

fn options(fields: &mut Fields, options: &[u8]) {
    let mut order = Vec::new();
    let mut at = 0;
    while let Some(kind) = options.get(at).copied() {
        if kind < 2 {
            order.push(if kind == 0 { "end".to_owned() } else { "nop".to_owned() });
            at += 1;
            continue;
        }
        let len = options.get(at + 1).copied().map_or(0, usize::from);
        let Some(value) = options.get(at + 2..at + len.max(2)).filter(|_| len >= 2) else {
            fields.bytes("tcp.options.malformed", &options[at..]);
            break;
        };
        let name = match kind {
            2 => "mss",
            3 => "window_scale",
            4 => "sack_permitted",
            5 => "sack",
            8 => "timestamps",
            _ => "unknown",
        };
        let name = if name == "unknown" { kind.to_string() } else { name.to_owned() };
        match value.len() {
            0 => fields.text(format!("tcp.option.{name}"), "present"),
            1 => fields.text(format!("tcp.option.{name}"), value[0]),
            2 => fields.text(format!("tcp.option.{name}"), u16_at(value, 0)),
            _ => fields.text(format!("tcp.option.{name}"), hex(value)),
        }
        order.push(name);
        at += len;
    }
    if !order.is_empty() {
        fields.text("tcp.options", order.join(","));
    }
}

pub(super) fn udp(fields: &mut Fields, frame: &[u8], place: &Place, udp: &[u8]) {
    let ports = (u16_at(udp, 0), u16_at(udp, 2));
    fields.text("udp.source_port", ports.0);
    fields.text("udp.destination_port", ports.1);
    fields.text("udp.length", u16_at(udp, 4));
    if place.whole {
        let none = u16_at(udp, 6) == 0;
        fields.text("udp.checksum", if none { "none" } else { right(place.is_sound(frame)) });
    }
    match ports {
        (67, _) | (_, 67) if udp.len() >= 8 + 240 => application::dhcp(fields, &udp[8..]),
        (53, _) if udp.len() >= 8 + 12 => application::dns(fields, &udp[8..]),
        _ => fields.bytes("udp.payload", &udp[8..]),
    }
}

pub(super) fn icmp(fields: &mut Fields, frame: &[u8], place: &Place, icmp: &[u8]) {
    let v6 = place.source.is_ipv6();
    let kind = icmp[0];
    fields.text("icmp.type", name(v6, kind));
    fields.text("icmp.code", icmp[1]);
    if place.whole {
        let sound = if v6 { place.is_sound(frame) } else { checksum::data(icmp) == !0 };
        fields.text("icmp.checksum", right(sound));
    }
    match (v6, kind) {
        (true, 134) if icmp.len() >= 16 => {
            fields.text("ra.hop_limit", icmp[4]);
            fields.text("ra.flags", format_args!("{:#04x}", icmp[5]));
            fields.text("ra.lifetime", u16_at(icmp, 6));
            fields.text("ra.reachable_time", u32_at(icmp, 8));
            fields.text("ra.retransmit_timer", u32_at(icmp, 12));
            discovery_options(fields, &icmp[16..]);
        }
        (true, 135 | 136) if icmp.len() >= 24 => {
            fields.text("nd.flags", format_args!("{:#010x}", u32_at(icmp, 4)));
            let target = icmp[8..].first_chunk::<16>().map_or(Ipv6Addr::UNSPECIFIED, |octets| Ipv6Addr::from(*octets));
            fields.text("nd.target", target);
            discovery_options(fields, &icmp[24..]);
        }
        (false, 0 | 8) | (true, 128 | 129) => {
            fields.text("icmp.identifier", u16_at(icmp, 4));
            fields.text("icmp.sequence", u16_at(icmp, 6));
            fields.bytes("icmp.payload", &icmp[8..]);
        }
        (false, 3 | 11 | 12) | (true, 1..=4) => {
            fields.text("icmp.parameter", u32_at(icmp, 4));
            fields.bytes("icmp.quoted", &icmp[8..]);
        }
        _ => fields.bytes("icmp.payload", &icmp[4..]),
    }
}

fn name(v6: bool, kind: u8) -> String {
    let name = match (v6, kind) {
        (false, 0) | (true, 129) => "echo reply",
        (false, 8) | (true, 128) => "echo request",
        (false, 3) | (true, 1) => "unreachable",
        (true, 133) => "router solicitation",
        (true, 134) => "router advertisement",
        (true, 135) => "neighbour solicitation",
        (true, 136) => "neighbour advertisement",
        _ => return kind.to_string(),
    };
    name.to_owned()
}

/// Options of RFC 4861: a type, a length in units of 8 bytes, and what it is for.
fn discovery_options(fields: &mut Fields, mut options: &[u8]) {
    while options.len() >= 2 {
        let name = match options[0] {
            1 => "source_address",
            2 => "target_address",
            3 => "prefix",
            5 => "mtu",
            25 => "dns_servers",
            31 => "dns_search",
            _ => "",
        };
        let len = usize::from(options[1]) * 8;
        let Some(option) = options.get(..len).filter(|option| !option.is_empty()) else { break };
        let name = if name.is_empty() { format!("nd.option.{}", options[0]) } else { format!("nd.option.{name}") };
        fields.bytes(name, &option[2..]);
        options = &options[len..];
    }
    fields.rest("nd.options.malformed", options);
}
