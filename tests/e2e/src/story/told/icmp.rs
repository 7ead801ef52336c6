//! ICMP and ICMPv6 (RFC 792, RFC 4443): echo, and what guests are told of what they cannot reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::story::Story;
use crate::story::frame::Icmp;
use crate::story::guest::{DNS, DNS6, GATEWAY, GATEWAY6, Goes, Guest};
use crate::story::tcp::{Connection, SYN_OPTIONS};

pub(super) const STORIES: &[Story] = &[
    Story::new("icmp/echo", "a guest pings the gateway and the DNS server", echo),
    Story::new("icmp/echo-v6", "a guest pings the gateway and the DNS server in IPv6", echo6),
    Story::new("icmp/echo-sizes", "pings without data, and with as much as fits the link", sizes),
    Story::new("icmp/nobody-on-the-link", "what is sent by way of the gateway to an address of the guests' own network that nobody has", on_link)
        .spared("libslirp hands such packets to the host's kernel, whose routes decide what it says"),
    Story::new("icmp/errors-of-guests", "ICMP errors that a guest sends are no business of ours", errors),
    Story::new("icmp/other-types", "timestamps, address masks and router solicitations of IPv4 are not answered", others),
    Story::new("icmp/closed-service", "a port of the DNS server that is not that of DNS", closed),
];

const DATA: &[u8] = b"abcdefghijklmnopqrstuvwabcdefghi";

fn echo(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    for (seq, (name, to)) in [("gateway", GATEWAY), ("DNS server", DNS)].into_iter().enumerate() {
        let frame = guest.echo_frame(to.into(), 0x1234, seq as u16, DATA);
        guest.send(&frame);
        guest.hear_icmp(&format!("echo reply of the {name}"))?;
    }
    Ok(())
}

fn echo6(guest: &mut Guest<'_>) -> Goes {
    guest.arrive6()?;
    for (seq, (name, to)) in [("gateway", GATEWAY6), ("DNS server", DNS6)].into_iter().enumerate() {
        let frame = guest.echo_frame(to.into(), 0x1234, seq as u16, DATA);
        guest.send(&frame);
        guest.hear_icmp(&format!("echo reply of the {name} in IPv6"))?;
    }
    Ok(())
}

fn sizes(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    for (seq, len) in [0, 1, 1472].into_iter().enumerate() {
        let data: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
        let frame = guest.echo_frame(GATEWAY.into(), 7, seq as u16, &data);
        guest.send(&frame);
        guest.hear_icmp("echo reply of the gateway")?;
    }
    Ok(())
}

fn on_link(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.arrive6()?;
    let nobody = [IpAddr::V4(Ipv4Addr::new(10, 0, 2, 77)), IpAddr::V6(Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0x77))];
    for ip in nobody {
        guest.datagram(5000, SocketAddr::new(ip, 9), b"anybody?");
        guest.hear_icmp("ICMP error about a datagram")?;
        Connection::syn(guest, 5001, SocketAddr::new(ip, 9), &SYN_OPTIONS);
        guest.hear_icmp("ICMP error about a SYN")?;
    }
    Ok(())
}

fn errors(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    // It quotes a datagram that nobody has sent.
    let quoted = guest.datagram_frame(9, (GATEWAY, 9).into(), b"a quote");
    let mut message =
        Icmp { source: guest.v4.into(), destination: GATEWAY.into(), kind: 3, code: 3, rest: [0; 4], payload: quoted[14..].to_vec() };
    for (kind, code) in [(3, 3), (3, 4), (4, 0), (5, 1), (11, 0), (12, 0)] {
        (message.kind, message.code) = (kind, code);
        let frame = message.frame(guest.card, guest.router(false));
        guest.send(&frame);
    }
    guest.hear_nothing("answer to ICMP errors");
    Ok(())
}

fn others(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    for (kind, payload) in [(13, vec![0; 12]), (17, vec![0; 4]), (15, Vec::new()), (10, Vec::new())] {
        let message = Icmp { source: guest.v4.into(), destination: GATEWAY.into(), kind, code: 0, rest: [0, 7, 0, 1], payload };
        let frame = message.frame(guest.card, guest.router(false));
        guest.send(&frame);
    }
    guest.hear_nothing("answer to requests other than for an echo");
    Ok(())
}

fn closed(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.datagram(5000, (DNS, 5353).into(), b"is there anybody?");
    guest.hear_icmp("ICMP error about a closed port of the DNS server")?;
    let connection = Connection::syn(guest, 5001, (DNS, 80).into(), &SYN_OPTIONS);
    connection.hear_reset(guest)?;
    Ok(())
}
