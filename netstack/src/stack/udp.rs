//! The UDP relay: a NAT as RFC 4787 wants it.
//!
//! Each address and port of a guest has one socket of the host, whatever it sends to (endpoint-independent mapping). Through it come
//! only datagrams from hosts to which the guest has sent before (address-dependent filtering), or from anyone if the configuration says
//! full cone. Forwards are sockets of their own, on which clients are told apart by their addresses. TFTP transfers from the gateway have
//! sockets of their own too, which lead to the server of this process and nowhere else.
//!
//! Datagrams go between guest memory and the kernel without a copy, many of the same size at a time where both sides know how
//! (`UDP_SEGMENT`, `UDP_GRO`). A datagram for which there is no room is lost, as UDP allows; one that would wait for a full port waits in
//! its socket.

mod forward;
mod mapping;
mod tftp;
mod transfer;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};

use hashbrown::HashMap;
use smoltcp::wire::{IpProtocol, UDP_HEADER_LEN, UdpPacket};

use self::forward::Forwards;
use self::mapping::Mappings;
use self::transfer::Transfers;
pub use self::transfer::{TftpAnswer, TftpOpening, TftpRefusal, TftpService, TransferId};
use super::emit::{self, HOP_LIMIT, Path};
use super::hash::Keyed;
use super::icmp::{self, Quote};
use super::neighbour::Station;
use super::packet::{Datagram, Packet};
use super::policy::{Attempt, Verdict};
use super::token::Owner;
use super::{Context, SOLICITATION_INTERVAL, Shared, fragmentation};
use crate::config::{Limits, Timeouts};
use crate::frame::{Chunk, ChunkMut, ETHERNET_HEADER, Frame, MAX_FRAME, Offloads};
use crate::host::{Event, Received, SendOptions, SocketId, Teller};
use crate::port::{PortId, Sent};
use crate::time::{Duration, Instant};
use crate::wire::icmp_error::{MAX_QUOTE_V6, Problem, Unreachable};

/// Datagrams that one socket delivers in one turn before others get theirs.
const TURN_DATAGRAMS: usize = 64;

const MAX_CHUNKS: usize = 64;

/// Datagrams with a smaller hop limit than this keep it, less one; systems begin with 64 at least.
const EXPLICIT_HOP_LIMIT: u8 = 32;

/// Who has spoken UDP lately, for people and programs to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdpFlowInfo {
    /// The guest's end.
    pub guest: SocketAddr,
    /// The client of a forward, as the guest sees it; `None` for what a guest has begun, which may go to many.
    pub client: Option<SocketAddr>,
    /// For how long nothing was sent.
    pub idle: Duration,
}

/// All UDP mappings and forwards.
#[derive(Debug)]
pub(crate) struct Nat {
    mappings: Mappings,
    forwards: Forwards,
    transfers: Transfers,
    /// Sockets that may have datagrams.
    ready: VecDeque<Owner>,
    /// Sockets whose datagrams wait until a full port has room.
    blocked: HashMap<PortId, Vec<Owner>, Keyed>,
    /// Forwards whose datagrams wait until the station of their guest is known, by number and generation.
    seeking: HashMap<IpAddr, Vec<(u32, u32)>, Keyed>,
    full_cone: bool,
}

impl Nat {
    pub(crate) fn new(limits: &Limits, timeouts: &Timeouts, full_cone: bool, hash: Keyed) -> Self {
        Self {
            mappings: Mappings::new(limits, timeouts, hash),
            forwards: Forwards::new(limits, timeouts, hash),
            transfers: Transfers::new(limits, timeouts, hash),
            ready: VecDeque::new(),
            blocked: HashMap::with_hasher(hash),
            seeking: HashMap::with_hasher(hash),
            full_cone,
        }
    }

    /// Adds a forward: datagrams to the socket that `bind` makes go to `guest`. Returns who owns it, and where it is bound.
    pub(crate) fn add_forward(
        &mut self,
        bind: impl FnOnce(Owner) -> io::Result<(SocketId, SocketAddr)>,
        guest: SocketAddr,
    ) -> io::Result<(Owner, SocketAddr)> {
        self.forwards.add(bind, guest)
    }

