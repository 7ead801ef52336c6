//! What is read of TFTP messages, and what we write ourselves (RFC 1350, and RFC 2347, 2348, 2349 and 7440 for the options).
//!
//! A request is read here before anything else sees it, and only what was understood is passed on, in our own words. A request that is not
//! well-formed is refused; an option that is unknown, or whose value is out of its range, is as if it was not there, and so the answer
//! does not confirm it (RFC 2347).

use std::fmt;

/// RFC 2347: a request has at most 512 bytes. Some clients send long names all the same.
const LONGEST_REQUEST: usize = 2048;

const READ: u16 = 1;
const WRITE: u16 = 2;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OACK: u16 = 6;

/// The number that an error has (RFC 1350, and RFC 2347 for the last).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ErrorCode {
    Undefined = 0,
    NotFound = 1,
    AccessViolation = 2,
    IllegalOperation = 4,
    Options = 8,
}

/// A request to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) name: Vec<u8>,
    pub(super) options: Options,
}

/// The options that are understood.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// Bytes in a block: 8 to 65464 (RFC 2348).
    pub(super) block_size: Option<u16>,
    /// Seconds until something is sent again: 1 to 255 (RFC 2349).
    pub(super) timeout: Option<u8>,
    /// In a request 0, which asks for it; in an answer the length of the file (RFC 2349).
    pub(super) transfer_size: Option<u64>,
    /// Blocks that are sent before one has to be acknowledged: 1 to 65535 (RFC 7440).
    pub(super) window_size: Option<u16>,
}

/// Why a message is not a request that can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadRequest {
    /// It is no request at all.
    NotARequest,
    /// A text has no end, an option no value, or it is all too long.
    Malformed,
    /// There is no file name.
    NoName,
    /// A request to write.
    Write,
    /// A transfer mode other than octet.
    Mode,
    /// An option that is there twice (RFC 2347: it must not be).
    Twice,
}

impl BadRequest {
    /// What the guest is told; `None` for what no client sends.
    pub(super) fn answer(self) -> Option<Vec<u8>> {
        let (code, text) = match self {
            Self::NotARequest => return None,
            Self::Malformed => (ErrorCode::IllegalOperation, "this is not a well-formed request"),
            Self::NoName => (ErrorCode::NotFound, "the request has no file name"),
            Self::Write => (ErrorCode::AccessViolation, "this server is for reading only"),
            Self::Mode => (ErrorCode::IllegalOperation, "files are sent in octet (binary) mode only"),
            Self::Twice => (ErrorCode::Options, "an option must not be there twice"),
        };
        Some(error(code, text))
    }
}

impl Request {
    /// Reads a request.
    pub(super) fn parse(message: &[u8]) -> Result<Self, BadRequest> {
        let (opcode, rest) = opcode(message).ok_or(BadRequest::NotARequest)?;
        if opcode != READ && opcode != WRITE {
            return Err(BadRequest::NotARequest);
        }
        if message.len() > LONGEST_REQUEST {
            return Err(BadRequest::Malformed);
        }
        let (name, rest) = text(rest).ok_or(BadRequest::Malformed)?;
        let (mode, rest) = text(rest).ok_or(BadRequest::Malformed)?;
        let options = Options::parse(rest)?;
        match () {
            () if opcode == WRITE => Err(BadRequest::Write),
            () if name.is_empty() => Err(BadRequest::NoName),
            () if !mode.eq_ignore_ascii_case(b"octet") => Err(BadRequest::Mode),
            () => Ok(Self { name: name.to_vec(), options }),
        }
    }

    /// Writes the request.
    pub(super) fn write(&self) -> Vec<u8> {
        let mut message = READ.to_be_bytes().to_vec();
        message.extend_from_slice(&self.name);
        message.extend_from_slice(b"\0octet\0");
        self.options.write(&mut message);
        message
    }
}

impl Options {
    fn parse(mut rest: &[u8]) -> Result<Self, BadRequest> {
        let mut options = Self::default();
        let mut seen: Vec<&[u8]> = Vec::new();
        while !rest.is_empty() {
            let (name, value);
            (name, rest) = text(rest).ok_or(BadRequest::Malformed)?;
            (value, rest) = text(rest).ok_or(BadRequest::Malformed)?;
            if seen.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                return Err(BadRequest::Twice);
            }
            seen.push(name);
            let number = std::str::from_utf8(value).ok().and_then(|value| value.parse::<u64>().ok());
            let within = |least, most| number.filter(|number| (least..=most).contains(number));
            // The ranges make the conversions exact.
            if name.eq_ignore_ascii_case(b"blksize") {
                options.block_size = within(8, 65464).map(|size| size as u16);
            } else if name.eq_ignore_ascii_case(b"timeout") {
                options.timeout = within(1, 255).map(|seconds| seconds as u8);
            } else if name.eq_ignore_ascii_case(b"tsize") {
                options.transfer_size = number;
            } else if name.eq_ignore_ascii_case(b"windowsize") {
                options.window_size = within(1, 65535).map(|blocks| blocks as u16);
            }
        }
        Ok(options)
    }

    fn write(&self, into: &mut Vec<u8>) {
        let mut option = |name: &str, value: Option<u64>| {
            if let Some(value) = value {
                into.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
            }
        };
        option("blksize", self.block_size.map(u64::from));
        option("timeout", self.timeout.map(u64::from));
        option("tsize", self.transfer_size);
        option("windowsize", self.window_size.map(u64::from));
    }

    /// Whether there is something to confirm.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a server has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// A block.
    Data,
    /// The options that it has taken.
    Options(Options),
    /// Something else.
    Other,
}

