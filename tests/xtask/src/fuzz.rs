//! `cargo xtask fuzz`: the fuzz targets of `netstack/fuzz` and `vmm/fuzz`, built, seeded, run and reported on.
//!
//! The smoke run is built without optimisation, because the build is most of it; it gives each target its seeds, its corpus and a few
//! seconds.
//!
//! They need a nightly compiler, whose sanitizers they are linked with. `cargo-fuzz` builds them, and is itself built below the target
//! directory where there is none; the programs are then run as they are, so that what is told of them is the same everywhere.
//!
//! | below `target/fuzz` | what |
//! |---|---|
//! | `seeds/TARGET` | inputs to begin with, made anew each time |
//! | `corpus/TARGET` | inputs that were found to go further, kept from run to run |
//! | `findings/TARGET` | inputs that must not do what they do |
//! | `logs/TARGET.log` | all that the last run said |

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::step::Steps;
use crate::{cargo, target_directory, workspace};

/// The cargo-fuzz that is installed where there is none.
const CARGO_FUZZ: &str = "~0.13";

/// The triple for which all of this is built; cargo-fuzz knows it better than to leave it out.
const HOST: &str = "x86_64-unknown-linux-gnu";

/// Fuzz targets that are built together.
#[derive(Debug)]
struct Collection {
    /// The crate of the targets, a workspace of its own.
    directory: &'static str,
    /// The package that knows what they ask, and that writes their seeds.
    judge: &'static str,
    /// In the order in which they are run. No two collections have one of the same name.
    targets: &'static [&'static str],
    /// Whether there are seeds in the recorded conversations too.
    has_recordings: bool,
}

const COLLECTIONS: [Collection; 2] = [
    Collection {
        directory: "netstack/fuzz",
        judge: "netstack-judge",
        targets: &[
            "engine",
            "frame",
            "dhcp",
            "dhcp6",
            "dns",
            "tftp",
            "config",
            "api",
            "capture_file",
            "reassembly",
            "stream_framing",
        ],
        has_recordings: true,
    },
    Collection {
        directory: "vmm/fuzz",
        judge: "vmm-judge",
        targets: &["e1000_mmio", "virtio_net_queue", "pci_config"],
        has_recordings: false,
    },
];

impl Collection {
    fn of(target: &str) -> Option<&'static Self> {
        COLLECTIONS.iter().find(|collection| collection.targets.contains(&target))
    }
}

/// Every target.
fn all_targets() -> Vec<&'static str> {
    COLLECTIONS.iter().flat_map(|collection| collection.targets).copied().collect()
}

/// The longest input that is made up, in bytes.
const LONGEST_INPUT: usize = 8192;

/// How long each target runs in the smoke run, in seconds.
const SMOKE_SECONDS: u64 = 5;

/// How long a finding is made smaller, in seconds.
const MINIMISING_SECONDS: u64 = 60;

/// What to run, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Fuzz {
    /// The target, or `all`.
    #[arg(default_value = "all")]
    target: String,
    /// How long each target is run.
    #[arg(long, default_value_t = 30, value_name = "N")]
    minutes: u64,
    /// How many processes run at once: side by side for `all`, together on one target otherwise.
    #[arg(long, default_value_t = 1, value_name = "J")]
    jobs: usize,
    /// Run each target only for some seconds, from its seeds and its corpus.
    #[arg(long, conflicts_with_all = ["minutes", "replay"])]
    smoke: bool,
    /// Give the target this input once, and do nothing else.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
}

/// How the targets are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Build {
    /// To run for long.
    Fast,
    /// To be built soon.
    Soon,
}

impl Build {
    /// What cargo-fuzz is told. Several code generation units make some generic code twice where it is shared between crates, as it is
    /// without optimisation, and then the programs do not link (observed of a nightly of 2026-05).
    const fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Fast => &["--release", "--codegen-units", "16"],
            Self::Soon => &["--dev", "--codegen-units", "1"],
        }
    }

    const fn directory(self) -> &'static str {
        match self {
            Self::Fast => "release",
            Self::Soon => "debug",
        }
    }
}

