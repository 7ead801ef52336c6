//! Forwards from guests as text: `[tcp]:[SERVER]:PORT-TARGET`.
//!
//! The first `-` after the port begins the target, so a command may contain more of them. QEMU's targets are the names of its character
//! devices; those that mean something here are `tcp:`, `unix:` and `cmd:`, and each of the others is told what to write in its place.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use super::forward::{ForwardError, address, port, split_address, write_address};
use crate::config::{GuestForward, GuestTarget};

/// What to write.
pub(super) const FORM: &str = "tcp:10.0.2.4:80-tcp:127.0.0.1:8080, in general [tcp]:[SERVER]:PORT-TARGET, where TARGET is \
     tcp:ADDR:PORT, unix:PATH or cmd:COMMAND";

/// The longest path of a socket, in bytes: unix(7).
const LONGEST_PATH: usize = 107;

/// A text that is no forward from guests.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuestForwardError {
    /// Not TCP.
    #[error("`{0}` is not a protocol in which guests can be served, which is tcp alone")]
    Protocol(String),
    /// No server's side.
    #[error("there is no `:` before the port that guests connect to")]
    NoPort,
    /// No target.
    #[error("there is no `-` between the port that guests connect to and the target")]
    NoTarget,
    /// Not an address.
    #[error("`{0}` is not an IPv4 address, nor an IPv6 address in brackets")]
    Address(String),
    /// Not a port.
    #[error("`{0}` is not a port: a number from 1 to 65535 (0x before hexadecimal, no other leading zero)")]
    Port(String),
    /// The name of a host where an address has to be.
    #[error("`{0}` is a name, and only addresses are taken, so that what a guest reaches does not depend on name servers")]
    Name(String),
    /// A target address that is nobody's.
    #[error("nobody can be reached at {0}")]
    Nobody(IpAddr),
    /// No path.
    #[error("there is no path after `unix:`")]
    NoPath,
    /// A path that no socket can have.
    #[error("the path of a socket has at most {LONGEST_PATH} bytes, and this has {0}")]
    LongPath(usize),
    /// No command.
    #[error("there is no command after `cmd:`")]
    NoCommand,
    /// What the system ends texts with, within one.
    #[error("there is a NUL in it")]
    Nul,
    /// A character device of QEMU's.
    #[error("`{device}` is a character device of QEMU's, which is not there without QEMU: {instead}")]
    Device {
        /// Its kind.
        device: String,
        /// What does the same here.
        instead: &'static str,
    },
    /// A hook.
    #[error("`hook:` is what a program that embeds this network gives to it, and cannot be written as an option")]
    Hook,
    /// None of these.
    #[error("`{0}` is no target, which begins with tcp:, unix: or cmd:")]
    Target(String),
}

impl From<ForwardError> for GuestForwardError {
    fn from(error: ForwardError) -> Self {
        match error {
            ForwardError::Address(text) => Self::Address(text),
            ForwardError::Port(text) => Self::Port(text),
            _ => Self::NoPort,
        }
    }
}

impl FromStr for GuestForward {
    type Err = GuestForwardError;

    fn from_str(text: &str) -> Result<Self, GuestForwardError> {
        let (protocol, text) = text.split_once(':').ok_or(GuestForwardError::NoPort)?;
        if !matches!(protocol, "" | "tcp") {
            return Err(GuestForwardError::Protocol(protocol.to_owned()));
        }
        let (server, text) = split_address(text).ok_or(GuestForwardError::NoPort)?;
        let server = address(server)?;
        let (number, target) = text.split_once('-').ok_or(GuestForwardError::NoTarget)?;
        Ok(Self { server, port: port_of_server(number)?, target: target.parse()? })
    }
}

impl FromStr for GuestTarget {
    type Err = GuestForwardError;

