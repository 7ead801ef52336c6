//! The commands, by what they are about.

mod forwards;
mod network;

pub use self::forwards::{AddHostfwd, Added, Hostfwd, HostfwdProtocol, Hostfwds, ListHostfwd, RemoveHostfwd};
pub use self::network::{CounterValues, Flows, GetCounters, GetInfo, Info, Ipv4Info, Ipv6Info, ListFlows, Shutdown, TcpFlow};
