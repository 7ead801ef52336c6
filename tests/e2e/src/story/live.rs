//! The real world: a network behind a socket that speaks QEMU's stream framing, and peers on the loopback interface.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use netstack::frame::{Checksum, FrameMeta};
use netstack::host::sim::SimHost;

use super::Story;
use super::link::{Datagrams, FILES, Link, Resolver, Sent, Stream, loopback, pattern_of};
use crate::PATIENCE;
use crate::host::{listen, seen_by_guests, serve};
use crate::namespace::Process;
use crate::qemu::Serving;
use crate::wait::limit;

/// How long a network is given to say something that it is not expected to say. Both of those that are compared answer at once.
const SILENCE: Duration = Duration::from_millis(300);

/// How long it is given to answer. The slowest timers that a story waits for are a few seconds long.
const ANSWER: Duration = Duration::from_secs(4);

/// A frame that is longer is none: QEMU's own bound.
const LONGEST: usize = 4096 + 65_536;

/// Which network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// libslirp, in a QEMU without a machine.
    Libslirp,
    /// `slipway serve`.
    Slipway,
}

/// The network and the host that a story plays against.
pub struct Live {
    frames: UnixStream,
    began: Instant,
    /// The host's port that leads to the guest, if there is one.
    forward: Option<u16>,
    /// Where each server of datagrams has seen the guest last.
    seen: HashMap<SocketAddr, Arc<Mutex<Option<SocketAddr>>>>,
    network: Network,
    _files: Files,
}

/// What is kept alive meanwhile.
enum Network {
    Qemu(Process),
    Slipway(Box<Serving>),
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("forward", &self.forward).finish_non_exhaustive()
    }
}

impl Live {
    /// Starts the network of a story. `{port}` in its options is replaced by a free port of the host.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn start(kind: Kind, story: &Story) -> Self {
        let user = story.user;
        let forward = user.contains("{port}").then(free_port);
        let user = forward.map_or_else(|| user.to_owned(), |port| user.replace("{port}", &port.to_string()));
        let files = Files::new();
        let user = user.replace("{files}", &files.path());
        let (frames, network) = match kind {
            Kind::Libslirp => qemu(&user),
            Kind::Slipway => {
                let serving = Serving::with(&["--user", &user, "--mtu", &story.mtu.to_string()], &["port"]);
                (connect(&serving), Network::Slipway(Box::new(serving)))
            }
        };
        frames.set_write_timeout(Some(PATIENCE)).expect("a timeout that is not zero");
        Self { frames, began: Instant::now(), forward, seen: HashMap::new(), network, _files: files }
    }

    /// Whether the network still runs.
    pub fn is_alive(&mut self) -> bool {
        match &mut self.network {
            Network::Qemu(process) => process.0.try_wait().is_ok_and(|status| status.is_none()),
            Network::Slipway(serving) => serving.is_alive(),
        }
    }

    fn read(&mut self, deadline: Instant) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        read_exact_before(&mut self.frames, &mut length, deadline)?;
        let length = u32::from_be_bytes(length) as usize;
        assert!(length <= LONGEST, "a frame of {length} bytes");
        let mut frame = vec![0; length];
        // What has begun comes to its end.
        read_exact_before(&mut self.frames, &mut frame, Instant::now() + PATIENCE)?;
        Ok(frame)
    }
}

/// The files that a gateway serves, in a directory that everybody may read.
#[derive(Debug)]
pub(super) struct Files(tempfile::TempDir);

impl Files {
    pub(super) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("slipway-files-").tempdir().expect("a temporary directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("permissions of a directory of ours");
        for (name, len) in FILES {
            fs::write(directory.path().join(name), pattern_of(len)).expect("a file of ours");
        }
        Self(directory)
    }

    pub(super) fn path(&self) -> String {
        self.0.path().display().to_string()
    }
}

/// libslirp on one end of a pair of sockets: a QEMU without a machine, whose standard input is the other end.
fn qemu(user: &str) -> (UnixStream, Network) {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let comma = if user.is_empty() { "" } else { "," };
    let mut qemu = Command::new("setpriv");
    qemu.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64", "-M", "none", "-nodefaults", "-display", "none"]);
    qemu.args(["-monitor", "none", "-serial", "none", "-netdev", &format!("user,id=slirp{comma}{user}")]);
    qemu.args(["-netdev", "stream,id=wire,addr.type=fd,addr.str=0"]);
    qemu.args(["-netdev", "hubport,id=one,hubid=0,netdev=slirp", "-netdev", "hubport,id=two,hubid=0,netdev=wire"]);
    let child = qemu.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    (ours, Network::Qemu(Process(child.expect("setpriv can be started"))))
}

/// A port of the loopback address that is free for TCP and UDP, and that nobody else is given soon.
pub(super) fn free_port() -> u16 {
    let (listener, address) = listen(loopback(false));
    let _datagrams = UdpSocket::bind(address).expect("a port that is free for TCP is free for UDP");
    drop(listener);
    address.port()
}

/// Connects as a guest. The socket may be there a moment before somebody listens.
fn connect(serving: &Serving) -> UnixStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(serving.socket("port")) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}: {}", serving.said()),
        }
        std::thread::yield_now();
    }
}

