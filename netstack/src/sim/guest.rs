//! A guest: smoltcp's whole stack behind an Ethernet card, and programs that use its sockets.
//!
//! It is a TCP that we have not written, so that ours is held against somebody else's reading of the RFCs.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::addr::MacAddr;
use crate::host::sim::Talk;
use crate::time::{Duration, Instant};

use super::wire::{self, Arp, Icmp};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpEndpoint};

const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 2);

/// The addresses of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Of its card.
    pub mac: MacAddr,
    /// In 10.0.2.0/24.
    pub v4: Ipv4Addr,
    /// In fec0::/64.
    pub v6: Ipv6Addr,
}

impl Addresses {
    /// Those of guest number `n`: 10.0.2.15 and fec0::15, and so on.
    pub const fn of(n: u8) -> Self {
        Self {
            mac: MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56 + n]),
            v4: Ipv4Addr::new(10, 0, 2, 15 + n),
            v6: Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0x15 + n as u16),
        }
    }

    /// The one of the family of `other`.
    pub const fn like(&self, other: IpAddr) -> IpAddr {
        match other {
            IpAddr::V4(_) => IpAddr::V4(self.v4),
            IpAddr::V6(_) => IpAddr::V6(self.v6),
        }
    }
}

/// A TCP connection of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowId(usize);

#[derive(Debug)]
struct Flow {
    socket: SocketHandle,
    outgoing: VecDeque<u8>,
    finished: bool,
    reads: bool,
    received: Vec<u8>,
    saw_end: bool,
    was_open: bool,
    talk: Option<Talk>,
    said: u64,
    heard: u64,
}

/// The guest's end of a UDP conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpId(usize);

/// A guest.
pub struct Guest {
    addresses: Addresses,
    interface: Interface,
    device: Card,
    sockets: SocketSet<'static>,
    flows: Vec<Flow>,
    udp: Vec<SocketHandle>,
    next_port: u16,
    /// Whether it sends super-frames.
    pub segments: bool,
    /// Whether it is reminded of its gateway's card before it forgets it. smoltcp forgets about a segment that it is about to send again
    /// when it has to look for its neighbour first.
    pub knows_gateway: bool,
    reminded: Option<Instant>,
    /// The size of the buffers of connections made from now on, each way.
    pub buffer: usize,
}

