//! A guest operated by hand, whose conversations are recorded.

use std::net::SocketAddr;

use etherparse::{PacketBuilder, PacketHeaders, TransportHeader};
use netstack::frame::Offloads;
use netstack::host::sim::ConnectionId;
use netstack::replay::record::{Recorded, Recorder, Setup};
use netstack::replay::{Options, Report, replay};
use netstack::time::Duration;

pub(crate) const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
pub(crate) const GATEWAY: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];
pub(crate) const ADDRESS: [u8; 4] = [10, 0, 2, 15];

/// A server on the Internet.
pub(crate) const SERVER: &str = "198.51.100.7:80";

pub(crate) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A recorder without IPv6, so that nothing is said unasked.
pub(crate) fn recorder(user: &str) -> Recorder {
    let user = if user.is_empty() { "ipv6=off".to_owned() } else { format!("ipv6=off,{user}") };
    Recorder::new(Setup { user, ..Setup::default() }).unwrap()
}

pub(crate) fn recorder_with(offloads: Offloads) -> Recorder {
    Recorder::new(Setup { user: "ipv6=off".to_owned(), offloads, ..Setup::default() }).unwrap()
}

/// A TCP segment as the tests look at it.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) flags: String,
    pub(crate) seq: u32,
    pub(crate) payload: Vec<u8>,
}

/// The TCP segments that have come.
pub(crate) fn segments(recorder: &mut Recorder) -> Vec<Segment> {
    let received = recorder.received();
    received.iter().filter_map(|frame| segment(&frame.bytes)).collect()
}

fn segment(frame: &[u8]) -> Option<Segment> {
    let packet = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let Some(TransportHeader::Tcp(tcp)) = packet.transport else { return None };
    let bits = [(tcp.syn, 'S'), (tcp.fin, 'F'), (tcp.rst, 'R'), (tcp.ack, 'A')];
    let flags = bits.into_iter().filter(|(set, _)| *set).map(|(_, letter)| letter).collect();
    let payload = packet.payload.slice().to_vec();
    Some(Segment { flags, seq: tcp.sequence_number, payload })
}

/// The guest's end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) window: u16,
}

impl Connection {
    pub(crate) fn new(port: u16, remote: SocketAddr) -> Self {
        Self { local: SocketAddr::new(ADDRESS.into(), port), remote, seq: 1000, ack: 0, window: 0xffff }
    }

    /// Sends a SYN.
    pub(crate) fn syn(recorder: &mut Recorder, port: u16, remote: &str) -> Self {
        let mut connection = Self::new(port, at(remote));
        connection.send(recorder, "S", &[]);
        connection.seq += 1;
        connection
    }

    /// Opens a connection that is answered at once.
    pub(crate) fn open(recorder: &mut Recorder, port: u16, remote: &str) -> Self {
        let mut connection = Self::syn(recorder, port, remote);
        connection.established(recorder);
        connection
    }

    /// Takes the SYN-ACK and acknowledges it.
    pub(crate) fn established(&mut self, recorder: &mut Recorder) {
        recorder.settle();
        let segments = segments(recorder);
        let [syn_ack] = &segments[..] else { panic!("one SYN-ACK, not {segments:?}") };
        assert_eq!(syn_ack.flags, "SA");
        self.ack = syn_ack.seq.wrapping_add(1);
        self.send(recorder, "A", &[]);
        recorder.settle();
    }

    /// A segment with these flags, with the next turn. It is not counted on to arrive.
    pub(crate) fn send(&self, recorder: &mut Recorder, flags: &str, payload: &[u8]) {
        recorder.send(&self.frame(flags, payload));
    }

    pub(crate) fn frame(&self, flags: &str, payload: &[u8]) -> Vec<u8> {
        self.frame_with(flags, payload, &[])
    }

