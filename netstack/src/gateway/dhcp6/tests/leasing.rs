use super::*;

const LEASE: u32 = 86_400;

#[test]
fn a_guest_gets_an_address_and_learns_how_long_it_lasts() {
    let mut link = Link::new(|_| {});
    let guest = Guest::new(1);
    let offer = link.say(&guest, MessageType::Solicit, vec![association(7, &[])]).unwrap();
    assert_eq!(offer.kind, MessageType::Advertise);
    assert_eq!(offer.options.get(OptionCode::Preference), Some(&DhcpOption::Preference(255)));
    assert_eq!(offer.options.get(OptionCode::ClientId), Some(&DhcpOption::ClientId(guest.duid.clone())));
    assert_eq!(link.state(address(0x15)), Some(LeaseState::Offered));

    let reply = link.say(&guest, MessageType::Request, vec![association(7, &[address(0x15)])]).unwrap();
    assert_eq!((reply.kind, reply.status()), (MessageType::Reply, None));
    let granted = reply.association(7).unwrap();
    assert_eq!((granted.t1, granted.t2), (LEASE * 3 / 8, LEASE * 3 / 5));
    let leased = IAAddr { addr: address(0x15), preferred_life: LEASE / 4 * 3, valid_life: LEASE, opts: DhcpOptions::new() };
    assert_eq!(granted.opts.get(OptionCode::IAAddr), Some(&DhcpOption::IAAddr(leased)));
    assert_eq!(link.state(address(0x15)), Some(LeaseState::Bound));
}

#[test]
fn a_guest_in_a_hurry_gets_its_address_at_once() {
    let mut link = Link::new(|_| {});
    let options = vec![association(1, &[]), DhcpOption::RapidCommit];
    let reply = link.say(&Guest::new(1), MessageType::Solicit, options).unwrap();
    assert_eq!((reply.kind, reply.address(1)), (MessageType::Reply, Some(address(0x15))));
    assert!(reply.options.get(OptionCode::RapidCommit).is_some());
    assert!(reply.options.get(OptionCode::Preference).is_none());
    assert_eq!(link.state(address(0x15)), Some(LeaseState::Bound));
}

#[test]
fn every_association_of_every_guest_has_an_address_of_its_own() {
    let mut link = Link::new(|_| {});
    let first = link.lease(&Guest::new(1));
    let second = link.lease(&Guest::new(2));
    let reply = link.say(&Guest::new(2), MessageType::Request, vec![association(1, &[]), association(2, &[])]).unwrap();
    assert_eq!(reply.address(1), Some(second));
    let third = reply.address(2).unwrap();
    assert_eq!([first, second, third], [address(0x15), address(0x16), address(0x17)]);
}

#[test]
fn a_guest_gets_the_address_that_it_wishes_for_if_nobody_has_it() {
    let mut link = Link::new(|_| {});
    let wish = |guest, wanted| vec![association(guest, &[wanted])];
    let offer = link.say(&Guest::new(1), MessageType::Solicit, wish(1, address(0x99))).unwrap();
    assert_eq!(offer.address(1), Some(address(0x99)));
    // Not one that is taken, of a virtual host or of another link.
    for wanted in [address(0x99), address(2), address(3), address(0), "2001:db8::5".parse().unwrap()] {
        let offer = link.say(&Guest::new(2), MessageType::Solicit, wish(1, wanted)).unwrap();
        assert_eq!(offer.address(1), Some(address(0x15)), "{wanted}");
    }
}

#[test]
fn an_offer_that_is_not_taken_is_free_again() {
    let mut link = Link::new(|_| {});
    let offer = link.say(&Guest::new(1), MessageType::Solicit, vec![association(1, &[])]).unwrap();
    assert_eq!(offer.address(1), Some(address(0x15)));
    let offer = link.say(&Guest::new(2), MessageType::Solicit, vec![association(1, &[])]).unwrap();
    assert_eq!(offer.address(1), Some(address(0x16)));
    link.wait(11);
    let offer = link.say(&Guest::new(3), MessageType::Solicit, vec![association(1, &[])]).unwrap();
    assert_eq!(offer.address(1), Some(address(0x15)));
}

