//! As much of an HTTP server (RFC 9112) as curl and busybox need to fetch and to send the [`crate::pattern`].
//!
//! `GET /N` answers with N bytes. `PUT` and `POST` check what comes, and answer how many bytes that were, or which one was wrong.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use super::{listen, serve};
use crate::pattern;

/// A server in threads of its own.
#[derive(Debug)]
pub struct Http {
    /// Where it listens.
    pub address: SocketAddr,
}

impl Http {
    /// Listens at a free port.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn at(ip: IpAddr) -> Self {
        let (listener, address) = listen(ip);
        serve(listener, |connection| {
            let _ = answer(&connection);
        });
        Self { address }
    }
}

fn answer(connection: &TcpStream) -> std::io::Result<()> {
    let mut request = BufReader::with_capacity(256 << 10, connection);
    let mut line = String::new();
    request.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let mut length = None;
    let (mut chunked, mut expects_continue) = (false, false);
    loop {
        line.clear();
        if request.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        let Some((name, value)) = line.split_once(':') else { continue };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok(),
            "transfer-encoding" => chunked = true,
            "expect" => expects_continue = true,
            _ => {}
        }
    }
    let mut reply = connection;
    match (method.as_str(), path.trim_start_matches('/').parse::<u64>(), length) {
        ("GET", Ok(len), _) => {
            write!(reply, "HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n")?;
            pattern::write(reply, len)
        }
        ("PUT" | "POST", _, length) if chunked || length.is_some() => {
            if expects_continue {
                reply.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let seen = match length {
                Some(length) => pattern::check(request.take(length), Some(length)),
                None => pattern::check(Chunks { of: request, left: 0 }, None),
            };
            let text = seen.map_or_else(|error| format!("{error}\n"), |seen| format!("{seen} bytes as expected\n"));
            write!(reply, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len())
        }
        _ => reply.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    }
}

/// The content of the chunked transfer coding (RFC 9112 section 7.1).
struct Chunks<R> {
    of: R,
    left: usize,
}

impl<R: BufRead> Read for Chunks<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            let mut size = String::new();
            // An empty line ends every chunk but the first.
            while size.trim().is_empty() {
                size.clear();
                if self.of.read_line(&mut size)? == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
            }
            self.left = usize::from_str_radix(size.trim(), 16).map_err(|_| ErrorKind::InvalidData)?;
            if self.left == 0 {
                return Ok(0);
            }
        }
        let limit = self.left.min(buffer.len());
        let n = self.of.read(&mut buffer[..limit])?;
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.left -= n;
        Ok(n)
    }
}
