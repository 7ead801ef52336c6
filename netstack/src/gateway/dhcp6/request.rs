//! What a client asks, read out of its message and checked.
//!
//! Only the options that the server acts on are read, by the primitives of `dhcproto`. Its reader of whole messages is not for the
//! bytes of a guest: it takes the length of an authentication option on trust, and follows options within options as deep as they go.

use std::net::Ipv6Addr;

use dhcproto::Decoder;
use dhcproto::v6::{MessageType, OptionCode, Status};

use super::Refused;
use super::leases::Duid;
use super::reply::Granted;
use crate::gateway::dhcp::host_label;

/// Identity associations of each kind that one message is answered for. The others are not mentioned in the answer, which has to fit a
/// packet; a client asks for what it did not get (RFC 8415 section 18.2.10.1).
const ASSOCIATIONS: usize = 8;

/// Addresses in an association that are looked at.
const ADDRESSES: usize = 8;

/// Codes in an option request option that are looked at.
const REQUESTED: usize = 128;

/// What kind of message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Solicit,
    Request,
    Confirm,
    Renew,
    Rebind,
    Release,
    Decline,
    Inform,
}

impl Kind {
    /// Whether it is for the server that it names.
    pub(super) const fn is_for_one_server(self) -> bool {
        matches!(self, Self::Request | Self::Renew | Self::Release | Self::Decline)
    }
}

/// An identity association for non-temporary addresses (IA_NA).
#[derive(Debug)]
pub(super) struct Association {
    pub(super) iaid: u32,
    /// The addresses that the client names in it.
    pub(super) addresses: Vec<Ipv6Addr>,
}

impl Association {
    pub(super) const fn granted(&self, address: Ipv6Addr) -> Granted {
        Granted { iaid: self.iaid, outcome: Ok(address), withdrawn: Vec::new() }
    }

    pub(super) const fn refused(&self, status: Status) -> Granted {
        Granted { iaid: self.iaid, outcome: Err(status), withdrawn: Vec::new() }
    }

    /// None of its addresses may be used any longer.
    pub(super) fn withdrawn(&self) -> Granted {
        Granted { iaid: self.iaid, outcome: Err(Status::Success), withdrawn: self.addresses.clone() }
    }
}

/// A message from a client, checked.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) kind: Kind,
    pub(super) xid: [u8; 3],
    /// Who the client is. Only an Information-request may keep it back.
    pub(super) client: Option<Duid>,
    /// The server that it has chosen.
    pub(super) server: Option<Vec<u8>>,
    pub(super) rapid_commit: bool,
    pub(super) associations: Vec<Association>,
    /// The identities of associations for temporary addresses (IA_TA).
    pub(super) temporary: Vec<u32>,
    /// The identities of associations for prefixes (IA_PD).
    pub(super) prefixes: Vec<u32>,
    /// The codes that the client asks for.
    pub(super) options: Vec<u16>,
    /// The host name that the client calls itself (option 39), one label in lower case.
    pub(super) hostname: Option<String>,
    /// Whether this is boot firmware (option 61, RFC 5970 section 3.3), which an operating system with another identity may follow.
    pub(super) firmware: bool,
}

impl Request {
    /// Reads a message.
    pub(super) fn parse(message: &[u8]) -> Result<Self, Refused> {
        let mut decoder = Decoder::new(message);
        let kind = decoder.read_u8().map_err(malformed)?;
        let xid = decoder.read().map_err(malformed)?;
        let kind = match MessageType::from(kind) {
            MessageType::Solicit => Kind::Solicit,
            MessageType::Request => Kind::Request,
            MessageType::Confirm => Kind::Confirm,
            MessageType::Renew => Kind::Renew,
            MessageType::Rebind => Kind::Rebind,
            MessageType::Release => Kind::Release,
            MessageType::Decline => Kind::Decline,
            MessageType::InformationRequest => Kind::Inform,
            _ => return Err(Refused::NotARequest),
        };
        let mut request = Self {
            kind,
            xid,
            client: None,
            server: None,
            rapid_commit: false,
            associations: Vec::new(),
            temporary: Vec::new(),
            prefixes: Vec::new(),
            options: Vec::new(),
            hostname: None,
            firmware: false,
        };
        each_option(decoder, |code, data| request.take(code, data))?;
        Ok(request)
    }

    /// Takes one option to heart. A second one of those that a message has only once is ignored.
    fn take(&mut self, code: OptionCode, data: &[u8]) -> Result<(), Refused> {
        match code {
            OptionCode::ClientId if self.client.is_none() => self.client = Some(Duid::new(data).ok_or(Refused::Malformed)?),
            OptionCode::ServerId if self.server.is_none() => self.server = Some(data.to_vec()),
            OptionCode::RapidCommit => self.rapid_commit = true,
            OptionCode::IANA => {
                let association = association(data)?;
                let known = self.associations.iter().any(|other| other.iaid == association.iaid);
                if !known && self.associations.len() < ASSOCIATIONS {
                    self.associations.push(association);
                }
            }
            OptionCode::IATA => note(&mut self.temporary, data)?,
            OptionCode::IAPD => note(&mut self.prefixes, data)?,
            OptionCode::ORO => {
                let codes = data.chunks_exact(2).map(|code| u16::from_be_bytes([code[0], code[1]]));
                self.options = codes.take(REQUESTED).collect();
            }
            OptionCode::ClientFqdn => self.hostname = fqdn_label(data).and_then(host_label),
            OptionCode::ClientArchType => self.firmware = true,
            _ => {}
        }
        Ok(())
    }

