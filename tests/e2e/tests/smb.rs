//! Directories of the host that guests reach by SMB: Samba's client against Samba's server.

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use e2e::PATIENCE;
use e2e::namespace::{Guest, Options};
use e2e::processes::{children, words};
use e2e::unprivileged::Surroundings;
use e2e::wait::{until_gone, until_removed};
use rustix::process::{Pid, Signal, kill_process};

const NAMED: Surroundings = Surroundings {
    named: true,
    as_root: false,
    without_smbd: false,
    routed: false,
    ping_forbidden: false,
    without_network: false,
    open_files: None,
    extra_descriptors: false,
    without_tun: false,
    small_disk: false,
};

/// A directory that everybody may write to, with one file.
fn share() -> tempfile::TempDir {
    let share = tempfile::Builder::new().prefix("slipway-share-").tempdir().unwrap();
    std::fs::set_permissions(share.path(), PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::write(share.path().join("from-host"), "of the host\n").unwrap();
    share
}

fn guest(user: &str, surroundings: Surroundings) -> Guest {
    Options::default().user(user).surroundings(surroundings).shell()
}

/// A command for Samba's client, which keeps nothing and asks nobody.
fn client(port: u16, more: &str, commands: &str) -> String {
    format!("smbclient -s /dev/null -N -p {port} {more} //10.0.2.4/qemu -c '{commands}'")
}

/// The directory that a slipway has made for smbd: the process that watches over it has it as its last word.
fn private_directory(slipway: u32) -> PathBuf {
    let found = children(slipway).into_iter().find_map(|pid| words(pid).pop().filter(|word| word.contains("/slipway-smb-")));
    found.map(PathBuf::from).expect("a process that watches over a private directory")
}

/// The servers of a slipway, when there are any.
fn servers(slipway: u32) -> Vec<u32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let servers: Vec<_> =
            children(slipway).into_iter().filter(|pid| words(*pid).first().is_some_and(|word| word.contains("smbd"))).collect();
        if !servers.is_empty() {
            return servers;
        }
        assert!(Instant::now() < deadline, "no smbd was started");
        std::thread::yield_now();
    }
}

/// The daemons that were given the configuration in this directory.
fn daemons(private: &Path) -> Vec<u32> {
    let configuration = format!("--configfile={}/smb.conf", private.display());
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    processes.filter(|pid| words(*pid).contains(&configuration)).collect()
}

#[test]
fn a_directory_is_shared_by_an_ordinary_user_and_by_root() {
    for as_root in [false, true] {
        let share = share();
        let mut guest = guest(&format!("restrict=on,smb={}", share.path().display()), Surroundings { as_root, ..NAMED });
        guest.succeed("e2e-guest write 3000000 >to-host");
        for port in [445, 139] {
            let told = guest.succeed(&client(port, "", "ls; get from-host; put to-host; get to-host back; mkdir d; rmdir d"));
            assert!(told.contains("from-host"), "{told}");
            assert_eq!(
                guest.succeed("cat from-host; e2e-guest check <back; rm from-host back"),
                "of the host\n3000000 bytes as expected"
            );
            let written = share.path().join("to-host").metadata().unwrap();
            let root = rustix::process::geteuid().is_root();
            assert_eq!((written.len(), written.uid() == 0), (3_000_000, as_root && root));
            guest.succeed(&client(port, "", "rm to-host"));
            assert!(!share.path().join("to-host").exists());
        }
        assert!(guest.succeed("smbclient -s /dev/null -N -g -L 10.0.2.4").contains("Disk|qemu|"));
    }
}

#[test]
fn a_namespace_of_somebody_elses_is_served_too() {
    let share = share();
    let user = format!("smb={},guestfwd=::7-cmd:rev", share.path().display());
    let mut guest = Options::default().user(&user).surroundings(NAMED).attached();
    assert!(guest.succeed(&client(445, "", "ls")).contains("from-host"));
    assert_eq!(guest.succeed("echo hello | socat -t 20 - TCP:10.0.2.4:7"), "olleh");
}

