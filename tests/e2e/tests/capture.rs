//! Recordings of real traffic, as other programs read them.

use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Instant;

use e2e::PATIENCE;
use e2e::host::{Echo, LOOPBACK, LOOPBACK6, listen, seen_by_guests};
use e2e::namespace::{Guest, Options, Process};
use e2e::programs::Stage;
use e2e::unprivileged::{Surroundings, command};
use e2e::wait::{Lines, accept};
use e2e::{pattern, tshark};

const KIB: u64 = 1 << 10;

/// What is transferred at a time. All together is less than a recording keeps in memory, so nothing is cut on a machine that is busy with
/// other things.
const BYTES: u64 = 512 * KIB;

/// Leases, pings, resolves, transfers both ways over both versions of IP, and sends what is dropped.
fn live_a_little(guest: &mut Guest) {
    guest.succeed("busybox udhcpc -i tap0 -n -q -t 5 -s /bin/true");
    for gateway in ["10.0.2.2", "fec0::2"] {
        guest.succeed(&format!("ping -n -c 2 -i 0.2 -W 5 {gateway}"));
    }
    guest.succeed("dig +short +tries=1 +time=10 @10.0.2.3 host.slipway.internal");
    guest.succeed("dig +short +tcp +tries=1 +time=10 @fec0::3 host.slipway.internal");
    for ip in [LOOPBACK, LOOPBACK6] {
        let echo = Echo::at(ip);
        guest.succeed(&format!("e2e-guest datagrams {} 1000 5", seen_by_guests(echo.address)));
        transfer(guest, ip, BYTES);
    }
    // In fragments.
    guest.succeed("ping -n -c 1 -W 1 -s 4000 10.0.2.2");
    // To everybody on the link, which is not passed on.
    guest.succeed("echo hello | socat -u - UDP-DATAGRAM:10.0.2.255:9,broadcast");
}

/// So many bytes up, and then so many down.
fn transfer(guest: &mut Guest, ip: std::net::IpAddr, bytes: u64) {
    let (listener, address) = listen(ip);
    let host = thread::spawn(move || {
        let connection = accept(&listener);
        let seen = pattern::check(&connection, None);
        pattern::write(&connection, bytes).map(|()| seen)
    });
    guest.succeed(&format!("e2e-guest half-close {} {bytes}", seen_by_guests(address)));
    let seen = host.join().expect("the server has not panicked").and_then(|seen| seen);
    assert_eq!(seen.expect("the pattern arrives"), bytes);
}

/// Records a little life with `options`.
fn recorded(options: &[&str]) -> Guest {
    let mut guest = Options::default().more(&["--pcap", "net.pcapng"]).more(options).shell();
    live_a_little(&mut guest);
    assert!(guest.leave().success());
    guest
}

#[test]
fn tshark_believes_every_frame_of_a_recording() {
    let guest = recorded(&[]);
    let file = guest.directory().join("net.pcapng");
    tshark::check(&file);
    for expected in [
        "dhcp.option.dhcp == 5 && frame.packet_flags_direction == 2",
        "dns.flags.response == 1 && udp",
        "dns.flags.response == 1 && tcp",
        "icmp.type == 0 && frame.comment contains \"flow=\"",
        "icmpv6.type == 129",
        "icmpv6.type == 134",
        "arp.opcode == 2",
        "tcp.flags.syn == 1 && tcp.flags.ack == 0 && frame.packet_flags_direction == 1",
        "tcp.flags.fin == 1 && ip",
        "tcp.flags.fin == 1 && ipv6",
        "tcp && ip && frame.len > 10000 && frame.packet_flags_direction == 1 && frame.comment contains \"gso=tcp4:\"",
        "tcp && ip && frame.len > 10000 && frame.packet_flags_direction == 2 && frame.comment contains \"gso=tcp4:\"",
        "tcp && ipv6 && frame.len > 10000 && frame.packet_flags_direction == 2 && frame.comment contains \"gso=tcp6:\"",
        "frame.comment contains \"drop=destination\" && frame.packet_flags_direction == 1",
        "frame.interface_name == \"tap0\"",
    ] {
        assert!(tshark::count(&file, expected) > 0, "{expected}");
    }
    // Nothing is missing: both directions of every byte are there.
    assert_eq!(tshark::count(&file, "tcp.analysis.ack_lost_segment || tcp.analysis.lost_segment"), 0);
    let flows = tshark::read(&file, "udp.port == 53 || icmp.type == 8 || tcp.flags.syn == 1", &["frame.comment"]);
    let mut flows: Vec<_> = flows.iter().filter_map(|comment| comment.split(' ').find(|word| word.starts_with("flow="))).collect();
    flows.sort_unstable();
    flows.dedup();
    assert!(flows.len() >= 5, "conversations are told apart: {flows:?}");
}

