//! The DHCPv6 server of the link (RFC 8415): addresses for those that ask, and everything else that guests can be told.
//!
//! It takes the payload of a datagram that a guest sent to port 547 of ff02::1:2 or ff05::1:3 and makes the payload of the answer, which
//! goes back to where the question came from. It has no socket, no clock and no task. What always holds:
//!
//! - It is the only server of the link: a guest that solicits is told to look no further (preference 255), and what cannot be granted
//!   is refused with a status code, never met with silence.
//! - No address is leased to two clients at a time, and none that is the gateway's or the DNS server's.
//! - Memory is bounded by the size of the pool, whatever guests send. A guest that invents clients can use up its share of the pool, no
//!   more.
//! - A client gets its old address back for as long as nobody else needed it.
//! - There are no prefixes and no temporary addresses to give: those who ask are told so.

#![forbid(unsafe_code)]

mod leases;
mod reply;
mod request;

use std::net::{IpAddr, Ipv6Addr};

use dhcproto::v6::{MessageType, Status};

use crate::addr::MacAddr;
use crate::config::Config;
use crate::stack::LINK_LOCAL_GATEWAY;
use crate::time::{Duration, Instant};

pub use leases::{Duid, Identity, Lease};

use leases::{Client, Leases};
use reply::{Answer, Granted, Parameters};
use request::{Association, Kind, Request};

/// How long an advertised address waits for its request. A client asks at once, and again for two minutes if it is not answered
/// (RFC 8415 section 7.6: REQ_TIMEOUT, REQ_MAX_RC).
const OFFER_TIME: Duration = Duration::from_secs(10);

/// How long an address that a client found in use (Decline) is leased to nobody.
const QUARANTINE: Duration = Duration::from_secs(600);

/// The lifetime that means for ever (RFC 8415 section 7.7).
const INFINITE: u32 = u32::MAX;

/// The server, and the leases that it has given.
#[derive(Debug)]
pub struct Dhcp6Server {
    prefix: ipnet::Ipv6Net,
    /// Identifies the server, for ever: it follows from the gateway's card (DUID-LL, RFC 8415 section 11.4).
    identity: Vec<u8>,
    leases: Leases,
    parameters: Parameters,
}

/// Why a message was not acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// Too short, an option that ends after the message, or one of the wrong size.
    #[error("the message is malformed")]
    Malformed,
    /// A message that only servers and relay agents send, or of a type that is unknown.
    #[error("the message is not one that a client sends to a server")]
    NotARequest,
    /// What must be there is not, or what must not be there is (RFC 8415 section 16).
    #[error("the message has not the options that one of its type must have")]
    Invalid,
    /// The client has chosen another server.
    #[error("the message is for another server")]
    OtherServer,
    /// Sent to the gateway's own address, and of a kind that cannot be answered there.
    #[error("the message was not sent to the servers' group")]
    Unicast,
    /// Nothing is asked: a Confirm without an address (RFC 8415 section 18.3.3).
    #[error("the message asks nothing")]
    Nothing,
}

impl Refused {
    /// Every reason, in the order of their values: for a table of counters.
    pub const ALL: [Self; 6] = [Self::Malformed, Self::NotARequest, Self::Invalid, Self::OtherServer, Self::Unicast, Self::Nothing];
}

/// What happened to addresses: those that a client got, kept or lost.
pub type Touched = Vec<Ipv6Addr>;

