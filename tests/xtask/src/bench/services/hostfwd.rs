//! Many clients of a forwarded port, beside the same clients of a server on the host.

use anyhow::Result;

use super::Options;
use super::figure::{Asked, Figure};
use crate::bench::cell::{Cell, Side};
use crate::bench::load::Burst;
use crate::bench::stack::Stack;

/// Where the host listens for the guest, and where the server in the guest listens.
const FORWARDED: &str = "127.0.0.1:5297";
const SERVER: &str = "10.0.2.15:5297";
/// The server on the host that it is compared with.
const PLAIN: &str = "127.0.0.1:5296";

/// A ratio that is still good.
const AT_MOST: Asked = Asked::AtMost(3.0);

/// Measures once: first the one, then the other.
pub(super) fn measure(options: &Options) -> Result<Vec<Figure>> {
    let forward = format!("hostfwd=tcp:{FORWARDED}-{SERVER}");
    let mut cell = Cell::with(Stack::Slipway, &["--user".to_owned(), forward], 1500, &options.congestion_control)?;
    cell.serve(Side::Guest, SERVER)?;
    cell.serve(Side::Host, PLAIN)?;
    let burst = |to: &str| -> Result<Burst> {
        let (connections, at_once) = (options.connections.to_string(), options.at_once.to_string());
        let words = ["burst", "--connections", &connections, "--at-once", &at_once, "--to", to];
        Ok(serde_json::from_str(&cell.load_on(Side::Host, &words)?)?)
    };
    // Both are warm: each has served some before.
    burst(PLAIN)?;
    burst(FORWARDED)?;
    let plain = burst(PLAIN)?;
    let forwarded = burst(FORWARDED)?;
    let beside = |what, ours, other| Figure::beside(what, "µs", ours, ("accept loop", other), AT_MOST);
    Ok(vec![
        beside("connected, p50", forwarded.connected.p50, plain.connected.p50),
        beside("connected, p99", forwarded.connected.p99, plain.connected.p99),
        beside("answered, p50", forwarded.answered.p50, plain.answered.p50),
        beside("answered, p99", forwarded.answered.p99, plain.answered.p99),
        Figure::beside("rate", "connections/s", forwarded.rate(), ("accept loop", plain.rate()), Asked::Nothing),
        Figure::alone("answered", "connections", forwarded.answered.rounds as f64, Asked::AtLeast(f64::from(options.connections))),
        Figure::alone("lost or refused", "connections", f64::from(forwarded.failed), Asked::AtMost(0.0)),
    ])
}
