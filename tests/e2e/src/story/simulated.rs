//! Virtual time: the engine's core and a simulated host, and a recording of what the guest and the engine said.
//!
//! The same story gives the same recording, byte for byte.

mod tftp;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use netstack::frame::FrameMeta;
use netstack::host::StreamService;
use netstack::host::sim::{ConnectionId, Program, Server, SimHost, UdpServer};
use netstack::port::PortId;
use netstack::replay::record::{RecordError, Recorded, Recorder, Setup};

use self::tftp::TftpServer;
use super::Story;
use super::guest::{self, Goes};
use super::link::{Datagrams, Link, Resolver, Sent, Stream, loopback};
use super::transcript::Transcript;

/// How long a guest takes to answer what it has received.
const REACTION: Duration = Duration::from_micros(150);

/// How long it waits for what is expected. The longest timers of TCP are a few minutes long.
const PATIENCE: Duration = Duration::from_secs(600);

/// The first port of servers at the host's loopback addresses.
const FIRST_PORT: u16 = 7001;

/// The host's port that leads to the guest, where a network has one.
const FORWARD: u16 = 8022;

/// Where the files are that the gateway serves, in the words of the recording.
const FILES_PLACE: &str = "/srv/tftp";

/// Where clients of the forward come from.
const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 99)), 55_555);

/// Who has no business with the guest.
const STRANGER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)), 9);

/// The network and the host that a story plays against.
#[derive(Debug)]
pub struct Simulated {
    recorder: Recorder,
    arrived: VecDeque<Sent>,
    /// Whether the guest has to take its time before it sends again.
    reacts: bool,
    next_port: u16,
    /// How the peers at these addresses behave beyond what the host does for them.
    behaviours: HashMap<SocketAddr, Stream>,
    /// Which of their connections have been dealt with.
    begun: usize,
    sleeping: BTreeMap<Duration, ConnectionId>,
    resolves: Option<Resolver>,
    tftp: TftpServer,
}

/// Plays a story in virtual time.
///
/// # Errors
///
/// When the network cannot be made, or its recording does not replay.
///
/// # Panics
///
/// When the story does not come to its end.
pub fn record(story: &Story) -> Result<Recorded, RecordError> {
    let (transcript, outcome, recorded) = play(story)?;
    assert!(!transcript.has_doubts(), "{}:\n{transcript}", story.name);
    if let Err(guest::Missing(what)) = outcome {
        let so_far = std::env::temp_dir().join("slipway-story.pcapng");
        recorded.save(&so_far)?;
        panic!("{}: {what} did not come; what was said is in {}:\n{transcript}", story.name, so_far.display());
    }
    Ok(recorded)
}

/// Likewise, however the story ends; returns what the guest was told too.
///
/// # Errors
///
/// As [`record`].
pub fn play(story: &Story) -> Result<(Transcript, Goes, Recorded), RecordError> {
    let user = story.user.replace("{port}", &FORWARD.to_string()).replace("{files}", FILES_PLACE);
    let setup = Setup { user, mtu: story.mtu, offloads: story.offloads, limits: story.limits(), ..Setup::default() };
    let mut link = Simulated::new(Recorder::new(setup)?);
    let (transcript, outcome) = story.play(&mut link);
    link.settle();
    Ok((transcript, outcome, link.recorder.finish(story.line)?))
}

impl Simulated {
    /// A link to the first port of this engine.
    pub fn new(recorder: Recorder) -> Self {
        Self {
            recorder,
            arrived: VecDeque::new(),
            reacts: false,
            next_port: FIRST_PORT,
            behaviours: HashMap::new(),
            begun: 0,
            sleeping: BTreeMap::new(),
            resolves: None,
            tftp: TftpServer::default(),
        }
    }

    fn free_address(&mut self, ipv6: bool) -> SocketAddr {
        let address = SocketAddr::new(loopback(ipv6), self.next_port);
        self.next_port += 1;
        address
    }

    fn put(&mut self, address: SocketAddr, stream: Stream) {
        self.behaviours.insert(address, stream);
        self.recorder.host().serve(address, server(stream));
    }

    /// Everything that follows from what was sent, and what peers do about it.
    fn settle(&mut self) {
        loop {
            self.recorder.settle();
            let answered = self.answer_questions();
            let now = self.now();
            let acted = self.act() | self.tftp.act(self.recorder.host(), now);
            if !answered && !acted {
                break;
            }
        }
        self.collect();
    }

    fn collect(&mut self) {
        self.arrived.extend(self.recorder.received().into_iter().map(|received| (received.bytes, received.meta)));
    }

    fn answer_questions(&mut self) -> bool {
        let mut answered = false;
        for question in self.recorder.questions() {
            if let Some(answer) = self.resolves.and_then(|resolves| resolves(&question.message)) {
                self.recorder.answer(question.way_back, &answer);
                answered = true;
            }
        }
        answered
    }

