//! The simulated host and the kernel's sockets, held against the same script: what stories in virtual time rely on is what kernels do.
//!
//! Each test runs once on each form of [`Host`], with real peers on the loopback in one case and scripted ones in the other.
#![expect(clippy::unwrap_used, reason = "a script that cannot go on says where by panicking")]

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;

use netstack::frame::{Chunk, ChunkMut};
use netstack::host::kernel::KernelHost;
use netstack::host::sim::{ConnectionId, Program, Server, SimHost, UdpServer, Way};
use netstack::host::{DatagramError, Event, Family, Host, SendOptions, SocketId, Teller, Token};
use netstack::time::{Duration, Instant};
use netstack::wire::icmp_error::{Problem, Unreachable};
use socket2::SockRef;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Runtime;

/// How a stream has ended for a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    Reset,
}

/// A host, and the world behind it. The world has one server and acts only when it is told to.
trait Stage {
    fn host(&mut self) -> &mut dyn Host;

    /// Waits until there is news.
    fn wait(&mut self) -> Vec<Event>;

    /// The address of the server.
    fn server(&self) -> SocketAddr;

    /// An address at which nobody listens.
    fn nobody(&self) -> SocketAddr;

    /// A client connects to a listener of the host; it is the peer from now on. Returns the address that it comes from.
    fn dial(&mut self, to: SocketAddr) -> SocketAddr;

    /// The server takes the connection that the host has made; it is the peer from now on.
    fn accept(&mut self);

    fn peer_writes(&mut self, data: &[u8]);

    /// The peer reads exactly so many bytes.
    fn peer_reads(&mut self, len: usize) -> Vec<u8>;

    /// The peer waits for the end.
    fn peer_sees(&mut self) -> End;

    fn peer_finishes(&mut self);

    fn peer_closes(&mut self);

    fn peer_resets(&mut self);
}

/// The kernel.
struct Real {
    runtime: Runtime,
    host: KernelHost,
    watch: AsyncFd<OwnedFd>,
    listener: TcpListener,
    peer: Option<TcpStream>,
}

impl Real {
    fn new(ip: IpAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let host = KernelHost::new(Box::new(|_, _| Err(io::ErrorKind::ConnectionRefused.into()))).unwrap();
        let watch = runtime.block_on(async { host.watch() }).unwrap();
        Self { runtime, host, watch, listener: TcpListener::bind((ip, 0)).unwrap(), peer: None }
    }

    fn peer(&mut self) -> &mut TcpStream {
        self.peer.as_mut().unwrap()
    }

    fn set_peer(&mut self, peer: TcpStream) {
        // Nothing here takes so long; but a script that waits for what never comes should not wait for ever.
        peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        peer.set_nodelay(true).unwrap();
        self.peer = Some(peer);
    }
}

impl Stage for Real {
    fn host(&mut self) -> &mut dyn Host {
        &mut self.host
    }

    fn wait(&mut self) -> Vec<Event> {
        loop {
            let mut events = Vec::with_capacity(16);
            self.host.events(&mut events);
            if !events.is_empty() {
                return events;
            }
            let ready = self.runtime.block_on(tokio_timeout(self.watch.readable()));
            ready.unwrap().clear_ready();
        }
    }

    fn server(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    fn nobody(&self) -> SocketAddr {
        let unused = TcpListener::bind((self.server().ip(), 0)).unwrap();
        unused.local_addr().unwrap()
    }

    fn dial(&mut self, to: SocketAddr) -> SocketAddr {
        let peer = TcpStream::connect(to).unwrap();
        let from = peer.local_addr().unwrap();
        self.set_peer(peer);
        from
    }

    fn accept(&mut self) {
        let peer = self.listener.accept().unwrap().0;
        self.set_peer(peer);
    }

    fn peer_writes(&mut self, data: &[u8]) {
        self.peer().write_all(data).unwrap();
    }

    fn peer_reads(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.peer().read_exact(&mut bytes).unwrap();
        bytes
    }

    fn peer_sees(&mut self) -> End {
        let mut rest = Vec::new();
        match self.peer().read_to_end(&mut rest) {
            Ok(_) => End::Closed,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => End::Reset,
            Err(error) => panic!("{error}"),
        }
    }

    fn peer_finishes(&mut self) {
        self.peer().shutdown(Shutdown::Write).unwrap();
    }

    fn peer_closes(&mut self) {
        self.peer = None;
    }

    fn peer_resets(&mut self) {
        SockRef::from(&*self.peer()).set_linger(Some(Duration::ZERO)).unwrap();
        self.peer = None;
    }
}

async fn tokio_timeout<T>(wait: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("no event came")
}

/// The simulation.
struct Simulated {
    host: SimHost,
    now: Instant,
    ip: IpAddr,
    peer: ConnectionId,
}

impl Simulated {
    fn new(ip: IpAddr) -> Self {
        let mut host = SimHost::new(1);
        // A kernel takes its time; here it is a millisecond.
        host.serve(SocketAddr::new(ip, 80), Server::new(Program::Idle).after(Duration::from_millis(1)));
        Self { host, now: Instant::ZERO, ip, peer: ConnectionId(0) }
    }
}

impl Stage for Simulated {
    fn host(&mut self) -> &mut dyn Host {
        &mut self.host
    }

