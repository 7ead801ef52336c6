//! Many commands over the API while a guest transfers as much as it can, beside the same transfer alone.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::Options;
use super::figure::{Asked, Figure};
use crate::bench::cell::Cell;
use crate::bench::stack::Stack;

/// Commands by the second, of all who ask together.
const RATE: u32 = 1000;

/// How many ask at once. One alone waits for an answer before the next command, and so measures the longest answers.
const ASKERS: u32 = 4;

/// The API of a network.
#[derive(Debug, Clone)]
pub(super) struct Api(PathBuf);

impl Api {
    pub(super) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    pub(super) fn path(&self) -> String {
        self.0.display().to_string()
    }

    /// The answer to what follows `"execute":` in a request.
    pub(super) fn ask(&self, what: &str) -> Result<Value> {
        let mut stream = UnixStream::connect(&self.0).context("cannot connect to the API")?;
        stream.write_all(format!(r#"{{"execute":{what}}}"#).as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("the API does not answer")?;
        serde_json::from_str(&answer).with_context(|| format!("this is no answer: {answer}"))
    }
}

pub(super) fn measure(options: &Options) -> Result<Vec<Figure>> {
    let directory = tempfile::tempdir()?;
    let api = Api::at(directory.path().join("api.sock"));
    let more = ["--api-socket".to_owned(), api.path()];
    let cell = Cell::with(Stack::Slipway, &more, 1500, &options.congestion_control)?;
    // Warm, and once before and once after, so that a machine that slows down meanwhile does so for both.
    cell.transfer(1, 1, false)?;
    let before = cell.transfer(options.secs, 1, false)?.gbps;
    let (with, commands, seconds) = while_asked(&api, || cell.transfer(options.secs, 1, false).map(|transfer| transfer.gbps))?;
    let after = cell.transfer(options.secs, 1, false)?.gbps;
    let alone = f64::midpoint(before, after);
    Ok(vec![
        Figure::beside("throughput, up", "Gbit/s", with, ("without commands", alone), Asked::AtLeast(0.9)),
        Figure::alone("commands", "1/s", f64::from(commands) / seconds, Asked::AtLeast(0.99 * f64::from(RATE))),
    ])
}

/// Does something while commands are asked at a steady rate. Returns what it has come to, and how many were answered in how many seconds.
fn while_asked<T>(api: &Api, something: impl FnOnce() -> Result<T>) -> Result<(T, u32, f64)> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let begun = Instant::now();
        let asking: Vec<_> = (0..ASKERS).map(|_| scope.spawn(|| ask_steadily(api, &done))).collect();
        let outcome = something();
        done.store(true, Ordering::Relaxed);
        let mut answered = 0;
        for asker in asking {
            answered += asker.join().map_err(|_| anyhow::anyhow!("who asks has panicked"))??;
        }
        Ok((outcome?, answered, begun.elapsed().as_secs_f64()))
    })
}

/// Asks, at a share of the rate, until it is done. Returns how many commands were answered.
fn ask_steadily(api: &Api, done: &AtomicBool) -> Result<u32> {
    let begun = Instant::now();
    let mut answered = 0;
    while !done.load(Ordering::Relaxed) {
        let due = begun + Duration::from_secs(1) / (RATE / ASKERS) * answered;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // What people and programs ask most.
        let what = ["\"list_hostfwd\"", "\"counters\"", "\"info\"", "\"flows\""][answered as usize % 4];
        let answer = api.ask(what)?;
        anyhow::ensure!(answer.get("error").is_none(), "{answer}");
        answered += 1;
    }
    Ok(answered)
}
