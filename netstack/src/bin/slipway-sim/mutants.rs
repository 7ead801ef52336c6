//! Plants one bug after the other, and looks whether the simulation finds it.

use std::ops::Range;
use std::process::ExitCode;

use netstack::mutants::{Mutant, plant};

use crate::search;

/// Looks for each bug in the seeds of a range. The last line is that of a test harness: a bug that is found is a test that has passed.
pub(crate) fn all(range: &Range<u64>, jobs: usize) -> ExitCode {
    let mut found = 0;
    for mutant in Mutant::ALL {
        let outcome = search::seeds(range.clone(), jobs, || plant(Some(*mutant)));
        let (name, seconds) = (mutant.name(), outcome.took.as_secs_f64());
        match outcome.failure {
            Some((seed, failure)) => {
                found += 1;
                println!("{name}: found at seed {seed} after {seconds:.1} s: {failure}");
            }
            None => println!("{name}: NOT FOUND in {} seeds, {seconds:.1} s", outcome.seeds),
        }
    }
    let missed = Mutant::ALL.len() - found;
    println!("test result: {}. {found} passed; {missed} failed", if missed == 0 { "ok" } else { "FAILED" });
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
