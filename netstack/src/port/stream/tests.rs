//! The halves on real sockets, with the other end played by hand.

use std::future::poll_fn;
use std::task::Waker;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::*;

fn attach(socket: impl TryInto<StreamSocket, Error = io::Error>) -> Halves {
    Box::new(StreamPort::new(socket.try_into().unwrap(), 1500, "guest")).attach().unwrap()
}

fn unix() -> (Halves, UnixStream) {
    let (ours, guest) = UnixStream::pair().unwrap();
    (attach(ours), guest)
}

fn on_the_wire(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes(), frame].concat()
}

/// Receives until `wanted` frames have come, or an error.
async fn receive(ingress: &mut dyn Ingress, wanted: usize) -> io::Result<Vec<Vec<u8>>> {
    let mut frames = Vec::new();
    while frames.len() < wanted {
        poll_fn(|cx| ingress.poll_readable(cx)).await;
        let mut sink = |frame: Frame<'_>| {
            let mut bytes = vec![0; frame.len()];
            frame.copy_to(0, &mut bytes);
            frames.push(bytes);
        };
        ingress.receive(16, &mut sink)?;
    }
    Ok(frames)
}

fn send(egress: &mut dyn Egress, frame: &[u8]) -> Sent {
    egress.send(frame.len(), &mut |room| {
        assert_eq!(room.copy_from(0, frame), frame.len());
        Some((frame.len(), FrameMeta::default()))
    })
}

#[tokio::test]
async fn frames_cross_a_unix_and_a_tcp_socket_in_both_directions() {
    async fn cross(mut halves: Halves, mut guest: impl AsyncReadExt + AsyncWriteExt + Unpin) {
        guest.write_all(&[on_the_wire(b"one"), on_the_wire(b"two")].concat()).await.unwrap();
        assert_eq!(receive(&mut *halves.ingress, 2).await.unwrap(), [b"one", b"two"]);

        assert_eq!(send(&mut *halves.egress, b"three"), Sent::Yes);
        assert_eq!(send(&mut *halves.egress, b"four"), Sent::Yes);
        poll_fn(|cx| halves.egress.poll_writable(cx)).await;
        halves.egress.flush().unwrap();
        let mut bytes = [0; 17];
        guest.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"\0\0\0\x05three\0\0\0\x04four");
    }
    let (halves, guest) = unix();
    cross(halves, guest).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let guest = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (ours, _) = listener.accept().await.unwrap();
    cross(attach(ours), guest).await;
}

#[tokio::test]
async fn a_frame_may_come_in_any_number_of_pieces() {
    let (mut halves, mut guest) = unix();
    let wire = on_the_wire(b"in pieces");
    for byte in &wire[..wire.len() - 1] {
        guest.write_all(&[*byte]).await.unwrap();
        poll_fn(|cx| halves.ingress.poll_readable(cx)).await;
        assert_eq!(halves.ingress.receive(16, &mut |_| panic!("not all of it was sent")).unwrap(), 0);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(halves.ingress.poll_readable(&mut cx).is_pending(), "half a frame is no reason to look again");
    }
    guest.write_all(&wire[wire.len() - 1..]).await.unwrap();
    assert_eq!(receive(&mut *halves.ingress, 1).await.unwrap(), [b"in pieces"]);
}

#[tokio::test]
async fn frames_beyond_the_budget_wait_without_another_word_from_the_guest() {
    let (mut halves, mut guest) = unix();
    guest.write_all(&on_the_wire(b"x").repeat(3)).await.unwrap();
    poll_fn(|cx| halves.ingress.poll_readable(cx)).await;
    assert_eq!(halves.ingress.receive(2, &mut |_| {}).unwrap(), 2);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(halves.ingress.poll_readable(&mut cx).is_ready());
    assert_eq!(halves.ingress.receive(2, &mut |_| {}).unwrap(), 1);
}

