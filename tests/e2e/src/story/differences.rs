//! Where slipway tells guests something else than libslirp, and why.
//!
//! The table is held against what both say: a difference that is not in it is a failure, and so is a row that nothing shows any more.
//! `docs/differences-from-libslirp.md` is written from it.

use super::transcript::Difference;

/// A row of the table. In the first three, `*` stands for anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The answer, and the field in it.
    pub what: &'static str,
    /// What libslirp tells.
    pub libslirp: &'static str,
    /// What slipway tells.
    pub slipway: &'static str,
    /// Why that is better; or that it is not, and why it is so.
    pub why: &'static str,
}

/// All of them, by subject.
pub const KNOWN: &[Known] = &[
    // DHCP.
    Known {
        what: "*DHCP*: option 26",
        libslirp: "absent",
        slipway: "InterfaceMtu(1500)",
        why: "guests are told the MTU of their link; without it, one on a larger link would use 1500 all the same",
    },
    Known {
        what: "*DHCP*: option 28",
        libslirp: "absent",
        slipway: "BroadcastAddr(*)",
        why: "who asks for the broadcast address gets it (RFC 2132 section 5.3)",
    },
    Known {
        what: "DHCPOFFER to who asks for * options: option 5*",
        libslirp: "absent",
        slipway: "Re*",
        why: "who asks for the times of renewal and rebinding gets them (RFC 2132 sections 9.11 and 9.12)",
    },
    Known {
        what: "DHCP*: option 61",
        libslirp: "absent",
        slipway: "ClientIdentifier(*)",
        why: "the client identifier comes back (RFC 6842), and it is by it that clients are known",
    },
    Known {
        what: "DHCP*: option 67",
        libslirp: "absent",
        slipway: "BootfileName(*)",
        why: "the boot file is told as an option too, as UEFI clients want it; libslirp has it only in a field of 128 bytes",
    },
    Known {
        what: "DHCP*: option 66",
        libslirp: "absent",
        slipway: "TFTPServerName(*)",
        why: "who asks for the server to boot from is told the gateway, where it serves files; libslirp has it only in a field",
    },
    Known {
        what: "DHCP*: option 60",
        libslirp: "ClassIdentifier(*)",
        slipway: "absent",
        why: "`HTTPClient` is told to UEFI's HTTP clients, which ask for it, and not to PXE clients, for whom it is wrong",
    },
    Known {
        what: "*: siaddr",
        libslirp: "1*",
        slipway: "0.0.0.0",
        why: "without a boot file there is no server to boot from (RFC 2131 section 2), and firmware need not look for one",
    },
    Known {
        what: "*: to",
        libslirp: "255.255.255.255:68",
        slipway: "1*:68",
        why: "the answer goes to the client alone, unless it asks for a broadcast (RFC 2131 section 4.1)",
    },
    Known {
        what: "*: broadcast flag",
        libslirp: "false",
        slipway: "true",
        why: "the flags of the request come back (RFC 2131 table 3)",
    },
    Known {
        what: "DHCPACK of a re*: ciaddr",
        libslirp: "0.0.0.0",
        slipway: "10.0.2.15",
        why: "the client's address comes back in a DHCPACK (RFC 2131 table 3)",
    },
    Known {
        what: "DHCPACK of DHCPINFORM: told",
        libslirp: "nothing",
        slipway: "Ack",
        why: "a guest with an address of its own may ask for the rest (RFC 2131 section 3.4); Windows does, for its proxy",
    },
    Known {
        what: "DHCPOFFER after DHCPDECLINE: yiaddr",
        libslirp: "10.0.2.15",
        slipway: "10.0.2.16",
        why: "an address that a client has found in use is not offered again (RFC 2131 section 4.3.3)",
    },
    Known {
        what: "BOOTREPLY: told",
        libslirp: "Ack",
        slipway: "BOOTREPLY",
        why: "who speaks BOOTP is answered in BOOTP (RFC 1534), without options of DHCP",
    },
    Known {
        what: "DHCPOFFER for a relay agent: told",
        libslirp: "nothing",
        slipway: "Offer",
        why: "a relay agent is answered at its own address and port (RFC 2131 section 4.1)",
    },
    Known {
        what: "answer to a request for another server: told",
        libslirp: "a datagram",
        slipway: "nothing",
        why: "a client that has chosen another server is not for us (RFC 2131 section 4.3.2)",
    },
    Known {
        what: "answer to an address of another network: option 54",
        libslirp: "absent",
        slipway: "ServerIdentifier(10.0.2.2)",
        why: "a DHCPNAK must say whose it is (RFC 2131 table 3)",
    },
    Known {
        what: "answer to an address of another network: option 56",
        libslirp: "Message(`requested address not available`)",
        slipway: "Message(`192.168.1.50 is not available to you`)",
        why: "the message names the address",
    },
    Known {
        what: "answer to an address of another network: yiaddr",
        libslirp: "255.255.255.255",
        slipway: "0.0.0.0",
        why: "a DHCPNAK has no address (RFC 2131 table 3)",
    },
    Known {
        what: "answer to what makes no sense: told",
        libslirp: "a datagram",
        slipway: "nothing",
        why: "a DHCP message that ends within its header or its options is dropped; libslirp takes what follows it in memory for a part of it",
    },
    Known {
        what: "DHCPv6*: told",
        libslirp: "nothing",
        slipway: "*",
        why: "libslirp's DHCPv6 only informs; here guests get addresses too (RFC 8415), and whoever asks is answered",
    },
    // ARP and neighbour discovery.
    Known {
        what: "answer to what makes no sense: told",
        libslirp: "ARP reply",
        slipway: "nothing",
        why: "ARP for other hardware, or with addresses of other lengths, or from a group, is not answered (RFC 826)",
    },
    Known {
        what: "router advertisement: option 25",
        libslirp: "absent",
        slipway: "*",
        why: "guests learn the DNS server from the router (RFC 8106), whatever resolver the host has",
    },
    Known {
        what: "router advertisement*: option 5",
        libslirp: "absent",
        slipway: "00 00 00 00 05 dc",
        why: "guests learn the MTU of their link (RFC 4861 section 4.6.4)",
    },
    Known {
        what: "router advertisement: option 3",
        libslirp: "7e c0 *",
        slipway: "7e 80 *",
        why: "guests make no address out of a prefix that has not 64 bits (RFC 4862 section 5.5.3), and are not told to",
    },
    Known {
        what: "router advertisement: flags",
        libslirp: "0x00",
        slipway: "0xc0",
        why: "guests learn that DHCPv6 has an address for them and can tell them more (RFC 4861 section 4.2); they make one for themselves too",
    },
    Known {
        what: "router advertisement to a restricted guest: lifetime",
        libslirp: "1800",
        slipway: "0",
        why: "a router that leads nowhere is no default router (RFC 4861 section 6.2.3)",
    },
    Known {
        what: "the DNS server's neighbour advertisement: flags",
        libslirp: "0xe0",
        slipway: "0x60",
        why: "the DNS server is no router",
    },
    // ICMP.
    Known {
        what: "echo reply *: hop limit",
        libslirp: "255",
        slipway: "64",
        why: "64 is what systems begin with (RFC 1700); nothing depends on it",
    },
    Known {
        what: "ICMP error about *: told",
        libslirp: "ICMP type 3 code 0",
        slipway: "ICMP type 3 code 3",
        why: "a host that is there and has no such port says so; that its network cannot be reached is not true",
    },
    Known { what: "answer of a closed port*: hop limit", libslirp: "255", slipway: "64", why: "likewise" },
    Known {
        what: "answer of a closed port*: from",
        libslirp: "*1",
        slipway: "*2",
        why: "the gateway stands for the host's loopback address, which guests are never shown: what comes from there, they drop",
    },
    Known { what: "answer of a closed port: hop limit", libslirp: "255", slipway: "64", why: "as of echo replies above" },
    Known {
        what: "answer to what makes no sense: told",
        libslirp: "ICMP type 1 code 0",
        slipway: "nothing",
        why: "a datagram whose length is wrong is dropped; it is no question of ways to somewhere",
    },
    Known {
        what: "answer to what makes no sense: told",
        libslirp: "ICMP type 2 code 0",
        slipway: "ICMP type 129 code 0",
        why: "extension headers of IPv6 are passed (RFC 8200 section 4), and the ping behind them is answered; libslirp only finds that a \
              packet whose header says more than there is is too big",
    },
    // Fragments, and packets that are too large.
    Known {
        what: "answer to what makes no sense: told",
        libslirp: "nothing",
        slipway: "ICMP type 4 code 0",
        why: "a fragment of IPv6 with a length that none can have is told of (RFC 8200 section 4.5)",
    },
    Known {
        what: "the datagram again: told",
        libslirp: "nothing",
        slipway: "a datagram",
        why: "fragments may come in any order (RFC 791 section 3.2); libslirp 4.7 loses the datagram when the first comes last",
    },
    Known {
        what: "ICMP error about a packet larger than the link: told",
        libslirp: "nothing",
        slipway: "ICMP type 3 code 4",
        why: "a packet that is larger than the link and must not be cut is answered by the size that is right (RFC 1191)",
    },
    Known {
        what: "ICMP error about a packet larger than the link: from",
        libslirp: "fe80::2",
        slipway: "fec0::2",
        why: "the gateway speaks from the address that guests know it by",
    },
    Known {
        what: "ICMP error about a packet larger than the link: quote",
        libslirp: "1452 bytes",
        slipway: "1232 bytes",
        why: "an error is no longer than the smallest link takes (RFC 4443 section 2.4 (c))",
    },
    Known {
        what: "ICMP error about a packet larger than the link: hop limit",
        libslirp: "255",
        slipway: "64",
        why: "as of echo replies above",
    },
    Known {
        what: "answer to what makes no sense: told",
        libslirp: "ICMPv6 Packet Error*",
        slipway: "nothing",
        why: "libslirp answers an echo request that ends within its header by a reply that does so too",
    },
    // UDP.
    Known {
        what: "what a stranger has sent: told",
        libslirp: "`let me in`",
        slipway: "nothing",
        why: "only who was sent something may answer (RFC 4787 section 5, address-dependent filtering); `full_cone` allows the rest",
    },
    // TFTP.
    Known {
        what: "TFTP: *: from",
        libslirp: "the port for requests",
        slipway: "a port of its own",
        why: "the server chooses a port for each transfer (RFC 1350 section 4), so that late answers of another one cannot be taken for its own",
    },
    Known {
        what: "TFTP: the options*: timeout",
        libslirp: "absent",
        slipway: "3",
        why: "the guest says after how long what is lost is sent again (RFC 2349)",
    },
    Known {
        what: "TFTP: the options of windows: windowsize",
        libslirp: "absent",
        slipway: "2",
        why: "several blocks are under way at once (RFC 7440), which is many times as fast",
    },
    Known { what: "TFTP: a block of a window: told", libslirp: "nothing", slipway: "block 2", why: "follows from the row above" },
    Known {
        what: "TFTP: the largest blocks: blksize",
        libslirp: "1428",
        slipway: "1468",
        why: "a block may be as large as a packet of the link has room for, and larger on a larger link",
    },
    Known {
        what: "TFTP: the block again: told",
        libslirp: "nothing",
        slipway: "block 1",
        why: "what is not acknowledged is sent again (RFC 1350 section 2); libslirp's transfer ends when a datagram is lost",
    },
    Known {
        what: "TFTP: after a wrong acknowledgement: told",
        libslirp: "block 2",
        slipway: "block 1",
        why: "only what has arrived is followed by more; libslirp takes any acknowledgement for the right one, and the file has a hole",
    },
    Known {
        what: "TFTP: the refusal to write: told",
        libslirp: "nothing",
        slipway: "error 2",
        why: "a guest that wants to write is told that it may not, and need not wait",
    },
    // TCP.
    Known {
        what: "SYN*: options",
        libslirp: "[2]",
        slipway: "[2, 3]",
        why: "windows are scaled (RFC 7323), so that more than 64 KiB may be under way",
    },
    Known {
        what: "SYN-ACK: told",
        libslirp: "nothing",
        slipway: "SYN-ACK",
        why: "a guest that repeats its SYN has not got our answer, and gets it again at once",
    },
    Known {
        what: "segments are as small as the guest wants them: is so",
        libslirp: "no",
        slipway: "yes",
        why: "the guest's MSS is an order (RFC 9293 section 3.7.1); libslirp sends more",
    },
    Known {
        what: "data to the end: data",
        libslirp: "1560 bytes *",
        slipway: "2744 bytes *",
        why: "follows from the row above: the guest has taken the first segment by itself",
    },
    Known {
        what: "RST: told",
        libslirp: "nothing",
        slipway: "RST",
        why: "a guest that talks to nobody is told so at once: to a closed port of the DNS server, and to a server that has closed",
    },
    Known {
        what: "answer to a stray RST: told",
        libslirp: "RST",
        slipway: "nothing",
        why: "nothing is answered to a reset (RFC 9293 section 3.10.7.1); two such stacks would never stop",
    },
    Known {
        what: "data: told",
        libslirp: "nothing",
        slipway: "absent",
        why: "urgent data is delivered in its place (RFC 6093); libslirp sends it by `MSG_OOB`, and what a server does not ask for is lost",
    },
    Known {
        what: "what has to be sent again: bytes",
        libslirp: "0",
        slipway: "6",
        why: "not better: what overtakes is not kept, since the link to a guest does not do that; the guest sends it again",
    },
    // Forwards from guests.
    Known {
        what: "echo reply of the forward's host: told",
        libslirp: "*",
        slipway: "ICMP type 0 code 0",
        why: "a host that answers ARP answers a ping, as the gateway does; libslirp sends it on to a host that is not there",
    },
    Known {
        what: "RST of a port that is not forwarded: told",
        libslirp: "nothing",
        slipway: "RST",
        why: "a closed port of a virtual host is refused at once; libslirp looks for the guests' own address in the host's network",
    },
];

