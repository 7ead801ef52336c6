//! ARP (RFC 826) and the detection of address conflicts (RFC 5227).

use std::net::Ipv4Addr;

use crate::story::Story;
use crate::story::guest::{DNS, GATEWAY, Goes, Guest};

pub(super) const STORIES: &[Story] = &[
    Story::new("arp/gateway-and-dns", "a guest asks for the cards of the gateway and of the DNS server", virtual_hosts),
    Story::new("arp/probe-and-announcement", "a guest looks whether somebody has its address, then says that it has", probe),
    Story::new("arp/unknown-host", "nobody answers for an address that no virtual host has", unknown),
    Story::new("arp/conflict", "the gateway defends its address against a guest that looks for it as its own", conflict),
];

fn virtual_hosts(guest: &mut Guest<'_>) -> Goes {
    guest.arp(1, guest.v4, GATEWAY);
    guest.hear_arp("the gateway's ARP reply")?;
    guest.arp(1, guest.v4, DNS);
    guest.hear_arp("the DNS server's ARP reply")?;
    Ok(())
}

fn probe(guest: &mut Guest<'_>) -> Goes {
    guest.arp(1, Ipv4Addr::UNSPECIFIED, guest.v4);
    guest.hear_nothing("answer to an ARP probe");
    guest.arp(1, guest.v4, guest.v4);
    guest.hear_nothing("answer to an ARP announcement");
    guest.arp(2, guest.v4, guest.v4);
    guest.hear_nothing("answer to a gratuitous ARP reply");
    Ok(())
}

fn unknown(guest: &mut Guest<'_>) -> Goes {
    guest.arp(1, guest.v4, Ipv4Addr::new(10, 0, 2, 77));
    guest.hear_nothing("answer to an ARP request for an address that nobody has");
    guest.arp(1, guest.v4, Ipv4Addr::new(192, 0, 2, 1));
    guest.hear_nothing("answer to an ARP request for an address of another network");
    Ok(())
}

fn conflict(guest: &mut Guest<'_>) -> Goes {
    guest.arp(1, Ipv4Addr::UNSPECIFIED, GATEWAY);
    guest.hear_arp("the gateway's defence")?;
    Ok(())
}
