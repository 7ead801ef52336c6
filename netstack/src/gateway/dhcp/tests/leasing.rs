//! How an address is got, kept and given back.

use super::*;

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

#[test]
fn the_address_of_a_server_for_guests_is_leased_to_nobody() {
    let target = crate::config::GuestTarget::Command("cat".to_owned());
    let server = Ipv4Addr::new(10, 0, 2, 16);
    let forward = crate::config::GuestForward { server: Some(server.into()), port: 7, target };
    let mut link = Link::new(|config| config.guest_forwards.push(forward));
    let leased: Vec<_> = (1..=3).map(|n| link.join(&Guest::new(n))).collect();
    assert_eq!(leased, [15, 17, 18].map(|last| Ipv4Addr::new(10, 0, 2, last)));
}
