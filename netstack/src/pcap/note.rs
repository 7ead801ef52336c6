//! What our recordings say in comments: of the whole, of a port, and of a frame.
//!
//! Every comment of ours is one line, `slipway: ` and then `key=value` pairs with a space between them. All three kinds are written by
//! [`Display`](fmt::Display) and read by [`FromStr`]. Readers skip keys that they do not know, so that later versions can say more.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use crate::frame::{GsoKind, Offloads};
use crate::port::PortId;

/// What every comment of ours begins with.
const PREFIX: &str = "slipway:";

/// Why a comment says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Somebody else's comment.
    #[error("the comment does not begin with `{PREFIX}`")]
    NotOurs,
    /// A key that must be there is not.
    #[error("the comment has no `{0}=`")]
    Missing(&'static str),
    /// A value that its key does not have.
    #[error("`{value}` is no value of `{key}` in the comment")]
    Value {
        /// The key.
        key: &'static str,
        /// What follows it.
        value: String,
    },
}

/// The comment of a section: of which network the recording is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectionNote {
    /// The wall clock when the engine's time was zero, in nanoseconds since 1970.
    pub epoch: u64,
    /// The MTU of the network, in bytes.
    pub mtu: u16,
    /// The options with which the network was made, in QEMU's syntax, if they are known as such.
    pub user: Option<String>,
}

impl fmt::Display for SectionNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX} epoch={} mtu={}", self.epoch, self.mtu)?;
        // Nothing in an option can be a line's end but what a path is called; the rest of the line is all that is read.
        self.user.iter().try_for_each(|user| write!(f, " user={}", user.replace(['\r', '\n'], " ")))
    }
}

impl FromStr for SectionNote {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let rest = text.strip_prefix(PREFIX).ok_or(NoteError::NotOurs)?;
        // The last of all, and it may have spaces in it.
        let (rest, user) = rest.split_once(" user=").map_or((rest, None), |(rest, user)| (rest, Some(user.to_owned())));
        let (mut epoch, mut mtu) = (None, None);
        for (key, value) in pairs(rest) {
            match key {
                "epoch" => epoch = Some(number("epoch", value)?),
                "mtu" => mtu = Some(number("mtu", value)?),
                _ => {}
            }
        }
        Ok(Self { epoch: epoch.ok_or(NoteError::Missing("epoch"))?, mtu: mtu.ok_or(NoteError::Missing("mtu"))?, user })
    }
}

/// The comment of an interface: which port of the engine it is, and what its guest takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortNote {
    /// The number of the port on the switch.
    pub port: PortId,
    /// What the guest takes over from the engine.
    pub offloads: Offloads,
    /// The MTU of the port, in bytes.
    pub mtu: u16,
}

/// The names of offloads, and how each is asked for and set.
type OffloadName = (&'static str, fn(&mut Offloads) -> &mut bool);
const OFFLOADS: [OffloadName; 4] = [
    ("csum", |offloads| &mut offloads.checksum),
    ("tso4", |offloads| &mut offloads.tso4),
    ("tso6", |offloads| &mut offloads.tso6),
    ("uso", |offloads| &mut offloads.uso),
];

impl fmt::Display for PortNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut offloads = self.offloads;
        let names: Vec<_> = OFFLOADS.iter().filter(|(_, field)| *field(&mut offloads)).map(|(name, _)| *name).collect();
        write!(f, "{PREFIX} port={} offloads={} mtu={}", self.port.0, names.join(","), self.mtu)
    }
}

