//! The DHCP server under clients of every kind, while time passes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dhcproto::v4::{Decodable, Decoder, Message, MessageType, OptionCode};
use netstack::addr::MacAddr;
use netstack::config::{Config, Ipv4Config};
use netstack::gateway::dhcp::{Answer, DhcpServer};
use netstack::time::{Duration, Instant};

use crate::script::{Draft, Script};

/// Where the fixed fields of a message are (RFC 2131 section 2), and the options after them.
const XID: std::ops::Range<usize> = 4..8;
const GIADDR: usize = 24;
const CHADDR: usize = 28;
const OPTIONS: usize = 240;

const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// The station that has an address kept for it.
const KNOWN: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);

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
                scene.deliver(from, script.piece());
            }
            1 => scene.now = scene.now + script.choose(&TIMES),
            _ => {
                let message = scene.compose(&mut script);
                let from = scene.sender(&message, script.byte());
                scene.deliver(from, &message);
            }
        }
    }
    scene.judge();
}

/// How long a client lets pass.
pub(crate) const TIMES: [Duration; 8] = [
    Duration::from_micros(1),
    Duration::from_secs(1),
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(600),
    Duration::from_secs(3600),
    Duration::from_secs(86_400),
    Duration::from_secs(10_000_000),
];

/// One of sixteen cards.
pub(crate) const fn station(number: u8) -> MacAddr {
    MacAddr([0x52, 0x54, 0, 0, 0, number % 16])
}

/// Who has an address, as far as the server has promised.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    client: Client,
    until: Instant,
}

/// Who a client says that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Client {
    mac: [u8; 6],
    id: Option<Vec<u8>>,
}

impl Client {
    /// Whether a server may take the two for the same: a client changes its identifier from its firmware to its system, and its card.
    fn may_be(&self, other: &Self) -> bool {
        self.mac == other.mac || (self.id.is_some() && self.id == other.id)
    }
}

struct Scene {
    server: DhcpServer,
    ipv4: Ipv4Config,
    kept: Ipv4Addr,
    lease_seconds: u32,
    now: Instant,
    /// The addresses that were promised.
    holders: BTreeMap<Ipv4Addr, Holder>,
    /// What each card was offered or given last.
    last: BTreeMap<[u8; 6], Ipv4Addr>,
}

impl Scene {
    fn new(script: &mut Script<'_>) -> Self {
        let (net, start) = script.choose(&[("10.0.2.0/24", 15), ("10.0.2.0/28", 4), ("10.0.2.0/29", 4), ("10.0.2.0/24", 250)]);
        let ipv4 = Ipv4Config {
            net: net.parse().expect("a network"),
            dhcp_start: Ipv4Addr::new(10, 0, 2, start),
            ..Ipv4Config::default()
        };
        let kept = Ipv4Addr::new(10, 0, 2, if start == 250 { 9 } else { 5 });
        let lease_seconds = script.choose(&[86_400, 4, 60, u32::MAX]);
        let rich = script.byte() & 1 == 1;
        let mut config = Config { ipv4: Some(ipv4.clone()), mtu: script.choose(&[1500, 576, 65520]), ..Config::default() };
        config.dhcp.lease_time = Duration::from_secs(lease_seconds.into());
        config.dhcp.static_leases = vec![(KNOWN, kept)];
        if rich {
            config.dhcp.hostname = Some("guest".to_owned());
            config.dhcp.domain_name = Some("example.org".to_owned());
            config.dhcp.search = (0..20).map(|n| format!("search-domain-{n}.example.org")).collect();
            config.dhcp.bootfile = Some("http://boot.example.org/image.efi".to_owned());
            config.dhcp.tftp_server_name = Some("10.0.2.2".to_owned());
            config.dhcp.ntp = vec![Ipv4Addr::new(192, 0, 2, 123).into(); 3];
            config.dhcp.routes = vec![("10.9.0.0/16".parse().expect("a network"), Ipv4Addr::new(10, 0, 2, 2))];
        }
        let server = DhcpServer::new(&config).expect("a network");
        Self { server, ipv4, kept, lease_seconds, now: Instant::ZERO, holders: BTreeMap::new(), last: BTreeMap::new() }
    }

    /// A message that a client could send, or nearly.
    fn compose(&self, script: &mut Script<'_>) -> Vec<u8> {
        let mac = station(script.byte());
        let kind = script.byte() % 10;
        let [ciaddr, requested, giaddr] = [0; 3].map(|_: i32| self.some_address(mac, script.byte()));
        let options = script.byte();
        let mut message = vec![1, 1, 6, 0, 0, 0, 0, mac.0[5], 0, 0, script.byte(), 0];
        message.extend(ciaddr.octets());
        message.resize(GIADDR, 0);
        // Most clients are behind no relay agent.
        message.extend(if options & 0x80 != 0 { giaddr.octets() } else { [0; 4] });
        message.extend(mac.0);
        message.resize(OPTIONS - 4, 0);
        message.extend(COOKIE);
        if kind != 0 {
            message.extend([53, 1, kind]);
        }
        if options & 1 != 0 {
            message.extend([50, 4]);
            message.extend(requested.octets());
        }
        if options & 2 != 0 {
            message.extend([54, 4]);
            message.extend(if options & 4 != 0 { self.ipv4.gateway.octets() } else { [10, 0, 2, 99] });
        }
        if options & 8 != 0 {
            message.extend([61, 3, 0, b'i', script.byte() % 4]);
        }
        if options & 16 != 0 {
            message.extend([51, 4]);
            message.extend(script.word().to_be_bytes());
        }
        if options & 32 != 0 {
            message.extend([55, 9, 1, 3, 6, 15, 119, 66, 67, 121, 26, 57, 2]);
            message.extend(script.half().to_be_bytes());
        }
        if options & 64 != 0 {
            message.extend(script.piece());
        }
        message.push(255);
        message
    }

