//! The texts that users write: options of QEMU's user network, forwards, addresses, filters of captures, and the notes in them.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use netstack::addr::MacAddr;
use netstack::capture::Filter;
use netstack::config::{Config, GuestForward, HostForward, qemu};
use netstack::gateway::dhcp::DhcpServer;
use netstack::pcap::note::{Note, PortNote, SectionNote};
use netstack::port::stream::StreamAddress;
use netstack::stack::Stack;
use netstack::time::Instant;

use crate::engine::advertise;

/// The first character says what the rest is.
pub fn judge(input: &[u8]) {
    let Some((kind, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    match kind {
        b'f' => judge_round_trip::<HostForward>(text),
        b'g' => judge_round_trip::<GuestForward>(text),
        b's' => judge_round_trip::<StreamAddress>(text),
        b'm' => judge_round_trip::<MacAddr>(text),
        b'c' => judge_round_trip::<Filter>(text),
        b'1' => judge_note::<SectionNote>(text),
        b'2' => judge_note::<PortNote>(text),
        b'3' => judge_note::<Note>(text),
        _ => judge_options(text),
    }
}

/// What was read is written so that it is read as the same.
fn judge_round_trip<T: FromStr<Err: Display> + Display + PartialEq + std::fmt::Debug>(text: &str) {
    match text.parse::<T>() {
        Ok(value) => {
            let written = value.to_string();
            let again = written.parse::<T>().unwrap_or_else(|error| panic!("{text:?} was read, {written:?} is not: {error}"));
            assert_eq!(again, value, "{text:?} is written {written:?}");
        }
        Err(error) => judge_message(&error),
    }
}

/// What a note says is what it says when it is written again. A line's end in it is not, so it is not the same note.
fn judge_note<T: FromStr<Err: Display> + Display>(text: &str) {
    match text.parse::<T>() {
        Ok(note) => {
            let written = note.to_string();
            let again = written.parse::<T>().unwrap_or_else(|error| panic!("{text:?} was read, {written:?} is not: {error}"));
            assert_eq!(again.to_string(), written, "of {text:?}");
        }
        Err(error) => judge_message(&error),
    }
}

/// A mistake is told in words, on one line unless the user's own text has more.
fn judge_message(error: &dyn Display) {
    let message = error.to_string();
    assert!(message.len() > 10, "{message:?} says nothing");
}

fn judge_options(text: &str) {
    // The networks of the largest pools take a while to set up, and are otherwise like the others.
    let mut config = Config::default();
    let before = config.clone();
    if let Err(error) = qemu::apply(&mut config, text) {
        judge_message(&error);
        assert_eq!(config, before, "refused, and half taken all the same");
        return;
    }
    assert_eq!(qemu::parse(text).as_ref(), Ok(&config), "the same text, another meaning");
    assert!(config.ipv4.is_some() || config.ipv6.is_some(), "guests without a network");
    assert!((68..=65520).contains(&config.mtu));
    for forward in &config.host_forwards {
        assert!(forward.host.count() >= 1 && forward.guest_port >= 1, "{forward:?}");
        judge_round_trip::<HostForward>(&forward.to_string());
    }
    for forward in &config.guest_forwards {
        let address = config.guest_forward_address(forward).expect("an address at which guests find it");
        assert!(forward.port >= 1, "{forward:?}");
        let fixed = config.ipv4.iter().flat_map(|ipv4| [ipv4.gateway, ipv4.dns, ipv4.dhcp_start]);
        assert!(fixed.map(IpAddr::from).all(|fixed| fixed != address.ip()), "{address} has two meanings");
        judge_round_trip::<GuestForward>(&forward.to_string());
    }
    assert!(config.smb.is_none() || config.smb_address().is_some(), "a server that nobody finds");
    if let Some(ipv4) = &config.ipv4 {
        let distinct = ipv4.gateway != ipv4.dns && ipv4.dhcp_start != ipv4.gateway && ipv4.dhcp_start != ipv4.dns;
        assert!(distinct && ipv4.net.contains(&ipv4.gateway) && ipv4.net.contains(&ipv4.dhcp_start), "{ipv4:?}");
    }
    advertise(Stack::new(&config, [7; 32]), config.mtu);
    judge_first_lease(&config);
}

/// The first guest gets an address: where leases begin, unless that is kept for another.
fn judge_first_lease(config: &Config) {
    let Some(ipv4) = &config.ipv4 else { return };
    let mut server = DhcpServer::new(config).expect("a server for the network");
    let station = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    let mut message = vec![1, 1, 6, 0, 1, 2, 3, 4];
    message.resize(28, 0);
    message.extend(station.0);
    message.resize(236, 0);
    message.extend([99, 130, 83, 99, 53, 1, 1, 55, 9, 1, 3, 6, 12, 15, 66, 67, 119, 121, 255]);
    let mut reply = Vec::new();
    let answer = server.handle(Instant::ZERO, station, &message, &mut reply);
    server.check();
    let static_leases = &config.dhcp.static_leases;
    match answer {
        Ok(Some(_)) => {
            let told = <dhcproto::v4::Message as dhcproto::v4::Decodable>::decode(&mut dhcproto::v4::Decoder::new(&reply));
            let address = told.expect("an offer that others can read").yiaddr();
            assert!(config.server_addresses().all(|server| server != IpAddr::from(address)), "{address} is a server's");
            assert!(ipv4.net.contains(&address) && address != Ipv4Addr::UNSPECIFIED, "{address} is offered");
            let kept = static_leases.iter().find(|(_, kept)| *kept == address);
            assert!(kept.is_none_or(|(whose, _)| *whose == station), "{address} is kept for somebody else");
        }
        other => {
            // All addresses may be kept for others, or leases may begin at the last.
            let wide = u32::from(ipv4.net.broadcast()) - u32::from(ipv4.dhcp_start)
                > (3 + static_leases.len() + config.server_addresses().count()) as u32;
            assert!(!wide, "no address for the first guest: {other:?}");
        }
    }
}

/// Options and texts that use every part of their syntax.
pub fn seeds() -> Vec<Vec<u8>> {
    [
        "qnet=192.168.76.0/24,hostfwd=tcp::2222-:22",
        "qipv4=off,ipv6-net=fd00:1234::/64,ipv6-host=fd00:1234::1,ipv6-dns=fd00:1234::53,mtu=9000",
        "qnet=172.16.0.0/255.240.0.0,host=172.16.0.1,dns=172.16.0.53,dhcpstart=172.16.0.100,restrict=on,full-cone=on",
        "qhostname=guest,domainname=example.org,dnssearch=a.example,dnssearch=b.example,tftp-server-name=10.0.2.2,bootfile=pxe,,0",
        "qlease=52:54:00:12:34:56/10.0.2.20,lease-time=60,ntp=192.0.2.1,route=10.9.0.0/16:10.0.2.20,dns-server=9.9.9.9,mtu=1280",
        "qhostfwd=udp:127.0.0.1:6000-6010-10.0.2.20:6000,hostfwd=tcp:[::1]:8080-[fec0::15]:80,id=net0,dns-server=[2620:fe::fe]:53",
        "quser,ip=10.1.2.3,ipv6-prefix=fd00::,ipv6-prefixlen=64,disable-host-loopback=on,host-loopback=off",
        "qguestfwd=tcp:10.0.2.100:80-cmd:x,tftp=/srv,smb=/srv,smbserver=10.0.2.4",
        "qguestfwd=:[fec0::4]:80-unix:/run/a,guestfwd=::81-tcp:[::1]:80,guestfwd=::82-cmd:a,,b -c | d,smbserver=10.0.2.9",
        "qsmb=/srv/share,smb-min-protocol=nt1,smbserver=10.0.2.99,dhcpstart=10.0.2.98",
        "gtcp:10.0.2.100:1234-tcp:10.10.1.1:4321",
        "g:[fec0::4]:0x50-unix:/run/a-b:c",
        "g::7-cmd:a -b --c 'd' | e",
        "g::7-chardev:c0",
        "qnet=10.0.2.0/30",
        "qmtus=1",
        "ftcp:127.0.0.1:0x8AE-:22",
        "fudp:[::]:6000-6010-[fec0::15]:7000-7010",
        "f::80-90-10.0.2.15:80",
        "fsctp::1-:1",
        "funix:/tmp/socket-:22",
        "sunix:/run/user/1000/vm.sock",
        "stcp:[::1]:5555",
        "stcp:127.0.0.1:0",
        "m52:54:00:12:34:56",
        "chost 10.0.2.15 and not (port 53 or arp)",
        "ctcp portrange 8000-8080 or drops || !ip6 && src net 10.0.2.0/24 and dst host fec0::15",
        "1slipway: epoch=1790000000000000000 mtu=1500 user=net=10.0.2.0/24,tftp=/a b",
        "2slipway: port=3 offloads=csum,tso4,uso mtu=9000",
        "3slipway: flow=17 drop=malformed gso=tcp4:1460 checksum=partial:34:16 cut=96",
        "m52-54-0-12-34-5f",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
