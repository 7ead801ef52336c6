//! Names, as guests resolve them: with real clients, against a resolver on the host that the test plays.

use e2e::host::dns::{Dns, TEXT_LEN};
use e2e::host::{LOOPBACK, LOOPBACK6};
use e2e::namespace::{Guest, Options};

/// A guest whose questions end at `server`.
fn guest_of(server: &Dns) -> Guest {
    Options::default().user(&format!("dns-server={}", server.address)).shell()
}

const DIG: &str = "dig +short +tries=1 +time=10";

#[test]
fn a_name_of_the_world_is_resolved_over_udp_and_tcp() {
    let server = Dns::at(LOOPBACK);
    let mut guest = guest_of(&server);
    assert_eq!(guest.succeed(&format!("{DIG} @10.0.2.3 udp.example.test")), "192.0.2.77");
    assert_eq!(guest.succeed(&format!("{DIG} +tcp @10.0.2.3 tcp.example.test")), "192.0.2.77");
    assert_eq!(guest.succeed(&format!("{DIG} @fec0::3 six.example.test")), "192.0.2.77");
    assert!(server.questions() >= 3);
}

#[test]
fn the_c_library_of_the_guest_finds_the_server_by_itself() {
    let server = Dns::at(LOOPBACK);
    let mut guest = guest_of(&server);
    let told = guest.succeed("getent ahostsv4 library.example.test");
    assert!(told.contains("192.0.2.77"), "{told}");
}

#[test]
fn the_host_and_the_gateway_have_names() {
    let mut guest = Guest::new();
    for name in ["host.slipway.internal", "gateway.slipway.internal"] {
        assert_eq!(guest.succeed(&format!("{DIG} @10.0.2.3 {name}")), "10.0.2.2");
        assert_eq!(guest.succeed(&format!("{DIG} +tcp @10.0.2.3 {name}")), "10.0.2.2");
        assert_eq!(guest.succeed(&format!("{DIG} @10.0.2.3 AAAA {name}")), "fec0::2");
    }
}

#[test]
fn a_record_of_an_unknown_type_passes_through() {
    let server = Dns::at(LOOPBACK);
    let mut guest = guest_of(&server);
    let told = guest.succeed(&format!("{DIG} @10.0.2.3 TYPE65400 odd.example.test"));
    assert_eq!(told.to_uppercase(), "\\# 5 DEADBEEF42");
}

#[test]
fn an_answer_too_long_for_a_datagram_comes_over_tcp() {
    let server = Dns::at(LOOPBACK);
    let mut guest = guest_of(&server);
    let cut = guest.succeed("dig +noedns +ignore +tries=1 +time=10 @10.0.2.3 TXT long.example.test");
    assert!(cut.lines().any(|line| line.contains("flags:") && line.contains(" tc")), "{cut}");
    let whole = guest.succeed(&format!("{DIG} +noedns @10.0.2.3 TXT long.example.test"));
    assert_eq!(whole.chars().filter(|character| *character == 'x').count(), TEXT_LEN, "{whole}");
}

#[test]
fn what_was_asked_before_is_known() {
    let server = Dns::at(LOOPBACK);
    let mut guest = guest_of(&server);
    for _ in 0..5 {
        assert_eq!(guest.succeed(&format!("{DIG} @10.0.2.3 again.example.test")), "192.0.2.77");
    }
    assert_eq!(server.questions(), 1);
}

#[test]
fn dig_with_every_wish_of_edns_is_answered_over_both_families() {
    let server = Dns::at(LOOPBACK);
    let mut guest = guest_of(&server);
    for dns in ["10.0.2.3", "fec0::3"] {
        let whole = "dig +tries=1 +time=10 +bufsize=4096 +nsid +dnssec +cookie";
        let told = guest.succeed(&format!("{whole} @{dns} wishes.example.test"));
        assert!(told.contains("status: NOERROR") && told.contains("192.0.2.77"), "{told}");
        assert!(told.contains("EDNS: version: 0"), "{told}");
        // An option that nobody knows, and a version that is none yet (RFC 6891 section 6.1.3).
        let told = guest.succeed(&format!("dig +tries=1 +time=10 +ednsopt=65001:c0ffee @{dns} option.example.test"));
        assert!(told.contains("status: NOERROR") && told.contains("192.0.2.77"), "{told}");
        let told = guest.succeed(&format!("dig +tries=1 +time=10 +edns=1 +noednsnegotiation @{dns} version.example.test"));
        assert!(told.contains("status: BADVERS"), "{told}");
    }
}

#[test]
fn long_answers_and_unknown_types_pass_over_ipv6_too() {
    let server = Dns::at(LOOPBACK6);
    let mut guest = guest_of(&server);
    for dns in ["10.0.2.3", "fec0::3"] {
        let name = if dns.contains(':') { "six.example.test" } else { "four.example.test" };
        let cut = guest.succeed(&format!("dig +bufsize=1232 +ignore +tries=1 +time=10 @{dns} TXT {name}"));
        assert!(cut.lines().any(|line| line.contains("flags:") && line.contains(" tc")), "{cut}");
        let whole = guest.succeed(&format!("{DIG} +bufsize=1232 @{dns} TXT {name}"));
        assert_eq!(whole.chars().filter(|character| *character == 'x').count(), TEXT_LEN, "{whole}");
        let told = guest.succeed(&format!("{DIG} @{dns} TYPE65400 {name}"));
        assert_eq!(told.to_uppercase(), "\\# 5 DEADBEEF42");
        // Nobody has an answer of this type: no data, and no error.
        let told = guest.succeed(&format!("dig +tries=1 +time=10 @{dns} TYPE65534 {name}"));
        assert!(told.contains("status: NOERROR") && told.contains("ANSWER: 0"), "{told}");
    }
}