#[test]
fn tshark_believes_every_frame_of_a_recording_in_segments() {
    let guest = recorded(&["--pcap-segment"]);
    let file = guest.directory().join("net.pcapng");
    tshark::check(&file);
    assert_eq!(tshark::count(&file, "frame.len > 1514"), 0);
    assert!(tshark::count(&file, "tcp.len == 1460") > 500);
}

#[test]
fn a_filter_chooses_what_is_recorded() {
    let guest = recorded(&["--pcap-filter", "tcp port 53 or drops", "--pcap-snaplen", "64"]);
    let file = guest.directory().join("net.pcapng");
    assert!(tshark::count(&file, "tcp.port == 53") > 3);
    assert!(tshark::count(&file, "frame.comment contains \"drop=destination\"") > 0);
    assert_eq!(tshark::count(&file, "!(tcp.port == 53 || frame.comment contains \"drop=\")"), 0);
    assert_eq!(tshark::count(&file, "frame.cap_len > 64"), 0);
}

#[test]
fn a_pipe_shows_what_happens_while_it_does() {
    let mut guest = Guest::alone();
    let pid = guest.succeed("echo $$");
    let pipeline = format!("slipway netns --configure --pcap - {pid} | tshark -l -n -r -");
    let mut running = command(guest.stage(), Surroundings::default(), &["sh", "-c", &pipeline]);
    let mut running = running.stdout(Stdio::piped()).spawn().expect("setpriv can be started");
    let shown = Lines::of(running.stdout.take().expect("a pipe"));
    let _running = Process(running);
    let expect = |what: &str| {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while !seen.last().is_some_and(|line: &String| line.contains(what)) {
            seen.push(shown.next_before(deadline).unwrap_or_else(|| panic!("`{what}` was not shown, but:\n{}", seen.join("\n"))));
        }
    };
    expect("Router Advertisement");
    for _ in 0..2 {
        guest.succeed("ping -n -c 1 -W 5 10.0.2.2");
        expect("Echo (ping) request");
        expect("Echo (ping) reply");
    }
}

#[test]
fn a_named_pipe_is_as_good() {
    let stage = Stage::new();
    let script =
        "mkfifo pipe; tshark -n -r pipe >shown & slipway shell --pcap pipe -- ping -n -c 2 -i 0.2 10.0.2.2; wait; cat shown";
    let told = command(&stage, Surroundings::default(), &["sh", "-c", script]).output().expect("setpriv can be started");
    let text = String::from_utf8_lossy(&told.stdout);
    assert_eq!(text.matches("Echo (ping) reply").count(), 2, "{text}{}", String::from_utf8_lossy(&told.stderr));
}

