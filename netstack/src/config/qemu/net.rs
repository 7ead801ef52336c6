//! The options that say which networks the guests have, and how one follows from another.
//!
//! They depend on each other whatever their order, so they are gathered first and settled together.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::{Given, OptionError, invalid};
use crate::config::{Config, Ipv4Config, Ipv6Config};

/// What was said of the networks.
#[derive(Debug, Default)]
pub(super) struct Networks {
    ipv4: Option<bool>,
    ipv6: Option<bool>,
    /// `net=`, with the value as it was written.
    net: Option<(String, Ipv4Net)>,
    /// `ip=`.
    ip: Option<(String, Ipv4Net)>,
    host: Option<Ipv4Addr>,
    dns: Option<Ipv4Addr>,
    dhcp_start: Option<Ipv4Addr>,
    prefix: Option<Ipv6Addr>,
    prefix_len: Option<u8>,
    host6: Option<Ipv6Addr>,
    dns6: Option<Ipv6Addr>,
    dhcp_start6: Option<Ipv6Addr>,
    managed: Option<bool>,
}

impl Networks {
    /// Takes the option if it is one of these.
    pub(super) fn take(&mut self, given: &Given<'_>) -> Result<bool, OptionError> {
        match given.name {
            "ipv4" => self.ipv4 = Some(given.switch("ipv4")?),
            "ipv6" => self.ipv6 = Some(given.switch("ipv6")?),
            "net" => self.net = Some(ipv4_net(given.text("net", "10.0.2.0/24")?)?),
            "ip" => {
                let address: Ipv4Addr = given.parsed("ip", "an IPv4 address", "10.0.2.0")?;
                self.ip = Some((address.to_string(), Ipv4Net::new_assert(address, 24).trunc()));
            }
            "host" => self.host = Some(given.parsed("host", "an IPv4 address", "10.0.2.2")?),
            "dns" => self.dns = Some(given.parsed("dns", "an IPv4 address", "10.0.2.3")?),
            "dhcpstart" => self.dhcp_start = Some(given.parsed("dhcpstart", "an IPv4 address", "10.0.2.15")?),
            "ipv6-net" => {
                let text = given.text("ipv6-net", "fd00::/64")?;
                let (prefix, length) = text.split_once('/').unwrap_or((text, "64"));
                let wrong = |why: &str| invalid("ipv6-net", text, why, "ipv6-net=fd00::/64");
                self.prefix = Some(prefix.parse().map_err(|_| wrong("it does not begin with an IPv6 address"))?);
                self.prefix_len = Some(length.parse().map_err(|_| wrong("the length of the prefix is not a number"))?);
            }
            "ipv6-prefix" => self.prefix = Some(given.parsed("ipv6-prefix", "an IPv6 address", "fd00::")?),
            "ipv6-prefixlen" => self.prefix_len = Some(given.parsed("ipv6-prefixlen", "a number from 1 to 126", "64")?),
            "ipv6-host" => self.host6 = Some(given.parsed("ipv6-host", "an IPv6 address", "fec0::2")?),
            "ipv6-dhcpstart" => {
                self.dhcp_start6 = Some(given.parsed("ipv6-dhcpstart", "an IPv6 address", "fec0::15")?);
            }
            "ipv6-managed" => self.managed = Some(given.switch("ipv6-managed")?),
            "ipv6-dns" => self.dns6 = Some(given.parsed("ipv6-dns", "an IPv6 address", "fec0::3")?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Puts what was said into `config`, and checks that it can be so.
    pub(super) fn settle(self, config: &mut Config) -> Result<(), OptionError> {
        // One of the two on, and no word of the other, means that one alone.
        let ipv4 = self.ipv4.or_else(|| self.ipv6.filter(|on| *on).map(|_| false));
        let ipv6 = self.ipv6.or_else(|| self.ipv4.filter(|on| *on).map(|_| false));
        self.refuse_without_network(ipv4 == Some(false), ipv6 == Some(false))?;
        if ipv4.unwrap_or_else(|| config.ipv4.is_some() || self.names_ipv4().is_some()) {
            config.ipv4 = Some(self.settle_ipv4(config)?);
        } else {
            config.ipv4 = None;
        }
        if ipv6.unwrap_or_else(|| config.ipv6.is_some() || self.names_ipv6().is_some()) {
            config.ipv6 = Some(self.settle_ipv6(config)?);
        } else {
            config.ipv6 = None;
        }
        if config.ipv4.is_none() && config.ipv6.is_none() {
            let option = if self.ipv4 == Some(false) { "ipv4" } else { "ipv6" };
            return Err(invalid(option, "off", "the other one is off too, and guests would have no network", "on for one of them"));
        }
        Ok(())
    }

    /// An option that needs IPv4, with its value.
    fn names_ipv4(&self) -> Option<(&'static str, String)> {
        let net = self.net.as_ref().map(|(text, _)| ("net", text.clone()));
        net.or_else(|| self.ip.as_ref().map(|(text, _)| ("ip", text.clone())))
            .or_else(|| self.host.map(|address| ("host", address.to_string())))
            .or_else(|| self.dns.map(|address| ("dns", address.to_string())))
            .or_else(|| self.dhcp_start.map(|address| ("dhcpstart", address.to_string())))
    }

    /// An option that needs IPv6, with its value.
    fn names_ipv6(&self) -> Option<(&'static str, String)> {
        let prefix = self.prefix.map(|prefix| ("ipv6-prefix", prefix.to_string()));
        prefix
            .or_else(|| self.prefix_len.map(|length| ("ipv6-prefixlen", length.to_string())))
            .or_else(|| self.host6.map(|address| ("ipv6-host", address.to_string())))
            .or_else(|| self.dns6.map(|address| ("ipv6-dns", address.to_string())))
            .or_else(|| self.dhcp_start6.map(|address| ("ipv6-dhcpstart", address.to_string())))
            .or_else(|| self.managed.map(|on| ("ipv6-managed", if on { "on" } else { "off" }.to_owned())))
    }

    fn refuse_without_network(&self, no_ipv4: bool, no_ipv6: bool) -> Result<(), OptionError> {
        if let Some((option, value)) = self.names_ipv4().filter(|_| no_ipv4) {
            return Err(invalid(option, &value, "IPv4 is off", format!("ipv4=on as well, or leave `{option}` out")));
        }
        if let Some((option, value)) = self.names_ipv6().filter(|_| no_ipv6) {
            return Err(invalid(option, &value, "IPv6 is off", format!("ipv6=on as well, or leave `{option}` out")));
        }
        Ok(())
    }

    fn settle_ipv4(&self, config: &Config) -> Result<Ipv4Config, OptionError> {
        let mut ipv4 = config.ipv4.clone().unwrap_or_default();
        if let Some((text, net)) = self.net.as_ref().or(self.ip.as_ref()) {
            let option = if self.net.is_some() { "net" } else { "ip" };
            usable_ipv4(option, text, *net)?;
            ipv4.net = *net;
            ipv4.gateway = in_net(*net, 0x0202);
            ipv4.dns = in_net(*net, 0x0203);
            ipv4.dhcp_start = in_net(*net, 0x020f);
        }
        ipv4.gateway = self.host.unwrap_or(ipv4.gateway);
        ipv4.dns = self.dns.unwrap_or(ipv4.dns);
        match self.dhcp_start {
            Some(start) => ipv4.dhcp_start = start,
            None => ipv4.dhcp_start = first_for_guests(&ipv4),
        }

        let net = ipv4.net;
        let example = |last| in_net(net, last);
        host_of(net, "host", ipv4.gateway, example(0x0202))?;
        if ipv4.dns == ipv4.gateway {
            let other = if ipv4.gateway == example(0x0203) { example(0x0204) } else { example(0x0203) };
            return Err(invalid("dns", &ipv4.dns, "this is the gateway's address (`host`) too", format!("dns={other}")));
        }
        // Outside the net it is reached through the gateway, as in QEMU; but with restrict=on nothing is.
        if config.restrict || net.contains(&ipv4.dns) {
            host_of(net, "dns", ipv4.dns, example(0x0203))?;
        }
        let free = example(0x020f);
        host_of(net, "dhcpstart", ipv4.dhcp_start, free)?;
        for (address, whose) in [(ipv4.gateway, "the gateway's address (`host`)"), (ipv4.dns, "the DNS server's address (`dns`)")] {
            if ipv4.dhcp_start == address {
                let next = Ipv4Addr::from(u32::from(address).saturating_add(1));
                let why = format!("this is {whose}, and cannot be a guest's");
                return Err(invalid("dhcpstart", &address, why, format!("dhcpstart={next}")));
            }
        }
        Ok(ipv4)
    }

    fn settle_ipv6(&self, config: &Config) -> Result<Ipv6Config, OptionError> {
        let mut ipv6 = config.ipv6.clone().unwrap_or_default();
        if self.prefix.is_some() || self.prefix_len.is_some() {
            let prefix = self.prefix.unwrap_or_else(|| ipv6.prefix.network());
            let length = self.prefix_len.unwrap_or(64);
            let text = format!("{prefix}/{length}");
            let wrong = |why: &str| invalid("ipv6-net", &text, why, "ipv6-net=fd00::/64");
            if !(1..=126).contains(&length) {
                return Err(wrong("a prefix has 1 to 126 bits here, and 64 for guests that configure themselves"));
            }
            if prefix.is_multicast() || prefix.is_loopback() || prefix.is_unspecified() || prefix.is_unicast_link_local() {
                return Err(wrong("guests cannot have addresses of this kind"));
            }
            ipv6.prefix = Ipv6Net::new(prefix, length).map_err(|_| wrong("this is not a prefix"))?.trunc();
            let address = |last: u128| Ipv6Addr::from(u128::from(ipv6.prefix.network()) | last);
            (ipv6.gateway, ipv6.dns) = (address(2), address(3));
        }
        ipv6.gateway = self.host6.unwrap_or(ipv6.gateway);
        ipv6.dns = self.dns6.unwrap_or(ipv6.dns);
        ipv6.dhcp_start = match self.dhcp_start6 {
            Some(start) => start,
            None => first_for_guests6(&ipv6),
        };
        ipv6.managed = self.managed.unwrap_or(ipv6.managed);
        let prefix = ipv6.prefix;
        let outside = |option, address: Ipv6Addr, last: u128| {
            let example = Ipv6Addr::from(u128::from(prefix.network()) | last);
            invalid(option, &address, format!("this is not in {prefix}"), format!("{option}={example}, or another ipv6-net"))
        };
        if !prefix.contains(&ipv6.gateway) {
            return Err(outside("ipv6-host", ipv6.gateway, 2));
        }
        if config.restrict && !prefix.contains(&ipv6.dns) {
            return Err(outside("ipv6-dns", ipv6.dns, 3));
        }
        if !prefix.contains(&ipv6.dhcp_start) {
            let write = format!("ipv6-dhcpstart={}, or another ipv6-net", first_for_guests6(&ipv6));
            return Err(invalid("ipv6-dhcpstart", &ipv6.dhcp_start, format!("this is not in {prefix}"), write));
        }
        for (address, whose) in
            [(ipv6.gateway, "the gateway's address (`ipv6-host`)"), (ipv6.dns, "the DNS server's address (`ipv6-dns`)")]
        {
            if ipv6.dhcp_start == address {
                let why = format!("this is {whose}, and cannot be a guest's");
                return Err(invalid("ipv6-dhcpstart", &address, why, format!("ipv6-dhcpstart={}", first_for_guests6(&ipv6))));
            }
        }
        if ipv6.dns == ipv6.gateway {
            let why = "this is the gateway's address (`ipv6-host`) too";
            return Err(invalid("ipv6-dns", &ipv6.dns, why, "two different addresses"));
        }
        Ok(ipv6)
    }
}

/// Reads `ADDR`, `ADDR/LEN` or `ADDR/MASK`. Without a length QEMU's guess is taken.
fn ipv4_net(text: &str) -> Result<(String, Ipv4Net), OptionError> {
    let wrong = |why: &str| invalid("net", text, why, "net=10.0.2.0/24");
    let (address, mask) = text.split_once('/').map_or((text, None), |(address, mask)| (address, Some(mask)));
    let address: Ipv4Addr = address.parse().map_err(|_| wrong("it does not begin with an IPv4 address"))?;
    let length = match mask {
        None => guessed_length(address),
        Some(mask) => match (mask.parse::<u8>(), mask.parse::<Ipv4Addr>()) {
            (Ok(length), _) => length,
            (_, Ok(mask)) => ipnet::ipv4_mask_to_prefix(mask).map_err(|_| wrong("the mask has zeros between its ones"))?,
            _ => return Err(wrong("what follows the `/` is neither a length nor a mask")),
        },
    };
    let net = Ipv4Net::new(address, length).ok().filter(|_| length >= 4);
    Ok((text.to_owned(), net.ok_or_else(|| wrong("the length of a network is from 4 to 30 bits"))?.trunc()))
}

/// The length that QEMU takes a network to have (observed of QEMU 7.2): it follows the old classes, but class C and what lies beyond it
/// are swapped.
const fn guessed_length(address: Ipv4Addr) -> u8 {
    match address.octets() {
        [0..=127, ..] => 8,
        [172, 16..=31, ..] => 12,
        [128..=191, ..] => 16,
        [192, 168, ..] => 16,
        [198, 18..=19, ..] => 15,
        [192..=223, ..] => 28,
        [224..=255, ..] => 24,
    }
}

/// Refuses networks that no guest can live on.
fn usable_ipv4(option: &'static str, text: &str, net: Ipv4Net) -> Result<(), OptionError> {
    let wrong = |why: &str| invalid(option, text, why, format!("{option}=10.0.2.0{}", if option == "net" { "/24" } else { "" }));
    let first = net.network();
    if net.prefix_len() > 30 {
        return Err(wrong("there is no room for a gateway and a guest"));
    }
    if first.is_loopback() || first.is_multicast() || first.octets()[0] == 0 || first.octets()[0] >= 240 {
        return Err(wrong("guests cannot have addresses of this kind"));
    }
    Ok(())
}

/// The address of the net that ends like 0.0.`last`, as far as the net is wide enough.
fn in_net(net: Ipv4Net, last: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(net.network()) | (last & u32::from(net.hostmask())))
}

/// Where leases begin when nothing is said of it: where QEMU begins; but on the small nets where that is the broadcast address or one
/// that is taken, the next address that is free, and past the end the first.
fn first_for_guests(ipv4: &Ipv4Config) -> Ipv4Addr {
    let net = ipv4.net;
    let start = u32::from(ipv4.dhcp_start);
    let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
    let is_free =
        |address: &Ipv4Addr| ![ipv4.gateway, ipv4.dns, net.network(), net.broadcast()].contains(address) && net.contains(address);
    // Four addresses are taken, so that the fifth is free if there is one.
    let after = (start..=last).take(5).map(Ipv4Addr::from);
    let from_the_first = (first..=last).take(5).map(Ipv4Addr::from);
    after.chain(from_the_first).find(is_free).unwrap_or(ipv4.dhcp_start)
}

/// Where leases of DHCPv6 begin when nothing is said of it: at the address that ends like the first of IPv4; in a prefix without room for
/// that, at the first that is not its routers' (RFC 4291 section 2.6.1). Addresses that are taken are passed over.
fn first_for_guests6(ipv6: &Ipv6Config) -> Ipv6Addr {
    let start = if ipv6.prefix.prefix_len() <= 122 { 0x15 } else { 1 };
    let address = |last: u128| Ipv6Addr::from(u128::from(ipv6.prefix.network()) | last);
    let is_free = |address: &Ipv6Addr| ![ipv6.gateway, ipv6.dns].contains(address);
    // Two addresses are taken at most.
    (start..start + 3).map(address).find(is_free).unwrap_or_else(|| address(start))
}

/// Refuses an address that is not a host's on `net`.
fn host_of(net: Ipv4Net, option: &'static str, address: Ipv4Addr, example: Ipv4Addr) -> Result<(), OptionError> {
    let why = if !net.contains(&address) {
        format!("this is not in the network {net}")
    } else if address == net.broadcast() || address == net.network() {
        format!("this is the first or the last address of {net}, which no host can have")
    } else {
        return Ok(());
    };
    let write = if example == net.broadcast() || example == net.network() || example == address {
        "an address between the two, or a larger net".to_owned()
    } else {
        format!("{option}={example}, or another net")
    };
    Err(invalid(option, &address, why, write))
}
