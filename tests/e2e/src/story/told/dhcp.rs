//! DHCP and BOOTP (RFC 2131, RFC 2132, RFC 951), in every exchange that there is.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::{DhcpOption, MessageType, OptionCode, UnknownOption};

use crate::story::Story;
use crate::story::dhcp::{Client, asks_for, broadcast, identifier};
use crate::story::guest::{GATEWAY, Goes, Guest};

pub(super) const STORIES: &[Story] = &[
    Story::new("dhcp/lease", "a client discovers the server, is offered an address, and takes it", lease),
    Story::new("dhcp/renew", "a client renews its lease with the server, from its own address", renew),
    Story::new("dhcp/rebind", "a client that has not reached its server asks everybody to extend its lease", rebind),
    Story::new("dhcp/release", "a client gives its address back, another comes and goes, and the first finds its old one free", release),
    Story::new("dhcp/decline", "a client finds its address in use by somebody else, and gets another one", decline),
    Story::new("dhcp/inform", "a guest with an address of its own asks for everything else", inform),
    Story::new("dhcp/nak", "a client that comes from another network is told that its address is no good here", nak),
    Story::new("dhcp/init-reboot", "a client that was here before gets its old address in one exchange", init_reboot),
    Story::new("dhcp/other-server", "a client that has chosen another server is left alone", other_server),
    Story::new("dhcp/bootp", "a client that knows only BOOTP gets an address without DHCP's options", bootp),
    Story::new("dhcp/relay", "a relay agent on the guests' network asks for a client, and gets the answer at its own port", relay),
    Story::new("dhcp/broadcast-flag", "a client that cannot receive unicast yet is answered by broadcast", broadcast_flag),
    Story::new("dhcp/request-list", "a client that asks for little gets little, one that asks for everything gets what there is", list),
    Story::new("dhcp/network-options", "host name, domain, search list and boot file of the network reach the client", network)
        .user("hostname=guest,domainname=example.test,dnssearch=example.test,dnssearch=lab.example.test,bootfile=boot.img,tftp-server-name=10.0.2.2"),
    Story::new("dhcp/windows", "a client that looks like Windows 11 leases, and asks for more by DHCPINFORM", windows),
    Story::new("dhcp/ipxe", "a client that looks like iPXE is told what to boot", ipxe).user("bootfile=http://10.0.2.2/boot.ipxe"),
    Story::new("dhcp/uefi-http", "a client that looks like UEFI booting by HTTP is answered in kind", uefi_http)
        .user("bootfile=http://10.0.2.2/boot.efi"),
    Story::new("dhcp/pxe", "firmware is told the server and the file to boot, in fields and as options", pxe)
        .user("tftp={files},bootfile=pxelinux.0"),
    Story::new("dhcp/rapid-commit", "a client that would do with two messages is led through four", rapid),
    Story::new("dhcp/two-cards", "two cards on a link have addresses of their own", two_cards),
    Story::new("dhcp/full", "the third client of a network with two addresses is not answered", full)
        .user("net=10.0.2.0/28,dhcpstart=10.0.2.13")
        .spared("libslirp's pool always has sixteen addresses, here beyond the end of the network"),
];

fn lease(guest: &mut Guest<'_>) -> Goes {
    Client::new(guest).lease(guest)?;
    Ok(())
}

fn renew(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest);
    let address = client.lease(guest)?.yiaddr();
    guest.arp(1, address, GATEWAY);
    guest.hear_arp("the gateway's ARP reply")?;
    let mut request = client.message(MessageType::Request, []);
    request.set_ciaddr(address);
    client.say_from(guest, address, GATEWAY, &request);
    client.hear(guest, "DHCPACK of a renewal")?;
    Ok(())
}

fn rebind(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest);
    let address = client.lease(guest)?.yiaddr();
    let mut request = client.message(MessageType::Request, []);
    request.set_ciaddr(address);
    client.say_from(guest, address, Ipv4Addr::BROADCAST, &request);
    client.hear(guest, "DHCPACK of a rebinding")?;
    Ok(())
}

