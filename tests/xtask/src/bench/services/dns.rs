//! A name that the forwarder has in its cache, beside the same question to the server that it had it from.
//!
//! One client program asks both, one question at a time: in the guest the forwarder at 10.0.2.3, through the interface, the engine and
//! back; on the host hickory's own server, over loopback. hickory's server has the name in memory too.

use anyhow::Result;

use super::Options;
use super::figure::{Asked, Figure};
use crate::bench::cell::{Cell, Side};
use crate::bench::load::Latency;
use crate::bench::stack::Stack;

/// Where hickory's server listens on the host.
const UPSTREAM: &str = "127.0.0.1:5295";
/// Where guests find the forwarder.
const FORWARDER: [(&str, &str); 2] = [("p50", "10.0.2.3:53"), ("p50 over IPv6", "[fec0::3]:53")];

/// A ratio that is still good.
const AT_MOST: Asked = Asked::AtMost(2.0);

/// Measures once: the server, then the forwarder.
pub(super) fn measure(options: &Options) -> Result<Vec<Figure>> {
    let upstream = format!("dns-server={UPSTREAM}");
    let mut cell = Cell::with(Stack::Slipway, &["--user".to_owned(), upstream], 1500, &options.congestion_control)?;
    cell.serve_names(Side::Host, UPSTREAM)?;
    let ask = |side, to: &str| -> Result<Latency> {
        let seconds = options.secs.to_string();
        Ok(serde_json::from_str(&cell.load_on(side, &["ask", "--secs", &seconds, "--to", to])?)?)
    };
    let direct = ask(Side::Host, UPSTREAM)?;
    let mut figures = Vec::new();
    for (what, to) in FORWARDER {
        let cached = ask(Side::Guest, to)?;
        figures.push(Figure::beside(what, "µs", cached.p50, ("hickory-server", direct.p50), AT_MOST));
        if to.starts_with('1') {
            figures.push(Figure::beside("p99", "µs", cached.p99, ("hickory-server", direct.p99), Asked::Nothing));
        }
    }
    Ok(figures)
}
