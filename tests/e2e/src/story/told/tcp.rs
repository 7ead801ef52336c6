//! TCP (RFC 9293) from the guest to the host: opening, moving data, closing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::story::Story;
use crate::story::frame::{ACK, FIN, PSH, RST, SYN, Segment};
use crate::story::guest::{GATEWAY, Goes, Guest};
use crate::story::link::Stream;
use crate::story::tcp::{Connection, SYN_OPTIONS};

/// Where a peer of the simulated world is.
const FAR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), 80);

const SIMULATED: &str = "such a host cannot be had on a loopback interface";

pub(super) const STORIES: &[Story] = &[
    Story::new("tcp/echo", "a connection is opened, carries a line both ways, and is closed by the guest first", echo),
    Story::new("tcp/echo-v6", "a connection in IPv6 carries a line both ways, and is closed by the guest first", echo6),
    Story::new("tcp/refused", "nobody listens, and the guest is told by a reset", refused),
    Story::new("tcp/refused-v6", "nobody listens in IPv6, and the guest is told by a reset", refused6),
    Story::new("tcp/unreachable", "the host has no way to the server, and the guest is told by ICMP", unreachable)
        .spared(SIMULATED),
    Story::new("tcp/silent", "the server never answers; the guest repeats its SYN, and is told in the end", silent)
        .spared(SIMULATED),
    Story::new("tcp/syn-repeated", "a SYN that comes once more is answered by the same SYN-ACK", syn_repeated),
    Story::new("tcp/options", "a SYN with every option that Linux sends", options),
    Story::new("tcp/no-options", "a SYN without options: no window scale, segments of 536 bytes", no_options),
    Story::new("tcp/small-segments", "a guest that wants small segments gets small segments", small_segments),
    Story::new("tcp/wrong-handshake", "an ACK that acknowledges what was never sent is answered by a reset", wrong_handshake),
    Story::new("tcp/stray-segments", "segments of no connection are answered by resets, and resets by nothing", stray),
    Story::new("tcp/no-room", "one connection more than the network allows is refused", no_room)
        .connections(1)
        .spared("libslirp has no such limit"),
    Story::new("tcp/port-again", "a guest uses the port of a closed connection for the next one", port_again),
    Story::new("tcp/upload", "forty thousand bytes from the guest to the host", upload),
    Story::new("tcp/download", "forty thousand bytes from the host to the guest", download),
    Story::new("tcp/host-first", "the server says all that it has to say and closes first", host_first),
    Story::new("tcp/half-closed-by-guest", "the guest closes its half, and still gets the rest", half_closed_by_guest),
    Story::new("tcp/half-closed-by-host", "the server closes its half, and still takes what the guest sends", half_closed_by_host),
    Story::new("tcp/reset-by-guest", "the guest resets the connection", reset_by_guest),
    Story::new("tcp/reset-by-host", "the server resets the connection", reset_by_host),
    Story::new("tcp/closed-under-way", "the server closes although the guest goes on, and the guest is reset", closed_under_way),
    Story::new("tcp/simultaneous-close", "both sides close before they have heard of each other's end", simultaneous_close),
    Story::new("tcp/data-with-fin", "the last data and the end come in one segment", data_with_fin),
    Story::new("tcp/fin-repeated", "an end that comes once more, of a connection that is over", fin_repeated),
    Story::new(
        "tcp/last-ack-lost",
        "the guest never acknowledges the end, which is repeated until the connection is given up",
        last_ack_lost,
    )
    .spared("it takes minutes"),
];

fn echo(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    echo_with(guest, false)
}

fn echo6(guest: &mut Guest<'_>) -> Goes {
    guest.arrive6()?;
    echo_with(guest, true)
}

fn echo_with(guest: &mut Guest<'_>, ipv6: bool) -> Goes {
    let server = guest.serve(ipv6, Stream::Echo);
    let mut connection = Connection::open(guest, 40_000, server)?;
    connection.send(guest, b"a line");
    connection.read(guest, 6)?;
    connection.close(guest)
}

fn refused(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Refuses);
    Connection::syn(guest, 40_000, server, &SYN_OPTIONS).hear_reset(guest)?;
    Ok(())
}

fn refused6(guest: &mut Guest<'_>) -> Goes {
    guest.arrive6()?;
    let server = guest.serve(true, Stream::Refuses);
    Connection::syn(guest, 40_000, server, &SYN_OPTIONS).hear_reset(guest)?;
    Ok(())
}

