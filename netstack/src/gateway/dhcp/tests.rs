//! Conversations between guests and the server. The guests' messages are built with the encoder of `dhcproto`, and by hand where they
//! must be wrong.

use std::net::Ipv4Addr;

use dhcproto::v4::{DhcpOption as O, Flags, HType, Message, MessageType as M, Opcode, OptionCode as C};
use dhcproto::{Decodable, Decoder, Encodable};
use proptest::prelude::*;

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

// Getting an address.

#[test]
fn the_first_guest_gets_the_address_that_forwards_lead_to() {
    let mut link = Link::new(|_| {});
    let guest = Guest::new(1);
    let offer = link.ask(&guest.discover());
    assert_eq!(offer.kind(), Some(M::Offer));
    assert_eq!(offer.message.opcode(), Opcode::BootReply);
    assert_eq!(offer.message.xid(), 0x1234_5678);
    assert_eq!(offer.message.yiaddr(), ip(15));
    assert_eq!(offer.message.siaddr(), ANY);
    assert_eq!(offer.message.chaddr(), guest.mac.0);
    assert_eq!(offer.to, Answer { to: ip(15), mac: guest.mac, port: 68 });
    assert_eq!(link.state(ip(15)), Some(LeaseState::Offered));

    let ack = link.ask(&guest.select(ip(15)));
    assert_eq!(ack.kind(), Some(M::Ack));
    assert_eq!(ack.message.yiaddr(), ip(15));
    assert_eq!(ack.option(1), Some(&O::SubnetMask(Ipv4Addr::new(255, 255, 255, 0))));
    assert_eq!(ack.option(3), Some(&O::Router(vec![GATEWAY])));
    assert_eq!(ack.option(6), Some(&O::DomainNameServer(vec![ip(3)])));
    assert_eq!(ack.option(51), Some(&O::AddressLeaseTime(86_400)));
    assert_eq!(ack.option(54), Some(&O::ServerIdentifier(GATEWAY)));
    assert_eq!(ack.codes(), [53, 54, 51, 1, 3, 6]);
    assert!(ack.bytes.len() >= 300, "BOOTP relays drop shorter ones");
    let lease = link.server.lease_of(ip(15)).unwrap();
    assert_eq!((lease.mac, lease.state, lease.expires), (guest.mac, LeaseState::Bound, link.now + Duration::from_secs(86_400)));
}

#[test]
fn several_guests_get_an_address_each() {
    let mut link = Link::new(|_| {});
    for number in 0..20 {
        assert_eq!(link.join(&Guest::new(number)), ip(15 + number));
    }
    assert_eq!(link.server.leases(link.now).count(), 20);
}

#[test]
fn a_literal_discover_is_understood() {
    let mut discover = vec![0; 236];
    discover[..8].copy_from_slice(&[1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef]);
    discover[28..34].copy_from_slice(&[0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    discover.extend([99, 130, 83, 99, 53, 1, 1, 55, 3, 1, 3, 26, 12, 3, b'W', b'e', b'b', 255]);
    let mut link = Link::new(|_| {});
    let got = link.send_bytes(MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]), &discover).unwrap().unwrap();
    assert_eq!(got.bytes[..8], [2, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef]);
    assert_eq!(got.bytes[16..20], [10, 0, 2, 15]);
    assert_eq!(
        got.bytes[236..][..46],
        [
            99, 130, 83, 99, 53, 1, 2, 54, 4, 10, 0, 2, 2, 51, 4, 0, 1, 0x51, 0x80, 1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 2, 2, 26,
            2, 5, 0xdc, 6, 4, 10, 0, 2, 3, 255, 0, 0, 0, 0
        ]
    );
}

#[test]
fn a_guest_that_asks_for_a_free_address_gets_it() {
    let mut link = Link::new(|_| {});
    let wish = |address| Guest::new(1).message(M::Discover, [O::RequestedIpAddress(address)]);
    assert_eq!(link.ask(&wish(ip(99))).message.yiaddr(), ip(99));
    for not_leased in [ip(2), ip(3), ip(0), ip(255), ip(14), Ipv4Addr::new(192, 168, 1, 1)] {
        let mut link = Link::new(|_| {});
        assert_eq!(link.ask(&wish(not_leased)).message.yiaddr(), ip(15), "{not_leased}");
    }
}

#[test]
fn the_gateway_and_the_dns_server_are_never_leased() {
    let mut link = Link::new(|config| {
        let ipv4 = config.ipv4.as_mut().unwrap();
        (ipv4.dhcp_start, ipv4.gateway, ipv4.dns) = (ip(250), ip(251), ip(253));
    });
    let mut discover = |number| link.send(&Guest::new(number).discover()).map(|got| got.unwrap().message.yiaddr());
    assert_eq!(discover(1), Ok(ip(250)));
    assert_eq!(discover(2), Ok(ip(252)));
    assert_eq!(discover(3), Ok(ip(254)));
    assert_eq!(discover(4), Err(Refused::PoolExhausted));
}

#[test]
fn a_request_for_the_address_of_another_is_refused() {
    let mut link = Link::new(|_| {});
    link.join(&Guest::new(1));
    for message in [Guest::new(2).select(ip(15)), Guest::new(2).reboot(ip(15)), Guest::new(2).renew(ip(15))] {
        let nak = link.ask(&message);
        assert_eq!(nak.kind(), Some(M::Nak));
        assert_eq!(nak.message.yiaddr(), ANY);
        assert_eq!(nak.message.ciaddr(), ANY);
        assert_eq!(nak.to, Answer { to: Ipv4Addr::BROADCAST, mac: MacAddr::BROADCAST, port: 68 });
        assert_eq!(nak.codes(), [53, 54, 56]);
    }
}

