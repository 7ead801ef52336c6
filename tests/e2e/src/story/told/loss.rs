//! TCP on a link that loses, repeats and exchanges segments, and windows that are full.

use std::time::Duration;

use crate::story::Story;
use crate::story::frame::{ACK, FIN, PSH, Segment};
use crate::story::guest::{Goes, Guest};
use crate::story::link::{Stream, pattern_of};
use crate::story::tcp::Connection;
use crate::story::transcript::Fields;

const TIMERS: &str = "libslirp's timers take longer than a test may wait";

pub(super) const STORIES: &[Story] = &[
    Story::new("loss/repeated", "a segment that comes twice is delivered once and acknowledged twice", repeated),
    Story::new("loss/out-of-order", "a segment that overtakes another waits for it", out_of_order),
    Story::new("loss/overlap", "segments that overlap are put together", overlap),
    Story::new("loss/hole-at-the-end", "the end overtakes the last data", end_first),
    Story::new("loss/fast-retransmission", "the guest misses one segment, and gets it again after three duplicate acknowledgements", fast)
        .spared("how much comes at once, and so which segment is the missing one, is a matter of time there"),
    Story::new("loss/timeout", "the guest is deaf for a while, and gets everything again", timeout)
        .spared(TIMERS),
    Story::new("loss/acks-in-pieces", "the guest acknowledges half a segment", half_a_segment),
    Story::new("loss/zero-window-of-guest", "the guest has no room, is probed, and goes on reading", zero_window_of_guest)
        .spared(TIMERS),
    Story::new("loss/small-window-of-guest", "the guest has room for 1000 bytes at a time", small_window),
    Story::new("loss/zero-window-of-host", "the server does not read; the window closes, and opens again when it does", zero_window_of_host)
        .spared("it depends on how much room the kernel has"),
    Story::new("loss/beyond-the-window", "data beyond the window is not taken", beyond),
    Story::new("loss/keepalive", "the guest asks whether the connection is still there", keepalive),
    Story::new("loss/idle", "two hours of silence; the guest is asked whether it is still there, and it is", idle).spared("it takes two hours"),
    Story::new("loss/urgent", "urgent data is delivered in its place", urgent),
    Story::new("loss/old-acknowledgement", "an acknowledgement of what was acknowledged before changes nothing", old_ack),
    Story::new("loss/reset-out-of-window", "a reset that does not fit is no reset (RFC 5961)", blind_reset),
];

fn open(guest: &mut Guest<'_>, stream: Stream) -> Goes<Connection> {
    guest.arrive()?;
    let server = guest.serve(false, stream);
    Connection::open(guest, 41_000, server)
}

fn repeated(guest: &mut Guest<'_>) -> Goes {
    let mut connection = open(guest, Stream::Echo)?;
    connection.send(guest, b"once only");
    connection.read(guest, 9)?;
    let again = Segment { seq: connection.seq.wrapping_sub(9), payload: b"once only".to_vec(), ..connection.segment(ACK | PSH) };
    connection.give(guest, &again);
    connection.is_acknowledged(guest)?;
    connection.close(guest)
}

fn out_of_order(guest: &mut Guest<'_>) -> Goes {
    let mut connection = open(guest, Stream::Echo)?;
    let second = connection.data_at(6, b"second");
    connection.give(guest, &second);
    let duplicate = connection.await_one(guest, "duplicate ACK", |segment| segment.payload.is_empty())?;
    guest.note("what is acknowledged before the hole is filled", Fields::one("bytes", duplicate.ack.wrapping_sub(connection.seq)));
    let first = connection.data_at(0, b"first ");
    connection.give(guest, &first);
    connection.sent(12);
    // Who has not kept the second is told to send it again.
    let acknowledged = connection.await_one(guest, "ACK", |segment| segment.ack != duplicate.ack)?;
    let missing = connection.seq.wrapping_sub(acknowledged.ack);
    guest.note("what has to be sent again", Fields::one("bytes", missing));
    if missing != 0 {
        let again = Segment { seq: acknowledged.ack, payload: b"second".to_vec(), ..connection.segment(ACK | PSH) };
        connection.give(guest, &again);
    }
    connection.close(guest)
}

