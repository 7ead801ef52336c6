//! The stories, a file for each subject.

mod arp;
mod dhcp;
mod dhcp6;
mod dns;
mod fragments;
mod guest_forwards;
mod icmp;
mod inbound;
mod loss;
mod malformed;
mod ndp;
mod networks;
mod offload;
mod tcp;
mod tftp;
mod udp;

use super::Story;

/// All stories.
pub fn all() -> Vec<Story> {
    [
        arp::STORIES,
        ndp::STORIES,
        dhcp::STORIES,
        dhcp6::STORIES,
        icmp::STORIES,
        udp::STORIES,
        dns::STORIES,
        tftp::STORIES,
        tcp::STORIES,
        loss::STORIES,
        offload::STORIES,
        inbound::STORIES,
        networks::STORIES,
        fragments::STORIES,
        guest_forwards::STORIES,
        malformed::STORIES,
    ]
    .concat()
}
