//! Who a client is, which address is kept for it, and what it calls itself.

use super::*;

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
        let discover = guest.discover().to_vec().unwrap();
        match link.server.handle(link.now, guest.mac, &discover, &mut Vec::new()) {
            Ok(_) => offered += 1,
            Err(reason) => assert_eq!(reason, Refused::PoolExhausted),
        }
    }
    link.server.leases.check();
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

#[test]
fn a_lease_outlives_the_offer_of_another_address() {
    let mut link = Link::new(with_static);
    let id = b"\0the-same-disk";
    let leased = link.join(&Guest::new(2).with_id(id));
    // The same system on a card for which an address is kept: until it takes that one, it may still use the other.
    let moved = Guest::new(7).with_id(id);
    assert_eq!(link.ask(&moved.discover()).message.yiaddr(), ip(15));
    assert_eq!(link.state(leased), Some(LeaseState::Bound));
    assert_ne!(link.join(&Guest::new(3)), leased);
    assert_eq!(link.join(&moved), ip(15));
    assert_eq!(link.join(&Guest::new(4)), leased, "who takes the offer gives the other up");
}
