//! What went wrong, told to a person: one paragraph of what failed, why, and what to try.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// A subcommand could not do its work.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    because: Vec<String>,
    advice: Option<String>,
    code: u8,
}

impl Failure {
    /// `what` failed; a clause without a full stop, such as `cannot open /dev/kvm`.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), because: Vec::new(), advice: None, code: 1 }
    }

    /// The user asked for something that makes no sense: exit code 2, as for every wrong command line.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self { code: 2, ..Self::new(what) }
    }

    /// Adds an error and everything that it names as its source.
    pub(crate) fn because(mut self, error: &(dyn Error + 'static)) -> Self {
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
    pub(crate) fn of(mut self, whole: Self) -> Self {
        self.because.insert(0, self.what);
        Self { because: self.because, advice: self.advice, ..whole }
    }

    /// What the user may do about it: whole sentences.
    pub(crate) fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// What the program exits with.
    #[cfg(test)]
    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// Prints the paragraph on standard error.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("slipway-vm: {self}");
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

/// `Permission denied (os error 13)` is `permission denied` in the middle of a sentence.
pub(crate) fn plain(text: &str) -> String {
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
    use std::io;

    #[test]
    fn a_failure_reads_as_one_paragraph() {
        let denied = io::Error::from_raw_os_error(libc::EACCES);
        let failure = Failure::new("cannot open /dev/kvm").because(&denied).advice("Ask root.");
        assert_eq!(failure.to_string(), "cannot open /dev/kvm: permission denied. Ask root.");
        assert_eq!((failure.code(), Failure::usage("x").code()), (1, 2));
    }

    #[test]
    fn a_cause_is_not_told_twice() {
        #[derive(Debug, thiserror::Error)]
        #[error("reading failed: {0}")]
        struct Reading(#[source] io::Error);
        let error = Reading(io::Error::other("the disk is gone"));
        assert_eq!(Failure::new("no kernel").because(&error).to_string(), "no kernel: reading failed: the disk is gone.");
    }
}
