//! The resolver of a new mount namespace: /etc/resolv.conf names our DNS server, whatever it is on the host.
//!
//! Nothing of this touches a file of the host. The new file lives in a file system in memory that only this mount namespace has, and is
//! bound over the old one. Where there is no old one, a layer that has the new file goes over /etc.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::config::Config;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

use crate::program::failure::Failure;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Sockets of resolvers that would answer programs past /etc/resolv.conf, from the host's network: systemd-resolved and nscd.
const BYPASSES: [&str; 3] = ["/run/systemd/resolve", "/run/nscd", "/var/run/nscd"];

/// A directory that every system has and that nothing below needs, to mount our memory on for a moment.
const WORKBENCH: &str = "/tmp";

/// The text of a resolv.conf that leads to the DNS server of this engine.
pub(crate) fn text(config: &Config) -> String {
    let server =
        config.ipv4.as_ref().map(|ipv4| IpAddr::from(ipv4.dns)).or_else(|| config.ipv6.as_ref().map(|ipv6| IpAddr::from(ipv6.dns)));
    let mut text = "# Written by slipway for this mount namespace only.\n".to_owned();
    if let Some(server) = server {
        text.push_str(&format!("nameserver {server}\n"));
    }
    let mut search: Vec<&str> = config.dhcp.search.iter().map(String::as_str).collect();
    if let Some(domain) = config.dhcp.domain_name.as_deref().filter(|domain| !search.contains(domain)) {
        search.insert(0, domain);
    }
    if !search.is_empty() {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    text
}

/// Makes `text` the /etc/resolv.conf of this mount namespace, which must be private.
///
/// # Errors
///
/// When a mount is refused.
pub(crate) fn install(text: &str) -> Result<(), Failure> {
    let hidden: Vec<PathBuf> =
        BYPASSES.iter().filter(|dir| hide(Path::new(dir))).filter_map(|dir| fs::canonicalize(dir).ok()).collect();
    let installed = match destination(Path::new(RESOLV_CONF), &hidden) {
        Destination::Hidden(file) => fs::write(file, text),
        Destination::Existing => bind_over(Path::new(RESOLV_CONF), text),
        Destination::Missing => layer_over_etc(text),
    };
    installed.map_err(|err| {
        Failure::new(format!("cannot give the new mount namespace a {RESOLV_CONF} of its own"))
            .because(err)
            .advice(format!("If the host has no {RESOLV_CONF}, create one, even an empty one."))
    })
}

/// Where the file is to be put.
#[derive(Debug, PartialEq, Eq)]
enum Destination {
    /// It is a link to a file in one of the directories that we have hidden, so that is where programs look for it.
    Hidden(PathBuf),
    /// There is a file, or a link to one.
    Existing,
    /// There is nothing, or a link to nothing.
    Missing,
}

fn destination(path: &Path, hidden: &[PathBuf]) -> Destination {
    let linked = fs::read_link(path).ok().map(|link| path.parent().unwrap_or_else(|| Path::new("/")).join(link));
    let within = linked.and_then(|file| Some(fs::canonicalize(file.parent()?).ok()?.join(file.file_name()?)));
    match within {
        Some(file) if hidden.iter().any(|dir| file.parent() == Some(dir)) => Destination::Hidden(file),
        _ if path.exists() => Destination::Existing,
        _ => Destination::Missing,
    }
}

/// Puts an empty file system over a directory; says whether there was one and it worked.
fn hide(dir: &Path) -> bool {
    dir.is_dir() && in_memory(dir).inspect_err(|err| tracing::info!(%err, dir = %dir.display(), "still visible inside")).is_ok()
}

fn in_memory(on: &Path) -> io::Result<()> {
    Ok(mount("slipway", on, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=0755,size=64k"))?)
}

fn bind_over(path: &Path, text: &str) -> io::Result<()> {
    // Followed to its end now: the workbench may hide it.
    let target = fs::File::open(path)?;
    let target = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&target));
    on_workbench(|bench| {
        let file = bench.join("resolv.conf");
        fs::write(&file, text)?;
        Ok(mount_bind(&file, target)?)
    })
}

fn layer_over_etc(text: &str) -> io::Result<()> {
    on_workbench(|bench| {
        let (upper, work) = (bench.join("upper"), bench.join("work"));
        fs::create_dir(&upper)?;
        fs::create_dir(&work)?;
        fs::write(upper.join("resolv.conf"), text)?;
        let options = format!("lowerdir=/etc,upperdir={},workdir={},userxattr", upper.display(), work.display());
        let options = std::ffi::CString::new(options)?;
        // Mounting a layer in a user namespace takes Linux 5.11.
        Ok(mount("slipway", "/etc", "overlay", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))?)
    })
}

/// Does `work` in a directory in memory. What is bound or layered from there stays; the directory itself is in nobody's way afterwards.
fn on_workbench(work: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let bench = Path::new(WORKBENCH);
    in_memory(bench)?;
    let done = work(bench);
    unmount(bench, UnmountFlags::DETACH)?;
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_file_names_our_server_and_the_domains_to_search() {
        let mut config = Config::default();
        config.dhcp.domain_name = Some("example.test".to_owned());
        config.dhcp.search = vec!["a.test".to_owned(), "b.test".to_owned()];
        let text = text(&config);
        assert!(text.ends_with("nameserver 10.0.2.3\nsearch example.test a.test b.test\n"), "{text}");
    }

    #[test]
    fn without_ipv4_the_server_of_ipv6_is_named() {
        let config = Config { ipv4: None, ..Config::default() };
        assert!(text(&config).contains("nameserver fec0::3\n"));
    }

    #[test]
    fn a_link_into_a_hidden_directory_is_satisfied_there() {
        let root = tempfile::tempdir().unwrap();
        let (etc, run) = (root.path().join("etc"), root.path().join("run"));
        fs::create_dir(&etc).unwrap();
        fs::create_dir(&run).unwrap();
        let conf = etc.join("resolv.conf");
        assert_eq!(destination(&conf, &[]), Destination::Missing);
        symlink("../run/stub-resolv.conf", &conf).unwrap();
        assert_eq!(destination(&conf, &[]), Destination::Missing);
        let hidden = fs::canonicalize(&run).unwrap();
        assert_eq!(destination(&conf, std::slice::from_ref(&hidden)), Destination::Hidden(hidden.join("stub-resolv.conf")));
        fs::write(run.join("stub-resolv.conf"), "").unwrap();
        assert_eq!(destination(&conf, &[]), Destination::Existing);
    }
}
