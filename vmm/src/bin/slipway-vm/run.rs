//! `slipway-vm run`: a machine from its plan to its end.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use vmm::machine::{Ending, Fault, MachineError, StopSwitch};

use crate::build::Built;
use crate::check;
use crate::cli::RunArgs;
use crate::console::{self, Output};
use crate::network;
use crate::plan::Plan;
use crate::terminal::Raw;
use netstack::program::failure::Failure;

/// Runs a machine until it ends.
///
/// # Errors
///
/// When it cannot be built, or ends in another way than the guest or the user has asked for.
pub(crate) fn run(args: &RunArgs) -> Result<u8, Failure> {
    let plan = Plan::of(args)?;
    let runtime = network::runtime()?;
    runtime.block_on(drive(plan))
}

async fn drive(plan: Plan) -> Result<u8, Failure> {
    let mut asked = Termination::catch()?;
    let stop = StopSwitch::new().map_err(|err| Failure::new("cannot make an eventfd").because_of(&err))?;
    let built = Built::of(plan, stop.clone(), Box::new(Output(stop.clone()))).await?;
    let serial = built.machine.serial().clone();
    let _raw = Raw::enter().map_err(|err| Failure::new("cannot use the terminal as a console").because_of(&err))?;
    console::feed(serial, stop.clone()).map_err(|err| Failure::new("cannot read the console").because_of(&err))?;
    let (running, networks) = built.start()?;
    let mut waiting = tokio::task::spawn_blocking(|| running.wait());
    let mut ended = JoinSet::new();
    for network in &networks {
        let handle = network.handle();
        ended.spawn(async move { handle.ended().await });
    }
    let ending = tokio::select! {
        ending = &mut waiting => ending,
        signal = asked.asked() => {
            tracing::info!("ending on {signal}");
            stop.end(Ending::Stopped);
            waiting.await
        }
        Some(_) = ended.join_next() => {
            tracing::info!("ending, as a network was told to end");
            stop.end(Ending::Stopped);
            waiting.await
        }
    };
    // The processors have stopped: nothing uses the networks any more.
    drop(networks);
    outcome(ending.map_err(|err| Failure::new("cannot wait for the machine").because_of(&err))?)
}

fn outcome(ending: Ending) -> Result<u8, Failure> {
    match ending {
        Ending::PowerOff | Ending::Stopped => Ok(0),
        Ending::Reset => {
            tracing::info!("the guest has asked for a reset, with which this machine ends");
            Ok(0)
        }
        Ending::TripleFault => Err(Failure::new("the guest has crashed with a triple fault")),
        Ending::Failed(fault) => {
            let told = Failure::new(format!("the virtual machine has failed: {fault}"));
            Err(match fault {
                Fault::Internal { suberror: 1, .. } if check::interprets_kernels() => told.advice(
                    "KVM of this host runs kernels by interpreting them, without all instructions: an ordinary kernel does not boot on it. \
                     `slipway-vm check` tells more.",
                ),
                _ => told,
            })
        }
    }
}

/// Why there is no machine.
pub(crate) fn unbuildable(error: &MachineError) -> Failure {
    let failure = Failure::new("cannot make a virtual machine").because_of(error);
    match error {
        MachineError::Open(err) => match check::remedy_for_kvm(&io::Error::from_raw_os_error(err.errno())) {
            Some(advice) => failure.advice(advice),
            None => failure,
        },
        _ => failure,
    }
}

/// The signals that ask a program to end.
#[derive(Debug)]
struct Termination {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Termination {
    fn catch() -> Result<Self, Failure> {
        let catch = |kind| signal(kind).map_err(|err| Failure::new("cannot catch signals").because_of(&err));
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
            hangup: catch(SignalKind::hangup())?,
        })
    }

    async fn asked(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}
