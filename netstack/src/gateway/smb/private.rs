//! A directory that is ours alone, and that does not outlive us.
//!
//! Who removes it if we are killed? A process that waits for nothing but our end: it reads from a pipe of which we have the other end, and
//! the kernel closes that whatever becomes of us. It is a shell in a session of its own, so what is sent to our group does not reach it.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::settings;
use crate::host::child;

/// The longest path that a directory is made in, in bytes: `smbd` has sockets below, whose paths have 107 at most (unix(7)).
const LONGEST_BASE: usize = 48;

/// At the end of its input, ends the daemons that `smbd` has left behind and removes the directory `$1`. For listing shares `smbd` starts
/// samba-dcerpcd(8), which makes itself independent of it; all that ties it to us is the configuration that it was given. Whoever ends
/// at the same moment may write once more, so it looks again.
const WATCH: &str = "trap '' HUP INT QUIT TERM; read -r _; \
    for _ in 1 2 3 4 5 6 7 8 9 10; do \
        for found in $(grep -lsF -e \"--configfile=$1/\" /proc/[0-9]*/cmdline); do \
            pid=${found#/proc/}; kill \"${pid%/cmdline}\"; \
        done; \
        rm -rf -- \"$1\"; [ -e \"$1\" ] || exit 0; sleep 0.3; \
    done";

/// The directory.
#[derive(Debug)]
pub(super) struct PrivateDirectory {
    directory: TempDir,
    watcher: Child,
}

impl PrivateDirectory {
    /// Makes one that only our user can look into.
    ///
    /// # Errors
    ///
    /// When that is possible nowhere, or no process can be started to watch over it.
    pub(super) fn new() -> io::Result<Self> {
        let directory = make_in(&bases())?;
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", WATCH, "sh"]).arg(directory.path()).current_dir("/");
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        child::live_apart(&mut shell);
        // The pipe stays with the child until both are dropped.
        let watcher = shell.spawn()?;
        Ok(Self { directory, watcher })
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for PrivateDirectory {
    /// Has the watcher remove it, as it would if we were killed, so that there is one way for this to end.
    fn drop(&mut self) {
        drop(self.watcher.stdin.take());
        let _ = self.watcher.wait();
    }
}

/// Where to make it: what the user's session has for such things, then where temporary files go.
fn bases() -> Vec<PathBuf> {
    let named = ["XDG_RUNTIME_DIR", "TMPDIR"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    named.chain([PathBuf::from("/tmp")]).collect()
}

fn make_in(bases: &[PathBuf]) -> io::Result<TempDir> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for base in bases {
        let fits = base.is_absolute() && base.as_os_str().len() <= LONGEST_BASE;
        if !fits || settings::unspeakable(base.as_os_str()).is_some() {
            continue;
        }
        let ours_alone = Permissions::from_mode(0o700);
        match tempfile::Builder::new().prefix("slipway-smb-").rand_bytes(8).permissions(ours_alone).tempdir_in(base) {
            Ok(directory) => return Ok(directory),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ours_alone_and_gone_with_us() {
        let private = PrivateDirectory::new().unwrap();
        let path = private.path().to_owned();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::create_dir(path.join("below")).unwrap();
        std::fs::write(path.join("below/file"), "x").unwrap();
        drop(private);
        assert!(!path.exists());
    }

    #[test]
    fn daemons_that_were_left_behind_end_with_it() {
        let private = PrivateDirectory::new().unwrap();
        let path = private.path().to_owned();
        let told = format!("--configfile={}/smb.conf", path.display());
        let mut daemon = Command::new("/bin/sh").args(["-c", "read -r _", "sh", &told]).stdin(Stdio::piped()).spawn().unwrap();
        drop(private);
        assert!(!path.exists());
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&daemon.wait().unwrap()), Some(15));
    }

    #[test]
    fn the_watcher_removes_it_when_the_pipe_ends() {
        let mut private = PrivateDirectory::new().unwrap();
        let path = private.path().to_owned();
        std::fs::write(path.join("file"), "x").unwrap();
        // As the kernel would if we were killed.
        drop(private.watcher.stdin.take());
        assert!(private.watcher.wait().unwrap().success());
        assert!(!path.exists());
    }

    #[test]
    fn the_next_base_is_taken_where_one_is_of_no_use() {
        let bases = ["relative", "/nowhere/at/all", "/tmp/100%", &format!("/tmp/{}", "x".repeat(60)), "/tmp"].map(PathBuf::from);
        assert!(make_in(&bases).unwrap().path().starts_with("/tmp/"));
        assert!(make_in(&bases[..4]).is_err());
    }
}
