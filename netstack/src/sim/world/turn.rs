//! What everybody does in one turn, and the way of frames between guests and stack.

use std::net::IpAddr;

use super::{InFlight, PORT, World};
use crate::frame::{Checksum, Chunk, Frame, FrameMeta};
use crate::host::Host;
use crate::port::PortId;
use crate::sim::wire::{self, Arp, Body, Icmp};
use crate::sim::{card, fragments};
use crate::stack::Context;
use crate::time::{Duration, Instant};

/// News of sockets that one turn takes.
const EVENTS: usize = 16;

impl World {
    pub(in crate::sim) fn move_to(&mut self, next: Instant) {
        // Whoever names a deadline that is past gets the next microsecond, so that every run ends.
        self.now = next.max(self.now + Duration::from_micros(1));
    }

    pub(in crate::sim) fn next_deadline(&mut self) -> Option<Instant> {
        let stack = self.stack.next_deadline().filter(|_| !self.frozen);
        let mut next =
            [stack, self.host.next_deadline(), self.in_flight.keys().next().map(|(at, _)| *at)].into_iter().flatten().min();
        for guest in self.guests.values_mut() {
            let deadline = guest.next_deadline(self.now);
            next = next.into_iter().chain(deadline).min();
        }
        next
    }

    /// One turn of what the engine does, and of everybody else. Returns whether there may be more to do now.
    pub(in crate::sim) fn turn(&mut self) -> bool {
        let mut busy = false;
        self.host.advance(self.now);
        if !self.frozen {
            busy |= self.take_events();
            for flight in std::mem::take(&mut self.backlog) {
                busy = true;
                self.land(flight);
            }
        }
        while let Some(entry) = self.in_flight.first_entry().filter(|entry| entry.key().0 <= self.now) {
            busy = true;
            let flight = entry.remove();
            if flight.to_stack && self.frozen {
                self.backlog.push(flight);
            } else {
                self.land(flight);
            }
        }
        if !self.frozen {
            if self.stack.next_deadline().is_some_and(|deadline| deadline <= self.now) {
                self.stack.expire(context!(self));
                busy |= self.stack.next_deadline().is_none_or(|deadline| deadline > self.now);
            }
            busy |= self.stack.run(context!(self));
        }
        busy |= self.carry_to_guests();
        busy |= self.poll_guests();
        busy
    }

    /// Hands the news of sockets to the stack. Returns whether there were any.
    fn take_events(&mut self) -> bool {
        let mut events = std::mem::take(&mut self.events);
        events.reserve_exact(EVENTS);
        self.host.events(&mut events);
        let busy = !events.is_empty();
        for event in events.drain(..) {
            self.stack.host_event(context!(self), event);
        }
        self.events = events;
        busy
    }

    pub(super) fn input(&mut self, port: PortId, frame: &[u8], meta: FrameMeta) {
        self.trace.note(self.now, true, port, frame, meta);
        // Two pieces, as a guest's descriptors may be.
        let (first, second) = frame.split_at(frame.len().min(37));
        let chunks = [Chunk::from(first), Chunk::from(second)];
        self.stack.input(context!(self), port, &Frame::new(&chunks, meta));
    }

    fn land(&mut self, flight: InFlight) {
        if flight.to_stack {
            self.input(flight.port, &flight.frame, flight.meta);
        } else if let Some(guest) = self.guests.get_mut(&flight.port) {
            guest.deliver(flight.frame);
        }
    }

    fn carry_to_guests(&mut self) -> bool {
        let mut busy = false;
        let mut carried = std::mem::take(&mut self.carried);
        for (port, queue) in &mut self.link.cards {
            if !queue.stalled {
                carried.extend(queue.frames.drain(..).map(|(frame, meta)| (*port, queue.mtu, frame, meta)));
            }
            if queue.was_full && queue.frames.len() < queue.capacity && !self.frozen {
                queue.was_full = false;
                if self.stack.waits_for(*port) {
                    self.stack.port_writable(*port);
                    busy = true;
                }
            }
        }
        busy |= !carried.is_empty();
        for (port, mtu, frame, meta) in carried.drain(..) {
            self.trace.note(self.now, false, port, &frame, meta);
            if let Some(watch) = &mut self.watch {
                watch.stack_sends(&frame, meta, &self.host, &self.stack);
            }
            for frame in card::transmit(frame, meta, mtu) {
                if self.guests.contains_key(&port) {
                    // What is cut is checked when the guest has put it together.
                    if !fragments::is_fragment(&frame) {
                        wire::check(&frame);
                    }
                    self.fly(InFlight { port, to_stack: false, frame, meta: FrameMeta::default() });
                } else {
                    self.receive_by_hand(&frame);
                }
            }
        }
        self.carried = carried;
        busy
    }

