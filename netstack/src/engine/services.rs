//! Joins the stack to the services at the virtual addresses.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::EngineError;
use super::builder::Hooks;
use crate::addr::MacAddr;
use crate::config::Config;
use crate::gateway::dhcp::{DhcpServer, Lease};
use crate::gateway::dhcp6::{self, Dhcp6Server};
use crate::gateway::dns::{DnsHandle, LocalNames, Names, Query, Response};
use crate::gateway::guest_forward::GuestForwards;
use crate::gateway::http::Http;
use crate::gateway::tftp::Tftp;
use crate::host::StreamService;
use crate::host::kernel::{ServiceConnector, ServiceStream};
use crate::port::PortId;
use crate::stack::{DhcpReply, DnsWayBack, Services, TftpService};
use crate::time::Instant;

/// The services of one network.
#[derive(Debug)]
pub(super) struct Gateway {
    dhcp: Option<DhcpServer>,
    dhcp6: Option<Dhcp6Server>,
    dns: DnsHandle,
    names: Arc<Names>,
    /// The DNS server's addresses: IPv4, IPv6.
    servers: [Option<IpAddr>; 2],
    /// What runs for guests: here too, so that it outlives the last of its streams.
    forwards: Arc<GuestForwards>,
    tftp: Option<Tftp>,
}

impl Gateway {
    /// Starts the services. Returns what is needed to take their answers and to open streams to them.
    pub(super) fn new(config: &Config, hooks: Hooks) -> Result<(Self, mpsc::Receiver<Response>, ServiceConnector), EngineError> {
        let names = Arc::new(Names::new());
        let (v4, v6) = (config.ipv4.as_ref(), config.ipv6.as_ref());
        let both = |v4: Option<IpAddr>, v6: Option<IpAddr>| v4.into_iter().chain(v6).collect::<Vec<_>>();
        let gateway = both(v4.map(|c| c.gateway.into()), v6.map(|c| c.gateway.into()));
        let servers = [v4.map(|c| c.dns.into()), v6.map(|c| c.dns.into())];
        let local = LocalNames {
            host: if config.host_loopback { gateway.clone() } else { Vec::new() },
            gateway,
            dns: both(servers[0], servers[1]),
        };
        let (dns, answers) = DnsHandle::spawn(&config.dns, Arc::clone(&names), local)?;
        let tftp = config.boot.tftp_root.as_ref().map(|root| Tftp::start(root, config.limits.tftp_transfers)).transpose()?;
        let http = config.boot.http_root.as_ref().map(|root| Http::start(root, config.limits.http_connections)).transpose()?;
        let streams = dns.clone();
        let forwards = Arc::new(hooks.guest_forwards(config)?);
        let targets = Arc::clone(&forwards);
        let connector: ServiceConnector = Box::new(move |service, guest| match service {
            StreamService::Dns => {
                let (ours, theirs) = ServiceStream::pair()?;
                streams.stream(theirs, guest).map_err(|_| io::ErrorKind::ConnectionRefused)?;
                Ok(ours)
            }
            StreamService::Http => {
                let (ours, theirs) = ServiceStream::pair()?;
                http.as_ref().ok_or(io::ErrorKind::ConnectionRefused)?.stream(theirs, guest)?;
                Ok(ours)
            }
            StreamService::GuestForward(number) => targets.open(number, guest),
            StreamService::Smb(port) => targets.open_smb(port, guest),
        });
        let (dhcp, dhcp6) = (DhcpServer::new(config), Dhcp6Server::new(config));
        Ok((Self { dhcp, dhcp6, dns, names, servers, forwards, tftp }, answers, connector))
    }

    /// Ends what runs for guests, and waits until it has ended.
    pub(super) async fn end(&self) {
        if let Some(commands) = &self.forwards.commands {
            commands.end().await;
        }
    }

    /// All leases.
    pub(super) fn leases(&self, now: Instant) -> Vec<Lease> {
        self.dhcp.iter().flat_map(|dhcp| dhcp.leases(now)).cloned().collect()
    }

    /// The DNS service, for whoever wants to ask it what it knows.
    pub(super) fn dns_service(&self) -> DnsHandle {
        self.dns.clone()
    }

