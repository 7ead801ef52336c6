//! The probe guest on `/dev/kvm`: our machine, our devices and the engine, used by a whole guest.
//!
//! Without a usable `/dev/kvm` there is nothing to run: each test says so loudly and passes. The same steps without a machine are in
//! `simulated_probe.rs`.

#![expect(clippy::unwrap_used, reason = "what fails in a test is to be seen where it fails")]

#[path = "probe/echo.rs"]
mod echo;
#[path = "probe/elf.rs"]
mod elf;
#[path = "probe/vm.rs"]
mod vm;

use std::net::{Ipv4Addr, SocketAddrV4};

use netstack::config::Config;
use vmm::machine::{Ending, Fault};
use vmm::probe::{IMAGE, NicKind, Plan, Report, Servers, Wait};

use self::vm::Vm;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const NAME: &str = "gateway.slipway.internal";

/// Enough for every buffer and ring on the way to be used many times over.
const BYTES: u64 = (16 << 20) + 5;

/// All steps, by a card of this kind.
fn plan(nic: NicKind, servers: &Servers) -> Plan<'static> {
    Plan {
        nic,
        ping: Some(GATEWAY),
        name: Some(NAME),
        up: Some(SocketAddrV4::new(GATEWAY, servers.up_port())),
        down: Some(SocketAddrV4::new(GATEWAY, servers.down_port())),
        bytes: BYTES,
        ..Plan::default()
    }
}

/// What the guest has said, if all of it is good.
fn expect_all_steps(lines: &[String]) {
    let reports: Vec<_> = lines.iter().filter_map(|line| Report::parse(line)).collect();
    let [Report::Ready { .. }, lease, ping, name, Report::Up(up), Report::Down(down), Report::Done, ..] = reports[..] else {
        panic!("the guest has said something else: {lines:#?}");
    };
    let address = Ipv4Addr::new(10, 0, 2, 15);
    assert!(
        matches!(lease, Report::Lease { address: leased, prefix: 24, router: Some(GATEWAY), .. } if leased == address),
        "{lease}"
    );
    assert!(matches!(ping, Report::Ping { to: GATEWAY, .. }), "{ping}");
    assert!(matches!(name, Report::Name { name: NAME, address: GATEWAY, .. }), "{name}");
    assert_eq!((up.bytes, down.bytes), (BYTES, BYTES));
}

#[test]
fn a_guest_gets_everything_it_asks_for_by_messages_of_virtio_net() {
    everything_by_interrupts(NicKind::VirtioNet);
}

#[test]
fn a_guest_gets_everything_it_asks_for_by_the_line_of_an_e1000() {
    everything_by_interrupts(NicKind::E1000);
}

fn everything_by_interrupts(nic: NicKind) {
    let Some(vm) = Vm::new(nic, &Config::default()) else { return };
    let servers = Servers::start().unwrap();
    let lines = vm.run(IMAGE, &plan(nic, &servers));
    expect_all_steps(&lines);
    let last = lines.iter().filter_map(|line| Report::parse(line)).next_back();
    assert!(matches!(last, Some(Report::Interrupts { nic: 1.., .. })), "the card has interrupted: {lines:#?}");
}

#[test]
fn a_guest_that_polls_virtio_net_gets_everything_too() {
    everything_by_polling(NicKind::VirtioNet);
}

#[test]
fn a_guest_that_polls_an_e1000_gets_everything_too() {
    everything_by_polling(NicKind::E1000);
}

fn everything_by_polling(nic: NicKind) {
    let Some(vm) = Vm::new(nic, &Config::default()) else { return };
    let servers = Servers::start().unwrap();
    expect_all_steps(&vm.run(IMAGE, &Plan { wait: Wait::Poll, ..plan(nic, &servers) }));
}

#[test]
fn a_forwarded_connection_reaches_a_guest_with_virtio_net() {
    reaches_the_guest(NicKind::VirtioNet);
}

#[test]
fn a_forwarded_connection_reaches_a_guest_with_an_e1000() {
    reaches_the_guest(NicKind::E1000);
}

fn reaches_the_guest(nic: NicKind) {
    let (config, host_port) = echo::forwarding();
    let Some(vm) = Vm::new(nic, &config) else { return };
    let mut client = None;
    let lines = vm.run_with(IMAGE, &Plan { nic, serve: Some(echo::PORT), ..Plan::default() }, |line| {
        if let Some(Report::Serving { .. }) = Report::parse(line) {
            client = Some(echo::client(host_port));
        }
    });
    client.unwrap_or_else(|| panic!("the guest does not serve: {lines:#?}")).join().unwrap();
    let served =
        lines.iter().any(|line| matches!(Report::parse(line), Some(Report::Served(moved)) if moved.bytes == echo::BYTES as u64));
    assert!(served, "{lines:#?}");
}

#[test]
fn a_driver_that_others_have_written_gets_everything_too() {
    let Some(vm) = Vm::new(NicKind::VirtioNet, &Config::default()) else { return };
    let servers = Servers::start().unwrap();
    expect_all_steps(&vm.run(probe_test_image::IMAGE, &plan(NicKind::Auto, &servers)));
}

#[test]
fn a_card_that_is_not_there_and_a_word_that_means_nothing_are_reported() {
    let Some(vm) = Vm::new(NicKind::VirtioNet, &Config::default()) else { return };
    let lines = vm.run(IMAGE, &Plan { nic: NicKind::E1000, ..Plan::default() });
    let reports: Vec<_> = lines.iter().filter_map(|line| Report::parse(line)).collect();
    assert!(matches!(reports[..], [Report::Failed { step: "nic", .. }, Report::Done]), "{lines:#?}");

    let Some(vm) = Vm::new(NicKind::VirtioNet, &Config::default()) else { return };
    let lines = vm.run(IMAGE, &Plan { name: Some("a=b up=nowhere"), ..Plan::default() });
    let reports: Vec<_> = lines.iter().filter_map(|line| Report::parse(line)).collect();
    assert!(matches!(reports[..], [Report::Failed { step: "plan", why: "up=nowhere" }, Report::Done]), "{lines:#?}");
}

#[test]
fn an_instruction_that_kvm_cannot_emulate_is_named() {
    /// Where the code is loaded.
    const START: u32 = 0x20_0000;
    /// `popcnt %eax, %eax`, which works on processors and which KVM's interpreter lacks; then soft off by the sleep control register.
    const CODE: &[u8] = &[0xf3, 0x0f, 0xb8, 0xc0, 0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, 0xf4, 0xeb, 0xfd];
    let Some(vm) = Vm::new(NicKind::VirtioNet, &Config::default()) else { return };
    match vm.end(elf::with_code(START, CODE).leak()) {
        Ending::Failed(Fault::Internal { cpu: 0, suberror: 1, rip, bytes }) => {
            assert_eq!(rip, Some(u64::from(START)));
            assert!(bytes.starts_with(&CODE[..4]), "{bytes:02x?}");
        }
        // A processor with virtualization in hardware.
        Ending::PowerOff => {}
        other => panic!("{other:?}"),
    }
}
