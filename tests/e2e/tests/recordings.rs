//! The recordings in `pcap-fixtures/` are those that the stories make, and what others think of them.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use e2e::fixtures::{all, directory, readme_with, table};
use e2e::story;

#[test]
fn every_story_comes_out_as_it_was_recorded() {
    let mut different = Vec::new();
    for story in story::all() {
        let path = directory().join(story.name).with_extension("pcapng");
        let recorded = story::simulated::record(&story).unwrap_or_else(|error| panic!("{}: {error}", story.name));
        let same = fs::read(&path).is_ok_and(|file| file == recorded.file)
            && fs::read_to_string(path.with_extension("toml")).is_ok_and(|text| text == recorded.sidecar.to_text());
        if !same {
            different.push(story.name);
        }
    }
    assert!(
        different.is_empty(),
        "{different:?} are not as recorded: if the new answers are right, run `cargo xtask record` and say why in the commit"
    );
}

#[test]
fn every_recording_belongs_to_a_story_or_a_real_guest() {
    let stories = story::all();
    for fixture in all(&directory()).unwrap() {
        let told = stories.iter().any(|story| story.name == fixture.name);
        assert!(told || fixture.name.starts_with("real/"), "nothing tells {}", fixture.name);
    }
}

#[test]
fn the_table_in_the_readme_is_that_of_the_recordings() {
    let table = table(&all(&directory()).unwrap());
    let readme = fs::read_to_string(directory().join("README.md")).unwrap();
    assert!(readme == readme_with(&directory(), &table).unwrap(), "run `cargo xtask record` to bring the table up to date");
}

#[test]
fn tshark_finds_nothing_wrong_with_what_the_engine_sends() {
    // A file of several sections is one file to tshark.
    let mut everything = Vec::new();
    for fixture in all(&directory()).unwrap() {
        everything.extend(fs::read(fixture.path).unwrap());
    }
    let from_engine = "frame.packet_flags_direction == 2";
    let wrong = "_ws.malformed || ip.checksum.status == 0 || tcp.checksum.status == 0 || udp.checksum.status == 0 || icmp.checksum.status == 0";
    let verified =
        ["ip.check_checksum:TRUE", "tcp.check_checksum:TRUE", "udp.check_checksum:TRUE"].map(|option| format!("-o{option}"));
    let shown = |filter: &str| {
        let mut tshark = Command::new("tshark");
        tshark.args(["-r", "-", "-Y", filter]).args(&verified);
        let mut tshark = tshark.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut input = tshark.stdin.take().unwrap();
        let all = everything.clone();
        let writer = std::thread::spawn(move || input.write_all(&all).unwrap());
        let output = tshark.wait_with_output().unwrap();
        writer.join().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(shown(from_engine).lines().count() > 500, "tshark reads all sections");
    let complaints = shown(&format!("{from_engine} && ({wrong})"));
    assert!(complaints.is_empty(), "{complaints}");
}
