//! The commands, by what they are about.

mod captures;
mod forwards;
mod guests;
mod network;

pub use self::captures::{CaptureTable, ListCaptures, StartCapture, Started, StopCapture};
pub use self::forwards::{AddHostfwd, Added, Hostfwd, HostfwdProtocol, Hostfwds, ListHostfwd, RemoveHostfwd};
pub use self::guests::{LeaseEntry, LeaseTable, ListLeases, ListPorts, PortEntry, PortTable, SetLink};
pub use self::network::{
    CachedAnswer, CounterValues, Dns, DnsServer, Flows, GetCounters, GetDns, GetInfo, GuestName, Info, Ipv4Info, Ipv6Info,
    ListFlows, Shutdown, TcpFlow, UdpFlow,
};
