//! Who am I, and who is that: DHCP and DNS.

use core::net::Ipv4Addr;

use smoltcp::socket::{dhcpv4, dns};
use smoltcp::wire::{DnsQueryType, IpAddress, IpCidr, Ipv4Cidr};

use crate::Platform;
use crate::card::Nic;
use crate::guest::{Failure, Guest, Lease, PATIENCE};
use crate::report::Report;
use crate::steps;

/// Gets a lease and takes its address into use.
pub(crate) fn lease<N: Nic, P: Platform<N>>(guest: &mut Guest<'_, N, P>) -> Result<Lease, Failure> {
    let handle = guest.sockets.add(dhcpv4::Socket::new());
    let begun = guest.platform.now();
    let leased = guest.until(PATIENCE, |_, sockets| match sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll()? {
        dhcpv4::Event::Configured(config) => Some((config.address, config.router, config.dns_servers.first().copied())),
        dhcpv4::Event::Deconfigured => None,
    });
    let micros = guest.platform.now() - begun;
    // The lease outlasts the guest by far: it need not be renewed.
    guest.sockets.remove(handle);
    let (address, router, dns) = leased?;
    configure(guest, address, router)?;
    let prefix = address.prefix_len();
    guest.platform.report(&Report::Lease { address: address.address(), prefix, router, dns, micros });
    Ok(Lease { dns })
}

fn configure<N: Nic, P: Platform<N>>(
    guest: &mut Guest<'_, N, P>,
    address: Ipv4Cidr,
    router: Option<Ipv4Addr>,
) -> Result<(), Failure> {
    let mut configured = true;
    guest.interface.update_ip_addrs(|addresses| configured &= addresses.push(IpCidr::Ipv4(address)).is_ok());
    if let Some(router) = router {
        configured &= guest.interface.routes_mut().add_default_ipv4_route(router).is_ok();
    }
    if configured { Ok(()) } else { Err(Failure("no room for the address or the route")) }
}

/// Asks the DNS server for the address of `name`.
pub(crate) fn resolve<N: Nic, P: Platform<N>>(
    guest: &mut Guest<'_, N, P>,
    server: Option<Ipv4Addr>,
    name: &str,
) -> Result<(), Failure> {
    let server = server.ok_or(Failure("DHCP has named no DNS server"))?;
    steps::find(guest, server)?;
    let handle = guest.sockets.add(dns::Socket::new(&[IpAddress::Ipv4(server)], alloc::vec![None]));
    let begun = guest.platform.now();
    let socket = guest.sockets.get_mut::<dns::Socket<'_>>(handle);
    let query = socket.start_query(guest.interface.context(), name, DnsQueryType::A);
    let answer = query.map_err(|_| Failure("that is no name")).and_then(|query| {
        guest.until(PATIENCE, |_, sockets| match sockets.get_mut::<dns::Socket<'_>>(handle).get_query_result(query) {
            Ok(addresses) => Some(addresses.first().copied()),
            Err(dns::GetQueryResultError::Pending) => None,
            Err(dns::GetQueryResultError::Failed) => Some(None),
        })
    });
    let micros = guest.platform.now() - begun;
    guest.sockets.remove(handle);
    let Some(IpAddress::Ipv4(address)) = answer? else { return Err(Failure("the name has no address")) };
    guest.platform.report(&Report::Name { name, address, micros });
    Ok(())
}
