//! `slipway replay`: recordings against the engine as it is now.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::{fs, process};

use crate::replay::sidecar::Sidecar;
use crate::replay::{Difference, Options, Report, replay, update};
use serde::Serialize;

use crate::program::cli::ReplayArgs;
use crate::program::failure::{Failure, OrFail};

/// The largest file that is read: the whole of it is held in memory.
const LARGEST: u64 = 2 << 30;

/// Differences that are printed of one recording. After the first few, the rest is mostly what follows from them.
const PRINTED: usize = 20;

/// What came of one file.
#[derive(Debug, Serialize)]
struct Recording {
    file: PathBuf,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Outcome {
    Played {
        #[serde(flatten)]
        report: Report,
        updated: bool,
    },
    Unusable {
        error: String,
    },
}

/// Plays all recordings.
pub(crate) fn run(args: &ReplayArgs) -> Result<u8, Failure> {
    let files = all(&args.files)?;
    let options = Options { user: args.user.clone() };
    let each = |file: PathBuf| {
        let outcome = one(&file, &options, args.update).unwrap_or_else(|failure| Outcome::Unusable { error: failure.to_string() });
        Recording { file, outcome }
    };
    let recordings: Vec<Recording> = files.into_iter().map(each).collect();
    let text = if args.json {
        json(&recordings)?
    } else {
        Printer { colour: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() }.all(&recordings)
    };
    match io::stdout().write_all(text.as_bytes()) {
        Err(err) if err.kind() != io::ErrorKind::BrokenPipe => {
            return Err(Failure::new("cannot write to standard output").because(err));
        }
        _ => {}
    }
    Ok(recordings.iter().map(|recording| recording.outcome.code()).max().unwrap_or(0))
}

/// The files that are meant: those in directories, and in the directories in those, by their names.
fn all(named: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in named {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut inside = Vec::new();
        inside_of(path, &mut inside).map_err(|failure| failure.with_code(2))?;
        if inside.is_empty() {
            return Err(Failure::usage(format!("no recordings are in {}", path.display()))
                .advice("Name a directory with files that end in .pcap or .pcapng, or name such files."));
        }
        inside.sort();
        files.extend(inside);
    }
    Ok(files)
}

fn inside_of(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let unreadable = || format!("cannot read the directory {}", directory.display());
    for entry in fs::read_dir(directory).or_fail(unreadable)? {
        let entry = entry.or_fail(unreadable)?;
        let path = entry.path();
        // A link to a directory is not followed, so this has an end.
        if entry.file_type().or_fail(unreadable)?.is_dir() {
            inside_of(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "pcap" || extension == "pcapng") {
            files.push(path);
        }
    }
    Ok(())
}

fn one(path: &Path, options: &Options, rewrite: bool) -> Result<Outcome, Failure> {
    let unreadable = || format!("cannot read {}", path.display());
    let len = fs::metadata(path).or_fail(unreadable)?.len();
    if len > LARGEST {
        return Err(Failure::new(unreadable())
            .because(format!("it has {len} bytes, and at most {LARGEST} can be played"))
            .advice("Split it, for example with `editcap -c`."));
    }
    let file = fs::read(path).or_fail(unreadable)?;
    let sidecar = Sidecar::beside(path).map_err(|err| Failure::new(format!("cannot play {}", path.display())).because_of(&err))?;
    let cannot = |err: &crate::replay::ReplayError| Failure::new(format!("cannot play {}", path.display())).because(err);
    if !rewrite {
        return Ok(Outcome::Played { report: replay(&file, sidecar, options).map_err(|err| cannot(&err))?, updated: false });
    }
    let (report, new) = update(&file, sidecar, options).map_err(|err| cannot(&err))?;
    let updated = !report.matches();
    if updated {
        replace(path, &new).or_fail(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Outcome::Played { report, updated })
}

/// Writes a file so that there is always a whole one under its name.
fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", process::id()));
    let new = path.with_file_name(name);
    let written = fs::write(&new, contents)
        .and_then(|()| fs::set_permissions(&new, fs::metadata(path)?.permissions()))
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        // The error tells more than that this failed too.
        let _ = fs::remove_file(&new);
    }
    written
}

impl Outcome {
    /// What the program exits with if this is the worst of all.
    const fn code(&self) -> u8 {
        match self {
            Self::Unusable { .. } => 2,
            // What was updated is as recorded now.
            Self::Played { updated: true, report: Report { problem: None, .. } } => 0,
            Self::Played { report, .. } if report.matches() && report.problem.is_none() => 0,
            Self::Played { .. } => 1,
        }
    }
}

fn json(recordings: &[Recording]) -> Result<String, Failure> {
    #[derive(Serialize)]
    struct Whole<'a> {
        matched: bool,
        recordings: &'a [Recording],
    }
    let matched = recordings.iter().all(|recording| recording.outcome.code() == 0);
    let text = serde_json::to_string_pretty(&Whole { matched, recordings });
    text.map(|text| text + "\n").map_err(|err| Failure::new("cannot write the results as JSON").because(err))
}

