//! `cargo xtask bench`: figures beside other programs, measured in the same run on the same machine.

mod capture;
mod cell;
pub(crate) mod load;
mod netns;
mod report;
mod stack;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

/// What can be measured.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Throughput, latency and memory of networks for a namespace: slipway, slirp4netns and pasta side by side.
    ///
    /// The programs are those in the search path and our own release build; SLIPWAY, SLIRP4NETNS and PASTA name others. Needs root, to
    /// make namespaces; everything happens in a process and mount namespace of its own, so nothing is left behind however it ends.
    Netns(netns::Options),
    /// Throughput with and without a recording of everything.
    ///
    /// Each recording is a file of up to some gigabytes, which is removed at once. Needs root, as `bench netns`.
    Capture(capture::Options),
}

/// Measures.
pub(crate) fn run(bench: Bench) -> Result<ExitCode> {
    match bench {
        Bench::Netns(options) => netns::run(options),
        Bench::Capture(options) => capture::run(&options),
    }
}
