//! UDP between a guest and the host, and the manners of its address translation (RFC 4787).

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;

use e2e::host::{Echo, LOOPBACK, LOOPBACK6, seen_by_guests};
use e2e::namespace::{Guest, Options};

#[test]
fn datagrams_of_every_size_come_back_unchanged() {
    for ip in [LOOPBACK, LOOPBACK6] {
        let echo = Echo::at(ip);
        let to = seen_by_guests(echo.address);
        let mut guest = Guest::new();
        for len in [0, 1, 512, 1400, 1452] {
            assert_eq!(
                guest.succeed(&format!("e2e-guest datagrams {to} {len} 20")),
                "20 datagrams as expected",
                "{len} bytes to {to}"
            );
        }
    }
}

#[test]
fn large_datagrams_fit_into_large_packets() {
    let echo = Echo::at(LOOPBACK);
    let mut guest = Options::default().mtu(65520).shell();
    for len in [9000, 60_000] {
        let told = guest.succeed(&format!("e2e-guest datagrams {} {len} 20", seen_by_guests(echo.address)));
        assert_eq!(told, "20 datagrams as expected", "{len} bytes");
    }
}

#[test]
fn datagrams_larger_than_the_link_go_both_ways_in_fragments() {
    for ip in [LOOPBACK, LOOPBACK6] {
        let echo = Echo::at(ip);
        let to = seen_by_guests(echo.address);
        let mut guest = Guest::new();
        for len in [1600, 4000, 30_000, 65_000] {
            let told = guest.succeed(&format!("e2e-guest datagrams {to} {len} 20"));
            assert_eq!(told, "20 datagrams as expected", "{len} bytes to {to}");
        }
    }
}

#[test]
fn the_gateway_answers_pings_of_twenty_thousand_bytes() {
    let mut guest = Guest::new();
    for gateway in ["10.0.2.2", "fec0::2"] {
        let told = guest.succeed(&format!("ping -n -c 3 -i 0.2 -W 5 -s 20000 {gateway}"));
        assert!(told.contains("3 received"), "{told}");
    }
}

/// A server that answers with the address from which it was asked; before that, it may let a stranger send to that address.
fn mirror(before: impl Fn(SocketAddr) + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((_, from)) = socket.recv_from(&mut [0; 64]) {
            before(from);
            let _ = socket.send_to(from.to_string().as_bytes(), from);
        }
    });
    address
}

#[test]
fn one_socket_of_the_guest_is_one_address_for_everyone() {
    let servers = [(); 3].map(|()| seen_by_guests(mirror(|_| ())).to_string());
    let mut guest = Guest::new();
    let seen = guest.succeed(&format!("e2e-guest ask {}", servers.join(" ")));
    let mut seen: Vec<_> = seen.split(' ').collect();
    assert_eq!(seen.len(), 3);
    seen.dedup();
    assert_eq!(seen.len(), 1, "RFC 4787 section 4.1: endpoint-independent mapping: {seen:?}");
}

/// A server that lets a stranger, at another address of this machine, send to the guest's mapping before it answers itself.
fn preceded_by_a_stranger() -> SocketAddr {
    // The machine's address in its network, if it has one: what comes from a loopback address, the guest's kernel drops by itself.
    let towards_others = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let ours = towards_others.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).and_then(|()| towards_others.local_addr());
    let ours = ours.map_or_else(|_| Ipv4Addr::new(127, 0, 0, 99).into(), |address| address.ip());
    let stranger = UdpSocket::bind((ours, 0)).unwrap();
    mirror(move |mapping| {
        stranger.send_to(b"let me in", mapping).unwrap();
    })
}

#[test]
fn a_stranger_does_not_reach_the_guest() {
    let server = preceded_by_a_stranger();
    let mut guest = Guest::new();
    // The stranger's datagram was sent first; only that of the server is received.
    let told = guest.succeed(&format!("e2e-guest ask {}", seen_by_guests(server)));
    assert!(told.starts_with("127.0.0.1:"), "{told}");
}
