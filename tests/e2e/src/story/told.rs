//! The stories, a file for each subject.

mod arp;
mod tcp;

use super::Story;

/// All stories.
pub fn all() -> Vec<Story> {
    [arp::STORIES, tcp::STORIES].concat()
}
