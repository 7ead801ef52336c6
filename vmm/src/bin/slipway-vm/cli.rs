//! The command line: what can be said, checked as far as the words alone allow, and explained by `--help`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use netstack::addr::MacAddr;
use netstack::config::{Config, qemu};
use netstack::program::log::check_filter;
use vmm::machine::MAX_CPUS;

/// The least memory with which anything boots.
const MEMORY_MIN: u64 = 16 << 20;

/// The most that a machine may be given: more than a guest can need here, and less than overflows anything.
const MEMORY_MAX: u64 = 1 << 40;

/// The largest MTU of a network card: what fits an IP packet, rounded down as other user-mode networks have it.
const MTU_MAX: u16 = 65_520;

/// The same of an e1000, whose packets it can count in 14 bits.
pub(crate) const E1000_MTU_MAX: u16 = 16_110;

/// The least MTU that IPv4 allows.
const MTU_MIN: u16 = 68;

/// Virtual machines with a network, without root.
#[derive(Debug, Parser)]
#[command(name = "slipway-vm", version, max_term_width = 100, after_long_help = MAIN_HELP, propagate_version = true)]
pub(crate) struct Cli {
    /// What to tell on standard error: error, warn, info, debug, trace, or a filter such as `warn,vmm=debug`
    #[arg(long, global = true, value_name = "LEVEL|FILTER", value_parser = check_filter)]
    pub(crate) log: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const MAIN_HELP: &str = "\
Examples:
  slipway-vm demo                           prove on this machine that it works
  slipway-vm check                          what this machine offers, and how to get what it lacks
  slipway-vm run --kernel vmlinuz --initrd initrd
                                            boot a kernel; `slipway-vm run --help` tells more

Exit codes: 0 for success, 2 for a wrong command line or files that cannot be booted, 1 for every other failure.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Boot a kernel in a virtual machine, with this terminal as its console
    #[command(after_long_help = run_help())]
    Run(Box<RunArgs>),
    /// Prove that it works: guests in a namespace and in virtual machines use their networks
    #[command(after_long_help = DEMO_HELP)]
    Demo(DemoArgs),
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

const RUN_HELP: &str = "\
The kernel is a bzImage as distributions install it, or an ELF image with a PVH entry point. The machine ends when the guest turns it off \
or resets it, on SIGINT, SIGTERM and SIGHUP, and when Ctrl-A and then x is typed; Ctrl-A twice sends one.

Every --netdev is a network of its own. Several devices on one network are on one link and see each other. Without --netdev there is one \
user network, and without --device one virtio-net on each network.

Examples:
  slipway-vm run --kernel /boot/vmlinuz --initrd initrd.img
  slipway-vm run --kernel vmlinuz --initrd initrd --append 'console=ttyS0 root=/dev/vda1' --drive file=disk.img \\
                 --netdev user,id=n0,hostfwd=tcp:127.0.0.1:2222-:22 --device virtio-net,netdev=n0
  slipway-vm run --kernel vmlinuz --initrd initrd --cpus 2 --memory 1G --netdev user,id=n0 --device e1000,netdev=n0
  slipway-vm run --pcap vm.pcapng             the built-in guest, and a recording of what it says
  slipway-vm run --kernel vmlinuz --initrd initrd --api-socket /run/user/1000/vm.sock
                                              then: slipway ctl /run/user/1000/vm.sock hostfwd add tcp:127.0.0.1:2222-:22";

const DEMO_HELP: &str = "\
Starts servers on this machine's loopback address, and guests that use them through the engine: one in a network namespace, and the \
built-in guest in a virtual machine with a virtio network card and in one with an e1000. Needs no root and no internet. Without \
/dev/kvm the built-in guest runs within this process. Exits with 0 if no step failed.

Examples:
  slipway-vm demo
  slipway-vm demo --size 16
  slipway-vm demo --json | jq '.parts[].steps[] | select(.outcome == \"failed\")'";

const CHECK_HELP: &str = "\
Examples:
  slipway-vm check
  slipway-vm check --json | jq '.findings[] | select(.state != \"good\")'";

const COMPLETIONS_HELP: &str = "\
Examples:
  slipway-vm completions bash > ~/.local/share/bash-completion/completions/slipway-vm
  slipway-vm completions zsh > ~/.zfunc/_slipway-vm
  slipway-vm completions fish > ~/.config/fish/completions/slipway-vm.fish";

const MAN_HELP: &str = "\
Examples:
  slipway-vm man | man -l -
  slipway-vm man --dir ~/.local/share/man/man1";

fn run_help() -> String {
    format!("{RUN_HELP}\n\nOPTS of --netdev:\n{}", qemu::HELP)
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The kernel [default: the built-in guest, which gets a lease and pings]
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// The initial RAM disk
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub(crate) initrd: Option<PathBuf>,
    /// The kernel's command line [default: console=ttyS0]
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub(crate) append: Option<String>,
    /// How much memory: a number of MiB, or with a suffix K, M, G
    #[arg(long, short, value_name = "SIZE", default_value = "512M")]
    pub(crate) memory: MemorySize,
    /// How many processors
    #[arg(long, short, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_CPUS)))]
    pub(crate) cpus: u8,
    /// A disk: file=FILE[,readonly=on]; may be given several times
    #[arg(long = "drive", value_name = "OPTS")]
    pub(crate) drives: Vec<DriveSpec>,
    // Not a doc comment: in those, brackets are links.
    #[arg(long = "netdev", value_name = "user,OPTS", help = "A network: user,id=ID[,OPTS]; may be given several times")]
    pub(crate) networks: Vec<NetworkSpec>,
    #[arg(
        long = "device",
        value_name = "KIND,OPTS",
        help = "A network card: virtio-net|e1000,netdev=ID[,mac=MAC][,mtu=N]; may be given several times"
    )]
    pub(crate) devices: Vec<CardSpec>,
    /// Record a network's frames into this pcapng file, which only you may read; with several networks, each may have one
    #[arg(long = "pcap", value_name = "[ID=]FILE")]
    pub(crate) captures: Vec<OfNetwork>,
    /// Listen for commands to a network at this UNIX socket, which is yours alone: see `slipway ctl`; with several networks, each may have
    /// one
    #[arg(long = "api-socket", short = 'a', value_name = "[ID=]PATH")]
    pub(crate) api_sockets: Vec<OfNetwork>,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How much to transfer each way, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) size: u32,
    /// Print the results as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// How much memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemorySize(pub(crate) u64);

