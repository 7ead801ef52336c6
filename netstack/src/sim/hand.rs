//! A TCP endpoint operated by hand, for the segments that no decent stack sends.

use std::net::SocketAddr;

use super::wire::{ACK, FIN, PSH, RST, SYN, Segment};
use super::world::World;

/// The guest's end of a connection, at the port operated by hand.
#[derive(Debug, Clone)]
pub struct Hand {
    /// The guest's end.
    pub local: SocketAddr,
    /// The other end, as the guest sees it.
    pub remote: SocketAddr,
    /// The next sequence number to send.
    pub seq: u32,
    /// The next sequence number that is expected.
    pub ack: u32,
    /// The window field of what is sent.
    pub window: u16,
    /// By how much the stack's windows are to be shifted.
    pub scale: u8,
}

/// MSS 1460, window scale 7, and a padding.
pub const SYN_OPTIONS: [u8; 8] = [2, 4, 0x05, 0xb4, 1, 3, 3, 7];

impl Hand {
    /// Knows the addresses, and has sent nothing yet.
    pub fn new(world: &World, port: u16, remote: SocketAddr) -> Self {
        let local = SocketAddr::new(world.station().like(remote.ip()), port);
        Self { local, remote, seq: 1000, ack: 0, window: 0xffff, scale: 0 }
    }

    /// Sends a SYN and looks no further.
    pub fn syn(world: &mut World, port: u16, remote: SocketAddr) -> Self {
        let mut hand = Self::new(world, port, remote);
        world.give(&Segment { options: SYN_OPTIONS.to_vec(), ack: 0, ..hand.segment(SYN) });
        hand.seq += 1;
        hand
    }

    /// Opens a connection that is answered at once.
    #[track_caller]
    pub fn open(world: &mut World, port: u16, remote: SocketAddr) -> Self {
        let mut hand = Self::syn(world, port, remote);
        hand.complete(world);
        hand
    }

    /// Takes the SYN-ACK, and acknowledges it.
    #[track_caller]
    pub fn complete(&mut self, world: &mut World) -> Segment {
        let segments = self.take(world);
        let [syn_ack] = &segments[..] else { panic!("one SYN-ACK, not {segments:?}") };
        assert!(syn_ack.is(SYN | ACK), "{syn_ack:?}");
        assert_eq!(syn_ack.ack, self.seq);
        self.ack = syn_ack.seq.wrapping_add(1);
        self.scale = syn_ack.window_scale().unwrap_or(0);
        world.give(&self.segment(ACK));
        syn_ack.clone()
    }

    /// Waits for the SYN of a connection to the guest at `port`, and answers it with a SYN-ACK.
    #[track_caller]
    pub fn answer(world: &mut World, port: u16) -> Self {
        let mut segments = world.take_segments();
        segments.retain(|segment| segment.is(SYN) && segment.destination.port() == port);
        let [syn] = &segments[..] else { panic!("one SYN, not {segments:?}") };
        let mut hand = Self::new(world, port, syn.source);
        hand.ack = syn.seq.wrapping_add(1);
        hand.scale = syn.window_scale().unwrap_or(0);
        world.give(&Segment { options: SYN_OPTIONS.to_vec(), ..hand.segment(SYN | ACK) });
        hand.seq += 1;
        hand
    }

    /// A segment with these flags and nothing in it.
    pub const fn segment(&self, flags: u8) -> Segment {
        Segment {
            source: self.local,
            destination: self.remote,
            flags,
            seq: self.seq,
            ack: self.ack,
            window: self.window,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// A segment with data that has the sequence number `seq`.
    pub fn data_at(&self, seq: u32, data: &[u8]) -> Segment {
        Segment { seq, payload: data.to_vec(), ..self.segment(ACK | PSH) }
    }

    /// Sends data, and counts on it to arrive.
    pub fn send(&mut self, world: &mut World, data: &[u8]) {
        world.give(&self.data_at(self.seq, data));
        self.seq = self.seq.wrapping_add(u32::try_from(data.len()).unwrap());
    }

    /// Sends FIN, and counts on it to arrive.
    pub fn finish(&mut self, world: &mut World) {
        world.give(&self.segment(FIN | ACK));
        self.seq = self.seq.wrapping_add(1);
    }

    /// Sends a reset with the next sequence number.
    pub fn reset(&self, world: &mut World) {
        world.give(&self.segment(RST | ACK));
    }

    /// Acknowledges everything that was expected so far.
    pub fn acknowledge(&self, world: &mut World) {
        world.give(&self.segment(ACK));
    }

    /// The segments of this connection that have arrived; what else came is dropped.
    pub fn take(&self, world: &mut World) -> Vec<Segment> {
        let mine = |segment: &Segment| segment.source == self.remote && segment.destination == self.local;
        world.take_segments().into_iter().filter(mine).collect()
    }

    /// Takes what has arrived in order, acknowledges it, and returns the bytes and whether an end came.
    #[track_caller]
    pub fn receive(&mut self, world: &mut World) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        let mut end = false;
        loop {
            let mut progress = false;
            for segment in self.take(world) {
                if segment.sequence_len() == 0 {
                    continue;
                }
                assert_eq!(segment.seq, self.ack, "in order");
                self.ack = self.ack.wrapping_add(segment.sequence_len());
                bytes.extend(&segment.payload);
                end |= segment.has(FIN);
                progress = true;
            }
            if !progress {
                return (bytes, end);
            }
            self.acknowledge(world);
        }
    }

    /// Takes what has arrived in order, and keeps silent about it. Returns the bytes and whether an end came.
    pub fn receive_without_acknowledging(&mut self, world: &mut World) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        let mut end = false;
        for segment in self.take(world) {
            if segment.sequence_len() > 0 && segment.seq == self.ack {
                self.ack = self.ack.wrapping_add(segment.sequence_len());
                bytes.extend(&segment.payload);
                end |= segment.has(FIN);
            }
        }
        (bytes, end)
    }

    /// The window that a segment of the stack offers, in bytes.
    pub fn window_of(&self, segment: &Segment) -> u32 {
        u32::from(segment.window) << if segment.has(SYN) { 0 } else { self.scale }
    }
}
