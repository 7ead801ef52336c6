//! What the host and the timer wheel give back: whose event it is, packed into 64 bits.

use crate::host::Token;
use crate::port::PortId;

/// The owner of a socket or a timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The socket of a TCP flow.
    TcpFlow { id: u32, generation: u32 },
    /// The retransmission timer of the flow with this number, whichever that is by then.
    TcpRetransmit { id: u32 },
    /// Likewise its expiry timer.
    TcpExpire { id: u32 },
    /// A listening socket of a forward, and the timer of its next attempt to accept.
    TcpListener { id: u32, generation: u32 },
    /// The socket of a UDP mapping, and its expiry timer.
    UdpMapping { id: u32, generation: u32 },
    /// The socket of a UDP forward, and the timer of its next look for the guest.
    UdpForward { id: u32, generation: u32 },
    /// The expiry timer of a client of a UDP forward.
    UdpClient { id: u32, generation: u32 },
    /// The socket of a ping mapping, and its expiry timer.
    Ping { id: u32, generation: u32 },
    /// The socket of a TFTP transfer, and its expiry timer.
    TftpTransfer { id: u32, generation: u32 },
    /// The timer of unsolicited router advertisements.
    RouterAdvertisement,
    /// The timer of the fragments that have come through a port.
    Reassembly { port: PortId },
}

impl Owner {
    pub(crate) fn token(self) -> Token {
        let (kind, id, generation) = match self {
            Self::TcpFlow { id, generation } => (1, id, generation),
            Self::TcpRetransmit { id } => (2, id, 0),
            Self::TcpExpire { id } => (3, id, 0),
            Self::TcpListener { id, generation } => (4, id, generation),
            Self::UdpMapping { id, generation } => (5, id, generation),
            Self::UdpForward { id, generation } => (6, id, generation),
            Self::UdpClient { id, generation } => (7, id, generation),
            Self::RouterAdvertisement => (8, 0, 0),
            Self::Reassembly { port } => (20, port.0.into(), 0),
            Self::TftpTransfer { id, generation } => (9, id, generation),
            Self::Ping { id, generation } => (10, id, generation),
        };
        Token(kind << 56 | u64::from(generation & 0xff_ffff) << 32 | u64::from(id))
    }

    pub(crate) const fn of(token: Token) -> Option<Self> {
        let id = token.0 as u32;
        let generation = (token.0 >> 32) as u32 & 0xff_ffff;
        Some(match token.0 >> 56 {
            1 => Self::TcpFlow { id, generation },
            2 => Self::TcpRetransmit { id },
            3 => Self::TcpExpire { id },
            4 => Self::TcpListener { id, generation },
            5 => Self::UdpMapping { id, generation },
            6 => Self::UdpForward { id, generation },
            7 => Self::UdpClient { id, generation },
            8 => Self::RouterAdvertisement,
            20 => Self::Reassembly { port: PortId(id as u16) },
            9 => Self::TftpTransfer { id, generation },
            10 => Self::Ping { id, generation },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_come_back_as_they_went() {
        for owner in [
            Owner::TcpFlow { id: u32::MAX, generation: 0xff_ffff },
            Owner::TcpRetransmit { id: 1 },
            Owner::TcpExpire { id: 0 },
            Owner::TcpListener { id: 7, generation: 1 },
            Owner::UdpMapping { id: 8, generation: 9 },
            Owner::UdpForward { id: 10, generation: 0xff_ffff },
            Owner::UdpClient { id: 3, generation: 4 },
            Owner::Ping { id: 5, generation: 6 },
            Owner::RouterAdvertisement,
            Owner::Reassembly { port: PortId(11) },
            Owner::TftpTransfer { id: 5, generation: 6 },
        ] {
            assert_eq!(Owner::of(owner.token()), Some(owner));
        }
        assert_eq!(Owner::of(Token(0)), None);
    }
}
