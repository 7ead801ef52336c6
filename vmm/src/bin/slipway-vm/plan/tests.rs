use super::*;
use crate::cli::{Cli, Command};
use clap::Parser;

fn args(words: &[&str]) -> Box<RunArgs> {
    let Command::Run(args) = Cli::try_parse_from(["slipway-vm", "run"].iter().chain(words)).unwrap().command else { panic!() };
    args
}

fn refused(words: &[&str]) -> String {
    let failure = Plan::of(&args(words)).unwrap_err();
    assert_eq!(failure.code(), 2, "{words:?}: {failure}");
    failure.to_string()
}

fn file(bytes: &[u8]) -> (tempfile::NamedTempFile, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let path = file.path().display().to_string();
    (file, path)
}

#[test]
fn a_file_that_is_no_kernel_is_named_for_what_it_is() {
    for (bytes, what) in [(&b"\x1f\x8b\x08"[..], "gzip"), (b"070701", "cpio"), (b"", "empty"), (b"#!/bin/sh\n", "script")] {
        let (_file, path) = file(bytes);
        let told = refused(&["--kernel", &path]);
        assert!(told.contains(&path) && told.contains(what), "{told}");
    }
    assert!(refused(&["--kernel", "/no/such/kernel"]).contains("no such file"));
    assert!(refused(&["--kernel", "/"]).contains("directory"));
}

#[test]
fn a_disk_that_cannot_be_used_is_named() {
    let (_file, path) = file(&[0; 100]);
    assert!(refused(&["--drive", &format!("file={path}")]).contains("no multiple of 512"));
    let (_empty, path) = file(&[]);
    assert!(refused(&["--drive", &format!("file={path}")]).contains("truncate"));
    let (_disk, path) = file(&[0; 1024]);
    let twice = format!("file={path}");
    assert!(refused(&["--drive", &twice, "--drive", &twice]).contains("in use"));
    assert!(refused(&["--drive", "file=/no/such/disk"]).contains("/no/such/disk"));
    assert!(refused(&["--drive", "file=/dev/null"]).contains("neither a file nor a block device"));
}

#[test]
fn names_and_addresses_are_given_once() {
    assert!(refused(&["--netdev", "user,id=a", "--netdev", "user,id=a"]).contains("two networks are called a"));
    let twice = ["--netdev", "user,id=a", "--device", "e1000,netdev=a,mac=52:54:00:00:00:01"];
    let twice = [&twice[..], &["--device", "virtio-net,netdev=a,mac=52:54:00:00:00:01"]].concat();
    assert!(refused(&twice).contains("same address"));
}

#[test]
fn a_device_on_no_network_is_refused() {
    assert!(refused(&["--device", "e1000,netdev=b"]).contains("no network is called b"));
    let told = refused(&["--netdev", "user,id=a", "--netdev", "user,id=c", "--device", "e1000,netdev=b"]);
    assert!(told.contains("There is: a, c."), "{told}");
}

#[test]
fn there_is_a_network_unless_said_otherwise() {
    let plan = networks(&args(&[])).unwrap();
    assert_eq!(plan.len(), 1);
    assert_eq!(plan[0].cards, [Card { kind: CardKind::VirtioNet, mac: MacAddr(FIRST_MAC), mtu: 1500 }]);
}

#[test]
fn cards_get_addresses_that_nobody_has() {
    let first = MacAddr(FIRST_MAC).to_string();
    let given = format!("e1000,netdev=a,mac={first}");
    let words = ["--netdev", "user,id=a,mtu=9000", "--device", "virtio-net,netdev=a", "--device", &given];
    let words = [&words[..], &["--device", "e1000,netdev=a"]].concat();
    let plan = networks(&args(&words)).unwrap();
    let mut macs: Vec<_> = plan[0].cards.iter().map(|card| card.mac).collect();
    assert_eq!(macs[1].to_string(), first);
    macs.sort();
    macs.dedup();
    assert_eq!(macs.len(), 3);
    let mtus: Vec<_> = plan[0].cards.iter().map(|card| card.mtu).collect();
    assert_eq!(mtus, [9000, 1500, 1500], "an e1000 takes no larger packets than Ethernet's");
}

#[test]
fn without_a_kernel_the_built_in_guest_is_booted() {
    let args = args(&["--netdev", "user,id=a,net=192.168.7.0/24", "--memory", "64M"]);
    let plan = Plan::of(&args).unwrap();
    assert!(matches!(plan.entry, Entry::Pvh { .. }));
    assert!(errand(&plan.networks).contains("ping=192.168.7.2"), "{}", errand(&plan.networks));
}

#[test]
fn a_machine_too_small_for_its_kernel_is_refused() {
    let told = refused(&["--memory", "16M"]);
    assert!(told.contains("needs") && told.contains("--memory"), "{told}");
}
