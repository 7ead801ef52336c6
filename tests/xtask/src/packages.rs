//! The Debian packages that the end-to-end tests need: which are missing, and how they come.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::step::Steps;

/// A package, and how one sees that it is there whoever has installed it.
#[derive(Debug)]
struct Package {
    name: &'static str,
    witness: Witness,
}

#[derive(Debug)]
enum Witness {
    /// A program in the search path.
    Program(&'static str),
    /// A file that is no program.
    File(&'static str),
    /// A kernel in `/boot` together with its modules.
    Kernel,
}

const PACKAGES: &[Package] = &[
    Package { name: "qemu-system-x86", witness: Witness::Program("qemu-system-x86_64") },
    Package { name: "slirp4netns", witness: Witness::Program("slirp4netns") },
    Package { name: "passt", witness: Witness::Program("pasta") },
    Package { name: "iperf3", witness: Witness::Program("iperf3") },
    Package { name: "busybox-static", witness: Witness::Program("busybox") },
    Package { name: "bind9-dnsutils", witness: Witness::Program("dig") },
    Package { name: "iputils-ping", witness: Witness::Program("ping") },
    Package { name: "iputils-tracepath", witness: Witness::Program("tracepath") },
    Package { name: "traceroute", witness: Witness::Program("traceroute") },
    Package { name: "isc-dhcp-client", witness: Witness::Program("dhclient") },
    Package { name: "nftables", witness: Witness::Program("nft") },
    Package { name: "samba", witness: Witness::Program("smbd") },
    Package { name: "smbclient", witness: Witness::Program("smbclient") },
    Package { name: "socat", witness: Witness::Program("socat") },
    Package { name: "curl", witness: Witness::Program("curl") },
    Package { name: "ipxe-qemu", witness: Witness::File("/usr/lib/ipxe/qemu/pxe-e1000.rom") },
    Package { name: "tftp-hpa", witness: Witness::Program("tftp") },
    Package { name: "tshark", witness: Witness::Program("tshark") },
    Package { name: "cpio", witness: Witness::Program("cpio") },
    Package { name: "kmod", witness: Witness::Program("modprobe") },
    Package { name: "iproute2", witness: Witness::Program("ip") },
    Package { name: "acpica-tools", witness: Witness::Program("iasl") },
    Package { name: "binutils", witness: Witness::Program("strip") },
    Package { name: "util-linux", witness: Witness::Program("unshare") },
    Package { name: "linux-image-amd64", witness: Witness::Kernel },
];

/// Makes sure that all packages are there, and installs those that are missing where that is allowed. `false` means that some are
/// still missing; what to do has been said then.
pub(crate) fn ensure(steps: &mut Steps) -> Result<bool> {
    if missing().is_empty() {
        return Ok(true);
    }
    let names = missing();
    let install = format!("apt-get update && apt-get install -y --no-install-recommends {}", names.join(" "));
    if rustix::process::geteuid().is_root() && on_path("apt-get") {
        let apt = |arguments: &[&str]| {
            let mut apt = Command::new("apt-get");
            apt.env("DEBIAN_FRONTEND", "noninteractive").args(["-qq", "-o", "Dpkg::Use-Pty=0"]).args(arguments);
            apt
        };
        steps.run("package lists", &mut apt(&["update"]))?;
        steps.run("packages", apt(&["install", "-y", "--no-install-recommends"]).args(&names))?;
    }
    let still = missing();
    if !still.is_empty() {
        eprintln!(
            "error: the tests need what is not installed here: {}. Install it by:\n\n    sudo sh -c '{install}'\n",
            still.join(" ")
        );
    }
    Ok(still.is_empty())
}

fn missing() -> Vec<&'static str> {
    let is_there = |witness: &Witness| match witness {
        Witness::Program(program) => on_path(program),
        Witness::File(path) => Path::new(path).is_file(),
        Witness::Kernel => kernel_with_modules(),
    };
    PACKAGES.iter().filter(|package| !is_there(&package.witness)).map(|package| package.name).collect()
}

/// Whether this program is in the search path, or where system programs are, which is not in every user's path.
pub(crate) fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    directories.into_iter().any(|directory| directory.join(program).is_file())
}

fn kernel_with_modules() -> bool {
    let Ok(boot) = std::fs::read_dir("/boot") else { return false };
    boot.flatten().any(|entry| {
        let name = entry.file_name();
        let version = name.to_str().and_then(|name| name.strip_prefix("vmlinuz-"));
        version.is_some_and(|version| Path::new("/lib/modules").join(version).join("modules.dep").is_file())
    })
}
