//! The options of QEMU's `-netdev user,...`, as text, to a [`Config`].
//!
//! What users of QEMU write works here with the same meaning, down to the networks that QEMU guesses and how the other addresses follow
//! the network. To that come options of our own, and forwards of ranges and of IPv6 addresses. Three rules hold:
//!
//! - No option is ignored (`id=` alone has no effect, here as there).
//! - An error names the option, the value, what is wrong with it and what to write instead.
//! - What the options say together is checked before anything of it takes effect.

pub(crate) mod check;
pub(crate) mod forward;
mod guest_forward;
mod net;
mod smb;
mod split;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::Ipv4Net;

use super::{Config, GuestForward, HostForward};
use crate::addr::MacAddr;

pub use forward::ForwardError;
pub use guest_forward::GuestForwardError;
pub use split::options as split_options;

/// Every option, for `--help`.
pub const HELP: &str = "\
OPTS is a list of NAME=VALUE, separated by commas (`,,` stands for a comma in a value). A switch is on or off; its name alone means on.

Network
  ipv4=on|off, ipv6=on|off     both on; one of them `on` alone turns the other off
  net=ADDR[/LEN|/MASK]         IPv4 network [10.0.2.0/24]; host, dns and dhcpstart move with it
  host=ADDR                    the gateway, which is the host's loopback address too [net + 2]
  dns=ADDR                     the DNS server [net + 3]
  dhcpstart=ADDR               the first address that DHCP leases [net + 15]
  ip=ADDR                      old form of net=ADDR/24
  ipv6-net=ADDR[/LEN]          IPv6 prefix [fec0::/64, of a kind out of use: better one of your own from fd00::/8]; also
                               ipv6-prefix=ADDR, ipv6-prefixlen=LEN. With other than 64 bits guests need DHCPv6
  ipv6-host=ADDR               the gateway [prefix::2]
  ipv6-dns=ADDR                the DNS server [prefix::3]
  ipv6-dhcpstart=ADDR          the first address that DHCPv6 leases [prefix::15] *
  ipv6-managed=on|off          tell guests to ask DHCPv6 for an address, beside their own [on] *
  mtu=BYTES                    largest IP packet: 68 to 65520, at least 1280 with IPv6 [1500] *
  restrict=on|off              keep guests from everything but the virtual hosts and forwards [off]
  host-loopback=on|off         whether the gateway leads to the host's loopback [on] *
                               (disable-host-loopback=on is the same as host-loopback=off)
  full-cone=on|off             let anyone answer to a UDP port that a guest uses [off] *

Forwards to guests (repeatable)
  hostfwd=[tcp|udp]:[HOSTADDR]:PORT[-LAST]-[GUESTADDR]:PORT
                               e.g. hostfwd=tcp:127.0.0.1:2222-:22, hostfwd=udp::6000-6010-10.0.2.20:6000 *,
                               hostfwd=tcp:[::1]:8080-[fec0::15]:80 *, hostfwd=tcp:%eth0:80-:80 * (by one interface only);
                               no HOSTADDR is 0.0.0.0, no GUESTADDR is dhcpstart, PORT 0 of the host is any free one
  hostfwd=unix:PATH-[GUESTADDR]:PORT
                               the same from a UNIX socket, e.g. hostfwd=unix:/run/user/1000/ssh.sock-:22

