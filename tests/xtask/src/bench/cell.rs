//! One cell of the measurement: a fresh namespace for the host, a fresh one for the guest, and a stack between them.
//!
//! Nothing outlives its cell: processes are killed and namespaces deleted when it is dropped. And if nobody is left to drop it, the
//! process namespace that everything runs in ends with the measurement (see [`super::netns`]).

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};

use super::stack::{INTERFACE, Stack};

/// Where the guest reaches the host's loopback.
const HOST: &str = "10.0.2.2";
const IPERF_PORT: u16 = 5299;
const LOAD_PORT: u16 = 5298;
/// How long a stack may take to bring its network up.
const PATIENCE: Duration = Duration::from_secs(15);

/// What the kernel counts processor time in: `USER_HZ` is 100 on every architecture that we know.
const TICK: Duration = Duration::from_millis(10);

/// A host, a guest and a stack.
#[derive(Debug)]
pub(crate) struct Cell {
    // Dropped in this order: first what uses the namespaces.
    stack: Process,
    servers: Vec<Process>,
    guest: Namespace,
    host: Namespace,
}

/// Where something runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// In the namespace in which the stack has its sockets.
    Host,
    /// In the namespace to which it gives a network.
    Guest,
}

/// What one run of iperf3 has moved.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transfer {
    /// As the receiver saw it, in Gbit/s.
    pub(crate) gbps: f64,
    /// Processor time of the stack, in seconds for 10⁹ bytes.
    pub(crate) cpu_per_gb: f64,
    /// Segments that the kernels of guest and host have sent again.
    pub(crate) retransmits: u64,
    /// Those of them that were not lost: the receiving kernel has said that it had them (RFC 2883). A sender on loopback probes the tail
    /// (RFC 8985) when a receiver that is short of processor time acknowledges late.
    pub(crate) needless: u64,
    /// Segments that the guest's kernel got again though it had acknowledged them.
    pub(crate) duplicates: u64,
}

/// What a stack holds and has used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Resident memory, in bytes.
    pub(crate) resident: u64,
    /// That part of it which is its own: neither shared nor of a file.
    pub(crate) anonymous: u64,
    /// Processor time since the start.
    pub(crate) cpu: Duration,
}

/// What the kernels of guest and host have counted so far.
#[derive(Debug, Clone, Copy)]
struct Retransmits {
    sent_again: u64,
    needless: u64,
    /// Segments that the guest got again though it had acknowledged them.
    received_twice: u64,
}

impl Cell {
    /// Makes the namespaces, starts servers on the host's loopback and the stack, and waits until the guest reaches them.
    pub(crate) fn new(stack: Stack, mtu: u32, congestion_control: &str) -> Result<Self> {
        Self::with(stack, &[], mtu, congestion_control)
    }

    /// The same with more options for the stack.
    pub(crate) fn with(stack: Stack, more: &[String], mtu: u32, congestion_control: &str) -> Result<Self> {
        let host = Namespace::new("h", congestion_control)?;
        let guest = Namespace::new("g", congestion_control)?;
        host.give_a_default_route()?;
        let iperf = host.spawn("iperf3", ["iperf3", "-s", "-B", "127.0.0.1", "-p", &IPERF_PORT.to_string()])?;
        let load = host.spawn("load", [&ourselves()?, "load", "serve", &format!("127.0.0.1:{LOAD_PORT}")])?;
        let servers = vec![iperf, load];
        for (server, port) in servers.iter().zip([IPERF_PORT, LOAD_PORT]) {
            server.wait_until("listens", || server.listens_on(port))?;
        }
        let stack = host.spawn(stack.name(), stack.attach(&guest.path(), mtu, more))?;
        let cell = Self { stack, servers, guest, host };
        cell.stack.wait_until("has configured the interface", || {
            let shown = cell.guest.command(["ip", "-4", "-br", "addr", "show", INTERFACE]).output();
            shown.is_ok_and(|shown| String::from_utf8_lossy(&shown.stdout).contains("10.0.2."))
        })?;
        cell.load(&["probe"])?;
        Ok(cell)
    }

