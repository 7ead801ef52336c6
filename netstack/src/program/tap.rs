//! A tap whose interface is in one network namespace and whose descriptor is in another process: made inside, used outside.

use std::os::fd::AsFd;

use crate::addr::MacAddr;
use crate::port::tap::Tap;

use crate::program::engine::runtime;
use crate::program::failure::{Failure, OrFail};
use crate::program::interface::{Addresses, Netlink, hasten_ipv6};
use crate::program::process::{Child, Link};

/// What is to be made.
#[derive(Debug)]
pub(crate) struct TapSpec<'a> {
    /// The name of the interface.
    pub(crate) name: &'a str,
    /// Its MTU in bytes.
    pub(crate) mtu: u16,
    /// Whether it is brought up, and lo with it.
    pub(crate) up: bool,
    /// The addresses that it gets.
    pub(crate) addresses: Option<Addresses>,
}

/// Inside: makes the tap, sets it up, and sends its descriptor out.
pub(crate) fn hand_out(link: &Link, spec: &TapSpec<'_>) -> Result<(), Failure> {
    let tap = Tap::open(spec.name, spec.mtu)
        .map_err(|err| Failure::new(format!("cannot make the interface {}", spec.name)).because_of(&err))?;
    let mac = runtime()?.block_on(set_up(spec))?;
    link.send(&mac.0, Some(tap.as_fd())).or_fail(|| "cannot hand out the tap")
}

async fn set_up(spec: &TapSpec<'_>) -> Result<MacAddr, Failure> {
    let netlink = Netlink::open()?;
    let interface = netlink.find(spec.name).await?;
    netlink.set_mtu(&interface, spec.mtu).await?;
    if spec.up {
        netlink.up(&netlink.find("lo").await?).await?;
        hasten_ipv6(&interface, spec.addresses.as_ref());
        netlink.up(&interface).await?;
    }
    if let Some(addresses) = &spec.addresses {
        netlink.assign(&interface, addresses).await?;
    }
    Ok(interface.mac)
}

/// Outside: takes the tap that the child has made, and the MAC address of its interface; `None` when the child has failed, and said why.
pub(crate) fn take(child: &Child, mtu: u16) -> Result<Option<(Tap, MacAddr)>, Failure> {
    let doing = || "cannot take over the tap";
    let Some((mac, descriptor)) = child.link.receive().or_fail(doing)? else { return Ok(None) };
    let (Ok(mac), Some(descriptor)) = (mac.try_into(), descriptor) else {
        return Err(Failure::new(doing()).because("it came without its descriptor; is the limit of open files used up?"));
    };
    let tap = Tap::from_fd(descriptor, mtu).map_err(|err| Failure::new(doing()).because_of(&err))?;
    Ok(Some((tap, MacAddr(mac))))
}
