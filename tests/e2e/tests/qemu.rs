//! An unmodified QEMU with a stock Debian kernel, on `slipway serve`.

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

use std::process::{Command, Stdio};
use std::thread;

use e2e::LONG_PATIENCE;
use e2e::host::http::Http;
use e2e::host::{LOOPBACK, listen, seen_by_guests};
use e2e::initrd::Initrd;
use e2e::pattern;
use e2e::qemu::{Card, Machine, Serving};
use e2e::wait::accept;

const MAC: &str = "52:54:00:12:34:56";
const LEN: u64 = 8 << 20;

#[test]
fn a_guest_with_virtio_net_uses_the_network() {
    uses_the_network(Card::Virtio);
}

#[test]
fn a_guest_with_e1000_uses_the_network() {
    uses_the_network(Card::E1000);
}

fn uses_the_network(card: Card) {
    let mut serving = Serving::start(None, &["port"]);
    let initrd = Initrd::with_modules(card.modules());
    let mut guest = Machine::start(&initrd, card, MAC, &serving.socket("port")).booted();
    assert_eq!(guest.lease(), "10.0.2.15");
    guest.succeed("ping -c 2 10.0.2.2");
    let told = guest.succeed("nslookup host.slipway.internal 10.0.2.3");
    assert!(told.contains("10.0.2.2"), "{told}");

    let server = seen_by_guests(Http::at(LOOPBACK).address);
    let down = format!("wget -q -O /tmp/data http://{server}/{LEN} && md5sum </tmp/data");
    assert_eq!(guest.run_within(LONG_PATIENCE, &down).success(), md5_of_pattern(LEN));

    let (listener, address) = listen(LOOPBACK);
    let host = thread::spawn(move || pattern::check(accept(&listener), None));
    let address = seen_by_guests(address);
    guest.run_within(LONG_PATIENCE, &format!("nc {} {} </tmp/data", address.ip(), address.port())).success();
    assert_eq!(host.join().unwrap().unwrap(), LEN);
    assert!(serving.is_alive(), "{}", serving.said());
}

#[test]
fn two_guests_have_addresses_of_their_own_and_reach_each_other() {
    let serving = Serving::start(None, &["one", "two"]);
    let initrd = Initrd::with_modules(Card::Virtio.modules());
    let one = Machine::start(&initrd, Card::Virtio, "52:54:00:00:00:01", &serving.socket("one"));
    let two = Machine::start(&initrd, Card::Virtio, "52:54:00:00:00:02", &serving.socket("two"));
    let (mut one, mut two) = (one.booted(), two.booted());
    let (address_of_one, address_of_two) = (one.lease(), two.lease());
    assert_ne!(address_of_one, address_of_two);
    one.succeed(&format!("ping -c 2 {address_of_two}"));
    two.succeed(&format!("ping -c 2 {address_of_one}"));
    two.succeed("ping -c 1 10.0.2.2");
}

#[test]
fn a_guest_that_was_switched_off_may_come_back() {
    let mut serving = Serving::start(None, &["port"]);
    let initrd = Initrd::with_modules(Card::Virtio.modules());
    let mut guest = Machine::start(&initrd, Card::Virtio, MAC, &serving.socket("port")).booted();
    let address = guest.lease();
    guest.unplug();
    assert!(serving.is_alive(), "{}", serving.said());
    let mut guest = Machine::start(&initrd, Card::Virtio, MAC, &serving.socket("port")).booted();
    assert_eq!(guest.lease(), address, "the same station gets the same address");
    guest.succeed("ping -c 1 10.0.2.2");
}

fn md5_of_pattern(len: u64) -> String {
    let mut md5sum = Command::new("md5sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    pattern::write(md5sum.stdin.take().unwrap(), len).unwrap();
    String::from_utf8(md5sum.wait_with_output().unwrap().stdout).unwrap().trim().to_owned()
}
