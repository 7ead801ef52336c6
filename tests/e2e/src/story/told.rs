//! The stories, a file for each subject.

mod arp;
mod dhcp;
mod icmp;
mod ndp;
mod tcp;
mod udp;

use super::Story;

/// All stories.
pub fn all() -> Vec<Story> {
    [arp::STORIES, dhcp::STORIES, ndp::STORIES, icmp::STORIES, udp::STORIES, tcp::STORIES].concat()
}