Servers for guests, for restricted ones too
  guestfwd=[tcp]:[SERVER]:PORT-TARGET
                               what guests reach at PORT of SERVER [net + 4] (repeatable); TARGET is one of
                               tcp:ADDR:PORT, unix:PATH *, cmd:COMMAND (by /bin/sh -c, for each connection)
  smb=DIR                      share a directory by SMB, as \\\\10.0.2.4\\qemu; needs smbd (package samba)
  smbserver=ADDR               the SMB server's address [net + 4]; without smb= it refuses everybody
  smb-min-protocol=NAME        the oldest dialect to speak, such as NT1 or SMB3_00 [smbd's own] *

DHCP and DNS
  hostname=NAME                the guests' host name
  domainname=NAME              their domain
  dnssearch=NAME               a domain to search (repeatable)
  lease=MAC/ADDR               an address that is kept for a guest (repeatable) *
  lease-time=SECONDS           how long a lease lasts [86400] *
  ntp=ADDR                     a time server (repeatable) *
  route=NET/LEN[:VIA]          a route for the guests [via the gateway] (repeatable) *
  dns-server=ADDR[:PORT]       ask this server instead of those in resolv.conf (repeatable) *

Booting from the network
  tftp=DIR                     serve the files of this directory by TFTP on the gateway, to guests only
  http=DIR                     likewise by HTTP, at port 80 of the gateway *
  bootfile=NAME                the file to boot, or a URL, such as http://10.0.2.2/boot.efi
  tftp-server-name=NAME        the server to boot from [the gateway]

Others
  id=NAME                      accepted, without effect
  * not in QEMU";

/// The names that a mistyped one is compared with.
const NAMES: [&str; 37] = [
    "bootfile",
    "disable-host-loopback",
    "dhcpstart",
    "dns",
    "dns-server",
    "dnssearch",
    "domainname",
    "full-cone",
    "guestfwd",
    "host",
    "host-loopback",
    "hostfwd",
    "hostname",
    "http",
    "id",
    "ip",
    "ipv4",
    "ipv6",
    "ipv6-dhcpstart",
    "ipv6-dns",
    "ipv6-host",
    "ipv6-managed",
    "ipv6-net",
    "ipv6-prefix",
    "ipv6-prefixlen",
    "lease",
    "lease-time",
    "mtu",
    "net",
    "ntp",
    "restrict",
    "route",
    "smb",
    "smb-min-protocol",
    "smbserver",
    "tftp",
    "tftp-server-name",
];

/// A mistake in the options.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// There is no such option.
    #[error("`{name}` is not an option of the user network{}", did_you_mean(.nearest))]
    Unknown {
        /// What was written.
        name: String,
        /// The option that was probably meant.
        nearest: Option<&'static str>,
    },
    /// An option without its value.
    #[error("`{option}` needs a value: write {write}")]
    NoValue {
        /// The option.
        option: &'static str,
        /// A form or an example that is right.
        write: String,
    },
    /// A value that is wrong, by itself or together with others.
    #[error("`{option}={value}`: {why}; write {write}")]
    Invalid {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is wrong.
        why: String,
        /// What to write instead.
        write: String,
    },
}

fn did_you_mean(nearest: &Option<&'static str>) -> String {
    match nearest {
        Some(name) => format!(": did you mean `{name}`?"),
        None => ": `--help` lists them".to_owned(),
    }
}

/// An [`OptionError::Invalid`].
fn invalid(
    option: &'static str,
    value: &(impl ToString + ?Sized),
    why: impl Into<String>,
    write: impl Into<String>,
) -> OptionError {
    OptionError::Invalid { option, value: value.to_string(), why: why.into(), write: write.into() }
}

/// Reads options, on top of the defaults. An empty text is the defaults.
///
/// ```
/// let config = netstack::config::qemu::parse("net=192.168.76.0/24,hostfwd=tcp::2222-:22").unwrap();
/// assert_eq!(config.ipv4.unwrap().gateway.to_string(), "192.168.76.2");
/// ```
///
/// # Errors
///
/// The first mistake in the text.
pub fn parse(text: &str) -> Result<Config, OptionError> {
    let mut config = Config::default();
    apply(&mut config, text)?;
    Ok(config)
}

/// Changes what the options in `text` say, and leaves the rest of `config` as it is. Repeatable options add to what is there. A later
/// option overrides an earlier one of the same name.
///
/// # Errors
///
/// The first mistake in the text; `config` is unchanged then.
pub fn apply(config: &mut Config, text: &str) -> Result<(), OptionError> {
    let mut changed = config.clone();
    let mut networks = net::Networks::default();
    let mut smb = smb::Smb::default();
    let mut routes = Vec::new();
    for (at, (name, value)) in split::options(text).into_iter().enumerate() {
        // What follows `-netdev` is easily copied whole.
        if at == 0 && name == "user" && value.is_none() {
            continue;
        }
        let option = Given { name: &name, value: value.as_deref() };
        if !networks.take(&option)? && !smb.take(&option)? && !routing(&mut routes, &option)? {
            set(&mut changed, &option)?;
        }
    }
    networks.settle(&mut changed)?;
    smb.settle(&mut changed)?;
    let gateway = changed.ipv4.as_ref().map(|ipv4| ipv4.gateway);
    for (text, net, via) in routes {
        let via = via.or(gateway).ok_or_else(|| invalid("route", &text, "IPv4 is off", "ipv4=on as well"))?;
        changed.dhcp.routes.push((net, via));
    }
    check::check(&changed)?;
    *config = changed;
    Ok(())
}

