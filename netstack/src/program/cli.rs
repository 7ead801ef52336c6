//! The command line: what can be said, checked as far as the words alone allow, and explained by `--help`.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

use crate::capture::filter;
use crate::config::{Config, qemu};
use crate::port::stream::StreamAddress;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::program::capture::{CaptureArgs, StandardOutput};
use crate::program::ctl::CtlArgs;
use crate::program::engine::Beside;
use crate::program::failure::Failure;
use crate::program::log::check_filter;
use crate::program::namespace::Target;

/// The largest MTU of a link: what fits an IP packet, rounded down as other user-mode networks have it.
const MTU_MAX: u16 = 65_520;

/// The least MTU that a link with IPv6 may have (RFC 8200 section 5).
const MTU_MIN_IPV6: u16 = 1280;

/// A network for virtual machines and network namespaces, without root.
#[derive(Debug, Parser)]
#[command(name = "slipway", version, max_term_width = 100, after_long_help = MAIN_HELP, propagate_version = true)]
pub(crate) struct Cli {
    /// What to tell on standard error: error, warn, info, debug, trace, or a filter such as `warn,netstack::engine=debug`
    #[arg(long, global = true, value_name = "LEVEL|FILTER", value_parser = check_filter)]
    pub(crate) log: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const MAIN_HELP: &str = "\
Examples:
  slipway demo                              prove on this machine that it works
  slipway shell                             a shell with a network of its own
  slipway shell -- curl http://10.0.2.2/    one command; 10.0.2.2 is this machine
  slipway netns --configure $PID            a network for a namespace that exists
  slipway serve --port stream:unix:/tmp/net.sock
                                            a network for QEMU; `slipway serve --help` tells its options
  slipway replay capture.pcapng             does the engine still do what it did?

Exit codes: 0 for success, 2 for a wrong command line or configuration, 1 for every other failure. `shell` exits with what its command \
exits with.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command, or a shell, in a network namespace of its own
    #[command(after_long_help = with_options(SHELL_HELP))]
    Shell(ShellArgs),
    /// Give a network namespace that exists a network
    #[command(after_long_help = with_options(NETNS_HELP))]
    Netns(NetnsArgs),
    /// Give a network to virtual machines that connect to a socket
    #[command(after_long_help = with_options(SERVE_HELP))]
    Serve(ServeArgs),
    /// Ask a network that runs, and change it: forwards, connections, leases, links, recordings
    #[command(after_long_help = CTL_HELP)]
    Ctl(CtlArgs),
    /// Prove that it works: a guest in a namespace leases, pings, resolves and transfers
    #[command(after_long_help = DEMO_HELP)]
    Demo(DemoArgs),
    /// Play recordings against the engine, and tell what it does otherwise than it did
    #[command(after_long_help = with_options(REPLAY_HELP))]
    Replay(ReplayArgs),
    /// Report what this machine offers, with the remedy for what is missing
    #[command(after_long_help = CHECK_HELP)]
    Check {
        /// Print the report as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print completions for a shell
    #[command(after_long_help = COMPLETIONS_HELP)]
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print the manual page
    #[command(after_long_help = MAN_HELP)]
    Man {
        /// Write the pages of all subcommands into this directory instead
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

const SHELL_HELP: &str = "\
The command runs as root of a new user namespace, which is you to everybody else, in new network and mount namespaces. Its interface has \
the first address that DHCP would lease, and its /etc/resolv.conf names the DNS server of the network. When the command ends, so does the \
network. Needs read and write access to /dev/net/tun.

Examples:
  slipway shell
  slipway shell --user restrict=on -- make test          no way out but to this machine
  slipway shell --user hostfwd=tcp:127.0.0.1:8080-:80 -- python3 -m http.server 80
  slipway shell --mtu 65520 -- iperf3 -c 10.0.2.2
  slipway shell --pcap net.pcapng -- apt-get update      records what it says";

const NETNS_HELP: &str = "\
The namespace is that of a process, or a file such as `ip netns` makes. The user namespace of a process is entered too, so this works for \
your own `unshare -rn`. The network ends with the process or the file, when the interface is removed, and on SIGTERM.

Examples:
  slipway netns --configure $PID
  slipway netns --configure --mtu 65520 /run/netns/blue tap0
  slipway netns --configure --ready-fd 3 $PID 3>ready        writes `1` when the network is there
  slipway netns --configure --pcap - $PID | tshark -r -      shows what goes over it";

const SERVE_HELP: &str = "\
Every connection is one guest; all of them are on the same network and reach each other. Frames are as QEMU's `-netdev stream` sends \
them: the length in 4 bytes, most significant first, then the frame.

Examples:
  slipway serve --port stream:unix:/tmp/net.sock
  qemu-system-x86_64 -netdev stream,id=n,server=off,addr.type=unix,addr.path=/tmp/net.sock \\
                     -device virtio-net-pci,netdev=n ...
  slipway serve --user hostfwd=tcp:127.0.0.1:2222-:22 --port stream:tcp:127.0.0.1:5000";

const CTL_HELP: &str = "\
SOCKET is what --api-socket of `slipway shell`, `netns`, `serve` or `slipway-vm run` has named. Programs speak JSON over it: see \
docs/control.md of netstack. What slirp4netns's API understands is understood there too.

Examples:
  slipway ctl /run/user/1000/net.sock hostfwd add tcp:127.0.0.1:2222-:22
  slipway ctl net.sock hostfwd add unix:/run/user/1000/ssh.sock-:22
  slipway ctl net.sock hostfwd list
  slipway ctl net.sock hostfwd remove 1
  slipway ctl net.sock flows
  slipway ctl net.sock link down tap0
  slipway ctl net.sock captures start /tmp/net.pcapng --filter 'port 53'
  slipway ctl net.sock counters --json | jq '.return.frames_in'
  slipway ctl net.sock shutdown";

const DEMO_HELP: &str = "\
Starts servers on this machine's loopback address and a guest in a new network namespace, and lets the guest use them through the \
engine. Needs no root and no internet, only /dev/net/tun and user namespaces. Exits with 0 if no step failed.

Examples:
  slipway demo
  slipway demo --size 1024 --mtu 65520
  slipway demo --json | jq '.parts[].steps[] | select(.passed | not)'";

const REPLAY_HELP: &str = "\
What the guest sent is sent to an engine in virtual time; what the host's peers said is taken from the recording. What the engine sends is \
compared with what it has sent then, field by field, in each conversation. Initial sequence numbers and IP identifications may differ. \
What a recording cannot say, such as the options of its network, goes into a file beside it: NAME.toml for NAME.pcapng.

Examples:
  slipway replay capture.pcapng
  slipway replay pcap-fixtures                  every recording in a directory, and in those in it
  slipway replay --json capture.pcapng | jq '.recordings[].differences[]'
  slipway replay --update pcap-fixtures         make what the engine sends now what is expected
  slipway replay --user ipv6=off dump.pcap      a recording by QEMU's filter-dump or tcpdump

Exit codes: 0 if everything is as recorded, 1 if something is not, 2 if a file cannot be used.";

const CHECK_HELP: &str = "\
Examples:
  slipway check
  slipway check --json | jq '.findings[] | select(.state != \"good\")'

Exit codes: 0 if commands and network namespaces can have a network here, 1 if not.";

const COMPLETIONS_HELP: &str = "\
Examples:
  slipway completions bash > ~/.local/share/bash-completion/completions/slipway
  slipway completions zsh > ~/.zfunc/_slipway
  slipway completions fish > ~/.config/fish/completions/slipway.fish";

const MAN_HELP: &str = "\
Examples:
  slipway man | man -l -
  slipway man --dir ~/.local/share/man/man1";

/// Adds the syntax of `--pcap-filter` and `--user` to a help text.
fn with_options(help: &str) -> String {
    format!("{help}\n\nEXPR of --pcap-filter:\n{}\n\nOPTS of --user:\n{}", filter::HELP, qemu::HELP)
}

/// What every subcommand with an engine takes.
#[derive(Debug, Args)]
pub(crate) struct NetworkArgs {
    /// The network's options, as of QEMU's `-netdev user` without the leading `user,`
    #[arg(long, value_name = "OPTS", default_value = "", hide_default_value = true, value_parser = User::from_str)]
    user: User,
    /// The MTU of the link in bytes, at most 65520 [default: 1500]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(68..=i64::from(MTU_MAX)))]
    mtu: Option<u16>,
    /// Listen for commands at this UNIX socket, which is yours alone: `slipway ctl`, or JSON as of slirp4netns
    #[arg(long, short, value_name = "PATH")]
    api_socket: Option<PathBuf>,
    #[command(flatten)]
    capture: CaptureArgs,
}

/// A `--user`, as it was written and as it was understood.
#[derive(Debug, Clone)]
struct User {
    text: String,
    config: Config,
}

impl FromStr for User {
    type Err = qemu::OptionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self { config: qemu::parse(text)?, text: text.to_owned() })
    }
}

impl NetworkArgs {
    /// What there is to be beside the engine. What is to be recorded into is open then.
    ///
    /// # Errors
    ///
    /// As [`CaptureArgs::open`].
    pub(crate) fn beside(&self, output: StandardOutput) -> Result<Beside, Failure> {
        let capture = self.capture.open(&self.user.text, output)?;
        Ok(Beside { capture, api_socket: self.api_socket.clone() })
    }

