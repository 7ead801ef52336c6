//! What a client asks, read out of its message and checked.
//!
//! Only the options that the server acts on are read, each once: a second one with the same code that does not continue the first
//! (RFC 3396) is ignored. The lazy reader of `dhcproto` is used because it takes options as bytes; the other one interprets every option
//! that it knows, also those that nobody here needs, and asserts on their lengths.

use std::net::Ipv4Addr;

use dhcproto::v4::borrowed::{DhcpOptionIterator, Message};
use dhcproto::v4::{HType, MAGIC, MessageType, Opcode, OptionCode};

use super::Refused;
use super::leases::ClientId;
use crate::addr::MacAddr;

/// The fixed part of a message, and the magic cookie.
const HEADER: usize = 240;

/// The part of [`HEADER`] that options overflow into when option 52 says so: the `sname` and the `file` field.
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;

/// Every host can take a message of this size, which counts the IP header (RFC 2132 section 9.10).
const SMALLEST_MAX_SIZE: u16 = 576;

/// The longest client identifier that is told apart: what one option holds.
const LONGEST_CLIENT_ID: usize = 255;

/// What kind of message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Discover,
    Request,
    Decline,
    Release,
    Inform,
    /// A message without a type (RFC 1534).
    Bootp,
}

/// A message from a client, checked.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) kind: Kind,
    pub(super) xid: u32,
    /// The flags field as it came; it goes back like that.
    pub(super) flags: u16,
    /// Whether the client can only take answers that are broadcast.
    pub(super) broadcast: bool,
    /// The address that the client has, or 0.0.0.0.
    pub(super) ciaddr: Ipv4Addr,
    /// The relay agent's address, or 0.0.0.0.
    pub(super) giaddr: Ipv4Addr,
    /// The client's hardware address.
    pub(super) mac: MacAddr,
    /// Who the client is.
    pub(super) client: ClientId,
    /// Whether this is boot firmware, which an operating system with other ideas of its identity may follow.
    pub(super) firmware: bool,
    /// Whether it boots over HTTP (UEFI 2.10, section 24.7.2).
    pub(super) http_boot: bool,
    /// Option 50.
    pub(super) requested: Option<Ipv4Addr>,
    /// Option 54.
    pub(super) server: Option<Ipv4Addr>,
    /// Option 51.
    pub(super) lease_seconds: Option<u32>,
    /// Option 55: the codes that the client wants, the most wanted first. Empty when there is no list.
    pub(super) parameters: Vec<u8>,
    /// Option 57: the largest message that the client takes, IP header and all.
    pub(super) max_size: u16,
    /// The host name that the client calls itself (option 12, else option 81), one label in lower case.
    pub(super) hostname: Option<String>,
    /// Option 82, which goes back as it came.
    pub(super) relay_information: Option<Vec<u8>>,
}

impl Request {
    /// Reads a message.
    pub(super) fn parse(message: &[u8]) -> Result<Self, Refused> {
        let header = Message::new(message).map_err(|_| Refused::Malformed)?;
        if header.opcode() != Opcode::BootRequest {
            return Err(Refused::NotARequest);
        }
        // The length first: everything that is taken from the hardware address relies on it.
        if header.htype() != HType::Eth || header.hlen() != 6 {
            return Err(Refused::Hardware);
        }
        let mac = MacAddr(header.chaddr().try_into().map_err(|_| Refused::Hardware)?);
        if !mac.is_unicast() {
            return Err(Refused::Hardware);
        }

        let mut request = Self {
            kind: Kind::Bootp,
            xid: header.xid(),
            flags: header.flags().into(),
            broadcast: header.flags().broadcast(),
            ciaddr: header.ciaddr(),
            giaddr: header.giaddr(),
            mac,
            client: ClientId::Hardware(mac),
            firmware: false,
            http_boot: false,
            requested: None,
            server: None,
            lease_seconds: None,
            parameters: Vec::new(),
            max_size: SMALLEST_MAX_SIZE,
            hostname: None,
            relay_information: None,
        };
        let options = read_options(message)?;
        for (code, data) in &options {
            request.take(*code, data)?;
        }
        request.firmware |= request.kind == Kind::Bootp;
        Ok(request)
    }

