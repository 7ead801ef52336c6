//! Stories of guests, the stack and the world, in virtual time.
//!
//! The stack under test is the real one. Guests are smoltcp, or the test itself, frame by frame; the host is
//! [`netstack::host::sim::SimHost`]. Nothing here waits, and every run follows from its seed.
#![expect(clippy::unwrap_used, reason = "a story that cannot go on says where by panicking")]

mod chaos;
mod closing;
mod download;
mod errors;
mod forwards;
mod found;
mod fragments;
mod guest_forwards;
mod hostile;
mod inbound;
mod leaving;
mod limits;
mod neighbours;
mod opening;
mod ping;
mod review;
mod sequence;
mod services;
mod storm;
mod tftp;
mod udp;
mod upload;

use netstack::sim as kit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A server on the Internet, in both families: a story about TCP is told for each.
const SERVERS: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), 80),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7)), 80),
];