#[test]
fn a_guest_that_selects_another_address_than_the_offered_one_is_refused() {
    let mut link = Link::new(|_| {});
    link.ask(&Guest::new(1).discover());
    assert_eq!(link.ask(&Guest::new(1).select(ip(16))).kind(), Some(M::Nak));
}

#[test]
fn a_guest_that_chooses_another_server_frees_the_offer() {
    let mut link = Link::new(small_pool(1));
    link.ask(&Guest::new(1).discover());
    let other = Guest::new(1).message(M::Request, [O::RequestedIpAddress(ip(77)), O::ServerIdentifier(ip(77))]);
    assert_eq!(link.send(&other).unwrap_err(), Refused::OtherServer);
    assert_eq!(link.join(&Guest::new(2)), ip(254));
}

#[test]
fn an_offer_that_nobody_takes_is_free_again_soon() {
    let mut link = Link::new(small_pool(1));
    link.ask(&Guest::new(1).discover());
    assert_eq!(link.send(&Guest::new(2).discover()).unwrap_err(), Refused::PoolExhausted);
    link.later(10);
    assert_eq!(link.server.leases(link.now).count(), 0);
    assert_eq!(link.join(&Guest::new(2)), ip(254));
}

// Keeping it.

#[test]
fn a_renewed_lease_lasts_longer_and_one_that_is_not_runs_out() {
    let mut link = Link::new(|_| {});
    let (keen, lazy) = (Guest::new(1).wants(&[58, 59]), Guest::new(2));
    let (kept, lost) = (link.join(&keen), link.join(&lazy));
    link.later(43_200);
    let ack = link.ask(&keen.renew(kept));
    assert_eq!(ack.kind(), Some(M::Ack));
    assert_eq!(ack.to, Answer { to: kept, mac: keen.mac, port: 68 });
    assert_eq!(ack.message.ciaddr(), kept);
    assert_eq!(ack.option(58), Some(&O::Renewal(43_200)));
    assert_eq!(ack.option(59), Some(&O::Rebinding(75_600)));
    link.later(43_200);
    assert!(link.server.lease_of(kept).unwrap().is_in_force(link.now));
    assert!(!link.server.lease_of(lost).unwrap().is_in_force(link.now));
    link.ask(&Guest::new(3).discover());
    assert_eq!(link.state(lost), Some(LeaseState::Expired));
}

#[test]
fn a_guest_that_boots_again_keeps_its_address() {
    let mut link = Link::new(|_| {});
    let address = link.join(&Guest::new(1));
    link.later(1000);
    let ack = link.ask(&Guest::new(1).reboot(address));
    assert_eq!(ack.kind(), Some(M::Ack));
    assert_eq!(ack.message.yiaddr(), address);
    assert_eq!(link.ask(&Guest::new(1).discover()).message.yiaddr(), address);
    assert_eq!(link.state(address), Some(LeaseState::Bound), "an offer does not shorten the lease");
}

#[test]
fn a_guest_that_boots_on_the_wrong_network_is_told_so() {
    let mut link = Link::new(|_| {});
    assert_eq!(link.ask(&Guest::new(1).reboot(Ipv4Addr::new(192, 168, 1, 50))).kind(), Some(M::Nak));
    link.join(&Guest::new(1));
    assert_eq!(link.ask(&Guest::new(1).reboot(ip(200))).kind(), Some(M::Nak), "its address is another");
}

#[test]
fn guests_keep_their_addresses_when_the_server_was_started_again() {
    let mut link = Link::new(|_| {});
    assert_eq!(link.ask(&Guest::new(1).renew(ip(40))).kind(), Some(M::Ack));
    assert_eq!(link.ask(&Guest::new(2).reboot(ip(41))).kind(), Some(M::Ack));
    assert_eq!(link.ask(&Guest::new(3).renew(ip(40))).kind(), Some(M::Nak));
    assert_eq!(link.ask(&Guest::new(3).renew(ip(2))).kind(), Some(M::Nak));
}

#[test]
fn a_request_without_any_address_is_malformed() {
    let mut link = Link::new(|_| {});
    assert_eq!(link.send(&Guest::new(1).message(M::Request, [])).unwrap_err(), Refused::Malformed);
}

#[test]
fn a_guest_may_ask_for_less_time_but_not_for_more() {
    let mut link = Link::new(|_| {});
    for (wanted, given) in [(600, 600), (1, 60), (0, 60), (1_000_000, 86_400), (u32::MAX, 86_400)] {
        let ack = link.ask(&Guest::new(1).message(M::Discover, [O::AddressLeaseTime(wanted)]));
        assert_eq!(ack.option(51), Some(&O::AddressLeaseTime(given)), "{wanted}");
    }
}

#[test]
fn an_endless_lease_does_not_end() {
    let mut link = Link::new(|config| config.dhcp.lease_time = Duration::MAX);
    let guest = Guest::new(1).wants(&[51, 58, 59]);
    let address = link.join(&guest);
    link.later(10_000_000_000);
    let ack = link.ask(&guest.renew(address));
    assert_eq!(ack.option(51), Some(&O::AddressLeaseTime(u32::MAX)));
    assert_eq!(ack.option(58), Some(&O::Renewal(u32::MAX)));
    assert!(link.server.lease_of(address).unwrap().is_in_force(link.now));
}

// Giving it back.

