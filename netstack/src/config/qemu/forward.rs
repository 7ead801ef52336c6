//! Host forwards as text: `[tcp|udp]:[HOSTADDR][%INTERFACE]:PORT[-LAST]-[GUESTADDR]:PORT[-LAST]` and `unix:PATH-[GUESTADDR]:PORT`.
//!
//! QEMU's form has one `-`, between the host's side and the guest's. A range of ports brings a second and perhaps a third, which are
//! still told apart by what stands before them: the guest's side has a colon, a port has none. IPv6 addresses are in brackets, and so is
//! the interface of one (RFC 6874). A path may have a `-` too: the guest's side follows the last one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use crate::config::{HostForward, HostSide, Protocol, SOCKET_PATH_MAX};

/// What to write.
pub(super) const FORM: &str = "tcp:127.0.0.1:2222-:22, in general [tcp|udp]:[HOSTADDR]:PORT[-LAST]-[GUESTADDR]:PORT or \
                               unix:PATH-[GUESTADDR]:PORT";

/// A text that is no host forward.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// Neither TCP nor UDP.
    #[error("`{0}` is not a protocol that can be forwarded, which are tcp, udp and unix")]
    Protocol(String),
    /// A UNIX socket of the host that is somewhere else in each directory.
    #[error("the path `{0}` of the UNIX socket does not begin with `/`")]
    Relative(String),
    /// A UNIX socket of the host with a path that the kernel does not take.
    #[error("the path `{0}` is too long for a UNIX socket: it has {len} bytes, and at most {SOCKET_PATH_MAX} fit", len = .0.len())]
    PathTooLong(String),
    /// Not the name of an interface.
    #[error("`{0}` is no name of an interface: it has 1 to 15 bytes, without `/`, `:` and white space")]
    Interface(String),
    /// No host's side.
    #[error("there is no `:` before the host's port")]
    NoHostPort,
    /// No guest's side.
    #[error("there is no `-` between the host's side and the guest's")]
    NoGuest,
    /// No port in the guest's side.
    #[error("there is no `:` before the guest's port")]
    NoGuestPort,
    /// Not an address.
    #[error("`{0}` is not an IPv4 address, nor an IPv6 address in brackets")]
    Address(String),
    /// Not a port.
    #[error("`{0}` is not a port: a number from 0 to 65535 (0x before hexadecimal, no other leading zero)")]
    Port(String),
    /// Port 0 where it has no meaning.
    #[error("port 0 means any free port, which only a single port of the host can be")]
    PortZero,
    /// A range from a port to a lower one.
    #[error("the range {first}-{last} ends before it begins")]
    Backwards {
        /// Its first port.
        first: u16,
        /// Its last.
        last: u16,
    },
    /// The host's range and the guest's differ.
    #[error("the host has {host} ports and the guest has {guest}, and they are to lead one to one")]
    Lengths {
        /// Ports on the host.
        host: u16,
        /// Ports in the guest.
        guest: u16,
    },
    /// The guest's range goes past the last port.
    #[error("{count} ports from {first} on go past 65535")]
    PastTheEnd {
        /// The first port in the guest.
        first: u16,
        /// How many there are to be.
        count: u16,
    },
}

impl FromStr for HostForward {
    type Err = ForwardError;

    fn from_str(text: &str) -> Result<Self, ForwardError> {
        let (protocol, text) = text.split_once(':').ok_or(ForwardError::NoHostPort)?;
        let protocol = match protocol {
            "" | "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "unix" => return from_socket(text),
            other => return Err(ForwardError::Protocol(other.to_owned())),
        };
        let (host, text) = split_address(text).ok_or(ForwardError::NoHostPort)?;
        let (host, interface) = address_and_interface(host)?;
        let host = host.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let (host_port, text) = text.split_once('-').ok_or(ForwardError::NoGuest)?;
        let host_port = port(host_port)?;
        let (host_last, text) = match text.split_once('-') {
            Some((last, text)) if !last.contains([':', '.', '[']) => (Some(port(last)?), text),
            _ => (None, text),
        };
        let (guest, text) = split_address(text).ok_or(ForwardError::NoGuestPort)?;
        let guest = address(guest)?;
        let (guest_port, guest_last) = match text.split_once('-') {
            Some((first, last)) => (port(first)?, Some(port(last)?)),
            None => (port(text)?, None),
        };

        let count = length(host_port, host_last)?;
        if guest_port == 0 || (host_port == 0 && host_last.is_some()) {
            return Err(ForwardError::PortZero);
        }
        match guest_last.map(|_| length(guest_port, guest_last)).transpose()? {
            Some(guest) if guest != count => return Err(ForwardError::Lengths { host: count, guest }),
            _ => {}
        }
        if guest_port.checked_add(count - 1).is_none() {
            return Err(ForwardError::PastTheEnd { first: guest_port, count });
        }
        let host = HostSide::Ports { protocol, address: host, interface, first: host_port, count };
        Ok(Self { host, guest, guest_port })
    }
}

