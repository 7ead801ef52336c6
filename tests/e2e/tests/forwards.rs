//! Ports of the host that lead to a guest.

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use e2e::host::{LOOPBACK, LOOPBACK6, free_ports};
use e2e::namespace::Options;
use e2e::wait::limit;

/// Connects, checks that what is sent comes back, and returns the client's own address and the one that the guest has seen.
fn over_tcp(ip: IpAddr, port: u16) -> (SocketAddr, SocketAddr) {
    let mut connection = TcpStream::connect((ip, port)).unwrap();
    limit(&connection);
    let mut reader = BufReader::new(connection.try_clone().unwrap());
    let mut seen = String::new();
    reader.read_line(&mut seen).unwrap();
    connection.write_all(b"over and back\n").unwrap();
    let mut echo = String::new();
    reader.read_line(&mut echo).unwrap();
    assert_eq!(echo, "over and back\n");
    (connection.local_addr().unwrap(), seen.trim().parse().unwrap())
}

/// Asks by a datagram, and returns the client's own address and the one that the guest has seen.
fn over_udp(ip: IpAddr, port: u16) -> (SocketAddr, SocketAddr) {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_read_timeout(Some(e2e::PATIENCE)).unwrap();
    socket.connect((ip, port)).unwrap();
    socket.send(b"?").unwrap();
    let mut answer = [0; 64];
    let len = socket.recv(&mut answer).unwrap();
    (socket.local_addr().unwrap(), std::str::from_utf8(&answer[..len]).unwrap().parse().unwrap())
}

#[test]
fn both_protocols_and_both_families_lead_to_the_guest() {
    let port = free_ports(1);
    let rules: Vec<_> = ["tcp", "udp"]
        .iter()
        .flat_map(|protocol| {
            [format!("hostfwd={protocol}:127.0.0.1:{port}-:80"), format!("hostfwd={protocol}:[::1]:{port}-[fec0::15]:80")]
        })
        .collect();
    let mut guest = Options::default().user(&rules.join(",")).shell();
    assert_eq!(guest.background("e2e-guest mirror 10.0.2.15 80"), "ready");
    assert_eq!(guest.background("e2e-guest mirror fec0::15 80"), "ready");
    for (ip, gateway) in [(LOOPBACK, "10.0.2.2"), (LOOPBACK6, "fec0::2")] {
        for (client, seen) in [over_tcp(ip, port), over_udp(ip, port)] {
            // A loopback address means something else in the guest; it sees the gateway, and the client's own port.
            assert_eq!(seen, SocketAddr::new(gateway.parse().unwrap(), client.port()));
        }
    }
}

#[test]
fn datagrams_larger_than_the_guests_link_pass_a_forward_both_ways() {
    let port = free_ports(1);
    let rules = format!("hostfwd=udp:127.0.0.1:{port}-:80,hostfwd=udp:[::1]:{port}-[fec0::15]:80");
    let mut guest = Options::default().user(&rules).shell();
    assert_eq!(guest.background("e2e-guest mirror 10.0.2.15 80"), "ready");
    assert_eq!(guest.background("e2e-guest mirror fec0::15 80"), "ready");
    for ip in [LOOPBACK, LOOPBACK6] {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_read_timeout(Some(e2e::PATIENCE)).unwrap();
        socket.connect((ip, port)).unwrap();
        for len in [2000, 30_000, 65_000_usize] {
            let datagram: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            socket.send(&datagram).unwrap();
            let mut answer = vec![0; 65_535];
            let got = socket.recv(&mut answer).unwrap();
            assert!(answer[..got] == datagram, "{got} bytes came back of {len} to {ip}");
        }
    }
}

#[test]
fn a_range_of_ports_leads_to_a_range_of_ports() {
    let first = free_ports(3);
    let last = first + 2;
    let rules = format!("hostfwd=tcp:127.0.0.1:{first}-{last}-:7000,hostfwd=udp:127.0.0.1:{first}-{last}-:7000");
    let mut guest = Options::default().user(&rules).shell();
    assert_eq!(guest.background("e2e-guest mirror 10.0.2.15 7000 7001 7002"), "ready");
    for port in first..=last {
        over_tcp(LOOPBACK, port);
        over_udp(LOOPBACK, port);
    }
}

#[test]
fn many_clients_are_served_at_once() {
    let port = free_ports(1);
    let mut guest = Options::default().user(&format!("hostfwd=tcp:127.0.0.1:{port}-:80")).shell();
    assert_eq!(guest.background("e2e-guest mirror 10.0.2.15 80"), "ready");
    let clients: Vec<_> = (0..50).map(|_| std::thread::spawn(move || over_tcp(LOOPBACK, port))).collect();
    let mut seen: Vec<_> = clients.into_iter().map(|client| client.join().unwrap().1).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 50);
}

#[test]
fn a_client_is_reset_when_nobody_listens_in_the_guest() {
    let port = free_ports(1);
    let _guest = Options::default().user(&format!("hostfwd=tcp:127.0.0.1:{port}-:80")).shell();
    let outcome = TcpStream::connect((LOOPBACK, port)).and_then(|mut connection| {
        limit(&connection);
        connection.read(&mut [0])
    });
    let error = outcome.expect_err("an end of file would look like a server that has nothing to say");
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused), "{error}");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let refused = Options::default().user(&format!("hostfwd=tcp:127.0.0.1:{port}-:80")).output(&["true"]);
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success());
    assert!(text.contains(&port.to_string()) && text.contains("in use"), "{text}");
}
