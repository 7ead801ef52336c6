//! `netstack-judge DIRECTORY`: writes the seeds of every fuzz target into `DIRECTORY/TARGET/`.

use std::path::PathBuf;
use std::process::ExitCode;

use netstack_judge::{TARGETS, seeds};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(directory), None) = (arguments.next().map(PathBuf::from), arguments.next()) else {
        eprintln!("usage: netstack-judge DIRECTORY");
        return ExitCode::from(2);
    };
    for target in &TARGETS {
        let into = directory.join(target.name);
        match seeds::write(target, &into) {
            Ok(count) => println!("{count} seeds in {}", into.display()),
            Err(error) => {
                eprintln!("cannot write seeds to {}: {error}", into.display());
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
