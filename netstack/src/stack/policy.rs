//! Where a guest may go: the one place in which that is decided.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::addr::MacAddr;
use crate::config::{Config, Protocol};

/// What becomes of what a guest sends to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes to this address, from a socket of the host.
    Host(SocketAddr),
    /// It goes to the DNS forwarder.
    Dns,
    /// It goes to the DHCP server.
    Dhcp,
    /// It goes to the TFTP server.
    Tftp,
    /// Nobody listens there: TCP is reset, and so is UDP, by ICMP.
    Closed,
    /// The guest may not: TCP is reset, UDP dropped.
    Forbidden,
    /// There is no way there: the guest is told by ICMP.
    Unreachable,
    /// No packet should ever go there: dropped without a word.
    Nowhere,
}

/// The rules, and the addresses that they are about.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    gateways: [Option<IpAddr>; 3],
    dns: [Option<IpAddr>; 2],
    networks: [Option<ipnet::IpNet>; 2],
    restrict: bool,
    host_loopback: bool,
    tftp: bool,
}

const DNS_PORT: u16 = 53;
const DHCP_PORT: u16 = 67;
const TFTP_PORT: u16 = 69;

/// The gateway's address on the link itself (RFC 4291 section 2.5.6).
pub(crate) const LINK_LOCAL_GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

impl Policy {
    pub(crate) fn new(config: &Config) -> Self {
        let (v4, v6) = (config.ipv4.as_ref(), config.ipv6.as_ref());
        Self {
            gateways: [v4.map(|c| c.gateway.into()), v6.map(|c| c.gateway.into()), v6.map(|_| LINK_LOCAL_GATEWAY.into())],
            dns: [v4.map(|c| c.dns.into()), v6.map(|c| c.dns.into())],
            networks: [v4.map(|c| c.net.into()), v6.map(|c| c.prefix.into())],
            restrict: config.restrict,
            host_loopback: config.host_loopback,
            tftp: config.boot.tftp_root.is_some(),
        }
    }

