//! `slipway ctl`: asks a running network things, and changes it. A friendly client of [`crate::control`].

use std::io;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use crate::config::HostForward;
use crate::control::client::{CallError, Client};
use crate::control::{
    AddHostfwd, CaptureTable, Command, CounterValues, Dns, Flows, GetCounters, GetDns, GetInfo, Hostfwd, HostfwdProtocol, Hostfwds,
    Info, LeaseTable, ListCaptures, ListFlows, ListHostfwd, ListLeases, ListPorts, PortTable, RemoveHostfwd, SetLink, Shutdown,
    StartCapture, StopCapture,
};
use crate::engine::{ForwardId, PortName};
use crate::gateway::dns::DnsStats;
use crate::program::completions::print;
use crate::program::failure::{Failure, OrFail};

#[derive(Debug, Args)]
pub(crate) struct CtlArgs {
    /// Print the answer as it comes, in JSON
    #[arg(long, global = true)]
    json: bool,
    /// The socket, as it was named by --api-socket
    #[arg(value_name = "SOCKET")]
    socket: PathBuf,
    #[command(subcommand)]
    request: Request,
}

/// What can be asked.
#[derive(Debug, Subcommand)]
enum Request {
    /// Forwards from this machine to guests: add, list, remove
    #[command(subcommand)]
    Hostfwd(HostfwdRequest),
    /// The connections
    Flows,
    /// The DHCP leases
    Leases,
    /// The DNS service: its servers, the names of guests, what it keeps
    Dns {
        /// Also the answers that are kept
        #[arg(long)]
        cached: bool,
    },
    /// The ports: the guests' network cards
    Ports,
    /// Take the link of a port down, or up again
    Link {
        /// What it is to be
        #[arg(value_name = "up|down", value_enum)]
        state: LinkState,
        /// The port, by the name or the number that `ports` tells
        #[arg(value_name = "PORT")]
        port: String,
    },
    /// Recordings of frames: start, stop, list
    #[command(subcommand)]
    Captures(CapturesRequest),
    /// What has happened so far, in numbers
    Counters {
        /// Also those that are 0
        #[arg(long)]
        all: bool,
    },
    /// What the network is: addresses, limits, version
    Info,
    /// End the network
    Shutdown,
}

/// What a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LinkState {
    /// Frames pass.
    Up,
    /// None do.
    Down,
}

#[derive(Debug, Subcommand)]
enum CapturesRequest {
    /// Record frames into a pcapng file
    Start {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Which frames, as of --pcap-filter [default: all]
        #[arg(long, value_name = "EXPR")]
        filter: Option<String>,
        /// How many bytes of each frame [default: all]
        #[arg(long, value_name = "N")]
        snaplen: Option<u32>,
        /// Record the frames of at most the MTU for which a large frame stands
        #[arg(long)]
        segment: bool,
    },
    /// End a recording, once everything is written
    Stop {
        /// Its number, as `captures list` tells it
        #[arg(value_name = "ID")]
        id: u64,
    },
    /// The recordings
    List,
}

#[derive(Debug, Subcommand)]
enum HostfwdRequest {
    /// Forward a port, a range or a UNIX socket of this machine to a guest
    Add {
        /// As in `hostfwd=`, such as tcp:127.0.0.1:2222-:22
        #[arg(value_name = "RULE")]
        rule: HostForward,
    },
    /// The forwards, with the numbers by which they can be removed
    List,
    /// End a forward
    Remove {
        /// Its number, as `hostfwd list` tells it
        #[arg(value_name = "ID")]
        id: u32,
        /// End the connections that came by it too
        #[arg(long)]
        flows: bool,
    },
}

