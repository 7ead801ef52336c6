//! The headers between an IPv6 header and what the packet carries (RFC 8200 section 4).
//!
//! Options and routes do not leave this machine: what goes on is the payload alone, in a packet that the host's kernel makes. So the
//! stack treats every packet as its destination would, also one that goes on, and refuses what it would have to pass on.
//!
//! The chain is bounded in headers and in bytes (RFC 8504 section 5.3): real packets have at most a few dozen bytes of it.

use etherparse::{IpNumber, Ipv6FragmentHeaderSlice, Ipv6RawExtHeaderSlice};
use smoltcp::wire::{IPV6_HEADER_LEN, Ipv6OptionFailureType, Ipv6OptionType};

use super::Unreadable;
use crate::stack::icmp::ParameterProblem;
use crate::stack::reassembly::FRAGMENT_HEADER;

/// The most headers in a chain.
const MAX_CHAIN: usize = 8;

/// The most bytes of a chain, and of the transport header behind it.
pub(super) const MAX_CHAIN_BYTES: usize = 512 + 60;

/// Where in the IPv6 header the payload's length is, and the number of the next header.
const PAYLOAD_LENGTH_AT: usize = 4;
const NEXT_HEADER_AT: usize = 6;

/// What the chain leads to. All offsets count from the IPv6 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leads {
    /// The payload of a packet that is whole.
    Payload { protocol: IpNumber, at: usize },
    /// A piece of a packet's payload.
    Fragment(Piece),
}

/// What a fragment header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where its piece begins, behind the fragment header.
    pub(super) at: usize,
    /// Where the number is that named the fragment header.
    pub(super) next_header_at: usize,
    pub(super) offset: usize,
    pub(super) more: bool,
    pub(super) id: u32,
}

/// Follows the chain of a packet of `len` bytes, of which `ip` is the beginning. `to_group`: it is sent to many.
pub(super) fn walk(ip: &[u8], len: usize, to_group: bool) -> Result<Leads, Unreadable> {
    let ip = ip.get(..len).unwrap_or(ip);
    let next = ip.get(NEXT_HEADER_AT).map(|number| IpNumber(*number)).ok_or(Unreadable::Malformed)?;
    let mut walk = Walk { ip, len, to_group, next, next_header_at: NEXT_HEADER_AT, at: IPV6_HEADER_LEN };
    let mut atomic = false;
    for _ in 0..MAX_CHAIN {
        match walk.next {
            IpNumber::TCP | IpNumber::UDP | IpNumber::IPV6_ICMP => {
                return Ok(Leads::Payload { protocol: walk.next, at: walk.at });
            }
            IpNumber::IPV6_FRAGMENTATION_HEADER if !atomic => match walk.fragment()? {
                Some(piece) => return Ok(Leads::Fragment(piece)),
                // RFC 6946: a packet in a single fragment has nothing to do with others of the same number.
                None => atomic = true,
            },
            // Fragments within fragments: no honest sender nests them.
            IpNumber::IPV6_FRAGMENTATION_HEADER => return Err(Unreadable::Malformed),
            _ => walk.pass()?,
        }
    }
    Err(Unreadable::Options)
}

/// A walk along the chain.
struct Walk<'a> {
    ip: &'a [u8],
    len: usize,
    to_group: bool,
    next: IpNumber,
    next_header_at: usize,
    at: usize,
}