/// What follows `unix:`.
fn from_socket(text: &str) -> Result<HostForward, ForwardError> {
    let (path, guest) = text.rsplit_once('-').ok_or(ForwardError::NoGuest)?;
    let (guest, guest_port) = split_address(guest).ok_or(ForwardError::NoGuestPort)?;
    let (guest, guest_port) = (address(guest)?, port(guest_port)?);
    if guest_port == 0 {
        return Err(ForwardError::PortZero);
    }
    Ok(HostForward { host: HostSide::Unix(socket_path(path)?), guest, guest_port })
}

/// A path that a socket can have.
///
/// # Errors
///
/// When it is relative or too long.
pub(crate) fn socket_path(path: &str) -> Result<PathBuf, ForwardError> {
    if !path.starts_with('/') {
        return Err(ForwardError::Relative(path.to_owned()));
    }
    if path.len() > SOCKET_PATH_MAX || path.contains('\0') {
        return Err(ForwardError::PathTooLong(path.to_owned()));
    }
    Ok(path.into())
}

/// A name that an interface can have.
///
/// # Errors
///
/// When the kernel gives no interface such a name.
pub(crate) fn interface_name(name: &str) -> Result<String, ForwardError> {
    let strange = |c: char| matches!(c, '/' | ':' | '\0' | ']') || c.is_whitespace();
    if !matches!(name.len(), 1..=15) || name == "." || name == ".." || name.chars().any(strange) {
        return Err(ForwardError::Interface(name.to_owned()));
    }
    Ok(name.to_owned())
}

impl fmt::Display for HostForward {
    /// In the form that can be read again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            HostSide::Ports { protocol, address, interface, first, count } => {
                f.write_str(match protocol {
                    Protocol::Tcp => "tcp:",
                    Protocol::Udp => "udp:",
                })?;
                write_address(f, *address, interface.as_deref())?;
                write!(f, ":{first}")?;
                if *count > 1 {
                    write!(f, "-{}", first.saturating_add(count - 1))?;
                }
            }
            HostSide::Unix(path) => write!(f, "unix:{}", path.display())?,
        }
        f.write_str("-")?;
        if let Some(guest) = self.guest {
            write_address(f, guest, None)?;
        }
        write!(f, ":{}", self.guest_port)
    }
}

pub(super) fn write_address(f: &mut fmt::Formatter<'_>, address: IpAddr, interface: Option<&str>) -> fmt::Result {
    let (percent, interface) = interface.map_or(("", ""), |interface| ("%", interface));
    match address {
        IpAddr::V4(address) => write!(f, "{address}{percent}{interface}"),
        IpAddr::V6(address) => write!(f, "[{address}{percent}{interface}]"),
    }
}

/// The address before a colon, with its brackets, and what follows the colon.
pub(super) fn split_address(text: &str) -> Option<(&str, &str)> {
    if text.starts_with('[') {
        let (address, rest) = text.split_at(text.find(']')? + 1);
        return Some((address, rest.strip_prefix(':')?));
    }
    text.split_once(':')
}

/// An address, or nothing, and the interface to be reached by, if there is one.
fn address_and_interface(text: &str) -> Result<(Option<IpAddr>, Option<String>), ForwardError> {
    let Some((before, rest)) = text.split_once('%') else { return Ok((address(text)?, None)) };
    if before.starts_with('[') {
        let name = rest.strip_suffix(']').ok_or_else(|| ForwardError::Address(text.to_owned()))?;
        return Ok((address(&format!("{before}]"))?, Some(interface_name(name)?)));
    }
    Ok((address(before)?, Some(interface_name(rest)?)))
}

/// An address, or nothing.
pub(super) fn address(text: &str) -> Result<Option<IpAddr>, ForwardError> {
    let wrong = || ForwardError::Address(text.to_owned());
    if text.is_empty() {
        return Ok(None);
    }
    let address = match text.strip_prefix('[') {
        Some(text) => text.strip_suffix(']').and_then(|text| text.parse::<Ipv6Addr>().ok()).map(IpAddr::from),
        None => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
    };
    address.map(Some).ok_or_else(wrong)
}

