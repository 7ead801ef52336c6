//! `cargo xtask record`: the recordings in `pcap-fixtures`, made anew.

use std::process::ExitCode;

use anyhow::Result;

use crate::cargo;
use crate::step::Steps;

/// Records the stories whose names contain one of `names`, or all of them; or conversations of real guests, which need the programs that
/// the end-to-end tests need.
pub(crate) fn run(real: bool, names: &[String]) -> Result<ExitCode> {
    let mut steps = Steps::default();
    let mut ready = true;
    if real {
        ready &= steps.run("slipway", cargo().args(["build", "--release", "--bins", "--package", "netstack", "--locked"]))?;
        ready &= steps.run("guests", cargo().args(["build", "--quiet", "--bins", "--package", "e2e", "--locked"]))?;
    }
    if ready {
        let mut story = cargo();
        story.args(["run", "--quiet", "--package", "e2e", "--bin", "story", "--locked", "--", "record"]);
        story.args(real.then_some("--real")).args(names);
        steps.run("record", &mut story)?;
    }
    Ok(steps.finish())
}
