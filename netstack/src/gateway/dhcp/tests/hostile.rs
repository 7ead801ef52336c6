//! Messages that no honest client sends.

use proptest::prelude::*;

use super::*;

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