#[test]
fn a_released_address_is_kept_for_its_guest_until_it_is_needed() {
    let mut link = Link::new(small_pool(2));
    let first = link.join(&Guest::new(1));
    assert!(link.send(&Guest::new(1).release(first)).unwrap().is_none());
    assert_eq!(link.state(first), Some(LeaseState::Released));
    assert_eq!(link.join(&Guest::new(2)), ip(254), "there is another one");
    assert_eq!(link.join(&Guest::new(1)), first);
    link.send(&Guest::new(1).release(first)).unwrap();
    assert_eq!(link.join(&Guest::new(3)), first);
    assert_eq!(link.send(&Guest::new(1).discover()).unwrap_err(), Refused::PoolExhausted);
}

#[test]
fn the_address_that_nobody_had_for_the_longest_time_goes_first() {
    let mut link = Link::new(small_pool(3));
    let addresses = [1, 2, 3].map(|number| link.join(&Guest::new(number)));
    for at in [1, 2, 0] {
        link.later(1);
        link.send(&Guest::new(at as u8 + 1).release(addresses[at])).unwrap();
    }
    assert_eq!([4, 5, 6].map(|number| link.join(&Guest::new(number))), [addresses[1], addresses[2], addresses[0]]);
}

#[test]
fn nobody_can_release_or_decline_the_address_of_another() {
    let mut link = Link::new(|_| {});
    let address = link.join(&Guest::new(1));
    assert_eq!(link.send(&Guest::new(2).release(address)).unwrap_err(), Refused::NotTheirs);
    assert_eq!(link.send(&Guest::new(2).decline(address)).unwrap_err(), Refused::NotTheirs);
    assert_eq!(link.send(&Guest::new(2).decline(ip(2))).unwrap_err(), Refused::NotTheirs);
    assert_eq!(link.state(address), Some(LeaseState::Bound));
    link.send(&Guest::new(1).release(address)).unwrap();
    assert_eq!(link.send(&Guest::new(1).release(address)).unwrap_err(), Refused::NotTheirs, "once is enough");
}

#[test]
fn a_release_for_another_server_changes_nothing() {
    let mut link = Link::new(|_| {});
    let address = link.join(&Guest::new(1));
    let mut release = Guest::new(1).release(address);
    release.opts_mut().insert(O::ServerIdentifier(ip(77)));
    assert_eq!(link.send(&release).unwrap_err(), Refused::OtherServer);
    assert_eq!(link.state(address), Some(LeaseState::Bound));
}

#[test]
fn a_declined_address_is_in_quarantine_for_a_time() {
    let mut link = Link::new(small_pool(2));
    let declined = link.join(&Guest::new(1));
    assert!(link.send(&Guest::new(1).decline(declined)).unwrap().is_none());
    assert_eq!(link.state(declined), Some(LeaseState::Declined));
    assert_eq!(link.join(&Guest::new(1)), ip(254));
    assert_eq!(link.send(&Guest::new(2).discover()).unwrap_err(), Refused::PoolExhausted);
    link.later(600);
    assert_eq!(link.join(&Guest::new(2)), declined);
}

#[test]
fn a_decline_that_names_no_address_is_malformed() {
    let mut link = Link::new(|_| {});
    let decline = Guest::new(1).message(M::Decline, [O::ServerIdentifier(GATEWAY)]);
    assert_eq!(link.send(&decline).unwrap_err(), Refused::Malformed);
}

// Who a client is.

#[test]
fn clients_on_one_hardware_address_are_told_apart_by_their_identifiers() {
    let mut link = Link::new(|_| {});
    let (one, two) = (Guest::new(1).with_id(b"\xffone"), Guest::new(1).with_id(b"\xfftwo"));
    assert_eq!(link.join(&one), ip(15));
    assert_eq!(link.join(&two), ip(16));
    assert_eq!(link.join(&one), ip(15));
}

#[test]
fn a_client_keeps_its_address_when_its_card_changes() {
    let mut link = Link::new(|_| {});
    assert_eq!(link.join(&Guest::new(1).with_id(b"\xffone")), ip(15));
    assert_eq!(link.join(&Guest::new(2).with_id(b"\xffone")), ip(15));
    assert_eq!(link.join(&Guest::new(1)), ip(16));
}

#[test]
fn a_guest_keeps_its_address_from_firmware_to_operating_system() {
    let mut link = Link::new(|_| {});
    let firmware = Guest::new(1).with_id(b"\x00uuid").with(O::ClassIdentifier(b"PXEClient:Arch:00007".to_vec()));
    let initial = Guest::new(1);
    let system = Guest::new(1).with_id(b"\xff\x00\x00\x00\x01duid");
    assert_eq!(link.join(&firmware), ip(15));
    assert_eq!(link.join(&initial), ip(15));
    assert_eq!(link.join(&system), ip(15));
    assert_eq!(link.server.leases(link.now).count(), 1);
    assert_eq!(link.server.lease_of(ip(15)).unwrap().client.to_string(), "ff:00:00:00:01:64:75:69:64");
}

