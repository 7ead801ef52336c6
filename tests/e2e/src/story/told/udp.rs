//! UDP (RFC 768) between the guest and the host, and the manners of its address translation (RFC 4787).

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::story::Story;
use crate::story::guest::{Goes, Guest};
use crate::story::link::Datagrams;

pub(super) const STORIES: &[Story] = &[
    Story::new("udp/echo", "a guest sends a datagram to a server on the host, which sends it back", echo),
    Story::new("udp/echo-v6", "a guest sends a datagram in IPv6 to a server on the host, which sends it back", echo6),
    Story::new("udp/sizes", "datagrams without data, of one byte, and as long as fits the link", sizes),
    Story::new("udp/many-answers", "a server answers one datagram by three", many),
    Story::new("udp/no-checksum", "a datagram whose sender did not make a checksum is good", no_checksum),
    Story::new("udp/silent-server", "a server that does not answer", silent),
    Story::new("udp/closed-port", "a port of the host at which nobody listens", closed_port),
    Story::new("udp/closed-port-v6", "a port of the host at which nobody listens in IPv6", closed_port6),
    Story::new("udp/one-socket-two-servers", "a guest's socket talks to two servers, and each answer is that of its server", two),
    Story::new("udp/stranger", "who was never sent anything does not reach the guest", stranger),
    Story::new(
        "udp/after-five-minutes",
        "a mapping that was not used for five minutes is gone, and the next datagram makes another",
        idle,
    )
    .spared("it takes five minutes"),
    Story::new("udp/broadcast", "a datagram to everybody, to a group, or to what is no address of a host, goes nowhere", nowhere)
        .spared("libslirp sends broadcasts to the host's loopback, and groups to the host's network"),
];

fn echo(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve_datagrams(false, Datagrams::Echo);
    for text in [&b"one"[..], b"two"] {
        guest.datagram(5000, server, text);
        guest.hear_datagram("the datagram again", 5000)?;
    }
    Ok(())
}

fn echo6(guest: &mut Guest<'_>) -> Goes {
    guest.arrive6()?;
    let server = guest.serve_datagrams(true, Datagrams::Echo);
    guest.datagram(5000, server, b"one");
    guest.hear_datagram("the datagram again", 5000)?;
    Ok(())
}

fn sizes(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve_datagrams(false, Datagrams::Echo);
    for len in [0_u32, 1, 1472] {
        let data: Vec<u8> = (0..len).map(|n| (n % 249) as u8).collect();
        guest.datagram(5000, server, &data);
        guest.hear_datagram("the datagram again", 5000)?;
    }
    Ok(())
}

fn many(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve_datagrams(false, Datagrams::Thrice);
    guest.datagram(5000, server, b"once more");
    for _ in 0..3 {
        guest.hear_datagram("the datagram again", 5000)?;
    }
    Ok(())
}

fn no_checksum(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve_datagrams(false, Datagrams::Echo);
    let mut frame = guest.datagram_frame(5000, server, b"take my word for it");
    frame[40..42].fill(0);
    guest.send(&frame);
    guest.hear_datagram("the datagram again", 5000)?;
    Ok(())
}

fn silent(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve_datagrams(false, Datagrams::Silent);
    guest.datagram(5000, server, b"hello?");
    guest.hear_nothing("answer of a silent server");
    Ok(())
}

fn closed_port(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve_datagrams(false, Datagrams::Closed);
    guest.datagram(5000, server, b"hello?");
    guest.hear_icmp("answer of a closed port")?;
    Ok(())
}

fn closed_port6(guest: &mut Guest<'_>) -> Goes {
    guest.arrive6()?;
    let server = guest.serve_datagrams(true, Datagrams::Closed);
    guest.datagram(5000, server, b"hello?");
    guest.hear_icmp("answer of a closed port in IPv6")?;
    Ok(())
}

fn two(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let one = guest.serve_datagrams(false, Datagrams::Echo);
    let two = guest.link.serve_datagrams(false, Datagrams::Echo);
    guest.name(two, "another server");
    for (server, text) in [(one, &b"to one"[..]), (two, b"to two"), (one, b"to one again")] {
        guest.datagram(5000, server, text);
        guest.hear_datagram("the datagram again", 5000)?;
    }
    Ok(())
}

fn stranger(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve_datagrams(false, Datagrams::Echo);
    guest.datagram(5000, server, b"to the server");
    guest.hear_datagram("the datagram again", 5000)?;
    assert!(guest.link.stranger(server, b"let me in"), "the server has seen the guest");
    guest.hear_stranger("what a stranger has sent", 5000);
    Ok(())
}

fn idle(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve_datagrams(false, Datagrams::Echo);
    guest.datagram(5000, server, b"before");
    guest.hear_datagram("the datagram again", 5000)?;
    guest.pause(Duration::from_secs(301));
    let reached = guest.link.stranger(server, b"too late");
    guest.check("the mapping is gone", !reached);
    guest.datagram(5000, server, b"after");
    guest.hear_datagram("the datagram again", 5000)?;
    Ok(())
}

fn nowhere(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    for ip in [[255, 255, 255, 255], [10, 0, 2, 255], [239, 1, 2, 3], [127, 0, 0, 1], [0, 0, 0, 0], [240, 0, 0, 1]] {
        guest.datagram(5000, SocketAddr::from((Ipv4Addr::from(ip), 5000)), b"anybody");
    }
    guest.hear_nothing("answer from nowhere");
    Ok(())
}
