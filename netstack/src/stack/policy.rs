//! Where a guest may go: the one place in which that is decided.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::addr::MacAddr;
use crate::config::{Config, GuestTarget, Protocol, SMB_PORTS};
use crate::host::StreamService;

/// What becomes of what a guest sends to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes to this address, from a socket of the host.
    Host(SocketAddr),
    /// It goes to the socket of AF_UNIX with this number, see [`Policy::local_path`]. TCP only.
    Local(u16),
    /// It goes to a service of this process. TCP only.
    Service(StreamService),
    /// It goes to the DNS forwarder.
    Dns,
    /// It goes to the DHCP server.
    Dhcp,
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
    servers: Servers,
    restrict: bool,
    host_loopback: bool,
}

const DNS_PORT: u16 = 53;
const DHCP_PORT: u16 = 67;

/// The gateway's address on the link itself (RFC 4291 section 2.5.6).
pub(crate) const LINK_LOCAL_GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

impl Policy {
    pub(crate) fn new(config: &Config) -> Self {
        let (v4, v6) = (config.ipv4.as_ref(), config.ipv6.as_ref());
        Self {
            gateways: [v4.map(|c| c.gateway.into()), v6.map(|c| c.gateway.into()), v6.map(|_| LINK_LOCAL_GATEWAY.into())],
            dns: [v4.map(|c| c.dns.into()), v6.map(|c| c.dns.into())],
            networks: [v4.map(|c| c.net.into()), v6.map(|c| c.prefix.into())],
            servers: Servers::new(config),
            restrict: config.restrict,
            host_loopback: config.host_loopback,
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
        if protocol == Protocol::Tcp
            && let Some(verdict) = self.servers.behind(destination)
        {
            return verdict;
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
        if self.servers.has(ip) {
            return Verdict::Closed;
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
        let ours = self.is_virtual_host(ip) || self.is_on_link(ip);
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
        self.is_gateway(ip) || self.is_dns(ip) || self.servers.has(ip)
    }

    /// Whether this is the card of one of the virtual hosts.
    pub(crate) fn is_virtual_host_mac(&self, mac: MacAddr) -> bool {
        let fixed = self.gateways.iter().chain(&self.dns).flatten().any(|ip| MacAddr::of_virtual_host(*ip) == mac);
        fixed || self.servers.cards.binary_search(&mac).is_ok()
    }

    /// The path of a [`Verdict::Local`].
    pub(crate) fn local_path(&self, number: u16) -> Option<&Path> {
        self.servers.paths.get(usize::from(number)).map(PathBuf::as_path)
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

    fn is_gateway(&self, ip: IpAddr) -> bool {
        self.gateways.contains(&Some(ip))
    }

    fn is_dns(&self, ip: IpAddr) -> bool {
        self.dns.contains(&Some(ip))
    }

    fn is_directed_broadcast(&self, ip: IpAddr) -> bool {
        self.networks.iter().flatten().any(|net| net.addr().is_ipv4() && net.broadcast() == ip)
    }
}

/// The virtual hosts of forwards from guests and of the SMB server. What they serve is there for restricted guests too: whoever has set
/// it up has allowed it.
#[derive(Debug, Clone, Default)]
struct Servers {
    served: BTreeMap<SocketAddr, Verdict>,
    /// Their addresses and cards, sorted: every frame is held against them.
    addresses: Vec<IpAddr>,
    cards: Vec<MacAddr>,
    /// The sockets of AF_UNIX that some of them lead to.
    paths: Vec<PathBuf>,
}

impl Servers {
    fn new(config: &Config) -> Self {
        let mut servers = Self::default();
        for (number, forward) in (0..).zip(&config.guest_forwards) {
            let Some(address) = config.guest_forward_address(forward) else { continue };
            let verdict = match &forward.target {
                GuestTarget::Tcp(target) => Verdict::Host(*target),
                GuestTarget::Unix(path) => {
                    servers.paths.push(path.clone());
                    Verdict::Local(servers.paths.len() as u16 - 1)
                }
                GuestTarget::Command(_) | GuestTarget::Hook(_) => Verdict::Service(StreamService::GuestForward(number)),
            };
            servers.served.entry(address).or_insert(verdict);
        }
        if let Some(address) = config.smb_address() {
            for port in SMB_PORTS {
                let verdict = Verdict::Service(StreamService::Smb(port));
                servers.served.entry(SocketAddr::new(address.into(), port)).or_insert(verdict);
            }
        }
        servers.addresses = config.server_addresses().collect();
        servers.addresses.sort_unstable();
        servers.addresses.dedup();
        servers.cards = servers.addresses.iter().map(|ip| MacAddr::of_virtual_host(*ip)).collect();
        servers.cards.sort_unstable();
        servers
    }

    /// Where what a guest sends to this address and port goes.
    fn behind(&self, destination: SocketAddr) -> Option<Verdict> {
        self.served.get(&destination).copied()
    }

    fn has(&self, ip: IpAddr) -> bool {
        self.addresses.binary_search(&ip).is_ok()
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
    use crate::config::{GuestForward, SmbConfig};

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
    fn a_restricted_guest_reaches_only_dhcp() {
        let policy = Policy::new(&Config { restrict: true, ..Config::default() });
        for to in ["192.0.2.1:80", "10.0.2.2:80", "10.0.2.3:53", "[2001:db8::1]:80"] {
            assert_eq!(tcp(&policy, to), Verdict::Forbidden, "{to}");
        }
        assert_eq!(policy.decide(Protocol::Udp, "255.255.255.255:67".parse().unwrap()), Verdict::Dhcp);
    }

    fn served(restrict: bool) -> Policy {
        let forward =
            |server: Option<&str>, port, target| GuestForward { server: server.map(|ip| ip.parse().unwrap()), port, target };
        Policy::new(&Config {
            restrict,
            host_loopback: false,
            guest_forwards: vec![
                forward(None, 80, GuestTarget::Tcp("127.0.0.1:8080".parse().unwrap())),
                forward(None, 81, GuestTarget::Unix("/run/a".into())),
                forward(Some("fec0::9"), 80, GuestTarget::Unix("/run/b".into())),
                forward(Some("10.0.2.100"), 7, GuestTarget::Command("cat".to_owned())),
            ],
            smb: Some(SmbConfig::default()),
            ..Config::default()
        })
    }

    #[test]
    fn forwards_from_guests_lead_where_they_say_whatever_else_is_allowed() {
        for restrict in [false, true] {
            let policy = served(restrict);
            assert_eq!(tcp(&policy, "10.0.2.4:80"), Verdict::Host("127.0.0.1:8080".parse().unwrap()));
            assert_eq!(tcp(&policy, "10.0.2.4:81"), Verdict::Local(0));
            assert_eq!(tcp(&policy, "[fec0::9]:80"), Verdict::Local(1));
            assert_eq!((policy.local_path(1), policy.local_path(2)), (Some(Path::new("/run/b")), None));
            assert_eq!(tcp(&policy, "10.0.2.100:7"), Verdict::Service(StreamService::GuestForward(3)));
            assert_eq!(tcp(&policy, "10.0.2.4:445"), Verdict::Service(StreamService::Smb(445)));
        }
    }

    #[test]
    fn the_hosts_of_forwards_from_guests_are_there_and_serve_nothing_else() {
        let policy = served(false);
        for (ip, mac) in [("10.0.2.4", "52:55:0a:00:02:04"), ("10.0.2.100", "52:55:0a:00:02:64")] {
            assert!(policy.is_virtual_host(ip.parse().unwrap()) && policy.is_virtual_host_mac(mac.parse().unwrap()));
            assert!(!policy.is_guest_address(ip.parse().unwrap()));
            assert_eq!(tcp(&policy, &format!("{ip}:22")), Verdict::Closed);
            assert_eq!(policy.decide(Protocol::Udp, format!("{ip}:80").parse().unwrap()), Verdict::Closed);
        }
        assert!(policy.is_virtual_host("fec0::9".parse().unwrap()));
        let without = Policy::new(&Config::default());
        assert!(!without.is_virtual_host("10.0.2.4".parse().unwrap()));
        assert!(!without.is_virtual_host_mac("52:55:0a:00:02:04".parse().unwrap()));
    }
}
