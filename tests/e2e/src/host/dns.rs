//! A DNS server (RFC 1035) that knows one answer for each type, whatever the name.
//!
//! It stands for the host's own resolver; written by hand, so that it can answer with what no library knows.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{listen, serve};

/// A type that nobody has assigned (it is of the range for private use).
pub const UNKNOWN_TYPE: u16 = 65_400;
/// The address of every name.
pub const ADDRESS: [u8; 4] = [192, 0, 2, 77];
/// What [`UNKNOWN_TYPE`] is answered with.
pub const UNKNOWN_DATA: [u8; 5] = [0xde, 0xad, 0xbe, 0xef, 0x42];
/// How long the text of every name is, which no datagram of 512 bytes has room for.
pub const TEXT_LEN: usize = 3000;

/// A server in threads of its own, for UDP and TCP.
#[derive(Debug)]
pub struct Dns {
    /// Where it listens.
    pub address: SocketAddr,
    questions: Arc<AtomicUsize>,
}

impl Dns {
    /// Listens at a free port.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn at(ip: IpAddr) -> Self {
        let (listener, address) = listen(ip);
        let datagrams = UdpSocket::bind(address).expect("a port that is free for TCP is free for UDP");
        let questions = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&questions);
        std::thread::spawn(move || {
            let mut datagram = [0; 4096];
            while let Ok((len, from)) = datagrams.recv_from(&mut datagram) {
                count.fetch_add(1, Ordering::SeqCst);
                if let Some(answer) = answer(&datagram[..len], 512) {
                    let _ = datagrams.send_to(&answer, from);
                }
            }
        });
        let count = Arc::clone(&questions);
        serve(listener, move |mut connection| {
            let mut length = [0; 2];
            while connection.read_exact(&mut length).is_ok() {
                let mut question = vec![0; u16::from_be_bytes(length).into()];
                if connection.read_exact(&mut question).is_err() {
                    break;
                }
                count.fetch_add(1, Ordering::SeqCst);
                let Some(answer) = answer(&question, usize::from(u16::MAX)) else { break };
                let length = u16::try_from(answer.len()).unwrap_or(u16::MAX).to_be_bytes();
                if connection.write_all(&[&length, &answer[..]].concat()).is_err() {
                    break;
                }
            }
        });
        Self { address, questions }
    }

    /// How many questions it was asked.
    pub fn questions(&self) -> usize {
        self.questions.load(Ordering::SeqCst)
    }
}

/// The answer to a query, cut to its header and question (with the bit TC) if it is longer than `limit`.
pub fn answer(query: &[u8], limit: usize) -> Option<Vec<u8>> {
    let name_len = query.get(12..)?.iter().position(|byte| *byte == 0)? + 1;
    let question = query.get(12..12 + name_len + 4)?;
    let kind = u16::from_be_bytes([question[name_len], question[name_len + 1]]);
    let data = match kind {
        1 => Some(ADDRESS.to_vec()),
        // Strings of at most 255 bytes with their lengths before them.
        16 => Some(vec![b'x'; TEXT_LEN].chunks(255).flat_map(|part| [&[part.len() as u8], part].concat()).collect()),
        UNKNOWN_TYPE => Some(UNKNOWN_DATA.to_vec()),
        _ => None,
    };
    let header = |flags: u16, answers: u16| {
        let counts = [1, answers, 0, 0].map(u16::to_be_bytes).concat();
        [&query[..2], &flags.to_be_bytes(), &counts, question].concat()
    };
    // Response, recursion desired and available.
    let flags = 0x8180;
    let Some(data) = data else { return Some(header(flags, 0)) };
    let mut full = header(flags, 1);
    // The name of the question once more, class IN, a minute to live.
    full.extend([0xc0, 0x0c]);
    full.extend(kind.to_be_bytes());
    full.extend([0, 1, 0, 0, 0, 60]);
    full.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
    full.extend(data);
    Some(if full.len() > limit { header(flags | 0x0200, 0) } else { full })
}
