//! Capture files: what is written into them, and what is read from them.
//!
//! A recording is a pcapng file (draft-ietf-opsawg-pcapng) that every tool reads. What the format has no field for, such as the flow that
//! a frame belongs to or why it was dropped, stands in comments that people can read and programs can parse: see [`note`].

pub mod note;
pub mod read;
pub mod write;
