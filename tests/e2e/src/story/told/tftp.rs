//! TFTP (RFC 1350, and its options) from the gateway.

use std::net::SocketAddr;
use std::time::Duration;

use crate::story::Story;
use crate::story::frame::Datagram;
use crate::story::guest::{GATEWAY, GATEWAY6, Goes, Guest};
use crate::story::transcript::Fields;

pub(super) const STORIES: &[Story] = &[
    Story::new("tftp/small", "a guest gets a file that fits one block", small).user(USER),
    Story::new("tftp/blocks", "a guest gets a file of three blocks, one at a time", blocks).user(USER),
    Story::new("tftp/small-v6", "a guest gets a file over IPv6", small6).user(USER),
    Story::new("tftp/options", "a guest asks for larger blocks, for the length of the file, and for a time-out", options)
        .user(USER),
    Story::new("tftp/window", "a guest asks for two blocks at a time (RFC 7440)", window).user(USER),
    Story::new("tftp/large-blocks", "a guest asks for larger blocks than its link has packets", large).user(USER),
    Story::new("tftp/lost", "a guest that has not got a block gets it again", lost).user(USER),
    Story::new("tftp/wrong-number", "a block that was never sent is acknowledged", wrong_number).user(USER),
    Story::new("tftp/length-only", "firmware asks for the length of a file, then gives up", length).user(USER),
    Story::new("tftp/not-there", "a file that is not there", not_there).user(USER),
    Story::new("tftp/outside", "a file that is outside of the directory", outside).user(USER),
    Story::new("tftp/writing", "a guest wants to write a file", writing).user(USER),
    Story::new("tftp/text", "a guest wants a file as text", text).user(USER),
    Story::new("tftp/malformed", "requests that end too early, and options that are there twice", malformed)
        .user(USER)
        .spared("it serves whoever says something twice, and reads on where a request has ended"),
    Story::new("tftp/restricted", "a guest that may go nowhere gets a file all the same", small).user("restrict=on,tftp={files}"),
];

/// The gateway serves the files of [`crate::story::link::FILES`].
const USER: &str = "tftp={files}";

/// The port of the guest.
const PORT: u16 = 3069;

/// A client.
struct Client {
    gateway: SocketAddr,
    /// From where the server has answered.
    server: Option<SocketAddr>,
}

impl Client {
    fn new(guest: &mut Guest<'_>) -> Goes<Self> {
        guest.arrive()?;
        Ok(Self { gateway: (GATEWAY, 69).into(), server: None })
    }

    fn ask(&self, guest: &mut Guest<'_>, request: &str) {
        guest.datagram(PORT, self.gateway, format!("\0\x01{request}").as_bytes());
    }

    fn say(&self, guest: &mut Guest<'_>, message: &[u8]) {
        guest.datagram(PORT, self.server.unwrap_or(self.gateway), message);
    }

    fn acknowledge(&self, guest: &mut Guest<'_>, block: u8) {
        self.say(guest, &[0, 4, 0, block]);
    }

    /// What the server says, reduced to what clients look at.
    fn hear(&mut self, guest: &mut Guest<'_>, what: &str) -> Goes {
        let datagram = guest.datagram_to(what, PORT)?;
        self.server = Some(datagram.source);
        guest.note(what, Self::told(&datagram));
        Ok(())
    }

    fn told(datagram: &Datagram) -> Fields {
        let Some((kind, rest)) = datagram.payload.split_first_chunk::<2>() else { return Fields::one("told", "half a message") };
        let number = rest.first_chunk().map_or(0, |number| u16::from_be_bytes(*number));
        let mut fields = match kind {
            [0, 3] => {
                let mut fields = Fields::one("told", format_args!("block {number}"));
                fields.set("bytes", rest.len().saturating_sub(2));
                fields
            }
            [0, 5] => Fields::one("told", format_args!("error {number}")),
            [0, 6] => {
                let mut fields = Fields::one("told", "options");
                let texts: Vec<_> = rest.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
                for pair in texts.chunks_exact(2) {
                    fields.set(&pair[0], &pair[1]);
                }
                fields
            }
            other => Fields::one("told", format_args!("{other:?}")),
        };
        fields.set("from", if datagram.source.port() == 69 { "the port for requests" } else { "a port of its own" });
        fields
    }
}