#[test]
fn the_oldest_dialect_that_is_spoken_can_be_chosen() {
    let share = share();
    let old = "--option=clientminprotocol=NT1 -m NT1";
    let mut guest_of_now = guest(&format!("smb={}", share.path().display()), NAMED);
    guest_of_now.run(&client(445, old, "ls")).failure();
    let mut guest_of_old = guest(&format!("smb={},smb-min-protocol=NT1,smbserver=10.0.2.4", share.path().display()), NAMED);
    assert!(guest_of_old.succeed(&client(139, old, "ls")).contains("from-host"));
    let mut guest_of_later = guest(&format!("smb={},smb-min-protocol=SMB3_11", share.path().display()), NAMED);
    guest_of_later.run(&client(445, "-m SMB3_02", "ls")).failure();
    assert!(guest_of_later.succeed(&client(445, "", "ls")).contains("from-host"));
}

#[test]
fn what_is_outside_of_the_directory_stays_outside() {
    let share = share();
    std::os::unix::fs::symlink("/etc/hostname", share.path().join("way-out")).unwrap();
    let mut guest = guest(&format!("smb={}", share.path().display()), NAMED);
    for path in ["way-out", "../../etc/hostname"] {
        guest.run(&client(445, "", &format!("get \"{path}\" got"))).failure();
    }
    guest.succeed("! test -s got");
}

#[test]
fn nothing_stays_behind_whether_slipway_ends_well_or_not() {
    for killed in [false, true] {
        let share = share();
        let mut guest = guest(&format!("smb={}", share.path().display()), NAMED);
        let slipway = guest.process().id();
        let private = private_directory(slipway);
        assert_eq!(private.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert!(private.join("smb.conf").is_file());
        // For listing shares, smbd starts daemons that make themselves independent of it.
        guest.succeed("smbclient -s /dev/null -N -g -L 10.0.2.4");
        let daemons = daemons(&private);
        assert!(!daemons.is_empty());
        // A connection that stays open.
        guest.background("{ echo ready; exec socat -u TCP:10.0.2.4:445 -; }");
        let servers = servers(slipway);
        if killed {
            guest.process().kill().unwrap();
        } else {
            guest.leave();
            assert!(!private.exists(), "gone before slipway is");
        }
        for process in servers.into_iter().chain(daemons) {
            until_gone(process);
        }
        until_removed(&private);
        assert!(share.path().join("from-host").exists(), "what is shared is not touched");
    }
}

#[test]
fn a_server_that_hangs_is_killed() {
    let share = share();
    let mut guest = guest(&format!("smb={}", share.path().display()), NAMED);
    let slipway = guest.process().id();
    guest.background("{ echo ready; exec socat -u TCP:10.0.2.4:445 -; }");
    let servers = servers(slipway);
    for server in &servers {
        kill_process(Pid::from_raw(i32::try_from(*server).unwrap()).unwrap(), Signal::STOP).unwrap();
    }
    guest.leave();
    for server in servers {
        until_gone(server);
    }
}

#[test]
fn without_a_directory_guests_are_refused_at_once() {
    let mut guest = guest("smbserver=10.0.2.4", Surroundings::default());
    for port in [139, 445, 80] {
        assert_eq!(guest.run(&format!("e2e-guest connect 10.0.2.4:{port}")).text, "ConnectionRefused");
    }
    guest.succeed("ping -n -c 1 -W 5 10.0.2.4");
}

#[test]
fn what_is_missing_is_told_at_the_start() {
    let share = share();
    let path = share.path().display();
    let mut cases = vec![
        (NAMED, format!("smb={path}/from-host"), "not a directory that can be read"),
        (NAMED, format!("smb={path}/nowhere"), "not a directory that can be read"),
    ];
    // Only root can take a program or a user's name away.
    if rustix::process::geteuid().is_root() {
        cases.push((Surroundings { without_smbd: true, ..NAMED }, format!("smb={path}"), "install the package `samba`"));
        cases.push((Surroundings::default(), format!("smb={path}"), "add one to /etc/passwd"));
    }
    for (surroundings, user, expected) in cases {
        let refused = Options::default().user(&user).surroundings(surroundings).output(&["true"]);
        let text = String::from_utf8_lossy(&refused.stderr);
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(!refused.status.success() && text.contains(expected), "{user}: {text}");
    }
}
