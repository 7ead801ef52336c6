//! What no decent guest sends: a story for each class of mistakes that libslirp's parsers have made, and for what else contradicts
//! itself. What must come of it is a counted drop, or an error that quotes nothing but what was sent; the network lives on.

use std::net::{Ipv4Addr, SocketAddr};

use dhcproto::Encodable;
use dhcproto::v4::MessageType;

use crate::story::Story;
use crate::story::dhcp::Client;
use crate::story::fragments::header_checksum;
use crate::story::frame::{ACK, Arp, BROADCAST, Body, Datagram, Icmp, PSH, RST, SYN, Segment, Told, URG, mend_checksums};
use crate::story::guest::{DNS, GATEWAY, GATEWAY6, Goes, Guest};
use crate::story::link::{Datagrams, Stream};
use crate::story::tcp::{Connection, SYN_OPTIONS};

const FRAGMENTS: &str = "libslirp 4.7 dies of fragments in the wrong order";

pub(super) const STORIES: &[Story] = &[
    Story::new(
        "malformed/short-frames",
        "frames shorter than their headers, of every protocol (CVE-2020-29129, CVE-2020-29130)",
        short,
    ),
    Story::new("malformed/arp", "ARP for other hardware, with other lengths, and with the card of a group", arp),
    Story::new("malformed/bootp-short", "BOOTP messages that end within their header (CVE-2021-3592)", bootp_short),
    Story::new(
        "malformed/dhcp-options",
        "DHCP options that end after their message, or have the wrong size (CVE-2017-11434)",
        dhcp_options,
    ),
    Story::new(
        "malformed/udp-length",
        "datagrams that say that they are longer or shorter than they are (CVE-2021-3594)",
        udp_length,
    ),
    Story::new(
        "malformed/udp6-length",
        "datagrams in IPv6 that say that they are longer or shorter than they are (CVE-2021-3593)",
        udp6_length,
    ),
    Story::new("malformed/tftp-short", "TFTP requests without an end, and for files outside (CVE-2021-3595, CVE-2020-7211)", tftp)
        .spared("libslirp answers at port 69 itself, and we pass it on to the host like every port"),
    Story::new("malformed/icmp6-short", "ICMPv6 messages that end within their header (CVE-2020-10756)", icmp6_short),
    Story::new(
        "malformed/icmp-length",
        "an echo request whose IP header says that it is longer than it is (CVE-2026-115449)",
        icmp_length,
    ),
    Story::new("malformed/quoted-length", "an error about a datagram quotes only what was sent (CVE-2026-120830)", quoted_length),
    Story::new("malformed/urgent-pointer", "an urgent pointer behind the data, and before it (CVE-2026-9539)", urgent_pointer)
        .spared("libslirp 4.7 sends the guest 4 GiB of its own memory"),
    Story::new("malformed/fragments", "fragments, in order, overlapping, and again (CVE-2019-15890, CVE-2020-1983)", fragments)
        .spared(FRAGMENTS),
    Story::new(
        "malformed/fragments-oversize",
        "fragments that would make a packet of more than 65535 bytes (CVE-2019-14378)",
        oversize,
    )
    .spared(FRAGMENTS),
    Story::new("malformed/fragments-v6", "fragments of IPv6, and one that is whole by itself", fragments6),
    Story::new("malformed/burst", "two hundred packets at once (CVE-2026-120831)", burst),
    Story::new(
        "malformed/protocols-with-addresses",
        "what looks like IRC, FTP and ident is passed on as it is (CVE-2020-8608, CVE-2019-6778)",
        emulated,
    ),
    Story::new("malformed/small-mtu", "a link so small that a DHCP answer comes in fragments (CVE-2026-95508)", small_mtu)
        .user("ipv6=off")
        .mtu(68)
        .spared("QEMU cannot change libslirp's MTU"),
    Story::new("malformed/port-zero", "datagrams from and to port 0 (CVE-2014-3640)", port_zero),
    Story::new("malformed/ipv4-header", "IPv4 headers with the wrong version, length or checksum", ipv4_header),
    Story::new("malformed/ipv4-options", "IPv4 options are skipped", ipv4_options),
    Story::new("malformed/ipv6-header", "IPv6 with the wrong length, and with extension headers", ipv6_header),
    Story::new("malformed/tcp-header", "TCP headers that are too short or too long, and options without an end", tcp_header),
    Story::new("malformed/tcp-flags", "segments with flags that exclude each other", tcp_flags),
    Story::new("malformed/checksums", "what arrives damaged is dropped", checksums),
    Story::new("malformed/addresses", "packets from addresses that no guest can have", addresses),
    Story::new("malformed/other-protocols", "protocols and frame types that are not relayed", others),
    Story::new("malformed/ncsi", "NC-SI, which we do not speak, in short and long (CVE-2020-29129)", ncsi)
        .spared("libslirp answers NC-SI, for machines with a management controller"),
];

