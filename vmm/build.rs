//! Builds the image of the probe guest, which is embedded in the library: see `src/probe.rs`.

use std::process::ExitCode;

#[path = "guest/image.rs"]
mod image;

fn main() -> ExitCode {
    // Everything that the guest is made of is part of the outer build too, so nothing need be fetched.
    image::embed("probe", true)
}