impl FromStr for MemorySize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let no_size = || "no size: write a number of MiB, or a number with K, M or G, such as 512M".to_owned();
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit: u64 = match text.get(digits.len()..).unwrap_or_default() {
            "K" | "k" | "KiB" => 1 << 10,
            "" | "M" | "m" | "MiB" => 1 << 20,
            "G" | "g" | "GiB" => 1 << 30,
            _ => return Err(no_size()),
        };
        let size = digits.parse::<u64>().map_err(|_| no_size())?.saturating_mul(unit);
        if !(MEMORY_MIN..=MEMORY_MAX).contains(&size) {
            return Err("a machine can have from 16M to 1024G".to_owned());
        }
        if !size.is_multiple_of(4096) {
            return Err("memory comes in multiples of 4K".to_owned());
        }
        Ok(Self(size))
    }
}

/// A `--drive`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DriveSpec {
    pub(crate) file: PathBuf,
    pub(crate) read_only: bool,
}

impl FromStr for DriveSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut file = None;
        let mut read_only = false;
        for (name, value) in qemu::split_options(text) {
            match (name.as_str(), value.as_deref()) {
                ("file", Some(path)) if !path.is_empty() => file = Some(PathBuf::from(path)),
                ("file", _) => return Err("file= wants the path of a disk image".to_owned()),
                ("readonly", value) => read_only = switch("readonly", value)?,
                ("format", Some("raw")) => {}
                ("format", _) => return Err("only raw images can be used: convert others by `qemu-img convert -O raw`".to_owned()),
                (name, _) => return Err(format!("a drive has no option `{name}`: write file=FILE[,readonly=on]")),
            }
        }
        let file = file.ok_or("a drive needs file=FILE")?;
        Ok(Self { file, read_only })
    }
}