/// An option as it was written.
#[derive(Debug, Clone, Copy)]
struct Given<'a> {
    name: &'a str,
    value: Option<&'a str>,
}

impl<'a> Given<'a> {
    /// The value, which must not be missing or empty.
    fn text(&self, option: &'static str, write: &str) -> Result<&'a str, OptionError> {
        let value = self.value.filter(|value| !value.is_empty());
        value.ok_or_else(|| OptionError::NoValue { option, write: format!("{option}={write}") })
    }

    /// The value as a `T`; `what` says what it is not if it is not.
    fn parsed<T: FromStr>(&self, option: &'static str, what: &str, example: &str) -> Result<T, OptionError> {
        let text = self.text(option, example)?;
        text.parse().map_err(|_| invalid(option, text, format!("this is not {what}"), format!("{option}={example}")))
    }

    /// The value as a switch, in every spelling that QEMU knows. The name alone means on.
    fn switch(&self, option: &'static str) -> Result<bool, OptionError> {
        match self.value {
            None | Some("on" | "yes" | "true" | "y") => Ok(true),
            Some("off" | "no" | "false" | "n") => Ok(false),
            Some(other) => Err(invalid(option, other, "this is neither on nor off", format!("{option}=on or {option}=off"))),
        }
    }

    /// The value as a text of at most `longest` bytes.
    fn short(&self, option: &'static str, example: &str, longest: usize) -> Result<String, OptionError> {
        let text = self.text(option, example)?;
        if text.len() <= longest {
            return Ok(text.to_owned());
        }
        Err(invalid(option, text, format!("DHCP has room for {longest} bytes and this has {}", text.len()), "a shorter name"))
    }

    /// The value as a domain name: labels of letters, digits, hyphens and underscores (RFC 1035 section 2.3.4).
    fn domain(&self, option: &'static str, example: &str) -> Result<String, OptionError> {
        let text = self.text(option, example)?;
        let name = text.strip_suffix('.').unwrap_or(text);
        let sound = |label: &str| {
            matches!(label.len(), 1..=63) && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if name.len() <= 253 && name.split('.').all(sound) {
            return Ok(name.to_owned());
        }
        let why =
            "this is not a domain name: it has up to 253 characters, in parts of 1 to 63 letters, digits and hyphens between dots";
        Err(invalid(option, text, why, format!("{option}={example}")))
    }
}

/// Sets what needs nothing but its own value.
fn set(config: &mut Config, given: &Given<'_>) -> Result<(), OptionError> {
    let dhcp = &mut config.dhcp;
    match given.name {
        "id" => _ = given.text("id", "net0")?,
        "mtu" => config.mtu = given.parsed("mtu", "a number of bytes from 68 to 65520", "1500")?,
        "restrict" => config.restrict = given.switch("restrict")?,
        "host-loopback" => config.host_loopback = given.switch("host-loopback")?,
        "disable-host-loopback" => config.host_loopback = !given.switch("disable-host-loopback")?,
        "full-cone" => config.full_cone = given.switch("full-cone")?,
        "hostname" => dhcp.hostname = Some(given.domain("hostname", "guest")?),
        "domainname" => dhcp.domain_name = Some(given.domain("domainname", "example.org")?),
        "dnssearch" => dhcp.search.push(given.domain("dnssearch", "example.org")?),
        "tftp-server-name" => dhcp.tftp_server_name = Some(given.short("tftp-server-name", "10.0.2.2", 255)?),
        "tftp" => config.boot.tftp_root = Some(given.text("tftp", "/srv/tftp")?.into()),
        "http" => config.boot.http_root = Some(given.text("http", "/srv/http")?.into()),
        "bootfile" => dhcp.bootfile = Some(given.short("bootfile", "pxelinux.0", 255)?),
        "ntp" => dhcp.ntp.push(given.parsed("ntp", "an IP address", "10.0.2.2")?),
        "lease-time" => dhcp.lease_time = lease_time(given)?,
        "lease" => dhcp.static_leases.push(lease(given)?),
        "dns-server" => config.dns.servers.push(dns_server(given)?),
        "hostfwd" => config.host_forwards.push(host_forward(given)?),
        "guestfwd" => config.guest_forwards.push(guest_forward(given)?),
        name => return Err(unknown(name)),
    }
    Ok(())
}

/// Takes a `route=NET/LEN[:VIA]`. Its gateway may be named by an option that follows.
fn routing(routes: &mut Vec<(String, Ipv4Net, Option<Ipv4Addr>)>, given: &Given<'_>) -> Result<bool, OptionError> {
    if given.name != "route" {
        return Ok(false);
    }
    let form = "10.9.0.0/16:10.0.2.20";
    let text = given.text("route", form)?;
    let wrong = |why: &str| invalid("route", text, why, format!("route={form}"));
    let (net, via) = text.split_once(':').map_or((text, None), |(net, via)| (net, Some(via)));
    let net: Ipv4Net = net.parse().map_err(|_| wrong("the destination is not an IPv4 network with its length"))?;
    let via = via.map(|via| via.parse().map_err(|_| wrong("the next hop is not an IPv4 address"))).transpose()?;
    if net != net.trunc() {
        return Err(invalid("route", text, "the destination has bits beyond its length", format!("route={}", net.trunc())));
    }
    routes.push((text.to_owned(), net, via));
    Ok(true)
}

fn lease_time(given: &Given<'_>) -> Result<Duration, OptionError> {
    let seconds: u32 = given.parsed("lease-time", "a number of seconds", "86400")?;
    if seconds < 4 {
        return Err(invalid("lease-time", &seconds, "a guest renews after half of it, and 4 s is the least", "lease-time=86400"));
    }
    Ok(Duration::from_secs(seconds.into()))
}

fn lease(given: &Given<'_>) -> Result<(MacAddr, Ipv4Addr), OptionError> {
    let form = "52:54:00:12:34:56/10.0.2.20";
    let text = given.text("lease", form)?;
    let wrong = |why: &str| invalid("lease", text, why, format!("lease={form}"));
    let (mac, address) = text.split_once('/').ok_or_else(|| wrong("there is no `/` between the MAC address and the IP address"))?;
    let mac: MacAddr = mac.parse().map_err(|_| wrong("it does not begin with a MAC address"))?;
    if !mac.is_unicast() {
        return Err(wrong("the MAC address is a group's, and a guest has one of its own"));
    }
    Ok((mac, address.parse().map_err(|_| wrong("it does not end with an IPv4 address"))?))
}

fn dns_server(given: &Given<'_>) -> Result<SocketAddr, OptionError> {
    let form = "9.9.9.9 or dns-server=[2620:fe::fe]:53";
    let text = given.text("dns-server", form)?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53)).or_else(|_| text.parse());
    match address {
        Ok(address) if address.port() != 0 && !address.ip().is_unspecified() => Ok(address),
        _ => Err(invalid(
            "dns-server",
            text,
            "this is not an IP address, with or without a port from 1 on",
            format!("dns-server={form}"),
        )),
    }
}

