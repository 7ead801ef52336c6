//! What packagers install beside the program: shell completions and manual pages, both made from the command line's definition.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::failure::{Failure, OrFail};

/// Prints the completions for `shell`.
pub(crate) fn completions(shell: Shell) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "slipway", &mut script);
    print(&script)
}

/// Prints the manual page, or writes those of all subcommands into a directory.
pub(crate) fn man(dir: Option<&Path>) -> Result<u8, Failure> {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page).or_fail(|| "cannot make the manual page")?;
        return print(&page);
    };
    fs::create_dir_all(dir).or_fail(|| format!("cannot make the directory {}", dir.display()))?;
    clap_mangen::generate_to(Cli::command(), dir).or_fail(|| format!("cannot write the manual pages to {}", dir.display()))?;
    Ok(0)
}

fn print(text: &[u8]) -> Result<u8, Failure> {
    match io::stdout().write_all(text) {
        // `slipway man | head` is no failure.
        Err(err) if err.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new("cannot write to standard output").because(err)),
        _ => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subcommand_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        man(Some(dir.path())).unwrap();
        for page in ["slipway.1", "slipway-shell.1", "slipway-netns.1", "slipway-serve.1", "slipway-demo.1", "slipway-replay.1"] {
            assert!(dir.path().join(page).exists(), "{page}");
        }
    }
}
