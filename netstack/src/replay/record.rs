//! Makes a recording by a script: frames of guests at certain times, peers of a simulated host, an engine in virtual time.
//!
//! Whoever writes the script acts for the guest and for the host. [`Recorder::send`] is the guest's card, [`Recorder::received`] what came
//! to it, [`Recorder::host`] the world behind the engine. Nothing happens before [`Recorder::settle`] or [`Recorder::pass`]; then all that
//! was sent meanwhile is one turn of the engine, and whatever follows from it are further turns, each a microsecond later.
//!
//! ```
//! use netstack::host::sim::{Program, Server};
//! use netstack::replay::record::{Recorder, Setup};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut recorder = Recorder::new(Setup::default())?;
//! recorder.host().serve("192.0.2.7:80".parse()?, Server::new(Program::Echo));
//! # let arp_request = [0; 60];
//! recorder.send(&arp_request);
//! recorder.settle();
//! for frame in recorder.received() {
//!     println!("{} us: {} bytes", frame.at.as_micros(), frame.bytes.len());
//! }
//! let recorded = recorder.finish("a guest asks who the gateway is")?;
//! # let dir = tempfile::tempdir()?;
//! recorded.save(&dir.path().join("arp.pcapng"))?;
//! # Ok(())
//! # }
//! ```

mod peers;

use std::io;
use std::path::Path;

pub(super) use self::peers::QUEUE;
use self::peers::{PeerTold, Peers};
use super::sidecar::{Clock, Limits, Sidecar, Timeouts};
use super::stage::{Question, SentFrame, Stage};
use super::{Logged, Options, Report, form, replay};
use crate::config::qemu;
use crate::frame::{FrameMeta, Offloads};
use crate::host::sim::SimHost;
use crate::pcap::note::{Note, PortNote, SectionNote};
use crate::pcap::write::{Direction, Record, Writer};
use crate::port::PortId;
use crate::stack::{Counters, DnsWayBack};
use crate::time::{Duration, Instant};

/// The time between two turns of which the second follows from the first.
const TICK: Duration = Duration::from_micros(1);

/// Turns that may follow from each other without anything new.
const MAX_TURNS: usize = 1_000_000;

/// The network that is recorded.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Its options, in QEMU's syntax.
    pub user: String,
    /// Its MTU, and that of the first port, in bytes.
    pub mtu: u16,
    /// What the guest at the first port takes.
    pub offloads: Offloads,
    /// What the engine's random numbers begin with.
    pub seed: u64,
    /// The wall clock at the beginning, in nanoseconds since 1970.
    pub epoch: u64,
    /// Limits that are not as usual.
    pub limits: Limits,
    /// Time-outs that are not as usual.
    pub timeouts: Timeouts,
}

impl Default for Setup {
    /// A network as it is without options, recorded on 2026-01-01.
    fn default() -> Self {
        Self {
            user: String::new(),
            mtu: 1500,
            offloads: Offloads::NONE,
            seed: 1,
            epoch: 1_767_225_600_000_000_000,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
        }
    }
}

/// Why a recording cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The network's options are wrong.
    #[error(transparent)]
    Options(#[from] qemu::OptionError),
    /// The forwards cannot be bound, there are too many ports, or a file cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Played into an engine, the recording does not give the same answers: the script depends on something that a recording and its
    /// sidecar do not have.
    #[error("the recording does not replay: {}", differences(.0))]
    DoesNotReplay(Box<Report>),
}

fn differences(report: &Report) -> String {
    report.differences.iter().map(|difference| format!("{difference:?}")).collect::<Vec<_>>().join("\n")
}

/// A frame that came to a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// When.
    pub at: Instant,
    /// At which port.
    pub port: PortId,
    /// From the Ethernet header on. Its checksum is finished.
    pub bytes: Vec<u8>,
    /// What the engine left to the receiver.
    pub meta: FrameMeta,
}

/// A script's view of an engine that is recorded: see the [module](self).
#[derive(Debug)]
pub struct Recorder {
    stage: Stage,
    setup: Setup,
    interfaces: Vec<(String, PortNote)>,
    log: Vec<Logged>,
    received: Vec<Received>,
    /// What the next turn begins with.
    frames: Vec<(PortId, Vec<u8>, FrameMeta)>,
    answers: Vec<Question>,
    questions: Vec<Question>,
    /// Whether there was a turn at this time already.
    turned: bool,
    peers: Peers,
}