/// Asks, and prints what is answered.
pub(crate) fn run(args: &CtlArgs) -> Result<u8, Failure> {
    let asked = Asked { client: Client::new(&args.socket), json: args.json };
    match &args.request {
        Request::Hostfwd(HostfwdRequest::Add { rule }) => asked.tell(&AddHostfwd(rule.clone()), |added| match added.host_port {
            Some(port) => format!("forward {}, from port {port}\n", added.id),
            None => format!("forward {}\n", added.id),
        }),
        Request::Hostfwd(HostfwdRequest::List) => asked.tell(&ListHostfwd {}, hostfwds),
        Request::Hostfwd(HostfwdRequest::Remove { id, flows }) => {
            asked.tell(&RemoveHostfwd { id: ForwardId(*id), flows: *flows }, |_| String::new())
        }
        Request::Flows => asked.tell(&ListFlows {}, flows),
        Request::Leases => asked.tell(&ListLeases {}, leases),
        Request::Dns { cached } => asked.tell(&GetDns {}, |known| dns(known, *cached)),
        Request::Ports => asked.tell(&ListPorts {}, ports),
        Request::Link { state, port } => {
            let command = SetLink { port: PortName::Name(port.clone()), up: *state == LinkState::Up };
            asked.tell(&command, |_| String::new())
        }
        Request::Captures(CapturesRequest::Start { file, filter, snaplen, segment }) => {
            let file = std::path::absolute(file).or_fail(|| format!("cannot tell where {} is", file.display()))?;
            let command = StartCapture {
                file,
                filter: filter.clone(),
                snaplen: snaplen.unwrap_or(0),
                rotate_bytes: None,
                rotate_files: None,
                segment: *segment,
            };
            asked.tell(&command, |started| format!("capture {}\n", started.id))
        }
        Request::Captures(CapturesRequest::Stop { id }) => asked
            .tell(&StopCapture { id: *id }, |entry| format!("{} frames, {} bytes in {}\n", entry.records, entry.bytes, entry.to)),
        Request::Captures(CapturesRequest::List) => asked.tell(&ListCaptures {}, captures),
        Request::Counters { all } => asked.tell(&GetCounters {}, |values| counters(values, *all)),
        Request::Info => asked.tell(&GetInfo {}, info),
        Request::Shutdown => asked.tell(&Shutdown {}, |_| String::new()),
    }
}

/// Whom to ask, and how to tell what is answered.
struct Asked {
    client: Client,
    json: bool,
}

impl Asked {
    fn tell<C: Command>(&self, command: &C, words: impl FnOnce(&C::Reply) -> String) -> Result<u8, Failure> {
        let text = if self.json {
            self.client.call_raw(command).map(|answer| answer + "\n")
        } else {
            self.client.call(command).map(|reply| words(&reply))
        };
        print(text.map_err(|error| self.explain(&error))?.as_bytes())
    }

    fn explain(&self, error: &CallError) -> Failure {
        let failure = Failure::new(String::new());
        match error {
            CallError::Connect { path, source } => {
                let failure = Failure::new(format!("cannot connect to {}", path.display())).because(source);
                match source.kind() {
                    io::ErrorKind::NotFound => failure
                        .advice("Name the socket that the network was started with by --api-socket; it goes with the network."),
                    io::ErrorKind::ConnectionRefused => {
                        failure.advice("The network has ended without removing its socket: start it again.")
                    }
                    io::ErrorKind::PermissionDenied => failure.advice("Only the user who has started the network may control it."),
                    _ => failure,
                }
            }
            CallError::Refused { what, why } => Failure::new(why.as_ref().unwrap_or(what).clone()),
            CallError::Broken(_) => Failure::new("the network has not answered").because_of(error).advice("It may have ended."),
            CallError::Strange(_) => failure
                .because_of(error)
                .advice(format!("Is {} the API socket of a network of this version of slipway?", self.client.path().display())),
        }
    }
}

