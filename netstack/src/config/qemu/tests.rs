//! Tables of options and what becomes of them. What is said of QEMU was observed of QEMU 7.2 through its DHCP answers.

use std::net::{IpAddr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::config::{Ipv4Config, Ipv6Config, Protocol, SmbConfig};

/// The IPv4 network, gateway, DNS server and first lease, in one line.
fn ipv4(text: &str) -> String {
    let Ipv4Config { net, gateway, dns, dhcp_start } = parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).ipv4.unwrap();
    format!("{net} {gateway} {dns} {dhcp_start}")
}

fn ipv6(text: &str) -> String {
    let Ipv6Config { prefix, gateway, dns, .. } = parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).ipv6.unwrap();
    format!("{prefix} {gateway} {dns}")
}

fn error(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

#[test]
fn nothing_said_is_the_default() {
    for text in ["", ",", "id=net0", "user", "user,id=net0", "ipv4=on,ipv6=on"] {
        assert_eq!(parse(text), Ok(Config::default()), "{text}");
    }
    assert_eq!(ipv4(""), "10.0.2.0/24 10.0.2.2 10.0.2.3 10.0.2.15");
    assert_eq!(ipv6(""), "fec0::/64 fec0::2 fec0::3");
}

#[test]
fn the_other_addresses_follow_the_network_as_in_qemu() {
    for (text, expected) in [
        ("net=192.168.76.0/24", "192.168.76.0/24 192.168.76.2 192.168.76.3 192.168.76.15"),
        ("net=192.168.76.9/24", "192.168.76.0/24 192.168.76.2 192.168.76.3 192.168.76.15"),
        ("net=10.5.0.0/16", "10.5.0.0/16 10.5.2.2 10.5.2.3 10.5.2.15"),
        ("net=10.0.0.0/255.255.0.0", "10.0.0.0/16 10.0.2.2 10.0.2.3 10.0.2.15"),
        ("net=16.0.0.0/4", "16.0.0.0/4 16.0.2.2 16.0.2.3 16.0.2.15"),
        ("ip=10.1.2.3", "10.1.2.0/24 10.1.2.2 10.1.2.3 10.1.2.15"),
        ("net=10.9.0.0/24,ip=10.1.2.3", "10.9.0.0/24 10.9.0.2 10.9.0.3 10.9.0.15"),
        ("net=10.9.0.0/24,net=10.8.0.0/24", "10.8.0.0/24 10.8.0.2 10.8.0.3 10.8.0.15"),
        ("host=10.0.2.9", "10.0.2.0/24 10.0.2.9 10.0.2.3 10.0.2.15"),
        ("dns=10.0.2.9", "10.0.2.0/24 10.0.2.2 10.0.2.9 10.0.2.15"),
        ("dns=1.1.1.1", "10.0.2.0/24 10.0.2.2 1.1.1.1 10.0.2.15"),
        ("dhcpstart=10.0.2.100", "10.0.2.0/24 10.0.2.2 10.0.2.3 10.0.2.100"),
        ("dhcpstart=10.7.0.9,net=10.7.0.0/24", "10.7.0.0/24 10.7.0.2 10.7.0.3 10.7.0.9"),
    ] {
        assert_eq!(ipv4(text), expected, "{text}");
    }
}

#[test]
fn a_network_without_a_length_has_the_one_that_qemu_guesses() {
    for (net, expected) in [
        ("10.1.2.3", "10.0.0.0/8"),
        ("100.64.0.0", "100.0.0.0/8"),
        ("172.20.1.0", "172.16.0.0/12"),
        ("150.1.0.0", "150.1.0.0/16"),
        ("172.15.0.0", "172.15.0.0/16"),
        ("172.32.0.0", "172.32.0.0/16"),
        ("192.168.5.0", "192.168.0.0/16"),
        ("198.18.0.0", "198.18.0.0/15"),
        ("198.19.7.0", "198.18.0.0/15"),
        ("203.0.113.0", "203.0.113.0/28"),
        ("192.0.2.0", "192.0.2.0/28"),
    ] {
        assert_eq!(parse(&format!("net={net}")).unwrap().ipv4.unwrap().net.to_string(), expected, "{net}");
    }
}

/// QEMU leases the broadcast address there, or refuses the network.
#[test]
fn on_a_small_network_leases_begin_where_there_is_room() {
    for (text, expected) in [
        ("net=10.5.0.0/28", "10.5.0.0/28 10.5.0.2 10.5.0.3 10.5.0.1"),
        ("net=10.5.0.16/29", "10.5.0.16/29 10.5.0.18 10.5.0.19 10.5.0.17"),
        ("net=10.5.0.0/30,dns=9.9.9.9", "10.5.0.0/30 10.5.0.2 9.9.9.9 10.5.0.1"),
        ("host=10.0.2.15", "10.0.2.0/24 10.0.2.15 10.0.2.3 10.0.2.16"),
        ("dns=10.0.2.15,host=10.0.2.16", "10.0.2.0/24 10.0.2.16 10.0.2.15 10.0.2.17"),
    ] {
        assert_eq!(ipv4(text), expected, "{text}");
    }
}

#[test]
fn one_protocol_on_turns_the_other_off_unless_it_is_named() {
    for (text, has_ipv4, has_ipv6) in [
        ("ipv4=on", true, false),
        ("ipv4=off", false, true),
        ("ipv6=on", false, true),
        ("ipv6=off", true, false),
        ("ipv4", true, false),
        ("ipv4=on,ipv6=on", true, true),
        ("ipv4=on,ipv6=off", true, false),
        ("ipv4=off,ipv6=on", false, true),
    ] {
        let config = parse(text).unwrap();
        assert_eq!((config.ipv4.is_some(), config.ipv6.is_some()), (has_ipv4, has_ipv6), "{text}");
    }
}

#[test]
fn ipv6_addresses_follow_the_prefix() {
    for (text, expected) in [
        ("ipv6-net=fd00::/64", "fd00::/64 fd00::2 fd00::3"),
        ("ipv6-net=fd00::", "fd00::/64 fd00::2 fd00::3"),
        ("ipv6-net=fd00:0:0:5::9/48", "fd00::/48 fd00::2 fd00::3"),
        ("ipv6-prefix=fd00::,ipv6-prefixlen=56", "fd00::/56 fd00::2 fd00::3"),
        ("ipv6-prefixlen=56,ipv6-prefix=fd00::", "fd00::/56 fd00::2 fd00::3"),
        ("ipv6-host=fec0::9", "fec0::/64 fec0::9 fec0::3"),
        ("ipv6-dns=fec0::9", "fec0::/64 fec0::2 fec0::9"),
        ("ipv6-dns=2620:fe::fe", "fec0::/64 fec0::2 2620:fe::fe"),
    ] {
        assert_eq!(ipv6(text), expected, "{text}");
    }
}

#[test]
fn switches_have_every_spelling_of_qemu() {
    for (text, on) in [
        ("restrict", true),
        ("restrict=on", true),
        ("restrict=yes", true),
        ("restrict=true", true),
        ("restrict=y", true),
        ("restrict=off", false),
        ("restrict=no", false),
        ("restrict=false", false),
        ("restrict=n", false),
        ("restrict=on,restrict=off", false),
    ] {
        assert_eq!(parse(text).unwrap().restrict, on, "{text}");
    }
    assert!(parse("full-cone").unwrap().full_cone);
    assert!(!parse("host-loopback=off").unwrap().host_loopback);
    assert!(!parse("disable-host-loopback").unwrap().host_loopback);
    assert!(parse("disable-host-loopback=off").unwrap().host_loopback);
    assert_eq!(error("restrict=maybe"), "`restrict=maybe`: this is neither on nor off; write restrict=on or restrict=off");
}

#[test]
fn what_dhcp_and_dns_are_told() {
    let config = parse(
        "hostname=web,domainname=lan.example.org,dnssearch=a.example,dnssearch=b.example.,tftp-server-name=boot,bootfile=a,,b,ntp=10.0.2.2,\
         ntp=10.0.2.9,lease=52:54:00:12:34:56/10.0.2.20,lease=52-54-0-12-34-57/10.0.2.21,lease-time=600,route=10.9.0.0/16:10.0.2.20,\
         route=10.8.0.0/16,dns-server=9.9.9.9,dns-server=9.9.9.9:5353,dns-server=2620:fe::fe,dns-server=[2620:fe::fe],\
         dns-server=[2620:fe::fe]:5353,mtu=9000",
    )
    .unwrap();
    let dhcp = config.dhcp;
    assert_eq!(dhcp.hostname.as_deref(), Some("web"));
    assert_eq!(dhcp.domain_name.as_deref(), Some("lan.example.org"));
    assert_eq!(dhcp.search, ["a.example", "b.example"]);
    assert_eq!(dhcp.tftp_server_name.as_deref(), Some("boot"));
    assert_eq!(dhcp.bootfile.as_deref(), Some("a,b"));
    assert_eq!(dhcp.ntp, [IpAddr::from([10, 0, 2, 2]), IpAddr::from([10, 0, 2, 9])]);
    let leases: Vec<_> = dhcp.static_leases.iter().map(|(mac, address)| format!("{mac} {address}")).collect();
    assert_eq!(leases, ["52:54:00:12:34:56 10.0.2.20", "52:54:00:12:34:57 10.0.2.21"]);
    assert_eq!(dhcp.lease_time, Duration::from_secs(600));
    let routes: Vec<_> = dhcp.routes.iter().map(|(net, via)| format!("{net} {via}")).collect();
    assert_eq!(routes, ["10.9.0.0/16 10.0.2.20", "10.8.0.0/16 10.0.2.2"]);
    let servers: Vec<_> = config.dns.servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["9.9.9.9:53", "9.9.9.9:5353", "[2620:fe::fe]:53", "[2620:fe::fe]:53", "[2620:fe::fe]:5353"]);
    assert_eq!(config.mtu, 9000);
}

