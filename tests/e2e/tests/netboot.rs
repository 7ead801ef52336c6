//! A machine without a disk loads its system from the gateway: firmware, then iPXE, then a stock kernel.

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use e2e::initrd::Initrd;
use e2e::qemu::{COMMAND_LINE, Card, Machine, Serving};

const MAC: &str = "52:54:00:12:34:56";

/// Puts a kernel, its initial file system and a script for iPXE into a directory that everybody may read.
fn system(card: Card) -> tempfile::TempDir {
    let directory = tempfile::Builder::new().prefix("slipway-boot-").tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let initrd = Initrd::with_modules(card.modules());
    for (from, to) in [(&initrd.kernel, "vmlinuz"), (&initrd.archive, "initrd")] {
        let to = directory.path().join(to);
        fs::copy(from, &to).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o644)).unwrap();
    }
    let script = format!("#!ipxe\nkernel vmlinuz {COMMAND_LINE} loaded-by-ipxe\ninitrd initrd\nboot\n");
    fs::write(directory.path().join("boot.ipxe"), script).unwrap();
    directory
}

/// Boots from the network with these options, and sees that it is this kernel that runs.
fn boots(card: Card, options: &str) {
    let mut serving = Serving::start(Some(options), &["port"]);
    let mut guest = Machine::netboot(card, MAC, &serving.socket("port")).booted();
    assert!(guest.succeed("cat /proc/cmdline").contains("loaded-by-ipxe"));
    assert_eq!(guest.lease(), "10.0.2.15");
    assert!(serving.is_alive(), "{}", serving.said());
}

#[test]
fn ipxe_boots_a_kernel_over_tftp() {
    let system = system(Card::Virtio);
    boots(Card::Virtio, &format!("tftp={},bootfile=boot.ipxe", system.path().display()));
}

#[test]
fn ipxe_boots_a_kernel_over_http_also_where_everything_else_is_forbidden() {
    let system = system(Card::E1000);
    boots(Card::E1000, &format!("restrict=on,http={},bootfile=http://10.0.2.2/boot.ipxe", system.path().display()));
}
