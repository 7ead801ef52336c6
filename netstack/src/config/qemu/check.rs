//! What the options must not say together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{OptionError, invalid};
use crate::config::{Config, GuestForward, HostForward, HostSide, Ipv4Config, SMB_PORTS};

/// Refuses a configuration that contradicts itself.
pub(super) fn check(config: &Config) -> Result<(), OptionError> {
    check_mtu(config)?;
    check_static_leases(config)?;
    check_routes(config)?;
    check_smb(config)?;
    check_guest_forwards(config)?;
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

/// As many forwards of guests as anybody could want. Each is numbered with 16 bits.
const GUEST_FORWARDS: usize = 4096;

fn check_guest_forwards(config: &Config) -> Result<(), OptionError> {
    let mut taken: BTreeMap<_, _> = config
        .smb_address()
        .into_iter()
        .flat_map(|address| SMB_PORTS.map(|port| (SocketAddr::new(address.into(), port), "the SMB server".to_owned())))
        .collect();
    for (at, forward) in config.guest_forwards.iter().enumerate() {
        let wrong = |why: String, write: String| invalid("guestfwd", forward, why, write);
        if at >= GUEST_FORWARDS {
            return Err(wrong(format!("there are {GUEST_FORWARDS} already"), "fewer of them".to_owned()));
        }
        check_server(forward, config)?;
        let Some(address) = config.guest_forward_address(forward) else { continue };
        if let Some(other) = taken.insert(address, format!("`guestfwd={forward}`")) {
            return Err(wrong(
                format!("{other} has port {} of {} already", address.port(), address.ip()),
                "another port".to_owned(),
            ));
        }
    }
    Ok(())
}

/// The address that guests connect to.
fn check_server(forward: &GuestForward, config: &Config) -> Result<(), OptionError> {
    let wrong = |why: String, write: String| invalid("guestfwd", forward, why, write);
    match (forward.server, &config.ipv4, &config.ipv6) {
        (None | Some(IpAddr::V4(_)), None, _) => {
            let why = "the address for guests is IPv4, which is off";
            Err(wrong(why.to_owned(), "an IPv6 address in brackets before the port, or ipv4=on as well".to_owned()))
        }
        (Some(IpAddr::V6(_)), _, None) => {
            Err(wrong("the address for guests is IPv6, which is off".to_owned(), "ipv6=on as well".to_owned()))
        }
        (None, Some(ipv4), _) => check_server_v4(ipv4.default_server(), ipv4, config).map_err(|why| {
            wrong(
                format!("without an address it is {}, but {why}", ipv4.default_server()),
                "a free address before the port".to_owned(),
            )
        }),
        (Some(IpAddr::V4(server)), Some(ipv4), _) => check_server_v4(server, ipv4, config)
            .map_err(|why| wrong(why, format!("an address in {} that nobody else has", ipv4.net))),
        (Some(IpAddr::V6(server)), _, Some(ipv6)) => {
            let why = if !ipv6.prefix.contains(&server) {
                format!("{server} is not in the guests' network {}", ipv6.prefix)
            } else if server == ipv6.gateway || server == ipv6.dns {
                format!("{server} is {} address", if server == ipv6.gateway { "the gateway's" } else { "the DNS server's" })
            } else if server == ipv6.dhcp_start {
                format!("{server} is the first address that DHCPv6 leases")
            } else {
                return Ok(());
            };
            Err(wrong(why, format!("an address in {} that nobody else has", ipv6.prefix)))
        }
    }
}

/// Why there can be no server for guests at this address, if there can be none.
fn check_server_v4(server: Ipv4Addr, ipv4: &Ipv4Config, config: &Config) -> Result<(), String> {
    if let Some(why) = not_a_guest(server, ipv4) {
        return Err(why);
    }
    if server == ipv4.dhcp_start {
        return Err(format!("{server} is the first address that DHCP leases (`dhcpstart`)"));
    }
    match config.dhcp.static_leases.iter().find(|(_, address)| *address == server) {
        Some((mac, _)) => Err(format!("{server} is kept for the guest {mac} (`lease`)")),
        None => Ok(()),
    }
}

fn check_smb(config: &Config) -> Result<(), OptionError> {
    let Some(smb) = &config.smb else { return Ok(()) };
    let (option, value) = match (smb.server, &smb.directory) {
        (Some(server), _) => ("smbserver", server.to_string()),
        (None, Some(directory)) => ("smb", directory.display().to_string()),
        (None, None) => ("smbserver", String::new()),
    };
    let Some(ipv4) = &config.ipv4 else {
        return Err(invalid(option, &value, "the SMB server has an IPv4 address, and IPv4 is off", "ipv4=on as well"));
    };
    let server = smb.server.unwrap_or_else(|| ipv4.default_server());
    check_server_v4(server, ipv4, config).map_err(|why| {
        let why = if smb.server.is_some() { why } else { format!("without `smbserver` its address is {server}, but {why}") };
        invalid(option, &value, why, format!("smbserver=ADDR with an address in {} that nobody else has", ipv4.net))
    })
}

/// The guest's side of a forward.
pub(crate) fn check_guest(forward: &HostForward, config: &Config) -> Result<(), OptionError> {
    let wrong = |why: String, write: String| invalid("hostfwd", forward, why, write);
    match (forward.guest, &config.ipv4, &config.ipv6) {
        (Some(guest), ..) if config.server_addresses().any(|server| server == guest) => {
            let why = format!("at {guest} there is a server of ours (`guestfwd`, `smbserver`)");
            Err(wrong(why, "the address of a guest".to_owned()))
        }
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