    /// Decides over what a guest sends to `destination`.
    pub(crate) fn decide(&self, protocol: Protocol, destination: SocketAddr) -> Verdict {
        let (ip, port) = (destination.ip(), destination.port());
        let broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST) || self.is_directed_broadcast(ip);
        if protocol == Protocol::Udp && port == DHCP_PORT && ip.is_ipv4() && (broadcast || self.is_gateway(ip)) {
            return Verdict::Dhcp;
        }
        if broadcast || !is_global_unicast(ip) && !self.is_gateway(ip) {
            return Verdict::Nowhere;
        }
        // A restricted guest can boot all the same, but over IPv4 only, as with libslirp.
        if self.tftp && protocol == Protocol::Udp && port == TFTP_PORT && self.is_gateway(ip) && (ip.is_ipv4() || !self.restrict) {
            return Verdict::Tftp;
        }
        if self.restrict {
            return Verdict::Forbidden;
        }
        if self.is_dns(ip) {
            return if port == DNS_PORT { Verdict::Dns } else { Verdict::Closed };
        }
        if self.is_gateway(ip) {
            return if self.host_loopback { Verdict::Host(SocketAddr::new(loopback_like(ip), port)) } else { Verdict::Forbidden };
        }
        if self.is_on_link(ip) {
            // A guest asks its link for such an address; one that asks the gateway has found nobody there.
            return Verdict::Unreachable;
        }
        Verdict::Host(destination)
    }

    /// How a guest is shown an address of the host's side: as it is, but the host's loopback as the gateway. `None` if the guest cannot
    /// be shown it, for want of a gateway in that family.
    pub(crate) fn as_seen_by_guest(&self, ip: IpAddr) -> Option<IpAddr> {
        let ip = ip.to_canonical();
        let ours = self.is_gateway(ip) || self.is_dns(ip) || self.is_on_link(ip);
        // A guest would look for an address of the host's link on its own.
        let link_local = match ip {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        if ours || link_local || ip.is_loopback() || ip.is_unspecified() { self.gateway(ip.is_ipv4()) } else { Some(ip) }
    }

    /// The gateway's address in a family.
    pub(crate) fn gateway(&self, ipv4: bool) -> Option<IpAddr> {
        self.gateways[usize::from(!ipv4)]
    }

    /// Whether this is one of the virtual hosts.
    pub(crate) fn is_virtual_host(&self, ip: IpAddr) -> bool {
        self.is_gateway(ip) || self.is_dns(ip)
    }

    /// Whether this is the card of one of the virtual hosts.
    pub(crate) fn is_virtual_host_mac(&self, mac: MacAddr) -> bool {
        self.gateways.iter().chain(&self.dns).flatten().any(|ip| MacAddr::of_virtual_host(*ip) == mac)
    }

    /// Whether a guest may have this address.
    pub(crate) fn is_guest_address(&self, ip: IpAddr) -> bool {
        let unicast = match ip {
            IpAddr::V4(v4) => !v4.is_unspecified() && !v4.is_loopback() && !v4.is_multicast() && !v4.is_broadcast(),
            IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_loopback() && !v6.is_multicast() && v6.to_ipv4_mapped().is_none(),
        };
        unicast && !self.is_virtual_host(ip) && !self.is_directed_broadcast(ip)
    }

    pub(crate) fn is_on_link(&self, ip: IpAddr) -> bool {
        self.networks.iter().flatten().any(|net| net.contains(&ip))
    }

    /// Whether this is the address of many: a multicast or a broadcast.
    pub(crate) fn is_group(&self, ip: IpAddr) -> bool {
        ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) || self.is_directed_broadcast(ip)
    }

    pub(crate) fn is_gateway(&self, ip: IpAddr) -> bool {
        self.gateways.contains(&Some(ip))
    }

    fn is_dns(&self, ip: IpAddr) -> bool {
        self.dns.contains(&Some(ip))
    }

    fn is_directed_broadcast(&self, ip: IpAddr) -> bool {
        self.networks.iter().flatten().any(|net| net.addr().is_ipv4() && net.broadcast() == ip)
    }
}

/// Whether a packet from a guest to this address may leave through a socket of the host. What means "this host" to the host's kernel
/// must not, whatever way it is written, and neither must groups, reserved addresses or addresses of a link that is not the guest's.
fn is_global_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let first = v4.octets()[0];
            first != 0 && first < 224 && !v4.is_loopback()
        }
        IpAddr::V6(v6) => {
            !v6.is_unspecified()
                && !v6.is_loopback()
                && !v6.is_multicast()
                && !v6.is_unicast_link_local()
                // ::ffff:a.b.c.d, ::a.b.c.d and 64:ff9b:1::/48 name IPv4 addresses past the rules above.
                && v6.to_ipv4().is_none()
                && v6.segments()[..3] != [0x64, 0xff9b, 1]
        }
    }
}

