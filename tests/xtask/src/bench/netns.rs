//! `cargo xtask bench netns`: the matrix of cells, and how they are ordered so that the comparison is fair.
//!
//! Every figure comes from a fresh pair of namespaces. Repeats are interleaved: all programs do one thing before the next thing is done,
//! so that a machine that slows down or speeds up meanwhile does so for all of them. Congestion control is the same everywhere.
//!
//! Everything runs in a process and mount namespace of its own, whose first process is killed by the kernel when we end: whatever way
//! that is, no process and no namespace is left behind.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::cell::Cell;
use super::load::Latency;
use super::report::{self, Idle, Report, Row};
use super::stack::Stack;
use crate::packages::on_path;
use crate::{cargo, target_directory};

/// What to measure, and how long.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// The programs to compare.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["slipway", "slirp4netns", "pasta"])]
    stacks: Vec<Stack>,
    /// Seconds for each figure.
    #[arg(long, default_value_t = 3)]
    secs: u32,
    /// How often each figure is measured; the median counts.
    #[arg(long, default_value_t = 3)]
    reps: u32,
    /// The sizes of IP packets on the guest's link. Latency is measured with the first.
    #[arg(long, value_delimiter = ',', default_values_t = [1500, 65520])]
    mtu: Vec<u32>,
    /// How many streams iperf3 has at once.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8])]
    flows: Vec<u32>,
    /// How many idle connections memory is measured with; 0 leaves that out.
    #[arg(long, default_value_t = 10_000)]
    idle: u32,
    /// The congestion control of both kernels.
    #[arg(long, default_value = "reno")]
    congestion_control: String,
    /// Where the figures are written. [default: netns.json in bench in the target directory]
    #[arg(long)]
    json: Option<PathBuf>,
    /// A quick look: one second for each figure, once.
    #[arg(long)]
    quick: bool,
}

/// Set in the process that measures.
const INSIDE: &str = "XTASK_BENCH_INSIDE";

/// Measures, prints a table and writes the figures.
pub(crate) fn run(mut options: Options) -> Result<ExitCode> {
    if !is_inside() {
        return start_inside("netns");
    }
    if options.quick {
        (options.secs, options.reps) = (1, 1);
    }
    options.stacks.retain(|stack| {
        let present = stack.is_present();
        if !present {
            eprintln!("!!! {} is left out: {} is not there", stack.name(), stack.program().display());
        }
        present
    });
    ensure!(!options.stacks.is_empty(), "there is nothing to measure");
    let mut report = Report::new(&options.stacks, &options.congestion_control, options.secs, options.reps);
    println!("{}", report.heading());
    throughput(&options, &mut report);
    latency(&options, &mut report);
    idle(&options, &mut report);
    println!("{}", report.tables());
    let json = options.json.unwrap_or_else(|| target_directory().join("bench/netns.json"));
    std::fs::create_dir_all(json.parent().context("no directory")?)?;
    std::fs::write(&json, serde_json::to_string_pretty(&report)?).with_context(|| format!("cannot write {}", json.display()))?;
    println!("The figures are in {}.", json.display());
    Ok(ExitCode::SUCCESS)
}

/// Whether nothing that happens here outlasts the measurement.
pub(super) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Builds what is to be measured, and starts ourselves again inside.
pub(super) fn start_inside(bench: &str) -> Result<ExitCode> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "only root may make the namespaces that stand for host and guest: run `sudo -E cargo xtask bench {bench}`"
    );
    for program in ["iperf3", "ip", "unshare", "setpriv"] {
        ensure!(on_path(program), "{program} is not there: install it by `apt-get install iperf3 iproute2 util-linux`");
    }
    if std::env::var_os("SLIPWAY").is_none() {
        let built = cargo().args(["build", "--release", "--quiet", "--bin", "slipway", "--package", "netstack"]).status()?;
        ensure!(built.success(), "slipway cannot be built");
    }
    // The terminal's signals reach us and not the first process of a process namespace, which would ignore them; when we end, it is
    // killed, and all others with it.
    let mut inside = Command::new("setpriv");
    inside.args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    inside.args(["sh", "-c", "mkdir -p /run/netns && mount -t tmpfs none /run/netns && \"$@\"", "sh"]);
    inside.arg(std::env::current_exe()?).args(std::env::args_os().skip(1)).env(INSIDE, "1");
    std::os::unix::process::CommandExt::process_group(&mut inside, 0);
    let status = inside.status().context("cannot start a process namespace")?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(2)))
}

