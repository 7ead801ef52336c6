//! A stock kernel of the machine, and a root file system in memory that is just enough to type commands into.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the guest's shell prints when it is ready for commands.
pub const READY: &str = "the guest is ready";

/// The first process: modules, then a shell on a serial line.
const INIT: &str = r#"#!/bin/sh
mkdir -p /proc /sys /dev /tmp /etc
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules); do insmod "/lib/$module"; done
ip link set lo up
stty -F /dev/TTY raw -echo
exec >/dev/TTY 2>&1
echo "the guest is ready"
# As a script: a shell whose input is a terminal would prompt and echo.
exec sh /dev/TTY
"#;

/// What udhcpc calls with what it has learnt.
const UDHCPC: &str = r#"#!/bin/sh
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip addr flush dev "$interface"
ip addr add "$ip/$mask" dev "$interface"
[ -z "$mtu" ] || ip link set "$interface" mtu "$mtu"
for router in $router; do ip route add default via "$router"; done
for server in $dns; do echo "nameserver $server"; done >/etc/resolv.conf
echo "lease of $ip for $lease s"
"#;

/// A kernel and its initial file system.
#[derive(Debug)]
pub struct Initrd {
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The archive.
    pub archive: PathBuf,
    _directory: tempfile::TempDir,
}

/// What goes into an archive beside busybox.
#[derive(Debug, Clone, Copy)]
pub struct Contents<'a> {
    /// The drivers that are loaded, without those that they need.
    pub modules: &'a [&'a str],
    /// The serial line of the shell.
    pub terminal: &'a str,
    /// Files of this machine, and where they go: a path without a leading `/`.
    pub files: &'a [(PathBuf, String)],
}

impl Initrd {
    /// Packs the drivers of these names, with all that they need, and busybox with a shell on the second serial line. The kernel talks on
    /// the first.
    ///
    /// # Panics
    ///
    /// When the kernel, its modules or busybox are not installed.
    pub fn with_modules(modules: &[&str]) -> Self {
        Self::with(Contents { modules, terminal: "ttyS1", files: &[] })
    }

    /// Packs an archive.
    ///
    /// # Panics
    ///
    /// When the kernel, its modules or busybox are not installed.
    pub fn with(contents: Contents<'_>) -> Self {
        let (kernel, version) = newest_kernel();
        let directory = tempfile::Builder::new().prefix("slipway-initrd-").tempdir().expect("a temporary directory");
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("bin")).expect("a directory of ours");
        fs::create_dir_all(root.join("lib")).expect("a directory of ours");
        let copy = |from: &str, to: &str| {
            fs::copy(from, root.join(to)).unwrap_or_else(|error| panic!("{from} cannot be copied: {error}"));
        };
        copy("/bin/busybox", "bin/busybox");
        let applets = printed_by(Command::new("/bin/busybox").arg("--list"));
        for applet in applets.lines() {
            // The one that is the program itself cannot be linked to it.
            let _ = std::os::unix::fs::symlink("busybox", root.join("bin").join(applet));
        }
        let files: Vec<_> = contents.modules.iter().flat_map(|module| files_of(&version, module)).collect();
        let mut names = Vec::new();
        for file in files {
            let name = unpacked(&file, &root.join("lib"));
            if !names.contains(&name) {
                names.push(name);
            }
        }
        write(&root.join("modules"), &names.join("\n"));
        for (from, to) in contents.files {
            let to = root.join(to);
            fs::create_dir_all(to.parent().expect("a file is in a directory")).expect("a directory of ours");
            fs::copy(from, &to).unwrap_or_else(|error| panic!("{} cannot be copied: {error}", from.display()));
        }
        write(&root.join("init"), &INIT.replace("TTY", contents.terminal));
        write(&root.join("udhcpc"), UDHCPC);
        let archive = directory.path().join("initrd");
        let packed = Command::new("sh")
            .args(["-c", "find . | cpio --quiet -o -H newc -R 0:0 >../initrd"])
            .current_dir(&root)
            .stdin(Stdio::null())
            .status();
        assert!(packed.is_ok_and(|status| status.success()), "cpio has failed; is it installed?");
        Self { kernel, archive, _directory: directory }
    }
}

/// The kernel in `/boot` that has modules, the last by name if there are several.
fn newest_kernel() -> (PathBuf, String) {
    let boot = fs::read_dir("/boot").expect("/boot can be read");
    let mut versions: Vec<_> = boot
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("vmlinuz-").map(str::to_owned))
        .filter(|version| Path::new("/lib/modules").join(version).join("modules.dep").is_file())
        .collect();
    versions.sort();
    let version = versions.pop().expect("a kernel in /boot with its modules: install linux-image-amd64");
    (PathBuf::from(format!("/boot/vmlinuz-{version}")), version)
}

/// The files of a module and of those that it needs, in the order in which they are loaded. What is built in has none.
fn files_of(version: &str, module: &str) -> Vec<PathBuf> {
    let shown = printed_by(Command::new("modprobe").args(["--show-depends", "--ignore-install", "--set-version", version, module]));
    let files: Vec<_> = shown.lines().filter_map(|line| Some(PathBuf::from(line.strip_prefix("insmod ")?.trim()))).collect();
    files
}

/// Puts a module where it belongs, without its compression, and returns its name there.
fn unpacked(module: &Path, into: &Path) -> String {
    let name = module.file_name().expect("a file").to_string_lossy().into_owned();
    let (name, tool) = match name.rsplit_once('.') {
        Some((plain, "xz")) => (plain.to_owned(), "xz"),
        Some((plain, "zst")) => (plain.to_owned(), "zstd"),
        Some((plain, "gz")) => (plain.to_owned(), "gzip"),
        _ => (name, "cat"),
    };
    let mut unpack = Command::new(tool);
    if tool != "cat" {
        unpack.arg("-dc");
    }
    let file = fs::File::create(into.join(&name)).expect("a file of ours");
    let status = unpack.arg(module).stdin(Stdio::null()).stdout(file).status();
    assert!(status.is_ok_and(|status| status.success()), "{} cannot be unpacked by {tool}", module.display());
    name
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("a file of ours");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("permissions of a file of ours");
}

fn printed_by(command: &mut Command) -> String {
    // Not every user has the directories of system programs in the search path.
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
    assert!(output.status.success(), "{command:?} has failed: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
