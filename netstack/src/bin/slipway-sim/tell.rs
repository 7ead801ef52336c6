//! What is printed of a search or a replay.

use std::process::ExitCode;

use anyhow::Result;
use netstack::sim::plan::Plan;
use netstack::sim::run;
use netstack::sim::shrink::shrink;

use crate::search::{Outcome, attempt};

/// Runs that making a plan smaller may take.
const SHRINKING: usize = 3000;

/// Prints what a search has come to; a failure with the command that replays it.
pub(crate) fn outcome(outcome: &Outcome, planted: &str) -> Result<ExitCode> {
    let Outcome { seeds, took, sum, least, failure, .. } = outcome;
    let seconds = took.as_secs_f64();
    println!(
        "{seeds} seeds in {seconds:.1} s: {:.1} seeds/s, {:.1} MiB up, {:.1} MiB down, at least {:.2} and {:.2} MiB a seed",
        *seeds as f64 / seconds,
        mib(sum.up),
        mib(sum.down),
        mib(least.0),
        mib(least.1),
    );
    println!(
        "{} conversations complete, {} cut short by plan, {} datagrams answered, {:.0} h of virtual time, {} turns",
        sum.complete,
        sum.cut,
        sum.echoes,
        sum.time.as_secs_f64() / 3600.0,
        sum.turns,
    );
    let Some((seed, first)) = failure else { return Ok(ExitCode::SUCCESS) };
    println!("seed {seed} FAILED: {first}");
    let mut tried = 0;
    let plan = shrink(Plan::of(*seed), SHRINKING, |plan| {
        tried += 1;
        attempt(plan).is_err()
    });
    if let Err(failure) = attempt(&plan) {
        println!("made smaller in {tried} runs, it still fails: {failure}");
    }
    println!("to see it happen:\n\n    cargo xtask sim{planted} --plan '{}'\n", serde_json::to_string(&plan)?);
    Ok(ExitCode::FAILURE)
}

/// Runs one plan and shows its frames, if it fails.
pub(crate) fn replay(plan: &Plan, trace: usize) -> ExitCode {
    let run = std::panic::catch_unwind(|| run::run(plan, trace));
    match run {
        Ok(report) => {
            println!("nothing is wrong: {} bytes up, {} down, {} conversations complete", report.up, report.down, report.complete);
            println!("{}", report.counters);
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
