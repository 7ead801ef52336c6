//! What packagers install beside the program: shell completions and manual pages, both made from the command line's definition.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::failure::Failure;

/// Prints the completions for `shell`.
pub(crate) fn completions(shell: Shell) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "slipway-vm", &mut script);
    print(&script)
}

/// Prints the manual page, or writes those of all subcommands into a directory.
pub(crate) fn man(dir: Option<&Path>) -> Result<u8, Failure> {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(Cli::command()).render(&mut page);
        rendered.map_err(|err| Failure::new("cannot make the manual page").because(&err))?;
        return print(&page);
    };
    let refuse = |err: io::Error| Failure::new(format!("cannot write the manual pages to {}", dir.display())).because(&err);
    fs::create_dir_all(dir).map_err(refuse)?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(refuse)?;
    Ok(0)
}

/// Prints on standard output. That nobody reads on, as in `slipway-vm man | head`, is no failure.
pub(crate) fn print(text: &[u8]) -> Result<u8, Failure> {
    match io::stdout().write_all(text) {
        Err(err) if err.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new("cannot write to standard output").because(&err)),
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
        for command in Cli::command().get_subcommands().map(clap::Command::get_name) {
            assert!(dir.path().join(format!("slipway-vm-{command}.1")).exists(), "{command}");
        }
    }
}
