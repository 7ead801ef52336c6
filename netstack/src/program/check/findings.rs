//! The things that are looked at, one function each.

use std::fs;
use std::path::PathBuf;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::{Finding, State};
use crate::host::PING_REMEDY;
use crate::program::failure::plain;

/// What guests get by without.
const PING: &str = "ping sockets";

/// What networks need of this machine.
pub fn findings() -> Vec<Finding> {
    let settings = Settings(PathBuf::from("/proc/sys"));
    vec![user_namespaces(&settings), tun(), ping(&settings)]
}

/// Whether there is no network for commands and namespaces without it.
pub(super) fn is_essential(finding: &Finding) -> bool {
    finding.name != PING
}

/// Settings of the running kernel.
struct Settings(PathBuf);

impl Settings {
    fn text(&self, setting: &str) -> Option<String> {
        fs::read_to_string(self.0.join(setting)).ok()
    }

    fn number(&self, setting: &str) -> Option<i64> {
        self.text(setting)?.trim().parse().ok()
    }
}

fn user_namespaces(settings: &Settings) -> Finding {
    let name = "user namespaces";
    let forbidden = [
        ("kernel/unprivileged_userns_clone", 0, "kernel.unprivileged_userns_clone", "1"),
        ("user/max_user_namespaces", 0, "user.max_user_namespaces", "15000"),
        ("kernel/apparmor_restrict_unprivileged_userns", 1, "kernel.apparmor_restrict_unprivileged_userns", "0"),
    ];
    for (file, bad, setting, value) in forbidden {
        if settings.number(file) == Some(bad) {
            return Finding::lacking(
                name,
                State::Limited,
                format!("{setting} is {bad}, so only root may make them; `slipway shell` needs them, virtual machines do not"),
                format!("As root: `sysctl -w {setting}={value}`."),
            );
        }
    }
    if settings.number("user/max_user_namespaces").is_none() {
        return Finding::lacking(name, State::Limited, "this kernel has none", "Only a kernel with CONFIG_USER_NS helps.");
    }
    Finding::good(name, "allowed")
}

fn ping(settings: &Settings) -> Finding {
    let name = PING;
    let setting = "net.ipv4.ping_group_range";
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(rustix::net::ipproto::ICMP));
    if socket.is_ok() {
        return Finding::good(name, "allowed: guests can ping the world");
    }
    let range = settings.text("net/ipv4/ping_group_range").unwrap_or_default();
    let range = range.split_whitespace().collect::<Vec<_>>().join(" to ");
    Finding::lacking(
        name,
        State::Limited,
        format!("{setting} is {range}, without a group of this user: guests can ping only the gateway"),
        PING_REMEDY,
    )
}

fn tun() -> Finding {
    let (name, path) = ("taps", "/dev/net/tun");
    match fs::OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Finding::good(name, format!("{path} can be opened")),
        Err(err) => Finding::lacking(
            name,
            State::Limited,
            format!(
                "{path} cannot be opened: {}; `slipway shell` and `slipway netns` need them, virtual machines do not",
                plain(&err.to_string())
            ),
            format!("As root: `modprobe tun` and `chmod 0666 {path}`."),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(files: &[(&str, &str)]) -> (tempfile::TempDir, Settings) {
        let dir = tempfile::tempdir().unwrap();
        for (name, value) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value).unwrap();
        }
        let settings = Settings(dir.path().to_owned());
        (dir, settings)
    }

    #[test]
    fn a_setting_that_forbids_user_namespaces_is_named() {
        let (_dir, allowed) = settings(&[("user/max_user_namespaces", "15000\n"), ("kernel/unprivileged_userns_clone", "1")]);
        assert_eq!(user_namespaces(&allowed).state, State::Good);
        let (_dir, forbidden) = settings(&[("user/max_user_namespaces", "0\n")]);
        let finding = user_namespaces(&forbidden);
        assert_eq!(finding.state, State::Limited);
        assert!(finding.remedy.unwrap().contains("sysctl -w user.max_user_namespaces=15000"));
        let (_dir, none) = settings(&[]);
        assert_eq!(user_namespaces(&none).state, State::Limited);
    }

    #[test]
    fn where_ping_is_forbidden_the_setting_and_its_remedy_are_named() {
        // Whether it is depends on the machine; in any case the report agrees with what a guest will see.
        let (_dir, settings) = settings(&[("net/ipv4/ping_group_range", "1\t0\n")]);
        let finding = ping(&settings);
        assert_eq!(finding.remedy.is_some(), finding.state != State::Good);
        if let Some(remedy) = finding.remedy {
            assert!(finding.detail.contains("net.ipv4.ping_group_range is 1 to 0"), "{}", finding.detail);
            assert!(remedy.contains("sysctl -w net.ipv4.ping_group_range=\"0 2147483647\""), "{remedy}");
        }
    }

    #[test]
    fn every_remedy_belongs_to_something_lacking() {
        for finding in findings() {
            assert_eq!(finding.remedy.is_some(), finding.state != State::Good, "{finding:?}");
        }
    }
}