fn throughput(options: &Options, report: &mut Report) {
    for repeat in 1..=options.reps {
        for &mtu in &options.mtu {
            for &flows in &options.flows {
                for down in [false, true] {
                    for &stack in &options.stacks {
                        let measured = Cell::new(stack, mtu, &options.congestion_control)
                            .and_then(|cell| cell.transfer(options.secs, flows, down));
                        let row = Row { mtu, flows, down };
                        let what = format!("{repeat}/{} {row} {}", options.reps, stack.name());
                        if let Some(transfer) = tell(&what, measured, |t| format!("{:.2} Gbit/s", t.gbps)) {
                            report.throughput.entry(row).or_default().add(stack, transfer);
                        }
                    }
                }
            }
        }
    }
}

fn latency(options: &Options, report: &mut Report) {
    let mtu = options.mtu.first().copied().unwrap_or(1500);
    let seconds = options.secs.to_string();
    for repeat in 1..=options.reps {
        for kind in ["rr", "crr"] {
            for &stack in &options.stacks {
                let measured: Result<Latency> = Cell::new(stack, mtu, &options.congestion_control)
                    .and_then(|cell| cell.load(&[kind, "--secs", &seconds]))
                    .and_then(|printed| Ok(serde_json::from_str(&printed)?));
                let what = format!("{repeat}/{} {kind} {}", options.reps, stack.name());
                if let Some(latency) = tell(&what, measured, |l| format!("p50 {:.0} µs, p99 {:.0} µs", l.p50, l.p99)) {
                    report.latency.entry(kind.to_owned()).or_default().add(stack, latency);
                }
            }
        }
    }
}

fn idle(options: &Options, report: &mut Report) {
    if options.idle == 0 {
        return;
    }
    let mtu = options.mtu.first().copied().unwrap_or(1500);
    for &stack in &options.stacks {
        let measured = Cell::new(stack, mtu, &options.congestion_control).and_then(|cell| idle_flows(&cell, options.idle));
        let what = format!("{} idle flows {}", options.idle, stack.name());
        if let Some(idle) = tell(&what, measured, |idle| format!("{:.0} bytes each", idle.bytes_per_flow)) {
            report.idle.insert(stack, idle);
        }
    }
}

/// Few idle flows, then many: what the difference costs.
fn idle_flows(cell: &Cell, many: u32) -> Result<Idle> {
    let few = cell.open_idle(10)?;
    let cpu_with_few = cpu_while_idle(cell)?;
    let before = cell.usage()?;
    let more = cell.open_idle(many.saturating_sub(few.opened))?;
    let cpu_with_many = cpu_while_idle(cell)?;
    let after = cell.usage()?;
    ensure!(more.opened > 0, "no flow could be opened");
    let grown = |before: u64, after: u64| after.saturating_sub(before) as f64 / f64::from(more.opened);
    Ok(Idle {
        flows: few.opened + more.opened,
        bytes_per_flow: grown(before.anonymous, after.anonymous),
        resident_bytes_per_flow: grown(before.resident, after.resident),
        resident_before: before.resident,
        resident: after.resident,
        cpu_seconds_with_few: cpu_with_few.as_secs_f64(),
        cpu_seconds_with_many: cpu_with_many.as_secs_f64(),
        seconds: report::IDLE_SECONDS,
    })
}

fn cpu_while_idle(cell: &Cell) -> Result<Duration> {
    // What opening the flows has left to do is not idleness.
    std::thread::sleep(Duration::from_secs(1));
    let (started, before) = (Instant::now(), cell.usage()?.cpu);
    std::thread::sleep(Duration::from_secs(report::IDLE_SECONDS).saturating_sub(started.elapsed()));
    Ok(cell.usage()?.cpu.saturating_sub(before))
}

/// Says what was measured, or why it was not.
pub(super) fn tell<T>(what: &str, measured: Result<T>, show: impl FnOnce(&T) -> String) -> Option<T> {
    match measured {
        Ok(measured) => {
            println!("  {what}: {}", show(&measured));
            Some(measured)
        }
        Err(error) => {
            println!("  {what}: FAILED: {error:#}");
            None
        }
    }
}
