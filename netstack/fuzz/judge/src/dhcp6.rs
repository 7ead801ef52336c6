//! The DHCPv6 server under clients of every kind, while time passes.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use netstack::addr::MacAddr;
use netstack::config::{Config, Ipv6Config};
use netstack::gateway::dhcp6::Dhcp6Server;
use netstack::time::{Duration, Instant};

use crate::dhcp::{TIMES, station};
use crate::script::{Draft, Script};

/// Option codes (RFC 8415 section 21).
const CLIENT: u16 = 1;
const SERVER: u16 = 2;
const IA_NA: u16 = 3;
const ADDRESS: u16 = 5;
const STATUS: u16 = 13;

/// Message types.
const ADVERTISE: u8 = 2;
const REPLY: u8 = 7;
const RELEASE: u8 = 8;
const DECLINE: u8 = 9;

/// The identity of the server.
const SERVER_ID: [u8; 10] = [0, 3, 0, 1, 0x52, 0x56, 0, 0, 0, 2];

/// The largest answer that fits the smallest packet of IPv6.
const LARGEST: usize = 1280 - 48;

/// A network, and then messages and time.
pub fn judge(input: &[u8]) {
    let mut script = Script::new(input);
    let mut scene = Scene::new(&mut script);
    for _ in 0..100 {
        if script.is_over() {
            break;
        }
        match script.byte() % 8 {
            0 => {
                let from = station(script.byte());
                scene.deliver(from, true, script.piece());
            }
            1 => scene.now = scene.now + script.choose(&TIMES),
            _ => {
                let (number, choice) = (script.byte(), script.byte());
                let message = scene.compose(number, &mut script);
                scene.deliver(station(if choice & 7 == 7 { choice >> 4 } else { number }), choice & 8 == 0, &message);
            }
        }
    }
    scene.server.check();
}

/// One of a client's interfaces.
type Key = (Vec<u8>, u32);

/// Who has an address, as far as the server has promised.
#[derive(Debug)]
struct Holder {
    key: Key,
    from: MacAddr,
    until: Instant,
}

struct Scene {
    server: Dhcp6Server,
    ipv6: Ipv6Config,
    valid: u32,
    now: Instant,
    holders: BTreeMap<Ipv6Addr, Holder>,
    /// What was given last.
    last: Vec<Ipv6Addr>,
}

impl Scene {
    fn new(script: &mut Script<'_>) -> Self {
        let prefix = script.choose(&["fec0::/64", "fec0::/126", "fec0::/120", "fec0::/112"]);
        let last = script.choose(&[0x15, 1, 0, 0xff]);
        let ipv6 = Ipv6Config {
            prefix: prefix.parse().expect("a prefix"),
            dhcp_start: Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, last),
            ..Ipv6Config::default()
        };
        let valid = script.choose(&[86_400, 4, 60, u32::MAX]);
        let mut config = Config { ipv6: Some(ipv6.clone()), ..Config::default() };
        config.dhcp.lease_time = Duration::from_secs(valid.into());
        if script.byte() & 1 == 1 {
            config.dhcp.search = (0..20).map(|n| format!("search-domain-{n}.example.org")).collect();
            config.dhcp.bootfile = Some("http://boot.example.org/image.efi".to_owned());
            config.dhcp.ntp = vec!["2001:db8::123".parse().expect("an address"); 3];
        }
        let server = Dhcp6Server::new(&config).expect("a network");
        Self { server, ipv6, valid, now: Instant::ZERO, holders: BTreeMap::new(), last: Vec::new() }
    }

    /// A message that a client could send, or nearly.
    fn compose(&self, number: u8, script: &mut Script<'_>) -> Vec<u8> {
        let kind = script.byte() % 13;
        let options = script.byte();
        let mut message = vec![kind, 0, 0, number];
        if options & 1 == 0 {
            put(&mut message, CLIENT, &[0, 4, number % 16, options >> 6]);
        }
        // Those that must name the server mostly do.
        let named = matches!(kind, 3 | 5 | 8 | 9) != (options & 2 != 0);
        if named {
            put(&mut message, SERVER, &SERVER_ID);
        }
        for iaid in 0..(options >> 2) & 3 {
            let mut association = vec![0, 0, 0, iaid, 0, 0, 0, 0, 0, 0, 0, 0];
            for _ in 0..script.byte() % 4 {
                let address = self.some_address(script.byte());
                put(&mut association, ADDRESS, &[&address.octets()[..], &[0; 8]].concat());
            }
            put(&mut message, IA_NA, &association);
        }
        if options & 16 != 0 {
            put(&mut message, 14, &[]);
        }
        if options & 32 != 0 {
            put(&mut message, 6, &[0, 23, 0, 24, 0, 59, 0, 32, 0, 56, 0, 31]);
            put(&mut message, 25, &[0; 12]);
            put(&mut message, 39, b"\x00\x03web");
            message.extend(script.short_piece());
        }
        message
    }

    /// An address that is worth asking for.
    fn some_address(&self, choice: u8) -> Ipv6Addr {
        let rest = choice >> 3;
        match choice % 8 {
            0..=3 => self.last.iter().rev().nth(rest.into()).copied().unwrap_or(self.ipv6.dhcp_start),
            4 => self.ipv6.gateway,
            5 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, rest.into()),
            _ => Ipv6Addr::from(u128::from(self.ipv6.dhcp_start).wrapping_add(rest.into())),
        }
    }

    fn deliver(&mut self, from: MacAddr, multicast: bool, message: &[u8]) {
        let mut reply = vec![0xee; 3];
        let outcome = self.server.handle(self.now, from, multicast, message, &mut reply);
        self.server.check();
        if outcome.is_err() {
            assert!(reply.is_empty(), "no answer, but a message");
            return;
        }
        assert!((4..=LARGEST).contains(&reply.len()), "{} bytes", reply.len());
        assert!(matches!(reply[0], ADVERTISE | REPLY), "a server says {}", reply[0]);
        assert_eq!(reply[1..4], message[1..4], "the transaction");
        let (asked, told) =
            (options_of(&message[4..]).unwrap_or_default(), options_of(&reply[4..]).expect("an answer that can be read"));
        assert_eq!(first(&told, SERVER), Some(&SERVER_ID[..]));
        let client = first(&asked, CLIENT);
        assert_eq!(first(&told, CLIENT), client, "it is for who has asked");
        if matches!(message[0], RELEASE | DECLINE) && first(&told, STATUS).is_some_and(|status| status[..2] == [0, 0]) {
            let given = asked.iter().filter(|(code, _)| *code == IA_NA).map(|(_, data)| iaid(data)).collect::<Vec<_>>();
            self.holders.retain(|_, holder| Some(&holder.key.0[..]) != client || !given.contains(&holder.key.1));
        }
        for (_, association) in told.iter().filter(|(code, _)| *code == IA_NA) {
            let client = client.expect("an association of somebody");
            self.judge_association(from, reply[0], (client.to_vec(), iaid(association)), association);
        }
    }

    fn judge_association(&mut self, from: MacAddr, kind: u8, key: Key, association: &[u8]) {
        let [t1, t2] = [4, 8].map(|at| word(association, at));
        let inner = options_of(&association[12..]).expect("options within the association");
        let granted: Vec<_> = inner
            .iter()
            .filter(|(code, data)| *code == ADDRESS && word(data, 20) != 0)
            .map(|(_, data)| {
                (Ipv6Addr::from(<[u8; 16]>::try_from(&data[..16]).expect("an address")), word(data, 16), word(data, 20))
            })
            .collect();
        assert!(granted.len() <= 1, "an association has one address: {granted:?}");
        let Some(&(address, preferred, valid)) = granted.first() else {
            assert_eq!((t1, t2), (0, 0));
            return;
        };
        assert!(first(&inner, STATUS).is_none(), "an address, and why there is none");
        assert!(t1 <= t2 && t2 <= preferred && preferred <= valid && valid == self.valid, "{t1} {t2} {preferred} {valid}");
        let ours = [self.ipv6.gateway, self.ipv6.dns, self.ipv6.prefix.network()];
        assert!(self.ipv6.prefix.contains(&address) && !ours.contains(&address), "{address} is no guest's");
        if let Some(holder) = self.holders.get(&address) {
            // A system takes over from the firmware of its card.
            let free = holder.until <= self.now || holder.key == key || (holder.from == from && holder.key.0 != key.0);
            assert!(free, "{address} is given to {key:?} and is {holder:?}'s at {:?}", self.now);
        }
        self.last.push(address);
        if kind == REPLY {
            self.holders.retain(|_, holder| holder.key != key);
            let forever = Instant::from_micros(u64::MAX);
            let until = if valid == u32::MAX { forever } else { self.now + Duration::from_secs(valid.into()) };
            self.holders.insert(address, Holder { key, from, until });
        }
    }
}

