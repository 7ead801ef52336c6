//! A port in memory: frames as vectors, for programs that embed the engine and for tests.
//!
//! [`MemoryPort::pair`] makes the two ends of a cable. The engine takes the [`MemoryPort`]; the [`GuestEnd`] is the guest's network card.
//! It needs no runtime: both ends wake whoever waits through the plain [`std::task`] interface.
//!
//! What always holds:
//!
//! - Both directions are bounded by a number of frames, so a guest that does not take its frames stops the flows, not the process.
//! - The guest sees a frame only after the engine's flush, so a flush that was forgotten shows in every test.
//! - With [`MemoryConfig::scatter`], frames are handed over in pieces, as a virtqueue would.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::{Egress, Halves, Ingress, Port, Sent};
use crate::frame::{Chunk, ChunkMut, Frame, FrameMeta, FrameMut, MAX_FRAME, Offloads};

/// What a memory port is to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryConfig {
    /// The port's name in messages.
    pub name: String,
    /// The largest IP packet of a frame to the guest, after segmentation.
    pub mtu: u16,
    /// What the guest takes in frames that are sent to it. What it sends may need all of them.
    pub offloads: Offloads,
    /// How many frames wait in each direction before it is full.
    pub capacity: usize,
    /// The length of the pieces of memory that frames are handed over in; 0 means in one piece.
    pub scatter: usize,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { name: "memory".to_owned(), mtu: 1500, offloads: Offloads::NONE, capacity: 256, scatter: 0 }
    }
}

/// The engine's end of the cable.
#[derive(Debug)]
pub struct MemoryPort {
    name: String,
    ingress: MemoryIngress,
    egress: MemoryEgress,
}

impl MemoryPort {
    /// A cable: one end for the engine, one for whoever plays the guest.
    pub fn pair(config: MemoryConfig) -> (Self, GuestEnd) {
        let to_engine = Arc::new(Direction::new(config.capacity));
        let to_guest = Arc::new(Direction::new(config.capacity));
        let guest = GuestEnd { to_engine: Arc::clone(&to_engine), to_guest: Arc::clone(&to_guest) };
        let port = Self {
            name: config.name,
            ingress: MemoryIngress { from_guest: to_engine, scatter: config.scatter },
            egress: MemoryEgress {
                to_guest,
                mtu: config.mtu,
                offloads: config.offloads,
                scatter: config.scatter,
                unflushed: VecDeque::new(),
            },
        };
        (port, guest)
    }
}

impl Port for MemoryPort {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn attach(self: Box<Self>) -> io::Result<Halves> {
        Ok(Halves { ingress: Box::new(self.ingress), egress: Box::new(self.egress) })
    }
}

/// The guest's end of the cable. When it is dropped, the guest has gone for good.
///
/// One task at a time may wait to receive, and one to send.
#[derive(Debug)]
pub struct GuestEnd {
    to_engine: Arc<Direction>,
    to_guest: Arc<Direction>,
}

/// Why a frame was not sent to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GuestSendError {
    /// As many frames wait already as may.
    #[error("the engine has not yet taken the frames sent before: wait for room")]
    Full,
    /// The engine has dropped its end.
    #[error("the engine no longer uses this port")]
    Gone,
    /// The frame is longer than [`MAX_FRAME`], or is to be cut into segments of no bytes.
    #[error(
        "no port can carry such a frame: it is longer than an Ethernet header and the largest IP packet, or its segment size is 0"
    )]
    Malformed,
}

impl GuestEnd {
    /// Sends a frame to the engine.
    ///
    /// # Errors
    ///
    /// When there is no room for it, when the engine has gone, or when no port could carry it.
    pub fn send(&self, frame: impl Into<Vec<u8>>, meta: FrameMeta) -> Result<(), GuestSendError> {
        let frame = frame.into();
        if frame.len() > MAX_FRAME || meta.gso.is_some_and(|gso| gso.size == 0) {
            return Err(GuestSendError::Malformed);
        }
        let mut state = self.to_engine.lock();
        if state.receiver_gone {
            return Err(GuestSendError::Gone);
        }
        if state.frames.len() >= state.capacity {
            return Err(GuestSendError::Full);
        }
        state.frames.push_back((frame, meta));
        state.wake_receiver();
        Ok(())
    }

    /// Waits until [`GuestEnd::send`] has room, or the engine has gone.
    pub async fn room(&self) {
        poll_fn(|cx| self.poll_room(cx)).await;
    }