const fn loopback_like(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BootConfig;

    fn tcp(policy: &Policy, to: &str) -> Verdict {
        policy.decide(Protocol::Tcp, to.parse().unwrap())
    }

    #[test]
    fn the_gateway_stands_for_the_hosts_loopback() {
        let policy = Policy::new(&Config::default());
        assert_eq!(tcp(&policy, "10.0.2.2:22"), Verdict::Host("127.0.0.1:22".parse().unwrap()));
        assert_eq!(tcp(&policy, "[fec0::2]:22"), Verdict::Host("[::1]:22".parse().unwrap()));
        assert_eq!(policy.as_seen_by_guest("127.0.0.1".parse().unwrap()), Some("10.0.2.2".parse().unwrap()));
        assert_eq!(policy.as_seen_by_guest("192.0.2.1".parse().unwrap()), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(policy.as_seen_by_guest("fe80::9".parse().unwrap()), Some("fec0::2".parse().unwrap()));
        assert_eq!(policy.as_seen_by_guest("169.254.1.9".parse().unwrap()), Some("10.0.2.2".parse().unwrap()));
        let closed = Policy::new(&Config { host_loopback: false, ..Config::default() });
        assert_eq!(tcp(&closed, "10.0.2.2:22"), Verdict::Forbidden);
    }

    #[test]
    fn no_way_of_writing_this_host_leads_there() {
        let policy = Policy::new(&Config::default());
        for to in [
            "127.0.0.1:22",
            "127.1.2.3:22",
            "0.0.0.0:22",
            "0.1.2.3:22",
            "[::]:22",
            "[::1]:22",
            "[::ffff:127.0.0.1]:22",
            "[::127.0.0.1]:22",
            "[::ffff:0.0.0.0]:22",
            "[64:ff9b:1::7f00:1]:22",
            "224.0.0.1:22",
            "255.255.255.255:22",
            "10.0.2.255:22",
            "[ff02::1]:22",
            "[fe80::1]:22",
        ] {
            assert_eq!(tcp(&policy, to), Verdict::Nowhere, "{to}");
        }
    }

    #[test]
    fn services_have_their_ports_and_nothing_else_is_there() {
        let policy = Policy::new(&Config::default());
        assert_eq!(tcp(&policy, "10.0.2.3:53"), Verdict::Dns);
        assert_eq!(tcp(&policy, "[fec0::3]:53"), Verdict::Dns);
        assert_eq!(tcp(&policy, "10.0.2.3:80"), Verdict::Closed);
        assert_eq!(tcp(&policy, "10.0.2.77:80"), Verdict::Unreachable);
        assert_eq!(policy.decide(Protocol::Udp, "255.255.255.255:67".parse().unwrap()), Verdict::Dhcp);
        assert_eq!(policy.decide(Protocol::Udp, "10.0.2.2:67".parse().unwrap()), Verdict::Dhcp);
    }

    #[test]
    fn the_tftp_server_is_on_the_gateway_when_there_is_one() {
        let boot = BootConfig { tftp_root: Some("/srv".into()) };
        let config = Config { boot, host_loopback: false, ..Config::default() };
        let udp = |policy: &Policy, to: &str| policy.decide(Protocol::Udp, to.parse().unwrap());
        let policy = Policy::new(&config);
        for to in ["10.0.2.2:69", "[fec0::2]:69", "[fe80::2]:69"] {
            assert_eq!(udp(&policy, to), Verdict::Tftp, "{to}");
        }
        assert_eq!(udp(&policy, "10.0.2.2:70"), Verdict::Forbidden);
        assert_eq!(udp(&policy, "10.0.2.3:69"), Verdict::Closed);
        assert_eq!(udp(&policy, "10.0.2.255:69"), Verdict::Nowhere);
        assert_eq!(tcp(&policy, "10.0.2.2:69"), Verdict::Forbidden);
        let restricted = Policy::new(&Config { restrict: true, ..config });
        assert_eq!(udp(&restricted, "10.0.2.2:69"), Verdict::Tftp);
        assert_eq!(udp(&restricted, "[fec0::2]:69"), Verdict::Forbidden);
        let without = Policy::new(&Config::default());
        assert_eq!(udp(&without, "10.0.2.2:69"), Verdict::Host("127.0.0.1:69".parse().unwrap()));
    }

    #[test]
    fn a_restricted_guest_reaches_only_dhcp() {
        let policy = Policy::new(&Config { restrict: true, ..Config::default() });
        for to in ["192.0.2.1:80", "10.0.2.2:80", "10.0.2.3:53", "[2001:db8::1]:80"] {
            assert_eq!(tcp(&policy, to), Verdict::Forbidden, "{to}");
        }
        assert_eq!(policy.decide(Protocol::Udp, "255.255.255.255:67".parse().unwrap()), Verdict::Dhcp);
    }
}