    /// Ends a forward, for its clients too. Returns whether there was such a forward.
    pub(crate) fn remove_forward(&mut self, cx: &mut Context<'_>, id: u32, generation: u32) -> bool {
        let Some(forward) = self.forwards.remove(id, generation) else { return false };
        let guest = forward.guest.ip();
        if let Some(waiting) = self.seeking.get_mut(&guest) {
            waiting.retain(|other| *other != (id, generation));
            if waiting.is_empty() {
                self.seeking.remove(&guest);
            }
        }
        cx.host.close(forward.socket);
        true
    }

    /// Takes a datagram from a guest.
    pub(crate) fn input(
        &mut self,
        cx: &mut Context<'_>,
        shared: &mut Shared,
        station: Station,
        packet: &Packet,
        datagram: &Datagram,
        frame: &Frame<'_>,
    ) {
        let guest = SocketAddr::new(packet.source, datagram.source_port);
        let remote = SocketAddr::new(packet.destination, datagram.destination_port);
        let quote = || Quote::of_frame(guest.ip(), frame);
        let way = if let Some((owner, socket, client)) = self.forwards.client(cx.now, station.port, guest, remote) {
            (owner, socket, client)
        } else if !self.transfers.is_empty()
            && shared.policy.is_gateway(remote.ip())
            && self.pass_to_tftp_server(cx, shared, station, (guest, remote), datagram, frame)
        {
            return;
        } else {
            match shared.policy.decide(&Attempt::udp(guest, remote)) {
                Verdict::Host(to) => match self.mappings.socket_for(cx, shared, station, guest, to) {
                    Some((owner, socket)) => (owner, socket, to),
                    None => return,
                },
                Verdict::Dhcp => return shared.dhcp(cx, station, &payload(datagram, frame)),
                Verdict::Dhcp6 => return shared.dhcp6(cx, station, guest, remote, &payload(datagram, frame)),
                Verdict::Dns => return shared.dns(cx, station, guest, remote, &payload(datagram, frame)),
                Verdict::Tftp => return self.tftp_request(cx, shared, station, (guest, remote), payload(datagram, frame)),
                Verdict::Unreachable => {
                    return icmp::tell(cx, shared, station, Problem::Unreachable(Unreachable::Host), &quote());
                }
                Verdict::Closed => {
                    shared.counters.drop_destination += 1;
                    return icmp::tell(cx, shared, station, Problem::Unreachable(Unreachable::Port), &quote());
                }
                // Neither `Here` nor the last two are said of UDP.
                Verdict::Forbidden | Verdict::Nowhere | Verdict::Here | Verdict::Local(_) | Verdict::Service(_) => {
                    shared.counters.drop_destination += 1;
                    return;
                }
            }
        };
        let (owner, socket, to) = way;
        let options = send_options(shared, packet);
        let Some(error) = deliver(cx, shared, socket, to, datagram, frame, options) else { return };
        shared.counters.drop_host_send += 1;
        match icmp::problem_of(&error) {
            Some(problem) => icmp::tell(cx, shared, station, problem, &quote()),
            None => self.take_errors(cx, shared, owner, Some((station, quote()))),
        }
    }

    /// Takes news of a mapping's or a forward's socket.
    pub(crate) fn host_event(&mut self, cx: &mut Context<'_>, shared: &mut Shared, owner: Owner, event: Event) {
        if event.failed {
            self.take_errors(cx, shared, owner, None);
        }
        if event.readable {
            self.enqueue(owner);
        }
    }

    /// Tells guests what is wrong with their datagrams. `refused` is the one that the socket has just not taken, and who has sent it.
    fn take_errors(&self, cx: &mut Context<'_>, shared: &mut Shared, owner: Owner, mut refused: Option<(Station, Quote)>) {
        let Some(socket) = self.socket(owner) else { return };
        let mut payload = [0; MAX_QUOTE_V6];
        // While there are more, a further event follows.
        for _ in 0..TURN_DATAGRAMS {
            let Some(error) = cx.host.take_datagram_error(socket, &mut payload) else { return };
            if error.teller == Teller::Socket {
                if let Some((station, quote)) = refused.take() {
                    icmp::tell(cx, shared, station, error.problem, &quote);
                }
                continue;
            }
            shared.counters.icmp_errors_in += 1;
            let Some((station, guest, seen)) = self.sender(cx, shared, owner, error.destination) else {
                shared.counters.drop_filtered += 1;
                continue;
            };
            let quote = Quote::datagram(guest, seen, payload.get(..error.len).unwrap_or_default());
            icmp::relay(cx, shared, station, &error, seen.ip(), &quote);
        }
    }

