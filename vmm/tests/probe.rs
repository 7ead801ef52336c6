//! The probe guest on `/dev/kvm`: our machine, our devices and the engine, used by a whole guest.
//!
//! Without a usable `/dev/kvm` there is nothing to run: each test says so loudly and passes. The same steps without a machine are in
//! `simulated_probe.rs`.

#![expect(clippy::unwrap_used, reason = "what fails in a test is to be seen where it fails")]

#[path = "probe/vm.rs"]
mod vm;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use netstack::config::Config;
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
fn a_guest_with_virtio_net_gets_everything_it_asks_for() {
    let Some(vm) = Vm::new(NicKind::VirtioNet, &Config::default()) else { return };
    let servers = Servers::start().unwrap();
    expect_all_steps(&vm.run(IMAGE, &plan(NicKind::VirtioNet, &servers)));
}

#[test]
fn a_guest_with_virtio_net_that_waits_for_interrupts_gets_everything_too() {
    let Some(vm) = Vm::new(NicKind::VirtioNet, &Config::default()) else { return };
    let servers = Servers::start().unwrap();
    let lines = vm.run(IMAGE, &Plan { wait: Wait::Interrupt, ..plan(NicKind::VirtioNet, &servers) });
    expect_all_steps(&lines);
    let last = lines.iter().filter_map(|line| Report::parse(line)).next_back();
    assert!(matches!(last, Some(Report::Interrupts { nic: 1.., .. })), "the card has interrupted: {lines:#?}");
}