/// Runs what was asked for. The exit status says whether nothing was found.
pub(crate) fn run(fuzz: &Fuzz) -> Result<ExitCode> {
    ensure!(has_nightly(), "fuzzing needs a nightly compiler: `rustup toolchain install nightly`");
    let targets = chosen(&fuzz.target)?;
    let mut steps = Steps::default();
    if let Some(input) = &fuzz.replay {
        let [target] = targets[..] else { bail!("say which target `{}` is for", input.display()) };
        return replay(&mut steps, target, input);
    }
    let (build, seconds) = if fuzz.smoke { (Build::Soon, SMOKE_SECONDS) } else { (Build::Fast, fuzz.minutes * 60) };
    if !make(&mut steps, build, &targets)? || !seed(&mut steps, &targets)? {
        return Ok(steps.finish());
    }
    let findings = run_all(build, &targets, Duration::from_secs(seconds), fuzz.jobs.max(1))?;
    Ok(if findings == 0 { steps.finish() } else { ExitCode::FAILURE })
}

/// The smoke run of all targets, as a step of a longer errand.
pub(crate) fn smoke(steps: &mut Steps) -> Result<()> {
    if !has_nightly() {
        eprintln!(
            "!!! SKIPPED: the smoke run of the fuzz targets. It needs a nightly compiler: `rustup toolchain install nightly`."
        );
        return Ok(());
    }
    if !make(steps, Build::Soon, &all_targets())? || !seed(steps, &all_targets())? {
        return Ok(());
    }
    let jobs = std::thread::available_parallelism().map_or(1, usize::from).min(2);
    if run_all(Build::Soon, &all_targets(), Duration::from_secs(SMOKE_SECONDS), jobs)? > 0 {
        steps.fail("fuzz");
    }
    Ok(())
}

fn chosen(name: &str) -> Result<Vec<&'static str>> {
    if name == "all" {
        return Ok(all_targets());
    }
    let target = all_targets().into_iter().find(|target| *target == name);
    let target = target.with_context(|| format!("there is no fuzz target `{name}`: there are {}", all_targets().join(", ")))?;
    Ok(vec![target])
}

/// A directory or file below `target/fuzz`.
fn place(what: &str, target: &str) -> PathBuf {
    target_directory().join("fuzz").join(what).join(target)
}

/// A program with nightly as its toolchain, whatever cargo has started us.
fn nightly(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(workspace()).env("RUSTUP_TOOLCHAIN", "nightly").env_remove("CARGO").env_remove("RUSTC");
    command
}

fn has_nightly() -> bool {
    let asked = nightly("rustc").arg("--version").stderr(Stdio::null()).output();
    asked.is_ok_and(|output| output.status.success() && String::from_utf8_lossy(&output.stdout).contains("nightly"))
}

/// The collections that have some of these targets.
fn collections_of(targets: &[&str]) -> impl Iterator<Item = &'static Collection> {
    COLLECTIONS.iter().filter(|collection| collection.targets.iter().any(|target| targets.contains(target)))
}

