//! The guest as a DHCPv6 client (RFC 8415), message by message.

use std::net::{Ipv6Addr, SocketAddr};

use dhcproto::v6::{DhcpOption, DhcpOptions, IAAddr, IANA, Message, MessageType, ORO, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable};

use super::frame::{Datagram, Mac, card_of, card_of_group};
use super::guest::{Goes, Guest};
use super::transcript::{Fields, data};

/// All DHCPv6 servers of the link.
pub const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// The guest's address on the link itself.
pub const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0x00ff, 0xfe12, 0x3456);

/// A client on a card.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its card.
    pub card: Mac,
    /// The transaction of the next message.
    pub transaction: u32,
    /// Its unique identifier.
    pub identity: Vec<u8>,
    /// The server's, once it is known.
    pub server: Option<Vec<u8>>,
}

impl Client {
    /// The one on the guest's own card.
    pub fn new(guest: &Guest<'_>) -> Self {
        Self::with_identity(guest.card, &[0, 3, 0, 1])
    }

    /// Another one on the same card.
    pub fn other(guest: &Guest<'_>) -> Self {
        Self::with_identity(guest.card, &[0, 2, 0, 0, 0x7e, 0xd9])
    }

    fn with_identity(card: Mac, kind: &[u8]) -> Self {
        Self { card, transaction: 0x005a_fe01, identity: [kind, &card].concat(), server: None }
    }

    /// A message of this type, with who the client is, and for which server it is if it is for one.
    pub fn message(&self, kind: MessageType, options: impl IntoIterator<Item = DhcpOption>) -> Message {
        let mut message = Message::new(kind);
        message.set_xid_num(self.transaction);
        message.opts_mut().insert(DhcpOption::ClientId(self.identity.clone()));
        if matches!(kind, MessageType::Request | MessageType::Renew | MessageType::Release | MessageType::Decline) {
            message.opts_mut().insert(DhcpOption::ServerId(self.server.clone().unwrap_or_default()));
        }
        for option in options {
            message.opts_mut().insert(option);
        }
        message
    }

    /// Sends a message to all servers.
    pub fn say(&self, guest: &mut Guest<'_>, kind: MessageType, options: impl IntoIterator<Item = DhcpOption>) {
        let message = self.message(kind, options);
        self.say_bytes(guest, SERVERS, &message.to_vec().expect("a message that can be encoded"));
    }

    /// Sends bytes to a group or to the gateway.
    pub fn say_bytes(&self, guest: &mut Guest<'_>, to: Ipv6Addr, payload: &[u8]) {
        let source = SocketAddr::from((LINK_LOCAL, 546));
        let card = if to.is_multicast() { card_of_group(to) } else { card_of(to.into()) };
        guest.send(&Datagram { source, destination: (to, 547).into(), payload: payload.to_vec() }.frame(self.card, card));
    }

    /// Waits for the answer to the last message, and takes it down.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn hear(&mut self, guest: &mut Guest<'_>, what: &str) -> Goes<Message> {
        let datagram = guest.datagram_to(what, 546)?;
        let Ok(message) = Message::decode(&mut Decoder::new(&datagram.payload)) else { return Err(guest.missing(what)) };
        let mut fields = Fields::of_dhcp6(&message);
        fields.set("for this transaction", message.xid_num() == self.transaction);
        self.transaction += 1;
        fields.set("from", datagram.source);
        fields.set("to", datagram.destination);
        guest.note(what, fields);
        if let Some(DhcpOption::ServerId(server)) = message.opts().get(OptionCode::ServerId) {
            self.server = Some(server.clone());
        }
        Ok(message)
    }

    /// Solicits an address and takes the one that is advertised.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub fn lease(&mut self, guest: &mut Guest<'_>) -> Goes<Ipv6Addr> {
        self.say(guest, MessageType::Solicit, [association(1, &[]), asks_for(LINUX)]);
        let offer = self.hear(guest, "DHCPv6 Advertise")?;
        let Some(address) = address_in(&offer) else { return Err(guest.missing("an address")) };
        self.say(guest, MessageType::Request, [association(1, &[address]), asks_for(LINUX)]);
        self.hear(guest, "DHCPv6 Reply")?;
        Ok(address)
    }
}

/// What a Linux client asks for.
pub const LINUX: &[OptionCode] =
    &[OptionCode::DomainNameServers, OptionCode::DomainSearchList, OptionCode::SntpServers, OptionCode::NtpServer];

/// The option that says what is wanted (6).
pub fn asks_for(codes: &[OptionCode]) -> DhcpOption {
    DhcpOption::ORO(ORO { opts: codes.to_vec() })
}

/// An association for addresses, with those that it has or wishes for.
pub fn association(id: u32, addresses: &[Ipv6Addr]) -> DhcpOption {
    let address =
        |addr: &Ipv6Addr| DhcpOption::IAAddr(IAAddr { addr: *addr, preferred_life: 0, valid_life: 0, opts: DhcpOptions::new() });
    DhcpOption::IANA(IANA { id, t1: 0, t2: 0, opts: addresses.iter().map(address).collect() })
}

/// The first address of the first association.
pub fn address_in(message: &Message) -> Option<Ipv6Addr> {
    let Some(DhcpOption::IANA(association)) = message.opts().get(OptionCode::IANA) else { return None };
    match association.opts.get(OptionCode::IAAddr) {
        Some(DhcpOption::IAAddr(address)) => Some(address.addr),
        _ => None,
    }
}

impl Fields {
    /// Those of a DHCPv6 message: its type, and each option by its number.
    pub fn of_dhcp6(message: &Message) -> Self {
        let mut fields = Self::one("told", format!("{:?}", message.msg_type()));
        for option in message.opts().iter() {
            let code = u16::from(OptionCode::from(option));
            let text = match option {
                DhcpOption::ClientId(bytes) | DhcpOption::ServerId(bytes) => data(bytes),
                DhcpOption::Unknown(unknown) => data(unknown.data()),
                option => format!("{option:?}").replace('"', "`"),
            };
            fields.set(&format!("option {code}"), text);
        }
        fields
    }
}
