//! A TFTP server of the simulated host, which says what the real one would: to the engine it is whoever is behind its socket.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use netstack::host::sim::SimHost;

use crate::story::link::{FILES, pattern_of};

/// Where it takes requests.
const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 69);

/// The first port of a transfer.
const FIRST_PORT: u16 = 32_768;

/// How long it waits for an acknowledgement.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The largest block that fits a packet of 1500 bytes.
const LARGEST_BLOCK: usize = 1468;

/// The server.
#[derive(Debug, Default)]
pub(super) struct TftpServer {
    /// How many of the datagrams that the engine has sent it has seen.
    seen: usize,
    /// By the engine's socket.
    transfers: BTreeMap<SocketAddr, Transfer>,
    ports: u16,
}

#[derive(Debug)]
struct Transfer {
    from: SocketAddr,
    file: Vec<u8>,
    block: usize,
    window: usize,
    /// What is sent before the first block.
    options: Option<Vec<u8>>,
    /// Blocks that were acknowledged.
    done: usize,
    sent_at: Duration,
    /// The engine's socket is closed.
    gone: bool,
}

impl TftpServer {
    /// Does what there is to do at `now`. Returns whether that was anything.
    pub(super) fn act(&mut self, host: &mut SimHost, now: Duration) -> bool {
        let new: Vec<_> = host.sent_datagrams().iter().skip(self.seen).cloned().collect();
        self.seen += new.len();
        let mut acted = false;
        for datagram in new {
            if datagram.to == SERVER {
                self.request(host, now, datagram.from, &datagram.payload);
                acted = true;
            } else if let Some(transfer) = self.transfers.get_mut(&datagram.from).filter(|transfer| transfer.from == datagram.to) {
                acted |= transfer.acknowledged(host, now, datagram.from, &datagram.payload);
            }
        }
        self.transfers.retain(|_, transfer| !transfer.is_over());
        for (client, transfer) in &mut self.transfers {
            if now >= transfer.sent_at + TIMEOUT {
                transfer.send(host, now, *client);
                acted = true;
            }
        }
        acted
    }

    fn request(&mut self, host: &mut SimHost, now: Duration, client: SocketAddr, request: &[u8]) {
        // Stories without a TFTP server send to its port too.
        let Some(request) = request.strip_prefix(&[0, 1]) else { return };
        let texts: Vec<_> = request.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned()).collect();
        let from = SocketAddr::new(SERVER.ip(), FIRST_PORT + self.ports);
        self.ports += 1;
        let name = texts[0].trim_start_matches('/');
        let Some((_, len)) = FILES.iter().find(|(known, _)| *known == name) else {
            let code = if name.starts_with("..") { 2 } else { 1 };
            host.inject_udp(client, from, &[0, 5, 0, code, b'n', b'o', 0]);
            return;
        };
        let asked = |option: &str| texts[2..].chunks(2).find(|pair| pair[0] == option)?.get(1)?.parse::<usize>().ok();
        let block = asked("blksize").map(|size| size.min(LARGEST_BLOCK));
        let granted = [
            ("blksize", block),
            ("timeout", asked("timeout")),
            ("tsize", asked("tsize").map(|_| *len)),
            ("windowsize", asked("windowsize")),
        ];
        let granted: Vec<_> = granted.into_iter().filter_map(|(name, value)| Some(format!("{name}\0{}\0", value?))).collect();
        let options = (!granted.is_empty()).then(|| [&[0, 6], granted.concat().as_bytes()].concat());
        let (block, window) = (block.unwrap_or(512), asked("windowsize").unwrap_or(1));
        let mut transfer = Transfer { from, file: pattern_of(*len), block, window, options, done: 0, sent_at: now, gone: false };
        transfer.send(host, now, client);
        self.transfers.insert(client, transfer);
    }
}

impl Transfer {
    /// Sends what has not been acknowledged.
    fn send(&mut self, host: &mut SimHost, now: Duration, client: SocketAddr) {
        self.sent_at = now;
        if let Some(options) = &self.options {
            self.gone |= !host.inject_udp(client, self.from, options);
            return;
        }
        for number in self.done..self.blocks().min(self.done + self.window) {
            let data = self.file.get(number * self.block..).unwrap_or_default();
            let data = &data[..data.len().min(self.block)];
            let number = (number as u16 + 1).to_be_bytes();
            self.gone |= !host.inject_udp(client, self.from, &[&[0, 3], &number[..], data].concat());
        }
    }

    fn acknowledged(&mut self, host: &mut SimHost, now: Duration, client: SocketAddr, message: &[u8]) -> bool {
        let [0, 4, high, low] = message[..] else { return false };
        let number = usize::from(u16::from_be_bytes([high, low]));
        if self.options.is_some() {
            if number != 0 {
                return false;
            }
            self.options = None;
        } else if number > self.done && number <= self.done + self.window {
            self.done = number;
        } else {
            return false;
        }
        self.send(host, now, client);
        true
    }

    /// The last block is not full.
    const fn blocks(&self) -> usize {
        self.file.len() / self.block + 1
    }

    const fn is_over(&self) -> bool {
        self.gone || self.done >= self.blocks()
    }
}
