//! The single steps of the demo's guest: each does one thing as a program of a user would, and says what it saw.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;

use super::dhcp::{self, Lease};
use super::dns::{self, Transport};
use super::guest::Plan;
use super::{HOSTNAME, ping as icmp, transfer};
use crate::program::engine::runtime;
use crate::program::failure::{Failure, plain};
use crate::program::interface::{Addresses, Interface, Netlink};

/// How long anything may stand still.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a router advertisement may take: the kernel asks for one up to three times, 4 s apart (RFC 4861 section 6.3.7).
const ADVERTISEMENT: Duration = Duration::from_secs(14);

/// How often the kernel is asked whether there is an address by now.
const LOOK: Duration = Duration::from_millis(50);

/// How many echo requests a ping is.
const PINGS: u16 = 4;

/// What a step comes to: what was seen, or what was not.
pub(crate) type Seen = Result<String, Trouble>;

/// Why a step has not passed.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Something was seen that ought not to be.
    Wrong(String),
    /// It could not be tried.
    Lacking(String),
}

impl From<String> for Trouble {
    fn from(what: String) -> Self {
        Self::Wrong(what)
    }
}

impl From<io::Error> for Trouble {
    fn from(err: io::Error) -> Self {
        Self::Wrong(plain(&err.to_string()))
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Wrong(failure.to_string())
    }
}

/// Gets a lease for an interface that has no address, and makes it the interface's.
pub(crate) fn lease(plan: &Plan) -> Result<(String, Lease), Trouble> {
    let runtime = runtime()?;
    let interface = runtime.block_on(async { Netlink::open()?.find(plan.interface).await })?;
    let lease = dhcp::lease(plan.interface, interface.mac, HOSTNAME)?;
    let net = Ipv4Net::with_netmask(lease.address, lease.mask).map_err(|_| format!("{} is no subnet mask", lease.mask))?;
    if lease.address != plan.expected {
        return Err(format!("the lease is for {}, not for {}", lease.address, plan.expected).into());
    }
    if lease.mtu.is_some_and(|mtu| mtu != plan.mtu) {
        return Err(format!("the lease says that the MTU is {:?}, not {}", lease.mtu, plan.mtu).into());
    }
    runtime.block_on(assign(&interface, Addresses { ipv4: Some((net, lease.router)), ipv6: None }))?;
    let seen = format!(
        "{net} for {} h, router {}, DNS {}, MTU {}",
        lease.time.as_secs() / 3600,
        lease.router,
        lease.dns,
        lease.mtu.map_or_else(|| "untold".to_owned(), |mtu| mtu.to_string())
    );
    Ok((seen, lease))
}

async fn assign(interface: &Interface, addresses: Addresses) -> Result<(), Failure> {
    Netlink::open()?.assign(interface, &addresses).await
}

/// Pings four times.
pub(crate) fn ping(to: IpAddr) -> Seen {
    let times = match icmp::ping(to, PINGS) {
        Err(err) if err.kind() == io::ErrorKind::PermissionDenied => {
            return Err(Trouble::Lacking("/proc/sys is read-only here, so that ping_group_range cannot allow it".to_owned()));
        }
        times => times?,
    };
    let millis: Vec<_> = times.iter().map(|time| format!("{:.2}", time.as_secs_f64() * 1e3)).collect();
    Ok(format!("{} answers from {to} after {} ms", times.len(), millis.join(", ")))
}

/// Resolves the names of the host, of the gateway and of the guest itself.
pub(crate) fn resolve(lease: &Lease, transport: Transport) -> Seen {
    let server = SocketAddr::from((lease.dns, 53));
    let mut seen = Vec::new();
    for (host, expected) in [("host", lease.router), ("gateway", lease.router), (HOSTNAME, lease.address)] {
        let name = format!("{host}.slipway.internal");
        let addresses = dns::resolve(server, &name, transport)?;
        if addresses != [expected] {
            return Err(format!("{name} is {addresses:?}, not {expected}").into());
        }
        seen.push(format!("{name} is {expected}"));
    }
    Ok(seen.join(", "))
}

/// Downloads `size` bytes.
pub(crate) fn download(from: SocketAddr, size: u64, progress: &mut dyn FnMut(u64)) -> Seen {
    transferred(size, || transfer::download(&mut connect(from)?, size, progress))
}

/// Uploads `size` bytes.
pub(crate) fn upload(to: SocketAddr, size: u64, progress: &mut dyn FnMut(u64)) -> Seen {
    transferred(size, || transfer::upload(&mut connect(to)?, size, progress))
}