/// The gateway still answers.
fn lives(guest: &mut Guest<'_>) -> Goes {
    guest.hear_nothing("answer to what makes no sense");
    let frame = guest.echo_frame(GATEWAY.into(), 0x11fe, 1, b"still there?");
    guest.send(&frame);
    let is_reply = |told: &Told| matches!(&told.body, Body::Icmp(icmp) if icmp.source.is_ipv4() && icmp.kind == 0);
    guest.hear("echo reply of the gateway", is_reply)?;
    Ok(())
}

/// Sends a packet of any kind to the gateway: what follows the Ethernet header.
fn raw(guest: &mut Guest<'_>, ethertype: u16, packet: &[u8]) {
    let card = guest.router(ethertype == 0x86dd);
    let frame = [&card[..], &guest.card, &ethertype.to_be_bytes(), packet].concat();
    guest.send(&frame);
}

fn short(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let whole = guest.datagram_frame(5000, (GATEWAY, 9).into(), b"");
    for len in [14, 15, 33, 34, 41] {
        guest.send(&whole[..len]);
    }
    let server = SocketAddr::from((GATEWAY, 9));
    let tcp = Connection::new(guest, 5000, server);
    let whole = tcp.frame(guest, &tcp.segment(SYN));
    for len in [35, 53] {
        guest.send(&whole[..len]);
    }
    let arp =
        Arp { operation: 1, sender_card: guest.card, sender: guest.v4, target_card: [0; 6], target: GATEWAY }.frame(BROADCAST);
    for len in [14, 21, 41] {
        guest.send(&arp[..len]);
    }
    let whole = guest.datagram_frame(5000, (GATEWAY6, 9).into(), b"");
    for len in [15, 53, 54, 61] {
        guest.send(&whole[..len]);
    }
    lives(guest)
}

fn arp(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let good =
        Arp { operation: 1, sender_card: guest.card, sender: guest.v4, target_card: [0; 6], target: GATEWAY }.frame(BROADCAST);
    for (at, value) in [(15, 6), (16, 0x86), (18, 8), (19, 16), (18, 0), (21, 9)] {
        let mut frame = good.clone();
        frame[at] = value;
        guest.send(&frame);
    }
    lives(guest)
}

fn bootp_short(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let client = Client::new(guest);
    let whole = client.message(MessageType::Discover, []).to_vec().expect("a message that can be encoded");
    for len in [0, 1, 28, 43, 235, 236, 239] {
        client.say_bytes(guest, &whole[..len]);
    }
    lives(guest)
}

fn dhcp_options(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let client = Client::new(guest);
    let whole = client.message(MessageType::Discover, []).to_vec().expect("a message that can be encoded");
    let head = &whole[..240];
    // Each ends after the message, has no length, or is of a size that it cannot have.
    for options in
        [&[53, 1, 1, 12, 200, b'x'][..], &[53], &[53, 1], &[53, 0, 255], &[53, 1, 1, 50, 2, 10, 0, 255], &[53, 1, 1, 55, 255]]
    {
        client.say_bytes(guest, &[head, options].concat());
    }
    lives(guest)
}

fn udp_length(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve_datagrams(false, Datagrams::Echo);
    for len in [0_u16, 7, 8 + 17, 0xffff] {
        let mut frame = guest.datagram_frame(5000, server, b"sixteen bytes...");
        frame[38..40].copy_from_slice(&len.to_be_bytes());
        mend_checksums(&mut frame);
        guest.send(&frame);
    }
    lives(guest)
}

fn udp6_length(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.arrive6()?;
    let server = guest.serve_datagrams(true, Datagrams::Echo);
    for len in [0_u16, 7, 8 + 17, 0xffff] {
        let mut frame = guest.datagram_frame(5000, server, b"sixteen bytes...");
        frame[58..60].copy_from_slice(&len.to_be_bytes());
        mend_checksums(&mut frame);
        guest.send(&frame);
    }
    lives(guest)
}