    /// Runs iperf3 in the guest for that many seconds.
    pub(crate) fn transfer(&self, seconds: u32, flows: u32, down: bool) -> Result<Transfer> {
        let before = self.retransmits()?;
        let cpu_before = self.usage()?.cpu;
        let (flows, seconds, port) = (flows.to_string(), seconds.to_string(), IPERF_PORT.to_string());
        let limit = "60";
        let mut iperf =
            self.guest.command(["timeout", limit, "iperf3", "-J", "-c", HOST, "-p", &port, "-t", &seconds, "-P", &flows]);
        if down {
            iperf.arg("-R");
        }
        let printed = iperf.stdin(Stdio::null()).output().context("cannot run iperf3")?;
        let cpu = self.usage()?.cpu.saturating_sub(cpu_before);
        let after = self.retransmits()?;
        let result: serde_json::Value = serde_json::from_slice(&printed.stdout).context("iperf3 has printed no result")?;
        let received = &result["end"]["sum_received"];
        let (Some(bits_per_second), Some(bytes)) = (received["bits_per_second"].as_f64(), received["bytes"].as_f64()) else {
            bail!("iperf3 has failed: {}", result["error"].as_str().unwrap_or("no result"));
        };
        ensure!(bytes > 0.0, "nothing was received");
        Ok(Transfer {
            gbps: bits_per_second / 1e9,
            cpu_per_gb: cpu.as_secs_f64() / (bytes / 1e9),
            retransmits: after.sent_again.saturating_sub(before.sent_again),
            needless: after.needless.saturating_sub(before.needless),
            duplicates: after.received_twice.saturating_sub(before.received_twice),
        })
    }

    /// Runs our load generator in the guest, and returns what it prints.
    pub(crate) fn load(&self, what: &[&str]) -> Result<String> {
        let printed = self.load_command(what)?.stdin(Stdio::null()).output().context("cannot run the load generator")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        ensure!(printed.status.success(), "{}: {} {}", what[0], text(&printed.stderr), self.stack.last_words());
        Ok(text(&printed.stdout))
    }

    /// Runs our load generator on one side, and returns what it prints.
    pub(crate) fn load_on(&self, side: Side, what: &[&str]) -> Result<String> {
        let printed = self.on(side, &[&[ourselves()?.as_str(), "load"], what].concat())?;
        Ok(printed.trim().to_owned())
    }

    /// Runs a command on one side, and returns what it prints.
    pub(crate) fn on(&self, side: Side, words: &[&str]) -> Result<String> {
        let mut command = self.namespace(side).command(words.iter().copied());
        let printed = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", words.join(" ")))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(printed.status.success(), "{}: {} {}", words.join(" "), text(&printed.stderr).trim(), self.stack.last_words());
        Ok(text(&printed.stdout))
    }

    /// Starts a server on one side that answers every byte with a byte, and waits until it listens.
    pub(crate) fn serve(&mut self, side: Side, at: &str) -> Result<()> {
        self.start_server(side, "serve", at)
    }

    /// Likewise a DNS server.
    pub(crate) fn serve_names(&mut self, side: Side, at: &str) -> Result<()> {
        self.start_server(side, "names", at)
    }

    /// Likewise one that streams known bytes both ways.
    pub(crate) fn serve_stream(&mut self, side: Side, at: &str) -> Result<()> {
        self.start_server(side, "serve-stream", at)
    }

    fn start_server(&mut self, side: Side, what: &str, at: &str) -> Result<()> {
        let server = self.namespace(side).spawn("load", [&ourselves()?, "load", what, at])?;
        let port: std::net::SocketAddr = at.parse()?;
        server.wait_until("listens", || server.listens_on(port.port()))?;
        self.servers.push(server);
        Ok(())
    }

