//! Datagrams to the TFTP server's port, as guests may send them.

use netstack::fuzzing::tftp::{Read, kinds, read};

/// What each option may be: `blksize`, `timeout`, `tsize`, `windowsize`.
const RANGES: [(u64, u64); 4] = [(8, 65464), (1, 255), (0, u64::MAX), (1, 65535)];

/// The numbers of errors that refuse a request.
const ERRORS: [u16; 4] = [1, 2, 4, 8];

/// Any datagram at all.
pub fn judge(input: &[u8]) {
    // What guests and servers say later is only told apart.
    let (is_error, is_options) = kinds(input);
    assert!(!(is_error && is_options), "an error that is options");
    let opcode = input.split_first_chunk().map(|(opcode, _)| u16::from_be_bytes(*opcode));
    match read(input) {
        Read::Ignored => assert!(!matches!(opcode, Some(1 | 2)), "a request that nobody answers"),
        Read::Refused(answer) => {
            assert!(matches!(opcode, Some(1 | 2)), "an answer to what is no request");
            assert!(kinds(&answer).0, "{answer:?} is no error");
            let number = u16::from_be_bytes([answer[2], answer[3]]);
            assert!(ERRORS.contains(&number), "error {number}");
            let text = &answer[4..];
            assert_eq!(text.iter().position(|byte| *byte == 0), Some(text.len() - 1), "the text and one end of it");
            assert!(answer.len() <= 516, "{} bytes, more than any client need take", answer.len());
        }
        Read::Request { name, options, written, confirmed } => {
            assert_eq!(opcode, Some(1), "what is not for reading");
            assert!(!name.is_empty() && !name.contains(&0) && input[2..].starts_with(&name), "{name:?} is not what was sent");
            for (value, (least, most)) in options.iter().zip(RANGES) {
                assert!(value.is_none_or(|value| (least..=most).contains(&value)), "{options:?}");
            }
            // What the server gets is what was understood, and nothing else.
            let again = Read::Request { name, options, written: written.clone(), confirmed: confirmed.clone() };
            assert_eq!(read(&written), again);
            assert!(kinds(&confirmed).1, "{confirmed:?} are no options");
        }
    }
}

/// Requests that get far, and some that nearly do.
pub fn seeds() -> Vec<Vec<u8>> {
    let seeds: [&[u8]; 9] = [
        b"\0\x01pxelinux.0\0octet\0",
        b"\0\x01/boot/kernel\0OCTET\0tsize\x000\0blksize\x001468\0windowsize\x0016\0timeout\x003\0",
        b"\0\x01a\0octet\0blksize\x0065464\0multicast\0\0rollover\x000\0",
        b"\0\x01a\0octet\0blksize\x00512\0BLKSIZE\x00512\0",
        b"\0\x01a\0netascii\0",
        b"\0\x02a\0octet\0",
        b"\0\x04\0\x01",
        b"\0\x05\0\0stop\0",
        b"\0\x06blksize\x00512\0tsize\x00123456\0",
    ];
    let mut all: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.to_vec()).collect();
    all.push([&b"\0\x01"[..], &[b'n'; 3000], b"\0octet\0"].concat());
    all
}
