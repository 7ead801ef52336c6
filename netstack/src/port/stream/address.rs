//! Where to listen for guests, as people write it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// An address that a stream port listens at: `unix:PATH` or `tcp:ADDRESS:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StreamAddress {
    /// A socket in the file system.
    Unix(PathBuf),
    /// A numeric address and a port; port 0 means any free one.
    Tcp(SocketAddr),
}

/// A text that is no [`StreamAddress`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseStreamAddressError {
    /// It begins with neither.
    #[error("`{0}` says neither `unix:` nor `tcp:`: write `unix:PATH`, such as unix:/run/user/1000/vm.sock, or `tcp:ADDRESS:PORT`")]
    Kind(String),
    /// Nothing after `unix:`.
    #[error("`unix:` needs the path of the socket, such as unix:/run/user/1000/vm.sock")]
    NoPath,
    /// Not an address and a port after `tcp:`.
    #[error(
        "`{0}` is not a numeric address and a port: write them such as tcp:127.0.0.1:5555, and an IPv6 address in brackets, such as \
         tcp:[::1]:5555"
    )]
    Tcp(String),
}

impl FromStr for StreamAddress {
    type Err = ParseStreamAddressError;

    fn from_str(text: &str) -> Result<Self, ParseStreamAddressError> {
        match text.split_once(':') {
            Some(("unix", "")) => Err(ParseStreamAddressError::NoPath),
            Some(("unix", path)) => Ok(Self::Unix(path.into())),
            Some(("tcp", address)) => address.parse().map(Self::Tcp).map_err(|_| ParseStreamAddressError::Tcp(address.to_owned())),
            _ => Err(ParseStreamAddressError::Kind(text.to_owned())),
        }
    }
}

impl fmt::Display for StreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_read_and_written_alike() {
        for text in ["unix:/run/vm.sock", "unix:relative:with:colons", "tcp:127.0.0.1:5555", "tcp:[::1]:0"] {
            assert_eq!(text.parse::<StreamAddress>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        use ParseStreamAddressError::{Kind, NoPath, Tcp};
        let error = |text: &str| text.parse::<StreamAddress>().unwrap_err();
        assert_eq!(error("unix:"), NoPath);
        for text in ["", "/run/vm.sock", "udp:127.0.0.1:1", "unix"] {
            assert_eq!(error(text), Kind(text.to_owned()));
        }
        for text in ["", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "::1:5555", "localhost:5555"] {
            assert_eq!(error(&format!("tcp:{text}")), Tcp(text.to_owned()));
        }
        assert!(error("tcp:localhost:5555").to_string().contains("tcp:127.0.0.1:5555"));
    }
}