    /// Whose datagram it was that has left a socket for `to`: the guest's station and address, and where the guest has sent it to. `None`
    /// if no guest has sent anything there: whoever tells of an error then has made it up.
    fn sender(&self, cx: &Context<'_>, shared: &Shared, owner: Owner, to: SocketAddr) -> Option<(Station, SocketAddr, SocketAddr)> {
        match owner {
            Owner::UdpMapping { id, generation } => {
                let mapping = self.mappings.get(id, generation).filter(|mapping| mapping.has_sent_to(to.ip()))?;
                let seen = shared.policy.as_seen_by_guest(to.ip()).filter(|ip| ip.is_ipv4() == mapping.guest.is_ipv4())?;
                Some((mapping.station, mapping.guest, SocketAddr::new(seen, to.port())))
            }
            Owner::UdpForward { id, generation } => {
                self.forwards.get(id, generation)?;
                let (guest, port, seen) = self.forwards.guest_of_client(id, to)?;
                let station = shared.neighbours.station(cx.now, guest.ip()).filter(|station| station.port == port)?;
                Some((station, guest, seen))
            }
            _ => None,
        }
    }

    /// Delivers datagrams to guests from at most `budget` sockets. Returns whether more are waiting.
    pub(crate) fn run(&mut self, cx: &mut Context<'_>, shared: &mut Shared, budget: usize) -> bool {
        for _ in 0..budget {
            let Some(owner) = self.ready.pop_front() else { return false };
            if let Some(queued) = self.queued(owner) {
                *queued = false;
            }
            for turn in 0..=TURN_DATAGRAMS {
                if turn == TURN_DATAGRAMS {
                    self.enqueue(owner);
                    break;
                }
                match self.receive(cx, shared, owner) {
                    Turn::More => {}
                    Turn::Done => break,
                    Turn::Blocked(port) => {
                        self.block(owner, port);
                        break;
                    }
                }
            }
        }
        !self.ready.is_empty()
    }

    /// Whether datagrams wait for room in this port.
    pub(crate) fn waits_for(&self, port: PortId) -> bool {
        self.blocked.get(&port).is_some_and(|sockets| !sockets.is_empty())
    }

    /// A port that was full has room again.
    pub(crate) fn port_writable(&mut self, port: PortId) {
        if let Some(waiting) = self.blocked.get_mut(&port) {
            self.ready.extend(waiting.drain(..));
        }
    }

    /// The station of an address is known now: datagrams for it can be delivered.
    pub(crate) fn neighbour_found(&mut self, ip: IpAddr) {
        if !self.seeking.is_empty() {
            for (id, generation) in self.seeking.remove(&ip).into_iter().flatten() {
                self.enqueue(Owner::UdpForward { id, generation });
            }
        }
    }

    fn enqueue(&mut self, owner: Owner) {
        if let Some(queued) = self.queued(owner)
            && !std::mem::replace(queued, true)
        {
            self.ready.push_back(owner);
        }
    }

    fn block(&mut self, owner: Owner, port: PortId) {
        let Some(queued) = self.queued(owner) else { return };
        if std::mem::replace(queued, true) {
            return;
        }
        let Self { blocked, mappings, forwards, transfers, .. } = self;
        let waiting = blocked.entry(port).or_default();
        waiting.push(owner);
        // Mappings and forwards end and others begin while a guest takes nothing: those that are gone must not pile up.
        if waiting.len() > 64 + 2 * (mappings.len() + forwards.len() + transfers.len()) {
            waiting.retain(|owner| match *owner {
                Owner::UdpMapping { id, generation } => mappings.get(id, generation).is_some(),
                Owner::UdpForward { id, generation } => forwards.get(id, generation).is_some(),
                Owner::TftpTransfer { id, generation } => transfers.get(id, generation).is_some(),
                _ => true,
            });
        }
    }

