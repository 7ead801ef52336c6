//! Recordings, as tshark reads them: a program that has nothing in common with ours.

use std::path::Path;
use std::process::{Command, Stdio};

/// What of a frame tshark would complain about. What a guest's kernel quotes in an ICMP error is what it got, which is a packet whose
/// checksum was left to it.
const COMPLAINTS: &str = "_ws.malformed || ip.checksum.status == \"Bad\" || ((tcp.checksum.status == \"Bad\" || \
                          udp.checksum.status == \"Bad\") && !icmp.type == 3) || icmp.checksum.status == \"Bad\" || \
                          icmpv6.checksum.status == \"Bad\"";

/// The checksums that tshark verifies only if it is told to.
const VERIFY: [&str; 6] = ["-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"];

/// The frames of a recording that `filter` chooses, a line for each: the values of `fields`, with a tab between them.
///
/// # Panics
///
/// When tshark finds the file damaged, or does not know the filter.
pub fn read(file: &Path, filter: &str, fields: &[&str]) -> Vec<String> {
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(file).arg("-n").args(VERIFY).args(["-Y", filter, "-T", "fields"]);
    tshark.args(fields.iter().flat_map(|field| ["-e", field])).env("LC_ALL", "C").stdin(Stdio::null());
    let printed = tshark.output().expect("tshark is installed");
    let complaints = String::from_utf8_lossy(&printed.stderr);
    assert!(printed.status.success() && !complaints.contains("cut short"), "{}: {complaints}", file.display());
    String::from_utf8_lossy(&printed.stdout).lines().map(str::to_owned).collect()
}

/// How many frames of a recording `filter` chooses.
///
/// # Panics
///
/// As [`read`].
pub fn count(file: &Path, filter: &str) -> usize {
    read(file, filter, &["frame.number"]).len()
}

/// Has tshark look at every frame.
///
/// # Panics
///
/// When there is anything in which it does not believe, or nothing at all.
pub fn check(file: &Path) {
    assert!(count(file, "frame") > 0, "{}: nothing was recorded", file.display());
    let complaints = read(file, COMPLAINTS, &["frame.number", "_ws.col.Info", "_ws.expert.message"]);
    assert!(complaints.is_empty(), "{}:\n{}", file.display(), complaints.join("\n"));
}
