//! The guests' SMB server: Samba's `smbd`, started for each connection as inetd would.
//!
//! It serves one directory, as `qemu`, to guests without a password, and acts with the rights of whoever runs us. Everything that it
//! writes beside that lies in a private directory (`private`), which is removed at the end, whatever the end was.
//!
//! `smbd` wants to see addresses at both ends of its standard input (it gives up on AF_UNIX), so that is a TCP connection over the
//! loopback which is made for it alone and was never open to others.

mod pair;
mod private;
mod settings;

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use self::private::PrivateDirectory;
use super::command::Commands;
use crate::config::SmbConfig;
use crate::host::kernel::ServiceStream;

/// Where `smbd` is looked for when it is not in PATH, as is usual for those who are not root.
const USUAL_PLACES: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// Why there can be no SMB server.
#[derive(Debug, thiserror::Error)]
pub enum SmbError {
    /// `smbd` is not there.
    #[error(
        "`smb` needs the server smbd, which is neither in PATH nor in /usr/sbin or /usr/local/sbin: install the package `samba`, \
         or leave `smb` out"
    )]
    NotInstalled,
    /// The directory to share cannot be read.
    #[error("`smb={directory}` cannot be shared, because it is not a directory that can be read", directory = .directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The directory has a name that Samba's configuration cannot express.
    #[error(
        "`smb={directory}` cannot be shared, because Samba's configuration has no way to write {what} in a path: share a symbolic link \
         to it, or rename it",
        directory = .directory.display()
    )]
    Name {
        /// The directory.
        directory: PathBuf,
        /// What the name has in it.
        what: &'static str,
    },
    /// Samba knows users by name, and ours has none.
    #[error("`smb` needs a name for the user with the number {user}, who runs this: add one to /etc/passwd")]
    NoUser {
        /// The number of the user.
        user: u32,
    },
    /// Run by root, `smbd` sets the groups of whoever it acts for.
    #[error(
        "`smb` needs smbd, which as root has to set groups, and this user namespace forbids that (/proc/self/setgroups): run this \
         outside of it as an ordinary user, or in a namespace with a range of users and groups"
    )]
    Groups,
    /// No place for the files of `smbd`.
    #[error("cannot make a private directory for smbd in $XDG_RUNTIME_DIR, $TMPDIR or /tmp")]
    Private(#[source] io::Error),
}

/// How `smbd` is started.
#[derive(Debug)]
pub(crate) struct Smbd {
    program: PathBuf,
    private: PrivateDirectory,
}

impl Smbd {
    /// Makes everything ready for serving `directory`.
    ///
    /// # Errors
    ///
    /// When anything is missing. Nothing stays behind.
    pub(crate) fn new(config: &SmbConfig, directory: &Path) -> Result<Self, SmbError> {
        let program = find_program("smbd").ok_or(SmbError::NotInstalled)?;
        let directory = readable(directory)?;
        let user = user_name()?;
        let setgroups = std::fs::read_to_string("/proc/self/setgroups").unwrap_or_default();
        if rustix::process::geteuid().is_root() && setgroups.trim() == "deny" {
            return Err(SmbError::Groups);
        }
        let private = PrivateDirectory::new().map_err(SmbError::Private)?;
        let settings = settings::Settings {
            private: private.path(),
            share: &directory,
            user: &user,
            min_protocol: config.min_protocol.as_deref(),
        };
        settings.write().map_err(SmbError::Private)?;
        tracing::debug!(directory = %private.path().display(), "smbd has its files");
        Ok(Self { program, private })
    }

    /// Starts a server for one connection.
    ///
    /// # Errors
    ///
    /// `QuotaExceeded` when as many commands run as may; when there are no descriptors left, or no loopback.
    pub(crate) fn open(&self, commands: &Commands) -> io::Result<ServiceStream> {
        let permit = commands.permit()?;
        let (ours, theirs) = pair::loopback_pair()?;
        let mut command = Command::new(&self.program);
        command.arg("-l").arg(self.private.path().join("log")).arg("-s").arg(settings::file(self.private.path()));
        command.current_dir(self.private.path());
        let gone = commands.start(command, "smbd", &theirs.into(), permit)?;
        Ok(ServiceStream::tcp(ours).guarded(gone))
    }
}

/// A program in PATH or where servers usually are.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(USUAL_PLACES.map(PathBuf::from));
    places.filter(|place| place.is_absolute()).map(|place| place.join(name)).find(|program| is_program(program))
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// The directory as Samba's configuration has it.
fn readable(directory: &Path) -> Result<PathBuf, SmbError> {
    let fail = |source| SmbError::Directory { directory: directory.to_owned(), source };
    std::fs::read_dir(directory).map_err(fail)?;
    let absolute = std::path::absolute(directory).map_err(fail)?;
    match settings::unspeakable(absolute.as_os_str()) {
        Some(what) => Err(SmbError::Name { directory: directory.to_owned(), what }),
        None => Ok(absolute),
    }
}

/// The name of the user that we act for. `id` asks whatever directory of users the system has.
fn user_name() -> Result<String, SmbError> {
    let user = rustix::process::geteuid().as_raw();
    let no_user = || SmbError::NoUser { user };
    let told = Command::new("id").arg("-un").output().map_err(|_| no_user())?;
    let name = String::from_utf8(told.stdout).map_err(|_| no_user())?;
    let name = name.trim_end_matches('\n');
    let sound = told.status.success() && !name.is_empty() && settings::unspeakable(OsStr::new(name)).is_none();
    if sound { Ok(name.to_owned()) } else { Err(no_user()) }
}

#[cfg(test)]
mod tests;