fn overlap(guest: &mut Guest<'_>) -> Goes {
    let mut connection = open(guest, Stream::Echo)?;
    for (offset, text) in [(0, &b"abcdefgh"[..]), (4, b"efghijkl"), (2, b"cdefghijklmnop"), (0, b"abcd"), (16, b"qr")] {
        let segment = connection.data_at(offset, text);
        connection.give(guest, &segment);
    }
    connection.sent(18);
    connection.read(guest, 18)?;
    connection.close(guest)
}

fn end_first(guest: &mut Guest<'_>) -> Goes {
    let mut connection = open(guest, Stream::Echo)?;
    let end = Segment { seq: connection.seq.wrapping_add(4), ..connection.segment(FIN | ACK) };
    connection.give(guest, &end);
    guest.pause(Duration::from_millis(100));
    let data = connection.data_at(0, b"last");
    connection.give(guest, &data);
    guest.pause(Duration::from_millis(100));
    // As a guest does that has not heard of its end.
    connection.give(guest, &end);
    connection.sent(5);
    connection.read_to_end(guest)?;
    Ok(())
}

fn fast(guest: &mut Guest<'_>) -> Goes {
    let mut connection = open(guest, Stream::Pattern(20_000))?;
    let first = connection.await_one(guest, "data", |segment| segment.seq == connection.ack && !segment.payload.is_empty())?;
    connection.ack = connection.ack.wrapping_add(first.payload.len() as u32);
    connection.acknowledge(guest);
    connection.await_one(guest, "data that is lost", |segment| segment.seq == connection.ack)?;
    connection.read_to_end(guest)?;
    connection.finish(guest);
    connection.is_acknowledged(guest)?;
    Ok(())
}

fn timeout(guest: &mut Guest<'_>) -> Goes {
    let mut connection = open(guest, Stream::Says(b"do you hear me"))?;
    let first = connection.await_one(guest, "data", |segment| !segment.payload.is_empty())?;
    for _ in 0..2 {
        let again = connection.await_one(guest, "data again", |segment| !segment.payload.is_empty())?;
        guest.check("what was not acknowledged comes again", again.seq == first.seq);
    }
    connection.read_to_end(guest)?;
    connection.finish(guest);
    connection.is_acknowledged(guest)?;
    Ok(())
}

fn half_a_segment(guest: &mut Guest<'_>) -> Goes {
    let mut connection = open(guest, Stream::Greets(b"one half and the other"))?;
    let whole = connection.await_one(guest, "data", |segment| !segment.payload.is_empty())?;
    connection.ack = whole.seq.wrapping_add(8);
    connection.acknowledge(guest);
    let rest = connection.await_one(guest, "the other half again", |segment| !segment.payload.is_empty())?;
    guest.check("only the other half comes again", rest.seq == connection.ack);
    connection.ack = rest.seq.wrapping_add(rest.payload.len() as u32);
    connection.acknowledge(guest);
    connection.close(guest)
}

fn zero_window_of_guest(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Echo);
    let mut connection = Connection::open(guest, 41_000, server)?;
    connection.window = 0;
    connection.send(guest, b"come back when I have room");
    let probe = connection.await_one(guest, "window probe", |segment| segment.payload.len() == 1 || segment.seq != connection.ack)?;
    guest.note("window probe", Fields::one("bytes beyond the window", u32::from(!probe.payload.is_empty()).min(1)));
    connection.acknowledge(guest);
    guest.pause(Duration::from_millis(500));
    connection.window = 0xfaf0;
    connection.acknowledge(guest);
    connection.read(guest, 26)?;
    connection.close(guest)
}

fn small_window(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Pattern(5000));
    let mut connection = Connection::syn(guest, 41_000, server, &[2, 4, 0x05, 0xb4]);
    connection.window = 1000;
    connection.complete(guest)?;
    let (mut received, mut fits) = (0, true);
    while received < 5000 {
        let segment = connection.await_one(guest, "data", |segment| segment.seq == connection.ack && !segment.payload.is_empty())?;
        received += segment.payload.len();
        fits &= segment.payload.len() <= 1000;
        connection.ack = connection.ack.wrapping_add(segment.sequence_len());
        connection.acknowledge(guest);
    }
    guest.check("nothing is sent beyond the window", fits);
    connection.finish(guest);
    connection.is_acknowledged(guest)?;
    Ok(())
}

