//! `--pcap`: what all subcommands with an engine take to record its traffic.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::capture::{CaptureConfig, CaptureError, Filter, Opened, Rotation};
use clap::Args;

use crate::program::failure::{Failure, OrFail};

/// Files that a rotation keeps if nothing else is said.
const FILES: u32 = 10;

/// The smallest file that a rotation may ask for, in bytes: the descriptions at its beginning and a frame or two fit.
const SIZE_MIN: u64 = 4096;

/// Under which heading `--help` has the options.
const HEADING: &str = "Recording";

/// What is recorded, and where to.
#[derive(Debug, Clone, Args)]
pub(crate) struct CaptureArgs {
    /// Record all frames into this pcapng file, which only you may read; `-` is standard output, for a pipe
    #[arg(long, help_heading = HEADING, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Record only what this chooses, such as `host 10.0.2.15 and not port 22`, `tcp portrange 80-90` or `drops`
    #[arg(long, help_heading = HEADING, value_name = "EXPR", requires = "pcap")]
    pcap_filter: Option<Filter>,
    /// Record at most so many bytes of each frame [default: all]
    #[arg(long, help_heading = HEADING, value_name = "N", requires = "pcap", value_parser = clap::value_parser!(u32).range(64..=262_144))]
    pcap_snaplen: Option<u32>,
    /// Begin a new file at this size (K, M, G), and keep so many [default: 10]: FILE is the newest, FILE.1 the one before
    #[arg(long, help_heading = HEADING, value_name = "SIZE[,FILES]", requires = "pcap")]
    pcap_rotate: Option<Rotate>,
    /// Record the frames of at most the MTU for which a large frame stands, rather than the large frame
    #[arg(long, help_heading = HEADING, requires = "pcap")]
    pcap_segment: bool,
}

/// Who else writes to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StandardOutput {
    /// Nobody.
    Free,
    /// The command that is run.
    Taken,
}

impl CaptureArgs {
    /// Opens what is to be recorded into, if anything. `user` is the value of `--user`.
    ///
    /// # Errors
    ///
    /// When it cannot be opened, or is standard output where that makes no sense.
    pub(crate) fn open(&self, user: &str, output: StandardOutput) -> Result<Option<Opened>, Failure> {
        let Some(path) = &self.pcap else { return Ok(None) };
        let mut config = if path == Path::new("-") { to_standard_output(output)? } else { CaptureConfig::to_file(path.as_path()) };
        config.filter.clone_from(&self.pcap_filter);
        config.snaplen = self.pcap_snaplen.unwrap_or(0);
        config.rotation = self.pcap_rotate.map(|Rotate(rotation)| rotation);
        config.segment = self.pcap_segment;
        config.user = Some(user.to_owned());
        config.open().map(Some).map_err(|error| explain(&error))
    }
}

/// Why a capture has not begun, and what to do.
pub(crate) fn explain(error: &CaptureError) -> Failure {
    let failure = Failure::new(String::new()).because_of(error);
    match error {
        CaptureError::Create { path, source } => {
            let failure = Failure::new(format!("cannot record into {}", path.display())).because(source);
            match source.kind() {
                io::ErrorKind::NotFound => failure.advice("Make its directory first."),
                io::ErrorKind::PermissionDenied => failure.advice("Choose a file in a directory that you may write to."),
                io::ErrorKind::IsADirectory => failure.advice("Choose the name of a file."),
                _ => failure,
            }
        }
        CaptureError::Rotation(to) => Failure::usage("--pcap-rotate needs a file")
            .because(format!("{to} is none"))
            .advice("Leave --pcap-rotate out, or record into a file."),
        _ => failure,
    }
}

fn to_standard_output(output: StandardOutput) -> Result<CaptureConfig, Failure> {
    let refused = Failure::usage("cannot record to standard output");
    if output == StandardOutput::Taken {
        return Err(refused.because("the command that is run writes there too").advice(
            "Record into a file or a named pipe, or into a descriptor of its own: `slipway shell --pcap /dev/fd/3 -- CMD 3>FILE`.",
        ));
    }
    if io::stdout().is_terminal() {
        let refused = refused.because("it is a terminal, and a recording is no text");
        return Err(refused.advice("Pipe it into a program that reads it: `slipway netns --pcap - PID | tshark -r -`."));
    }
    let descriptor = io::stdout().as_fd().try_clone_to_owned().or_fail(|| "cannot use standard output")?;
    Ok(CaptureConfig::to_stream("standard output", File::from(descriptor)))
}

/// A `--pcap-rotate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rotate(Rotation);

impl FromStr for Rotate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (size, files) = text.split_once(',').map_or((text, None), |(size, files)| (size, Some(files)));
        let digits = size.trim_end_matches(['K', 'M', 'G']);
        let unit = match &size[digits.len()..] {
            "" => 1,
            "K" => 1 << 10,
            "M" => 1 << 20,
            "G" => 1 << 30,
            _ => return Err(format!("`{size}` is no size such as 100M")),
        };
        let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        let size = number.ok_or_else(|| format!("`{size}` is no size such as 100M"))?;
        if size < SIZE_MIN {
            return Err(format!("a file of {size} bytes is too small: take at least {SIZE_MIN}"));
        }
        let files = files.map_or(Ok(FILES), |files| {
            let number = files.parse().ok().filter(|files| (1..=10_000).contains(files));
            number.ok_or_else(|| format!("`{files}` is no number of files from 1 to 10000"))
        })?;
        Ok(Self(Rotation { size, files }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let rotate = |text: &str| text.parse().map(|Rotate(Rotation { size, files })| (size, files));
        assert_eq!(rotate("4096"), Ok((4096, 10)));
        assert_eq!(rotate("100M,3"), Ok((100 << 20, 3)));
        assert_eq!(rotate("2G,1"), Ok((2 << 30, 1)));
        for wrong in ["", "M", "1T", "1KK", "-1M", "99999999999G", "100", "1M,", "1M,0", "1M,x", "1M,99999", "ä"] {
            assert!(rotate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_output_of_a_command_stays_its_own() {
        let failure = to_standard_output(StandardOutput::Taken).unwrap_err();
        assert_eq!(failure.code(), 2);
        assert!(failure.to_string().contains("/dev/fd/3"), "{failure}");
    }

    #[test]
    fn a_file_that_cannot_be_made_is_named() {
        let args = CaptureArgs {
            pcap: Some("/nowhere/at/all.pcapng".into()),
            pcap_filter: None,
            pcap_snaplen: None,
            pcap_rotate: None,
            pcap_segment: false,
        };
        let failure = args.open("", StandardOutput::Free).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "cannot record into /nowhere/at/all.pcapng: no such file or directory. Make its directory first."
        );
    }

    #[test]
    fn a_device_is_not_rotated() {
        let args = CaptureArgs {
            pcap: Some("/dev/null".into()),
            pcap_filter: None,
            pcap_snaplen: None,
            pcap_rotate: "1M".parse().ok(),
            pcap_segment: false,
        };
        assert_eq!(args.open("", StandardOutput::Free).unwrap_err().code(), 2);
    }
}
