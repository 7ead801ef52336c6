//! DHCPv6 (RFC 8415), with addresses and without.

use std::net::Ipv6Addr;
use std::time::Duration;

use dhcproto::Encodable;
use dhcproto::v6::{DhcpOption, DhcpOptions, IAPD, MessageType, OptionCode};

use crate::story::Story;
use crate::story::dhcp6::{Client, LINK_LOCAL, LINUX, SERVERS, address_in, asks_for, association};
use crate::story::frame::{Icmp, card_of_group};
use crate::story::guest::{DNS6, GATEWAY6, Goes, Guest};

pub(super) const STORIES: &[Story] = &[
    Story::new("dhcp6/lease", "a client solicits an address, is advertised one, and requests it", lease),
    Story::new("dhcp6/renew", "a client renews its lease, and rebinds it when it has not reached its server", renew),
    Story::new("dhcp6/release", "a client gives its address back, and another one gets it by its wish", release),
    Story::new("dhcp6/rapid-commit", "a client gets its address in two messages", rapid_commit),
    Story::new("dhcp6/information", "a guest that made its own address asks for everything else", information)
        .user("dnssearch=example.test,dnssearch=lab.example.test,bootfile=boot.img"),
    Story::new("dhcp6/confirm", "a client that was moved asks whether its addresses are right here", confirm),
    Story::new("dhcp6/decline", "a client finds its address in use by somebody else, and gets another one", decline),
    Story::new("dhcp6/prefix", "a client that wants a prefix to give away is told that there is none", prefix),
    Story::new("dhcp6/unicast", "a client that asks the server alone is told to ask all of them", unicast),
    Story::new("dhcp6/expired", "an address that ran out goes to who wishes for it", expired)
        .user("lease-time=60")
        .spared("libslirp has no leases of DHCPv6, and QEMU no option for their time"),
    Story::new("dhcp6/hostile", "messages that contradict themselves are not answered, and the next one is", hostile),
    Story::new("dhcp6/small-prefix", "in a prefix without room for self-made addresses DHCPv6 gives them all", small_prefix)
        .user("ipv6-net=fd00:5::/126"),
];

fn lease(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest);
    let address = client.lease(guest)?;
    // And it is good for something.
    guest.v6 = address;
    guest.arrive6()?;
    let ping = guest.echo_frame(DNS6.into(), 1, 1, b"from a lease");
    guest.send(&ping);
    guest.hear_icmp("echo reply of the DNS server")?;
    Ok(())
}

fn renew(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest);
    let address = client.lease(guest)?;
    client.say(guest, MessageType::Renew, [association(1, &[address]), asks_for(LINUX)]);
    client.hear(guest, "DHCPv6 Reply to a renewal")?;
    client.say(guest, MessageType::Rebind, [association(1, &[address]), asks_for(LINUX)]);
    client.hear(guest, "DHCPv6 Reply to a rebinding")?;
    Ok(())
}

fn release(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest);
    let address = client.lease(guest)?;
    client.say(guest, MessageType::Release, [association(1, &[address])]);
    client.hear(guest, "DHCPv6 Reply to a release")?;
    client.say(guest, MessageType::Release, [association(1, &[address])]);
    client.hear(guest, "DHCPv6 Reply to the same again")?;
    let mut other = Client::other(guest);
    other.say(guest, MessageType::Solicit, [association(1, &[])]);
    other.hear(guest, "DHCPv6 Advertise to another client")?;
    Ok(())
}

fn rapid_commit(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest);
    client.say(guest, MessageType::Solicit, [association(1, &[]), DhcpOption::RapidCommit, asks_for(LINUX)]);
    client.hear(guest, "DHCPv6 Reply with rapid commit")?;
    Ok(())
}

fn information(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest);
    let codes = [LINUX, &[OptionCode::OptBootfileUrl, OptionCode::InformationRefreshTime]].concat();
    client.say(guest, MessageType::InformationRequest, [asks_for(&codes)]);
    client.hear(guest, "DHCPv6 information")?;
    Ok(())
}

