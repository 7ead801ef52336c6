//! A guest that is nothing but a TFTP client, on a link that speaks QEMU's stream framing.

use std::io::{BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const GATEWAY_MAC: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// Ethernet, IPv4 without options, UDP.
const HEADERS: usize = 14 + 20 + 8;

/// How long the network may say nothing.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the server is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    pub(super) block: u16,
    pub(super) window: Option<u16>,
}

/// The guest.
pub(super) struct Client {
    input: BufReader<UnixStream>,
    output: UnixStream,
    frame: Vec<u8>,
    port: u16,
}

impl Client {
    /// A guest at this end of a link, which says that it is there.
    pub(super) fn new(link: UnixStream) -> Result<Self> {
        link.set_read_timeout(Some(PATIENCE))?;
        let output = link.try_clone()?;
        let mut client = Self { input: BufReader::with_capacity(1 << 20, link), output, frame: vec![0; 1 << 17], port: 4000 };
        let mut announcement = [&[0xff; 6][..], &GUEST_MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &GUEST_MAC, &GUEST.octets()].concat();
        announcement.extend([&[0; 6][..], &GUEST.octets()].concat());
        client.send(&announcement)?;
        Ok(client)
    }

    /// Loads a file, and returns how many bytes it has.
    pub(super) fn load(&mut self, name: &str, wish: Wish) -> Result<u64> {
        self.port += 1;
        let mut request = [&[0, 1][..], name.as_bytes(), b"\0octet\0tsize\x000\0"].concat();
        request.extend(format!("blksize\0{}\0", wish.block).into_bytes());
        if let Some(window) = wish.window {
            request.extend(format!("windowsize\0{window}\0").into_bytes());
        }
        self.say(69, &request)?;
        let (mut block, mut window) = (512, 1);
        let (mut len, mut expected, mut unacknowledged) = (0, 1_u16, 0);
        loop {
            let (server, payload) = self.hear()?;
            let (kind, rest) = payload.split_first_chunk::<2>().context("half a message")?;
            match kind {
                [0, 3] => {
                    let (number, data) = rest.split_first_chunk::<2>().context("half a block")?;
                    let size = data.len();
                    if u16::from_be_bytes(*number) != expected {
                        // What is missing comes again after this (RFC 7440 section 4).
                        if unacknowledged > 0 {
                            unacknowledged = 0;
                            self.acknowledge(server, expected.wrapping_sub(1))?;
                        }
                        continue;
                    }
                    len += size as u64;
                    unacknowledged += 1;
                    if size < block || unacknowledged == window {
                        unacknowledged = 0;
                        self.acknowledge(server, expected)?;
                    }
                    expected = expected.wrapping_add(1);
                    if size < block {
                        return Ok(len);
                    }
                }
                [0, 6] => {
                    let texts: Vec<_> = rest.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
                    let value = |name: &str| texts.chunks(2).find(|pair| pair[0].eq_ignore_ascii_case(name))?.get(1)?.parse().ok();
                    block = value("blksize").unwrap_or(block);
                    window = value("windowsize").unwrap_or(window);
                    let as_wished = block == usize::from(wish.block) && window <= wish.window.map_or(1, usize::from);
                    ensure!(as_wished, "granted are blocks of {block} bytes, {window} at a time");
                    self.acknowledge(server, 0)?;
                }
                _ => bail!("the server says {:?}", String::from_utf8_lossy(payload)),
            }
        }
    }

    fn acknowledge(&mut self, server: u16, block: u16) -> Result<()> {
        let [high, low] = block.to_be_bytes();
        self.say(server, &[0, 4, high, low])
    }

    /// Sends a datagram to a port of the gateway. Its checksum is left out, as IPv4 allows.
    fn say(&mut self, to: u16, payload: &[u8]) -> Result<()> {
        let mut frame = [&GATEWAY_MAC[..], &GUEST_MAC, &[8, 0]].concat();
        let len = (20 + 8 + payload.len()) as u16;
        let mut ip =
            [&[0x45, 0][..], &len.to_be_bytes(), &[0, 0, 0x40, 0, 64, 17, 0, 0], &GUEST.octets(), &GATEWAY.octets()].concat();
        let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend(ip);
        for field in [self.port, to, len - 20, 0] {
            frame.extend(field.to_be_bytes());
        }
        frame.extend(payload);
        self.send(&frame)
    }

    fn send(&mut self, frame: &[u8]) -> Result<()> {
        let framed = [&(frame.len() as u32).to_be_bytes()[..], frame].concat();
        self.output.write_all(&framed).context("the network is gone")
    }

    /// The next datagram for us: the port that it comes from, and what is in it.
    fn hear(&mut self) -> Result<(u16, &[u8])> {
        loop {
            let mut length = [0; 4];
            self.input.read_exact(&mut length).context("the network says nothing more")?;
            let length = u32::from_be_bytes(length) as usize;
            let frame = self.frame.get_mut(..length).context("a frame that is none")?;
            self.input.read_exact(frame)?;
            let ours =
                length >= HEADERS && frame[12..15] == [8, 0, 0x45] && frame[23] == 17 && frame[36..38] == self.port.to_be_bytes();
            if ours {
                let end = 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]));
                let port = u16::from_be_bytes([frame[34], frame[35]]);
                return Ok((port, self.frame.get(HEADERS..end).context("a packet that is cut")?));
            }
        }
    }
}
