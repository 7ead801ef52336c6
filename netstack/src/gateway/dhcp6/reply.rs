//! The answers: which options they hold, and what is left out when there is no room.

use std::net::{IpAddr, Ipv6Addr};

use dhcproto::v6::{
    DhcpOption, DhcpOptions, IAAddr, IANA, IAPD, IATA, Message, MessageType, NtpSuboption, OptionCode, Status, StatusCode,
    UnknownOption,
};
use dhcproto::{Encodable, Encoder};

use super::INFINITE;
use super::request::{Kind, Request};
use crate::config::{Config, Ipv6Config};
use crate::time::{Duration, Instant};
use crate::wire::domain_names;

/// The IPv6 and UDP headers.
const IP_AND_UDP: usize = 48;

/// The largest packet that every link takes (RFC 8200 section 5). An answer is never longer, for the server does not know how guests
/// take fragments.
const SMALLEST_MTU: usize = 1280;

/// How the preference of the only server is written (RFC 8415 section 18.2.1): the client looks no further.
const NO_OTHER: u8 = 255;

/// The shortest time after which a guest that asks for information only has to ask again (RFC 8415 section 7.6: IRT_MINIMUM).
const SHORTEST_REFRESH: u32 = 600;

/// The shortest lease there is, in seconds, as with DHCPv4.
const SHORTEST_LEASE: u32 = 4;

/// What becomes of one identity association.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) iaid: u32,
    /// The address, or why there is none. Success is that nothing was wanted.
    pub(super) outcome: Result<Ipv6Addr, Status>,
    /// Addresses that the client must not use any longer.
    pub(super) withdrawn: Vec<Ipv6Addr>,
}

/// Addresses of one association that are withdrawn in one answer.
const WITHDRAWN: usize = 2;

impl Granted {
    /// With the word that of `addresses` only the granted one is good.
    pub(super) fn withdrawing(mut self, addresses: &[Ipv6Addr]) -> Self {
        self.withdrawn = addresses.iter().copied().filter(|address| self.outcome != Ok(*address)).collect();
        self
    }
}

/// What is answered.
#[derive(Debug)]
pub(super) struct Answer {
    kind: MessageType,
    /// Of the message as a whole.
    status: Option<Status>,
    pub(super) granted: Vec<Granted>,
    /// Whether the associations of other kinds are told that there is nothing for them.
    refuses_others: bool,
    /// Whether the guest is told what it asks for beside addresses.
    tells: bool,
}

impl Answer {
    /// Nothing but a status.
    pub(super) const fn status(kind: MessageType, status: Status) -> Self {
        Self { kind, status: Some(status), granted: Vec::new(), refuses_others: false, tells: false }
    }

    /// Addresses, and what is asked for beside them.
    pub(super) const fn granting(kind: MessageType, granted: Vec<Granted>) -> Self {
        Self { kind, status: None, granted, refuses_others: true, tells: true }
    }

    /// What is asked for, without addresses.
    pub(super) const fn parameters() -> Self {
        Self { kind: MessageType::Reply, status: None, granted: Vec::new(), refuses_others: false, tells: true }
    }
}

/// What every client is told the same.
#[derive(Debug)]
pub(super) struct Parameters {
    /// How long an address lasts, in seconds.
    valid: u32,
    /// What goes in when it is asked for, the most important first.
    on_request: Vec<DhcpOption>,
}

