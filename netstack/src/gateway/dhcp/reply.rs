//! The answers: which options they hold, in which order, and what is left out when there is no room.
//!
//! Options that are the same for every client are encoded once. An answer takes from them what the client asks for, the most important
//! first, as long as it fits; an option is left out whole, never cut. On the wire they are in the order of the client's own list
//! (RFC 2132 section 9.8).

use std::net::{IpAddr, Ipv4Addr};

use dhcproto::v4::{
    DhcpOption, Encodable, Encoder, HType, MIN_PACKET_SIZE, Message, MessageType, Opcode, OptionCode, UnknownOption,
};
use hickory_proto::rr::Name;
use ipnet::Ipv4Net;

use super::INFINITE;
use super::request::{Kind, Request};
use crate::config::{Config, Ipv4Config};

/// The IP and UDP headers, which the size that a client gives in option 57 includes.
const IP_AND_UDP: usize = 28;

/// The end mark.
const END: u8 = 255;

/// A `file` field holds so many bytes and a zero.
const LONGEST_FILE: usize = 127;

/// Option 121 as Windows up to XP asks for it.
const MICROSOFT_ROUTES: u8 = 249;

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    /// DHCPOFFER or DHCPACK of an address.
    Lease { kind: MessageType, address: Ipv4Addr, seconds: u32 },
    /// DHCPACK to DHCPINFORM.
    Parameters,
    /// An answer to BOOTP.
    Bootp { address: Ipv4Addr },
    /// DHCPNAK.
    Nak,
}

/// An option as it stands in a message.
#[derive(Debug, Clone)]
struct Encoded {
    code: u8,
    bytes: Vec<u8>,
}

impl Encoded {
    fn new(option: &DhcpOption) -> Option<Self> {
        let bytes = option.to_vec().ok().filter(|bytes| !bytes.is_empty())?;
        Some(Self { code: OptionCode::from(option).into(), bytes })
    }
}

/// What every client is told the same.
#[derive(Debug)]
pub(super) struct Parameters {
    gateway: Ipv4Addr,
    /// The next server to boot from, for `siaddr`.
    next_server: Ipv4Addr,
    /// For the `file` field.
    file: Option<Vec<u8>>,
    /// What goes into an answer whether it is asked for or not.
    always: Vec<Encoded>,
    /// What goes in when it is asked for, the most important first.
    on_request: Vec<Encoded>,
    /// The class that a client which boots over HTTP must be answered with (UEFI 2.10, section 24.7.2).
    http_class: Option<Encoded>,
    /// The largest IP packet of the link.
    mtu: u16,
}

