//! `slipway`: the engine for people. It gives a network namespace, a virtual machine or a single command a network, without root.
//!
//! One file is one subcommand. `main` reads the command line, raises the limits, and prints the one paragraph of a failure. Every
//! subcommand that needs to be inside a namespace forks a child for it *before* it starts a runtime: see [`process`].

mod capture;
mod cli;
mod completions;
mod demo;
mod descriptor;
mod diagnose;
mod engine;
mod failure;
mod interface;
mod limits;
mod namespace;
mod netns;
mod process;
mod replay;
mod report;
mod serve;
mod shell;
mod tap;

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    log(&cli);
    let limits = limits::Inherited::raise();
    let outcome = match cli.command {
        Command::Shell(args) => shell::run(&args, limits),
        Command::Netns(args) => netns::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Completions { shell } => completions::completions(shell),
        Command::Man { dir } => completions::man(dir.as_deref()),
    };
    outcome.map_or_else(|failure| failure.report(), ExitCode::from)
}

/// Tells what happens on standard error. A service tells who comes and goes; everything else is silent while all is well.
fn log(cli: &Cli) {
    let usual = match cli.command {
        Command::Serve(_) => "warn,slipway=info",
        _ => "warn",
    };
    let filter = cli.log.as_deref().and_then(|filter| filter.parse().ok()).unwrap_or_else(|| EnvFilter::new(usual));
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colour)
        .with_target(false)
        .without_time()
        .compact()
        .init();
}
