//! A user-mode NAT engine: it gives virtual machines and network namespaces a network without root.
#![doc = ""]

pub mod addr;
pub mod config;
pub mod engine;
pub mod frame;
pub mod gateway;
pub mod host;
pub mod port;
pub mod stack;
pub mod switch;
pub mod time;
pub mod wire;
