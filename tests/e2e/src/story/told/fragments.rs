//! Packets in pieces (RFC 791, RFC 8200 section 4.5), and packets that are too large to go in one.

use std::time::Duration;

use crate::story::Story;
use crate::story::fragments::{cut, fragment};
use crate::story::frame::{Body, Told, mend_checksums};
use crate::story::guest::{GATEWAY, GATEWAY6, Goes, Guest};
use crate::story::link::{Datagrams, Stream};
use crate::story::tcp::Connection;

const NO_IPV6: &str = "libslirp knows no fragments and no extension headers of IPv6, and says of both that there is no way";
const DIES: &str = "libslirp 4.7 dies of fragments in this order";
const FOR_EVER: &str = "libslirp keeps fragments for 30 s too, but says nothing; waiting takes too long";

pub(super) const STORIES: &[Story] = &[
    Story::new("fragments/order-012", "a datagram in three fragments, one after the other, and its answer in as many", |guest| {
        order(guest, false, [0, 1, 2])
    }),
    Story::new("fragments/order-021", "the last of three fragments overtakes the second", |guest| order(guest, false, [0, 2, 1])),
    Story::new("fragments/order-102", "the second of three fragments overtakes the first", |guest| order(guest, false, [1, 0, 2])),
    Story::new("fragments/order-120", "the first of three fragments comes last", |guest| order(guest, false, [1, 2, 0])),
    Story::new("fragments/order-201", "the last of three fragments comes first", |guest| order(guest, false, [2, 0, 1]))
        .spared(DIES),
    Story::new("fragments/order-210", "three fragments come in the opposite order", |guest| order(guest, false, [2, 1, 0]))
        .spared(DIES),
    Story::new("fragments/orders-v6", "three fragments of IPv6 in all their orders", orders6).spared(NO_IPV6),
    Story::new("fragments/repeated", "each fragment comes twice, and the datagram once", repeated)
        .spared("libslirp 4.7 is not told more of fragments than it survives"),
    Story::new("fragments/interleaved", "fragments of two datagrams, one of each in turn", interleaved),
    Story::new("fragments/overlap", "fragments that overlap by eight bytes spoil their datagram", overlap)
        .spared("libslirp takes what came first, as RFC 791 allows and RFC 5722 does not"),
    Story::new("fragments/timeout", "a fragment is missing, and after 30 s the guest is told", |guest| timeout(guest, false))
        .spared(FOR_EVER),
    Story::new("fragments/timeout-v6", "a fragment of IPv6 is missing, and after 60 s the guest is told", |guest| {
        timeout(guest, true)
    })
    .spared(NO_IPV6),
    Story::new("fragments/of-a-segment", "a segment of a connection comes in fragments", of_a_segment),
    Story::new("fragments/ping", "the gateway answers a ping of nine thousand bytes by as many", |guest| ping(guest, false)),
    Story::new("fragments/ping-v6", "the gateway answers a ping of nine thousand bytes in IPv6", |guest| ping(guest, true))
        .spared(NO_IPV6),
    Story::new("fragments/atomic-v6", "a packet in a single fragment is whole, whatever other fragments have its number", atomic)
        .spared(NO_IPV6),
    Story::new("fragments/too-big", "a packet larger than the link, which must not be cut", |guest| too_big(guest, false)),
    Story::new("fragments/too-big-v6", "a packet of IPv6 larger than the link", |guest| too_big(guest, true)),
    Story::new("fragments/headers-v6", "extension headers that are passed, and such that the guest is told of", headers6)
        .spared(NO_IPV6),
    Story::new("fragments/first-v6", "a first fragment without the whole of its headers (RFC 7112)", first6).spared(NO_IPV6),
    Story::new("fragments/narrow-way", "the way to the guest is narrower than its link, and segments get smaller", narrow_way)
        .spared("libslirp does not listen to ICMP errors of guests"),
];

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 249) as u8).collect()
}

fn order(guest: &mut Guest<'_>, ipv6: bool, order: [usize; 3]) -> Goes {
    if ipv6 {
        guest.arrive6()?;
    } else {
        guest.arrive()?;
    }
    let server = guest.serve_datagrams(ipv6, Datagrams::Echo);
    send_in_order(guest, server, 0x700, order);
    guest.hear_datagram("the datagram again", 5000)?;
    Ok(())
}

