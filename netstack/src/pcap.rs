//! Capture files: pcap and pcapng.
//!
//! | module | what is there |
//! |---|---|
//! | [`read`] | reading either format, whoever wrote it |

pub mod read;
