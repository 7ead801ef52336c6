//! What we answer ourselves: the zone `slipway.internal`, the hosts file, guests' names, and the reverse of them all.
//!
//! | name | answer |
//! |---|---|
//! | `gateway`, `host`, `dns` in `slipway.internal` | the virtual hosts |
//! | *NAME* in `slipway.internal`, and *NAME* alone | the guest with that DHCP name |
//! | names in the hosts file | as there; an address of the host's loopback becomes the address at which a guest reaches it |
//! | `localhost` and below | the asker itself (RFC 6761 section 6.3) |
//!
//! The zone never goes upstream. `internal` is the top-level domain that ICANN has reserved for private use. The hosts file stands
//! before guests' names, so that no guest can take a name that the host's owner has given.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::hosts::Hosts;
use super::message::with_code;
use super::names::Names;

/// The zone of the virtual hosts and the guests.
const ZONE: &str = "slipway.internal";
/// TTL of what changes with guests, in seconds.
const GUEST_TTL: u32 = 10;
/// TTL of what is fixed for as long as the engine runs, or is read from a file, in seconds.
const FIXED_TTL: u32 = 60;

/// The addresses of the virtual hosts, of either family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalNames {
    /// `gateway.slipway.internal`.
    pub gateway: Vec<IpAddr>,
    /// `host.slipway.internal`: where guests reach the host's loopback address. Empty if they cannot.
    pub host: Vec<IpAddr>,
    /// `dns.slipway.internal`: where guests reach this service.
    pub dns: Vec<IpAddr>,
}

/// Answers without asking anyone.
#[derive(Debug)]
pub(super) struct Local {
    addresses: LocalNames,
    names: Arc<Names>,
}

impl Local {
    pub(super) fn new(addresses: LocalNames, names: Arc<Names>) -> Self {
        Self { addresses, names }
    }

    /// The names of guests.
    pub(super) fn names(&self) -> Vec<(String, IpAddr, Duration)> {
        self.names.list()
    }

