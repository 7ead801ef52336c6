//! `cargo xtask`: the errands of this workspace, written in Rust so that a machine needs nothing but cargo to run them.
//!
//! `check` asks whether the code is presentable, `test` whether it works, `sim` what could go wrong all the same, and `bench` how fast it is
//! beside its peers. `record` makes the recordings in `pcap-fixtures` anew.

mod bench;
mod check;
mod fuzz;
mod packages;
mod record;
mod sim;
mod step;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The errands of this workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    errand: Errand,
}

#[derive(Debug, Subcommand)]
enum Errand {
    /// Format, lints, documentation and dependency rules.
    Check,
    /// Everything that can fail: checks, builds, unit and end-to-end tests, documentation tests and examples.
    Test,
    /// Records the stories of `pcap-fixtures` again, or those whose names contain one of these.
    Record {
        /// Conversations of real guests instead. They come out a little different every time.
        #[arg(long)]
        real: bool,
        names: Vec<String>,
    },
    /// Simulations of many seeds, in virtual time, until one goes wrong. It is made smaller and can be replayed.
    Sim(sim::Options),
    /// Measurements beside other programs. They print and write figures, and never fail because of one.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Gives netstack inputs that are made up, and asks what must always hold.
    Fuzz(fuzz::Fuzz),
    /// The load generator that `bench` runs inside its namespaces.
    #[command(subcommand, hide = true)]
    Load(bench::load::Load),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().errand {
        Errand::Check => check::run(),
        Errand::Test => test::run(),
        Errand::Record { real, names } => record::run(real, &names),
        Errand::Sim(options) => sim::run(&options),
        Errand::Bench(bench) => bench::run(bench),
        Errand::Fuzz(fuzz) => fuzz::run(&fuzz),
        Errand::Load(load) => bench::load::run(&load).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}

/// The directory that holds the workspace's `Cargo.toml`.
fn workspace() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Where cargo puts what it builds.
fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// The cargo that runs us.
fn cargo() -> std::process::Command {
    let mut cargo = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace());
    cargo
}
