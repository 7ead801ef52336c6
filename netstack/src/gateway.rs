//! What lives at the virtual addresses of the guests' network.

pub mod dhcp;
pub mod dns;
pub mod files;
pub mod tftp;
