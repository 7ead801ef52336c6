//! What went wrong, told to a person: one paragraph of what failed, why, and what to try.
//!
//! A subcommand returns a [`Failure`] and `main` prints it; the code below it never prints. The words of the operating system are kept,
//! without their numbers.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// A subcommand could not do its work.
#[derive(Debug)]
pub struct Failure {
    what: String,
    because: Vec<String>,
    advice: Option<String>,
    code: u8,
}

impl Failure {
    /// `what` failed; a clause without a full stop, such as `cannot open /dev/net/tun`.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), because: Vec::new(), advice: None, code: 1 }
    }

    /// The user asked for something that makes no sense: exit code 2, as for every wrong command line.
    pub fn usage(what: impl Into<String>) -> Self {
        Self { code: 2, ..Self::new(what) }
    }

    /// Adds the cause of what is known so far.
    #[must_use]
    pub fn because(mut self, why: impl fmt::Display) -> Self {
        self.because.push(plain(&why.to_string()));
        self
    }

    /// Adds an error and everything that it names as its source.
    #[must_use]
    pub fn because_of(mut self, error: &(dyn Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            let text = plain(&error.to_string());
            // Many errors already repeat their source in their own text.
            if !self.because.last().is_some_and(|last| last.ends_with(&text)) {
                self.because.push(text);
            }
            next = error.source();
        }
        self
    }

    /// The same causes, of something that this failure is only a part of.
    #[must_use]
    pub fn of(mut self, whole: Self) -> Self {
        self.because.insert(0, self.what);
        Self { because: self.because, advice: self.advice, ..whole }
    }

    /// What the user may do about it: whole sentences.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// What the program exits with.
    pub fn code(&self) -> u8 {
        self.code
    }

    /// The same failure with another exit code.
    #[must_use]
    pub fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Prints the paragraph on standard error, after the name of the program.
    pub fn report(&self) -> ExitCode {
        eprintln!("{}: {self}", program_name());
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for why in &self.because {
            write!(f, ": {why}")?;
        }
        f.write_str(".")?;
        self.advice.iter().try_for_each(|advice| write!(f, " {advice}"))
    }
}

/// What this program was called as.
fn program_name() -> String {
    let called = std::env::args_os().next();
    let name = called.as_deref().and_then(|path| Path::new(path).file_name()?.to_str().map(str::to_owned));
    name.unwrap_or_else(|| "slipway".to_owned())
}

/// Turns an I/O error into a failure of what was being done.
pub trait OrFail<T> {
    /// `what` is evaluated only on failure.
    ///
    /// # Errors
    ///
    /// When this is an error.
    fn or_fail<W: Into<String>>(self, what: impl FnOnce() -> W) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> OrFail<T> for Result<T, E> {
    fn or_fail<W: Into<String>>(self, what: impl FnOnce() -> W) -> Result<T, Failure> {
        self.map_err(|err| Failure::new(what()).because(err.into()))
    }
}

/// `Permission denied (os error 13)` is `permission denied` in the middle of a sentence.
pub fn plain(text: &str) -> String {
    let text = text.split(" (os error ").next().unwrap_or(text).trim_end_matches('.');
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        // An abbreviation keeps its capitals.
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            first.to_lowercase().chain([second]).chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_reads_as_one_paragraph() {
        let denied = io::Error::from_raw_os_error(libc::EACCES);
        let failure = Failure::new("cannot open /dev/net/tun").because(denied).advice("Ask root.");
        assert_eq!(failure.to_string(), "cannot open /dev/net/tun: permission denied. Ask root.");
        assert_eq!(failure.code(), 1);
    }

    #[test]
    fn a_cause_is_not_told_twice() {
        #[derive(Debug, thiserror::Error)]
        #[error("reading failed: {0}")]
        struct Reading(#[source] io::Error);
        let error = Reading(io::Error::other("the disk is gone"));
        assert_eq!(
            Failure::new("no configuration").because_of(&error).to_string(),
            "no configuration: reading failed: the disk is gone."
        );
    }

    #[test]
    fn abbreviations_keep_their_capitals() {
        assert_eq!(plain("DHCP is off."), "DHCP is off");
        assert_eq!(plain("No such file or directory (os error 2)"), "no such file or directory");
    }
}