    /// Whether a socket is on the list of those that are ready or of those that are blocked; on which never more than once.
    fn queued(&mut self, owner: Owner) -> Option<&mut bool> {
        match owner {
            Owner::UdpMapping { id, generation } => self.mappings.get_mut(id, generation).map(|mapping| &mut mapping.queued),
            Owner::UdpForward { id, generation } => self.forwards.get_mut(id, generation).map(|forward| &mut forward.queued),
            Owner::TftpTransfer { id, generation } => self.transfers.get_mut(id, generation).map(|transfer| &mut transfer.queued),
            _ => None,
        }
    }

    /// The timer of a mapping or a client has come due.
    pub(crate) fn expire(&mut self, cx: &mut Context<'_>, shared: &mut Shared, owner: Owner) {
        match owner {
            Owner::UdpMapping { id, generation } => self.mappings.expire(cx, shared, id, generation),
            Owner::UdpClient { id, generation } => self.forwards.expire(cx.now, shared, id, generation),
            Owner::TftpTransfer { id, generation } => self.check_transfer(cx, shared, id, generation),
            _ => {}
        }
    }

    /// Ends all mappings behind a port that is gone.
    pub(crate) fn forget_port(&mut self, cx: &mut Context<'_>, port: PortId) {
        self.mappings.forget_port(cx, port);
        self.transfers.forget_port(cx, port);
        // Forwards wait for their guest to be found elsewhere.
        self.port_writable(port);
        self.blocked.remove(&port);
    }

    pub(crate) fn len(&self) -> usize {
        self.mappings.len()
    }

    /// All mappings, and all clients of forwards.
    pub(crate) fn flows(&self, now: Instant) -> impl Iterator<Item = UdpFlowInfo> {
        self.mappings.flows(now).chain(self.forwards.flows(now))
    }

    /// Entries on the lists of those that have something to do, or wait for a full port.
    pub(crate) fn waiting(&self) -> usize {
        self.ready.len() + self.blocked.values().map(Vec::len).sum::<usize>()
    }

    fn socket(&self, owner: Owner) -> Option<SocketId> {
        match owner {
            Owner::UdpMapping { id, generation } => self.mappings.get(id, generation).map(|mapping| mapping.socket),
            Owner::UdpForward { id, generation } => self.forwards.get(id, generation).map(|forward| forward.socket),
            Owner::TftpTransfer { id, generation } => self.transfers.get(id, generation).map(|transfer| transfer.socket),
            _ => None,
        }
    }

    /// Receives one datagram, or several of the same size, for a guest.
    fn receive(&mut self, cx: &mut Context<'_>, shared: &mut Shared, owner: Owner) -> Turn {
        let Some(socket) = self.socket(owner) else { return Turn::Done };
        let (guest, station) = match owner {
            Owner::UdpMapping { id, generation } => match self.mappings.get(id, generation) {
                Some(mapping) => (mapping.guest, mapping.station),
                None => return Turn::Done,
            },
            Owner::UdpForward { id, generation } => {
                let Some(guest) = self.forwards.get(id, generation).map(|forward| forward.guest) else { return Turn::Done };
                match shared.neighbours.station(cx.now, guest.ip()) {
                    Some(station) => (guest, station),
                    None => return self.seek(cx, shared, (id, generation), guest.ip()),
                }
            }
            Owner::TftpTransfer { id, generation } => match self.transfers.get(id, generation) {
                Some(transfer) if transfer.has_data => (transfer.guest, transfer.station),
                Some(_) => return self.receive_from_tftp_server(cx, shared, id),
                None => return Turn::Done,
            },
            _ => return Turn::Done,
        };
        // What is too large can be seen only once it was received, and then there must be a place for it.
        if shared.fragmenter.is_busy(station.port) {
            return Turn::Blocked(station.port);
        }
        let offloads = cx.link.offloads(station.port);
        let mut arrival = Arrival { nat: self, owner, guest, station, offloads, mtu: usize::from(cx.link.mtu(station.port)) };
        // What comes for a transfer comes one by one, and none of it may be lost for want of room in the port.
        if offloads.uso || matches!(owner, Owner::TftpTransfer { .. }) {
            arrival.in_place(cx, shared, socket)
        } else {
            arrival.by_copy(cx, shared, socket)
        }
    }