impl Recorder {
    /// An engine with one port, at time zero.
    ///
    /// # Errors
    ///
    /// When the options are wrong, or two forwards have the same port.
    pub fn new(setup: Setup) -> Result<Self, RecordError> {
        let mut config = qemu::parse(&setup.user)?;
        config.mtu = setup.mtu;
        let sidecar = Sidecar { limits: setup.limits.clone(), timeouts: setup.timeouts.clone(), ..Sidecar::default() };
        sidecar.apply(&mut config);
        let mut recorder = Self {
            stage: Stage::new(&config, setup.seed)?,
            interfaces: Vec::new(),
            log: Vec::new(),
            received: Vec::new(),
            frames: Vec::new(),
            answers: Vec::new(),
            questions: Vec::new(),
            turned: false,
            peers: Peers::default(),
            setup,
        };
        let (mtu, offloads) = (recorder.setup.mtu, recorder.setup.offloads);
        recorder.add_port("guest", mtu, offloads)?;
        Ok(recorder)
    }

    /// Adds a port for another guest.
    ///
    /// # Errors
    ///
    /// When there are too many.
    pub fn add_port(&mut self, name: &str, mtu: u16, offloads: Offloads) -> io::Result<PortId> {
        self.next_moment();
        let port = self.stage.add_port(mtu, offloads)?;
        self.interfaces.push((name.to_owned(), PortNote { port, offloads, mtu }));
        self.collect();
        self.settle();
        Ok(port)
    }

    /// The time since the engine began.
    pub const fn now(&self) -> Instant {
        self.stage.now()
    }

    /// The host behind the engine, to put servers there and to act for peers.
    pub const fn host(&mut self) -> &mut SimHost {
        &mut self.stage.host
    }

    /// What the engine has counted.
    pub fn counters(&self) -> &Counters {
        self.stage.counters()
    }

    /// The guest at the first port sends a frame, with the next turn.
    pub fn send(&mut self, frame: &[u8]) {
        self.send_with(PortId(0), frame, FrameMeta::default());
    }

    /// A guest sends a frame that may be unfinished, with the next turn.
    pub fn send_with(&mut self, port: PortId, frame: &[u8], meta: FrameMeta) {
        self.frames.push((port, frame.to_vec(), meta));
    }

    /// The questions to the DNS server that nobody has asked for yet.
    pub fn questions(&mut self) -> Vec<Question> {
        std::mem::take(&mut self.questions)
    }

    /// The DNS server answers, with the next turn.
    pub fn answer(&mut self, way_back: DnsWayBack, message: &[u8]) {
        self.answers.push(Question { way_back, message: message.to_vec() });
    }

    /// The frames that came to guests since this was asked last.
    pub fn received(&mut self) -> Vec<Received> {
        std::mem::take(&mut self.received)
    }

    /// Everything that follows from what was sent.
    ///
    /// # Panics
    ///
    /// When that has no end: the script's peers and the engine keep each other busy.
    pub fn settle(&mut self) {
        if self.stage.host.has_news() && !(self.frames.is_empty() && self.answers.is_empty()) {
            // What the script has done on the host comes before what its guests send, as it does in a replay.
            self.turn(Vec::new(), Vec::new());
        }
        let (frames, answers) = (std::mem::take(&mut self.frames), std::mem::take(&mut self.answers));
        let mut busy = self.turn(frames, answers);
        for _ in 0..MAX_TURNS {
            if !busy {
                return;
            }
            busy = self.turn(Vec::new(), Vec::new());
        }
        panic!("the engine never comes to rest");
    }