fn tftp(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = SocketAddr::from((GATEWAY, 69));
    for request in [
        &[][..],
        &[0],
        &[0, 1],
        b"\0\x01file",
        b"\0\x01file\0octet",
        b"\0\x01../../etc/passwd\0octet\0",
        b"\0\x01..\\..\\boot.ini\0octet\0",
    ] {
        guest.datagram(6900, server, request);
    }
    lives(guest)
}

fn icmp6_short(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.arrive6()?;
    for kind in [128, 133, 135, 136] {
        let whole = Icmp {
            source: guest.v6.into(),
            destination: GATEWAY6.into(),
            kind,
            code: 0,
            rest: [0; 4],
            payload: GATEWAY6.octets()[..8].to_vec(),
        }
        .frame(guest.card, guest.router(true));
        for len in [0_u16, 1, 4, 7] {
            let mut frame = whole[..54 + usize::from(len)].to_vec();
            frame[18..20].copy_from_slice(&len.to_be_bytes());
            if len >= 4 {
                mend_checksums(&mut frame);
            }
            guest.send(&frame);
        }
    }
    lives(guest)
}

fn icmp_length(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    for len in [28_u16 + 100, 0xffff, 27, 20, 0] {
        let mut frame = guest.echo_frame(GATEWAY.into(), 7, 7, b"eight   ");
        frame[16..18].copy_from_slice(&len.to_be_bytes());
        mend_checksums(&mut frame);
        guest.send(&frame);
    }
    lives(guest)
}

fn quoted_length(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    // To a port of the DNS server at which nobody is, so that there is an error to quote in.
    guest.datagram(5000, (DNS, 5353).into(), b"");
    guest.hear_icmp("ICMP error about a datagram without data")?;
    let mut frame = guest.datagram_frame(5000, (DNS, 5353).into(), b"1234");
    frame[16..18].copy_from_slice(&1000_u16.to_be_bytes());
    mend_checksums(&mut frame);
    guest.send(&frame);
    lives(guest)
}

fn urgent_pointer(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Echo);
    let mut connection = Connection::open(guest, 40_000, server)?;
    for (urgent, text) in [(0xffff, &b"far beyond"[..]), (0, b"nowhere")] {
        let segment = Segment { flags: ACK | PSH | URG, urgent, ..connection.data_at(0, text) };
        connection.give(guest, &segment);
        connection.sent(text.len());
        connection.read(guest, text.len())?;
    }
    let bare = Segment { flags: ACK | URG, urgent: 7, ..connection.segment(ACK) };
    connection.give(guest, &bare);
    connection.close(guest)
}

/// Cuts the packet of a frame into fragments at these places of its payload: offset, length, whether more follow.
fn cut(frame: &[u8], id: u16, pieces: &[(usize, usize, bool)]) -> Vec<Vec<u8>> {
    let payload = &frame[34..];
    let piece = |&(offset, len, more): &(usize, usize, bool)| {
        let end = (offset + len).min(payload.len());
        let data: Vec<u8> = payload[offset.min(end)..end].iter().copied().chain(std::iter::repeat(0x55)).take(len).collect();
        let mut fragment = [&frame[..34], &data].concat();
        fragment[16..18].copy_from_slice(&(20 + len as u16).to_be_bytes());
        fragment[18..20].copy_from_slice(&id.to_be_bytes());
        fragment[20..22].copy_from_slice(&((offset / 8) as u16 | u16::from(more) << 13).to_be_bytes());
        fragment[24..26].fill(0);
        let sum = header_checksum(&fragment[14..34]);
        fragment[24..26].copy_from_slice(&sum.to_be_bytes());
        fragment
    };
    pieces.iter().map(piece).collect()
}

fn fragments(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve_datagrams(false, Datagrams::Echo);
    let whole = guest.datagram_frame(5000, server, &[0xaa; 2000]);
    let orders: [&[(usize, usize, bool)]; 4] = [
        &[(0, 1000, true), (1000, 1008, false)],
        &[(1000, 1008, false), (0, 1000, true)],
        &[(0, 1000, true), (504, 1000, true), (496, 1512, false), (1000, 1008, false)],
        &[(8, 8, true), (0, 8, true), (8, 8, true)],
    ];
    for (id, pieces) in orders.into_iter().enumerate() {
        for fragment in cut(&whole, 0x100 + id as u16, pieces) {
            guest.send(&fragment);
        }
    }
    lives(guest)
}

