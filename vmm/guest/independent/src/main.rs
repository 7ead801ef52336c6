//! The probe guest over the `virtio-drivers` crate: our virtio-net device held against a driver that we have not written.
//!
//! The body and the machine are those of the probe guest. It is for compatibility, not for speed: the driver touches two registers
//! whenever it rings a doorbell. As an image (`--cfg probe_image`) it boots; as an ordinary program it only says that it does not.

#![cfg_attr(probe_image, no_std, no_main)]

#[cfg(probe_image)]
extern crate alloc;

#[cfg(probe_image)]
mod card;

#[cfg(probe_image)]
mod image {
    use probe_body::plan::{Plan, Wait};
    use probe_body::report::Report;
    use probe_machine::platform::Machine;
    use probe_machine::start::Start;

    use crate::card::VirtioDriversNet;

    probe_machine::entry!(run);

    fn run(start: &Start) -> bool {
        let plan = Plan::parse(start.command_line).map(|plan| Plan { wait: Wait::Poll, ..plan });
        let mut machine = Machine::new(&plan.unwrap_or_default());
        let failed = match (plan, VirtioDriversNet::find()) {
            (Ok(plan), Ok(nic)) => {
                let began = machine.began(start);
                return probe_body::run(&plan, nic, &mut machine, began);
            }
            (Err(error), _) => Report::Failed { step: "plan", why: error.0 },
            (_, Err(why)) => Report::Failed { step: "nic", why },
        };
        machine.say(&failed);
        machine.say(&Report::Done);
        false
    }
}

#[cfg(not(probe_image))]
fn main() -> std::process::ExitCode {
    eprintln!("error: this program is a guest, which tests build as an image and boot.");
    std::process::ExitCode::from(2)
}
