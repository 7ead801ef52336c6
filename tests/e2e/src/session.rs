//! A shell in the guest that the test types commands into.

use std::fmt;
use std::io::Write;
use std::time::{Duration, Instant};

use crate::PATIENCE;
use crate::wait::Lines;

/// What starts the line after a command's output; the command's status follows.
const END: &str = "--- end of output, status ";

/// The two ends of a shell that reads commands: its input and what it prints.
pub struct Session {
    input: Box<dyn Write + Send>,
    output: Lines,
    backgrounds: u32,
}

/// What a command has printed on both of its outputs, and its exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// As in `$?`.
    pub status: i32,
    /// Without the last end of line.
    pub text: String,
    command: String,
}

impl Session {
    /// A session with a shell that is started, or about to be.
    pub fn new(input: impl Write + Send + 'static, output: Lines) -> Self {
        Self { input: Box::new(input), output, backgrounds: 0 }
    }

    /// Runs a command, whatever its status.
    ///
    /// # Panics
    ///
    /// When it takes too long or the shell ends.
    pub fn run(&mut self, command: &str) -> Outcome {
        self.run_within(PATIENCE, command)
    }

    /// Runs a command that must succeed, and returns what it has printed.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub fn succeed(&mut self, command: &str) -> String {
        self.run(command).success()
    }

    /// Runs a command that may take its time.
    ///
    /// # Panics
    ///
    /// When it takes longer, or the shell ends.
    pub fn run_within(&mut self, patience: Duration, command: &str) -> Outcome {
        let typed = format!("{{ {command}\n}} </dev/null 2>&1; printf '\\n{END}%d\\n' $?\n");
        let sent = self.input.write_all(typed.as_bytes()).and_then(|()| self.input.flush());
        sent.unwrap_or_else(|error| panic!("the guest's shell has ended before `{command}`: {error}"));
        let deadline = Instant::now() + patience;
        let mut text = String::new();
        loop {
            let Some(line) = self.output.next_before(deadline) else {
                let why = if Instant::now() < deadline { "the shell ended" } else { "nothing more came" };
                panic!("`{command}` did not finish: {why}; it had printed:\n{text}");
            };
            if let Some(status) = line.strip_prefix(END) {
                let status = status.parse().expect("the shell prints a number");
                return Outcome { status, text: text.trim_end().to_owned(), command: command.to_owned() };
            }
            text.push_str(&line);
            text.push('\n');
        }
    }

    /// Runs a command in the background, and returns the first line that it prints, which says that it is ready.
    ///
    /// # Panics
    ///
    /// When it ends before.
    pub fn background(&mut self, command: &str) -> String {
        self.backgrounds += 1;
        let pipe = format!("/tmp/ready-$$-{}", self.backgrounds);
        self.succeed(&format!(
            "mkfifo {pipe}; {command} >{pipe} & read -r line <{pipe}; s=$?; rm {pipe}; echo \"$line\"; (exit $s)"
        ))
    }

    /// Has the shell end.
    ///
    /// # Panics
    ///
    /// When it has ended before.
    pub fn exit(&mut self) {
        self.input.write_all(b"exit\n").and_then(|()| self.input.flush()).expect("a shell that reads commands");
    }

    /// Waits for a line that the shell's surroundings print before it reads commands.
    ///
    /// # Panics
    ///
    /// When it does not come.
    pub fn expect(&mut self, expected: &str, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut seen = Vec::new();
        while seen.last().is_none_or(|line| line != expected) {
            let line = self.output.next_before(deadline);
            seen.push(line.unwrap_or_else(|| panic!("`{expected}` was not printed, but:\n{}", seen.join("\n"))));
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("output", &self.output).finish_non_exhaustive()
    }
}

impl Outcome {
    /// What was printed, by a command that must have succeeded.
    ///
    /// # Panics
    ///
    /// When it has failed.
    pub fn success(self) -> String {
        assert_eq!(self.status, 0, "{self}");
        self.text
    }

    /// What was printed, by a command that must have failed.
    ///
    /// # Panics
    ///
    /// When it has succeeded.
    pub fn failure(self) -> String {
        assert_ne!(self.status, 0, "{self}");
        self.text
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ended with status {} and printed:\n{}", self.command, self.status, self.text)
    }
}
