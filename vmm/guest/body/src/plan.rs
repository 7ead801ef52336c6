//! What the guest is to do, as the words of its kernel command line: `probe nic=e1000 ping=10.0.2.2 up=10.0.2.2:4000 bytes=1000000`.
//!
//! Whoever starts the guest writes a [`Plan`] with `to_string`; the guest reads it back with [`Plan::parse`]. Every step but the lease is
//! left out unless it is asked for.

use core::fmt;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::str::FromStr;

/// The word that a command line for this guest begins with.
const FIRST: &str = "probe";

/// What to do, in this order: lease, ping, name, up, down, serve.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Plan<'a> {
    /// `nic=`: which card to drive.
    pub nic: NicKind,
    /// `wait=`: how to wait for frames.
    pub wait: Wait,
    /// `ping=`: whom to ping.
    pub ping: Option<Ipv4Addr>,
    /// `name=`: the name to look up.
    pub name: Option<&'a str>,
    /// `up=`: the server that takes bytes and answers with their count and checksum.
    pub up: Option<SocketAddrV4>,
    /// `down=`: the server that sends as many bytes as it is asked for.
    pub down: Option<SocketAddrV4>,
    /// `bytes=`: how many bytes to move each way.
    pub bytes: u64,
    /// `serve=`: the TCP port on which to echo one connection to its end.
    pub serve: Option<u16>,
    /// `tsc_khz=`: the frequency of the time-stamp counter, if the one who starts the guest knows it.
    pub tsc_khz: Option<u64>,
}

/// Which card.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NicKind {
    /// The first one that there is a driver for.
    #[default]
    Auto,
    /// A modern virtio-net function.
    VirtioNet,
    /// An Intel 82540EM.
    E1000,
}

impl NicKind {
    /// Its name in a plan and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::VirtioNet => "virtio-net",
            Self::E1000 => "e1000",
        }
    }
}

/// How the guest waits for frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wait {
    /// Halted, after a short look, until the card interrupts: MSI-X for virtio-net, INTx for the e1000. Leaves the processor to others.
    #[default]
    Interrupt,
    /// By looking at the rings again and again.
    Poll,
}

impl Wait {
    const fn name(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Interrupt => "interrupt",
        }
    }
}

/// A word of the command line that cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanError<'a>(pub &'a str);

impl fmt::Display for PlanError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the command line has `{}`, which means nothing to this guest", self.0)
    }
}

impl core::error::Error for PlanError<'_> {}

impl<'a> Plan<'a> {
    /// Reads a command line. A leading `probe` is skipped.
    ///
    /// # Errors
    ///
    /// When a word is not known or its value makes no sense: then that word.
    pub fn parse(line: &'a str) -> Result<Self, PlanError<'a>> {
        let mut plan = Self::default();
        for (index, word) in line.split_ascii_whitespace().enumerate() {
            if index == 0 && word == FIRST {
                continue;
            }
            plan.word(word).ok_or(PlanError(word))?;
        }
        Ok(plan)
    }

    fn word(&mut self, word: &'a str) -> Option<()> {
        let (key, value) = word.split_once('=')?;
        match key {
            "nic" => {
                self.nic = [NicKind::Auto, NicKind::VirtioNet, NicKind::E1000].into_iter().find(|kind| kind.name() == value)?;
            }
            "wait" => self.wait = [Wait::Poll, Wait::Interrupt].into_iter().find(|wait| wait.name() == value)?,
            "ping" => self.ping = Some(parsed(value)?),
            "name" => self.name = Some(value),
            "up" => self.up = Some(parsed(value)?),
            "down" => self.down = Some(parsed(value)?),
            "bytes" => self.bytes = parsed(value)?,
            "serve" => self.serve = Some(parsed(value)?),
            "tsc_khz" => self.tsc_khz = Some(parsed(value)?),
            _ => return None,
        }
        Some(())
    }
}

fn parsed<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

impl fmt::Display for Plan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FIRST} nic={} wait={}", self.nic.name(), self.wait.name())?;
        if let Some(to) = self.ping {
            write!(f, " ping={to}")?;
        }
        if let Some(name) = self.name {
            write!(f, " name={name}")?;
        }
        if let Some(server) = self.up {
            write!(f, " up={server}")?;
        }
        if let Some(server) = self.down {
            write!(f, " down={server}")?;
        }
        if self.bytes != 0 {
            write!(f, " bytes={}", self.bytes)?;
        }
        if let Some(port) = self.serve {
            write!(f, " serve={port}")?;
        }
        if let Some(khz) = self.tsc_khz {
            write!(f, " tsc_khz={khz}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn a_plan_is_read_back_as_it_was_written() {
        let server = SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 2), 4000);
        let full = Plan {
            nic: NicKind::E1000,
            wait: Wait::Poll,
            ping: Some(Ipv4Addr::new(10, 0, 2, 2)),
            name: Some("gateway.slipway.internal"),
            up: Some(server),
            down: Some(server),
            bytes: 1 << 40,
            serve: Some(7),
            tsc_khz: Some(2_596_000),
        };
        for plan in [full, Plan::default()] {
            assert_eq!(Plan::parse(&plan.to_string()), Ok(plan));
        }
    }

    #[test]
    fn the_word_that_makes_no_sense_is_named() {
        for line in ["probe nic=ne2000", "nic=ne2000 ping=10.0.2.2", "probe ping=10.0.2.2 nic=ne2000"] {
            assert_eq!(Plan::parse(line), Err(PlanError("nic=ne2000")));
        }
        assert_eq!(Plan::parse("probe quiet"), Err(PlanError("quiet")));
        assert_eq!(Plan::parse("serve=65536"), Err(PlanError("serve=65536")));
        assert_eq!(Plan::parse(""), Ok(Plan::default()));
    }
}
