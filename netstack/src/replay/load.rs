//! From a capture file and its sidecar to packets of an engine's time: what is needed to play a recording.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::conversation::{self, Key};
use super::form::{self, Place};
use super::packet::{ethernet, is_virtual};
use super::sidecar::{Clock, Sidecar};
use super::wholes::{self, Whole};
use super::{Logged, ReplayError};
use crate::config::{Config, qemu};
use crate::frame::Offloads;
use crate::pcap::note::{Note, NotedChecksum, PortNote, SectionNote};
use crate::pcap::read::{self, Format, Interface, Packet, Recording};
use crate::pcap::write::Direction;
use crate::port::PortId;
use crate::stack::LINK_LOCAL_GATEWAY;
use crate::time::{Duration, Instant};

/// The MTU where nobody says another.
const MTU: u16 = 1500;

/// The longest time without a packet that is believed. Everything that an engine does unasked would have to be done in it.
const LONGEST_PAUSE: Duration = Duration::from_secs(7 * 86_400);

/// A recording that is ready to be played.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) format: Format,
    /// Whether the recording is not one of ours, so that it lacks our comments.
    pub(super) foreign: bool,
    /// Whether super-frames were recorded as the segments for which they stand.
    pub(super) segmented: bool,
    pub(super) section: SectionNote,
    /// The ports, in the order of the file.
    pub(super) interfaces: Vec<(String, PortNote)>,
    pub(super) packets: Vec<Logged>,
    /// The conversation of each packet.
    pub(super) keys: Vec<Key>,
    /// What fragments make together.
    wholes: HashMap<usize, Whole>,
    pub(super) config: Config,
    pub(super) seed: u64,
    pub(super) clock: Clock,
    pub(super) sidecar: Sidecar,
    pub(super) remarks: Vec<String>,
    /// What keeps the rest of the file from being used.
    pub(super) problem: Option<String>,
}

/// Reads a recording. `user` are the options of the network that are to be used whatever the recording says.
pub(super) fn load(bytes: &[u8], sidecar: Sidecar, user: Option<&str>) -> Result<Scene, ReplayError> {
    let recording = read::read(bytes).map_err(ReplayError::NoRecording)?;
    let noted = recording.comments.iter().find_map(|comment| comment.parse::<SectionNote>().ok());
    let foreign = noted.is_none();
    let mtu = sidecar.mtu.or_else(|| noted.as_ref().map(|note| note.mtu));
    let first = || recording.packets.first().map(|packet| packet.stamp);
    let epoch = noted.as_ref().map(|note| note.epoch).or_else(first).unwrap_or_default();
    let options = user.or(sidecar.user.as_deref()).or_else(|| noted.as_ref()?.user.as_deref()).unwrap_or_default();
    let mut config = qemu::parse(options).map_err(|source| ReplayError::Options { options: options.to_owned(), source })?;
    config.mtu = mtu.unwrap_or(config.mtu);
    sidecar.apply(&mut config);
    let interfaces: Vec<_> = recording.interfaces.iter().enumerate().map(|(n, interface)| port(n, interface, config.mtu)).collect();
    let mut scene = Scene {
        format: recording.format,
        foreign,
        segmented: false,
        section: SectionNote { epoch, mtu: config.mtu, user: noted.and_then(|note| note.user) },
        interfaces,
        packets: Vec::new(),
        keys: Vec::new(),
        wholes: HashMap::new(),
        config,
        seed: sidecar.seed.unwrap_or(1),
        clock: sidecar.clock,
        sidecar,
        remarks: recording.remarks.iter().map(ToString::to_string).collect(),
        problem: recording.problem.as_ref().map(ToString::to_string),
    };
    scene.take(&recording);
    // Where guests take super-frames and there are none at all, they were cut on their way into the file.
    let takes = |(_, note): &(String, PortNote)| note.offloads.tso4 || note.offloads.tso6 || note.offloads.uso;
    // Only what was not whole was left as it was.
    let is_super_frame = |packet: &Logged| packet.note.gso.is_some() && packet.bytes.len() == packet.original_len;
    scene.segmented = scene.interfaces.iter().any(takes) && !scene.packets.iter().any(is_super_frame);
    scene.keys = conversation::assign(&scene.packets);
    scene.wholes = wholes::find(&scene.packets);
    Ok(scene)
}

/// The port that an interface was.
fn port(number: usize, interface: &Interface, mtu: u16) -> (String, PortNote) {
    let noted = interface.comments.iter().find_map(|comment| comment.parse::<PortNote>().ok());
    let port = PortId(u16::try_from(number).unwrap_or(u16::MAX));
    let note = noted.unwrap_or(PortNote { port, offloads: Offloads::NONE, mtu: if mtu == 0 { MTU } else { mtu } });
    (interface.name.clone().unwrap_or_else(|| format!("port {number}")), note)
}