    /// The client's own last address, or another that is worth asking for.
    fn some_address(&self, mac: MacAddr, choice: u8) -> Ipv4Addr {
        match choice % 8 {
            0 | 1 => self.last.get(&mac.0).copied().unwrap_or(Ipv4Addr::UNSPECIFIED),
            2 => Ipv4Addr::UNSPECIFIED,
            3 => self.ipv4.gateway,
            4 => self.kept,
            5 => Ipv4Addr::new(10, 0, 3, choice),
            6 => self.last.values().nth(usize::from(choice >> 3)).copied().unwrap_or(self.ipv4.dhcp_start),
            _ => Ipv4Addr::from(u32::from(self.ipv4.dhcp_start).wrapping_add(u32::from(choice >> 3))),
        }
    }

    /// The card that the frame comes from: mostly the client's own.
    fn sender(&self, message: &[u8], choice: u8) -> MacAddr {
        if choice & 7 == 7 { station(choice >> 4) } else { mac_of(message).map_or(KNOWN, MacAddr) }
    }

    fn deliver(&mut self, from: MacAddr, message: &[u8]) {
        let mut reply = vec![0xee; 3];
        let outcome = self.server.handle(self.now, from, message, &mut reply);
        self.give_up(message);
        match outcome {
            Ok(Some(answer)) => self.judge_answer(message, &answer, &reply),
            Ok(None) | Err(_) => assert!(reply.is_empty(), "no answer, but a message"),
        }
    }

    /// What holds at any time of the table.
    fn judge(&self) {
        self.server.check();
        let known = self.server.leases(self.now).count();
        let hosts = self.ipv4.net.hosts().count();
        assert!(known <= hosts, "{known} leases on a network of {hosts} hosts");
    }

    /// What a client gives up itself.
    fn give_up(&mut self, message: &[u8]) {
        let Some(client) = client_of(message) else { return };
        let options = options_of(message);
        let kind = options.get(&53).and_then(|data| data.first()).copied();
        if !matches!(kind, Some(4 | 7)) {
            return;
        }
        let of_client = |holder: &Holder| holder.client.may_be(&client);
        self.holders.retain(|_, holder| !of_client(holder));
    }

    fn judge_answer(&mut self, message: &[u8], answer: &Answer, reply: &[u8]) {
        let told = Message::decode(&mut Decoder::new(reply)).expect("an answer that others can read");
        assert_eq!(reply[0], 2, "it is an answer");
        assert_eq!(reply[XID], message[XID], "the transaction");
        assert_eq!(reply[CHADDR..CHADDR + 6], message[CHADDR..CHADDR + 6], "the client's card");
        assert!(told.flags().broadcast() || message[10] & 0x80 == 0, "the broadcast flag comes back");
        assert!((300..=65_535 - 28).contains(&reply.len()), "{} bytes", reply.len());
        let relay = Ipv4Addr::from([0, 1, 2, 3].map(|at| message[GIADDR + at]));
        if relay.is_unspecified() {
            assert_eq!(answer.port, 68);
        } else {
            assert_eq!((answer.port, answer.to), (67, relay));
        }

        let kind = told.opts().msg_type();
        let address = told.yiaddr();
        let seconds = match told.opts().get(OptionCode::AddressLeaseTime) {
            Some(dhcproto::v4::DhcpOption::AddressLeaseTime(seconds)) => Some(*seconds),
            _ => None,
        };
        match kind {
            Some(MessageType::Offer) => assert!(!address.is_unspecified() && seconds.is_some()),
            Some(MessageType::Ack) => assert_eq!(address.is_unspecified(), seconds.is_none()),
            Some(MessageType::Nak) => assert!(address.is_unspecified() && seconds.is_none()),
            None => assert!(!address.is_unspecified() && seconds.is_none()),
            Some(other) => panic!("a server says {other:?}"),
        }
        assert!(seconds.is_none_or(|seconds| seconds > 0 && seconds <= self.lease_seconds), "a lease of {seconds:?} s");
        if !address.is_unspecified() {
            let seconds = (kind != Some(MessageType::Offer)).then(|| seconds.unwrap_or(self.lease_seconds));
            self.judge_address(message, address, seconds);
        }
    }

