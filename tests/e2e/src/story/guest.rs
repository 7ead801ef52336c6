//! The guest of a story: it sends frames by hand, waits for answers, and takes down what it was told.
//!
//! Beside that it behaves as every station does: it answers who asks for its address. What comes unasked, such as router advertisements,
//! it keeps until the story asks for it.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use netstack::frame::FrameMeta;

use super::fragments::Pieces;
use super::frame::{Arp, BROADCAST, Body, Datagram, Icmp, Mac, Told, card_of};
use super::link::{Datagrams, Link, Stream};
use super::transcript::{Fields, Transcript};

/// Why a story does not go on: what it waited for did not come. The transcript ends with that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} did not come")]
pub struct Missing(pub String);

/// How a story goes.
pub type Goes<T = ()> = Result<T, Missing>;

/// The gateway's address.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The DNS server's.
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// The gateway's in IPv6.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 2);
/// The DNS server's in IPv6.
pub const DNS6: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 3);

/// The guest.
pub struct Guest<'a> {
    /// The network.
    pub link: &'a mut dyn Link,
    /// Its card.
    pub card: Mac,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// Whether it answers who asks for its address.
    pub answers_neighbours: bool,
    transcript: Transcript,
    waiting: VecDeque<Told>,
    pieces: Pieces,
    /// The names of addresses that are not the same in every run.
    names: Vec<(SocketAddr, &'static str)>,
}

impl fmt::Debug for Guest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest").field("v4", &self.v4).field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