/// Results for people.
struct Printer {
    colour: bool,
}

impl Printer {
    fn all(&self, recordings: &[Recording]) -> String {
        let mut text = String::new();
        for recording in recordings {
            self.recording(&mut text, recording);
        }
        if recordings.len() > 1 {
            let count = |code: u8| recordings.iter().filter(|recording| recording.outcome.code() == code).count();
            let _ = write!(text, "{} recordings: {} as recorded", recordings.len(), count(0));
            for (code, what) in [(1, "not"), (2, "unusable")] {
                if count(code) > 0 {
                    let _ = write!(text, ", {} {what}", count(code));
                }
            }
            text.push('\n');
        }
        text
    }

    fn recording(&self, text: &mut String, Recording { file, outcome }: &Recording) {
        let file = file.display();
        let (report, updated) = match outcome {
            Outcome::Unusable { error } => {
                let _ = writeln!(text, "{} {error}", self.paint(RED, "error"));
                return;
            }
            Outcome::Played { report, updated } => (report, *updated),
        };
        let (colour, word) = match (report.matches(), updated) {
            (true, _) => (GREEN, "same"),
            (false, true) => (YELLOW, "updated"),
            (false, false) => (RED, "differs"),
        };
        let story = report.story.as_ref().map_or_else(String::new, |story| format!(": {story}"));
        let _ = writeln!(
            text,
            "{} {file}{story} ({} packets, {} of the engine{})",
            self.paint(colour, word),
            report.packets,
            report.compared,
            if report.matches() { String::new() } else { format!(", {} differences", report.differences.len()) }
        );
        for what in report.problem.iter().chain(&report.remarks) {
            let _ = writeln!(text, "  {} {what}", self.paint(YELLOW, "note:"));
        }
        for difference in report.differences.iter().take(PRINTED) {
            self.difference(text, difference);
        }
        if report.differences.len() > PRINTED {
            let _ = writeln!(text, "  and {} more; --json has them all", report.differences.len() - PRINTED);
        }
    }

    fn difference(&self, text: &mut String, difference: &Difference) {
        let Difference { packet, at_us, conversation, field, expected, got } = difference;
        let seconds = *at_us as f64 / 1e6;
        let packet = packet.map_or_else(|| "a packet that is not recorded".to_owned(), |number| format!("packet {number}"));
        let _ = writeln!(text, "  {packet} at {seconds:.6} s, {conversation}: {field}");
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
        let _ = writeln!(text, "    {}", self.paint(RED, &format!("- expected {}", value(expected))));
        let _ = writeln!(text, "    {}", self.paint(GREEN, &format!("+ got      {}", value(got))));
    }

    fn paint(&self, colour: u8, text: &str) -> String {
        if self.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Foreground colours (ECMA-48 section 8.3.117).
const RED: u8 = 31;
const GREEN: u8 = 32;
const YELLOW: u8 = 33;