impl FromStr for PortNote {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let (mut port, mut mtu, mut offloads) = (None, None, Offloads::NONE);
        for (key, value) in pairs(text.strip_prefix(PREFIX).ok_or(NoteError::NotOurs)?) {
            match key {
                "port" => port = Some(PortId(number("port", value)?)),
                "mtu" => mtu = Some(number("mtu", value)?),
                "offloads" => {
                    for name in value.split(',').filter(|name| !name.is_empty()) {
                        let known = OFFLOADS.iter().find(|(known, _)| *known == name);
                        let (_, field) = known.ok_or_else(|| NoteError::Value { key: "offloads", value: name.to_owned() })?;
                        *field(&mut offloads) = true;
                    }
                }
                _ => {}
            }
        }
        Ok(Self { port: port.ok_or(NoteError::Missing("port"))?, offloads, mtu: mtu.ok_or(NoteError::Missing("mtu"))? })
    }
}

/// The comment of a frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Note {
    /// The conversation that the frame belongs to, numbered from 1 in a recording.
    pub flow: Option<u64>,
    /// Why the frame went no further: the name of the counter that rose, without its `drop_`.
    pub drop: Option<Cow<'static, str>>,
    /// The frame stood for several: by which rules, and with at most how many bytes of payload each.
    pub gso: Option<(GsoKind, u16)>,
    /// What was said of its checksum, if anything.
    pub checksum: Option<NotedChecksum>,
    /// So many bytes of it were kept, because there was no time to keep all.
    pub cut: Option<u32>,
}

/// What was said of the transport checksum of a recorded frame, where that is not just that it is in the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotedChecksum {
    /// It was left to the receiver, and is completed in the recording, unless the frame is not whole in it.
    Partial,
    /// It was left to the receiver, at a place or in a form that is not that of the protocol in the frame. The recording has the frame as
    /// it was.
    PartialAt {
        /// As in [`crate::frame::Checksum::Partial`].
        start: u16,
        /// As in [`crate::frame::Checksum::Partial`].
        offset: u16,
    },
    /// Vouched for by the sender.
    Verified,
}

impl Note {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

const GSO_KINDS: [(&str, GsoKind); 3] = [("tcp4", GsoKind::TcpV4), ("tcp6", GsoKind::TcpV6), ("udp", GsoKind::Udp)];

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.flow.iter().try_for_each(|flow| write!(f, " flow={flow}"))?;
        self.drop.iter().try_for_each(|why| write!(f, " drop={why}"))?;
        if let Some((kind, size)) = self.gso {
            let name = GSO_KINDS.iter().find(|(_, known)| *known == kind).map_or("", |(name, _)| name);
            write!(f, " gso={name}:{size}")?;
        }
        match self.checksum {
            None => {}
            Some(NotedChecksum::Partial) => f.write_str(" checksum=partial")?,
            Some(NotedChecksum::PartialAt { start, offset }) => write!(f, " checksum=partial:{start}:{offset}")?,
            Some(NotedChecksum::Verified) => f.write_str(" checksum=verified")?,
        }
        self.cut.iter().try_for_each(|cut| write!(f, " cut={cut}"))
    }
}

impl FromStr for Note {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let mut note = Self::default();
        for (key, value) in pairs(text.strip_prefix(PREFIX).ok_or(NoteError::NotOurs)?) {
            match key {
                "flow" => note.flow = Some(number("flow", value)?),
                "drop" => note.drop = Some(Cow::Owned(value.to_owned())),
                "gso" => note.gso = Some(gso(value).ok_or_else(|| NoteError::Value { key: "gso", value: value.to_owned() })?),
                "checksum" => {
                    let wrong = || NoteError::Value { key: "checksum", value: value.to_owned() };
                    note.checksum = Some(checksum(value).ok_or_else(wrong)?);
                }
                "cut" => note.cut = Some(number("cut", value)?),
                _ => {}
            }
        }
        Ok(note)
    }
}

fn gso(value: &str) -> Option<(GsoKind, u16)> {
    let (name, size) = value.split_once(':')?;
    let (_, kind) = GSO_KINDS.iter().find(|(known, _)| *known == name)?;
    Some((*kind, size.parse().ok().filter(|size| *size > 0)?))
}

