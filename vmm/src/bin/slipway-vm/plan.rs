//! What a command line comes to: everything opened, loaded and checked that can be without KVM.

use std::collections::HashSet;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use netstack::addr::MacAddr;
use netstack::capture::{CaptureConfig, Opened};
use netstack::config::Config;
use vmm::boot::{BootError, Entry, Initrd, Kernel, Payload};
use vmm::memory::{self, GuestMemory};
use vmm::probe;
use vmm::virtio::block::{Disk, DiskError};

use crate::cli::{CardKind, DriveSpec, E1000_MTU_MAX, OfNetwork, RunArgs};
use netstack::program::failure::Failure;

/// What the kernel is told if nobody says otherwise: where its console is.
const COMMAND_LINE: &str = "console=ttyS0";

/// Addresses of cards to whom nobody gave one: locally administered, the same every time.
const FIRST_MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];

/// A machine that is ready to be built.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) memory: GuestMemory,
    pub(crate) entry: Entry,
    pub(crate) cpus: u8,
    pub(crate) disks: Vec<Disk>,
    pub(crate) networks: Vec<NetworkPlan>,
}

/// A network and its cards.
#[derive(Debug)]
pub(crate) struct NetworkPlan {
    pub(crate) id: String,
    pub(crate) config: Config,
    pub(crate) cards: Vec<Card>,
    /// Where its frames are recorded.
    pub(crate) capture: Option<Opened>,
    /// Where it listens for commands.
    pub(crate) api_socket: Option<PathBuf>,
    /// Its options as the user has written them: a recording remembers them.
    options: String,
}

