//! What comes from the host to the guest, by a forward.

use std::net::SocketAddr;
use std::time::Duration;

use crate::story::Story;
use crate::story::frame::{ACK, Body, Datagram, RST, SYN, Segment, Told};
use crate::story::guest::{Goes, Guest};
use crate::story::link::Stream;
use crate::story::tcp::Connection;
use crate::story::transcript::{Fields, data};

const TCP: &str = "hostfwd=tcp:127.0.0.1:{port}-:80";
const UDP: &str = "hostfwd=udp:127.0.0.1:{port}-:4000";

pub(super) const STORIES: &[Story] = &[
    Story::new("inbound/served", "a client of the host asks the guest something, and is answered", served).user(TCP),
    Story::new("inbound/greeting", "the guest speaks first and closes first", greeting).user(TCP),
    Story::new("inbound/refused", "nobody listens in the guest, and the client is reset", refused).user(TCP),
    Story::new("inbound/deaf", "the guest does not answer the SYN, which is repeated until the client is told", deaf)
        .user(TCP)
        .spared("it takes more than a minute"),
    Story::new("inbound/late", "the guest does not answer for its address at first; the client waits", late)
        .user(TCP)
        .spared("libslirp asks for a guest once, and not again before six seconds have passed"),
    Story::new("inbound/reset-by-client", "the client resets the connection, and the guest is told", reset_by_client).user(TCP),
    Story::new("inbound/datagram", "a client's datagram reaches the guest, and the answer the client", datagram).user(UDP),
];

fn served(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.link.dial(Stream::Greets(b"a question"));
    let mut connection = Connection::accept(guest, 80)?;
    connection.read(guest, 10)?;
    connection.send(guest, b"an answer");
    connection.is_acknowledged(guest)?;
    connection.close(guest)
}

fn greeting(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.link.dial(Stream::Sink);
    let mut connection = Connection::accept(guest, 80)?;
    connection.send(guest, b"welcome");
    connection.close(guest)
}

fn refused(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.link.dial(Stream::Sink);
    let connection = Connection::called(guest, 80)?;
    let reset = Segment { seq: 0, ..connection.segment(RST | ACK) };
    connection.give(guest, &reset);
    guest.hear_nothing("answer to a refusal");
    Ok(())
}

fn deaf(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.link.dial(Stream::Sink);
    let connection = Connection::called(guest, 80)?;
    connection.await_one(guest, "SYN again", |segment| segment.is(SYN))?;
    connection.await_one(guest, "SYN for the third time", |segment| segment.is(SYN))?;
    guest.pause(Duration::from_secs(90));
    Ok(())
}

fn late(guest: &mut Guest<'_>) -> Goes {
    guest.arrive6()?;
    guest.answers_neighbours = false;
    guest.link.dial(Stream::Greets(b"at last"));
    let is_request = |told: &Told| matches!(&told.body, Body::Arp(arp) if arp.operation == 1).then_some(());
    guest.await_one("ARP request for the guest", is_request)?;
    guest.await_one("another ARP request for the guest", is_request)?;
    guest.answers_neighbours = true;
    let mut connection = Connection::accept(guest, 80)?;
    connection.read(guest, 7)?;
    connection.close(guest)
}

fn reset_by_client(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.link.dial(Stream::ResetsAfter(7));
    let mut connection = Connection::accept(guest, 80)?;
    connection.send(guest, b"welcome");
    connection.hear_reset(guest)?;
    Ok(())
}

fn datagram(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.link.post(b"a question");
    let question = guest.datagram_to("the client's datagram", 4000)?;
    guest.name(question.source, "client");
    guest.note("the client's datagram", Fields::one("data", data(&question.payload)));
    let source = SocketAddr::new(guest.v4.into(), 4000);
    let answer = Datagram { source, destination: question.source, payload: b"an answer".to_vec() };
    let frame = answer.frame(guest.card, guest.router(false));
    guest.send(&frame);
    guest.pause(Duration::from_millis(100));
    Ok(())
}
