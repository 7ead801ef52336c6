//! Why the machine does not let us: from an error number and the settings under /proc/sys to a cause and a remedy.
//!
//! The settings are read below a directory that tests replace.

use std::fs;
use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::program::failure::Failure;

/// Where a tap comes from.
pub(crate) const TUN: &str = "/dev/net/tun";

/// The settings of the running kernel that bear on namespaces.
#[derive(Debug)]
pub(crate) struct Kernel {
    settings: PathBuf,
}

impl Kernel {
    pub(crate) fn running() -> Self {
        Self { settings: PathBuf::from("/proc/sys") }
    }

    /// Why a user namespace could not be made.
    pub(crate) fn user_namespace_failure(&self, errno: Errno) -> Failure {
        let failure = Failure::new("cannot make a user namespace").because(io::Error::from(errno));
        if let Some(failure) = self.forbidden_by_setting(&failure) {
            return failure;
        }
        match errno {
            Errno::NOSPC | Errno::USERS => failure.advice(
                "There are too many, or they are nested too deep (32 levels): end some, or raise the limit with `sysctl -w user.max_user_namespaces=N`.",
            ),
            Errno::PERM => failure.advice(
                "Something keeps this process from it: a container's seccomp filter (with Docker or Podman try `--security-opt seccomp=unconfined`), \
                 a chroot, or a security module.",
            ),
            Errno::INVAL | Errno::NOSYS => {
                failure.advice("This kernel seems to be built without CONFIG_USER_NS; only another kernel helps.")
            }
            _ => failure,
        }
    }

    /// Why the user namespace that was made is of no use: its creator has no rights in it.
    pub(crate) fn powerless_failure(&self, doing: &str, errno: Errno) -> Failure {
        let failure = Failure::new(doing).because(io::Error::from(errno));
        if !matches!(errno, Errno::PERM | Errno::ACCESS) {
            return failure;
        }
        self.forbidden_by_setting(&failure).unwrap_or_else(|| {
            failure.advice(
                "A user namespace was made but gives no rights: a security module or a container's seccomp filter is in the way; \
                 see `dmesg` for what it has refused.",
            )
        })
    }

    /// Why the network or mount namespace could not be made, though there is a user namespace.
    pub(crate) fn namespaces_failure(&self, errno: Errno) -> Failure {
        if errno == Errno::NOSPC {
            return Failure::new("cannot make a network and a mount namespace")
                .because("there are too many of them")
                .advice("Raise the limits with `sysctl -w user.max_net_namespaces=N user.max_mnt_namespaces=N`.");
        }
        self.powerless_failure("cannot make a network and a mount namespace", errno)
    }

    fn forbidden_by_setting(&self, failure: &Failure) -> Option<Failure> {
        let remedy = |setting: &str, value: &str, meaning: &str| {
            let what = failure.to_string();
            Failure::new(what.trim_end_matches('.').to_owned()).because(meaning).advice(format!(
                "As root: `sysctl -w {setting}={value}`, and put `{setting}={value}` into /etc/sysctl.d/slipway.conf to keep it."
            ))
        };
        if self.number("kernel/unprivileged_userns_clone") == Some(0) {
            return Some(remedy(
                "kernel.unprivileged_userns_clone",
                "1",
                "kernel.unprivileged_userns_clone is 0, which leaves them to root",
            ));
        }
        if self.number("user/max_user_namespaces") == Some(0) {
            return Some(remedy(
                "user.max_user_namespaces",
                "15000",
                "user.max_user_namespaces is 0, which forbids them to everyone",
            ));
        }
        if self.number("kernel/apparmor_restrict_unprivileged_userns").is_some_and(|n| n != 0) {
            return Some(remedy(
                "kernel.apparmor_restrict_unprivileged_userns",
                "0",
                "kernel.apparmor_restrict_unprivileged_userns is 1, so that only programs with an AppArmor profile may use them",
            ));
        }
        None
    }

