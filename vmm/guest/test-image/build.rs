//! Builds the image of `probe-independent`. Not by the build script of `vmm`, because only tests boot it.

use std::process::ExitCode;

#[path = "../image.rs"]
mod image;

fn main() -> ExitCode {
    image::embed("probe-independent", false)
}
