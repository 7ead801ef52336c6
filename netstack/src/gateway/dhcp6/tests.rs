//! Guests that ask the server, and what they are told.

use std::net::Ipv6Addr;

use dhcproto::v6::{
    DhcpOption, DhcpOptions, IAAddr, IANA, IAPD, IATA, Message, MessageType, ORO, OptionCode, Status, UnknownOption,
};
use dhcproto::{Decodable, Encodable};

use super::{Dhcp6Server, Refused};
use crate::addr::MacAddr;
use crate::config::Config;
use crate::gateway::dhcp::LeaseState;
use crate::time::{Duration, Instant};

mod hostile;
mod leasing;
mod telling;

/// The identity of the server: DUID-LL of 52:56:00:00:00:02.
const SERVER: [u8; 10] = [0, 3, 0, 1, 0x52, 0x56, 0, 0, 0, 2];

/// A server and the clock.
struct Link {
    server: Dhcp6Server,
    now: Instant,
}

/// A client on that link.
#[derive(Clone)]
struct Guest {
    duid: Vec<u8>,
    mac: MacAddr,
}

impl Guest {
    fn new(number: u8) -> Self {
        Self { duid: vec![0, 4, 0xaa, number], mac: MacAddr([0x52, 0x54, 0, 0, 0, number]) }
    }
}

fn address(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, last)
}

/// An IA_NA with addresses in it.
fn association(id: u32, addresses: &[Ipv6Addr]) -> DhcpOption {
    let addresses = addresses
        .iter()
        .map(|addr| DhcpOption::IAAddr(IAAddr { addr: *addr, preferred_life: 0, valid_life: 0, opts: DhcpOptions::new() }));
    DhcpOption::IANA(IANA { id, t1: 0, t2: 0, opts: addresses.collect() })
}

impl Link {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        change(&mut config);
        Self { server: Dhcp6Server::new(&config).unwrap(), now: Instant::from_micros(1_000_000) }
    }

    fn wait(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
    }

    /// Has a guest say something, to the group of servers, and to this server if the kind of message is for one.
    fn say(&mut self, guest: &Guest, kind: MessageType, options: Vec<DhcpOption>) -> Result<Reply, Refused> {
        let for_one = matches!(kind, MessageType::Request | MessageType::Renew | MessageType::Release | MessageType::Decline);
        let named = for_one.then(|| DhcpOption::ServerId(SERVER.to_vec()));
        let client = DhcpOption::ClientId(guest.duid.clone());
        self.send(guest.mac, true, &message(kind, options.into_iter().chain(named).chain([client]).collect()))
    }

    fn send(&mut self, from: MacAddr, multicast: bool, message: &[u8]) -> Result<Reply, Refused> {
        let mut reply = Vec::new();
        let result = self.server.handle(self.now, from, multicast, message, &mut reply);
        self.server.leases.check();
        result?;
        assert!(reply.len() <= 1232, "an answer of {} bytes fits no packet of 1280", reply.len());
        Ok(Reply::of(&reply))
    }

    /// Solicits and requests an address. Returns it.
    fn lease(&mut self, guest: &Guest) -> Ipv6Addr {
        let offer = self.say(guest, MessageType::Solicit, vec![association(1, &[])]).unwrap();
        assert_eq!(offer.kind, MessageType::Advertise);
        let offered = offer.address(1).unwrap();
        let reply = self.say(guest, MessageType::Request, vec![association(1, &[offered])]).unwrap();
        assert_eq!((reply.kind, reply.address(1)), (MessageType::Reply, Some(offered)));
        offered
    }

    fn state(&self, address: Ipv6Addr) -> Option<LeaseState> {
        self.server.lease_of(address).map(|lease| lease.state)
    }
}

fn message(kind: MessageType, options: Vec<DhcpOption>) -> Vec<u8> {
    let mut message = Message::new_with_id(kind, [1, 2, 3]);
    message.set_opts(options.into_iter().collect());
    message.to_vec().unwrap()
}

/// What a guest was told.
struct Reply {
    kind: MessageType,
    options: DhcpOptions,
}

impl Reply {
    fn of(bytes: &[u8]) -> Self {
        let message = Message::from_bytes(bytes).unwrap();
        // The library stops without a word at an option that it does not understand.
        let mut rest = &bytes[4..];
        let mut options = 0;
        while let [_, _, high, low, after @ ..] = rest {
            rest = &after[usize::from(u16::from_be_bytes([*high, *low]))..];
            options += 1;
        }
        assert_eq!((message.opts().iter().count(), rest), (options, &[][..]));
        assert_eq!(message.xid(), [1, 2, 3]);
        assert_eq!(message.opts().get(OptionCode::ServerId), Some(&DhcpOption::ServerId(SERVER.to_vec())));
        Self { kind: message.msg_type(), options: message.opts().clone() }
    }

    fn association(&self, id: u32) -> Option<&IANA> {
        self.options.iter().find_map(|option| match option {
            DhcpOption::IANA(association) if association.id == id => Some(association),
            _ => None,
        })
    }

    /// The addresses of an association, with their valid lifetimes.
    fn addresses(&self, id: u32) -> Vec<(Ipv6Addr, u32)> {
        let options = self.association(id).into_iter().flat_map(|association| association.opts.iter());
        options.filter_map(|option| if let DhcpOption::IAAddr(a) = option { Some((a.addr, a.valid_life)) } else { None }).collect()
    }

    /// The address of an association that may be used.
    fn address(&self, id: u32) -> Option<Ipv6Addr> {
        self.addresses(id).into_iter().find(|(_, valid)| *valid > 0).map(|(address, _)| address)
    }

    /// The status of the message.
    fn status(&self) -> Option<Status> {
        status_in(&self.options)
    }

    /// The status of an association.
    fn status_of(&self, id: u32) -> Option<Status> {
        status_in(&self.association(id)?.opts)
    }

    fn raw(&self, code: OptionCode) -> Option<&[u8]> {
        self.options.iter().find_map(|option| match option {
            DhcpOption::Unknown(option) if option.code() == code => Some(option.data()),
            _ => None,
        })
    }
}

fn status_in(options: &DhcpOptions) -> Option<Status> {
    options.iter().find_map(|option| if let DhcpOption::StatusCode(code) = option { Some(code.status) } else { None })
}

fn asking(codes: &[OptionCode]) -> DhcpOption {
    DhcpOption::ORO(ORO { opts: codes.to_vec() })
}
