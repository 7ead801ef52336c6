//! `slipway`: see [`netstack::program`].

use std::process::ExitCode;

fn main() -> ExitCode {
    netstack::program::main()
}
