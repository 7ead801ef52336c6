//! Pinging the world, and finding the way there: real clients, behind the engine, across a real router.
//!
//! The host is 192.0.2.1, the router 192.0.2.254; behind it, across a link that takes packets of 1300 bytes, is 198.51.100.7. IPv6
//! likewise. See [`Surroundings::routed`].

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

use e2e::namespace::{Guest, Options};
use e2e::unprivileged::Surroundings;

const FAR: &str = "198.51.100.7";
const FAR6: &str = "2001:db8:1::7";
const ROUTER: &str = "192.0.2.254";
const ROUTER6: &str = "2001:db8::fe";
const HOST: &str = "192.0.2.1";
const HOST6: &str = "2001:db8::1";

fn guest() -> Guest {
    Options::default().surroundings(Surroundings { routed: true, ..Surroundings::default() }).shell()
}

/// The addresses in the lines of `traceroute -n`, by hop.
fn hops(told: &str) -> Vec<&str> {
    told.lines().skip(1).map(|line| line.split_whitespace().nth(1).unwrap()).collect()
}

#[test]
fn a_guest_pings_the_world() {
    let mut guest = guest();
    for target in [FAR, FAR6] {
        let told = guest.succeed(&format!("ping -n -c 3 -i 0.2 -W 5 {target}"));
        assert!(told.contains("3 received, 0% packet loss"), "{told}");
        // The far host begins with 64; the router and the gateway are on the way back.
        assert!(told.contains("icmp_seq=1 ttl=62") && told.contains("icmp_seq=3 ttl=62"), "{told}");
    }
    // Two at once are two identifiers.
    let told =
        guest.succeed(&format!("ping -n -c 5 -i 0.2 -W 5 {FAR} >one & ping -n -c 5 -i 0.2 -W 5 {FAR} >two; wait; cat one two"));
    assert_eq!(told.matches("5 received, 0% packet loss").count(), 2, "{told}");
}

#[test]
fn large_echo_requests_are_cut_where_they_may_be() {
    let mut guest = guest();
    for (target, len) in [(FAR, 1400), (FAR, 4000), (FAR6, 4000)] {
        let told = guest.succeed(&format!("ping -n -c 2 -i 0.2 -W 5 -M dont -s {len} {target}"));
        assert!(told.contains("2 received, 0% packet loss"), "{told}");
    }
}

#[test]
fn a_ping_that_must_not_be_cut_is_told_what_the_way_takes() {
    let mut guest = guest();
    let told = guest.run(&format!("ping -n -c 1 -W 5 -M do -s 1400 {FAR}")).failure();
    assert!(told.contains(&format!("From {ROUTER} icmp_seq=1 Frag needed and DF set (mtu = 1300)")), "{told}");
    let told = guest.run(&format!("ping -n -c 1 -W 5 -M do -s 1400 {FAR6}")).failure();
    assert!(told.contains(&format!("From {ROUTER6} icmp_seq=1 Packet too big: mtu=1300")), "{told}");
    // The guest's kernel has learnt from it.
    for target in [FAR, FAR6] {
        assert!(guest.succeed(&format!("ip route get {target}")).contains("mtu 1300"));
    }
    guest.succeed(&format!("ping -n -c 1 -W 5 -M do -s 1272 {FAR}"));
    guest.succeed(&format!("ping -n -c 1 -W 5 -M do -s 1252 {FAR6}"));
}

#[test]
fn a_ping_with_few_hops_is_answered_by_who_is_there() {
    let mut guest = guest();
    for (target, gateway, router) in [(FAR, "10.0.2.2", ROUTER), (FAR6, "fec0::2", ROUTER6)] {
        for (hops, who) in [(1, gateway), (2, router)] {
            let told = guest.run(&format!("ping -n -c 1 -W 5 -t {hops} {target}")).failure();
            assert!(told.contains(&format!("From {who} icmp_seq=1 Time")) && told.contains("exceeded"), "{told}");
        }
        guest.succeed(&format!("ping -n -c 1 -W 5 -t 3 {target}"));
    }
}

