//! Where a guest may go: the one place in which that is decided.
//!
//! [`Policy::decide`] is asked about the first packet of everything that a guest begins, and about each UDP datagram: an [`Attempt`]
//! goes in, a [`Verdict`] comes out. It is a function of the configuration and of the attempt, and of nothing else, so that what it
//! says can be listed, tested and explained. It goes through four steps, in this order:
//!
//! 1. What the link itself is made of is served whatever the rules say, or a guest could not even have an address: DHCP.
//! 2. What leads nowhere is dropped, however it is written: groups, this host by another name, the links of the host.
//! 3. The rules: today `restrict`. More of them, to allow and to deny, belong into [`Policy::forbids`]. What the configuration names on
//!    purpose (forwards of guests, files to boot from) is looked up before it, for to name it is to allow it.
//! 4. What is left goes where the addresses say: to a virtual host, to the host's loopback, or out.

mod servers;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use self::servers::Servers;
use crate::addr::MacAddr;
use crate::config::Config;
use crate::host::StreamService;

/// What a guest attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) traffic: Traffic,
    /// The guest's address and port. An echo request has port 0 here and below.
    pub(crate) source: SocketAddr,
    /// What it sends to, as it knows it.
    pub(crate) destination: SocketAddr,
}

/// What kinds of traffic are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Traffic {
    /// A TCP connection.
    Tcp,
    /// A UDP datagram.
    Udp,
    /// An ICMP or ICMPv6 echo request.
    Echo,
}

impl Attempt {
    pub(crate) const fn tcp(source: SocketAddr, destination: SocketAddr) -> Self {
        Self { traffic: Traffic::Tcp, source, destination }
    }

    pub(crate) const fn udp(source: SocketAddr, destination: SocketAddr) -> Self {
        Self { traffic: Traffic::Udp, source, destination }
    }

    pub(crate) const fn echo(source: IpAddr, destination: IpAddr) -> Self {
        Self { traffic: Traffic::Echo, source: SocketAddr::new(source, 0), destination: SocketAddr::new(destination, 0) }
    }
}

/// What becomes of what a guest attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes to this address, from a socket of the host.
    Host(SocketAddr),
    /// The virtual host that was asked answers by itself: an echo.
    Here,
    /// It goes to the socket of AF_UNIX with this number, see [`Policy::local_path`]. TCP only.
    Local(u16),
    /// It goes to a service of this process. TCP only.
    Service(StreamService),
    /// It goes to the DNS forwarder.
    Dns,
    /// It goes to the DHCP server.
    Dhcp,
    /// It goes to the TFTP server.
    Tftp,
    /// It goes to the DHCPv6 server.
    Dhcp6,
    /// Nobody listens there: TCP is reset, and so is UDP, by ICMP.
    Closed,
    /// The guest may not: TCP is reset, everything else dropped.
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
    tftp: bool,
}

const DNS_PORT: u16 = 53;
const DHCP_PORT: u16 = 67;
const TFTP_PORT: u16 = 69;
const DHCP6_PORT: u16 = 547;

/// The groups that DHCPv6 clients send to: all agents and servers of the link, and all servers of the site (RFC 8415 section 7.1).
const DHCP6_GROUPS: [Ipv6Addr; 2] = [Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2), Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 3)];

/// The gateway's address on the link itself (RFC 4291 section 2.5.6).
pub(crate) const LINK_LOCAL_GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

impl Policy {
    pub(crate) fn new(config: &Config) -> Self {
        let (v4, v6) = (config.ipv4.as_ref(), config.ipv6.as_ref());
        let gateways = [v4.map(|c| c.gateway.into()), v6.map(|c| c.gateway.into()), v6.map(|_| LINK_LOCAL_GATEWAY.into())];
        Self {
            gateways,
            dns: [v4.map(|c| c.dns.into()), v6.map(|c| c.dns.into())],
            networks: [v4.map(|c| c.net.into()), v6.map(|c| c.prefix.into())],
            servers: Servers::new(config, gateways.iter().flatten()),
            restrict: config.restrict,
            host_loopback: config.host_loopback,
            tftp: config.boot.tftp_root.is_some(),
        }
    }

