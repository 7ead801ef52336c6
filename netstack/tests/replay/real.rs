//! What an engine with real sockets and a real clock did, played again.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::{Duration, Instant};

use netstack::capture::CaptureConfig;
use netstack::config::{Config as NetworkConfig, GuestForward, GuestTarget, qemu};
use netstack::engine::Engine;
use netstack::frame::{FrameMeta, Offloads};
use netstack::port::memory::{GuestEnd, MemoryConfig, MemoryPort};
use netstack::replay::sidecar::Sidecar;
use netstack::replay::{Options, Report, replay};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{dhcpv4, tcp, udp};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::guest::MAC;

const GATEWAY: IpAddress = IpAddress::v4(10, 0, 2, 2);

/// A whole guest, as fast as the machine is.
struct Guest {
    end: Card,
    interface: Interface,
    sockets: SocketSet<'static>,
    started: Instant,
    /// Where servers are.
    server: IpAddress,
}

struct Card {
    end: GuestEnd,
    received: VecDeque<Vec<u8>>,
}

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Sender<'a>(&'a GuestEnd);

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        // A full queue loses frames, as a wire does.
        let _ = self.0.send(frame, FrameMeta::default());
        result
    }
}

impl Device for Card {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received, Sender<'_>)> {
        Some((Received(self.received.pop_front()?), Sender(&self.end)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Sender<'_>> {
        Some(Sender(&self.end))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        // What the engine leaves to the card is in no frame.
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities.checksum.udp = Checksum::Tx;
        capabilities
    }
}

impl Guest {
    fn new(end: GuestEnd) -> Self {
        let mut end = Card { end, received: VecDeque::new() };
        let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(MAC)));
        let interface = Interface::new(config, &mut end, smoltcp::time::Instant::ZERO);
        Self { end, interface, sockets: SocketSet::new(Vec::new()), started: Instant::now(), server: GATEWAY }
    }

    fn now(&self) -> smoltcp::time::Instant {
        smoltcp::time::Instant::from_micros(self.started.elapsed().as_micros() as i64)
    }

    /// Lives until `done` says so.
    async fn until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let limit = Instant::now() + Duration::from_secs(60);
        loop {
            while let Some((frame, _)) = self.end.end.recv() {
                self.end.received.push_back(frame);
            }
            let now = self.now();
            self.interface.poll(now, &mut self.end, &mut self.sockets);
            if done(self) {
                return;
            }
            assert!(Instant::now() < limit, "it did not happen");
            let wait = self.interface.poll_delay(now, &self.sockets).map_or(Duration::from_millis(50), Duration::from);
            if let Ok(Some((frame, _))) = tokio::time::timeout(wait.min(Duration::from_millis(50)), self.end.end.received()).await {
                self.end.received.push_back(frame);
            }
        }
    }

    async fn lease(&mut self) {
        let handle = self.sockets.add(dhcpv4::Socket::new());
        self.until(|guest| match guest.sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll() {
            Some(dhcpv4::Event::Configured(config)) => {
                guest.interface.update_ip_addrs(|addresses| addresses.push(IpCidr::Ipv4(config.address)).unwrap());
                if let Some(router) = config.router {
                    guest.interface.routes_mut().add_default_ipv4_route(router).unwrap();
                }
                true
            }
            _ => false,
        })
        .await;
    }

    fn connect(&mut self, port: u16, local: u16) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 65_000]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.connect(self.interface.context(), (self.server, port), local).unwrap();
        self.sockets.add(socket)
    }

    /// Sends all of `data`, closes, and receives until the end.
    async fn exchange(&mut self, port: u16, local: u16, data: &[u8]) -> Vec<u8> {
        let handle = self.connect(port, local);
        let (mut sent, mut received) = (0, Vec::new());
        self.until(|guest| {
            let socket = guest.sockets.get_mut::<tcp::Socket<'_>>(handle);
            if socket.can_send() && sent < data.len() {
                sent += socket.send_slice(&data[sent..]).unwrap();
            }
            if sent == data.len() && socket.may_send() {
                socket.close();
            }
            while socket.can_recv() {
                received.extend(socket.recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap());
            }
            !socket.is_active()
        })
        .await;
        received
    }

    async fn ask(&mut self, port: u16, question: &[u8]) -> Vec<u8> {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 8192]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(5000).unwrap();
        socket.send_slice(question, (GATEWAY, port)).unwrap();
        let handle = self.sockets.add(socket);
        let mut answer = Vec::new();
        self.until(|guest| {
            let socket = guest.sockets.get_mut::<udp::Socket<'_>>(handle);
            socket.recv().is_ok_and(|(bytes, _)| {
                answer = bytes.to_vec();
                true
            })
        })
        .await;
        answer
    }
}

/// A server that treats each connection so.
fn serve(each: impl Fn(std::net::TcpStream) + Send + Copy + 'static) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(thread::spawn(move || each(stream)))));
    port
}

/// Records what `story` does with an engine with real sockets, and plays it again.
fn recorded(offloads: Offloads, segment: bool, story: impl AsyncFnOnce(&mut Guest)) -> (Vec<u8>, Report) {
    recorded_of(&NetworkConfig::default(), "", offloads, segment, story)
}

