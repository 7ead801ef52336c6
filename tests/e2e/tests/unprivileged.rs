//! The tests keep their promise: what they run has no right that an ordinary user lacks.

use e2e::namespace::{Guest, Options};
use e2e::programs::Stage;
use e2e::unprivileged::{Surroundings, command};

#[test]
fn commands_run_without_any_right() {
    let stage = Stage::new();
    let told =
        command(&stage, Surroundings::default(), &["sh", "-c", "id -u; id -G; grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status"]);
    let told = { told }.output().unwrap();
    let text = String::from_utf8_lossy(&told.stdout);
    let mut lines = text.lines();
    assert!(lines.next().is_some_and(|uid| uid != "0"), "{text}");
    assert!(lines.next().is_some_and(|groups| groups.split_whitespace().all(|group| group != "0")), "{text}");
    let sets: Vec<_> = lines.collect();
    assert_eq!(sets.len(), 4, "{text}");
    assert!(sets.iter().all(|set| set.ends_with("0000000000000000")), "{text}");
}

#[test]
fn slipway_itself_runs_without_any_right_of_the_host() {
    let mut guest = Guest::new();
    let process = guest.process().id();
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    assert!(uids.split_whitespace().all(|uid| uid != "0"), "{uids}");
}

#[test]
fn a_host_without_the_tun_device_is_told_what_to_do() {
    let told = Options::default().surroundings(Surroundings { without_tun: true, ..Surroundings::default() }).output(&["true"]);
    let text = String::from_utf8_lossy(&told.stderr);
    assert!(!told.status.success());
    assert!(text.contains("/dev/net/tun") && text.contains("modprobe"), "{text}");
}
