//! Guests of a few instructions on `/dev/kvm`: each shows that one thing of the machine works as it does on hardware.
//!
//! They run in ring 0, so they use only what KVM's interpreter knows too: some hosts have no other. Without a usable `/dev/kvm` there is
//! nothing to run: each test says so loudly and passes.

#![expect(clippy::unwrap_used, reason = "what fails in a test is to be seen where it fails")]

#[path = "assembly/card.rs"]
mod card;
#[path = "assembly/guests.rs"]
mod guests;
#[path = "assembly/vm.rs"]
mod vm;

use vmm::irq::MsiMessage;
use vmm::machine::{Ending, Fault};

use crate::card::Card;
use crate::vm::Vm;

/// Where the guests' handler for the interrupts of a test is in their table of interrupts.
const VECTOR: u8 = 0x40;

#[test]
fn a_guest_speaks_and_turns_itself_off() {
    let Some(vm) = Vm::new() else { return };
    let mut running = vm.start(guests::hello());
    running.expect(b"hello");
    assert_eq!(running.ending(), Ending::PowerOff);
}

#[test]
fn a_guest_reads_what_was_typed() {
    let Some(vm) = Vm::new() else { return };
    let mut running = vm.start(guests::echo());
    running.expect(b"?");
    assert_eq!(running.serial.receive(b"x"), 1);
    running.expect(b"x");
    assert_eq!(running.ending(), Ending::PowerOff);
}

#[test]
fn a_reset_is_told_from_turning_off() {
    for (guest, what) in [(guests::reset_register(), "reset register"), (guests::keyboard_reset(), "keyboard controller")] {
        let Some(vm) = Vm::new() else { return };
        assert_eq!(vm.start(guest).ending(), Ending::Reset, "{what}");
    }
}

#[test]
fn a_fault_without_handlers_is_a_triple_fault() {
    let Some(vm) = Vm::new() else { return };
    assert_eq!(vm.start(guests::crash()).ending(), Ending::TripleFault);
}

#[test]
fn an_instruction_that_kvm_cannot_emulate_is_named() {
    let Some(vm) = Vm::new() else { return };
    let ending = vm.start(guests::vector()).ending();
    // On real hardware the guest gets past it and turns itself off.
    if std::path::Path::new("/sys/module/kvm_pvm").exists() {
        let Ending::Failed(fault) = ending else { panic!("{ending:?}") };
        let Fault::Internal { cpu: 0, suberror: 1, rip: Some(rip), bytes } = &fault else { panic!("{fault}") };
        assert_eq!((*rip, &bytes[..3]), (vm::CODE, &[0x0f, 0x57, 0xc0][..]), "{fault}");
    } else {
        assert_eq!(ending, Ending::PowerOff);
    }
}

#[test]
fn a_machine_is_stopped_from_outside_while_its_guest_spins_or_halts() {
    for guest in [guests::spin(), guests::halt()] {
        let Some(vm) = Vm::new() else { return };
        let mut running = vm.start(guest);
        running.expect(b"!");
        running.stop.end(Ending::Stopped);
        assert_eq!(running.ending(), Ending::Stopped);
    }
}

#[test]
fn a_message_wakes_a_halted_processor() {
    let Some(vm) = Vm::new() else { return };
    let plug = vm.machine.plug(1).unwrap();
    plug.msi[0].program(MsiMessage { address: 0xfee0_0000, data: u32::from(VECTOR) });
    vm.handler(VECTOR, guests::HANDLER);
    let mut running = vm.start(guests::wait_for_interrupts());
    for _ in 0..3 {
        // The guest says that it is about to halt, and then that it was interrupted.
        running.expect(b".");
        plug.msi[0].signal();
        running.expect(b"i");
    }
    assert_eq!(running.ending(), Ending::PowerOff);
}

#[test]
fn a_message_that_was_not_programmed_goes_nowhere() {
    let Some(vm) = Vm::new() else { return };
    let plug = vm.machine.plug(2).unwrap();
    plug.msi[1].program(MsiMessage { address: 0xfee0_0000, data: u32::from(VECTOR) });
    vm.handler(VECTOR, guests::HANDLER);
    let mut running = vm.start(guests::wait_for_interrupts());
    for _ in 0..3 {
        running.expect(b".");
        plug.msi[0].signal();
        plug.msi[1].signal();
        running.expect(b"i");
    }
    assert_eq!(running.ending(), Ending::PowerOff);
}

#[test]
fn a_doorbell_rings_without_the_device_being_asked() {
    let Some(mut vm) = Vm::new() else { return };
    let plug = vm.machine.plug(0).unwrap();
    let (card, seen) = Card::new(plug.intx.clone());
    vm.machine.attach(&plug, Box::new(card)).unwrap();
    // It turns the card's memory on by the configuration ports, rings twice, and writes to an ordinary register.
    let running = vm.start(guests::ring());
    assert_eq!(running.ending(), Ending::PowerOff);
    assert_eq!(seen.bell.read().unwrap(), 2);
    assert_eq!(*seen.writes.lock().unwrap(), [(card::REGISTER, 0x1234)]);
}

#[test]
fn a_line_interrupts_until_the_device_is_satisfied() {
    let Some(mut vm) = Vm::new() else { return };
    let plug = vm.machine.plug(0).unwrap();
    let (card, seen) = Card::new(plug.intx.clone());
    vm.machine.attach(&plug, Box::new(card)).unwrap();
    vm.handler(VECTOR, guests::LEVEL_HANDLER);
    // It routes the pin of slot 1 to the vector, level-triggered, and lets the card assert its line. The handler satisfies the card only
    // the third time.
    let mut running = vm.start(guests::level());
    running.expect(b"iii.");
    assert_eq!(running.ending(), Ending::PowerOff);
    let writes = seen.writes.lock().unwrap();
    assert_eq!(*writes, [(card::ASSERT, 1), (card::ASSERT, 0)]);
}
