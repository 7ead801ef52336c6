//! Views and builders that etherparse and smoltcp do not have, and nothing that they do have.

pub mod checksum;
pub(crate) mod domain_names;
pub mod icmp_error;
pub(crate) mod router_advertisement;
