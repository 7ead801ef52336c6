//! What the demo's guest does, step by step, inside its own network namespace.
//!
//! It starts with an interface that is up and has no address, and uses nothing but what the network gives it. What it finds it tells its
//! parent in [`Message`]s; the parent alone speaks to the user.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Instant;

use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};

use super::dhcp::Lease;
use super::dns::Transport;
use super::servers::{Ports, serve_reply_at_end, serve_tcp, serve_udp_echo};
use super::steps::{self, Seen, Trouble};
use crate::program::process::Link;
use crate::program::report::{Outcome, Step};

/// The TCP and UDP port of the guest's own servers, to which ports of the host lead.
pub(crate) const GUEST_PORT: u16 = 7;

/// Everything that the guest is told beforehand.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) interface: &'static str,
    pub(crate) mtu: u16,
    /// Bytes to transfer each way.
    pub(crate) size: u64,
    pub(crate) ports: Ports,
    /// The address that the DHCP server ought to give.
    pub(crate) expected: Ipv4Addr,
    /// The host, as the guest's IPv6 network has it.
    pub(crate) gateway_v6: Ipv6Addr,
    /// What addresses by router advertisement begin with.
    pub(crate) prefix_v6: Ipv6Net,
}

/// What the guest tells its parent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    /// A step has begun.
    Begun(String),
    /// It is this far, in bytes.
    Progress(u64),
    /// It has ended.
    Ended(Step),
    /// The guest's own servers run: it is the parent's turn, who answers when it is done.
    Serving,
}

/// Does all steps. An error is only that the parent cannot be told any more.
pub(crate) fn run(link: &Link, plan: &Plan) -> io::Result<()> {
    let mut guest = Guest { link, plan, lease: None, has_ipv6: false };
    guest.step("lease by DHCP", |guest| {
        let (seen, lease) = steps::lease(guest.plan)?;
        guest.lease = Some(lease);
        Ok(seen)
    })?;
    guest.step("ping the gateway", |guest| steps::ping(guest.lease()?.router.into()))?;
    guest.step("resolve names over UDP", |guest| steps::resolve(guest.lease()?, Transport::Udp))?;
    guest.step("resolve names over TCP", |guest| steps::resolve(guest.lease()?, Transport::Tcp))?;
    guest.step("download", |guest| {
        let from = guest.host(guest.plan.ports.download)?;
        steps::download(from, guest.plan.size, &mut guest.progress())
    })?;
    guest.step("upload", |guest| {
        let to = guest.host(guest.plan.ports.upload)?;
        steps::upload(to, guest.plan.size, &mut guest.progress())
    })?;
    guest.step("half-close", |guest| steps::half_close(guest.host(guest.plan.ports.reply_at_end)?))?;
    guest.step("refused connection", |guest| steps::refused(guest.host(guest.plan.ports.closed)?))?;
    guest.step("UDP echo", |guest| steps::echo(guest.host(guest.plan.ports.udp_echo)?, guest.plan.mtu))?;
    guest.step("IPv6 address by router advertisement", |guest| {
        let seen = steps::autoconfiguration(guest.plan)?;
        guest.has_ipv6 = true;
        Ok(seen)
    })?;
    guest.step("ping the gateway over IPv6", |guest| steps::ping(guest.gateway_v6()?.into()))?;
    guest.step("download over IPv6", |guest| {
        let gateway = guest.gateway_v6()?;
        let Some(port) = guest.plan.ports.download_v6 else {
            return Err(Trouble::Lacking("this machine has no IPv6 loopback address".to_owned()));
        };
        steps::download((gateway, port).into(), guest.plan.size, &mut guest.progress())
    })?;
    guest.serve()
}

struct Guest<'a> {
    link: &'a Link,
    plan: &'a Plan,
    lease: Option<Lease>,
    has_ipv6: bool,
}

impl<'a> Guest<'a> {
    fn tell(&self, message: &Message) -> io::Result<()> {
        tell(self.link, message)
    }

    fn step(&mut self, name: &str, work: impl FnOnce(&mut Self) -> Seen) -> io::Result<()> {
        self.tell(&Message::Begun(name.to_owned()))?;
        let started = Instant::now();
        let (outcome, detail) = match work(self) {
            Ok(seen) => (Outcome::Passed, seen),
            Err(Trouble::Wrong(what)) => (Outcome::Failed, what),
            Err(Trouble::Lacking(what)) => (Outcome::Skipped, what),
        };
        self.tell(&Message::Ended(Step { name: name.to_owned(), outcome, detail, seconds: started.elapsed().as_secs_f64() }))
    }

    /// Tells the parent how far a transfer is, now and then.
    fn progress(&self) -> impl FnMut(u64) + use<'a> {
        let (link, grain) = (self.link, (self.plan.size / 64).max(1));
        let mut told = 0;
        move |done| {
            if done - told >= grain {
                told = done;
                // A parent that has gone ends us.
                let _ = tell(link, &Message::Progress(done));
            }
        }
    }

    /// Nearly everything needs an address; without one a step says so instead of failing for reasons of its own.
    fn lease(&self) -> Result<&Lease, Trouble> {
        self.lease.as_ref().ok_or_else(|| Trouble::Lacking("the guest has no address".to_owned()))
    }

    fn host(&self, port: u16) -> Result<SocketAddr, Trouble> {
        Ok((self.lease()?.router, port).into())
    }

    fn gateway_v6(&self) -> Result<Ipv6Addr, Trouble> {
        if self.has_ipv6 { Ok(self.plan.gateway_v6) } else { Err(Trouble::Lacking("the guest has no IPv6 address".to_owned())) }
    }

    /// The last steps are the host's: it connects to the guest.
    fn serve(&self) -> io::Result<()> {
        if self.lease.is_none() {
            return Ok(());
        }
        serve_tcp(TcpListener::bind((Ipv4Addr::UNSPECIFIED, GUEST_PORT))?, serve_reply_at_end);
        serve_udp_echo(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, GUEST_PORT))?);
        self.tell(&Message::Serving)?;
        self.link.receive().map(drop)
    }
}

fn tell(link: &Link, message: &Message) -> io::Result<()> {
    link.send(&serde_json::to_vec(message)?, None)
}