    /// All leases of DHCPv6.
    pub(super) fn leases6(&self) -> Vec<dhcp6::Lease> {
        self.dhcp6.iter().flat_map(Dhcp6Server::leases).cloned().collect()
    }

    /// Where an answer of the DNS service goes.
    pub(super) fn way_back(&self, answer: &Response) -> Option<DnsWayBack> {
        let (port, mac) = unpack(answer.tag);
        let server = SocketAddr::new(self.servers[usize::from(!answer.guest.is_ipv4())]?, DNS_PORT);
        Some(DnsWayBack { port, mac, guest: answer.guest, server })
    }

    /// The same for an address of DHCPv6.
    fn publish_name6(&self, now: Instant, address: Ipv6Addr) {
        let lease = self.dhcp6.as_ref().and_then(|dhcp6| dhcp6.lease_of(address)).filter(|lease| lease.is_in_force(now));
        match lease.and_then(|lease| Some((lease, lease.hostname.as_ref()?))) {
            Some((lease, name)) => drop(self.names.set(name, address.into(), lease.expires.since(now))),
            None => self.names.remove(address.into()),
        }
    }

    /// Has DNS know the name of the guest that has this address now, or that nobody has it.
    fn publish_name(&self, now: Instant, address: Ipv4Addr) {
        let lease = self.dhcp.as_ref().and_then(|dhcp| dhcp.lease_of(address)).filter(|lease| lease.is_in_force(now));
        match lease.and_then(|lease| Some((lease, lease.hostname.as_ref()?))) {
            // A name that somebody else has, or that is none, stays unknown; the lease is good all the same.
            Some((lease, name)) => drop(self.names.set(name, address.into(), lease.expires.since(now))),
            None => self.names.remove(address.into()),
        }
    }
}

const DNS_PORT: u16 = 53;

impl Services for Gateway {
    fn dhcp(&mut self, now: Instant, from: MacAddr, message: &[u8]) -> Option<DhcpReply> {
        let mut reply = Vec::new();
        let answer = self.dhcp.as_mut()?.handle(now, from, message, &mut reply);
        for address in [address_field(message, CIADDR), address_field(&reply, YIADDR)].into_iter().flatten() {
            self.publish_name(now, address);
        }
        match answer {
            Ok(answer) => answer.map(|answer| DhcpReply { to: answer.to, mac: answer.mac, port: answer.port, message: reply }),
            Err(why) => {
                tracing::debug!(%from, %why, "DHCP message refused");
                None
            }
        }
    }

    fn dhcp6(&mut self, now: Instant, from: MacAddr, multicast: bool, message: &[u8]) -> Option<Vec<u8>> {
        let mut reply = Vec::new();
        match self.dhcp6.as_mut()?.handle(now, from, multicast, message, &mut reply) {
            Ok(touched) => {
                for address in touched {
                    self.publish_name6(now, address);
                }
                Some(reply)
            }
            Err(why) => {
                tracing::debug!(%from, %why, "DHCPv6 message refused");
                None
            }
        }
    }

    fn dns(&mut self, way_back: DnsWayBack, message: &[u8]) -> bool {
        let tag = pack(way_back.port, way_back.mac);
        self.dns.query(Query { guest: way_back.guest, tag, message: message.to_vec() }).is_ok()
    }

    fn tftp(&mut self) -> Option<&mut dyn TftpService> {
        self.tftp.as_mut().map(|tftp| tftp as &mut dyn TftpService)
    }
}

/// Where the client's own address and the one given to it lie in a DHCP message (RFC 2131 section 2).
const CIADDR: usize = 12;
const YIADDR: usize = 16;

fn address_field(message: &[u8], offset: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = message.get(offset..offset + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets)).filter(|address| !address.is_unspecified())
}

/// A port and a card in the 64 bits that a question carries.
fn pack(port: PortId, mac: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    let [high, low] = port.0.to_be_bytes();
    u64::from_be_bytes([high, low, a, b, c, d, e, f])
}

fn unpack(tag: u64) -> (PortId, MacAddr) {
    let [high, low, mac @ ..] = tag.to_be_bytes();
    (PortId(u16::from_be_bytes([high, low])), MacAddr(mac))
}