    fn from_str(text: &str) -> Result<Self, GuestForwardError> {
        if text.contains('\0') {
            return Err(GuestForwardError::Nul);
        }
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        match kind {
            "tcp" => tcp(rest).map(Self::Tcp),
            "unix" if rest.is_empty() => Err(GuestForwardError::NoPath),
            "unix" if rest.len() > LONGEST_PATH => Err(GuestForwardError::LongPath(rest.len())),
            "unix" => Ok(Self::Unix(PathBuf::from(rest))),
            "cmd" if rest.trim().is_empty() => Err(GuestForwardError::NoCommand),
            "cmd" => Ok(Self::Command(rest.to_owned())),
            "hook" => Err(GuestForwardError::Hook),
            _ => match instead_of(kind) {
                Some(instead) => Err(GuestForwardError::Device { device: kind.to_owned(), instead }),
                None => Err(GuestForwardError::Target(text.to_owned())),
            },
        }
    }
}

/// `ADDR:PORT`. One name is as good as an address, for nobody else can say what it means.
fn tcp(text: &str) -> Result<SocketAddr, GuestForwardError> {
    let (host, number) = split_address(text).ok_or_else(|| GuestForwardError::Port(text.to_owned()))?;
    let ip = match host {
        "localhost" => IpAddr::from([127, 0, 0, 1]),
        "" => return Err(GuestForwardError::Address(String::new())),
        host => match address(host) {
            Ok(Some(ip)) => ip,
            _ if host.starts_with(|first: char| first.is_alphabetic()) => return Err(GuestForwardError::Name(host.to_owned())),
            _ => return Err(GuestForwardError::Address(host.to_owned())),
        },
    };
    if ip.is_unspecified() || ip.is_multicast() {
        return Err(GuestForwardError::Nobody(ip));
    }
    Ok(SocketAddr::new(ip, port_of_server(number)?))
}

fn port_of_server(text: &str) -> Result<u16, GuestForwardError> {
    match port(text)? {
        0 => Err(GuestForwardError::Port(text.to_owned())),
        port => Ok(port),
    }
}

/// What does here what a character device of QEMU's does there.
fn instead_of(device: &str) -> Option<&'static str> {
    Some(match device {
        "chardev" => "write its target itself, as tcp:ADDR:PORT, unix:PATH or cmd:COMMAND",
        "telnet" | "tn3270" | "websocket" | "socket" => "write tcp:ADDR:PORT or unix:PATH, which carry the bytes as they are",
        "udp" => "write cmd:socat - UDP:ADDR:PORT",
        "file" => "write cmd:exec cat >> PATH",
        "pipe" => "write cmd:cat < PATH.out & exec cat > PATH.in",
        "null" => "write cmd:exec cat > /dev/null",
        "serial" | "parallel" | "tty" | "parport" => "write cmd:exec socat - PATH,,raw (`,,` stands for a comma)",
        _ if device.starts_with("/dev/") => "write cmd:exec socat - PATH,,raw (`,,` stands for a comma)",
        "vc" | "pty" | "stdio" | "mon" | "con" | "console" | "ringbuf" | "memory" | "testdev" => {
            "write unix:PATH, and have a program listen at PATH that shows it"
        }
        "msmouse" | "wctablet" | "braille" | "spicevmc" | "spiceport" | "dbus" | "qemu-vdagent" | "gdb" => {
            "a guest's network has no use for it"
        }
        _ => return None,
    })
}

impl fmt::Display for GuestForward {
    /// In the form that can be read again, but for hooks.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tcp:")?;
        if let Some(server) = self.server {
            write_address(f, server, None)?;
        }
        write!(f, ":{}-{}", self.port, self.target)
    }
}

