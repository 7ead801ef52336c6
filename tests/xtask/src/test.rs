//! `cargo xtask test`: everything that can fail, in the order in which a failure is found soonest.
//!
//! What always holds: the last line is `N passed, N failed`, alone on its line, and the exit status agrees with it. Tests are counted;
//! a check or a build counts when it fails.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::step::Steps;
use crate::{cargo, check, fuzz, packages, sim, workspace};

/// How long an example may run. They are meant to show something at a glance.
const EXAMPLE_SECONDS: &str = "120";

/// Runs everything. Exit status 2 means that it could not be tried, since packages are missing.
pub(crate) fn run() -> Result<ExitCode> {
    let started = std::time::Instant::now();
    let mut steps = Steps::default();
    if !packages::ensure(&mut steps)? {
        return Ok(ExitCode::from(2));
    }
    check::all(&mut steps)?;
    if build(&mut steps)? {
        tests(&mut steps)?;
        sim::tests(&mut steps)?;
        steps.run_tests("documentation tests", cargo().args(["test", "--workspace", "--doc", "--locked"]))?;
        examples(&mut steps)?;
        fuzz::smoke(&mut steps)?;
    }
    println!("everything took {:.0} s", started.elapsed().as_secs_f64());
    let outcome = steps.finish();
    let tally = steps.tally();
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(outcome)
}

/// The optimised programs, which the end-to-end tests run, and the tests themselves.
fn build(steps: &mut Steps) -> Result<bool> {
    Ok(steps
        .run("programs", cargo().args(["build", "--release", "--bins", "--package", "netstack", "--package", "vmm", "--locked"]))?
        && steps.run("tests", cargo().args(["test", "--workspace", "--all-targets", "--no-run", "--locked", "--quiet"]))?)
}

/// Unit, property, simulation and end-to-end tests.
fn tests(steps: &mut Steps) -> Result<()> {
    if check::is_installed("nextest") {
        steps.run_tests("tests", cargo().args(["nextest", "run", "--workspace", "--all-targets", "--locked", "--no-fail-fast"]))?;
    } else {
        eprintln!("cargo-nextest is not installed: `cargo test` runs the tests instead, without its time limits");
        steps.run_tests(
            "unit tests",
            cargo().args(["test", "--workspace", "--exclude", "e2e", "--tests", "--locked", "--no-fail-fast"]),
        )?;
        // One at a time: each takes the whole machine.
        let one_by_one = ["test", "--package", "e2e", "--tests", "--locked", "--no-fail-fast", "--", "--test-threads=1"];
        steps.run_tests("end-to-end tests", cargo().args(one_by_one))?;
    }
    Ok(())
}

/// Every example of the libraries, run to its end.
fn examples(steps: &mut Steps) -> Result<()> {
    for package in ["netstack", "vmm"] {
        let Ok(directory) = std::fs::read_dir(workspace().join(package).join("examples")) else { continue };
        let mut names: Vec<_> = directory
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
            .filter_map(|path| path.file_stem()?.to_str().map(str::to_owned))
            .collect();
        names.sort();
        for name in names {
            steps.run("build example", cargo().args(["build", "--quiet", "--locked", "--package", package, "--example", &name]))?;
            let program = crate::target_directory().join("debug/examples").join(&name);
            let program = program.canonicalize().with_context(|| format!("example {name} was not built"));
            match program {
                Ok(program) => steps
                    .run_as_test(&format!("example {name}"), Command::new("timeout").arg(EXAMPLE_SECONDS).arg(program))
                    .map(drop)?,
                Err(error) => eprintln!("{error:#}"),
            }
        }
    }
    Ok(())
}
