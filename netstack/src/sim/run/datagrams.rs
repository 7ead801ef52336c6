//! The UDP conversations of a run. Datagrams may get lost, but none arrives changed, and none from nowhere.

use std::net::{IpAddr, SocketAddr};

use super::{Run, SERVER_V4, SERVER_V6};
use crate::host::sim::{Stream, UdpServer};
use crate::port::PortId;
use crate::sim::guest::UdpId;
use crate::sim::plan::UdpPlan;

/// The first port of servers for datagrams.
const FIRST_SERVER: u16 = 40_000;

/// The number of the conversation and of the datagram.
const HEADER: usize = 5;

pub(super) struct Datagrams {
    plan: UdpPlan,
    server: SocketAddr,
    socket: Option<UdpId>,
    sent: u32,
    pub(super) echoes: u32,
}

impl Run<'_> {
    pub(super) fn prepare_datagrams(&mut self) {
        for (number, plan) in self.plan.datagrams.iter().enumerate() {
            let ip: IpAddr = if plan.v6 { SERVER_V6.into() } else { SERVER_V4.into() };
            let server = SocketAddr::new(ip, FIRST_SERVER + number as u16);
            self.world.host.serve_udp(server, if plan.echo { UdpServer::Echo } else { UdpServer::Silent });
            self.datagrams.push(Datagrams { plan: plan.clone(), server, socket: None, sent: 0, echoes: 0 });
        }
    }

    pub(super) fn send_datagram(&mut self, number: usize, n: u32) {
        let Datagrams { plan, server, socket, sent, .. } = &mut self.datagrams[number];
        let Some(guest) = self.world.guests.get_mut(&PortId(plan.guest.into())) else { return };
        let socket = *socket.get_or_insert_with(|| guest.udp(FIRST_SERVER + number as u16));
        let payload = payload(number as u8, n, plan.size);
        if guest.try_send_to(socket, *server, &payload) {
            *sent += 1;
        }
    }

    pub(super) fn forget_sockets(&mut self, guest: u8) {
        for datagrams in self.datagrams.iter_mut().filter(|datagrams| datagrams.plan.guest == guest) {
            datagrams.socket = None;
        }
    }

    /// Looks at all datagrams that have arrived anywhere.
    pub(super) fn follow_datagrams(&mut self) {
        for sent in self.world.host.sent_datagrams() {
            let plan = self.datagrams.get(number_of(&sent.payload)).filter(|datagrams| datagrams.server == sent.to);
            let whole = plan.is_some_and(|datagrams| is_whole(&sent.payload, datagrams));
            assert!(whole, "a datagram of {} bytes to {} is none that a guest has sent", sent.payload.len(), sent.to);
        }
        self.world.host.forget_datagrams();
        for number in 0..self.datagrams.len() {
            let Datagrams { plan, socket: Some(socket), .. } = &self.datagrams[number] else { continue };
            let Some(guest) = self.world.guests.get_mut(&PortId(plan.guest.into())) else { continue };
            for (from, payload) in guest.receive(*socket) {
                let datagrams = &mut self.datagrams[number];
                let whole = number_of(&payload) == number && is_whole(&payload, datagrams);
                assert!(from == datagrams.server && whole, "a datagram of {} bytes from {from} is no answer", payload.len());
                datagrams.echoes += 1;
            }
        }
    }
}

fn number_of(payload: &[u8]) -> usize {
    payload.first().map_or(usize::MAX, |number| usize::from(*number))
}

fn is_whole(data: &[u8], Datagrams { plan, .. }: &Datagrams) -> bool {
    let Some(header) = data.get(..HEADER) else { return false };
    let n = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
    n < plan.count && data == payload(header[0], n, plan.size)
}

fn payload(number: u8, n: u32, size: usize) -> Vec<u8> {
    let mut bytes = vec![number; size.max(HEADER)];
    bytes[1..HEADER].copy_from_slice(&n.to_be_bytes());
    Stream::new(u64::MAX - u64::from(number)).fill(u64::from(n), &mut bytes[HEADER..]);
    bytes
}
