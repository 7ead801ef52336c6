//! What an engine is told before it starts.
//!
//! [`Config`] is plain data with the defaults of QEMU's user network. [`qemu`] reads and checks the text that users of
//! `-netdev user,...` know.

mod forward;
mod guest_forward;
pub mod qemu;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::Serialize;

pub use self::forward::{HostForward, HostSide, Protocol, SOCKET_PATH_MAX};
pub use self::guest_forward::{GuestForward, GuestTarget, SMB_PORTS, SmbConfig};
use crate::addr::MacAddr;

/// Everything that can be set. `Config::default()` is what `-netdev user` without options is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The guests' IPv4 network; `None` for none.
    pub ipv4: Option<Ipv4Config>,
    /// The guests' IPv6 network; `None` for none.
    pub ipv6: Option<Ipv6Config>,
    /// The largest IP packet on the guests' link, in bytes: 68 to 65520, and at least 1280 where there is IPv6. Ports may have a smaller one.
    pub mtu: u16,
    /// Keeps guests from everything but the virtual hosts and what is forwarded by rule.
    pub restrict: bool,
    /// Whether the gateway's address stands for the host's loopback address.
    pub host_loopback: bool,
    /// Lets anyone send to a UDP mapping once it exists (RFC 4787 "endpoint-independent filtering"), as libslirp does.
    pub full_cone: bool,
    /// What DHCP tells beside addresses.
    pub dhcp: DhcpConfig,
    /// How names are resolved.
    pub dns: DnsConfig,
    /// What guests can load from the gateway.
    pub boot: BootConfig,
    /// Ports of the host that lead to guests.
    pub host_forwards: Vec<HostForward>,
    /// Ports of virtual hosts that lead to the host's side.
    pub guest_forwards: Vec<GuestForward>,
    /// The SMB server; `None` for none, and then nobody has its address.
    pub smb: Option<SmbConfig>,
    /// What each guest-chosen quantity is bounded by.
    pub limits: Limits,
    /// How long idle things are kept.
    pub timeouts: Timeouts,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ipv4: Some(Ipv4Config::default()),
            ipv6: Some(Ipv6Config::default()),
            mtu: 1500,
            restrict: false,
            host_loopback: true,
            full_cone: false,
            dhcp: DhcpConfig::default(),
            dns: DnsConfig::default(),
            boot: BootConfig::default(),
            host_forwards: Vec::new(),
            guest_forwards: Vec::new(),
            smb: None,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
        }
    }
}

/// The guests' IPv4 network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipv4Config {
    /// The network. 10.0.2.0/24.
    pub net: Ipv4Net,
    /// The gateway, which is also the DHCP server and the host's loopback address. 10.0.2.2.
    pub gateway: Ipv4Addr,
    /// The DNS server. 10.0.2.3.
    pub dns: Ipv4Addr,
    /// The first address that DHCP leases, and where forwards without an address lead. 10.0.2.15.
    pub dhcp_start: Ipv4Addr,
}

impl Default for Ipv4Config {
    fn default() -> Self {
        Self {
            net: Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 2, 0), 24),
            gateway: Ipv4Addr::new(10, 0, 2, 2),
            dns: Ipv4Addr::new(10, 0, 2, 3),
            dhcp_start: Ipv4Addr::new(10, 0, 2, 15),
        }
    }
}

/// The guests' IPv6 network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipv6Config {
    /// The prefix. fec0::/64.
    pub prefix: Ipv6Net,
    /// The gateway in that prefix, which is also the host's loopback address. fec0::2. On the link it is fe80::2 as well.
    pub gateway: Ipv6Addr,
    /// The DNS server. fec0::3.
    pub dns: Ipv6Addr,
    /// The first address that DHCPv6 leases. fec0::15.
    pub dhcp_start: Ipv6Addr,
    /// Whether guests are told to ask DHCPv6 for an address, beside the one that they make for themselves (the M flag of RFC 4861
    /// section 4.2). The server answers those that ask in either case.
    pub managed: bool,
}

impl Default for Ipv6Config {
    fn default() -> Self {
        let address = |last| Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, last);
        Self {
            prefix: Ipv6Net::new_assert(address(0), 64),
            gateway: address(2),
            dns: address(3),
            dhcp_start: address(0x15),
            managed: true,
        }
    }
}

/// What DHCP tells beside addresses (RFC 2131, RFC 2132).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhcpConfig {
    /// The guest's host name, option 12.
    pub hostname: Option<String>,
    /// The domain name, option 15.
    pub domain_name: Option<String>,
    /// The domains to search, option 119 (RFC 3397) and DNSSL.
    pub search: Vec<String>,
    /// Time servers, option 42 and, of IPv6, options 31 and 56 of DHCPv6.
    pub ntp: Vec<IpAddr>,
    /// The server to boot from, option 66.
    pub tftp_server_name: Option<String>,
    /// The file to boot, option 67 and the `file` field.
    pub bootfile: Option<String>,
    /// More routes, option 121 (RFC 3442): destination and next hop.
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
    /// Addresses kept for known guests.
    pub static_leases: Vec<(MacAddr, Ipv4Addr)>,
    /// How long a lease lasts.
    pub lease_time: Duration,
}

impl Default for DhcpConfig {
    fn default() -> Self {
        Self {
            hostname: None,
            domain_name: None,
            search: Vec::new(),
            ntp: Vec::new(),
            tftp_server_name: None,
            bootfile: None,
            routes: Vec::new(),
            static_leases: Vec::new(),
            lease_time: Duration::from_secs(86_400),
        }
    }
}

