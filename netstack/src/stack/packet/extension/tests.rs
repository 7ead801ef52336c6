//! Chains as they are, as they must not be, and how long they may be.

use super::*;

const TCP: u8 = 6;
const UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const OPTIONS: u8 = 60;

/// A packet: the IPv6 header, a chain of headers with the number and what follows the next header's number, and a payload.
fn packet(chain: &[(u8, &[u8])], (protocol, payload): (u8, &[u8])) -> Vec<u8> {
    let mut bytes = vec![0; 40];
    let numbers = chain.iter().map(|(number, _)| *number).chain([protocol]);
    bytes[6] = numbers.clone().next().unwrap();
    for ((_, rest), next) in chain.iter().zip(numbers.skip(1)) {
        bytes.push(next);
        bytes.extend(*rest);
    }
    bytes.extend(payload);
    bytes
}

fn walk_all(packet: &[u8]) -> Result<Leads, Unreadable> {
    walk(packet, packet.len(), false)
}

fn problem(code: ParameterProblem, pointer: u32) -> Result<Leads, Unreadable> {
    Err(Unreadable::Problem { code, pointer })
}

/// PadN over the whole of a header of 8 bytes.
const PADDING: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
const DATAGRAM: (u8, &[u8]) = (UDP, &[0, 1, 0, 2, 0, 8, 0, 0]);

#[test]
fn a_chain_leads_to_the_payload() {
    let router_alert = &[0, 5, 2, 0, 0, 1, 0][..];
    let seen = walk_all(&packet(&[(HOP_BY_HOP, router_alert), (OPTIONS, PADDING)], DATAGRAM));
    assert_eq!(seen, Ok(Leads::Payload { protocol: IpNumber::UDP, at: 56 }));
    let long = [&[1, 1, 12][..], &[0; 12]].concat();
    let seen = walk_all(&packet(&[(OPTIONS, &long)], DATAGRAM));
    assert_eq!(seen, Ok(Leads::Payload { protocol: IpNumber::UDP, at: 56 }));
}

#[test]
fn an_option_that_is_not_known_says_itself_what_becomes_of_the_packet() {
    let with = |kind: u8, to_group| {
        let bytes = packet(&[(OPTIONS, &[0, 0, 0, kind, 2, 9, 9])], DATAGRAM);
        walk(&bytes, bytes.len(), to_group)
    };
    let passed = Ok(Leads::Payload { protocol: IpNumber::UDP, at: 48 });
    // RFC 8200 section 4.2: 00 skip, 01 discard, 10 tell, 11 tell unless it is sent to a group.
    assert_eq!(with(0x1e, false), passed);
    assert_eq!(with(0x5e, false), Err(Unreadable::Options));
    assert_eq!(with(0x9e, true), problem(ParameterProblem::Option, 44));
    assert_eq!(with(0xde, false), problem(ParameterProblem::Option, 44));
    assert_eq!(with(0xde, true), Err(Unreadable::Options));
}

#[test]
fn a_route_that_is_not_over_is_refused() {
    for kind in [0, 2, 3, 4] {
        let route = |left| walk_all(&packet(&[(ROUTING, &[0, kind, left, 0, 0, 0, 0])], DATAGRAM));
        assert_eq!(route(0), Ok(Leads::Payload { protocol: IpNumber::UDP, at: 48 }));
        assert_eq!(route(1), problem(ParameterProblem::Field, 42), "type {kind}");
    }
}

#[test]
fn headers_that_are_not_known_or_in_the_wrong_place_are_refused() {
    assert_eq!(walk_all(&packet(&[], (132, &[0; 12]))), problem(ParameterProblem::NextHeader, 6));
    assert_eq!(walk_all(&packet(&[(OPTIONS, PADDING)], (50, &[0; 12]))), problem(ParameterProblem::NextHeader, 40));
    assert_eq!(walk_all(&packet(&[(OPTIONS, PADDING)], (51, &[0; 12]))), problem(ParameterProblem::NextHeader, 40));
    let late = packet(&[(OPTIONS, PADDING), (HOP_BY_HOP, PADDING)], DATAGRAM);
    assert_eq!(walk_all(&late), problem(ParameterProblem::NextHeader, 40));
    assert_eq!(walk_all(&packet(&[], (59, &[]))), Err(Unreadable::Protocol), "nothing follows, and nobody is told");
}

#[test]
fn a_chain_is_bounded_in_headers_and_bytes() {
    let chain = |count| packet(&vec![(OPTIONS, PADDING); count], DATAGRAM);
    assert_eq!(walk_all(&chain(7)), Ok(Leads::Payload { protocol: IpNumber::UDP, at: 96 }));
    assert_eq!(walk_all(&chain(8)), Err(Unreadable::Options));
    // The packet has so many bytes, but they were not copied.
    let long = [&[63, 1, 255][..], &[0; 255], &[1, 251], &[0; 251]].concat();
    let bytes = packet(&[(OPTIONS, &long), (OPTIONS, &long)], DATAGRAM);
    assert_eq!(walk(&bytes[..IPV6_HEADER_LEN + MAX_CHAIN_BYTES], bytes.len(), false), Err(Unreadable::Options));
}