    /// Does for the peers what the host does not do by itself. Returns whether anything happened.
    fn act(&mut self) -> bool {
        let now = self.now();
        let mut acted = false;
        let host = self.recorder.host();
        let all: Vec<_> = host.connections().map(|connection| (connection.id(), connection.remote())).collect();
        for (id, remote) in all.iter().skip(self.begun) {
            match self.behaviours.get(remote) {
                Some(Stream::Says(text)) => {
                    let connection = host.connection_mut(*id);
                    connection.push(text);
                    connection.finish();
                }
                Some(Stream::Sleeps { time, .. }) => drop(self.sleeping.insert(now + *time, *id)),
                _ => {}
            }
            acted = true;
        }
        self.begun = all.len();
        for (id, remote) in all {
            if let Some(Stream::Concludes(text)) = self.behaviours.get(&remote)
                && host.connection(id).saw_end()
                && host.connection(id).written_len() == 0
            {
                let connection = host.connection_mut(id);
                connection.push(text);
                connection.close();
                acted = true;
            }
        }
        while let Some(entry) = self.sleeping.first_entry().filter(|entry| *entry.key() <= now) {
            host.connection_mut(entry.remove()).run(Program::Sink);
            acted = true;
        }
        acted
    }
}

/// What the host does by itself for a peer.
fn server(stream: Stream) -> Server {
    match stream {
        Stream::Echo => Server::new(Program::Echo),
        Stream::Sink | Stream::Says(_) => Server::new(Program::Sink),
        Stream::Greets(text) => Server::new(Program::Sink).greeting(text),
        Stream::Pattern(len) => Server::new(Program::Source(len)),
        Stream::ClosesAfter(len) => Server::new(Program::CloseAfter(len)),
        Stream::ResetsAfter(len) => Server::new(Program::ResetAfter(len)),
        Stream::Concludes(_) => Server::new(Program::Sink).staying_half_open(),
        Stream::Refuses => Server::refusing(),
        Stream::Unreachable => Server::failing(libc::EHOSTUNREACH),
        Stream::Silent => Server::silent(),
        Stream::Sleeps { queue, .. } => Server::new(Program::Idle).send_queue(queue),
    }
}

impl Link for Simulated {
    fn now(&self) -> Duration {
        Duration::from_micros(self.recorder.now().as_micros())
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    fn silence(&self) -> Duration {
        Duration::from_secs(3)
    }

    fn is_simulated(&self) -> bool {
        true
    }

    fn send(&mut self, frame: &[u8], meta: FrameMeta) {
        if std::mem::take(&mut self.reacts) {
            self.recorder.pass(REACTION);
            self.collect();
        }
        self.recorder.send_with(PortId(0), frame, meta);
    }

    fn receive(&mut self, patience: Duration) -> Option<Sent> {
        let end = self.now() + patience;
        self.settle();
        let began = self.now();
        while self.arrived.is_empty() && self.now() < end {
            // Fine steps at first, coarse ones when nothing comes for long: the engine's timers end at their own time in between.
            let waited = self.now() - began;
            let step = (waited / 100).max(Duration::from_millis(1)).min(end - self.now());
            self.recorder.pass(step);
            self.settle();
        }
        self.reacts = true;
        self.arrived.pop_front()
    }

    fn serve(&mut self, ipv6: bool, stream: Stream) -> SocketAddr {
        let address = self.free_address(ipv6);
        self.put(address, stream);
        crate::host::seen_by_guests(address)
    }

    fn serve_datagrams(&mut self, ipv6: bool, datagrams: Datagrams) -> SocketAddr {
        let address = self.free_address(ipv6);
        let server = match datagrams {
            Datagrams::Echo => UdpServer::Echo,
            Datagrams::Silent => UdpServer::Silent,
            Datagrams::Closed => UdpServer::Closed,
            Datagrams::Thrice => UdpServer::Respond(|datagram| vec![datagram.to_vec(); 3]),
        };
        self.recorder.host().serve_udp(address, server);
        crate::host::seen_by_guests(address)
    }

    fn stranger(&mut self, server: SocketAddr, data: &[u8]) -> bool {
        let server = SocketAddr::new(loopback(server.is_ipv6()), server.port());
        let host = self.recorder.host();
        let mapping = host.sent_datagrams().iter().rev().find(|sent| sent.to == server).map(|sent| sent.from);
        mapping.is_some_and(|mapping| host.inject_udp(mapping, STRANGER, data))
    }

    fn dial(&mut self, stream: Stream) {
        self.settle();
        self.behaviours.insert(CLIENT, stream);
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, FORWARD));
        self.recorder.host().dial(to, CLIENT, &server(stream)).expect("a network with a forward");
    }

    fn post(&mut self, data: &'static [u8]) {
        self.settle();
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, FORWARD));
        assert!(self.recorder.host().inject_udp(to, CLIENT, data), "a network with a forward");
    }

    fn simulated(&mut self, address: SocketAddr, stream: Stream) {
        self.put(address, stream);
    }

    fn world(&mut self) -> &mut SimHost {
        self.recorder.host()
    }

    fn commands(&mut self, stream: Stream) {
        self.recorder.host().serve_service(StreamService::GuestForward(0), server(stream));
    }

    fn resolves(&mut self, datagrams: Resolver, stream: fn(&[u8]) -> Vec<u8>) {
        self.resolves = Some(datagrams);
        self.recorder.host().serve_service(StreamService::Dns, Server::new(Program::Respond(stream)));
    }
}
