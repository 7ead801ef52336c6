//! TCP (RFC 9293) from the guest to the host.

use crate::story::Story;
use crate::story::guest::{Goes, Guest};
use crate::story::link::Stream;
use crate::story::tcp::Connection;

pub(super) const STORIES: &[Story] = &[
    Story::new("tcp/echo", "a connection is opened, carries a line both ways, and is closed by the guest first", echo),
    Story::new("tcp/refused", "nobody listens, and the guest is told by a reset", refused),
];

fn echo(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Echo);
    let mut connection = Connection::open(guest, 40_000, server)?;
    connection.send(guest, b"a line");
    connection.read(guest, 6)?;
    connection.close(guest)
}

fn refused(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Refuses);
    let connection = Connection::syn(guest, 40_000, server, &crate::story::tcp::SYN_OPTIONS);
    connection.hear_reset(guest)?;
    Ok(())
}