impl Dhcp6Server {
    /// A server with an empty table, or `None` where the guests have no IPv6 network.
    pub fn new(config: &Config) -> Option<Self> {
        let ipv6 = config.ipv6.as_ref()?;
        let MacAddr(card) = MacAddr::of_virtual_host(LINK_LOCAL_GATEWAY.into());
        /// DUID-LL, and Ethernet.
        const LINK_LAYER: [u8; 4] = [0, 3, 0, 1];
        let servers = config.server_addresses().filter_map(|address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address),
        });
        Some(Self {
            prefix: ipv6.prefix,
            identity: LINK_LAYER.into_iter().chain(card).collect(),
            leases: Leases::new(ipv6, servers),
            parameters: Parameters::new(config, ipv6),
        })
    }

    /// Acts on `message`, the payload of a datagram to port 547, and puts the payload of the answer into `reply`, replacing what it
    /// holds. Returns the addresses that it was about.
    ///
    /// `from` is the source of the frame. It only bounds what one station can take: a client is who its DUID says. `multicast` tells
    /// whether the datagram went to a group, as it should (RFC 8415 section 14).
    ///
    /// # Errors
    ///
    /// The reason why there is no answer, to be counted.
    pub fn handle(
        &mut self,
        now: Instant,
        from: MacAddr,
        multicast: bool,
        message: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<Touched, Refused> {
        reply.clear();
        let request = Request::parse(message)?;
        request.validate(&self.identity)?;
        let (answer, touched) = if multicast {
            self.leases.expire(now);
            self.answer(now, from, &request)?
        } else if request.kind.is_for_one_server() {
            (Answer::status(MessageType::Reply, Status::UseMulticast), Touched::new())
        } else {
            return Err(Refused::Unicast);
        };
        self.parameters.write(&request, &self.identity, &answer, reply);
        Ok(touched)
    }

    fn answer(&mut self, now: Instant, from: MacAddr, request: &Request) -> Result<(Answer, Touched), Refused> {
        let associations = request.associations.iter();
        let mut touched = Touched::new();
        let answer = match request.kind {
            Kind::Solicit if !request.rapid_commit => Answer::granting(
                MessageType::Advertise,
                associations.map(|association| self.offer(now, from, request, association)).collect(),
            ),
            Kind::Solicit | Kind::Request => {
                let granted = associations.map(|association| self.assign(now, from, request, association));
                Answer::granting(MessageType::Reply, granted.collect())
            }
            Kind::Renew | Kind::Rebind => {
                let granted = associations.map(|association| self.extend(now, from, request, association));
                Answer::granting(MessageType::Reply, granted.collect())
            }
            Kind::Confirm => self.confirm(request)?,
            Kind::Release => self.give_up(request, &mut touched, |leases, client, address| leases.release(client, address, now)),
            Kind::Decline => {
                self.give_up(request, &mut touched, |leases, client, address| leases.decline(client, address, now + QUARANTINE))
            }
            Kind::Inform => Answer::parameters(),
        };
        touched.extend(answer.granted.iter().filter_map(|granted| granted.outcome.ok()));
        Ok((answer, touched))
    }

    /// What is known of every address: those that are leased or offered, those that were given back or ran out and may still go to the
    /// same client again, and those in quarantine. In the order of the addresses.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.iter()
    }

    /// What is known of an address: who has it, or had it last.
    pub fn lease_of(&self, address: Ipv6Addr) -> Option<&Lease> {
        self.leases.get(address)
    }

    /// Panics unless the table of leases agrees with itself.
    #[cfg(feature = "fuzzing")]
    #[doc(hidden)]
    pub fn check(&self) {
        self.leases.check();
    }

    /// Solicit: chooses an address and holds it for a short time (RFC 8415 section 18.3.1).
    fn offer(&mut self, now: Instant, from: MacAddr, request: &Request, association: &Association) -> Granted {
        let Some(client) = Client::of(request, association, from) else { return association.refused(Status::UnspecFail) };
        match self.leases.choose(&client, &association.addresses) {
            Some(address) => {
                self.leases.offer(address, client, now, now + OFFER_TIME);
                association.granted(address)
            }
            None => association.refused(Status::NoAddrsAvail),
        }
    }

    /// Request, and Solicit with rapid commit: leases an address (RFC 8415 section 18.3.2).
    fn assign(&mut self, now: Instant, from: MacAddr, request: &Request, association: &Association) -> Granted {
        let Some(client) = Client::of(request, association, from) else { return association.refused(Status::UnspecFail) };
        if request.kind == Kind::Request && association.addresses.iter().any(|address| !self.prefix.contains(address)) {
            return association.refused(Status::NotOnLink);
        }
        match self.leases.choose(&client, &association.addresses) {
            Some(address) => {
                self.leases.bind(address, client, now, self.parameters.expiry(now));
                association.granted(address)
            }
            None => association.refused(Status::NoAddrsAvail),
        }
    }

    /// Renew and Rebind: the client keeps its address. When the server knows nothing of it (it was started again, say, and its guests were
    /// not), the client gets the address that it names, if nobody has it (RFC 8415 sections 18.3.4 and 18.3.5).
    fn extend(&mut self, now: Instant, from: MacAddr, request: &Request, association: &Association) -> Granted {
        let Some(client) = Client::of(request, association, from) else { return association.refused(Status::UnspecFail) };
        if let Some(address) = self.leases.keep(&client, &association.addresses) {
            self.leases.bind(address, client, now, self.parameters.expiry(now));
            return association.granted(address).withdrawing(&association.addresses);
        }
        if association.addresses.iter().any(|address| !self.prefix.contains(address)) {
            // An address of another link: the client is to stop using it.
            return association.withdrawn();
        }
        association.refused(Status::NoBinding)
    }

    /// Confirm: whether the addresses are right for this link, whoever has them (RFC 8415 section 18.3.3).
    fn confirm(&self, request: &Request) -> Result<Answer, Refused> {
        let mut addresses = request.associations.iter().flat_map(|association| &association.addresses).peekable();
        if addresses.peek().is_none() {
            return Err(Refused::Nothing);
        }
        let on_link = addresses.all(|address| self.prefix.contains(address));
        Ok(Answer::status(MessageType::Reply, if on_link { Status::Success } else { Status::NotOnLink }))
    }

    /// Release and Decline: the addresses go back. Those that the client does not have are told apart (RFC 8415 sections 18.3.7, 18.3.8).
    fn give_up(
        &mut self,
        request: &Request,
        touched: &mut Touched,
        mut back: impl FnMut(&mut Leases, &Client, Ipv6Addr) -> bool,
    ) -> Answer {
        let mut answer = Answer::status(MessageType::Reply, Status::Success);
        for association in &request.associations {
            let client = Client::of(request, association, MacAddr::default());
            let given = client
                .and_then(|client| association.addresses.iter().copied().find(|address| back(&mut self.leases, &client, *address)));
            match given {
                Some(address) => touched.push(address),
                None => answer.granted.push(association.refused(Status::NoBinding)),
            }
        }
        answer
    }
}

#[cfg(test)]
mod tests;
