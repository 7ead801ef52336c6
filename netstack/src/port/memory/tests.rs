//! Both ends of the cable, with and without a runtime.

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
