//! Captures of an engine that runs, begun and ended by its handle.

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

use std::path::Path;

use netstack::capture::{CaptureConfig, CaptureId};
use netstack::config::Config;
use netstack::engine::{Engine, Handle};
use netstack::frame::FrameMeta;
use netstack::pcap::note::Note;
use netstack::port::memory::{GuestEnd, MemoryConfig, MemoryPort};
use pcap_parser::{Block, PcapBlockOwned, PcapNGSlice};

const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A request of the guest for the gateway's card.
fn who_has_the_gateway() -> Vec<u8> {
    let mut frame = [[0xff; 6], GUEST].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(GUEST);
    frame.extend([10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2]);
    frame
}

/// Asks, and waits for the answer: so all that was sent before has been looked at.
async fn ask(guest: &GuestEnd) {
    guest.send(who_has_the_gateway(), FrameMeta::default()).unwrap();
    while !guest.received().await.unwrap().0.starts_with(&GUEST) {}
}

async fn attach(handle: &Handle, name: &str) -> GuestEnd {
    attach_with(handle, name, 1500).await
}

async fn attach_with(handle: &Handle, name: &str, mtu: u16) -> GuestEnd {
    let (port, guest) = MemoryPort::pair(MemoryConfig { name: name.to_owned(), mtu, ..MemoryConfig::default() });
    handle.attach(Box::new(port)).await.unwrap();
    guest
}

/// Frames of a file: the name of the port, whether the guest has sent it, the stamp, the type, and the note.
fn read(file: &Path) -> Vec<(String, bool, u64, u16, Note)> {
    let file = std::fs::read(file).unwrap();
    let (mut ports, mut frames) = (Vec::new(), Vec::new());
    for block in PcapNGSlice::from_slice(&file).unwrap() {
        match block.unwrap() {
            PcapBlockOwned::NG(Block::InterfaceDescription(port)) => ports.push(port.if_name().unwrap().unwrap().to_owned()),
            PcapBlockOwned::NG(Block::EnhancedPacket(frame)) => {
                let option = |code| frame.options.iter().find(|option| option.code.0 == code);
                let note = option(1).map_or_else(Note::default, |note| note.as_str().unwrap().parse().unwrap());
                let from_guest = option(2).unwrap().value()[0] & 3 == 1;
                let stamp = u64::from(frame.ts_high) << 32 | u64::from(frame.ts_low);
                let kind = frame.data.get(12..14).map_or(0, |kind| u16::from_be_bytes([kind[0], kind[1]]));
                frames.push((ports[frame.if_id as usize].clone(), from_guest, stamp, kind, note));
            }
            _ => {}
        }
    }
    frames
}

#[tokio::test]
async fn an_engine_records_what_it_is_told_to_from_when_to_when() {
    let directory = tempfile::tempdir().unwrap();
    let [first, second] = ["first.pcapng", "second.pcapng"].map(|name| directory.path().join(name));
    let engine = Engine::new(&Config::default()).unwrap();
    let handle = engine.handle();
    let running = tokio::spawn(engine.run());

    let guest = attach(&handle, "alice").await;
    ask(&guest).await;
    // The router advertises itself when it likes to.
    let mut all = CaptureConfig::to_file(&first);
    all.filter = Some("not ip6".parse().unwrap());
    let all = handle.start_capture(all).await.unwrap();
    guest.send(b"no frame", FrameMeta::default()).unwrap();
    ask(&guest).await;
    let mut only_new = CaptureConfig::to_file(&second);
    only_new.filter = Some("ip6".parse().unwrap());
    let new = handle.start_capture(only_new).await.unwrap();
    let listed: Vec<_> = handle.captures().await.unwrap().into_iter().map(|info| (info.id, info.filter)).collect();
    assert_eq!(listed, [(all, Some("not ip6".to_owned())), (new, Some("ip6".to_owned()))]);

    let info = handle.stop_capture(all).await.unwrap().unwrap();
    assert_eq!((info.records, info.cut, info.dropped, info.failure), (3, 0, 0, None));
    assert_eq!(info.bytes, std::fs::metadata(&first).unwrap().len());
    assert_eq!(handle.stop_capture(all).await.unwrap(), None, "once is enough");
    assert_eq!(handle.stop_capture(CaptureId(99)).await.unwrap(), None);

    let other = attach(&handle, "bob").await;
    ask(&other).await;
    let counters = handle.counters().await.unwrap();
    assert!(counters.capture_frames >= 4 && counters.capture_cut + counters.capture_dropped == 0);
    handle.shutdown();
    running.await.unwrap();

    let frames = read(&first);
    let told: Vec<_> = frames.iter().map(|(port, from_guest, _, kind, note)| (&**port, *from_guest, *kind, &note.drop)).collect();
    let dropped = Some("malformed".into());
    assert_eq!(told, [("alice", true, 0, &dropped), ("alice", true, 0x0806, &None), ("alice", false, 0x0806, &None)]);
    assert_eq!(frames[1].2, frames[2].2, "what is answered in a turn has the same stamp");
    // The end of the engine is the end of the capture: the router's word to the new guest is there.
    let frames = read(&second);
    assert!(frames.iter().any(|(port, from_guest, ..)| port == "bob" && !from_guest));
    assert!(frames.iter().all(|(.., kind, _)| *kind == 0x86dd));
}

#[tokio::test]
async fn a_frame_that_another_guest_does_not_take_is_recorded_as_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("net.pcapng");
    let engine = Engine::new(&Config::default()).unwrap();
    let handle = engine.handle();
    let running = tokio::spawn(engine.run());
    let (alice, _bob) = (attach(&handle, "alice").await, attach_with(&handle, "bob", 1280).await);
    let mut config = CaptureConfig::to_file(&file);
    config.filter = Some("drops".parse().unwrap());
    handle.start_capture(config).await.unwrap();
    // To a station that may be behind any other port, and is longer than that one takes.
    let mut long = [[2, 0, 0, 0, 0, 9], GUEST].concat();
    long.resize(1500, 0);
    alice.send(long, FrameMeta::default()).unwrap();
    ask(&alice).await;
    handle.shutdown();
    running.await.unwrap();
    let frames = read(&file);
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].4.drop.as_deref(), Some("switch_dropped"));
}

#[tokio::test]
async fn guests_that_talk_to_each_other_are_recorded_at_both_ports() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("net.pcapng");
    let engine = Engine::new(&Config::default()).unwrap();
    let handle = engine.handle();
    let running = tokio::spawn(engine.run());
    let (alice, bob) = (attach(&handle, "alice").await, attach(&handle, "bob").await);
    let mut config = CaptureConfig::to_file(&file);
    config.filter = Some("arp".parse().unwrap());
    handle.start_capture(config).await.unwrap();
    // A broadcast: for the other guest, and for the engine, which answers.
    ask(&alice).await;
    while !bob.received().await.unwrap().0.starts_with(&[0xff; 6]) {}
    handle.shutdown();
    running.await.unwrap();
    let frames = read(&file);
    let seen: Vec<_> = frames.iter().map(|(port, from_guest, ..)| (port.as_str(), *from_guest)).collect();
    assert_eq!(seen, [("alice", true), ("bob", false), ("alice", false)]);
}
