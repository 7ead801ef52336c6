use super::*;

#[test]
fn a_message_has_the_options_of_its_kind_and_no_others() {
    let mut link = Link::new(|_| {});
    let guest = Guest::new(1);
    let client = || DhcpOption::ClientId(guest.duid.clone());
    let server = || DhcpOption::ServerId(SERVER.to_vec());
    let stranger = || DhcpOption::ServerId(vec![0, 3, 0, 1, 9, 9, 9, 9, 9, 9]);
    for (kind, options, why) in [
        (MessageType::Solicit, vec![association(1, &[])], Refused::Invalid),
        (MessageType::Solicit, vec![association(1, &[]), client(), server()], Refused::Invalid),
        (MessageType::Confirm, vec![association(1, &[address(0x15)]), client(), server()], Refused::Invalid),
        (MessageType::Rebind, vec![association(1, &[]), client(), server()], Refused::Invalid),
        (MessageType::Request, vec![association(1, &[]), client()], Refused::Invalid),
        (MessageType::Request, vec![association(1, &[]), server()], Refused::Invalid),
        (MessageType::Renew, vec![association(1, &[]), client()], Refused::Invalid),
        (MessageType::Release, vec![association(1, &[]), client(), stranger()], Refused::OtherServer),
        (MessageType::InformationRequest, vec![association(1, &[]), client()], Refused::Invalid),
        (MessageType::InformationRequest, vec![client(), stranger()], Refused::OtherServer),
        (MessageType::Solicit, vec![DhcpOption::ClientId(vec![0, 4]), association(1, &[])], Refused::Malformed),
        (MessageType::Solicit, vec![DhcpOption::ClientId(vec![0; 131]), association(1, &[])], Refused::Malformed),
    ] {
        let refused = link.send(guest.mac, true, &message(kind, options)).err();
        assert_eq!(refused, Some(why), "{kind:?}");
    }
    assert_eq!(link.server.leases().count(), 0);
}

#[test]
fn who_sends_to_the_server_alone_is_told_to_send_to_the_group() {
    let mut link = Link::new(|_| {});
    let guest = Guest::new(1);
    let leased = link.lease(&guest);
    let options = |named: bool| {
        let server = named.then(|| DhcpOption::ServerId(SERVER.to_vec()));
        [association(1, &[leased]), DhcpOption::ClientId(guest.duid.clone())].into_iter().chain(server).collect()
    };
    for kind in [MessageType::Request, MessageType::Renew, MessageType::Release, MessageType::Decline] {
        let reply = link.send(guest.mac, false, &message(kind, options(true))).unwrap();
        assert_eq!((reply.status(), reply.association(1)), (Some(Status::UseMulticast), None), "{kind:?}");
    }
    for kind in [MessageType::Solicit, MessageType::Confirm, MessageType::Rebind] {
        assert_eq!(link.send(guest.mac, false, &message(kind, options(false))).err(), Some(Refused::Unicast), "{kind:?}");
    }
    assert_eq!(link.state(leased), Some(LeaseState::Bound));
}

#[test]
fn a_guest_that_invents_clients_gets_its_share_and_leaves_the_rest() {
    let mut link = Link::new(|_| {});
    let mut leased = 0;
    for number in 0..300_u16 {
        let [high, low] = number.to_be_bytes();
        let invented = Guest { duid: vec![0, 4, high, low], ..Guest::new(1) };
        let options = vec![association(1, &[]), DhcpOption::RapidCommit];
        let reply = link.say(&invented, MessageType::Solicit, options).unwrap();
        leased += usize::from(reply.address(1).is_some());
        assert_eq!(reply.address(1).is_none(), reply.status_of(1) == Some(Status::NoAddrsAvail));
    }
    assert_eq!(leased, 64);
    assert!(link.say(&Guest::new(2), MessageType::Solicit, vec![association(1, &[])]).unwrap().address(1).is_some());
}

#[test]
fn a_client_that_changes_its_card_does_not_get_around_the_share() {
    let mut link = Link::new(|_| {});
    let lease = |link: &mut Link, number: u8, mac| {
        let guest = Guest { duid: vec![0, 4, number], mac };
        let reply = link.say(&guest, MessageType::Solicit, vec![association(1, &[]), DhcpOption::RapidCommit]).unwrap();
        reply.address(1).is_some()
    };
    for number in 0..64 {
        assert!(lease(&mut link, number, Guest::new(1).mac));
    }
    assert!(lease(&mut link, 100, Guest::new(2).mac));
    assert!(!lease(&mut link, 100, Guest::new(1).mac), "one more for the first card");
    assert!(lease(&mut link, 63, Guest::new(2).mac), "one less for it");
    assert!(lease(&mut link, 100, Guest::new(1).mac));
}

#[test]
fn an_answer_always_fits_the_smallest_packet() {
    let mut link = Link::new(|config| {
        config.dhcp.search = (0..40).map(|n| format!("department-{n}.a-long-name-of-a-company.example")).collect();
        config.dhcp.bootfile = Some("b".repeat(255));
    });
    let guest = Guest { duid: vec![7; 130], ..Guest::new(1) };
    let many: Vec<_> = (0x100..0x110).map(address).collect();
    let other = |id| DhcpOption::IAPD(IAPD { id, t1: 0, t2: 0, opts: DhcpOptions::new() });
    let codes = [OptionCode::DomainSearchList, OptionCode::OptBootfileUrl, OptionCode::DomainNameServers];
    let options = || (0..40).flat_map(|id| [association(id, &many), other(id)]).chain([asking(&codes)]).collect::<Vec<_>>();
    for kind in [MessageType::Solicit, MessageType::Request, MessageType::Renew, MessageType::Rebind, MessageType::Release] {
        link.say(&guest, kind, options()).unwrap();
    }
}

#[test]
fn options_within_options_are_not_followed() {
    // As deep as a datagram holds: an authentication option without its fixed part, and relay messages in relay messages.
    let mut deep = Vec::new();
    for code in [3_u16, 25, 9, 4].into_iter().cycle().take(4000) {
        let mut outer = code.to_be_bytes().to_vec();
        let fixed = [0; 38];
        outer.extend(u16::try_from(deep.len() + fixed.len()).unwrap_or(u16::MAX).to_be_bytes());
        outer.extend(fixed);
        outer.extend(deep);
        deep = outer;
        if deep.len() > 60_000 {
            break;
        }
    }
    let mut link = Link::new(|_| {});
    for message in [[&[1, 0, 0, 1][..], &deep].concat(), [&[1, 0, 0, 1][..], &[0, 11, 0, 1, 9]].concat()] {
        assert!(link.send(Guest::new(1).mac, true, &message).is_err());
    }
}