/// A file of a network: what `--pcap` and `--api-socket` name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OfNetwork(pub(crate) OsString);

impl From<OsString> for OfNetwork {
    fn from(text: OsString) -> Self {
        Self(text)
    }
}

impl OfNetwork {
    /// Which network it is of, if it says so, and the file. A file whose name has a `=` is named with its network.
    pub(crate) fn split(&self) -> (Option<&str>, PathBuf) {
        match self.0.to_str().and_then(|text| text.split_once('=')) {
            Some((id, file)) if !id.contains('/') => (Some(id), PathBuf::from(file)),
            _ => (None, PathBuf::from(&self.0)),
        }
    }
}

/// A `--netdev`.
#[derive(Debug, Clone)]
pub(crate) struct NetworkSpec {
    /// As the user has written it.
    pub(crate) text: String,
    pub(crate) id: String,
    pub(crate) config: Config,
}

impl FromStr for NetworkSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let options = qemu::split_options(text);
        if options.first().is_none_or(|(name, value)| name != "user" || value.is_some()) {
            return Err("only user networks are there: write user,id=ID[,OPTS]".to_owned());
        }
        let mut ids = options.iter().filter(|(name, _)| name == "id");
        let id = ids.next_back().and_then(|(_, id)| id.clone()).filter(|id| !id.is_empty());
        let id = id.ok_or("a network needs a name for its devices to refer to: id=ID")?;
        let config = qemu::parse(text).map_err(|err| err.to_string())?;
        Ok(Self { text: text.to_owned(), id, config })
    }
}

/// What kind of network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CardKind {
    VirtioNet,
    E1000,
}

/// A `--device`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CardSpec {
    pub(crate) kind: CardKind,
    pub(crate) network: String,
    pub(crate) mac: Option<MacAddr>,
    pub(crate) mtu: Option<u16>,
}

impl FromStr for CardSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut options = qemu::split_options(text).into_iter();
        let kind = match options.next() {
            Some((name, None)) if matches!(name.as_str(), "virtio-net" | "virtio-net-pci") => CardKind::VirtioNet,
            Some((name, None)) if name == "e1000" => CardKind::E1000,
            Some((name, None)) => return Err(format!("there is no device `{name}`: virtio-net and e1000 are there")),
            _ => return Err("a device begins with its kind: virtio-net,netdev=ID or e1000,netdev=ID".to_owned()),
        };
        let (mut network, mut mac, mut mtu) = (None, None, None);
        for (name, value) in options {
            match (name.as_str(), value.as_deref()) {
                ("netdev", Some(id)) if !id.is_empty() => network = Some(id.to_owned()),
                ("netdev", _) => return Err("netdev= wants the id of a --netdev".to_owned()),
                ("mac", Some(text)) => mac = Some(station(text)?),
                ("mtu" | "host_mtu", Some(text)) => mtu = Some(card_mtu(kind, text)?),
                ("id", _) => {}
                (name, _) => return Err(format!("a network card has no option `{name}`: it has netdev=, mac= and mtu=")),
            }
        }
        let network = network.ok_or("a network card needs netdev=ID, the id of a --netdev")?;
        Ok(Self { kind, network, mac, mtu })
    }
}

/// The address of one card: not that of a group, nor of nobody.
fn station(text: &str) -> Result<MacAddr, String> {
    let mac: MacAddr = text.parse().map_err(|_| format!("`{text}` is no MAC address: write one such as 52:54:00:12:34:56"))?;
    let [first, ..] = mac.0;
    if first & 1 != 0 {
        return Err(format!("`{text}` is the address of a group, which no card can have: the first byte must be even"));
    }
    if mac.0 == [0; 6] {
        return Err("00:00:00:00:00:00 is nobody's address".to_owned());
    }
    Ok(mac)
}

