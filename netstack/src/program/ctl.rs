//! `slipway ctl`: asks a running network things, and changes it. A friendly client of [`crate::control`].

use std::io;

use clap::{Args, Subcommand};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use crate::config::HostForward;
use crate::control::client::{CallError, Client};
use crate::control::{
    AddHostfwd, Command, CounterValues, Flows, GetCounters, GetInfo, Hostfwd, HostfwdProtocol, Hostfwds, Info, ListFlows,
    ListHostfwd, RemoveHostfwd, Shutdown,
};
use crate::engine::ForwardId;
use crate::program::completions::print;
use crate::program::failure::Failure;

#[derive(Debug, Args)]
pub(crate) struct CtlArgs {
    /// Print the answer as it comes, in JSON
    #[arg(long, global = true)]
    json: bool,
    /// The socket, as it was named by --api-socket
    #[arg(value_name = "SOCKET")]
    socket: std::path::PathBuf,
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
        let host = forward.interface.as_ref().map_or(host.clone(), |interface| format!("{host} on {interface}"));
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

fn flows(Flows { tcp }: &Flows) -> String {
    let row = |protocol: &str, guest: String, remote: String, state: &str| [protocol.to_owned(), guest, remote, state.to_owned()];
    let tcp_rows = tcp.iter().map(|flow| row("tcp", flow.guest.to_string(), flow.remote.to_string(), &flow.state));
    or_none(table(["PROTOCOL", "GUEST", "REMOTE", "STATE"], &[], tcp_rows), tcp.len(), "no connections")
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
            guest: (rule.guest.unwrap_or([10, 0, 2, 15].into()), rule.guest_port).into(),
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
