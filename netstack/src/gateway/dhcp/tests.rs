//! Conversations between guests and the server. The guests' messages are built with the encoder of `dhcproto`, and by hand where they
//! must be wrong.

mod answers;
mod clients;
mod hostile;
mod leasing;
mod real;

use std::net::Ipv4Addr;

use dhcproto::v4::{DhcpOption as O, Flags, HType, Message, MessageType as M, Opcode, OptionCode as C};
use dhcproto::{Decodable, Decoder, Encodable};

use super::*;

/// The link: a server and the time.
struct Link {
    server: DhcpServer,
    now: Instant,
}

/// What a guest got: the message, its bytes, and where they went.
#[derive(Debug)]
struct Got {
    message: Message,
    bytes: Vec<u8>,
    to: Answer,
}

impl Link {
    fn new(configure: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        configure(&mut config);
        Self { server: DhcpServer::new(&config).unwrap(), now: Instant::from_micros(1) }
    }

    fn later(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
    }

    fn send_bytes(&mut self, from: MacAddr, bytes: &[u8]) -> Result<Option<Got>, Refused> {
        let mut reply = vec![0xaa; 7];
        let answer = self.server.handle(self.now, from, bytes, &mut reply);
        self.server.leases.check();
        Ok(answer?.map(|to| Got { message: Message::decode(&mut Decoder::new(&reply)).unwrap(), bytes: reply, to }))
    }

    fn send(&mut self, message: &Message) -> Result<Option<Got>, Refused> {
        let mac = MacAddr(message.chaddr().try_into().unwrap());
        self.send_bytes(mac, &message.to_vec().unwrap())
    }

    fn ask(&mut self, message: &Message) -> Got {
        self.send(message).expect("the message is acted on").expect("there is an answer")
    }

    /// DISCOVER and REQUEST; the address that was leased.
    fn join(&mut self, guest: &Guest) -> Ipv4Addr {
        let offer = self.ask(&guest.discover());
        assert_eq!(offer.kind(), Some(M::Offer));
        let ack = self.ask(&guest.select(offer.message.yiaddr()));
        assert_eq!(ack.kind(), Some(M::Ack));
        assert_eq!(ack.message.yiaddr(), offer.message.yiaddr());
        ack.message.yiaddr()
    }

    fn state(&self, address: Ipv4Addr) -> Option<LeaseState> {
        self.server.leases(self.now).find(|lease| lease.address == address).map(|lease| lease.state)
    }
}

impl Got {
    fn kind(&self) -> Option<M> {
        self.message.opts().msg_type()
    }

    fn option(&self, code: u8) -> Option<&O> {
        self.message.opts().get(C::from(code))
    }

    /// The codes as they stand in the message.
    fn codes(&self) -> Vec<u8> {
        dhcproto::v4::borrowed::Message::new(&self.bytes).unwrap().opts().map(|option| option.code().into()).collect()
    }
}

/// A client on the link.
#[derive(Clone)]
struct Guest {
    mac: MacAddr,
    options: Vec<O>,
}

impl Guest {
    fn new(number: u8) -> Self {
        Self { mac: MacAddr([0x52, 0x54, 0, 0, 0, number]), options: Vec::new() }
    }

    fn with(mut self, option: O) -> Self {
        self.options.push(option);
        self
    }

    fn with_id(self, id: &[u8]) -> Self {
        self.with(O::ClientIdentifier(id.to_vec()))
    }

    fn wants(self, codes: &[u8]) -> Self {
        self.with(O::ParameterRequestList(codes.iter().map(|&code| C::from(code)).collect()))
    }

    fn message(&self, kind: M, options: impl IntoIterator<Item = O>) -> Message {
        let mut message = Message::new_with_id(0x1234_5678, ANY, ANY, ANY, ANY, &self.mac.0);
        message.opts_mut().insert(O::MessageType(kind));
        for option in self.options.iter().cloned().chain(options) {
            message.opts_mut().insert(option);
        }
        message
    }

    fn discover(&self) -> Message {
        self.message(M::Discover, [])
    }

    fn select(&self, address: Ipv4Addr) -> Message {
        self.message(M::Request, [O::RequestedIpAddress(address), O::ServerIdentifier(GATEWAY)])
    }

    fn reboot(&self, address: Ipv4Addr) -> Message {
        self.message(M::Request, [O::RequestedIpAddress(address)])
    }

    fn renew(&self, address: Ipv4Addr) -> Message {
        let mut message = self.message(M::Request, []);
        message.set_ciaddr(address);
        message
    }

    fn release(&self, address: Ipv4Addr) -> Message {
        let mut message = self.message(M::Release, [O::ServerIdentifier(GATEWAY)]);
        message.set_ciaddr(address);
        message
    }

    fn decline(&self, address: Ipv4Addr) -> Message {
        self.message(M::Decline, [O::ServerIdentifier(GATEWAY), O::RequestedIpAddress(address)])
    }

    fn inform(&self, address: Ipv4Addr) -> Message {
        let mut message = self.message(M::Inform, []);
        message.set_ciaddr(address);
        message
    }

    fn bootp(&self) -> Message {
        let mut message = self.discover();
        message.opts_mut().clear();
        message
    }
}

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

const fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 2, last)
}

/// Leaves so many addresses, from .15 on.
fn small_pool(addresses: u8) -> impl FnOnce(&mut Config) {
    move |config| {
        let ipv4 = config.ipv4.as_mut().unwrap();
        ipv4.dhcp_start = ip(255 - addresses);
    }
}

/// Keeps an address in the pool and one before it.
fn with_static(config: &mut Config) {
    config.dhcp.static_leases = vec![(Guest::new(7).mac, ip(15)), (Guest::new(8).mac, ip(10))];
}