impl Parameters {
    pub(super) fn new(config: &Config, ipv4: &Ipv4Config) -> Self {
        let dhcp = &config.dhcp;
        let mut always = vec![DhcpOption::SubnetMask(ipv4.net.netmask())];
        if !config.restrict {
            always.extend([DhcpOption::Router(vec![ipv4.gateway]), DhcpOption::DomainNameServer(vec![ipv4.dns])]);
        }

        let mut on_request = Vec::new();
        if !dhcp.routes.is_empty() {
            // A client that takes option 121 ignores option 3 (RFC 3442), so the default route has to be among the routes.
            let default = (Ipv4Net::default(), ipv4.gateway);
            let routes: Vec<_> = dhcp.routes.iter().copied().chain((!config.restrict).then_some(default)).collect();
            let routes = DhcpOption::ClasslessStaticRoute(routes);
            on_request.extend(encoded_as(MICROSOFT_ROUTES, &routes));
            on_request.insert(0, routes);
        }
        on_request.push(DhcpOption::InterfaceMtu(config.mtu));
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let bootfile = text(&dhcp.bootfile);
        on_request.extend(bootfile.clone().map(|file| DhcpOption::BootfileName(file.into_bytes())));
        // Some firmware looks for its server here, and not in `siaddr`.
        let own_server = config.boot.tftp_root.is_some().then(|| ipv4.gateway.to_string());
        on_request.extend(text(&dhcp.tftp_server_name).or(own_server).map(|name| DhcpOption::TFTPServerName(name.into_bytes())));
        on_request.extend(text(&dhcp.domain_name).map(DhcpOption::DomainName));
        on_request.extend(text(&dhcp.hostname).map(DhcpOption::Hostname));
        on_request.push(DhcpOption::BroadcastAddr(ipv4.net.broadcast()));
        let ntp: Vec<_> = dhcp.ntp.iter().filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None }).collect();
        if !ntp.is_empty() {
            on_request.push(DhcpOption::NtpServers(ntp));
        }
        let search: Vec<_> = dhcp.search.iter().filter_map(|domain| Name::from_ascii(domain).ok()).collect();
        if !search.is_empty() {
            on_request.push(DhcpOption::DomainSearch(search));
        }

        let http = bootfile.as_ref().is_some_and(|file| file.starts_with("http://") || file.starts_with("https://"));
        let http_class = http.then(|| DhcpOption::ClassIdentifier(b"HTTPClient".to_vec()));
        let named_server = dhcp.tftp_server_name.as_ref().and_then(|name| name.parse().ok());
        let boots = bootfile.is_some() || config.boot.tftp_root.is_some();
        Self {
            gateway: ipv4.gateway,
            // Without anything to boot there is no server to boot from, and firmware need not look for one.
            next_server: named_server.or_else(|| boots.then_some(ipv4.gateway)).unwrap_or(Ipv4Addr::UNSPECIFIED),
            file: bootfile.map(String::into_bytes).filter(|file| file.len() <= LONGEST_FILE),
            always: always.iter().filter_map(Encoded::new).collect(),
            on_request: on_request.iter().filter_map(Encoded::new).collect(),
            http_class: http_class.as_ref().and_then(Encoded::new),
            mtu: config.mtu,
        }
    }

    /// Appends the answer to `request` to `into`.
    pub(super) fn write(&self, request: &Request, reply: &Reply, into: &mut Vec<u8>) {
        if self.header(request, reply).encode(&mut Encoder::new(into)).is_err() {
            // Every field was checked: this is out of reach, and half a message would be worse than none.
            into.clear();
            return;
        }
        let room = largest(request, self.mtu).saturating_sub(into.len() + 1);
        for option in self.options(request, reply, room) {
            into.extend_from_slice(&option.bytes);
        }
        into.push(END);
        if into.len() < MIN_PACKET_SIZE {
            // The least that BOOTP clients and relay agents take (RFC 1542 section 2.1).
            into.resize(MIN_PACKET_SIZE, 0);
        }
    }

    /// RFC 2131 table 3, without the options.
    fn header(&self, request: &Request, reply: &Reply) -> Message {
        let none = Ipv4Addr::UNSPECIFIED;
        let (ciaddr, yiaddr) = match *reply {
            Reply::Lease { kind: MessageType::Ack, address, .. } | Reply::Bootp { address } => (request.ciaddr, address),
            Reply::Lease { address, .. } => (none, address),
            Reply::Parameters => (request.ciaddr, none),
            Reply::Nak => (none, none),
        };
        let siaddr = if *reply == Reply::Nak { none } else { self.next_server };
        // A relay agent is to broadcast a DHCPNAK (RFC 2131 section 4.3.2).
        let relayed_nak = *reply == Reply::Nak && !request.giaddr.is_unspecified();
        let flags = if relayed_nak { request.flags | 0x8000 } else { request.flags };
        let mut message = Message::new_with_id(request.xid, ciaddr, yiaddr, siaddr, request.giaddr, &request.mac.0);
        message.set_opcode(Opcode::BootReply).set_htype(HType::Eth).set_flags(flags.into());
        if let Some(file) = self.file.as_ref().filter(|_| *reply != Reply::Nak) {
            message.set_fname(file);
        }
        message
    }

    /// The options of an answer, which together have at most `room` bytes, in the order in which they are sent.
    fn options(&self, request: &Request, reply: &Reply, mut room: usize) -> Vec<Encoded> {
        let mut chosen = Vec::new();
        let mut add = |option: Encoded| {
            if let Some(left) = room.checked_sub(option.bytes.len()) {
                room = left;
                chosen.push(option);
            }
        };
        own_options(self.gateway, request, reply).iter().filter_map(Encoded::new).for_each(&mut add);
        if *reply != Reply::Nak {
            self.always.iter().cloned().for_each(&mut add);
            if request.http_boot {
                self.http_class.iter().cloned().for_each(&mut add);
            }
        }
        // Both go back as they came (RFC 3046 section 2.2, RFC 6842), and a message without them is of use all the same.
        let relay_code = u8::from(OptionCode::RelayAgentInformation);
        request.relay_information.iter().filter_map(|data| verbatim(relay_code, data)).for_each(&mut add);
        if request.kind != Kind::Bootp {
            client_id(request).iter().filter_map(Encoded::new).for_each(&mut add);
        }
        if *reply != Reply::Nak {
            let list = if request.parameters.is_empty() { default_list(request.kind) } else { &request.parameters };
            self.on_request.iter().filter(|option| list.contains(&option.code)).cloned().for_each(&mut add);
            timers(request, reply).iter().filter_map(Encoded::new).for_each(&mut add);
        }

        chosen.sort_by_key(|option| rank(option.code, &request.parameters));
        chosen
    }
}