#[tokio::test]
async fn a_guest_that_goes_is_heard_out_first() {
    let (mut halves, mut guest) = unix();
    guest.write_all(&[&on_the_wire(b"last words")[..], b"\0\0\0\x09half a"].concat()).await.unwrap();
    drop(guest);
    assert_eq!(receive(&mut *halves.ingress, 1).await.unwrap(), [b"last words"]);
    for _ in 0..2 {
        assert_eq!(receive(&mut *halves.ingress, 1).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
    while send(&mut *halves.egress, b"anyone there?") == Sent::Yes && halves.egress.flush().is_ok() {
        poll_fn(|cx| halves.egress.poll_writable(cx)).await;
    }
    assert_eq!(halves.egress.flush().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(send(&mut *halves.egress, b"anyone there?"), Sent::Declined);
}

#[tokio::test]
async fn an_impossible_length_ends_the_port_after_the_frames_before_it() {
    for length in [0, 69_633, u32::MAX] {
        let (mut halves, mut guest) = unix();
        guest.write_all(&[&on_the_wire(b"fine")[..], &length.to_be_bytes(), &on_the_wire(b"lost")].concat()).await.unwrap();
        assert_eq!(receive(&mut *halves.ingress, 1).await.unwrap(), [b"fine"]);
        for _ in 0..2 {
            let error = receive(&mut *halves.ingress, 1).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains(&format!(" {length} bytes")), "{error}");
        }
    }
}

#[tokio::test]
async fn a_frame_longer_than_any_packet_is_dropped_and_counted() {
    let (mut halves, mut guest) = unix();
    let writer = tokio::spawn(async move {
        guest.write_all(&on_the_wire(&vec![0; MAX_FRAME + 1])).await.unwrap();
        guest.write_all(&on_the_wire(&vec![1; MAX_FRAME])).await.unwrap();
        guest
    });
    assert_eq!(receive(&mut *halves.ingress, 1).await.unwrap(), [vec![1; MAX_FRAME]]);
    assert_eq!(halves.ingress.dropped(), 1);
    writer.await.unwrap();
}

#[tokio::test]
async fn a_guest_that_reads_nothing_fills_the_port_and_loses_nothing() {
    let (mut halves, mut guest) = unix();
    let frame = |number: u32| [&number.to_be_bytes()[..], &vec![number as u8; 9000]].concat();
    let mut sent = 0;
    while send(&mut *halves.egress, &frame(sent)) == Sent::Yes {
        sent += 1;
        assert!(sent < 100_000, "the port takes frames without end");
    }
    halves.egress.flush().unwrap();
    assert!(!halves.egress.is_flushed());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(halves.egress.poll_writable(&mut cx).is_pending());

    // The guest reads, and only waiting drives out the rest.
    let reader = tokio::spawn(async move {
        for number in 0..sent {
            let expected = on_the_wire(&frame(number));
            let mut bytes = vec![0; expected.len()];
            guest.read_exact(&mut bytes).await.unwrap();
            assert_eq!(bytes, expected);
        }
    });
    poll_fn(|cx| halves.egress.poll_writable(cx)).await;
    assert!(halves.egress.is_flushed());
    reader.await.unwrap();
    assert_eq!(send(&mut *halves.egress, b"room again"), Sent::Yes);
}

#[tokio::test]
async fn nothing_is_sent_when_there_is_nothing_to_send() {
    let (mut halves, mut guest) = unix();
    assert_eq!(halves.egress.send(100, &mut |_| None), Sent::Declined);
    assert_eq!(halves.egress.send(100, &mut |_| Some((0, FrameMeta::default()))), Sent::Declined);
    assert_eq!(halves.egress.send(MAX_FRAME + 1, &mut |_| panic!("there is no such room")), Sent::Declined);
    drop(halves);
    assert_eq!(guest.read(&mut [0; 10]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_descriptor_is_taken_for_what_it_is() {
    let (socket, _guest) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(matches!(StreamSocket::try_from(std::os::fd::OwnedFd::from(socket)), Ok(StreamSocket::Unix(_))));
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let error = StreamSocket::try_from(std::os::fd::OwnedFd::from(datagrams)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}
