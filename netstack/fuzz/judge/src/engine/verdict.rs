//! What must hold of every frame that a guest is sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netstack::host::sim::{HOST_V4, HOST_V6};
use netstack::sim::wire::{Body, Icmp, Parsed};

/// Nothing in a frame tells a guest an address of the host.
pub(super) fn judge(parsed: &Parsed) {
    match &parsed.body {
        Body::Arp(arp) => judge_source(arp.sender.into()),
        Body::Tcp(segment) => {
            judge_source(segment.source.ip());
            judge_destination(segment.destination.ip());
            assert!(segment.source.port() != 0 || segment.flags & 4 != 0, "from port 0: {segment:?}");
        }
        Body::Udp(datagram) => {
            judge_source(datagram.source.ip());
            judge_destination(datagram.destination.ip());
        }
        Body::Icmp(icmp) => {
            judge_source(icmp.source);
            judge_destination(icmp.destination);
            judge_quote(icmp);
        }
    }
}

fn judge_source(source: IpAddr) {
    let shown = match source {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_unspecified() && !v4.is_multicast() && !v4.is_broadcast() && v4 != HOST_V4,
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unspecified() && !v6.is_multicast() && v6 != HOST_V6,
    };
    assert!(shown, "a guest is sent something from {source}");
}

fn judge_destination(destination: IpAddr) {
    assert!(!destination.is_unspecified() && !destination.is_loopback(), "something is sent to {destination}");
}

/// An error quotes what the guest sent, and so the address that the guest knows, not the one that it stands for.
fn judge_quote(icmp: &Icmp) {
    let quoted = match (icmp.source, icmp.kind) {
        (IpAddr::V4(_), 3 | 11 | 12) => {
            icmp.payload.get(16..20).and_then(|octets| octets.first_chunk()).map(|octets| IpAddr::V4(Ipv4Addr::from(*octets)))
        }
        (IpAddr::V6(_), 1..=4) => {
            icmp.payload.get(24..40).and_then(|octets| octets.first_chunk()).map(|octets| IpAddr::V6(Ipv6Addr::from(*octets)))
        }
        _ => return,
    };
    let quoted = quoted.expect("an error that quotes a whole header");
    assert!(!quoted.is_loopback() && quoted != IpAddr::V4(HOST_V4) && quoted != IpAddr::V6(HOST_V6), "an error about {quoted}");
}
