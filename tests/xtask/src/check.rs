//! `cargo xtask check`: format, lints, documentation and the rules for dependencies.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::step::Steps;
use crate::{cargo, target_directory, workspace};

/// The cargo-deny that is installed where there is none.
const CARGO_DENY: &str = "~0.20";

/// Runs all checks, also those after one that fails.
pub(crate) fn run() -> Result<ExitCode> {
    let mut steps = Steps::default();
    all(&mut steps)?;
    Ok(steps.finish())
}

/// All checks, as steps of a longer errand.
pub(crate) fn all(steps: &mut Steps) -> Result<()> {
    steps.run("format", cargo().args(["fmt", "--all", "--check"]))?;
    steps.run("lints", cargo().args(["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"]))?;
    steps.run(
        "documentation",
        cargo().args(["doc", "--workspace", "--no-deps", "--locked", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    dependencies(steps)
}

/// Licences, sources and bans; and advisories where their database is at hand.
fn dependencies(steps: &mut Steps) -> Result<()> {
    let Some(program) = cargo_deny(steps)? else { return Ok(()) };
    let deny = |checks: &[&str]| {
        let mut deny = Command::new(&program);
        deny.current_dir(workspace())
            .args(["--workspace", "--config", ".cargo/deny.toml", "check", "--hide-inclusion-graph"])
            .args(checks);
        deny
    };
    steps.run("dependencies", &mut deny(&["bans", "licenses", "sources"]))?;
    if advisories_can_be_fetched() {
        steps.run("advisories", &mut deny(&["advisories"]))?;
    } else {
        eprintln!("!!! SKIPPED: security advisories. Their database at github.com/rustsec cannot be fetched from here.");
    }
    Ok(())
}

/// The cargo-deny of this machine, or else one built below the target directory, once: about three minutes on two cores.
fn cargo_deny(steps: &mut Steps) -> Result<Option<PathBuf>> {
    if is_installed("deny") {
        return Ok(Some(PathBuf::from("cargo-deny")));
    }
    let tools = target_directory().join("tools");
    let program = tools.join("bin/cargo-deny");
    if !program.is_file() {
        let mut install = Command::new("cargo");
        install.args(["install", "--locked", "--quiet", "--version", CARGO_DENY, "cargo-deny", "--root"]).arg(&tools);
        if !steps.run("install cargo-deny", &mut install)? {
            return Ok(None);
        }
    }
    Ok(Some(program.canonicalize().context("cargo-deny was installed but is not there")?))
}

/// Whether cargo knows this subcommand.
pub(crate) fn is_installed(subcommand: &str) -> bool {
    let asked = Command::new(format!("cargo-{subcommand}")).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

fn advisories_can_be_fetched() -> bool {
    let asked = Command::new("timeout")
        .args(["20", "git", "ls-remote", "--exit-code", "https://github.com/rustsec/advisory-db", "HEAD"])
        .env("GIT_TERMINAL_PROMPT", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    asked.is_ok_and(|status| status.success())
}
