//! A gibibyte in each direction, with every byte looked at: nothing is lost, repeated or exchanged.

use e2e::LONG_PATIENCE;
use e2e::host::http::Http;
use e2e::host::{LOOPBACK, LOOPBACK6, seen_by_guests};
use e2e::namespace::Options;

const GIB: u64 = 1 << 30;

#[test]
fn a_gibibyte_each_way_with_packets_of_ethernet() {
    both_ways(1500, LOOPBACK, GIB);
}

#[test]
fn a_gibibyte_each_way_with_the_largest_packets() {
    both_ways(65520, LOOPBACK, GIB);
}

#[test]
fn ipv6_carries_as_much() {
    both_ways(1500, LOOPBACK6, GIB / 4);
}

fn both_ways(mtu: u32, ip: std::net::IpAddr, len: u64) {
    let server = Http::at(ip);
    let url = format!("http://{}", seen_by_guests(server.address));
    let mut guest = Options::default().mtu(mtu).shell();
    let expected = format!("{len} bytes as expected");
    let down = format!("curl -sS '{url}/{len}' | e2e-guest check");
    assert_eq!(guest.run_within(LONG_PATIENCE, &down).success(), expected);
    let up = format!("e2e-guest write {len} | curl -sS -T - '{url}/'");
    assert_eq!(guest.run_within(LONG_PATIENCE, &up).success(), expected);
}
