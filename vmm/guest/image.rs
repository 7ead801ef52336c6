//! Builds the image of a guest by the same toolchain that builds everything else; part of the build scripts that embed one.
//!
//! The nested cargo has a target directory of its own, so that it never waits for the lock of the one that started it; flags of its own,
//! whatever the outer build has set; and the workspace's lock file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// What images are compiled for. Only `core` and `alloc` of it are used.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The directory of the guests' packages, from that of the workspace.
const GUESTS: &str = "vmm/guest";

/// The whole of a build script: leaves the image of `package` at `OUT_DIR/package.elf`. `offline` says that the outer build has fetched
/// everything that the image is made of.
pub(crate) fn embed(package: &str, offline: bool) -> ExitCode {
    match try_embed(package, offline) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn try_embed(package: &str, offline: bool) -> Result<(), String> {
    let manifest = PathBuf::from(env("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env("OUT_DIR")?);
    let workspace = manifest.ancestors().find(|directory| directory.join(GUESTS).is_dir());
    let workspace = workspace.ok_or("this package has left its workspace")?;
    let sources = ["image.rs", "body", "machine", "probe", "independent"].map(|source| workspace.join(GUESTS).join(source));
    for path in sources.iter().chain(&[manifest.join("build.rs"), workspace.join("Cargo.lock"), workspace.join("Cargo.toml")]) {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    let built = build(workspace, package, &out.join("guest"), offline)?;
    let embedded = out.join(format!("{package}.elf"));
    let copied = std::fs::copy(&built, &embedded);
    copied.map(drop).map_err(|err| format!("cannot copy {} to {}: {err}", built.display(), embedded.display()))
}

fn env(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| format!("cargo has not set {name}"))
}

/// Builds the image of `package` below `target_directory` and returns where it is. An error is what is to be told.
fn build(workspace: &Path, package: &str, target_directory: &Path, offline: bool) -> Result<PathBuf, String> {
    let script = workspace.join(GUESTS).join("machine/guest.ld");
    let script = script.to_str().ok_or("the path of the workspace is not UTF-8")?;
    let flags = [
        "--cfg=probe_image",
        "-Cpanic=abort",
        "-Crelocation-model=static",
        "-Clink-arg=-nostdlib",
        "-Clink-arg=-nostartfiles",
        "-Clink-arg=-static",
        "-Clink-arg=-no-pie",
        "-Clink-arg=-Wl,--build-id=none,-z,norelro",
        &format!("-Clink-arg=-Wl,-T,{script}"),
    ];
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.current_dir(workspace).args(["build", "--quiet", "--locked", "--profile", "image", "--target", TARGET]);
    command.args(["--package", package]).arg("--target-dir").arg(target_directory);
    if offline {
        command.arg("--offline");
    }
    // What the outer build is built with is not for the guest: sanitizers, coverage, lints, other profiles.
    let outer = std::env::vars_os().map(|(name, _)| name).filter(|name| {
        name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PROFILE_")
                || name.starts_with("CARGO_TARGET_")
                || name.starts_with("CARGO_BUILD_")
                || ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CLIPPY_ARGS"].contains(&name)
        })
    });
    for name in outer {
        command.env_remove(name);
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|err| format!("cannot run cargo to build the guest image `{package}`: {err}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the guest image `{package}` does not build ({}):\n{said}", output.status));
    }
    Ok(target_directory.join(TARGET).join("image").join(package))
}