impl Guest {
    /// Guest number `n`, on a link of this MTU.
    pub fn new(n: u8, mtu: u16, seed: u64) -> Self {
        let addresses = Addresses::of(n);
        let mut device = Card { mtu, arrived: VecDeque::new(), sent: Vec::new() };
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(addresses.mac.0)));
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut device, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|list| {
            list.push(IpCidr::new(IpAddress::Ipv4(addresses.v4), 24)).unwrap();
            list.push(IpCidr::new(IpAddress::Ipv6(addresses.v6), 64)).unwrap();
        });
        interface.routes_mut().add_default_ipv4_route(GATEWAY_V4).unwrap();
        interface.routes_mut().add_default_ipv6_route(GATEWAY_V6).unwrap();
        let sockets = SocketSet::new(Vec::new());
        Self {
            addresses,
            interface,
            device,
            sockets,
            flows: Vec::new(),
            udp: Vec::new(),
            next_port: 49_152,
            knows_gateway: false,
            reminded: None,
            segments: false,
            buffer: 256 << 10,
        }
    }

    // ---- Programs of the guest: TCP ----

    /// Opens a connection.
    pub fn connect(&mut self, remote: SocketAddr) -> FlowId {
        let mut socket = self.new_socket();
        let local = self.next_port;
        self.next_port += 1;
        socket.connect(self.interface.context(), endpoint(remote), local).unwrap();
        self.add_flow(socket)
    }

    /// Waits for one connection at a port.
    pub fn listen(&mut self, port: u16) -> FlowId {
        let mut socket = self.new_socket();
        socket.listen(port).unwrap();
        self.add_flow(socket)
    }

    fn new_socket(&self) -> tcp::Socket<'static> {
        let mut socket =
            tcp::Socket::new(tcp::SocketBuffer::new(vec![0; self.buffer]), tcp::SocketBuffer::new(vec![0; self.buffer]));
        socket.set_nagle_enabled(false);
        socket
    }

    fn add_flow(&mut self, socket: tcp::Socket<'static>) -> FlowId {
        let socket = self.sockets.add(socket);
        let flow = Flow {
            socket,
            outgoing: VecDeque::new(),
            finished: false,
            reads: true,
            received: Vec::new(),
            saw_end: false,
            was_open: false,
            talk: None,
            said: 0,
            heard: 0,
        };
        self.flows.push(flow);
        FlowId(self.flows.len() - 1)
    }

    /// Has the program write, as the buffers allow.
    pub fn write(&mut self, flow: FlowId, data: &[u8]) {
        self.flows[flow.0].outgoing.extend(data);
    }

    /// Has the program hold one side of a conversation. It panics when it hears anything else than it has to.
    pub fn talk(&mut self, flow: FlowId, talk: Talk) {
        self.flows[flow.0].talk = Some(talk);
    }

    /// How many bytes of a [`Talk`] the program has heard.
    pub fn heard(&self, flow: FlowId) -> u64 {
        self.flows[flow.0].heard
    }

    /// How many bytes of a [`Talk`] the program has said.
    pub fn said(&self, flow: FlowId) -> u64 {
        self.flows[flow.0].said
    }

    /// Closes the guest's sending side once all is written.
    pub fn finish(&mut self, flow: FlowId) {
        let Flow { talk, said, finished, .. } = &mut self.flows[flow.0];
        match talk {
            // It has said what it had to say, and waits for nothing.
            Some(talk) => *talk = Talk { len: *said, begins_after: 0, closes_last: false, ..*talk },
            None => *finished = true,
        }
    }

    /// Aborts the connection.
    pub fn reset(&mut self, flow: FlowId) {
        self.sockets.get_mut::<tcp::Socket<'_>>(self.flows[flow.0].socket).abort();
    }

    /// Whether the guest's program reads what arrives, or lets it fill the buffer.
    pub fn set_reads(&mut self, flow: FlowId, reads: bool) {
        self.flows[flow.0].reads = reads;
    }

    /// All that the program has read.
    pub fn received(&self, flow: FlowId) -> &[u8] {
        &self.flows[flow.0].received
    }

    /// Bytes that were written and have not been acknowledged.
    pub fn unsent(&self, flow: FlowId) -> usize {
        self.flows[flow.0].outgoing.len() + self.socket(flow).send_queue()
    }

    /// Bytes that have arrived and were not read.
    pub fn unread(&self, flow: FlowId) -> usize {
        self.socket(flow).recv_queue()
    }

    /// Whether the other side has closed its sending side, and all of it was read.
    pub fn saw_end(&self, flow: FlowId) -> bool {
        self.flows[flow.0].saw_end
    }

    /// The state of the connection.
    pub fn state(&self, flow: FlowId) -> tcp::State {
        self.socket(flow).state()
    }

    /// Whether both directions are open.
    pub fn is_established(&self, flow: FlowId) -> bool {
        self.state(flow) == tcp::State::Established
    }

    /// Whether the connection was reset or refused.
    pub fn is_dead(&self, flow: FlowId) -> bool {
        self.state(flow) == tcp::State::Closed && !self.flows[flow.0].saw_end
    }

    fn socket(&self, flow: FlowId) -> &tcp::Socket<'static> {
        self.sockets.get(self.flows[flow.0].socket)
    }

    // ---- Programs of the guest: UDP ----

    /// Opens a UDP socket at a port.
    pub fn udp(&mut self, port: u16) -> UdpId {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; 128 << 10]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).unwrap();
        self.udp.push(self.sockets.add(socket));
        UdpId(self.udp.len() - 1)
    }

    /// Sends a datagram.
    pub fn send_to(&mut self, socket: UdpId, to: SocketAddr, data: &[u8]) {
        assert!(self.try_send_to(socket, to, data), "the guest's queue is full");
    }

    /// Sends a datagram, if there is room for it. Returns whether there was.
    pub fn try_send_to(&mut self, socket: UdpId, to: SocketAddr, data: &[u8]) -> bool {
        self.sockets.get_mut::<udp::Socket<'_>>(self.udp[socket.0]).send_slice(data, endpoint(to)).is_ok()
    }

    /// The datagrams that have arrived since this was asked last.
    pub fn receive(&mut self, socket: UdpId) -> Vec<(SocketAddr, Vec<u8>)> {
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(self.udp[socket.0]);
        let mut all = Vec::new();
        while let Ok((data, meta)) = socket.recv() {
            all.push((SocketAddr::new(meta.endpoint.addr.into(), meta.endpoint.port), data.to_vec()));
        }
        all
    }

    // ---- The card ----

    /// A frame arrives.
    pub fn deliver(&mut self, frame: Vec<u8>) {
        self.device.arrived.push_back(frame);
    }

    /// Lets the guest work on what has arrived and what is due; returns what it sends.
    pub fn poll(&mut self, now: Instant) -> Vec<Vec<u8>> {
        if self.knows_gateway && self.reminded.is_none_or(|at| now.since(at) > REMINDER) {
            self.reminded = Some(now);
            self.device.arrived.push_back(reminder_v4(self.addresses));
            self.device.arrived.push_back(reminder_v6(self.addresses));
        }
        let now = smoltcp_time(now);
        loop {
            let mut changed =
                self.interface.poll(now, &mut self.device, &mut self.sockets) == smoltcp::iface::PollResult::SocketStateChanged;
            for index in 0..self.flows.len() {
                changed |= self.pump(index);
            }
            if !changed {
                return std::mem::take(&mut self.device.sent);
            }
        }
    }

    /// When the guest has something to do by itself.
    pub fn next_deadline(&mut self, now: Instant) -> Option<Instant> {
        let at = self.interface.poll_at(smoltcp_time(now), &self.sockets)?;
        Some(Instant::from_micros(u64::try_from(at.total_micros()).unwrap_or(0)))
    }

    fn pump(&mut self, index: usize) -> bool {
        let flow = &mut self.flows[index];
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(flow.socket);
        let mut changed = false;
        flow.was_open |= socket.may_send();
        if let Some(talk) = flow.talk {
            return flow.go_on(&talk, socket);
        }
        if flow.reads && socket.can_recv() {
            while let Ok(len) = socket.recv(|data| {
                (data.len(), {
                    flow.received.extend_from_slice(data);
                    data.len()
                })
            }) {
                if len == 0 {
                    break;
                }
            }
            changed = true;
        }
        if !flow.saw_end && flow.was_open && socket.recv(|_| (0, ())) == Err(tcp::RecvError::Finished) {
            flow.saw_end = true;
            changed = true;
        }
        if socket.can_send() && !flow.outgoing.is_empty() {
            let (front, _) = flow.outgoing.as_slices();
            let sent = socket.send_slice(front).unwrap_or(0);
            flow.outgoing.drain(..sent);
            changed |= sent > 0;
        }
        if flow.finished && flow.outgoing.is_empty() && socket.may_send() {
            socket.close();
            changed = true;
        }
        changed
    }
}

