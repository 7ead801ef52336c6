//! What a driver offers, and smoltcp's device over it.
//!
//! A card has two halves, because smoltcp answers a frame while it still looks at it. Frames are written and read where the card has
//! them. Nothing need reach the card, and no buffer need go back to it, before [`Nic::flush`]: one doorbell for many frames.

use core::num::NonZeroU16;
use core::num::NonZeroUsize;

use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::time::Instant;

use crate::report::Mac;

/// The longest super-frame: an Ethernet header and the largest IP packet.
pub const MAX_FRAME: usize = 14 + 65_535;

/// A driver with its card, in use.
pub trait Nic {
    /// The half that frames come out of.
    type Receive: Receive;
    /// The half that frames go into.
    type Transmit: Transmit;

    /// The driver's name.
    fn name(&self) -> &'static str;

    /// The card's address.
    fn mac(&self) -> Mac;

    /// The largest IP packet on its link, in bytes.
    fn mtu(&self) -> usize;

    /// What the card does for the stack.
    fn offloads(&self) -> Offloads;

    /// Both halves, for use at the same time.
    fn halves(&mut self) -> (&mut Self::Receive, &mut Self::Transmit);

    /// Tells the card of everything that was sent and received since the last time.
    fn flush(&mut self);
}

/// What a card does for the stack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offloads {
    /// It fills in TCP and UDP checksums of frames that are sent.
    pub send_checksum: bool,
    /// It vouches for TCP and UDP checksums of frames that arrive.
    pub receive_checksum: bool,
    /// It cuts TCP super-frames of up to [`MAX_FRAME`] bytes into segments. Only with `send_checksum`.
    pub segmentation: bool,
}

/// The half of a card that frames come out of.
pub trait Receive {
    /// Whether a frame has arrived.
    fn poll(&mut self) -> bool;

    /// Shows the oldest frame to `look`, then gives its buffer back to the card. Only after [`Receive::poll`] has said that there is one.
    fn take<R>(&mut self, look: impl FnOnce(&[u8]) -> R) -> R;
}

/// The half of a card that frames go into.
pub trait Transmit {
    /// Whether there is room for a frame.
    fn poll(&mut self) -> bool;

    /// Sends the frame of `len` bytes that `write` makes, and that wants done to it what `write` says. Only after [`Transmit::poll`] has
    /// said that there is room.
    fn send<R>(&mut self, len: usize, write: impl FnOnce(&mut [u8]) -> (R, Wanted)) -> R;
}

/// What the card is to do to a frame that is sent. Nothing that it has not [offered](Offloads).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The checksum to fill in.
    pub checksum: Option<Partial>,
    /// The payload bytes of each segment that the frame is to be cut into.
    pub segment: Option<NonZeroU16>,
}

/// A checksum field that holds the sum of the pseudo-header so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partial {
    /// Where the summed bytes begin, counted from the start of the frame: the TCP header.
    pub start: u16,
    /// Where the field is, counted from `start`.
    pub offset: u16,
}

/// smoltcp's device over a card.
#[derive(Debug)]
pub(crate) struct Card<N> {
    pub(crate) nic: N,
    /// Whether the card fills in checksums.
    checksum: bool,
}

impl<N: Nic> Card<N> {
    pub(crate) fn new(nic: N) -> Self {
        Self { checksum: nic.offloads().send_checksum, nic }
    }
}

impl<N: Nic> phy::Device for Card<N> {
    type RxToken<'a>
        = Arrived<'a, N::Receive>
    where
        Self: 'a;
    type TxToken<'a>
        = Sending<'a, N::Transmit>
    where
        Self: 'a;

    fn receive(&mut self, _now: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let (receive, transmit) = self.nic.halves();
        // Room for the answer first: a frame whose answer has no room stays where it is.
        let checksum = self.checksum;
        (transmit.poll() && receive.poll()).then_some((Arrived(receive), Sending { transmit, checksum, segment: None }))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Self::TxToken<'_>> {
        let (_, transmit) = self.nic.halves();
        transmit.poll().then_some(Sending { transmit, checksum: self.checksum, segment: None })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let offloads = self.nic.offloads();
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 14 + self.nic.mtu();
        let transport = match (offloads.send_checksum, offloads.receive_checksum) {
            (false, false) => Checksum::Both,
            (true, false) => Checksum::Rx,
            (false, true) => Checksum::Tx,
            (true, true) => Checksum::None,
        };
        capabilities.checksum.tcp = transport;
        // smoltcp leaves no pseudo-header sum in datagrams, and the few that are sent cost nothing.
        capabilities.checksum.udp = if offloads.receive_checksum { Checksum::Tx } else { Checksum::Both };
        if offloads.segmentation && offloads.send_checksum {
            capabilities.segmentation.tcpv4 = NonZeroUsize::new(MAX_FRAME);
        }
        capabilities
    }
}

/// A frame that smoltcp may look at.
#[derive(Debug)]
pub(crate) struct Arrived<'a, R>(&'a mut R);

impl<R: Receive> phy::RxToken for Arrived<'_, R> {
    fn consume<T, F: FnOnce(&[u8]) -> T>(self, look: F) -> T {
        self.0.take(look)
    }
}

/// Room for a frame.
#[derive(Debug)]
pub(crate) struct Sending<'a, T> {
    transmit: &'a mut T,
    checksum: bool,
    segment: Option<NonZeroU16>,
}

impl<T: Transmit> phy::TxToken for Sending<'_, T> {
    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size;
    }

    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let Self { transmit, checksum, segment } = self;
        transmit.send(len, |frame| {
            let result = write(frame);
            (result, Wanted { checksum: if checksum { begin_tcp_checksum(frame) } else { None }, segment })
        })
    }
}

/// Puts the sum of the pseudo-header (RFC 9293 section 3.1) into the checksum field of a TCP segment that smoltcp has left it out of.
/// `None` if the frame is something else.
fn begin_tcp_checksum(frame: &mut [u8]) -> Option<Partial> {
    const TCP: u8 = 6;
    const CHECKSUM: usize = 16;
    let (addresses, start) = match frame.get(12..14)? {
        [0x08, 0x00] if frame.get(23) == Some(&TCP) => (26..34, 14 + usize::from(frame[14] & 0xf) * 4),
        [0x86, 0xdd] if frame.get(20) == Some(&TCP) => (22..54, 54),
        _ => return None,
    };
    let mut sum = u32::from(TCP) + u32::try_from(frame.len().checked_sub(start)?).ok()?;
    for pair in frame.get(addresses)?.as_chunks::<2>().0 {
        sum += u32::from(u16::from_be_bytes(*pair));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let folded = u16::try_from(sum).ok()?;
    frame.get_mut(start + CHECKSUM..start + CHECKSUM + 2)?.copy_from_slice(&folded.to_be_bytes());
    Some(Partial { start: u16::try_from(start).ok()?, offset: 16 })
}
