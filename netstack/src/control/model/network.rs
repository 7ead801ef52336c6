//! What is going on in the network as a whole.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::Config;
use crate::control::{Command, Nothing, Refused};
use crate::engine::Handle;
use crate::gateway::dns::DnsStats;
use crate::stack::Counters;

/// Tells what the network is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetInfo {}

/// What the network is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// The version of slipway.
    pub version: String,
    /// For how many seconds it has been running.
    pub uptime: f64,
    /// The largest IP packet on the guests' link, in bytes.
    pub mtu: u16,
    /// The IPv4 network, if there is one.
    pub ipv4: Option<Ipv4Info>,
    /// The IPv6 network, if there is one.
    pub ipv6: Option<Ipv6Info>,
    /// Whether guests are kept from everything but the virtual hosts and forwards.
    pub restrict: bool,
    /// Whether the gateway leads to the host's loopback address.
    pub host_loopback: bool,
    /// What everything is bounded by, by the names of [`Limits`](crate::config::Limits).
    pub limits: BTreeMap<String, u64>,
    /// How long idle things are kept, in seconds, by the names of [`Timeouts`](crate::config::Timeouts).
    pub timeouts: BTreeMap<String, f64>,
}

/// An IPv4 network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv4Info {
    /// The network.
    pub net: Ipv4Net,
    /// The gateway.
    pub gateway: Ipv4Addr,
    /// The DNS server.
    pub dns: Ipv4Addr,
    /// Where DHCP begins, and forwards lead that name no address.
    pub dhcp_start: Ipv4Addr,
}

/// An IPv6 network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv6Info {
    /// The prefix.
    pub prefix: Ipv6Net,
    /// The gateway.
    pub gateway: Ipv6Addr,
    /// The DNS server.
    pub dns: Ipv6Addr,
}

impl Info {
    pub(crate) fn new(config: &Config, uptime: f64) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime,
            mtu: config.mtu,
            ipv4: config.ipv4.as_ref().map(|ipv4| Ipv4Info {
                net: ipv4.net,
                gateway: ipv4.gateway,
                dns: ipv4.dns,
                dhcp_start: ipv4.dhcp_start,
            }),
            ipv6: config.ipv6.as_ref().map(|ipv6| Ipv6Info { prefix: ipv6.prefix, gateway: ipv6.gateway, dns: ipv6.dns }),
            restrict: config.restrict,
            host_loopback: config.host_loopback,
            limits: by_name(&config.limits),
            timeouts: by_name::<_, Time>(&config.timeouts).into_iter().map(|(name, time)| (name, time.seconds())).collect(),
        }
    }
}

/// A duration as serde writes it.
#[derive(Debug, Deserialize)]
struct Time {
    secs: u64,
    nanos: u32,
}

impl Time {
    fn seconds(&self) -> f64 {
        self.secs as f64 + f64::from(self.nanos) / 1e9
    }
}

/// The fields of a structure by their names, so that each is told that there is.
fn by_name<T: Serialize, V: for<'de> Deserialize<'de>>(fields: &T) -> BTreeMap<String, V> {
    serde_json::to_value(fields).and_then(serde_json::from_value).unwrap_or_default()
}

impl Command for GetInfo {
    const NAME: &'static str = "info";
    type Reply = Info;

    async fn run(self, engine: &Handle) -> Result<Info, Refused> {
        Ok(engine.info().await?)
    }
}

/// Tells all connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListFlows {}

/// All connections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flows {
    /// Those of TCP.
    pub tcp: Vec<TcpFlow>,
    /// Those who speak UDP.
    pub udp: Vec<UdpFlow>,
}

/// A port of a guest that speaks UDP, or a client of a forward.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UdpFlow {
    /// The guest's end.
    pub guest: SocketAddr,
    /// The client of a forward, as the guest sees it; nothing for what a guest has begun, which may go to many.
    pub client: Option<SocketAddr>,
    /// For how many seconds nothing was sent.
    pub idle: f64,
}

/// A TCP connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpFlow {
    /// The guest's end.
    pub guest: SocketAddr,
    /// The other end, as the guest sees it.
    pub remote: SocketAddr,
    /// The state, in the words of RFC 9293.
    pub state: String,
}

impl Command for ListFlows {
    const NAME: &'static str = "flows";
    type Reply = Flows;

    async fn run(self, engine: &Handle) -> Result<Flows, Refused> {
        let tcp = engine.flows().await?.into_iter();
        let tcp = tcp.map(|flow| TcpFlow { guest: flow.guest, remote: flow.remote, state: flow.state.to_owned() });
        let udp = engine.udp_flows().await?.into_iter();
        let udp = udp.map(|flow| UdpFlow { guest: flow.guest, client: flow.client, idle: flow.idle.as_secs_f64() });
        Ok(Flows { tcp: tcp.collect(), udp: udp.collect() })
    }
}

/// Tells what the DNS service knows, and from whom.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetDns {}

/// What the DNS service knows, and from whom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dns {
    /// Who is asked, in that order.
    pub servers: Vec<DnsServer>,
    /// The names of guests.
    pub names: Vec<GuestName>,
    /// Answers that are kept.
    pub cached: Vec<CachedAnswer>,
    /// What was done so far.
    pub counts: DnsStats,
}

/// A server that is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsServer {
    /// Where it is.
    pub address: SocketAddr,
    /// Whether it has answered when it was asked last.
    pub up: bool,
}

/// A name of a guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuestName {
    /// The name.
    pub name: String,
    /// The guest's address.
    pub address: IpAddr,
    /// For how many seconds it is good, unless the guest renews its lease.
    pub expires_in: f64,
}

/// An answer that is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CachedAnswer {
    /// The question: name and type.
    pub question: String,
    /// For how many seconds its answer is kept.
    pub expires_in: f64,
}

impl Command for GetDns {
    const NAME: &'static str = "dns";
    type Reply = Dns;

    async fn run(self, engine: &Handle) -> Result<Dns, Refused> {
        let service = engine.dns().await?;
        let status = service.status().await;
        let names = status.names.into_iter();
        let cached = status.cached.into_iter();
        Ok(Dns {
            servers: status.servers.into_iter().map(|(address, up)| DnsServer { address, up }).collect(),
            names: names.map(|(name, address, left)| GuestName { name, address, expires_in: left.as_secs_f64() }).collect(),
            cached: cached.map(|(question, left)| CachedAnswer { question, expires_in: left.as_secs_f64() }).collect(),
            counts: service.stats(),
        })
    }
}

/// Tells what has happened so far, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetCounters {}

/// What has happened so far: name and value of each field of [`Counters`], in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterValues(pub Vec<(String, u64)>);

impl From<Counters> for CounterValues {
    fn from(counters: Counters) -> Self {
        Self(counters.iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

impl Serialize for CounterValues {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'de> Deserialize<'de> for CounterValues {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = CounterValues;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("counters by their names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<CounterValues, A::Error> {
                let mut values = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    values.push(entry);
                }
                Ok(CounterValues(values))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

impl Command for GetCounters {
    const NAME: &'static str = "counters";
    type Reply = CounterValues;

    async fn run(self, engine: &Handle) -> Result<CounterValues, Refused> {
        Ok(engine.counters().await?.into())
    }
}

/// Ends the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {}

impl Command for Shutdown {
    const NAME: &'static str = "shutdown";
    type Reply = Nothing;

    async fn run(self, engine: &Handle) -> Result<Nothing, Refused> {
        engine.shutdown();
        Ok(Nothing {})
    }
}
