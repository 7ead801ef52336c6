//! Forwards that come and go while a stream goes through another one.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::Options;
use super::api::Api;
use super::figure::{Asked, Figure};
use crate::bench::cell::{Cell, Side};
use crate::bench::load::{Latency, Streamed};
use crate::bench::stack::Stack;

/// The forward that stays, and the servers in the guest.
const FORWARDED: &str = "127.0.0.1:5297";
const STREAM: &str = "10.0.2.15:5297";
const ECHO_PORT: u16 = 5298;

/// How many come and go.
const FORWARDS: u32 = 1000;

/// Every so many has a client.
const WITH_CLIENT: u32 = 10;

pub(super) fn measure(options: &Options) -> Result<Vec<Figure>> {
    let directory = tempfile::tempdir()?;
    let api = Api::at(directory.path().join("api.sock"));
    let forward = format!("hostfwd=tcp:{FORWARDED}-{STREAM}");
    let more = ["--user".to_owned(), forward, "--api-socket".to_owned(), api.path()];
    let mut cell = Cell::with(Stack::Slipway, &more, 1500, &options.congestion_control)?;
    cell.serve_stream(Side::Guest, STREAM)?;
    cell.serve(Side::Guest, &format!("10.0.2.15:{ECHO_PORT}"))?;
    let stream = cell.stream(Side::Host, FORWARDED)?;
    let begun = Instant::now();
    let mut took = Vec::new();
    let mut gone = 0;
    for n in 0..FORWARDS {
        let since = Instant::now();
        let add = format!(
            r#""add_hostfwd","arguments":{{"proto":"tcp","host_addr":"127.0.0.1","host_port":0,"guest_port":{ECHO_PORT}}}"#
        );
        let added = api.ask(&add)?;
        let number = |key: &str| added["return"][key].as_u64().with_context(|| format!("a forward was not added: {added}"));
        let (id, port) = (number("id")?, u16::try_from(number("host_port")?)?);
        if n % WITH_CLIENT == 0 {
            // The servers' namespace is not ours, so who connects is a process in it.
            cell.load_on(Side::Host, &["probe", "--to", &format!("127.0.0.1:{port}")])?;
        }
        let removed = api.ask(&format!(r#""remove_hostfwd","arguments":{{"id":{id}}}"#))?;
        ensure!(removed["return"].is_object(), "a forward was not removed: {removed}");
        gone += 1;
        if n % WITH_CLIENT != 0 {
            took.push(since.elapsed());
        }
    }
    let seconds = begun.elapsed();
    let streamed: Streamed = stream.end()?;
    let left = api.ask(r#""list_hostfwd""#)?;
    ensure!(left["entries"].as_array().is_some_and(|entries| entries.len() == 1), "others are left: {left}");
    let latency = Latency::of(took);
    Ok(vec![
        Figure::alone("added and removed", "forwards", f64::from(gone), Asked::AtLeast(f64::from(FORWARDS))),
        Figure::alone("lost meanwhile", "bytes", streamed.lost as f64, Asked::AtMost(0.0)),
        Figure::alone("streamed meanwhile", "MB", (streamed.up + streamed.down) as f64 / 1e6, Asked::Nothing),
        Figure::alone("it took", "s", seconds.as_secs_f64(), Asked::Nothing),
        Figure::alone("added and removed, p50", "µs", latency.p50, Asked::Nothing),
        Figure::alone("added and removed, p99", "µs", latency.p99, Asked::Nothing),
    ])
}
