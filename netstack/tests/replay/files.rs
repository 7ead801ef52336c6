//! Files as people have them: of other programs, damaged, cut, old, and rewritten by `--update`.

use netstack::host::sim::{Program, Server};
use netstack::pcap::read;
use netstack::replay::record::Recorded;
use netstack::replay::sidecar::{Clock, Sidecar};
use netstack::replay::{Options, ReplayError, replay, update};
use proptest::prelude::*;

use crate::broken::{changed, put};
use crate::guest::*;

fn recorded() -> Recorded {
    let mut recorder = recorder("");
    recorder.host().serve(at(SERVER), Server::new(Program::Echo));
    arp(&mut recorder, 1, [10, 0, 2, 2]);
    let mut guest = Connection::open(&mut recorder, 40_000, SERVER);
    for line in ["first line", "second line", "third line"] {
        guest.write(&mut recorder, line.as_bytes());
        guest.read(&mut recorder);
    }
    guest.finish(&mut recorder);
    guest.read(&mut recorder);
    done(recorder)
}

/// The same as `tcpdump` would have written it: the old format, no comments, no directions.
fn as_tcpdump(recorded: &Recorded) -> Vec<u8> {
    let mut file = Vec::new();
    [0xa1b2_c3d4, 0x0004_0002, 0, 0, 262_144, 1u32].into_iter().for_each(|word| file.extend(word.to_le_bytes()));
    for packet in read::read(&recorded.file).unwrap().packets {
        let micros = packet.stamp / 1000;
        let len = packet.data.len() as u32;
        [(micros / 1_000_000) as u32, (micros % 1_000_000) as u32, len, len]
            .into_iter()
            .for_each(|word| file.extend(word.to_le_bytes()));
        file.extend(&*packet.data);
    }
    file
}

fn played(file: &[u8], user: Option<&str>) -> netstack::replay::Report {
    replay(file, Sidecar::default(), &Options { user: user.map(ToOwned::to_owned) }).unwrap()
}

#[test]
fn a_recording_of_another_program_is_played() {
    let file = as_tcpdump(&recorded());
    let report = played(&file, Some("ipv6=off"));
    assert!(report.matches(), "{:#?}", report.differences);
    assert_eq!(report.compared, 6);
    // With IPv6, a router that nobody heard of in the recording makes itself known; that is told, and no difference.
    let report = played(&file, None);
    assert!(report.matches(), "{:#?}", report.differences);
    assert!(report.remarks[0].contains("router advertisements"), "{:?}", report.remarks);
}

