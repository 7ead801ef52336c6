//! `slipway replay` as a person runs it.
#![expect(clippy::unwrap_used, reason = "a story that cannot go on says where by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use netstack::host::sim::{Program, Server};
use netstack::replay::record::{Recorder, Setup};

/// A recording of a guest that asks who the gateway is, and one of another that does it twice.
fn recordings() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("b")).unwrap();
    for (name, times) in [("b/twice", 2), ("a-once", 1)] {
        let mut recorder = Recorder::new(Setup { user: "ipv6=off".to_owned(), ..Setup::default() }).unwrap();
        recorder.host().serve_elsewhere(Server::new(Program::Echo));
        for _ in 0..times {
            recorder.send(&request());
            recorder.settle();
        }
        recorder.finish("a guest asks who the gateway is").unwrap().save(&dir.path().join(format!("{name}.pcapng"))).unwrap();
    }
    std::fs::write(dir.path().join("README.md"), "no recording").unwrap();
    dir
}

fn request() -> Vec<u8> {
    let mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
    [&[0xff; 6][..], &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac, &[10, 0, 2, 15], &[0; 6], &[10, 0, 2, 2]].concat()
}

/// Has the gateway's answer come from another card, in the file.
fn break_it(path: &Path) {
    let mut file = std::fs::read(path).unwrap();
    let place = file.windows(6).rposition(|window| window == [0x52, 0x55, 10, 0, 2, 2]).unwrap();
    file[place + 5] = 3;
    std::fs::write(path, file).unwrap();
}

fn slipway(args: &[&str], paths: &[PathBuf]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_slipway")).arg("replay").args(args).args(paths).output().unwrap()
}

fn told(output: &Output) -> (i32, String) {
    (output.status.code().unwrap(), String::from_utf8(output.stdout.clone()).unwrap())
}

#[test]
fn a_directory_is_played_in_order_and_all_is_as_recorded() {
    let dir = recordings();
    let (code, text) = told(&slipway(&[], &[dir.path().to_owned()]));
    assert_eq!(code, 0, "{text}");
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines[0].starts_with("same ")
            && lines[0].ends_with("a-once.pcapng: a guest asks who the gateway is (2 packets, 1 of the engine)")
    );
    assert!(lines[1].contains("b/twice"));
    assert_eq!(lines[2], "2 recordings: 2 as recorded");
    assert!(!text.contains('\x1b'), "colours are for terminals");
}

#[test]
fn a_difference_is_told_by_packet_and_field_and_in_the_exit_code() {
    let dir = recordings();
    let path = dir.path().join("a-once.pcapng");
    break_it(&path);
    let (code, text) = told(&slipway(&[], std::slice::from_ref(&path)));
    assert_eq!(code, 1, "{text}");
    assert!(text.starts_with("differs "), "{text}");
    assert!(text.contains("packet 2 at 0.000000 s, ARP: arp.sender_mac") || text.contains(", ARP: arp.sender_mac"), "{text}");
    assert!(text.contains("- expected 52:55:0a:00:02:03\n") && text.contains("+ got      52:55:0a:00:02:02\n"), "{text}");

    let (code, text) = told(&slipway(&["--json"], &[path]));
    assert_eq!(code, 1);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["matched"], false);
    let difference = &json["recordings"][0]["differences"][0];
    assert_eq!((&difference["packet"], &difference["field"]), (&2.into(), &"arp.sender_mac".into()));
}

#[test]
fn an_update_is_told_and_then_all_is_as_recorded() {
    let dir = recordings();
    let path = dir.path().join("a-once.pcapng");
    let before = std::fs::read(&path).unwrap();
    break_it(&path);
    let (code, text) = told(&slipway(&["--update"], std::slice::from_ref(&path)));
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("updated "), "{text}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 4, "{left:?}");
    assert_eq!(told(&slipway(&[], &[path])).0, 0);
}

#[test]
fn what_cannot_be_used_is_told_without_keeping_others_from_being_played() {
    let dir = recordings();
    let bad = dir.path().join("bad.pcapng");
    std::fs::write(&bad, "GIF89a").unwrap();
    let output = slipway(&[], &[bad, dir.path().join("a-once.pcapng"), dir.path().join("missing.pcapng")]);
    let (code, text) = told(&output);
    assert_eq!(code, 2);
    assert!(text.contains("bad.pcapng: this is neither a pcap nor a pcapng file: it begins with 47 49 46 38."), "{text}");
    assert!(text.contains("missing.pcapng: no such file or directory."), "{text}");
    assert!(text.contains("same ") && text.contains("3 recordings: 1 as recorded, 2 unusable"), "{text}");
}

#[test]
fn a_wrong_command_line_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let output = slipway(&[], &[dir.path().to_owned()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("no recordings are in "));
    assert_eq!(slipway(&[], &[]).status.code(), Some(2));
    assert_eq!(slipway(&["--user", "nonsense=1"], &[dir.path().join("x")]).status.code(), Some(2));
}

#[test]
fn a_truncated_file_is_played_and_does_not_pass() {
    let dir = recordings();
    let path = dir.path().join("b/twice.pcapng");
    let file = std::fs::read(&path).unwrap();
    std::fs::write(&path, &file[..file.len() - 5]).unwrap();
    let (code, text) = told(&slipway(&[], &[path]));
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("truncated in the packet at offset "), "{text}");
}
