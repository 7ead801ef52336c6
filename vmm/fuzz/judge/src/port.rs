//! The data path of a card under trial, and what the engine relies upon.

use netstack::frame::{Checksum, ETHERNET_HEADER, FrameMeta, MAX_FRAME};
use netstack::port::{Egress, Halves, Ingress, Port, Sent};
use tokio::runtime::{Builder, Runtime};

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_io().build().expect("a runtime");
}

/// Frames that one turn takes.
const BUDGET: usize = 16;

/// Both halves of an attached port.
#[derive(Debug)]
pub struct Attached {
    ingress: Box<dyn Ingress>,
    egress: Box<dyn Egress>,
}

impl Attached {
    /// Attaches a port.
    pub fn new(port: impl Port + 'static) -> Self {
        let Halves { ingress, egress } = RUNTIME.with(|runtime| {
            let _inside = runtime.enter();
            Box::new(port).attach().expect("descriptors to watch")
        });
        Self { ingress, egress }
    }

    /// A turn of the engine: frames from the guest, which have to make sense, then a flush. Returns the frames.
    pub fn turn(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let received = self.ingress.receive(BUDGET, &mut |frame| {
            let mut bytes = vec![0; frame.len()];
            assert!((ETHERNET_HEADER..=MAX_FRAME).contains(&frame.len()), "a frame of {} bytes", frame.len());
            assert_eq!(frame.copy_to(0, &mut bytes), bytes.len());
            check(&frame.meta, frame.len());
            frames.push(bytes);
        });
        let received = received.expect("a port lives as long as its device");
        assert!(frames.len() <= received && received <= BUDGET, "{} of {received} frames", frames.len());
        self.egress.flush().expect("a port lives as long as its device");
        frames
    }

    /// Sends a frame to the guest, of which `len` bytes are used in the end. Not published before the next turn.
    pub fn send(&mut self, frame: &[u8], len: usize, meta: FrameMeta) -> Sent {
        let mut called = 0;
        let offloads = self.egress.offloads();
        assert!(self.egress.mtu() >= 68, "an MTU of {}", self.egress.mtu());
        let meta = if offloads.accept(&meta) { meta } else { FrameMeta::default() };
        let sent = self.egress.send(frame.len(), &mut |room| {
            called += 1;
            assert!(room.len() >= frame.len(), "room for {} of {} bytes", room.len(), frame.len());
            assert_eq!(room.copy_from(0, frame), frame.len());
            (len > 0).then_some((len.min(frame.len()), meta))
        });
        assert!(called == 1 || sent != Sent::Yes && called <= usize::from(sent == Sent::Declined), "{sent:?} after {called} calls");
        sent
    }
}

/// What the engine believes of a frame without looking.
fn check(meta: &FrameMeta, len: usize) {
    if let Checksum::Partial { start, offset } = meta.checksum {
        let (start, offset) = (usize::from(start), usize::from(offset));
        assert!(start >= ETHERNET_HEADER && start + offset + 2 <= len, "{meta:?} of {len} bytes");
    }
    if let Some(gso) = meta.gso {
        assert!(gso.size > 0 && matches!(meta.checksum, Checksum::Partial { .. }), "{meta:?}");
    }
}
