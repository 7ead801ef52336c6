//! A machine and its networks, built from a plan: everything is there but the processors' first instruction.

use std::io::Write;

use vmm::boot::Entry;
use vmm::machine::{Machine, Running, StopSwitch};

use crate::devices;
use crate::network::Network;
use crate::plan::Plan;
use crate::run::unbuildable;
use netstack::program::failure::Failure;

/// A machine that can be started.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) machine: Machine,
    /// They are needed until the machine has ended.
    pub(crate) networks: Vec<Network>,
    entry: Entry,
}

impl Built {
    /// Starts the networks and plugs in the devices of a plan. `stop` ends the machine; what its guest says goes to `console`.
    ///
    /// # Errors
    ///
    /// When a network cannot be started, or KVM refuses.
    pub(crate) async fn of(mut plan: Plan, stop: StopSwitch, console: Box<dyn Write + Send>) -> Result<Self, Failure> {
        let mut networks = Vec::new();
        for network in &mut plan.networks {
            let running = Network::start(&network.id, &network.config, network.api_socket.take())?;
            if let Some(capture) = network.capture.take() {
                running.record(capture).await?;
            }
            networks.push(running);
        }
        let mut machine = Machine::new(plan.memory, plan.cpus, stop, console).map_err(|err| unbuildable(&err))?;
        for (network, running) in plan.networks.iter().zip(&networks) {
            for card in &network.cards {
                running.attach(devices::card(&mut machine, &network.id, card)?).await?;
            }
            running.tell_forwards().await;
        }
        plan.disks.into_iter().enumerate().try_for_each(|(number, disk)| devices::disk(&mut machine, number, disk))?;
        devices::entropy(&mut machine)?;
        Ok(Self { machine, networks, entry: plan.entry })
    }

    /// Starts the processors.
    ///
    /// # Errors
    ///
    /// When KVM refuses.
    pub(crate) fn start(self) -> Result<(Running, Vec<Network>), Failure> {
        Ok((self.machine.start(self.entry).map_err(|err| unbuildable(&err))?, self.networks))
    }
}