    /// Starts a client on one side that streams until it is ended.
    pub(crate) fn stream(&self, side: Side, to: &str) -> Result<Stream> {
        let mut command = self.namespace(side).command([ourselves()?.as_str(), "load", "stream", "--to", to]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        Ok(Stream(Some(child)))
    }

    fn namespace(&self, side: Side) -> &Namespace {
        match side {
            Side::Host => &self.host,
            Side::Guest => &self.guest,
        }
    }

    /// Opens idle flows that stay until what is returned is dropped.
    pub(crate) fn open_idle(&self, flows: u32) -> Result<IdleFlows> {
        let mut child =
            self.load_command(&["idle", "--flows", &flows.to_string()])?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().context("no output")?);
        let mut opened = String::new();
        stdout.read_line(&mut opened)?;
        let opened = opened.trim().parse().context("the load generator has opened nothing")?;
        Ok(IdleFlows { opened, child, stdin, _stdout: stdout })
    }

    /// What the stack holds and has used until now, all its processes together.
    pub(crate) fn usage(&self) -> Result<Usage> {
        self.stack.usage()
    }

    fn load_command(&self, what: &[&str]) -> Result<Command> {
        let mut command = self.guest.command([ourselves()?.as_str(), "load"]);
        command.args(what).args(["--to", &format!("{HOST}:{LOAD_PORT}")]);
        Ok(command)
    }

    fn retransmits(&self) -> Result<Retransmits> {
        let guest = counters(&self.guest.counters()?);
        let host = counters(&self.host.counters()?);
        let count = |of: &HashMap<String, u64>, name| of.get(name).copied().unwrap_or_default();
        Ok(Retransmits {
            sent_again: count(&guest, "RetransSegs") + count(&host, "RetransSegs"),
            // On the host both ends are this kernel: what it got twice it had not lost, also where it did not say so for each segment.
            needless: count(&guest, "TCPDSACKRecvSegs") + count(&host, "TCPDSACKRecvSegs").max(count(&host, "DelayedACKLost")),
            received_twice: count(&guest, "DelayedACKLost"),
        })
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        self.stack.kill();
        self.servers.iter_mut().for_each(Process::kill);
    }
}

/// A client that streams.
#[derive(Debug)]
pub(crate) struct Stream(Option<Child>);

impl Stream {
    /// Ends it, and tells how it went.
    pub(crate) fn end(mut self) -> Result<super::load::Streamed> {
        let mut child = self.0.take().context("it has ended")?;
        drop(child.stdin.take());
        let printed = child.wait_with_output()?;
        ensure!(printed.status.success(), "the stream: {}", String::from_utf8_lossy(&printed.stderr).trim());
        Ok(serde_json::from_slice(&printed.stdout)?)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Flows without traffic.
#[derive(Debug)]
pub(crate) struct IdleFlows {
    /// How many could be opened.
    pub(crate) opened: u32,
    child: Child,
    stdin: Option<ChildStdin>,
    _stdout: BufReader<ChildStdout>,
}

impl Drop for IdleFlows {
    fn drop(&mut self) {
        // It ends with its input.
        self.stdin = None;
        let _ = self.child.wait();
    }
}

/// A named network namespace.
#[derive(Debug)]
struct Namespace {
    name: String,
}

impl Namespace {
    fn new(prefix: &str, congestion_control: &str) -> Result<Self> {
        let namespace = Self { name: format!("{prefix}{}", std::process::id()) };
        run(Command::new("ip").args(["netns", "add", &namespace.name]))?;
        run(namespace.command(["ip", "link", "set", "lo", "up"]).env("LC_ALL", "C"))?;
        let congestion_control = format!("net.ipv4.tcp_congestion_control={congestion_control}");
        // As many connections one after the other as possible.
        let ports = "net.ipv4.ip_local_port_range=1024 65535";
        run(&mut namespace.command(["sysctl", "-qw", &congestion_control, ports]))?;
        Ok(namespace)
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// pasta wants to see an interface with a default route, though nothing is behind it.
    fn give_a_default_route(&self) -> Result<()> {
        let name = &self.name;
        let script = format!(
            "set -e; ip -n {name} link add up0 type dummy 2>/dev/null || ip -n {name} link add up0 type veth peer name up1
             ip -n {name} link set up0 up; ip -n {name} link set up1 up 2>/dev/null || true
             ip -n {name} addr add 192.0.2.9/24 dev up0; ip -n {name} route add default via 192.0.2.1"
        );
        run(Command::new("sh").args(["-c", &script]))
    }

    fn command<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).args(words);
        command
    }

    fn spawn<W: AsRef<str>>(&self, name: &str, words: impl IntoIterator<Item = W>) -> Result<Process> {
        let log = tempfile::NamedTempFile::new()?;
        let words: Vec<W> = words.into_iter().collect();
        let child = self
            .command(words.iter().map(AsRef::as_ref))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.reopen()?)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Process { name: name.to_owned(), child, log })
    }

    fn counters(&self) -> Result<String> {
        let shown = self.command(["cat", "/proc/net/snmp", "/proc/net/netstat"]).output()?;
        Ok(String::from_utf8_lossy(&shown.stdout).into_owned())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).stderr(Stdio::null()).status();
    }
}

