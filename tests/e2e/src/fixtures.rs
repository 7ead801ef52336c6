//! The recordings in `pcap-fixtures/`, and the table of them in its README.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use netstack::replay::sidecar::Sidecar;

/// Between these lines of the README is the table.
const BEGIN: &str = "<!-- The table is written by `cargo xtask record`. -->";
const END: &str = "<!-- The end of the table. -->";

/// A recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixture {
    /// The group and the name, as in `tcp/echo`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// What happens in it, in one line.
    pub line: String,
}

/// Where they are.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../pcap-fixtures")
}

/// All recordings in a directory, by name.
///
/// # Errors
///
/// When the directory cannot be read, or a sidecar is missing, has no story, or is none.
pub fn all(directory: &Path) -> io::Result<Vec<Fixture>> {
    let mut fixtures = Vec::new();
    for group in fs::read_dir(directory)? {
        let group = group?;
        if !group.file_type()?.is_dir() {
            continue;
        }
        for file in fs::read_dir(group.path())? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "pcapng") {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                let name = format!("{}/{stem}", group.file_name().to_string_lossy());
                let sidecar = Sidecar::beside(&path).map_err(io::Error::other)?;
                let line = sidecar.story.ok_or_else(|| io::Error::other(format!("{name} has no story")))?;
                fixtures.push(Fixture { name, path, line });
            }
        }
    }
    fixtures.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(fixtures)
}

/// The table of these recordings, in Markdown.
pub fn table(fixtures: &[Fixture]) -> String {
    let mut table = String::from("| recording | what happens |\n|---|---|\n");
    for Fixture { name, line, .. } in fixtures {
        table.push_str(&format!("| `{name}` | {line} |\n"));
    }
    table
}

/// The README with this table in it.
///
/// # Errors
///
/// When it cannot be read, or has no place for the table.
pub fn readme_with(directory: &Path, table: &str) -> io::Result<String> {
    let readme = fs::read_to_string(directory.join("README.md"))?;
    let parts = readme.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.ok_or_else(|| io::Error::other("the README has no place for the table"))?;
    Ok(format!("{before}{BEGIN}\n\n{table}\n{END}{after}"))
}
