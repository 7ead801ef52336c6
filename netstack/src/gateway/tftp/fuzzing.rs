//! Reading requests, without a server.

use super::message::{Answer, Options, Request, is_error, option_acknowledgement};

/// What has become of a datagram to the server's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// It is a request for a file.
    Request {
        /// The file's name.
        name: Vec<u8>,
        /// `blksize`, `timeout`, `tsize`, `windowsize`, as far as they are there and make sense.
        options: [Option<u64>; 4],
        /// The request in our own words, as the server gets it.
        written: Vec<u8>,
        /// The answer that would confirm all of it.
        confirmed: Vec<u8>,
    },
    /// It is refused, and this is answered.
    Refused(Vec<u8>),
    /// Nobody is answered.
    Ignored,
}

/// Reads a datagram.
pub fn read(message: &[u8]) -> Read {
    match Request::parse(message) {
        Ok(request) => {
            let Options { block_size, timeout, transfer_size, window_size } = request.options;
            let options = [block_size.map(u64::from), timeout.map(u64::from), transfer_size, window_size.map(u64::from)];
            let (written, confirmed) = (request.write(), option_acknowledgement(&request.options));
            Read::Request { name: request.name, options, written, confirmed }
        }
        Err(why) => why.answer().map_or(Read::Ignored, Read::Refused),
    }
}

/// Whether this is an error; and whether it is options that a server has taken.
pub fn kinds(message: &[u8]) -> (bool, bool) {
    (is_error(message), matches!(Answer::parse(message), Answer::Options(_)))
}
