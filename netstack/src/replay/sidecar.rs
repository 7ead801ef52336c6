//! What a recording cannot say: a file in TOML beside it, `NAME.toml` for `NAME.pcapng`. All of it is optional.
//!
//! ```toml
//! story = "a guest closes its half and still gets the rest"
//! user = "restrict=on"            # the options of the network, if the recording does not have them or others are wanted
//! mtu = 1500
//! seed = 1                        # what the engine's random numbers begin with
//! clock = "virtual"               # by a script in virtual time: timers ended when they were due, and windows say what peers read.
//!                                 # Otherwise neither times nor `tcp.window`, the room in a kernel's socket, are compared
//! varies = ["icmp.payload"]       # other fields that are not compared ...
//!
//! [reasons]                       # ... and why; each needs one
//! "icmp.payload" = "it is the time of day"
//!
//! [limits]                        # of the network, where they are not as usual
//! tcp_flows = 2
//!
//! [[peer]]                        # what a peer of the host did that its segments do not tell; times in microseconds of the recording
//! guest = "10.0.2.15:1025"
//! remote = "10.0.2.2:80"          # as the guest sees it
//! number = 1                      # which of the connections between the two
//! send_queue = 4096               # bytes that the engine's socket takes while the peer reads nothing
//! reads = [[1000, 100], [5000, 4096]]     # from when on it has read how many bytes in all; if not given, it reads at once
//! writes = [[1000, 512]]          # from when on it has written how many bytes in all
//! finishes = 2000                 # when it closed its half
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::time::Duration;

/// The contents of a sidecar.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sidecar {
    /// What happens, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub story: Option<String>,
    /// The options of the network, in QEMU's syntax.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The MTU of the network and of ports that have none of their own, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// What the engine's random numbers begin with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Which clock the engine had.
    #[serde(skip_serializing_if = "Clock::is_real")]
    pub clock: Clock,
    /// Fields that are not compared.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub varies: Vec<String>,
    /// Why each of them is not.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub reasons: BTreeMap<String, String>,
    /// Limits of the network that are not as usual.
    #[serde(skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// Time-outs of the network that are not as usual.
    #[serde(skip_serializing_if = "Timeouts::is_empty")]
    pub timeouts: Timeouts,
    /// What peers of the host did.
    #[serde(rename = "peer", skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<Peer>,
}

/// A clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// Time passed by itself, and timers were noticed a little after they were due.
    #[default]
    Real,
    /// Time passed only when there was nothing to do.
    Virtual,
}

impl Clock {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
    const fn is_real(&self) -> bool {
        matches!(self, Self::Real)
    }
}

/// What a peer of the host did, where its segments do not tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// The guest's end.
    pub guest: SocketAddr,
    /// The peer's end, as the guest sees it.
    pub remote: SocketAddr,
    /// Which of the connections between the two, counted from 1.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub number: usize,
    /// Bytes that the engine's socket takes while the peer reads nothing, if that is not 128 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_queue: Option<usize>,
    /// Bytes that the peer can have sent and the engine has not taken out of its socket, if that is not 128 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive_queue: Option<usize>,
    /// From when on, in microseconds, it has read how many bytes in all. Without it, it reads at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<(u64, u64)>,
    /// From when on, in microseconds, it has written how many bytes in all. What is missing is derived from its segments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub writes: Vec<(u64, u64)>,
    /// When it closed its half, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finishes: Option<u64>,
}

const fn one() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
const fn is_one(number: &usize) -> bool {
    *number == 1
}

macro_rules! overrides {
    ($(#[$doc:meta])* $name:ident of $target:ident, $as:ty: $($field:ident),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(missing_docs, reason = "each field has the name that it has in the configuration")]
        pub struct $name {
            $(#[serde(default, skip_serializing_if = "Option::is_none")] pub $field: Option<$as>,)+
        }

        impl $name {
            fn is_empty(&self) -> bool {
                *self == Self::default()
            }

            fn apply(&self, to: &mut crate::config::$target) {
                $(if let Some(value) = self.$field { to.$field = value.into_config(); })+
            }
        }
    };
}

/// A number as a sidecar has it, as a configuration has it.
trait IntoConfig<T> {
    fn into_config(self) -> T;
}

impl IntoConfig<Self> for usize {
    fn into_config(self) -> Self {
        self
    }
}

impl IntoConfig<Duration> for u64 {
    fn into_config(self) -> Duration {
        Duration::from_millis(self)
    }
}

overrides! {
    /// Those of [`crate::config::Limits`] that are not as usual.
    Limits of Limits, usize: tcp_flows, tcp_opening, tcp_held_bytes, udp_mappings, udp_peers, neighbours
}

overrides! {
    /// Those of [`crate::config::Timeouts`] that are not as usual, in milliseconds.
    Timeouts of Timeouts, u64: tcp_connect, tcp_guest_connect, tcp_idle, tcp_half_closed, tcp_closing, udp_idle, udp_dns_idle
}

/// Why a sidecar cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SidecarError {
    /// It is there, but cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It is no TOML, or says what a sidecar does not.
    #[error("{} is not as a sidecar must be: {}", path.display(), source.to_string().trim_end())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and where.
        source: Box<toml::de::Error>,
    },
    /// A field that is not compared, and nobody knows why.
    #[error("{}: `varies` names `{field}`, but [reasons] does not say why it varies", path.display())]
    NoReason {
        /// Which file.
        path: PathBuf,
        /// The field.
        field: String,
    },
}

impl Sidecar {
    /// Where the sidecar of a recording is.
    pub fn path_of(recording: &Path) -> PathBuf {
        recording.with_extension("toml")
    }

    /// The sidecar of a recording, or an empty one if there is none.
    ///
    /// # Errors
    ///
    /// When there is one, and it cannot be used.
    pub fn beside(recording: &Path) -> Result<Self, SidecarError> {
        let path = Self::path_of(recording);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(SidecarError::Read { path, source }),
        };
        let sidecar: Self = match toml::from_str(&text) {
            Ok(sidecar) => sidecar,
            Err(source) => return Err(SidecarError::Parse { path, source: Box::new(source) }),
        };
        match sidecar.varies.iter().find(|field| !sidecar.reasons.contains_key(*field)) {
            Some(field) => Err(SidecarError::NoReason { path, field: field.clone() }),
            None => Ok(sidecar),
        }
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        // Nothing in it is what TOML cannot say.
        toml::to_string(self).unwrap_or_default()
    }

    /// Applies what it says of limits and times.
    pub(super) fn apply(&self, config: &mut Config) {
        self.limits.apply(&mut config.limits);
        self.timeouts.apply(&mut config.timeouts);
    }

    /// What it says of a connection, if anything.
    pub(super) fn peer(&self, guest: SocketAddr, remote: SocketAddr, number: usize) -> Option<&Peer> {
        self.peers.iter().find(|peer| (peer.guest, peer.remote, peer.number) == (guest, remote, number))
    }
}