impl fmt::Display for GuestTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Command(command) => write!(f, "cmd:{command}"),
            Self::Hook(name) => write!(f, "hook:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn forward(server: Option<&str>, port: u16, target: GuestTarget) -> GuestForward {
        GuestForward { server: server.map(|ip| ip.parse().unwrap()), port, target }
    }

    fn command(text: &str) -> GuestTarget {
        GuestTarget::Command(text.to_owned())
    }

    #[test]
    fn forwards_from_guests_are_read() {
        let to = |text: &str| GuestTarget::Tcp(text.parse().unwrap());
        for (text, expected) in [
            ("tcp:10.0.2.100:1234-tcp:10.10.1.1:4321", forward(Some("10.0.2.100"), 1234, to("10.10.1.1:4321"))),
            (":10.0.2.100:1234-tcp:[2001:db8::1]:4321", forward(Some("10.0.2.100"), 1234, to("[2001:db8::1]:4321"))),
            ("tcp::0x50-tcp:localhost:8080", forward(None, 80, to("127.0.0.1:8080"))),
            ("tcp:[fec0::4]:80-unix:/run/a-b:c", forward(Some("fec0::4"), 80, GuestTarget::Unix("/run/a-b:c".into()))),
            ("::7-cmd:/bin/cat", forward(None, 7, command("/bin/cat"))),
            ("tcp::7-cmd:a -b --c 'd:e' | f", forward(None, 7, command("a -b --c 'd:e' | f"))),
            ("tcp:10.0.2.4:7-cmd:netcat 10.10.1.1 4321", forward(Some("10.0.2.4"), 7, command("netcat 10.10.1.1 4321"))),
        ] {
            assert_eq!(text.parse(), Ok(expected.clone()), "{text}");
            assert_eq!(expected.to_string().parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_refused_for_the_right_reason() {
        use GuestForwardError as E;
        let address = |text: &str| E::Address(text.to_owned());
        let port = |text: &str| E::Port(text.to_owned());
        let target = |text: &str| E::Target(text.to_owned());
        for (text, reason) in [
            ("", E::NoPort),
            ("tcp", E::NoPort),
            ("tcp:80-cmd:cat", E::Address("80-cmd".to_owned())),
            ("udp::80-cmd:cat", E::Protocol("udp".to_owned())),
            ("tcp::80", E::NoTarget),
            ("tcp::0-cmd:cat", port("0")),
            ("tcp::65536-cmd:cat", port("65536")),
            ("tcp:guest:80-cmd:cat", address("guest")),
            ("tcp::80-", target("")),
            ("tcp::80-cat", target("cat")),
            ("tcp::80-cmd:", E::NoCommand),
            ("tcp::80-cmd: ", E::NoCommand),
            ("tcp::80-cmd:a\0b", E::Nul),
            ("tcp::80-unix:", E::NoPath),
            ("tcp::80-tcp:", port("")),
            ("tcp::80-tcp::80", address("")),
            ("tcp::80-tcp:127.0.0.1", port("127.0.0.1")),
            ("tcp::80-tcp:127.0.0.1:0", port("0")),
            ("tcp::80-tcp:example.org:80", E::Name("example.org".to_owned())),
            ("tcp::80-tcp:0.0.0.0:80", E::Nobody("0.0.0.0".parse().unwrap())),
            ("tcp::80-hook:x", E::Hook),
        ] {
            assert_eq!(text.parse::<GuestForward>(), Err(reason), "{text}");
        }
        let long = format!("tcp::80-unix:/{}", "x".repeat(107));
        assert_eq!(long.parse::<GuestForward>(), Err(E::LongPath(108)));
    }

    #[test]
    fn a_device_of_qemus_is_told_what_does_the_same() {
        for (device, instead) in [
            ("chardev:c0", "write its target itself"),
            ("telnet:127.0.0.1:23", "write tcp:ADDR:PORT"),
            ("udp:127.0.0.1:53", "UDP:ADDR:PORT"),
            ("file:/tmp/x", "exec cat >> PATH"),
            ("pipe:/tmp/x", "PATH.out"),
            ("/dev/ttyS0", "socat - PATH"),
            ("null", "/dev/null"),
            ("pty", "unix:PATH"),
            ("stdio", "unix:PATH"),
        ] {
            let error = format!("tcp::80-{device}").parse::<GuestForward>().unwrap_err();
            assert!(matches!(error, GuestForwardError::Device { .. }), "{device}: {error}");
            assert!(error.to_string().contains(instead), "{device}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_much(text in r"(tcp)?:[\[\]0-9a-f.:]{0,20}:[0-9]{1,5}-(tcp:|unix:|cmd:|pty)[\[\]0-9a-z./: -]{0,20}") {
            if let Ok(forward) = text.parse::<GuestForward>() {
                prop_assert_eq!(forward.to_string().parse(), Ok(forward));
            }
        }
    }
}