    /// The guest of a forward is not known yet: it is asked for, and the datagrams wait in the socket, as RFC 1122 section 2.3.2.2 asks.
    fn seek(&mut self, cx: &mut Context<'_>, shared: &mut Shared, forward: (u32, u32), guest: IpAddr) -> Turn {
        let waiting = self.seeking.entry(guest).or_default();
        if !waiting.contains(&forward) {
            waiting.push(forward);
        }
        shared.solicit(cx, guest);
        let (id, generation) = forward;
        if let Some(state) = self.forwards.get_mut(id, generation)
            && !std::mem::replace(&mut state.seeks, true)
        {
            shared.wheel.set(cx.now + SOLICITATION_INTERVAL, Owner::UdpForward { id, generation });
        }
        Turn::Done
    }

    /// It is time to ask for the guest of a forward again, if it was not found meanwhile. The next datagram cannot be waited for: a socket
    /// that is full takes none, and tells of none.
    pub(crate) fn seek_again(&mut self, id: u32, generation: u32) {
        let Some(state) = self.forwards.get_mut(id, generation) else { return };
        state.seeks = false;
        let guest = state.guest.ip();
        if self.seeking.get(&guest).is_some_and(|waiting| waiting.contains(&(id, generation))) {
            self.enqueue(Owner::UdpForward { id, generation });
        }
    }

    /// How the guest of `owner` sees a sender; `None` if it may not see it at all.
    fn admit(&mut self, cx: &Admission<'_>, shared: &mut Shared, owner: Owner, from: SocketAddr) -> Option<SocketAddr> {
        let seen = match owner {
            Owner::UdpMapping { id, generation } => {
                let admitted =
                    self.full_cone || self.mappings.get(id, generation).is_some_and(|mapping| mapping.has_sent_to(from.ip()));
                let seen = shared.policy.as_seen_by_guest(from.ip()).filter(|ip| ip.is_ipv4() == cx.guest.is_ipv4());
                seen.filter(|_| admitted).map(|ip| SocketAddr::new(ip, from.port()))
            }
            Owner::UdpForward { id, .. } => self.forwards.admit(cx.now, shared, id, cx.port, from),
            Owner::TftpTransfer { id, generation } => {
                let transfer = self.transfers.get(id, generation).filter(|transfer| transfer.peer == Some(from));
                transfer.map(|transfer| SocketAddr::new(transfer.gateway, from.port()))
            }
            _ => None,
        };
        if seen.is_none() {
            shared.counters.drop_filtered += 1;
        }
        seen
    }
}

/// What is known when a sender is looked at.
struct Admission<'a> {
    now: Instant,
    guest: &'a SocketAddr,
    port: PortId,
}

/// What receiving has come to.
enum Turn {
    More,
    Done,
    Blocked(PortId),
}

/// A socket whose datagrams go to a guest.
struct Arrival<'a> {
    nat: &'a mut Nat,
    owner: Owner,
    guest: SocketAddr,
    station: Station,
    offloads: Offloads,
    mtu: usize,
}