    /// As [`GuestEnd::room`], for those who poll.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.to_engine.lock();
        if state.frames.len() < state.capacity || state.receiver_gone {
            return Poll::Ready(());
        }
        state.sender = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Takes the oldest frame that the engine has sent, if there is one.
    pub fn recv(&self) -> Option<(Vec<u8>, FrameMeta)> {
        self.to_guest.take()
    }

    /// Waits for a frame from the engine. `None` when the engine has gone and everything it sent was taken.
    pub async fn received(&self) -> Option<(Vec<u8>, FrameMeta)> {
        poll_fn(|cx| self.poll_received(cx)).await
    }

    /// As [`GuestEnd::received`], for those who poll.
    pub fn poll_received(&self, cx: &mut Context<'_>) -> Poll<Option<(Vec<u8>, FrameMeta)>> {
        let mut state = self.to_guest.lock();
        match state.take() {
            Some(frame) => Poll::Ready(Some(frame)),
            None if state.sender_gone => Poll::Ready(None),
            None => {
                state.receiver = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// How many frames from the engine have not been taken.
    pub fn waiting(&self) -> usize {
        self.to_guest.lock().frames.len()
    }

    /// Changes how many frames from the engine may wait before the port is full. 0 makes it full at once.
    pub fn set_capacity(&self, frames: usize) {
        let mut state = self.to_guest.lock();
        state.capacity = frames;
        if state.frames.len() < frames {
            state.wake_sender();
        }
    }
}

impl Drop for GuestEnd {
    fn drop(&mut self) {
        self.to_engine.sender_leaves();
        self.to_guest.receiver_leaves();
    }
}

/// One direction of the cable.
#[derive(Debug)]
struct Direction(Mutex<DirectionState>);

#[derive(Debug)]
struct DirectionState {
    frames: VecDeque<(Vec<u8>, FrameMeta)>,
    capacity: usize,
    sender: Option<Waker>,
    receiver: Option<Waker>,
    sender_gone: bool,
    receiver_gone: bool,
}

impl Direction {
    const fn new(capacity: usize) -> Self {
        Self(Mutex::new(DirectionState {
            frames: VecDeque::new(),
            capacity,
            sender: None,
            receiver: None,
            sender_gone: false,
            receiver_gone: false,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, DirectionState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<(Vec<u8>, FrameMeta)> {
        self.lock().take()
    }

    fn sender_leaves(&self) {
        let mut state = self.lock();
        state.sender_gone = true;
        state.wake_receiver();
    }

    fn receiver_leaves(&self) {
        let mut state = self.lock();
        state.receiver_gone = true;
        state.frames.clear();
        state.wake_sender();
    }
}

impl DirectionState {
    fn take(&mut self) -> Option<(Vec<u8>, FrameMeta)> {
        let frame = self.frames.pop_front()?;
        if self.frames.len() < self.capacity {
            self.wake_sender();
        }
        Some(frame)
    }

    fn wake_sender(&mut self) {
        if let Some(waker) = self.sender.take() {
            waker.wake();
        }
    }

    fn wake_receiver(&mut self) {
        if let Some(waker) = self.receiver.take() {
            waker.wake();
        }
    }
}

#[derive(Debug)]
struct MemoryIngress {
    from_guest: Arc<Direction>,
    scatter: usize,
}

impl Ingress for MemoryIngress {
    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(Frame<'_>)) -> io::Result<usize> {
        for received in 0..budget {
            // The lock is not held while the frame is looked at: the answer may go to a port of the same task.
            let Some((bytes, meta)) = self.from_guest.take() else {
                if received == 0 && self.from_guest.lock().sender_gone {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                return Ok(received);
            };
            if self.scatter == 0 {
                sink(Frame::new(&[Chunk::from(&bytes[..])], meta));
            } else {
                let chunks: Vec<_> = bytes.chunks(self.scatter).map(Chunk::from).collect();
                sink(Frame::new(&chunks, meta));
            }
        }
        Ok(budget)
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.from_guest.lock();
        if !state.frames.is_empty() || state.sender_gone {
            return Poll::Ready(());
        }
        state.receiver = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for MemoryIngress {
    fn drop(&mut self) {
        self.from_guest.receiver_leaves();
    }
}

#[derive(Debug)]
struct MemoryEgress {
    to_guest: Arc<Direction>,
    mtu: u16,
    offloads: Offloads,
    scatter: usize,
    unflushed: VecDeque<(Vec<u8>, FrameMeta)>,
}

impl Egress for MemoryEgress {
    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn send(&mut self, capacity: usize, fill: &mut dyn FnMut(&mut FrameMut<'_, '_>) -> Option<(usize, FrameMeta)>) -> Sent {
        if capacity > MAX_FRAME {
            return Sent::Declined;
        }
        {
            let state = self.to_guest.lock();
            // A guest that has gone takes everything and sees nothing; flush tells.
            if !state.receiver_gone && state.frames.len() + self.unflushed.len() >= state.capacity {
                return Sent::Full;
            }
        }
        let mut bytes = vec![0; capacity];
        let filled = if self.scatter == 0 {
            fill(&mut FrameMut::new(&mut [ChunkMut::from(&mut bytes[..])]))
        } else {
            let mut chunks: Vec<_> = bytes.chunks_mut(self.scatter).map(ChunkMut::from).collect();
            fill(&mut FrameMut::new(&mut chunks))
        };
        let Some((len, meta)) = filled else { return Sent::Declined };
        debug_assert!(len <= capacity, "{len} bytes were put where {capacity} had been asked for");
        debug_assert!(self.offloads.accept(&meta), "{meta:?} goes beyond {:?}", self.offloads);
        bytes.truncate(len);
        self.unflushed.push_back((bytes, meta));
        Sent::Yes
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut state = self.to_guest.lock();
        if state.receiver_gone {
            self.unflushed.clear();
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !self.unflushed.is_empty() {
            state.frames.append(&mut self.unflushed);
            state.wake_receiver();
        }
        Ok(())
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.to_guest.lock();
        if state.frames.len() + self.unflushed.len() < state.capacity || state.receiver_gone {
            return Poll::Ready(());
        }
        state.sender = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for MemoryEgress {
    fn drop(&mut self) {
        self.to_guest.sender_leaves();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;
    use crate::frame::Checksum;

    fn cable(config: MemoryConfig) -> (Halves, GuestEnd) {
        let (port, guest) = MemoryPort::pair(config);
        (Box::new(port).attach().unwrap(), guest)
    }

    fn receive_all(halves: &mut Halves) -> Vec<(Vec<u8>, FrameMeta)> {
        let mut frames = Vec::new();
        let mut sink = |frame: Frame<'_>| {
            let mut bytes = vec![0; frame.len()];
            frame.copy_to(0, &mut bytes);
            frames.push((bytes, frame.meta));
        };
        halves.ingress.receive(100, &mut sink).unwrap();
        frames
    }

    fn send(halves: &mut Halves, bytes: &[u8]) -> Sent {
        halves.egress.send(bytes.len() + 10, &mut |room| {
            assert_eq!(room.copy_from(0, bytes), bytes.len());
            Some((bytes.len(), FrameMeta::default()))
        })
    }

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Bell {
        fn rung(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn frames_keep_their_bytes_order_and_meta_in_both_directions() {
        for scatter in [0, 1, 3, 1000] {
            let (mut halves, guest) = cable(MemoryConfig { scatter, ..MemoryConfig::default() });
            let verified = FrameMeta { checksum: Checksum::Verified, gso: None };
            guest.send(&b"first frame"[..], FrameMeta::default()).unwrap();
            guest.send(vec![2; 100], verified).unwrap();
            assert_eq!(receive_all(&mut halves), [(b"first frame".to_vec(), FrameMeta::default()), (vec![2; 100], verified)]);

            assert_eq!(send(&mut halves, b"one"), Sent::Yes);
            assert_eq!(send(&mut halves, b"two two"), Sent::Yes);
            assert_eq!(guest.recv(), None, "nothing is seen before the flush");
            halves.egress.flush().unwrap();
            assert_eq!(guest.recv().unwrap().0, b"one");
            assert_eq!(guest.recv().unwrap().0, b"two two");
            assert_eq!(guest.recv(), None);
        }
    }

    #[test]
    fn scattered_memory_comes_in_pieces() {
        let (mut halves, guest) = cable(MemoryConfig { scatter: 4, ..MemoryConfig::default() });
        guest.send(vec![0; 10], FrameMeta::default()).unwrap();
        let mut parts = 0;
        halves.ingress.receive(1, &mut |frame| parts = frame.parts(0, 10, &mut [Chunk::empty(); 8])).unwrap();
        assert_eq!(parts, 3);
    }

    #[test]
    fn a_guest_that_takes_nothing_fills_the_port_until_it_does() {
        let (mut halves, guest) = cable(MemoryConfig { capacity: 2, ..MemoryConfig::default() });
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        let mut cx = Context::from_waker(&waker);
        assert_eq!(send(&mut halves, b"1"), Sent::Yes);
        assert_eq!(send(&mut halves, b"2"), Sent::Yes);
        assert_eq!(halves.egress.send(9, &mut |_| panic!("asked to fill a full port")), Sent::Full);
        halves.egress.flush().unwrap();
        assert!(halves.egress.poll_writable(&mut cx).is_pending());
        assert_eq!(guest.recv().unwrap().0, b"1");
        assert_eq!(bell.rung(), 1);
        assert!(halves.egress.poll_writable(&mut cx).is_ready());

        guest.set_capacity(1);
        assert!(halves.egress.poll_writable(&mut cx).is_pending());
        guest.set_capacity(5);
        assert_eq!(bell.rung(), 2);
        assert_eq!(send(&mut halves, b"3"), Sent::Yes);
    }

    #[test]
    fn an_engine_that_takes_nothing_stops_the_guest_until_it_does() {
        let (mut halves, guest) = cable(MemoryConfig { capacity: 1, ..MemoryConfig::default() });
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        let mut cx = Context::from_waker(&waker);
        assert!(halves.ingress.poll_readable(&mut cx).is_pending());
        guest.send(vec![1], FrameMeta::default()).unwrap();
        assert_eq!(bell.rung(), 1);
        assert_eq!(guest.send(vec![2], FrameMeta::default()), Err(GuestSendError::Full));
        assert!(guest.poll_room(&mut cx).is_pending());
        assert_eq!(receive_all(&mut halves).len(), 1);
        assert_eq!(bell.rung(), 2);
        guest.send(vec![2], FrameMeta::default()).unwrap();
    }

    #[test]
    fn a_budget_is_kept_to() {
        let (mut halves, guest) = cable(MemoryConfig::default());
        for n in 0..3 {
            guest.send(vec![n], FrameMeta::default()).unwrap();
        }
        assert_eq!(halves.ingress.receive(2, &mut |_| {}).unwrap(), 2);
        assert_eq!(halves.ingress.receive(2, &mut |_| {}).unwrap(), 1);
        assert_eq!(halves.ingress.receive(2, &mut |_| {}).unwrap(), 0);
    }

    #[test]
    fn a_guest_that_goes_is_heard_out_first() {
        let (mut halves, guest) = cable(MemoryConfig::default());
        guest.send(vec![1], FrameMeta::default()).unwrap();
        drop(guest);
        assert_eq!(halves.ingress.receive(5, &mut |_| {}).unwrap(), 1);
        assert_eq!(halves.ingress.receive(5, &mut |_| {}).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        send(&mut halves, b"anyone there?");
        assert_eq!(halves.egress.flush().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn an_engine_that_goes_is_heard_out_first() {
        let (mut halves, guest) = cable(MemoryConfig::default());
        send(&mut halves, b"farewell");
        halves.egress.flush().unwrap();
        drop(halves);
        let mut cx = Context::from_waker(Waker::noop());
        let mut farewell = pin!(guest.received());
        assert!(matches!(farewell.as_mut().poll(&mut cx), Poll::Ready(Some(_))));
        assert!(matches!(guest.poll_received(&mut cx), Poll::Ready(None)));
        assert_eq!(guest.send(vec![1], FrameMeta::default()), Err(GuestSendError::Gone));
    }

    #[tokio::test]
    async fn both_ends_can_be_awaited() {
        let (mut halves, guest) = cable(MemoryConfig::default());
        let echo = tokio::spawn(async move {
            poll_fn(|cx| halves.ingress.poll_readable(cx)).await;
            let frames = receive_all(&mut halves);
            send(&mut halves, &frames[0].0);
            halves.egress.flush().unwrap();
        });
        guest.send(&b"echo"[..], FrameMeta::default()).unwrap();
        assert_eq!(guest.received().await.unwrap().0, b"echo");
        echo.await.unwrap();
    }

    #[test]
    fn no_port_could_carry_such_a_frame() {
        let (_port, guest) = MemoryPort::pair(MemoryConfig::default());
        assert_eq!(guest.send(vec![0; MAX_FRAME + 1], FrameMeta::default()), Err(GuestSendError::Malformed));
    }
}
