use super::*;

#[test]
fn a_guest_that_has_an_address_is_told_the_rest() {
    let mut link = Link::new(|config| config.dhcp.search = vec!["a.example".to_owned(), "b.example".to_owned()]);
    let codes = [OptionCode::DomainNameServers, OptionCode::DomainSearchList, OptionCode::InformationRefreshTime];
    // It need not even say who it is.
    let question = message(MessageType::InformationRequest, vec![asking(&codes)]);
    let reply = link.send(Guest::new(1).mac, true, &question).unwrap();
    assert_eq!(reply.kind, MessageType::Reply);
    assert_eq!(reply.options.get(OptionCode::ClientId), None);
    assert_eq!(reply.options.get(OptionCode::DomainNameServers), Some(&DhcpOption::DomainNameServers(vec![address(3)])));
    let Some(DhcpOption::DomainSearchList(names)) = reply.options.get(OptionCode::DomainSearchList) else { panic!("no names") };
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["a.example.", "b.example."]);
    assert_eq!(reply.raw(OptionCode::InformationRefreshTime), Some(&86_400_u32.to_be_bytes()[..]));
}

#[test]
fn a_search_list_is_not_compressed() {
    // RFC 8415 section 10. The library's own encoder would point back at the first name.
    let mut link = Link::new(|config| config.dhcp.search = vec!["a.example".to_owned(), "b.example".to_owned()]);
    let mut reply = Vec::new();
    let question = message(MessageType::InformationRequest, vec![asking(&[OptionCode::DomainSearchList])]);
    link.server.handle(link.now, Guest::new(1).mac, true, &question, &mut reply).unwrap();
    let names = b"\x00\x18\x00\x16\x01a\x07example\x00\x01b\x07example\x00";
    assert!(reply.windows(names.len()).any(|window| window == names), "{reply:x?}");
}

#[test]
fn nothing_is_told_unasked() {
    let mut link = Link::new(|config| config.dhcp.bootfile = Some("kernel".to_owned()));
    let reply = link.say(&Guest::new(1), MessageType::InformationRequest, vec![]).unwrap();
    assert_eq!(reply.options.iter().count(), 2, "who asked and who answers: {:?}", reply.options);
}

#[test]
fn answers_with_addresses_tell_the_rest_too() {
    let mut link = Link::new(|_| {});
    let dns = Some(DhcpOption::DomainNameServers(vec![address(3)]));
    let asked = || vec![association(1, &[]), asking(&[OptionCode::DomainNameServers, OptionCode::InformationRefreshTime])];
    for kind in [MessageType::Solicit, MessageType::Request, MessageType::Renew, MessageType::Rebind] {
        let reply = link.say(&Guest::new(1), kind, asked()).unwrap();
        assert_eq!(reply.options.get(OptionCode::DomainNameServers), dns.as_ref(), "{kind:?}");
        // RFC 8415 section 21.23: that is for those who have asked for information only.
        assert_eq!(reply.options.get(OptionCode::InformationRefreshTime), None, "{kind:?}");
    }
}

#[test]
fn a_guest_learns_where_its_boot_file_is() {
    for (options, url) in [
        ("bootfile=pxelinux.0", "tftp://[fec0::2]/pxelinux.0"),
        ("bootfile=/grub/core.efi,ipv6-net=fd00::/64", "tftp://[fd00::2]/grub/core.efi"),
        ("ipv4=on,ipv6=on,bootfile=k,tftp-server-name=10.0.2.2", "tftp://[fec0::2]/k"),
        ("bootfile=k,tftp-server-name=192.0.2.7", "tftp://192.0.2.7/k"),
        ("bootfile=k,tftp-server-name=2001:db8::7", "tftp://[2001:db8::7]/k"),
        ("bootfile=k,tftp-server-name=boot.example", "tftp://boot.example/k"),
        ("bootfile=http://192.0.2.1/ipxe.efi", "http://192.0.2.1/ipxe.efi"),
    ] {
        let mut link = Link::new(|config| *config = crate::config::qemu::parse(options).unwrap());
        let asked = vec![asking(&[OptionCode::OptBootfileUrl])];
        let reply = link.say(&Guest::new(1), MessageType::InformationRequest, asked).unwrap();
        assert_eq!(reply.raw(OptionCode::OptBootfileUrl), Some(url.as_bytes()), "{options}");
    }
}

#[test]
fn time_servers_are_told_in_both_ways() {
    let server: Ipv6Addr = "2001:db8::123".parse().unwrap();
    let mut link = Link::new(|config| *config = crate::config::qemu::parse("ntp=10.0.2.2,ntp=2001:db8::123").unwrap());
    let asked = vec![asking(&[OptionCode::NtpServer, OptionCode::SntpServers])];
    let reply = link.say(&Guest::new(1), MessageType::InformationRequest, asked).unwrap();
    let ntp = DhcpOption::NtpServer(vec![dhcproto::v6::NtpSuboption::ServerAddress(server)]);
    assert_eq!(reply.options.get(OptionCode::NtpServer), Some(&ntp));
    assert_eq!(reply.raw(OptionCode::SntpServers), Some(&server.octets()[..]));
}

#[test]
fn a_guest_is_known_by_the_name_that_it_gives_itself() {
    let mut link = Link::new(|_| {});
    let guest = Guest::new(1);
    let name = DhcpOption::Unknown(UnknownOption::new(OptionCode::ClientFqdn, b"\x01\x03Web\x03lan\x00".to_vec()));
    link.say(&guest, MessageType::Solicit, vec![association(1, &[]), DhcpOption::RapidCommit, name]).unwrap();
    let hostname = |link: &Link| link.server.lease_of(address(0x15)).unwrap().hostname.clone();
    assert_eq!(hostname(&link).as_deref(), Some("web"));
    // One that does not say it again has it still.
    link.say(&guest, MessageType::Renew, vec![association(1, &[address(0x15)])]).unwrap();
    assert_eq!(hostname(&link).as_deref(), Some("web"));
}