/// Likewise, with an engine with these options and a hook `reverse`.
fn recorded_of(
    config: &NetworkConfig,
    user: &str,
    offloads: Offloads,
    segment: bool,
    story: impl AsyncFnOnce(&mut Guest),
) -> (Vec<u8>, Report) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("real.pcapng");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let engine = Engine::builder(config).stream_hook("reverse", reverse).build().unwrap();
        let handle = engine.handle();
        let running = tokio::spawn(engine.run());
        let user = (!user.is_empty()).then(|| user.to_owned());
        handle.start_capture(CaptureConfig { segment, user, ..CaptureConfig::to_file(&path) }).await.unwrap();
        let (port, end) = MemoryPort::pair(MemoryConfig { offloads, ..MemoryConfig::default() });
        handle.attach(Box::new(port)).await.unwrap();
        let mut guest = Guest::new(end);
        story(&mut guest).await;
        handle.shutdown();
        running.await.unwrap();
    });
    let file = std::fs::read(&path).unwrap();
    let report = replay(&file, Sidecar::default(), &Options::default()).unwrap();
    if !report.matches() {
        let kept = std::env::temp_dir().join("slipway-replay-failed.pcapng");
        std::fs::write(&kept, &file).unwrap();
        println!("kept in {}", kept.display());
    }
    (file, report)
}

/// Sends back, the other way round, what comes until the end.
fn reverse(_guest: SocketAddr, mut stream: tokio::net::UnixStream) -> std::io::Result<()> {
    tokio::spawn(async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await?;
        all.reverse();
        stream.write_all(&all).await
    });
    Ok(())
}

#[track_caller]
fn assert_same(report: &Report) {
    assert!(report.matches(), "{:#?}\n{:#?}", &report.differences[..report.differences.len().min(5)], report.remarks);
}

#[test]
fn an_engine_with_real_sockets_is_replayed() {
    let echo = serve(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all).unwrap();
    });
    let source = serve(|mut stream| stream.write_all(&vec![7; 300_000]).unwrap());
    let resets = serve(|stream| {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let refused = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let answers = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let udp = answers.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((len, from)) = answers.recv_from(&mut buffer) {
            let from: SocketAddr = from;
            answers.send_to(&buffer[..len], from).unwrap();
        }
    });
    let data: Vec<u8> = (0..200_000u32).map(|n| (n / 7) as u8).collect();
    for (offloads, segment) in [(Offloads::NONE, false), (Offloads::ALL, false), (Offloads::ALL, true)] {
        let expected = &data;
        let (_, report) = recorded(offloads, segment, async |guest: &mut Guest| {
            guest.lease().await;
            assert_eq!(guest.exchange(echo, 40_000, expected).await, *expected);
            assert_eq!(guest.exchange(source, 40_001, b"").await.len(), 300_000);
            assert_eq!(guest.exchange(echo, 40_002, b"hello").await, b"hello");
            guest.exchange(resets, 40_003, b"").await;
            guest.exchange(refused, 40_004, b"").await;
            assert_eq!(guest.ask(udp, b"what time is it?").await, b"what time is it?");
        });
        assert_same(&report);
        assert!(report.compared > 15, "{report:?}");
    }
}

#[test]
fn what_serves_guests_within_the_process_is_replayed_as_servers_are() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("echo");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    let user = format!("restrict=on,guestfwd=::1-unix:{},guestfwd=::2-cmd:rev,guestfwd=::3-cmd:exit 0", path.display());
    let mut config = qemu::parse(&user).unwrap();
    config.guest_forwards.push(GuestForward { server: None, port: 4, target: GuestTarget::Hook("reverse".to_owned()) });
    // What the hook does was seen by the recording as anything else; only that it is a hook cannot be written down.
    let user = format!("{user},guestfwd=::4-cmd:a hook");
    let data: Vec<u8> = (0..200_000u32).map(|n| (n / 7) as u8).collect();
    let (expected, backwards) = (&data, &data.iter().rev().copied().collect::<Vec<_>>());
    for offloads in [Offloads::NONE, Offloads::ALL] {
        let (_, report) = recorded_of(&config, &user, offloads, false, async |guest: &mut Guest| {
            guest.lease().await;
            guest.server = IpAddress::v4(10, 0, 2, 4);
            assert_eq!(guest.exchange(1, 40_000, expected).await, *expected);
            assert_eq!(guest.exchange(2, 40_001, b"hello\n").await, b"olleh\n");
            assert_eq!(guest.exchange(3, 40_002, b"").await, b"");
            assert_eq!(guest.exchange(4, 40_003, expected).await, *backwards);
            guest.exchange(5, 40_004, b"").await;
        });
        assert_same(&report);
        assert!(report.compared > 15, "{report:?}");
    }
}

#[test]
fn a_hook_that_nobody_has_given_is_missed_at_the_start() {
    let forward = GuestForward { server: None, port: 4, target: GuestTarget::Hook("reverse".to_owned()) };
    let config = NetworkConfig { guest_forwards: vec![forward.clone()], ..NetworkConfig::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let start = |config: &NetworkConfig| runtime.block_on(async { Engine::new(config) }).err().map(|error| error.to_string());
    assert_eq!(start(&config).as_deref(), Some("there is no hook `reverse` for the forward that leads to it"));
    let nowhere = NetworkConfig { ipv4: None, ..config };
    assert!(start(&nowhere).unwrap().contains("has no address, because IPv4 is off"));
}