#[test]
fn a_header_that_ends_behind_the_packet_is_malformed() {
    let bytes = packet(&[(OPTIONS, &[2, 1, 4, 0, 0, 0, 0])], DATAGRAM);
    assert_eq!(walk_all(&bytes), Err(Unreadable::Malformed));
    let bytes = packet(&[(OPTIONS, &[0, 1, 5, 0, 0, 0, 0])], DATAGRAM);
    assert_eq!(walk_all(&bytes), Err(Unreadable::Malformed), "an option that ends behind its header");
    for len in 40..48 {
        let bytes = packet(&[(OPTIONS, PADDING)], DATAGRAM);
        assert_eq!(walk(&bytes, len, false), Err(Unreadable::Malformed), "{len} bytes");
    }
    let bytes = packet(&[(FRAGMENT, &[0, 0, 1, 0, 0, 0, 9]), (FRAGMENT, &[0, 0, 0, 0, 0, 0, 9])], DATAGRAM);
    assert_eq!(walk_all(&bytes[..48]), Err(Unreadable::Malformed), "a fragment of nothing");
}

/// A fragment header: offset in units of eight, whether more follow, and the number 9.
fn fragment(units: u16, more: bool) -> [u8; 7] {
    let [high, low] = (units << 3 | u16::from(more)).to_be_bytes();
    [0, high, low, 0, 0, 0, 9]
}

#[test]
fn a_fragment_is_seen_behind_what_is_in_every_fragment() {
    let seen = walk_all(&packet(&[(HOP_BY_HOP, PADDING), (FRAGMENT, &fragment(3, false))], (UDP, &[1; 10])));
    assert_eq!(seen, Ok(Leads::Fragment(Piece { at: 56, next_header_at: 40, offset: 24, more: false, id: 9 })));
}

#[test]
fn a_packet_in_one_fragment_is_whole() {
    let header = fragment(0, false);
    let seen = walk_all(&packet(&[(FRAGMENT, &header), (OPTIONS, PADDING)], DATAGRAM));
    assert_eq!(seen, Ok(Leads::Payload { protocol: IpNumber::UDP, at: 56 }));
    let twice = walk_all(&packet(&[(FRAGMENT, &header), (FRAGMENT, &header)], DATAGRAM));
    assert_eq!(twice, Err(Unreadable::Malformed), "a fragment in a fragment");
}

#[test]
fn a_fragment_that_no_length_fits_is_refused() {
    let odd = packet(&[(FRAGMENT, &fragment(1, true))], (UDP, &[0; 9]));
    assert_eq!(walk_all(&odd), problem(ParameterProblem::Field, 4), "RFC 8200 section 4.5: the payload length");
    let long = packet(&[(FRAGMENT, &fragment(8191, false))], (UDP, &[0; 8]));
    assert_eq!(walk_all(&long), problem(ParameterProblem::Field, 42), "the fragment offset");
    let longest = packet(&[(FRAGMENT, &fragment(8191, false))], (UDP, &[0; 7]));
    assert!(matches!(walk_all(&longest), Ok(Leads::Fragment(_))));
}

#[test]
fn the_first_fragment_has_all_headers() {
    fn first(chain: &[(u8, &[u8])], payload: (u8, &[u8])) -> Result<Leads, Unreadable> {
        walk_all(&packet(&[&[(FRAGMENT, &fragment(0, true)[..])], chain].concat(), payload))
    }
    let incomplete = problem(ParameterProblem::HeaderChain, 0);
    // RFC 7112: the whole of the transport header too.
    let segment = |words: u8| [&[0; 12][..], &[words << 4], &[0; 11]].concat();
    assert!(matches!(first(&[], (TCP, &segment(6))), Ok(Leads::Fragment(_))));
    assert_eq!(first(&[], (TCP, &segment(7))), incomplete);
    assert_eq!(first(&[], (TCP, &[0; 8])), incomplete);
    assert!(matches!(first(&[], (UDP, &[0; 8])), Ok(Leads::Fragment(_))));
    assert!(matches!(first(&[(OPTIONS, PADDING)], (UDP, &[0; 8])), Ok(Leads::Fragment(_))));
    assert_eq!(first(&[(OPTIONS, PADDING)], (UDP, &[])), incomplete);
    assert_eq!(first(&[], (OPTIONS, &[UDP, 1, 1, 12, 0, 0, 0, 0])), incomplete);
}
