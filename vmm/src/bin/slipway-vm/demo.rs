//! `slipway-vm demo`: the proof that all of this works on this machine, with nothing from outside it.
//!
//! First a guest in a network namespace, which is the program `slipway`'s own demo; then the built-in guest in a virtual machine, once with
//! each network card. Where no virtual machine can run, the built-in guest's body runs within this process instead: see [`guest`].

mod guest;

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::Deserialize;
use vmm::probe::NicKind;

use crate::check;
use crate::cli::DemoArgs;
use crate::failure::{Failure, plain};
use crate::report::{Outcome, Part, Report, Step};

/// The program that shows the first part.
const SLIPWAY: &str = "slipway";

/// What that part is called.
const NAMESPACE: &str = "a guest in a network namespace";

/// Shows it all; 1 if something has failed.
pub(crate) fn run(args: &DemoArgs) -> Result<u8, Failure> {
    let mut report = Report::default();
    report.parts.push(Part { title: NAMESPACE, steps: namespace(args.size) });
    let bytes = u64::from(args.size) << 20;
    match check::open_kvm() {
        Ok(()) => {
            for (title, nic) in
                [("a virtual machine with virtio-net", NicKind::VirtioNet), ("a virtual machine with an e1000", NicKind::E1000)]
            {
                report.parts.push(Part { title, steps: guest::in_machine(nic, bytes)? });
            }
        }
        Err(err) => {
            let why = format!("/dev/kvm cannot be opened: {}.", plain(&err.to_string()));
            let remedy = check::remedy_for_kvm(&err).map(|remedy| format!(" {remedy}")).unwrap_or_default();
            report.parts.push(Part { title: "virtual machines", steps: vec![Step::skipped("KVM", format!("{why}{remedy}"))] });
            report.parts.push(Part { title: "the same guest without a machine", steps: guest::simulated(bytes)? });
        }
    }
    report.print(args.json)?;
    Ok(u8::from(!report.passed()))
}

/// What `slipway demo` finds. It is a program of its own, since it must have a single thread when it makes its namespaces.
fn namespace(size: u32) -> Vec<Step> {
    #[derive(Deserialize)]
    struct Told {
        steps: Vec<Step>,
    }
    let Some(program) = slipway() else {
        let why = "the program `slipway` is neither beside this one nor in the search path: `cargo build --release` builds both";
        return vec![Step::skipped("slipway demo", why.to_owned())];
    };
    let size = size.to_string();
    let ran = Command::new(&program).args(["demo", "--json", "--size", &size]).stdin(Stdio::null()).output();
    let ran = match ran {
        Ok(ran) => ran,
        Err(err) => return vec![failed(format!("{} cannot be started: {}", program.display(), plain(&err.to_string())))],
    };
    match serde_json::from_slice::<Told>(&ran.stdout) {
        Ok(told) if !told.steps.is_empty() => told.steps,
        // It says itself why it has not even begun: what this machine does not allow.
        _ => {
            let said = String::from_utf8_lossy(&ran.stderr);
            vec![Step::skipped("slipway demo", said.trim().trim_start_matches("slipway: ").to_owned())]
        }
    }
}

fn failed(why: String) -> Step {
    Step { name: "slipway demo".to_owned(), outcome: Outcome::Failed, detail: why, seconds: 0.0 }
}

/// The program `slipway`: where this one is, or where programs are.
fn slipway() -> Option<PathBuf> {
    let beside = env::current_exe().ok().and_then(|ourselves| Some(ourselves.parent()?.join(SLIPWAY)));
    let path = env::var_os("PATH").unwrap_or_default();
    beside.into_iter().chain(env::split_paths(&path).map(|directory| directory.join(SLIPWAY))).find(|program| program.is_file())
}
