//! ICMP and ICMPv6 (RFC 792, RFC 4443): echo, and what guests are told of what they cannot reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netstack::host::sim::{UdpServer, Way};
use netstack::wire::icmp_error::Unreachable;

use crate::story::Story;
use crate::story::frame::{Icmp, with_hops};
use crate::story::guest::{DNS, DNS6, GATEWAY, GATEWAY6, Goes, Guest};
use crate::story::tcp::{Connection, SYN_OPTIONS};

pub(super) const STORIES: &[Story] = &[
    Story::new("icmp/echo", "a guest pings the gateway and the DNS server", echo),
    Story::new("icmp/echo-v6", "a guest pings the gateway and the DNS server in IPv6", echo6),
    Story::new("icmp/echo-sizes", "pings without data, and with as much as fits the link", sizes),
    Story::new(
        "icmp/nobody-on-the-link",
        "what is sent by way of the gateway to an address of the guests' own network that nobody has",
        on_link,
    )
    .spared("libslirp hands such packets to the host's kernel, whose routes decide what it says"),
    Story::new("icmp/errors-of-guests", "ICMP errors that a guest sends are no business of ours", errors),
    Story::new("icmp/other-types", "timestamps, address masks and router solicitations of IPv4 are not answered", others),
    Story::new("icmp/closed-service", "a port of the DNS server that is not that of DNS", closed),
    Story::new("icmp/world", "a guest pings hosts of the world, one of which does not answer", world).spared(FAR_AWAY),
    Story::new("icmp/way-by-echo", "a guest looks for the way by echo requests, as `traceroute -I` does", by_echo).spared(FAR_AWAY),
    Story::new("icmp/way-by-datagrams", "a guest looks for the way by datagrams, as traceroute does", by_datagrams)
        .spared(FAR_AWAY),
    Story::new("icmp/too-big", "a guest finds out what a way takes, in IPv4", too_big).spared(FAR_AWAY),
    Story::new("icmp/too-big-v6", "a guest finds out what a way takes, in IPv6", too_big6).spared(FAR_AWAY),
    Story::new(
        "icmp/no-way",
        "routers, and the host itself, say that they have no way, and no address of the host is told",
        no_way,
    )
    .spared(FAR_AWAY),
    Story::new("icmp/hop-limit", "what may cross no router gets no further than the gateway", hop_limit)
        .spared("libslirp answers only datagrams, and connects to hosts of the world for the rest"),
];

const FAR_AWAY: &str = "the hosts of the world, and the way there, are made up";

/// A host of the world and two routers on the way there, in both families.
const WORLD: [(IpAddr, [IpAddr; 2]); 2] = [
    (
        IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)),
        [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), IpAddr::V4(Ipv4Addr::new(203, 0, 113, 2))],
    ),
    (
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7)),
        [IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2))],
    ),
];

/// The first port of those that traceroute sends to.
const TRACED: u16 = 33434;

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
    let mut message = Icmp {
        source: guest.v4.into(),
        destination: GATEWAY.into(),
        kind: 3,
        code: 3,
        rest: [0; 4],
        payload: quoted[14..].to_vec(),
    };
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

fn world(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.arrive6()?;
    for (target, routers) in WORLD {
        let way = Way::direct().router(routers[0], 1500);
        guest.link.world().lay(target, way);
        for (seq, len) in [0, 56, 1400].into_iter().enumerate() {
            let data: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            let frame = guest.echo_frame(target, 0x1234, seq as u16, &data);
            guest.send(&frame);
            guest.hear_icmp("echo reply of a host of the world")?;
        }
        guest.link.world().lay(routers[1], Way::direct().silent());
        let frame = guest.echo_frame(routers[1], 0x1234, 9, DATA);
        guest.send(&frame);
        guest.hear_nothing("echo reply of a silent host");
    }
    Ok(())
}

fn by_echo(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.arrive6()?;
    for (target, routers) in WORLD {
        guest.link.world().lay(target, Way::direct().router(routers[0], 1500).router(routers[1], 1500));
        for hops in 1..=4 {
            let frame = with_hops(guest.echo_frame(target, 7, hops.into(), DATA), hops);
            guest.send(&frame);
            guest.hear_icmp(&format!("who is {hops} hops away"))?;
        }
    }
    Ok(())
}

