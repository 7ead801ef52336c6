//! Bulk data between the demo's guest and its servers, with a checksum that both ends compute for themselves.
//!
//! Download: the client sends how many bytes it wants, as 8 bytes; the server sends them, then its checksum. Upload: the client sends what it
//! likes and closes its half; the server answers with the count and its checksum. Numbers are big-endian.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

/// Bytes handed to the kernel at once. Not a multiple of anything on the way, so that boundaries fall everywhere.
const CHUNK: usize = (256 << 10) - 3;

/// Fletcher's checksum over 64-bit words: it notices what is lost, repeated, changed or out of place, at the speed of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Checksum {
    sum: u64,
    sum_of_sums: u64,
    /// The bytes of an incomplete word, and how many there are.
    rest: [u8; 8],
    rest_len: usize,
    /// Bytes in all.
    count: u64,
}

impl Checksum {
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        self.count += bytes.len() as u64;
        while self.rest_len > 0 {
            let Some((first, others)) = bytes.split_first() else { return };
            self.push(*first);
            bytes = others;
        }
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        for byte in rest {
            self.push(*byte);
        }
    }

    fn push(&mut self, byte: u8) {
        self.rest[self.rest_len] = byte;
        self.rest_len += 1;
        if self.rest_len == self.rest.len() {
            self.rest_len = 0;
            self.word(u64::from_le_bytes(self.rest));
        }
    }

    fn word(&mut self, word: u64) {
        self.sum = self.sum.wrapping_add(word);
        self.sum_of_sums = self.sum_of_sums.rotate_left(1).wrapping_add(self.sum);
    }

    /// The sum of all bytes so far.
    pub(crate) fn value(&self) -> u64 {
        let mut last = *self;
        if last.rest_len > 0 {
            last.rest[last.rest_len..].fill(0);
            last.word(u64::from_le_bytes(last.rest));
        }
        last.sum_of_sums ^ last.sum.rotate_left(32) ^ last.count
    }
}

/// Bytes without a pattern that a fault could hide in (SplitMix64).
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut bytes: Vec<u8> = (0..CHUNK.div_ceil(8)).flat_map(|_| next().to_le_bytes()).collect();
    bytes.truncate(CHUNK);
    bytes
}

/// Writes `len` bytes of noise and returns their checksum. `progress` is told how many have gone.
pub(crate) fn send_noise(to: &mut impl Write, len: u64, progress: &mut dyn FnMut(u64)) -> io::Result<u64> {
    let noise = noise(len);
    let mut checksum = Checksum::default();
    let mut left = len;
    while left > 0 {
        let chunk = &noise[..usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK))];
        to.write_all(chunk)?;
        checksum.update(chunk);
        left -= chunk.len() as u64;
        progress(len - left);
    }
    Ok(checksum.value())
}

/// Reads `len` bytes and returns their checksum.
fn receive(from: &mut impl Read, len: u64, progress: &mut dyn FnMut(u64)) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut checksum = Checksum::default();
    let mut left = len;
    while left > 0 {
        let room = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        match from.read(&mut buffer[..room])? {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("the stream ended {left} of {len} bytes early"))),
            read => {
                checksum.update(&buffer[..read]);
                left -= read as u64;
                progress(len - left);
            }
        }
    }
    Ok(checksum.value())
}

/// The client's side of a download: the two checksums, ours first.
pub(crate) fn download(stream: &mut TcpStream, len: u64, progress: &mut dyn FnMut(u64)) -> io::Result<(u64, u64)> {
    stream.write_all(&len.to_be_bytes())?;
    let ours = receive(stream, len, progress)?;
    Ok((ours, read_u64(stream)?))
}

/// The server's side of a download.
pub(crate) fn serve_download(stream: &mut TcpStream) -> io::Result<()> {
    let len = read_u64(stream)?;
    let checksum = send_noise(stream, len, &mut |_| ())?;
    stream.write_all(&checksum.to_be_bytes())
}

/// The client's side of an upload: the two checksums, ours first.
pub(crate) fn upload(stream: &mut TcpStream, len: u64, progress: &mut dyn FnMut(u64)) -> io::Result<(u64, u64)> {
    let ours = send_noise(stream, len, progress)?;
    stream.shutdown(Shutdown::Write)?;
    let (count, theirs) = (read_u64(stream)?, read_u64(stream)?);
    if count != len {
        return Err(io::Error::other(format!("the server has received {count} of {len} bytes")));
    }
    Ok((ours, theirs))
}

/// The server's side of an upload.
pub(crate) fn serve_upload(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut checksum = Checksum::default();
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            read => checksum.update(&buffer[..read]),
        }
    }
    stream.write_all(&checksum.count.to_be_bytes())?;
    stream.write_all(&checksum.value().to_be_bytes())
}

fn read_u64(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    fn sum(parts: &[&[u8]]) -> u64 {
        let mut checksum = Checksum::default();
        parts.iter().for_each(|part| checksum.update(part));
        checksum.value()
    }

    #[test]
    fn how_the_bytes_arrive_does_not_change_the_sum() {
        let whole = noise(1);
        for cut in [1, 7, 8, 9, 1000] {
            let (a, b) = whole.split_at(cut);
            assert_eq!(sum(&[a, b]), sum(&[&whole]));
        }
        assert_eq!(sum(&[b"a", b"", b"bc"]), sum(&[b"abc"]));
    }

    #[test]
    fn what_a_broken_network_does_changes_the_sum() {
        let good = noise(1);
        let (a, b) = good.split_at(8000);
        assert_ne!(sum(&[b, a]), sum(&[&good]), "out of order");
        assert_ne!(sum(&[a, a, b]), sum(&[&good]), "repeated");
        assert_ne!(sum(&[a]), sum(&[&good]), "lost");
        assert_ne!(sum(&[b"\0\0"]), sum(&[b"\0"]), "zeroes lost");
    }

    #[test]
    fn both_ends_agree_on_what_was_transferred() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            serve_download(&mut listener.accept().unwrap().0).unwrap();
            serve_upload(&mut listener.accept().unwrap().0).unwrap();
        });
        let len = 3 * CHUNK as u64 + 5;
        let mut last = 0;
        let (ours, theirs) = download(&mut TcpStream::connect(address).unwrap(), len, &mut |done| last = done).unwrap();
        assert_eq!((ours, last), (theirs, len));
        let (ours, theirs) = upload(&mut TcpStream::connect(address).unwrap(), len, &mut |_| ()).unwrap();
        assert_eq!(ours, theirs);
        server.join().unwrap();
    }
}
