//! `slipway netns`: a network for a namespace that somebody else has made.
//!
//! A child enters the namespace, makes the tap there and hands it out; then it is gone. The engine stays outside.

use std::fs::File;
use std::future::pending;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::engine::Handle;
use crate::port::tap::Tap;
use rustix::process::{Pid, PidfdFlags};

use crate::program::capture::StandardOutput;
use crate::program::cli::NetnsArgs;
use crate::program::descriptor::{hung_up, inherited, watch};
use crate::program::engine::Termination;
use crate::program::failure::{Failure, OrFail};
use crate::program::interface::Addresses;
use crate::program::namespace::Target;
use crate::program::process::fork;
use crate::program::shell::reserve_first_address;
use crate::program::tap::{TapSpec, hand_out, take};
use crate::program::{diagnose, engine, namespace};

/// How often the file that stands for a namespace is looked for. Its removal cannot be awaited everywhere, not below /proc for one.
const LOOK: Duration = Duration::from_secs(1);

/// Serves the namespace until it, or our caller, has enough.
pub(crate) fn run(args: &NetnsArgs) -> Result<u8, Failure> {
    let ready = args.ready_fd.map(|fd| inherited(fd, "--ready-fd")).transpose()?;
    let exit = args.exit_fd.map(|fd| inherited(fd, "--exit-fd")).transpose()?;
    let mut config = args.network.config()?;
    let beside = args.network.beside(StandardOutput::Free)?;
    let target = args.target()?;
    diagnose::check_tun()?;

    let addresses = args.configure.then(|| Addresses::first_of(&config));
    let spec = TapSpec { name: args.interface.as_str(), mtu: config.mtu, up: args.configure, addresses };
    let child = fork(|link| {
        let made = target.enter().and_then(|()| {
            if args.configure {
                namespace::allow_ping();
            }
            hand_out(&link, &spec)
        });
        made.map_or_else(
            |failure| {
                failure.report();
                failure.code()
            },
            |()| 0,
        )
    })?;
    let taken = take(&child, config.mtu)?;
    let code = child.wait().or_fail(|| "cannot wait for the child process")?;
    let Some((tap, mac)) = taken else { return Ok(code) };
    if args.configure {
        reserve_first_address(&mut config, mac);
    }
    let watch = Watch { pid: args.pid(), target, exit };
    engine::with_engine(&config, beside, async |handle| serve(handle, tap, ready, watch).await)?;
    Ok(0)
}

/// What ends the service.
#[derive(Debug)]
struct Watch {
    pid: Option<u32>,
    target: Target,
    exit: Option<OwnedFd>,
}

async fn serve(handle: Handle, tap: Tap, ready: Option<OwnedFd>, watch: Watch) -> Result<(), Failure> {
    let mut termination = Termination::catch()?;
    let Watch { pid, target, exit } = watch;
    let attachment = handle.attach(Box::new(tap)).await.or_fail(|| "cannot attach the tap")?;
    if let Some(ready) = ready {
        File::from(ready).write_all(b"1").or_fail(|| "cannot write to --ready-fd")?;
    }
    tokio::select! {
        why = attachment.closed => tracing::info!(why = why.as_deref().unwrap_or("the engine has dropped it"), "the interface has gone"),
        end = namespace_gone(pid, &target) => { end?; tracing::info!("the namespace has gone"); }
        end = exit_fd_closed(exit) => { end?; tracing::info!("--exit-fd was closed"); }
        signal = termination.asked() => tracing::info!(signal, "asked to end"),
    }
    Ok(())
}

/// Our own tap keeps the namespace alive, so what is awaited is the end of the process or of the file by which we know it.
async fn namespace_gone(pid: Option<u32>, target: &Target) -> Result<(), Failure> {
    if let Some(pid) = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
        return match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            pidfd => {
                let doing = || "cannot watch the process";
                let pidfd = watch(pidfd.or_fail(doing)?).or_fail(doing)?;
                pidfd.readable().await.or_fail(doing).map(drop)
            }
        };
    }
    let Some(identity) = target.identity() else { return Ok(()) };
    while target.still_there(identity) {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Waits for the end of `--exit-fd`; for ever without one.
async fn exit_fd_closed(fd: Option<OwnedFd>) -> Result<(), Failure> {
    match fd {
        Some(fd) => hung_up(fd)
            .await
            .map_err(|err| Failure::new("cannot watch --exit-fd").because(err).advice("It must be a pipe or a socket.")),
        None => pending().await,
    }
}