/// How long a guest is left alone with what it knows of its gateway: half of what smoltcp keeps it for.
const REMINDER: Duration = Duration::from_secs(30);

fn reminder_v4(me: Addresses) -> Vec<u8> {
    let gateway = MacAddr::of_virtual_host(GATEWAY_V4.into());
    let reply = Arp { operation: 2, sender_mac: gateway, sender: GATEWAY_V4, target_mac: me.mac, target: me.v4 };
    wire::ethernet(gateway, me.mac, wire::ETHERTYPE_ARP, &reply.bytes())
}

fn reminder_v6(me: Addresses) -> Vec<u8> {
    let gateway = MacAddr::of_virtual_host(GATEWAY_V6.into());
    let payload = [&GATEWAY_V6.octets()[..], &[2, 1], &gateway.0].concat();
    // RFC 4861 section 4.4: of a router, solicited, and to be believed.
    let rest = [0xe0, 0, 0, 0];
    let advertisement = Icmp { source: GATEWAY_V6.into(), destination: me.v6.into(), kind: 136, code: 0, rest, payload };
    wire::ip_frame(gateway, me.mac, &advertisement.packet())
}

impl Flow {
    /// Lets one side of a conversation go on. Returns whether anything happened.
    fn go_on(&mut self, talk: &Talk, socket: &mut tcp::Socket<'static>) -> bool {
        let mut changed = false;
        while self.reads && socket.can_recv() {
            let heard = socket.recv(|data| {
                if let Some(wrong) = talk.hears.first_difference(self.heard, data) {
                    panic!("the guest has received a wrong byte at {wrong} of its stream, from {:?}", talk.hears);
                }
                (data.len(), data.len())
            });
            self.heard += heard.unwrap_or(0) as u64;
            changed = true;
        }
        if !self.saw_end && self.was_open && socket.recv(|_| (0, ())) == Err(tcp::RecvError::Finished) {
            self.saw_end = true;
            changed = true;
        }
        if self.finished || !socket.may_send() || !talk.has_begun(self.heard, self.saw_end) {
            return changed;
        }
        while self.said < talk.len && socket.can_send() {
            let most = usize::try_from(talk.len - self.said).unwrap_or(usize::MAX);
            let said = socket.send(|room| {
                let len = room.len().min(most);
                talk.says.fill(self.said, &mut room[..len]);
                (len, len)
            });
            self.said += said.unwrap_or(0) as u64;
            changed = true;
        }
        // In LAST-ACK, smoltcp looks at no window any more: what is still to be sent would have to wait for a probe each time.
        let sent = socket.state() != tcp::State::CloseWait || socket.send_queue() == 0;
        if sent && talk.is_over(self.said, self.heard, self.saw_end) {
            socket.close();
            self.finished = true;
            changed = true;
        }
        changed
    }
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest").field("flows", &self.flows).finish_non_exhaustive()
    }
}

fn smoltcp_time(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros(i64::try_from(now.as_micros()).unwrap())
}

fn endpoint(address: SocketAddr) -> IpEndpoint {
    IpEndpoint::new(address.ip().into(), address.port())
}

struct Card {
    mtu: u16,
    arrived: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
}

impl Device for Card {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _now: smoltcp::time::Instant) -> Option<(Arrived, Sending<'_>)> {
        let frame = self.arrived.pop_front()?;
        Some((Arrived(frame), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _now: smoltcp::time::Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = usize::from(self.mtu) + 14;
        capabilities
    }
}

struct Arrived(Vec<u8>);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Sending<'a>(&'a mut Vec<Vec<u8>>);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push(frame);
        result
    }
}