fn transferred(size: u64, transfer: impl FnOnce() -> io::Result<(u64, u64)>) -> Seen {
    let started = Instant::now();
    let (ours, theirs) = transfer()?;
    let seconds = started.elapsed().as_secs_f64();
    if ours != theirs {
        return Err(format!("the checksums differ: {ours:016x} here, {theirs:016x} there").into());
    }
    let rate = size as f64 * 8e-9 / seconds;
    Ok(format!("{} MiB in {seconds:.2} s, {rate:.2} Gbit/s, checksum {ours:016x} on both ends", size >> 20))
}

/// Closes one half of a connection and still receives on the other.
pub(crate) fn half_close(to: SocketAddr) -> Seen {
    let mut stream = connect(to)?;
    let message = b"said before the end of our half";
    stream.write_all(message)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer != message {
        return Err(format!("{} of {} bytes came back", answer.len(), message.len()).into());
    }
    Ok("the server answered after our end of stream, then closed its half".to_owned())
}

/// Connects to where nobody listens.
pub(crate) fn refused(to: SocketAddr) -> Seen {
    let started = Instant::now();
    match TcpStream::connect_timeout(&to, PATIENCE) {
        Ok(_) => Err(format!("somebody listens on {to}").into()),
        Err(err) if err.kind() == io::ErrorKind::ConnectionRefused => {
            Ok(format!("{to} refused after {:.2} ms", started.elapsed().as_secs_f64() * 1e3))
        }
        Err(err) => Err(format!("instead of a refusal: {}", plain(&err.to_string())).into()),
    }
}

/// Sends datagrams of several sizes, up to a few fragments, and gets every one back.
pub(crate) fn echo(to: SocketAddr, mtu: u16) -> Seen {
    let largest = (usize::from(mtu) - 28).min(9000);
    let sizes = [0, 1, 512, largest];
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    echo_all(&socket, &sizes)?;
    let sizes = sizes.map(|size| size.to_string()).join(", ");
    Ok(format!("datagrams of {sizes} bytes came back from {to}"))
}

/// Sends one datagram of each size and expects it back.
pub(crate) fn echo_all(socket: &UdpSocket, sizes: &[usize]) -> io::Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    for &size in sizes {
        let sent: Vec<u8> = (0..size).map(|i| i as u8).collect();
        socket.send(&sent)?;
        let mut buffer = vec![0; size + 1];
        let len = socket.recv(&mut buffer)?;
        if buffer[..len] != sent {
            return Err(io::Error::other(format!("a datagram of {size} bytes came back as another one of {len}")));
        }
    }
    Ok(())
}

/// Waits until the kernel has made itself an address from a router advertisement.
pub(crate) fn autoconfiguration(plan: &Plan) -> Seen {
    let started = Instant::now();
    loop {
        let Ok(table) = fs::read_to_string("/proc/self/net/if_inet6") else {
            return Err(Trouble::Lacking("this kernel has no IPv6".to_owned()));
        };
        let found = table
            .lines()
            .filter_map(parse_if_inet6)
            .find(|(name, address)| *name == plan.interface && plan.prefix_v6.contains(address));
        if let Some((_, address)) = found {
            return Ok(format!("{address} in {}", plan.prefix_v6));
        }
        if started.elapsed() > ADVERTISEMENT {
            return Err(format!("no address in {} within {} s", plan.prefix_v6, ADVERTISEMENT.as_secs()).into());
        }
        thread::sleep(LOOK);
    }
}

/// The interface and the address of a line of /proc/net/if_inet6, unless the address is under test or has failed it.
fn parse_if_inet6(line: &str) -> Option<(&str, Ipv6Addr)> {
    /// IFA_F_TENTATIVE and IFA_F_DADFAILED.
    const UNUSABLE: u32 = 0x40 | 0x08;
    let mut fields = line.split_whitespace();
    let address = u128::from_str_radix(fields.next()?, 16).ok()?;
    let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
    let name = fields.next()?;
    (flags & UNUSABLE == 0).then_some((name, Ipv6Addr::from_bits(address)))
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_under_test_is_none_yet() {
        let line = |flags| format!("fec000000000000050540000fe123456 02 40 00 {flags}     tap0");
        let usable = line("00");
        assert_eq!(parse_if_inet6(&usable), Some(("tap0", "fec0::5054:0:fe12:3456".parse().unwrap())));
        assert_eq!(parse_if_inet6(&line("40")), None);
        assert_eq!(parse_if_inet6("nonsense"), None);
    }
}
