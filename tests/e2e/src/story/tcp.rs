//! The guest's end of a TCP connection, operated segment by segment.

use std::net::SocketAddr;

use super::frame::{ACK, Body, FIN, PSH, RST, SYN, Segment, Told};
use super::guest::{Goes, Guest};
use super::transcript::{Fields, data};

/// MSS 1460 and window scale 7.
pub const SYN_OPTIONS: [u8; 8] = [2, 4, 0x05, 0xb4, 1, 3, 3, 7];

/// A connection.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Our address and port.
    pub local: SocketAddr,
    /// The other side's.
    pub remote: SocketAddr,
    /// The next sequence number to send.
    pub seq: u32,
    /// The next sequence number that is expected.
    pub ack: u32,
    /// The window field of what is sent.
    pub window: u16,
    /// By how much the other side's windows are to be shifted.
    pub scale: u8,
    /// What came before what was expected.
    kept: Vec<Segment>,
}

impl Connection {
    /// Knows the addresses, and has sent nothing yet.
    pub fn new(guest: &Guest<'_>, port: u16, remote: SocketAddr) -> Self {
        Self { local: SocketAddr::new(guest.ip_like(remote.ip()), port), remote, seq: 1000, ack: 0, window: 0xfaf0, scale: 0, kept: Vec::new() }
    }

    /// Sends a SYN with these options.
    pub fn syn(guest: &mut Guest<'_>, port: u16, remote: SocketAddr, options: &[u8]) -> Self {
        let mut connection = Self::new(guest, port, remote);
        let segment = Segment { options: options.to_vec(), ack: 0, ..connection.segment(SYN) };
        connection.give(guest, &segment);
        connection.seq += 1;
        connection
    }

    /// Opens a connection.
    ///
    /// # Errors
    ///
    /// When there is no SYN-ACK.
    pub fn open(guest: &mut Guest<'_>, port: u16, remote: SocketAddr) -> Goes<Self> {
        let mut connection = Self::syn(guest, port, remote, &SYN_OPTIONS);
        connection.complete(guest)?;
        Ok(connection)
    }

    /// Waits for the SYN-ACK and acknowledges it.
    ///
    /// # Errors
    ///
    /// When it does not come.
    pub fn complete(&mut self, guest: &mut Guest<'_>) -> Goes<Segment> {
        let segment = self.hear(guest, "SYN-ACK", |segment| segment.has(SYN | ACK))?;
        self.ack = segment.seq.wrapping_add(1);
        self.scale = segment.option(3).and_then(|value| value.first().copied()).unwrap_or(0);
        self.acknowledge(guest);
        Ok(segment)
    }

    /// Waits for the SYN of a connection to us at `port`, and answers it.
    ///
    /// # Errors
    ///
    /// When none comes.
    pub fn accept(guest: &mut Guest<'_>, port: u16) -> Goes<Self> {
        let mut connection = Self::called(guest, port)?;
        let segment = Segment { options: SYN_OPTIONS.to_vec(), ..connection.segment(SYN | ACK) };
        connection.give(guest, &segment);
        connection.seq += 1;
        let acknowledges = |told: &Told| connection.is_mine(told).is_some_and(|segment| segment.ack == connection.seq);
        guest.see("ACK of the SYN-ACK", acknowledges)?;
        Ok(connection)
    }

    /// Waits for the SYN of a connection to us at `port`, and leaves it at that.
    ///
    /// # Errors
    ///
    /// When none comes.
    pub fn called(guest: &mut Guest<'_>, port: u16) -> Goes<Self> {
        let syn = guest.await_one("SYN", |told| match &told.body {
            Body::Tcp(segment) if segment.is(SYN) && segment.destination.port() == port => Some(segment.clone()),
            _ => None,
        })?;
        let mut connection = Self::new(guest, port, syn.source);
        guest.name(syn.source, "client");
        let told = Told { source: [0; 6], destination: [0; 6], hops: 0, body: Body::Tcp(syn.clone()), complaint: None };
        let fields = Fields::of(&told, |address| guest.named(address));
        guest.note("SYN", fields);
        connection.ack = syn.seq.wrapping_add(1);
        connection.scale = syn.option(3).and_then(|value| value.first().copied()).unwrap_or(0);
        Ok(connection)
    }

    // ---- Sending ----

