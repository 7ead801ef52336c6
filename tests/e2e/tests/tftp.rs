//! Files from the gateway by TFTP, with the clients that people use.

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::LONG_PATIENCE;
use e2e::namespace::{Guest, Options};
use e2e::pattern;

/// A directory with files to serve, which everybody may read, and a secret beside it.
struct Served {
    place: tempfile::TempDir,
}

impl Served {
    fn new() -> Self {
        let place = tempfile::Builder::new().prefix("slipway-tftp-").tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(place.path().join("served")).unwrap();
        fs::write(place.path().join("secret"), "secret").unwrap();
        let served = Self { place };
        fs::write(served.file("small"), "a small file\n").unwrap();
        served
    }

    fn directory(&self) -> PathBuf {
        self.place.path().join("served")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    fn option(&self) -> String {
        format!("tftp={}", self.directory().display())
    }

    /// A guest that can have the files.
    fn guest(&self) -> Guest {
        Options::default().user(&self.option()).shell()
    }

    /// Makes a file of this many bytes.
    fn with(self, name: &str, len: u64) -> Self {
        pattern::write(fs::File::create(self.file(name)).unwrap(), len).unwrap();
        self
    }
}

fn same(one: &Path, other: &Path) -> bool {
    let ended = std::process::Command::new("cmp").arg(one).arg(other).status().unwrap();
    ended.success()
}

#[test]
fn a_small_file_comes_over_both_families() {
    let served = Served::new();
    let mut guest = served.guest();
    for gateway in ["10.0.2.2", "fec0::2"] {
        guest.succeed(&format!("tftp -m binary {gateway} -c get small got"));
        assert_eq!(guest.succeed("cat got; rm got"), "a small file", "from {gateway}");
    }
}

#[test]
fn what_is_not_there_or_lies_outside_is_refused_with_the_number_that_says_so() {
    let served = Served::new();
    symlink("../secret", served.file("link")).unwrap();
    symlink("small", served.file("inside")).unwrap();
    let mut guest = served.guest();
    for (name, error) in
        [("nothing", "Error code 1"), ("../secret", "Error code 2"), ("link", "Error code 2"), (".", "Error code 2")]
    {
        let told = guest.run(&format!("tftp -m binary 10.0.2.2 -c get {name} got"));
        assert!(told.text.contains(error), "{name}: {told}");
    }
    let whole = served.place.path().join("secret");
    let told = guest.run(&format!("tftp -m binary 10.0.2.2 -c get {} got", whole.display()));
    assert!(told.text.contains("Error code 1"), "an absolute path begins at the directory: {told}");
    guest.succeed("rm -f got; tftp -m binary 10.0.2.2 -c get /inside got");
    assert_eq!(guest.succeed("cat got"), "a small file");
    let told = guest.run("tftp -m binary 10.0.2.2 -c put got small");
    assert!(told.text.contains("Error code 2"), "{told}");
    assert_eq!(fs::read_to_string(served.file("small")).unwrap(), "a small file\n");
}

#[test]
fn a_file_with_more_blocks_than_numbers_comes_whole() {
    // 512 bytes a block: the numbers begin again after 32 MiB.
    let served = Served::new().with("big", (33 << 20) + 7);
    let mut guest = served.guest();
    guest.run_within(LONG_PATIENCE, "tftp -m binary 10.0.2.2 -c get big got").success();
    assert!(same(&guest.directory().join("got"), &served.file("big")));
    // curl asks for a block size and the length.
    guest.run_within(LONG_PATIENCE, "curl -sS -o got tftp://10.0.2.2/big --tftp-blksize 1468").success();
    assert!(same(&guest.directory().join("got"), &served.file("big")));
}

#[test]
fn a_directory_that_cannot_be_served_ends_the_start_with_the_reason() {
    let refused = Options::default().user("tftp=/nowhere/at/all").output(&["true"]);
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success());
    assert!(text.contains("/nowhere/at/all") && text.contains("no such directory"), "{text}");
}

#[test]
fn lost_datagrams_are_sent_again_both_ways() {
    let served = Served::new().with("file", 40_000);
    let mut guest = served.guest();
    guest.succeed("nft add table inet lossy");
    for hook in ["input", "output"] {
        guest.succeed(&format!("nft add chain inet lossy {hook} '{{ type filter hook {hook} priority 0; }}'"));
        guest.succeed(&format!("nft add rule inet lossy {hook} meta l4proto udp numgen inc mod 11 == 7 counter drop"));
    }
    guest.run_within(LONG_PATIENCE, "tftp -m binary 10.0.2.2 -c get file got").success();
    assert!(same(&guest.directory().join("got"), &served.file("file")));
    let dropped = guest.succeed("nft list table inet lossy | grep -c 'packets [1-9]'");
    assert_eq!(dropped, "2", "in both directions");
}

#[test]
fn a_restricted_guest_and_one_without_the_hosts_loopback_have_their_files() {
    let served = Served::new();
    for more in ["restrict=on", "host-loopback=off"] {
        let mut guest = Options::default().user(&format!("{},{more}", served.option())).shell();
        guest.succeed("tftp -m binary 10.0.2.2 -c get small got");
        assert_eq!(guest.succeed("cat got"), "a small file", "{more}");
    }
}

#[test]
fn many_small_files_come_one_after_the_other() {
    // More than there may be at once, and faster than what is over is looked for.
    let served = Served::new();
    let mut guest = served.guest();
    guest.run_within(LONG_PATIENCE, "for n in $(seq 100); do tftp -m binary 10.0.2.2 -c get small got$n || exit 1; done").success();
    assert_eq!(guest.succeed("cat got* | wc -l"), "100");
}

#[test]
fn other_users_of_the_host_get_nothing_from_the_server() {
    let served = Served::new();
    let mut guest = served.guest();
    // Where slipway takes datagrams on the host's loopback address, before any guest has asked for anything.
    let ports = loopback_ports(guest.process().id());
    assert!(!ports.is_empty(), "a server that is not there");
    for port in ports {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        for request in [&b"\0\x01small\0octet\0"[..], b"\0\x01../secret\0octet\0", b"\0\x01/etc/passwd\0octet\0tsize\x000\0"] {
            socket.send_to(request, (Ipv4Addr::LOCALHOST, port)).unwrap();
            let mut answer = [0; 1024];
            let (len, _) = socket.recv_from(&mut answer).unwrap();
            assert_eq!(answer[..4], [0, 5, 0, 2], "{:?}", String::from_utf8_lossy(&answer[..len]));
        }
    }
    guest.succeed("tftp -m binary 10.0.2.2 -c get small got");
    assert_eq!(guest.succeed("cat got"), "a small file", "the guest does");
}

/// The ports of the UDP sockets at 127.0.0.1 that this process, or one that it has started, has open.
fn loopback_ports(process: u32) -> Vec<u16> {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    let processes = children.split_whitespace().filter_map(|child| child.parse().ok()).chain([process]);
    let inodes: Vec<String> = processes
        .flat_map(|process: u32| fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten())
        .filter_map(|entry| {
            Some(fs::read_link(entry.path()).ok()?.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    let table = fs::read_to_string("/proc/self/net/udp").unwrap();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| inodes.iter().any(|inode| inode == row[9]))
        .filter_map(|row| u16::from_str_radix(row[1].strip_prefix("0100007F:")?, 16).ok())
        .collect()
}