    /// Everything that follows from what was sent, and what happens while so much time passes.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now() + time;
        self.settle();
        while let Some(next) = self.stage.next_deadline().filter(|next| *next <= end) {
            self.move_to(next);
            self.settle();
        }
        self.move_to(end);
    }

    fn move_to(&mut self, time: Instant) {
        if time > self.now() {
            self.stage.begin_turn(time);
            self.turned = false;
        }
    }

    /// Each turn has a time of its own.
    fn next_moment(&mut self) {
        if std::mem::replace(&mut self.turned, true) {
            let next = self.now() + TICK;
            self.stage.begin_turn(next);
        }
    }

    fn turn(&mut self, frames: Vec<(PortId, Vec<u8>, FrameMeta)>, answers: Vec<Question>) -> bool {
        self.next_moment();
        for (port, bytes, meta) in frames {
            let drop = self.stage.input(port, &bytes, meta);
            self.peers.opened(&self.stage.host, self.log.len());
            let (bytes, note) = form::for_file(bytes, &meta);
            let note = Note { drop: drop.map(Into::into), ..note };
            self.log(port, Direction::FromGuest, bytes, note);
            self.collect();
        }
        for Question { way_back, message } in answers {
            self.stage.answer(&way_back, &message);
        }
        let busy = self.stage.end_turn();
        self.collect();
        self.questions.extend(self.stage.take_questions());
        self.peers.sample(&self.stage.host, self.stage.now());
        busy
    }

    fn collect(&mut self) {
        let at = self.now();
        for SentFrame { port, bytes, meta } in self.stage.take_sent() {
            self.peers.asked(&self.stage.host, self.log.len(), &bytes);
            let (bytes, note) = form::for_file(bytes, &meta);
            self.received.push(Received { at, port, bytes: bytes.clone(), meta });
            self.log(port, Direction::ToGuest, bytes, note);
        }
    }

    fn log(&mut self, port: PortId, direction: Direction, bytes: Vec<u8>, note: Note) {
        let original_len = bytes.len();
        self.log.push(Logged { number: self.log.len() + 1, at: self.now(), port, direction, bytes, original_len, note });
    }

    /// Ends the recording, and makes sure that it replays.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn finish(mut self, story: &str) -> Result<Recorded, RecordError> {
        self.settle();
        let section = SectionNote {
            epoch: self.setup.epoch,
            mtu: self.setup.mtu,
            user: Some(self.setup.user.clone()).filter(|user| !user.is_empty()),
        };
        let file = write_file(&section, &self.interfaces, &self.log)?;
        let peers = self.peers.told(&self.log);
        let plain: Vec<_> = peers.iter().filter_map(PeerTold::needed).collect();
        let sidecar = Sidecar {
            story: Some(story.to_owned()),
            seed: Some(self.setup.seed),
            clock: Clock::Virtual,
            limits: self.setup.limits.clone(),
            timeouts: self.setup.timeouts.clone(),
            peers: plain,
            ..Sidecar::default()
        };
        let report = replayed(&file, &sidecar)?;
        if report.matches() {
            return Ok(Recorded { file, sidecar });
        }
        // When peers wrote cannot always be told from when it was sent: then it is said.
        let sidecar = Sidecar { peers: peers.into_iter().map(|told| told.peer).collect(), ..sidecar };
        let report = replayed(&file, &sidecar)?;
        if report.matches() { Ok(Recorded { file, sidecar }) } else { Err(RecordError::DoesNotReplay(Box::new(report))) }
    }
}

fn replayed(file: &[u8], sidecar: &Sidecar) -> Result<Report, RecordError> {
    replay(file, sidecar.clone(), &Options::default()).map_err(|error| RecordError::Io(io::Error::other(error)))
}

/// A recording that was made by a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The capture file.
    pub file: Vec<u8>,
    /// What goes beside it.
    pub sidecar: Sidecar,
}

impl Recorded {
    /// Writes the recording to `path`, and its sidecar beside it.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        std::fs::write(path, &self.file)?;
        std::fs::write(Sidecar::path_of(path), self.sidecar.to_text())
    }
}

/// The bytes of a capture file. The packets' ports are counted in the order of `interfaces`.
pub(super) fn write_file(section: &SectionNote, interfaces: &[(String, PortNote)], log: &[Logged]) -> io::Result<Vec<u8>> {
    let mut writer = Writer::new(Vec::new(), section)?;
    for (name, note) in interfaces {
        writer.add_interface(name, 0, note)?;
    }
    for Logged { at, port, direction, bytes, original_len, note, .. } in log {
        writer.write(&Record {
            interface: port.0.into(),
            stamp: section.epoch + at.as_micros() * 1000,
            direction: *direction,
            bytes,
            len: *original_len,
            lost: 0,
            note,
        })?;
    }
    Ok(writer.into_inner())
}
