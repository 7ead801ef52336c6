//! A DHCP client (RFC 2131) that asks once: enough to see a real server give a real lease to an interface without an address.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::addr::MacAddr;
use dhcproto::v4::{
    CLIENT_PORT, Decodable, Decoder, DhcpOption, Encodable, Encoder, Flags, Message, MessageType, OptionCode, SERVER_PORT,
};
use socket2::{Domain, Protocol, Socket, Type};

/// How long the first question waits for its answer; each further one waits twice as long (section 4.1).
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// How often a question is asked.
const ATTEMPTS: u32 = 5;

/// What the server has given.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    pub(crate) address: Ipv4Addr,
    pub(crate) mask: Ipv4Addr,
    pub(crate) router: Ipv4Addr,
    pub(crate) dns: Ipv4Addr,
    /// Option 26, if told.
    pub(crate) mtu: Option<u16>,
    pub(crate) time: Duration,
}

/// Asks for a lease on an interface that is up and has no address, in the name of `hostname`.
///
/// # Errors
///
/// A sentence about what was missing.
pub(crate) fn lease(interface: &str, mac: MacAddr, hostname: &str) -> Result<Lease, String> {
    let client = Client::open(interface, mac, hostname).map_err(|err| format!("no socket for DHCP: {err}"))?;
    let offer = client.ask(&client.message(MessageType::Discover), MessageType::Offer)?;
    let server = match offer.opts().get(OptionCode::ServerIdentifier) {
        Some(DhcpOption::ServerIdentifier(server)) => *server,
        _ => return Err("the offer names no server".to_owned()),
    };
    let mut request = client.message(MessageType::Request);
    request.opts_mut().insert(DhcpOption::RequestedIpAddress(offer.yiaddr()));
    request.opts_mut().insert(DhcpOption::ServerIdentifier(server));
    let ack = client.ask(&request, MessageType::Ack)?;
    if ack.yiaddr() != offer.yiaddr() {
        return Err(format!("{} was offered but {} acknowledged", offer.yiaddr(), ack.yiaddr()));
    }
    read(&ack)
}

fn read(ack: &Message) -> Result<Lease, String> {
    let options = ack.opts();
    let missing = |what: &str| format!("the acknowledgement tells no {what}");
    let Some(DhcpOption::SubnetMask(mask)) = options.get(OptionCode::SubnetMask) else { return Err(missing("subnet mask")) };
    let router = match options.get(OptionCode::Router) {
        Some(DhcpOption::Router(routers)) => routers.first().copied(),
        _ => None,
    };
    let dns = match options.get(OptionCode::DomainNameServer) {
        Some(DhcpOption::DomainNameServer(servers)) => servers.first().copied(),
        _ => None,
    };
    let mtu = match options.get(OptionCode::InterfaceMtu) {
        Some(DhcpOption::InterfaceMtu(mtu)) => Some(*mtu),
        _ => None,
    };
    let Some(DhcpOption::AddressLeaseTime(time)) = options.get(OptionCode::AddressLeaseTime) else {
        return Err(missing("lease time"));
    };
    Ok(Lease {
        address: ack.yiaddr(),
        mask: *mask,
        router: router.ok_or_else(|| missing("router"))?,
        dns: dns.ok_or_else(|| missing("DNS server"))?,
        mtu,
        time: Duration::from_secs((*time).into()),
    })
}

struct Client {
    socket: UdpSocket,
    mac: MacAddr,
    hostname: String,
    transaction: u32,
}

impl Client {
    fn open(interface: &str, mac: MacAddr, hostname: &str) -> io::Result<Self> {
        // An interface without an address has no route back to the server, so a reverse-path filter would drop every answer.
        for name in ["all", interface] {
            if let Err(err) = fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0") {
                tracing::debug!(%err, name, "the reverse-path filter stays");
            }
        }
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_broadcast(true)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, CLIENT_PORT)).into())?;
        let [_, _, a, b, c, d] = mac.0;
        Ok(Self {
            socket: socket.into(),
            mac,
            hostname: hostname.to_owned(),
            transaction: u32::from_be_bytes([a, b, c, d]) ^ std::process::id(),
        })
    }

    fn message(&self, kind: MessageType) -> Message {
        let mut message = Message::default();
        // The answer must be a broadcast: the kernel takes nothing for an address that it does not have yet (section 4.1).
        message.set_xid(self.transaction).set_flags(Flags::default().set_broadcast()).set_chaddr(&self.mac.0);
        let wanted = vec![
            OptionCode::SubnetMask,
            OptionCode::Router,
            OptionCode::DomainNameServer,
            OptionCode::InterfaceMtu,
            OptionCode::AddressLeaseTime,
        ];
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::ParameterRequestList(wanted));
        options.insert(DhcpOption::Hostname(self.hostname.clone()));
        message
    }

    /// Sends `question` until an answer of the `expected` kind comes.
    fn ask(&self, question: &Message, expected: MessageType) -> Result<Message, String> {
        let mut packet = Vec::new();
        question.encode(&mut Encoder::new(&mut packet)).map_err(|err| format!("the question cannot be encoded: {err}"))?;
        let network = |err: io::Error| format!("the interface does not work: {err}");
        for attempt in 0..ATTEMPTS {
            self.socket.send_to(&packet, (Ipv4Addr::BROADCAST, SERVER_PORT)).map_err(network)?;
            let deadline = Instant::now() + FIRST_WAIT * 2_u32.pow(attempt);
            while let Some(message) = self.receive(deadline).map_err(network)? {
                match message.opts().msg_type() {
                    Some(kind) if kind == expected => return Ok(message),
                    Some(MessageType::Nak) => return Err("the server has refused".to_owned()),
                    _ => {}
                }
            }
        }
        Err(format!("no {expected:?} has come after {ATTEMPTS} questions"))
    }

    /// The next answer to us, or `None` at the deadline.
    fn receive(&self, deadline: Instant) -> io::Result<Option<Message>> {
        let mut buffer = [0; 1500];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            let len = match self.socket.recv(&mut buffer) {
                Err(err) if matches!(err.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => continue,
                received => received?,
            };
            match Message::decode(&mut Decoder::new(&buffer[..len])) {
                Ok(message) if message.xid() == self.transaction => return Ok(Some(message)),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(options: Vec<DhcpOption>) -> Message {
        let mut message = Message::default();
        message.set_yiaddr([10, 0, 2, 15]);
        for option in options {
            message.opts_mut().insert(option);
        }
        message
    }

    #[test]
    fn an_acknowledgement_becomes_a_lease() {
        let lease = read(&ack(vec![
            DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
            DhcpOption::Router(vec![Ipv4Addr::new(10, 0, 2, 2)]),
            DhcpOption::DomainNameServer(vec![Ipv4Addr::new(10, 0, 2, 3)]),
            DhcpOption::AddressLeaseTime(86_400),
        ]))
        .unwrap();
        assert_eq!((lease.address, lease.router, lease.mtu), (Ipv4Addr::new(10, 0, 2, 15), Ipv4Addr::new(10, 0, 2, 2), None));
    }

    #[test]
    fn an_acknowledgement_without_a_mask_is_no_lease() {
        assert_eq!(read(&ack(Vec::new())).unwrap_err(), "the acknowledgement tells no subnet mask");
    }
}