fn release(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest);
    let address = client.lease(guest)?.yiaddr();
    let mut release = client.message(MessageType::Release, [DhcpOption::ServerIdentifier(GATEWAY)]);
    release.set_ciaddr(address);
    client.say_from(guest, address, GATEWAY, &release);
    guest.hear_nothing("answer to DHCPRELEASE");
    Client::other(2).lease(guest)?;
    client.transaction += 1;
    client.lease(guest)?;
    Ok(())
}

fn decline(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest);
    let address = client.lease(guest)?.yiaddr();
    let options = [DhcpOption::RequestedIpAddress(address), DhcpOption::ServerIdentifier(GATEWAY)];
    let decline = client.message(MessageType::Decline, options);
    client.say(guest, &decline);
    guest.hear_nothing("answer to DHCPDECLINE");
    client.transaction += 1;
    let discover = client.message(MessageType::Discover, []);
    client.say(guest, &discover);
    client.hear(guest, "DHCPOFFER after DHCPDECLINE")?;
    Ok(())
}

fn inform(guest: &mut Guest<'_>) -> Goes {
    guest.v4 = Ipv4Addr::new(10, 0, 2, 100);
    guest.arrive()?;
    let mut client = Client::new(guest);
    let mut message = client.message(MessageType::Inform, []);
    message.set_ciaddr(guest.v4);
    client.say_from(guest, guest.v4, GATEWAY, &message);
    client.hear(guest, "DHCPACK of DHCPINFORM")?;
    Ok(())
}

fn nak(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest);
    let request = client.message(MessageType::Request, [DhcpOption::RequestedIpAddress(Ipv4Addr::new(192, 168, 1, 50))]);
    client.say(guest, &request);
    client.hear(guest, "answer to an address of another network")?;
    client.lease(guest)?;
    Ok(())
}

fn init_reboot(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest);
    let address = client.lease(guest)?.yiaddr();
    guest.pause(Duration::from_millis(50));
    let request = client.message(MessageType::Request, [DhcpOption::RequestedIpAddress(address)]);
    client.say(guest, &request);
    client.hear(guest, "DHCPACK after a reboot")?;
    Ok(())
}

fn other_server(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest);
    let discover = client.message(MessageType::Discover, []);
    client.say(guest, &discover);
    let offer = client.hear(guest, "DHCPOFFER")?;
    let options = [DhcpOption::RequestedIpAddress(offer.yiaddr()), DhcpOption::ServerIdentifier(Ipv4Addr::new(10, 0, 2, 77))];
    let request = client.message(MessageType::Request, options);
    client.say(guest, &request);
    guest.hear_nothing("answer to a request for another server");
    Ok(())
}

fn bootp(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest);
    let request = client.bare();
    client.say(guest, &request);
    client.hear(guest, "BOOTREPLY")?;
    Ok(())
}

fn relay(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let mut client = Client::other(9);
    let mut discover = client.message(MessageType::Discover, []);
    discover.set_giaddr(guest.v4).set_hops(1);
    client.card = guest.card;
    client.say_from(guest, guest.v4, GATEWAY, &discover);
    client.hear_at(guest, "DHCPOFFER for a relay agent", 67)?;
    Ok(())
}

fn broadcast_flag(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest);
    let discover = broadcast(client.message(MessageType::Discover, []));
    client.say(guest, &discover);
    client.hear(guest, "DHCPOFFER by broadcast")?;
    Ok(())
}

fn list(guest: &mut Guest<'_>) -> Goes {
    let everything: Vec<u8> = (1..=254).filter(|code| ![50, 51, 53, 54, 55, 57, 61, 82].contains(code)).collect();
    for (number, codes) in [&[1_u8][..], &[1, 3, 6, 15, 26, 28, 51, 58, 59], &everything].into_iter().enumerate() {
        let mut client = Client::new(guest).with(asks_for(codes));
        client.transaction += 16 * number as u32;
        let discover = client.message(MessageType::Discover, []);
        client.say(guest, &discover);
        client.hear(guest, &format!("DHCPOFFER to who asks for {} options", codes.len()))?;
    }
    Ok(())
}

fn network(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest).with(asks_for(&[1, 3, 6, 12, 15, 66, 67, 119]));
    client.lease(guest)?;
    Ok(())
}

