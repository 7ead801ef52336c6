//! `slipway-sim`: runs simulations of many seeds, and makes those that fail small. `cargo xtask sim` builds and starts it.

mod search;
mod tell;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use netstack::sim::plan::Plan;

/// Searches for seeds whose simulation goes wrong.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask sim", bin_name = "cargo xtask sim")]
struct Options {
    /// How many seeds
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many threads [default: as many as there are processors]
    #[arg(long)]
    jobs: Option<usize>,
    /// Runs this plan, in JSON, instead of seeds, and shows its frames
    #[arg(long, conflicts_with_all = ["seeds", "from", "jobs"])]
    plan: Option<String>,
    /// How many of the last frames a plan shows
    #[arg(long, default_value_t = 200)]
    trace: usize,
    /// Prints the plan of the first seed, and runs nothing
    #[arg(long)]
    show: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<ExitCode> {
    if let Some(text) = &options.plan {
        let plan: Plan = serde_json::from_str(text).context("--plan is not the plan of a simulation as a failure prints it")?;
        return Ok(tell::replay(&plan, options.trace));
    }
    if options.show {
        println!("{}", serde_json::to_string_pretty(&Plan::of(options.from))?);
        return Ok(ExitCode::SUCCESS);
    }
    let jobs = options.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let outcome = search::seeds(options.from..options.from.saturating_add(options.seeds), jobs);
    tell::outcome(&outcome)
}
