//! Inputs to begin with, as files.

use std::fs;
use std::io;
use std::path::Path;

use crate::Target;

/// Writes the seeds of a target into a directory, which is made if it is not there; returns how many there are.
///
/// # Errors
///
/// What the file system says.
pub fn write(target: &Target, directory: &Path) -> io::Result<usize> {
    fs::create_dir_all(directory)?;
    let seeds = (target.seeds)();
    for (number, seed) in seeds.iter().enumerate() {
        fs::write(directory.join(format!("seed-{number:03}")), seed)?;
    }
    Ok(seeds.len())
}