fn windows(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest)
        .with(asks_for(&[1, 3, 6, 15, 31, 33, 43, 44, 46, 47, 119, 121, 249, 252]))
        .with(identifier(guest))
        .with(DhcpOption::ClassIdentifier(b"MSFT 5.0".to_vec()))
        .with(DhcpOption::Hostname("DESKTOP-SLIPWAY".to_owned()));
    let ack = client.lease(guest)?;
    guest.v4 = ack.yiaddr();
    guest.arrive()?;
    // What the browser wants to know: whether there is a proxy (option 252).
    let mut inform = client.message(MessageType::Inform, [asks_for(&[252])]);
    inform.set_ciaddr(guest.v4);
    client.say_from(guest, guest.v4, Ipv4Addr::BROADCAST, &inform);
    client.hear(guest, "DHCPACK of DHCPINFORM")?;
    Ok(())
}

fn ipxe(guest: &mut Guest<'_>) -> Goes {
    let unknown = |code: u8, data: &[u8]| DhcpOption::Unknown(UnknownOption::new(OptionCode::from(code), data.to_vec()));
    let uuid = [&[0][..], &[0x11; 16]].concat();
    let mut client = Client::new(guest)
        .with(asks_for(&[1, 3, 6, 7, 12, 15, 17, 26, 43, 60, 66, 67, 119, 128, 129, 130, 131, 132, 133, 134, 135, 175, 203]))
        .with(identifier(guest))
        .with(DhcpOption::MaxMessageSize(1472))
        .with(DhcpOption::ClassIdentifier(b"PXEClient:Arch:00000:UNDI:002001".to_vec()))
        .with(unknown(93, &[0, 0]))
        .with(unknown(94, &[1, 2, 1]))
        .with(unknown(97, &uuid))
        .with(unknown(77, b"iPXE"))
        .with(unknown(175, &[0xb1, 5, 1, 0x1a, 0xf4, 0x10, 0]));
    client.lease(guest)?;
    Ok(())
}

fn uefi_http(guest: &mut Guest<'_>) -> Goes {
    let unknown = |code: u8, data: &[u8]| DhcpOption::Unknown(UnknownOption::new(OptionCode::from(code), data.to_vec()));
    let mut client = Client::new(guest)
        .with(asks_for(&[1, 3, 6, 12, 15, 43, 60, 66, 67, 97]))
        .with(DhcpOption::MaxMessageSize(1472))
        .with(DhcpOption::ClassIdentifier(b"HTTPClient:Arch:00016:UNDI:003001".to_vec()))
        .with(unknown(93, &[0, 16]))
        .with(unknown(94, &[1, 3, 1]));
    client.lease(guest)?;
    Ok(())
}

fn pxe(guest: &mut Guest<'_>) -> Goes {
    let unknown = |code: u8, data: &[u8]| DhcpOption::Unknown(UnknownOption::new(OptionCode::from(code), data.to_vec()));
    let mut client = Client::new(guest)
        .with(asks_for(&[1, 3, 6, 12, 15, 43, 66, 67]))
        .with(DhcpOption::ClassIdentifier(b"PXEClient:Arch:00000:UNDI:002001".to_vec()))
        .with(unknown(93, &[0, 0]));
    client.lease(guest)?;
    Ok(())
}

fn rapid(guest: &mut Guest<'_>) -> Goes {
    let mut client = Client::new(guest).with(DhcpOption::RapidCommit);
    let discover = client.message(MessageType::Discover, []);
    client.say(guest, &discover);
    client.hear(guest, "answer to a DHCPDISCOVER with rapid commit")?;
    Ok(())
}

fn two_cards(guest: &mut Guest<'_>) -> Goes {
    Client::new(guest).lease(guest)?;
    Client::other(2).lease(guest)?;
    let mut again = Client { transaction: 0x5afe_0100, ..Client::new(guest) };
    again.lease(guest)?;
    Ok(())
}

fn full(guest: &mut Guest<'_>) -> Goes {
    Client::new(guest).lease(guest)?;
    Client::other(2).lease(guest)?;
    let mut third = Client::other(3);
    let discover = third.message(MessageType::Discover, []);
    third.say(guest, &discover);
    guest.hear_nothing("answer to the third client");
    third.transaction += 1;
    Ok(())
}