#[test]
fn a_route_leads_to_the_gateway_wherever_that_is_named() {
    let routes = parse("route=10.8.0.0/16,net=10.7.0.0/24,host=10.7.0.9").unwrap().dhcp.routes;
    assert_eq!(routes, [("10.8.0.0/16".parse().unwrap(), Ipv4Addr::new(10, 7, 0, 9))]);
}

#[test]
fn forwards_add_up() {
    let forwards =
        parse("hostfwd=tcp::2222-:22,hostfwd=udp::8000-8010-:8000,hostfwd=tcp:[::1]:80-[fec0::15]:80").unwrap().host_forwards;
    let texts: Vec<_> = forwards.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["tcp:0.0.0.0:2222-:22", "udp:0.0.0.0:8000-8010-:8000", "tcp:[::1]:80-[fec0::15]:80"]);
    assert_eq!((forwards[0].host.protocol(), forwards[0].guest), (Protocol::Tcp, None));
    assert_eq!(forwards[2].guest, Some(IpAddr::V6(Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0x15))));
}

#[test]
fn forwards_may_share_what_is_not_the_same_port() {
    for text in [
        "hostfwd=tcp::80-:80,hostfwd=udp::80-:80",
        "hostfwd=tcp:127.0.0.1:80-:80,hostfwd=tcp:127.0.0.2:80-:80",
        "hostfwd=tcp:[::]:80-:80,hostfwd=tcp::80-:80",
        "hostfwd=tcp::80-89-:80,hostfwd=tcp::90-99-:90",
        "hostfwd=tcp::0-:80,hostfwd=tcp::0-:80",
        "hostfwd=tcp:%lo:80-:80,hostfwd=tcp:%eth0:80-:80",
        "hostfwd=unix:/a-:80,hostfwd=unix:/b-:80,hostfwd=tcp::80-:80",
    ] {
        assert!(parse(text).is_ok(), "{text}");
    }
}