fn host_forward(given: &Given<'_>) -> Result<HostForward, OptionError> {
    let text = given.text("hostfwd", forward::FORM)?;
    text.parse().map_err(|error: ForwardError| invalid("hostfwd", text, error.to_string(), format!("hostfwd={}", forward::FORM)))
}

fn guest_forward(given: &Given<'_>) -> Result<GuestForward, OptionError> {
    let text = given.text("guestfwd", guest_forward::FORM)?;
    text.parse().map_err(|error: GuestForwardError| {
        // These say what to write by themselves.
        let write = if matches!(error, GuestForwardError::Device { .. }) {
            "guestfwd=[tcp]:[SERVER]:PORT-TARGET with that target".to_owned()
        } else {
            format!("guestfwd={}", guest_forward::FORM)
        };
        invalid("guestfwd", text, error.to_string(), write)
    })
}

fn unknown(name: &str) -> OptionError {
    let near = |known: &&str| distance(name, known);
    let nearest = NAMES.iter().copied().min_by_key(near).filter(|known| distance(name, known) <= 1 + known.len() / 6);
    OptionError::Unknown { name: name.to_owned(), nearest }
}

/// How many letters have to be put in, taken out or changed to make one of the other.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.bytes().enumerate() {
        let mut diagonal = at;
        let mut left = at + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, other) in row.iter_mut().skip(1).zip(other.bytes()) {
            left = (diagonal + usize::from(letter != other)).min(*cell + 1).min(left + 1);
            diagonal = std::mem::replace(cell, left);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
