//! `cargo xtask bench capture`: what a recording costs of the throughput.
//!
//! The same transfers without and with `--pcap`, each in fresh namespaces, one after the other, so that a machine that slows down or
//! speeds up meanwhile does so for all of them. A recording gives way when there is too little processor time for it, so beside what it
//! costs stands how much of what was transferred is in the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::cell::Cell;
use super::netns::{is_inside, start_inside, tell};
use super::report::{Machine, Row, Samples, align, number, table};
use super::stack::Stack;
use crate::target_directory;

/// What to measure, and how long.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// How it is recorded.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["none", "whole", "headers"])]
    modes: Vec<Mode>,
    /// Seconds for each figure.
    #[arg(long, default_value_t = 3)]
    secs: u32,
    /// How often each figure is measured; the median counts.
    #[arg(long, default_value_t = 5)]
    reps: u32,
    /// The size of IP packets on the guest's link.
    #[arg(long, value_delimiter = ',', default_values_t = [1500])]
    mtu: Vec<u32>,
    /// How many streams iperf3 has at once.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8])]
    flows: Vec<u32>,
    /// The congestion control of both kernels.
    #[arg(long, default_value = "reno")]
    congestion_control: String,
    /// Where the recordings are written. [default: bench in the target directory]
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Where the figures are written. [default: capture.json in bench in the target directory]
    #[arg(long)]
    json: Option<PathBuf>,
}

/// How it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// Not at all.
    None,
    /// All bytes of all frames: `--pcap FILE`.
    Whole,
    /// The same, in frames of the MTU: `--pcap-segment`.
    Segments,
    /// The first 128 bytes of all frames: `--pcap-snaplen 128`.
    Headers,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Whole => "whole",
            Self::Segments => "segments",
            Self::Headers => "headers",
        }
    }

    fn options(self, file: &Path) -> Vec<String> {
        let more: &[&str] = match self {
            Self::None => return Vec::new(),
            Self::Whole => &[],
            Self::Segments => &["--pcap-segment"],
            Self::Headers => &["--pcap-snaplen", "128"],
        };
        ["--pcap", &file.display().to_string()].iter().chain(more).map(|word| (*word).to_owned()).collect()
    }
}

/// Everything that was measured, and on what.
#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    rows: BTreeMap<Row, BTreeMap<Mode, Figures>>,
}

#[derive(Debug, Default, Serialize)]
struct Figures {
    gbps: Samples,
    cpu_seconds_per_gb: Samples,
    /// Bytes of the file for each byte that was transferred.
    recorded: Samples,
}

/// Measures, prints a table and writes the figures.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if !is_inside() {
        return start_inside("capture");
    }
    let bench = target_directory().join("bench");
    let directory = options.directory.clone().unwrap_or_else(|| bench.clone());
    let json = options.json.clone().unwrap_or_else(|| bench.join("capture.json"));
    for directory in [Some(directory.as_path()), json.parent()].into_iter().flatten() {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let machine = Machine::new(&[Stack::Slipway], &options.congestion_control, options.secs, options.reps);
    let mut report = Report { machine, rows: BTreeMap::new() };
    println!("{}", report.machine.heading());
    for repeat in 1..=options.reps {
        for row in rows(options) {
            for &mode in &options.modes {
                let what = format!("{repeat}/{} {row} {}", options.reps, mode.name());
                let measured = measure(options, row, mode, &directory);
                let show = |(gbps, _, recorded): &(f64, f64, f64)| format!("{gbps:.2} Gbit/s, {recorded:.2} recorded");
                if let Some((gbps, cpu, recorded)) = tell(&what, measured, show) {
                    let figures = report.rows.entry(row).or_default().entry(mode).or_default();
                    figures.gbps.add(gbps);
                    figures.cpu_seconds_per_gb.add(cpu);
                    figures.recorded.add(recorded);
                }
            }
        }
    }
    println!("\n{}\n\n{}", report.machine.heading(), report.table(&options.modes));
    std::fs::write(&json, serde_json::to_string_pretty(&report)?).with_context(|| format!("cannot write {}", json.display()))?;
    println!("The figures are in {}.", json.display());
    Ok(ExitCode::SUCCESS)
}

fn rows(options: &Options) -> impl Iterator<Item = Row> {
    let of = |mtu: u32| options.flows.iter().flat_map(move |&flows| [false, true].map(|down| Row { mtu, flows, down }));
    options.mtu.iter().flat_map(move |&mtu| of(mtu))
}

/// Throughput in Gbit/s, processor seconds per GB, and bytes recorded per byte transferred.
fn measure(options: &Options, row: Row, mode: Mode, directory: &Path) -> Result<(f64, f64, f64)> {
    // Removed with what is in it, however this ends.
    let directory = tempfile::Builder::new().prefix("recording-").tempdir_in(directory)?;
    let file = directory.path().join("bench.pcapng");
    let cell = Cell::with(Stack::Slipway, &mode.options(&file), row.mtu, &options.congestion_control)?;
    let transfer = cell.transfer(options.secs, row.flows, row.down)?;
    drop(cell);
    let bytes = transfer.gbps * 1e9 / 8.0 * f64::from(options.secs);
    let size = if mode == Mode::None { 0 } else { std::fs::metadata(&file).context("nothing was recorded")?.len() };
    ensure!(mode == Mode::None || size > 0, "the recording is empty");
    Ok((transfer.gbps, transfer.cpu_per_gb, size as f64 / bytes))
}

impl Report {
    fn table(&self, modes: &[Mode]) -> String {
        let mut header: Vec<_> = ["MTU", "flows", "direction"].map(str::to_owned).into();
        header.extend(modes.iter().map(|mode| format!("{}, Gbit/s", mode.name())));
        let recording = || modes.iter().filter(|mode| **mode != Mode::None);
        header.extend(recording().flat_map(|mode| [format!("{} costs", mode.name()), "recorded".to_owned()]));
        let mut table = table(header);
        for (Row { mtu, flows, down }, figures) in &self.rows {
            let gbps = |mode| figures.get(&mode).map(|figures: &Figures| figures.gbps.median());
            let mut cells = vec![mtu.to_string(), flows.to_string(), if *down { "down" } else { "up" }.to_owned()];
            cells.extend(modes.iter().map(|mode| number(gbps(*mode), 2)));
            for mode in recording() {
                let cost = gbps(*mode).zip(gbps(Mode::None)).map(|(with, without)| 100.0 * (1.0 - with / without));
                let recorded = figures.get(mode).map(|figures| 100.0 * figures.recorded.median());
                cells.extend([number(cost, 0), number(recorded, 1)].map(|percent| format!("{percent} %")));
            }
            table.add_row(cells);
        }
        align(table, 3).to_string()
    }
}
