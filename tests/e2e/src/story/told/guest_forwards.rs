//! Virtual hosts that lead to commands of the host, or to an SMB server.

use std::net::{Ipv4Addr, SocketAddr};

use crate::story::Story;
use crate::story::frame::RST;
use crate::story::guest::{Goes, Guest};
use crate::story::link::Stream;
use crate::story::tcp::{Connection, SYN_OPTIONS};

/// What a network's first forward leads to here, and what that does where commands cannot be run.
const CAT: &str = "guestfwd=tcp:10.0.2.100:7-cmd:/bin/cat";
const RESTRICTED_CAT: &str = "restrict=on,guestfwd=tcp:10.0.2.100:7-cmd:/bin/cat";
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);

const SMB_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 4);

const NOT_WITHOUT: &str = "libslirp has no SMB server without a directory";

pub(super) const STORIES: &[Story] = &[
    Story::new("guestfwd/command", "a command sends back what it reads, until the guest closes", command).user(CAT),
    Story::new("guestfwd/restricted", "a restricted guest reaches a command that it is forwarded to", command).user(RESTRICTED_CAT),
    Story::new("guestfwd/reset-by-guest", "the guest resets its connection to a command, and opens another", reset).user(CAT),
    Story::new("guestfwd/its-host", "the host of a forward has a card and answers a ping; its other ports are closed", its_host)
        .user(CAT),
    Story::new("smb/nobody", "without an SMB server nobody has its address", nobody),
    Story::new("smb/stub", "an SMB server that shares nothing refuses at once", stub)
        .user("smbserver=10.0.2.4")
        .spared(NOT_WITHOUT),
];

fn command(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.link.commands(Stream::Echo);
    let server = guest.name(SocketAddr::new(SERVER.into(), 7), "command");
    let mut connection = Connection::open(guest, 40_000, server)?;
    for line in [&b"a line\n"[..], b"another line\n"] {
        connection.send(guest, line);
        connection.read(guest, line.len())?;
    }
    connection.close(guest)
}

fn reset(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.link.commands(Stream::Echo);
    let server = guest.name(SocketAddr::new(SERVER.into(), 7), "command");
    let mut connection = Connection::open(guest, 40_000, server)?;
    connection.send(guest, b"a line\n");
    connection.read(guest, 7)?;
    connection.reset(guest);
    let mut connection = Connection::open(guest, 40_001, server)?;
    connection.send(guest, b"another line\n");
    connection.read(guest, 13)?;
    connection.close(guest)
}

fn its_host(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.arp(1, guest.v4, SERVER);
    guest.hear_arp("ARP reply of the forward's host")?;
    let frame = guest.echo_frame(SERVER.into(), 1, 1, b"are you there");
    guest.send(&frame);
    guest.hear_icmp("echo reply of the forward's host")?;
    let closed = guest.name(SocketAddr::new(SERVER.into(), 8), "closed port");
    let connection = Connection::syn(guest, 40_000, closed, &SYN_OPTIONS);
    connection.hear(guest, "RST of a port that is not forwarded", |segment| segment.has(RST))?;
    Ok(())
}

fn nobody(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.arp(1, guest.v4, SMB_SERVER);
    guest.hear_nothing("ARP reply of an SMB server");
    Ok(())
}

fn stub(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.arp(1, guest.v4, SMB_SERVER);
    guest.hear_arp("ARP reply of the SMB server")?;
    for (from, port) in [(40_000, 445), (40_001, 139)] {
        let server = SocketAddr::new(SMB_SERVER.into(), port);
        Connection::syn(guest, from, server, &SYN_OPTIONS).hear_reset(guest)?;
    }
    Ok(())
}
