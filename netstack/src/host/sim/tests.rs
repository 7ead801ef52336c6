use super::*;
use crate::time::Duration;

const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), 80);

fn host_with(server: Server) -> SimHost {
    let mut host = SimHost::new(1);
    host.serve(SERVER, server);
    host
}

/// Connects, and takes the event that tells so.
fn connected(host: &mut SimHost) -> SocketId {
    let socket = host.connect(SERVER, Token(7)).unwrap();
    host.advance(host.now + Duration::from_millis(1));
    let events = events(host);
    assert!(events.iter().any(|event| event.token == Token(7) && event.writable && !event.failed), "{events:?}");
    socket
}

fn events(host: &mut SimHost) -> Vec<Event> {
    let mut events = Vec::with_capacity(16);
    host.events(&mut events);
    events
}

fn send(host: &mut SimHost, socket: SocketId, data: &[u8]) -> io::Result<usize> {
    host.send(socket, &[Chunk::from(data)])
}

fn peek(host: &mut SimHost, socket: SocketId, offset: usize, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let (first, second) = bytes.split_at_mut(len / 2);
    let len = host.peek(socket, offset, &mut [ChunkMut::from(first), ChunkMut::from(second)])?;
    bytes.truncate(len);
    Ok(bytes)
}

fn would_block<T: std::fmt::Debug>(result: io::Result<T>) -> bool {
    result.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

#[test]
fn a_connection_is_told_by_one_event_once_it_is_made() {
    let mut host = host_with(Server::new(Program::Sink).after(Duration::from_millis(30)));
    let socket = host.connect(SERVER, Token(7)).unwrap();
    assert!(would_block(send(&mut host, socket, b"early")));
    host.advance(Instant::from_micros(29_999));
    assert!(events(&mut host).is_empty());
    assert_eq!(host.next_deadline(), Some(Instant::from_micros(30_000)));
    host.advance(Instant::from_micros(30_000));
    assert_eq!(events(&mut host), [Event { token: Token(7), readable: false, writable: true, failed: false }]);
    assert!(events(&mut host).is_empty());
}

#[test]
fn a_refusal_is_an_event_and_an_error_to_take_once() {
    let mut host = SimHost::new(1);
    let socket = host.connect(SERVER, Token(7)).unwrap();
    host.advance(Instant::ZERO);
    assert!(events(&mut host)[0].failed);
    assert_eq!(host.take_error(socket).unwrap().kind(), io::ErrorKind::ConnectionRefused);
    assert!(host.take_error(socket).is_none());

    host.serve(SERVER, Server::failing_at_once(libc::ENETUNREACH));
    assert_eq!(host.connect(SERVER, Token(8)).unwrap_err().raw_os_error(), Some(libc::ENETUNREACH));
}

#[test]
fn an_echo_comes_back_and_stays_until_it_is_discarded() {
    let mut host = host_with(Server::new(Program::Echo));
    let socket = connected(&mut host);
    assert_eq!(send(&mut host, socket, b"abcdefgh").unwrap(), 8);
    assert!(events(&mut host)[0].readable);
    assert_eq!(peek(&mut host, socket, 0, 100).unwrap(), b"abcdefgh");
    assert_eq!(peek(&mut host, socket, 3, 4).unwrap(), b"defg");
    assert!(would_block(peek(&mut host, socket, 8, 1)));
    host.discard(socket, 5).unwrap();
    assert_eq!(peek(&mut host, socket, 0, 100).unwrap(), b"fgh");
    assert!(events(&mut host).is_empty(), "nothing became readable by discarding");
    host.discard(socket, 3).unwrap();
    host.shutdown_write(socket).unwrap();
    assert!(events(&mut host)[0].readable);
    assert_eq!(peek(&mut host, socket, 0, 1).unwrap(), b"");
    host.close(socket);
    host.advance(Instant::ZERO);
    let connection = host.connections().next().unwrap();
    assert!(connection.saw_end() && !connection.saw_reset());
    assert_eq!((connection.received(), host.open_sockets()), (&b"abcdefgh"[..], 0));
}

#[test]
fn a_ring_that_wraps_is_peeked_in_order() {
    let mut host = host_with(Server::new(Program::Source(1 << 20)).receive_queue(10_000));
    let socket = connected(&mut host);
    let mut at = 0;
    while at < 1 << 20 {
        host.advance(Instant::ZERO);
        let bytes = peek(&mut host, socket, 17, 7001).unwrap();
        let mut expected = vec![0; bytes.len()];
        pattern(at + 17, &mut expected);
        assert_eq!(bytes, expected);
        let step = bytes.len() + 17;
        host.discard(socket, step).unwrap();
        at += step as u64;
        if at + 17 >= 1 << 20 {
            break;
        }
    }
}

#[test]
fn a_slow_reader_fills_the_send_queue_and_a_third_of_room_is_told_when_asked_for() {
    let mut host = host_with(Server::new(Program::Sink).reading(100, Duration::from_millis(10)).send_queue(900));
    let socket = connected(&mut host);
    assert_eq!(send(&mut host, socket, &[1; 1000]).unwrap(), 900);
    assert!(would_block(send(&mut host, socket, &[2; 100])));
    let mut passed = 0;
    while events(&mut host).is_empty() {
        passed += 1;
        host.advance(host.next_deadline().unwrap());
    }
    assert_eq!(host.send_room(socket), SendRoom { free: 300, capacity: 900 });
    assert_eq!(passed, 2, "the first 100 bytes are read at once");
    host.notify_writable(socket);
    assert!(events(&mut host)[0].writable);
    assert_eq!(send(&mut host, socket, &[2; 100]).unwrap(), 100);
    host.advance(Instant::from_micros(10_000_000));
    assert!(events(&mut host).is_empty(), "nobody has asked");
}

#[test]
fn a_reset_by_the_peer_leaves_what_has_arrived() {
    let mut host = host_with(Server::new(Program::Idle).greeting(b"so long"));
    let socket = connected(&mut host);
    host.connection_mut(ConnectionId(0)).reset();
    assert!(events(&mut host)[0].failed);
    assert_eq!(peek(&mut host, socket, 0, 10).unwrap(), b"so long");
    assert_eq!(peek(&mut host, socket, 7, 10).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(send(&mut host, socket, b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn closing_with_unread_bytes_is_a_reset_and_closing_without_is_not() {
    let mut host = host_with(Server::new(Program::Idle).greeting(b"unread"));
    let socket = connected(&mut host);
    host.close(socket);
    assert!(host.connection(ConnectionId(0)).saw_reset());

    host.serve(SERVER, Server::new(Program::Sink).reading(1, Duration::from_millis(1)));
    let socket = connected(&mut host);
    assert_eq!(send(&mut host, socket, b"three").unwrap(), 5);
    host.close(socket);
    assert!(!host.connection(ConnectionId(1)).saw_end());
    for _ in 0..5 {
        host.advance(host.now + Duration::from_millis(1));
    }
    let connection = host.connection(ConnectionId(1));
    assert!(connection.saw_end() && !connection.saw_reset());
    assert_eq!(connection.received(), b"three");
}

#[test]
fn a_peer_that_closed_resets_who_sends_on() {
    let mut host = host_with(Server::new(Program::CloseAfter(3)));
    let socket = connected(&mut host);
    send(&mut host, socket, b"abc").unwrap();
    let news = events(&mut host)[0];
    assert!(news.readable && !news.failed);
    assert_eq!(peek(&mut host, socket, 0, 1).unwrap(), b"");
    send(&mut host, socket, b"d").unwrap();
    assert!(events(&mut host)[0].failed);
}

#[test]
fn a_client_that_dials_is_accepted_with_its_address() {
    let mut host = SimHost::new(1);
    let from: SocketAddr = "203.0.113.5:5555".parse().unwrap();
    let (listener, address) = host.listen("0.0.0.0:0".parse().unwrap(), None, Token(1)).unwrap();
    assert!(host.listen(address, None, Token(2)).is_err());
    let to = SocketAddr::new(HOST_V4.into(), address.port());
    let id = host.dial(to, from, &Server::new(Program::Echo).greeting(b"hello")).unwrap();
    assert_eq!(events(&mut host), [Event { token: Token(1), readable: true, writable: false, failed: false }]);
    let (socket, client) = host.accept(listener, Token(3)).unwrap();
    assert_eq!(client, from);
    assert!(would_block(host.accept(listener, Token(3))));
    assert_eq!(events(&mut host), [Event { token: Token(3), readable: true, writable: false, failed: false }]);
    host.reset(socket);
    assert!(host.connection(id).saw_reset());
    host.close(listener);
    assert!(host.dial(to, from, &Server::new(Program::Echo)).is_err());
    assert_eq!(host.open_sockets(), 0);
}

#[test]
fn datagrams_are_cut_recorded_and_echoed() {
    let mut host = SimHost::new(1);
    let (socket, local) = host.bind_datagram("0.0.0.0:0".parse().unwrap(), None, Token(1)).unwrap();
    host.serve_udp(SERVER, UdpServer::Echo);
    host.send_to(
        socket,
        SERVER,
        &[Chunk::from(&b"abc"[..]), Chunk::from(&b"de"[..])],
        SendOptions { segment: Some(2), ..SendOptions::default() },
    )
    .unwrap();
    let sent: Vec<&[u8]> = host.sent_datagrams().iter().map(|datagram| &datagram.payload[..]).collect();
    assert_eq!(sent, [&b"ab"[..], b"cd", b"e"]);
    assert_eq!(events(&mut host).len(), 1);
    let mut bytes = [0; 10];
    let received = host.receive_from(socket, &mut [ChunkMut::from(&mut bytes[..])]).unwrap();
    assert_eq!(received, Received { len: 2, from: SERVER, segment: None, hop_limit: None });
    let to = SocketAddr::new(HOST_V4.into(), local.port());
    assert!(host.inject_udp_segments(to, SERVER, b"112233", 2));
    assert!(!host.inject_udp("192.0.2.1:9".parse().unwrap(), SERVER, b"nobody is there"));
}

#[test]
fn faults_and_limits_bite_as_often_as_they_are_set() {
    let mut host = host_with(Server::new(Program::Sink));
    host.fail(Operation::Connect, libc::EADDRNOTAVAIL, 1);
    assert_eq!(host.connect(SERVER, Token(1)).unwrap_err().raw_os_error(), Some(libc::EADDRNOTAVAIL));
    host.set_max_sockets(1);
    let socket = host.connect(SERVER, Token(1)).unwrap();
    assert_eq!(host.bind_datagram("[::]:0".parse().unwrap(), None, Token(2)).unwrap_err().raw_os_error(), Some(libc::EMFILE));
    host.close(socket);
    assert!(host.connect(SERVER, Token(1)).is_ok());
}

#[test]
fn a_service_is_a_stream_that_is_connected_at_once() {
    let mut host = SimHost::new(1);
    let guest: SocketAddr = "10.0.2.15:1234".parse().unwrap();
    assert_eq!(host.open_service(StreamService::Dns, guest, Token(1)).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    host.serve_service(StreamService::Dns, Server::new(Program::Respond(|question| question.iter().rev().copied().collect())));
    let socket = host.open_service(StreamService::Dns, guest, Token(1)).unwrap();
    send(&mut host, socket, b"abc").unwrap();
    assert!(events(&mut host)[0].readable);
    assert_eq!(peek(&mut host, socket, 0, 10).unwrap(), b"cba");
    assert_eq!(host.connection(ConnectionId(0)).local(), guest);
}

#[test]
#[should_panic(expected = "which is not open")]
fn using_a_closed_socket_is_a_mistake() {
    let mut host = host_with(Server::new(Program::Sink));
    let socket = connected(&mut host);
    host.close(socket);
    host.send_room(socket);
}

#[test]
#[should_panic(expected = "has only peeked 2")]
fn discarding_what_was_not_peeked_is_a_mistake() {
    let mut host = host_with(Server::new(Program::Idle).greeting(b"abc"));
    let socket = connected(&mut host);
    peek(&mut host, socket, 0, 2).unwrap();
    host.discard(socket, 3).unwrap();
}