/// A port, as QEMU reads numbers but for the octal ones: nobody who writes 0080 means 64.
pub(super) fn port(text: &str) -> Result<u16, ForwardError> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    let octal = radix == 10 && text.len() > 1 && text.starts_with('0');
    let sound = !octal && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let port = if sound { u16::from_str_radix(digits, radix).ok() } else { None };
    port.ok_or_else(|| ForwardError::Port(text.to_owned()))
}

/// How many ports a range has.
fn length(first: u16, last: Option<u16>) -> Result<u16, ForwardError> {
    let last = last.unwrap_or(first);
    // A range from 0 on is refused anyway, and the only one whose length would not fit.
    last.checked_sub(first).map(|more| more.saturating_add(1)).ok_or(ForwardError::Backwards { first, last })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn forward(protocol: Protocol, host: &str, host_port: u16, count: u16, guest: Option<&str>, guest_port: u16) -> HostForward {
        let guest = guest.map(|guest| guest.parse().unwrap());
        let (host, interface) = host.split_once('%').map_or((host, None), |(host, name)| (host, Some(name.to_owned())));
        let host = HostSide::Ports { protocol, address: host.parse().unwrap(), interface, first: host_port, count };
        HostForward { host, guest, guest_port }
    }

    fn socket(path: &str, guest: Option<&str>, guest_port: u16) -> HostForward {
        let guest = guest.map(|guest| guest.parse().unwrap());
        HostForward { host: HostSide::Unix(path.into()), guest, guest_port }
    }

    #[test]
    fn forwards_are_read() {
        use Protocol::{Tcp, Udp};
        for (text, expected) in [
            ("tcp::2222-:22", forward(Tcp, "0.0.0.0", 2222, 1, None, 22)),
            ("::2222-:22", forward(Tcp, "0.0.0.0", 2222, 1, None, 22)),
            ("tcp:127.0.0.1:0-:22", forward(Tcp, "127.0.0.1", 0, 1, None, 22)),
            ("udp:127.0.0.1:53-10.0.2.20:5353", forward(Udp, "127.0.0.1", 53, 1, Some("10.0.2.20"), 5353)),
            ("tcp::0x1F90-:0x50", forward(Tcp, "0.0.0.0", 8080, 1, None, 80)),
            ("tcp::8000-8010-:8000", forward(Tcp, "0.0.0.0", 8000, 11, None, 8000)),
            ("tcp::8000-8010-:9000-9010", forward(Tcp, "0.0.0.0", 8000, 11, None, 9000)),
            ("tcp::8000-8010-10.0.2.15:80", forward(Tcp, "0.0.0.0", 8000, 11, Some("10.0.2.15"), 80)),
            ("tcp::8000-8000-:80-80", forward(Tcp, "0.0.0.0", 8000, 1, None, 80)),
            ("tcp::1-65535-:1", forward(Tcp, "0.0.0.0", 1, 65535, None, 1)),
            ("tcp:[::1]:8080-[fec0::15]:80", forward(Tcp, "::1", 8080, 1, Some("fec0::15"), 80)),
            ("tcp:[::]:80-90-[fec0::15]:80", forward(Tcp, "::", 80, 11, Some("fec0::15"), 80)),
            ("tcp:[::]:80-10.0.2.15:80-80", forward(Tcp, "::", 80, 1, Some("10.0.2.15"), 80)),
            ("tcp:127.0.0.1%lo:2222-:22", forward(Tcp, "127.0.0.1%lo", 2222, 1, None, 22)),
            ("udp:%br-lan:53-54-:53", forward(Udp, "0.0.0.0%br-lan", 53, 2, None, 53)),
            ("tcp:[fe80::1%eth0]:80-:80", forward(Tcp, "fe80::1%eth0", 80, 1, None, 80)),
            ("tcp:[::%a%b]:80-:80", forward(Tcp, "::%a%b", 80, 1, None, 80)),
            ("unix:/run/ssh.sock-:22", socket("/run/ssh.sock", None, 22)),
            ("unix:/run/my-app:1.sock-10.0.2.20:0x50", socket("/run/my-app:1.sock", Some("10.0.2.20"), 80)),
            ("unix:/-[fec0::15]:80", socket("/", Some("fec0::15"), 80)),
        ] {
            assert_eq!(text.parse(), Ok(expected.clone()), "{text}");
            assert_eq!(expected.to_string().parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_forward_is_refused_for_the_right_reason() {
        let address = |text: &str| ForwardError::Address(text.to_owned());
        let port = |text: &str| ForwardError::Port(text.to_owned());
        for (text, reason) in [
            ("", ForwardError::NoHostPort),
            ("tcp", ForwardError::NoHostPort),
            ("tcp:2222-22", ForwardError::NoHostPort),
            ("tcp::2222", ForwardError::NoGuest),
            ("tcp::2222:22", ForwardError::NoGuest),
            ("tcp::2222-22", ForwardError::NoGuestPort),
            ("sctp::1-:1", ForwardError::Protocol("sctp".to_owned())),
            ("unix:socket-:22", ForwardError::Relative("socket".to_owned())),
            ("unix:-:22", ForwardError::Relative(String::new())),
            ("unix:/tmp/socket", ForwardError::NoGuest),
            ("unix:/tmp/socket-22", ForwardError::NoGuestPort),
            ("unix:/tmp/socket-:0", ForwardError::PortZero),
            ("unix:/tmp/socket-:22-23", ForwardError::NoGuestPort),
            ("tcp:%:80-:80", ForwardError::Interface(String::new())),
            ("tcp:%sixteen-letters-:80-:80", ForwardError::Interface("sixteen-letters-".to_owned())),
            ("tcp:[::1]%lo:80-:80", ForwardError::NoHostPort),
            ("tcp:[::1%]:80-:80", ForwardError::Interface(String::new())),
            ("tcp:127.0.0%lo:80-:80", address("127.0.0")),
            ("tcp:localhost:80-:80", address("localhost")),
            ("tcp::80-guest:80", address("guest")),
            ("tcp:[::1:80-:80", ForwardError::NoHostPort),
            ("tcp:[]:80-:80", address("[]")),
            ("tcp:[127.0.0.1]:80-:80", address("[127.0.0.1]")),
            ("tcp:::1:80-:80", port(":1:80")),
            ("tcp::80-fec0::15:80", address("fec0")),
            ("tcp::-:80", port("")),
            ("tcp::65536-:80", port("65536")),
            ("tcp::+80-:80", port("+80")),
            ("tcp::0080-:80", port("0080")),
            ("tcp::0x-:80", port("0x")),
            ("tcp::80-:", port("")),
            ("tcp::80--:80", port("")),
            ("tcp::80-:80-", port("")),
            ("tcp::80-:0", ForwardError::PortZero),
            ("tcp::0-10-:80", ForwardError::PortZero),
            ("tcp::0-65535-:1", ForwardError::PortZero),
            ("tcp::90-80-:80", ForwardError::Backwards { first: 90, last: 80 }),
            ("tcp::80-90-:80-81", ForwardError::Lengths { host: 11, guest: 2 }),
            ("tcp::80-:80-81", ForwardError::Lengths { host: 1, guest: 2 }),
            ("tcp::1000-1010-:65530", ForwardError::PastTheEnd { first: 65530, count: 11 }),
        ] {
            assert_eq!(text.parse::<HostForward>(), Err(reason), "{text}");
        }
    }

    #[test]
    fn a_path_has_to_fit_an_address_of_the_kernel() {
        let path = |len: usize| format!("/{}", "x".repeat(len - 1));
        assert!(format!("unix:{}-:22", path(107)).parse::<HostForward>().is_ok());
        let too_long = format!("unix:{}-:22", path(108)).parse::<HostForward>();
        assert_eq!(too_long, Err(ForwardError::PathTooLong(path(108))));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            udp: bool,
            interface: bool,
            host: IpAddr,
            first in 1_u16..,
            more: u16,
            guest: Option<IpAddr>,
            guest_port in 1_u16..,
        ) {
            let count = more.min(u16::MAX - first).min(u16::MAX - guest_port).saturating_add(1);
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let interface = interface.then(|| "eth0".to_owned());
            let host = HostSide::Ports { protocol, address: host, interface, first, count };
            let forward = HostForward { host, guest, guest_port };
            prop_assert_eq!(forward.to_string().parse(), Ok(forward));
        }

        #[test]
        fn no_text_is_too_much(text in r"(tcp|udp|unix)?:[/%\[\]0-9a-f.:-]{0,40}") {
            if let Ok(forward) = text.parse::<HostForward>() {
                prop_assert_eq!(forward.to_string().parse(), Ok(forward));
            }
        }
    }
}
