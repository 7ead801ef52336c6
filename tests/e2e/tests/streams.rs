//! TCP between a guest and the host, in every way in which a connection can begin and end.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use e2e::host::{Echo, LOOPBACK, LOOPBACK6, free_ports, listen, seen_by_guests};
use e2e::namespace::{Guest, Options};
use e2e::pattern;
use e2e::unprivileged::Surroundings;
use e2e::wait::accept;

const MIB: u64 = 1 << 20;

#[test]
fn two_hundred_connections_live_side_by_side() {
    for ip in [LOOPBACK, LOOPBACK6] {
        let echo = Echo::at(ip);
        let mut guest = Guest::new();
        assert_eq!(guest.succeed(&format!("e2e-guest parallel {} 200", seen_by_guests(echo.address))), "200 open, 0 refused");
        assert_eq!(echo.most_at_once(), 200);
    }
}

#[test]
fn the_host_still_sends_after_the_guest_has_closed() {
    for ip in [LOOPBACK, LOOPBACK6] {
        let (listener, address) = listen(ip);
        let host = thread::spawn(move || {
            let connection = accept(&listener);
            let seen = pattern::check(&connection, None).unwrap();
            pattern::write(&connection, 5 * MIB).unwrap();
            seen
        });
        let mut guest = Guest::new();
        let told = guest.succeed(&format!("e2e-guest half-close {} {}", seen_by_guests(address), 3 * MIB));
        assert_eq!(told, format!("{} bytes as expected", 5 * MIB));
        assert_eq!(host.join().unwrap(), 3 * MIB);
    }
}

#[test]
fn the_guest_still_sends_after_the_host_has_closed() {
    let (listener, address) = listen(LOOPBACK);
    let host = thread::spawn(move || {
        let connection = accept(&listener);
        pattern::write(&connection, 5 * MIB).unwrap();
        connection.shutdown(Shutdown::Write).unwrap();
        pattern::check(&connection, None).unwrap()
    });
    let mut guest = Guest::new();
    let told = guest.succeed(&format!("e2e-guest send-after-end {} {}", seen_by_guests(address), 3 * MIB));
    assert_eq!(told, format!("{} bytes as expected", 5 * MIB));
    assert_eq!(host.join().unwrap(), 3 * MIB);
}

#[test]
fn a_reset_of_the_host_is_a_reset_for_the_guest() {
    let (listener, address) = listen(LOOPBACK);
    let host = thread::spawn(move || {
        let mut connection = accept(&listener);
        connection.read_exact(&mut [0]).unwrap();
        connection.write_all(b"!").unwrap();
        rustix::net::sockopt::set_socket_linger(&connection, Some(Duration::ZERO)).unwrap();
    });
    let mut guest = Guest::new();
    assert_eq!(guest.run(&format!("e2e-guest await-end {}", seen_by_guests(address))).failure(), "ConnectionReset");
    host.join().unwrap();
}

#[test]
fn a_reset_of_the_guest_is_a_reset_for_the_host() {
    let (listener, address) = listen(LOOPBACK);
    let host = thread::spawn(move || {
        let mut connection = accept(&listener);
        connection.read_exact(&mut [0]).unwrap();
        connection.write_all(b"!").unwrap();
        connection.read(&mut [0]).map_err(|error| error.kind())
    });
    let mut guest = Guest::new();
    assert_eq!(guest.succeed(&format!("e2e-guest reset {}", seen_by_guests(address))), "reset");
    assert_eq!(host.join().unwrap(), Err(ErrorKind::ConnectionReset));
}

#[test]
fn an_end_of_file_is_no_reset() {
    let (listener, address) = listen(LOOPBACK);
    let host = thread::spawn(move || {
        let mut connection = accept(&listener);
        connection.read_exact(&mut [0]).unwrap();
        connection.write_all(b"!and a farewell").unwrap();
    });
    let mut guest = Guest::new();
    let told = guest.succeed(&format!("e2e-guest await-end {}", seen_by_guests(address)));
    assert_eq!(told, "end of file after 14 bytes");
    host.join().unwrap();
}

#[test]
fn a_port_where_nobody_listens_refuses() {
    let port = free_ports(1);
    let mut guest = Guest::new();
    for gateway in ["10.0.2.2", "[fec0::2]"] {
        assert_eq!(guest.run(&format!("e2e-guest connect {gateway}:{port}")).failure(), "ConnectionRefused");
    }
}

#[test]
fn a_network_that_the_host_cannot_reach_is_unreachable_for_the_guest() {
    let nowhere = Surroundings { without_network: true, ..Surroundings::default() };
    let mut guest = Options::default().surroundings(nowhere).shell();
    for remote in ["192.0.2.1:80", "[2001:db8::1]:80"] {
        let told = guest.run(&format!("e2e-guest connect {remote}")).failure();
        assert!(["HostUnreachable", "NetworkUnreachable"].contains(&told.as_str()), "{remote}: {told}");
    }
}

#[test]
fn a_restricted_guest_reaches_nobody() {
    let echo = Echo::at(LOOPBACK);
    let mut guest = Options::default().user("restrict=on").shell();
    let told = guest.run(&format!("e2e-guest connect {}", seen_by_guests(echo.address)));
    assert_ne!(told.status, 0, "{told}");
    guest.succeed("ping -n -c 1 -W 5 10.0.2.2");
}

#[test]
fn the_loopback_of_the_host_can_be_closed_to_guests() {
    let echo = Echo::at(LOOPBACK);
    let mut guest = Options::default().user("host-loopback=off").shell();
    let told = guest.run(&format!("e2e-guest connect {}", seen_by_guests(echo.address)));
    assert_ne!(told.status, 0, "{told}");
    guest.succeed("ping -n -c 1 -W 5 10.0.2.2");
}

#[test]
fn connections_beyond_the_limit_of_descriptors_are_refused_until_others_end() {
    let echo = Echo::at(LOOPBACK);
    let address = seen_by_guests(echo.address);
    let few = Surroundings { open_files: Some(64), ..Surroundings::default() };
    let mut guest = Options::default().surroundings(few).attached();
    let told = guest.background(&format!("e2e-guest parallel --hold {address} 100"));
    let (open, refused) = told.strip_suffix(" refused").and_then(|counts| counts.split_once(" open, ")).unwrap();
    let (open, refused): (usize, usize) = (open.parse().unwrap(), refused.parse().unwrap());
    assert_eq!(open + refused, 100);
    assert!(open >= 16, "only {open} of 64 descriptors were used for connections");
    assert!(refused >= 36, "{open} connections with 64 descriptors");
    // Those that are open work on, and when they end there is room again.
    guest.succeed("kill $!; wait $! 2>/dev/null; true");
    guest.succeed(&format!("until e2e-guest connect {address}; do :; done"));
    assert_eq!(guest.succeed(&format!("e2e-guest parallel {address} 10")), "10 open, 0 refused");
}
