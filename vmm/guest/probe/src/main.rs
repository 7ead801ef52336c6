//! The built-in probe guest: the body on the bare machine, over drivers of our own.
//!
//! As an image (`--cfg probe_image`, see `vmm/build.rs`) it boots; as an ordinary program it only says that it does not.

#![cfg_attr(probe_image, no_std, no_main)]

#[cfg(probe_image)]
mod image {
    use probe_body::card::Nic;
    use probe_body::plan::{NicKind, Plan, Wait};
    use probe_body::report::Report;
    use probe_machine::e1000::E1000;
    use probe_machine::interrupt::Interrupts;
    use probe_machine::platform::Machine;
    use probe_machine::start::Start;
    use probe_machine::virtio_net::VirtioNet;

    probe_machine::entry!(run);

    fn run(start: &Start) -> bool {
        let plan = Plan::parse(start.command_line);
        let mut machine = Machine::new(&plan.unwrap_or_default());
        let plan = match plan {
            Ok(plan) => plan,
            Err(error) => return fail(&mut machine, "plan", error.0),
        };
        let interrupts = plan.wait == Wait::Interrupt;
        if plan.nic != NicKind::E1000 {
            match VirtioNet::find(interrupts) {
                Ok(Some(nic)) => return follow(&plan, nic, &mut machine, start),
                Ok(None) => {}
                Err(why) => return fail(&mut machine, "nic", why),
            }
        }
        if plan.nic != NicKind::VirtioNet {
            match E1000::find(interrupts) {
                Ok(Some(nic)) => return follow(&plan, nic, &mut machine, start),
                Ok(None) => {}
                Err(why) => return fail(&mut machine, "nic", why),
            }
        }
        fail(&mut machine, "nic", "the machine has no such card")
    }

    fn follow<N: Nic + Interrupts>(plan: &Plan<'_>, nic: N, machine: &mut Machine, start: &Start) -> bool {
        let began = machine.began(start);
        probe_body::run(plan, nic, machine, began)
    }

    fn fail(machine: &mut Machine, step: &str, why: &str) -> bool {
        machine.say(&Report::Failed { step, why });
        machine.say(&Report::Done);
        false
    }
}

#[cfg(not(probe_image))]
fn main() -> std::process::ExitCode {
    eprintln!("error: this program is a guest. It is built into slipway-vm; `slipway-vm demo` runs it.");
    std::process::ExitCode::from(2)
}