impl Arrival<'_> {
    /// Receives straight into the port's memory, behind the headers.
    fn in_place(&mut self, cx: &mut Context<'_>, shared: &mut Shared, socket: SocketId) -> Turn {
        let now = cx.now;
        let (host, link) = (&mut *cx.host, &mut *cx.link);
        // A port that never offers so much does not call.
        let mut turn = Turn::Done;
        let mut bytes = 0;
        let mut large = None;
        let sent = link.send(self.station.port, MAX_FRAME, &mut |room| {
            let headers = self.path(shared, self.guest.ip()).header_len() + UDP_HEADER_LEN;
            let mut parts = [const { ChunkMut::empty() }; MAX_CHUNKS];
            let count = room.parts(headers, MAX_FRAME - headers, &mut parts);
            let received = match host.receive_from(socket, &mut parts[..count]) {
                Ok(received) => received,
                Err(error) => {
                    turn = after_error(&error);
                    return None;
                }
            };
            turn = Turn::More;
            let seen = self.nat.admit(
                &Admission { now, guest: &self.guest, port: self.station.port },
                shared,
                self.owner,
                received.from,
            )?;
            if !self.fits(&received) || received.segment.is_some() && !self.offloads.uso {
                // The kernel cuts off what the port's memory has no room for: nothing that fills it may be believed to be whole. In IPv4
                // the memory is as long as the longest datagram.
                if received.len == MAX_FRAME - headers && self.guest.is_ipv6() {
                    shared.counters.drop_too_large += 1;
                    return None;
                }
                let mut data = std::mem::take(&mut shared.scratch);
                data.resize(received.len, 0);
                room.copy_to(headers, &mut data);
                large = Some((seen, data, received.segment));
                return None;
            }
            shared.counters.udp_datagrams_in += 1;
            let path = self.path(shared, seen.ip());
            let ports = (seen.port(), self.guest.port());
            let filled = emit::finish_datagram(room, &path, ports, received.len, received.segment, &self.offloads);
            bytes = filled.0;
            Some(filled)
        });
        if let Some((seen, data, segment)) = large {
            self.send_large(cx, shared, seen, &data, segment);
            shared.scratch = data;
        }
        match sent {
            Sent::Full => Turn::Blocked(self.station.port),
            Sent::Declined => turn,
            Sent::Yes => {
                shared.counters.frames_out += 1;
                shared.counters.bytes_out += bytes as u64;
                Turn::More
            }
        }
    }

    /// Receives into a buffer and sends each datagram as a frame of its own: for ports without segmentation. Of datagrams that were
    /// received together, those are lost for which there is no room; all others wait in the socket.
    fn by_copy(&mut self, cx: &mut Context<'_>, shared: &mut Shared, socket: SocketId) -> Turn {
        let mut buffer = std::mem::take(&mut shared.scratch);
        buffer.resize(MAX_FRAME, 0);
        let turn = match cx.host.receive_from(socket, &mut [ChunkMut::from(&mut buffer[..])]) {
            Err(error) => after_error(&error),
            Ok(received) => {
                let admission = Admission { now: cx.now, guest: &self.guest, port: self.station.port };
                if let Some(seen) = self.nat.admit(&admission, shared, self.owner, received.from) {
                    let size = received.segment.map_or(received.len, usize::from).max(1);
                    let data = buffer.get(..received.len).unwrap_or_default();
                    let mut sent = Sent::Yes;
                    if !self.fits(&Received { len: size.min(data.len()), from: seen, segment: None, hop_limit: None }) {
                        sent = self.send_large(cx, shared, seen, data, received.segment);
                    } else if data.is_empty() {
                        sent = self.send_one(cx, shared, seen, data);
                    } else {
                        for datagram in data.chunks(size) {
                            sent = self.send_one(cx, shared, seen, datagram);
                        }
                    }
                    if sent == Sent::Full { Turn::Blocked(self.station.port) } else { Turn::More }
                } else {
                    Turn::More
                }
            }
        };
        shared.scratch = buffer;
        turn
    }

    fn send_one(&self, cx: &mut Context<'_>, shared: &mut Shared, seen: SocketAddr, data: &[u8]) -> Sent {
        let path = self.path(shared, seen.ip());
        let sent = send_datagram(cx, shared, &path, (seen.port(), self.guest.port()), data);
        if sent == Sent::Yes {
            shared.counters.udp_datagrams_in += 1;
        }
        sent
    }

    /// Sends a datagram that is too large for the guest's link, or several, in fragments.
    fn send_large(&self, cx: &mut Context<'_>, shared: &mut Shared, seen: SocketAddr, data: &[u8], segment: Option<u16>) -> Sent {
        let path = self.path(shared, seen.ip());
        let size = segment.map_or(data.len(), usize::from).max(1);
        let sent = send_in_fragments(cx, shared, &path, (seen.port(), self.guest.port()), data, size);
        if sent == Sent::Yes {
            shared.counters.udp_datagrams_in += data.len().div_ceil(size) as u64;
        }
        sent
    }

    /// Whether each datagram fits a packet on the guest's link.
    fn fits(&self, received: &Received) -> bool {
        let largest = received.segment.map_or(received.len, usize::from).min(received.len);
        let headers = if self.guest.is_ipv4() { 20 } else { 40 } + UDP_HEADER_LEN;
        headers + largest <= self.mtu && headers + received.len <= MAX_FRAME - ETHERNET_HEADER
    }

    fn path(&self, shared: &Shared, seen: IpAddr) -> Path {
        Path { station: self.station, router: shared.router_mac(seen), source: seen, destination: self.guest.ip() }
    }
}