#[test]
fn a_client_that_changes_its_identifier_all_the_time_takes_no_more_than_its_share() {
    let mut link = Link::new(|_| {});
    let mut refused = 0;
    for n in 0_u32..1000 {
        let guest = Guest::new(1).with_id(&n.to_be_bytes());
        match link.send(&guest.discover()) {
            Ok(got) => _ = link.ask(&guest.select(got.unwrap().message.yiaddr())),
            Err(reason) => {
                assert_eq!(reason, Refused::StationLimit);
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 1000 - 64);
    assert_eq!(link.join(&Guest::new(2)), ip(15 + 64), "there is enough for others");
}

#[test]
fn a_guest_that_invents_hardware_addresses_can_use_up_the_pool_and_nothing_more() {
    let mut link = Link::new(|_| {});
    let mut offered = 0;
    for n in 0_u32..10_000 {
        let [_, _, high, low] = n.to_be_bytes();
        let guest = Guest { mac: MacAddr([2, 0, 0, 1, high, low]), options: Vec::new() };
        match link.send(&guest.discover()) {
            Ok(_) => offered += 1,
            Err(reason) => assert_eq!(reason, Refused::PoolExhausted),
        }
    }
    assert_eq!(offered, 240);
    assert_eq!(link.server.leases(link.now).count(), 240);
    link.later(10);
    assert_eq!(link.join(&Guest::new(1)), ip(15));
    assert_eq!(link.server.leases(link.now).count(), 1, "nothing is remembered of offers that nobody took");
}

#[test]
fn offers_to_invented_clients_do_not_cost_a_guest_its_old_address() {
    let mut link = Link::new(small_pool(4));
    let address = link.join(&Guest::new(1));
    link.send(&Guest::new(1).release(address)).unwrap();
    for _ in 0..10 {
        for number in 100..103 {
            link.ask(&Guest::new(number).discover());
        }
        link.later(10);
    }
    assert_eq!(link.join(&Guest::new(1)), address);
}

#[test]
fn a_huge_network_has_a_bounded_pool() {
    let mut link = Link::new(|config| {
        let ipv4 = config.ipv4.as_mut().unwrap();
        ipv4.net = "10.0.0.0/8".parse().unwrap();
    });
    for n in 0_u32..5000 {
        let [_, _, high, low] = n.to_be_bytes();
        let guest = Guest { mac: MacAddr([2, 0, 0, 1, high, low]), options: Vec::new() };
        let discover = guest.discover().to_vec().unwrap();
        assert_eq!(link.server.handle(link.now, guest.mac, &discover, &mut Vec::new()).is_ok(), n < 4096);
    }
    link.server.leases.check();
}

// Static addresses.

fn with_static(config: &mut Config) {
    config.dhcp.static_leases = vec![(Guest::new(7).mac, ip(15)), (Guest::new(8).mac, ip(10))];
}

#[test]
fn a_static_address_is_kept_for_its_guest() {
    let mut link = Link::new(with_static);
    assert_eq!(link.join(&Guest::new(1)), ip(16), "15 is taken");
    assert_eq!(link.join(&Guest::new(7)), ip(15));
    assert_eq!(link.join(&Guest::new(8)), ip(10), "it may be outside the pool");
    assert_eq!(link.ask(&Guest::new(1).reboot(ip(10))).kind(), Some(M::Nak));
    link.send(&Guest::new(8).release(ip(10))).unwrap();
    assert_eq!(link.ask(&Guest::new(2).reboot(ip(10))).kind(), Some(M::Nak));
    assert_eq!(link.join(&Guest::new(8)), ip(10));
}

#[test]
fn a_guest_with_a_static_address_gets_no_other() {
    let mut link = Link::new(with_static);
    assert_eq!(link.ask(&Guest::new(7).reboot(ip(20))).kind(), Some(M::Nak));
    assert_eq!(link.join(&Guest::new(7).with_id(b"\xffone")), ip(15));
    assert_eq!(link.join(&Guest::new(7).with_id(b"\xfftwo")), ip(15), "whatever it calls itself");
    assert_eq!(link.server.leases(link.now).count(), 1);
}

#[test]
fn a_declined_static_address_is_replaced_for_the_time_being() {
    let mut link = Link::new(with_static);
    link.join(&Guest::new(8));
    link.send(&Guest::new(8).decline(ip(10))).unwrap();
    assert_eq!(link.join(&Guest::new(8)), ip(16));
    link.later(600);
    assert_eq!(link.ask(&Guest::new(8).renew(ip(16))).kind(), Some(M::Nak), "it is to come back");
    assert_eq!(link.join(&Guest::new(8)), ip(10));
}

#[test]
fn a_client_that_moved_to_another_card_leaves_the_static_address_behind() {
    let mut link = Link::new(with_static);
    assert_eq!(link.join(&Guest::new(7).with_id(b"\xffone")), ip(15));
    assert_eq!(link.join(&Guest::new(1).with_id(b"\xffone")), ip(16));
    assert_eq!(link.join(&Guest::new(7).with_id(b"\xfftwo")), ip(15));
}

// Where answers go.

#[test]
fn a_guest_that_can_only_take_broadcasts_gets_one() {
    let mut link = Link::new(|_| {});
    let mut discover = Guest::new(1).discover();
    discover.set_flags(Flags::default().set_broadcast());
    let offer = link.ask(&discover);
    assert_eq!(offer.to, Answer { to: Ipv4Addr::BROADCAST, mac: MacAddr::BROADCAST, port: 68 });
    assert!(offer.message.flags().broadcast());
}

#[test]
fn a_relay_agent_gets_the_answer_for_its_client_with_its_information_last() {
    let mut link = Link::new(|_| {});
    let information = vec![1, 4, 1, 2, 3, 4, 2, 3, 9, 9, 9];
    let relayed = |kind, options: Vec<O>| {
        let mut message = Guest::new(1).wants(&[82, 15, 12]).message(kind, options);
        message.set_giaddr(ip(30)).set_hops(1);
        let mut bytes = message.to_vec().unwrap();
        bytes.pop();
        bytes.extend([82, information.len() as u8]);
        bytes.extend(&information);
        bytes.push(255);
        bytes
    };
    let relay = MacAddr([2, 2, 2, 2, 2, 2]);
    let offer = link.send_bytes(relay, &relayed(M::Discover, vec![])).unwrap().unwrap();
    assert_eq!(offer.to, Answer { to: ip(30), mac: relay, port: 67 });
    assert_eq!(offer.message.giaddr(), ip(30));
    assert_eq!(offer.codes().last(), Some(&82));
    let echoed = dhcproto::v4::borrowed::Message::new(&offer.bytes).unwrap().opts().last().unwrap().data().to_vec();
    assert_eq!(echoed, information);

    let nak = link.send_bytes(relay, &relayed(M::Request, vec![O::RequestedIpAddress(ip(2))])).unwrap().unwrap();
    assert_eq!(nak.kind(), Some(M::Nak));
    assert_eq!(nak.to, Answer { to: ip(30), mac: relay, port: 67 });
    assert!(nak.message.flags().broadcast());
}

#[test]
fn a_relay_agent_of_another_network_gets_no_address() {
    let mut link = Link::new(|_| {});
    let mut discover = Guest::new(1).discover();
    discover.set_giaddr(Ipv4Addr::new(192, 168, 9, 1));
    assert_eq!(link.send(&discover).unwrap_err(), Refused::OtherNetwork);
}

#[test]
fn an_answer_never_follows_an_invented_address() {
    let mut link = Link::new(|_| {});
    let mut discover = Guest::new(1).discover();
    discover.set_ciaddr(Ipv4Addr::new(8, 8, 8, 8));
    assert_eq!(link.ask(&discover).to.to, ip(15));
    assert_eq!(link.send(&Guest::new(1).inform(Ipv4Addr::new(8, 8, 8, 8))).unwrap_err(), Refused::OtherNetwork);
}

#[test]
fn inform_tells_everything_but_an_address() {
    let mut link = Link::new(|config| config.dhcp.domain_name = Some("lan".into()));
    let ack = link.ask(&Guest::new(1).wants(&[15, 58, 59]).inform(ip(100)));
    assert_eq!(ack.kind(), Some(M::Ack));
    assert_eq!(ack.message.yiaddr(), ANY);
    assert_eq!(ack.message.ciaddr(), ip(100));
    assert_eq!(ack.to, Answer { to: ip(100), mac: Guest::new(1).mac, port: 68 });
    assert_eq!(ack.codes(), [53, 54, 1, 15, 3, 6]);
    assert_eq!(link.server.leases(link.now).count(), 0);
}

// What guests are told.

fn everything(config: &mut Config) {
    config.mtu = 9000;
    let dhcp = &mut config.dhcp;
    dhcp.hostname = Some("guest".into());
    dhcp.domain_name = Some("lan.example.org".into());
    dhcp.search = vec!["lan.example.org".into(), "example.org".into()];
    dhcp.ntp = vec![ip(9)];
    dhcp.tftp_server_name = Some("boot.example.org".into());
    dhcp.bootfile = Some("pxelinux.0".into());
    dhcp.routes = vec![("10.9.0.0/16".parse().unwrap(), ip(20))];
}

const ALL_CODES: [u8; 17] = [121, 3, 1, 6, 12, 15, 26, 28, 42, 51, 54, 58, 59, 66, 67, 119, 249];

#[test]
fn every_option_comes_when_it_is_asked_for_and_in_the_order_of_the_list() {
    let mut link = Link::new(everything);
    let offer = link.ask(&Guest::new(1).wants(&ALL_CODES).discover());
    assert_eq!(offer.codes(), [53, 54, 51, 1, 121, 3, 6, 12, 15, 26, 28, 42, 58, 59, 66, 67, 119, 249]);
    assert_eq!(offer.option(12), Some(&O::Hostname("guest".into())));
    assert_eq!(offer.option(15), Some(&O::DomainName("lan.example.org".into())));
    assert_eq!(offer.option(26), Some(&O::InterfaceMtu(9000)));
    assert_eq!(offer.option(28), Some(&O::BroadcastAddr(ip(255))));
    assert_eq!(offer.option(42), Some(&O::NtpServers(vec![ip(9)])));
    assert_eq!(offer.option(66), Some(&O::TFTPServerName(b"boot.example.org".to_vec())));
    assert_eq!(offer.option(67), Some(&O::BootfileName(b"pxelinux.0".to_vec())));
    let routes = vec![("10.9.0.0/16".parse().unwrap(), ip(20)), ("0.0.0.0/0".parse().unwrap(), GATEWAY)];
    assert_eq!(offer.option(121), Some(&O::ClasslessStaticRoute(routes)));
    let raw = |code| {
        let message = dhcproto::v4::borrowed::Message::new(&offer.bytes).unwrap();
        message.opts().find(|option| u8::from(option.code()) == code).unwrap().data().to_vec()
    };
    assert_eq!(raw(121), [16, 10, 9, 10, 0, 2, 20, 0, 10, 0, 2, 2], "RFC 3442");
    assert_eq!(raw(249), raw(121));
    assert_eq!(raw(119), b"\x03lan\x07example\x03org\x00\xc0\x04", "RFC 3397");
    assert_eq!(offer.message.fname(), Some(&b"pxelinux.0\0"[..]));
    assert_eq!(offer.message.siaddr(), GATEWAY);
}

#[test]
fn a_client_without_a_list_is_told_what_qemu_tells() {
    let mut link = Link::new(everything);
    let mut codes = link.ask(&Guest::new(1).discover()).codes();
    codes.sort_unstable();
    assert_eq!(codes, [1, 3, 6, 12, 15, 51, 53, 54, 66, 67, 119]);
}

#[test]
fn a_restricted_guest_is_told_no_way_out() {
    let mut link = Link::new(|config| {
        everything(config);
        config.restrict = true;
    });
    let offer = link.ask(&Guest::new(1).wants(&ALL_CODES).discover());
    assert_eq!(offer.option(3), None);
    assert_eq!(offer.option(6), None);
    let routes = vec![("10.9.0.0/16".parse().unwrap(), ip(20))];
    assert_eq!(offer.option(121), Some(&O::ClasslessStaticRoute(routes)));
}

#[test]
fn the_least_important_options_are_left_out_where_there_is_no_room() {
    let crowded = |config: &mut Config| {
        everything(config);
        config.dhcp.search = (0..40).map(|n| format!("department-{n}.example{n}.org")).collect();
        config.dhcp.ntp = vec![ip(9); 30];
    };
    let mut link = Link::new(crowded);
    let offer = link.ask(&Guest::new(1).wants(&ALL_CODES).discover());
    assert!(offer.bytes.len() <= 548, "{}", offer.bytes.len());
    assert_eq!(offer.option(119), None);
    for code in [53, 54, 51, 1, 3, 6, 121, 26, 67, 66, 15, 12, 28] {
        assert!(offer.option(code).is_some(), "{code}");
    }

    let large = Guest::new(1).with(O::MaxMessageSize(1500)).wants(&ALL_CODES);
    assert!(Link::new(crowded).ask(&large.discover()).bytes.len() <= 548 + 28 + 1500 - 576);
    let mut on_jumbo_link = Link::new(crowded);
    let huge = Guest::new(1).with(O::MaxMessageSize(9000)).wants(&ALL_CODES);
    assert!(on_jumbo_link.ask(&huge.discover()).option(119).is_some());
    let tiny = Guest::new(1).with(O::MaxMessageSize(1)).wants(&ALL_CODES);
    assert!(Link::new(crowded).ask(&tiny.discover()).bytes.len() <= 548);
}

#[test]
fn the_client_identifier_comes_back() {
    let mut link = Link::new(|_| {});
    let guest = Guest::new(1).with_id(b"\xffone");
    assert_eq!(link.ask(&guest.discover()).option(61), Some(&O::ClientIdentifier(b"\xffone".to_vec())));
    assert_eq!(link.ask(&guest.reboot(ip(2))).option(61), Some(&O::ClientIdentifier(b"\xffone".to_vec())));
}

#[test]
fn http_boot_is_answered_with_its_own_class() {
    let http = Guest::new(1).with(O::ClassIdentifier(b"HTTPClient:Arch:00016:UNDI:003000".to_vec())).wants(&[60, 67]);
    let pxe = Guest::new(2).with(O::ClassIdentifier(b"PXEClient:Arch:00007".to_vec())).wants(&[60, 67]);
    let url = "http://10.0.2.2/efi/boot.efi";
    let mut link = Link::new(|config| config.dhcp.bootfile = Some(url.into()));
    let offer = link.ask(&http.discover());
    assert_eq!(offer.option(60), Some(&O::ClassIdentifier(b"HTTPClient".to_vec())));
    assert_eq!(offer.option(67), Some(&O::BootfileName(url.as_bytes().to_vec())));
    assert_eq!(link.ask(&pxe.discover()).option(60), None);
    let mut link = Link::new(|config| config.dhcp.bootfile = Some("pxelinux.0".into()));
    assert_eq!(link.ask(&http.discover()).option(60), None);
}

#[test]
fn the_next_server_is_the_one_that_is_named_by_address() {
    let mut link = Link::new(|config| {
        config.dhcp.bootfile = Some("pxelinux.0".into());
        config.dhcp.tftp_server_name = Some("10.0.2.77".into());
    });
    assert_eq!(link.ask(&Guest::new(1).discover()).message.siaddr(), ip(77));
}

#[test]
fn a_boot_file_with_a_long_name_is_only_in_the_option() {
    let long = "a".repeat(200);
    let mut link = Link::new(|config| config.dhcp.bootfile = Some(long.clone()));
    let offer = link.ask(&Guest::new(1).discover());
    assert_eq!(offer.message.fname(), None);
    assert_eq!(offer.option(67), Some(&O::BootfileName(long.into_bytes())));
}

// Names of guests.

#[test]
fn a_guests_name_leads_to_its_lease_while_it_has_one() {
    let mut link = Link::new(|_| {});
    let guest = Guest::new(1).with(O::Hostname("Web.example.org".into()));
    link.ask(&guest.discover());
    assert_eq!(link.server.lease_named("web", link.now), None, "it is only offered");
    let address = link.join(&guest);
    assert_eq!(link.server.lease_named("web", link.now).unwrap().address, address);
    link.ask(&Guest::new(1).renew(address));
    assert_eq!(link.server.lease_of(address).unwrap().hostname.as_deref(), Some("web"), "said once is enough");
    link.later(86_401);
    assert_eq!(link.server.lease_named("web", link.now), None);
}

#[test]
fn a_newcomer_does_not_take_a_name_away() {
    let mut link = Link::new(|_| {});
    let claim = |number| Guest::new(number).with(O::Hostname("web".into()));
    let first = link.join(&claim(1));
    link.later(1);
    let second = link.join(&claim(2));
    link.later(1);
    link.ask(&claim(1).renew(first));
    assert_eq!(link.server.lease_named("web", link.now).unwrap().address, first);
    link.send(&claim(1).release(first)).unwrap();
    assert_eq!(link.server.lease_named("web", link.now).unwrap().address, second);
}

#[test]
fn a_name_that_dns_could_not_answer_is_ignored() {
    let mut link = Link::new(|_| {});
    for name in ["", "-", "a b", "../etc", "\u{e9}", ".", "a_b"] {
        let address = link.join(&Guest::new(1).with(O::Hostname(name.into())));
        assert_eq!(link.server.lease_of(address).unwrap().hostname, None, "{name:?}");
    }
}

// BOOTP.

#[test]
fn bootp_gets_an_address_and_nothing_that_it_does_not_know() {
    let mut link = Link::new(everything);
    let got = link.ask(&Guest::new(1).bootp());
    assert_eq!(got.message.yiaddr(), ip(15));
    assert_eq!(got.bytes.len(), 300);
    assert_eq!(got.codes(), [1, 3, 6, 15, 12]);
    assert_eq!(got.message.fname(), Some(&b"pxelinux.0\0"[..]));
    assert_eq!(link.state(ip(15)), Some(LeaseState::Bound));
    assert_eq!(link.join(&Guest::new(1).with_id(b"\xffone")), ip(15), "what is booted keeps the address");
}

#[test]
fn bootp_without_vendor_information_is_bootp() {
    let mut request = vec![0; 300];
    request[..3].copy_from_slice(&[1, 1, 6]);
    request[28..34].copy_from_slice(&Guest::new(1).mac.0);
    let got = Link::new(|_| {}).send_bytes(Guest::new(1).mac, &request).unwrap().unwrap();
    assert_eq!(got.message.yiaddr(), ip(15));
}

// Bad input.

fn refusal(bytes: &[u8]) -> Option<Refused> {
    Link::new(|_| {}).send_bytes(Guest::new(1).mac, bytes).err()
}

#[test]
fn a_truncated_message_is_refused_wherever_it_ends() {
    let mut guest = Guest::new(1).with_id(b"\xffone").wants(&[1, 3]).with(O::Hostname("web".into()));
    guest.options.push(O::RequestedIpAddress(ip(99)));
    let whole = guest.discover().to_vec().unwrap();
    assert_eq!(refusal(&whole), None);
    for end in 0..whole.len() {
        let mut link = Link::new(|_| {});
        match link.send_bytes(guest.mac, &whole[..end]) {
            Err(reason) => assert_eq!(reason, Refused::Malformed, "{end}"),
            // It ends between two options: what is left is a whole message without an end mark.
            Ok(got) => assert!(end >= 240 && got.is_some(), "{end}"),
        }
    }
}

#[test]
fn what_is_no_request_of_an_ethernet_station_is_refused() {
    let changed = |change: fn(&mut Vec<u8>)| {
        let mut bytes = Guest::new(1).discover().to_vec().unwrap();
        change(&mut bytes);
        refusal(&bytes)
    };
    assert_eq!(changed(|_| {}), None);
    assert_eq!(changed(|bytes| bytes[0] = 2), Some(Refused::NotARequest));
    assert_eq!(changed(|bytes| bytes[0] = 0), Some(Refused::NotARequest));
    assert_eq!(changed(|bytes| bytes[1] = HType::SerialLine.into()), Some(Refused::Hardware));
    assert_eq!(changed(|bytes| bytes[2] = 16), Some(Refused::Hardware));
    assert_eq!(changed(|bytes| bytes[2] = 255), Some(Refused::Hardware));
    assert_eq!(changed(|bytes| bytes[2] = 0), Some(Refused::Hardware));
    assert_eq!(changed(|bytes| bytes[28] |= 1), Some(Refused::Hardware));
    assert_eq!(changed(|bytes| bytes[28..34].fill(0)), Some(Refused::Hardware));
    assert_eq!(changed(|bytes| bytes[236] = 98), Some(Refused::Malformed));
    for kind in [2, 5, 6, 9, 10, 0, 200] {
        let mut bytes = Guest::new(1).discover().to_vec().unwrap();
        bytes[242] = kind;
        assert_eq!(refusal(&bytes), Some(Refused::NotARequest), "{kind}");
    }
}

/// A message with these bytes for options.
fn with_options(options: &[u8]) -> Vec<u8> {
    let mut bytes = Guest::new(1).bootp().to_vec().unwrap();
    bytes.extend(options);
    bytes
}

#[test]
fn options_of_the_wrong_size_are_refused() {
    for options in [
        &[53, 0, 255][..],
        &[53, 2, 1, 1, 255],
        &[53, 1, 1, 50, 0, 255],
        &[53, 1, 1, 50, 3, 10, 0, 2, 255],
        &[53, 1, 1, 54, 5, 10, 0, 2, 2, 2, 255],
        &[53, 1, 1, 51, 1, 9, 255],
        &[53, 1, 1, 57, 1, 9, 255],
        &[53, 1, 1, 52, 0, 255],
        &[53, 1, 1, 12, 200, b'w', 255],
        &[53, 1, 1, 12],
    ] {
        assert_eq!(refusal(&with_options(options)), Some(Refused::Malformed), "{options:?}");
    }
}

#[test]
fn empty_options_are_as_good_as_none() {
    let mut link = Link::new(|_| {});
    let empty = with_options(&[53, 1, 1, 12, 0, 55, 0, 60, 0, 61, 0, 81, 0, 82, 0, 80, 0, 255]);
    let offer = link.send_bytes(Guest::new(1).mac, &empty).unwrap().unwrap();
    assert_eq!(offer.codes(), [53, 54, 51, 1, 3, 6]);
    assert_eq!(link.server.lease_of(ip(15)).unwrap().client, ClientId::Hardware(Guest::new(1).mac));
}

#[test]
fn options_that_are_of_no_interest_may_hold_anything() {
    // Lengths that these options cannot have, by their definitions.
    let odd = with_options(&[53, 1, 1, 80, 1, 9, 94, 1, 1, 151, 0, 81, 1, 4, 93, 1, 0, 121, 2, 32, 1, 43, 1, 0, 255]);
    assert_eq!(refusal(&odd), None);
}

#[test]
fn an_identifier_in_pieces_is_put_together_but_not_without_bound() {
    let pieces = |count: usize| {
        let mut options = vec![53, 1, 1];
        for _ in 0..count {
            options.extend([61, 100]);
            options.extend([7; 100]);
        }
        options.push(255);
        with_options(&options)
    };
    let mut link = Link::new(|_| {});
    link.send_bytes(Guest::new(1).mac, &pieces(2)).unwrap();
    assert_eq!(link.server.lease_of(ip(15)).unwrap().client, ClientId::Option([7; 200].into()));
    assert_eq!(refusal(&pieces(3)), Some(Refused::Malformed));
    assert_eq!(refusal(&pieces(600)), Some(Refused::Malformed));
}

#[test]
fn options_may_overflow_into_the_fields_for_names() {
    let mut bytes = with_options(&[52, 1, 3, 255]);
    bytes[108..112].copy_from_slice(&[53, 1, 1, 255]);
    bytes[44..51].copy_from_slice(&[50, 4, 10, 0, 2, 99, 255]);
    let offer = Link::new(|_| {}).send_bytes(Guest::new(1).mac, &bytes).unwrap().unwrap();
    assert_eq!((offer.kind(), offer.message.yiaddr()), (Some(M::Offer), ip(99)));
}

#[test]
fn information_of_a_relay_that_does_not_fit_is_left_out() {
    let mut options = vec![53, 1, 1];
    for _ in 0..4 {
        options.extend([82, 255]);
        options.extend([1; 255]);
    }
    options.push(255);
    let offer = Link::new(|_| {}).send_bytes(Guest::new(1).mac, &with_options(&options)).unwrap().unwrap();
    assert_eq!(offer.codes(), [53, 54, 51, 1, 3, 6]);
}

#[test]
fn without_ipv4_there_is_no_server() {
    assert!(DhcpServer::new(&Config { ipv4: None, ..Config::default() }).is_none());
}

#[test]
fn every_reason_has_its_place_in_a_table() {
    for (at, reason) in Refused::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, at);
    }
}

