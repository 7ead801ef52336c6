//! One command after the other, with a line before and a line with the time after each.
//!
//! What always holds: every step that was started is told of with its outcome, and a failed step makes the whole errand fail.

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

/// How many tests have passed and failed. A step that is no test run counts only when it fails.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

/// The steps of an errand so far.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    tally: Tally,
    failures: Vec<String>,
}

impl Steps {
    /// Runs a command whose exit status is its result. Returns whether it succeeded.
    pub(crate) fn run(&mut self, title: &str, command: &mut Command) -> Result<bool> {
        let started = begin(title, command);
        let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start {command:?}"))?;
        if !status.success() {
            self.fail(title);
        }
        end(title, status.success(), started);
        Ok(status.success())
    }

    /// Runs a command whose exit status is a test of its own.
    pub(crate) fn run_as_test(&mut self, title: &str, command: &mut Command) -> Result<bool> {
        let succeeded = self.run(title, command)?;
        self.tally.passed += u64::from(succeeded);
        Ok(succeeded)
    }

    /// Runs a command that tells on its output how many tests have passed and failed, and adds them up.
    pub(crate) fn run_tests(&mut self, title: &str, command: &mut Command) -> Result<bool> {
        let started = begin(title, command);
        if std::io::stderr().is_terminal() {
            command.env("CARGO_TERM_COLOR", "always");
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        let counted = std::thread::scope(|scope| {
            let out = scope.spawn(|| pass_on(stdout, std::io::stdout()));
            let err = scope.spawn(|| pass_on(stderr, std::io::stderr()));
            [out, err].map(|reader| reader.join().unwrap_or_default())
        });
        let status = child.wait().with_context(|| format!("cannot wait for {title}"))?;
        let failed: u64 = counted.iter().map(|tally| tally.failed).sum();
        self.tally.passed += counted.iter().map(|tally| tally.passed).sum::<u64>();
        self.tally.failed += failed;
        // A run that ends badly without a failed test did not even come so far.
        if !status.success() && failed == 0 {
            self.tally.failed += 1;
        }
        if !status.success() {
            self.failures.push(title.to_owned());
        }
        end(title, status.success(), started);
        Ok(status.success())
    }

    /// Counts a failure that is no command's.
    pub(crate) fn fail(&mut self, title: &str) {
        self.tally.failed += 1;
        self.failures.push(title.to_owned());
    }

    /// Says which steps have failed, if any, and turns the whole into an exit status.
    pub(crate) fn finish(&self) -> ExitCode {
        if self.failures.is_empty() {
            return ExitCode::SUCCESS;
        }
        eprintln!("failed: {}", self.failures.join(", "));
        ExitCode::FAILURE
    }

    /// The tests so far.
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }
}

fn begin(title: &str, command: &Command) -> Instant {
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    let program = std::path::Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy();
    println!("==> {title}: {program} {}", arguments.join(" "));
    Instant::now()
}

fn end(title: &str, succeeded: bool, started: Instant) {
    let outcome = if succeeded { "ok" } else { "FAILED" };
    println!("<== {title}: {outcome} ({:.1} s)", started.elapsed().as_secs_f64());
}

/// Copies a child's output to our own line by line, and adds up the tests that it tells of.
fn pass_on(from: Option<impl Read>, mut to: impl Write) -> Tally {
    let mut tally = Tally::default();
    let Some(from) = from else { return tally };
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        // Nobody reads our output any more: the tests still want to be finished.
        let _ = to.write_all(&line).and_then(|()| to.flush());
        if let Some(found) = tests_told_by(&without_colours(&String::from_utf8_lossy(&line))) {
            tally.passed += found.passed;
            tally.failed += found.failed;
        }
        line.clear();
    }
    tally
}

/// Reads the closing line of nextest (`Summary [..] 9 tests run: 8 passed, 1 failed, 0 skipped`) or of the standard test harness
/// (`test result: ok. 3 passed; 0 failed; ..`).
fn tests_told_by(line: &str) -> Option<Tally> {
    let line = line.trim();
    let counts = if line.starts_with("Summary [") {
        line.split_once(" run: ")?.1
    } else {
        line.strip_prefix("test result: ")?.split_once(". ")?.1
    };
    let mut tally = Tally::default();
    for count in counts.split([',', ';']) {
        let Some((number, what)) = count.trim().split_once(' ') else { continue };
        let Ok(number) = number.parse::<u64>() else { continue };
        if what.starts_with("passed") {
            tally.passed += number;
        } else if ["failed", "timed out", "exec failed"].iter().any(|bad| what.starts_with(bad)) {
            tally.failed += number;
        }
    }
    Some(tally)
}

/// Takes the colours (ECMA-48 control sequences) out of a line.
fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            characters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_of_both_harnesses_are_understood() {
        let told = |line| tests_told_by(&without_colours(line));
        let tally = |passed, failed| Some(Tally { passed, failed });
        assert_eq!(told("     Summary [   0.025s] 3 tests run: 3 passed, 0 skipped"), tally(3, 0));
        assert_eq!(
            told(
                "\u{1b}[31;1m     Summary\u{1b}[0m [  61.0s] \u{1b}[1m9\u{1b}[0m tests run: 6 passed (1 slow), 2 failed, 1 timed out, 4 skipped"
            ),
            tally(6, 3)
        );
        assert_eq!(told("test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out"), tally(3, 1));
        assert_eq!(told("test tests::a_summary ... ok"), None);
    }
}
