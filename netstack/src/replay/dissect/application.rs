//! DHCP (RFC 2131, RFC 2132) and DNS (RFC 1035).

use std::net::Ipv4Addr;

use super::{Fields, hex, u16_at, u32_at};
use crate::addr::MacAddr;

/// Where the options of DHCP begin: behind BOOTP's fields and the magic cookie.
const OPTIONS: usize = 240;

/// `dhcp` is at least as long as what comes before its options.
pub(super) fn dhcp(fields: &mut Fields, dhcp: &[u8]) {
    let ip = |at: usize| Ipv4Addr::from(u32_at(dhcp, at));
    fields.text("dhcp.operation", dhcp[0]);
    fields.text("dhcp.hardware", hex(&dhcp[1..4]));
    fields.text("dhcp.transaction", format_args!("{:#010x}", u32_at(dhcp, 4)));
    fields.text("dhcp.seconds", u16_at(dhcp, 8));
    fields.text("dhcp.flags", format_args!("{:#06x}", u16_at(dhcp, 10)));
    fields.text("dhcp.client_address", ip(12));
    fields.text("dhcp.your_address", ip(16));
    fields.text("dhcp.server_address", ip(20));
    fields.text("dhcp.relay_address", ip(24));
    fields.text("dhcp.client_mac", dhcp[28..].first_chunk().copied().map(MacAddr).unwrap_or_default());
    fields.rest("dhcp.client_mac_padding", trimmed(&dhcp[34..44]));
    fields.rest("dhcp.server_name", trimmed(&dhcp[44..108]));
    fields.rest("dhcp.file", trimmed(&dhcp[108..236]));
    fields.text("dhcp.cookie", hex(&dhcp[236..OPTIONS]));
    let mut options = &dhcp[OPTIONS..];
    let mut order = Vec::new();
    while let Some((code, rest)) = options.split_first() {
        options = rest;
        match code {
            0 => continue,
            255 => {
                order.push("end".to_owned());
                break;
            }
            _ => {}
        }
        let Some(value) = options.split_first().and_then(|(len, rest)| rest.get(..usize::from(*len))) else {
            fields.bytes("dhcp.options.malformed", options);
            return;
        };
        options = &options[1 + value.len()..];
        option(fields, *code, value);
        order.push(code.to_string());
    }
    fields.text("dhcp.options", order.join(","));
    fields.rest("dhcp.padding", trimmed(options));
    fields.text("dhcp.length", dhcp.len());
}

fn option(fields: &mut Fields, code: u8, value: &[u8]) {
    let name = format!("dhcp.option.{code}");
    let addresses = || value.chunks(4).map(|octets| Ipv4Addr::from(u32_at(octets, 0)).to_string()).collect::<Vec<_>>().join(",");
    match (code, value.len()) {
        (53, 1) => fields.text(name, message_type(value[0])),
        (1 | 3 | 6 | 28 | 42 | 50 | 54, 4..) if value.len().is_multiple_of(4) => fields.text(name, addresses()),
        (51 | 58 | 59, 4) => fields.text(name, u32_at(value, 0)),
        (26 | 57, 2) => fields.text(name, u16_at(value, 0)),
        (12 | 15 | 17 | 56 | 60 | 66 | 67, _) => fields.text(name, format_args!("{:?}", String::from_utf8_lossy(value))),
        _ => fields.bytes(name, value),
    }
}

fn message_type(kind: u8) -> String {
    let names = ["DISCOVER", "OFFER", "REQUEST", "DECLINE", "ACK", "NAK", "RELEASE", "INFORM"];
    names.get(usize::from(kind).wrapping_sub(1)).map_or_else(|| kind.to_string(), |name| (*name).to_owned())
}

/// Bytes without the zeros behind them.
fn trimmed(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &bytes[..end]
}

pub(super) fn dns(fields: &mut Fields, dns: &[u8]) {
    fields.text("dns.id", format_args!("{:#06x}", u16_at(dns, 0)));
    fields.text("dns.flags", format_args!("{:#06x}", u16_at(dns, 2)));
    for (n, name) in ["dns.questions", "dns.answers", "dns.authorities", "dns.additional"].into_iter().enumerate() {
        fields.text(name, u16_at(dns, 4 + 2 * n));
    }
    fields.bytes("dns.payload", &dns[12..]);
}
