//! Plugs the devices of a plan into a machine: for each, its registers on the PCI bus and what moves its data elsewhere.

use std::io;

use netstack::port::Port;
use vmm::e1000::{self, E1000Config};
use vmm::machine::Machine;
use vmm::virtio::block::{self, Disk};
use vmm::virtio::net::{self, NetConfig};
use vmm::virtio::transport::{VirtioPci, vectors};
use vmm::virtio::{Parts, entropy};

use crate::cli::CardKind;
use crate::plan::Card;
use crate::run::unbuildable;
use netstack::program::failure::Failure;

/// Plugs in a network card; the port is for its network.
pub(crate) fn card(machine: &mut Machine, network: &str, card: &Card) -> Result<Box<dyn Port>, Failure> {
    let name = match card.kind {
        CardKind::VirtioNet => format!("virtio-net {} on {network}", card.mac),
        CardKind::E1000 => format!("e1000 {} on {network}", card.mac),
    };
    match card.kind {
        CardKind::VirtioNet => {
            let config = NetConfig { name: name.clone(), mac: card.mac, mtu: card.mtu };
            let (parts, port) = net::new(config).map_err(|err| unmade(&err))?;
            virtio(machine, name, parts)?;
            Ok(Box::new(port))
        }
        CardKind::E1000 => {
            let plug = machine.plug(0).map_err(|err| unbuildable(&err))?;
            let config = E1000Config { name, mac: card.mac, mtu: card.mtu };
            let (device, port) = e1000::new(config, machine.memory().clone(), plug.intx.clone()).map_err(|err| unmade(&err))?;
            machine.attach(&plug, Box::new(device)).map_err(|err| unbuildable(&err))?;
            Ok(Box::new(port))
        }
    }
}

/// Plugs in a disk. `number` counts the machine's disks.
pub(crate) fn disk(machine: &mut Machine, number: usize, disk: Disk) -> Result<(), Failure> {
    let name = format!("disk{number}");
    let (parts, worker) = block::new(disk, &name).map_err(|err| unmade(&err))?;
    virtio(machine, name.clone(), parts)?;
    worker.spawn(name).map_err(|err| unmade(&err))?;
    Ok(())
}

/// Plugs in a source of entropy.
pub(crate) fn entropy(machine: &mut Machine) -> Result<(), Failure> {
    let (parts, worker) = entropy::new().map_err(|err| unmade(&err))?;
    virtio(machine, "entropy".to_owned(), parts)?;
    worker.spawn("entropy".to_owned()).map_err(|err| unmade(&err))?;
    Ok(())
}

fn virtio(machine: &mut Machine, name: String, parts: Parts) -> Result<(), Failure> {
    let plug = machine.plug(vectors(parts.queues.len())).map_err(|err| unbuildable(&err))?;
    let device = VirtioPci::new(name, machine.memory().clone(), parts, plug.msi.clone(), plug.intx.clone());
    machine.attach(&plug, Box::new(device)).map_err(|err| unbuildable(&err))
}

fn unmade(err: &io::Error) -> Failure {
    Failure::new("cannot make a device").because_of(err)
}
