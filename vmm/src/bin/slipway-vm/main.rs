//! `slipway-vm`: virtual machines for people. It boots a kernel as an ordinary user, with a network that needs no root either.
//!
//! One file is one subcommand, or one thing that `run` needs. Whatever is wrong with a command line is found before KVM is touched, and
//! told in one sentence with exit code 2.

mod check;
mod cli;
mod completions;
mod console;
mod devices;
mod failure;
mod network;
mod plan;
mod run;
mod terminal;

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    log(&cli);
    let outcome = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Check { json } => check::run(json),
        Command::Completions { shell } => completions::completions(shell),
        Command::Man { dir } => completions::man(dir.as_deref()),
    };
    outcome.map_or_else(|failure| failure.report(), ExitCode::from)
}

/// Tells what happens on standard error, which is silent while all is well.
fn log(cli: &Cli) {
    let filter = cli.log.as_deref().and_then(|filter| filter.parse().ok()).unwrap_or_else(|| EnvFilter::new("warn"));
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
