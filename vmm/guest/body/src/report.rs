//! What the guest has seen, one line each: `probe: lease address=10.0.2.15/24 router=10.0.2.2 dns=10.0.2.3 us=312`.
//!
//! The guest writes lines with `Display`; who watches its serial port reads them with [`Report::parse`]. Lines of anybody else are
//! recognised by what they begin with, and skipped. All times are in microseconds.

use core::fmt;
use core::net::Ipv4Addr;
use core::str::FromStr;

/// What every line begins with.
const PREFIX: &str = "probe: ";

/// Something that the guest has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report<'a> {
    /// The card is in use.
    Ready {
        /// The driver's name.
        nic: &'a str,
        /// The card's address.
        mac: Mac,
        /// Time since the guest's first instruction.
        micros: u64,
    },
    /// DHCP has answered.
    Lease {
        /// The guest's address.
        address: Ipv4Addr,
        /// The length of its network's prefix.
        prefix: u8,
        /// The default router.
        router: Option<Ipv4Addr>,
        /// The first DNS server.
        dns: Option<Ipv4Addr>,
        /// Time from the first DISCOVER.
        micros: u64,
    },
    /// An echo came back.
    Ping {
        /// From whom.
        to: Ipv4Addr,
        /// The round trip.
        micros: u64,
    },
    /// A name has an address.
    Name {
        /// The name.
        name: &'a str,
        /// Its first address.
        address: Ipv4Addr,
        /// Time from question to answer.
        micros: u64,
    },
    /// Bytes went to a server, which has confirmed their checksum.
    Up(Moved),
    /// Bytes came from a server, with the checksum that it announced.
    Down(Moved),
    /// The guest listens.
    Serving {
        /// The TCP port.
        port: u16,
    },
    /// The client of [`Report::Serving`] has got everything back that it sent.
    Served(Moved),
    /// How many interrupts the guest took, if it waits for them.
    Interrupts {
        /// All of them, those of its own timer included.
        count: u64,
        /// Those of the card.
        nic: u64,
    },
    /// A step did not succeed; the guest goes on to its end.
    Failed {
        /// The step.
        step: &'a str,
        /// What happened.
        why: &'a str,
    },
    /// The guest has run into an exception.
    Fault {
        /// The exception's number.
        vector: u64,
        /// Where.
        rip: u64,
        /// Its error code.
        code: u64,
        /// The address that could not be reached, if it is a page fault.
        address: u64,
    },
    /// Everything was tried.
    Done,
}

/// A finished transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Bytes of payload.
    pub bytes: u64,
    /// Time from the first byte until the other end has confirmed the last.
    pub micros: u64,
    /// Both ends' [checksum](crate::data::Checksum).
    pub checksum: u64,
}

impl Moved {
    /// Megabytes (10^6) a second.
    pub const fn megabytes_per_second(&self) -> u64 {
        self.bytes / if self.micros == 0 { 1 } else { self.micros }
    }
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        match self {
            Self::Ready { nic, mac, micros } => write!(f, "ready nic={nic} mac={mac} us={micros}"),
            Self::Lease { address, prefix, router, dns, micros } => {
                write!(f, "lease address={address}/{prefix}")?;
                if let Some(router) = router {
                    write!(f, " router={router}")?;
                }
                if let Some(dns) = dns {
                    write!(f, " dns={dns}")?;
                }
                write!(f, " us={micros}")
            }
            Self::Ping { to, micros } => write!(f, "ping to={to} us={micros}"),
            Self::Name { name, address, micros } => write!(f, "name name={name} address={address} us={micros}"),
            Self::Up(moved) => write!(f, "up {moved}"),
            Self::Down(moved) => write!(f, "down {moved}"),
            Self::Serving { port } => write!(f, "serving port={port}"),
            Self::Served(moved) => write!(f, "served {moved}"),
            Self::Interrupts { count, nic } => write!(f, "interrupts count={count} nic={nic}"),
            Self::Failed { step, why } => write!(f, "failed step={step} why={why}"),
            Self::Fault { vector, rip, code, address } => {
                write!(f, "fault vector={vector} rip={rip:#x} code={code:#x} address={address:#x}")
            }
            Self::Done => f.write_str("done"),
        }
    }
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes={} us={} checksum={:#018x}", self.bytes, self.micros, self.checksum)
    }
}