/// Builds these targets, and all that are built with them.
fn make(steps: &mut Steps, build: Build, targets: &[&str]) -> Result<bool> {
    let Some(program) = cargo_fuzz(steps)? else { return Ok(false) };
    for collection in collections_of(targets) {
        let mut command = nightly(&program);
        command.args(["fuzz", "build", "--fuzz-dir", collection.directory]).args(build.flags());
        command.arg("--target-dir").arg(target_directory().join("fuzz/build"));
        if !steps.run("fuzz targets", &mut command)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The cargo-fuzz of this machine, or else one built below the target directory, once.
fn cargo_fuzz(steps: &mut Steps) -> Result<Option<PathBuf>> {
    if crate::check::is_installed("fuzz") {
        return Ok(Some(PathBuf::from("cargo-fuzz")));
    }
    let tools = target_directory().join("tools");
    let program = tools.join("bin/cargo-fuzz");
    if !program.is_file() {
        let mut install = Command::new("cargo");
        install.args(["install", "--locked", "--quiet", "--version", CARGO_FUZZ, "cargo-fuzz", "--root"]).arg(&tools);
        if !steps.run("install cargo-fuzz", &mut install)? {
            return Ok(None);
        }
    }
    Ok(Some(program.canonicalize().context("cargo-fuzz was installed but is not there")?))
}

/// Writes the seeds, which are the built-in ones and what is in the recorded conversations.
fn seed(steps: &mut Steps, targets: &[&str]) -> Result<bool> {
    let seeds = target_directory().join("fuzz/seeds");
    if seeds.exists() {
        fs::remove_dir_all(&seeds).with_context(|| format!("cannot remove {}", seeds.display()))?;
    }
    for collection in collections_of(targets) {
        let mut command = cargo();
        command.args(["run", "--quiet", "--locked", "--package", collection.judge, "--"]).arg(&seeds);
        if collection.has_recordings {
            command.arg(workspace().join("pcap-fixtures"));
        }
        if !steps.run("seeds", &mut command)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The program of a target.
fn program(build: Build, target: &str) -> Result<PathBuf> {
    let directory = target_directory().join("fuzz/build").join(HOST);
    let program = directory.join(build.directory()).join(target);
    program.canonicalize().with_context(|| format!("`{}` was not built", program.display()))
}

/// A target's program with the limits that every run has.
fn fuzzer(build: Build, target: &str) -> Result<Command> {
    let mut command = Command::new(program(build, target)?);
    command
        .env("ASAN_OPTIONS", "detect_odr_violation=0")
        .args(["-timeout=10", "-rss_limit_mb=2048", "-malloc_limit_mb=1024"])
        .stdin(Stdio::null());
    Ok(command)
}

/// Gives a target one input.
fn replay(steps: &mut Steps, target: &str, input: &Path) -> Result<ExitCode> {
    let input = input.canonicalize().with_context(|| format!("there is no input {}", input.display()))?;
    if make(steps, Build::Fast, &[target])? {
        steps.run(&format!("replay {}", input.display()), fuzzer(Build::Fast, target)?.arg(&input))?;
    }
    Ok(steps.finish())
}

/// A target at work.
struct Running {
    target: &'static str,
    child: Child,
    log: PathBuf,
}

/// Runs every target for so long, `jobs` at once; returns how many findings there were.
fn run_all(build: Build, targets: &[&'static str], time: Duration, jobs: usize) -> Result<usize> {
    let mut waiting: Vec<&'static str> = targets.iter().rev().copied().collect();
    if targets.len() == 1 {
        waiting = vec![targets[0]; jobs];
    }
    let started = Instant::now();
    let mut running: Vec<Running> = Vec::new();
    let mut findings = 0;
    while !waiting.is_empty() || !running.is_empty() {
        while running.len() < jobs {
            let Some(target) = waiting.pop() else { break };
            running.push(start(build, target, time, running.len())?);
        }
        // Fuzzers run for seconds at least, and there is no waiting for one of several children without a signal handler.
        std::thread::sleep(Duration::from_millis(100));
        let mut going = Vec::new();
        for mut fuzzer in running {
            match fuzzer.child.try_wait().context("cannot wait for a fuzzer")? {
                None => going.push(fuzzer),
                Some(status) => findings += usize::from(!report(build, &fuzzer, status.success())?),
            }
        }
        running = going;
    }
    println!("fuzzing took {:.0} s, {findings} findings", started.elapsed().as_secs_f64());
    Ok(findings)
}

fn start(build: Build, target: &'static str, time: Duration, job: usize) -> Result<Running> {
    let directories = ["corpus", "seeds", "findings"].map(|what| place(what, target));
    for directory in directories.iter().chain([&place("logs", "")]) {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let [corpus, seeds, findings] = directories;
    let log = place("logs", &if job == 0 { format!("{target}.log") } else { format!("{target}-{job}.log") });
    let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = fuzzer(build, target)?;
    command
        .arg(format!("-max_total_time={}", time.as_secs()))
        .arg(format!("-max_len={LONGEST_INPUT}"))
        .arg("-print_final_stats=1")
        .arg(format!("-artifact_prefix={}/", findings.display()));
    let home = workspace().join(Collection::of(target).context("a target without a home")?.directory);
    let dictionary = home.join("dictionaries").join(target);
    if dictionary.is_file() {
        command.arg(format!("-dict={}", dictionary.display()));
    }
    let regressions = home.join("regressions").join(target);
    command.arg(corpus).arg(seeds);
    if regressions.is_dir() {
        command.arg(regressions);
    }
    let child = command.stdout(output.try_clone()?).stderr(output).spawn().with_context(|| format!("cannot start {target}"))?;
    Ok(Running { target, child, log })
}

/// Tells what a run has come to. Returns whether nothing was found.
fn report(build: Build, run: &Running, clean: bool) -> Result<bool> {
    let log =
        String::from_utf8_lossy(&fs::read(&run.log).with_context(|| format!("cannot read {}", run.log.display()))?).into_owned();
    let told = Told::by(&log);
    let outcome = if clean { "nothing found" } else { "FOUND SOMETHING" };
    println!("{:<15} {:>12} executions, coverage {:>6}: {outcome}", run.target, told.executions, told.coverage);
    if clean {
        return Ok(true);
    }
    let Some(input) = told.finding else {
        println!("    it ended without an input; the end of {}:", run.log.display());
        log.lines().rev().take(20).collect::<Vec<_>>().into_iter().rev().for_each(|line| println!("    {line}"));
        return Ok(false);
    };
    let input = minimise(build, run.target, Path::new(&input))?;
    if let Some(panic) = log.lines().position(|line| line.contains("panicked at")) {
        log.lines().skip(panic).take(3).for_each(|line| println!("    {line}"));
    }
    println!("    input:  {}", input.display());
    println!("    replay: cargo xtask fuzz {} --replay {}", run.target, input.display());
    let home = Collection::of(run.target).map_or("", |collection| collection.directory);
    println!("    when it is fixed, the input belongs into {home}/regressions/{}/", run.target);
    Ok(false)
}

/// Makes a finding smaller, if it is one that ends at once: what is too slow is not tried a thousand times.
fn minimise(build: Build, target: &str, input: &Path) -> Result<PathBuf> {
    let name = input.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some(hash) = name.strip_prefix("crash-") else { return Ok(input.to_owned()) };
    let smaller = input.with_file_name(format!("minimised-{hash}"));
    let mut command = fuzzer(build, target)?;
    command
        .arg("-minimize_crash=1")
        .arg(format!("-max_total_time={MINIMISING_SECONDS}"))
        .arg(format!("-exact_artifact_path={}", smaller.display()))
        .arg(input);
    // Its exit status says nothing: it ends with a crash when all is well.
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().with_context(|| format!("cannot start {target}"))?;
    Ok(if smaller.is_file() { smaller } else { input.to_owned() })
}

/// What a fuzzer has told of its run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    executions: u64,
    /// Edges of the program that were reached.
    coverage: u64,
    finding: Option<String>,
}

impl Told {
    fn by(log: &str) -> Self {
        let mut told = Self::default();
        for line in log.lines() {
            if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
                told.executions = count.trim().parse().unwrap_or(told.executions);
            } else if let Some((_, path)) = line.split_once("Test unit written to ") {
                told.finding = Some(path.trim().to_owned());
            } else if let Some((counted, rest)) = line.strip_prefix('#').and_then(|line| line.split_once(" cov: ")) {
                told.coverage = rest.split(' ').next().and_then(|edges| edges.parse().ok()).unwrap_or(told.coverage);
                let counted = counted.split(|letter: char| !letter.is_ascii_digit()).next();
                told.executions = counted.and_then(|count| count.parse().ok()).unwrap_or(told.executions);
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_fuzzer_says_of_itself_is_understood() {
        let log = "INFO: Seed: 1\n#2\tINITED cov: 90 ft: 91 corp: 1/1b exec/s: 0 rss: 40Mb\n\
                   #4096\tpulse  cov: 1234 ft: 9876 corp: 12/34b lim: 4096 exec/s: 2048 rss: 60Mb\n";
        assert_eq!(Told::by(log), Told { executions: 4096, coverage: 1234, finding: None });
        let ended = "#4096\tDONE   cov: 1234 ft: 9876\nstat::number_of_executed_units: 5000\n";
        assert_eq!(Told::by(ended), Told { executions: 5000, coverage: 1234, finding: None });
        let crashed = "thread panicked\nartifact_prefix='x/'; Test unit written to x/crash-abc\n";
        assert_eq!(Told::by(crashed).finding.as_deref(), Some("x/crash-abc"));
    }

    #[test]
    fn every_target_is_in_its_manifest() {
        for Collection { directory, targets, .. } in &COLLECTIONS {
            let manifest = fs::read_to_string(workspace().join(directory).join("Cargo.toml")).unwrap_or_default();
            assert_eq!(manifest.matches("[[bin]]").count(), targets.len(), "{directory}");
            assert!(targets.iter().all(|target| manifest.contains(&format!("name = \"{target}\""))), "{directory}");
        }
    }
}
