//! Files from the gateway by TFTP, with the clients that people use.

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use e2e::LONG_PATIENCE;
use e2e::namespace::{Guest, Options};
use e2e::pattern;

/// A directory with files to serve, which everybody may read, and a secret beside it.
struct Served {
    place: tempfile::TempDir,
}

impl Served {
    fn new() -> Self {
        let place = tempfile::Builder::new().prefix("slipway-tftp-").tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(place.path().join("served")).unwrap();
        fs::write(place.path().join("secret"), "secret").unwrap();
        let served = Self { place };
        fs::write(served.file("small"), "a small file\n").unwrap();
        served
    }

    fn directory(&self) -> PathBuf {
        self.place.path().join("served")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    fn option(&self) -> String {
        format!("tftp={}", self.directory().display())
    }

    /// A guest that can have the files.
    fn guest(&self) -> Guest {
        Options::default().user(&self.option()).shell()
    }

    /// Makes a file of this many bytes.
    fn with(self, name: &str, len: u64) -> Self {
        pattern::write(fs::File::create(self.file(name)).unwrap(), len).unwrap();
        self
    }
}

fn same(one: &Path, other: &Path) -> bool {
    let ended = std::process::Command::new("cmp").arg(one).arg(other).status().unwrap();
    ended.success()
}

#[test]
fn a_small_file_comes_over_both_families() {
    let served = Served::new();
    let mut guest = served.guest();
    for gateway in ["10.0.2.2", "fec0::2"] {
        guest.succeed(&format!("tftp -m binary {gateway} -c get small got"));
        assert_eq!(guest.succeed("cat got; rm got"), "a small file", "from {gateway}");
    }
}

#[test]
fn what_is_not_there_or_lies_outside_is_refused_with_the_number_that_says_so() {
    let served = Served::new();
    symlink("../secret", served.file("link")).unwrap();
    symlink("small", served.file("inside")).unwrap();
    let mut guest = served.guest();
    for (name, error) in
        [("nothing", "Error code 1"), ("../secret", "Error code 2"), ("link", "Error code 2"), (".", "Error code 2")]
    {
        let told = guest.run(&format!("tftp -m binary 10.0.2.2 -c get {name} got"));
        assert!(told.text.contains(error), "{name}: {told}");
    }
    let whole = served.place.path().join("secret");
    let told = guest.run(&format!("tftp -m binary 10.0.2.2 -c get {} got", whole.display()));
    assert!(told.text.contains("Error code 1"), "an absolute path begins at the directory: {told}");
    guest.succeed("rm -f got; tftp -m binary 10.0.2.2 -c get /inside got");
    assert_eq!(guest.succeed("cat got"), "a small file");
    let told = guest.run("tftp -m binary 10.0.2.2 -c put got small");
    assert!(told.text.contains("Error code 2"), "{told}");
    assert_eq!(fs::read_to_string(served.file("small")).unwrap(), "a small file\n");
}

#[test]
fn a_file_with_more_blocks_than_numbers_comes_whole() {
    // 512 bytes a block: the numbers begin again after 32 MiB.
    let served = Served::new().with("big", (33 << 20) + 7);
    let mut guest = served.guest();
    guest.run_within(LONG_PATIENCE, "tftp -m binary 10.0.2.2 -c get big got").success();
    assert!(same(&guest.directory().join("got"), &served.file("big")));
    // curl asks for a block size and the length.
    guest.run_within(LONG_PATIENCE, "curl -sS -o got tftp://10.0.2.2/big --tftp-blksize 1468").success();
    assert!(same(&guest.directory().join("got"), &served.file("big")));
}

#[test]
fn a_directory_that_cannot_be_served_ends_the_start_with_the_reason() {
    let refused = Options::default().user("tftp=/nowhere/at/all").output(&["true"]);
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success());
    assert!(text.contains("/nowhere/at/all") && text.contains("no such directory"), "{text}");
}
