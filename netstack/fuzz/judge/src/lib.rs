//! What must hold of netstack whatever it is given: the substance of the fuzz targets.
//!
//! Each module is a target. Its `judge` takes any bytes at all and panics if netstack, given what they say, does something that it must
//! not; a fuzzer calls it with what it makes up, and an ordinary test with the inputs that once made it panic. Its `seeds` are inputs to
//! begin with, each of which gets far.
//!
//! | module | what is given | what is asked |
//! |---|---|---|
//! | [`frame`] | one frame with its offload state | headers, segmentation, switch and stack agree, and what comes out is right |
//! | [`dhcp`] | messages, and time | no address for two clients, and answers that others can read |
//! | [`dhcp6`] | messages, and time | likewise, and answers that fit the smallest packet |
//! | [`dns`] | questions, servers' answers, files | answers fit their questions, nothing outlives its TTL |
//! | [`tftp`] | datagrams to the TFTP server | what is passed on is what was understood, and what is not is refused by its number |
//! | [`config`] | the texts that users write | what is accepted works and can be written again, what is refused is told why |
//! | [`api`] | requests to the API, in pieces | what is understood is understood again, what is not is refused in words |
//! | [`capture_file`] | a capture file | what can be read is, can be written again, and harms no engine |
//! | [`reassembly`] | fragments, and time | exactly the datagrams that were cut come out, or nothing |
//! | [`stream_framing`] | a stream in pieces | every frame comes out whole and once |
//! | [`engine`] | guests and a host's network at work | limits hold, bytes stay in order, everything ends |
//!
//! Inputs of more than one part are read by a [`script::Script`], so that they can be written by hand and keep their meaning when a
//! target learns something new.
#![expect(clippy::missing_panics_doc, reason = "to panic is how all of this tells what is wrong")]

pub mod api;
pub mod capture_file;
pub mod config;
pub mod dhcp;
pub mod dhcp6;
pub mod dns;
pub mod engine;
pub mod frame;
pub mod reassembly;
pub mod recordings;
pub mod script;
pub mod seeds;
pub mod stream_framing;
pub mod tftp;

/// A fuzz target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, which is also its module's.
    pub name: &'static str,
    /// What it asks of an input.
    pub judge: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 11] = [
    Target { name: "api", judge: api::judge, seeds: api::seeds },
    Target { name: "frame", judge: frame::judge, seeds: frame::seeds },
    Target { name: "dhcp", judge: dhcp::judge, seeds: dhcp::seeds },
    Target { name: "dhcp6", judge: dhcp6::judge, seeds: dhcp6::seeds },
    Target { name: "dns", judge: dns::judge, seeds: dns::seeds },
    Target { name: "tftp", judge: tftp::judge, seeds: tftp::seeds },
    Target { name: "config", judge: config::judge, seeds: config::seeds },
    Target { name: "capture_file", judge: capture_file::judge, seeds: capture_file::seeds },
    Target { name: "reassembly", judge: reassembly::judge, seeds: reassembly::seeds },
    Target { name: "stream_framing", judge: stream_framing::judge, seeds: stream_framing::seeds },
    Target { name: "engine", judge: engine::judge, seeds: engine::seeds },
];
