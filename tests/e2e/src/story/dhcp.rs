//! The guest as a DHCP client (RFC 2131), message by message.

use std::net::{Ipv4Addr, SocketAddr};

use dhcproto::v4::{DhcpOption, Flags, HType, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable};

use super::frame::{BROADCAST, Datagram, Mac};
use super::guest::{GATEWAY, Goes, Guest};
use super::transcript::{Fields, data};

/// What a Linux client asks for.
pub const LINUX: &[u8] = &[1, 28, 2, 3, 15, 6, 119, 12, 44, 47, 26, 121, 42];

/// A client on a card.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its card.
    pub card: Mac,
    /// The transaction of the next message.
    pub transaction: u32,
    /// What it says with every message.
    pub options: Vec<DhcpOption>,
}

impl Client {
    /// The one on the guest's own card, which asks for what a Linux client asks for.
    pub fn new(guest: &Guest<'_>) -> Self {
        Self { card: guest.card, transaction: 0x5afe_0001, options: vec![asks_for(LINUX)] }
    }

    /// Another one, on a card of its own.
    pub fn other(number: u8) -> Self {
        Self {
            card: [0x52, 0x54, 0, 0, 0, number],
            transaction: 0x5afe_0000 | u32::from(number) << 8,
            options: vec![asks_for(LINUX)],
        }
    }

    /// Says this too with every message.
    #[must_use]
    pub fn with(mut self, option: DhcpOption) -> Self {
        self.options.retain(|other| OptionCode::from(other) != OptionCode::from(&option));
        self.options.push(option);
        self
    }

    /// A message of this type.
    pub fn message(&self, kind: MessageType, options: impl IntoIterator<Item = DhcpOption>) -> Message {
        let mut message = self.bare();
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        for option in self.options.iter().cloned().chain(options) {
            message.opts_mut().insert(option);
        }
        message
    }

    /// A message without options, as of BOOTP.
    pub fn bare(&self) -> Message {
        let mut message = Message::default();
        message.set_opcode(Opcode::BootRequest).set_htype(HType::Eth).set_xid(self.transaction).set_chaddr(&self.card);
        message
    }

    /// Sends a message to everybody, from no address.
    pub fn say(&self, guest: &mut Guest<'_>, message: &Message) {
        self.say_bytes(guest, &message.to_vec().expect("a message that can be encoded"));
    }

    /// Likewise, whatever the bytes are.
    pub fn say_bytes(&self, guest: &mut Guest<'_>, payload: &[u8]) {
        let source = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 68));
        let destination = SocketAddr::from((Ipv4Addr::BROADCAST, 67));
        let frame = Datagram { source, destination, payload: payload.to_vec() }.frame(self.card, BROADCAST);
        guest.send(&frame);
    }

    /// Sends a message to the server, or to everybody, from an address that the client has.
    pub fn say_from(&self, guest: &mut Guest<'_>, from: Ipv4Addr, to: Ipv4Addr, message: &Message) {
        let payload = message.to_vec().expect("a message that can be encoded");
        let card = if to == Ipv4Addr::BROADCAST { BROADCAST } else { guest.router(false) };
        let datagram = Datagram { source: (from, 68).into(), destination: (to, 67).into(), payload };
        guest.send(&datagram.frame(self.card, card));
    }

    /// Waits for the answer to the last message, and takes it down.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn hear(&mut self, guest: &mut Guest<'_>, what: &str) -> Goes<Message> {
        self.hear_at(guest, what, 68)
    }

    /// Waits for the answer at another port.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn hear_at(&mut self, guest: &mut Guest<'_>, what: &str, port: u16) -> Goes<Message> {
        let datagram = guest.datagram_to(what, port)?;
        let Ok(message) = Message::decode(&mut Decoder::new(&datagram.payload)) else { return Err(guest.missing(what)) };
        let mut fields = Fields::of_dhcp(&message);
        fields.set("for this transaction", message.xid() == self.transaction);
        self.transaction += 1;
        fields.set("from", datagram.source);
        fields.set("to", datagram.destination);
        guest.note(what, fields);
        Ok(message)
    }

    /// Discovers the server and takes the address that it offers.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub fn lease(&mut self, guest: &mut Guest<'_>) -> Goes<Message> {
        let discover = self.message(MessageType::Discover, []);
        self.say(guest, &discover);
        let offer = self.hear(guest, "DHCPOFFER")?;
        self.select(guest, offer.yiaddr())
    }

    /// Takes the address that was offered.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub fn select(&mut self, guest: &mut Guest<'_>, address: Ipv4Addr) -> Goes<Message> {
        let options = [DhcpOption::RequestedIpAddress(address), DhcpOption::ServerIdentifier(GATEWAY)];
        let request = self.message(MessageType::Request, options);
        self.say(guest, &request);
        self.hear(guest, "DHCPACK")
    }
}

/// The option that says what is wanted (55), in this order.
pub fn asks_for(codes: &[u8]) -> DhcpOption {
    DhcpOption::ParameterRequestList(codes.iter().copied().map(OptionCode::from).collect())
}

/// Sets the broadcast flag, for clients that cannot receive what is sent to an address that they do not have yet.
pub fn broadcast(mut message: Message) -> Message {
    message.set_flags(Flags::default().set_broadcast());
    message
}

impl Fields {
    /// Those of a DHCP message: its addresses, and each option by its number.
    pub fn of_dhcp(message: &Message) -> Self {
        let kind = message.opts().msg_type().map_or_else(|| "BOOTREPLY".to_owned(), |kind| format!("{kind:?}"));
        let mut fields = Self::one("told", kind);
        fields.set("yiaddr", message.yiaddr());
        fields.set("ciaddr", message.ciaddr());
        fields.set("siaddr", message.siaddr());
        fields.set("giaddr", message.giaddr());
        fields.set("broadcast flag", message.flags().broadcast());
        if let Some(file) = message.fname().filter(|file| !file.is_empty()) {
            fields.set("file", data(file));
        }
        for (code, option) in message.opts().iter() {
            fields.set(&format!("option {}", u8::from(*code)), format!("{option:?}").replace('"', "`"));
        }
        fields
    }
}

/// The guest's address as a number of an option.
pub fn identifier(guest: &Guest<'_>) -> DhcpOption {
    DhcpOption::ClientIdentifier([&[1][..], &guest.card].concat())
}