#[test]
fn what_the_card_was_left_to_do_is_no_mistake_of_the_guest() {
    let recorded = changed(&recorded(), |packets| {
        for packet in packets.iter_mut().filter(|packet| packet.direction == Some(read::Direction::Inbound)) {
            if packet.data.len() > 54 && packet.data[12..14] == [8, 0] {
                // As Linux leaves it: the sum of the pseudo-header.
                let data = packet.data.to_mut();
                let words = data[26..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
                let sum = words.sum::<u32>() + 6 + data.len() as u32 - 34;
                let sum = (sum & 0xffff) + (sum >> 16);
                data[50..52].copy_from_slice(&(sum as u16).to_be_bytes());
            }
        }
    });
    let report = played(&as_tcpdump(&recorded), Some("ipv6=off"));
    assert!(report.matches(), "{:#?}", report.differences);
    // In a recording of ours it would be.
    assert!(!play(&recorded).matches());
}

#[test]
fn what_began_before_the_recording_is_passed_over_and_told() {
    let mut recorded = changed(&recorded(), |packets| drop(packets.drain(2..5)));
    // A scripted recording is whole, and this would be a mistake in it.
    assert!(!play(&recorded).matches());
    recorded.sidecar.clock = Clock::Real;
    let report = play(&recorded);
    assert!(report.matches(), "{:#?}", report.differences);
    assert!(
        report.remarks.iter().any(|remark| remark.contains("TCP 10.0.2.15:40000 - 198.51.100.7:80 began before")),
        "{report:?}"
    );
    assert_eq!(report.compared, 1, "the answer to the ARP request");
}

#[test]
fn packets_that_were_cut_are_played_with_zeros_and_compared_as_far_as_they_go() {
    let whole = recorded();
    // Rewritten by hand: the records keep their lengths, and lose what is behind 60 bytes.
    let mut file = as_tcpdump(&whole);
    let mut cut = file.drain(..24).collect::<Vec<_>>();
    while !file.is_empty() {
        let mut header: Vec<u8> = file.drain(..16).collect();
        let len = u32::from_le_bytes(header[8..12].try_into().unwrap()) as usize;
        let data: Vec<u8> = file.drain(..len).collect();
        let kept = &data[..len.min(60)];
        header[8..12].copy_from_slice(&(kept.len() as u32).to_le_bytes());
        cut.extend(header);
        cut.extend(kept);
    }
    let report = played(&cut, Some("ipv6=off"));
    assert!(report.matches(), "{:#?}", report.differences);
    assert!(report.remarks.iter().any(|remark| remark.contains("only the beginning was recorded")), "{:?}", report.remarks);
}

#[test]
fn a_truncated_recording_is_played_as_far_as_it_goes() {
    let recorded = recorded();
    let mut at_least = 0;
    for len in (0..recorded.file.len()).step_by(7) {
        match replay(&recorded.file[..len], recorded.sidecar.clone(), &Options::default()) {
            Ok(report) => {
                assert!(report.problem.as_ref().is_none_or(|problem| problem.contains("at offset")), "{report:?}");
                at_least = at_least.max(report.packets);
            }
            Err(ReplayError::NoRecording(problem)) => assert!(!problem.to_string().is_empty()),
            Err(ReplayError::Empty(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert!(at_least > 8);
}

#[test]
fn what_cannot_be_played_says_why() {
    let error = |file: &[u8]| replay(file, Sidecar::default(), &Options::default()).unwrap_err().to_string();
    assert!(error(b"GIF89a").contains("neither a pcap nor a pcapng file"));
    let empty = changed(&recorded(), Vec::clear);
    assert_eq!(error(&empty.file), "there is nothing to play: no packets of an Ethernet are in it");
    let options = Options { user: Some("net=nonsense".to_owned()) };
    let wrong = replay(&recorded().file, Sidecar::default(), &options).unwrap_err();
    assert!(wrong.to_string().contains("`net=nonsense`"), "{wrong}");
    let twice = Options { user: Some("hostfwd=tcp::80-:80,hostfwd=tcp::80-:81".to_owned()) };
    assert!(replay(&recorded().file, Sidecar::default(), &twice).is_err());
}

#[test]
fn time_that_leaps_ends_what_is_used() {
    let leaping = changed(&recorded(), |packets| packets[5].stamp += 40 * 86_400 * 1_000_000_000);
    let report = play(&leaping);
    assert_eq!(report.packets, 5);
    assert!(report.problem.unwrap().contains("comes 40 days after the one before"));
    let shuffled = changed(&recorded(), |packets| packets[5].stamp -= 1_000_000);
    assert!(play(&shuffled).remarks[0].contains("before that of an earlier one"));
}

#[test]
fn an_update_makes_what_is_sent_now_what_is_expected() {
    let good = recorded();
    let broken = changed(&good, |packets| {
        let n = packets
            .iter()
            .position(|packet| packet.data.ends_with(b"second line") && packet.data[6] == 0x52 && packet.data[7] == 0x55)
            .unwrap();
        put(&mut packets[n], 34 + 14, 77, 50);
        let last = packets.pop().unwrap();
        packets.insert(2, last);
    });
    assert!(!play(&broken).matches());
    let (report, file) = update(&broken.file, broken.sidecar.clone(), &Options::default()).unwrap();
    assert!(!report.matches());
    let updated = Recorded { file, sidecar: broken.sidecar.clone() };
    assert!(play(&updated).matches(), "{:#?}", play(&updated).differences);

    // The guest's side and the engine's sequence numbers are as they were.
    let guests = |file: &[u8]| -> Vec<Vec<u8>> {
        let packets = read::read(file).unwrap().packets;
        packets
            .iter()
            .filter(|packet| packet.direction == Some(read::Direction::Inbound))
            .map(|packet| packet.data.to_vec())
            .collect()
    };
    assert_eq!(guests(&updated.file), guests(&broken.file));
    // What is as it should be is rewritten to the same bytes, whatever the engine's numbers are in this run.
    let (report, file) = update(&good.file, good.sidecar.clone(), &Options::default()).unwrap();
    assert!(report.matches() && file == good.file);
    let other_seed = Sidecar { seed: Some(77), ..good.sidecar.clone() };
    let (report, file) = update(&good.file, other_seed, &Options::default()).unwrap();
    assert!(report.matches() && file == good.file);
}

#[test]
fn what_would_lose_something_is_not_updated() {
    let error = |file: &[u8]| update(file, Sidecar::default(), &Options::default()).unwrap_err().to_string();
    let recorded = recorded();
    assert!(error(&as_tcpdump(&recorded)).contains("the old format"));
    assert!(error(&recorded.file[..recorded.file.len() - 3]).contains("a part of it cannot be used"));
}

#[test]
fn a_sidecar_reads_as_it_is_documented() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("story.pcapng");
    let good = recorded();
    good.save(&path).unwrap();
    assert_eq!(Sidecar::beside(&path).unwrap(), good.sidecar);
    assert_eq!(Sidecar::beside(&dir.path().join("none.pcapng")).unwrap(), Sidecar::default());

    let documented = include_str!("../../src/replay/sidecar.rs");
    let example = documented.split("```toml").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let example: String = example.lines().map(|line| line.trim_start_matches("//!").to_owned() + "\n").collect();
    std::fs::write(Sidecar::path_of(&path), &example).unwrap();
    let sidecar = Sidecar::beside(&path).unwrap();
    assert_eq!((sidecar.peers[0].send_queue, sidecar.peers[0].reads.len(), sidecar.limits.tcp_flows), (Some(4096), 2, Some(2)));

    for (text, told) in [
        ("varies = [\"tcp.window\"]", "`varies` names `tcp.window`, but [reasons] does not say why"),
        ("story = 5", "invalid type"),
        ("tale = \"x\"", "unknown field `tale`"),
        ("clock = \"slow\"", "unknown variant `slow`"),
    ] {
        std::fs::write(Sidecar::path_of(&path), text).unwrap();
        let error = Sidecar::beside(&path).unwrap_err().to_string();
        assert!(error.contains(told) && error.contains("story.toml"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is done to a recording, playing it ends with a report or an error.
    #[test]
    fn no_damage_does_harm(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let good = sample();
        let mut file = good.file.clone();
        for (index, value) in changes {
            // Behind the header of the section, so that something is played.
            let at = 100 + index.index(file.len() - 100);
            file[at] = value;
        }
        let _ = replay(&file, good.sidecar.clone(), &Options::default());
        let _ = update(&file, good.sidecar.clone(), &Options::default());
    }

    /// Also if it is the packets that are damaged, and the file is not.
    #[test]
    fn no_packet_does_harm(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let broken = changed(sample(), |packets| {
            for (packet, place, value) in changes {
                let packet = packet.index(packets.len());
                let data = packets[packet].data.to_mut();
                let place = place.index(data.len());
                data[place] = value;
            }
        });
        let _ = replay(&broken.file, broken.sidecar.clone(), &Options::default());
        let _ = update(&broken.file, broken.sidecar.clone(), &Options::default());
    }
}

/// A recording with a bit of everything.
fn sample() -> &'static Recorded {
    static SAMPLE: std::sync::OnceLock<Recorded> = std::sync::OnceLock::new();
    SAMPLE.get_or_init(|| {
        let mut recorder = recorder("hostfwd=tcp:127.0.0.1:8080-:80");
        recorder.host().serve_elsewhere(Server::new(Program::Source(5000)));
        recorder.host().serve_udp(at("198.51.100.7:123"), netstack::host::sim::UdpServer::Echo);
        arp(&mut recorder, 1, [10, 0, 2, 2]);
        datagram(&mut recorder, 5000, "198.51.100.7:123", b"what time is it?");
        datagram(&mut recorder, 5000, "10.0.2.3:53", b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00name");
        for question in recorder.questions() {
            recorder.answer(question.way_back, &question.message);
        }
        datagram(&mut recorder, 5000, "10.0.2.99:1", b"nowhere");
        let mut guest = Connection::open(&mut recorder, 40_000, SERVER);
        guest.read(&mut recorder);
        guest.finish(&mut recorder);
        recorder.host().dial(at("127.0.0.1:8080"), at("127.0.0.1:50000"), &Server::new(Program::Echo)).unwrap();
        recorder.settle();
        done(recorder)
    })
}