#[test]
fn traceroute_finds_the_way_by_datagrams_and_by_echo_requests() {
    let mut guest = guest();
    for (target, gateway, router) in [(FAR, "10.0.2.2", ROUTER), (FAR6, "fec0::2", ROUTER6)] {
        for by in ["-U", "-I"] {
            let told = guest.succeed(&format!("traceroute -n {by} -w 5 -q 2 {target}"));
            assert_eq!(hops(&told), [gateway, router, target], "{told}");
        }
        // What it uses unless it is told otherwise: a port more for each datagram.
        let told = guest.succeed(&format!("traceroute -n -w 5 {target}"));
        assert_eq!(hops(&told), [gateway, router, target], "{told}");
        assert!(!told.contains('*'), "{told}");
    }
    // The gateway is the host's loopback address, where nobody listens at these ports.
    for gateway in ["10.0.2.2", "fec0::2"] {
        let told = guest.succeed(&format!("traceroute -n -w 5 {gateway}"));
        assert_eq!(hops(&told), [gateway], "{told}");
    }
}

#[test]
fn tracepath_finds_the_narrow_link() {
    let mut guest = guest();
    for (target, router) in [(FAR, ROUTER), (FAR6, ROUTER6)] {
        let told = guest.succeed(&format!("tracepath -n {target}"));
        assert!(told.contains(" pmtu 1500"), "{told}");
        assert!(told.contains(" pmtu 1300"), "{told}");
        assert!(told.contains(&format!("2:  {router}")), "{told}");
        assert!(told.contains("reached") && told.contains("Resume: pmtu 1300 hops 3"), "{told}");
    }
}

#[test]
fn who_is_not_there_is_told_of_without_an_address_of_the_host() {
    let mut guest = guest();
    // Behind the router, which says so; and on the host's own link, which the host itself has to say.
    for (absent, who, secret) in [
        ("198.51.100.99", ROUTER, HOST),
        ("2001:db8:1::99", ROUTER6, HOST6),
        ("192.0.2.99", "10.0.2.2", HOST),
        ("2001:db8::99", "fec0::2", HOST6),
    ] {
        let told = guest.run(&format!("ping -n -c 1 -W 10 {absent}")).failure();
        assert!(told.contains(&format!("From {who} icmp_seq=1 Destination")), "{told}");
        assert!(!told.contains(&format!("From {secret} ")), "{told}");
    }
    // No way at all.
    let told = guest.run("ping -n -c 1 -W 5 203.0.113.1").failure();
    assert!(told.contains("Destination Net Unreachable"), "{told}");
}

#[test]
fn what_is_not_allowed_is_said_once_and_not_pretended() {
    let forbidden = Surroundings { routed: true, ping_forbidden: true, ..Surroundings::default() };
    let pings = format!("ping -n -c 1 -W 5 {FAR}; ping -n -c 1 -W 5 {FAR6}; ping -n -c 1 -W 5 10.0.2.2");
    let output = Options::default().surroundings(forbidden).output(&["sh", "-c", &pings]);
    let (told, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("From 10.0.2.2 icmp_seq=1 Packet filtered"), "{told}");
    assert!(told.contains("From fec0::2 icmp_seq=1 Destination unreachable: Administratively prohibited"), "{told}");
    assert!(told.contains("1 received"), "the gateway itself still answers: {told}");
    assert_eq!(log.matches("sysctl -w net.ipv4.ping_group_range=\"0 2147483647\"").count(), 1, "{log}");
    // Datagrams need no permission.
    let output = Options::default().surroundings(forbidden).output(&["traceroute", "-n", "-w", "5", FAR]);
    assert_eq!(hops(&String::from_utf8_lossy(&output.stdout)), ["10.0.2.2", ROUTER, FAR]);
}