#[test]
fn applied_options_change_what_they_say_and_nothing_else() {
    let mut config = parse("net=10.7.0.0/24,dhcpstart=10.7.0.50,hostfwd=tcp::80-:80,restrict").unwrap();
    apply(&mut config, "dns=10.7.0.9,hostfwd=tcp::81-:81").unwrap();
    let Ipv4Config { net, gateway, dns, dhcp_start } = config.ipv4.clone().unwrap();
    assert_eq!(format!("{net} {gateway} {dns} {dhcp_start}"), "10.7.0.0/24 10.7.0.2 10.7.0.9 10.7.0.50");
    assert!(config.restrict);
    assert_eq!(config.host_forwards.len(), 2);

    let before = config.clone();
    assert!(apply(&mut config, "restrict=off,mtu=9000,hostfwd=tcp::80-:80").is_err());
    assert_eq!(config, before, "all or nothing");

    apply(&mut config, "ipv4=off,hostfwd=tcp::82-[fec0::15]:82").expect_err("two forwards lead to IPv4");
    let mut without = parse("ipv4=off").unwrap();
    apply(&mut without, "net=10.7.0.0/24").unwrap();
    assert!(without.ipv4.is_some(), "whoever names it wants it");
}

#[test]
fn an_error_names_option_value_reason_and_remedy() {
    for (text, expected) in [
        ("foo=1", "`foo` is not an option of the user network: `--help` lists them"),
        ("hostfw=tcp::1-:1", "`hostfw` is not an option of the user network: did you mean `hostfwd`?"),
        ("dnsearch=a", "`dnsearch` is not an option of the user network: did you mean `dnssearch`?"),
        ("=1", "`` is not an option of the user network: `--help` lists them"),
        ("hostname", "`hostname` needs a value: write hostname=guest"),
        ("net=", "`net` needs a value: write net=10.0.2.0/24"),
        ("id", "`id` needs a value: write id=net0"),
        ("net=10.0.2/24", "`net=10.0.2/24`: it does not begin with an IPv4 address; write net=10.0.2.0/24"),
        ("net=10.0.2.0/33", "`net=10.0.2.0/33`: the length of a network is from 4 to 30 bits; write net=10.0.2.0/24"),
        ("net=10.0.2.0/3", "`net=10.0.2.0/3`: the length of a network is from 4 to 30 bits; write net=10.0.2.0/24"),
        ("net=10.0.2.0/31", "`net=10.0.2.0/31`: there is no room for a gateway and a guest; write net=10.0.2.0/24"),
        ("net=10.0.2.0/255.0.255.0", "`net=10.0.2.0/255.0.255.0`: the mask has zeros between its ones; write net=10.0.2.0/24"),
        ("net=10.0.2.0/x", "`net=10.0.2.0/x`: what follows the `/` is neither a length nor a mask; write net=10.0.2.0/24"),
        ("net=127.0.0.0/8", "`net=127.0.0.0/8`: guests cannot have addresses of this kind; write net=10.0.2.0/24"),
        ("net=240.1.2.0", "`net=240.1.2.0`: guests cannot have addresses of this kind; write net=10.0.2.0/24"),
        ("ip=127.0.0.1", "`ip=127.0.0.1`: guests cannot have addresses of this kind; write ip=10.0.2.0"),
        ("host=10.0.3.2", "`host=10.0.3.2`: this is not in the network 10.0.2.0/24; write host=10.0.2.2, or another net"),
        ("host=here", "`host=here`: this is not an IPv4 address; write host=10.0.2.2"),
        (
            "host=10.0.2.255",
            "`host=10.0.2.255`: this is the first or the last address of 10.0.2.0/24, which no host can have; write host=10.0.2.2, or another net",
        ),
        ("dns=10.0.2.2", "`dns=10.0.2.2`: this is the gateway's address (`host`) too; write dns=10.0.2.3"),
        ("host=10.0.2.3", "`dns=10.0.2.3`: this is the gateway's address (`host`) too; write dns=10.0.2.4"),
        ("dns=1.1.1.1,restrict", "`dns=1.1.1.1`: this is not in the network 10.0.2.0/24; write dns=10.0.2.3, or another net"),
        (
            "net=10.5.0.0/30",
            "`dns=10.5.0.3`: this is the first or the last address of 10.5.0.0/30, which no host can have; write an address between the two, or a larger net",
        ),
        (
            "dhcpstart=10.0.3.15",
            "`dhcpstart=10.0.3.15`: this is not in the network 10.0.2.0/24; write dhcpstart=10.0.2.15, or another net",
        ),
        (
            "dhcpstart=10.0.2.2",
            "`dhcpstart=10.0.2.2`: this is the gateway's address (`host`), and cannot be a guest's; write dhcpstart=10.0.2.3",
        ),
        ("ipv6=on,net=10.0.2.0/24", "`net=10.0.2.0/24`: IPv4 is off; write ipv4=on as well, or leave `net` out"),
        ("ipv4=on,ipv6-dns=fec0::9", "`ipv6-dns=fec0::9`: IPv6 is off; write ipv6=on as well, or leave `ipv6-dns` out"),
        ("ipv4=off,ipv6=off", "`ipv4=off`: the other one is off too, and guests would have no network; write on for one of them"),
        (
            "ipv6-net=fd00::/127",
            "`ipv6-net=fd00::/127`: a prefix has 1 to 126 bits here, and 64 for guests that configure themselves; write ipv6-net=fd00::/64",
        ),
        ("ipv6-net=fe80::/64", "`ipv6-net=fe80::/64`: guests cannot have addresses of this kind; write ipv6-net=fd00::/64"),
        ("ipv6-net=10.0.0.0/8", "`ipv6-net=10.0.0.0/8`: it does not begin with an IPv6 address; write ipv6-net=fd00::/64"),
        ("ipv6-host=fd00::2", "`ipv6-host=fd00::2`: this is not in fec0::/64; write ipv6-host=fec0::2, or another ipv6-net"),
        ("ipv6-dns=fec0::2", "`ipv6-dns=fec0::2`: this is the gateway's address (`ipv6-host`) too; write two different addresses"),
        ("mtu=1279", "`mtu=1279`: IPv6 needs packets of 1280 bytes; write mtu=1280 or more, or ipv6=off as well"),
        ("mtu=67,ipv6=off", "`mtu=67`: IPv4 needs packets of 68 bytes; write mtu=68 or more"),
        ("mtu=65521", "`mtu=65521`: a frame has room for a packet of 65520 bytes; write mtu=65520 or less"),
        ("mtu=70000", "`mtu=70000`: this is not a number of bytes from 68 to 65520; write mtu=1500"),
        (
            "hostname=a b",
            "`hostname=a b`: this is not a domain name: it has up to 253 characters, in parts of 1 to 63 letters, digits and hyphens between dots; write hostname=guest",
        ),
        (
            "lease=10.0.2.20",
            "`lease=10.0.2.20`: there is no `/` between the MAC address and the IP address; write lease=52:54:00:12:34:56/10.0.2.20",
        ),
        (
            "lease=52:54:00:12:34:56/10.0.2.2",
            "`lease=52:54:00:12:34:56/10.0.2.2`: 10.0.2.2 is the gateway's address; write an address that a guest can have",
        ),
        (
            "lease=52:54:00:12:34:56/10.0.2.20,lease=52:54:00:12:34:57/10.0.2.20",
            "`lease=52:54:00:12:34:57/10.0.2.20`: the address is kept for 52:54:00:12:34:56 already; write another address",
        ),
        ("lease-time=1", "`lease-time=1`: a guest renews after half of it, and 4 s is the least; write lease-time=86400"),
        ("route=10.9.0.1/16", "`route=10.9.0.1/16`: the destination has bits beyond its length; write route=10.9.0.0/16"),
        (
            "route=10.9.0.0/16:10.1.1.1",
            "`route=10.9.0.0/16:10.1.1.1`: the next hop is not in 10.0.2.0/24; write an address that guests reach without a router",
        ),
        ("route=10.9.0.0/16,ipv4=off", "`route=10.9.0.0/16`: IPv4 is off; write ipv4=on as well"),
        (
            "dns-server=ns.example.org",
            "`dns-server=ns.example.org`: this is not an IP address, with or without a port from 1 on; write dns-server=9.9.9.9 or dns-server=[2620:fe::fe]:53",
        ),
        ("ntp=pool", "`ntp=pool`: this is not an IP address; write ntp=10.0.2.2"),
        (
            "hostfwd=tcp::80-90-:65530",
            "`hostfwd=tcp::80-90-:65530`: 11 ports from 65530 on go past 65535; write hostfwd=tcp:127.0.0.1:2222-:22, in general [tcp|udp]:[HOSTADDR]:PORT[-LAST]-[GUESTADDR]:PORT or unix:PATH-[GUESTADDR]:PORT",
        ),
        (
            "hostfwd=tcp::80-:80,hostfwd=tcp:127.0.0.1:75-85-:75",
            "`hostfwd=tcp:127.0.0.1:75-85-:75`: `hostfwd=tcp:0.0.0.0:80-:80` takes the same port of the host; write another port or another address of the host",
        ),
        (
            "hostfwd=tcp::80-192.168.1.5:80",
            "`hostfwd=tcp:0.0.0.0:80-192.168.1.5:80`: 192.168.1.5 is not in the guests' network 10.0.2.0/24; write an address that a guest can have, such as 10.0.2.15",
        ),
        (
            "hostfwd=tcp::80-[fd00::5]:80",
            "`hostfwd=tcp:0.0.0.0:80-[fd00::5]:80`: the guest's address is not in fec0::/64; write an address in it, or another ipv6-net",
        ),
        (
            "ipv6=on,hostfwd=tcp::80-:80",
            "`hostfwd=tcp:0.0.0.0:80-:80`: without IPv4 there is no first address of DHCP to lead to; write the guest's IPv6 address in brackets before its port",
        ),
    ] {
        assert_eq!(error(text), expected, "{text}");
    }
}

