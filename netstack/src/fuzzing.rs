//! Ways into parsers that are private, for the fuzz targets (`fuzz/judge`).
//!
//! Behind the cargo feature `fuzzing`, and no part of what the library promises: it changes with what it leads to.

pub use crate::control::fuzzing as api;
pub use crate::gateway::dns::fuzzing as dns;
pub use crate::gateway::tftp::fuzzing as tftp;
pub use crate::port::stream::fuzzing as framing;