    /// What the engine is to be told.
    ///
    /// # Errors
    ///
    /// When the options contradict each other.
    pub(crate) fn config(&self) -> Result<Config, Failure> {
        let mut config = self.user.config.clone();
        config.mtu = self.mtu.unwrap_or(config.mtu);
        if config.ipv6.is_some() && config.mtu < MTU_MIN_IPV6 {
            return Err(Failure::usage(format!("--mtu {} is too small", config.mtu))
                .because(format!("IPv6 needs an MTU of at least {MTU_MIN_IPV6} bytes"))
                .advice("Choose a larger one, or add `ipv6=off` to --user."));
        }
        Ok(config)
    }
}

#[derive(Debug, Args)]
pub(crate) struct ShellArgs {
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    /// The command and its arguments [default: $SHELL, else /bin/sh]
    #[arg(value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct NetnsArgs {
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    /// Bring the interface up, with the first address and default routes, and lo too
    #[arg(long, short)]
    pub(crate) configure: bool,
    /// Write `1` to this descriptor when the network is there, and close it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(RawFd).range(0..))]
    pub(crate) ready_fd: Option<RawFd>,
    /// End when the other end of this descriptor is closed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(RawFd).range(0..))]
    pub(crate) exit_fd: Option<RawFd>,
    /// The user namespace that owns the network namespace PATH
    #[arg(long, value_name = "PATH")]
    userns_path: Option<PathBuf>,
    /// A process in the network namespace, or a file that stands for it
    #[arg(value_name = "PID|PATH")]
    namespace: PidOrPath,
    /// The name of the interface
    #[arg(value_name = "IFNAME", default_value = "tap0")]
    pub(crate) interface: InterfaceName,
}

impl NetnsArgs {
    /// The namespaces that are meant.
    ///
    /// # Errors
    ///
    /// When two of them are named for the same thing.
    pub(crate) fn target(&self) -> Result<Target, Failure> {
        match (&self.namespace, &self.userns_path) {
            (PidOrPath::Pid(pid), None) => Ok(Target::of_process(*pid)),
            (PidOrPath::Pid(_), Some(_)) => Err(Failure::usage("--userns-path goes with a PATH")
                .because("a PID already tells its user namespace")
                .advice("Leave --userns-path out, or name the network namespace by its path.")),
            (PidOrPath::Path(net), user) => Ok(Target::of_path(net.clone(), user.clone())),
        }
    }