#[test]
fn servers_for_guests_are_read() {
    let config = parse("guestfwd=tcp:10.0.2.100:1234-cmd:awk -F,, '{print $1}',guestfwd=::80-unix:/run/web,restrict").unwrap();
    let forwards: Vec<_> = config.guest_forwards.iter().map(ToString::to_string).collect();
    assert_eq!(forwards, ["tcp:10.0.2.100:1234-cmd:awk -F, '{print $1}'", "tcp::80-unix:/run/web"]);
    let addresses: Vec<_> = config.guest_forwards.iter().filter_map(|forward| config.guest_forward_address(forward)).collect();
    assert_eq!(addresses, ["10.0.2.100:1234".parse().unwrap(), "10.0.2.4:80".parse().unwrap()]);

    let smb = |text: &str| parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    for (text, server) in [
        ("smb=/srv", "10.0.2.4"),
        ("smb=/srv,net=10.7.0.0/24", "10.7.0.4"),
        ("net=10.7.0.0/16,smb=/srv", "10.7.2.4"),
        ("smbserver=10.0.2.9,smb=/srv", "10.0.2.9"),
        ("smbserver=10.0.2.9", "10.0.2.9"),
        ("smb=/srv,guestfwd=::80-cmd:x", "10.0.2.4"),
    ] {
        assert_eq!(smb(text).smb_address().unwrap().to_string(), server, "{text}");
    }
    let SmbConfig { directory, min_protocol, .. } = smb("smb-min-protocol=nt1,smb=/srv/a,,b").smb.unwrap();
    assert_eq!((directory, min_protocol.as_deref()), (Some("/srv/a,b".into()), Some("NT1")));
    assert_eq!(smb("smbserver=10.0.2.9").smb.unwrap().directory, None);
    assert_eq!(parse("").unwrap().smb, None);
}

