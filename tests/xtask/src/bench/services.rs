//! `cargo xtask bench services`: what was asked of each service, and what it reaches, in one run.
//!
//! A part is a module below. It measures what is ours and what that is compared with one after the other, in fresh namespaces, as often
//! as is asked, so that a machine that slows down or speeds up meanwhile does so for both. What it returns are figures; what was asked
//! stands beside each, and medians are compared with it.

mod api;
mod dns;
mod figure;
mod forwards;
mod hostfwd;
mod tftp;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use self::figure::{Figure, Report};
use super::netns::{is_inside, start_inside, tell};
use crate::target_directory;

/// What to measure, and how long.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// The services to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::value_variants().to_vec())]
    parts: Vec<Part>,
    /// Seconds for each figure that takes as long as it is let.
    #[arg(long, default_value_t = 3)]
    secs: u32,
    /// How often each figure is measured; the median counts.
    #[arg(long, default_value_t = 3)]
    reps: u32,
    /// How many connections are opened through a forward.
    #[arg(long, default_value_t = 10_000)]
    connections: u32,
    /// How many of them are open at once.
    #[arg(long, default_value_t = 500)]
    at_once: u32,
    /// The congestion control of both kernels.
    #[arg(long, default_value = "reno")]
    congestion_control: String,
    /// Where the figures are written. [default: services.json in bench in the target directory]
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A service. Each is a module; its name here is that on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A name in the forwarder's cache, beside the server that it comes from.
    Dns,
    /// Connections through a forwarded port, beside a server on the host.
    Hostfwd,
    /// A file from the gateway, beside libslirp's TFTP server.
    Tftp,
    /// Forwards that come and go while a stream goes through another one.
    Forwards,
    /// Commands over the API while a guest transfers as much as it can.
    Api,
}

impl Part {
    /// Measures once.
    fn measure(self, options: &Options) -> Result<Vec<Figure>> {
        match self {
            Self::Dns => dns::measure(options),
            Self::Hostfwd => hostfwd::measure(options),
            Self::Tftp => tftp::measure(options),
            Self::Forwards => forwards::measure(options),
            Self::Api => api::measure(options),
        }
    }
}

/// Measures, prints a table and writes the figures.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if !is_inside() {
        return start_inside("services");
    }
    let mut report = Report::new(&options.congestion_control, options.secs, options.reps);
    println!("{}", report.heading());
    for &part in &options.parts {
        let name = part.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        for repeat in 1..=options.reps {
            let show = |figures: &Vec<Figure>| figures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            match tell(&format!("{repeat}/{} {name}", options.reps), part.measure(options), show) {
                Some(figures) => report.add(&name, figures),
                None => report.failed(&name),
            }
        }
    }
    println!("\n{}\n\n{}", report.heading(), report.table());
    let json = options.json.clone().unwrap_or_else(|| target_directory().join("bench/services.json"));
    std::fs::create_dir_all(json.parent().context("no directory")?)?;
    std::fs::write(&json, serde_json::to_string_pretty(&report)?).with_context(|| format!("cannot write {}", json.display()))?;
    println!("The figures are in {}.", json.display());
    Ok(ExitCode::SUCCESS)
}