impl NetworkPlan {
    /// A network without cards.
    pub(crate) const fn new(id: String, config: Config, options: String) -> Self {
        Self { id, config, cards: Vec::new(), capture: None, api_socket: None, options }
    }
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Card {
    pub(crate) kind: CardKind,
    pub(crate) mac: MacAddr,
    pub(crate) mtu: u16,
}

impl Plan {
    /// Makes it.
    ///
    /// # Errors
    ///
    /// A failure with exit code 2 for whatever is wrong with what the user has said, or with the files that were named.
    pub(crate) fn of(args: &RunArgs) -> Result<Self, Failure> {
        let mut networks = networks(args)?;
        let disks = args.drives.iter().map(disk).collect::<Result<_, _>>()?;
        let (kernel, payload) = kernel(args, &networks)?;
        let size = args.memory.0;
        let memory = memory::allocate(size).map_err(|err| {
            Failure::new(format!("cannot make {} MiB of memory for the virtual machine", size >> 20)).because_of(&err)
        })?;
        let entry = kernel.load(&memory, &payload).map_err(|err| unbootable(&err))?;
        args.api_sockets.iter().try_for_each(|spec| listen(spec, &mut networks))?;
        // Last, because it makes files.
        args.captures.iter().try_for_each(|spec| record(spec, &mut networks))?;
        Ok(Self { memory, entry, cpus: args.cpus, disks, networks })
    }
}

fn kernel(args: &RunArgs, networks: &[NetworkPlan]) -> Result<(Kernel, Payload), Failure> {
    let Some(path) = &args.kernel else {
        let kernel = Kernel::built_in("the built-in guest", probe::IMAGE).map_err(|err| unbootable(&err))?;
        let command_line = args.append.clone().unwrap_or_else(|| errand(networks));
        return Ok((kernel, Payload { initrd: None, command_line }));
    };
    let kernel = Kernel::open(path).map_err(|err| unbootable(&err))?;
    let initrd = args.initrd.as_deref().map(Initrd::open).transpose().map_err(|err| unbootable(&err))?;
    let command_line = args.append.clone().unwrap_or_else(|| COMMAND_LINE.to_owned());
    Ok((kernel, Payload { initrd, command_line }))
}

/// What the built-in guest does if nobody says otherwise: it gets a lease and pings the gateway.
fn errand(networks: &[NetworkPlan]) -> String {
    let gateway = networks.first().and_then(|network| network.config.ipv4.as_ref()).map(|ipv4| ipv4.gateway);
    probe::Plan { ping: gateway, ..Default::default() }.to_string()
}

fn unbootable(error: &BootError) -> Failure {
    let failure = Failure::usage("the kernel cannot be booted").because_of(error);
    match error {
        BootError::NoKernel { what, .. } if what.contains("compressed") => {
            failure.advice("Give the file as the distribution installs it in /boot (vmlinuz), or unpack it.")
        }
        BootError::NoKernel { .. } => failure.advice("A kernel is what distributions install as /boot/vmlinuz-VERSION."),
        BootError::KernelTooLarge { .. } | BootError::InitrdTooLarge { .. } => failure.advice("Give the machine more by --memory."),
        BootError::NoPvhEntry { .. } => failure
            .advice("Use the bzImage of that kernel, or build it with CONFIG_PVH=y (for the kernel that boots, not for the host)."),
        _ => failure,
    }
}

fn disk(spec: &DriveSpec) -> Result<Disk, Failure> {
    let path = spec.file.display();
    let kind = std::fs::metadata(&spec.file).map(|about| about.file_type());
    if kind.is_ok_and(|kind| !kind.is_file() && !kind.is_block_device()) {
        return Err(Failure::usage(format!("{path} cannot be a disk")).advice("It is neither a file nor a block device."));
    }
    let disk = Disk::open(&spec.file, spec.read_only).map_err(|err| {
        let failure = Failure::usage("a disk cannot be used").because_of(&err);
        match err {
            DiskError::Open { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied && !spec.read_only => {
                failure.advice("If it need not be written to, add readonly=on.")
            }
            _ => failure,
        }
    })?;
    if disk.sectors() == 0 {
        return Err(Failure::usage(format!("the disk {path} is empty")).advice(format!("Give it a size: `truncate -s 1G {path}`.")));
    }
    Ok(disk)
}

/// The network that a file is for, and the file. `option` is what has named it.
fn network_of<'a>(
    spec: &OfNetwork,
    networks: &'a mut [NetworkPlan],
    option: &str,
) -> Result<(&'a mut NetworkPlan, PathBuf), Failure> {
    let (id, path) = spec.split();
    let several = networks.len() > 1;
    let network = networks.iter_mut().find(|network| id.map_or(!several, |id| id == network.id)).ok_or_else(|| {
        let what = id.map_or_else(
            || format!("there are several networks, and {option} is of one"),
            |id| format!("no network is called {id}"),
        );
        Failure::usage(what).advice(format!("Write {option} ID=FILE with the id of a --netdev."))
    })?;
    Ok((network, path))
}

/// Notes where a network listens for commands.
fn listen(spec: &OfNetwork, networks: &mut [NetworkPlan]) -> Result<(), Failure> {
    let (network, path) = network_of(spec, networks, "--api-socket")?;
    if network.api_socket.replace(path).is_some() {
        return Err(Failure::usage(format!("the network {} has two API sockets", network.id)).advice("Leave one --api-socket out."));
    }
    Ok(())
}

/// Opens a recording of one of the networks.
fn record(spec: &OfNetwork, networks: &mut [NetworkPlan]) -> Result<(), Failure> {
    let (network, path) = network_of(spec, networks, "--pcap")?;
    if network.capture.is_some() {
        return Err(Failure::usage(format!("the network {} is recorded twice", network.id)).advice("Leave one --pcap out."));
    }
    let mut config = CaptureConfig::to_file(path.as_path());
    config.user = Some(network.options.clone());
    let opened = config.open().map_err(|err| Failure::usage(format!("cannot record into {}", path.display())).because_of(&err))?;
    network.capture = Some(opened);
    Ok(())
}

fn networks(args: &RunArgs) -> Result<Vec<NetworkPlan>, Failure> {
    let mut networks: Vec<_> =
        args.networks.iter().map(|spec| NetworkPlan::new(spec.id.clone(), spec.config.clone(), spec.text.clone())).collect();
    let mut seen = HashSet::new();
    if let Some(twice) = networks.iter().find(|network| !seen.insert(network.id.clone())) {
        return Err(Failure::usage(format!("two networks are called {}", twice.id)).advice("Give each --netdev an id= of its own."));
    }
    if networks.is_empty() && args.devices.is_empty() {
        networks.push(NetworkPlan::new("net0".to_owned(), Config::default(), String::new()));
    }
    let mut macs: HashSet<_> = args.devices.iter().filter_map(|device| device.mac).collect();
    if macs.len() != args.devices.iter().filter(|device| device.mac.is_some()).count() {
        return Err(
            Failure::usage("two network cards have the same address").advice("Give each --device a mac= of its own, or none.")
        );
    }
    let mut fresh = || {
        let mut octets = FIRST_MAC;
        while !macs.insert(MacAddr(octets)) {
            octets[5] = octets[5].wrapping_add(1);
        }
        MacAddr(octets)
    };
    if args.devices.is_empty() {
        for network in &mut networks {
            network.cards.push(Card { kind: CardKind::VirtioNet, mac: fresh(), mtu: network.config.mtu });
        }
        return Ok(networks);
    }
    let ids: Vec<_> = networks.iter().map(|network| network.id.clone()).collect();
    for device in &args.devices {
        let Some(network) = networks.iter_mut().find(|network| network.id == device.network) else {
            let known =
                if ids.is_empty() { "There is no --netdev at all.".to_owned() } else { format!("There is: {}.", ids.join(", ")) };
            return Err(Failure::usage(format!("no network is called {}", device.network)).advice(known));
        };
        network.cards.push(card(device, &network.config, &mut fresh));
    }
    for network in networks.iter().filter(|network| network.cards.is_empty()) {
        tracing::warn!("no device is on the network {}: add `--device virtio-net,netdev={0}`", network.id);
    }
    Ok(networks)
}

/// A card takes the network's MTU, or what it can of that, unless it has one of its own.
fn card(device: &crate::cli::CardSpec, config: &Config, fresh: &mut dyn FnMut() -> MacAddr) -> Card {
    let largest = match device.kind {
        CardKind::VirtioNet => u16::MAX,
        CardKind::E1000 => E1000_MTU_MAX,
    };
    Card { kind: device.kind, mac: device.mac.unwrap_or_else(fresh), mtu: device.mtu.unwrap_or(config.mtu).min(largest) }
}

#[cfg(test)]
mod tests;
