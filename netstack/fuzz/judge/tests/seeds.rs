//! What must hold holds for the seeds, and for every input for which it once did not.

use std::fs;
use std::path::Path;

use netstack_judge::TARGETS;

#[test]
fn every_seed_is_judged_well() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} begins with nothing", target.name);
        for (number, seed) in seeds.iter().enumerate() {
            println!("{} seed-{number:03}", target.name);
            (target.judge)(seed);
        }
    }
}

#[test]
fn inputs_cut_short_are_judged_well() {
    for target in TARGETS {
        for seed in (target.seeds)() {
            for len in [0, 1, 2, 5, 13, 24] {
                let len = seed.len().min(len);
                (target.judge)(&seed[..len]);
            }
        }
    }
}

#[test]
fn what_was_wrong_once_is_right_now() {
    let regressions = Path::new(env!("CARGO_MANIFEST_DIR")).join("../regressions");
    for target in TARGETS {
        let Ok(directory) = fs::read_dir(regressions.join(target.name)) else { continue };
        for entry in directory {
            let path = entry.expect("a readable directory").path();
            println!("{} {}", target.name, path.display());
            (target.judge)(&fs::read(&path).expect("a readable file"));
        }
    }
}