fn oversize(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve_datagrams(false, Datagrams::Echo);
    let whole = guest.datagram_frame(5000, server, &[0xaa; 100]);
    for fragment in cut(&whole, 0x200, &[(0, 1480, true), (65_528, 1000, false), (64_000, 1480, true), (1480, 1480, true)]) {
        guest.send(&fragment);
    }
    lives(guest)
}

fn fragments6(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.arrive6()?;
    let server = guest.serve_datagrams(true, Datagrams::Echo);
    let whole = guest.datagram_frame(5000, server, b"sixteen bytes...");
    // A fragment header (44) before UDP: offset and flag.
    for place in [0_u16, 1, 0xfff8] {
        let mut frame = [&whole[..54], &[17, 0], &place.to_be_bytes(), &[0, 0, 0, 7], &whole[54..]].concat();
        frame[18..20].copy_from_slice(&(whole.len() as u16 - 54 + 8).to_be_bytes());
        frame[20] = 44;
        guest.send(&frame);
    }
    lives(guest)
}

fn burst(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve_datagrams(false, Datagrams::Silent);
    for n in 0..100_u16 {
        let ping = guest.echo_frame(GATEWAY.into(), 3, n, b"");
        guest.send(&ping);
        guest.datagram(5000 + n % 10, server, b"");
    }
    let is_reply = |told: &Told| matches!(&told.body, Body::Icmp(icmp) if icmp.kind == 0).then_some(());
    for _ in 0..100 {
        guest.await_one("echo reply of the gateway", is_reply)?;
    }
    lives(guest)
}

fn emulated(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Echo);
    for (number, text) in [
        &b"DCC SEND file 167772687 5000\n"[..],
        b"PORT 10,0,2,15,19,136\r\n",
        b"227 Entering Passive Mode (10,0,2,15,19,136)\r\n",
        b"6193, 23\r\n",
    ]
    .into_iter()
    .enumerate()
    {
        let mut connection = Connection::open(guest, 40_000 + number as u16, server)?;
        connection.send(guest, text);
        let back = connection.read(guest, text.len())?;
        guest.check("nobody looks into what is said", back == text);
        connection.close(guest)?;
    }
    Ok(())
}

fn small_mtu(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let client = Client::new(guest);
    let discover = client.message(MessageType::Discover, []);
    client.say(guest, &discover);
    let large = guest.echo_frame(GATEWAY.into(), 1, 1, &[0x33; 200]);
    guest.send(&large);
    lives(guest)
}

fn port_zero(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve_datagrams(false, Datagrams::Silent);
    guest.datagram(0, server, b"from nowhere");
    guest.datagram(5000, SocketAddr::new(server.ip(), 0), b"to nowhere");
    Connection::syn(guest, 0, server, &SYN_OPTIONS);
    guest.pause(std::time::Duration::from_millis(200));
    guest.forget();
    lives(guest)
}

fn ipv4_header(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let good = guest.echo_frame(GATEWAY.into(), 7, 7, b"eight   ");
    for (at, value, mend) in
        [(14, 0x55, true), (14, 0x35, true), (14, 0x44, false), (14, 0x40, false), (14, 0x4f, false), (24, 0, false)]
    {
        let mut frame = good.clone();
        frame[at] = value;
        if mend {
            mend_checksums(&mut frame);
        }
        guest.send(&frame);
    }
    lives(guest)
}

fn ipv4_options(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let good = guest.echo_frame(GATEWAY.into(), 7, 7, b"eight   ");
    // Router alert (RFC 2113), and an option that says that it is longer than the header.
    for options in [[0x94, 4, 0, 0], [0x07, 200, 4, 0]] {
        let mut frame = [&good[..34], &options, &good[34..]].concat();
        frame[14] = 0x46;
        let len = frame.len() as u16 - 14;
        frame[16..18].copy_from_slice(&len.to_be_bytes());
        mend_checksums(&mut frame);
        guest.send(&frame);
        guest.hear_icmp("echo reply to a request with IPv4 options")?;
    }
    Ok(())
}