/// What is asked for by a client that sends no list: what the users of QEMU's network are told, and the name of the boot file for
/// clients that look nowhere else. BOOTP has 64 bytes for everything (RFC 1534 section 2) and the boot file in its own field.
const fn default_list(kind: Kind) -> &'static [u8] {
    match kind {
        Kind::Bootp => &[12, 15],
        _ => &[12, 15, 66, 67, 119],
    }
}

/// The options that make the message what it is.
fn own_options(gateway: Ipv4Addr, request: &Request, reply: &Reply) -> Vec<DhcpOption> {
    let server = DhcpOption::ServerIdentifier(gateway);
    match *reply {
        Reply::Lease { kind, seconds, .. } => vec![DhcpOption::MessageType(kind), server, DhcpOption::AddressLeaseTime(seconds)],
        Reply::Parameters => vec![DhcpOption::MessageType(MessageType::Ack), server],
        Reply::Bootp { .. } => Vec::new(),
        Reply::Nak => {
            let asked = request.requested.unwrap_or(request.ciaddr);
            vec![DhcpOption::MessageType(MessageType::Nak), server, DhcpOption::Message(format!("{asked} is not available to you"))]
        }
    }
}

/// When to renew and to rebind, for clients that ask: after half and seven eighths of the time, as those that do not ask take it to be
/// (RFC 2131 section 4.4.5).
fn timers(request: &Request, reply: &Reply) -> Vec<DhcpOption> {
    let Reply::Lease { seconds, .. } = *reply else { return Vec::new() };
    let (t1, t2) = if seconds == INFINITE { (INFINITE, INFINITE) } else { (seconds / 2, seconds - seconds / 8) };
    let timers = [(58, DhcpOption::Renewal(t1)), (59, DhcpOption::Rebinding(t2))];
    timers.into_iter().filter(|(code, _)| request.parameters.contains(code)).map(|(_, option)| option).collect()
}

/// The client identifier that the client sent, if it sent one.
fn client_id(request: &Request) -> Option<DhcpOption> {
    match &request.client {
        super::ClientId::Option(id) => Some(DhcpOption::ClientIdentifier(id.to_vec())),
        super::ClientId::Hardware(_) => None,
    }
}

/// Where an option stands: what makes the message what it is first, the mask before the router (RFC 2132 section 3.3), then in the
/// client's own order, and the relay agent's information last (RFC 3046 section 2.1).
fn rank(code: u8, list: &[u8]) -> (u8, usize) {
    let place = list.iter().position(|&wanted| wanted == code);
    match (code, place) {
        (53, _) => (0, 0),
        (54, _) => (0, 1),
        (51, _) => (0, 2),
        (1, _) => (0, 3),
        (82, _) => (3, 0),
        (_, Some(place)) => (1, place),
        (_, None) => (2, 0),
    }
}

/// The largest UDP payload that the client takes.
fn largest(request: &Request, mtu: u16) -> usize {
    match request.kind {
        Kind::Bootp => MIN_PACKET_SIZE,
        // Every host takes 576 bytes, in fragments where the link is narrower still.
        _ => usize::from(request.max_size.min(mtu.max(576))) - IP_AND_UDP,
    }
}

/// An option with the data of `option` under another code.
fn encoded_as(code: u8, option: &DhcpOption) -> Option<DhcpOption> {
    let bytes = option.to_vec().ok()?;
    // Options of more than 255 bytes are in several pieces, each with a header: better left to the code that has them.
    let (_, data) = bytes.split_at_checked(2).filter(|(_, data)| data.len() <= 255)?;
    Some(DhcpOption::Unknown(UnknownOption::new(OptionCode::Unknown(code), data.to_vec())))
}

/// An option that goes back as it came.
fn verbatim(code: u8, data: &[u8]) -> Option<Encoded> {
    Encoded::new(&DhcpOption::Unknown(UnknownOption::new(OptionCode::Unknown(code), data.to_vec())))
        .map(|option| Encoded { code, ..option })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_stand_in_the_order_of_the_list_with_the_mask_first_and_the_relay_last() {
        let list = [6, 3, 1, 15];
        let mut codes = [82, 15, 12, 1, 3, 6, 51, 54, 53];
        codes.sort_by_key(|&code| rank(code, &list));
        assert_eq!(codes, [53, 54, 51, 1, 6, 3, 15, 12, 82]);
    }
}
