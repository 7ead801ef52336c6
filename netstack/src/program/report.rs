//! What a demonstration has found: a table for people, JSON for programs.

use std::io::{self, IsTerminal};

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table};
use serde::{Deserialize, Serialize};

use crate::program::completions::print;
use crate::program::failure::{Failure, OrFail};

/// The width of a table that is not shown on a terminal, in columns.
const PLAIN_WIDTH: u16 = 120;

/// How a step has come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All that it claims was seen.
    Passed,
    /// Something was seen that ought not to be.
    Failed,
    /// This machine lacks what it needs, or a step that it builds on has failed.
    Skipped,
}

/// One step of a demonstration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// What is tried.
    pub name: String,
    /// How it has come out.
    pub outcome: Outcome,
    /// What was seen, with its figures.
    pub detail: String,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl Step {
    /// A step that this machine cannot do.
    pub fn skipped(name: &str, why: String) -> Self {
        Self { name: name.to_owned(), outcome: Outcome::Skipped, detail: why, seconds: 0.0 }
    }
}

/// The steps of one guest.
#[derive(Debug, Serialize)]
pub struct Part {
    /// What the guest is.
    pub title: &'static str,
    /// What it did.
    pub steps: Vec<Step>,
}

/// All of them.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// One guest after the other.
    pub parts: Vec<Part>,
}

impl Report {
    /// Whether nothing has failed, and something has been tried.
    pub fn passed(&self) -> bool {
        self.count(Outcome::Failed) == 0 && self.count(Outcome::Passed) > 0
    }

    fn steps(&self) -> impl Iterator<Item = &Step> {
        self.parts.iter().flat_map(|part| &part.steps)
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.steps().filter(|step| step.outcome == outcome).count()
    }

    /// Prints it on standard output.
    ///
    /// # Errors
    ///
    /// When that cannot be written to.
    pub fn print(&self, json: bool) -> Result<(), Failure> {
        let mut text =
            if json { self.json()? } else { self.table(io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()) };
        text.push('\n');
        print(text.as_bytes()).map(drop)
    }

    fn json(&self) -> Result<String, Failure> {
        #[derive(Serialize)]
        struct Whole<'a> {
            passed: bool,
            parts: &'a [Part],
        }
        serde_json::to_string_pretty(&Whole { passed: self.passed(), parts: &self.parts })
            .or_fail(|| "cannot write the results as JSON")
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
        for part in &self.parts {
            table.add_row([Cell::new(part.title).add_attribute(Attribute::Bold), Cell::new(""), Cell::new("")]);
            for step in &part.steps {
                let (word, tint) = match step.outcome {
                    Outcome::Passed => ("passed", Color::Green),
                    Outcome::Failed => ("FAILED", Color::Red),
                    Outcome::Skipped => ("skipped", Color::Yellow),
                };
                let result = Cell::new(word).fg(tint).add_attribute(Attribute::Bold);
                table.add_row([Cell::new(format!("  {}", step.name)), result, Cell::new(&step.detail)]);
            }
        }
        format!("{table}\n{}", self.summary())
    }

    fn summary(&self) -> String {
        let mut text = format!("{} of {} steps passed", self.count(Outcome::Passed), self.steps().count());
        for (count, word) in [(self.count(Outcome::Failed), "failed"), (self.count(Outcome::Skipped), "skipped")] {
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

    fn part(outcomes: &[Outcome]) -> Part {
        let step =
            |outcome: &Outcome| Step { name: "lease".to_owned(), outcome: *outcome, detail: "seen".to_owned(), seconds: 0.5 };
        Part { title: "a guest", steps: outcomes.iter().map(step).collect() }
    }

    #[test]
    fn one_failure_fails_the_whole_and_a_skip_does_not() {
        let mut report = Report { parts: vec![part(&[Outcome::Skipped])] };
        assert!(!report.passed(), "nothing tried is nothing proved");
        report.parts.push(part(&[Outcome::Passed]));
        assert!(report.passed());
        assert_eq!(report.summary(), "1 of 2 steps passed, 1 skipped.");
        report.parts.push(part(&[Outcome::Failed]));
        assert!(!report.passed());
    }

    #[test]
    fn a_table_for_a_file_has_no_escape_sequences_and_every_step() {
        let report = Report { parts: vec![part(&[Outcome::Passed, Outcome::Failed])] };
        let table = report.table(false);
        assert!(!table.contains('\x1b'));
        assert!(table.contains("a guest") && table.contains("  lease") && table.contains("FAILED"));
        assert!(report.table(true).contains('\x1b'));
    }

    #[test]
    fn the_json_says_it_all() {
        let report = Report { parts: vec![part(&[Outcome::Passed])] };
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["passed"], true);
        assert_eq!(json["parts"][0]["steps"][0]["outcome"], "passed");
    }
}