fn after_error(error: &io::Error) -> Turn {
    if error.kind() == io::ErrorKind::Interrupted { Turn::More } else { Turn::Done }
}

/// Sends a datagram of our own to a guest.
pub(crate) fn send_datagram(cx: &mut Context<'_>, shared: &mut Shared, path: &Path, ports: (u16, u16), data: &[u8]) -> Sent {
    let start = path.header_len() + UDP_HEADER_LEN;
    let port = path.station.port;
    if start + data.len() - ETHERNET_HEADER > usize::from(cx.link.mtu(port)) {
        return send_in_fragments(cx, shared, path, ports, data, data.len());
    }
    let offloads = cx.link.offloads(port);
    let sent = emit::send(cx, shared, port, start + data.len(), &mut |room| {
        room.copy_from(start, data);
        Some(emit::finish_datagram(room, path, ports, data.len(), None, &offloads))
    });
    if sent == Sent::Full {
        shared.counters.drop_port_full += 1;
    }
    sent
}

/// Sends datagrams of `size` bytes each, the last may be shorter, which are too large for the guest's link.
fn send_in_fragments(cx: &mut Context<'_>, shared: &mut Shared, path: &Path, ports: (u16, u16), data: &[u8], size: usize) -> Sent {
    let mut bytes = shared.fragmenter.buffer();
    for payload in data.chunks(size.max(1)) {
        let start = bytes.len();
        bytes.extend([0; UDP_HEADER_LEN]);
        bytes.extend_from_slice(payload);
        let mut udp = UdpPacket::new_unchecked(&mut bytes[start..]);
        udp.set_src_port(ports.0);
        udp.set_dst_port(ports.1);
        udp.set_len(u16::try_from(UDP_HEADER_LEN + payload.len()).unwrap_or(u16::MAX));
        udp.fill_checksum(&path.source.into(), &path.destination.into());
    }
    fragmentation::send(cx, shared, path, IpProtocol::Udp, HOP_LIMIT, bytes, UDP_HEADER_LEN + size)
}

/// How a guest's datagram is sent on.
fn send_options(shared: &Shared, packet: &Packet) -> SendOptions {
    // We are a router. Only who looks for the way, or keeps what he sends in the neighbourhood, uses so few hops that it matters to take off
    // one; to all others the host's own limit is as good, which needs not be told. A virtual host is at the end of the way already.
    let goes_on = packet.hop_limit < EXPLICIT_HOP_LIMIT && !shared.policy.is_virtual_host(packet.destination);
    let hop_limit = goes_on.then(|| packet.hop_limit.saturating_sub(1).max(1));
    SendOptions { segment: None, hop_limit, dont_fragment: packet.dont_fragment }
}

/// Hands a guest's datagram to a socket. Returns why it could not be sent, if it is worth telling the guest.
fn deliver(
    cx: &mut Context<'_>,
    shared: &mut Shared,
    socket: SocketId,
    to: SocketAddr,
    datagram: &Datagram,
    frame: &Frame<'_>,
    options: SendOptions,
) -> Option<io::Error> {
    let mut parts = [Chunk::empty(); MAX_CHUNKS];
    let count = frame.parts(datagram.payload_offset, datagram.payload_len, &mut parts);
    if parts[..count].iter().map(Chunk::len).sum::<usize>() != datagram.payload_len {
        shared.counters.drop_malformed += 1;
        return None;
    }
    let options = SendOptions { segment: datagram.segment, ..options };
    match cx.host.send_to(socket, to, &parts[..count], options) {
        Ok(()) => {
            shared.counters.udp_datagrams_out += 1;
            None
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            shared.counters.drop_host_send += 1;
            None
        }
        Err(error) => Some(error),
    }
}

fn payload(datagram: &Datagram, frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = vec![0; datagram.payload_len];
    let len = frame.copy_to(datagram.payload_offset, &mut bytes);
    bytes.truncate(len);
    bytes
}
