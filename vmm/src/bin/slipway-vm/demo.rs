//! `slipway-vm demo`: the proof that all of this works on this machine, with nothing from outside it.
//!
//! First a guest in a network namespace, which is all that `slipway demo` shows; then the built-in guest in a virtual machine, once with
//! each network card. Where no virtual machine can run, the built-in guest's body runs within this process instead: see [`guest`].

mod guest;

use netstack::config::Config;
use vmm::probe::NicKind;

use crate::check;
use crate::cli::DemoArgs;
use netstack::program::failure::{Failure, plain};
use netstack::program::report::{Part, Report, Step};

/// What the first part is called where there is none.
const NAMESPACE: &str = "a guest in a network namespace";

/// Shows it all; 1 if something has failed.
pub(crate) fn run(args: &DemoArgs) -> Result<u8, Failure> {
    let mut report = Report::default();
    // First, while this process has a single thread.
    report.parts.push(namespace(args.size));
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

/// What a guest in a network namespace does, or why there is none.
fn namespace(size: u32) -> Part {
    netstack::program::demo::part(size, Config::default().mtu)
        .unwrap_or_else(|why| Part { title: NAMESPACE, steps: vec![Step::skipped("namespaces", why.to_string())] })
}
