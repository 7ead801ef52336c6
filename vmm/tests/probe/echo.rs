//! A client of the guest's own server, through a forwarded port of this machine.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use netstack::config::{Config, HostForward, Protocol};

/// The guest's port.
pub(crate) const PORT: u16 = 7;

/// How many bytes go there and back: more than every buffer on the way holds.
pub(crate) const BYTES: usize = 5_000_003;

/// A network with a free port of this machine that leads to [`PORT`] of the guest, and that port.
pub(crate) fn forwarding() -> (Config, u16) {
    // Free a moment ago; the kernel does not hand it out again soon.
    let host_port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let host = IpAddr::from(Ipv4Addr::LOCALHOST);
    let forward = HostForward::of_port(Protocol::Tcp, SocketAddr::new(host, host_port), PORT);
    (Config { host_forwards: vec![forward], ..Config::default() }, host_port)
}

/// Sends [`BYTES`] bytes through the port in a thread, and expects them back.
pub(crate) fn client(host_port: u16) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, host_port))).unwrap();
        let message: Vec<u8> = (0..u32::MAX).flat_map(u32::to_le_bytes).take(BYTES).collect();
        let mut reading = stream.try_clone().unwrap();
        let reader = thread::spawn(move || {
            let mut back = Vec::new();
            reading.read_to_end(&mut back).map(|_| back)
        });
        stream.write_all(&message).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let back = reader.join().unwrap().unwrap();
        assert!(back == message, "{} bytes came back of {BYTES}, or others", back.len());
    })
}
