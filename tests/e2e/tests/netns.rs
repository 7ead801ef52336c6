//! `slipway netns`: a network for a namespace that somebody else has made.

use e2e::host::{Echo, LOOPBACK, seen_by_guests};
use e2e::namespace::Options;
use e2e::programs::Stage;
use e2e::unprivileged::{Surroundings, command};
use e2e::wait::ended;

#[test]
fn an_existing_namespace_gets_a_network() {
    let echo = Echo::at(LOOPBACK);
    let mut guest = Options::default().attached();
    assert!(guest.succeed("ip -br addr show tap0").contains("10.0.2.15/24"));
    guest.succeed("ping -n -c 1 -W 5 10.0.2.2");
    let told = guest.succeed(&format!("e2e-guest parallel {} 5", seen_by_guests(echo.address)));
    assert_eq!(told, "5 open, 0 refused");
}

#[test]
fn slipway_leaves_when_the_exit_descriptor_is_closed() {
    let mut guest = Options::default().attached();
    let slipway = guest.slipway().unwrap();
    drop(slipway.stdin.take());
    let status = ended(slipway);
    assert!(status.success(), "{status}");
    guest.run("ip link show tap0").failure();
}

#[test]
fn a_process_that_is_not_there_is_named() {
    let stage = Stage::new();
    let words = ["slipway", "netns", "--configure", "4194305"];
    let refused = command(&stage, Surroundings::default(), &words).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success());
    assert!(text.contains("4194305"), "{text}");
}

#[test]
fn a_namespace_of_somebody_else_is_refused() {
    let stage = Stage::new();
    // The first process belongs to root, and so do its namespaces.
    let refused = command(&stage, Surroundings::default(), &["slipway", "netns", "--configure", "1"]).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success());
    assert!(text.contains("namespace") && !text.contains("panicked"), "{text}");
}

#[test]
fn a_terminated_slipway_takes_its_interface_along() {
    let mut guest = Options::default().attached();
    let slipway = guest.slipway().unwrap();
    let pid = rustix::process::Pid::from_child(slipway);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    ended(slipway);
    guest.run("ip link show tap0").failure();
}