fn small(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest)?;
    client.ask(guest, "small\0octet\0");
    client.hear(guest, "TFTP: the only block")?;
    client.acknowledge(guest, 1);
    guest.hear_nothing("TFTP: after the end");
    Ok(())
}

fn small6(guest: &mut Guest<'_>) -> Goes {
    guest.arrive6()?;
    let mut client = Client { gateway: (GATEWAY6, 69).into(), server: None };
    client.ask(guest, "small\0octet\0");
    client.hear(guest, "TFTP: the only block")?;
    client.acknowledge(guest, 1);
    Ok(())
}

fn blocks(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest)?;
    client.ask(guest, "/large\0octet\0");
    for block in 1..=3 {
        client.hear(guest, "TFTP: the next block")?;
        client.acknowledge(guest, block);
    }
    Ok(())
}

fn options(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest)?;
    client.ask(guest, "large\0octet\0blksize\x001000\0tsize\x000\0timeout\x003\0");
    client.hear(guest, "TFTP: the options")?;
    client.acknowledge(guest, 0);
    for block in 1..=2 {
        client.hear(guest, "TFTP: the next block")?;
        client.acknowledge(guest, block);
    }
    Ok(())
}

fn window(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest)?;
    client.ask(guest, "large\0octet\0blksize\x00400\0windowsize\x002\0");
    client.hear(guest, "TFTP: the options of windows")?;
    client.acknowledge(guest, 0);
    for blocks in [[1, 2], [3, 4]] {
        for _ in blocks {
            client.hear(guest, "TFTP: a block of a window")?;
        }
        client.acknowledge(guest, blocks[1]);
    }
    Ok(())
}

fn large(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest)?;
    client.ask(guest, "large\0octet\0blksize\x0065464\0");
    client.hear(guest, "TFTP: the largest blocks")?;
    client.acknowledge(guest, 0);
    client.hear(guest, "TFTP: the only block")?;
    client.acknowledge(guest, 1);
    Ok(())
}

fn lost(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest)?;
    client.ask(guest, "small\0octet\0");
    client.hear(guest, "TFTP: the only block")?;
    guest.pause(Duration::from_millis(1500));
    client.hear(guest, "TFTP: the block again")?;
    client.acknowledge(guest, 1);
    Ok(())
}

fn wrong_number(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest)?;
    client.ask(guest, "large\0octet\0");
    client.hear(guest, "TFTP: the next block")?;
    client.acknowledge(guest, 77);
    client.hear(guest, "TFTP: after a wrong acknowledgement")?;
    client.say(guest, b"\0\x05\0\0enough\0");
    Ok(())
}

fn length(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest)?;
    client.ask(guest, "large\0octet\0tsize\x000\0");
    client.hear(guest, "TFTP: the options")?;
    client.say(guest, b"\0\x05\0\0enough\0");
    guest.hear_nothing("TFTP: after the end");
    Ok(())
}

fn not_there(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest)?;
    client.ask(guest, "nothing\0octet\0");
    client.hear(guest, "TFTP: the refusal")
}

fn outside(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest)?;
    client.ask(guest, "../secret\0octet\0");
    client.hear(guest, "TFTP: the refusal")
}

fn writing(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest)?;
    guest.datagram(PORT, client.gateway, b"\0\x02small\0octet\0");
    client.hear(guest, "TFTP: the refusal to write")
}

fn text(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest)?;
    client.ask(guest, "small\0netascii\0");
    client.hear(guest, "TFTP: the refusal")
}

fn malformed(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest)?;
    for request in
        ["small", "small\0octet", "small\0octet\0blksize\0", "small\0octet\0blksize\x00512\0BLKSIZE\x00512\0", "\0octet\0"]
    {
        client.ask(guest, request);
        client.hear(guest, "TFTP: the refusal")?;
    }
    for nonsense in [&b"\0"[..], b"\0\x09small\0octet\0", b"\0\x04\0\x01"] {
        guest.datagram(PORT, client.gateway, nonsense);
    }
    guest.hear_nothing("TFTP: answer to what is no request");
    Ok(())
}
