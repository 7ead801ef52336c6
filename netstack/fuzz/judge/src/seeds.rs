//! Inputs to begin with, as files.

use std::fs;
use std::io;
use std::path::Path;

use crate::Target;
use crate::recordings::Found;

/// Writes the seeds of a target into a directory, which is made if it is not there: its own, and those that recordings have for it.
/// Returns how many there are.
///
/// # Errors
///
/// What the file system says.
pub fn write(target: &Target, recorded: &Found, directory: &Path) -> io::Result<usize> {
    fs::create_dir_all(directory)?;
    let own = (target.seeds)();
    for (number, seed) in own.iter().enumerate() {
        fs::write(directory.join(format!("seed-{number:03}")), seed)?;
    }
    let recorded = recorded.get(target.name).into_iter().flatten();
    let mut count = own.len();
    for (number, seed) in recorded.enumerate() {
        fs::write(directory.join(format!("recorded-{number:04}")), seed)?;
        count += 1;
    }
    Ok(count)
}