impl Scene {
    fn take(&mut self, recording: &Recording<'_>) {
        let mut now = Instant::ZERO;
        let (mut early, mut cut) = (0, None);
        for packet in &recording.packets {
            let since = packet.stamp.checked_sub(self.section.epoch);
            early += usize::from(since.is_none());
            let at = Instant::from_micros(since.unwrap_or_default() / 1000).max(now);
            if at.since(now) > LONGEST_PAUSE {
                self.problem.get_or_insert_with(|| {
                    let days = at.since(now).as_secs() / 86_400;
                    format!(
                        "packet {} at offset {} comes {days} days after the one before: it and what follows is not used",
                        packet.number, packet.offset
                    )
                });
                break;
            }
            now = at;
            let logged = self.logged(packet, at);
            if logged.bytes.len() < logged.original_len && logged.direction == Direction::FromGuest {
                cut.get_or_insert((logged.number, 0)).1 += 1;
            }
            self.packets.push(logged);
        }
        if let Some((first, count)) = cut {
            self.remarks.push(format!(
                "of {count} packets of guests, only the beginning was recorded: from packet {first} on, what is missing is played as zeros"
            ));
        }
        if early > 0 {
            self.remarks.push(format!("{early} packets are older than the engine: they are played at its beginning"));
        }
    }

    fn logged(&self, packet: &Packet<'_>, at: Instant) -> Logged {
        let from_engine = ethernet(&packet.data).is_some_and(|(source, ..)| is_virtual(source));
        let direction = match packet.direction {
            Some(read::Direction::Inbound) if !self.foreign => Direction::FromGuest,
            Some(read::Direction::Outbound) if !self.foreign => Direction::ToGuest,
            // Others record with the guest's eyes, or say nothing: our cards are known.
            _ if from_engine => Direction::ToGuest,
            _ => Direction::FromGuest,
        };
        let mut note = packet.comments.iter().find_map(|comment| comment.parse::<Note>().ok()).unwrap_or_default();
        if self.foreign && form::looks_unfinished(&packet.data) {
            note.checksum = Some(NotedChecksum::Partial);
        }
        Logged {
            number: packet.number,
            at,
            port: PortId(u16::try_from(packet.interface).unwrap_or(u16::MAX)),
            direction,
            bytes: packet.data.to_vec(),
            original_len: packet.original_len.max(packet.data.len()).min(crate::frame::MAX_FRAME.max(packet.data.len())),
            note,
        }
    }

    /// The conversation and the frame of a packet; of the one that was cut, if this fragment stands for it.
    pub(super) fn whole(&self, index: usize) -> (Key, &[u8]) {
        match self.wholes.get(&index) {
            Some(whole) => (whole.key, &whole.bytes),
            None => (self.keys[index], &self.packets[index].bytes),
        }
    }

    /// The host's address that a guest means by `remote`, as far as that can be told.
    pub(super) fn real(&self, remote: SocketAddr, ipv4: bool) -> SocketAddr {
        let v4 = self.config.ipv4.as_ref().is_some_and(|config| remote.ip() == config.gateway);
        let v6 = self.config.ipv6.as_ref().is_some_and(|config| remote.ip() == config.gateway);
        let loopback = if ipv4 { std::net::Ipv4Addr::LOCALHOST.into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        if v4 || v6 || remote.is_ipv4() != ipv4 { SocketAddr::new(loopback, remote.port()) } else { remote }
    }

    /// Whether this is the gateway's address.
    pub(super) fn is_gateway(&self, ip: IpAddr) -> bool {
        let v4 = self.config.ipv4.as_ref().is_some_and(|config| ip == config.gateway);
        v4 || self.config.ipv6.as_ref().is_some_and(|config| ip == config.gateway || ip == LINK_LOCAL_GATEWAY)
    }

    /// Whether this can only be the address of a virtual host: one of the guests' own network.
    pub(super) fn is_virtual_host(&self, ip: IpAddr) -> bool {
        let within = match ip {
            IpAddr::V4(ip) => self.config.ipv4.as_ref().is_some_and(|config| config.net.contains(&ip)),
            IpAddr::V6(ip) => self.config.ipv6.as_ref().is_some_and(|config| config.prefix.contains(&ip)),
        };
        within || self.is_gateway(ip)
    }

    /// Whether this is the address of the DNS server.
    pub(super) fn is_dns(&self, remote: SocketAddr) -> bool {
        let v4 = self.config.ipv4.as_ref().is_some_and(|config| remote.ip() == config.dns);
        let v6 = self.config.ipv6.as_ref().is_some_and(|config| remote.ip() == config.dns);
        (v4 || v6) && remote.port() == 53
    }
}

impl Logged {
    /// The frame, in the form for the engine. What was not recorded of it is zeros.
    pub(super) fn for_engine(&self) -> (Vec<u8>, crate::frame::FrameMeta) {
        let (mut bytes, mut meta) = form::for_engine(&self.bytes, &self.note);
        if bytes.len() < self.original_len && Place::of(&bytes).is_some() {
            bytes.resize(self.original_len, 0);
            if meta.checksum == crate::frame::Checksum::Complete {
                // It was right when the bytes were still there.
                meta.checksum = crate::frame::Checksum::Verified;
            }
        }
        (bytes, meta)
    }
}
