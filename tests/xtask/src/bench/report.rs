//! The figures, and the tables that people read.

use std::collections::BTreeMap;
use std::fmt;
use std::process::Command;

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use serde::{Serialize, Serializer};

use super::cell::Transfer;
use super::load::Latency;
use super::stack::{Stack, first_line_of};

/// How long the stack is watched while its flows are idle.
pub(crate) const IDLE_SECONDS: u64 = 5;

/// Everything that was measured, and on what.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    pub(crate) throughput: BTreeMap<Row, Throughput>,
    pub(crate) latency: BTreeMap<String, LatencyRow>,
    pub(crate) idle: BTreeMap<Stack, Idle>,
}

/// What everything was measured on, and how.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    processor: String,
    processors: usize,
    kernel: String,
    iperf3: String,
    versions: BTreeMap<Stack, String>,
    congestion_control: String,
    seconds: u32,
    repeats: u32,
}

/// What a throughput figure is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    pub(crate) mtu: u32,
    pub(crate) flows: u32,
    pub(crate) down: bool,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mtu, flows, down } = self;
        write!(f, "mtu {mtu}, flows {flows}, {}", if *down { "down" } else { "up" })
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One row of the table, by program.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Throughput {
    gbps: BTreeMap<Stack, Samples>,
    cpu_seconds_per_gb: BTreeMap<Stack, Samples>,
    retransmits: BTreeMap<Stack, u64>,
    needless: BTreeMap<Stack, u64>,
    duplicates: BTreeMap<Stack, u64>,
}

impl Throughput {
    pub(crate) fn add(&mut self, stack: Stack, transfer: Transfer) {
        self.gbps.entry(stack).or_default().add(transfer.gbps);
        self.cpu_seconds_per_gb.entry(stack).or_default().add(transfer.cpu_per_gb);
        *self.retransmits.entry(stack).or_default() += transfer.retransmits;
        *self.needless.entry(stack).or_default() += transfer.needless;
        *self.duplicates.entry(stack).or_default() += transfer.duplicates;
    }
}

impl Throughput {
    fn lost(&self, stack: Stack) -> Option<f64> {
        let lost = self.retransmits.get(&stack)?.saturating_sub(*self.needless.get(&stack)?);
        Some((lost + self.duplicates.get(&stack)?) as f64)
    }
}

/// The latency of one kind of exchange, by program, in microseconds.
#[derive(Debug, Default, Serialize)]
pub(crate) struct LatencyRow {
    p50: BTreeMap<Stack, Samples>,
    p99: BTreeMap<Stack, Samples>,
    rounds: BTreeMap<Stack, usize>,
}

impl LatencyRow {
    pub(crate) fn add(&mut self, stack: Stack, latency: Latency) {
        self.p50.entry(stack).or_default().add(latency.p50);
        self.p99.entry(stack).or_default().add(latency.p99);
        *self.rounds.entry(stack).or_default() += latency.rounds;
    }
}

/// What idle flows cost.
#[derive(Debug, Serialize)]
pub(crate) struct Idle {
    /// How many could be opened.
    pub(crate) flows: u32,
    /// Memory of the program's own (RssAnon) that came with each.
    pub(crate) bytes_per_flow: f64,
    /// All resident memory (VmRSS) that came with each.
    pub(crate) resident_bytes_per_flow: f64,
    pub(crate) resident_before: u64,
    pub(crate) resident: u64,
    /// Processor time in the seconds below, with ten flows and with all.
    pub(crate) cpu_seconds_with_few: f64,
    pub(crate) cpu_seconds_with_many: f64,
    pub(crate) seconds: u64,
}

/// Repeats of one figure.
#[derive(Debug, Default)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    pub(super) fn add(&mut self, sample: f64) {
        self.0.push(sample);
        self.0.sort_by(f64::total_cmp);
    }

    pub(super) fn median(&self) -> f64 {
        let n = self.0.len();
        let at = |index: usize| self.0.get(index).copied().unwrap_or(f64::NAN);
        if n % 2 == 1 { at(n / 2) } else { f64::midpoint(at((n / 2).wrapping_sub(1)), at(n / 2)) }
    }
}

impl Serialize for Samples {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Both<'a> {
            median: f64,
            samples: &'a [f64],
        }
        Both { median: self.median(), samples: &self.0 }.serialize(serializer)
    }
}

impl Machine {
    /// Looks at the machine and the programs.
    pub(super) fn new(stacks: &[Stack], congestion_control: &str, seconds: u32, repeats: u32) -> Self {
        let information = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            processor: model.map_or("unknown", |(_, model)| model).to_owned(),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: first_line_of(Command::new("uname").arg("-sr")),
            iperf3: first_line_of(Command::new("iperf3").arg("--version")),
            versions: stacks.iter().map(|stack| (*stack, stack.version())).collect(),
            congestion_control: congestion_control.to_owned(),
            seconds,
            repeats,
        }
    }

    /// In words.
    pub(super) fn heading(&self) -> String {
        let Self { processor, processors, kernel, iperf3, versions, congestion_control, seconds, repeats } = self;
        let versions: Vec<_> = versions.values().map(String::as_str).collect();
        format!(
            "{processor}, {processors} processors, {kernel}; {}; {iperf3}.\nMedian of {repeats}, {seconds} s each, congestion control \
             {congestion_control}, fresh namespaces for every figure.",
            versions.join("; ")
        )
    }
}