    fn poll_guests(&mut self) -> bool {
        let mut sent = std::mem::take(&mut self.sent);
        for (port, guest) in &mut self.guests {
            let frames = guest.poll(self.now);
            let joins = guest.segments;
            let flight = |frame, meta| InFlight { port: *port, to_stack: true, frame, meta };
            if joins {
                sent.extend(card::join(frames).into_iter().map(|(frame, meta)| flight(frame, meta)));
            } else {
                sent.extend(frames.into_iter().map(|frame| flight(frame, FrameMeta::default())));
            }
        }
        let busy = !sent.is_empty();
        for flight in sent.drain(..) {
            if let Some(watch) = &mut self.watch {
                watch.guest_sends(&flight.frame);
            }
            self.fly(flight);
        }
        self.sent = sent;
        busy
    }

    fn fly(&mut self, mut flight: InFlight) {
        if self.random.chance(self.faults.lost) {
            return;
        }
        let mut at = self.now + self.setup.latency;
        if self.random.chance(self.faults.late) {
            at = at + Duration::from_micros(self.random.below(3000));
        }
        // What has no checksum yet cannot be damaged: it has crossed no wire. Neither is what nobody could notice.
        if flight.meta.checksum == Checksum::Complete && self.random.chance(self.faults.damaged) && is_covered(&flight) {
            // The Ethernet header is left alone: the card checks it, and no checksum of ours covers it.
            let bit = 14 * 8 + self.random.below((flight.frame.len() as u64 - 14) * 8);
            let byte = usize::try_from(bit / 8).unwrap();
            flight.frame[byte] ^= 1 << (bit % 8);
        }
        if self.random.chance(self.faults.doubled) {
            let again = InFlight { frame: flight.frame.clone(), ..flight };
            self.flights += 1;
            self.in_flight.insert((at + Duration::from_micros(self.random.below(500)), self.flights), again);
        }
        self.flights += 1;
        self.in_flight.insert((at, self.flights), flight);
    }

    fn receive_by_hand(&mut self, frame: &[u8]) {
        self.fragments_received += u64::from(fragments::is_fragment(frame));
        let Some(frame) = self.assembler.add(frame) else { return };
        let parsed = wire::parse(&frame);
        let me = self.station();
        if self.answers_neighbours {
            match &parsed.body {
                Body::Arp(arp) if arp.operation == 1 && arp.target == me.v4 => {
                    let reply =
                        Arp { operation: 2, sender_mac: me.mac, sender: me.v4, target_mac: arp.sender_mac, target: arp.sender };
                    let frame = wire::ethernet(me.mac, arp.sender_mac, wire::ETHERTYPE_ARP, &reply.bytes());
                    self.input(PORT, &frame, FrameMeta::default());
                }
                Body::Icmp(Icmp { kind: 135, source, payload, .. }) if payload.get(..16) == Some(&me.v6.octets()) => {
                    let payload = [&me.v6.octets()[..], &[2, 1], &me.mac.0].concat();
                    let answer = Icmp {
                        source: IpAddr::V6(me.v6),
                        destination: *source,
                        kind: 136,
                        code: 0,
                        rest: [0x60, 0, 0, 0],
                        payload,
                    };
                    let frame = wire::ip_frame(me.mac, parsed.source, &answer.packet());
                    self.input(PORT, &frame, FrameMeta::default());
                }
                _ => {}
            }
        }
        self.inbox.push_back((self.now, parsed));
    }
}

/// Whether a checksum that every receiver looks at covers the frame. ARP has none, and a guest's UDP over IPv4 may have none.
fn is_covered(flight: &InFlight) -> bool {
    flight.to_stack || flight.frame[12..14] != [0x08, 0x06]
}
