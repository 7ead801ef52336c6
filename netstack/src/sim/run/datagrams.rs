//! The UDP conversations of a run. Datagrams may get lost, but none arrives changed, and none from nowhere.

use std::net::{IpAddr, SocketAddr};

use super::flows::{CLIENT_V4, CLIENT_V6};
use super::{Run, SERVER_V4, SERVER_V6};
use crate::config::Protocol;
use crate::host::sim::{HOST_V4, HOST_V6, Stream, UdpServer};
use crate::port::PortId;
use crate::sim::guest::{Addresses, UdpId};
use crate::sim::plan::UdpPlan;
use crate::time::Duration;

/// The first port of servers for datagrams, and of clients.
const FIRST_SERVER: u16 = 40_000;

/// The number of the conversation and of the datagram.
const HEADER: usize = 5;

pub(super) struct Datagrams {
    plan: UdpPlan,
    number: u8,
    /// The end that is not the guest's.
    remote: SocketAddr,
    /// What a forward is bound to.
    forward: SocketAddr,
    guest: SocketAddr,
    socket: Option<UdpId>,
    /// Datagrams that one side has received, and answers that the other has.
    pub(super) heard: u32,
    pub(super) echoes: u32,
}

impl Datagrams {
    fn new(number: usize, plan: UdpPlan) -> Self {
        let Addresses { v4, v6, .. } = Addresses::of(plan.guest);
        let ip = |v4: IpAddr, v6: IpAddr| if plan.v6 { v6 } else { v4 };
        let remote = if plan.inbound { ip(CLIENT_V4.into(), CLIENT_V6.into()) } else { ip(SERVER_V4.into(), SERVER_V6.into()) };
        let port = FIRST_SERVER + number as u16;
        Self {
            number: number as u8,
            remote: SocketAddr::new(remote, port),
            forward: SocketAddr::new(ip(HOST_V4.into(), HOST_V6.into()), port),
            guest: SocketAddr::new(ip(v4.into(), v6.into()), port),
            socket: None,
            heard: 0,
            echoes: 0,
            plan,
        }
    }

    fn payload(&self, n: u32) -> Vec<u8> {
        let mut bytes = vec![self.number; self.plan.size.max(HEADER)];
        bytes[1..HEADER].copy_from_slice(&n.to_be_bytes());
        Stream::new(u64::MAX - u64::from(self.number)).fill(u64::from(n), &mut bytes[HEADER..]);
        bytes
    }

    fn is_whole(&self, data: &[u8]) -> bool {
        let n = data.get(1..HEADER).and_then(|n| n.try_into().ok()).map(u32::from_be_bytes);
        n.is_some_and(|n| n <= self.plan.count && data == self.payload(n))
    }
}

impl Run<'_> {
    pub(super) fn prepare_datagrams(&mut self) {
        for (number, plan) in self.plan.datagrams.iter().enumerate() {
            let datagrams = Datagrams::new(number, plan.clone());
            if plan.inbound {
                self.world.forward(Protocol::Udp, datagrams.forward, datagrams.guest);
            } else {
                let server = if plan.echo { UdpServer::Echo } else { UdpServer::Silent };
                self.world.host.serve_udp(datagrams.remote, server);
            }
            self.datagrams.push(datagrams);
        }
    }

    pub(super) fn send_datagram(&mut self, number: usize, n: u32) {
        let datagrams = &mut self.datagrams[number];
        let payload = datagrams.payload(n);
        let guest = self.world.guests.get_mut(&PortId(datagrams.plan.guest.into()));
        if datagrams.socket.is_none() {
            datagrams.socket = guest.map(|guest| guest.udp(datagrams.guest.port()));
        }
        if datagrams.plan.inbound {
            self.world.host.inject_udp(datagrams.forward, datagrams.remote, &payload);
        } else if let (Some(socket), Some(guest)) =
            (datagrams.socket, self.world.guests.get_mut(&PortId(datagrams.plan.guest.into())))
        {
            // When its queue is full, it is lost.
            guest.try_send_to(socket, datagrams.remote, &payload);
        }
    }

    pub(super) fn forget_sockets(&mut self, guest: u8) {
        for datagrams in self.datagrams.iter_mut().filter(|datagrams| datagrams.plan.guest == guest) {
            datagrams.socket = None;
        }
    }

    /// Looks at all datagrams that have arrived anywhere. Returns whether a guest has answered any.
    pub(super) fn follow_datagrams(&mut self) -> bool {
        for sent in self.world.host.sent_datagrams() {
            let number = sent.payload.first().map_or(usize::MAX, |number| usize::from(*number));
            let datagrams = self.datagrams.get_mut(number);
            let whole = datagrams.filter(|datagrams| datagrams.remote == sent.to && datagrams.is_whole(&sent.payload));
            let Some(datagrams) = whole else {
                panic!("a datagram of {} bytes to {} is none that a guest has sent", sent.payload.len(), sent.to)
            };
            *(if datagrams.plan.inbound { &mut datagrams.echoes } else { &mut datagrams.heard }) += 1;
        }
        self.world.host.forget_datagrams();
        let mut busy = false;
        for datagrams in &mut self.datagrams {
            let Some(socket) = datagrams.socket else { continue };
            let Some(guest) = self.world.guests.get_mut(&PortId(datagrams.plan.guest.into())) else { continue };
            for (from, payload) in guest.receive(socket) {
                let whole = from == datagrams.remote && datagrams.is_whole(&payload);
                assert!(whole, "a datagram of {} bytes from {from} is none that was sent", payload.len());
                if datagrams.plan.inbound {
                    datagrams.heard += 1;
                    busy |= datagrams.plan.echo && guest.try_send_to(socket, from, &payload);
                } else {
                    datagrams.echoes += 1;
                }
            }
        }
        busy
    }

    /// After all that has happened, a datagram comes back as if nothing had.
    pub(super) fn one_more_datagram(&mut self) {
        for number in 0..self.datagrams.len() {
            let before = self.datagrams[number].echoes;
            let n = self.datagrams[number].plan.count;
            // What has waited for a guest until now may use up a low limit before it.
            if !self.datagrams[number].plan.echo || self.limits.udp_mappings < self.datagrams.len() {
                continue;
            }
            // Mappings that were made before may have used it up.
            self.until(self.world.now + Duration::from_secs(400));
            self.send_datagram(number, n);
            self.settle();
            self.until(self.world.now + Duration::from_secs(5));
            let Datagrams { remote, echoes, .. } = &self.datagrams[number];
            assert!(*echoes > before, "after all troubles, a datagram between a guest and {remote} is not answered");
        }
    }
}