impl Report {
    /// Looks at the machine and the programs; nothing is measured yet.
    pub(crate) fn new(stacks: &[Stack], congestion_control: &str, seconds: u32, repeats: u32) -> Self {
        let machine = Machine::new(stacks, congestion_control, seconds, repeats);
        Self { machine, throughput: BTreeMap::new(), latency: BTreeMap::new(), idle: BTreeMap::new() }
    }

    /// What the figures are of.
    pub(crate) fn heading(&self) -> String {
        self.machine.heading()
    }

    /// The tables, in Markdown.
    pub(crate) fn tables(&self) -> String {
        let mut text = format!("\n{}\n", self.heading());
        for (title, table) in [
            (
                "Throughput in Gbit/s",
                self.throughput_table(|row, stack| row.gbps.get(&stack).map(Samples::median), 2, Some(f64::max)),
            ),
            (
                "Processor seconds of the program per GB",
                self.throughput_table(|row, stack| row.cpu_seconds_per_gb.get(&stack).map(Samples::median), 2, Some(f64::min)),
            ),
            (
                "Segments lost and sent again by either kernel, or received twice by the guest, in all repeats",
                self.throughput_table(|row, stack| row.lost(stack), 0, None),
            ),
            (
                "Segments sent again by either kernel that had not been lost (late acknowledgements), in all repeats",
                self.throughput_table(|row, stack| Some(*row.needless.get(&stack)? as f64), 0, None),
            ),
            ("Latency in µs: request/response (rr), and with a connection for each (crr)", self.latency_table()),
            ("Idle TCP flows", self.idle_table()),
        ] {
            if table.row_count() > 0 {
                text.push_str(&format!("\n{title}\n\n{table}\n"));
            }
        }
        text
    }

    fn stacks(&self) -> impl Iterator<Item = Stack> {
        self.machine.versions.keys().copied()
    }

    /// A table of one figure; with `best`, which of two peers is better, also the ratio of ours to the best of them.
    fn throughput_table(
        &self,
        figure: impl Fn(&Throughput, Stack) -> Option<f64>,
        digits: usize,
        best: Option<fn(f64, f64) -> f64>,
    ) -> Table {
        let mut header: Vec<_> = ["MTU", "flows", "direction"].map(str::to_owned).into();
        header.extend(self.stacks().map(|stack| stack.name().to_owned()));
        header.extend(best.map(|_| "ours / best peer".to_owned()));
        let mut table = table(header);
        for (Row { mtu, flows, down }, row) in &self.throughput {
            let mut cells = vec![mtu.to_string(), flows.to_string(), if *down { "down" } else { "up" }.to_owned()];
            cells.extend(self.stacks().map(|stack| number(figure(row, stack), digits)));
            cells.extend(best.map(|best| number(self.ratio(|stack| figure(row, stack), best), 2)));
            table.add_row(cells);
        }
        align(table, 3)
    }

    fn latency_table(&self) -> Table {
        let mut header = vec![String::new(), String::new()];
        header.extend(self.stacks().map(|stack| stack.name().to_owned()));
        header.push("ours / best peer".to_owned());
        let mut table = table(header);
        for (kind, row) in &self.latency {
            for (name, figures) in [("p50", &row.p50), ("p99", &row.p99)] {
                let figure = |stack| figures.get(&stack).map(Samples::median);
                let mut cells = vec![kind.clone(), name.to_owned()];
                cells.extend(self.stacks().map(|stack| number(figure(stack), 0)));
                cells.push(number(self.ratio(figure, f64::min), 2));
                table.add_row(cells);
            }
        }
        align(table, 2)
    }

    fn idle_table(&self) -> Table {
        let mut table = table(vec![
            String::new(),
            "flows".to_owned(),
            "own bytes a flow".to_owned(),
            "resident bytes a flow".to_owned(),
            "resident MB".to_owned(),
            format!("processor s in {IDLE_SECONDS} s, 10 flows"),
            format!("processor s in {IDLE_SECONDS} s, all flows"),
        ]);
        for (stack, idle) in &self.idle {
            table.add_row(vec![
                stack.name().to_owned(),
                idle.flows.to_string(),
                number(Some(idle.bytes_per_flow), 0),
                number(Some(idle.resident_bytes_per_flow), 0),
                number(Some(idle.resident as f64 / 1e6), 1),
                number(Some(idle.cpu_seconds_with_few), 2),
                number(Some(idle.cpu_seconds_with_many), 2),
            ]);
        }
        align(table, 1)
    }

    /// Our figure in proportion to the best of the peers'.
    fn ratio(&self, figure: impl Fn(Stack) -> Option<f64>, best: fn(f64, f64) -> f64) -> Option<f64> {
        let peers = self.stacks().filter(|stack| *stack != Stack::Slipway).filter_map(&figure);
        Some(figure(Stack::Slipway)? / peers.reduce(best)?)
    }
}

/// A table in Markdown.
pub(super) fn table(header: Vec<String>) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(header);
    table
}

/// Numbers stand right; the first columns are names.
pub(super) fn align(mut table: Table, names: usize) -> Table {
    for column in table.column_iter_mut().skip(names) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A figure, if there is one.
pub(super) fn number(figure: Option<f64>, digits: usize) -> String {
    figure.map_or_else(|| "–".to_owned(), |figure| format!("{figure:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let of = |numbers: &[f64]| {
            let mut samples = Samples::default();
            numbers.iter().for_each(|number| samples.add(*number));
            samples.median()
        };
        assert_eq!(of(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(of(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(of(&[]).is_nan());
    }
}
