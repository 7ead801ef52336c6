//! What must hold holds for the seeds, for what is made of them, and for every input for which it once did not.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use vmm_judge::{TARGETS, Target, e1000_mmio, pci_config, virtio_net_queue};

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

/// Seeds of a target, one after the other, with some bytes of them changed and some that are made up.
fn scripts(seeds: fn() -> Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        (prop::sample::select(seeds()), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)).prop_map(
            |(mut seed, changes)| {
                for (place, byte) in changes {
                    let place = place.index(seed.len());
                    seed[place] = byte;
                }
                seed
            }
        ),
        prop::collection::vec(any::<u8>(), 0..200),
    ];
    prop::collection::vec(part, 1..6).prop_map(|parts| parts.concat())
}

fn judge(target: &str, script: &[u8]) {
    let target: Target = TARGETS.into_iter().find(|known| known.name == target).expect("a target");
    (target.judge)(script);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_driver_of_a_virtio_card_gets_out_of_its_memory(script in scripts(virtio_net_queue::seeds)) {
        judge("virtio_net_queue", &script);
    }

    #[test]
    fn no_driver_of_an_e1000_gets_out_of_its_memory(script in scripts(e1000_mmio::seeds)) {
        judge("e1000_mmio", &script);
    }

    #[test]
    fn no_access_makes_a_function_another(script in scripts(pci_config::seeds)) {
        judge("pci_config", &script);
    }
}
