//! `vmm-judge DIRECTORY`: writes the seeds of every fuzz target into `DIRECTORY/TARGET/`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use vmm_judge::TARGETS;

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [directory] = &arguments[..] else {
        eprintln!("usage: vmm-judge DIRECTORY");
        return ExitCode::from(2);
    };
    match write(directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot make seeds in {}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}

fn write(directory: &Path) -> io::Result<()> {
    for target in &TARGETS {
        let directory = directory.join(target.name);
        fs::create_dir_all(&directory)?;
        let seeds = (target.seeds)();
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(directory.join(format!("seed-{number:03}")), seed)?;
        }
        println!("{:>6} seeds for {}", seeds.len(), target.name);
    }
    Ok(())
}