    /// Whether it has the options that a message of its kind must have, and no others that it must not (RFC 8415 section 16).
    pub(super) fn validate(&self, identity: &[u8]) -> Result<(), Refused> {
        let has_client = self.client.is_some();
        let valid = match self.kind {
            Kind::Solicit | Kind::Confirm | Kind::Rebind => has_client && self.server.is_none(),
            Kind::Request | Kind::Renew | Kind::Release | Kind::Decline => has_client && self.server.is_some(),
            Kind::Inform => self.associations.is_empty() && self.temporary.is_empty() && self.prefixes.is_empty(),
        };
        match &self.server {
            _ if !valid => Err(Refused::Invalid),
            Some(server) if server != identity => Err(Refused::OtherServer),
            _ => Ok(()),
        }
    }
}

/// Goes through the options of a message or of an option.
fn each_option(mut decoder: Decoder<'_>, mut take: impl FnMut(OptionCode, &[u8]) -> Result<(), Refused>) -> Result<(), Refused> {
    while !decoder.buffer().is_empty() {
        let code = decoder.read_u16().map_err(malformed)?;
        let len = decoder.read_u16().map_err(malformed)?;
        let data = decoder.read_slice(len.into()).map_err(malformed)?;
        take(OptionCode::from(code), data)?;
    }
    Ok(())
}

/// An IA_NA option (RFC 8415 section 21.4).
fn association(data: &[u8]) -> Result<Association, Refused> {
    let mut decoder = Decoder::new(data);
    let iaid = decoder.read_u32().map_err(malformed)?;
    // What the client thinks of T1 and T2.
    let _ = decoder.read::<8>().map_err(malformed)?;
    let mut addresses = Vec::new();
    each_option(decoder, |code, data| {
        if code == OptionCode::IAAddr {
            let (octets, _lifetimes_and_options) = data.split_first_chunk::<16>().ok_or(Refused::Malformed)?;
            let address = Ipv6Addr::from(*octets);
            if addresses.len() < ADDRESSES && !address.is_unspecified() {
                addresses.push(address);
            }
        }
        Ok(())
    })?;
    Ok(Association { iaid, addresses })
}

/// Keeps the identity of an IA_TA or IA_PD option.
fn note(identities: &mut Vec<u32>, data: &[u8]) -> Result<(), Refused> {
    let iaid = Decoder::new(data).read_u32().map_err(malformed)?;
    if !identities.contains(&iaid) && identities.len() < ASSOCIATIONS {
        identities.push(iaid);
    }
    Ok(())
}

/// The first label of the name in a client FQDN option (RFC 4704 section 4), which is in DNS's encoding and may be a part of a name.
fn fqdn_label(data: &[u8]) -> Option<&[u8]> {
    let [_flags, len, name @ ..] = data else { return None };
    name.get(..usize::from(*len))
}

fn malformed(_: dhcproto::error::DecodeError) -> Refused {
    Refused::Malformed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_must_end_within_the_message_and_within_each_other() {
        for (message, why) in [
            (&b""[..], Refused::Malformed),
            (b"\x01\0\0", Refused::Malformed),
            (b"\x01\0\0\0\0", Refused::Malformed),
            (b"\x01\0\0\0\0\x01\0\x05abcd", Refused::Malformed),
            // An IA_NA of 11 bytes, and one with an address of 15.
            (b"\x01\0\0\0\0\x03\0\x0b\0\0\0\0\0\0\0\0\0\0\0", Refused::Malformed),
            (b"\x01\0\0\0\0\x03\0\x1f\0\0\0\0\0\0\0\0\0\0\0\0\0\x05\0\x0f\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", Refused::Malformed),
            // Advertise, Reply, Relay-forward, and what nobody knows.
            (b"\x02\0\0\0", Refused::NotARequest),
            (b"\x07\0\0\0", Refused::NotARequest),
            (b"\x0c\0\0\0", Refused::NotARequest),
            (b"\xff\0\0\0", Refused::NotARequest),
        ] {
            assert_eq!(Request::parse(message).unwrap_err(), why, "{message:x?}");
        }
        assert!(Request::parse(b"\x0b\0\0\x01").is_ok());
    }

    #[test]
    fn a_name_is_the_first_label_of_what_the_client_says() {
        assert_eq!(fqdn_label(b"\x00\x03web\x03lan\x00"), Some(&b"web"[..]));
        assert_eq!(fqdn_label(b"\x00\x03web"), Some(&b"web"[..]));
        assert_eq!(fqdn_label(b"\x00\x09web"), None);
        assert_eq!(fqdn_label(b"\x00"), None);
    }
}
