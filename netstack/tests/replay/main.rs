//! Stories that are recorded, played again, and changed, to see that every change is found and named.
#![expect(clippy::unwrap_used, reason = "a story that cannot go on says where by panicking")]

mod files;
mod guest;

mod broken;
mod real;
mod stories;