    pub(crate) fn frame_with(&self, flags: &str, payload: &[u8], options: &[u8]) -> Vec<u8> {
        let (SocketAddr::V4(local), SocketAddr::V4(remote)) = (self.local, self.remote) else { panic!("IPv4 only") };
        let mut tcp = PacketBuilder::ethernet2(MAC, GATEWAY).ipv4(local.ip().octets(), remote.ip().octets(), 64).tcp(
            local.port(),
            remote.port(),
            self.seq,
            self.window,
        );
        for flag in flags.chars() {
            tcp = match flag {
                'S' => tcp.syn(),
                'F' => tcp.fin(),
                'R' => tcp.rst(),
                'P' => tcp.psh(),
                _ => tcp.ack(self.ack),
            };
        }
        let tcp = tcp.options_raw(options).unwrap();
        let mut frame = Vec::new();
        tcp.write(&mut frame, payload).unwrap();
        frame
    }

    /// Sends data, and counts on it to arrive.
    pub(crate) fn write(&mut self, recorder: &mut Recorder, data: &[u8]) {
        self.send(recorder, "AP", data);
        self.seq = self.seq.wrapping_add(data.len() as u32);
        recorder.settle();
    }

    pub(crate) fn finish(&mut self, recorder: &mut Recorder) {
        self.send(recorder, "AF", &[]);
        self.seq = self.seq.wrapping_add(1);
        recorder.settle();
    }

    /// Takes what has come in order, and acknowledges it, until nothing more comes.
    pub(crate) fn read(&mut self, recorder: &mut Recorder) -> (Vec<u8>, bool) {
        let (mut bytes, mut end) = (Vec::new(), false);
        recorder.settle();
        loop {
            let mut news = false;
            for segment in segments(recorder) {
                if segment.seq != self.ack || segment.payload.is_empty() && !segment.flags.contains('F') {
                    continue;
                }
                self.ack = self.ack.wrapping_add(segment.payload.len() as u32 + u32::from(segment.flags.contains('F')));
                end |= segment.flags.contains('F');
                bytes.extend(segment.payload);
                news = true;
            }
            if !news {
                return (bytes, end);
            }
            self.send(recorder, "A", &[]);
            recorder.settle();
        }
    }
}

/// The guest sends a datagram.
pub(crate) fn datagram(recorder: &mut Recorder, port: u16, to: &str, payload: &[u8]) {
    let SocketAddr::V4(to) = at(to) else { panic!("IPv4 only") };
    let mut frame = Vec::new();
    let packet = PacketBuilder::ethernet2(MAC, GATEWAY).ipv4(ADDRESS, to.ip().octets(), 64).udp(port, to.port());
    packet.write(&mut frame, payload).unwrap();
    recorder.send(&frame);
    recorder.settle();
}

/// The guest tells who it is, or asks who has an address.
pub(crate) fn arp(recorder: &mut Recorder, operation: u16, target: [u8; 4]) {
    let mut frame = [&[0xff; 6][..], &MAC, &[8, 6, 0, 1, 8, 0, 6, 4]].concat();
    frame.extend(operation.to_be_bytes());
    frame.extend([&MAC[..], &ADDRESS, &[0; 6], &target].concat());
    recorder.send(&frame);
    recorder.settle();
}

/// The peer of the connection that was made last.
pub(crate) fn last(recorder: &mut Recorder) -> ConnectionId {
    recorder.host().last_connection().unwrap()
}

/// Lets the engine's next turn come, some time later.
pub(crate) fn later(recorder: &mut Recorder) {
    recorder.pass(Duration::from_millis(3));
}

/// Ends a recording, which must replay.
#[track_caller]
pub(crate) fn done(recorder: Recorder) -> Recorded {
    match recorder.finish("a test") {
        Ok(recorded) => recorded,
        Err(error) => panic!("{error}"),
    }
}

/// Plays a recording again.
#[track_caller]
pub(crate) fn play(recorded: &Recorded) -> Report {
    replay(&recorded.file, recorded.sidecar.clone(), &Options::default()).unwrap()
}
