//! What packagers install beside a program: shell completions and manual pages, both made from the command line's definition.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_complete::Shell;

use crate::program::failure::{Failure, OrFail};

/// Prints the completions of a program for `shell`.
///
/// # Errors
///
/// When standard output cannot be written to.
pub fn completions(mut command: Command, shell: Shell) -> Result<u8, Failure> {
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut script);
    print(&script)
}

/// Prints the manual page of a program, or writes those of all its subcommands into a directory.
///
/// # Errors
///
/// When they cannot be written.
pub fn man(command: Command, dir: Option<&Path>) -> Result<u8, Failure> {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page).or_fail(|| "cannot make the manual page")?;
        return print(&page);
    };
    fs::create_dir_all(dir).or_fail(|| format!("cannot make the directory {}", dir.display()))?;
    clap_mangen::generate_to(command, dir).or_fail(|| format!("cannot write the manual pages to {}", dir.display()))?;
    Ok(0)
}

/// Prints on standard output. That nobody reads on, as in `slipway man | head`, is no failure.
///
/// # Errors
///
/// When it cannot be written to for another reason.
pub fn print(text: &[u8]) -> Result<u8, Failure> {
    match io::stdout().write_all(text) {
        Err(err) if err.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new("cannot write to standard output").because(err)),
        _ => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::program::cli::Cli;

    #[test]
    fn every_subcommand_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        man(Cli::command(), Some(dir.path())).unwrap();
        for page in ["slipway.1", "slipway-shell.1", "slipway-netns.1", "slipway-serve.1", "slipway-demo.1", "slipway-replay.1"] {
            assert!(dir.path().join(page).exists(), "{page}");
        }
    }
}