fn zero_window_of_host(guest: &mut Guest<'_>) -> Goes {
    let queue = 8192;
    let mut connection = open(guest, Stream::Sleeps { time: Duration::from_secs(5), queue })?;
    let data = pattern_of(queue + 4096);
    let mut window = queue as u32;
    let mut sent = 0;
    // Sends as long as there is room.
    while sent < queue && window >= 1024 {
        connection.send(guest, &data[sent..sent + 1024]);
        sent += 1024;
        let acknowledged = connection.is_acknowledged(guest)?;
        window = u32::from(acknowledged.window) << connection.scale;
    }
    let open = connection.await_one(guest, "window update", |segment| u32::from(segment.window) << connection.scale >= 4096)?;
    guest.check("a window update acknowledges nothing new", open.ack == connection.seq);
    connection.send(guest, &data[sent..sent + 1024]);
    connection.is_acknowledged(guest)?;
    connection.close(guest)
}

fn beyond(guest: &mut Guest<'_>) -> Goes {
    let mut connection = open(guest, Stream::Echo)?;
    let far = connection.data_at(1 << 24, b"too far");
    connection.give(guest, &far);
    connection.hear(guest, "ACK of data beyond the window", |segment| segment.ack == connection.seq)?;
    connection.send(guest, b"in place");
    connection.read(guest, 8)?;
    connection.close(guest)
}

fn keepalive(guest: &mut Guest<'_>) -> Goes {
    let mut connection = open(guest, Stream::Echo)?;
    connection.send(guest, b"a line");
    connection.read(guest, 6)?;
    for payload in [Vec::new(), vec![0]] {
        let probe = Segment { seq: connection.seq.wrapping_sub(1), payload, ..connection.segment(ACK) };
        connection.give(guest, &probe);
        connection.hear(guest, "ACK of a keepalive probe", |segment| segment.ack == connection.seq)?;
    }
    connection.close(guest)
}

fn idle(guest: &mut Guest<'_>) -> Goes {
    let mut connection = open(guest, Stream::Echo)?;
    connection.send(guest, b"a line");
    connection.read(guest, 6)?;
    guest.pause(Duration::from_secs(7000));
    let probe = connection.await_one(guest, "keepalive probe", |_| true)?;
    guest.check("the probe asks for an acknowledgement of what was acknowledged", probe.seq == connection.ack.wrapping_sub(1));
    connection.acknowledge(guest);
    connection.send(guest, b"still here");
    connection.read(guest, 10)?;
    connection.close(guest)
}

fn urgent(guest: &mut Guest<'_>) -> Goes {
    let mut connection = open(guest, Stream::Echo)?;
    let segment = Segment { flags: ACK | PSH | crate::story::frame::URG, urgent: 4, ..connection.data_at(0, b"now! and then") };
    connection.give(guest, &segment);
    connection.sent(13);
    connection.read(guest, 13)?;
    connection.close(guest)
}

fn old_ack(guest: &mut Guest<'_>) -> Goes {
    let mut connection = open(guest, Stream::Echo)?;
    let before = connection.ack;
    connection.send(guest, b"a line");
    connection.read(guest, 6)?;
    connection.give(guest, &Segment { ack: before, ..connection.segment(ACK) });
    connection.send(guest, b"another");
    connection.read(guest, 7)?;
    connection.close(guest)
}

fn blind_reset(guest: &mut Guest<'_>) -> Goes {
    let mut connection = open(guest, Stream::Echo)?;
    let forged = Segment { seq: connection.seq.wrapping_add(1 << 28), ..connection.segment(crate::story::frame::RST) };
    connection.give(guest, &forged);
    connection.send(guest, b"still here");
    connection.read(guest, 10)?;
    connection.close(guest)
}
