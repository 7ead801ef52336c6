//! `slipway-vm check`: what this machine offers to virtual machines and their networks, and how to get what it lacks.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use netstack::program::check::{self, State};
use netstack::program::failure::Failure;

mod findings;

/// The device of KVM.
const KVM: &str = "/dev/kvm";

/// Prints the report. Exit code 0 when virtual machines can run here with a network, 1 if not.
pub(crate) fn run(json: bool) -> Result<u8, Failure> {
    let findings = findings::all();
    let usable = findings.iter().all(|finding| finding.state != State::Missing || !findings::is_essential(finding));
    let verdict = if usable { "Virtual machines can run here." } else { "Virtual machines cannot run here yet." };
    check::report(json, usable, &findings, verdict)?;
    Ok(u8::from(!usable))
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
}
