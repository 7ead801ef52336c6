//! The services at the virtual addresses, reduced to taking notes.

use std::net::SocketAddr;

use crate::addr::MacAddr;
use crate::gateway::dhcp6::Dhcp6Server;
use crate::stack::{DhcpReply, DnsWayBack, Services, TftpAnswer, TftpOpening, TftpRefusal, TftpService, TransferId};
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
    /// The TFTP server, if there is one.
    pub tftp: Option<TestTftp>,
}

/// A TFTP server that believes whoever is at one address, and does what it is told.
#[derive(Debug, Clone)]
pub struct TestTftp {
    /// Where it takes requests.
    pub server: SocketAddr,
    /// From where it answers.
    pub answers_from: SocketAddr,
    /// Why it takes no requests, if it takes none.
    pub refusal: Option<TftpRefusal>,
    /// Whether all transfers are over.
    pub over: bool,
    /// The requests that it has taken, with the largest block that it was told of.
    pub requests: Vec<(Vec<u8>, usize)>,
    /// The sockets of its transfers.
    pub clients: Vec<SocketAddr>,
    /// The transfers that were ended.
    pub ended: Vec<TransferId>,
}

impl TestTftp {
    /// One that takes everything.
    pub fn new(server: SocketAddr, answers_from: SocketAddr) -> Self {
        Self { server, answers_from, refusal: None, over: false, requests: Vec::new(), clients: Vec::new(), ended: Vec::new() }
    }
}

impl TftpService for TestTftp {
    fn request(&mut self, message: &[u8], largest_block: usize) -> Result<TransferId, TftpRefusal> {
        match &self.refusal {
            Some(refusal) => Err(refusal.clone()),
            None => {
                self.requests.push((message.to_vec(), largest_block));
                Ok(TransferId(self.requests.len() as u64))
            }
        }
    }

    fn start(&mut self, _: TransferId, client: SocketAddr, _: usize) -> Option<TftpOpening> {
        self.clients.push(client);
        Some(TftpOpening { server: self.server, datagram: b"in other words".to_vec() })
    }

    /// An answer that says `hush` is for the engine alone, one that says `no` ends it, and what begins with DATA is that.
    fn answer(&mut self, _: TransferId, from: SocketAddr, datagram: &[u8]) -> TftpAnswer {
        match datagram {
            _ if from != self.answers_from => TftpAnswer::Stranger,
            [0, 3, ..] => TftpAnswer::Data,
            b"hush" => TftpAnswer::ToServer(b"well".to_vec()),
            b"no" => TftpAnswer::Refused(datagram.to_vec()),
            _ => TftpAnswer::ToGuest(datagram.to_ascii_uppercase()),
        }
    }

    fn hears(&mut self, _: TransferId, start: &[u8]) -> bool {
        start.starts_with(&[0, 5])
    }

    fn is_over(&self, _: TransferId) -> bool {
        self.over
    }

    fn end(&mut self, transfer: TransferId) -> Vec<Vec<u8>> {
        self.ended.push(transfer);
        vec![b"farewell".to_vec()]
    }
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

    fn tftp(&mut self) -> Option<&mut dyn TftpService> {
        self.tftp.as_mut().map(|tftp| tftp as &mut dyn TftpService)
    }
}
