//! The data that tests move: a fixed sequence of bytes in which every loss, repetition and exchange shows.
//!
//! It repeats itself after a prime number of bytes, which no segment, buffer or window is a multiple of.

use std::io::{self, Read, Write};
use std::sync::LazyLock;

const PERIOD: usize = 1_048_573;

static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    // Xorshift (Marsaglia 2003): all that is asked of it is that neighbours differ.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut block = Vec::with_capacity(PERIOD + 8);
    while block.len() < PERIOD {
        block.extend(next());
    }
    block.truncate(PERIOD);
    block
});

/// Writes the first `len` bytes.
///
/// # Errors
///
/// Those of the writer.
pub fn write(mut to: impl Write, mut len: u64) -> io::Result<()> {
    while len > 0 {
        let part = usize::try_from(len).unwrap_or(usize::MAX).min(PERIOD);
        to.write_all(&BLOCK[..part])?;
        len -= part as u64;
    }
    to.flush()
}

/// Reads to the end, or `len` bytes if there is a limit, and returns how many there were.
///
/// # Errors
///
/// Those of the reader, and [`io::ErrorKind::InvalidData`] when a byte is not the expected one; the message says which.
pub fn check(mut from: impl Read, len: Option<u64>) -> io::Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let mut seen = 0_u64;
    loop {
        let left = len.map_or(usize::MAX, |len| usize::try_from(len - seen).unwrap_or(usize::MAX));
        let limit = left.min(buffer.len());
        let n = if limit == 0 { 0 } else { from.read(&mut buffer[..limit])? };
        if n == 0 {
            return Ok(seen);
        }
        let mut got = &buffer[..n];
        while !got.is_empty() {
            let at = usize::try_from(seen % PERIOD as u64).unwrap_or_default();
            let expected = &BLOCK[at..];
            let part = got.len().min(expected.len());
            if got[..part] != expected[..part] {
                let wrong = seen + got.iter().zip(expected).take_while(|(got, expected)| got == expected).count() as u64;
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("byte {wrong} is not the expected one")));
            }
            seen += part as u64;
            got = &got[part..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_expected() {
        let mut data = Vec::new();
        write(&mut data, 3 << 20).unwrap();
        assert_eq!(check(&data[..], None).unwrap(), 3 << 20);
        assert_eq!(check(&data[..], Some(1000)).unwrap(), 1000);
    }

    #[test]
    fn a_lost_segment_is_seen_where_it_was() {
        let mut data = Vec::new();
        write(&mut data, 2 << 20).unwrap();
        data.drain(1_500_000..1_501_448);
        assert_eq!(check(&data[..], None).unwrap_err().to_string(), "byte 1500000 is not the expected one");
    }
}
