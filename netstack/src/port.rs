//! Where frames come from: a port is one guest's network card, seen from the engine.
//!
//! A port has two independent halves, because a frame that arrives on one is often answered on the same one before the next is looked
//! at. [`Ingress`] yields what the guest sent, [`Egress`] takes what is for the guest. Both lend the port's own memory, so that payload
//! is never copied on its way between a guest and a socket, and both work in batches: many frames, then one notification.
//!
//! What every port must keep to:
//!
//! - Nothing blocks. What is not there now is awaited by `poll_readable` or `poll_writable`, which register the caller's waker.
//! - Nothing is lost. A port that has no room says so ([`Sent::Full`]), and the stack keeps the data where it is.
//! - What the other side does (it goes away, it sends nonsense) ends the port with an error or is counted; it never panics.

pub mod memory;
pub mod stream;
pub mod tap;

use std::fmt;
use std::io;
use std::task::{Context, Poll};

use crate::frame::{Frame, FrameMeta, FrameMut, Offloads};

/// Which port of a switch a frame came from or goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u16);

/// A guest's network card that can be joined to an engine.
pub trait Port: fmt::Debug + Send {
    /// The words by which people know it, such as `tap0` or `unix:/run/vm.sock`.
    fn name(&self) -> String;

    /// Takes it into use: splits it into its halves. Called within the tokio runtime that will drive them.
    ///
    /// # Errors
    ///
    /// When the runtime refuses to watch the port's descriptors.
    fn attach(self: Box<Self>) -> io::Result<Halves>;
}

/// The two halves of a port that is in use.
#[derive(Debug)]
pub struct Halves {
    /// Frames from the guest.
    pub ingress: Box<dyn Ingress>,
    /// Frames to the guest.
    pub egress: Box<dyn Egress>,
}

/// Frames from a guest.
pub trait Ingress: fmt::Debug + Send {
    /// Hands at most `budget` frames to `sink`, in the order in which the guest sent them, and returns how many. Fewer than `budget`
    /// means that there are no more for now. A frame and its memory are valid until `sink` returns; after that they are the guest's.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::UnexpectedEof`] when the guest has gone for good, anything else when the port is broken. Either way the port
    /// yields nothing more.
    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(Frame<'_>)) -> io::Result<usize>;

    /// Waits until [`Ingress::receive`] has something to hand out, or an error to report.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// How many frames from the guest were thrown away so far because they made no sense: too long, or with a header that contradicts
    /// itself.
    fn dropped(&self) -> u64 {
        0
    }
}

/// What a call of [`Egress::send`] has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The frame is on its way.
    Yes,
    /// `fill` had nothing to send after all; the room was not used.
    Declined,
    /// The port has no room. `fill` was not called.
    Full,
}

/// Frames to a guest.
pub trait Egress: fmt::Debug + Send {
    /// The largest IP packet that one frame may carry, after segmentation: 68 to 65535 bytes.
    fn mtu(&self) -> u16;

    /// What the guest has agreed to take in frames that are sent to it. Asked for each frame: a virtual machine's driver may agree on
    /// something else after a reset.
    fn offloads(&self) -> Offloads;

    /// Sends one frame of at most `capacity` bytes. `fill` is called once with room for at least that much, writes the frame, and says
    /// how long it became and what its offload state is; or `None`, to send nothing. Whether the guest sees the frame now or at the
    /// next [`Egress::flush`] is up to the port. A port that cannot ever offer `capacity` bytes answers [`Sent::Declined`].
    fn send(&mut self, capacity: usize, fill: &mut dyn FnMut(&mut FrameMut<'_, '_>) -> Option<(usize, FrameMeta)>) -> Sent;

    /// Publishes the frames sent since the last flush and notifies the guest once, if it wants to be. Called at the end of each turn of
    /// the engine, also when nothing was sent, so a port may look here for what its guest has changed.
    ///
    /// # Errors
    ///
    /// As [`Ingress::receive`].
    fn flush(&mut self) -> io::Result<()>;

    /// Waits until [`Egress::send`] may have room again, and meanwhile drives out what [`Egress::flush`] had to leave. Asked after
    /// [`Sent::Full`], and while the port is not [flushed](Egress::is_flushed): whoever waits for neither may leave frames behind that
    /// nothing else would move.
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether all frames up to the last flush have left this process's hands. If not, [`Egress::poll_writable`] is ready only once they
    /// have.
    fn is_flushed(&self) -> bool {
        true
    }

    /// Tells the guest that its link is up or down, where its card can tell such a thing; at the beginning it is up. That nothing is sent
    /// over a link which is down is not for the port to see to.
    fn set_link(&mut self, up: bool) {
        let _ = up;
    }

    /// How many frames to the guest were thrown away so far because its side refused them, as an interface does that is down.
    fn dropped(&self) -> u64 {
        0
    }
}
