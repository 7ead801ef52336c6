//! `slipway-vm check`: what this machine offers to virtual machines and their networks, and how to get what it lacks.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use netstack::program::completions::print;
use netstack::program::failure::Failure;

mod findings;

/// The device of KVM.
const KVM: &str = "/dev/kvm";

/// The width of a table that is not shown on a terminal, in columns.
const PLAIN_WIDTH: u16 = 120;

/// How good a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// All is there.
    Good,
    /// It works, but slower or with something missing.
    Limited,
    /// It is not there.
    Missing,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    name: &'static str,
    state: State,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Finding {
    fn good(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, state: State::Good, detail: detail.into(), remedy: None }
    }

    fn lacking(name: &'static str, state: State, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, state, detail: detail.into(), remedy: Some(remedy.into()) }
    }
}

/// Prints the report. Exit code 0 when virtual machines can run here with a network, 1 if not.
pub(crate) fn run(json: bool) -> Result<u8, Failure> {
    let findings = findings::all();
    let usable = findings.iter().all(|finding| finding.state != State::Missing || !findings::is_essential(finding));
    let mut text = if json { as_json(usable, &findings)? } else { as_table(usable, &findings) };
    text.push('\n');
    print(text.as_bytes())?;
    Ok(u8::from(!usable))
}

fn as_json(usable: bool, findings: &[Finding]) -> Result<String, Failure> {
    #[derive(Serialize)]
    struct Whole<'a> {
        usable: bool,
        findings: &'a [Finding],
    }
    serde_json::to_string_pretty(&Whole { usable, findings })
        .map_err(|err| Failure::new("cannot write the report as JSON").because_of(&err))
}

fn as_table(usable: bool, findings: &[Finding]) -> String {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["what", "state", "detail"]);
    if !io::IsTerminal::is_terminal(&io::stdout()) {
        table.force_no_tty().set_width(PLAIN_WIDTH);
    }
    for finding in findings {
        let state = match finding.state {
            State::Good => "good",
            State::Limited => "limited",
            State::Missing => "MISSING",
        };
        let detail = match &finding.remedy {
            Some(remedy) => format!("{}\n{remedy}", finding.detail),
            None => finding.detail.clone(),
        };
        table.add_row([finding.name, state, detail.as_str()]);
    }
    let verdict = if usable { "Virtual machines can run here." } else { "Virtual machines cannot run here yet." };
    format!("{table}\n{verdict}")
}

/// Whether KVM of this host interprets kernels instead of running them.
pub(crate) fn interprets_kernels() -> bool {
    Path::new("/sys/module/kvm_pvm").exists()
}

/// Whether a machine can be made here at all.
pub(crate) fn open_kvm() -> io::Result<()> {
    OpenOptions::new().read(true).write(true).open(KVM).map(|_| ())
}

/// What to do when `/dev/kvm` cannot be opened.
pub(crate) fn remedy_for_kvm(error: &io::Error) -> Option<String> {
    match error.raw_os_error() {
        Some(libc::ENOENT) => Some(
            "There is no such device: load its module as root with `modprobe kvm_intel` or `modprobe kvm_amd`, switch virtualisation on in \
             the firmware, or in a virtual machine let its host allow nested ones. A container must be given the device, for Docker or \
             Podman with `--device /dev/kvm`."
                .to_owned(),
        ),
        Some(libc::EACCES | libc::EPERM) => Some(format!(
            "{}As root: `usermod -aG kvm USER` and log in again, or for now `setfacl -m u:USER:rw {KVM}`. In a container, its device rules may \
             forbid it as well.",
            who_may_open()
        )),
        Some(libc::ENODEV | libc::ENXIO) => {
            Some("The node is there but no module answers: as root, `modprobe kvm_intel` or `modprobe kvm_amd`.".to_owned())
        }
        _ => None,
    }
}

/// The owner and mode of the node, as a sentence; nothing when even that cannot be read.
fn who_may_open() -> String {
    fs::metadata(KVM).map_or_else(
        |_| String::new(),
        |node| {
            format!("Only uid {} and gid {} may, by its mode {:04o}. ", node.uid(), node.gid(), node.permissions().mode() & 0o7777)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_may_not_is_told_how_he_may() {
        let remedy = |errno| remedy_for_kvm(&io::Error::from_raw_os_error(errno));
        assert!(remedy(libc::EACCES).unwrap().contains("usermod -aG kvm"));
        assert!(remedy(libc::ENOENT).unwrap().contains("modprobe"));
        assert_eq!(remedy(libc::EMFILE), None);
    }

    #[test]
    fn the_report_has_every_finding_and_its_remedy() {
        let findings =
            [Finding::good("KVM", "there"), Finding::lacking("ping", State::Limited, "no ping sockets", "set the sysctl")];
        let table = as_table(true, &findings);
        assert!(table.contains("set the sysctl") && table.contains("Virtual machines can run here."));
        let json: serde_json::Value = serde_json::from_str(&as_json(false, &findings).unwrap()).unwrap();
        assert_eq!((&json["usable"], &json["findings"][1]["state"]), (&false.into(), &"limited".into()));
    }
}
