//! What the options must not say together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use super::{OptionError, invalid};
use crate::config::{Config, HostForward, HostSide, Ipv4Config};

/// Refuses a configuration that contradicts itself.
pub(super) fn check(config: &Config) -> Result<(), OptionError> {
    check_mtu(config)?;
    check_static_leases(config)?;
    check_routes(config)?;
    for (at, forward) in config.host_forwards.iter().enumerate() {
        check_guest(forward, config)?;
        if let Some(other) = config.host_forwards.iter().take(at).find(|other| overlap(forward, other)) {
            let (what, write) = match forward.host {
                HostSide::Ports { .. } => ("port of the host", "another port or another address of the host"),
                HostSide::Unix(_) => ("path", "another path"),
            };
            return Err(invalid("hostfwd", forward, format!("`hostfwd={other}` takes the same {what}"), write));
        }
    }
    Ok(())
}

/// RFC 791: every host forwards 68 bytes. RFC 8200 section 5: with IPv6 it is 1280.
fn check_mtu(config: &Config) -> Result<(), OptionError> {
    let (least, why) = match config.ipv6 {
        Some(_) => (1280, "IPv6 needs packets of 1280 bytes"),
        None => (68, "IPv4 needs packets of 68 bytes"),
    };
    if config.mtu < least {
        let write =
            if config.mtu >= 68 { format!("mtu={least} or more, or ipv6=off as well") } else { format!("mtu={least} or more") };
        return Err(invalid("mtu", &config.mtu, why, write));
    }
    if config.mtu > 65520 {
        return Err(invalid("mtu", &config.mtu, "a frame has room for a packet of 65520 bytes", "mtu=65520 or less"));
    }
    Ok(())
}

fn check_static_leases(config: &Config) -> Result<(), OptionError> {
    let (mut addresses, mut stations) = (BTreeMap::new(), BTreeMap::new());
    for (mac, address) in &config.dhcp.static_leases {
        let wrong = |why: String, write: &str| invalid("lease", &format!("{mac}/{address}"), why, write);
        let Some(ipv4) = &config.ipv4 else { return Err(wrong("IPv4 is off".to_owned(), "ipv4=on as well")) };
        if let Some(why) = not_a_guest(*address, ipv4) {
            return Err(wrong(why, "an address that a guest can have"));
        }
        if let Some(other) = addresses.insert(address, mac) {
            return Err(wrong(format!("the address is kept for {other} already"), "another address"));
        }
        if let Some(other) = stations.insert(mac, address) {
            return Err(wrong(format!("{other} is kept for this guest already"), "one lease= for each guest"));
        }
    }
    Ok(())
}

fn check_routes(config: &Config) -> Result<(), OptionError> {
    let mut destinations = BTreeSet::new();
    for (net, via) in &config.dhcp.routes {
        let wrong = |why: String, write: &str| invalid("route", &format!("{net}:{via}"), why, write);
        let Some(ipv4) = &config.ipv4 else { return Err(wrong("IPv4 is off".to_owned(), "ipv4=on as well")) };
        if !ipv4.net.contains(via) {
            return Err(wrong(format!("the next hop is not in {}", ipv4.net), "an address that guests reach without a router"));
        }
        if !destinations.insert(net) {
            return Err(wrong("there is another route to the same network".to_owned(), "one route= for each network"));
        }
    }
    Ok(())
}

/// The guest's side of a forward.
pub(crate) fn check_guest(forward: &HostForward, config: &Config) -> Result<(), OptionError> {
    let wrong = |why: String, write: String| invalid("hostfwd", forward, why, write);
    match (forward.guest, &config.ipv4, &config.ipv6) {
        (None, Some(_), _) => Ok(()),
        (None, None, _) => {
            let why = "without IPv4 there is no first address of DHCP to lead to";
            Err(wrong(why.to_owned(), "the guest's IPv6 address in brackets before its port".to_owned()))
        }
        (Some(IpAddr::V4(_)), None, _) => {
            Err(wrong("the guest's address is IPv4, which is off".to_owned(), "ipv4=on as well".to_owned()))
        }
        (Some(IpAddr::V6(_)), _, None) => {
            Err(wrong("the guest's address is IPv6, which is off".to_owned(), "ipv6=on as well".to_owned()))
        }
        (Some(IpAddr::V4(guest)), Some(ipv4), _) => match not_a_guest(guest, ipv4) {
            Some(why) => Err(wrong(why, format!("an address that a guest can have, such as {}", ipv4.dhcp_start))),
            None => Ok(()),
        },
        (Some(IpAddr::V6(guest)), _, Some(ipv6)) => {
            if guest == ipv6.gateway || guest == ipv6.dns {
                Err(wrong("the guest's address is a virtual host's".to_owned(), "the address of a guest".to_owned()))
            } else if !ipv6.prefix.contains(&guest) && !guest.is_unicast_link_local() {
                Err(wrong(
                    format!("the guest's address is not in {}", ipv6.prefix),
                    "an address in it, or another ipv6-net".to_owned(),
                ))
            } else {
                Ok(())
            }
        }
    }
}

/// Why `address` cannot be a guest's, if it cannot.
fn not_a_guest(address: Ipv4Addr, ipv4: &Ipv4Config) -> Option<String> {
    let net = ipv4.net;
    if !net.contains(&address) {
        return Some(format!("{address} is not in the guests' network {net}"));
    }
    let whose = match address {
        address if address == ipv4.gateway => "the gateway's address",
        address if address == ipv4.dns => "the DNS server's address",
        address if address == net.network() => "the network's own address",
        address if address == net.broadcast() => "the broadcast address",
        _ => return None,
    };
    Some(format!("{address} is {whose}"))
}

/// Whether two forwards want the same port or path. The unspecified address stands for every other of its family, and no interface for
/// every one.
fn overlap(one: &HostForward, other: &HostForward) -> bool {
    let HostSide::Ports { protocol, address, interface, first, count } = &one.host else { return one.host == other.host };
    let HostSide::Ports { protocol: protocol_2, address: address_2, interface: interface_2, first: first_2, count: count_2 } =
        &other.host
    else {
        return false;
    };
    let same_family = address.is_ipv4() == address_2.is_ipv4();
    let same_host = address == address_2 || (same_family && (address.is_unspecified() || address_2.is_unspecified()));
    let same_interface = interface == interface_2 || interface.is_none() || interface_2.is_none();
    let last = |first: u16, count: u16| first.saturating_add(count.saturating_sub(1));
    let any_free = *first == 0 || *first_2 == 0;
    let same_ports = !any_free && *first <= last(*first_2, *count_2) && *first_2 <= last(*first, *count);
    protocol == protocol_2 && same_host && same_interface && same_ports
}
