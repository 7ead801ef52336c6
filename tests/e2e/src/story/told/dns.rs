//! DNS (RFC 1035, RFC 6891, RFC 7766), as guests ask and a resolver of the host answers.
//!
//! What is recorded is the engine's part: which questions it takes, from where the answers come, how they come over TCP.

use std::net::{IpAddr, SocketAddr};

use crate::host::dns::{UNKNOWN_TYPE, answer};
use crate::story::Story;
use crate::story::guest::{DNS, DNS6, Goes, Guest};
use crate::story::tcp::Connection;

const RESOLVER: &str = "the answers would be those of the machine's own resolver";

pub(super) const STORIES: &[Story] = &[
    Story::new(
        "dns/address",
        "a guest asks for the addresses of a name, of both families at once, as its C library does",
        addresses,
    )
    .spared(RESOLVER),
    Story::new("dns/address-v6", "a guest asks for the address of a name at the server's IPv6 address", address6).spared(RESOLVER),
    Story::new("dns/no-such-name", "a name that nobody has", no_such_name).spared(RESOLVER),
    Story::new("dns/unknown-type", "a record of a type that nobody has assigned", unknown_type).spared(RESOLVER),
    Story::new("dns/edns", "a guest that can take long answers gets one of 1200 bytes (RFC 6891)", edns).spared(RESOLVER),
    Story::new("dns/tcp", "an answer that is too long for a datagram comes over TCP", tcp).spared(RESOLVER),
    Story::new("dns/two-over-tcp", "two questions on one connection (RFC 7766)", two_over_tcp).spared(RESOLVER),
    Story::new("dns/no-question", "what is no question gets no answer", no_question).spared(RESOLVER),
];

const A: u16 = 1;
const TXT: u16 = 16;
const AAAA: u16 = 28;

/// A question for records of a type, from a client that would like it resolved.
fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut message = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message
}

/// Adds that the client takes 1232 bytes.
fn with_edns(mut message: Vec<u8>) -> Vec<u8> {
    message[11] += 1;
    message.extend([0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
    message
}

/// The host's resolver, as a datagram has its answers: NXDOMAIN for what begins with `no`, and nothing for what is no question.
fn resolver(query: &[u8]) -> Option<Vec<u8>> {
    let begins_with_no = query.get(13..15) == Some(b"no");
    let edns = query.get(11) == Some(&1);
    let mut message = answer(query, if edns { 1232 } else { 512 })?;
    if begins_with_no {
        // RCODE 3, no answers.
        message[3] |= 3;
        message[7] = 0;
    }
    Some(message)
}

/// The same over TCP: a length before each message.
fn resolver_over_tcp(mut stream: &[u8]) -> Vec<u8> {
    let mut answers = Vec::new();
    while let Some((length, rest)) = stream.split_first_chunk::<2>() {
        let (query, rest) = rest.split_at(rest.len().min(u16::from_be_bytes(*length).into()));
        if let Some(message) = answer(query, usize::from(u16::MAX)) {
            answers.extend((message.len() as u16).to_be_bytes());
            answers.extend(message);
        }
        stream = rest;
    }
    answers
}

fn ask(guest: &mut Guest<'_>, server: IpAddr, what: &str, message: &[u8]) -> Goes<Vec<u8>> {
    guest.datagram(5300, SocketAddr::new(server, 53), message);
    Ok(guest.hear_datagram(what, 5300)?.payload)
}

fn begin(guest: &mut Guest<'_>) -> Goes {
    guest.link.resolves(resolver, resolver_over_tcp);
    guest.arrive()
}

fn addresses(guest: &mut Guest<'_>) -> Goes {
    begin(guest)?;
    let server = SocketAddr::new(DNS.into(), 53);
    guest.datagram(5300, server, &question(1, "www.example.test", A));
    guest.datagram(5300, server, &question(2, "www.example.test", AAAA));
    guest.hear_datagram("answer for A", 5300)?;
    guest.hear_datagram("answer for AAAA", 5300)?;
    Ok(())
}

fn address6(guest: &mut Guest<'_>) -> Goes {
    begin(guest)?;
    guest.arrive6()?;
    ask(guest, DNS6.into(), "answer for A", &question(1, "www.example.test", A))?;
    Ok(())
}

fn no_such_name(guest: &mut Guest<'_>) -> Goes {
    begin(guest)?;
    let message = ask(guest, DNS.into(), "answer for a name that nobody has", &question(1, "nobody.example.test", A))?;
    guest.check("the answer is NXDOMAIN", message[3] & 15 == 3);
    Ok(())
}

fn unknown_type(guest: &mut Guest<'_>) -> Goes {
    begin(guest)?;
    ask(guest, DNS.into(), "answer for an unknown type", &question(1, "odd.example.test", UNKNOWN_TYPE))?;
    Ok(())
}

fn edns(guest: &mut Guest<'_>) -> Goes {
    begin(guest)?;
    ask(guest, DNS.into(), "answer with EDNS", &with_edns(question(1, "www.example.test", A)))?;
    Ok(())
}

/// Asks over an open connection, and reads the answer.
fn ask_over(guest: &mut Guest<'_>, connection: &mut Connection, message: &[u8]) -> Goes<Vec<u8>> {
    connection.send(guest, &[&(message.len() as u16).to_be_bytes(), message].concat());
    let length = connection.read(guest, 2)?;
    let whole = 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
    if length.len() >= whole {
        return Ok(length);
    }
    let rest = connection.read(guest, whole - length.len())?;
    Ok([length, rest].concat())
}

fn tcp(guest: &mut Guest<'_>) -> Goes {
    begin(guest)?;
    let long = question(1, "long.example.test", TXT);
    let cut = ask(guest, DNS.into(), "answer that does not fit", &long)?;
    guest.check("the answer says that it was cut", cut[2] & 2 != 0);
    let mut connection = Connection::open(guest, 40_053, SocketAddr::new(DNS.into(), 53))?;
    let whole = ask_over(guest, &mut connection, &long)?;
    guest.check("the answer is whole", whole.len() > 3000);
    connection.close(guest)
}

fn two_over_tcp(guest: &mut Guest<'_>) -> Goes {
    begin(guest)?;
    let mut connection = Connection::open(guest, 40_053, SocketAddr::new(DNS.into(), 53))?;
    for (id, name) in [(1, "one.example.test"), (2, "two.example.test")] {
        ask_over(guest, &mut connection, &question(id, name, A))?;
    }
    connection.close(guest)
}

fn no_question(guest: &mut Guest<'_>) -> Goes {
    begin(guest)?;
    for message in [&b""[..], b"x", &question(1, "www.example.test", A)[..20]] {
        guest.datagram(5300, SocketAddr::new(DNS.into(), 53), message);
    }
    guest.hear_nothing("answer to what is no question");
    ask(guest, DNS.into(), "answer for A", &question(1, "www.example.test", A))?;
    Ok(())
}
