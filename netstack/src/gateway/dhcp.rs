//! The DHCP server at the gateway's address (RFC 2131, RFC 2132), and BOOTP with it (RFC 951, RFC 1534).
//!
//! It takes the payload of a datagram that a guest sent to port 67 and makes the payload of the answer, together with where the answer
//! goes. It has no socket, no clock and no task. What always holds:
//!
//! - It is the only server of the link, and so authoritative: a request that cannot be granted is refused with DHCPNAK, never met with
//!   silence (RFC 2131 section 4.3.2 leaves the silence to servers that may have colleagues).
//! - No address is leased to two clients at a time, and none that is the gateway's, the DNS server's or kept for somebody else.
//! - Memory is bounded by the size of the pool, whatever guests send. A guest that invents clients can use the pool up, no more.
//! - A client gets its old address back for as long as nobody else needed it.

#![forbid(unsafe_code)]

mod leases;
mod reply;
mod request;

use std::net::{IpAddr, Ipv4Addr};

use dhcproto::v4::{CLIENT_PORT, MessageType, SERVER_PORT};

use crate::addr::MacAddr;
use crate::config::Config;
use crate::time::{Duration, Instant};

pub use crate::gateway::lease::LeaseState;
pub use leases::{ClientId, Lease};
pub(super) use request::host_label;

use leases::Leases;
use reply::{Parameters, Reply};
use request::{Kind, Request};

/// How long an offered address waits for its request. A client that lost the race asks again after 4 s (RFC 2131 section 4.1).
const OFFER_TIME: Duration = Duration::from_secs(10);

/// How long an address that a client found in use (DHCPDECLINE) is leased to nobody.
const QUARANTINE: Duration = Duration::from_secs(600);

/// The shortest lease that a client can ask for, in seconds, unless the configured one is shorter still.
const SHORTEST_REQUESTED_LEASE: u32 = 60;

/// The shortest lease there is, in seconds: a client renews after half of it.
const SHORTEST_LEASE: u32 = 4;

/// The lease time that means for ever (RFC 2131 section 3.3).
const INFINITE: u32 = u32::MAX;

/// The server, and the leases that it has given.
#[derive(Debug)]
pub struct DhcpServer {
    gateway: Ipv4Addr,
    lease_seconds: u32,
    leases: Leases,
    parameters: Parameters,
}

/// Where an answer goes (RFC 2131 section 4.1). It comes from the gateway's address, port 67.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The IP address: the client's, old or new, the relay agent's, or 255.255.255.255.
    pub to: Ipv4Addr,
    /// The address of the frame. The client cannot answer ARP yet.
    pub mac: MacAddr,
    /// 68, or 67 for a relay agent.
    pub port: u16,
}

/// Why a message was not acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// Too short, no magic cookie, an option that ends after the message, or one of the wrong size.
    #[error("the message is malformed")]
    Malformed,
    /// The client's hardware address is not the Ethernet address of one station.
    #[error("the client's hardware address is not a station's Ethernet address")]
    Hardware,
    /// A message that only servers send, or of a type that is unknown.
    #[error("the message is not one that a client sends to a server")]
    NotARequest,
    /// The client has chosen another server.
    #[error("the message is for another server")]
    OtherServer,
    /// The client, or the relay agent that speaks for it, is on another network.
    #[error("the client is on a network without a pool")]
    OtherNetwork,
    /// The address that is given up is not the client's.
    #[error("the address is not leased to this client")]
    NotTheirs,
    /// Every address is leased or offered.
    #[error("no address is free")]
    PoolExhausted,
    /// The station has as many leases as one may have.
    #[error("the station has too many leases")]
    StationLimit,
}

impl Refused {
    /// Every reason, in the order of their values: for a table of counters.
    pub const ALL: [Self; 8] = [
        Self::Malformed,
        Self::Hardware,
        Self::NotARequest,
        Self::OtherServer,
        Self::OtherNetwork,
        Self::NotTheirs,
        Self::PoolExhausted,
        Self::StationLimit,
    ];
}

