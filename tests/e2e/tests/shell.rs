//! `slipway shell`: a command in a network of its own, and what it finds there.

use e2e::namespace::{Guest, Options};

#[test]
fn the_status_of_the_command_is_that_of_slipway() {
    for status in [0, 1, 37, 255] {
        let ended = Options::default().output(&["sh", "-c", &format!("exit {status}")]);
        assert_eq!(ended.status.code(), Some(status), "{}", String::from_utf8_lossy(&ended.stderr));
    }
}

#[test]
fn a_command_that_cannot_be_run_is_told_apart_as_in_a_shell() {
    let missing = Options::default().output(&["there-is-no-such-command"]);
    assert_eq!(missing.status.code(), Some(127));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("there-is-no-such-command"));
    let forbidden = Options::default().output(&["/etc/passwd"]);
    assert_eq!(forbidden.status.code(), Some(126));
}

#[test]
fn a_command_that_is_killed_ends_as_in_a_shell() {
    let killed = Options::default().output(&["sh", "-c", "kill -TERM $$"]);
    assert_eq!(killed.status.code(), Some(128 + 15));
}

#[test]
fn input_and_output_are_those_of_slipway() {
    let echoed = Options::default().output(&["sh", "-c", "cat; echo out; echo err >&2"]);
    assert_eq!(String::from_utf8_lossy(&echoed.stdout), "out\n");
    assert!(String::from_utf8_lossy(&echoed.stderr).contains("err\n"));
}

#[test]
fn the_interface_has_its_addresses_and_routes_when_the_command_starts() {
    let mut guest = Guest::new();
    let addresses = guest.succeed("ip -br addr show scope global; ip -br addr show scope site");
    assert!(addresses.contains("10.0.2.15/24"), "{addresses}");
    assert!(addresses.contains("fec0::15/64"), "{addresses}");
    assert!(guest.succeed("ip -4 route show default").contains("via 10.0.2.2"));
    assert!(guest.succeed("ip -6 route show default").contains("via "));
}

#[test]
fn the_mtu_is_the_one_that_was_asked_for() {
    for mtu in [1500, 9000, 65520] {
        let mut guest = Options::default().mtu(mtu).shell();
        let link = guest.succeed("ip -o link show");
        assert!(link.lines().any(|line| !line.contains("LOOPBACK") && line.contains(&format!("mtu {mtu} "))), "{link}");
    }
}

#[test]
fn names_are_asked_of_the_dns_server_inside_and_of_the_old_ones_outside() {
    let outside = std::fs::read_to_string("/etc/resolv.conf").ok();
    let mut guest = Guest::new();
    let inside = guest.succeed("cat /etc/resolv.conf");
    assert!(inside.lines().any(|line| line == "nameserver 10.0.2.3"), "{inside}");
    assert_eq!(std::fs::read_to_string("/etc/resolv.conf").ok(), outside);
}

#[test]
fn the_gateway_answers_pings_of_any_size() {
    let mut guest = Guest::new();
    for gateway in ["10.0.2.2", "fec0::2"] {
        for size in [0, 56, 1400] {
            let told = guest.succeed(&format!("ping -n -c 2 -i 0.2 -W 5 -s {size} {gateway}"));
            assert!(told.contains("2 received"), "{told}");
        }
    }
}

#[test]
fn a_dhcp_client_gets_the_first_lease() {
    let mut guest = Guest::new();
    guest.succeed("printf '#!/bin/sh\\necho \"$1 $ip/$mask via $router dns $dns lease $lease\"\\n' >lease; chmod +x lease");
    let interface = guest.succeed("ip -o -4 route show default | sed 's/.* dev \\([^ ]*\\).*/\\1/'");
    let told = guest.succeed(&format!("busybox udhcpc -i {interface} -n -q -t 5 -s ./lease"));
    assert!(told.contains("bound 10.0.2.15/24 via 10.0.2.2 dns 10.0.2.3 lease 86400"), "{told}");
}

#[test]
fn another_network_is_used_throughout() {
    let mut guest =
        Options::default().user("net=192.168.76.0/24,host=192.168.76.1,dns=192.168.76.53,dhcpstart=192.168.76.100").shell();
    assert!(guest.succeed("ip -br -4 addr show scope global").contains("192.168.76.100/24"));
    assert!(guest.succeed("cat /etc/resolv.conf").contains("nameserver 192.168.76.53"));
    guest.succeed("ping -n -c 1 -W 5 192.168.76.1");
}

#[test]
fn addresses_that_cannot_be_are_refused_in_words() {
    for (options, named) in [
        ("net=10.0.2.0/24,host=10.0.2.3,dns=10.0.2.3", "10.0.2.3"),
        ("net=10.0.2.0/24,host=192.168.1.1", "192.168.1.1"),
        ("net=10.0.2.0/99", "10.0.2.0/99"),
        ("frobnicate=on", "frobnicate"),
        ("restrict=perhaps", "restrict"),
        // What would be there without QEMU is told what to write instead.
        ("guestfwd=tcp:10.0.2.100:80-chardev:c0", "write its target itself"),
        ("guestfwd=tcp:10.0.3.100:80-cmd:cat", "10.0.3.100"),
    ] {
        let refused = Options::default().user(options).output(&["true"]);
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success(), "`{options}` was accepted");
        assert!(text.contains(named), "`{options}`: {text}");
        assert!(!text.contains("panicked"), "`{options}`: {text}");
    }
}
