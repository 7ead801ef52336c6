//! Whose a packet is: conversations, and which packets of a recording belong to each.
//!
//! What an engine sends is compared conversation by conversation, because how two of them interleave says nothing.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use etherparse::IpNumber;

use super::Logged;
use super::packet::{ACK, FIN, Icmp, RST, SYN, Tcp, Udp, ethernet, is_virtual};
use crate::addr::MacAddr;
use crate::pcap::write::Direction;
use crate::port::PortId;

const DHCP_SERVER: u16 = 67;
const ETHERTYPE_ARP: u16 = 0x0806;

/// What a conversation is between, and about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// A TCP connection.
    Tcp {
        /// The port behind which the guest is.
        port: PortId,
        /// The guest's end.
        guest: SocketAddr,
        /// The other end, as the guest sees it.
        remote: SocketAddr,
        /// Which of the connections between the two, counted from 1; 0 for segments that belong to none.
        number: usize,
    },
    /// Datagrams between two addresses.
    Udp {
        /// The port behind which the guest is.
        port: PortId,
        /// The guest's end.
        guest: SocketAddr,
        /// The other end, as the guest sees it.
        remote: SocketAddr,
    },
    /// ICMP messages: echoes by their identifier.
    Icmp {
        /// The port behind which the guest is.
        port: PortId,
        /// The guest.
        guest: IpAddr,
        /// The other host.
        remote: IpAddr,
        /// The identifier.
        identifier: u16,
    },
    /// ARP on a port.
    Arp(PortId),
    /// Neighbour discovery on a port.
    Discovery(PortId),
    /// DHCP and BOOTP of the client with this hardware address.
    Dhcp(MacAddr),
    /// Frames between guests, to this port.
    Switched {
        /// To which port.
        port: PortId,
        /// From which card.
        from: MacAddr,
    },
    /// All other frames of a port.
    Other(PortId),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { guest, remote, number: 0 | 1, .. } => write!(f, "TCP {guest} - {remote}"),
            Self::Tcp { guest, remote, number, .. } => write!(f, "TCP {guest} - {remote} (connection {number})"),
            Self::Udp { guest, remote, .. } => write!(f, "UDP {guest} - {remote}"),
            Self::Icmp { guest, remote, .. } => write!(f, "ICMP {guest} - {remote}"),
            Self::Arp(_) => f.write_str("ARP"),
            Self::Discovery(_) => f.write_str("neighbour discovery"),
            Self::Dhcp(client) => write!(f, "DHCP {client}"),
            Self::Switched { from, .. } => write!(f, "frames of {from} to another guest"),
            Self::Other(_) => f.write_str("other frames"),
        }
    }
}

/// Two ends of TCP connections, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    pub(super) port: PortId,
    pub(super) guest: SocketAddr,
    pub(super) remote: SocketAddr,
}

impl Ends {
    pub(super) fn of(port: PortId, direction: Direction, tcp: &Tcp) -> Self {
        let (guest, remote) = ends(direction, tcp.source, tcp.destination);
        Self { port, guest, remote }
    }

    pub(super) const fn key(&self, number: usize) -> Key {
        Key::Tcp { port: self.port, guest: self.guest, remote: self.remote, number }
    }
}

const fn ends<T: Copy>(direction: Direction, source: T, destination: T) -> (T, T) {
    match direction {
        Direction::FromGuest => (source, destination),
        Direction::ToGuest => (destination, source),
    }
}

/// Finds the conversation of a frame. `connection` says which connection between two ends it is.
pub(super) fn key_of(port: PortId, direction: Direction, frame: &[u8], connection: impl FnOnce(&Ends) -> usize) -> Key {
    let Some((source, destination, ethertype)) = ethernet(frame) else { return Key::Other(port) };
    let switched = match direction {
        Direction::FromGuest => !destination.is_multicast() && !is_virtual(destination),
        Direction::ToGuest => !is_virtual(source),
    };
    if switched {
        return Key::Switched { port, from: source };
    }
    if ethertype == ETHERTYPE_ARP {
        return Key::Arp(port);
    }
    if let Some(tcp) = Tcp::of(frame) {
        let ends = Ends::of(port, direction, &tcp);
        return ends.key(connection(&ends));
    }
    if let Some(udp) = Udp::of(frame) {
        let (guest, remote) = ends(direction, udp.source, udp.destination);
        let is_dhcp = remote.port() == DHCP_SERVER && remote.is_ipv4();
        // Behind the fixed fields of BOOTP (RFC 951): the client's hardware address.
        let client = frame.get(udp.payload).and_then(|message| message.get(28..34)?.first_chunk());
        return match client {
            Some(client) if is_dhcp => Key::Dhcp(MacAddr(*client)),
            _ => Key::Udp { port, guest, remote },
        };
    }
    let Some(icmp) = Icmp::of(frame) else { return Key::Other(port) };
    if icmp.is_discovery() {
        return Key::Discovery(port);
    }
    match icmp.error(frame).filter(|_| direction == Direction::ToGuest) {
        Some(error) if error.protocol == IpNumber::TCP => {
            let ends = Ends { port, guest: error.guest, remote: error.remote };
            ends.key(connection(&ends))
        }
        Some(error) if error.protocol == IpNumber::UDP => Key::Udp { port, guest: error.guest, remote: error.remote },
        Some(error) if error.is_of_echo() => {
            Key::Icmp { port, guest: error.guest.ip(), remote: error.remote.ip(), identifier: error.identifier }
        }
        _ => {
            let (guest, remote) = ends(direction, icmp.source, icmp.destination);
            Key::Icmp { port, guest, remote, identifier: icmp.identifier }
        }
    }
}

