//! The guest's end of the wire, set up through netlink: what a DHCP client and router advertisements would do, done at once.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::addr::MacAddr;
use crate::config::Config;
use futures_util::TryStreamExt;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};

use crate::program::failure::Failure;

/// Where the kernel's IPv6 settings of each interface are, of the namespace of whoever looks.
const IPV6_SETTINGS: &str = "/proc/sys/net/ipv6/conf";

/// The addresses of one interface and their ways out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// Address with prefix length, and gateway.
    pub(crate) ipv4: Option<(Ipv4Net, Ipv4Addr)>,
    /// Address with prefix length, and gateway.
    pub(crate) ipv6: Option<(Ipv6Net, Ipv6Addr)>,
}

impl Addresses {
    /// The first addresses of the guests' networks.
    pub(crate) fn first_of(config: &Config) -> Self {
        let ipv4 = config.ipv4.as_ref().and_then(|ipv4| {
            let address = Ipv4Net::new(ipv4.dhcp_start, ipv4.net.prefix_len()).ok()?;
            Some((address, ipv4.gateway))
        });
        let ipv6 = config
            .ipv6
            .as_ref()
            .and_then(|ipv6| Some((Ipv6Net::new(ipv6.dhcp_start, ipv6.prefix.prefix_len()).ok()?, ipv6.gateway)));
        Self { ipv4, ipv6 }
    }
}

/// The network namespace of this process, seen through netlink.
#[derive(Debug)]
pub(crate) struct Netlink {
    handle: rtnetlink::Handle,
}

/// An interface of this network namespace.
#[derive(Debug, Clone)]
pub(crate) struct Interface {
    name: String,
    index: u32,
    pub(crate) mac: MacAddr,
}

impl Netlink {
    /// Opens a netlink socket within a runtime, which it needs from then on.
    ///
    /// # Errors
    ///
    /// When the process has no descriptor left or the socket is forbidden.
    pub(crate) fn open() -> Result<Self, Failure> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|err| Failure::new("cannot open a netlink socket").because(err))?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Finds an interface by its name.
    pub(crate) async fn find(&self, name: &str) -> Result<Interface, Failure> {
        let mut found = self.handle.link().get().match_name(name.to_owned()).execute();
        let link = found.try_next().await.map_err(|err| failed(format!("cannot find the interface {name}"), &err))?;
        let link = link.ok_or_else(|| Failure::new(format!("there is no interface {name}")))?;
        let mac = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(octets) => Some(MacAddr(octets.as_slice().try_into().ok()?)),
            _ => None,
        });
        Ok(Interface { name: name.to_owned(), index: link.header.index, mac: mac.unwrap_or_default() })
    }

    /// Brings an interface up.
    pub(crate) async fn up(&self, interface: &Interface) -> Result<(), Failure> {
        let up = LinkMessageBuilder::<LinkUnspec>::default().index(interface.index).up().build();
        let done = self.handle.link().set(up).execute().await;
        done.map_err(|err| failed(format!("cannot bring up {}", interface.name), &err))
    }

    /// Sets the MTU of an interface, in bytes.
    pub(crate) async fn set_mtu(&self, interface: &Interface, mtu: u16) -> Result<(), Failure> {
        let set = LinkMessageBuilder::<LinkUnspec>::default().index(interface.index).mtu(mtu.into()).build();
        let done = self.handle.link().set(set).execute().await;
        done.map_err(|err| failed(format!("cannot set the MTU of {} to {mtu} bytes", interface.name), &err))
    }

    /// Gives an interface its addresses and makes the gateways the default ones.
    pub(crate) async fn assign(&self, interface: &Interface, addresses: &Addresses) -> Result<(), Failure> {
        if let Some((address, gateway)) = addresses.ipv4 {
            self.add_address(interface, address.into()).await?;
            let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(interface.index).build();
            self.add_route(route, gateway.into()).await?;
        }
        if let Some((address, gateway)) = addresses.ipv6 {
            if !takes_ipv6(&interface.name) {
                tracing::info!("IPv6 is off in this namespace: the interface gets no address of it");
                return Ok(());
            }
            self.add_address(interface, address.into()).await?;
            let route = RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).output_interface(interface.index).build();
            self.add_route(route, gateway.into()).await?;
        }
        Ok(())
    }

    async fn add_address(&self, interface: &Interface, address: IpNet) -> Result<(), Failure> {
        let mut request = self.handle.address().add(interface.index, address.addr(), address.prefix_len()).replace();
        if address.addr().is_ipv6() {
            // There is nobody else on the link, and an address under test (RFC 4862 section 5.4) could not be used for a second.
            let message = request.message_mut();
            message.header.flags |= AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute().await.map_err(|err| failed(format!("cannot give the interface the address {address}"), &err))
    }

    async fn add_route(&self, route: rtnetlink::packet_route::route::RouteMessage, gateway: IpAddr) -> Result<(), Failure> {
        let added = self.handle.route().add(route).replace().execute().await;
        added.map_err(|err| failed(format!("cannot make {gateway} the default gateway"), &err))
    }
}

/// Whether the kernel has IPv6 and this interface may use it; container engines switch it off where they know of no IPv6.
fn takes_ipv6(name: &str) -> bool {
    let disabled = fs::read_to_string(Path::new(IPV6_SETTINGS).join(name).join("disable_ipv6"));
    disabled.is_ok_and(|disabled| disabled.trim() == "0")
}

/// Has the kernel use IPv6 addresses of this interface at once, without testing first whether somebody else has them, and make none of its
/// own where `addresses` has one. Only a wish: where /proc/sys is read-only it takes a second longer.
pub(crate) fn hasten_ipv6(interface: &Interface, addresses: Option<&Addresses>) {
    let settings = Path::new(IPV6_SETTINGS).join(&interface.name);
    let autoconf = addresses.filter(|addresses| addresses.ipv6.is_some()).map(|_| "autoconf");
    for setting in ["accept_dad"].into_iter().chain(autoconf) {
        if let Err(err) = fs::write(settings.join(setting), "0") {
            tracing::debug!(%err, setting, "IPv6 stays as it is");
        }
    }
}

fn failed(what: impl Into<String>, err: &rtnetlink::Error) -> Failure {
    match err {
        rtnetlink::Error::NetlinkError(message) => Failure::new(what).because(message.to_io()),
        other => Failure::new(what).because(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_is_where_leases_start() {
        let addresses = Addresses::first_of(&Config::default());
        let (ipv4, gateway) = addresses.ipv4.unwrap();
        assert_eq!((ipv4.to_string().as_str(), gateway), ("10.0.2.15/24", Ipv4Addr::new(10, 0, 2, 2)));
        let (ipv6, gateway) = addresses.ipv6.unwrap();
        assert_eq!((ipv6.to_string(), gateway.to_string()), ("fec0::15/64".to_owned(), "fec0::2".to_owned()));
    }

    #[test]
    fn a_family_that_is_off_gets_no_address() {
        let config = Config { ipv6: None, ..Config::default() };
        assert_eq!(Addresses::first_of(&config).ipv6, None);
    }
}