fn card_mtu(kind: CardKind, text: &str) -> Result<u16, String> {
    let most = match kind {
        CardKind::VirtioNet => MTU_MAX,
        CardKind::E1000 => E1000_MTU_MAX,
    };
    match text.parse() {
        Ok(mtu) if (MTU_MIN..=most).contains(&mtu) => Ok(mtu),
        _ => Err(format!("`{text}` is no MTU of this card: it takes from {MTU_MIN} to {most} bytes")),
    }
}

fn switch(name: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("on") => Ok(true),
        Some("off") => Ok(false),
        Some(other) => Err(format!("{name} is on or off, not `{other}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn run(words: &[&str]) -> Result<Box<RunArgs>, clap::Error> {
        let parsed = Cli::try_parse_from(["slipway-vm", "run"].iter().chain(words))?;
        let Command::Run(args) = parsed.command else { panic!("not run") };
        Ok(args)
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
    fn memory_is_mebibytes_unless_said_otherwise() {
        for (text, size) in [("512", 512 << 20), ("512M", 512 << 20), ("2G", 2 << 30), ("65536K", 64 << 20), ("1024G", 1 << 40)] {
            assert_eq!(text.parse(), Ok(MemorySize(size)), "{text}");
        }
        for text in ["", "M", "12x", "-1", "1.5G", "15M", "1025G", "99999999999999G", "16385K", "ä"] {
            assert!(text.parse::<MemorySize>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_out_of_range_is_a_wrong_command_line() {
        for words in [
            &["--cpus", "0"][..],
            &["--cpus", "65"],
            &["--memory", "1M"],
            &["--initrd", "x"],
            &["--drive", "readonly=on"],
            &["--drive", "file=x,readonly=maybe"],
            &["--drive", "file=x,format=qcow2"],
            &["--netdev", "tap,id=n0"],
            &["--netdev", "user"],
            &["--netdev", "user,id=n0,nonsense=1"],
            &["--device", "rtl8139,netdev=n0"],
            &["--device", "netdev=n0"],
            &["--device", "e1000"],
            &["--device", "e1000,netdev=n0,mac=01:00:00:00:00:01"],
            &["--device", "e1000,netdev=n0,mac=00:00:00:00:00:00"],
            &["--device", "e1000,netdev=n0,mac=nonsense"],
            &["--device", "e1000,netdev=n0,mtu=16111"],
            &["--device", "virtio-net,netdev=n0,mtu=67"],
            &["--device", "virtio-net,netdev=n0,colour=red"],
        ] {
            assert_eq!(run(words).unwrap_err().exit_code(), 2, "{words:?}");
        }
    }

    #[test]
    fn a_recording_may_name_its_network() {
        let split = |text: &str| {
            let spec = OfNetwork(text.into());
            let (id, file) = spec.split();
            (id.map(str::to_owned), file.display().to_string())
        };
        assert_eq!(split("vm.pcapng"), (None, "vm.pcapng".to_owned()));
        assert_eq!(split("n0=vm.pcapng"), (Some("n0".to_owned()), "vm.pcapng".to_owned()));
        assert_eq!(split("./a=b"), (None, "./a=b".to_owned()));
    }

    #[test]
    fn a_network_and_its_card_are_understood() {
        let args = run(&[
            "--netdev",
            "user,id=n0,net=192.168.7.0/24,restrict=on",
            "--device",
            "virtio-net,netdev=n0,mac=52:54:00:00:00:07,mtu=9000",
            "--drive",
            "file=a,,b.img,readonly=on",
        ])
        .unwrap();
        assert_eq!(args.networks[0].id, "n0");
        assert!(args.networks[0].config.restrict);
        let mac = Some("52:54:00:00:00:07".parse().unwrap());
        let card = CardSpec { kind: CardKind::VirtioNet, network: "n0".to_owned(), mac, mtu: Some(9000) };
        assert_eq!(args.devices, [card]);
        assert_eq!(args.drives, [DriveSpec { file: "a,b.img".into(), read_only: true }]);
    }
}