impl Answer {
    pub(super) fn parse(message: &[u8]) -> Self {
        match opcode(message) {
            Some((DATA, _)) => Self::Data,
            Some((OACK, rest)) => Options::parse(rest).map_or(Self::Other, Self::Options),
            _ => Self::Other,
        }
    }
}

/// An acknowledgement.
pub(super) fn acknowledgement(block: u16) -> Vec<u8> {
    [ACK.to_be_bytes(), block.to_be_bytes()].concat()
}

/// An acknowledgement of options.
pub(super) fn option_acknowledgement(options: &Options) -> Vec<u8> {
    let mut message = OACK.to_be_bytes().to_vec();
    options.write(&mut message);
    message
}

/// An error.
pub(super) fn error(code: ErrorCode, text: impl fmt::Display) -> Vec<u8> {
    let mut message = [ERROR.to_be_bytes(), (code as u16).to_be_bytes()].concat();
    message.extend_from_slice(format!("{text}\0").as_bytes());
    message
}

/// The block that this acknowledges, if it does that.
pub(super) fn acknowledged(message: &[u8]) -> Option<u16> {
    let (_, number) = opcode(message).filter(|(opcode, _)| *opcode == ACK)?;
    number.first_chunk().map(|number| u16::from_be_bytes(*number))
}

/// Whether this ends a transfer.
pub(super) fn is_error(message: &[u8]) -> bool {
    opcode(message).is_some_and(|(opcode, _)| opcode == ERROR)
}

fn opcode(message: &[u8]) -> Option<(u16, &[u8])> {
    let (opcode, rest) = message.split_first_chunk()?;
    Some((u16::from_be_bytes(*opcode), rest))
}

/// A text that ends with a zero, and what follows it.
fn text(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = message.iter().position(|byte| *byte == 0)?;
    Some((&message[..end], &message[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &[u8]) -> Result<Request, BadRequest> {
        Request::parse(&[&[0, 1], body].concat())
    }

    #[test]
    fn a_request_is_read_with_its_options_in_any_case_and_order() {
        let request = parse(b"pxelinux.0\0OcTet\0tsize\x000\0BLKSIZE\x001468\0windowsize\x0016\0timeout\x003\0").unwrap();
        let options = Options { block_size: Some(1468), timeout: Some(3), transfer_size: Some(0), window_size: Some(16) };
        assert_eq!(request, Request { name: b"pxelinux.0".to_vec(), options });
        assert_eq!(Request::parse(&request.write()), Ok(request));
        assert_eq!(parse(b"a\0octet\0").unwrap().options, Options::default());
    }

    #[test]
    fn options_that_are_unknown_or_out_of_range_are_not_there() {
        for options in ["blksize\x000", "blksize\x007", "blksize\x0065465", "blksize\x00-1", "blksize\0", "blksize\x001e3"] {
            assert_eq!(parse(format!("a\0octet\0{options}\0").as_bytes()).unwrap().options, Options::default(), "{options:?}");
        }
        for options in ["windowsize\x000", "windowsize\x0065536", "timeout\x000", "timeout\x00256", "multicast\0", "tsize\0x"] {
            assert_eq!(parse(format!("a\0octet\0{options}\0").as_bytes()).unwrap().options, Options::default(), "{options:?}");
        }
    }

    #[test]
    fn a_request_that_is_not_well_formed_is_refused() {
        for body in [&b""[..], b"a", b"a\0", b"a\0octet", b"a\0octet\0blksize", b"a\0octet\0blksize\0", b"a\0octet\0blksize\x00512"]
        {
            assert_eq!(parse(body), Err(BadRequest::Malformed), "{body:?}");
        }
        assert_eq!(parse(&[&[b'a'; 65_000][..], b"\0octet\0"].concat()), Err(BadRequest::Malformed));
        assert_eq!(parse(b"\0octet\0"), Err(BadRequest::NoName));
        assert_eq!(parse(b"a\0netascii\0"), Err(BadRequest::Mode));
        assert_eq!(parse(b"a\0octet\0blksize\x00512\0BlkSize\x00512\0"), Err(BadRequest::Twice));
        assert_eq!(Request::parse(b"\0\x02a\0octet\0"), Err(BadRequest::Write));
        for no_request in [&b""[..], b"\0", b"\0\x04\0\0", b"\0\x03\0\x01data", b"\xff\xff"] {
            assert_eq!(Request::parse(no_request), Err(BadRequest::NotARequest), "{no_request:?}");
        }
    }

    #[test]
    fn what_we_write_is_what_the_rfcs_say() {
        assert_eq!(acknowledgement(0x0102), b"\0\x04\x01\x02");
        assert_eq!(acknowledged(&acknowledgement(0x0102)), Some(0x0102));
        assert_eq!(acknowledged(b"\0\x04\x01"), None);
        assert_eq!(error(ErrorCode::NotFound, "no"), b"\0\x05\0\x01no\0");
        let options = Options { block_size: Some(512), transfer_size: Some(70), ..Options::default() };
        assert_eq!(option_acknowledgement(&options), b"\0\x06blksize\x00512\0tsize\x0070\0");
        assert_eq!(Answer::parse(&option_acknowledgement(&options)), Answer::Options(options));
    }
}