fn confirm(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest);
    let address = client.lease(guest)?;
    client.say(guest, MessageType::Confirm, [association(1, &[address])]);
    client.hear(guest, "DHCPv6 Reply about an address of this link")?;
    client.say(guest, MessageType::Confirm, [association(1, &[Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5)])]);
    client.hear(guest, "DHCPv6 Reply about an address of another link")?;
    Ok(())
}

fn decline(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest);
    let address = client.lease(guest)?;
    client.say(guest, MessageType::Decline, [association(1, &[address])]);
    client.hear(guest, "DHCPv6 Reply to a Decline")?;
    client.lease(guest)?;
    Ok(())
}

fn prefix(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest);
    let prefix = DhcpOption::IAPD(IAPD { id: 2, t1: 0, t2: 0, opts: DhcpOptions::new() });
    client.say(guest, MessageType::Solicit, [association(1, &[]), prefix]);
    client.hear(guest, "DHCPv6 Advertise without a prefix")?;
    Ok(())
}

fn unicast(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest);
    let address = client.lease(guest)?;
    let renewal = client.message(MessageType::Renew, [association(1, &[address])]);
    client.say_bytes(guest, GATEWAY6, &renewal.to_vec().expect("a message that can be encoded"));
    client.hear(guest, "DHCPv6 Reply to a renewal by unicast")?;
    let solicitation = client.message(MessageType::Solicit, [association(1, &[])]);
    client.say_bytes(guest, GATEWAY6, &solicitation.to_vec().expect("a message that can be encoded"));
    guest.hear_nothing("DHCPv6 answer to a solicitation by unicast");
    Ok(())
}

fn expired(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest);
    let address = client.lease(guest)?;
    guest.pause(Duration::from_secs(61));
    let mut other = Client::other(guest);
    other.say(guest, MessageType::Solicit, [association(1, &[address])]);
    other.hear(guest, "DHCPv6 Advertise to another client")?;
    client.say(guest, MessageType::Renew, [association(1, &[address])]);
    client.hear(guest, "DHCPv6 Reply to a renewal that comes too late")?;
    Ok(())
}

fn hostile(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest);
    let id = [&[0, 1, 0, 10][..], &client.identity].concat();
    for bytes in [
        // No transaction; an option that ends after the message; an identifier of nothing.
        &[1, 0][..],
        &[&[1, 0, 0, 1][..], &id, &[0, 3, 0, 12, 0, 0]].concat(),
        &[1, 0, 0, 1, 0, 1, 0, 0, 0, 3, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        // Authentication without its fixed part.
        &[&[1, 0, 0, 1][..], &[0, 11, 0, 1, 0], &[0, 3, 0, 0]].concat(),
        // What servers and relay agents say, and a request for nobody.
        &[&[2, 0, 0, 1][..], &id].concat(),
        &[&[12, 0][..], &[0; 32], &[0, 9, 0, 4, 1, 0, 0, 1]].concat(),
        &[&[3, 0, 0, 1][..], &id].concat(),
    ] {
        client.say_bytes(guest, SERVERS, bytes);
    }
    guest.hear_nothing("DHCPv6 answer to what makes no sense");
    client.say(guest, MessageType::InformationRequest, [asks_for(LINUX)]);
    client.hear(guest, "DHCPv6 information")?;
    Ok(())
}

fn small_prefix(guest: &mut Guest<'_>) -> Goes {
    guest.forget();
    let routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let payload = [&[1, 1][..], &guest.card].concat();
    let solicitation = Icmp { source: LINK_LOCAL.into(), destination: routers.into(), kind: 133, code: 0, rest: [0; 4], payload };
    let frame = solicitation.frame(guest.card, card_of_group(routers));
    guest.send(&frame);
    guest.hear_discovery("router advertisement", 134)?;
    let mut client = Client::new(guest);
    client.lease(guest)?;
    let mut other = Client::other(guest);
    other.say(guest, MessageType::Solicit, [association(1, &[])]);
    let refused = other.hear(guest, "DHCPv6 Advertise of nothing")?;
    guest.check("the second client gets no address", address_in(&refused).is_none());
    Ok(())
}
