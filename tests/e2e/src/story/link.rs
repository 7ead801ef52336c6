//! What a story plays against: a network that takes frames and sends some, and a host with peers on it.
//!
//! There are two. [`super::live`] is a program of the real world behind a socket, and peers on the loopback interface.
//! [`super::simulated`] is the engine's core in virtual time, and peers of a simulated host. A story cannot tell them apart, but for
//! what only one of them can do, and it says so when it asks for that.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use netstack::frame::FrameMeta;
use netstack::host::sim::SimHost;

/// A frame and its offload state.
pub type Sent = (Vec<u8>, FrameMeta);

/// What somebody on the host's side does with a stream, as a server or as a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Sends back what comes, and closes after the end.
    Echo,
    /// Reads everything, and closes after the end.
    Sink,
    /// Sends this, then an end, and reads everything.
    Says(&'static [u8]),
    /// Sends this, reads everything, and closes after the end.
    Greets(&'static [u8]),
    /// Sends so many bytes of [`pattern_of`], then an end, and reads everything.
    Pattern(u64),
    /// Reads so many bytes, then closes.
    ClosesAfter(u64),
    /// Reads so many bytes, then resets the connection.
    ResetsAfter(u64),
    /// Reads everything to the end, then sends this and closes.
    Concludes(&'static [u8]),
    /// Refuses connections.
    Refuses,
    /// Cannot be reached: its network says so. Simulated only.
    Unreachable,
    /// Never answers a connection attempt. Simulated only.
    Silent,
    /// Reads nothing for so long, behind a send queue of so many bytes, then everything. Simulated only.
    Sleeps {
        /// How long.
        time: Duration,
        /// How many bytes.
        queue: usize,
    },
}

/// What somebody on the host's side does with datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datagrams {
    /// Sends each back.
    Echo,
    /// Only takes them.
    Silent,
    /// Sends each back three times.
    Thrice,
    /// Is not there.
    Closed,
}

/// How the host's resolver answers a datagram, if it does.
pub type Resolver = fn(&[u8]) -> Option<Vec<u8>>;

/// The network that a story plays against.
pub trait Link: fmt::Debug {
    /// Sends a frame as the guest.
    fn send(&mut self, frame: &[u8], meta: FrameMeta);

    /// The next frame to the guest, if one comes within that time.
    fn receive(&mut self, patience: Duration) -> Option<Sent>;

    /// The time since the link is there.
    fn now(&self) -> Duration;

    /// How long to wait for what is expected to come.
    fn patience(&self) -> Duration;

    /// How long to wait for what is not expected to come.
    fn silence(&self) -> Duration;

    /// Whether time and the host are ours to make.
    fn is_simulated(&self) -> bool;

    /// Puts a server on the host, which listens at its loopback address of that family; returns where the guest reaches it.
    fn serve(&mut self, ipv6: bool, stream: Stream) -> SocketAddr;

    /// Puts a server of datagrams there.
    fn serve_datagrams(&mut self, ipv6: bool, datagrams: Datagrams) -> SocketAddr;

    /// Has a stranger send a datagram to the address at which that server saw the guest last. Returns whether it could.
    fn stranger(&mut self, server: SocketAddr, data: &[u8]) -> bool;

    /// Has a client connect to the forward of this network, and behave like that.
    fn dial(&mut self, stream: Stream);

    /// Has a client send a datagram to the forward of this network.
    fn post(&mut self, data: &'static [u8]);

    /// Puts a server into the simulated world, at this address.
    ///
    /// # Panics
    ///
    /// Where the world is the real one.
    fn simulated(&mut self, address: SocketAddr, stream: Stream);

    /// The simulated world itself: ways, routers and hosts far away can be had only there.
    ///
    /// # Panics
    ///
    /// Where the world is the real one.
    fn world(&mut self) -> &mut SimHost;

    /// What the command of the network's first forward from guests does, where commands cannot be run.
    fn commands(&mut self, stream: Stream);

    /// How the host's resolver answers a datagram, and what comes over a stream. Simulated only; a real network asks a real resolver.
    fn resolves(&mut self, datagrams: Resolver, stream: fn(&[u8]) -> Vec<u8>);
}

/// The files that `{files}` in a network's options stands for, and how many bytes of [`pattern_of`] they have.
pub const FILES: [(&str, usize); 2] = [("small", 300), ("large", 1300)];

/// The first bytes of what [`Stream::Pattern`] sends.
pub fn pattern_of(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    netstack::host::sim::pattern(0, &mut bytes);
    bytes
}

/// The address of the host's own that this one of the guest's network stands for.
pub const fn loopback(ipv6: bool) -> IpAddr {
    if ipv6 { IpAddr::V6(std::net::Ipv6Addr::LOCALHOST) } else { IpAddr::V4(std::net::Ipv4Addr::LOCALHOST) }
}
