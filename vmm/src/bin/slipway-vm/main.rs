//! `slipway-vm`: virtual machines for people. It boots a kernel as an ordinary user, with a network that needs no root either.
//!
//! One file is one subcommand, or one thing that `run` needs. Whatever is wrong with a command line is found before KVM is touched, and
//! told in one sentence with exit code 2.

mod build;
mod check;
mod cli;
mod console;
mod demo;
mod devices;
mod network;
mod plan;
mod run;
mod terminal;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use netstack::program::{completions, log};

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    log::begin(cli.log.as_deref(), "warn");
    let outcome = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Check { json } => check::run(json),
        Command::Completions { shell } => completions::completions(Cli::command(), shell),
        Command::Man { dir } => completions::man(Cli::command(), dir.as_deref()),
    };
    outcome.map_or_else(|failure| failure.report(), ExitCode::from)
}
