//! `cargo xtask bench`: figures beside other programs, measured in the same run on the same machine.

mod capture;
mod cell;
pub(crate) mod load;
mod netns;
mod report;
mod services;
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
    /// What was asked of each service, and what it reaches.
    ///
    /// Needs root, as `bench netns`.
    Services(services::Options),
    /// A virtual machine: time to its first instruction and its first lease, its memory, and TCP through each network card.
    ///
    /// Needs /dev/kvm.
    Vmm,
}

/// Measures.
pub(crate) fn run(bench: Bench) -> Result<ExitCode> {
    match bench {
        Bench::Netns(options) => netns::run(options),
        Bench::Capture(options) => capture::run(&options),
        Bench::Services(options) => services::run(&options),
        Bench::Vmm => vmm(),
    }
}

/// The measurements are a benchmark of the package, because they use what is in it.
fn vmm() -> Result<ExitCode> {
    let status = crate::cargo().args(["bench", "--package", "vmm", "--bench", "machine", "--locked"]).status()?;
    Ok(ExitCode::from(u8::from(!status.success())))
}
