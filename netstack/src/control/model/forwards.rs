//! Forwards to guests: the three commands of slirp4netns's API, and what ours can do beyond.
//!
//! A request of slirp4netns's clients has `proto` tcp or udp, an IPv4 `host_addr`, a `host_port` and a `guest_port` from 1 on and an IPv4
//! `guest_addr`; it is answered as there, to the byte. Beyond that there are IPv6 addresses, `host_port` 0 for any free one, `count` for
//! a range, `interface`, and `proto` unix with `host_path`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::config::qemu::forward::{interface_name, socket_path};
use crate::config::{HostForward, HostSide, Protocol};
use crate::control::{Command, Nothing, Refused};
use crate::engine::{BoundForward, ForwardId, ForwardRefused, Handle};

/// Forwards something of the host to a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddHostfwd(pub HostForward);

/// A forward was added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// By what it can be removed.
    pub id: ForwardId,
    /// The port that was chosen, if any free one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
}

impl Command for AddHostfwd {
    const NAME: &'static str = "add_hostfwd";
    const COMPATIBLE: bool = true;
    type Reply = Added;

    fn parse(arguments: Value) -> Result<Self, Refused> {
        let arguments = Arguments(if let Value::Object(map) = arguments { map } else { Map::new() });
        let host = match arguments.text("proto")? {
            Some("tcp") => arguments.ports(Protocol::Tcp)?,
            Some("udp") => arguments.ports(Protocol::Udp)?,
            Some("unix") => arguments.socket()?,
            _ => return Err(Refused::argument("proto", "it is tcp, udp or unix")),
        };
        let guest = arguments.address("guest_addr")?;
        let guest_port = arguments.number("guest_port")?.filter(|port| *port > 0);
        let guest_port = guest_port.ok_or_else(|| Refused::argument("guest_port", "it is a number from 1 to 65535"))?;
        if guest_port.checked_add(host.count() - 1).is_none() {
            return Err(Refused::argument("count", "the last port of the guest would be past 65535"));
        }
        Ok(Self(HostForward { host, guest, guest_port }))
    }

    async fn run(self, engine: &Handle) -> Result<Added, Refused> {
        let any_port = self.0.host.address().is_some_and(|address| address.port() == 0);
        let bound = engine.add_host_forward(self.0).await?;
        let chosen = bound.host.address().filter(|_| any_port);
        Ok(Added { id: bound.id, host_port: chosen.map(|address| address.port()) })
    }
}

impl From<ForwardRefused> for Refused {
    fn from(error: ForwardRefused) -> Self {
        match error {
            ForwardRefused::Gone(gone) => gone.into(),
            error => Self::because("slirp_add_hostfwd failed", error),
        }
    }
}

/// Arguments of which each has its own complaint.
struct Arguments(Map<String, Value>);

impl Arguments {
    /// A text; `None` if it is not there.
    fn text(&self, name: &str) -> Result<Option<&str>, Refused> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Refused::argument(name, "it is a text")),
        }
    }

    /// An address; `None` if it is empty or not there.
    fn address(&self, name: &str) -> Result<Option<IpAddr>, Refused> {
        let text = self.text(name)?.filter(|text| !text.is_empty());
        text.map(|text| text.parse().map_err(|_| Refused::argument(name, format!("`{text}` is no IP address")))).transpose()
    }

    /// A number of 16 bits; `None` if it is not there.
    fn number(&self, name: &str) -> Result<Option<u16>, Refused> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let number = value.as_u64().and_then(|number| u16::try_from(number).ok());
        number.map(Some).ok_or_else(|| Refused::argument(name, format!("`{value}` is no number from 0 to 65535")))
    }

    fn ports(&self, protocol: Protocol) -> Result<HostSide, Refused> {
        let address = self.address("host_addr")?.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let missing = || Refused::argument("host_port", "it is a number: 0 for any free port, or one up to 65535");
        let first = self.number("host_port")?.ok_or_else(missing)?;
        let interface = self.text("interface")?.map(interface_name).transpose();
        let interface = interface.map_err(|error| Refused::argument("interface", error))?;
        let count = self.number("count")?.unwrap_or(1);
        if count == 0 || first.checked_add(count - 1).is_none() || (count > 1 && first == 0) {
            let why = "it is at least 1, does not go past port 65535, and only a single port can be any free one";
            return Err(Refused::argument("count", why));
        }
        Ok(HostSide::Ports { protocol, address, interface, first, count })
    }

    fn socket(&self) -> Result<HostSide, Refused> {
        let path = self.text("host_path")?.ok_or_else(|| Refused::argument("host_path", "it is the path of the socket"))?;
        socket_path(path).map(HostSide::Unix).map_err(|error| Refused::argument("host_path", error))
    }
}