fn checksum(value: &str) -> Option<NotedChecksum> {
    match value.split(':').collect::<Vec<_>>()[..] {
        ["partial"] => Some(NotedChecksum::Partial),
        ["partial", start, offset] => Some(NotedChecksum::PartialAt { start: start.parse().ok()?, offset: offset.parse().ok()? }),
        ["verified"] => Some(NotedChecksum::Verified),
        _ => None,
    }
}

fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split_whitespace().filter_map(|pair| pair.split_once('='))
}

fn number<N: FromStr>(key: &'static str, value: &str) -> Result<N, NoteError> {
    value.parse().map_err(|_| NoteError::Value { key, value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_note_reads_as_it_is_documented() {
        let note = Note {
            flow: Some(17),
            drop: Some("malformed".into()),
            gso: Some((GsoKind::TcpV4, 1460)),
            checksum: Some(NotedChecksum::Partial),
            cut: Some(96),
        };
        let text = "slipway: flow=17 drop=malformed gso=tcp4:1460 checksum=partial cut=96";
        assert_eq!(note.to_string(), text);
        assert_eq!(text.parse(), Ok(note));
    }

    #[test]
    fn a_section_tells_its_network_to_the_end_of_the_line() {
        let note = SectionNote { epoch: 1_790_000_000_000_000_000, mtu: 1500, user: Some("net=10.0.2.0/24,tftp=/a b".into()) };
        let text = "slipway: epoch=1790000000000000000 mtu=1500 user=net=10.0.2.0/24,tftp=/a b";
        assert_eq!(note.to_string(), text);
        assert_eq!(text.parse(), Ok(note));
    }

    #[test]
    fn a_port_tells_what_its_guest_takes() {
        let offloads = Offloads { tso6: false, ..Offloads::ALL };
        let note = PortNote { port: PortId(3), offloads, mtu: 9000 };
        assert_eq!(note.to_string(), "slipway: port=3 offloads=csum,tso4,uso mtu=9000");
        assert_eq!(note.to_string().parse(), Ok(note));
        let plain = PortNote { offloads: Offloads::NONE, ..note };
        assert_eq!(plain.to_string().parse(), Ok(plain));
    }

    #[test]
    fn what_a_later_version_says_is_skipped() {
        assert_eq!("slipway: flow=1 colour=red really".parse(), Ok(Note { flow: Some(1), ..Note::default() }));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        assert_eq!("a remark".parse::<Note>(), Err(NoteError::NotOurs));
        assert_eq!("slipway: port=0".parse::<PortNote>(), Err(NoteError::Missing("mtu")));
        assert_eq!("slipway: gso=tcp4:0".parse::<Note>().unwrap_err().to_string(), "`tcp4:0` is no value of `gso` in the comment");
        assert!("slipway: port=70000 mtu=1500".parse::<PortNote>().is_err());
    }

    fn notes() -> impl Strategy<Value = Note> {
        let kinds = prop::sample::select(vec![GsoKind::TcpV4, GsoKind::TcpV6, GsoKind::Udp]);
        let checksums = prop_oneof![
            Just(NotedChecksum::Partial),
            Just(NotedChecksum::Verified),
            any::<(u16, u16)>().prop_map(|(start, offset)| NotedChecksum::PartialAt { start, offset })
        ];
        let drops = prop::option::of("[a-z_]{1,20}".prop_map(Cow::Owned));
        let gso = prop::option::of((kinds, 1_u16..));
        (any::<Option<u64>>(), drops, gso, prop::option::of(checksums), any::<Option<u32>>())
            .prop_map(|(flow, drop, gso, checksum, cut)| Note { flow, drop, gso, checksum, cut })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(note in notes()) {
            prop_assert_eq!(note.to_string().parse(), Ok(note));
        }

        #[test]
        fn nothing_panics(text in "(slipway:)?[ a-z=:0-9,]*") {
            let _ = (text.parse::<Note>(), text.parse::<PortNote>(), text.parse::<SectionNote>());
        }
    }
}