    /// Decides over what a guest attempts.
    pub(crate) fn decide(&self, attempt: &Attempt) -> Verdict {
        let (ip, port) = (attempt.destination.ip(), attempt.destination.port());
        if let Some(verdict) = self.of_the_link(attempt) {
            return verdict;
        }
        if self.is_directed_broadcast(ip) || !is_global_unicast(ip) && !self.is_gateway(ip) {
            return Verdict::Nowhere;
        }
        // A restricted guest can boot all the same, but over IPv4 only, as with libslirp.
        let tftp = attempt.traffic == Traffic::Udp && port == TFTP_PORT && self.is_gateway(ip);
        if tftp && self.tftp && (ip.is_ipv4() || !self.restrict) {
            return Verdict::Tftp;
        }
        if attempt.traffic == Traffic::Tcp
            && let Some(verdict) = self.servers.behind(attempt.destination)
        {
            return verdict;
        }
        if self.forbids(attempt) {
            return Verdict::Forbidden;
        }
        if attempt.traffic == Traffic::Echo && self.is_virtual_host(ip) {
            return Verdict::Here;
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
        Verdict::Host(attempt.destination)
    }

    /// What a guest needs to be on the link at all.
    fn of_the_link(&self, attempt: &Attempt) -> Option<Verdict> {
        if attempt.traffic != Traffic::Udp {
            return None;
        }
        match (attempt.destination.ip(), attempt.destination.port()) {
            (ip @ IpAddr::V4(v4), DHCP_PORT) => {
                (v4.is_broadcast() || self.is_directed_broadcast(ip) || self.is_gateway(ip)).then_some(Verdict::Dhcp)
            }
            // A restricted guest of libslirp's gets no answer over IPv6, and has an address without (SLAAC).
            (ip @ IpAddr::V6(v6), DHCP6_PORT) if DHCP6_GROUPS.contains(&v6) || self.is_gateway(ip) => {
                Some(if self.restrict { Verdict::Forbidden } else { Verdict::Dhcp6 })
            }
            _ => None,
        }
    }

    /// The rules. A restricted guest may see that the virtual hosts are there, and that is all.
    fn forbids(&self, attempt: &Attempt) -> bool {
        self.restrict && !(attempt.traffic == Traffic::Echo && self.is_virtual_host(attempt.destination.ip()))
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
        fixed || self.servers.has_card(mac)
    }

    /// The path of a [`Verdict::Local`].
    pub(crate) fn local_path(&self, number: u16) -> Option<&Path> {
        self.servers.path(number)
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
    use crate::config::{BootConfig, GuestForward, GuestTarget, SmbConfig};

    /// What becomes of what a guest, in the family of `to`, sends there.
    fn verdict(policy: &Policy, attempt: fn(SocketAddr, SocketAddr) -> Attempt, to: &str) -> Verdict {
        let to: SocketAddr = to.parse().unwrap();
        let from = if to.is_ipv4() { "10.0.2.15:4000" } else { "[fec0::15]:4000" };
        policy.decide(&attempt(from.parse().unwrap(), to))
    }

    fn tcp(policy: &Policy, to: &str) -> Verdict {
        verdict(policy, Attempt::tcp, to)
    }

    fn udp(policy: &Policy, to: &str) -> Verdict {
        verdict(policy, Attempt::udp, to)
    }

    fn echo(policy: &Policy, to: &str) -> Verdict {
        verdict(policy, |from, to| Attempt::echo(from.ip(), to.ip()), &SocketAddr::new(to.parse().unwrap(), 0).to_string())
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
        assert_eq!(udp(&policy, "255.255.255.255:67"), Verdict::Dhcp);
        assert_eq!(udp(&policy, "10.0.2.2:67"), Verdict::Dhcp);
    }

    #[test]
    fn the_tftp_server_is_on_the_gateway_when_there_is_one() {
        let boot = BootConfig { tftp_root: Some("/srv".into()), ..BootConfig::default() };
        let config = Config { boot, host_loopback: false, ..Config::default() };
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
    fn the_http_server_is_on_the_gateway_for_all_guests() {
        let boot = BootConfig { http_root: Some("/srv".into()), ..BootConfig::default() };
        for config in [
            Config { boot: boot.clone(), host_loopback: false, ..Config::default() },
            Config { boot, restrict: true, ..Config::default() },
        ] {
            let policy = Policy::new(&config);
            for to in ["10.0.2.2:80", "[fec0::2]:80", "[fe80::2]:80"] {
                assert_eq!(tcp(&policy, to), Verdict::Service(StreamService::Http), "{to}");
            }
            assert_eq!(tcp(&policy, "10.0.2.2:81"), Verdict::Forbidden);
            assert_eq!(udp(&policy, "10.0.2.2:80"), Verdict::Forbidden);
        }
        assert_eq!(tcp(&Policy::new(&Config::default()), "10.0.2.2:80"), Verdict::Host("127.0.0.1:80".parse().unwrap()));
    }

    #[test]
    fn virtual_hosts_answer_an_echo_and_others_are_asked() {
        let policy = Policy::new(&Config::default());
        for to in ["10.0.2.2", "10.0.2.3", "fec0::2", "fec0::3", "fe80::2"] {
            assert_eq!(echo(&policy, to), Verdict::Here, "{to}");
        }
        assert_eq!(echo(&policy, "192.0.2.1"), Verdict::Host("192.0.2.1:0".parse().unwrap()));
        assert_eq!(echo(&policy, "10.0.2.77"), Verdict::Unreachable);
        for to in ["127.0.0.1", "255.255.255.255", "10.0.2.255", "224.0.0.1", "ff02::1", "::1", "fe80::77"] {
            assert_eq!(echo(&policy, to), Verdict::Nowhere, "{to}");
        }
        // The gateway is there even where it does not stand for the host.
        assert_eq!(echo(&Policy::new(&Config { host_loopback: false, ..Config::default() }), "10.0.2.2"), Verdict::Here);
    }

    #[test]
    fn dhcpv6_is_asked_by_its_groups_and_at_the_gateway() {
        let policy = Policy::new(&Config::default());
        assert_eq!(udp(&policy, "[ff02::1:2]:547"), Verdict::Dhcp6);
        assert_eq!(udp(&policy, "[ff05::1:3]:547"), Verdict::Dhcp6);
        assert_eq!(udp(&policy, "[fe80::2]:547"), Verdict::Dhcp6);
        assert_eq!(tcp(&policy, "[ff02::1:2]:547"), Verdict::Nowhere);
        assert_eq!(udp(&policy, "[ff02::1:2]:546"), Verdict::Nowhere);
        assert_eq!(udp(&policy, "[ff02::1]:547"), Verdict::Nowhere);
    }

    #[test]
    fn a_restricted_guest_reaches_dhcp_and_sees_that_the_virtual_hosts_are_there() {
        let policy = Policy::new(&Config { restrict: true, ..Config::default() });
        for to in ["192.0.2.1:80", "10.0.2.2:80", "10.0.2.3:53", "10.0.2.77:80", "[2001:db8::1]:80", "[fec0::2]:80", "[fec0::3]:53"]
        {
            assert_eq!(tcp(&policy, to), Verdict::Forbidden, "{to}");
            assert_eq!(udp(&policy, to), Verdict::Forbidden, "{to}");
        }
        assert_eq!(udp(&policy, "255.255.255.255:67"), Verdict::Dhcp);
        assert_eq!(udp(&policy, "[ff02::1:2]:547"), Verdict::Forbidden);
        for to in ["10.0.2.2", "10.0.2.3", "fec0::2", "fec0::3", "fe80::2"] {
            assert_eq!(echo(&policy, to), Verdict::Here, "{to}");
        }
        for to in ["192.0.2.1", "10.0.2.77", "2001:db8::1"] {
            assert_eq!(echo(&policy, to), Verdict::Forbidden, "{to}");
        }
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
            assert_eq!(udp(&policy, "10.0.2.4:80"), if restrict { Verdict::Forbidden } else { Verdict::Closed });
            assert_eq!(echo(&policy, "10.0.2.4"), Verdict::Here);
        }
    }

    #[test]
    fn the_hosts_of_forwards_from_guests_are_there_and_serve_nothing_else() {
        let policy = served(false);
        for (ip, mac) in [("10.0.2.4", "52:55:0a:00:02:04"), ("10.0.2.100", "52:55:0a:00:02:64")] {
            assert!(policy.is_virtual_host(ip.parse().unwrap()) && policy.is_virtual_host_mac(mac.parse().unwrap()));
            assert!(!policy.is_guest_address(ip.parse().unwrap()));
            assert_eq!(tcp(&policy, &format!("{ip}:22")), Verdict::Closed);
            assert_eq!(udp(&policy, &format!("{ip}:80")), Verdict::Closed);
        }
        assert!(policy.is_virtual_host("fec0::9".parse().unwrap()));
        let without = Policy::new(&Config::default());
        assert!(!without.is_virtual_host("10.0.2.4".parse().unwrap()));
        assert!(!without.is_virtual_host_mac("52:55:0a:00:02:04".parse().unwrap()));
    }
}