impl Parameters {
    pub(super) fn new(config: &Config, ipv6: &Ipv6Config) -> Self {
        let seconds = u32::try_from(config.dhcp.lease_time.as_secs()).unwrap_or(INFINITE);
        let mut on_request = vec![DhcpOption::DomainNameServers(vec![ipv6.dns])];
        on_request.extend(boot_url(config, ipv6).map(|url| raw(OptionCode::OptBootfileUrl, url.into_bytes())));
        if !config.dhcp.search.is_empty() {
            let names = domain_names::encode(config.dhcp.search.iter().map(String::as_str));
            on_request.extend(names.map(|names| raw(OptionCode::DomainSearchList, names)));
        }
        let ntp: Vec<_> = config.dhcp.ntp.iter().filter_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None }).collect();
        if !ntp.is_empty() {
            on_request.push(DhcpOption::NtpServer(ntp.iter().copied().map(NtpSuboption::ServerAddress).collect()));
            on_request.push(raw(OptionCode::SntpServers, ntp.iter().flat_map(Ipv6Addr::octets).collect()));
        }
        Self { valid: seconds.max(SHORTEST_LEASE), on_request }
    }

    /// When a lease that begins now ends.
    pub(super) fn expiry(&self, now: Instant) -> Instant {
        if self.valid == INFINITE { Instant::from_micros(u64::MAX) } else { now + Duration::from_secs(self.valid.into()) }
    }

    /// Appends the answer to `request` to `into`.
    pub(super) fn write(&self, request: &Request, identity: &[u8], answer: &Answer, into: &mut Vec<u8>) {
        let mut options = Vec::new();
        options.extend(request.client.as_ref().map(|client| DhcpOption::ClientId(client.bytes().to_vec())));
        options.push(DhcpOption::ServerId(identity.to_vec()));
        options.extend(answer.status.map(status));
        if answer.kind == MessageType::Advertise {
            options.push(DhcpOption::Preference(NO_OTHER));
        } else if request.kind == Kind::Solicit {
            options.push(DhcpOption::RapidCommit);
        }
        options.extend(answer.granted.iter().map(|granted| self.association(granted)));
        if answer.refuses_others {
            let none = |status_code| DhcpOptions::from_iter([status(status_code)]);
            let temporary = request.temporary.iter().map(|id| IATA { id: *id, opts: none(Status::NoAddrsAvail) });
            options.extend(temporary.map(DhcpOption::IATA));
            let prefixes = request.prefixes.iter().map(|id| IAPD { id: *id, t1: 0, t2: 0, opts: none(Status::NoPrefixAvail) });
            options.extend(prefixes.map(DhcpOption::IAPD));
        }
        if answer.tells {
            let refresh =
                (request.kind == Kind::Inform).then(|| DhcpOption::InformationRefreshTime(self.valid.max(SHORTEST_REFRESH)));
            let asked = |option: &&DhcpOption| request.options.contains(&OptionCode::from(*option).into());
            options.extend(self.on_request.iter().chain(&refresh).filter(asked).cloned());
        }
        if encode(answer.kind, request.xid, options, into).is_none() {
            // Every option was checked: this is out of reach, and half a message would be worse than none.
            into.clear();
        }
    }

    /// An IA_NA option. T1 and T2 are a half and four fifths of the preferred lifetime (RFC 8415 section 21.4), and that is three
    /// quarters of the whole: a guest whose router has gone stops to choose the address before it loses it.
    fn association(&self, granted: &Granted) -> DhcpOption {
        let (preferred, t1, t2) = match self.valid {
            INFINITE => (INFINITE, INFINITE, INFINITE),
            valid => {
                let preferred = valid - valid / 4;
                (preferred, preferred / 2, preferred - preferred / 5)
            }
        };
        let address = |addr, preferred_life, valid_life| {
            DhcpOption::IAAddr(IAAddr { addr, preferred_life, valid_life, opts: DhcpOptions::new() })
        };
        let mut opts: DhcpOptions = granted.withdrawn.iter().take(WITHDRAWN).map(|ip| address(*ip, 0, 0)).collect();
        let (t1, t2) = match granted.outcome {
            Ok(ip) => {
                opts.insert(address(ip, preferred, self.valid));
                (t1, t2)
            }
            Err(Status::Success) => (0, 0),
            Err(why) => {
                opts.insert(status(why));
                (0, 0)
            }
        };
        DhcpOption::IANA(IANA { id: granted.iaid, t1, t2, opts })
    }
}

/// Writes a message. What does not fit is left out whole, the last first.
fn encode(kind: MessageType, xid: [u8; 3], options: Vec<DhcpOption>, into: &mut Vec<u8>) -> Option<()> {
    Message::new_with_id(kind, xid).encode(&mut Encoder::new(into)).ok()?;
    for option in options {
        let bytes = option.to_vec().ok()?;
        if into.len() + bytes.len() <= SMALLEST_MTU - IP_AND_UDP {
            into.extend(bytes);
        }
    }
    Some(())
}

/// A status code, with the words for the log of a client.
fn status(status: Status) -> DhcpOption {
    let msg = match status {
        Status::Success => "done",
        Status::NoAddrsAvail => "no address is free",
        Status::NoBinding => "the address is not leased to you",
        Status::NotOnLink => "the address is not of this link",
        Status::UseMulticast => "send to ff02::1:2",
        Status::NoPrefixAvail => "there are no prefixes here",
        _ => "",
    };
    DhcpOption::StatusCode(StatusCode { status, msg: msg.to_owned() })
}

/// An option as bytes, where the library has no type for it or writes it otherwise than RFC 8415 section 10 wants it.
fn raw(code: OptionCode, data: Vec<u8>) -> DhcpOption {
    DhcpOption::Unknown(UnknownOption::new(code, data))
}

/// Where a guest finds what it boots from (RFC 5970 section 3.1): `bootfile` if that is a URL, else the file of that name on the TFTP
/// server.
fn boot_url(config: &Config, ipv6: &Ipv6Config) -> Option<String> {
    let file = config.dhcp.bootfile.as_deref().filter(|file| !file.is_empty())?;
    if file.contains("://") {
        return Some(file.to_owned());
    }
    let gateway = format!("[{}]", ipv6.gateway);
    let server = match config.dhcp.tftp_server_name.as_deref().filter(|name| !name.is_empty()) {
        None => gateway,
        Some(name) => match name.parse() {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
            // The gateway by its other address: a guest that asks over IPv6 may have no IPv4.
            Ok(IpAddr::V4(ip)) if config.ipv4.as_ref().is_some_and(|ipv4| ipv4.gateway == ip) => gateway,
            _ => name.to_owned(),
        },
    };
    Some(format!("tftp://{server}/{}", file.trim_start_matches('/')))
}
