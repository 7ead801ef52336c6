//! What a router between the stack and a guest says of packets that were too large for its next link (RFC 1191, RFC 8201): a bridge or a
//! tunnel within the guest's own network, narrower than the link that the port knows of.
//!
//! Anybody on that network can say so. It is believed only of a segment that is under way (RFC 5927 section 4.1), and never so far that
//! a connection would crawl.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice};

use super::tcp::{FlowKey, Seq};

/// Bytes before the quoted packet.
const ICMP_HEADER: usize = 8;

/// Routers that are older than RFC 1191 do not say what they take. These are the sizes that links have (RFC 1191 section 7.1).
const PLATEAUS: [u16; 4] = [1492, 1280, 1006, LEAST_V4];

/// The least that is believed: what RFC 1191 section 3 takes for the smallest link in earnest, and what every link of IPv6 takes.
const LEAST_V4: u16 = 552;
const LEAST_V6: u16 = 1280;

/// A segment that was too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooBig {
    pub(crate) flow: FlowKey,
    pub(crate) seq: Seq,
    /// The largest packet that gets through.
    pub(crate) mtu: u16,
}

impl TooBig {
    /// Reads an ICMP message whose checksum was right; `None` if it says nothing of a TCP segment that was too large.
    pub(crate) fn of(message: &[u8], ipv4: bool) -> Option<Self> {
        let (kind, quoted) = (message.get(..2)?, message.get(ICMP_HEADER..)?);
        let word = u32::from_be_bytes(*message.get(4..)?.first_chunk()?);
        if ipv4 {
            let header = Ipv4HeaderSlice::from_slice(quoted).ok().filter(|_| kind == [3, 4])?;
            let said = (word & 0xffff) as u16;
            let size = header.total_len();
            let mtu = if said == 0 { PLATEAUS.into_iter().find(|plateau| *plateau < size).unwrap_or(LEAST_V4) } else { said };
            let ends = (header.source_addr().into(), header.destination_addr().into());
            Self::about(ends, header.protocol(), quoted.get(header.slice().len()..)?, mtu.max(LEAST_V4))
        } else {
            let header = Ipv6HeaderSlice::from_slice(quoted).ok().filter(|_| kind == [2, 0])?;
            let mtu = u16::try_from(word).unwrap_or(u16::MAX).max(LEAST_V6);
            let ends = (header.source_addr().into(), header.destination_addr().into());
            Self::about(ends, header.next_header(), quoted.get(header.slice().len()..)?, mtu)
        }
    }

    fn about((source, destination): (IpAddr, IpAddr), protocol: IpNumber, transport: &[u8], mtu: u16) -> Option<Self> {
        let [a, b, c, d, seq @ ..] = *transport.first_chunk::<8>().filter(|_| protocol == IpNumber::TCP)?;
        // We have sent it: the guest is whom it was for.
        let remote = SocketAddr::new(source, u16::from_be_bytes([a, b]));
        let guest = SocketAddr::new(destination, u16::from_be_bytes([c, d]));
        Some(Self { flow: FlowKey { guest, remote }, seq: Seq(u32::from_be_bytes(seq)), mtu })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error of this type and with this second word, about a segment that we have sent.
    fn error(kind: [u8; 2], word: u32, quoted: &[u8]) -> Vec<u8> {
        [&kind[..], &[0, 0], &word.to_be_bytes(), quoted].concat()
    }

    fn segment_v4(total: u16) -> Vec<u8> {
        let [high, low] = total.to_be_bytes();
        let header = [0x45, 0, high, low, 0, 0, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 10, 0, 2, 15];
        [&header[..], &[0, 80, 0xc3, 0x50, 0, 0, 0x10, 0]].concat()
    }

    fn segment_v6() -> Vec<u8> {
        let mut header = [0; 40];
        (header[0], header[6], header[7]) = (0x60, 6, 64);
        (header[8], header[24], header[39]) = (0x20, 0xfe, 15);
        [&header[..], &[0, 80, 0xc3, 0x50, 0, 0, 0x10, 0]].concat()
    }

    #[test]
    fn the_flow_and_the_next_hop_are_found() {
        let told = TooBig::of(&error([3, 4], 1400, &segment_v4(1500)), true).unwrap();
        let flow = FlowKey { guest: "10.0.2.15:50000".parse().unwrap(), remote: "192.0.2.1:80".parse().unwrap() };
        assert_eq!(told, TooBig { flow, seq: Seq(0x1000), mtu: 1400 });
        let told = TooBig::of(&error([2, 0], 1400, &segment_v6()), false).unwrap();
        assert_eq!((told.flow.guest.port(), told.seq, told.mtu), (50_000, Seq(0x1000), 1400));
    }

    #[test]
    fn no_way_is_believed_to_be_narrower_than_any_is() {
        let v4 = |said, size| TooBig::of(&error([3, 4], said, &segment_v4(size)), true).unwrap().mtu;
        assert_eq!((v4(68, 1500), v4(1, 1500), v4(0xdead_0400, 1500)), (552, 552, 1024));
        // Who does not say gets the next size that there is.
        assert_eq!((v4(0, 1500), v4(0, 1492), v4(0, 576), v4(0, 100)), (1492, 1280, 552, 552));
        let v6 = |said| TooBig::of(&error([2, 0], said, &segment_v6()), false).unwrap().mtu;
        assert_eq!((v6(0), v6(1279), v6(9000), v6(u32::MAX)), (1280, 1280, 9000, u16::MAX));
    }

    #[test]
    fn other_messages_say_nothing_of_it() {
        assert_eq!(TooBig::of(&error([3, 3], 1400, &segment_v4(1500)), true), None);
        assert_eq!(TooBig::of(&error([3, 4], 1400, &segment_v4(1500)[..27]), true), None);
        assert_eq!(TooBig::of(&error([1, 0], 1400, &segment_v6()), false), None);
        let mut datagram = segment_v4(1500);
        datagram[9] = 17;
        assert_eq!(TooBig::of(&error([3, 4], 1400, &datagram), true), None);
        for len in 0..30 {
            assert_eq!(TooBig::of(&vec![3; len], true), None);
        }
    }
}