fn ipv6_header(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.arrive6()?;
    let good = guest.echo_frame(GATEWAY6.into(), 7, 7, b"eight   ");
    for (at, value) in [(14, 0x40), (18, 0x40)] {
        let mut frame = good.clone();
        frame[at] = value;
        guest.send(&frame);
    }
    // Hop-by-hop, routing and destination options, with nothing in them; and hop-by-hop longer than the packet.
    for (kind, len) in [(0, 0), (43, 0), (60, 0), (0, 200)] {
        let mut frame = [&good[..54], &[58, len, 1, 4, 0, 0, 0, 0], &good[54..]].concat();
        frame[18..20].copy_from_slice(&(good.len() as u16 - 54 + 8).to_be_bytes());
        frame[20] = kind;
        guest.send(&frame);
    }
    lives(guest)
}

fn tcp_header(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Echo);
    let connection = Connection::new(guest, 40_000, server);
    let good = connection.frame(guest, &connection.segment(SYN));
    for offset in [0, 4, 6, 15] {
        let mut frame = good.clone();
        frame[46] = offset << 4;
        mend_checksums(&mut frame);
        guest.send(&frame);
    }
    lives(guest)?;
    // Options that are longer than the header, or have no length: the connection is made without them.
    for (port, options) in [(40_001, [2, 40, 5, 0xb4]), (40_002, [3, 0, 7, 0]), (40_003, [8, 1, 1, 1])] {
        let mut connection = Connection::syn(guest, port, server, &options);
        connection.complete(guest)?;
        connection.close(guest)?;
    }
    Ok(())
}

fn tcp_flags(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Sink);
    for (port, flags) in [(40_000, 0), (40_001, SYN | RST), (40_002, 0x3f)] {
        let connection = Connection::new(guest, port, server);
        connection.give(guest, &connection.segment(flags));
    }
    lives(guest)
}

fn checksums(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    guest.arrive6()?;
    let server = guest.serve_datagrams(false, Datagrams::Echo);
    let listener = guest.serve(false, Stream::Echo);
    let tcp = Connection::new(guest, 40_000, listener);
    let frames = [
        guest.datagram_frame(5000, server, b"damaged"),
        tcp.frame(guest, &tcp.segment(SYN)),
        guest.echo_frame(GATEWAY.into(), 7, 7, b"damaged"),
        guest.echo_frame(GATEWAY6.into(), 7, 7, b"damaged"),
    ];
    for mut frame in frames {
        let last = frame.len() - 1;
        frame[last] ^= 0x40;
        guest.send(&frame);
    }
    lives(guest)
}

fn addresses(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve_datagrams(false, Datagrams::Echo);
    let listener = guest.serve(false, Stream::Echo);
    for ip in [[127, 0, 0, 1], [10, 0, 2, 2], [224, 0, 0, 1], [255, 255, 255, 255], [10, 0, 2, 255]] {
        let source = SocketAddr::from((Ipv4Addr::from(ip), 5000));
        let frame =
            Datagram { source, destination: server, payload: b"from nowhere".to_vec() }.frame(guest.card, guest.router(false));
        guest.send(&frame);
        let mut syn = Connection::new(guest, 5000, listener).segment(SYN);
        syn.source = source;
        let frame = syn.frame(guest.card, guest.router(false));
        guest.send(&frame);
    }
    // A card that is a group.
    let frame = Arp { operation: 1, sender_card: [1, 0, 0x5e, 0, 0, 1], sender: guest.v4, target_card: [0; 6], target: GATEWAY }
        .frame(BROADCAST);
    guest.send(&frame);
    lives(guest)
}

fn others(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    for ethertype in [0x8100, 0x8847, 0x8863, 0x88cc, 0x0026] {
        raw(guest, ethertype, &[0; 46]);
    }
    let good = guest.echo_frame(GATEWAY.into(), 7, 7, b"eight   ");
    for protocol in [2, 4, 41, 47, 50, 132, 255] {
        let mut frame = good.clone();
        frame[23] = protocol;
        frame[24..26].fill(0);
        let sum = header_checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        guest.send(&frame);
    }
    lives(guest)
}

fn ncsi(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    for len in [0, 1, 15, 16, 64] {
        raw(guest, 0x88f8, &vec![0; len]);
    }
    lives(guest)
}