impl Known {
    /// Whether this row is about that difference.
    pub fn is_about(&self, difference: &Difference) -> bool {
        matches(self.what, &difference.what) && matches(self.libslirp, &difference.one) && matches(self.slipway, &difference.two)
    }
}

/// Whether a text is as a pattern wants it.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, mut rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    while let Some((part, more)) = rest.split_once('*') {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
        rest = more;
    }
    text.ends_with(rest)
}

/// What is written about the table, and the table, in Markdown. `shown_by` tells which stories show each row.
pub fn page(shown_by: &[Vec<&str>]) -> String {
    let mut page = String::from(HEAD);
    for (known, stories) in KNOWN.iter().zip(shown_by) {
        let Known { what, libslirp, slipway, why } = known;
        let shown = match stories[..] {
            [] => String::new(),
            [story] => format!("`{story}`"),
            [story, ref others @ ..] => format!("`{story}` and {} more", others.len()),
        };
        page.push_str(&format!("| {what} | {libslirp} | {slipway} | {why} | {shown} |\n").replace('*', "\\*"));
    }
    page.push_str(SPARED);
    for (name, why) in super::all().iter().filter_map(|story| Some((story.name, story.oracle.why_spared()?))) {
        page.push_str(&format!("| `{name}` | {why} |\n"));
    }
    page
}

const HEAD: &str = "# What guests are told otherwise than by libslirp

The stories of `pcap-fixtures/` are told to libslirp too (4.7.0, as Debian 12 has it, in a QEMU without a machine), and what it answers is
compared with what slipway answers. This is every difference that they show, and why slipway does it so. The page is written by a test
(`tests/e2e/tests/differential.rs`, from the table in `tests/e2e/src/story/differences.rs`), which fails when there is a difference that is
not here, or a row that nothing shows any more. `*` stands for anything.

| what | libslirp | slipway | why | shown by |
|---|---|---|---|---|
";

const SPARED: &str = "
## Stories that libslirp is not told

| story | why not |
|---|---|
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, same) in [
            ("exact", "exact", true),
            ("exact", "exactly", false),
            ("DHCP*: to", "DHCPACK of a renewal: to", true),
            ("DHCP*: to", "DHCPACK: told", false),
            ("*: to", ": to", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "acb", false),
        ] {
            assert_eq!(matches(pattern, text), same, "{pattern} {text}");
        }
    }
}
