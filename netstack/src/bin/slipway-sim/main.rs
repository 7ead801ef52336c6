//! `slipway-sim`: runs simulations of many seeds, and makes those that fail small. `cargo xtask sim` builds and starts it.

#[cfg(feature = "mutants")]
mod mutants;
mod search;
mod tell;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
#[cfg(feature = "mutants")]
use netstack::mutants::Mutant;
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
    /// Plants a bug: in each seed, or in the plan
    #[cfg(feature = "mutants")]
    #[arg(long, value_name = "NAME", value_parser = mutant_named)]
    mutant: Option<Mutant>,
    /// Plants each bug there is, and looks at which seed it is found
    #[cfg(feature = "mutants")]
    #[arg(long)]
    mutants: bool,
    /// How many of the last frames a plan shows
    #[arg(long, default_value_t = 200)]
    trace: usize,
    /// Prints what the stacks have counted, in all runs
    #[arg(long)]
    counters: bool,
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
    #[cfg(feature = "mutants")]
    netstack::mutants::plant(options.mutant);
    if let Some(text) = &options.plan {
        let plan: Plan = serde_json::from_str(text).context("--plan is not the plan of a simulation as a failure prints it")?;
        return Ok(tell::replay(&plan, options.trace));
    }
    if options.show {
        println!("{}", serde_json::to_string_pretty(&Plan::of(options.from))?);
        return Ok(ExitCode::SUCCESS);
    }
    let jobs = options.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let range = options.from..options.from.saturating_add(options.seeds);
    search::silence_panics();
    #[cfg(feature = "mutants")]
    if options.mutants {
        return Ok(mutants::all(&range, jobs));
    }
    #[cfg(feature = "mutants")]
    let prepare = || netstack::mutants::plant(options.mutant);
    #[cfg(not(feature = "mutants"))]
    let prepare = || {};
    let outcome = search::seeds(range, jobs, prepare);
    if options.counters {
        outcome.counters.iter().for_each(|(name, value)| println!("{name:<30}{value:>14}"));
    }
    tell::outcome(&outcome, &planted(options))
}

/// What a command that replays a run needs beside the plan.
#[cfg(feature = "mutants")]
fn planted(options: &Options) -> String {
    options.mutant.map_or_else(String::new, |mutant| format!(" --mutant {}", mutant.name()))
}

#[cfg(not(feature = "mutants"))]
fn planted(_: &Options) -> String {
    String::new()
}

#[cfg(feature = "mutants")]
fn mutant_named(name: &str) -> Result<Mutant, String> {
    let all = Mutant::ALL;
    all.iter().copied().find(|mutant| mutant.name() == name).ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|mutant| mutant.name()).collect();
        format!("there is no such bug, but these: {}", names.join(", "))
    })
}
