//! The probe guest's body within this process: what it does on a virtual machine, done without one.

#![expect(clippy::unwrap_used, reason = "what fails in a test is to be seen where it fails")]

#[path = "probe/echo.rs"]
mod echo;

use std::net::{Ipv4Addr, SocketAddrV4};

use netstack::config::Config;
use netstack::frame::Offloads;
use vmm::probe::{Plan, Report, Servers, simulate};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const BYTES: u64 = (8 << 20) + 5;

/// Runs the plan and returns the lines that the guest would have written.
fn lines(config: &Config, offloads: Offloads, plan: &Plan<'_>) -> (bool, Vec<String>) {
    let mut lines = Vec::new();
    let succeeded = simulate(config, offloads, plan, |report| lines.push(report.to_string())).unwrap();
    (succeeded, lines)
}

#[test]
fn every_step_succeeds_with_and_without_offloads() {
    let servers = Servers::start().unwrap();
    let plan = Plan {
        ping: Some(GATEWAY),
        name: Some("gateway.slipway.internal"),
        up: Some(SocketAddrV4::new(GATEWAY, servers.up_port())),
        down: Some(SocketAddrV4::new(GATEWAY, servers.down_port())),
        bytes: BYTES,
        ..Plan::default()
    };
    for offloads in [Offloads::NONE, Offloads::ALL] {
        let (succeeded, lines) = lines(&Config::default(), offloads, &plan);
        assert!(succeeded, "{lines:#?}");
        let reports: Vec<_> = lines.iter().map(|line| Report::parse(line).unwrap()).collect();
        let [Report::Ready { .. }, lease, ping, name, Report::Up(up), Report::Down(down), Report::Done] = reports[..] else {
            panic!("the guest has said something else: {lines:#?}");
        };
        assert!(matches!(lease, Report::Lease { prefix: 24, router: Some(GATEWAY), .. }), "{lease}");
        assert!(matches!(ping, Report::Ping { to: GATEWAY, .. }), "{ping}");
        assert!(matches!(name, Report::Name { address: GATEWAY, .. }), "{name}");
        assert_eq!((up.bytes, down.bytes), (BYTES, BYTES));
    }
}

#[test]
fn a_forwarded_connection_reaches_the_guest_and_comes_back() {
    let (config, host_port) = echo::forwarding();
    let plan = Plan { serve: Some(echo::PORT), ..Plan::default() };
    let (mut client, mut served) = (None, None);
    let succeeded = simulate(&config, Offloads::ALL, &plan, |report| match report {
        Report::Serving { .. } => client = Some(echo::client(host_port)),
        Report::Served(moved) => served = Some(moved.bytes),
        _ => {}
    });
    assert!(succeeded.unwrap());
    client.unwrap().join().unwrap();
    assert_eq!(served, Some(echo::BYTES as u64));
}

#[test]
fn a_step_that_fails_is_reported_and_the_others_are_done() {
    let closed = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let plan = Plan {
        name: Some("nobody.slipway.internal"),
        up: Some(SocketAddrV4::new(GATEWAY, closed)),
        ping: Some(GATEWAY),
        bytes: 1000,
        ..Plan::default()
    };
    let (succeeded, lines) = lines(&Config::default(), Offloads::ALL, &plan);
    assert!(!succeeded);
    let is_failure =
        |line: &str, step: &str| matches!(Report::parse(line), Some(Report::Failed { step: failed, .. }) if failed == step);
    let failed = |step: &str| lines.iter().any(|line| is_failure(line, step));
    assert!(failed("name") && failed("up") && !failed("ping"), "{lines:#?}");
    assert_eq!(Report::parse(lines.last().unwrap()), Some(Report::Done));
}
