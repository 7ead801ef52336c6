//! Networks that are not as they are without options: restricted ones, other addresses, one version of IP only.

use std::net::{Ipv4Addr, SocketAddr};

use crate::story::Story;
use crate::story::dhcp::Client;
use crate::story::frame::{Arp, BROADCAST, Icmp, card_of, card_of_group};
use crate::story::guest::{DNS, GATEWAY, GATEWAY6, Goes, Guest};
use crate::story::link::{Datagrams, Stream, pattern_of};
use crate::story::tcp::{Connection, SYN_OPTIONS};

const RESTRICTED: &str = "restrict=on";
const ELSEWHERE: &str = "net=192.168.76.0/24,host=192.168.76.1,dns=192.168.76.53,dhcpstart=192.168.76.100,ipv6=off";

pub(super) const STORIES: &[Story] = &[
    Story::new("networks/restricted-lease", "a restricted guest gets an address, and no way out with it", restricted_lease)
        .user(RESTRICTED),
    Story::new("networks/restricted-ping", "a restricted guest may ping the gateway", restricted_ping).user(RESTRICTED),
    Story::new("networks/restricted-tcp", "a restricted guest's connections are reset", restricted_tcp).user(RESTRICTED),
    Story::new("networks/restricted-udp", "a restricted guest's datagrams and questions for names go nowhere", restricted_udp)
        .user(RESTRICTED),
    Story::new("networks/restricted-router", "a restricted guest's router is no way out", restricted_router).user(RESTRICTED),
    Story::new("networks/restricted-forward", "a forward reaches a restricted guest", restricted_forward)
        .user("restrict=on,hostfwd=tcp:127.0.0.1:{port}-:80"),
    Story::new("networks/other-addresses", "a network with addresses of its own leases them, and its gateway answers", elsewhere)
        .user(ELSEWHERE),
    Story::new("networks/without-ipv6", "where IPv6 is off, nobody answers in it", without_ipv6).user("ipv6=off"),
    Story::new("networks/without-ipv4", "where IPv4 is off, nobody answers in it", without_ipv4).user("ipv4=off"),
    Story::new(
        "networks/large-datagram",
        "on a link with an MTU of 65520, a datagram of nine thousand bytes is one packet",
        large_datagram,
    )
    .mtu(65_520)
    .spared("QEMU cannot change libslirp's MTU"),
];

fn restricted_lease(guest: &mut Guest<'_>) -> Goes {
    Client::new(guest).lease(guest)?;
    Ok(())
}

fn restricted_ping(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let frame = guest.echo_frame(GATEWAY.into(), 1, 1, b"let me out");
    guest.send(&frame);
    guest.hear_icmp("echo reply of the gateway")?;
    Ok(())
}

fn restricted_tcp(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Echo);
    Connection::syn(guest, 40_000, server, &SYN_OPTIONS).hear_reset(guest)?;
    Ok(())
}

fn restricted_udp(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve_datagrams(false, Datagrams::Echo);
    guest.datagram(5000, server, b"let me out");
    // A question for the root's name servers.
    let question = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];
    guest.datagram(5001, SocketAddr::new(DNS.into(), 53), &question);
    guest.hear_nothing("answer to a restricted guest");
    Ok(())
}

fn restricted_router(guest: &mut Guest<'_>) -> Goes {
    guest.forget();
    let all_routers = std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let link_local = std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x15);
    let solicitation =
        Icmp { source: link_local.into(), destination: all_routers.into(), kind: 133, code: 0, rest: [0; 4], payload: Vec::new() };
    let frame = solicitation.frame(guest.card, card_of_group(all_routers));
    guest.send(&frame);
    guest.hear_discovery("router advertisement to a restricted guest", 134)?;
    Ok(())
}

fn restricted_forward(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.link.dial(Stream::Greets(b"a question"));
    let mut connection = Connection::accept(guest, 80)?;
    connection.read(guest, 10)?;
    connection.close(guest)
}

fn elsewhere(guest: &mut Guest<'_>) -> Goes {
    let gateway = Ipv4Addr::new(192, 168, 76, 1);
    let mut client = Client::new(guest);
    let discover = client.message(dhcproto::v4::MessageType::Discover, []);
    client.say(guest, &discover);
    let offer = client.hear(guest, "DHCPOFFER of another network")?;
    guest.v4 = offer.yiaddr();
    let ask = Arp { operation: 1, sender_card: guest.card, sender: guest.v4, target_card: [0; 6], target: gateway };
    guest.send(&ask.frame(BROADCAST));
    guest.hear_arp("the gateway's ARP reply")?;
    let message = Icmp {
        source: guest.v4.into(),
        destination: gateway.into(),
        kind: 8,
        code: 0,
        rest: [0, 1, 0, 1],
        payload: b"ping".to_vec(),
    };
    let frame = message.frame(guest.card, card_of(gateway.into()));
    guest.send(&frame);
    guest.hear_icmp("echo reply of the gateway")?;
    Ok(())
}

fn without_ipv6(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.solicit(guest.v6, GATEWAY6);
    let ping = guest.echo_frame(GATEWAY6.into(), 1, 1, b"");
    guest.send(&ping);
    guest.hear_nothing("answer in IPv6");
    Ok(())
}

fn without_ipv4(guest: &mut Guest<'_>) -> Goes {
    guest.arrive6()?;
    guest.arp(1, guest.v4, GATEWAY);
    let client = Client::new(guest);
    let discover = client.message(dhcproto::v4::MessageType::Discover, []);
    client.say(guest, &discover);
    let ping = guest.echo_frame(GATEWAY.into(), 1, 1, b"");
    guest.send(&ping);
    guest.hear_nothing("answer in IPv4");
    Ok(())
}

fn large_datagram(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve_datagrams(false, Datagrams::Echo);
    guest.datagram(5000, server, &pattern_of(9000));
    guest.hear_datagram("the datagram again", 5000)?;
    Ok(())
}
