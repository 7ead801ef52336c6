//! What must hold of every frame that the stack sends, whatever happens to it afterwards.
//!
//! Of each TCP conversation it is known what the host's side says, so that each segment is held against it at once, also one that gets lost
//! or is sent again. Beside that:
//!
//! - What is acknowledged was sent by the guest, and is in the socket or held; an acknowledgement never goes back.
//! - The right edge of a window never goes back (RFC 9293 section 3.8.6), but for what the scale rounds off.
//! - Nothing is sent beyond the guest's window, but one byte that probes it; nor in segments larger than the guest's MSS.
//!
//! Conversations are told apart by the port of the end that is not the guest's: number 0 has [`FIRST_PORT`], and so on.

use super::wire::{ACK, FIN, RST, SYN};
use crate::frame::FrameMeta;
use crate::host::sim::{ConnectionId, SimHost, Stream};
use crate::stack::Stack;

/// The port of the remote end of conversation number 0.
pub const FIRST_PORT: u16 = 1000;

/// No side says more than this. An acknowledgement beyond it is about an earlier attempt.
const MAX_STREAM: u32 = 1 << 30;

/// The conversations that are watched.
#[derive(Debug, Default)]
pub struct Watch {
    flows: Vec<Flow>,
    /// How many connections of the host were looked at to find out whose they are.
    known: usize,
}

/// A conversation: sequence numbers count from the SYN of their direction.
#[derive(Debug)]
struct Flow {
    says: Stream,
    len: u64,
    connection: Option<ConnectionId>,
    /// From the guest: its SYN, the end of what it has sent, where its FIN is, and how far it lets the stack send.
    irs: Option<u32>,
    sent: u32,
    fin: Option<u32>,
    edge_for_stack: u32,
    guest_scale: Option<u8>,
    guest_mss: Option<u16>,
    /// From the stack: its SYN, what it has acknowledged, and how far it lets the guest send.
    iss: Option<u32>,
    acknowledged: u32,
    edge_for_guest: u32,
    stack_scale: Option<u8>,
}

/// A TCP segment in a frame.
struct Segment<'a> {
    source_port: u16,
    destination_port: u16,
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    options: &'a [u8],
    payload: &'a [u8],
}

impl Watch {
    /// Adds a conversation in which the host's side says so many bytes of a stream. Returns its number.
    pub fn add(&mut self, says: Stream, len: u64) -> usize {
        self.flows.push(Flow {
            says,
            len,
            connection: None,
            irs: None,
            sent: 0,
            fin: None,
            edge_for_stack: 0,
            guest_scale: None,
            guest_mss: None,
            iss: None,
            acknowledged: 0,
            edge_for_guest: 0,
            stack_scale: None,
        });
        self.flows.len() - 1
    }

    /// The connection of the host in which this conversation is held, once there is one.
    pub fn connection(&mut self, host: &SimHost, number: usize) -> Option<ConnectionId> {
        for connection in host.connections().skip(self.known) {
            self.known += 1;
            let number = usize::from(connection.remote().port().wrapping_sub(FIRST_PORT));
            if let Some(flow) = self.flows.get_mut(number) {
                flow.connection = Some(connection.id());
            }
        }
        self.flows.get(number)?.connection
    }

    /// A guest sends a frame, finished or not.
    pub(super) fn guest_sends(&mut self, frame: &[u8]) {
        let Some(segment) = Segment::of(frame) else { return };
        let Some(flow) = self.flows.get_mut(usize::from(segment.destination_port.wrapping_sub(FIRST_PORT))) else { return };
        flow.guest_has_sent(&segment);
    }

    /// The stack sends a frame.
    ///
    /// # Panics
    ///
    /// When it must not.
    pub(super) fn stack_sends(&mut self, frame: &[u8], meta: FrameMeta, host: &SimHost, stack: &Stack) {
        let Some(segment) = Segment::of(frame) else { return };
        let number = usize::from(segment.source_port.wrapping_sub(FIRST_PORT));
        let connection = self.connection(host, number);
        let Some(flow) = self.flows.get_mut(number) else { return };
        if segment.flags & RST != 0 {
            return;
        }
        flow.check_acknowledgement(number, &segment);
        if let Some(connection) = connection.map(|id| host.connection(id)).filter(|connection| connection.is_established()) {
            let data = flow.acknowledged_data();
            let safe = connection.taken() + stack.usage().tcp_held_bytes as u64;
            assert!(
                data <= safe,
                "conversation {number}: {data} bytes are acknowledged, but only {safe} are in the socket or held"
            );
        }
        flow.check_payload(number, &segment, meta);
    }
}