#[test]
fn a_full_disk_ends_the_recording_and_nothing_else() {
    let script = "ping -n -c 2 -i 0.2 10.0.2.2 >/dev/null && ping -n -c 2 -i 0.2 fec0::2 >/dev/null && echo all is well";
    let told = Options::default().more(&["--pcap", "/dev/full"]).output(&["sh", "-c", script]);
    assert_eq!(String::from_utf8_lossy(&told.stdout), "all is well\n");
    let said = String::from_utf8_lossy(&told.stderr);
    assert_eq!(said.matches("the capture to /dev/full has ended: there is no space left for it").count(), 1, "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn what_was_recorded_until_the_disk_was_full_can_be_read() {
    let surroundings = Surroundings { small_disk: true, ..Surroundings::default() };
    let mut guest = Options::default().more(&["--pcap", "disk/net.pcapng"]).surroundings(surroundings).shell();
    transfer(&mut guest, LOOPBACK, BYTES);
    // The file is on a disk that only the guest sees.
    let shown = guest.succeed("tshark -n -r disk/net.pcapng 2>complaints; echo status $?; cat complaints");
    assert!(shown.contains("status 0") && !shown.contains("cut short"), "{shown}");
    assert!(shown.contains("[SYN]"), "{shown}");
    let size: u64 = guest.succeed("stat -c %s disk/net.pcapng").parse().expect("a number");
    assert!((100 * KIB..=256 * KIB).contains(&size), "{size}");
    guest.succeed("ping -n -c 1 -W 5 10.0.2.2");
}

#[test]
fn old_recordings_make_room_for_new_ones() {
    let mut guest = Options::default().more(&["--pcap", "net.pcapng", "--pcap-rotate", "256K,3", "--pcap-segment"]).shell();
    transfer(&mut guest, LOOPBACK, 2 * BYTES);
    assert!(guest.leave().success());
    let file = |name: &str| guest.directory().join(name);
    for name in ["net.pcapng", "net.pcapng.1", "net.pcapng.2"] {
        tshark::check(&file(name));
        let size = std::fs::metadata(file(name)).expect("it was read").len();
        assert!(size <= 256 * KIB, "{name}: {size}");
    }
    assert!(!file("net.pcapng.3").exists());
    // The end is in the newest.
    assert!(tshark::count(&file("net.pcapng"), "tcp.flags.fin == 1") > 0);
    assert!(std::fs::metadata(file("net.pcapng.1")).expect("it was read").len() > 250 * KIB);
}

#[test]
fn a_reader_that_leaves_is_told_of_once() {
    let stage = Stage::new();
    let script = "mkfifo pipe; head -c 500 pipe >/dev/null & \
                  slipway shell --pcap pipe -- sh -c 'ping -n -c 3 -i 0.2 10.0.2.2 >/dev/null && echo all is well'";
    let told = command(&stage, Surroundings::default(), &["sh", "-c", script]).output().expect("setpriv can be started");
    let said = String::from_utf8_lossy(&told.stderr);
    assert_eq!(String::from_utf8_lossy(&told.stdout), "all is well\n");
    assert_eq!(said.matches("the capture to pipe has ended: nobody reads it any more").count(), 1, "{said}");
}

#[test]
fn what_cannot_be_recorded_is_refused_in_words() {
    let file = ["--pcap", "net.pcapng"];
    for (words, named) in [
        (&["--pcap", "-"][..], "/dev/fd/3"),
        (&["--pcap", "missing/net.pcapng"], "missing/net.pcapng"),
        (&["--pcap", "/proc/net.pcapng"], "/proc/net.pcapng"),
        (&["--pcap", "/dev/null", "--pcap-rotate", "1M"], "--pcap-rotate"),
        (
            &[file[0], file[1], "--pcap-filter", "tcp and prot 80"],
            "`prot` is neither an address nor a word of the filter language at character 9",
        ),
        (&[file[0], file[1], "--pcap-rotate", "1X"], "1X"),
        (&[file[0], file[1], "--pcap-snaplen", "10"], "10"),
        (&["--pcap-segment"], "--pcap"),
    ] {
        let refused = Options::default().more(words).output(&["true"]);
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success(), "{words:?}");
        assert!(text.contains(named) && !text.contains("panicked"), "{words:?}: {text}");
    }
}

#[test]
fn a_recording_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let mut guest = Options::default().more(&["--pcap", "net.pcapng"]).shell();
    assert!(guest.leave().success());
    let mode = |file: &Path| std::fs::metadata(file).expect("it was made").permissions().mode() & 0o777;
    assert_eq!(mode(&guest.directory().join("net.pcapng")), 0o600);
    let mut start = [0; 4];
    std::fs::File::open(guest.directory().join("net.pcapng")).and_then(|mut file| file.read_exact(&mut start)).expect("a header");
    assert_eq!(start, [0x0a, 0x0d, 0x0d, 0x0a]);
}

/// Plays a recording, which must be as recorded.
fn assert_replays(guest: &Guest) {
    let file = guest.directory().join("net.pcapng");
    let words = ["slipway", "replay", &file.to_string_lossy()];
    let told = command(guest.stage(), Surroundings::default(), &words).output().expect("setpriv can be started");
    let text = String::from_utf8_lossy(&told.stdout);
    assert_eq!(told.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&told.stderr));
    assert!(text.starts_with("same "), "{text}");
}

#[test]
fn a_recording_is_played_again_and_nothing_differs() {
    assert_replays(&recorded(&[]));
    assert_replays(&recorded(&["--pcap-segment"]));
}