    /// The answer to `query`, or `None` if it is not ours to give.
    pub(super) fn answer(&self, hosts: &Hosts, query: &Query) -> Option<Message> {
        let name = query.name().to_lowercase().to_ascii();
        let name = name.trim_end_matches('.');
        if let Some(label) = in_zone(name) {
            return Some(self.zone(label, query));
        }
        if !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
            return None;
        }
        if name == "localhost" || name.ends_with(".localhost") {
            return Some(records(query, &[Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()], FIXED_TTL));
        }
        // What else there may be to know of a name in the hosts file is known upstream; but not its addresses, nor hints of them.
        if let Some(addresses) = hosts.addresses(name)
            && matches!(u16::from(query.query_type()), TYPE_A | TYPE_AAAA | TYPE_SVCB | TYPE_HTTPS | TYPE_ANY)
        {
            return Some(records(query, &self.as_guests_see(addresses), FIXED_TTL));
        }
        if !name.contains('.')
            && let Some(addresses) = self.names.addresses(name)
        {
            return Some(records(query, &addresses, GUEST_TTL));
        }
        self.reverse(hosts, query)
    }

    /// An answer out of the zone. `label` is what stands before its name: nothing for the zone itself.
    fn zone(&self, label: &str, query: &Query) -> Message {
        let (addresses, ttl) = match label {
            "" => (Some(Vec::new()), FIXED_TTL),
            "gateway" => (Some(self.addresses.gateway.clone()), FIXED_TTL),
            "host" => (Some(self.addresses.host.clone()), FIXED_TTL),
            "dns" => (Some(self.addresses.dns.clone()), FIXED_TTL),
            guest => (self.names.addresses(guest), GUEST_TTL),
        };
        let Some(addresses) = addresses else {
            let mut message = authoritative(ResponseCode::NXDomain);
            message.authorities.extend(soa());
            return message;
        };
        let mut message = records(query, &addresses, ttl);
        if label.is_empty() {
            if matches!(query.query_type(), RecordType::SOA | RecordType::ANY) {
                message.answers.extend(soa());
            }
            if matches!(query.query_type(), RecordType::NS | RecordType::ANY) {
                let server = absolute(&format!("dns.{ZONE}")).map(NS);
                message.answers.extend(server.map(|server| Record::from_rdata(query.name().clone(), ttl, RData::NS(server))));
            }
        }
        if message.answers.is_empty() {
            message.authorities.extend(soa());
        }
        message
    }

    /// The name of an address that we know.
    fn reverse(&self, hosts: &Hosts, query: &Query) -> Option<Message> {
        let net = query.name().parse_arpa_name().ok()?;
        if net.prefix_len() != net.max_prefix_len() {
            return None;
        }
        let address = net.addr();
        let virtual_host = [("gateway", &self.addresses.gateway), ("dns", &self.addresses.dns), ("host", &self.addresses.host)]
            .into_iter()
            .find_map(|(label, addresses)| addresses.contains(&address).then_some(label));
        let (name, ttl) = if let Some(label) = virtual_host {
            (format!("{label}.{ZONE}"), FIXED_TTL)
        } else if let Some(guest) = self.names.name(address) {
            (format!("{guest}.{ZONE}"), GUEST_TTL)
        } else if address.is_loopback() {
            ("localhost".to_owned(), FIXED_TTL)
        } else {
            (hosts.name(address)?.to_owned(), FIXED_TTL)
        };
        let mut message = authoritative(ResponseCode::NoError);
        if matches!(query.query_type(), RecordType::PTR | RecordType::ANY) {
            let name = absolute(&name)?;
            message.add_answer(Record::from_rdata(query.name().clone(), ttl, RData::PTR(PTR(name))));
        }
        Some(message)
    }

    /// Addresses of a hosts file from where a guest stands: the host's loopback addresses are not its own.
    fn as_guests_see(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let mut seen: Vec<IpAddr> = addresses.iter().copied().filter(|address| !address.is_loopback()).collect();
        if seen.len() < addresses.len() {
            seen.extend(&self.addresses.host);
        }
        seen
    }
}

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const TYPE_SVCB: u16 = 64;
const TYPE_HTTPS: u16 = 65;
const TYPE_ANY: u16 = 255;

/// What stands before the zone's name in `name`; `None` if `name` is not in the zone.
fn in_zone(name: &str) -> Option<&str> {
    let rest = name.strip_suffix(ZONE)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_suffix('.') }
}

/// Those of `addresses` that `query` asks for.
fn records(query: &Query, addresses: &[IpAddr], ttl: u32) -> Message {
    let mut message = authoritative(ResponseCode::NoError);
    let asked = query.query_type();
    for address in addresses {
        let data = match address {
            IpAddr::V4(address) if matches!(asked, RecordType::A | RecordType::ANY) => RData::A(A(*address)),
            IpAddr::V6(address) if matches!(asked, RecordType::AAAA | RecordType::ANY) => RData::AAAA(AAAA(*address)),
            _ => continue,
        };
        message.add_answer(Record::from_rdata(query.name().clone(), ttl, data));
    }
    message
}

fn authoritative(code: ResponseCode) -> Message {
    let mut message = with_code(code);
    message.metadata.authoritative = true;
    message
}

/// The zone's SOA record, which is also what lets clients remember that a name does not exist (RFC 2308 section 3).
fn soa() -> Option<Record> {
    let (server, owner) = (absolute(&format!("dns.{ZONE}"))?, absolute(&format!("hostmaster.{ZONE}"))?);
    let soa = SOA::new(server, owner, 1, 3600, 600, 86_400, GUEST_TTL);
    Some(Record::from_rdata(absolute(ZONE)?, GUEST_TTL, RData::SOA(soa)))
}

fn absolute(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}