fn by_datagrams(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.arrive6()?;
    for (target, routers) in WORLD {
        let world = guest.link.world();
        world.lay(target, Way::direct().router(routers[0], 1500).router(routers[1], 1500));
        // A router need not quote more than eight bytes, which are all of the UDP header; most quote all that there is.
        world.set_quoted(if target.is_ipv4() { 0 } else { 1000 });
        for hops in 1..=4 {
            let to = SocketAddr::new(target, TRACED + u16::from(hops));
            guest.link.world().serve_udp(to, UdpServer::Closed);
            let frame = with_hops(guest.datagram_frame(5000, to, DATA), hops);
            guest.send(&frame);
            guest.hear_icmp(&format!("who is {hops} hops away"))?;
        }
    }
    Ok(())
}

fn too_big(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    narrow(guest, WORLD[0])
}

fn too_big6(guest: &mut Guest<'_>) -> Goes {
    guest.arrive6()?;
    narrow(guest, WORLD[1])
}

/// The link behind the first router takes less than the guest's.
fn narrow(guest: &mut Guest<'_>, (target, routers): (IpAddr, [IpAddr; 2])) -> Goes {
    let server = SocketAddr::new(target, 7);
    guest.link.world().lay(target, Way::direct().router(routers[0], 1300).router(routers[1], 1500));
    guest.link.world().serve_udp(server, UdpServer::Echo);
    // The router says so first; then the host knows. An echo request is told likewise.
    for _ in 0..2 {
        guest.datagram(5000, server, &[7; 1400]);
        guest.hear_icmp("what is said of a datagram that is too big")?;
    }
    let frame = guest.echo_frame(target, 7, 1, &[7; 1400]);
    guest.send(&frame);
    guest.hear_icmp("what is said of an echo request that is too big")?;
    guest.datagram(5000, server, &[7; 1200]);
    guest.hear_datagram("a datagram that fits", 5000)?;
    let frame = guest.echo_frame(target, 7, 2, &[7; 1200]);
    guest.send(&frame);
    guest.hear_icmp("the answer to an echo request that fits")?;
    Ok(())
}

fn no_way(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.arrive6()?;
    for (target, routers) in WORLD {
        for why in [Unreachable::Network, Unreachable::Host, Unreachable::Prohibited] {
            guest.link.world().lay(target, Way::direct().router(routers[0], 1500).unreachable(why));
            guest.datagram(5000, SocketAddr::new(target, 9), DATA);
            guest.hear_icmp("what a router says of a datagram")?;
            let frame = guest.echo_frame(target, 7, 1, DATA);
            guest.send(&frame);
            guest.hear_icmp("what a router says of an echo request")?;
        }
        // The host itself finds nobody on its own link.
        guest.link.world().lay(routers[0], Way::direct().unreachable(Unreachable::Host));
        guest.datagram(5000, SocketAddr::new(routers[0], 9), DATA);
        guest.hear_icmp("what the host says of a datagram")?;
        let frame = guest.echo_frame(routers[0], 7, 1, DATA);
        guest.send(&frame);
        guest.hear_icmp("what the host says of an echo request")?;
    }
    Ok(())
}

fn hop_limit(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.arrive6()?;
    for (target, _) in WORLD {
        let datagram = guest.datagram_frame(5000, SocketAddr::new(target, 9), DATA);
        let echo = guest.echo_frame(target, 7, 1, DATA);
        for (what, frame) in [("datagram", datagram), ("echo request", echo)] {
            guest.send(&with_hops(frame, 1));
            guest.hear_icmp(&format!("what is said of a {what}"))?;
        }
    }
    // The gateway is no further than the gateway.
    let echo = guest.echo_frame(GATEWAY.into(), 7, 1, DATA);
    guest.send(&with_hops(echo, 1));
    guest.hear_icmp("echo reply of the gateway")?;
    Ok(())
}