    /// The process that was named, if one was.
    pub(crate) fn pid(&self) -> Option<u32> {
        match self.namespace {
            PidOrPath::Pid(pid) => Some(pid),
            PidOrPath::Path(_) => None,
        }
    }
}

/// How a namespace is named: only digits are a PID.
#[derive(Debug, Clone, PartialEq, Eq)]
enum PidOrPath {
    Pid(u32),
    Path(PathBuf),
}

impl FromStr for PidOrPath {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err("neither a PID nor a path");
        }
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self::Path(PathBuf::from(text)));
        }
        match text.parse() {
            Ok(pid @ 1..=0x7fff_ffff) => Ok(Self::Pid(pid)),
            _ => Err("no PID: those go from 1 to 2147483647"),
        }
    }
}

/// A name that the kernel takes for an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InterfaceName(String);

impl InterfaceName {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        // IFNAMSIZ is 16 with the final NUL; the kernel expands `%`.
        if name.len() > 15 {
            return Err("too long: the kernel takes at most 15 bytes for the name of an interface");
        }
        let strange = |c: char| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control();
        if name.is_empty() || name == "." || name == ".." || name.chars().any(strange) {
            return Err("no name for an interface: it must not be empty, `.`, `..`, or contain `/`, `:`, `%` or white space");
        }
        Ok(Self(name.to_owned()))
    }
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    /// Where guests connect: stream:unix:PATH or stream:tcp:ADDR:PORT; may be given several times
    #[arg(long = "port", value_name = "PORT", required = true)]
    pub(crate) ports: Vec<PortSpec>,
}

