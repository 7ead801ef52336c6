//! Builds the probe guest, which is embedded in the library: see `src/probe.rs`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[path = "guest/image.rs"]
mod image;

fn main() -> ExitCode {
    match embed() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn embed() -> Result<(), String> {
    let manifest = PathBuf::from(env("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env("OUT_DIR")?);
    let workspace = manifest.parent().ok_or("this package has left its workspace")?;
    for source in ["build.rs", "guest/image.rs", "guest/body", "guest/machine", "guest/probe"] {
        println!("cargo::rerun-if-changed={}", manifest.join(source).display());
    }
    println!("cargo::rerun-if-changed={}", workspace.join("Cargo.lock").display());
    // Everything that the guest is made of is part of the outer build too, so it is there already.
    let built = image::build(workspace, "probe", &out.join("guest"), true)?;
    copy(&built, &out.join("probe.elf"))
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    std::fs::copy(from, to).map(drop).map_err(|err| format!("cannot copy {} to {}: {err}", from.display(), to.display()))
}

fn env(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| format!("cargo has not set {name}"))
}