// Anything at all.

fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let address = prop_oneof![Just(ANY), Just(GATEWAY), (0_u8..255).prop_map(ip), any::<u32>().prop_map(Ipv4Addr::from)];
    let option = (
        prop_oneof![Just(50_u8), Just(51), Just(52), Just(54), Just(55), Just(57), Just(61), Just(81), Just(82), any::<u8>()],
        prop::collection::vec(any::<u8>(), 0..40),
    );
    let addressed =
        (prop_oneof![Just(50_u8), Just(54)], address.clone()).prop_map(|(code, address)| (code, address.octets().to_vec()));
    let options = prop::collection::vec(prop_oneof![option, addressed], 0..8);
    (1_u8..9, 0_u8..6, any::<u16>(), address.clone(), address, options, any::<bool>()).prop_map(
        |(kind, guest, flags, ciaddr, giaddr, options, ends)| {
            let mut message = Guest::new(guest).bootp();
            message.set_ciaddr(ciaddr).set_giaddr(if flags & 3 == 0 { giaddr } else { ANY }).set_flags(flags.into());
            let mut bytes = message.to_vec().unwrap();
            if kind < 9 {
                bytes.extend([53, 1, kind]);
            }
            for (code, data) in options {
                bytes.extend([code, data.len() as u8]);
                bytes.extend(data);
            }
            bytes.extend(ends.then_some(255));
            bytes
        },
    )
}

