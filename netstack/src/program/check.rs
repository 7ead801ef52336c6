//! `slipway check`: what this machine offers to networks for guests, and how to get what it lacks.
//!
//! `slipway-vm check` reports the same, and what it needs beside it, in the same form.

mod findings;

use std::io;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

pub use self::findings::findings;
use crate::program::completions::print;
use crate::program::failure::Failure;

/// The width of a table that is not shown on a terminal, in columns.
const PLAIN_WIDTH: u16 = 120;

/// How good a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// All is there.
    Good,
    /// It works, but slower or with something missing.
    Limited,
    /// It is not there.
    Missing,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is.
    pub name: &'static str,
    /// How good it is.
    pub state: State,
    /// What was found.
    pub detail: String,
    /// What to do, unless all is good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    /// All is there.
    pub fn good(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, state: State::Good, detail: detail.into(), remedy: None }
    }

    /// Something is not there, and this is what to do.
    pub fn lacking(name: &'static str, state: State, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, state, detail: detail.into(), remedy: Some(remedy.into()) }
    }
}

/// Reports on standard output. Exit code 0 when commands can have a network here, 1 if not.
pub(crate) fn run(json: bool) -> Result<u8, Failure> {
    let findings = findings();
    let usable = findings.iter().all(|finding| finding.state == State::Good || !findings::is_essential(finding));
    let verdict = if usable {
        "Commands and network namespaces can have a network here; virtual machines can in any case."
    } else {
        "Commands and network namespaces cannot have a network here yet; virtual machines can."
    };
    report(json, usable, &findings, verdict)?;
    Ok(u8::from(!usable))
}

/// Prints findings on standard output: as JSON, or as a table with a verdict below.
///
/// # Errors
///
/// When standard output takes nothing.
pub fn report(json: bool, usable: bool, findings: &[Finding], verdict: &str) -> Result<(), Failure> {
    let mut text = if json { as_json(usable, findings)? } else { as_table(findings, verdict) };
    text.push('\n');
    print(text.as_bytes()).map(|_| ())
}

fn as_json(usable: bool, findings: &[Finding]) -> Result<String, Failure> {
    #[derive(Serialize)]
    struct Whole<'a> {
        usable: bool,
        findings: &'a [Finding],
    }
    serde_json::to_string_pretty(&Whole { usable, findings })
        .map_err(|err| Failure::new("cannot write the report as JSON").because_of(&err))
}

fn as_table(findings: &[Finding], verdict: &str) -> String {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["what", "state", "detail"]);
    if !io::IsTerminal::is_terminal(&io::stdout()) {
        table.force_no_tty().set_width(PLAIN_WIDTH);
    }
    for finding in findings {
        let state = match finding.state {
            State::Good => "good",
            State::Limited => "limited",
            State::Missing => "MISSING",
        };
        let detail = match &finding.remedy {
            Some(remedy) => format!("{}\n{remedy}", finding.detail),
            None => finding.detail.clone(),
        };
        table.add_row([finding.name, state, detail.as_str()]);
    }
    format!("{table}\n{verdict}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_has_every_finding_and_its_remedy() {
        let findings =
            [Finding::good("taps", "there"), Finding::lacking("ping", State::Limited, "no ping sockets", "set the sysctl")];
        let table = as_table(&findings, "It works.");
        assert!(table.contains("set the sysctl") && table.ends_with("It works."));
        let json: serde_json::Value = serde_json::from_str(&as_json(false, &findings).unwrap()).unwrap();
        assert_eq!((&json["usable"], &json["findings"][1]["state"]), (&false.into(), &"limited".into()));
    }
}
