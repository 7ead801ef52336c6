//! Telling a guest by ICMP what is wrong with a packet itself (RFC 792, RFC 4443): it is too big, it cannot be read, or it never came to
//! be whole.
//!
//! What always holds: nobody is told of an ICMP error, of a packet to a group (but for what RFC 4443 section 2.4 (e.3) allows), or of a
//! later fragment.

use std::net::IpAddr;

use smoltcp::wire::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, IpProtocol, checksum as sum};

use super::emit::{self, HOP_LIMIT, Path};
use super::neighbour::Station;
use super::{Context, Shared};

/// Bytes before what is quoted.
const ICMP_HEADER: usize = 8;

/// The longest message: what every link carries (RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 (c)).
const LONGEST_V4: usize = 576;
const LONGEST_V6: usize = 1280;

/// The most that is quoted of a packet.
pub(crate) const LONGEST_QUOTE: usize = LONGEST_V6 - IPV6_HEADER_LEN - ICMP_HEADER;

/// What is wrong with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    /// It is larger than the link to which it was sent (RFC 1191, RFC 8201).
    TooBig { mtu: u16 },
    /// Not all of its fragments have come in time.
    NeverWhole,
    /// A field of its headers, at this offset, is not understood (RFC 4443 section 3.4).
    Parameter { code: ParameterProblem, pointer: u32 },
}

/// The code of a parameter problem.
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

/// Tells the sender of an IP packet what is wrong with it. `packet` is its beginning, from the IP header on.
pub(crate) fn send(
    cx: &mut Context<'_>,
    shared: &mut Shared,
    station: Station,
    (guest, destination): (IpAddr, IpAddr),
    report: Report,
    packet: &[u8],
) {
    let to_group = shared.policy.is_group(destination);
    let even_so = matches!(report, Report::Parameter { code: ParameterProblem::Option, .. });
    if to_group && !even_so || !shared.policy.is_guest_address(guest) || is_icmp_error(packet) {
        return;
    }
    let at_virtual_host = shared.policy.is_virtual_host(destination).then_some(destination);
    let Some(source) = at_virtual_host.or_else(|| shared.policy.gateway(guest.is_ipv4())) else { return };
    let path = Path { station, router: shared.router_mac(source), source, destination: guest };
    let mtu = usize::from(cx.link.mtu(station.port));
    let (head, ip_header, longest, protocol) = match guest {
        IpAddr::V4(_) => (report.head_v4(), IPV4_HEADER_LEN, LONGEST_V4, IpProtocol::Icmp),
        IpAddr::V6(_) => (report.head_v6(), IPV6_HEADER_LEN, LONGEST_V6, IpProtocol::Icmpv6),
    };
    let quoted = packet.len().min(longest.min(mtu).saturating_sub(ip_header + ICMP_HEADER));
    let mut message = Vec::with_capacity(ICMP_HEADER + quoted);
    message.extend(head);
    message.extend(packet.get(..quoted).unwrap_or_default());
    let pseudo_header = if guest.is_ipv4() { 0 } else { path.pseudo_header(protocol, message.len()) };
    let checksum = !sum::combine(&[pseudo_header, sum::data(&message)]);
    if let Some(place) = message.get_mut(2..4) {
        place.copy_from_slice(&checksum.to_be_bytes());
    }
    shared.counters.icmp_errors_out += 1;
    emit::send_message(cx, shared, &path, protocol, HOP_LIMIT, &message);
}

impl Report {
    fn head_v4(self) -> [u8; ICMP_HEADER] {
        match self {
            Self::TooBig { mtu } => {
                let [high, low] = mtu.to_be_bytes();
                [3, 4, 0, 0, 0, 0, high, low]
            }
            Self::NeverWhole => [11, 1, 0, 0, 0, 0, 0, 0],
            Self::Parameter { pointer, .. } => [12, 0, 0, 0, pointer as u8, 0, 0, 0],
        }
    }

    fn head_v6(self) -> [u8; ICMP_HEADER] {
        let (kind, code, word) = match self {
            Self::TooBig { mtu } => (2, 0, u32::from(mtu)),
            Self::NeverWhole => (3, 1, 0),
            Self::Parameter { code, pointer } => (4, code as u8, pointer),
        };
        let [a, b, c, d] = word.to_be_bytes();
        [kind, code, 0, 0, a, b, c, d]
    }
}

/// Whether a packet is an ICMP message that is an error itself, or that is redirecting.
fn is_icmp_error(packet: &[u8]) -> bool {
    let byte = |at: usize| packet.get(at).copied();
    match byte(0).map(|first| (first >> 4, usize::from(first & 15) * 4)) {
        Some((4, header)) => byte(9) == Some(1) && matches!(byte(header), Some(3 | 4 | 5 | 11 | 12)),
        // RFC 4443 section 2.1: errors are below 128.
        Some((6, _)) => byte(6) == Some(58) && byte(IPV6_HEADER_LEN).is_some_and(|kind| kind < 128 || kind == 137),
        _ => false,
    }
}
