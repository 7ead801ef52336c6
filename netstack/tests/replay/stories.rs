//! Each story is recorded, and what was recorded is played: [`done`] fails where that does not give the same.

use netstack::host::StreamService;
use netstack::host::sim::{Program, Server, UdpServer};
use netstack::time::Duration;

use crate::guest::*;

#[test]
fn the_gateway_is_found() {
    let mut recorder = recorder("");
    arp(&mut recorder, 1, [10, 0, 2, 2]);
    let recorded = done(recorder);
    let report = play(&recorded);
    assert_eq!((report.packets, report.compared, report.matches()), (2, 1, true));
    assert!(recorded.sidecar.peers.is_empty());
}

#[test]
fn a_guest_talks_to_an_echo() {
    let mut recorder = recorder("");
    recorder.host().serve(at(SERVER), Server::new(Program::Echo));
    let mut guest = Connection::open(&mut recorder, 40_000, SERVER);
    guest.write(&mut recorder, b"hello");
    assert_eq!(guest.read(&mut recorder), (b"hello".to_vec(), false));
    guest.finish(&mut recorder);
    assert_eq!(guest.read(&mut recorder), (vec![], true));
    let recorded = done(recorder);
    assert!(recorded.sidecar.peers.is_empty(), "{:?}", recorded.sidecar);
    assert!(play(&recorded).compared >= 5);
}