/// How names are resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsConfig {
    /// Where the upstream servers are named. Read again when it changes.
    pub resolv_conf: PathBuf,
    /// Names that need no server. Read again when it changes.
    pub hosts_file: PathBuf,
    /// Upstream servers to use instead of those in `resolv_conf`.
    pub servers: Vec<SocketAddr>,
    /// Answers kept, at most.
    pub cache_entries: usize,
    /// Questions in work at once, at most; a further one is answered SERVFAIL.
    pub concurrent: usize,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            hosts_file: PathBuf::from("/etc/hosts"),
            servers: Vec::new(),
            cache_entries: 4096,
            concurrent: 256,
        }
    }
}

/// What guests can load from the gateway, to boot from or else. Nothing is ever written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootConfig {
    /// The directory whose files the TFTP server on the gateway serves; `None` for no server.
    pub tftp_root: Option<PathBuf>,
    /// The directory whose files the HTTP server on the gateway serves, at port 80; `None` for no server.
    pub http_root: Option<PathBuf>,
}

/// What each guest-chosen quantity is bounded by. What goes beyond is refused and counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Clients of the API at once.
    pub api_clients: usize,
    /// Bytes of a request to the API.
    pub api_request_bytes: usize,
    /// TCP connections, in any state.
    pub tcp_flows: usize,
    /// TCP connections that are being opened.
    pub tcp_opening: usize,
    /// Bytes from guests, in all connections together, that a socket has not taken though there seemed to be room.
    pub tcp_held_bytes: usize,
    /// Commands of forwards from guests, and SMB servers, that run at once.
    pub guest_forward_commands: usize,
    /// UDP mappings.
    pub udp_mappings: usize,
    /// Remote addresses that one UDP or ping mapping remembers for its filter.
    pub udp_peers: usize,
    /// Ping mappings: one for each identifier that a guest pings the world with.
    pub icmp_mappings: usize,
    /// ICMP errors that the guests behind one port are sent in a second.
    pub icmp_errors_per_second: u32,
    /// TFTP transfers, until the server has closed them.
    pub tftp_transfers: usize,
    /// Connections to the HTTP server. A further one is reset, and counted as `tcp_limit_host`.
    pub http_connections: usize,
    /// Stations whose addresses are remembered.
    pub neighbours: usize,
    /// Datagrams of which some fragments have come and others are missing; behind each port, so that guests cannot displace each other's.
    pub reassembly_datagrams: usize,
    /// Bytes of their fragments; behind each port.
    pub reassembly_bytes: usize,
    /// Fragments of one datagram.
    pub reassembly_fragments: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            api_clients: 64,
            api_request_bytes: 64 << 10,
            tcp_flows: 65_536,
            tcp_opening: 4096,
            tcp_held_bytes: 64 << 20,
            guest_forward_commands: 256,
            udp_mappings: 16_384,
            udp_peers: 256,
            icmp_mappings: 1024,
            icmp_errors_per_second: 1000,
            tftp_transfers: 64,
            http_connections: 64,
            neighbours: 1024,
            reassembly_datagrams: 64,
            reassembly_bytes: 4 << 20,
            // As many as a datagram of 48 KiB has on the smallest link that IPv4 allows.
            reassembly_fragments: 1024,
        }
    }
}

/// How long idle things are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    /// A client of the API that sends no request, or does not take its answer.
    pub api_stall: Duration,
    /// A connection attempt to the host's side.
    pub tcp_connect: Duration,
    /// A connection attempt to a guest.
    pub tcp_guest_connect: Duration,
    /// An established connection without traffic: RFC 5382 asks for at least 2 h 4 min. A probe asks the guest before it is given up.
    pub tcp_idle: Duration,
    /// A half-closed connection without traffic: RFC 5382 asks for at least 4 min.
    pub tcp_half_closed: Duration,
    /// A connection closed by both sides whose last segment the guest has not acknowledged.
    pub tcp_closing: Duration,
    /// A command of a forward whose connection has ended: it is given so long to end by itself, so long again after SIGTERM, and is
    /// killed then.
    pub guest_forward_end: Duration,
    /// A UDP mapping without traffic from the guest: RFC 4787 recommends 5 min.
    pub udp_idle: Duration,
    /// A UDP mapping used for DNS only.
    pub udp_dns_idle: Duration,
    /// A ping mapping without echo requests of the guest: RFC 5508 asks for at least 60 s.
    pub icmp_idle: Duration,
    /// An IPv4 datagram of which fragments are missing: 30 s, as Linux has it (RFC 1122 section 3.3.2 wants it fixed, and suggests more).
    pub reassembly_v4: Duration,
    /// Likewise IPv6: RFC 8200 section 4.5 says 60 s.
    pub reassembly_v6: Duration,
    /// A TFTP transfer in which the guest says nothing. The server gives up earlier by itself, unless a disk keeps it waiting.
    pub tftp_idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            api_stall: Duration::from_secs(5),
            tcp_connect: Duration::from_secs(75),
            tcp_guest_connect: Duration::from_secs(75),
            tcp_idle: Duration::from_secs(7440),
            tcp_half_closed: Duration::from_secs(240),
            tcp_closing: Duration::from_secs(60),
            guest_forward_end: Duration::from_secs(1),
            udp_idle: Duration::from_secs(300),
            udp_dns_idle: Duration::from_secs(10),
            icmp_idle: Duration::from_secs(60),
            reassembly_v4: Duration::from_secs(30),
            reassembly_v6: Duration::from_secs(60),
            tftp_idle: Duration::from_secs(60),
        }
    }
}