    /// A segment with these flags and nothing in it.
    pub const fn segment(&self, flags: u8) -> Segment {
        Segment {
            source: self.local,
            destination: self.remote,
            flags,
            seq: self.seq,
            ack: self.ack,
            window: self.window,
            urgent: 0,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// The frame of a segment.
    pub fn frame(&self, guest: &Guest<'_>, segment: &Segment) -> Vec<u8> {
        segment.frame(guest.card, guest.router(self.remote.is_ipv6()))
    }

    /// Sends a segment.
    pub fn give(&self, guest: &mut Guest<'_>, segment: &Segment) {
        let frame = self.frame(guest, segment);
        guest.send(&frame);
    }

    /// A segment with data at `offset` from the next sequence number.
    pub fn data_at(&self, offset: u32, data: &[u8]) -> Segment {
        Segment { seq: self.seq.wrapping_add(offset), payload: data.to_vec(), ..self.segment(ACK | PSH) }
    }

    /// Sends data in one segment, and counts on it to arrive.
    pub fn send(&mut self, guest: &mut Guest<'_>, data: &[u8]) {
        let segment = self.data_at(0, data);
        self.give(guest, &segment);
        self.sent(data.len());
    }

    /// Counts on so much data to arrive.
    pub const fn sent(&mut self, len: usize) {
        self.seq = self.seq.wrapping_add(len as u32);
    }

    /// Sends an end.
    pub fn finish(&mut self, guest: &mut Guest<'_>) {
        let segment = self.segment(FIN | ACK);
        self.give(guest, &segment);
        self.sent(1);
    }

    /// Sends a reset.
    pub fn reset(&self, guest: &mut Guest<'_>) {
        self.give(guest, &self.segment(RST | ACK));
    }

    /// Acknowledges what was received in order.
    pub fn acknowledge(&self, guest: &mut Guest<'_>) {
        self.give(guest, &self.segment(ACK));
    }

    // ---- Receiving ----

    fn is_mine(&self, told: &Told) -> Option<Segment> {
        match &told.body {
            Body::Tcp(segment) if segment.source == self.remote && segment.destination == self.local => Some(segment.clone()),
            _ => None,
        }
    }

    /// Waits for a segment of this connection of a kind, without taking it down. Segments before it are dropped.
    ///
    /// # Errors
    ///
    /// When it does not come.
    pub fn await_one(&self, guest: &mut Guest<'_>, what: &str, mut is: impl FnMut(&Segment) -> bool) -> Goes<Segment> {
        loop {
            let segment = guest.await_one(what, |told| self.is_mine(told))?;
            if is(&segment) {
                return Ok(segment);
            }
        }
    }

    /// Waits for a segment of this connection of a kind, and takes it down.
    ///
    /// # Errors
    ///
    /// When it does not come.
    pub fn hear(&self, guest: &mut Guest<'_>, what: &str, is: impl FnMut(&Segment) -> bool) -> Goes<Segment> {
        let segment = self.await_one(guest, what, is)?;
        let told = Told { source: [0; 6], destination: [0; 6], hops: 0, body: Body::Tcp(segment.clone()), complaint: None };
        let fields = Fields::of(&told, |address| guest.named(address));
        guest.note(what, fields);
        Ok(segment)
    }

    /// Waits for a reset, and takes it down.
    ///
    /// # Errors
    ///
    /// When it does not come.
    pub fn hear_reset(&self, guest: &mut Guest<'_>) -> Goes<Segment> {
        self.hear(guest, "RST", |segment| segment.has(RST))
    }

    /// Waits until all that was sent is acknowledged.
    ///
    /// # Errors
    ///
    /// When that does not happen.
    pub fn is_acknowledged(&self, guest: &mut Guest<'_>) -> Goes<Segment> {
        self.await_one(guest, "ACK of everything", |segment| segment.ack == self.seq)
    }

    /// Reads so many bytes, acknowledging each segment, and takes down that they came. What comes too early is kept.
    ///
    /// # Errors
    ///
    /// When they do not come.
    pub fn read(&mut self, guest: &mut Guest<'_>, len: usize) -> Goes<Vec<u8>> {
        let (bytes, _) = self.read_until(guest, |bytes, _| bytes.len() >= len)?;
        guest.note("data", Fields::one("data", data(&bytes)));
        Ok(bytes)
    }

    /// Reads to the end, acknowledging each segment, and takes down what came.
    ///
    /// # Errors
    ///
    /// When there is no end.
    pub fn read_to_end(&mut self, guest: &mut Guest<'_>) -> Goes<Vec<u8>> {
        let (bytes, _) = self.read_until(guest, |_, end| end)?;
        let mut fields = Fields::one("data", data(&bytes));
        fields.set("then", "FIN");
        guest.note("data to the end", fields);
        Ok(bytes)
    }

    fn read_until(&mut self, guest: &mut Guest<'_>, done: impl Fn(&[u8], bool) -> bool) -> Goes<(Vec<u8>, bool)> {
        let mut bytes = Vec::new();
        loop {
            let segment = self.await_one(guest, "data", |segment| segment.sequence_len() > 0 || segment.has(RST))?;
            if segment.has(RST) {
                return Err(guest.missing("more data than what came before a RST"));
            }
            let mut end = false;
            self.kept.push(segment);
            while let Some(at) = self.kept.iter().position(|segment| segment.seq == self.ack) {
                let next = self.kept.swap_remove(at);
                self.ack = self.ack.wrapping_add(next.sequence_len());
                bytes.extend(&next.payload);
                end |= next.has(FIN);
            }
            self.acknowledge(guest);
            if done(&bytes, end) {
                return Ok((bytes, end));
            }
        }
    }

    /// Ends our side, reads what still comes, and takes down that both sides have ended.
    ///
    /// # Errors
    ///
    /// When the other side does not end.
    pub fn close(&mut self, guest: &mut Guest<'_>) -> Goes {
        self.finish(guest);
        self.read_to_end(guest)?;
        Ok(())
    }
}