fn put(message: &mut Vec<u8>, code: u16, data: &[u8]) {
    message.extend(code.to_be_bytes());
    message.extend(u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes());
    message.extend(data);
}

/// Options, told apart without the code on trial. `None` if one ends past the end.
fn options_of(mut bytes: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut options = Vec::new();
    while let [a, b, c, d, rest @ ..] = bytes {
        let (data, rest) = rest.split_at_checked(u16::from_be_bytes([*c, *d]).into())?;
        options.push((u16::from_be_bytes([*a, *b]), data));
        bytes = rest;
    }
    bytes.is_empty().then_some(options)
}

fn first<'a>(options: &[(u16, &'a [u8])], code: u16) -> Option<&'a [u8]> {
    options.iter().find(|(other, _)| *other == code).map(|(_, data)| *data)
}

fn iaid(association: &[u8]) -> u32 {
    word(association, 0)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// A message as it came from somewhere.
pub(crate) fn message_seed(message: &[u8]) -> Vec<u8> {
    Draft::default().bytes(&[0, 0, 0, 1]).bytes(&[0, 2]).piece(message).finish()
}

/// Clients that get an address, keep it, give it back, and quarrel.
pub fn seeds() -> Vec<Vec<u8>> {
    // What comes, the client, the sender, the kind, the options, and for one association its addresses.
    let say = |client: u8, kind: u8, options: u8| vec![2, client, 0, kind, options | 4, 1, 0];
    let solicit = |client| say(client, 1, 0);
    let rapid = |client| say(client, 1, 16);
    let request = |client| say(client, 3, 0);
    let told = |client: u8| vec![2, client, 0, 11, 32, 0];
    let time = |choice: u8| vec![1, choice];
    let everyone: Vec<u8> = (0..16).flat_map(|client| [solicit(client), request(client)].concat()).collect();
    vec![
        [vec![0, 0, 0, 1], solicit(2), request(2), time(5), say(2, 5, 0), say(2, 6, 0), say(2, 4, 0), told(2), say(2, 8, 0)]
            .concat(),
        [vec![1, 1, 1, 0], everyone.clone(), time(3), everyone].concat(),
        [vec![2, 0, 2, 0], rapid(1), say(1, 9, 0), rapid(1), time(4), rapid(2), say(3, 5, 0)].concat(),
        [vec![3, 3, 3, 1], rapid(1), vec![2, 1, 8, 5, 4, 1, 0], vec![2, 1, 0, 1, 12, 1, 0, 1, 8, 0], time(7), rapid(2)].concat(),
    ]
}
