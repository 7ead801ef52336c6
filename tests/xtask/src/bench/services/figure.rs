//! Figures, what was asked of them, and the table of both.

use std::fmt;

use serde::Serialize;

use crate::bench::report::{Machine, Samples, align, number, table};
use crate::bench::stack::Stack;

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Asked {
    /// The ratio, or the figure if it is compared with nothing, is to be at most this.
    AtMost(f64),
    /// Likewise at least this.
    AtLeast(f64),
    /// Nothing: it is there to be known.
    Nothing,
}

/// One thing that was measured.
#[derive(Debug, Clone)]
pub(super) struct Figure {
    what: &'static str,
    unit: &'static str,
    ours: f64,
    beside: Option<(&'static str, f64)>,
    asked: Asked,
}

impl Figure {
    /// `ours`, in `unit`, of which `asked` was asked as it is.
    pub(super) const fn alone(what: &'static str, unit: &'static str, ours: f64, asked: Asked) -> Self {
        Self { what, unit, ours, beside: None, asked }
    }

    /// `ours` beside `other` of something else, both in `unit`; `asked` is about the ratio.
    pub(super) const fn beside(
        what: &'static str,
        unit: &'static str,
        ours: f64,
        (name, other): (&'static str, f64),
        asked: Asked,
    ) -> Self {
        Self { what, unit, ours, beside: Some((name, other)), asked }
    }

    /// What is compared with what was asked.
    fn reached(&self) -> f64 {
        self.beside.map_or(self.ours, |(_, other)| self.ours / other)
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, unit, ours, beside, .. } = self;
        write!(f, "{what} {ours:.*} {unit}", digits(*ours))?;
        match beside {
            Some((name, other)) => write!(f, " ({name} {other:.*}, ratio {:.2})", digits(*other), self.reached()),
            None => Ok(()),
        }
    }
}

/// Everything that was measured, and on what.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    machine: Machine,
    rows: Vec<Row>,
    /// Parts that could not be measured, as often as they could not.
    failed: Vec<String>,
}

/// All repeats of one figure.
#[derive(Debug, Serialize)]
struct Row {
    part: String,
    what: &'static str,
    unit: &'static str,
    ours: Samples,
    other: Option<(&'static str, Samples)>,
    reached: Samples,
    asked: Asked,
}

impl Report {
    pub(super) fn new(congestion_control: &str, seconds: u32, repeats: u32) -> Self {
        Self {
            machine: Machine::new(&[Stack::Slipway], congestion_control, seconds, repeats),
            rows: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// What the figures are of.
    pub(super) fn heading(&self) -> String {
        self.machine.heading()
    }

    pub(super) fn add(&mut self, part: &str, figures: Vec<Figure>) {
        for figure in figures {
            let at = self.rows.iter().position(|row| row.part == part && row.what == figure.what).unwrap_or_else(|| {
                let Figure { what, unit, asked, beside, .. } = figure;
                let other = beside.map(|(name, _)| (name, Samples::default()));
                let (ours, reached) = (Samples::default(), Samples::default());
                self.rows.push(Row { part: part.to_owned(), what, unit, ours, other, reached, asked });
                self.rows.len() - 1
            });
            let row = &mut self.rows[at];
            row.ours.add(figure.ours);
            row.reached.add(figure.reached());
            if let (Some((_, samples)), Some((_, other))) = (&mut row.other, figure.beside) {
                samples.add(other);
            }
        }
    }

    pub(super) fn failed(&mut self, part: &str) {
        self.failed.push(part.to_owned());
    }

    /// The table, in Markdown.
    pub(super) fn table(&self) -> String {
        let header = ["service", "what", "beside", "unit", "ours", "other", "reached", "asked", "met"];
        let mut table = table(header.map(str::to_owned).into());
        for Row { part, what, unit, ours, other, reached, asked } in &self.rows {
            let (ours, reached) = (ours.median(), reached.median());
            let (name, other) = other.as_ref().map_or(("", None), |(name, other)| (name, Some(other.median())));
            let (asked, met) = match asked {
                Asked::AtMost(most) => (format!("at most {most}"), Some(reached <= *most)),
                Asked::AtLeast(least) => (format!("at least {least}"), Some(reached >= *least)),
                Asked::Nothing => ("–".to_owned(), None),
            };
            table.add_row([
                part.clone(),
                (*what).to_owned(),
                name.to_owned(),
                (*unit).to_owned(),
                number(Some(ours), digits(ours)),
                number(other, other.map_or(0, digits)),
                number(Some(reached), if name.is_empty() { digits(reached) } else { 2 }),
                asked,
                met.map_or("–", |met| if met { "yes" } else { "NO" }).to_owned(),
            ]);
        }
        let mut text = align(table, 4).to_string();
        for part in &self.failed {
            text.push_str(&format!("\n\n{part} could not be measured: see above."));
        }
        text
    }
}

/// As many as a person wants to see.
fn digits(figure: f64) -> usize {
    if figure.fract() == 0.0 || figure.abs() >= 100.0 { 0 } else { 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_held_against_what_was_asked() {
        let mut report = Report::new("reno", 1, 2);
        for ours in [5.0, 7.0] {
            report.add(
                "dns",
                vec![
                    Figure::beside("p50", "µs", ours, ("direct", 3.0), Asked::AtMost(2.0)),
                    Figure::alone("lost", "questions", 0.0, Asked::AtMost(0.0)),
                    Figure::beside("rate", "MB/s", ours, ("libslirp", 0.5), Asked::AtLeast(10.0)),
                ],
            );
        }
        let rows: Vec<_> = report.table().lines().skip(2).map(str::to_owned).collect();
        assert!(rows[0].contains("at most 2") && rows[0].contains("yes"), "{rows:?}");
        assert!(rows[1].contains("at most 0") && rows[1].contains("yes"), "{rows:?}");
        assert!(rows[2].contains("at least 10") && rows[2].contains("12.00") && rows[2].contains("yes"), "{rows:?}");
    }

    #[test]
    fn what_is_not_reached_is_said() {
        let mut report = Report::new("reno", 1, 1);
        report.add("dns", vec![Figure::beside("p50", "µs", 7.0, ("direct", 3.0), Asked::AtMost(2.0))]);
        report.failed("tftp");
        assert!(report.table().contains("NO") && report.table().contains("tftp could not be measured"));
    }
}
