//! How guests get their addresses: real clients of DHCP and DHCPv6, and the kernel by itself.
//!
//! The clients' scripts are ours and touch nothing of the machine: they write down why they were called, and with what. The tests wait for
//! that.

use e2e::namespace::{Guest, Options};

/// A guest whose interface is up and has no address but that of its link, and a script for the clients, which appends a line to `told`
/// each time that it is called: why, and what is in the environment that has to do with the lease. It assigns an address of dhclient's.
fn unconfigured(user: &str) -> Guest {
    let mut guest = Options::default().user(user).shell();
    guest.succeed("cd $(mktemp -d) && touch leases told");
    // The line is written at once, for who waits for it reads it at once.
    guest.succeed(
        "printf '#!/bin/sh\\n\
         lease=$(env | grep -E \"^(new_|ip=|dns=|lease=|mtu=|domain=|search=|ntpsrv=)\" | sort | tr \"\\\\n\" \" \")\\n\
         echo \"${reason:-$1} $lease\" >>'$PWD'/told\\n\
         [ \"$reason\" != BOUND ] || ip addr add \"$new_ip_address\"/24 dev tap0\\n' >script; chmod +x script",
    );
    guest.succeed("ip -4 addr flush dev tap0; ip -6 addr flush dev tap0 scope site; ip -6 addr flush dev tap0 scope global");
    guest
}

/// Waits until the script was called for this reason, so many times, and returns what it was last told then.
fn told(guest: &mut Guest, reason: &str, times: usize) -> String {
    guest.succeed(&format!(
        "until [ $(grep -c '^{reason}' told) -ge {times} ]; do sleep 0.05; done; grep '^{reason}' told | tail -n 1"
    ))
}

/// The words of a line that begin with `name=`, after that.
fn value<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(&format!(" {name}="))?;
    // The next variable ends it: names of the environment have no spaces.
    Some(rest.split(" new_").next().unwrap_or(rest).split_whitespace().next().unwrap_or_default())
}

#[test]
fn busybox_leases_renews_and_gives_back() {
    let mut guest = unconfigured("domainname=lan.example,ntp=10.0.2.2");
    guest.succeed("busybox udhcpc -i tap0 -f -R -t 5 -O mtu -O ntpsrv -s $PWD/script >log 2>&1 & echo $! >client");
    let bound = told(&mut guest, "bound", 1);
    for (name, expected) in [
        ("ip", "10.0.2.15"),
        ("dns", "10.0.2.3"),
        ("lease", "86400"),
        ("mtu", "1500"),
        ("domain", "lan.example"),
        ("ntpsrv", "10.0.2.2"),
    ] {
        assert_eq!(value(&bound, name), Some(expected), "{bound}");
    }
    // It renews when it is told to, and gives the address back.
    guest.succeed("kill -USR1 $(cat client)");
    assert_eq!(value(&told(&mut guest, "renew", 1), "ip"), Some("10.0.2.15"));
    guest.succeed("kill -USR2 $(cat client)");
    told(&mut guest, "deconfig", 2);
    guest.succeed("kill $(cat client)");
    // Another client finds the address remembered for the first one, and gets the next.
    guest.succeed("busybox udhcpc -i tap0 -n -q -t 5 -x 0x3d:ff0102030405 -s $PWD/script");
    assert_eq!(value(&told(&mut guest, "bound", 2), "ip"), Some("10.0.2.15"), "the same card without an identifier");
}

const DHCLIENT: &str = "dhclient -1 -d -sf $PWD/script -cf /dev/null -lf $PWD/leases -pf $PWD/pid";

#[test]
fn dhclient_leases_renews_and_gives_back() {
    let mut guest = unconfigured("lease-time=4,hostname=web");
    guest.succeed(&format!("{DHCLIENT} -4 tap0 >log 2>&1 & echo $! >client"));
    assert_eq!(value(&told(&mut guest, "BOUND", 1), "new_ip_address"), Some("10.0.2.15"));
    let renewed = told(&mut guest, "RENEW", 1);
    assert_eq!(value(&renewed, "new_ip_address"), Some("10.0.2.15"));
    assert_eq!(value(&renewed, "new_host_name"), Some("web"));
    guest.succeed(&format!("kill $(cat client); {DHCLIENT} -4 -r tap0"));
    told(&mut guest, "RELEASE", 1);
}