impl<'a> Walk<'a> {
    /// The bytes from here on, at least `least`.
    fn rest(&self, least: usize) -> Result<&'a [u8], Unreadable> {
        if self.at + least > self.len {
            return Err(Unreadable::Malformed);
        }
        // What lies beyond was not copied, because no chain may be so long.
        self.ip.get(self.at..).filter(|rest| rest.len() >= least).ok_or(Unreadable::Options)
    }

    /// Passes a header that is no fragment header.
    fn pass(&mut self) -> Result<(), Unreadable> {
        let options = match self.next {
            // RFC 8200 section 4.1: only right behind the IPv6 header.
            IpNumber::IPV6_HEADER_HOP_BY_HOP => self.at == IPV6_HEADER_LEN,
            IpNumber::IPV6_DESTINATION_OPTIONS => true,
            IpNumber::IPV6_ROUTE_HEADER => false,
            // Nothing follows, and nothing is to be done with it (RFC 8200 section 4.7).
            IpNumber::IPV6_NO_NEXT_HEADER => return Err(Unreadable::Protocol),
            // Not those of IPsec either: their addresses are part of what they protect, and ours are not the guest's.
            _ => return Err(self.problem(ParameterProblem::NextHeader, self.next_header_at)),
        };
        if !options && self.next != IpNumber::IPV6_ROUTE_HEADER {
            return Err(self.problem(ParameterProblem::NextHeader, self.next_header_at));
        }
        let len = self.rest(8)?.get(1).map_or(8, |units| (usize::from(*units) + 1) * 8);
        let header = Ipv6RawExtHeaderSlice::from_slice(self.rest(len)?).map_err(|_| Unreadable::Malformed)?;
        if options {
            self.options(header.payload())?;
        } else if header.payload().get(1).is_some_and(|left| *left != 0) {
            // RFC 5095 section 3, RFC 8200 section 4.4: types are not known, and the one that was is not to be.
            return Err(self.problem(ParameterProblem::Field, self.at + 2));
        }
        (self.next_header_at, self.next) = (self.at, header.next_header());
        self.at += len;
        Ok(())
    }

    /// Skips options that may be skipped (RFC 8200 section 4.2).
    fn options(&self, options: &[u8]) -> Result<(), Unreadable> {
        let mut at = 0;
        while let Some(kind) = options.get(at) {
            let kind = Ipv6OptionType::from(*kind);
            if kind == Ipv6OptionType::Pad1 {
                at += 1;
                continue;
            }
            let end = options.get(at + 1).map(|len| at + 2 + usize::from(*len)).filter(|end| *end <= options.len());
            let end = end.ok_or(Unreadable::Malformed)?;
            if !matches!(kind, Ipv6OptionType::PadN | Ipv6OptionType::RouterAlert) {
                match Ipv6OptionFailureType::from(kind) {
                    Ipv6OptionFailureType::Skip => {}
                    Ipv6OptionFailureType::DiscardSendAll => return Err(self.problem(ParameterProblem::Option, self.at + 2 + at)),
                    Ipv6OptionFailureType::DiscardSendUnicast if !self.to_group => {
                        return Err(self.problem(ParameterProblem::Option, self.at + 2 + at));
                    }
                    Ipv6OptionFailureType::Discard | Ipv6OptionFailureType::DiscardSendUnicast => return Err(Unreadable::Options),
                }
            }
            at = end;
        }
        Ok(())
    }

    /// Reads a fragment header; `None` if it says that the packet is whole.
    fn fragment(&mut self) -> Result<Option<Piece>, Unreadable> {
        let header = Ipv6FragmentHeaderSlice::from_slice(self.rest(FRAGMENT_HEADER)?).map_err(|_| Unreadable::Malformed)?;
        let (field, next_header_at) = (self.at + 2, self.next_header_at);
        (self.next_header_at, self.next) = (self.at, header.next_header());
        self.at += FRAGMENT_HEADER;
        if !header.is_fragmenting_payload() {
            return Ok(None);
        }
        let (offset, more, len) =
            (usize::from(header.fragment_offset().byte_offset()), header.more_fragments(), self.len - self.at);
        if more && !len.is_multiple_of(8) {
            return Err(self.problem(ParameterProblem::Field, PAYLOAD_LENGTH_AT));
        }
        // Everything between the IPv6 header and the fragment header counts for the length of the whole.
        if self.at - FRAGMENT_HEADER - IPV6_HEADER_LEN + offset + len > usize::from(u16::MAX) {
            return Err(self.problem(ParameterProblem::Field, field));
        }
        if len == 0 {
            return Err(Unreadable::Malformed);
        }
        let piece = Piece { at: self.at, next_header_at, offset, more, id: header.identification() };
        if offset == 0 && !self.is_complete() {
            return Err(self.problem(ParameterProblem::HeaderChain, 0));
        }
        Ok(Some(piece))
    }

    /// Whether all headers are in the packet, that of the transport too (RFC 7112). What is wrong with them otherwise will be seen when
    /// the packet is whole.
    fn is_complete(&self) -> bool {
        let (mut next, mut at) = (self.next, self.at);
        let byte = |at: usize| self.ip.get(at).map(|byte| usize::from(*byte));
        for _ in 0..MAX_CHAIN {
            let len = match next {
                IpNumber::TCP => return byte(at + 12).is_some_and(|offset| at + (offset >> 4) * 4 <= self.len),
                IpNumber::UDP => return at + 8 <= self.len,
                IpNumber::IPV6_ICMP => return at + 4 <= self.len,
                IpNumber::IPV6_HEADER_HOP_BY_HOP | IpNumber::IPV6_DESTINATION_OPTIONS | IpNumber::IPV6_ROUTE_HEADER => {
                    let Some(units) = byte(at + 1) else { return false };
                    (units + 1) * 8
                }
                _ => return true,
            };
            next = match byte(at) {
                Some(number) => IpNumber(number as u8),
                None => return false,
            };
            at += len;
        }
        true
    }

    fn problem(&self, code: ParameterProblem, at: usize) -> Unreadable {
        Unreadable::Problem { code, pointer: u32::try_from(at).unwrap_or(0) }
    }
}

#[cfg(test)]
mod tests;