    fn number(&self, setting: &str) -> Option<i64> {
        fs::read_to_string(self.settings.join(setting)).ok()?.trim().parse().ok()
    }
}

/// Checks that this process may open taps at all, because the kernel's own error names no remedy.
pub(crate) fn check_tun() -> Result<(), Failure> {
    match fs::OpenOptions::new().read(true).write(true).open(TUN) {
        Ok(_) => Ok(()),
        Err(err) => Err(tun_failure(&err)),
    }
}

fn tun_failure(err: &io::Error) -> Failure {
    let failure = Failure::new(format!("cannot open {TUN}")).because(err);
    match err.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => failure.advice(
            "As root: `modprobe tun`, and if the node is still missing `mkdir -p /dev/net && mknod -m 0666 /dev/net/tun c 10 200`. \
             A container must be given the device, for Docker or Podman with `--device /dev/net/tun`.",
        ),
        Some(Errno::NODEV | Errno::NXIO) => failure.advice("The kernel has no tun driver loaded. As root: `modprobe tun`."),
        Some(Errno::ACCESS | Errno::PERM) => failure.advice(format!(
            "{}As root: `chmod 0666 {TUN}` (it gives nobody a right over the host's network), and to keep it, \
             `echo 'KERNEL==\"tun\", MODE=\"0666\"' > /etc/udev/rules.d/80-tun.rules`. In a container, its device rules may forbid it as well.",
            who_may_open_tun()
        )),
        _ => failure,
    }
}

/// The owner and mode of the node, as a sentence; nothing when even that cannot be read.
fn who_may_open_tun() -> String {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    fs::metadata(TUN).map_or_else(
        |_| String::new(),
        |node| {
            format!("Only uid {} and gid {} may, by its mode {:04o}. ", node.uid(), node.gid(), node.permissions().mode() & 0o7777)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel_with(settings: &[(&str, &str)]) -> (tempfile::TempDir, Kernel) {
        let dir = tempfile::tempdir().unwrap();
        for (name, value) in settings {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value).unwrap();
        }
        let kernel = Kernel { settings: dir.path().to_owned() };
        (dir, kernel)
    }

    #[test]
    fn the_setting_that_forbids_user_namespaces_is_named() {
        for (file, value, setting) in [
            ("kernel/unprivileged_userns_clone", "0\n", "sysctl -w kernel.unprivileged_userns_clone=1"),
            ("user/max_user_namespaces", "0\n", "sysctl -w user.max_user_namespaces=15000"),
            ("kernel/apparmor_restrict_unprivileged_userns", "1\n", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
        ] {
            let (_dir, kernel) = kernel_with(&[(file, value)]);
            let text = kernel.user_namespace_failure(Errno::PERM).to_string();
            assert!(text.contains(setting), "{text}");
        }
    }

    #[test]
    fn a_container_is_suspected_when_no_setting_forbids() {
        let (_dir, kernel) = kernel_with(&[("kernel/unprivileged_userns_clone", "1"), ("user/max_user_namespaces", "63000")]);
        assert!(kernel.user_namespace_failure(Errno::PERM).to_string().contains("seccomp"));
        assert!(kernel.user_namespace_failure(Errno::NOSPC).to_string().contains("user.max_user_namespaces=N"));
    }

    #[test]
    fn apparmor_is_blamed_for_a_namespace_without_rights() {
        let (_dir, kernel) = kernel_with(&[("kernel/apparmor_restrict_unprivileged_userns", "1")]);
        let text = kernel.powerless_failure("cannot map users", Errno::ACCESS).to_string();
        assert!(text.starts_with("cannot map users: permission denied: kernel.apparmor"), "{text}");
    }

    #[test]
    fn a_missing_and_a_closed_tun_device_have_different_remedies() {
        assert!(tun_failure(&Errno::NOENT.into()).to_string().contains("modprobe tun"));
        assert!(tun_failure(&Errno::ACCESS.into()).to_string().contains("chmod 0666 /dev/net/tun"));
    }
}
