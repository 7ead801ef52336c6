//! Servers on the host's loopback, which guests reach at the gateway's address.
//!
//! Each runs in threads of the test's own process and is forgotten with it.

pub mod dns;
pub mod http;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::wait::limit;

/// 127.0.0.1.
pub const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// ::1.
pub const LOOPBACK6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// Where a guest reaches what listens at this loopback address, with the default networks.
///
/// # Panics
///
/// When it is no loopback address.
pub fn seen_by_guests(address: SocketAddr) -> SocketAddr {
    assert!(address.ip().is_loopback(), "{address}");
    let gateway: IpAddr = match address.ip() {
        IpAddr::V4(_) => Ipv4Addr::new(10, 0, 2, 2).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 2).into(),
    };
    SocketAddr::new(gateway, address.port())
}

/// Listens at a free port.
///
/// # Panics
///
/// When there is none.
pub fn listen(ip: IpAddr) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((ip, 0)).expect("a free port");
    // Longer than the standard library's queue: bursts of connections are not what is tested here.
    rustix::net::listen(&listener, 1024).expect("a listener can listen");
    let address = listener.local_addr().expect("a bound socket has an address");
    (listener, address)
}

/// `count` ports in a row that are free for TCP and UDP at the loopback addresses, below those that the kernel gives out by itself.
///
/// # Panics
///
/// When there are none.
pub fn free_ports(count: u16) -> u16 {
    let free = |port| {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let at6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        [at, at6].iter().all(|at| TcpListener::bind(at).is_ok() && UdpSocket::bind(at).is_ok())
    };
    // Tests that run at once start at different places.
    let start = 10_000 + (std::process::id() % 1000) as u16 * 20;
    let mut first = (start..30_000).step_by(usize::from(count)).chain((10_000..start).step_by(usize::from(count)));
    first.find(|first| (*first..first + count).all(free)).expect("free ports")
}

/// Accepts connections, and serves each in a thread of its own.
pub fn serve(listener: TcpListener, serve: impl Fn(TcpStream) + Send + Sync + 'static) {
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            limit(&connection);
            let serve = Arc::clone(&serve);
            // A server that the test has no more use for is reset; its thread may end as it likes.
            std::thread::spawn(move || serve(connection));
        }
    });
}

/// Sends back what comes.
#[derive(Debug)]
pub struct Echo {
    /// Where it listens, for streams and datagrams.
    pub address: SocketAddr,
    most_at_once: Arc<AtomicUsize>,
}

impl Echo {
    /// Listens for streams and datagrams at the same port.
    ///
    /// # Panics
    ///
    /// When there is no free port.
    pub fn at(ip: IpAddr) -> Self {
        let (listener, address) = listen(ip);
        let datagrams = UdpSocket::bind(address).expect("a port that is free for TCP is free for UDP");
        std::thread::spawn(move || {
            let mut datagram = [0; 65_535];
            while let Ok((len, from)) = datagrams.recv_from(&mut datagram) {
                let _ = datagrams.send_to(&datagram[..len], from);
            }
        });
        let most_at_once = Arc::new(AtomicUsize::new(0));
        let (now, most) = (AtomicUsize::new(0), Arc::clone(&most_at_once));
        serve(listener, move |connection| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let _ = std::io::copy(&mut &connection, &mut &connection);
            now.fetch_sub(1, Ordering::SeqCst);
        });
        Self { address, most_at_once }
    }

    /// How many connections there were at the same time, at most.
    pub fn most_at_once(&self) -> usize {
        self.most_at_once.load(Ordering::SeqCst)
    }
}