fn send_in_order(guest: &mut Guest<'_>, server: std::net::SocketAddr, id: u16, order: [usize; 3]) {
    let whole = guest.datagram_frame(5000, server, &bytes(4000));
    let fragments = cut(&whole, 1448, id);
    for index in order {
        guest.send(&fragments[index]);
    }
}

fn orders6(guest: &mut Guest<'_>) -> Goes {
    guest.arrive6()?;
    let server = guest.serve_datagrams(true, Datagrams::Echo);
    for (id, order) in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]].into_iter().enumerate() {
        send_in_order(guest, server, id as u16, order);
        guest.hear_datagram("the datagram again", 5000)?;
    }
    Ok(())
}

fn repeated(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve_datagrams(false, Datagrams::Echo);
    let whole = guest.datagram_frame(5000, server, &bytes(4000));
    for fragment in cut(&whole, 1480, 7) {
        guest.send(&fragment);
        guest.send(&fragment);
    }
    guest.hear_datagram("the datagram again", 5000)?;
    guest.hear_nothing("the datagram a second time");
    Ok(())
}

fn interleaved(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve_datagrams(false, Datagrams::Echo);
    let cuts = [5000, 5001].map(|port| {
        let whole = guest.datagram_frame(port, server, &bytes(3000 + usize::from(port)));
        cut(&whole, 1480, port)
    });
    for (one, other) in cuts[0].iter().zip(&cuts[1]) {
        guest.send(one);
        guest.send(other);
    }
    guest.hear_datagram("the datagram of one socket", 5000)?;
    guest.hear_datagram("the datagram of the other", 5001)?;
    Ok(())
}

fn overlap(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve_datagrams(false, Datagrams::Echo);
    let whole = guest.datagram_frame(5000, server, &bytes(2992));
    let payload = &whole[34..];
    for (from, to) in [(0, 1000), (992, 2000), (2000, 3000), (1000, 2000)] {
        guest.send(&fragment(&whole, from, &payload[from..to], to < 3000, 7));
    }
    guest.hear_nothing("answer to fragments that overlap");
    Ok(())
}

fn timeout(guest: &mut Guest<'_>, ipv6: bool) -> Goes {
    if ipv6 {
        guest.arrive6()?;
    } else {
        guest.arrive()?;
    }
    let server = guest.serve_datagrams(ipv6, Datagrams::Echo);
    let whole = guest.datagram_frame(5000, server, &bytes(4000));
    let fragments = cut(&whole, 1448, 7);
    guest.send(&fragments[0]);
    guest.send(&fragments[2]);
    guest.pause(Duration::from_secs(if ipv6 { 60 } else { 30 }));
    guest.hear_icmp("ICMP error about a fragment that did not come")?;
    guest.send(&fragments[1]);
    guest.hear_nothing("answer to a fragment that came too late");
    Ok(())
}

fn of_a_segment(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Echo);
    let mut connection = Connection::open(guest, 40_000, server)?;
    let segment = connection.data_at(0, &bytes(1200));
    let frame = connection.frame(guest, &segment);
    for fragment in cut(&frame, 400, 7) {
        guest.send(&fragment);
    }
    connection.sent(1200);
    connection.read(guest, 1200)?;
    connection.close(guest)
}

fn ping(guest: &mut Guest<'_>, ipv6: bool) -> Goes {
    let gateway = if ipv6 {
        guest.arrive6()?;
        GATEWAY6.into()
    } else {
        guest.arrive()?;
        GATEWAY.into()
    };
    let whole = guest.echo_frame(gateway, 7, 1, &bytes(9000));
    for fragment in cut(&whole, 1448, 7) {
        guest.send(&fragment);
    }
    guest.hear_icmp("echo reply of nine thousand bytes")?;
    Ok(())
}

fn atomic(guest: &mut Guest<'_>) -> Goes {
    guest.arrive6()?;
    let server = guest.serve_datagrams(true, Datagrams::Echo);
    let large = guest.datagram_frame(5000, server, &bytes(2000));
    let fragments = cut(&large, 1448, 7);
    let small = guest.datagram_frame(5001, server, b"whole by itself");
    guest.send(&fragments[0]);
    guest.send(&fragment(&small, 0, &small[54..], false, 7));
    guest.hear_datagram("the datagram in one fragment", 5001)?;
    guest.send(&fragments[1]);
    guest.hear_datagram("the datagram in two fragments", 5000)?;
    Ok(())
}

