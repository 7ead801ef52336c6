//! The configuration of `smbd`: smb.conf(5).

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// What `smbd` has to know.
#[derive(Debug)]
pub(super) struct Settings<'a> {
    /// Where it keeps everything of its own.
    pub(super) private: &'a Path,
    /// The directory that it shares.
    pub(super) share: &'a Path,
    /// The user as whom it acts.
    pub(super) user: &'a str,
    /// The oldest dialect that it speaks.
    pub(super) min_protocol: Option<&'a str>,
}

/// Directories of the server's own, and what they are called in its configuration.
const DIRECTORIES: [(&str, &str); 6] = [
    ("private", "private dir"),
    ("pid", "pid directory"),
    ("lock", "lock directory"),
    ("state", "state directory"),
    ("cache", "cache directory"),
    ("rpc", "ncalrpc dir"),
];

/// The file in which `smbd` finds its configuration.
pub(super) fn file(private: &Path) -> PathBuf {
    private.join("smb.conf")
}

impl Settings<'_> {
    /// Writes the configuration and makes the directories that it names.
    pub(super) fn write(&self) -> io::Result<()> {
        for (name, _) in DIRECTORIES {
            std::fs::create_dir(self.private.join(name))?;
        }
        std::fs::create_dir(self.private.join("log"))?;
        std::fs::write(file(self.private), self.text())
    }

    fn text(&self) -> String {
        let private = self.private.display();
        let mut text = String::from("[global]\n");
        for (name, setting) in DIRECTORIES {
            let _ = writeln!(text, "{setting} = {private}/{name}");
        }
        let _ = writeln!(text, "log file = {private}/log/smbd\nmax log size = 1000\nenable core files = no");
        let _ = writeln!(text, "smb passwd file = {private}/private/smbpasswd");
        // Every guest is the same user, whatever it calls itself.
        let _ = writeln!(text, "security = user\nmap to guest = Bad User\nguest account = {}", self.user);
        text.push_str("interfaces = 127.0.0.1\nbind interfaces only = yes\nserver role = standalone server\n");
        text.push_str("load printers = no\nprinting = bsd\nprintcap name = /dev/null\ndisable spoolss = yes\n");
        text.push_str("usershare max shares = 0\nhostname lookups = no\n");
        // What is outside of the directory stays there: no links out of it, and no making of links or devices by guests.
        text.push_str("wide links = no\nunix extensions = no\n");
        if let Some(dialect) = self.min_protocol {
            let _ = writeln!(text, "server min protocol = {dialect}");
        }
        let _ =
            writeln!(text, "[qemu]\npath = {}\nread only = no\nguest ok = yes\nforce user = {}", self.share.display(), self.user);
        text
    }
}

/// What is in a text that smb.conf(5) has no way to write, if anything is.
pub(super) fn unspeakable(text: &OsStr) -> Option<&'static str> {
    let bytes = text.as_bytes();
    if std::str::from_utf8(bytes).is_err() {
        Some("bytes that are not UTF-8")
    } else if bytes.iter().any(u8::is_ascii_control) {
        Some("a control character")
    } else if bytes.contains(&b'%') {
        Some("`%`")
    } else if bytes.contains(&b'"') {
        Some("`\"`")
    } else if bytes.ends_with(b"\\") {
        Some("`\\` at the end")
    } else if bytes.trim_ascii().len() < bytes.len() {
        Some("a space at the end")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_the_server_keeps_is_private_and_one_directory_is_shared() {
        let private = tempfile::tempdir().unwrap();
        let settings =
            Settings { private: private.path(), share: Path::new("/srv/for guests"), user: "ada", min_protocol: Some("NT1") };
        settings.write().unwrap();
        let text = std::fs::read_to_string(file(private.path())).unwrap();
        for line in text.lines().filter(|line| line.contains(" dir") || line.contains(" file = ")) {
            let (_, path) = line.split_once(" = ").unwrap();
            assert!(Path::new(path).starts_with(private.path()), "{line}");
        }
        for line in ["guest account = ada", "server min protocol = NT1", "path = /srv/for guests", "force user = ada"] {
            assert_eq!(text.lines().filter(|other| *other == line).count(), 1, "{line} in {text}");
        }
        let (global, share) = text.split_once("[qemu]").unwrap();
        assert!(!global.contains("guest ok") && share.contains("guest ok = yes"));
        assert!(!Settings { min_protocol: None, ..settings }.text().contains("min protocol"));
    }

    #[test]
    fn what_the_configuration_cannot_say_is_told() {
        for text in ["/srv", "/srv/for guests", "/srv/ü", "/srv/#1;x", "/a\\b", "/"] {
            assert_eq!(unspeakable(OsStr::new(text)), None, "{text}");
        }
        for text in ["/srv/50%", "/srv/a\nb", "/srv/ ", " /srv", "/srv/\\", "/srv/\"x\""] {
            assert!(unspeakable(OsStr::new(text)).is_some(), "{text}");
        }
        assert!(unspeakable(OsStr::from_bytes(b"/srv/\xff")).is_some());
    }
}
