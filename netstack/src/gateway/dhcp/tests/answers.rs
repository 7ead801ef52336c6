//! Where answers go and what they say.

use super::*;

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
    dhcp.ntp = vec![ip(9).into()];
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
        config.dhcp.ntp = vec![ip(9).into(); 30];
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