#[test]
fn a_guest_that_renews_or_rebinds_keeps_its_address() {
    for kind in [MessageType::Renew, MessageType::Rebind] {
        let mut link = Link::new(|config| config.dhcp.lease_time = Duration::from_secs(100));
        let guest = Guest::new(1);
        let leased = link.lease(&guest);
        link.wait(60);
        let reply = link.say(&guest, kind, vec![association(1, &[leased])]).unwrap();
        assert_eq!(reply.addresses(1), [(leased, 100)]);
        link.wait(60);
        assert!(link.server.lease_of(leased).unwrap().is_in_force(link.now));
        assert_eq!(link.lease(&Guest::new(2)), address(0x16));
    }
}

#[test]
fn a_lease_that_runs_out_goes_back_to_its_guest_for_as_long_as_there_are_others() {
    let mut link = Link::new(|config| config.dhcp.lease_time = Duration::from_secs(100));
    let leased = link.lease(&Guest::new(1));
    link.wait(101);
    assert!(!link.server.lease_of(leased).unwrap().is_in_force(link.now));
    assert_eq!(link.lease(&Guest::new(2)), address(0x16));
    assert_eq!(link.state(leased), Some(LeaseState::Expired));
    assert_eq!(link.lease(&Guest::new(1)), leased);
}

#[test]
fn a_renewal_says_which_addresses_are_no_longer_good() {
    let mut link = Link::new(|_| {});
    let guest = Guest::new(1);
    let leased = link.lease(&guest);
    let reply = link.say(&guest, MessageType::Renew, vec![association(1, &[address(0x77), leased])]).unwrap();
    let mut addresses = reply.addresses(1);
    addresses.sort();
    assert_eq!(addresses, [(leased, LEASE), (address(0x77), 0)]);
}

#[test]
fn a_guest_outlives_the_server() {
    let mut link = Link::new(|_| {});
    let reply = link.say(&Guest::new(1), MessageType::Renew, vec![association(1, &[address(0x20)])]).unwrap();
    assert_eq!(reply.addresses(1), [(address(0x20), LEASE)]);
    // But nobody gets what somebody else has by renewing it.
    let reply = link.say(&Guest::new(2), MessageType::Renew, vec![association(1, &[address(0x20)])]).unwrap();
    assert_eq!((reply.addresses(1), reply.status_of(1)), (vec![], Some(Status::NoBinding)));
    let reply = link.say(&Guest::new(2), MessageType::Rebind, vec![association(1, &["2001:db8::5".parse().unwrap()])]).unwrap();
    assert_eq!(reply.addresses(1), [("2001:db8::5".parse().unwrap(), 0)]);
}

#[test]
fn a_released_address_waits_for_its_guest_until_somebody_else_needs_it() {
    let mut link = Link::new(|config| {
        // ::1 alone is left for guests.
        *config = crate::config::qemu::parse("ipv6-net=fd00::/126").unwrap();
    });
    let (guest, other) = (Guest::new(1), Guest::new(2));
    let leased = link.lease(&guest);
    assert_eq!(leased, "fd00::1".parse::<Ipv6Addr>().unwrap());
    let reply = link.say(&other, MessageType::Solicit, vec![association(1, &[])]).unwrap();
    assert_eq!((reply.address(1), reply.status_of(1)), (None, Some(Status::NoAddrsAvail)));

    let reply = link.say(&guest, MessageType::Release, vec![association(1, &[leased])]).unwrap();
    assert_eq!((reply.status(), reply.association(1)), (Some(Status::Success), None));
    assert_eq!(link.state(leased), Some(LeaseState::Released));
    assert_eq!(link.lease(&guest), leased);
    link.say(&guest, MessageType::Release, vec![association(1, &[leased])]).unwrap();
    assert_eq!(link.lease(&other), leased);
}

#[test]
fn nobody_gives_back_what_somebody_else_has() {
    let mut link = Link::new(|_| {});
    let leased = link.lease(&Guest::new(1));
    for kind in [MessageType::Release, MessageType::Decline] {
        let reply = link.say(&Guest::new(2), kind, vec![association(1, &[leased])]).unwrap();
        assert_eq!((reply.status(), reply.status_of(1)), (Some(Status::Success), Some(Status::NoBinding)));
        assert_eq!(link.state(leased), Some(LeaseState::Bound));
    }
}

#[test]
fn an_address_that_is_in_use_is_leased_to_nobody_for_a_while() {
    let mut link = Link::new(|_| {});
    let guest = Guest::new(1);
    let leased = link.lease(&guest);
    let reply = link.say(&guest, MessageType::Decline, vec![association(1, &[leased])]).unwrap();
    assert_eq!(reply.status(), Some(Status::Success));
    assert_eq!(link.state(leased), Some(LeaseState::Declined));
    assert_eq!(link.lease(&guest), address(0x16));
    link.wait(601);
    assert_eq!(link.lease(&Guest::new(2)), leased);
}