    /// Takes one option to heart.
    fn take(&mut self, code: OptionCode, data: &[u8]) -> Result<(), Refused> {
        match code {
            OptionCode::MessageType => {
                let [kind] = fixed(data)?;
                self.kind = match MessageType::from(kind) {
                    MessageType::Discover => Kind::Discover,
                    MessageType::Request => Kind::Request,
                    MessageType::Decline => Kind::Decline,
                    MessageType::Release => Kind::Release,
                    MessageType::Inform => Kind::Inform,
                    _ => return Err(Refused::NotARequest),
                };
            }
            OptionCode::RequestedIpAddress => self.requested = Some(Ipv4Addr::from(fixed::<4>(data)?)),
            OptionCode::ServerIdentifier => self.server = Some(Ipv4Addr::from(fixed::<4>(data)?)),
            OptionCode::AddressLeaseTime => self.lease_seconds = Some(u32::from_be_bytes(fixed(data)?)),
            OptionCode::MaxMessageSize => self.max_size = u16::from_be_bytes(fixed(data)?).max(SMALLEST_MAX_SIZE),
            OptionCode::ParameterRequestList => self.parameters = data.to_vec(),
            OptionCode::ClientIdentifier if data.len() > LONGEST_CLIENT_ID => return Err(Refused::Malformed),
            // A type and at least one byte (RFC 2132 section 9.14); less tells nobody apart.
            OptionCode::ClientIdentifier if data.len() >= 2 => self.client = ClientId::Option(data.into()),
            OptionCode::ClassIdentifier => {
                self.http_boot = data.starts_with(b"HTTPClient");
                self.firmware = self.http_boot || data.starts_with(b"PXEClient");
            }
            OptionCode::Hostname => self.hostname = host_label(data).or_else(|| self.hostname.take()),
            OptionCode::ClientFQDN => self.hostname = self.hostname.take().or_else(|| host_label(fqdn_text(data)?)),
            OptionCode::RelayAgentInformation => self.relay_information = Some(data.to_vec()),
            _ => {}
        }
        Ok(())
    }
}

/// The options that the server knows, each code once, from the options field and, where option 52 says so, from the `file` and `sname`
/// fields after it (RFC 2131 section 4.1).
fn read_options(message: &[u8]) -> Result<Vec<(OptionCode, Vec<u8>)>, Refused> {
    let (header, field) = message.split_at_checked(HEADER).ok_or(Refused::Malformed)?;
    match header.last_chunk::<4>() {
        Some(&MAGIC) => {}
        // BOOTP without vendor information (RFC 951).
        Some([0, 0, 0, 0]) => return Ok(Vec::new()),
        _ => return Err(Refused::Malformed),
    }
    let mut options = Vec::new();
    read_field(field, &mut options)?;
    let overload = match options.iter().find(|(code, _)| *code == OptionCode::OptionOverload) {
        Some((_, data)) => fixed::<1>(data)?[0],
        None => 0,
    };
    for (bit, range) in [(1, FILE), (2, SNAME)] {
        if overload & bit != 0 {
            read_field(header.get(range).unwrap_or_default(), &mut options)?;
        }
    }
    Ok(options)
}

/// Reads one field of options.
fn read_field(field: &[u8], options: &mut Vec<(OptionCode, Vec<u8>)>) -> Result<(), Refused> {
    if !is_well_formed(field) {
        return Err(Refused::Malformed);
    }
    for option in DhcpOptionIterator::new(field) {
        let code = option.code();
        let known = matches!(
            code,
            OptionCode::Hostname
                | OptionCode::RequestedIpAddress
                | OptionCode::AddressLeaseTime
                | OptionCode::OptionOverload
                | OptionCode::MessageType
                | OptionCode::ServerIdentifier
                | OptionCode::ParameterRequestList
                | OptionCode::MaxMessageSize
                | OptionCode::ClassIdentifier
                | OptionCode::ClientIdentifier
                | OptionCode::ClientFQDN
                | OptionCode::RelayAgentInformation
        );
        // At most one of each known code is kept, so the search is short.
        if known && options.iter().all(|(other, _)| *other != code) {
            options.push((code, option.data().to_vec()));
        }
    }
    Ok(())
}