/// A table whose columns from `numbers` on stand right.
fn table<const N: usize>(header: [&str; N], numbers: &[usize], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for &number in numbers {
        if let Some(column) = table.column_mut(number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}

/// What there is none of is said, for an empty table looks like a failure.
fn or_none(text: String, rows: usize, none: &str) -> String {
    if rows == 0 { format!("{none}\n") } else { text }
}

fn hostfwds(Hostfwds { entries }: &Hostfwds) -> String {
    let row = |forward: &Hostfwd| {
        let more = forward.count.unwrap_or(1).saturating_sub(1);
        let range = |first: u16| if more == 0 { first.to_string() } else { format!("{first}-{}", first.saturating_add(more)) };
        let at = |ip: Option<std::net::IpAddr>, port: String| match ip {
            Some(std::net::IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
            Some(ip) => format!("{ip}:{port}"),
            None => port,
        };
        let host = match &forward.host_path {
            Some(path) => path.display().to_string(),
            None => at(forward.host_addr, range(forward.host_port.unwrap_or_default())),
        };
        let host = match &forward.interface {
            Some(interface) => format!("{host} on {interface}"),
            None => host,
        };
        let protocol = match forward.proto {
            HostfwdProtocol::Tcp => "tcp",
            HostfwdProtocol::Udp => "udp",
            HostfwdProtocol::Unix => "unix",
        };
        let id = forward.id.map_or_else(String::new, |id| id.to_string());
        [id, protocol.to_owned(), host, at(forward.guest_addr, range(forward.guest_port))]
    };
    or_none(table(["ID", "PROTOCOL", "HOST", "GUEST"], &[0], entries.iter().map(row)), entries.len(), "no forwards")
}

fn flows(Flows { tcp, udp }: &Flows) -> String {
    let row = |protocol: &str, guest: String, remote: String, state: String| [protocol.to_owned(), guest, remote, state];
    let tcp_rows = tcp.iter().map(|flow| row("tcp", flow.guest.to_string(), flow.remote.to_string(), flow.state.clone()));
    let udp_rows = udp.iter().map(|flow| {
        let remote = flow.client.map_or_else(|| "*".to_owned(), |client| client.to_string());
        row("udp", flow.guest.to_string(), remote, format!("silent for {:.0} s", flow.idle))
    });
    let rows = tcp_rows.chain(udp_rows);
    or_none(table(["PROTOCOL", "GUEST", "REMOTE", "STATE"], &[], rows), tcp.len() + udp.len(), "no connections")
}

fn leases(LeaseTable { leases }: &LeaseTable) -> String {
    let rows = leases.iter().map(|lease| {
        let name = lease.hostname.clone().unwrap_or_default();
        [lease.address.to_string(), lease.mac.clone(), name, lease.state.clone(), format!("{:.0} s", lease.expires_in)]
    });
    or_none(table(["ADDRESS", "CARD", "NAME", "STATE", "LASTS"], &[4], rows), leases.len(), "no leases")
}

fn dns(known: &Dns, cached: bool) -> String {
    let servers = known
        .servers
        .iter()
        .map(|server| [server.address.to_string(), if server.up { "up" } else { "does not answer" }.to_owned()]);
    let mut text = or_none(table(["SERVER", "STATE"], &[], servers), known.servers.len(), "no servers to ask");
    if !known.names.is_empty() {
        let names =
            known.names.iter().map(|name| [name.name.clone(), name.address.to_string(), format!("{:.0} s", name.expires_in)]);
        text += "\n";
        text += &table(["GUEST", "ADDRESS", "LASTS"], &[2], names);
    }
    if cached {
        let answers = known.cached.iter().map(|answer| [answer.question.clone(), format!("{:.0} s", answer.expires_in)]);
        text += "\n";
        text += &or_none(table(["ANSWER TO", "KEPT FOR"], &[1], answers), known.cached.len(), "no answers are kept");
    }
    let DnsStats { local, cached, joined, forwarded, failed, refused, dropped, overloaded } = known.counts;
    text += &format!(
        "\nanswered: {local} ourselves, {cached} from what is kept ({} kept now), {joined} with others, {forwarded} by a server; \
         not answered: {failed} by any server, {refused} refused, {dropped} no questions, {overloaded} too many at once\n",
        known.cached.len()
    );
    text
}

fn ports(PortTable { ports }: &PortTable) -> String {
    let rows = ports.iter().map(|port| {
        let link = if port.up { "up" } else { "down" }.to_owned();
        let offloads = if port.offloads.is_empty() { "none".to_owned() } else { port.offloads.join(" ") };
        [port.id.to_string(), port.name.clone(), link, port.mtu.to_string(), offloads, port.dropped.to_string()]
    });
    or_none(table(["ID", "NAME", "LINK", "MTU", "OFFLOADS", "REFUSED"], &[0, 3, 5], rows), ports.len(), "no guests")
}

fn captures(CaptureTable { captures }: &CaptureTable) -> String {
    let rows = captures.iter().map(|capture| {
        let filter = capture.filter.clone().unwrap_or_else(|| "all".to_owned());
        let state = capture.failure.clone().unwrap_or_else(|| "recording".to_owned());
        let (records, bytes) = (capture.records.to_string(), capture.bytes.to_string());
        [capture.id.0.to_string(), capture.to.clone(), filter, records, bytes, capture.dropped.to_string(), state]
    });
    let header = ["ID", "TO", "WHICH", "FRAMES", "BYTES", "MISSED", "STATE"];
    or_none(table(header, &[0, 3, 4, 5], rows), captures.len(), "no captures")
}

fn counters(CounterValues(values): &CounterValues, all: bool) -> String {
    let shown: Vec<_> = values.iter().filter(|(_, value)| all || *value > 0).collect();
    let rows = shown.iter().map(|(name, value)| [name.clone(), value.to_string()]);
    or_none(table(["COUNTER", "VALUE"], &[1], rows), shown.len(), "nothing has happened yet")
}

fn info(info: &Info) -> String {
    let mut rows = vec![
        ["version".to_owned(), info.version.clone()],
        ["running for".to_owned(), format!("{:.0} s", info.uptime)],
        ["mtu".to_owned(), info.mtu.to_string()],
    ];
    let off = || "off".to_owned();
    let ipv4 = info.ipv4.as_ref().map_or_else(off, |ipv4| {
        format!("{}, gateway {}, dns {}, leases from {}", ipv4.net, ipv4.gateway, ipv4.dns, ipv4.dhcp_start)
    });
    let ipv6 = info.ipv6.as_ref().map_or_else(off, |ipv6| format!("{}, gateway {}, dns {}", ipv6.prefix, ipv6.gateway, ipv6.dns));
    rows.extend([["ipv4".to_owned(), ipv4], ["ipv6".to_owned(), ipv6]]);
    let switch = |on: bool| if on { "on" } else { "off" }.to_owned();
    rows.extend([["restrict".to_owned(), switch(info.restrict)], ["host-loopback".to_owned(), switch(info.host_loopback)]]);
    rows.extend(info.limits.iter().map(|(name, limit)| [format!("limit {name}"), limit.to_string()]));
    rows.extend(info.timeouts.iter().map(|(name, seconds)| [format!("timeout {name}"), format!("{seconds} s")]));
    table(["WHAT", "VALUE"], &[], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(text: &str, id: u32) -> Hostfwd {
        let AddHostfwd(rule) = AddHostfwd(text.parse().unwrap());
        let bound = crate::engine::BoundForward {
            id: ForwardId(id),
            guest: (rule.guest.unwrap_or_else(|| [10, 0, 2, 15].into()), rule.guest_port).into(),
            host: rule.host,
        };
        bound.into()
    }

    #[test]
    fn forwards_are_shown_as_people_write_them() {
        let entries = vec![
            forward("tcp:127.0.0.1:2222-:22", 1),
            forward("udp:[::1]:6000-6010-[fec0::15]:7000", 12),
            forward("tcp:%lo:80-:80", 13),
            forward("unix:/run/ssh.sock-:22", 14),
        ];
        let shown = hostfwds(&Hostfwds { entries });
        let words: Vec<Vec<_>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0], ["ID", "PROTOCOL", "HOST", "GUEST"]);
        assert_eq!(words[1], ["1", "tcp", "127.0.0.1:2222", "10.0.2.15:22"]);
        assert_eq!(words[2], ["12", "udp", "[::1]:6000-6010", "[fec0::15]:7000-7010"]);
        assert_eq!(words[3], ["13", "tcp", "0.0.0.0:80", "on", "lo", "10.0.2.15:80"]);
        assert_eq!(words[4], ["14", "unix", "/run/ssh.sock", "10.0.2.15:22"]);
        assert_eq!(hostfwds(&Hostfwds { entries: Vec::new() }), "no forwards\n");
    }

    #[test]
    fn an_engine_that_is_not_there_is_explained() {
        let asked = Asked { client: Client::new("/nowhere/api.sock"), json: false };
        let failure = asked.tell(&GetInfo {}, |_| String::new()).unwrap_err().to_string();
        assert!(failure.starts_with("cannot connect to /nowhere/api.sock: no such file or directory. "), "{failure}");
        assert!(failure.contains("--api-socket"), "{failure}");
    }

    #[test]
    fn what_is_zero_is_not_shown_unless_asked_for() {
        let values = CounterValues(vec![("frames_in".to_owned(), 7), ("drop_port".to_owned(), 0)]);
        assert!(counters(&values, false).contains("frames_in") && !counters(&values, false).contains("drop_port"));
        assert!(counters(&values, true).contains("drop_port"));
    }
}