#[test]
fn servers_for_guests_have_an_address_of_their_own() {
    for (text, reason) in [
        ("guestfwd=tcp:10.0.3.4:80-cmd:x", "10.0.3.4 is not in the guests' network 10.0.2.0/24; write an address in 10.0.2.0/24"),
        ("guestfwd=tcp:10.0.2.2:80-cmd:x", "10.0.2.2 is the gateway's address"),
        ("guestfwd=tcp:10.0.2.3:80-cmd:x", "10.0.2.3 is the DNS server's address"),
        ("guestfwd=tcp:10.0.2.255:80-cmd:x", "10.0.2.255 is the broadcast address"),
        ("guestfwd=tcp:10.0.2.15:80-cmd:x", "10.0.2.15 is the first address that DHCP leases (`dhcpstart`)"),
        ("dhcpstart=10.0.2.4,guestfwd=::80-cmd:x", "without an address it is 10.0.2.4, but 10.0.2.4 is the first address"),
        ("dns=10.0.2.4,guestfwd=::80-cmd:x", "without an address it is 10.0.2.4, but 10.0.2.4 is the DNS server's address"),
        ("net=10.5.0.0/30,dns=9.9.9.9,guestfwd=::80-cmd:x", "without an address it is 10.5.0.0, but 10.5.0.0 is the network's own"),
        ("lease=52:54:00:12:34:56/10.0.2.9,guestfwd=:10.0.2.9:80-cmd:x", "10.0.2.9 is kept for the guest 52:54:00:12:34:56"),
        ("guestfwd=::80-cmd:x,guestfwd=tcp:10.0.2.4:80-unix:/y", "`guestfwd=tcp::80-cmd:x` has port 80 of 10.0.2.4 already"),
        ("smb=/srv,guestfwd=::445-cmd:x", "the SMB server has port 445 of 10.0.2.4 already; write another port"),
        ("ipv4=off,guestfwd=::80-cmd:x", "the address for guests is IPv4, which is off; write an IPv6 address in brackets"),
        ("ipv6=off,guestfwd=:[fec0::4]:80-cmd:x", "the address for guests is IPv6, which is off"),
        ("guestfwd=:[fd00::4]:80-cmd:x", "fd00::4 is not in the guests' network fec0::/64"),
        ("guestfwd=:[fec0::2]:80-cmd:x", "fec0::2 is the gateway's address"),
        ("hostfwd=tcp::80-10.0.2.4:80,smb=/srv", "at 10.0.2.4 there is a server of ours (`guestfwd`, `smbserver`)"),
        ("smb=/srv,dns=10.0.2.4", "`smb=/srv`: without `smbserver` its address is 10.0.2.4, but 10.0.2.4 is the DNS server's"),
        ("smbserver=10.0.2.2", "`smbserver=10.0.2.2`: 10.0.2.2 is the gateway's address; write smbserver=ADDR with an address in"),
        ("smb=/srv,ipv4=off", "`smb=/srv`: the SMB server has an IPv4 address, and IPv4 is off; write ipv4=on as well"),
        ("smb=", "`smb` needs a value: write smb=/srv/share"),
        (
            "smb-min-protocol=NT1",
            "`smb-min-protocol=NT1`: there is no SMB server to speak it; write smb=DIR as well, or leave it out",
        ),
        ("smb=/srv,smb-min-protocol=SMB4", "this is no dialect of SMB, which are CORE, COREPLUS"),
        (
            "guestfwd=udp::80-cmd:x",
            "`udp` is not a protocol in which guests can be served, which is tcp alone; write guestfwd=tcp:10.0.2.4:80",
        ),
        ("guestfwd=::80-chardev:c0", "write its target itself, as tcp:ADDR:PORT, unix:PATH or cmd:COMMAND; write guestfwd=[tcp]"),
    ] {
        let told = error(text);
        assert!(told.contains(reason), "{text}: {told}");
    }
    parse("guestfwd=:10.0.2.16:80-cmd:x,guestfwd=:10.0.2.100:80-tcp:10.10.1.1:4321").expect("leases go around these");
    parse("guestfwd=:[fec0::9]:80-cmd:x,ipv4=off").unwrap();
}

