//! The programs that are compared: how each is found, named and attached to a namespace.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::packages::on_path;
use crate::target_directory;

/// A program that gives a network namespace a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stack {
    /// Ours.
    Slipway,
    /// libslirp on a tap.
    Slirp4netns,
    /// passt's form for namespaces.
    Pasta,
}

/// The interface in the guest's namespace.
pub(crate) const INTERFACE: &str = "tap0";

impl Stack {
    /// Its name, as in tables.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Slipway => "slipway",
            Self::Slirp4netns => "slirp4netns",
            Self::Pasta => "pasta",
        }
    }

    /// The program: what the environment names, or the one of this workspace or the search path.
    pub(crate) fn program(self) -> PathBuf {
        let named = std::env::var_os(self.name().to_uppercase()).map(PathBuf::from);
        named.unwrap_or_else(|| match self {
            Self::Slipway => target_directory().join("release/slipway"),
            Self::Slirp4netns | Self::Pasta => PathBuf::from(self.name()),
        })
    }

    /// Whether the program is there.
    pub(crate) fn is_present(self) -> bool {
        let program = self.program();
        program.is_file() || program.to_str().is_some_and(on_path)
    }

    /// The first line of its `--version`.
    pub(crate) fn version(self) -> String {
        first_line_of(Command::new(self.program()).arg("--version"))
    }

    /// The command that attaches it to the namespace at `guest`, in the foreground, so that the guest is 10.0.2.x and reaches the
    /// loopback of the host at 10.0.2.2. `more` are further options.
    pub(crate) fn attach(self, guest: &Path, mtu: u32, more: &[String]) -> Vec<String> {
        let guest = guest.display().to_string();
        let mtu = mtu.to_string();
        let program = self.program().display().to_string();
        let words = match self {
            Self::Slipway => format!("{program} netns --configure --mtu {mtu} {guest} {INTERFACE}"),
            Self::Slirp4netns => format!("{program} --netns-type=path --configure --mtu={mtu} {guest} {INTERFACE}"),
            // It would become nobody, who may not open a namespace of root's.
            Self::Pasta => format!(
                "{program} --foreground --config-net --runas 0:0 --ns-ifname {INTERFACE} --mtu {mtu} --address 10.0.2.15 \
                 --netmask 255.255.255.0 --gateway 10.0.2.2 --ipv4-only -t none -u none -T none -U none --netns {guest}"
            ),
        };
        let mut words: Vec<_> = words.split_whitespace().map(str::to_owned).collect();
        // All end with the namespace; ours and slirp4netns with the interface too.
        let end = words.iter().position(|word| *word == guest).unwrap_or(words.len());
        let before = if self == Self::Pasta { end - 1 } else { end };
        words.splice(before..before, more.iter().cloned());
        words
    }
}

/// The first line that a command prints.
pub(crate) fn first_line_of(command: &mut Command) -> String {
    let printed = command.output().map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    String::from_utf8_lossy(&printed).lines().next().unwrap_or("unknown").trim().to_owned()
}