impl Serialize for AddHostfwd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Hostfwd::new(None, &self.0.host, self.0.guest, self.0.guest_port).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for AddHostfwd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Tells all forwards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListHostfwd {}

/// All forwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hostfwds {
    /// In the order of their numbers.
    pub entries: Vec<Hostfwd>,
}

/// A forward as it is written in JSON. Of one that slirp4netns could have, the keys are its own, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hostfwd {
    /// By what it can be removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ForwardId>,
    /// What clients connect to.
    pub proto: HostfwdProtocol,
    /// The host's address, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_addr: Option<IpAddr>,
    /// The host's port, or the first of a range, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// The UNIX socket, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_path: Option<PathBuf>,
    /// The guest's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_addr: Option<IpAddr>,
    /// The port there, or the first of a range.
    pub guest_port: u16,
    /// How many ports, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u16>,
    /// The only interface of the host that it is reached by, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

/// What clients of a forward connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostfwdProtocol {
    /// A TCP port.
    Tcp,
    /// A UDP port.
    Udp,
    /// A UNIX socket.
    Unix,
}

impl Hostfwd {
    fn new(id: Option<ForwardId>, host: &HostSide, guest_addr: Option<IpAddr>, guest_port: u16) -> Self {
        let nothing = Self {
            id,
            proto: HostfwdProtocol::Unix,
            host_addr: None,
            host_port: None,
            host_path: None,
            guest_addr,
            guest_port,
            count: None,
            interface: None,
        };
        match host {
            HostSide::Ports { protocol, address, interface, first, count } => Self {
                proto: match protocol {
                    Protocol::Tcp => HostfwdProtocol::Tcp,
                    Protocol::Udp => HostfwdProtocol::Udp,
                },
                host_addr: Some(*address),
                host_port: Some(*first),
                count: Some(*count).filter(|count| *count > 1),
                interface: interface.clone(),
                ..nothing
            },
            HostSide::Unix(path) => Self { host_path: Some(path.clone()), ..nothing },
        }
    }
}

impl From<BoundForward> for Hostfwd {
    fn from(forward: BoundForward) -> Self {
        Self::new(Some(forward.id), &forward.host, Some(forward.guest.ip()), forward.guest.port())
    }
}

impl Command for ListHostfwd {
    const NAME: &'static str = "list_hostfwd";
    const COMPATIBLE: bool = true;
    // The manual page of slirp4netns shows `return` around it, and slirp4netns does not send it.
    const BARE: bool = true;
    type Reply = Hostfwds;

    /// slirp4netns looks at no arguments here.
    fn parse(_: Value) -> Result<Self, Refused> {
        Ok(Self {})
    }

    async fn run(self, engine: &Handle) -> Result<Hostfwds, Refused> {
        let forwards = engine.host_forwards().await?;
        Ok(Hostfwds { entries: forwards.into_iter().map(Hostfwd::from).collect() })
    }
}

/// Ends a forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveHostfwd {
    /// Its number.
    pub id: ForwardId,
    /// Whether the connections that came by it end too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flows: bool,
}

impl Command for RemoveHostfwd {
    const NAME: &'static str = "remove_hostfwd";
    const COMPATIBLE: bool = true;
    type Reply = Nothing;

    fn parse(arguments: Value) -> Result<Self, Refused> {
        let flows = match arguments.get("flows") {
            None => false,
            Some(value) => value.as_bool().ok_or_else(|| Refused::argument("flows", "it is true or false"))?,
        };
        let id = arguments.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| Refused::argument("id", "it is the number of a forward; `list_hostfwd` tells them"))?;
        Ok(Self { id: ForwardId(id), flows })
    }

    async fn run(self, engine: &Handle) -> Result<Nothing, Refused> {
        let unknown = || Refused::argument("id", format!("there is no forward {}; `list_hostfwd` tells them", self.id));
        engine.remove_host_forward(self.id, self.flows).await?.map(|_| Nothing {}).ok_or_else(unknown)
    }
}
