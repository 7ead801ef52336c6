//! `cargo xtask sim`: builds the simulation, optimised, and has it search seeds for what goes wrong.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::step::Steps;
use crate::{cargo, target_directory, workspace};

/// Seeds that belong to the tests. They are the same each time.
const TEST_SEEDS: &str = "1000";

/// What is passed on to the program.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// --seeds N, --from SEED, --jobs N, --plan JSON, --mutant NAME, --mutants; --help tells more
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds the program and runs it.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    // Without bugs to plant, it is the code that everybody runs.
    let features = if options.arguments.iter().any(|argument| argument.starts_with("--mutant")) { "mutants" } else { "sim" };
    let built = build(features).status().context("cannot start cargo")?;
    if !built.success() {
        return Ok(ExitCode::FAILURE);
    }
    let status = Command::new(program()?).args(&options.arguments).status().context("cannot start the simulation")?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// A number of seeds, and each bug that can be planted, as steps of a longer errand.
pub(crate) fn tests(steps: &mut Steps) -> Result<()> {
    if !steps.run("simulation", &mut build("mutants"))? {
        return Ok(());
    }
    let program = program()?;
    steps.run_as_test("simulated seeds", Command::new(&program).args(["--seeds", TEST_SEEDS]))?;
    steps.run_tests("planted bugs", Command::new(&program).args(["--mutants", "--seeds", TEST_SEEDS]))?;
    Ok(())
}

fn build(features: &str) -> Command {
    let mut build = cargo();
    build.args([
        "build",
        "--release",
        "--quiet",
        "--locked",
        "--package",
        "netstack",
        "--bin",
        "slipway-sim",
        "--features",
        features,
    ]);
    build
}

fn program() -> Result<PathBuf> {
    let program = target_directory().join("release/slipway-sim");
    program.canonicalize().with_context(|| format!("{} was not built in {}", program.display(), workspace().display()))
}
