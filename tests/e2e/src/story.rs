//! Stories: conversations that a guest has with a network, frame by frame.
//!
//! Each is told once and used twice. Played in virtual time against the engine's core, it becomes a recording in `pcap-fixtures/`
//! ([`simulated`]). Played in the real world ([`live`]) against libslirp and against slipway, it says where the two differ.
//!
//! | file | what is there |
//! |---|---|
//! | [`guest`], [`dhcp`], [`dhcp6`], [`tcp`] | what stories are told with |
//! | [`frame`], [`fragments`] | frames, and packets in pieces, made and read without the code under test |
//! | [`link`] | what they play against |
//! | [`transcript`] | what a guest was told, and how two accounts of it differ |
//! | [`differences`] | where libslirp and slipway do, and why |
//! | `told` | the stories themselves, a file for each subject |
//! | [`real`] | conversations of real guests |

pub mod dhcp;
pub mod dhcp6;
pub mod differences;
pub mod fragments;
pub mod frame;
pub mod guest;
pub mod link;
pub mod live;
pub mod real;
pub mod simulated;
pub mod tcp;
mod told;
pub mod transcript;

use guest::{Goes, Guest};
use link::Link;
use netstack::frame::Offloads;
use netstack::replay::sidecar::Limits;
use transcript::Transcript;

pub use told::all;

/// Whether a story is played against libslirp too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oracle {
    /// It is.
    Compared,
    /// It is not, and this is why.
    Spared(&'static str),
}

impl Oracle {
    /// Why it is not.
    pub const fn why_spared(self) -> Option<&'static str> {
        match self {
            Self::Compared => None,
            Self::Spared(why) => Some(why),
        }
    }
}

/// A conversation.
#[derive(Debug, Clone, Copy)]
pub struct Story {
    /// The group and the name, as in `tcp/half-close`.
    pub name: &'static str,
    /// What happens, in one line.
    pub line: &'static str,
    /// The options of the network, as of QEMU's `-netdev user`. `{port}` stands for a port of the host.
    pub user: &'static str,
    /// The MTU of the link.
    pub mtu: u16,
    /// What the guest's card takes over.
    pub offloads: Offloads,
    /// How many TCP connections the network allows, where that is not as usual.
    pub connections: Option<usize>,
    /// Whether it is played against libslirp too.
    pub oracle: Oracle,
    /// What the guest does.
    pub goes: fn(&mut Guest<'_>) -> Goes,
}

impl Story {
    /// One on a network with all defaults.
    pub const fn new(name: &'static str, line: &'static str, goes: fn(&mut Guest<'_>) -> Goes) -> Self {
        Self { name, line, user: "", mtu: 1500, offloads: Offloads::NONE, connections: None, oracle: Oracle::Compared, goes }
    }

    /// On a network with these options.
    #[must_use]
    pub const fn user(self, user: &'static str) -> Self {
        Self { user, ..self }
    }

    /// On a link with this MTU.
    #[must_use]
    pub const fn mtu(self, mtu: u16) -> Self {
        Self { mtu, ..self }
    }

    /// With a card that takes over everything.
    #[must_use]
    pub const fn offloading(self) -> Self {
        Self { offloads: Offloads::ALL, ..self }
    }

    /// On a network that allows so many TCP connections.
    #[must_use]
    pub const fn connections(self, connections: usize) -> Self {
        Self { connections: Some(connections), ..self }
    }

    /// The limits of the network that are not as usual.
    pub fn limits(&self) -> Limits {
        Limits { tcp_flows: self.connections, ..Limits::default() }
    }

    /// Not against libslirp, for this reason.
    #[must_use]
    pub const fn spared(self, why: &'static str) -> Self {
        Self { oracle: Oracle::Spared(why), ..self }
    }

    /// Plays it, and returns what the guest was told and whether the story came to its end.
    pub fn play(&self, link: &mut dyn Link) -> (Transcript, Goes) {
        let mut guest = Guest::new(link);
        let outcome = (self.goes)(&mut guest);
        (guest.into_transcript(), outcome)
    }
}
