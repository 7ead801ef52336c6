use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;

/// A directory with a file, beside a secret.
fn place() -> (TempDir, Root) {
    let place = TempDir::new().unwrap();
    fs::create_dir_all(place.path().join("served/deep")).unwrap();
    fs::write(place.path().join("secret"), "secret").unwrap();
    fs::write(place.path().join("served/kernel"), "a kernel").unwrap();
    fs::write(place.path().join("served/deep/file"), "deep").unwrap();
    let root = Root::open(&place.path().join("served")).unwrap();
    (place, root)
}

fn content(root: &Root, name: &str) -> Result<String, Refused> {
    let file = root.file(name.as_bytes())?;
    let mut bytes = vec![0; file.size() as usize];
    let len = file.read(&mut bytes, 0).unwrap();
    Ok(String::from_utf8(bytes[..len].to_vec()).unwrap())
}

#[test]
fn files_are_found_below_the_directory_with_and_without_a_slash() {
    let (_place, root) = place();
    for name in ["kernel", "/kernel", "//kernel", "./kernel", "deep/../kernel", "/deep//../kernel"] {
        assert_eq!(content(&root, name).as_deref(), Ok("a kernel"), "{name}");
    }
    assert_eq!(content(&root, "deep/file").as_deref(), Ok("deep"));
    assert_eq!(content(&root, "initrd").unwrap_err(), Refused::NotFound);
    assert_eq!(content(&root, "kernel/file").unwrap_err(), Refused::NotFound);
    assert_eq!(content(&root, &"a".repeat(5000)).unwrap_err(), Refused::NotFound);
}

#[test]
fn no_name_leads_out() {
    let (place, root) = place();
    let served = place.path().join("served");
    let secret = place.path().join("secret");
    symlink(&secret, served.join("absolute")).unwrap();
    symlink("../secret", served.join("relative")).unwrap();
    symlink("..", served.join("up")).unwrap();
    symlink("/proc/self/root", served.join("magic")).unwrap();
    symlink("loop", served.join("loop")).unwrap();
    for name in ["../secret", "/../secret", "deep/../../secret", "absolute", "relative", "up/secret", "magic/etc/passwd", "loop"] {
        assert_eq!(content(&root, name).unwrap_err(), Refused::Forbidden, "{name}");
    }
    let whole = secret.to_str().unwrap();
    assert_eq!(content(&root, whole).unwrap_err(), Refused::NotFound, "an absolute path is one below the directory");
    symlink("deep/file", served.join("inside")).unwrap();
    assert_eq!(content(&root, "inside").as_deref(), Ok("deep"));
}

#[test]
fn only_regular_files_are_opened_and_nothing_is_waited_for() {
    let (place, root) = place();
    let pipe = place.path().join("served/pipe");
    rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
    for name in ["pipe", "deep", "deep/", "", "/", "."] {
        assert_eq!(content(&root, name).unwrap_err(), Refused::Forbidden, "{name}");
    }
    assert_eq!(content(&root, "kernel/").unwrap_err(), Refused::NotFound);
}

#[test]
fn the_directory_stays_the_one_that_was_opened() {
    let (place, root) = place();
    let served = place.path().join("served");
    fs::rename(&served, place.path().join("elsewhere")).unwrap();
    symlink("/", &served).unwrap();
    assert_eq!(content(&root, "kernel").as_deref(), Ok("a kernel"));
    assert_eq!(content(&root, "etc/passwd").unwrap_err(), Refused::NotFound);
}

#[test]
fn a_directory_that_cannot_be_served_is_an_error_that_says_why() {
    let (place, _root) = place();
    let told = |path: &Path| Root::open(path).unwrap_err().to_string();
    assert!(told(&place.path().join("nowhere")).contains("no such directory"));
    assert!(told(&place.path().join("secret")).contains("not a directory"));
    let locked = place.path().join("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
    if !rustix::process::geteuid().is_root() {
        assert!(told(&locked).contains("may not read"));
    }
}

#[test]
fn what_is_in_memory_is_read_at_once() {
    let (_place, root) = place();
    let file = root.file(b"kernel").unwrap();
    let mut bytes = [0; 16];
    // It was just written; where the file system cannot tell, waiting reads the same.
    let len = file.read_now(&mut bytes, 2).unwrap().unwrap_or_else(|| file.read(&mut bytes, 2).unwrap());
    assert_eq!(&bytes[..len], b"kernel");
    assert_eq!(root.without_telling().file(b"kernel").unwrap().read_now(&mut bytes, 2).unwrap(), None);
    assert_eq!(file.read(&mut bytes, 100).unwrap(), 0);
}