#[test]
fn dhclient_leases_an_ipv6_address_renews_it_and_gives_it_back() {
    let mut guest = unconfigured("ipv6-net=fd00:7::/64,lease-time=8,dnssearch=lab.example");
    guest.succeed(&format!("{DHCLIENT} -6 tap0 >log 2>&1 & echo $! >client"));
    let bound = told(&mut guest, "BOUND6", 1);
    for (name, expected) in [
        ("new_ip6_address", "fd00:7::15"),
        ("new_preferred_life", "6"),
        ("new_max_life", "8"),
        ("new_dhcp6_name_servers", "fd00:7::3"),
        ("new_dhcp6_domain_search", "lab.example."),
    ] {
        assert_eq!(value(&bound, name), Some(expected), "{bound}");
    }
    // It uses the address, while it renews it over and over.
    guest.succeed("ip addr add fd00:7::15/64 dev tap0 nodad && ping -n -c 1 -W 5 fd00:7::2");
    assert_eq!(value(&told(&mut guest, "RENEW6", 2), "new_ip6_address"), Some("fd00:7::15"));
    guest.succeed(&format!("kill $(cat client); {DHCLIENT} -6 -r tap0 >released 2>&1"));
    // It does not wait for the answer.
    guest.succeed("grep -q 'XMT: Release on tap0' released");
    told(&mut guest, "RELEASE6", 1);
}

#[test]
fn dhclient_asks_for_everything_but_an_address() {
    let mut guest = unconfigured("dnssearch=lab.example");
    guest.succeed(&format!("{DHCLIENT} -6 -S tap0 >log 2>&1 & echo $! >client"));
    // It calls its script like that, though there is nothing to renew.
    let bound = told(&mut guest, "RENEW6", 1);
    assert_eq!(value(&bound, "new_dhcp6_name_servers"), Some("fec0::3"), "{bound}");
    assert_eq!(value(&bound, "new_dhcp6_domain_search"), Some("lab.example."), "{bound}");
    assert_eq!(value(&bound, "new_ip6_address"), None, "{bound}");
}

#[test]
fn the_kernel_makes_an_address_for_itself_and_finds_the_way_out() {
    let mut guest = unconfigured("ipv6-net=fd00:8::/64");
    guest.succeed("cd /proc/sys/net/ipv6/conf/tap0 && echo 1 >autoconf && echo 1 >accept_ra && cd - >/dev/null");
    guest.succeed("ip -6 route flush default; ip link set tap0 down; ip link set tap0 up");
    let address = "ip -6 -o addr show dev tap0 dynamic";
    guest.succeed(&format!("until {address} | grep -q fd00:8:; do sleep 0.05; done"));
    let made = guest.succeed(address);
    assert!(made.contains("/64") && made.contains("valid_lft 86"), "{made}");
    let way = guest.succeed("ip -6 route show default");
    assert!(way.contains("via fe80::2") && way.contains("proto ra"), "{way}");
    guest.succeed("until ping -n -c 1 -W 1 fd00:8::2 >/dev/null; do sleep 0.05; done");
}

#[test]
fn the_kernel_makes_no_address_out_of_a_prefix_of_another_length() {
    let mut guest = unconfigured("ipv6-net=fd00:9::/120");
    guest.succeed("cd /proc/sys/net/ipv6/conf/tap0 && echo 1 >autoconf && echo 1 >accept_ra && cd - >/dev/null");
    guest.succeed("ip -6 route flush default; ip link set tap0 down; ip link set tap0 up");
    guest.succeed("until ip -6 route show default | grep -q 'proto ra'; do sleep 0.05; done");
    assert_eq!(guest.succeed("ip -6 -o addr show dev tap0 dynamic"), "");
    // But it knows who is on the link, and gets an address by asking.
    assert!(guest.succeed("ip -6 route show dev tap0").contains("fd00:9::/120"));
    guest.succeed(&format!("{DHCLIENT} -6 tap0 >log 2>&1 & echo $! >client"));
    assert_eq!(value(&told(&mut guest, "BOUND6", 1), "new_ip6_address"), Some("fd00:9::15"));
    guest.succeed("kill $(cat client)");
}

#[test]
fn a_restricted_guest_gets_an_address_and_no_way_out() {
    let mut guest = unconfigured("restrict=on");
    guest.succeed("busybox udhcpc -i tap0 -n -q -t 5 -s $PWD/script");
    let bound = told(&mut guest, "bound", 1);
    assert_eq!(value(&bound, "ip"), Some("10.0.2.15"));
    assert_eq!(value(&bound, "dns"), None, "{bound}");
    guest.succeed("cd /proc/sys/net/ipv6/conf/tap0 && echo 1 >autoconf && echo 1 >accept_ra && cd - >/dev/null");
    guest.succeed("ip -6 route flush default; ip link set tap0 down; ip link set tap0 up");
    guest.succeed("until ip -6 -o addr show dev tap0 dynamic | grep -q fec0:; do sleep 0.05; done");
    assert_eq!(guest.succeed("ip -6 route show default"), "");
    // The virtual hosts are there, and that is all.
    guest.succeed("until ping -n -c 1 -W 1 fec0::2 >/dev/null; do sleep 0.05; done; ping -n -c 1 -W 5 fec0::3");
}
