//! Runs seeds on several threads until one fails.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::panic::PanicHookInfo;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use netstack::sim::plan::Plan;
use netstack::sim::run::{Failure, Report, catch};

/// What a search has come to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) seeds: u64,
    pub(crate) took: Duration,
    pub(crate) sum: Report,
    /// What the stacks have counted, in all runs.
    pub(crate) counters: BTreeMap<&'static str, u64>,
    /// The least that was said each way in any run.
    pub(crate) least: (u64, u64),
    /// The first seed that has failed, how, and where.
    pub(crate) failure: Option<(u64, Failure)>,
}

thread_local! {
    /// Where the last panic of this thread was.
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps panics from being printed: here, each is a result.
pub(crate) fn silence_panics() {
    std::panic::set_hook(Box::new(|info: &PanicHookInfo<'_>| {
        let place = info.location().map_or_else(String::new, ToString::to_string);
        PLACE.with_borrow_mut(|last| *last = place);
    }));
}

/// Runs a plan. The words of a failure tell where it was noticed.
pub(crate) fn attempt(plan: &Plan) -> Result<Report, Failure> {
    catch(plan).map_err(|Failure(words)| Failure(PLACE.with_borrow(|place| format!("{words} ({place})"))))
}

/// Runs all seeds of a range, or until one fails. Each thread begins with `prepare`.
pub(crate) fn seeds(range: Range<u64>, jobs: usize, prepare: impl Fn() + Sync) -> Outcome {
    let started = Instant::now();
    let total = range.end - range.start;
    let next = AtomicU64::new(range.start);
    let stop = AtomicBool::new(false);
    let outcome = Mutex::new(Outcome {
        seeds: 0,
        took: Duration::ZERO,
        sum: Report::default(),
        counters: BTreeMap::new(),
        least: (u64::MAX, u64::MAX),
        failure: None,
    });
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                prepare();
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= range.end {
                        break;
                    }
                    let result = attempt(&Plan::of(seed));
                    let Ok(mut outcome) = outcome.lock() else { break };
                    match result {
                        Ok(report) => outcome.add(&report),
                        Err(failure) => {
                            stop.store(true, Ordering::Relaxed);
                            if outcome.failure.as_ref().is_none_or(|(other, _)| seed < *other) {
                                outcome.failure = Some((seed, failure));
                            }
                        }
                    }
                    show_progress(outcome.seeds, total, started);
                }
            });
        }
    });
    let mut outcome = outcome.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    outcome.took = started.elapsed();
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    outcome
}

impl Outcome {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.sum.up += report.up;
        self.sum.down += report.down;
        self.sum.complete += report.complete;
        self.sum.cut += report.cut;
        self.sum.echoes += report.echoes;
        self.sum.time += report.time;
        self.sum.turns += report.turns;
        for (name, value) in report.counters.iter() {
            *self.counters.entry(name).or_default() += value;
        }
        self.least = (self.least.0.min(report.up), self.least.1.min(report.down));
    }
}

fn show_progress(done: u64, total: u64, started: Instant) {
    if done.is_multiple_of(20) && std::io::stderr().is_terminal() {
        let rate = done as f64 / started.elapsed().as_secs_f64();
        eprint!("\r{done} of {total} seeds, {rate:.0}/s\x1b[K");
        let _ = std::io::stderr().flush();
    }
}
