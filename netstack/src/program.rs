//! The program `slipway`: the engine for people. It gives a network namespace, a virtual machine or a single command a network, without
//! root. Behind the cargo feature `program`, which is on unless an embedder does without.
//!
//! One file is one subcommand. [`main`] reads the command line, raises the limits, and prints the one paragraph of a failure. Every
//! subcommand that needs to be inside a namespace forks a child for it *before* it starts a runtime: see `process`.
//!
//! It is a part of the library so that `slipway-vm` can tell failures in the same words, and begin its demonstration with this one's.

mod capture;
pub mod check;
mod cli;
pub mod completions;
mod ctl;
pub mod demo;
mod descriptor;
mod diagnose;
mod engine;
pub mod failure;
mod interface;
mod limits;
pub mod log;
mod namespace;
mod netns;
mod process;
mod replay;
pub mod report;
mod serve;
mod shell;
mod tap;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::program::cli::{Cli, Command};

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // A service tells who comes and goes; everything else is silent while all is well.
    let usual = if matches!(cli.command, Command::Serve(_)) { "warn,netstack::program=info" } else { "warn" };
    log::begin(cli.log.as_deref(), usual);
    let limits = limits::Inherited::raise();
    let outcome = match cli.command {
        Command::Shell(args) => shell::run(&args, limits),
        Command::Netns(args) => netns::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Ctl(args) => ctl::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Check { json } => check::run(json),
        Command::Completions { shell } => completions::completions(Cli::command(), shell),
        Command::Man { dir } => completions::man(Cli::command(), dir.as_deref()),
    };
    outcome.map_or_else(|failure| failure.report(), ExitCode::from)
}