    /// Whether the client of `message` may have `address`, which it is given for so long, or only offered.
    fn judge_address(&mut self, message: &[u8], address: Ipv4Addr, seconds: Option<u32>) {
        let Some(client) = client_of(message) else { panic!("an answer to nobody") };
        let ipv4 = &self.ipv4;
        let is_host = ipv4.net.contains(&address) && address != ipv4.net.network() && address != ipv4.net.broadcast();
        assert!(is_host && address != ipv4.gateway && address != ipv4.dns, "{address} is no guest's");
        assert!(address != self.kept || client.mac == KNOWN.0, "{address} is kept for somebody else");
        if let Some(holder) = self.holders.get(&address) {
            let free = holder.until <= self.now || holder.client.may_be(&client);
            assert!(free, "{address} is given to {client:?} and is {holder:?}'s at {:?}", self.now);
        }
        self.last.insert(client.mac, address);
        let Some(seconds) = seconds else { return };
        // Who gets an address loses the one that it had.
        self.holders.retain(|_, holder| !holder.client.may_be(&client));
        let until =
            if seconds == u32::MAX { Instant::from_micros(u64::MAX) } else { self.now + Duration::from_secs(seconds.into()) };
        self.holders.insert(address, Holder { client, until });
    }
}

fn mac_of(message: &[u8]) -> Option<[u8; 6]> {
    message.get(CHADDR..CHADDR + 6)?.try_into().ok()
}

fn client_of(message: &[u8]) -> Option<Client> {
    let id = options_of(message).remove(&61).filter(|id| id.len() >= 2);
    Some(Client { mac: mac_of(message)?, id })
}

/// The options of a message, told apart without the code on trial: the first of each code, with the pieces that directly follow it
/// (RFC 3396), in the order of the fields that hold them.
fn options_of(message: &[u8]) -> BTreeMap<u8, Vec<u8>> {
    let mut options = BTreeMap::new();
    if message.get(OPTIONS - 4..OPTIONS) != Some(&COOKIE[..]) {
        return options;
    }
    read_options(&message[OPTIONS..], &mut options);
    let overload = options.get(&52).and_then(|data| data.first()).copied().unwrap_or(0);
    if overload & 1 != 0 {
        read_options(&message[108..236], &mut options);
    }
    if overload & 2 != 0 {
        read_options(&message[44..108], &mut options);
    }
    options
}

fn read_options(mut field: &[u8], options: &mut BTreeMap<u8, Vec<u8>>) {
    let mut found: Vec<(u8, Vec<u8>)> = Vec::new();
    loop {
        match field {
            [0, rest @ ..] => field = rest,
            [code, length, rest @ ..] if *code != 255 && usize::from(*length) <= rest.len() => {
                let (data, rest) = rest.split_at(usize::from(*length));
                match found.last_mut() {
                    Some((last, all)) if last == code => all.extend(data),
                    _ => found.push((*code, data.to_vec())),
                }
                field = rest;
            }
            _ => break,
        }
    }
    for (code, data) in found {
        options.entry(code).or_insert(data);
    }
}

/// A message as it came from somewhere.
pub(crate) fn message_seed(message: &[u8]) -> Vec<u8> {
    Draft::default().bytes(&[0, 0, 1, 0]).bytes(&[0, 2]).piece(message).finish()
}

/// Clients that get an address, keep it, give it back, and quarrel.
pub fn seeds() -> Vec<Vec<u8>> {
    // Station, kind, ciaddr, requested, giaddr, options, flags; then the sender.
    let discover = |station: u8| vec![2, station, 1, 2, 2, 2, 32, 0, 0xdc, 5, 0];
    let request = |station: u8| vec![2, station, 3, 2, 0, 2, 1 | 2 | 4, 0, 0];
    let renew = |station: u8| vec![2, station, 3, 0, 2, 2, 0, 0, 0];
    let release = |station: u8| vec![2, station, 7, 0, 2, 2, 0, 0, 0];
    let decline = |station: u8| vec![2, station, 4, 2, 0, 2, 1, 0, 0];
    let inform = |station: u8| vec![2, station, 8, 0, 2, 2, 0, 0, 0];
    let bootp = |station: u8| vec![2, station, 0, 2, 2, 2, 0, 0, 0];
    let with_id = |station: u8, id: u8| vec![2, station, 1, 2, 2, 2, 8, 0x80, id, 0];
    let time = |choice: u8| vec![1, choice];
    let scene = |net: u8, lease: u8, rich: u8| vec![net, lease, rich, 0];
    let everyone: Vec<u8> = (1..16).flat_map(|station| [discover(station), request(station)].concat()).collect();
    vec![
        [scene(0, 0, 1), discover(2), request(2), time(5), renew(2), inform(2), release(2), discover(3), request(3)].concat(),
        [scene(2, 2, 0), everyone.clone(), time(3), everyone].concat(),
        [scene(1, 1, 1), discover(1), request(1), decline(1), time(4), discover(1), request(1), bootp(4), time(6), bootp(5)]
            .concat(),
        [scene(3, 3, 0), with_id(2, 1), request(2), with_id(3, 1), with_id(2, 2), request(2), time(7), renew(2)].concat(),
    ]
}
