//! The services at the virtual addresses, reduced to taking notes.

use crate::addr::MacAddr;
use crate::gateway::dhcp6::Dhcp6Server;
use crate::stack::{DhcpReply, DnsWayBack, Services};
use crate::time::Instant;

/// Keeps the questions, and answers DHCP as the test says.
#[derive(Debug, Default)]
pub struct TestServices {
    /// Messages to the DHCP server, and the cards that sent them.
    pub dhcp: Vec<(MacAddr, Vec<u8>)>,
    /// What each of them is answered.
    pub dhcp_reply: Option<DhcpReply>,
    /// The real DHCPv6 server, if the test has one.
    pub dhcp6: Option<Dhcp6Server>,
    /// Questions to the DNS server.
    pub dns: Vec<(DnsWayBack, Vec<u8>)>,
    /// Whether there are too many questions in work for another one.
    pub dns_is_busy: bool,
}

impl Services for TestServices {
    fn dhcp(&mut self, _now: Instant, from: MacAddr, message: &[u8]) -> Option<DhcpReply> {
        self.dhcp.push((from, message.to_vec()));
        self.dhcp_reply.clone()
    }

    fn dhcp6(&mut self, now: Instant, from: MacAddr, multicast: bool, message: &[u8]) -> Option<Vec<u8>> {
        let mut reply = Vec::new();
        self.dhcp6.as_mut()?.handle(now, from, multicast, message, &mut reply).ok()?;
        Some(reply)
    }

    fn dns(&mut self, way_back: DnsWayBack, message: &[u8]) -> bool {
        if !self.dns_is_busy {
            self.dns.push((way_back, message.to_vec()));
        }
        !self.dns_is_busy
    }
}