#[test]
fn a_guest_that_was_moved_learns_whether_its_addresses_are_right_here() {
    let mut link = Link::new(|_| {});
    let guest = Guest::new(1);
    let confirm = |link: &mut Link, addresses: &[Ipv6Addr]| {
        link.say(&guest, MessageType::Confirm, vec![association(1, addresses)]).map(|reply| reply.status())
    };
    assert_eq!(confirm(&mut link, &[address(0x15)]), Ok(Some(Status::Success)));
    assert_eq!(confirm(&mut link, &[address(0x15), "fd00::15".parse().unwrap()]), Ok(Some(Status::NotOnLink)));
    assert_eq!(confirm(&mut link, &[]), Err(Refused::Nothing));
    let elsewhere = vec![association(1, &["fd00::15".parse().unwrap()])];
    let reply = link.say(&guest, MessageType::Request, elsewhere).unwrap();
    assert_eq!(reply.status_of(1), Some(Status::NotOnLink));
}

#[test]
fn there_are_no_prefixes_and_no_temporary_addresses() {
    let mut link = Link::new(|_| {});
    let prefix = DhcpOption::IAPD(IAPD { id: 5, t1: 0, t2: 0, opts: DhcpOptions::new() });
    let temporary = DhcpOption::IATA(IATA { id: 6, opts: DhcpOptions::new() });
    let offer = link.say(&Guest::new(1), MessageType::Solicit, vec![association(1, &[]), prefix, temporary]).unwrap();
    assert_eq!(offer.address(1), Some(address(0x15)));
    let Some(DhcpOption::IAPD(IAPD { id: 5, opts, .. })) = offer.options.get(OptionCode::IAPD) else { panic!("no IA_PD") };
    assert_eq!(status_in(opts), Some(Status::NoPrefixAvail));
    let Some(DhcpOption::IATA(IATA { id: 6, opts })) = offer.options.get(OptionCode::IATA) else { panic!("no IA_TA") };
    assert_eq!(status_in(opts), Some(Status::NoAddrsAvail));
}

#[test]
fn what_a_guest_boots_by_and_what_it_boots_have_one_address() {
    let mut link = Link::new(|_| {});
    let card = Guest::new(1);
    let firmware = Guest { duid: vec![0, 4, 1, 1, 1], ..card.clone() };
    let architecture = || DhcpOption::ClientArchType(vec![dhcproto::v6::Architecture::from(7)]);
    let options = || vec![association(1, &[]), architecture(), DhcpOption::RapidCommit];
    let booted = link.say(&firmware, MessageType::Solicit, options()).unwrap().address(1);
    assert_eq!(booted, Some(address(0x15)));
    assert_eq!(link.lease(&card), address(0x15));
    // A reboot, and then a second system with another identity on the same card (as with ipvlan), which is another client.
    assert_eq!(link.say(&firmware, MessageType::Solicit, options()).unwrap().address(1), booted);
    assert_eq!(link.lease(&card), address(0x15));
    assert_eq!(link.lease(&Guest { duid: vec![0, 4, 2, 2, 2], ..card }), address(0x16));
}

#[test]
fn the_pool_begins_where_the_configuration_says_and_leaves_out_the_virtual_hosts() {
    for (options, first) in [
        ("ipv6-net=fd00:1::/64", "fd00:1::15"),
        ("ipv6-dhcpstart=fec0::1:0", "fec0::1:0"),
        ("ipv6-dhcpstart=fec0::1", "fec0::1"),
        ("ipv6-net=fd00::/125", "fd00::1"),
        ("ipv6-net=fd00::/120,ipv6-host=fd00::15", "fd00::16"),
    ] {
        let mut link = Link::new(|config| *config = crate::config::qemu::parse(options).unwrap());
        assert_eq!(link.lease(&Guest::new(1)), first.parse::<Ipv6Addr>().unwrap(), "{options}");
    }
}

#[test]
fn the_address_of_a_server_for_guests_is_leased_to_nobody() {
    let target = crate::config::GuestTarget::Command("cat".to_owned());
    let forward = crate::config::GuestForward { server: Some(address(0x16).into()), port: 7, target };
    let mut link = Link::new(|config| config.guest_forwards.push(forward));
    let leased = [1, 2, 3].map(|number| link.lease(&Guest::new(number)));
    assert_eq!(leased, [address(0x15), address(0x17), address(0x18)]);
}
