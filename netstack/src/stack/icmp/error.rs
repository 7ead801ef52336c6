//! What guests are told when something is wrong with what they have sent.
//!
//! An error quotes the packet that it is about, and guests find by the quote whom to tell. So it is always the packet as the guest knows it:
//! from its own address, to the address that it wrote. Nothing of what the host's sockets have made of it is ever quoted, nor is any address
//! of the host the sender of an error; the gateway speaks for it.

use std::io;
use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::{IPV6_HEADER_LEN, IpProtocol, UDP_HEADER_LEN};

use crate::frame::{ETHERNET_HEADER, Frame};
use crate::host::{DatagramError, Teller};
use crate::stack::emit::{self, HOP_LIMIT, Path};
use crate::stack::neighbour::Station;
use crate::stack::{Context, Shared, icmp};
use crate::wire::checksum;
use crate::wire::icmp_error::{self, HEADER, MAX_QUOTE_V6, Problem, Unreachable};

/// The packet that an error is about, as the guest has sent it: all of it, or its beginning.
#[derive(Debug, Clone)]
pub(crate) struct Quote {
    guest: IpAddr,
    packet: Vec<u8>,
}

impl Quote {
    /// The packet in a frame that has just come from `guest`.
    pub(crate) fn of_frame(guest: IpAddr, frame: &Frame<'_>) -> Self {
        let mut packet = vec![0; MAX_QUOTE_V6];
        let len = frame.copy_to(ETHERNET_HEADER, &mut packet);
        packet.truncate(len);
        Self::of_packet(guest, &packet)
    }

    /// A packet of `guest` that begins like this.
    pub(crate) fn of_packet(guest: IpAddr, packet: &[u8]) -> Self {
        let mut packet = packet.get(..MAX_QUOTE_V6).unwrap_or(packet).to_vec();
        // What follows a short packet in its frame is no part of it.
        let field = if guest.is_ipv4() { packet.get(2..4) } else { packet.get(4..6) };
        if let Some(&[high, low]) = field {
            packet.truncate(usize::from(u16::from_be_bytes([high, low])) + if guest.is_ipv4() { 0 } else { 40 });
        }
        Self { guest, packet }
    }

    /// A packet of which only this much is known any more.
    pub(crate) fn rebuilt(guest: IpAddr, remote: IpAddr, protocol: IpProtocol, transport: &[u8]) -> Self {
        Self { guest, packet: icmp_error::packet(guest, remote, protocol, HOP_LIMIT, transport) }
    }

    /// A UDP datagram of which only this much of the payload is known any more.
    pub(crate) fn datagram(guest: SocketAddr, remote: SocketAddr, payload: &[u8]) -> Self {
        let len = UDP_HEADER_LEN + payload.len();
        let mut transport = Vec::with_capacity(len);
        transport.extend(guest.port().to_be_bytes());
        transport.extend(remote.port().to_be_bytes());
        transport.extend(u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
        transport.extend([0; 2]);
        transport.extend(payload);
        // Some who trace routes know their datagrams by the checksum.
        let sum = !smoltcp::wire::checksum::combine(&[
            checksum::pseudo_header(guest.ip(), remote.ip(), IpProtocol::Udp, len),
            smoltcp::wire::checksum::data(&transport),
        ]);
        transport[6..8].copy_from_slice(&if sum == 0 { u16::MAX } else { sum }.to_be_bytes());
        Self::rebuilt(guest.ip(), remote.ip(), IpProtocol::Udp, &transport)
    }

    /// An echo request of which only this much is known any more: its message, with an identifier that is not the guest's.
    pub(crate) fn echo_request(guest: IpAddr, remote: IpAddr, id: u16, message: &[u8]) -> Self {
        let mut message = message.to_vec();
        message.resize(message.len().max(HEADER), 0);
        message[4..6].copy_from_slice(&id.to_be_bytes());
        icmp_error::fill_checksum(guest, remote, &mut message);
        Self::rebuilt(guest, remote, icmp::protocol(guest.is_ipv4()), &message)
    }

    /// Whether it is an ICMP error itself, or a redirect.
    fn is_error(&self) -> bool {
        let byte = |at: usize| self.packet.get(at).copied();
        let at = match byte(0).map(|first| (first >> 4, usize::from(first & 15) * 4)) {
            Some((4, header)) if byte(9) == Some(1) => header,
            Some((6, _)) if byte(6) == Some(58) => IPV6_HEADER_LEN,
            _ => return false,
        };
        let message = self.packet.get(at..).unwrap_or_default();
        icmp::Kind::of(self.guest.is_ipv4(), message) == icmp::Kind::Error
    }
}

/// The code of a parameter problem of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ParameterProblem {
    /// An erroneous field.
    Field = 0,
    /// A protocol or an extension header that is not known.
    NextHeader = 1,
    /// An option that is not known, and says that this matters.
    Option = 2,
    /// A first fragment in which not all headers are (RFC 7112).
    HeaderChain = 3,
}