const fn ipv4_of(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

impl DhcpServer {
    /// A server with an empty table, or `None` where the guests have no IPv4 network.
    pub fn new(config: &Config) -> Option<Self> {
        let ipv4 = config.ipv4.as_ref()?;
        let servers: Vec<_> = config.server_addresses().filter_map(ipv4_of).collect();
        let seconds = u32::try_from(config.dhcp.lease_time.as_secs()).unwrap_or(INFINITE);
        Some(Self {
            gateway: ipv4.gateway,
            lease_seconds: seconds.max(SHORTEST_LEASE),
            leases: Leases::new(ipv4, &config.dhcp.static_leases, &servers),
            parameters: Parameters::new(config, ipv4),
        })
    }

    /// Acts on `message`, the payload of a datagram to port 67, and puts the payload of the answer into `reply`, replacing what it
    /// holds. DHCPRELEASE and DHCPDECLINE have no answer.
    ///
    /// `from` is the source of the frame. It only bounds what one station can take: a client is who its client identifier (option 61)
    /// or else its hardware address says.
    ///
    /// # Errors
    ///
    /// The reason why nothing was done, to be counted.
    pub fn handle(&mut self, now: Instant, from: MacAddr, message: &[u8], reply: &mut Vec<u8>) -> Result<Option<Answer>, Refused> {
        reply.clear();
        let request = Request::parse(message)?;
        if !request.giaddr.is_unspecified() && !self.leases.contains(request.giaddr) {
            return Err(Refused::OtherNetwork);
        }
        self.leases.expire(now);
        let outcome = match request.kind {
            Kind::Discover => Some(self.discover(now, from, &request)?),
            Kind::Request => Some(self.request(now, from, &request)?),
            Kind::Inform => Some(self.inform(&request)?),
            Kind::Bootp => Some(self.bootp(now, from, &request)?),
            Kind::Decline => self.decline(now, &request)?,
            Kind::Release => self.release(now, &request)?,
        };
        let Some(outcome) = outcome else { return Ok(None) };
        self.parameters.write(&request, &outcome, reply);
        Ok(Some(answer_to(&request, &outcome, from)))
    }

    /// What is known of every client at `now`: those with a lease or an offer, those that gave theirs back or let it run out and may
    /// still get it again, and addresses in quarantine. In the order of the addresses.
    pub fn leases(&self, now: Instant) -> impl Iterator<Item = &Lease> {
        self.leases.iter().filter(move |lease| match lease.state {
            LeaseState::Offered | LeaseState::Declined => now < lease.expires,
            LeaseState::Bound | LeaseState::Released | LeaseState::Expired => true,
        })
    }

    /// What is known of an address: who has it, or had it last.
    pub fn lease_of(&self, address: Ipv4Addr) -> Option<&Lease> {
        self.leases.get(address)
    }

    /// The lease, in force at `now`, of the client that goes by `hostname` (in lower case). Where several claim it, the one that has
    /// held its lease the longest is meant, so that a newcomer cannot take a name away. Looks at every lease there is.
    pub fn lease_named(&self, hostname: &str, now: Instant) -> Option<&Lease> {
        self.leases
            .iter()
            .filter(|lease| lease.is_in_force(now) && lease.hostname.as_deref() == Some(hostname))
            .min_by_key(|lease| (lease.since, lease.address))
    }

    /// Panics unless the table of leases agrees with itself.
    #[cfg(feature = "fuzzing")]
    #[doc(hidden)]
    pub fn check(&self) {
        self.leases.check();
    }

    /// DHCPDISCOVER: chooses an address and holds it for a short time (RFC 2131 section 4.3.1).
    fn discover(&mut self, now: Instant, from: MacAddr, request: &Request) -> Result<Reply, Refused> {
        let address = self.leases.choose(request, from)?;
        self.leases.offer(address, request, from, now, now + OFFER_TIME);
        Ok(Reply::Lease { kind: MessageType::Offer, address, seconds: self.seconds_for(request) })
    }

    /// DHCPREQUEST. Which of its four meanings it has is told by what is filled in (RFC 2131 section 4.3.2).
    fn request(&mut self, now: Instant, from: MacAddr, request: &Request) -> Result<Reply, Refused> {
        let address = match (request.server, request.requested) {
            // SELECTING, of another server's offer: ours is free again.
            (Some(server), _) if server != self.gateway => {
                self.leases.withdraw_offer(request);
                return Err(Refused::OtherServer);
            }
            // RENEWING or REBINDING: these differ only in whether the datagram was broadcast, which changes nothing here.
            (None, _) if !request.ciaddr.is_unspecified() => request.ciaddr,
            // SELECTING with a server identifier, INIT-REBOOT without.
            (_, Some(requested)) => requested,
            (_, None) => return Err(Refused::Malformed),
        };
        if !self.leases.may_have(address, request, from)? {
            return Ok(Reply::Nak);
        }
        let seconds = self.seconds_for(request);
        self.leases.bind(address, request, from, now, expiry(now, seconds));
        Ok(Reply::Lease { kind: MessageType::Ack, address, seconds })
    }

    /// DHCPINFORM: a client with an address of its own wants to know the rest (RFC 2131 section 4.3.5).
    fn inform(&self, request: &Request) -> Result<Reply, Refused> {
        if self.leases.contains(request.ciaddr) { Ok(Reply::Parameters) } else { Err(Refused::OtherNetwork) }
    }

    /// BOOTP knows no leases: the client keeps the address until it is switched off (RFC 1534 section 2). It is held for a lease time
    /// after each time that the client asks, and after that until no other address is left.
    fn bootp(&mut self, now: Instant, from: MacAddr, request: &Request) -> Result<Reply, Refused> {
        let address = self.leases.choose(request, from)?;
        self.leases.bind(address, request, from, now, expiry(now, self.lease_seconds));
        Ok(Reply::Bootp { address })
    }

    /// DHCPDECLINE: the client found the address in use by somebody else (RFC 2131 section 4.3.3).
    fn decline(&mut self, now: Instant, request: &Request) -> Result<Option<Reply>, Refused> {
        self.for_us(request)?;
        let address = request.requested.ok_or(Refused::Malformed)?;
        self.leases.decline(address, request, now + QUARANTINE)?;
        Ok(None)
    }

    /// DHCPRELEASE: the client no longer needs its address, which stays its own until somebody else needs it (RFC 2131 section 4.3.4).
    fn release(&mut self, now: Instant, request: &Request) -> Result<Option<Reply>, Refused> {
        self.for_us(request)?;
        self.leases.release(request.ciaddr, request, now)?;
        Ok(None)
    }

    /// Refuses a message that names another server.
    fn for_us(&self, request: &Request) -> Result<(), Refused> {
        match request.server {
            Some(server) if server != self.gateway => Err(Refused::OtherServer),
            _ => Ok(()),
        }
    }

    /// A client may ask for less time than is configured, never for more.
    fn seconds_for(&self, request: &Request) -> u32 {
        let shortest = SHORTEST_REQUESTED_LEASE.min(self.lease_seconds);
        request.lease_seconds.map_or(self.lease_seconds, |wanted| wanted.clamp(shortest, self.lease_seconds))
    }
}

/// When a lease of `seconds` that begins now ends.
fn expiry(now: Instant, seconds: u32) -> Instant {
    if seconds == INFINITE { Instant::from_micros(u64::MAX) } else { now + Duration::from_secs(seconds.into()) }
}

/// RFC 2131 section 4.1: to the relay agent if there is one; else to the address that the client has and keeps; else to the one that it
/// gets, in a frame to its hardware address, unless it says that it needs a broadcast. A DHCPNAK is always broadcast: the client's
/// address is wrong.
fn answer_to(request: &Request, outcome: &Reply, from: MacAddr) -> Answer {
    let to_client = |to| Answer { to, mac: request.mac, port: CLIENT_PORT };
    if !request.giaddr.is_unspecified() {
        return Answer { to: request.giaddr, mac: from, port: SERVER_PORT };
    }
    match *outcome {
        Reply::Parameters => to_client(request.ciaddr),
        Reply::Lease { address, .. } | Reply::Bootp { address } if address == request.ciaddr || !request.broadcast => {
            to_client(address)
        }
        Reply::Lease { .. } | Reply::Bootp { .. } | Reply::Nak => {
            Answer { to: Ipv4Addr::BROADCAST, mac: MacAddr::BROADCAST, port: CLIENT_PORT }
        }
    }
}

#[cfg(test)]
mod tests;