fn unreachable(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.link.simulated(FAR, Stream::Unreachable);
    Connection::syn(guest, 40_000, FAR, &SYN_OPTIONS);
    guest.hear_icmp("ICMP error about a SYN")?;
    Ok(())
}

fn silent(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.link.simulated(FAR, Stream::Silent);
    let connection = Connection::syn(guest, 40_000, FAR, &SYN_OPTIONS);
    for seconds in [1, 2, 4, 8, 16] {
        guest.pause(Duration::from_secs(seconds));
        let again = Segment { seq: connection.seq - 1, ack: 0, options: SYN_OPTIONS.to_vec(), ..connection.segment(SYN) };
        connection.give(guest, &again);
    }
    guest.hear_icmp("ICMP error about a SYN")?;
    Ok(())
}

fn syn_repeated(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Echo);
    let mut connection = Connection::syn(guest, 40_000, server, &SYN_OPTIONS);
    let first = connection.hear(guest, "SYN-ACK", |segment| segment.has(SYN | ACK))?;
    let again = Segment { seq: connection.seq - 1, ack: 0, options: SYN_OPTIONS.to_vec(), ..connection.segment(SYN) };
    connection.give(guest, &again);
    let second = connection.complete(guest)?;
    guest.check("a connection has one initial sequence number", first.seq == second.seq);
    connection.send(guest, b"a line");
    connection.read(guest, 6)?;
    connection.close(guest)
}

/// MSS 1460, SACK permitted, timestamps, window scale 7, in Linux's order.
const LINUX_OPTIONS: [u8; 20] = [2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0, 1, 2, 3, 0, 0, 0, 0, 1, 3, 3, 7];

fn options(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Echo);
    let mut connection = Connection::syn(guest, 40_000, server, &LINUX_OPTIONS);
    connection.complete(guest)?;
    connection.send(guest, b"a line");
    connection.read(guest, 6)?;
    connection.close(guest)
}

fn no_options(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Pattern(3000));
    let mut connection = Connection::syn(guest, 40_000, server, &[]);
    connection.complete(guest)?;
    connection.read_to_end(guest)?;
    connection.finish(guest);
    connection.is_acknowledged(guest)?;
    Ok(())
}

fn small_segments(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Pattern(3000));
    let mut connection = Connection::syn(guest, 40_000, server, &[2, 4, 0x01, 0x00]);
    connection.complete(guest)?;
    let first = connection.await_one(guest, "data", |segment| !segment.payload.is_empty())?;
    guest.check("segments are as small as the guest wants them", first.payload.len() <= 256);
    connection.ack = connection.ack.wrapping_add(first.payload.len() as u32);
    connection.acknowledge(guest);
    connection.read_to_end(guest)?;
    connection.finish(guest);
    connection.is_acknowledged(guest)?;
    Ok(())
}

fn wrong_handshake(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Echo);
    let mut connection = Connection::syn(guest, 40_000, server, &SYN_OPTIONS);
    let syn_ack = connection.hear(guest, "SYN-ACK", |segment| segment.has(SYN | ACK))?;
    connection.ack = syn_ack.seq.wrapping_add(5000);
    connection.acknowledge(guest);
    connection.hear_reset(guest)?;
    Ok(())
}

fn stray(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Echo);
    for (port, flags) in [(40_000, ACK), (40_001, ACK | PSH), (40_002, FIN | ACK), (40_003, SYN | ACK)] {
        let mut stray = Connection::new(guest, port, server);
        stray.ack = 77;
        let payload = if flags & PSH != 0 { b"data".to_vec() } else { Vec::new() };
        let segment = Segment { payload, ..stray.segment(flags) };
        stray.give(guest, &segment);
        stray.hear_reset(guest)?;
    }
    let stray = Connection::new(guest, 40_004, server);
    stray.give(guest, &stray.segment(RST));
    guest.hear_nothing("answer to a stray RST");
    Ok(())
}

fn no_room(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Echo);
    let mut first = Connection::open(guest, 40_000, server)?;
    let second = Connection::syn(guest, 40_001, server, &SYN_OPTIONS);
    second.hear_reset(guest)?;
    first.send(guest, b"still here");
    first.read(guest, 10)?;
    first.close(guest)
}

