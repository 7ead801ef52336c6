//! What lives at the virtual addresses of the guests' network.

pub(crate) mod command;
pub mod dhcp;
pub mod dhcp6;
pub mod dns;
pub mod files;
pub(crate) mod guest_forward;
pub mod hook;
pub mod http;
pub mod lease;
pub mod smb;
pub mod tftp;
