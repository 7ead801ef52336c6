//! The services at the virtual addresses, reduced to taking notes.

use netstack::addr::MacAddr;
use netstack::stack::{DhcpReply, DnsWayBack, Services};
use netstack::time::Instant;

/// Keeps the questions, and answers DHCP as the test says.
#[derive(Debug, Default)]
pub(crate) struct TestServices {
    pub(crate) dhcp: Vec<(MacAddr, Vec<u8>)>,
    pub(crate) dhcp_reply: Option<DhcpReply>,
    pub(crate) dns: Vec<(DnsWayBack, Vec<u8>)>,
    /// Whether there are too many questions in work for another one.
    pub(crate) dns_is_busy: bool,
}

impl Services for TestServices {
    fn dhcp(&mut self, _now: Instant, from: MacAddr, message: &[u8]) -> Option<DhcpReply> {
        self.dhcp.push((from, message.to_vec()));
        self.dhcp_reply.clone()
    }

    fn dns(&mut self, way_back: DnsWayBack, message: &[u8]) -> bool {
        if !self.dns_is_busy {
            self.dns.push((way_back, message.to_vec()));
        }
        !self.dns_is_busy
    }
}