/// Tells the sender of a packet to `destination` what is wrong with the packet itself: it is too big, it cannot be read, or it never came to
/// be whole. Nobody is told of an ICMP error, nor of a packet to a group, but for what RFC 4443 section 2.4 (e.3) allows.
pub(crate) fn report(
    cx: &mut Context<'_>,
    shared: &mut Shared,
    station: Station,
    destination: IpAddr,
    problem: Problem,
    quote: &Quote,
) {
    let to_group = shared.policy.is_group(destination);
    let even_so = matches!(problem, Problem::Parameter { code, .. } if code == ParameterProblem::Option as u8);
    if to_group && !even_so || !shared.policy.is_guest_address(quote.guest) || quote.is_error() {
        return;
    }
    let at_virtual_host = shared.policy.is_virtual_host(destination).then_some(destination);
    if let Some(source) = at_virtual_host.or_else(|| shared.policy.gateway(quote.guest.is_ipv4())) {
        send(cx, shared, station, source, problem, quote);
    }
}

/// The gateway tells a guest that something is wrong with what it has sent.
pub(crate) fn tell(cx: &mut Context<'_>, shared: &mut Shared, station: Station, problem: Problem, quote: &Quote) {
    if let Some(gateway) = shared.policy.gateway(quote.guest.is_ipv4()) {
        send(cx, shared, station, gateway, problem, quote);
    }
}

/// Tells a guest what the host's network says of what it has sent. `seen` is the address that it has sent it to.
pub(crate) fn relay(
    cx: &mut Context<'_>,
    shared: &mut Shared,
    station: Station,
    error: &DatagramError,
    seen: IpAddr,
    quote: &Quote,
) {
    let v4 = quote.guest.is_ipv4();
    let teller = match error.teller {
        Teller::Socket | Teller::ThisHost => None,
        Teller::Other(ip) if ip == error.destination.ip() => Some(seen),
        Teller::Other(ip) => shared.policy.as_seen_by_guest(ip).filter(|ip| ip.is_ipv4() == v4),
    };
    if let Some(source) = teller.or_else(|| shared.policy.gateway(v4)) {
        send(cx, shared, station, source, error.problem, quote);
    }
}

fn send(cx: &mut Context<'_>, shared: &mut Shared, station: Station, source: IpAddr, problem: Problem, quote: &Quote) {
    if !shared.icmp_errors.allow(cx.now, station.port) {
        shared.counters.icmp_limit_errors += 1;
        return;
    }
    let path = Path { station, router: shared.router_mac(source), source, destination: quote.guest };
    let message = problem.message(source, quote.guest, &quote.packet, cx.link.mtu(station.port).into());
    shared.counters.icmp_errors_out += 1;
    emit::send_message(cx, shared, &path, icmp::protocol(quote.guest.is_ipv4()), HOP_LIMIT, &message);
}

/// What a guest is to be told when the host could not send what it had sent. `None` if it is not the way's fault, or, with `EMSGSIZE`, the
/// socket itself tells more by [`crate::host::Host::take_datagram_error`].
pub(crate) fn problem_of(error: &io::Error) -> Option<Problem> {
    Some(Problem::Unreachable(match error.raw_os_error()? {
        libc::ENETUNREACH | libc::ENETDOWN => Unreachable::Network,
        libc::EHOSTUNREACH | libc::EHOSTDOWN => Unreachable::Host,
        libc::EACCES | libc::EPERM => Unreachable::Prohibited,
        _ => return None,
    }))
}