fn too_big(guest: &mut Guest<'_>, ipv6: bool) -> Goes {
    if ipv6 {
        guest.arrive6()?;
    } else {
        guest.arrive()?;
    }
    let server = guest.serve_datagrams(ipv6, Datagrams::Echo);
    guest.datagram(5000, server, &bytes(2000));
    guest.hear_icmp("ICMP error about a packet larger than the link")?;
    Ok(())
}

/// A header: its number, and what follows the next header's number.
type Header<'a> = (u8, &'a [u8]);

/// The frame of an echo request of the gateway, with these headers before the message.
fn with_headers(guest: &Guest<'_>, chain: &[Header<'_>], message: &[u8]) -> Vec<u8> {
    let plain = guest.echo_frame(GATEWAY6.into(), 7, 7, message);
    let mut frame = plain[..54].to_vec();
    let numbers: Vec<u8> = chain.iter().map(|(number, _)| *number).chain([58]).collect();
    frame[20] = numbers[0];
    for ((_, rest), next) in chain.iter().zip(&numbers[1..]) {
        frame.push(*next);
        frame.extend(*rest);
    }
    frame.extend(&plain[54..]);
    let len = (frame.len() - 54) as u16;
    frame[18..20].copy_from_slice(&len.to_be_bytes());
    frame
}

fn headers6(guest: &mut Guest<'_>) -> Goes {
    const PADDING: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
    guest.arrive6()?;
    let passed = with_headers(guest, &[(0, &[0, 5, 2, 0, 0, 1, 0]), (60, PADDING), (43, &[0, 0, 0, 0, 0, 0, 0])], b"passed");
    guest.send(&passed);
    guest.hear_icmp("echo reply to what was passed")?;
    let refused: [(&str, &[Header<'_>]); 4] = [
        ("a route that is not over", &[(43, &[0, 0, 1, 0, 0, 0, 0])]),
        ("a header that is not known", &[(60, PADDING), (139, PADDING)]),
        ("options in the wrong place", &[(60, PADDING), (0, PADDING)]),
        ("an option that is not known", &[(60, &[0, 0x9e, 4, 0, 0, 0, 0])]),
    ];
    for (what, chain) in refused {
        let frame = with_headers(guest, chain, b"refused");
        guest.send(&frame);
        guest.hear_icmp(&format!("ICMP error about {what}"))?;
    }
    let long = vec![(60, PADDING); 9];
    for chain in [&[(60, &[0, 0x5e, 4, 0, 0, 0, 0][..])][..], &long] {
        let frame = with_headers(guest, chain, b"dropped");
        guest.send(&frame);
        guest.hear_nothing("answer to what is dropped");
    }
    Ok(())
}

fn first6(guest: &mut Guest<'_>) -> Goes {
    guest.arrive6()?;
    let server = guest.serve(true, Stream::Echo);
    let connection = Connection::new(guest, 40_000, server);
    let frame = connection.frame(guest, &connection.data_at(0, b"hidden"));
    guest.send(&fragment(&frame, 0, &frame[54..62], true, 7));
    guest.hear_icmp("ICMP error about a first fragment without all headers")?;
    Ok(())
}

fn narrow_way(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Pattern(4000));
    let connection = Connection::open(guest, 40_000, server)?;
    let segment = |told: &Told| match &told.body {
        Body::Tcp(segment) if !segment.payload.is_empty() => Some(segment.clone()),
        _ => None,
    };
    let first = guest.await_one("a full segment", segment)?;
    guest.check("a full segment has 1460 bytes", first.payload.len() == 1460);
    guest.pause(Duration::from_millis(10));
    guest.forget();
    // A tunnel of a thousand bytes does not let it through, and says so.
    let quoted = first.frame(guest.card, guest.card);
    let mut error = guest.echo_frame(GATEWAY.into(), 0, 0, &quoted[14..42]);
    error[34..42].copy_from_slice(&[3, 4, 0, 0, 0, 0, 0x03, 0xe8]);
    mend_checksums(&mut error);
    guest.send(&error);
    let mut lens = Vec::new();
    for _ in 0..5 {
        lens.push(guest.await_one("a smaller segment", segment)?.payload.len());
    }
    guest.check("segments fit the narrow way", lens == [960, 960, 960, 960, 160]);
    connection.reset(guest);
    Ok(())
}