/// Which connection between two ends a packet belongs to, told packet by packet.
#[derive(Debug, Clone, Copy, Default)]
struct Current {
    number: usize,
    guest_isn: Option<u32>,
    engine_isn: Option<u32>,
    /// Whether the engine has said anything, and whether the connection has ended.
    answered: bool,
    ended: bool,
    fins: u8,
}

/// The conversation of each packet of a recording, in its order.
pub(super) fn assign(packets: &[Logged]) -> Vec<Key> {
    let mut current: HashMap<Ends, Current> = HashMap::new();
    let mut later = Later::of(packets);
    let mut keys = Vec::with_capacity(packets.len());
    for packet in packets {
        if let Some(tcp) = Tcp::of(&packet.bytes) {
            let ends = Ends::of(packet.port, packet.direction, &tcp);
            later.pass(&ends, packet);
            let challenged = || later.answers_with_a_mere_acknowledgement(&ends);
            current.entry(ends).or_default().take(packet.direction, &tcp, challenged);
        }
        keys.push(key_of(packet.port, packet.direction, &packet.bytes, |ends| {
            let current = current.entry(*ends).or_default();
            // An error ends the attempt.
            current.ended |= Tcp::of(&packet.bytes).is_none();
            current.number
        }));
    }
    keys
}

impl Current {
    fn take(&mut self, direction: Direction, tcp: &Tcp, challenged: impl FnOnce() -> bool) {
        match direction {
            Direction::FromGuest if tcp.opens() => {
                let new = self.guest_isn != Some(tcp.seq) || self.ended;
                // A guest that asks anew before it was answered has begun anew, and so has the engine's side of it.
                let unanswered = self.guest_isn.is_some() && !self.answered && !self.ended;
                if new && !unanswered && !(self.answered && !self.ended && challenged()) {
                    self.begin();
                }
                if !self.answered {
                    self.guest_isn = Some(tcp.seq);
                }
            }
            Direction::ToGuest if tcp.opens() => {
                if self.engine_isn != Some(tcp.seq) {
                    self.begin();
                }
                self.engine_isn = Some(tcp.seq);
                self.answered = true;
            }
            Direction::ToGuest => {
                if tcp.has(SYN) {
                    self.engine_isn = Some(tcp.seq);
                }
                self.answered = true;
            }
            Direction::FromGuest => {}
        }
        let bit = if direction == Direction::FromGuest { 1 } else { 2 };
        if tcp.has(FIN) {
            self.fins |= bit;
        }
        if tcp.has(RST) || self.fins == 3 {
            self.ended = true;
        }
    }

    fn begin(&mut self) {
        *self = Self { number: self.number + 1, ..Self::default() };
    }
}

/// What the engine will say next, to each two ends.
#[derive(Debug, Default)]
struct Later<'a> {
    answers: HashMap<Ends, std::collections::VecDeque<&'a Logged>>,
}

impl<'a> Later<'a> {
    fn of(packets: &'a [Logged]) -> Self {
        let mut later = Self::default();
        for packet in packets.iter().filter(|packet| packet.direction == Direction::ToGuest) {
            if let Some(tcp) = Tcp::of(&packet.bytes) {
                later.answers.entry(Ends::of(packet.port, packet.direction, &tcp)).or_default().push_back(packet);
            }
        }
        later
    }

    fn pass(&mut self, ends: &Ends, packet: &Logged) {
        if packet.direction == Direction::ToGuest
            && let Some(answers) = self.answers.get_mut(ends)
        {
            answers.pop_front();
        }
    }

    /// Whether a new SYN is only asked back (RFC 5961 section 4): the connection that there is goes on.
    fn answers_with_a_mere_acknowledgement(&self, ends: &Ends) -> bool {
        let next = self.answers.get(ends).and_then(std::collections::VecDeque::front);
        next.and_then(|packet| Tcp::of(&packet.bytes)).is_some_and(|tcp| tcp.has(ACK) && !tcp.has(SYN) && !tcp.has(RST))
    }
}