impl<'a> Report<'a> {
    /// The meaning of a line; `None` if it is none of this guest's.
    pub fn parse(line: &'a str) -> Option<Self> {
        // What was written before the guest began may not have ended its line.
        let start = line.find(PREFIX)? + PREFIX.len();
        let line = line[start..].trim_end();
        let (kind, fields) = line.split_once(' ').unwrap_or((line, ""));
        let fields = Fields(fields);
        Some(match kind {
            "ready" => Self::Ready { nic: fields.text("nic")?, mac: fields.mac("mac")?, micros: fields.value("us")? },
            "lease" => {
                let (address, prefix) = fields.text("address")?.split_once('/')?;
                Self::Lease {
                    address: address.parse().ok()?,
                    prefix: prefix.parse().ok()?,
                    router: fields.value("router"),
                    dns: fields.value("dns"),
                    micros: fields.value("us")?,
                }
            }
            "ping" => Self::Ping { to: fields.value("to")?, micros: fields.value("us")? },
            "name" => Self::Name { name: fields.text("name")?, address: fields.value("address")?, micros: fields.value("us")? },
            "up" => Self::Up(fields.moved()?),
            "down" => Self::Down(fields.moved()?),
            "serving" => Self::Serving { port: fields.value("port")? },
            "served" => Self::Served(fields.moved()?),
            "interrupts" => Self::Interrupts { count: fields.value("count")?, nic: fields.value("nic")? },
            "failed" => {
                let (_, why) = line.split_once(" why=")?;
                Self::Failed { step: fields.text("step")?, why }
            }
            "fault" => Self::Fault {
                vector: fields.value("vector")?,
                rip: fields.hexadecimal("rip")?,
                code: fields.hexadecimal("code")?,
                address: fields.hexadecimal("address")?,
            },
            "done" => Self::Done,
            _ => return None,
        })
    }
}

/// `key=value` pairs between spaces.
struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    fn text(&self, key: &str) -> Option<&'a str> {
        self.0.split(' ').find_map(|field| field.strip_prefix(key)?.strip_prefix('='))
    }

    fn value<T: FromStr>(&self, key: &str) -> Option<T> {
        self.text(key)?.parse().ok()
    }

    fn hexadecimal(&self, key: &str) -> Option<u64> {
        u64::from_str_radix(self.text(key)?.strip_prefix("0x")?, 16).ok()
    }

    fn mac(&self, key: &str) -> Option<Mac> {
        let mut parts = self.text(key)?.split(':');
        let mut mac = [0; 6];
        for byte in &mut mac {
            *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
        }
        parts.next().is_none().then_some(Mac(mac))
    }

    fn moved(&self) -> Option<Moved> {
        Some(Moved { bytes: self.value("bytes")?, micros: self.value("us")?, checksum: self.hexadecimal("checksum")? })
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn every_line_is_read_back_as_it_was_written() {
        let address = Ipv4Addr::new(10, 0, 2, 15);
        let moved = Moved { bytes: 1 << 30, micros: 1_234_567, checksum: 0x0123_4567_89ab_cdef };
        let reports = [
            Report::Ready { nic: "e1000", mac: Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]), micros: 999 },
            Report::Lease { address, prefix: 24, router: Some(address), dns: None, micros: 1 },
            Report::Lease { address, prefix: 8, router: None, dns: Some(address), micros: 1 },
            Report::Ping { to: address, micros: 77 },
            Report::Name { name: "a.example", address, micros: 0 },
            Report::Up(moved),
            Report::Down(Moved { checksum: 0, ..moved }),
            Report::Serving { port: 7 },
            Report::Served(moved),
            Report::Interrupts { count: 12, nic: 10 },
            Report::Failed { step: "up", why: "the server has reset it: step=down why=nothing" },
            Report::Fault { vector: 14, rip: 0x10_0000, code: 6, address: u64::MAX },
            Report::Done,
        ];
        for report in reports {
            assert_eq!(Report::parse(&report.to_string()), Some(report));
            assert_eq!(Report::parse(&format!("Booting from ROM..{report}\r\n")), Some(report));
        }
    }

    #[test]
    fn other_lines_mean_nothing() {
        for line in [
            "",
            "SeaBIOS (version 1.16)",
            "probe: ",
            "probe: dance",
            "probe: ping to=10.0.2.2",
            "probe: up bytes=x us=1 checksum=0x0",
        ] {
            assert_eq!(Report::parse(line), None, "{line}");
        }
    }
}