proptest! {
    #[test]
    fn any_bytes_are_answered_well_or_not_at_all(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        // `send_bytes` decodes every answer.
        let _ = Link::new(|_| {}).send_bytes(Guest::new(1).mac, &bytes);
        let _ = Link::new(|_| {}).send_bytes(Guest::new(1).mac, &with_options(&bytes));
    }

    #[test]
    fn no_conversation_leases_an_address_twice_or_one_that_is_not_ours(
        messages in prop::collection::vec((any_message(), 0_u64..2000, 0_u8..3), 1..60),
    ) {
        let mut link = Link::new(|config| {
            with_static(config);
            small_pool(6)(config);
        });
        for (message, pause, from) in messages {
            let before: Vec<_> = link.server.leases(link.now).filter(|lease| lease.is_in_force(link.now)).cloned().collect();
            // `send_bytes` checks the table after every message: one record an address, one a client.
            if let Ok(Some(got)) = link.send_bytes(Guest::new(from).mac, &message)
                && !got.message.yiaddr().is_unspecified()
            {
                let address = got.message.yiaddr();
                prop_assert!((249..=254).map(ip).chain([ip(10), ip(15)]).any(|ours| ours == address), "{}", address);
                prop_assert_eq!(got.message.chaddr(), link.server.lease_of(address).unwrap().mac.0);
            }
            for old in before {
                if let Some(new) = link.server.lease_of(old.address) {
                    prop_assert!(new.client == old.client || new.mac == old.mac, "{:?} became {:?}", old, new);
                }
            }
            link.later(pause);
        }
    }
}