impl<'a> Guest<'a> {
    /// One at this link, with the addresses that QEMU's guests have.
    pub fn new(link: &'a mut dyn Link) -> Self {
        Self {
            link,
            card: [0x52, 0x54, 0, 0x12, 0x34, 0x56],
            v4: Ipv4Addr::new(10, 0, 2, 15),
            v6: Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0x15),
            answers_neighbours: true,
            transcript: Transcript::default(),
            waiting: VecDeque::new(),
            pieces: Pieces::default(),
            names: Vec::new(),
        }
    }

    /// What it was told.
    pub fn into_transcript(self) -> Transcript {
        self.transcript
    }

    /// Its address of the family of `other`.
    pub const fn ip_like(&self, other: IpAddr) -> IpAddr {
        match other {
            IpAddr::V4(_) => IpAddr::V4(self.v4),
            IpAddr::V6(_) => IpAddr::V6(self.v6),
        }
    }

    /// The card of the gateway of a family, to which everything goes that leaves the network.
    pub const fn router(&self, ipv6: bool) -> Mac {
        if ipv6 { card_of(IpAddr::V6(GATEWAY6)) } else { card_of(IpAddr::V4(GATEWAY)) }
    }

    /// Says how an address is called in the transcript, whatever its port is this time.
    pub fn name(&mut self, address: SocketAddr, name: &'static str) -> SocketAddr {
        self.names.push((address, name));
        address
    }

    /// An address as the transcript has it.
    pub fn named(&self, address: SocketAddr) -> String {
        let name = self.names.iter().find(|(known, _)| *known == address);
        name.map_or_else(|| address.to_string(), |(_, name)| (*name).to_owned())
    }

    /// Puts a server on the host, at its loopback address of a family; returns where to reach it.
    pub fn serve(&mut self, ipv6: bool, stream: Stream) -> SocketAddr {
        let address = self.link.serve(ipv6, stream);
        self.name(address, "server")
    }

    /// Puts a server of datagrams there.
    pub fn serve_datagrams(&mut self, ipv6: bool, datagrams: Datagrams) -> SocketAddr {
        let address = self.link.serve_datagrams(ipv6, datagrams);
        self.name(address, "server")
    }

    // ---- Sending ----

    /// Sends a frame.
    pub fn send(&mut self, frame: &[u8]) {
        self.link.send(frame, FrameMeta::default());
    }

    /// Sends a frame that leaves something to the network.
    pub fn send_with(&mut self, frame: &[u8], meta: FrameMeta) {
        self.link.send(frame, meta);
    }

    /// Sends an ARP packet to everybody.
    pub fn arp(&mut self, operation: u16, sender: Ipv4Addr, target: Ipv4Addr) {
        let arp = Arp { operation, sender_card: self.card, sender, target_card: [0; 6], target };
        self.send(&arp.frame(BROADCAST));
    }

    /// Sends a datagram to the gateway.
    pub fn datagram(&mut self, from: u16, to: SocketAddr, payload: &[u8]) {
        let frame = self.datagram_frame(from, to, payload);
        self.send(&frame);
    }

    /// The frame of [`Self::datagram`].
    pub fn datagram_frame(&self, from: u16, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
        let source = SocketAddr::new(self.ip_like(to.ip()), from);
        Datagram { source, destination: to, payload: payload.to_vec() }.frame(self.card, self.router(to.is_ipv6()))
    }

    /// The frame of an echo request to `to`.
    pub fn echo_frame(&self, to: IpAddr, id: u16, seq: u16, payload: &[u8]) -> Vec<u8> {
        let (kind, card) = if to.is_ipv4() { (8, self.router(false)) } else { (128, self.router(true)) };
        let [a, b] = id.to_be_bytes();
        let [c, d] = seq.to_be_bytes();
        Icmp { source: self.ip_like(to), destination: to, kind, code: 0, rest: [a, b, c, d], payload: payload.to_vec() }
            .frame(self.card, card)
    }

    // ---- Receiving ----

    /// Lets time pass in which nothing is sent; what comes is kept.
    pub fn pause(&mut self, time: Duration) {
        let end = self.link.now() + time;
        loop {
            let left = end.saturating_sub(self.link.now());
            let Some((frame, meta)) = self.link.receive(left) else { return };
            self.take(frame, meta);
        }
    }

    /// The next frame of this kind, if one comes.
    fn find<T>(&mut self, patience: Duration, mut is: impl FnMut(&Told) -> Option<T>) -> Option<T> {
        for at in 0..self.waiting.len() {
            if let Some(found) = is(&self.waiting[at]) {
                self.waiting.remove(at);
                return Some(found);
            }
        }
        loop {
            let (frame, meta) = self.link.receive(patience)?;
            if !self.take(frame, meta) {
                continue;
            }
            if let Some(found) = self.waiting.back().and_then(&mut is) {
                self.waiting.pop_back();
                return Some(found);
            }
        }
    }

    /// Reads a frame, answers it if it asks for us, and keeps it otherwise. Returns whether it has. What comes in fragments is read when it
    /// is whole.
    fn take(&mut self, frame: Vec<u8>, meta: FrameMeta) -> bool {
        let Some(frame) = self.pieces.take(frame) else { return false };
        let told = Told::read(&frame, meta == FrameMeta::default());
        if let Some(complaint) = told.complaint {
            self.note("a sound frame", Fields::one("complaint", complaint));
        }
        match &told.body {
            Body::Arp(arp) if self.answers_neighbours && arp.operation == 1 && arp.target == self.v4 => {
                let answer =
                    Arp { operation: 2, sender_card: self.card, sender: self.v4, target_card: arp.sender_card, target: arp.sender };
                self.send(&answer.frame(arp.sender_card));
                false
            }
            Body::Icmp(icmp)
                if self.answers_neighbours && icmp.kind == 135 && icmp.payload.get(..16) == Some(&self.v6.octets()) =>
            {
                let payload = [&self.v6.octets()[..], &[2, 1], &self.card].concat();
                let rest = [0x60, 0, 0, 0];
                let answer = Icmp { source: self.v6.into(), destination: icmp.source, kind: 136, code: 0, rest, payload }
                    .frame(self.card, told.source);
                self.send(&answer);
                false
            }
            _ => {
                self.waiting.push_back(told);
                true
            }
        }
    }

    /// Waits for an answer of a kind, without taking anything down.
    ///
    /// # Errors
    ///
    /// When it does not come; that is taken down.
    pub fn await_one<T>(&mut self, what: &str, is: impl FnMut(&Told) -> Option<T>) -> Goes<T> {
        let patience = self.patience();
        let found = self.find(patience, is);
        found.ok_or_else(|| self.missing(what))
    }

    /// Waits until a frame of a kind is there, and leaves it for who waits for it next.
    ///
    /// # Errors
    ///
    /// When it does not come; that is taken down.
    pub fn see(&mut self, what: &str, is: impl Fn(&Told) -> bool) -> Goes {
        let told = self.await_one(what, |told| is(told).then(|| told.clone()))?;
        self.waiting.push_front(told);
        Ok(())
    }

    /// How long to wait for what is expected to come.
    fn patience(&self) -> Duration {
        self.link.patience()
    }

    /// Takes down that something did not come, and ends the story.
    pub fn missing(&mut self, what: &str) -> Missing {
        self.note(what, Fields::none());
        Missing(what.to_owned())
    }

    /// Takes down whether something is as it should be.
    pub fn check(&mut self, what: &str, is_so: bool) {
        self.note(what, Fields::one("is so", if is_so { "yes" } else { "no" }));
    }

    /// Takes something down.
    pub fn note(&mut self, what: &str, fields: Fields) {
        self.transcript.add(what, fields);
    }

    /// Waits for a frame of a kind and takes it down.
    ///
    /// # Errors
    ///
    /// When it does not come.
    pub fn hear(&mut self, what: &str, mut is: impl FnMut(&Told) -> bool) -> Goes<Told> {
        let told = self.await_one(what, |told| is(told).then(|| told.clone()))?;
        let fields = Fields::of(&told, |address| self.named(address));
        self.note(what, fields);
        Ok(told)
    }

    /// Waits for an ARP reply and takes it down.
    ///
    /// # Errors
    ///
    /// When it does not come.
    pub fn hear_arp(&mut self, what: &str) -> Goes<Arp> {
        let told = self.hear(what, |told| matches!(&told.body, Body::Arp(_)))?;
        if let Body::Arp(arp) = told.body { Ok(arp) } else { Err(Missing(what.to_owned())) }
    }

    /// Waits for a datagram to that port and takes it down.
    ///
    /// # Errors
    ///
    /// When it does not come.
    pub fn hear_datagram(&mut self, what: &str, port: u16) -> Goes<Datagram> {
        let datagram = self.datagram_to(what, port)?;
        let told = Told { source: [0; 6], destination: [0; 6], hops: 0, body: Body::Udp(datagram.clone()), complaint: None };
        let fields = Fields::of(&told, |address| self.named(address));
        self.note(what, fields);
        Ok(datagram)
    }

    /// Waits for a datagram to that port.
    ///
    /// # Errors
    ///
    /// When it does not come; that is taken down.
    pub fn datagram_to(&mut self, what: &str, port: u16) -> Goes<Datagram> {
        self.await_one(what, |told| match &told.body {
            Body::Udp(datagram) if datagram.destination.port() == port => Some(datagram.clone()),
            _ => None,
        })
    }

    /// Waits for an ICMP message that is not neighbour discovery, and takes it down.
    ///
    /// # Errors
    ///
    /// When it does not come.
    pub fn hear_icmp(&mut self, what: &str) -> Goes<Icmp> {
        let told = self.hear(what, |told| matches!(&told.body, Body::Icmp(icmp) if !icmp.is_discovery()))?;
        if let Body::Icmp(icmp) = told.body { Ok(icmp) } else { Err(Missing(what.to_owned())) }
    }

    /// Waits for a message of neighbour discovery of this type, and takes it down.
    ///
    /// # Errors
    ///
    /// When it does not come.
    pub fn hear_discovery(&mut self, what: &str, kind: u8) -> Goes<Told> {
        self.hear(what, |told| matches!(&told.body, Body::Icmp(icmp) if icmp.is_discovery() && icmp.kind == kind))
    }

    /// Sees that nothing comes that could be an answer; if something does, it is taken down.
    pub fn hear_nothing(&mut self, what: &str) {
        let silence = self.link.silence();
        let unasked = |told: &Told| match &told.body {
            Body::Icmp(icmp) => icmp.is_discovery() && matches!(icmp.kind, 134 | 135),
            Body::Arp(arp) => arp.operation == 1,
            _ => false,
        };
        match self.find(silence, |told| (!unasked(told)).then(|| told.clone())) {
            Some(told) => {
                let fields = Fields::of(&told, |address| self.named(address));
                self.note(what, fields);
            }
            None => self.note(what, Fields::none()),
        }
    }

    /// Looks whether a datagram to that port comes from somebody whom we have not asked, and takes down what it says.
    pub fn hear_stranger(&mut self, what: &str, port: u16) {
        let silence = self.link.silence();
        let heard = self.find(silence, |told| match &told.body {
            Body::Udp(datagram) if datagram.destination.port() == port => Some(datagram.payload.clone()),
            _ => None,
        });
        let fields = heard.map_or_else(Fields::none, |payload| Fields::one("told", super::transcript::data(&payload)));
        self.note(what, fields);
    }

    /// Forgets what has come so far.
    pub fn forget(&mut self) {
        self.waiting.clear();
    }

    /// Makes itself known to the network, as a kernel does before it sends its first packet, and finds the gateway.
    ///
    /// # Errors
    ///
    /// When the gateway does not answer.
    pub fn arrive(&mut self) -> Goes {
        self.arp(1, self.v4, GATEWAY);
        self.await_one("the gateway's ARP reply", |told| match &told.body {
            Body::Arp(arp) if arp.operation == 2 && arp.sender == GATEWAY => Some(()),
            _ => None,
        })
    }

    /// Likewise in IPv6.
    ///
    /// # Errors
    ///
    /// When the gateway does not answer.
    pub fn arrive6(&mut self) -> Goes {
        self.solicit(self.v6, GATEWAY6);
        self.await_one("the gateway's neighbour advertisement", |told| match &told.body {
            Body::Icmp(icmp) if icmp.is_discovery() && icmp.kind == 136 => Some(()),
            _ => None,
        })
    }

    /// Asks the link who has an address.
    pub fn solicit(&mut self, from: Ipv6Addr, target: Ipv6Addr) {
        let group = super::frame::solicited_group(target);
        let mut payload = target.octets().to_vec();
        if !from.is_unspecified() {
            payload.extend([1, 1]);
            payload.extend(self.card);
        }
        let icmp = Icmp { source: from.into(), destination: group.into(), kind: 135, code: 0, rest: [0; 4], payload };
        let frame = icmp.frame(self.card, super::frame::card_of_group(group));
        self.send(&frame);
    }
}
