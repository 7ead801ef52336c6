//! Makes the engine's side of a recording what the engine sends now.
//!
//! The guest's packets stay as they are, and so do their comments but for why they went no further. What the engine sends now is written
//! with the sequence numbers that the recording has always had, so that guests still acknowledge it, and so that a comparison of the two
//! files shows only what has changed.

use std::io;

use super::Logged;
use super::conversation::Key;
use super::load::Scene;
use super::play::{Happened, Run};
use super::record::write_file;
use super::script::Script;
use super::translate;
use crate::pcap::write::Direction;

/// The new file.
pub(super) fn updated(scene: &Scene, script: &Script, run: &Run) -> io::Result<Vec<u8>> {
    let mut packets: Vec<Logged> = run
        .order
        .iter()
        .map(|happened| match happened {
            Happened::Guest(index) => from_guest(scene, run, *index),
            Happened::Engine(index) => from_engine(run, *index),
        })
        .collect();
    // What was not played stays.
    let kept = scene.packets.iter().zip(&scene.keys);
    packets.extend(
        kept.filter(|(packet, key)| packet.direction == Direction::ToGuest && script.skipped.contains(key))
            .map(|(packet, _)| packet.clone()),
    );
    packets.sort_by_key(|packet| packet.at);
    write_file(&scene.section, &scene.interfaces, &packets)
}

fn from_guest(scene: &Scene, run: &Run, index: usize) -> Logged {
    let mut packet = scene.packets[index].clone();
    if let Some(drop) = run.drops.get(&index) {
        packet.note.drop = drop.map(Into::into);
    }
    packet
}

fn from_engine(run: &Run, index: usize) -> Logged {
    let sent = &run.sent[index];
    let mut bytes = sent.bytes.clone();
    if let Key::Tcp { .. } = sent.key
        && let Some((Some(recorded), Some(now))) = run.isns.get(&sent.key)
    {
        translate::sequence(&mut bytes, recorded.wrapping_sub(*now));
    }
    Logged {
        number: 0,
        at: sent.at,
        port: sent.port,
        direction: Direction::ToGuest,
        original_len: bytes.len(),
        bytes,
        note: sent.note.clone(),
    }
}
