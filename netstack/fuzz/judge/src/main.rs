//! `netstack-judge DIRECTORY RECORDINGS`: writes the seeds of every fuzz target into `DIRECTORY/TARGET/`, also those that are found in the
//! capture files below `RECORDINGS`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use netstack_judge::{TARGETS, recordings, seeds};

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [directory, recorded] = &arguments[..] else {
        eprintln!("usage: netstack-judge DIRECTORY RECORDINGS");
        return ExitCode::from(2);
    };
    match write(directory, recorded) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot make seeds in {} of {}: {error}", directory.display(), recorded.display());
            ExitCode::FAILURE
        }
    }
}

fn write(directory: &Path, recorded: &Path) -> io::Result<()> {
    let recorded = recordings::seeds(recorded)?;
    for target in &TARGETS {
        let count = seeds::write(target, &recorded, &directory.join(target.name))?;
        println!("{count:>6} seeds for {}", target.name);
    }
    Ok(())
}