fn read_exact_before(stream: &mut UnixStream, mut buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !buffer.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => buffer = &mut buffer[n..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Link for Live {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn patience(&self) -> Duration {
        ANSWER
    }

    fn silence(&self) -> Duration {
        SILENCE
    }

    fn is_simulated(&self) -> bool {
        false
    }

    fn send(&mut self, frame: &[u8], meta: FrameMeta) {
        assert!(meta.gso.is_none() && meta.checksum == Checksum::Complete, "a wire takes finished frames");
        let length = u32::try_from(frame.len()).expect("a frame is short").to_be_bytes();
        // One that has gone is found out by whoever waits for its answer.
        let _ = self.frames.write_all(&[&length, frame].concat());
    }

    fn receive(&mut self, patience: Duration) -> Option<Sent> {
        let frame = self.read(Instant::now() + patience).ok()?;
        Some((frame, FrameMeta::default()))
    }

    fn serve(&mut self, ipv6: bool, stream: Stream) -> SocketAddr {
        let (listener, address) = listen(loopback(ipv6));
        match stream {
            // The port was free a moment ago; nobody listens at it any more.
            Stream::Refuses => drop(listener),
            _ => serve(listener, move |connection| behave(&connection, stream)),
        }
        seen_by_guests(address)
    }

    fn serve_datagrams(&mut self, ipv6: bool, datagrams: Datagrams) -> SocketAddr {
        let socket = UdpSocket::bind((loopback(ipv6), 0)).expect("a free port");
        let address = seen_by_guests(socket.local_addr().expect("a bound socket has an address"));
        let times = match datagrams {
            Datagrams::Closed => return address,
            Datagrams::Silent => 0,
            Datagrams::Echo => 1,
            Datagrams::Thrice => 3,
        };
        let seen = Arc::new(Mutex::new(None));
        self.seen.insert(address, Arc::clone(&seen));
        std::thread::spawn(move || {
            let mut datagram = [0; 65_535];
            while let Ok((len, from)) = socket.recv_from(&mut datagram) {
                if let Ok(mut seen) = seen.lock() {
                    *seen = Some(from);
                }
                for _ in 0..times {
                    let _ = socket.send_to(&datagram[..len], from);
                }
            }
        });
        address
    }

    fn stranger(&mut self, server: SocketAddr, data: &[u8]) -> bool {
        let seen = self.seen.get(&server).and_then(|seen| *seen.lock().expect("no panic with the lock held"));
        let Some(mapping) = seen else { return false };
        let stranger = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 99), 0)).expect("a free port");
        stranger.send_to(data, mapping).is_ok()
    }

    fn dial(&mut self, stream: Stream) {
        let port = self.forward.expect("a network with a forward");
        std::thread::spawn(move || {
            if let Ok(connection) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
                limit(&connection);
                behave(&connection, stream);
            }
        });
    }

    fn post(&mut self, data: &'static [u8]) {
        let port = self.forward.expect("a network with a forward");
        let client = UdpSocket::bind((IpAddr::from(Ipv4Addr::LOCALHOST), 0)).expect("a free port");
        client.send_to(data, (Ipv4Addr::LOCALHOST, port)).expect("loopback takes a datagram");
    }

    fn simulated(&mut self, address: SocketAddr, _stream: Stream) {
        panic!("{address} cannot be made up in the real world");
    }

    fn world(&mut self) -> &mut SimHost {
        panic!("the real world is not ours to make");
    }

    fn commands(&mut self, _stream: Stream) {
        // The network runs them itself.
    }

    fn resolves(&mut self, _: Resolver, _: fn(&[u8]) -> Vec<u8>) {
        panic!("the real world has its own names");
    }
}

/// Does with a connection what was asked for. Whoever has gone is not missed: the story sees what it sees.
pub(super) fn behave(connection: &TcpStream, stream: Stream) {
    let _ = try_to_behave(connection, stream);
}

fn try_to_behave(mut connection: &TcpStream, stream: Stream) -> io::Result<()> {
    let mut end = io::sink();
    match stream {
        Stream::Echo => drop(io::copy(&mut { connection }, &mut { connection })?),
        Stream::Sink => drop(io::copy(&mut connection, &mut end)?),
        Stream::Says(text) => {
            connection.write_all(text)?;
            connection.shutdown(Shutdown::Write)?;
            io::copy(&mut connection, &mut end)?;
        }
        Stream::Greets(text) => {
            connection.write_all(text)?;
            io::copy(&mut connection, &mut end)?;
        }
        Stream::Pattern(len) => {
            connection.write_all(&pattern_of(usize::try_from(len).unwrap_or(0)))?;
            connection.shutdown(Shutdown::Write)?;
            io::copy(&mut connection, &mut end)?;
        }
        Stream::ClosesAfter(len) => drop(io::copy(&mut connection.take(len), &mut end)?),
        Stream::ResetsAfter(len) => {
            io::copy(&mut connection.take(len), &mut end)?;
            rustix::net::sockopt::set_socket_linger(connection, Some(Duration::ZERO))?;
        }
        Stream::Concludes(text) => {
            io::copy(&mut connection, &mut end)?;
            connection.write_all(text)?;
        }
        Stream::Refuses | Stream::Unreachable | Stream::Silent | Stream::Sleeps { .. } => {}
    }
    Ok(())
}
