//! `slipway demo`: the proof that it works, without anything outside the machine.

use e2e::programs::Stage;
use e2e::unprivileged::{Surroundings, command};

#[test]
fn the_demonstration_succeeds_on_a_machine_without_a_network() {
    let stage = Stage::new();
    let alone = Surroundings { without_network: true, ..Surroundings::default() };
    let shown = command(&stage, alone, &["slipway", "demo"]).output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&shown.stdout), String::from_utf8_lossy(&shown.stderr));
    assert!(shown.status.success(), "{text}\n{errors}");
    for shown in ["10.0.2.15", "10.0.2.2"] {
        assert!(text.contains(shown), "{shown} is not in:\n{text}");
    }
}
