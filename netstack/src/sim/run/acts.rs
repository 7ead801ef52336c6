//! What happens at its time: conversations begin, troubles come and go.

use super::Run;
use crate::host::sim::ConnectionId;
use crate::port::PortId;
use crate::sim::plan::{Trouble, What};
use crate::time::{Duration, Instant};

/// Something that is still to happen.
#[derive(Debug, Clone, Copy)]
pub(super) enum Act {
    StartFlow(usize),
    SendDatagram(usize, u32),
    Begin(usize),
    End(usize),
}

impl Run<'_> {
    pub(super) fn prepare_acts(&mut self) {
        let now = self.world.now;
        let at = |micros: u64| now + Duration::from_micros(micros);
        for (number, flow) in self.plan.flows.iter().enumerate() {
            self.acts.push((at(flow.starts), Act::StartFlow(number)));
        }
        for (number, udp) in self.plan.datagrams.iter().enumerate() {
            self.acts.extend((0..udp.count).map(|n| (at(udp.starts + u64::from(n) * udp.every), Act::SendDatagram(number, n))));
        }
        for (number, Trouble { at: begin, lasts, what }) in self.plan.troubles.iter().enumerate() {
            self.acts.push((at(*begin), Act::Begin(number)));
            if !matches!(what, What::Leap | What::Reboot(_)) {
                self.acts.push((at(begin + lasts), Act::End(number)));
            }
        }
        // The next last; of those at the same time, the first planned last.
        self.acts.reverse();
        self.acts.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    }

    pub(super) fn act(&mut self, act: Act) {
        self.world.trace.remark(self.world.now, || match act {
            Act::StartFlow(number) => format!("--- conversation {number} begins"),
            Act::SendDatagram(number, n) => format!("--- datagram {n} of {number}"),
            Act::Begin(number) => format!("--- {:?} for {} us", self.plan.troubles[number].what, self.plan.troubles[number].lasts),
            Act::End(number) => format!("--- no more {:?}", self.plan.troubles[number].what),
        });
        match act {
            Act::StartFlow(number) => self.start_flow(number),
            Act::SendDatagram(number, n) => self.send_datagram(number, n),
            Act::Begin(number) => self.trouble(&self.plan.troubles[number], true),
            Act::End(number) => self.trouble(&self.plan.troubles[number], false),
        }
        self.settle();
    }

    fn trouble(&mut self, Trouble { lasts, what, .. }: &Trouble, begins: bool) {
        let port = |guest: u8| PortId(guest.into());
        match *what {
            What::Leap => {
                let now: Instant = self.world.now;
                self.world.now = now + Duration::from_micros(*lasts);
            }
            What::Stall(guest) => {
                if let Some(card) = self.world.link.cards.get_mut(&port(guest)) {
                    card.stalled = begins;
                }
            }
            What::Narrow(guest, capacity) => {
                if let Some(card) = self.world.link.cards.get_mut(&port(guest)) {
                    card.capacity = if begins { capacity } else { self.plan.guests[usize::from(guest)].capacity };
                }
            }
            What::Unplug(guest) if begins => {
                self.world.unplug(port(guest));
                self.forget_guest(guest);
                self.forget_sockets(guest);
            }
            What::Unplug(guest) => {
                if !self.world.guests.contains_key(&port(guest)) {
                    self.world.plug(port(guest));
                    if let Some(card) = self.world.link.cards.get_mut(&port(guest)) {
                        card.capacity = self.plan.guests[usize::from(guest)].capacity;
                    }
                }
            }
            What::Reboot(guest) => {
                if self.world.guests.contains_key(&port(guest)) {
                    self.world.reboot(port(guest));
                    self.forget_guest(guest);
                    self.forget_sockets(guest);
                }
            }
            What::Freeze => self.world.frozen = begins,
            What::Refuse(operation, errno, times) if begins => self.world.host.fail(operation, errno, times),
            What::Refuse(..) => {}
            What::Take(flow, most) => {
                if let Some(id) = self.connection_of(flow) {
                    self.world.host.connection_mut(id).take_at_most(begins.then_some(most));
                }
            }
            What::Queue(flow, size) => {
                if let Some(id) = self.connection_of(flow) {
                    let size = if begins { size } else { self.send_queue(flow) };
                    self.world.host.connection_mut(id).set_send_queue(size);
                }
            }
            What::Deaf(flow) => self.set_reads(flow, !begins),
            What::Spurious => self.spurious = begins,
            What::Sockets(most) => self.world.host.set_max_sockets(if begins { most } else { usize::MAX }),
            What::UdpFull => self.world.host.set_udp_full(begins),
            What::Forwards(count) => self.churn(count, begins),
        }
    }

    fn connection_of(&self, flow: usize) -> Option<ConnectionId> {
        self.flows.get(flow)?.connection
    }
}