fn port_again(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Echo);
    for start in [1000, 500_000] {
        let mut connection = Connection::new(guest, 40_000, server);
        connection.seq = start;
        let syn = Segment { ack: 0, options: SYN_OPTIONS.to_vec(), ..connection.segment(SYN) };
        connection.give(guest, &syn);
        connection.seq += 1;
        connection.complete(guest)?;
        connection.send(guest, b"a line");
        connection.read(guest, 6)?;
        connection.close(guest)?;
        guest.pause(Duration::from_millis(200));
    }
    Ok(())
}

fn upload(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Sink);
    let mut connection = Connection::open(guest, 40_000, server)?;
    for piece in crate::story::link::pattern_of(40_000).chunks(1460) {
        connection.send(guest, piece);
    }
    connection.is_acknowledged(guest)?;
    connection.close(guest)
}

fn download(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Pattern(40_000));
    let mut connection = Connection::open(guest, 40_000, server)?;
    connection.read_to_end(guest)?;
    connection.finish(guest);
    connection.is_acknowledged(guest)?;
    Ok(())
}

fn host_first(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Says(b"this is all"));
    let mut connection = Connection::open(guest, 40_000, server)?;
    connection.read_to_end(guest)?;
    connection.finish(guest);
    connection.is_acknowledged(guest)?;
    Ok(())
}

fn half_closed_by_guest(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Concludes(b"the conclusion"));
    let mut connection = Connection::open(guest, 40_000, server)?;
    connection.send(guest, b"the premise");
    connection.close(guest)
}

fn half_closed_by_host(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Says(b"go on"));
    let mut connection = Connection::open(guest, 40_000, server)?;
    connection.read_to_end(guest)?;
    for text in [&b"one"[..], b"two", b"three"] {
        connection.send(guest, text);
        connection.is_acknowledged(guest)?;
    }
    connection.finish(guest);
    connection.is_acknowledged(guest)?;
    Ok(())
}

fn reset_by_guest(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Echo);
    let mut connection = Connection::open(guest, 40_000, server)?;
    connection.send(guest, b"a line");
    connection.read(guest, 6)?;
    connection.reset(guest);
    guest.hear_nothing("answer to a RST");
    Ok(())
}

fn reset_by_host(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::ResetsAfter(6));
    let mut connection = Connection::open(guest, 40_000, server)?;
    connection.send(guest, b"a line");
    connection.hear_reset(guest)?;
    Ok(())
}

fn closed_under_way(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::ClosesAfter(6));
    let mut connection = Connection::open(guest, 40_000, server)?;
    connection.send(guest, b"a line");
    connection.read_to_end(guest)?;
    connection.send(guest, b"another line");
    connection.hear_reset(guest)?;
    Ok(())
}

fn simultaneous_close(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Says(b"bye"));
    let mut connection = Connection::open(guest, 40_000, server)?;
    // The end is on its way to us; ours is sent as if it were not.
    let end = connection.await_one(guest, "FIN", |segment| segment.has(FIN))?;
    connection.finish(guest);
    connection.ack = end.seq.wrapping_add(end.sequence_len());
    connection.acknowledge(guest);
    connection.is_acknowledged(guest)?;
    guest.hear_nothing("anything after a simultaneous close");
    Ok(())
}

fn data_with_fin(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Echo);
    let mut connection = Connection::open(guest, 40_000, server)?;
    let segment = Segment { flags: FIN | PSH | ACK, ..connection.data_at(0, b"first and last") };
    connection.give(guest, &segment);
    connection.sent(14 + 1);
    connection.read_to_end(guest)?;
    Ok(())
}

fn fin_repeated(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Echo);
    let mut connection = Connection::open(guest, 40_000, server)?;
    connection.close(guest)?;
    let again = Segment { seq: connection.seq.wrapping_sub(1), ..connection.segment(FIN | ACK) };
    connection.give(guest, &again);
    guest.hear_nothing("answer to a repeated FIN of a closed connection");
    Ok(())
}

fn last_ack_lost(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Says(b"bye"));
    let mut connection = Connection::open(guest, 40_000, server)?;
    let end = connection.await_one(guest, "FIN", |segment| segment.has(FIN))?;
    connection.ack = end.seq.wrapping_add(end.payload.len() as u32);
    connection.finish(guest);
    connection.is_acknowledged(guest)?;
    connection.await_one(guest, "FIN again", |segment| segment.has(FIN))?;
    guest.pause(Duration::from_secs(120));
    guest.forget();
    let frame = guest.echo_frame(GATEWAY.into(), 1, 1, b"");
    guest.send(&frame);
    guest.hear_icmp("echo reply of the gateway")?;
    Ok(())
}
