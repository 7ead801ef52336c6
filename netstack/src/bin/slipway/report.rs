//! What the demo has found: a table for people, JSON for programs.

use std::io::{self, IsTerminal, Write};

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, OrFail};

/// The width of a table that is not shown on a terminal, in columns.
const PLAIN_WIDTH: u16 = 120;

/// How a step has come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// All that it claims was seen.
    Passed,
    /// Something was seen that ought not to be.
    Failed,
    /// This machine lacks what it needs, or a step that it builds on has failed.
    Skipped,
}

/// One step of the demo.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) outcome: Outcome,
    /// What was seen, with its figures.
    pub(crate) detail: String,
    /// How long it took.
    pub(crate) seconds: f64,
}

/// All of them.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) steps: Vec<Step>,
}

impl Report {
    /// Whether nothing has failed, and something has been tried.
    pub(crate) fn passed(&self) -> bool {
        !self.steps.is_empty() && self.count(Outcome::Failed) == 0
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.steps.iter().filter(|step| step.outcome == outcome).count()
    }

    /// Prints it on standard output.
    pub(crate) fn print(&self, json: bool) -> Result<(), Failure> {
        let mut text =
            if json { self.json()? } else { self.table(io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()) };
        text.push('\n');
        io::stdout().write_all(text.as_bytes()).or_fail(|| "cannot write to standard output")
    }

    fn json(&self) -> Result<String, Failure> {
        #[derive(Serialize)]
        struct Whole<'a> {
            passed: bool,
            steps: &'a [Step],
        }
        serde_json::to_string_pretty(&Whole { passed: self.passed(), steps: &self.steps })
            .map_err(|err| Failure::new("cannot write the results as JSON").because(err))
    }

    fn table(&self, colour: bool) -> String {
        let mut table = Table::new();
        table
            .load_style(UTF8_FULL_CONDENSED)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header(["step", "result", "detail"]);
        if colour {
            table.enforce_styling();
        } else {
            table.force_no_tty().set_width(PLAIN_WIDTH);
        }
        for step in &self.steps {
            let (word, tint) = match step.outcome {
                Outcome::Passed => ("passed", Color::Green),
                Outcome::Failed => ("FAILED", Color::Red),
                Outcome::Skipped => ("skipped", Color::Yellow),
            };
            let result = Cell::new(word).fg(tint).add_attribute(Attribute::Bold);
            table.add_row([Cell::new(&step.name), result, Cell::new(&step.detail)]);
        }
        format!("{table}\n{}", self.summary())
    }

    fn summary(&self) -> String {
        let (passed, failed, skipped) = (self.count(Outcome::Passed), self.count(Outcome::Failed), self.count(Outcome::Skipped));
        let mut text = format!("{passed} of {} steps passed", self.steps.len());
        for (count, word) in [(failed, "failed"), (skipped, "skipped")] {
            if count > 0 {
                text.push_str(&format!(", {count} {word}"));
            }
        }
        text.push('.');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, outcome: Outcome) -> Step {
        Step { name: name.to_owned(), outcome, detail: "seen".to_owned(), seconds: 0.5 }
    }

    #[test]
    fn one_failure_fails_the_whole_and_a_skip_does_not() {
        let mut report = Report::default();
        assert!(!report.passed(), "nothing tried is nothing proved");
        report.steps.push(step("lease", Outcome::Passed));
        report.steps.push(step("ipv6", Outcome::Skipped));
        assert!(report.passed());
        assert_eq!(report.summary(), "1 of 2 steps passed, 1 skipped.");
        report.steps.push(step("ping", Outcome::Failed));
        assert!(!report.passed());
    }

    #[test]
    fn a_table_for_a_file_has_no_escape_sequences_and_every_step() {
        let report = Report { steps: vec![step("lease", Outcome::Passed), step("ping", Outcome::Failed)] };
        let table = report.table(false);
        assert!(!table.contains('\x1b'));
        assert!(table.contains("lease") && table.contains("FAILED") && table.contains("1 of 2 steps passed, 1 failed."));
        assert!(report.table(true).contains('\x1b'));
    }

    #[test]
    fn the_json_says_it_all() {
        let report = Report { steps: vec![step("lease", Outcome::Passed)] };
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["passed"], true);
        assert_eq!(json["steps"][0]["outcome"], "passed");
    }
}