    fn wait(&mut self) -> Vec<Event> {
        for _ in 0..10 {
            let mut events = Vec::with_capacity(16);
            self.host.events(&mut events);
            if !events.is_empty() {
                return events;
            }
            self.now = self.now + Duration::from_millis(1);
            self.host.advance(self.now);
        }
        panic!("no event came");
    }

    fn server(&self) -> SocketAddr {
        SocketAddr::new(self.ip, 80)
    }

    fn nobody(&self) -> SocketAddr {
        SocketAddr::new(self.ip, 81)
    }

    fn dial(&mut self, to: SocketAddr) -> SocketAddr {
        let from = SocketAddr::new(self.ip, 54_321);
        self.peer = self.host.dial(to, from, &Server::new(Program::Idle)).unwrap();
        from
    }

    fn accept(&mut self) {
        self.peer = self.host.last_connection().unwrap();
    }

    fn peer_writes(&mut self, data: &[u8]) {
        self.host.connection_mut(self.peer).push(data);
    }

    fn peer_reads(&mut self, len: usize) -> Vec<u8> {
        let connection = self.host.connection_mut(self.peer);
        let before = connection.received().len();
        connection.read(len);
        connection.received()[before..].to_vec()
    }

    fn peer_sees(&mut self) -> End {
        self.host.connection_mut(self.peer).run(Program::Sink);
        self.host.advance(self.now);
        let connection = self.host.connection(self.peer);
        assert!(connection.saw_end() || connection.saw_reset(), "nothing has ended");
        if connection.saw_reset() { End::Reset } else { End::Closed }
    }

    fn peer_finishes(&mut self) {
        self.host.connection_mut(self.peer).finish();
    }

    fn peer_closes(&mut self) {
        self.host.connection_mut(self.peer).close();
    }

    fn peer_resets(&mut self) {
        self.host.connection_mut(self.peer).reset();
    }
}

/// Runs a script on every form of host, in both families.
fn on_each(script: impl Fn(&mut dyn Stage)) {
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        script(&mut Simulated::new(ip));
        if TcpListener::bind((ip, 0)).is_ok() {
            script(&mut Real::new(ip));
        }
    }
}

const TOKEN: Token = Token(7);

/// A stream to the server, whose peer is ready.
fn connected(stage: &mut dyn Stage) -> SocketId {
    let server = stage.server();
    let socket = stage.host().connect(server, TOKEN).unwrap();
    let events = stage.wait();
    assert!(events.iter().all(|event| event.token == TOKEN && event.writable && !event.failed), "{events:?}");
    stage.accept();
    socket
}

/// Waits for an event of which `wanted` is true.
fn wait_for(stage: &mut dyn Stage, wanted: impl Fn(&Event) -> bool) {
    while !stage.wait().iter().any(&wanted) {}
}

fn send(stage: &mut dyn Stage, socket: SocketId, data: &[u8]) -> io::Result<usize> {
    let (first, second) = data.split_at(data.len() / 3);
    stage.host().send(socket, &[Chunk::from(first), Chunk::from(second)])
}

fn peek(stage: &mut dyn Stage, socket: SocketId, offset: usize, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let (first, second) = bytes.split_at_mut(len / 3);
    let len = stage.host().peek(socket, offset, &mut [ChunkMut::from(first), ChunkMut::from(second)])?;
    bytes.truncate(len);
    Ok(bytes)
}

