//! `slipway shell`: a command in new user, network and mount namespaces.
//!
//! The command is our child and lives inside; the engine stays outside, with the sockets of the user who called us. The child makes
//! everything ready, waits for the engine, and becomes the command. It never outlives us.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::addr::MacAddr;
use crate::config::Config;
use crate::engine::Handle;
use crate::port::tap::Tap;
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

use crate::program::capture::StandardOutput;
use crate::program::cli::ShellArgs;
use crate::program::failure::{Failure, OrFail};
use crate::program::interface::Addresses;
use crate::program::limits::Inherited;
use crate::program::namespace::{self, resolv};
use crate::program::process::{Child, Link, die_with_parent, fork};
use crate::program::tap::{TapSpec, hand_out, take};
use crate::program::{diagnose, engine};

/// The guest's interface.
const INTERFACE: &str = "tap0";

/// What shells return for a command that is there but cannot be run.
const CANNOT_RUN: u8 = 126;

/// What shells return for a command that is not there.
const NOT_FOUND: u8 = 127;

/// Runs the command and returns what it has returned.
pub(crate) fn run(args: &ShellArgs, limits: Inherited) -> Result<u8, Failure> {
    let mut config = args.network.config()?;
    let beside = args.network.beside(StandardOutput::Taken)?;
    diagnose::check_tun()?;
    let us = rustix::process::getpid();
    let child = fork(|link| {
        let Err(failure) = inside(&link, us, &config, &args.command, limits);
        failure.map_or(1, |failure| {
            failure.report();
            failure.code()
        })
    })?;
    let Some((tap, mac)) = take(&child, config.mtu)? else {
        return child.wait().or_fail(|| "cannot wait for the child process");
    };
    reserve_first_address(&mut config, mac);
    let code = engine::with_engine(&config, beside, async |handle| outside(&child, handle, tap).await)?;
    code.map_or_else(
        || {
            // Whoever ends the network of a command ends the command.
            child.signal(Signal::TERM);
            child.wait().or_fail(|| "cannot wait for the command")
        },
        Ok,
    )
}

/// The command has the first address without having asked DHCP for it, so nobody else may get it, and a DHCP client inside must.
pub(crate) fn reserve_first_address(config: &mut Config, mac: MacAddr) {
    if let Some(ipv4) = &config.ipv4
        && !config.dhcp.static_leases.iter().any(|(_, address)| *address == ipv4.dhcp_start)
    {
        config.dhcp.static_leases.push((mac, ipv4.dhcp_start));
    }
}

/// The child: returns only when it fails, or with nothing to say when the parent has gone.
fn inside(
    link: &Link,
    parent: rustix::process::Pid,
    config: &Config,
    command: &[OsString],
    limits: Inherited,
) -> Result<std::convert::Infallible, Option<Failure>> {
    namespace::enter_new()?;
    die_with_parent(parent);
    namespace::allow_ping();
    let spec = TapSpec { name: INTERFACE, mtu: config.mtu, up: true, addresses: Some(Addresses::first_of(config)) };
    hand_out(link, &spec)?;
    resolv::install(&resolv::text(config))?;
    match link.receive() {
        Ok(Some(_)) => Err(Some(become_command(command, limits))),
        _ => Err(None),
    }
}

fn become_command(command: &[OsString], limits: Inherited) -> Failure {
    let usual = || env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or_else(|| "/bin/sh".into());
    let program = command.first().cloned().unwrap_or_else(usual);
    limits.restore();
    let err = Command::new(&program).args(command.iter().skip(1)).exec();
    let failure = Failure::new(format!("cannot run {}", program.display())).because(&err);
    match err.kind() {
        io::ErrorKind::NotFound => failure.with_code(NOT_FOUND).advice("Check its name and PATH."),
        _ => failure.with_code(CANNOT_RUN),
    }
}

/// The parent: lets the child go once the engine has its tap, and stays until it ends.
async fn outside(child: &Child, handle: Handle, tap: Tap) -> Result<u8, Failure> {
    let catch = |kind| signal(kind).or_fail(|| "cannot catch signals");
    // A terminal sends these to the command as well, and it is the command's business what they mean.
    let _ignored = [catch(SignalKind::interrupt())?, catch(SignalKind::quit())?];
    let (mut terminate, mut hangup) = (catch(SignalKind::terminate())?, catch(SignalKind::hangup())?);

    let attachment = handle.attach(Box::new(tap)).await.or_fail(|| "cannot attach the tap")?;
    let mut closed = attachment.closed;
    // A child that has died in the meantime is seen below.
    let _ = child.link.send(b"go", None);

    let mut ended = std::pin::pin!(child.ended());
    let mut attached = true;
    loop {
        tokio::select! {
            code = &mut ended => return code.or_fail(|| "cannot wait for the command"),
            why = &mut closed, if attached => {
                attached = false;
                // The interface goes with its namespace a moment before the end of its last process is seen.
                tracing::info!(why = why.as_deref().unwrap_or("the engine has dropped it"), "the command has no network any more");
            }
            _ = terminate.recv() => child.signal(Signal::TERM),
            _ = hangup.recv() => child.signal(Signal::HUP),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_stays_with_the_command() {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let mut config = Config::default();
        reserve_first_address(&mut config, mac);
        assert_eq!(config.dhcp.static_leases, [(mac, "10.0.2.15".parse().unwrap())]);
    }

    #[test]
    fn a_reservation_of_the_user_is_kept() {
        let theirs = (MacAddr([2, 0, 0, 0, 0, 9]), "10.0.2.15".parse().unwrap());
        let mut config = Config::default();
        config.dhcp.static_leases.push(theirs);
        reserve_first_address(&mut config, MacAddr([2, 0, 0, 0, 0, 1]));
        assert_eq!(config.dhcp.static_leases, [theirs]);
    }
}
