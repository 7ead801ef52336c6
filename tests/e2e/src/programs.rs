//! The programs under test, in a directory that every user may read: the checkout may be in somebody's home.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A directory with `slipway` and `e2e-guest`, and room for a test's own files. Gone with this value.
#[derive(Debug)]
pub struct Stage {
    directory: tempfile::TempDir,
}

impl Stage {
    /// Makes it.
    ///
    /// # Panics
    ///
    /// When a program has not been built.
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("slipway-e2e-").tempdir().expect("a temporary directory");
        // Sticky and open to all like /tmp: whoever the programs run as makes sockets here.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o1777)).expect("permissions of a directory of ours");
        for (name, program) in [("slipway", slipway()), ("e2e-guest", built("e2e-guest"))] {
            // A second name costs nothing, but is not to be had on another file system, nor for a file of another user.
            let place = directory.path().join(name);
            let copied = fs::hard_link(&program, &place).or_else(|_| fs::copy(&program, &place).map(drop));
            copied.unwrap_or_else(|error| {
                panic!(
                    "{} cannot be copied: {error}. `cargo xtask test` builds all that is needed, `cargo build --release` only slipway",
                    program.display()
                )
            });
        }
        Self { directory }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The search path for programs, with these first.
    pub fn search_path(&self) -> String {
        format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", self.path().display())
    }
}

impl Default for Stage {
    fn default() -> Self {
        Self::new()
    }
}

/// The program under test: what `SLIPWAY` names, or the release build.
fn slipway() -> PathBuf {
    std::env::var_os("SLIPWAY").map_or_else(|| built("../release/slipway"), PathBuf::from)
}

/// The program `slipway-vm` under test: what `SLIPWAY_VM` names, or the release build.
pub(crate) fn slipway_vm() -> PathBuf {
    std::env::var_os("SLIPWAY_VM").map_or_else(|| built("../release/slipway-vm"), PathBuf::from)
}

/// A program that was built together with this test or program, relative to where cargo puts programs.
fn built(name: &str) -> PathBuf {
    let ourselves = std::env::current_exe().expect("a path to this program");
    let directory = ourselves.parent().expect("a program is in a directory");
    // Tests are in a directory of their own below that of programs.
    let programs = if directory.ends_with("deps") { directory.parent().unwrap_or(directory) } else { directory };
    programs.join(name)
}