/// A `--port`.
#[derive(Debug, Clone)]
pub(crate) struct PortSpec {
    /// As the user has written it.
    pub(crate) text: String,
    pub(crate) address: StreamAddress,
}

impl FromStr for PortSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(address) = text.strip_prefix("stream:") else {
            return Err("a port is stream:unix:PATH or stream:tcp:ADDR:PORT".to_owned());
        };
        let address = address.parse().map_err(|err| format!("{err}"))?;
        Ok(Self { text: text.to_owned(), address })
    }
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How much to transfer each way, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) size: u32,
    /// The MTU of the link in bytes, from 1280 to 65520
    #[arg(long, value_name = "N", default_value_t = 1500, value_parser = clap::value_parser!(u16).range(i64::from(MTU_MIN_IPV6)..=i64::from(MTU_MAX)))]
    pub(crate) mtu: u16,
    /// Print the results as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// Recordings: pcap or pcapng files, or directories of such
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Rewrite the recordings, with what the engine sends now
    #[arg(long)]
    pub(crate) update: bool,
    /// Print the results as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The network's options, whatever the recordings say, as of QEMU's `-netdev user` without the leading `user,`
    #[arg(long, value_name = "OPTS", value_parser = check_options)]
    pub(crate) user: Option<String>,
}

fn check_options(text: &str) -> Result<String, String> {
    qemu::parse(text).map(|_| text.to_owned()).map_err(|err| err.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(words: &[&str]) -> Result<Command, clap::Error> {
        Cli::try_parse_from(["slipway"].iter().chain(words)).map(|cli| cli.command)
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_subcommand_explains_itself_by_examples() {
        for command in Cli::command().get_subcommands().filter(|command| command.get_name() != "help") {
            let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:\n"), "{}", command.get_name());
        }
    }

    #[test]
    fn words_after_the_command_belong_to_it() {
        for words in [&["shell", "--", "curl", "-v", "x"][..], &["shell", "curl", "-v", "x"]] {
            let Command::Shell(args) = parse(words).unwrap() else { panic!("{words:?}") };
            assert_eq!(args.command, ["curl", "-v", "x"]);
        }
    }

    #[test]
    fn digits_are_a_process_and_everything_else_a_path() {
        assert_eq!("4711".parse(), Ok(PidOrPath::Pid(4711)));
        assert_eq!("/run/netns/blue".parse(), Ok(PidOrPath::Path("/run/netns/blue".into())));
        assert!("0".parse::<PidOrPath>().is_err());
        assert!("99999999999".parse::<PidOrPath>().is_err());
    }

    #[test]
    fn a_name_that_the_kernel_refuses_is_a_usage_error() {
        for name in ["interface-number-1", "a/b", "", "..", "tap%d", "a b"] {
            assert!(name.parse::<InterfaceName>().is_err(), "{name}");
        }
        assert!("fifteen-letters".parse::<InterfaceName>().is_ok());
        assert_eq!(parse(&["netns", "1", "interface-number-1"]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn ipv6_and_a_small_mtu_exclude_each_other() {
        let Command::Shell(args) = parse(&["shell", "--mtu", "1000"]).unwrap() else { panic!() };
        let failure = args.network.config().unwrap_err();
        assert_eq!(failure.code(), 2);
        assert!(failure.to_string().contains("ipv6=off"));
    }

    #[test]
    fn a_port_needs_its_kind() {
        assert!(parse(&["serve", "--port", "unix:/tmp/a"]).is_err());
        assert!(parse(&["serve", "--port", "stream:unix:/tmp/a", "--port", "stream:tcp:127.0.0.1:5000"]).is_ok());
        assert!(parse(&["serve"]).is_err());
    }

    #[test]
    fn a_filter_is_checked_before_anything_happens() {
        assert!(parse(&["--log", "info,netstack=trace", "demo"]).is_ok());
        assert!(parse(&["demo", "--log", "=,=x"]).is_err());
    }
}
