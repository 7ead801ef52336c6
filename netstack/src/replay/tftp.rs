//! The TFTP server of a recording: it reads requests as the real one does, and says what the recording has that it said.

use std::net::{Ipv4Addr, SocketAddr};

use crate::config::Config;
use crate::gateway::tftp;
use crate::stack::{TftpAnswer, TftpOpening, TftpRefusal, TftpService, TransferId};

/// Where it listens, on the scripted host.
pub(super) const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 69);

/// The server.
#[derive(Debug, Default)]
pub(super) struct RecordedTftp {
    next: u64,
    /// The request that was made last.
    request: Vec<u8>,
}

impl RecordedTftp {
    /// The server of a network that has one.
    pub(super) fn of(config: &Config) -> Option<Self> {
        config.boot.tftp_root.as_ref().map(|_| Self::default())
    }
}

impl TftpService for RecordedTftp {
    fn request(&mut self, message: &[u8], _: usize) -> Result<TransferId, TftpRefusal> {
        if let Some(refused) = tftp::refused(message) {
            return Err(refused);
        }
        self.request = message.to_vec();
        self.next += 1;
        Ok(TransferId(self.next))
    }

    fn start(&mut self, _: TransferId, _: SocketAddr, _: usize) -> Option<TftpOpening> {
        Some(TftpOpening { server: SERVER, datagram: std::mem::take(&mut self.request) })
    }

    fn answer(&mut self, _: TransferId, _: SocketAddr, datagram: &[u8]) -> TftpAnswer {
        tftp::recorded_answer(datagram)
    }

    fn hears(&mut self, _: TransferId, start: &[u8]) -> bool {
        tftp::ends(start)
    }

    fn is_over(&self, _: TransferId) -> bool {
        false
    }

    fn end(&mut self, _: TransferId) -> Vec<Vec<u8>> {
        Vec::new()
    }
}
