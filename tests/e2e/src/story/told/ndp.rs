//! Neighbour discovery (RFC 4861) and the detection of duplicate addresses (RFC 4862).

use std::net::Ipv6Addr;

use crate::story::Story;
use crate::story::frame::{Icmp, card_of_group};
use crate::story::guest::{DNS6, GATEWAY6, Goes, Guest};

pub(super) const STORIES: &[Story] = &[
    Story::new("ndp/router", "a guest asks for routers, and is told of the gateway, its prefix and its DNS server", router),
    Story::new("ndp/gateway-and-dns", "a guest asks for the cards of the gateway and of the DNS server", virtual_hosts),
    Story::new("ndp/still-there", "a guest makes sure that its router is still there, by unicast", still_there),
    Story::new("ndp/duplicate-address-detection", "a guest looks whether somebody has its address", duplicate),
    Story::new("ndp/gateway-is-taken", "a guest that wants the gateway's address is told that it is taken", taken),
    Story::new("ndp/unknown-host", "nobody answers for an address that no virtual host has", unknown),
    Story::new("ndp/from-afar", "discovery that has crossed a router is not believed", from_afar),
];

const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0x00ff, 0xfe12, 0x3456);
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

fn router(guest: &mut Guest<'_>) -> Goes {
    guest.forget();
    let payload = [&[1, 1][..], &guest.card].concat();
    let solicitation =
        Icmp { source: LINK_LOCAL.into(), destination: ALL_ROUTERS.into(), kind: 133, code: 0, rest: [0; 4], payload };
    let frame = solicitation.frame(guest.card, card_of_group(ALL_ROUTERS));
    guest.send(&frame);
    guest.hear_discovery("router advertisement", 134)?;
    Ok(())
}

fn virtual_hosts(guest: &mut Guest<'_>) -> Goes {
    for (name, target) in [("gateway", GATEWAY6), ("DNS server", DNS6), ("router", ROUTER)] {
        let from = if target == ROUTER { LINK_LOCAL } else { guest.v6 };
        guest.solicit(from, target);
        guest.hear_discovery(&format!("the {name}'s neighbour advertisement"), 136)?;
    }
    Ok(())
}

fn still_there(guest: &mut Guest<'_>) -> Goes {
    guest.arrive6()?;
    let payload = GATEWAY6.octets().to_vec();
    let probe = Icmp { source: guest.v6.into(), destination: GATEWAY6.into(), kind: 135, code: 0, rest: [0; 4], payload };
    let frame = probe.frame(guest.card, guest.router(true));
    guest.send(&frame);
    guest.hear_discovery("the gateway's neighbour advertisement", 136)?;
    Ok(())
}

fn duplicate(guest: &mut Guest<'_>) -> Goes {
    for target in [LINK_LOCAL, guest.v6] {
        guest.solicit(Ipv6Addr::UNSPECIFIED, target);
        guest.hear_nothing("answer for the guest's own address");
    }
    Ok(())
}

fn taken(guest: &mut Guest<'_>) -> Goes {
    guest.solicit(Ipv6Addr::UNSPECIFIED, GATEWAY6);
    guest.hear_discovery("the gateway's defence", 136)?;
    Ok(())
}

fn unknown(guest: &mut Guest<'_>) -> Goes {
    guest.solicit(guest.v6, Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0x77));
    guest.hear_nothing("answer for an address that nobody has");
    Ok(())
}

fn from_afar(guest: &mut Guest<'_>) -> Goes {
    let payload = [&GATEWAY6.octets()[..], &[1, 1], &guest.card].concat();
    let icmp = Icmp { source: guest.v6.into(), destination: GATEWAY6.into(), kind: 135, code: 0, rest: [0; 4], payload };
    let mut frame = icmp.frame(guest.card, guest.router(true));
    frame[21] = 254;
    guest.send(&frame);
    guest.hear_nothing("answer to a solicitation with a hop limit of 254");
    guest.solicit(guest.v6, GATEWAY6);
    guest.hear_discovery("the gateway's neighbour advertisement", 136)?;
    Ok(())
}
