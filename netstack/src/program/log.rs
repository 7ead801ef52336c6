//! What a program tells on standard error while it runs.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// Begins to tell what `filter` lets through, or what `usual` does. In colour only on a terminal.
pub fn begin(filter: Option<&str>, usual: &str) {
    let filter = filter.and_then(|filter| filter.parse().ok()).unwrap_or_else(|| EnvFilter::new(usual));
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colour)
        .with_target(false)
        .without_time()
        .compact()
        .init();
}

/// Checks what was given to `--log`, before anything happens.
///
/// # Errors
///
/// What is wrong with it.
pub fn check_filter(text: &str) -> Result<String, String> {
    match text.parse::<EnvFilter>() {
        Ok(_) => Ok(text.to_owned()),
        Err(err) => Err(err.to_string()),
    }
}
