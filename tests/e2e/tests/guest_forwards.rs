//! Ports of virtual hosts that lead to servers, local sockets and commands of the host.

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

use std::os::unix::net::UnixListener;
use std::path::Path;

use e2e::host::http::Http;
use e2e::host::{Echo, LOOPBACK};
use e2e::namespace::{Guest, Options};
use e2e::wait::until_gone;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};

/// Nothing but what is forwarded can be reached.
const CLOSED: &str = "restrict=on,host-loopback=off";

fn guest(rules: &str) -> Guest {
    Options::default().user(&format!("{CLOSED},{rules}")).shell()
}

/// Listens at a path with a queue of so many, and sends back what comes.
fn local_echo(path: &Path, backlog: i32) {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    rustix::net::listen(&socket, backlog).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let listener = UnixListener::from(socket);
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            std::thread::spawn(move || std::io::copy(&mut &connection, &mut &connection));
        }
    });
}

/// A command that sends the pattern there, closes, and checks that the same comes back.
fn echoed(to: &str, len: u32) -> String {
    format!("e2e-guest write {len} | socat -t 20 - TCP:{to} | e2e-guest check")
}

/// What a process has to say first, which is its number.
fn number(text: &str) -> u32 {
    text.trim().parse().unwrap_or_else(|_| panic!("a number of a process, not {text:?}"))
}

#[test]
fn a_restricted_guest_reaches_a_server_of_the_host_by_its_forward_alone() {
    let http = Http::at(LOOPBACK);
    let port = http.address.port();
    let mut guest =
        guest(&format!("guestfwd=tcp:10.0.2.100:80-tcp:127.0.0.1:{port},guestfwd=tcp:[fec0::100]:80-tcp:127.0.0.1:{port}"));
    for host in ["10.0.2.100", "[fec0::100]"] {
        assert_eq!(guest.succeed(&format!("curl -sS http://{host}/3000000 | e2e-guest check")), "3000000 bytes as expected");
        let told = guest.succeed(&format!("e2e-guest write 3000000 | curl -sS -T - http://{host}/"));
        assert_eq!(told, "3000000 bytes as expected");
    }
    guest.run(&format!("curl -sS -m 5 http://10.0.2.2:{port}/1")).failure();
    guest.run("curl -sS -m 5 http://10.0.2.100:81/1").failure();
    guest.succeed("ping -n -c 1 -W 5 10.0.2.100");
}

#[test]
fn a_local_socket_is_a_server_like_any_other() {
    let directory = tempfile::Builder::new().prefix("slipway-local-").tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = directory.path().join("echo");
    // Two hundred connections at once, and a queue of one: they wait for each other, and none is lost.
    local_echo(&path, 1);
    let mut guest = guest(&format!("guestfwd=::7-unix:{0},guestfwd=::8-unix:{0}-not-there", path.display()));
    assert_eq!(guest.succeed("e2e-guest parallel 10.0.2.4:7 200"), "200 open, 0 refused");
    assert_eq!(guest.succeed(&echoed("10.0.2.4:7", 3_000_000)), "3000000 bytes as expected");
    assert_eq!(guest.run("e2e-guest connect 10.0.2.4:8").text, "ConnectionRefused");
}

#[test]
fn a_command_serves_each_connection() {
    let mut guest =
        guest("guestfwd=tcp:10.0.2.100:7-cmd:/bin/cat,guestfwd=:10.0.2.100:8-cmd:wc -c,guestfwd=::9-cmd:tr a-z A-Z | rev");
    assert_eq!(guest.succeed("printf hello | socat -t 20 - TCP:10.0.2.100:7"), "hello");
    assert_eq!(guest.succeed("printf hello | socat -t 20 - TCP:10.0.2.4:9"), "OLLEH");
    assert_eq!(guest.succeed("e2e-guest write 5000000 | socat -t 20 - TCP:10.0.2.100:8"), "5000000");
    assert_eq!(
        guest.succeed("e2e-guest write 5000000 | socat -t 20 - TCP:10.0.2.100:7 | e2e-guest check"),
        "5000000 bytes as expected"
    );
    assert_eq!(guest.succeed("e2e-guest parallel 10.0.2.100:7 200"), "200 open, 0 refused");
}

#[test]
fn a_command_that_reads_nothing_stops_nobody_else() {
    let echo = Echo::at(LOOPBACK);
    let port = echo.address.port();
    let mut guest = guest(&format!("guestfwd=::7-cmd:echo ready; exec sleep 1000,guestfwd=::8-tcp:127.0.0.1:{port}"));
    assert_eq!(guest.background("e2e-guest write 100000000 | socat -t 1000 - TCP:10.0.2.4:7"), "ready");
    assert_eq!(guest.succeed(&echoed("10.0.2.4:8", 20_000_000)), "20000000 bytes as expected");
}

#[test]
fn a_command_ends_with_its_connection() {
    let mut guest = guest("guestfwd=::7-cmd:trap '' TERM; sleep 1000 & echo $$ $! >pids; echo; wait; wait");
    guest.succeed("e2e-guest reset 10.0.2.4:7");
    let told = std::fs::read_to_string(guest.directory().join("pids")).unwrap();
    let pids: Vec<_> = told.split_whitespace().map(number).collect();
    assert_eq!(pids.len(), 2, "{told}");
    for pid in pids {
        until_gone(pid);
    }
}

#[test]
fn commands_end_with_slipway_whether_it_ends_well_or_not() {
    for killed in [false, true] {
        let mut guest = guest("guestfwd=::7-cmd:trap '' TERM; echo $$; exec sleep 1000");
        let pid = number(&guest.background("socat -u TCP:10.0.2.4:7 -"));
        if killed {
            guest.process().kill().unwrap();
        } else {
            guest.leave();
        }
        until_gone(pid);
    }
}

#[test]
fn what_a_command_complains_of_is_in_the_log() {
    let told = Options::default().user("guestfwd=::7-cmd:no-such-command-anywhere").output(&[
        "sh",
        "-c",
        "socat -u TCP:10.0.2.4:7 - </dev/null",
    ]);
    let text = String::from_utf8_lossy(&told.stderr);
    assert!(text.contains("no-such-command-anywhere: not found"), "{text}");
}