/// Whether every option ends within the field. The reader stops without a word where one does not, and a message whose type it did not
/// come to would pass for BOOTP.
fn is_well_formed(mut field: &[u8]) -> bool {
    loop {
        field = match field {
            [] | [255, ..] => return true,
            [0, rest @ ..] => rest,
            [_, length, rest @ ..] => match rest.get(usize::from(*length)..) {
                Some(rest) => rest,
                None => return false,
            },
            [_] => return false,
        };
    }
}

/// The data of an option that has only one length.
fn fixed<const N: usize>(data: &[u8]) -> Result<[u8; N], Refused> {
    data.try_into().map_err(|_| Refused::Malformed)
}

/// The first label of a host name in lower case, if it is one that DNS could answer: letters, digits and hyphens, neither first nor last
/// a hyphen, at most 63 of them (RFC 1123 section 2.1).
pub(in crate::gateway) fn host_label(name: &[u8]) -> Option<String> {
    // Some clients count a terminating zero (RFC 2132 section 2 allows for it).
    let name = name.split(|&byte| byte == 0).next()?;
    let label = name.split(|&byte| byte == b'.').next()?;
    let sound = matches!(label.len(), 1..=63)
        && label.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
        && !label.starts_with(b"-")
        && !label.ends_with(b"-");
    sound.then(|| label.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect())
}

/// The beginning of the name in a client FQDN option, as text: its first label (RFC 4702 section 2).
fn fqdn_text(data: &[u8]) -> Option<&[u8]> {
    const IN_WIRE_FORMAT: u8 = 0x04;
    let [flags, _rcode1, _rcode2, name @ ..] = data else { return None };
    if flags & IN_WIRE_FORMAT == 0 {
        return Some(name);
    }
    let (length, rest) = name.split_first()?;
    rest.get(..usize::from(*length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_one_sound_label_in_lower_case() {
        for (name, label) in [
            ("Web-1", Some("web-1")),
            ("web.example.org", Some("web")),
            ("web\0", Some("web")),
            ("", None),
            (".org", None),
            ("-web", None),
            ("web-", None),
            ("we b", None),
            ("wéb", None),
        ] {
            assert_eq!(host_label(name.as_bytes()).as_deref(), label, "{name:?}");
        }
        assert!(host_label(&[b'a'; 63]).is_some());
        assert_eq!(host_label(&[b'a'; 64]), None);
    }

    #[test]
    fn a_client_fqdn_is_read_in_both_its_forms() {
        assert_eq!(fqdn_text(b"\x00\x00\x00web.lan"), Some(&b"web.lan"[..]));
        assert_eq!(fqdn_text(b"\x04\x00\x00\x03web\x03lan\x00"), Some(&b"web"[..]));
        assert_eq!(fqdn_text(b"\x04\x00\x00\x09web"), None);
        assert_eq!(fqdn_text(b"\x04\x00\x00"), None);
        assert_eq!(fqdn_text(b"\x04"), None);
    }

    #[test]
    fn options_must_end_within_their_field() {
        for field in [&b""[..], b"\xff", b"\0\0\0", b"\x35\x01\x01", b"\x35\x01\x01\xff\x32\xff", b"\x0c\x00\xff"] {
            assert!(is_well_formed(field), "{field:?}");
        }
        for field in [&b"\x35"[..], b"\x35\x01", b"\x0c\x05abc", b"\x35\x01\x01\x32\x04\x0a\x00"] {
            assert!(!is_well_formed(field), "{field:?}");
        }
    }
}