/// A process group that is killed at the end.
#[derive(Debug)]
struct Process {
    name: String,
    child: Child,
    log: tempfile::NamedTempFile,
}

impl Process {
    fn wait_until(&self, what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            ensure!(Instant::now() < deadline, "{} never {what}: {}", self.name, self.last_words());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Whether its namespace has a listener on this TCP port.
    fn listens_on(&self, port: u16) -> bool {
        let sockets = fs::read_to_string(format!("/proc/{}/net/tcp", self.child.id())).unwrap_or_default();
        let (address, listening) = (format!(":{port:04X}"), "0A");
        sockets.lines().any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            fields.next().is_some_and(|local| local.ends_with(&address)) && fields.nth(1) == Some(listening)
        })
    }

    fn usage(&self) -> Result<Usage> {
        let mut usage = Usage { resident: 0, anonymous: 0, cpu: Duration::ZERO };
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(stat) = fs::read_to_string(entry.path().join("stat")).ok() else { continue };
            // The second field is a name in parentheses, which may contain anything.
            let Some(fields) = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>()) else { continue };
            let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
            // Process group, and processor time in user and kernel mode: fields 5, 14 and 15 of proc_pid_stat(5).
            if number(2) == u64::from(self.child.id()) {
                usage.cpu += TICK * u32::try_from(number(11) + number(12)).unwrap_or(u32::MAX);
                let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
                let kibibytes = |name: &str| -> u64 {
                    let line = status.lines().find_map(|line| line.strip_prefix(name));
                    line.and_then(|rest| rest.trim_matches([':', ' ', '\t', 'k', 'B']).parse().ok()).unwrap_or_default()
                };
                usage.resident += kibibytes("VmRSS") * 1024;
                usage.anonymous += kibibytes("RssAnon") * 1024;
            }
        }
        ensure!(usage.resident > 0, "{} has ended: {}", self.name, self.last_words());
        Ok(usage)
    }

    /// The end of what it has said on its standard error.
    fn last_words(&self) -> String {
        let said = fs::read_to_string(self.log.path()).unwrap_or_default();
        let lines: Vec<_> = said.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }

    fn kill(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The kernel's counters: pairs of lines, names and numbers, that start with the same word.
fn counters(text: &str) -> HashMap<String, u64> {
    let lines: Vec<_> = text.lines().collect();
    let pairs = lines.chunks_exact(2).flat_map(|pair| pair[0].split_whitespace().zip(pair[1].split_whitespace()).skip(1));
    pairs.filter_map(|(name, number)| Some((name.to_owned(), number.parse().ok()?))).collect()
}

fn ourselves() -> Result<String> {
    Ok(std::env::current_exe()?.display().to_string())
}

fn run(command: &mut Command) -> Result<()> {
    let printed = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(printed.status.success(), "{command:?} has failed: {}", String::from_utf8_lossy(&printed.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_under_their_names() {
        let found = counters("Tcp: ActiveOpens RetransSegs\nTcp: 7 3\nTcpExt: DelayedACKLost\nTcpExt: 2\n");
        assert_eq!(found.get("RetransSegs"), Some(&3));
        assert_eq!(found.get("DelayedACKLost"), Some(&2));
    }
}