impl Flow {
    fn guest_has_sent(&mut self, segment: &Segment<'_>) {
        if segment.flags & RST != 0 {
            return;
        }
        let syn = segment.flags & SYN != 0;
        if syn {
            self.irs = Some(segment.seq);
            self.guest_scale = option(segment.options, 3).and_then(|value| value.first().copied());
            self.guest_mss = option(segment.options, 2).and_then(|value| Some(u16::from_be_bytes(value.try_into().ok()?)));
        }
        let Some(irs) = self.irs else { return };
        let end = segment.seq.wrapping_sub(irs) + segment.payload.len() as u32 + u32::from(syn);
        let fin = segment.flags & FIN != 0;
        if fin {
            self.fin = Some(end);
        }
        self.sent = self.sent.max(end + u32::from(fin));
        if let Some(iss) = self.iss
            && segment.flags & ACK != 0
        {
            let window = u32::from(segment.window) << if syn { 0 } else { self.scale(self.guest_scale) };
            let ack = segment.ack.wrapping_sub(iss);
            if ack <= MAX_STREAM {
                self.edge_for_stack = self.edge_for_stack.max(ack + window);
            }
        }
    }

    /// The scale of one side's windows: none unless both offer it (RFC 7323 section 2.2).
    fn scale(&self, of: Option<u8>) -> u8 {
        if self.guest_scale.is_some() && self.stack_scale.is_some() { of.unwrap_or(0) } else { 0 }
    }

    fn check_acknowledgement(&mut self, number: usize, segment: &Segment<'_>) {
        let syn = segment.flags & SYN != 0;
        if syn {
            if self.iss.is_some_and(|iss| iss != segment.seq) {
                // The guest did not get to know that its first attempt has failed, and has asked again.
                (self.acknowledged, self.edge_for_guest, self.edge_for_stack) = (0, 0, 0);
            }
            self.iss = Some(segment.seq);
            self.stack_scale = option(segment.options, 3).and_then(|value| value.first().copied());
        }
        let (Some(irs), true) = (self.irs, segment.flags & ACK != 0) else { return };
        let ack = segment.ack.wrapping_sub(irs);
        assert!(ack <= self.sent, "conversation {number}: {ack} is acknowledged, but the guest has sent only {}", self.sent);
        assert!(
            ack >= self.acknowledged,
            "conversation {number}: the acknowledgement goes back from {} to {ack}",
            self.acknowledged
        );
        self.acknowledged = ack;
        let scale = if syn { 0 } else { self.scale(self.stack_scale) };
        let edge = ack + (u32::from(segment.window) << scale);
        let rounded_off = (1 << scale) - 1;
        let before = self.edge_for_guest;
        // After its end the guest has no use for a window.
        assert!(
            edge + rounded_off >= before || self.fin.is_some_and(|fin| ack > fin),
            "conversation {number}: the window's right edge goes back from {before} to {edge}"
        );
        self.edge_for_guest = before.max(edge);
    }

    /// Bytes of the guest that were acknowledged, without SYN and FIN.
    fn acknowledged_data(&self) -> u64 {
        let fin = self.fin.is_some_and(|fin| self.acknowledged > fin);
        u64::from(self.acknowledged.saturating_sub(1 + u32::from(fin)))
    }

    fn check_payload(&self, number: usize, segment: &Segment<'_>, meta: FrameMeta) {
        let Some(iss) = self.iss.filter(|_| !segment.payload.is_empty()) else { return };
        let at = segment.seq.wrapping_sub(iss);
        let offset = u64::from(at) - 1;
        let len = segment.payload.len();
        assert!(offset + len as u64 <= self.len, "conversation {number}: the stack sends {len} bytes at {offset} of {}", self.len);
        if let Some(wrong) = self.says.first_difference(offset, segment.payload) {
            panic!("conversation {number}: the stack sends a wrong byte at {wrong}, in {len} bytes at {offset}");
        }
        let (end, edge) = (at + len as u32, self.edge_for_stack);
        assert!(
            end <= edge + u32::from(len == 1),
            "conversation {number}: the stack sends {end}, beyond the window's end at {edge}"
        );
        let largest = meta.gso.map_or(len, |gso| usize::from(gso.size));
        let mss = self.guest_mss.map_or(536, usize::from);
        assert!(largest <= mss, "conversation {number}: a segment of {largest} bytes for a guest that takes {mss}");
    }
}

impl<'a> Segment<'a> {
    fn of(frame: &'a [u8]) -> Option<Self> {
        let (protocol, transport) = match frame.get(12..14)? {
            [0x08, 0x00] => (*frame.get(23)?, 14 + usize::from(frame[14] & 15) * 4),
            [0x86, 0xdd] => (*frame.get(20)?, 54),
            _ => return None,
        };
        let tcp = frame.get(transport..).filter(|tcp| protocol == super::wire::PROTOCOL_TCP && tcp.len() >= 20)?;
        let header = usize::from(tcp[12] >> 4) * 4;
        let half = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        let word = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
        Some(Self {
            source_port: half(0),
            destination_port: half(2),
            seq: word(4),
            ack: word(8),
            flags: tcp[13],
            window: half(14),
            options: tcp.get(20..header)?,
            payload: tcp.get(header..)?,
        })
    }
}

/// The value of the option of this kind.
fn option(mut options: &[u8], kind: u8) -> Option<&[u8]> {
    loop {
        match options {
            [] | [0, ..] | [_] => return None,
            [1, rest @ ..] => options = rest,
            [found, len, ..] => {
                let value = options.get(2..usize::from(*len))?;
                if *found == kind {
                    return Some(value);
                }
                options = &options[usize::from(*len)..];
            }
        }
    }
}
