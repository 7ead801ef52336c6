//! Namespaces: a new set for a guest of our own, or those of somebody else.
//!
//! Both change the calling process for good, and a user namespace takes only a process with one thread: call them in a forked child.

pub(crate) mod resolv;

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::program::diagnose::Kernel;
use crate::program::failure::{Failure, OrFail};

/// Moves this process into new user, network and mount namespaces, in which it is root and outside of which it stays who it was.
///
/// # Errors
///
/// When the machine forbids it; the failure names the setting that does, if there is one.
pub(crate) fn enter_new() -> Result<(), Failure> {
    let kernel = Kernel::running();
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    unshare(UnshareFlags::NEWUSER).map_err(|errno| kernel.user_namespace_failure(errno))?;

    let map = |file: &str, text: String| {
        let errno = |err: io::Error| Errno::from_io_error(&err).unwrap_or(Errno::IO);
        let doing = format!("cannot become root of the new user namespace through /proc/self/{file}");
        fs::write(Path::new("/proc/self").join(file), text).map_err(|err| kernel.powerless_failure(&doing, errno(err)))
    };
    // Without this an ordinary user may not map a group (user_namespaces(7)); with it nobody inside can shed one that denies access.
    map("setgroups", "deny".to_owned())?;
    map("uid_map", format!("0 {} 1", uid.as_raw()))?;
    map("gid_map", format!("0 {} 1", gid.as_raw()))?;

    unshare(UnshareFlags::NEWNET | UnshareFlags::NEWNS).map_err(|errno| kernel.namespaces_failure(errno))?;
    // What the host mounts later still appears inside; what is mounted inside stays there.
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .or_fail(|| "cannot separate the mounts of the new mount namespace")
}

fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: only a shared table of descriptors makes this unsafe, and no caller passes CLONE_FILES.
    unsafe { unshare_unsafe(flags) }
}

/// Lets every group of this network namespace ping without rights, as distributions do for the host. Only a wish: in a container /proc/sys
/// may be read-only.
pub(crate) fn allow_ping() {
    if let Err(err) = fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0") {
        tracing::info!(%err, "ping inside needs CAP_NET_RAW");
    }
}

/// The namespaces of somebody else, as files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// What the user has called it.
    name: String,
    net: PathBuf,
    user: Option<PathBuf>,
}

impl Target {
    /// The namespaces of a process.
    pub(crate) fn of_process(pid: u32) -> Self {
        let ns = PathBuf::from(format!("/proc/{pid}/ns"));
        Self { name: format!("process {pid}"), net: ns.join("net"), user: Some(ns.join("user")) }
    }

    /// A network namespace that is bound to a file, and the user namespace that owns it, unless that is ours.
    pub(crate) fn of_path(net: PathBuf, user: Option<PathBuf>) -> Self {
        Self { name: net.display().to_string(), net, user }
    }

    /// Moves this process into them.
    ///
    /// # Errors
    ///
    /// When they are not there, are no namespaces, or are closed to us.
    pub(crate) fn enter(&self) -> Result<(), Failure> {
        // Both are opened first: a path below /proc may mean something else, or nothing, from within.
        let net = self.open(&self.net)?;
        let user = match &self.user {
            Some(path) if !same_file(path, Path::new("/proc/self/ns/user")) => Some((path, self.open(path)?)),
            _ => None,
        };
        if let Some((path, user)) = &user {
            move_into_link_name_space(user.as_fd(), Some(LinkNameSpaceType::User))
                .map_err(|errno| self.refused(path, "user", errno))?;
        }
        move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|errno| self.refused(&self.net, "network", errno))
    }

    fn open(&self, path: &Path) -> Result<fs::File, Failure> {
        fs::File::open(path).map_err(|err| {
            let failure = Failure::new(format!("cannot open the namespace {} of {}", path.display(), self.name)).because(&err);
            match err.kind() {
                io::ErrorKind::NotFound if path.starts_with("/proc") => {
                    failure.advice("There is no such process any more; check the PID.")
                }
                io::ErrorKind::NotFound => {
                    failure.advice("`ip netns` lists the namespaces that have names, as files in /run/netns.")
                }
                io::ErrorKind::PermissionDenied => {
                    failure.advice("It must belong to a process of your own user; run slipway as the user who made the namespace.")
                }
                _ => failure,
            }
        })
    }

    fn refused(&self, path: &Path, kind: &str, errno: Errno) -> Failure {
        let failure = Failure::new(format!("cannot enter the {kind} namespace {} of {}", path.display(), self.name))
            .because(io::Error::from(errno));
        match errno {
            Errno::INVAL => {
                failure.advice(format!("That file is no {kind} namespace; /proc/PID/ns/{} of a process is one.", &ns_name(kind)))
            }
            Errno::PERM if self.user.is_none() => failure.advice(
                "It is owned by another user namespace: name that with --userns-path, or give the PID of a process inside instead.",
            ),
            Errno::PERM => {
                failure.advice("It must have been made by your own user; otherwise only root of the namespace above may.")
            }
            _ => failure,
        }
    }

    /// Whether the network namespace can still be reached under its name. Our own tap keeps it alive beyond that.
    pub(crate) fn still_there(&self, identity: Identity) -> bool {
        identity_of(&self.net).is_some_and(|now| now == identity)
    }

    /// What tells this network namespace from every other.
    pub(crate) fn identity(&self) -> Option<Identity> {
        identity_of(&self.net)
    }
}

/// Device and inode number of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity(u64, u64);

fn identity_of(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().map(|meta| Identity(meta.dev(), meta.ino()))
}

fn same_file(a: &Path, b: &Path) -> bool {
    identity_of(a).is_some_and(|a| Some(a) == identity_of(b))
}

fn ns_name(kind: &str) -> &str {
    if kind == "network" { "net" } else { kind }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_that_is_not_there_is_said_to_be_so() {
        // Larger than any PID that Linux hands out (2^22).
        let failure = Target::of_process(4_194_305).enter().unwrap_err().to_string();
        assert!(failure.contains("process 4194305") && failure.contains("no such process"), "{failure}");
    }

    #[test]
    fn a_file_that_is_no_namespace_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let failure = Target::of_path(file.path().to_owned(), None).enter().unwrap_err().to_string();
        assert!(failure.contains("is no network namespace"), "{failure}");
    }

    #[test]
    fn a_namespace_is_gone_when_its_name_means_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ns");
        fs::write(&path, "").unwrap();
        let target = Target::of_path(path.clone(), None);
        let identity = target.identity().unwrap();
        assert!(target.still_there(identity));
        fs::remove_file(&path).unwrap();
        assert!(!target.still_there(identity));
    }
}