#[test]
fn a_directory_to_boot_from_is_named() {
    assert_eq!(parse("tftp=/srv/a,,b").unwrap().boot.tftp_root, Some("/srv/a,b".into()));
    assert_eq!(parse("").unwrap().boot.tftp_root, None);
    assert!(error("tftp=").contains("`tftp` needs a value"));
}

#[test]
fn names_that_dhcp_has_no_room_for_are_refused() {
    assert!(parse(&format!("bootfile={}", "a".repeat(255))).is_ok());
    assert!(parse(&format!("bootfile={}", "a".repeat(256))).is_err());
    assert!(parse(&format!("domainname={}", ["a"; 127].join("."))).is_ok());
    assert!(parse(&format!("domainname={}", ["a"; 128].join("."))).is_err());
    for wrong in ["dnssearch=a..b", "dnssearch=a..", "domainname=.", "domainname=", "hostname=é"] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn every_option_is_in_the_help_and_known() {
    for name in NAMES {
        assert!(HELP.contains(&format!("{name}=")), "{name} is not in the help");
        assert!(!matches!(parse(name), Err(OptionError::Unknown { .. })), "{name} is in the list and not known");
    }
    assert!(HELP.lines().all(|line| line.len() <= 140));
}

#[test]
fn letters_are_counted() {
    for (one, other, expected) in
        [("", "", 0), ("a", "", 1), ("", "ab", 2), ("net", "ntp", 2), ("dns", "dsn", 2), ("hostfwd", "hostfw", 1)]
    {
        assert_eq!(distance(one, other), expected, "{one} {other}");
        assert_eq!(distance(other, one), expected, "{other} {one}");
    }
}

proptest! {
    #[test]
    fn no_text_is_too_much(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn whatever_is_accepted_is_sound(
        options in prop::collection::vec((prop::sample::select(&NAMES[..]), "(on|off|[0-9a-f.:/-]{0,20}|10\\.0\\.2\\.[0-9]{1,3}(/[0-9]{1,2})?)"), 0..5),
    ) {
        let text: Vec<_> = options.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        if let Ok(config) = parse(&text.join(",")) {
            prop_assert!(config.ipv4.is_some() || config.ipv6.is_some());
            if let Some(Ipv4Config { net, gateway, dns, dhcp_start }) = config.ipv4 {
                for host in [gateway, dhcp_start] {
                    prop_assert!(net.contains(&host) && host != net.broadcast() && host != net.network());
                }
                prop_assert!(gateway != dns && dns != dhcp_start && gateway != dhcp_start);
            }
        }
    }
}