/// Peeks for exactly `expected` at `offset`, waiting for news as long as there is less.
fn expect(stage: &mut dyn Stage, socket: SocketId, offset: usize, expected: &[u8]) {
    loop {
        match peek(stage, socket, offset, expected.len().max(1)) {
            Ok(bytes) if bytes.len() == expected.len() => return assert_eq!(bytes, expected),
            Ok(bytes) => assert!(expected.starts_with(&bytes) && !bytes.is_empty(), "{bytes:?} instead of {expected:?}"),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        wait_for(stage, |event| event.readable);
    }
}

fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> io::ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn a_refusal_comes_as_failure_with_an_error_to_take_once() {
    on_each(|stage| {
        let nobody = stage.nobody();
        let socket = stage.host().connect(nobody, TOKEN).unwrap();
        assert!(stage.wait().iter().any(|event| event.token == TOKEN && event.failed));
        assert_eq!(stage.host().take_error(socket).unwrap().kind(), io::ErrorKind::ConnectionRefused);
        assert!(stage.host().take_error(socket).is_none());
        stage.host().close(socket);
    });
}

#[test]
fn bytes_are_peeked_at_any_place_until_they_are_discarded() {
    on_each(|stage| {
        let socket = connected(stage);
        assert_eq!(kind(peek(stage, socket, 0, 10)), io::ErrorKind::WouldBlock);
        stage.peer_writes(b"0123456789");
        expect(stage, socket, 0, b"0123456789");
        expect(stage, socket, 4, b"456789");
        assert_eq!(kind(peek(stage, socket, 10, 10)), io::ErrorKind::WouldBlock);
        assert_eq!(peek(stage, socket, 0, 3).unwrap(), b"012", "back to the beginning");
        assert_eq!(peek(stage, socket, 3, 3).unwrap(), b"345", "and on from there");
        stage.host().discard(socket, 5).unwrap();
        assert_eq!(peek(stage, socket, 0, 100).unwrap(), b"56789");
        stage.peer_writes(b"abc");
        expect(stage, socket, 5, b"abc");
        stage.host().discard(socket, 8).unwrap();
        assert_eq!(kind(peek(stage, socket, 0, 10)), io::ErrorKind::WouldBlock);
        stage.host().close(socket);
        assert_eq!(stage.peer_sees(), End::Closed);
    });
}

#[test]
fn an_end_of_file_is_found_behind_the_last_byte_before_and_after_it_is_discarded() {
    on_each(|stage| {
        let socket = connected(stage);
        stage.peer_writes(b"last words");
        stage.peer_finishes();
        expect(stage, socket, 0, b"last words");
        expect(stage, socket, 10, b"");
        assert_eq!(peek(stage, socket, 10, 5).unwrap(), b"", "each time");
        stage.host().discard(socket, 10).unwrap();
        assert_eq!(peek(stage, socket, 0, 5).unwrap(), b"");
        // The other direction is still open.
        assert_eq!(send(stage, socket, b"answer").unwrap(), 6);
        assert_eq!(stage.peer_reads(6), b"answer");
        stage.host().close(socket);
        assert_eq!(stage.peer_sees(), End::Closed);
    });
}

#[test]
fn a_full_send_queue_blocks_and_room_for_more_is_told() {
    on_each(|stage| {
        let socket = connected(stage);
        let mut sent = 0;
        loop {
            match send(stage, socket, &[7; 10_000]) {
                Ok(len) => sent += len,
                Err(error) => break assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        let full = stage.host().send_room(socket);
        assert!(full.free < full.capacity / 3, "{full:?}");
        let mut left = sent;
        loop {
            let len = left.min(5000);
            assert_eq!(stage.peer_reads(len).len(), len);
            left -= len;
            let room = stage.host().send_room(socket);
            if room.free >= room.capacity / 2 || left == 0 {
                break;
            }
        }
        wait_for(stage, |event| event.writable);
        assert!(send(stage, socket, &[7; 10]).unwrap() > 0);
        stage.host().reset(socket);
    });
}

#[test]
fn room_is_told_at_once_to_whoever_asks_when_there_is_some() {
    on_each(|stage| {
        let socket = connected(stage);
        stage.host().notify_writable(socket);
        wait_for(stage, |event| event.writable);
        stage.host().notify_writable(socket);
        wait_for(stage, |event| event.writable);
    });
}

#[test]
fn a_reset_of_the_peer_leaves_what_has_arrived_and_is_reported_once() {
    on_each(|stage| {
        let socket = connected(stage);
        stage.peer_writes(b"so long");
        expect(stage, socket, 0, b"so long");
        stage.peer_resets();
        wait_for(stage, |event| event.failed);
        assert_eq!(peek(stage, socket, 0, 10).unwrap(), b"so long");
        assert_eq!(kind(peek(stage, socket, 7, 10)), io::ErrorKind::ConnectionReset);
        assert!(stage.host().take_error(socket).is_none());
        assert_eq!(peek(stage, socket, 7, 10).unwrap(), b"");
        assert_eq!(kind(send(stage, socket, b"x")), io::ErrorKind::BrokenPipe);
        stage.host().close(socket);
    });
}

#[test]
fn a_peer_that_has_closed_resets_who_sends_on() {
    on_each(|stage| {
        let socket = connected(stage);
        stage.peer_closes();
        expect(stage, socket, 0, b"");
        assert_eq!(send(stage, socket, b"too late").unwrap(), 8);
        wait_for(stage, |event| event.failed);
        assert!(stage.host().take_error(socket).is_some());
        stage.host().close(socket);
    });
}

#[test]
fn closing_sends_what_is_queued_and_then_an_end() {
    on_each(|stage| {
        let socket = connected(stage);
        assert_eq!(send(stage, socket, b"all of it").unwrap(), 9);
        stage.host().close(socket);
        assert_eq!(stage.peer_reads(9), b"all of it");
        assert_eq!(stage.peer_sees(), End::Closed);
    });
}

#[test]
fn closing_with_bytes_unread_is_a_reset() {
    on_each(|stage| {
        let socket = connected(stage);
        stage.peer_writes(b"unread");
        expect(stage, socket, 0, b"unread");
        stage.host().close(socket);
        assert_eq!(stage.peer_sees(), End::Reset);
    });
}

#[test]
fn a_reset_is_seen_as_a_reset() {
    on_each(|stage| {
        let socket = connected(stage);
        stage.host().reset(socket);
        assert_eq!(stage.peer_sees(), End::Reset);
    });
}

#[test]
fn a_stream_shut_down_for_writing_still_receives() {
    on_each(|stage| {
        let socket = connected(stage);
        send(stage, socket, b"question").unwrap();
        stage.host().shutdown_write(socket).unwrap();
        assert_eq!(stage.peer_reads(8), b"question");
        assert_eq!(kind(send(stage, socket, b"more")), io::ErrorKind::BrokenPipe);
        stage.peer_writes(b"answer");
        expect(stage, socket, 0, b"answer");
        stage.host().discard(socket, 6).unwrap();
        stage.peer_finishes();
        expect(stage, socket, 0, b"");
        stage.host().close(socket);
        assert_eq!(stage.peer_sees(), End::Closed);
    });
}

#[test]
fn a_client_is_accepted_with_its_address_and_what_it_has_said_already() {
    on_each(|stage| {
        let any = SocketAddr::new(stage.server().ip(), 0);
        let (listener, address) = stage.host().listen(any, None, Token(1)).unwrap();
        assert_ne!(address.port(), 0);
        assert_eq!(kind(stage.host().listen(address, None, Token(1))), io::ErrorKind::AddrInUse);
        assert_eq!(kind(stage.host().accept(listener, TOKEN)), io::ErrorKind::WouldBlock);
        let from = stage.dial(address);
        stage.peer_writes(b"hello");
        wait_for(stage, |event| event.token == Token(1) && event.readable);
        let (socket, client) = stage.host().accept(listener, TOKEN).unwrap();
        assert_eq!(client, from);
        assert_eq!(kind(stage.host().accept(listener, TOKEN)), io::ErrorKind::WouldBlock);
        wait_for(stage, |event| event.token == TOKEN && event.readable);
        expect(stage, socket, 0, b"hello");
        stage.host().set_token(socket, Token(9));
        stage.host().discard(socket, 5).unwrap();
        stage.peer_writes(b"again");
        wait_for(stage, |event| event.token == Token(9) && event.readable);
        stage.host().reset(socket);
        assert_eq!(stage.peer_sees(), End::Reset);
        stage.host().close(listener);
    });
}

#[test]
fn datagrams_arrive_whole_alone_or_several_at_once() {
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let mut stage = Real::new(ip);
    let peer = UdpSocket::bind((ip, 0)).unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let (socket, local) = stage.host.bind_datagram(SocketAddr::new(ip, 0), None, TOKEN).unwrap();
    let to = peer.local_addr().unwrap();
    stage.host.send_to(socket, to, &[Chunk::from(&b"one"[..]), Chunk::from(&b"two"[..])], SendOptions::default()).unwrap();
    stage.host.send_to(socket, to, &[], SendOptions::default()).unwrap();
    stage
        .host
        .send_to(socket, to, &[Chunk::from(&b"aabbc"[..])], SendOptions { segment: Some(2), ..SendOptions::default() })
        .unwrap();
    let mut bytes = [0; 100];
    for expected in [&b"onetwo"[..], b"", b"aa", b"bb", b"c"] {
        let (len, from) = peer.recv_from(&mut bytes).unwrap();
        assert_eq!((&bytes[..len], from), (expected, local));
    }
    peer.send_to(b"answer", local).unwrap();
    wait_for(&mut stage, |event| event.readable);
    let received = stage.host.receive_from(socket, &mut [ChunkMut::from(&mut bytes[..])]).unwrap();
    assert_eq!((received.len, received.from, &bytes[..6]), (6, to, &b"answer"[..]));
    assert_eq!(kind(stage.host.receive_from(socket, &mut [ChunkMut::from(&mut bytes[..])])), io::ErrorKind::WouldBlock);
    // What is sent in one call from a socket like this one arrives in one, or in several: in either case in order.
    let (other, other_address) = stage.host.bind_datagram(SocketAddr::new(ip, 0), None, Token(8)).unwrap();
    stage
        .host
        .send_to(
            socket,
            other_address,
            &[Chunk::from(&b"1122334455"[..])],
            SendOptions { segment: Some(2), ..SendOptions::default() },
        )
        .unwrap();
    let mut all: Vec<u8> = Vec::new();
    while all.len() < 10 {
        match stage.host.receive_from(other, &mut [ChunkMut::from(&mut bytes[..])]) {
            Ok(received) => {
                assert!(received.segment.is_none_or(|size| size == 2));
                all.extend(&bytes[..received.len]);
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                wait_for(&mut stage, |event| event.readable);
            }
        }
    }
    assert_eq!(all, b"1122334455");
}

// ---- Errors of the network, and echo requests: in a network of the test's own, where they are allowed. ----

/// Runs this test once more in a network namespace in which everybody may send echo requests, over a loopback that takes packets of 1500
/// bytes. Returns whether this is it.
fn in_a_network_of_its_own(test: &str) -> bool {
    const INSIDE: &str = "SLIPWAY_TEST_NETWORK";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let script = "ip link set lo mtu 1500 up && echo 0 0 >/proc/sys/net/ipv4/ping_group_range && exec \"$@\"";
    let ended = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, "yes")
        .status()
        .unwrap();
    assert!(ended.success(), "{test}: {ended}");
    false
}

/// The hosts, each of which reaches a host that answers echo requests, and has a closed port, across a link of 1500 bytes.
fn each_with_a_network(family: Family, mut script: impl FnMut(&mut dyn Stage, SocketAddr)) {
    let (loopback, far): (IpAddr, IpAddr) = match family {
        Family::V4 => (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::new(198, 51, 100, 7).into()),
        Family::V6 => (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7).into()),
    };
    let mut real = Real::new(loopback);
    let nobody = UdpSocket::bind((loopback, 0)).unwrap().local_addr().unwrap();
    script(&mut real, nobody);
    let mut simulated = Simulated::new(loopback);
    let closed = SocketAddr::new(far, 9);
    simulated.host.lay(far, Way::direct());
    simulated.host.set_quoted(1000);
    simulated.host.serve_udp(closed, UdpServer::Closed);
    script(&mut simulated, closed);
}

fn wait_for_error(stage: &mut dyn Stage, socket: SocketId) -> (DatagramError, Vec<u8>) {
    let mut payload = [0; 2000];
    loop {
        if let Some(error) = stage.host().take_datagram_error(socket, &mut payload) {
            return (error, payload[..error.len].to_vec());
        }
        wait_for(stage, |event| event.failed);
    }
}

fn unconnected(stage: &mut dyn Stage, family: Family) -> SocketId {
    let any: IpAddr = if family == Family::V4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    stage.host().bind_datagram(SocketAddr::new(any, 0), None, TOKEN).unwrap().0
}

#[test]
fn errors_wait_beside_the_datagrams_and_do_not_keep_others_from_going() {
    if !in_a_network_of_its_own("errors_wait_beside_the_datagrams_and_do_not_keep_others_from_going") {
        return;
    }
    for family in [Family::V4, Family::V6] {
        each_with_a_network(family, |stage, closed| {
            let socket = unconnected(stage, family);
            for text in [&b"one"[..], b"two", b"three"] {
                // The error about the one before is pending, and is no error of this one.
                stage.host().send_to(socket, closed, &[Chunk::from(text)], SendOptions::default()).unwrap();
            }
            assert_eq!(kind(stage.host().receive_from(socket, &mut [])), io::ErrorKind::WouldBlock);
            for text in [&b"one"[..], b"two", b"three"] {
                let (error, payload) = wait_for_error(stage, socket);
                assert_eq!(error.problem, Problem::Unreachable(Unreachable::Port));
                assert_eq!((error.destination, &payload[..]), (closed, text));
                assert_eq!(error.teller == Teller::ThisHost, closed.ip().is_loopback());
            }
            assert_eq!(stage.host().take_datagram_error(socket, &mut [0; 100]), None);
            stage.host().close(socket);
        });
    }
}

#[test]
fn what_must_not_be_cut_and_is_too_big_is_refused_with_the_mtu() {
    if !in_a_network_of_its_own("what_must_not_be_cut_and_is_too_big_is_refused_with_the_mtu") {
        return;
    }
    for family in [Family::V4, Family::V6] {
        each_with_a_network(family, |stage, closed| {
            let socket = unconnected(stage, family);
            let whole = SendOptions { dont_fragment: true, ..SendOptions::default() };
            // One alone, and several at once.
            for options in [whole, SendOptions { segment: Some(1600), ..whole }] {
                let refused = stage.host().send_to(socket, closed, &[Chunk::from(&[7; 3000][..])], options);
                assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
                let (error, payload) = wait_for_error(stage, socket);
                assert_eq!((error.problem, error.teller), (Problem::TooBig { mtu: 1500 }, Teller::Socket));
                assert_eq!((error.destination.ip(), payload.len()), (closed.ip(), 0));
                while stage.host().take_datagram_error(socket, &mut []).is_some() {}
            }
            for options in [SendOptions::default(), SendOptions { segment: Some(1600), ..SendOptions::default() }] {
                stage.host().send_to(socket, closed, &[Chunk::from(&[7; 3000][..])], options).unwrap();
                let (error, _) = wait_for_error(stage, socket);
                assert_eq!(error.problem, Problem::Unreachable(Unreachable::Port));
            }
            stage.host().send_to(socket, closed, &[Chunk::from(&[7; 1400][..])], whole).unwrap();
            stage.host().close(socket);
        });
    }
}

#[test]
fn echo_requests_are_answered_as_they_were_sent_but_for_the_identifier() {
    if !in_a_network_of_its_own("echo_requests_are_answered_as_they_were_sent_but_for_the_identifier") {
        return;
    }
    for family in [Family::V4, Family::V6] {
        each_with_a_network(family, |stage, closed| {
            let to = SocketAddr::new(closed.ip(), 0);
            let (request, reply) = if family == Family::V4 { (8, 0) } else { (128, 129) };
            let mut messages = Vec::new();
            for _ in 0..2 {
                let socket = stage.host().open_ping(family, TOKEN).unwrap();
                let message = [&[request, 0, 0, 0, 0x12, 0x34, 0, 7][..], b"are you there?"].concat();
                let options = SendOptions { hop_limit: Some(9), dont_fragment: true, ..SendOptions::default() };
                stage.host().send_to(socket, to, &[Chunk::from(&message[..])], options).unwrap();
                let mut bytes = [0; 100];
                let received = loop {
                    match stage.host().receive_from(socket, &mut [ChunkMut::from(&mut bytes[..])]) {
                        Ok(received) => break received,
                        Err(_) => wait_for(stage, |event| event.readable),
                    }
                };
                assert_eq!((received.len, received.from.ip()), (message.len(), closed.ip()));
                assert!(received.hop_limit.is_some());
                assert_eq!((bytes[0], &bytes[6..8], &bytes[8..22]), (reply, &[0, 7][..], &b"are you there?"[..]));
                messages.push(bytes[4..6].to_vec());
                // Only echo requests leave.
                let refused = stage.host().send_to(socket, to, &[Chunk::from(&[reply, 0, 0, 0, 0, 0, 0, 0][..])], options);
                assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EINVAL));
            }
            assert_ne!(messages[0], messages[1], "each socket has its own identifier");
        });
    }
}
